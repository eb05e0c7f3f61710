//! Connections that become something else: WebSocket and others, relayed blindly, with half-close.

use std::time::Duration;

use tungstenite::{Message, WebSocket};

use crate::framing::assert_own;
use crate::harness::{Cut, Hub, Pattern, RawUpstream, Rig, Socket, Wire, pki, respond};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
const UPGRADE: &str = "GET /up HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: other/1\r\n\r\n";
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other/1\r\n\r\n";

/// A WebSocket server that sends every message back.
fn echo_server() -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                // A connection without a request is the agent's look whether somebody is there.
                let Ok(stream) = Socket::accept(stream) else { return };
                let Ok(mut socket) = tungstenite::accept(stream) else { return };
                while let Ok(message) = socket.read() {
                    if message.is_text() || message.is_binary() {
                        socket.send(message).unwrap();
                    }
                }
            });
        }
    });
    address
}

fn websocket(hub: &Hub) -> WebSocket<Socket> {
    let stream = Socket::connect(hub.address());
    let (socket, response) = tungstenite::client(format!("ws://{}/chat", hub.address()), stream).unwrap();
    assert_eq!(response.status(), 101);
    socket
}

#[test]
fn websockets_carry_small_and_large_messages() {
    let hub = Hub::start(&[]);
    let _agent = hub.agent(&pki::url(echo_server()), &[]);
    let mut socket = websocket(&hub);
    for round in 0..200 {
        let text = Message::text(format!("message {round}"));
        socket.send(text.clone()).unwrap();
        assert_eq!(socket.read().unwrap(), text);
    }
    for size in [0, 125, 126, 65_535, 65_536, 3_000_000] {
        let data = Message::binary(Pattern::new(1).bytes(size));
        socket.send(data.clone()).unwrap();
        assert!(socket.read().unwrap() == data, "{size} bytes");
    }
    socket.close(None).unwrap();
    while socket.read().is_ok() {}
    drop(socket);
    // The worker is free again.
    let mut socket = websocket(&hub);
    socket.send(Message::text("again")).unwrap();
    assert_eq!(socket.read().unwrap(), Message::text("again"));
}

#[test]
fn an_idle_upgraded_connection_stays() {
    let limits = [
        "--head-timeout",
        "1",
        "--idle-timeout",
        "1",
        "--stall-timeout",
        "1",
        "--body-timeout",
        "1",
        "--heartbeat",
        "1",
    ];
    let hub = Hub::start(&limits);
    let agent_limits = ["--head-timeout", "1", "--stall-timeout", "1"];
    let _agent = hub.agent(&pki::url(echo_server()), &agent_limits);
    let mut socket = websocket(&hub);
    for round in 0..2 {
        std::thread::sleep(Duration::from_secs(4 * round));
        socket.send(Message::text("still here")).unwrap();
        assert_eq!(socket.read().unwrap(), Message::text("still here"));
    }
}

/// An upgraded exchange over a rig.
fn upgraded(rig: &Rig<RawUpstream>) -> (Wire, Wire) {
    let (mut client, mut upstream, request) = rig.begin(UPGRADE);
    assert_eq!(request.head.field("upgrade"), Some("other/1"));
    assert_eq!(request.head.field("connection").map(str::to_ascii_lowercase).as_deref(), Some("upgrade"));
    // The first bytes of the new protocol come with the answer.
    upstream.send(format!("{SWITCHED}hello"));
    let head = client.head();
    assert_eq!((head.status(), head.field("upgrade")), (101, Some("other/1")));
    assert_eq!(client.raw_bytes(5), b"hello");
    (client, upstream)
}

#[test]
fn any_protocol_is_relayed_as_it_is() {
    let rig = Rig::raw();
    let (mut client, mut upstream) = upgraded(&rig);
    for round in 0..50_u8 {
        client.send([round, 0, b'\r', b'\n', 255]);
        assert_eq!(upstream.raw_bytes(5), [round, 0, b'\r', b'\n', 255]);
        upstream.send(GET);
        assert_eq!(client.raw_bytes(GET.len()), GET.as_bytes());
    }
    // Megabytes both ways at once.
    let total = 8_000_000;
    let writers = [(client.writer(), 1), (upstream.writer(), 2)];
    let writing = writers.map(|(mut to, seed)| {
        std::thread::spawn(move || Pattern::new(seed).write_to(&mut to, total).unwrap())
    });
    let reading = std::thread::spawn(move || {
        let bytes = upstream.raw_bytes(total as usize);
        assert!(bytes == Pattern::new(1).bytes(total as usize));
        upstream
    });
    assert!(client.raw_bytes(total as usize) == Pattern::new(2).bytes(total as usize));
    let _upstream = reading.join().unwrap();
    for writer in writing {
        writer.join().unwrap();
    }
}

