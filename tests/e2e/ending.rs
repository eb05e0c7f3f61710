//! How hub and agent end, and what revoking does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::framing::assert_own;
use crate::harness::{
    Cut, DEADLINE, Hub, RawUpstream, Rig, Server, hello, join, reply, respond, wait_agents, wait_until,
};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";

#[test]
fn an_idle_hub_and_agent_end_at_once() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut rig = Rig::serve(async |_| reply(200, "ok"));
        let mut client = rig.hub.client_sending(GET);
        assert_eq!(client.response().text(), "ok");
        let start = Instant::now();
        rig.agent.signal(signal);
        assert_eq!(rig.agent.wait_exit().code(), Some(0), "{}", rig.agent.output());
        rig.hub.signal(signal);
        assert_eq!(rig.hub.wait_exit().code(), Some(0), "{}", rig.hub.output());
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
        client.wait_end();
    }
}

#[test]
fn a_draining_hub_serves_what_it_has() {
    let mut rig = Rig::raw();
    let (mut running, mut upstream, _) = rig.begin("GET /running HTTP/1.1\r\nHost: h\r\n\r\n");
    let mut queued = rig.hub.client_sending("GET /queued HTTP/1.1\r\nHost: h\r\n\r\n");
    let mut idle = rig.hub.client_sending("GET /.slime/x HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(idle.response().status(), 404);
    rig.hub.signal(Signal::TERM);
    // New requests are refused, on old and on new connections.
    wait_until("it drains", DEADLINE, || {
        let mut late = rig.hub.client();
        if late.try_send("GET /late HTTP/1.1\r\nHost: h\r\nSlime-Block: 0\r\n\r\n").is_err() {
            return true;
        }
        let response = late.response();
        assert_own(&response, 503);
        response.head.field("connection") == Some("close")
    });
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n");
    upstream.send("ok");
    assert_eq!(running.response().text(), "ok");
    assert_eq!(running.end(), Cut::Eof);
    assert_eq!(respond(&mut upstream), "/queued");
    assert_eq!(queued.response().text(), "/queued");
    assert_eq!(rig.hub.wait_exit().code(), Some(0), "{}", rig.hub.output());
    assert!(rig.agent.is_alive());
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut rig = Rig::raw();
    let (mut client, mut upstream, _) = rig.begin("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx");
    rig.agent.signal(Signal::TERM);
    rig.agent.wait_line("drain");
    assert!(rig.agent.is_alive());
    rig.agent.signal(Signal::TERM);
    assert!(rig.agent.wait_exit().code().is_some_and(|code| code > 0));
    upstream.wait_end();
    assert_own(&client.response(), 502);

    let mut rig = Rig::raw();
    let (mut client, _upstream, _) = rig.begin(GET);
    rig.hub.signal(Signal::TERM);
    rig.hub.wait_line("drain");
    assert!(rig.hub.is_alive());
    rig.hub.signal(Signal::TERM);
    assert!(rig.hub.wait_exit().code().is_some_and(|code| code > 0));
    client.wait_end();
}

#[test]
fn the_drain_has_an_end() {
    let mut rig = Rig::raw_with(&["--drain-timeout", "1"], &["--drain-timeout", "1"]);
    let (mut client, mut upstream, _) = rig.begin(GET);
    let start = Instant::now();
    rig.hub.signal(Signal::TERM);
    assert!(rig.hub.wait_exit().code().is_some_and(|code| code > 0), "not everything was served");
    assert!((900..5000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    client.wait_end();
    upstream.wait_end();
}

#[test]
fn a_draining_agent_finishes_its_work_and_takes_no_more() {
    let upstreams = [RawUpstream::new(), RawUpstream::new()];
    let hub = Hub::start(&[]);
    let mut leaving = hub.agent(&upstreams[0].url(), &["--agent-id", "leaving", "--num-worker", "2"]);
    let mut running = hub.client_sending("GET /running HTTP/1.1\r\nHost: h\r\n\r\n");
    let mut at = upstreams[0].accept();
    at.request();
    let _staying = hub.agent(&upstreams[1].url(), &["--agent-id", "staying"]);
    leaving.signal(Signal::TERM);
    leaving.wait_line("drain");
    let mut client = hub.client();
    let mut other = None;
    for round in 0..20 {
        client.send(format!("POST /{round} HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx"));
        let other = other.get_or_insert_with(|| upstreams[1].accept());
        assert_eq!(respond(other), format!("/{round}"));
        let response = client.response();
        assert_eq!((response.status(), response.head.field("slime-agent-id")), (200, Some("staying")));
    }
    assert!(leaving.is_alive());
    at.send(OK);
    let response = running.response();
    assert_eq!((response.text().as_str(), response.head.field("slime-agent-id")), ("ok", Some("leaving")));
    assert_eq!(leaving.wait_exit().code(), Some(0), "{}", leaving.output());
    assert_eq!(upstreams[0].accepted(), 1);
}

#[test]
fn no_request_fails_while_agents_are_exchanged() {
    let upstream = Server::start(async |_| {
        tokio::time::sleep(Duration::from_millis(5)).await;
        reply(200, "ok")
    });
    let hub = Hub::start(&["--startup-grace", "0"]);
    let mut old = hub.agent(&upstream.url(), &["--agent-id", "0"]);
    wait_until("it is there", DEADLINE, || {
        hub.client_sending("GET / HTTP/1.1\r\nHost: h\r\nSlime-Block: 1\r\n\r\n").response().status() == 200
    });
    let stop = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicUsize::new(0));
    let address = hub.address();
    let clients = [(); 4].map(|()| {
        let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
        std::thread::spawn(move || {
            let mut client = crate::harness::Wire::connect(address);
            while !stop.load(Ordering::SeqCst) {
                client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx");
                let response = client.response();
                assert_eq!(response.status(), 200, "{}", response.text());
                served.fetch_add(1, Ordering::SeqCst);
            }
        })
    });
    for round in 1..8 {
        let new = hub.agent(&upstream.url(), &["--agent-id", &round.to_string()]);
        wait_agents(&hub, &[&round.to_string()]);
        old.signal(Signal::TERM);
        assert_eq!(old.wait_exit().code(), Some(0));
        old = new;
        let until = served.load(Ordering::SeqCst) + 20;
        wait_until("twenty more", DEADLINE, || {
            served.load(Ordering::SeqCst) >= until || clients.iter().any(|client| client.is_finished())
        });
    }
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.join().unwrap();
    }
}

#[test]
fn revoked_tokens_are_cut_off_and_stay_out() {
    let file = std::env::temp_dir().join(format!("slime-revoked-{}", std::process::id()));
    std::fs::write(&file, "# nobody yet\n\n").unwrap();
    let hub = Hub::start(&["--revoked", file.to_str().unwrap()]);
    let (bad, good) = (hub.token(&["--name", "bad"]), hub.token(&["--name", "good"]));
    let mut idle = join(&hub, &bad, "idle", 0);
    let mut client = hub.client_sending("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx");
    idle.request();
    let mut busy = idle;
    let mut idle = join(&hub, &bad, "idle-2", 0);
    let mut kept = join(&hub, &good, "kept", 0);
    std::fs::write(&file, "bad\n").unwrap();
    hub.signal(Signal::HUP);
    assert_eq!(idle.request_head().field("slime-close"), Some("revoked"));
    idle.wait_end();
    busy.wait_end();
    assert_own(&client.response(), 502);
    assert_own(&hub.client_sending(hello(&bad, "x", 0)).response(), 401);
    let mut client = hub.client_sending(GET);
    respond(&mut kept);
    assert_eq!(client.response().status(), 200);
    // All that was issued until now; nobody can come back with an old one.
    std::fs::write(&file, "issued-before 2999-01-01T00:00:00Z\n").unwrap();
    hub.signal(Signal::HUP);
    assert_eq!(kept.request_head().field("slime-close"), Some("revoked"));
    assert_own(&hub.client_sending(hello(&good, "x", 0)).response(), 401);
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn an_idle_websocket_holds_no_restart_up() {
    let upgrade = "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: other/1\r\n\r\n";
    let switched = "HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: other/1\r\n\r\n";
    for ends_hub in [true, false] {
        let mut rig = Rig::raw_with(&["--upgrade-drain", "1"], &["--upgrade-drain", "1"]);
        let (mut client, mut upstream, _) = rig.begin(upgrade);
        upstream.send(switched);
        assert_eq!(client.head().status(), 101);
        let start = Instant::now();
        let process = if ends_hub { &mut *rig.hub } else { &mut *rig.agent };
        process.signal(Signal::TERM);
        assert_eq!(process.wait_exit().code(), Some(0), "{}", process.output());
        let took = start.elapsed();
        assert!((900..4000).contains(&took.as_millis()), "{took:?}");
        client.wait_end();
        upstream.wait_end();
    }
}

#[test]
fn a_second_signal_does_not_make_a_response_look_complete() {
    let mut rig = Rig::raw();
    let (mut client, mut upstream, _) = rig.begin("GET / HTTP/1.0\r\n\r\n");
    upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    client.response_head("GET");
    assert_eq!(client.body_bytes(3), b"abc");
    rig.hub.signal(Signal::TERM);
    rig.hub.wait_line("draining");
    rig.hub.signal(Signal::TERM);
    assert_eq!(rig.hub.wait_exit().code(), Some(1));
    assert!(client.rest().1.is_some(), "it looks complete");
}

#[test]
fn a_draining_agent_sees_the_end_of_a_response_through() {
    let mut rig = Rig::raw();
    let (mut client, mut upstream, _) = rig.begin(GET);
    // More than there is room for on the way, to an application that takes its time.
    let size = 40_000_000;
    let sending = std::thread::spawn(move || {
        upstream.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n"));
        upstream.send(vec![b'x'; size]);
        upstream
    });
    client.response_head("GET");
    rig.agent.signal(Signal::TERM);
    rig.agent.wait_line("draining");
    let mut got = 0;
    // Slower than the linger of five seconds.
    for _ in 0..8 {
        got += client.body_bytes_at_least(1_000_000).len();
        std::thread::sleep(Duration::from_secs(1));
    }
    let (rest, cut) = client.rest();
    assert_eq!((got + rest.len(), cut), (size, None));
    assert_eq!(rig.agent.wait_exit().code(), Some(0), "{}", rig.agent.output());
    drop(sending.join().unwrap());
}
