//! Large and endless bodies: bit-exact, in bounded memory, piece by piece as they are produced.

use std::io::Write as _;
use std::thread::JoinHandle;

use crate::harness::{
    Checker, DEADLINE, Pattern, Rig, Socket, Wire, body_of, hyper_exchange, reply, stream, wait_until,
};

const MEGABYTE: u64 = 1_000_000;

/// How much the memory of a process may grow while a body passes that is many times as large.
const GROWTH: u64 = 6 * MEGABYTE;

/// Serves one small exchange, so that memory and descriptors are at their ordinary level.
fn warm(rig: &Rig<crate::harness::RawUpstream>) -> (Wire, Wire) {
    let (mut client, mut upstream, _) = rig.begin("GET /warm HTTP/1.1\r\nHost: h\r\n\r\n");
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    client.response();
    (client, upstream)
}

fn send_in_background(mut to: Socket, seed: u64, total: u64, chunked: bool) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let pattern = Pattern::new(seed);
        if chunked { pattern.write_chunked_to(&mut to, total) } else { pattern.write_to(&mut to, total) }
            .unwrap_or_else(|error| panic!("sending the body: {error}"));
    })
}

/// Reads the body to its end and compares it.
fn check_body(from: &mut Wire, seed: u64, total: u64) {
    let pattern = Pattern::new(seed);
    let mut checker = Checker::new(&pattern);
    while let Some(piece) = from.piece().unwrap_or_else(|cut| panic!("{cut:?} after {}", checker.seen())) {
        checker.take(&piece);
    }
    assert_eq!(checker.seen(), total);
}

fn framing(total: u64, chunked: bool) -> String {
    if chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {total}") }
}

fn upload_and_download(total: u64, chunked: bool) {
    let rig = Rig::raw();
    let (mut client, mut upstream) = warm(&rig);
    let before = [rig.hub.peak_memory(), rig.agent.peak_memory()];

    client.send(format!("POST /up HTTP/1.1\r\nHost: h\r\n{}\r\n\r\n", framing(total, chunked)));
    let sending = send_in_background(client.writer(), 1, total, chunked);
    assert_eq!(upstream.request_head().target(), "/up");
    check_body(&mut upstream, 1, total);
    sending.join().unwrap();
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.response().status(), 200);

    client.send("GET /down HTTP/1.1\r\nHost: h\r\n\r\n");
    upstream.request();
    upstream.send(format!("HTTP/1.1 200 OK\r\n{}\r\n\r\n", framing(total, chunked)));
    let sending = send_in_background(upstream.writer(), 2, total, chunked);
    let (_, head) = client.response_head("GET");
    let expected = (!chunked).then(|| total.to_string());
    assert_eq!(head.field("content-length"), expected.as_deref());
    check_body(&mut client, 2, total);
    sending.join().unwrap();

    let after = [rig.hub.peak_memory(), rig.agent.peak_memory()];
    for (before, after) in before.iter().zip(after) {
        assert!(after < before + GROWTH, "memory grew from {before} to {after} bytes");
    }
    // Both connections are as good as new.
    client.send("GET /after HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(upstream.request().head.target(), "/after");
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.response().status(), 200);
}

#[test]
fn hundreds_of_megabytes_with_length() {
    upload_and_download(200 * MEGABYTE, false);
}

#[test]
fn tens_of_megabytes_without_length() {
    upload_and_download(40 * MEGABYTE, true);
}

#[test]
fn sizes_around_every_buffer() {
    let rig = Rig::serve(async |request| {
        let body = body_of(request.into_body()).await.unwrap();
        reply(200, body)
    });
    let pattern = Pattern::new(3);
    let mut client = rig.hub.client();
    let sizes = [
        1, 2, 4095, 4096, 8192, 16_000, 16_383, 16_384, 16_385, 32_768, 65_535, 65_536, 65_537, 262_144,
        1_048_577,
    ];
    for size in sizes {
        let body = pattern.bytes(size);
        for chunked in [false, true] {
            let mut message =
                format!("POST / HTTP/1.1\r\nHost: h\r\n{}\r\n\r\n", framing(size as u64, chunked))
                    .into_bytes();
            if chunked {
                pattern.write_chunked_to(&mut message, size as u64).unwrap();
            } else {
                message.extend_from_slice(&body);
            }
            let mut writer = client.writer();
            let sending = std::thread::spawn(move || writer.write_all(&message).unwrap());
            let response = client.response();
            sending.join().unwrap();
            assert!(response.body == body, "{size} bytes, chunked {chunked}: the body differs");
        }
    }
    assert_eq!(rig.upstream.peak(), 1);
}

