//! Messages that are malformed, ambiguous or too much are refused, in both directions, and take nobody with
//! them.

use std::time::Duration;

use crate::harness::{Cut, Message, Pattern, Rig, Wire};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Checks that this is an answer of the hub's own, as DESIGN.md section 4 wants it.
#[track_caller]
pub fn assert_own(response: &Message, status: u16) {
    let head = &response.head;
    assert_eq!(head.status(), status, "{head:?}{}", response.text());
    assert_eq!(head.field("content-type"), Some("application/problem+json"), "{head:?}");
    let proxy_status = head.field("proxy-status").unwrap_or_else(|| panic!("no Proxy-Status: {head:?}"));
    assert!(proxy_status.starts_with("slime; error="), "{status}: {proxy_status}");
    assert_eq!(head.has("retry-after"), status == 503, "Retry-After: {head:?}");
    let text = response.text();
    assert!(text.starts_with('{') && text.trim_end().ends_with('}'), "{text}");
    for member in ["\"title\":", "\"detail\":", &format!("\"status\":{status}")] {
        assert!(text.replace(": ", ":").contains(member), "{member} is not in {text}");
    }
}

#[test]
fn violations_are_refused_and_the_connection_closed() {
    let rig = Rig::raw();
    let long = "x".repeat(9000);
    let fields = "X-A: b\r\n".repeat(110);
    let large = format!("X-A: {}\r\n", "y".repeat(4000)).repeat(5);
    let cases: Vec<(String, u16)> = [
        // Two framings, or none that is certain.
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3, 4\r\n\r\nabcd", 400),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +3\r\n\r\nabc", 400),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -3\r\n\r\nabc", 400),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0x3\r\n\r\nabc", 400),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3 3\r\n\r\nabc", 400),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length:\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 18446744073709551616\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999999\r\n\r\n", 400),
        // Transfer codings.
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: \r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        // Lines and white space.
        ("GET / HTTP/1.1\nHost: h\n\n", 400),
        ("GET / HTTP/1.1\r\nHost: h\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\nX: a\rb\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n folded\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\n X: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\nX : a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\nX\t: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\nno colon\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\n: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\nX(): a\r\n\r\n", 400),
        ("GET  / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET / HTTP/1.1 \r\nHost: h\r\n\r\n", 400),
        ("G=(T / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET nowhere HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET * HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n", 400),
        // Host.
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
        // What frames a message cannot be hop-by-hop.
        ("POST / HTTP/1.1\r\nHost: h\r\nConnection: content-length\r\nContent-Length: 3\r\n\r\nabc", 400),
        ("POST / HTTP/1.1\r\nHost: h\r\nConnection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\nConnection: close, host\r\n\r\n", 400),
        // Versions and methods.
        ("GET / HTTP/2.0\r\nHost: h\r\n\r\n", 505),
        ("GET / HTTP/1.2\r\nHost: h\r\n\r\n", 505),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        ("CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n", 501),
        // Limits.
        (&format!("GET /{long} HTTP/1.1\r\nHost: h\r\n\r\n"), 414),
        (&format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n"), 431),
        (&format!("GET / HTTP/1.1\r\nHost: h\r\n{large}\r\n"), 431),
        // The paths that are the hub's own.
        ("GET /.slime/ HTTP/1.1\r\nHost: h\r\n\r\n", 404),
        ("GET /.slime/anything HTTP/1.1\r\nHost: h\r\n\r\n", 404),
        ("GET /prefix/.slime/tunnel HTTP/1.1\r\nHost: h\r\n\r\n", 404),
        ("GET /.slime/tunnel HTTP/1.1\r\nHost: h\r\n\r\n", 404),
        ("POST /%2eslim%65/tunnel HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", 404),
        ("GET /a%2F.slime%2Fx HTTP/1.1\r\nHost: h\r\n\r\n", 404),
    ]
    .into_iter()
    .map(|(request, status)| (request.to_owned(), status))
    .collect();
    for (request, status) in &cases {
        let mut client = rig.hub.client_sending(request);
        let response = client.response();
        println!("{:?}", &request[..request.len().min(120)]);
        assert_own(&response, *status);
        if *status != 404 {
            assert!(matches!(client.wait_end(), Cut::Eof), "{request:?}");
        }
    }
    // The same in two pieces, split before the last byte.
    for (request, status) in &cases {
        let (first, last) = request.as_bytes().split_at(request.len() - 1);
        let mut client = rig.hub.client_sending(first);
        let _ = client.try_send(last);
        assert_own(&client.response(), *status);
    }
    assert!(rig.upstream.try_accept(Duration::ZERO).is_none(), "the upstream saw a request");
    let (_, response) = rig.exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n", OK);
    assert_eq!(response.text(), "ok");
}

