//! Connections and messages as HTTP/1.1 and HTTP/1.0 know them: reuse, pipelining, responses without body,
//! interim responses, trailers, expectations.

use std::time::Duration;

use crate::harness::{Cut, DEADLINE, Hub, RawUpstream, Rig, body_of, reply, wait_until};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn a_connection_carries_many_requests_on_both_sides() {
    let rig = Rig::serve(async |request| reply(200, request.uri().path().to_owned()));
    let mut client = rig.hub.client();
    client.send("GET /first HTTP/1.1\r\nHost: h\r\n\r\n");
    client.response();
    let (hub_fds, agent_fds) = (rig.hub.fds(), rig.agent.fds());
    for round in 0..300 {
        client.send(format!("GET /{round} HTTP/1.1\r\nHost: h\r\n\r\n"));
        let response = client.response();
        assert_eq!((response.status(), response.text()), (200, format!("/{round}")));
    }
    assert_eq!(rig.upstream.connections(), 1);
    rig.assert_at_rest(hub_fds, agent_fds);
    client.finish();
    assert_eq!(client.end(), Cut::Eof);
    rig.hub.wait_fds(hub_fds - 1);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let rig = Rig::serve(async |request| {
        let path = request.uri().path().to_owned();
        let body = body_of(request.into_body()).await.unwrap();
        reply(200, format!("{path} {}", body.len()))
    });
    let mut all = Vec::new();
    for round in 0..60 {
        let body = "x".repeat(round * 10);
        all.extend(match round % 3 {
            0 => format!("GET /{round} HTTP/1.1\r\nHost: h\r\n\r\n"),
            1 => {
                format!("POST /{round} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}", body.len())
            }
            _ => format!(
                "PUT /{round} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
                body.len()
            ),
        }
        .into_bytes());
    }
    // In one write, and so that every boundary falls into the middle of a write once.
    for size in [all.len(), 977, 41] {
        let mut client = rig.hub.client();
        let mut writer = client.writer();
        let pieces = all.clone();
        let sending = std::thread::spawn(move || {
            for piece in pieces.chunks(size) {
                std::io::Write::write_all(&mut writer, piece).unwrap();
            }
        });
        for round in 0..60 {
            let response = client.response();
            let length = if round % 3 == 0 { 0 } else { round * 10 };
            assert_eq!(response.text(), format!("/{round} {length}"));
        }
        sending.join().unwrap();
    }
    assert_eq!(rig.upstream.peak(), 1);
}