#[test]
fn each_side_may_end_before_the_other() {
    let rig = Rig::raw();
    // The client first.
    let (mut client, mut upstream) = upgraded(&rig);
    client.send("last");
    client.finish();
    assert_eq!(upstream.raw_bytes(4), b"last");
    assert_eq!(upstream.end(), Cut::Eof);
    upstream.send("answer to all of it");
    assert_eq!(client.raw_bytes(19), b"answer to all of it");
    upstream.finish();
    assert_eq!(client.end(), Cut::Eof);
    // The upstream first.
    let (mut client, mut upstream) = upgraded(&rig);
    upstream.send("last");
    upstream.finish();
    assert_eq!(client.raw_bytes(4), b"last");
    assert_eq!(client.end(), Cut::Eof);
    client.send("answer");
    assert_eq!(upstream.raw_bytes(6), b"answer");
    client.finish();
    assert_eq!(upstream.end(), Cut::Eof);
    drop((client, upstream));
    let (_, response) = rig.exchange(GET, OK);
    assert_eq!(response.text(), "ok");
}

#[test]
fn a_side_that_is_gone_takes_the_other_along() {
    let rig = Rig::raw_with(&["--stall-timeout", "1"], &["--stall-timeout", "1"]);
    let (client, mut upstream) = upgraded(&rig);
    client.reset();
    assert!(matches!(upstream.end(), Cut::Eof | Cut::Reset));
    drop(upstream);
    let (mut client, upstream) = upgraded(&rig);
    upstream.reset();
    assert!(matches!(client.end(), Cut::Eof | Cut::Reset));
    drop(client);
    // One side has ended, and the other does nothing more: both end.
    let (client, mut upstream) = upgraded(&rig);
    client.finish();
    assert_eq!(upstream.end(), Cut::Eof);
    let mut client = client;
    client.end();
    drop((client, upstream));
    let (_, response) = rig.exchange(GET, OK);
    assert_eq!(response.text(), "ok");
}

#[test]
fn an_upgrade_may_be_declined() {
    let rig = Rig::raw();
    for status in ["200 OK", "426 Upgrade Required", "400 Bad Request"] {
        let (mut client, mut upstream, _) = rig.begin(UPGRADE);
        upstream.send(format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nno"));
        assert_eq!(client.response().text(), "no");
        // Still HTTP.
        client.send(GET);
        assert_eq!(respond(&mut upstream), "/");
        assert_eq!(client.response().text(), "/");
        drop(upstream);
    }
}

#[test]
fn a_switch_to_what_nobody_asked_for_is_502() {
    let rig = Rig::raw();
    for (request, answer) in [
        (GET, SWITCHED.to_owned()),
        (UPGRADE, SWITCHED.replace("other/1", "websocket")),
        (UPGRADE, SWITCHED.replace("Upgrade: other/1\r\n", "")),
        (UPGRADE, SWITCHED.replace("Connection: Upgrade\r\n", "")),
    ] {
        let (mut client, mut upstream, _) = rig.begin(request);
        upstream.send(answer);
        assert_own(&client.response(), 502);
        upstream.wait_end();
    }
}

#[test]
fn h2c_is_never_offered_on() {
    let rig = Rig::raw();
    let (request, response) = rig.exchange(
        "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
        OK,
    );
    assert!(!request.head.has("upgrade") && !request.head.has("http2-settings"), "{:?}", request.head);
    assert_eq!(response.text(), "ok");
}

#[test]
fn an_upgraded_connection_keeps_its_worker() {
    let rig = Rig::raw();
    let (client, upstream) = upgraded(&rig);
    let mut waiting = rig.hub.client_sending(GET);
    let mut never = rig.hub.client_sending("GET / HTTP/1.1\r\nHost: h\r\nSlime-Block: 0\r\n\r\n");
    assert_own(&never.response(), 503);
    assert!(waiting.is_silent() && rig.upstream.try_accept(Duration::ZERO).is_none());
    drop((client, upstream));
    assert_eq!(respond(&mut rig.upstream.accept()), "/");
    assert_eq!(waiting.response().text(), "/");
}

#[test]
fn extra_upgrades_leave_the_workers_free() {
    let rig = Rig::raw_with(&[], &["--extra-upgrades", "2"]);
    let first = upgraded(&rig);
    let second = upgraded(&rig);
    let (_, response) = rig.exchange(GET, OK);
    assert_eq!(response.text(), "ok");
    // Only so many; and requests that are no upgrades are never two at once.
    let (client, at, _) = rig.begin(GET);
    let mut waiting = rig.hub.client_sending("GET / HTTP/1.1\r\nHost: h\r\nSlime-Block: 0\r\n\r\n");
    assert_own(&waiting.response(), 503);
    drop((client, at, first, second));
    let (_, response) = rig.exchange(GET, OK);
    assert_eq!(response.text(), "ok");
}
