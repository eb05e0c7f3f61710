//! Tunnels that go in frames of WebSocket: told to, or because of what is before the hub.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{Agent, Cut, Head, Hub, Pattern, RawUpstream, Rig, pki, shared_token};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
const UPGRADE: &str = "GET /up HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: other/1\r\n\r\n";
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other/1\r\n\r\n";
const LARGE: usize = 20_000_000;

fn rig() -> Rig<RawUpstream> {
    Rig::raw_with(&[], &["--websocket"])
}

#[test]
fn bodies_go_through_whole_both_ways_and_leave_nothing() {
    let rig = rig();
    let (_, response) = rig.exchange(GET, OK);
    assert_eq!(response.text(), "ok");
    let body = Pattern::new(1).bytes(LARGE);
    for framed in ["Content-Length: 20000000", "Transfer-Encoding: chunked"] {
        let (mut client, mut upstream, _) = rig.begin("GET /down HTTP/1.1\r\nHost: h\r\n\r\n");
        let mut to = upstream.writer();
        let sending = std::thread::spawn({
            let (body, head) = (body.clone(), format!("HTTP/1.1 200 OK\r\n{framed}\r\n\r\n"));
            move || send(&mut to, &head, &body)
        });
        assert!(client.response().body == body);
        sending.join().unwrap();
        let mut to = client.writer();
        let sending = std::thread::spawn({
            let (body, head) = (body.clone(), format!("POST /up HTTP/1.1\r\nHost: h\r\n{framed}\r\n\r\n"));
            move || send(&mut to, &head, &body)
        });
        assert!(upstream.request().body == body);
        sending.join().unwrap();
        upstream.send(OK);
        assert_eq!(client.response().text(), "ok");
    }
}

fn send(to: &mut impl std::io::Write, head: &str, body: &[u8]) {
    to.write_all(head.as_bytes()).unwrap();
    if head.contains("chunked") {
        for chunk in body.chunks(70_000) {
            write!(to, "{:x}\r\n", chunk.len()).unwrap();
            to.write_all(chunk).unwrap();
            to.write_all(b"\r\n").unwrap();
        }
        to.write_all(b"0\r\n\r\n").unwrap();
    } else {
        to.write_all(body).unwrap();
    }
}

#[test]
fn each_side_of_an_upgraded_connection_may_end_before_the_other() {
    let rig = rig();
    let (mut client, mut upstream, _) = rig.begin(UPGRADE);
    upstream.send(format!("{SWITCHED}hello"));
    assert_eq!(client.head().status(), 101);
    assert_eq!(client.raw_bytes(5), b"hello");
    client.send("last");
    client.finish();
    assert_eq!(upstream.raw_bytes(4), b"last");
    assert_eq!(upstream.end(), Cut::Eof);
    let all = Pattern::new(3).bytes(3_000_000);
    upstream.send(&all);
    assert!(client.raw_bytes(all.len()) == all);
    upstream.finish();
    assert_eq!(client.end(), Cut::Eof);
    drop((client, upstream));
    let (_, response) = rig.exchange(GET, OK);
    assert_eq!(response.text(), "ok");
}

#[test]
fn an_application_that_leaves_and_a_hub_that_is_killed_are_seen() {
    let mut rig = rig();
    let (client, mut upstream, _) = rig.begin(GET);
    let begin = Instant::now();
    drop(client);
    upstream.wait_end();
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    let (client, mut upstream, _) = rig.begin(UPGRADE);
    upstream.send(SWITCHED);
    rig.hub.kill();
    // Nobody said that this was all of it.
    assert_ne!(upstream.end(), Cut::Eof);
    drop((client, upstream));
    rig.hub.restart(&[]);
    let (_, response) = rig.exchange(GET, OK);
    assert_eq!(response.text(), "ok");
}