#[test]
fn the_client_may_ask_for_the_end_of_the_connection() {
    let rig = Rig::serve(async |_| reply(200, "bye"));
    let mut client = rig.hub.client_sending("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    let response = client.response();
    assert_eq!(response.text(), "bye");
    assert_eq!(response.head.field("connection"), Some("close"));
    assert_eq!(client.end(), Cut::Eof);
}

#[test]
fn an_empty_line_before_a_request_is_skipped() {
    let rig = Rig::raw();
    // RFC 9112 section 2.2.
    let (request, response) = rig.exchange("\r\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n", OK);
    assert_eq!((request.head.target(), response.status()), ("/x", 200));
}

#[test]
fn http_1_0_ends_with_the_response() {
    let rig = Rig::raw();
    let (mut client, mut upstream, request) = rig.begin("GET /old HTTP/1.0\r\n\r\n");
    assert_eq!(request.head.start, "GET /old HTTP/1.1");
    assert!(request.head.has("host"));
    upstream.send(
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    upstream.send("3\r\nabc\r\n2\r\nde\r\n0\r\nX-Trailer: 1\r\n\r\n");
    let response = client.response();
    assert!(response.interim.is_empty());
    assert!(!response.head.has("transfer-encoding"));
    assert_eq!(response.text(), "abcde");
    assert!(response.trailers.is_empty());
    assert_eq!(client.end(), Cut::Eof);
}

#[test]
fn http_1_0_keeps_alive_where_the_length_is_known() {
    let rig = Rig::raw();
    let mut client = rig.hub.client_sending("GET /1 HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n");
    let mut upstream = rig.upstream.accept();
    upstream.request();
    upstream.send(OK);
    let response = client.response();
    assert_eq!(response.text(), "ok");
    assert_eq!(response.head.field("connection").map(str::to_ascii_lowercase).as_deref(), Some("keep-alive"));
    client.send("GET /2 HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(upstream.request().head.target(), "/2");
    upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
    // Only the end of the connection can end this one.
    let response = client.response();
    assert_eq!(response.text(), "abc");
    assert!(!response.head.has("content-length"));
}

#[test]
fn http_1_0_upstreams_are_understood() {
    let rig = Rig::raw();
    for head in ["HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc", "HTTP/1.0 200 OK\r\n\r\nabc"] {
        let (_, response) = rig.exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n", head);
        assert_eq!(response.text(), "abc");
        assert!(response.head.start.starts_with("HTTP/1.1 200"), "{:?}", response.head);
    }
}

#[test]
fn responses_without_body_do_not_disturb_the_next() {
    let rig = Rig::raw();
    let mut client = rig.hub.client();
    let cases = [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n", 200),
        ("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200),
        ("HEAD", "HTTP/1.1 404 No\r\n\r\n", 404),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", 204),
        ("DELETE", "HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n", 204),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\nETag: \"x\"\r\n\r\n", 304),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200),
        ("POST", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 200),
        ("GET", OK, 200),
    ];
    let mut upstream = None;
    for (method, answer, status) in cases {
        client.send(format!("{method} /{status} HTTP/1.1\r\nHost: h\r\n\r\n"));
        let upstream = upstream.get_or_insert_with(|| rig.upstream.accept());
        assert_eq!(upstream.request().head.method(), method);
        upstream.send(answer);
        let response = client.response_to(method);
        assert_eq!(response.status(), status, "{answer}");
        if answer.contains("1234") {
            assert_eq!(response.head.field("content-length"), Some("1234"));
        }
        if status == 204 {
            assert!(!response.head.has("content-length") && !response.head.has("transfer-encoding"));
        }
    }
    assert_eq!(rig.upstream.accepted(), 1);
    assert!(client.is_silent());
}

#[test]
fn upstreams_that_close_after_each_response_are_served_in_full() {
    let rig = Rig::raw();
    let answers = [
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc",
        "HTTP/1.0 200 OK\r\n\r\nabc",
    ];
    let mut client = rig.hub.client();
    for round in 0..60 {
        client.send(format!("POST /{round} HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi"));
        let mut upstream = rig.upstream.accept();
        let request = upstream.request();
        assert_eq!((request.head.target(), request.text().as_str()), (format!("/{round}").as_str(), "hi"));
        let answer = answers[round % answers.len()];
        upstream.send(answer);
        drop(upstream);
        let response = client.response();
        assert_eq!(response.text(), "abc", "{answer}");
        if !answer.contains("Length") {
            // A body that only the end of a connection delimits is chunked for the client, whose connection
            // stays.
            assert_eq!(response.head.field("transfer-encoding"), Some("chunked"), "{answer}");
        }
        assert!(!response.head.has("connection"), "{:?}", response.head);
    }
}

#[test]
fn an_upstream_that_closes_kept_connections_is_not_noticed() {
    let rig = Rig::raw();
    let mut client = rig.hub.client();
    for round in 0..50 {
        client.send(format!("GET /{round} HTTP/1.1\r\nHost: h\r\n\r\n"));
        let mut upstream = rig.upstream.accept();
        assert_eq!(upstream.request().head.target(), format!("/{round}"));
        // It does not announce that it closes.
        upstream.send(OK);
        drop(upstream);
        assert_eq!(client.response().text(), "ok");
    }
}

#[test]
fn interim_responses_and_trailers_pass() {
    let rig = Rig::raw();
    let (mut client, mut upstream, request) = rig.begin(
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\nTE: trailers\r\n\
         Connection: TE\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 7\r\nx-more: é\r\n\r\n",
    );
    assert_eq!(request.text(), "abc");
    assert_eq!(request.trailers[0], ("X-Sum".to_owned(), b"7".to_vec()));
    assert_eq!(request.trailers[1].1, "é".as_bytes());
    upstream.send("HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n");
    // It passes at once: the client has it before the upstream says more.
    let hint = client.head();
    assert_eq!((hint.status(), hint.field("link")), (103, Some("</style.css>; rel=preload")));
    upstream.send("HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </b>\r\n\r\n");
    upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n");
    upstream.send("3\r\nabc\r\n0\r\nX-Sum: 8\r\n\r\n");
    let response = client.response();
    let statuses: Vec<u16> = response.interim.iter().map(crate::harness::Head::status).collect();
    assert!(statuses == [102, 103] || statuses == [103], "{statuses:?}");
    assert_eq!(response.text(), "abc");
    assert_eq!(response.trailers, [("X-Sum".to_owned(), b"8".to_vec())]);
}

#[test]
fn odd_chunks_arrive_as_the_same_bytes() {
    let rig = Rig::raw();
    let (mut client, mut upstream, request) = rig.begin(
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: Chunked\r\n\r\n\
         0003;name=value\r\nabc\r\nA;q=\"x;\\\"y\"\r\n0123456789\r\n1\r\n\r\r\n000\r\n\r\n",
    );
    assert_eq!(request.body, b"abc0123456789\r");
    upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n00A;x\r\n0123456789\r\n2\r\n\r\n\r\n0;last\r\n\r\n");
    let response = client.response();
    assert_eq!(response.body, b"0123456789\r\n");
}

#[test]
fn a_small_expected_body_is_asked_for_by_the_hub() {
    let rig = Rig::raw();
    let mut client = rig
        .hub
        .client_sending("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.head().status(), 100);
    client.send("hello");
    let mut upstream = rig.upstream.accept();
    let request = upstream.request();
    assert!(!request.head.has("expect"), "{:?}", request.head);
    assert_eq!(request.text(), "hello");
    upstream.send(OK);
    let response = client.response();
    assert_eq!(response.text(), "ok");
    assert!(response.interim.is_empty(), "a second 100");
}

#[test]
fn a_large_expected_body_is_asked_for_by_the_upstream() {
    let rig = Rig::raw();
    for framing in ["Content-Length: 1000000", "Transfer-Encoding: chunked"] {
        let mut client = rig.hub.client_sending(format!(
            "POST / HTTP/1.1\r\nHost: h\r\n{framing}\r\nExpect: 100-continue\r\n\r\n"
        ));
        let mut upstream = rig.upstream.accept();
        let head = upstream.request_head();
        assert_eq!(head.field("expect").map(str::to_ascii_lowercase).as_deref(), Some("100-continue"));
        assert!(client.is_silent(), "the hub answered for the upstream");
        upstream.send("HTTP/1.1 100 Continue\r\n\r\n");
        assert_eq!(client.head().status(), 100);
        let body = crate::harness::Pattern::new(5).bytes(1_000_000);
        let mut writer = client.writer();
        let sent = body.clone();
        let chunked = framing.contains("chunked");
        let sending = std::thread::spawn(move || {
            if chunked {
                crate::harness::Pattern::new(5).write_chunked_to(&mut writer, 1_000_000).unwrap();
            } else {
                std::io::Write::write_all(&mut writer, &sent).unwrap();
            }
        });
        assert!(upstream.rest() == (body, None), "the body differs");
        sending.join().unwrap();
        upstream.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        let response = client.response();
        assert_eq!(response.status(), 200);
        assert!(response.interim.is_empty(), "a second 100");
    }
}

#[test]
fn a_refused_expectation_reaches_the_client_before_its_body() {
    let rig = Rig::raw();
    let mut client = rig.hub.client_sending(
        "PUT /big HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\nExpect: 100-continue\r\n\r\n",
    );
    let mut upstream = rig.upstream.accept();
    upstream.request_head();
    upstream.send("HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno!");
    let response = client.response();
    assert_eq!((response.status(), response.text().as_str()), (413, "no!"));
    assert!(response.interim.is_empty());
    assert_eq!(client.end(), Cut::Eof);
    // The worker is free again.
    let (_, next) = rig.exchange("GET /next HTTP/1.1\r\nHost: h\r\n\r\n", OK);
    assert_eq!(next.text(), "ok");
}

/// The response came before the request was complete: the client reads it in full although it is still
/// sending, the rest of its body goes nowhere, and the worker serves the next request.
#[test]
fn an_early_answer_is_read_and_its_leftover_goes_nowhere() {
    for upstream_closes in [true, false] {
        let rig = Rig::raw();
        let mut client =
            rig.hub.client_sending("POST /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 50000000\r\n\r\n");
        let mut writer = client.writer();
        let sending = std::thread::spawn(move || {
            let bytes = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n".repeat(1000);
            // The hub takes as much as it likes, then it closes: an error is the expected end.
            (0..1500).any(|_| std::io::Write::write_all(&mut writer, &bytes).is_err())
        });
        let mut upstream = rig.upstream.accept();
        assert_eq!(upstream.request_head().target(), "/upload");
        upstream.body_bytes_at_least(100_000);
        upstream.send("HTTP/1.1 403 Stop\r\nContent-Length: 5\r\n\r\nstop!");
        let held = (!upstream_closes).then_some(upstream);
        let response = client.response();
        assert_eq!((response.status(), response.text().as_str()), (403, "stop!"));
        client.wait_end();
        drop(client);
        let _ = sending.join().unwrap();

        let mut next = rig.hub.client_sending("GET /next HTTP/1.1\r\nHost: h\r\n\r\n");
        let mut upstream = rig.upstream.accept();
        assert_eq!(upstream.request().head.target(), "/next");
        upstream.send(OK);
        assert_eq!(next.response().text(), "ok");
        if let Some(mut held) = held {
            // The connection that the upload was cut on is closed, not reused.
            held.wait_end();
        }
        assert!(rig.upstream.try_accept(Duration::ZERO).is_none());
    }
}

#[test]
fn a_half_closed_client_has_left() {
    let rig = Rig::raw();
    let (client, mut upstream, _) = rig.begin("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    client.finish();
    assert!(matches!(upstream.end(), Cut::Eof | Cut::Reset));
    drop(client);
    let (_, next) = rig.exchange("GET /next HTTP/1.1\r\nHost: h\r\n\r\n", OK);
    assert_eq!(next.text(), "ok");
}

#[test]
fn two_agents_started_alike_serve_side_by_side() {
    let (first, second) = (RawUpstream::new(), RawUpstream::new());
    let hub = Hub::start(&[]);
    let token = hub.token(&["--name", "twins"]);
    let mut agents = [hub.agent_with(&token, &first.url(), &[]), hub.agent_with(&token, &second.url(), &[])];
    // Two requests at once: each of them keeps its worker, so each agent must get one.
    let mut clients: Vec<_> =
        (0..2).map(|n| hub.client_sending(format!("GET /{n} HTTP/1.1\r\nHost: h\r\n\r\n"))).collect();
    let mut at_first = first.accept();
    let mut at_second = second.accept();
    let mut seen = [at_first.request().head.start, at_second.request().head.start];
    seen.sort();
    assert_eq!(seen, ["GET /0 HTTP/1.1", "GET /1 HTTP/1.1"]);
    at_first.send(OK);
    at_second.send(OK);
    for client in &mut clients {
        assert_eq!(client.response().text(), "ok");
    }
    wait_until("both live", DEADLINE, || agents.iter_mut().all(|agent| agent.is_alive()));
}
