//! What a request is called on all its way, and how long it took.

use super::seconds;
use crate::proto::http1::cors::Origins;
use crate::proto::testing::Setup;
use crate::proto::testing::scenario::OK;

/// The values of the fields with this name.
fn values<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    let named = |line: &'a str| line.split_once(": ").filter(|(other, _)| other.eq_ignore_ascii_case(name));
    head.lines().filter_map(named).map(|(_, value)| value).collect()
}

fn request(fields: &str) -> String {
    format!("GET /x HTTP/1.1\r\nHost: app.test\r\n{fields}\r\n")
}

#[test]
fn upstream_and_client_see_the_same_name() {
    let mut pair = Setup::default().joined();
    let client = pair.client();
    let mut seen = Vec::new();
    for (fields, kept) in [("", None), ("x-request-id: job-7\r\n", Some("job-7")), ("", None)] {
        pair.send(client, request(fields));
        let upstream = pair.upstream();
        let request = pair.got_whole(upstream);
        let names = values(&request, "X-Request-Id");
        assert!(names.len() == 1 && kept.is_none_or(|kept| kept == names[0]), "{request}");
        pair.send(upstream, OK.replacen("\r\n", "\r\nX-Request-ID: upstreams\r\nConnection: close\r\n", 1));
        pair.close(upstream);
        let response = pair.got_whole(client);
        assert_eq!(values(&response, "X-Request-Id"), names, "{response}");
        seen.push(names[0].to_owned());
        pair.advance(seconds(1));
    }
    assert!(seen[0] != seen[2] && seen[0].len() == 16, "{seen:?}");
}

#[test]
fn an_error_says_what_its_request_is_called() {
    let mut pair = Setup::hub_only().start();
    for (fields, kept) in [("X-Request-Id: a/b\r\n", true), ("X-Request-Id: a b\r\n", false)] {
        let client = pair.client();
        pair.send(client, request(fields));
        let got = pair.got_whole(client);
        assert!(got.starts_with("HTTP/1.1 503 "), "{got}");
        assert_eq!(values(&got, "X-Request-Id") == ["a/b"], kept, "{got}");
        assert_eq!(values(&got, "X-Request-Id").len(), 1, "{got}");
    }
    let mut pair = Setup::default().hub(|hub| hub.app_password = Some("geheim".to_owned())).joined();
    let client = pair.client();
    pair.send(client, request("X-Request-Id: let-me-in\r\n"));
    let got = pair.got_whole(client);
    assert!(got.starts_with("HTTP/1.1 401 ") && values(&got, "X-Request-Id") == ["let-me-in"], "{got}");
}

/// Also what never becomes an exchange: the client can name it to the hub's operator.
#[test]
fn every_answer_of_the_hub_says_what_its_request_is_called() {
    let preflight = "OPTIONS /x HTTP/1.1\r\nHost: app.test\r\nOrigin: https://b.example\r\n\
                     Access-Control-Request-Method: GET\r\nX-Request-Id: mine\r\n\r\n";
    for (status, kept, raw) in [
        ("204", true, preflight),
        ("200", true, "OPTIONS * HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\nX-Request-Id: mine\r\n\r\n"),
        ("501", false, "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nX-Request-Id: mine\r\n\r\n"),
        ("400", false, "GET / HTTP/1.1\r\nX-Request-Id: mine\r\n\r\n"),
        ("408", false, "GET / HTTP/1.1\r\nX-Request-Id: mine\r\n"),
        ("505", false, "GET / HTTP/2.0\r\nX-Request-Id: mine\r\n\r\n"),
    ] {
        let mut pair = Setup::default().hub(|hub| hub.cors = Origins::parse(["*"])).joined();
        let client = pair.client();
        pair.send(client, raw);
        pair.advance(seconds(60));
        let got = pair.got_whole(client);
        assert!(got.starts_with(&format!("HTTP/1.1 {status} ")), "{raw}{got}");
        let names = values(&got, "X-Request-Id");
        assert!(names.len() == 1 && (names[0] == "mine") == kept && !names[0].is_empty(), "{raw}{got}");
    }
}

#[test]
fn a_response_says_how_long_its_request_waited_and_was_served() {
    let mut pair = Setup::default().joined();
    let (first, second) = (pair.client(), pair.client());
    pair.send(first, request(""));
    pair.send(second, request(""));
    let upstream = pair.upstream();
    pair.advance(seconds(3));
    let response = OK.replacen("\r\n", "\r\nServer-Timing: model;dur=5\r\n", 1);
    pair.send(upstream, &response);
    let got = pair.got_whole(first);
    assert_eq!(values(&got, "Server-Timing"), ["model;dur=5", "queue;dur=0, head;dur=3000"], "{got}");
    pair.advance(seconds(2));
    pair.send(upstream, &response);
    let got = pair.got_whole(second);
    assert_eq!(values(&got, "Server-Timing"), ["model;dur=5", "queue;dur=3000, head;dur=2000"], "{got}");
}