#[test]
fn what_looks_odd_but_is_certain_is_served() {
    let rig = Rig::raw();
    for (request, body) in [
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", "abc"),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0003\r\n\r\nabc", "abc"),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: CHUNKED\r\n\r\n3\r\nabc\r\n0\r\n\r\n", "abc"),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", ""),
        ("GET / HTTP/1.1\r\nhOSt:h\r\n\r\n", ""),
        ("GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", ""),
    ] {
        let (request, response) = rig.exchange(request, OK);
        assert_eq!((request.text().as_str(), response.text().as_str()), (body, "ok"));
        assert!(request.head.all("content-length").len() < 2);
    }
}

#[test]
fn bad_chunks_cut_the_request_off() {
    let rig = Rig::raw();
    for bad in [
        "+3\r\nabc\r\n0\r\n\r\n",
        "-3\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        " 3\r\nabc\r\n0\r\n\r\n",
        "3 \r\nabc\r\n0\r\n\r\n",
        "3\nabc\r\n0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\r\nabc0\r\n\r\n",
        "\r\nabc\r\n0\r\n\r\n",
        "g\r\nabc\r\n0\r\n\r\n",
        "3;a\nb\r\nabc\r\n0\r\n\r\n",
        "3;\0\r\nabc\r\n0\r\n\r\n",
        "10000000000000000\r\nabc\r\n0\r\n\r\n",
        "3\r\nabc\r\n0\r\nbad trailer\r\n\r\n",
        "3\r\nabc\r\n0\r\nX: a\r\n folded\r\n\r\n",
        "3\r\nabc\r\n0\r\nX: a\nY: b\r\n\r\n",
    ] {
        let mut client = rig.hub.client_sending(
            "POST /bad HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n",
        );
        // The head and the first chunk are at the upstream before the fault is.
        let mut upstream = rig.upstream.accept();
        assert_eq!(upstream.request_head().target(), "/bad");
        assert_eq!(upstream.body_bytes(5), b"first");
        client.send(bad);
        let (_, cut) = upstream.rest();
        assert!(cut.is_some(), "{bad:?}: the upstream saw a complete request");
        let response = client.response();
        assert_own(&response, 400);
        client.wait_end();
    }
    let (_, response) = rig.exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n", OK);
    assert_eq!(response.text(), "ok");
}

#[test]
fn responses_that_are_no_http_are_502() {
    let rig = Rig::raw();
    let large = format!("X-A: {}\r\n", "y".repeat(4000)).repeat(30);
    for bad in [
        "SSH-2.0-OpenSSH_9.6\r\n",
        "garbage garbage garbage\r\n\r\n",
        "\0\0\0\0\0\0\r\n\r\n",
        "HTTP/1.1\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nConnection: content-length\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        "HTTP/1.1 200 OK\r\nConte",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "",
        &format!("HTTP/1.1 200 OK\r\n{large}\r\n"),
    ] {
        // Not idempotent, so that nothing is tried again.
        let (mut client, mut upstream, _) =
            rig.begin("POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi");
        let _ = upstream.try_send(bad);
        upstream.finish();
        let response = client.response();
        println!("{:?}", &bad[..bad.len().min(100)]);
        assert_own(&response, 502);
        upstream.wait_end();
    }
    let (_, response) = rig.exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n", OK);
    assert_eq!(response.text(), "ok");
}