#[test]
fn hub_and_agent_finish_what_they_have() {
    for agent_first in [false, true] {
        let mut rig = rig();
        let (mut client, mut upstream, _) = rig.begin(GET);
        if agent_first {
            rig.agent.signal(Signal::TERM)
        } else {
            rig.hub.signal(Signal::TERM)
        }
        if agent_first {
            rig.agent.wait_line("drain")
        } else {
            rig.hub.wait_line("drain")
        };
        let body = Pattern::new(5).bytes(2_000_000);
        upstream.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()));
        let mut to = upstream.writer();
        let sending = std::thread::spawn({
            let body = body.clone();
            move || to.write_all(&body).unwrap()
        });
        assert!(client.response().body == body);
        sending.join().unwrap();
        let ended = if agent_first { &mut rig.agent } else { &mut *rig.hub };
        assert_eq!(ended.wait_exit().code(), Some(0), "{}", ended.output());
    }
}

/// What stands before many hubs: it passes nothing on that upgrades to anything but WebSocket.
struct Front {
    address: SocketAddr,
    refused: Arc<AtomicUsize>,
    passed: Arc<AtomicUsize>,
}

impl Front {
    /// One that answers other upgrades with this, or ends their connection if that is empty.
    fn before(hub: SocketAddr, answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (refused, passed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counts = (Arc::clone(&refused), Arc::clone(&passed));
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let (refused, passed) = (Arc::clone(&counts.0), Arc::clone(&counts.1));
                std::thread::spawn(move || serve(near, hub, answer, &refused, &passed));
            }
        });
        Self { address, refused, passed }
    }
}

fn serve(
    mut near: TcpStream,
    hub: SocketAddr,
    answer: &str,
    refused: &AtomicUsize,
    passed: &AtomicUsize,
) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        near.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    if Head::parse(head.clone()).field("upgrade") != Some("websocket") {
        refused.fetch_add(1, Ordering::SeqCst);
        return near.write_all(answer.as_bytes()).ok();
    }
    passed.fetch_add(1, Ordering::SeqCst);
    let mut far = TcpStream::connect(hub).ok()?;
    far.write_all(&head).ok()?;
    let (mut from, mut to) = (far.try_clone().ok()?, near.try_clone().ok()?);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        // Both directions end when one does.
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    });
    let _ = std::io::copy(&mut near, &mut far);
    let _ = far.shutdown(Shutdown::Both);
    near.shutdown(Shutdown::Both).ok()
}

#[test]
fn an_agent_comes_through_what_passes_websockets_only() {
    if pki::is_tls() {
        // What terminates TLS sees the same.
        return;
    }
    for answer in ["", "HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP/1.1 502 Bad Gateway\r\n\r\n"] {
        let upstream = RawUpstream::new();
        let hub = Hub::start(&[]);
        let front = Front::before(hub.address(), answer);
        let agent = Agent::start(&pki::url(front.address), shared_token(), &upstream.url(), &[]);
        agent.wait_line("retrying by WebSocket");
        agent.wait_line("passes WebSockets only: tunnels go in frames of WebSocket");
        agent.wait_line("joined the hub");
        let rig = Rig { agent, hub, upstream };
        // Each of these connections goes.
        for _ in 0..5 {
            let (client, upstream, _) = rig.begin(GET);
            drop(client);
            drop(upstream);
        }
        // A half-close comes through what knows of none.
        let (mut client, mut upstream, _) = rig.begin(UPGRADE);
        upstream.send(SWITCHED);
        assert_eq!(client.head().status(), 101);
        client.finish();
        assert_eq!(upstream.end(), Cut::Eof);
        upstream.send("the rest");
        assert_eq!(client.raw_bytes(8), b"the rest");
        upstream.finish();
        assert_eq!(client.end(), Cut::Eof);
        drop((client, upstream));
        let (_, response) = rig.exchange(GET, OK);
        assert_eq!(response.text(), "ok");
        assert_eq!(front.refused.load(Ordering::SeqCst), 1, "it stays with what comes through");
        assert!(front.passed.load(Ordering::SeqCst) >= 6);
    }
}