#[test]
fn a_close_delimited_body_of_many_megabytes() {
    let rig = Rig::raw();
    let (mut client, mut upstream, _) = rig.begin("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    upstream.send("HTTP/1.1 200 OK\r\n\r\n");
    let sending = send_in_background(upstream.writer(), 4, 30 * MEGABYTE, false);
    let finishing = std::thread::spawn(move || {
        sending.join().unwrap();
        drop(upstream);
    });
    let (_, head) = client.response_head("GET");
    assert_eq!(head.field("transfer-encoding"), Some("chunked"));
    check_body(&mut client, 4, 30 * MEGABYTE);
    finishing.join().unwrap();
}

#[test]
fn hyper_at_both_ends_with_large_bodies() {
    let rig = Rig::serve(async |request| {
        let body = body_of(request.into_body()).await.unwrap();
        reply(200, body)
    });
    let body = Pattern::new(6).bytes(5_000_003);
    let request =
        hyper::Request::post("/echo").header("host", "h").body(crate::harness::full(body.clone())).unwrap();
    let response = hyper_exchange(rig.hub.address(), request);
    assert!(response.body()[..] == body[..]);
}

#[test]
fn both_bodies_stream_at_once() {
    // An upstream that sends every piece back as soon as it has it.
    let rig = Rig::serve(async |request| {
        use http_body_util::BodyExt as _;
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        tokio::task::spawn_local(async move {
            let mut body = request.into_body();
            while let Some(Ok(frame)) = body.frame().await {
                if sender.send(Ok(frame)).await.is_err() {
                    break;
                }
            }
        });
        hyper::Response::new(stream(receiver))
    });
    // In lock step: each chunk comes back before the next is sent.
    let mut client =
        rig.hub.client_sending("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send("5\r\nfirst\r\n");
    let (_, head) = client.response_head("POST");
    assert_eq!(head.status(), 200);
    assert_eq!(client.body_bytes(5), b"first");
    for round in 0..200 {
        let piece = format!("piece {round}");
        client.send(format!("{:x}\r\n{piece}\r\n", piece.len()));
        assert_eq!(client.body_bytes(piece.len()), piece.as_bytes());
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.rest(), (Vec::new(), None));
    // At full speed.
    for chunked in [false, true] {
        let total = 30 * MEGABYTE;
        client.send(format!("POST / HTTP/1.1\r\nHost: h\r\n{}\r\n\r\n", framing(total, chunked)));
        let sending = send_in_background(client.writer(), 7, total, chunked);
        client.response_head("POST");
        check_body(&mut client, 7, total);
        sending.join().unwrap();
    }
}

#[test]
fn events_reach_the_client_before_the_next_is_produced() {
    let rig = Rig::raw();
    for framing in ["Transfer-Encoding: chunked\r\n", "Content-Length: 1100\r\n", ""] {
        let (mut client, mut upstream, _) = rig.begin("GET /events HTTP/1.1\r\nHost: h\r\n\r\n");
        upstream.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n{framing}\r\n"
        ));
        // The head comes before any event.
        let (_, head) = client.response_head("GET");
        assert_eq!(head.field("content-type"), Some("text/event-stream"));
        let chunked = framing.contains("chunked");
        for round in 100..200 {
            let event = format!("data: {round}\n\n");
            assert_eq!(event.len(), 11);
            upstream.send(if chunked { format!("b\r\n{event}\r\n") } else { event.clone() });
            assert_eq!(client.body_bytes(11), event.as_bytes());
        }
        if chunked {
            upstream.send("0\r\n\r\n");
        }
        drop(upstream);
        assert_eq!(client.rest(), (Vec::new(), None));
    }
}

/// A reader that does not read stops the sender, and nothing in between grows.
#[test]
fn a_slow_reader_slows_the_sender_down() {
    let total = 120 * MEGABYTE;
    let rig = Rig::raw();
    let (mut client, mut upstream) = warm(&rig);
    let before = [rig.hub.peak_memory(), rig.agent.peak_memory()];
    let in_bounds = || {
        for (before, after) in before.iter().zip([rig.hub.peak_memory(), rig.agent.peak_memory()]) {
            assert!(after < before + GROWTH, "memory grew from {before} to {after} bytes");
        }
    };
    for up in [true, false] {
        let writer = if up {
            client.send(format!("POST /up HTTP/1.1\r\nHost: h\r\n{}\r\n\r\n", framing(total, false)));
            client.writer()
        } else {
            client.send("GET /down HTTP/1.1\r\nHost: h\r\n\r\n");
            upstream.request();
            upstream.send(format!("HTTP/1.1 200 OK\r\n{}\r\n\r\n", framing(total, false)));
            client.response_head("GET");
            upstream.writer()
        };
        let written = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        let count = std::sync::Arc::clone(&written);
        let sending = std::thread::spawn(move || {
            let pattern = Pattern::new(8);
            let mut counted = Counted { to: writer, count };
            pattern.write_to(&mut counted, total).unwrap();
        });
        if up {
            assert_eq!(upstream.request_head().target(), "/up");
        }
        // Nobody reads: the sender comes to a halt when the buffers of the kernel are full.
        let mut seen = u64::MAX;
        let mut since = std::time::Instant::now();
        wait_until("the sender has stopped", DEADLINE, || {
            let now = written.load(std::sync::atomic::Ordering::SeqCst);
            if now != seen {
                (seen, since) = (now, std::time::Instant::now());
            }
            since.elapsed().as_millis() > 500
        });
        // How much that is, is the kernel's affair; that it is not all shows that somebody held the sender
        // up.
        assert!(seen > 0 && seen < total, "{seen} bytes were taken although nobody reads");
        in_bounds();
        check_body(if up { &mut upstream } else { &mut client }, 8, total);
        sending.join().unwrap();
        if up {
            upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            client.response();
        }
        in_bounds();
    }
}

struct Counted {
    to: Socket,
    count: std::sync::Arc<std::sync::atomic::AtomicU64>,
}

impl std::io::Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.count.fetch_add(written as u64, std::sync::atomic::Ordering::SeqCst);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}