/// The head was sent: the client must be able to see that the body is not complete.
#[test]
fn truncated_responses_are_visibly_cut() {
    let rig = Rig::raw();
    let cases: [(&str, Option<&str>); 6] = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", None),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", None),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc", None),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", None),
        // A fault that comes after the head.
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", Some("zz\r\nabc\r\n0\r\n\r\n")),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", Some("3\r\nabcX0\r\n\r\n")),
    ];
    for version in ["1.1", "1.0"] {
        for (answer, fault) in cases {
            let (mut client, mut upstream, _) =
                rig.begin(format!("GET /x HTTP/{version}\r\nHost: h\r\nConnection: close\r\n\r\n"));
            upstream.send(answer);
            assert_eq!(client.response_head("GET").1.status(), 200);
            assert_eq!(client.body_bytes(3), b"abc");
            if let Some(fault) = fault {
                upstream.send(fault);
            }
            upstream.finish();
            let (_, cut) = client.rest();
            assert!(
                cut.is_some(),
                "HTTP/{version}: {answer:?} {fault:?}: the client saw a complete response"
            );
            if version == "1.0" && !answer.contains("Length") {
                assert_eq!(
                    cut,
                    Some(Cut::Reset),
                    "only a reset shows that a body which the end delimits is cut"
                );
            }
        }
    }
    // A body that ends with the connection, and a connection that ends in a reset.
    let (mut client, mut upstream, _) = rig.begin("GET /x HTTP/1.1\r\nHost: h\r\n\r\n");
    upstream.send("HTTP/1.1 200 OK\r\n\r\nabc");
    assert_eq!(client.response_head("GET").1.status(), 200);
    assert_eq!(client.body_bytes(3), b"abc");
    upstream.reset();
    assert!(client.rest().1.is_some());
}

#[test]
fn bytes_after_a_response_are_an_error_and_reach_nobody() {
    let rig = Rig::raw();
    for extra in ["x", "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen", "\r\n"] {
        let (mut client, mut upstream, _) = rig.begin("GET /x HTTP/1.1\r\nHost: h\r\n\r\n");
        upstream.send(format!("{OK}{extra}"));
        assert_eq!(client.response().text(), "ok");
        // That connection is not used again.
        client.send("GET /y HTTP/1.1\r\nHost: h\r\n\r\n");
        let mut next = rig.upstream.accept();
        assert_eq!(next.request().head.target(), "/y");
        next.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\nmine");
        assert_eq!(client.response().text(), "mine");
        upstream.wait_end();
    }
}

/// An upload that its sender cut short never looks complete.
#[test]
fn truncated_uploads_are_cut_at_the_upstream() {
    // What is held until it is complete never gets there if it is not.
    let rig = Rig::raw_with(&["--hold", "0"], &[]);
    for framing in ["Content-Length: 100000", "Transfer-Encoding: chunked"] {
        for reset in [false, true] {
            let mut client =
                rig.hub.client_sending(format!("POST /cut HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n"));
            let mut body = Vec::new();
            if framing.contains("chunked") {
                Pattern::new(1).write_chunked_to(&mut body, 50_000).unwrap();
                // Without the last chunk.
                body.truncate(body.len() - 5);
            } else {
                body = Pattern::new(1).bytes(50_000);
            }
            client.send(&body);
            let mut upstream = rig.upstream.accept();
            assert_eq!(upstream.request_head().target(), "/cut");
            upstream.body_bytes_at_least(50_000);
            if reset {
                client.reset()
            } else {
                drop(client)
            }
            let (_, cut) = upstream.rest();
            assert!(cut.is_some(), "{framing}: the upstream saw a complete upload");
            drop(upstream);
            let (request, response) = rig.exchange("GET /next HTTP/1.1\r\nHost: h\r\n\r\n", OK);
            assert_eq!((request.head.target(), response.text().as_str()), ("/next", "ok"));
        }
    }
}

/// The end of a message is found wherever the network splits it.
#[test]
fn messages_are_understood_byte_by_byte() {
    let rig = Rig::raw();
    let mut client = rig.hub.client();
    let request = "POST /slow HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA\r\n0123456789\r\n0\r\nX-T: u\r\n\r\n";
    let bytewise = |wire: &mut Wire, bytes: &str| {
        for byte in bytes.bytes() {
            wire.send([byte]);
        }
    };
    bytewise(&mut client, request);
    let mut upstream = rig.upstream.accept();
    let seen = upstream.request();
    assert_eq!((seen.text().as_str(), seen.trailers.len()), ("abc0123456789", 1));
    bytewise(
        &mut upstream,
        "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
         3\r\nabc\r\nA\r\n0123456789\r\n0\r\nX-T: u\r\n\r\n",
    );
    let response = client.response();
    assert_eq!((response.text().as_str(), response.trailers.len()), ("abc0123456789", 1));
    assert_eq!(response.interim.len(), 1);
}
