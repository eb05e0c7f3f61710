//! What passes through is what was sent: methods, targets, fields, statuses, and which fields are ours.

use crate::harness::{
    Hub, RawUpstream, Rig, Server, empty, hyper_exchange, pki, reply, shared_token, text, ureq_agent,
};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn every_method_passes() {
    let rig = Rig::serve(async |request| {
        let method = request.method().to_string();
        let mut reply = reply(200, format!("{method} {}", request.uri()));
        reply.headers_mut().insert("x-method", method.parse().unwrap());
        reply
    });
    let methods = [
        "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "PROPFIND", "MKCOL", "M-SEARCH",
        "query", "A",
    ];
    for method in methods {
        let request =
            hyper::Request::builder().method(method).uri("/a?b").header("host", "h").body(empty()).unwrap();
        let response = hyper_exchange(rig.hub.address(), request);
        assert_eq!(response.status(), 200, "{method}: {}", text(&response));
        assert_eq!(response.headers()["x-method"], method);
        let body = if method == "HEAD" { String::new() } else { format!("{method} /a?b") };
        assert_eq!(text(&response), body);
    }
}

#[test]
fn ureq_sends_and_reads_through() {
    let rig = Rig::serve(async |request| {
        let body = crate::harness::body_of(request.into_body()).await.unwrap();
        reply(201, body)
    });
    let agent = ureq_agent();
    let url = format!("{}/things", rig.hub.url());
    for round in 0..20 {
        let sent = format!("thing {round}");
        let mut response = agent.post(&url).send(&sent).unwrap();
        assert_eq!(response.status(), 201);
        assert_eq!(response.body_mut().read_to_string().unwrap(), sent);
    }
}

#[test]
fn options_of_the_server_itself_reaches_the_upstream() {
    let rig = Rig::raw();
    let (request, response) = rig.exchange("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", OK);
    assert_eq!(request.head.start, "OPTIONS * HTTP/1.1");
    assert_eq!(response.text(), "ok");
}

#[test]
fn targets_pass_as_they_were_written() {
    let rig = Rig::raw();
    for target in [
        "/",
        "/a/../b/./c//d/",
        "/%2e%2E/%41%2f%5C/%00",
        "/a;b=c;d/e,f/$&'()*+@:~",
        "/?",
        "/p?q=1&q=2?/&%zz=[]{}|\\^`\"",
        "/%E2%82%AC?%F0%9F%90%8C",
    ] {
        let (request, response) = rig.exchange(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"), OK);
        assert_eq!(request.head.start, format!("GET {target} HTTP/1.1"));
        assert_eq!(response.status(), 200);
    }
}

#[test]
fn an_absolute_target_overrides_the_host() {
    let rig = Rig::raw_with(&[], &["--preserve-host"]);
    let (request, response) =
        rig.exchange("GET http://real.example:81/x?y HTTP/1.1\r\nHost: other.example\r\n\r\n", OK);
    assert_eq!(request.head.target(), "/x?y");
    assert_eq!(request.head.field("host"), Some("real.example:81"));
    assert_eq!(request.head.field("x-forwarded-host"), Some("real.example:81"));
    assert_eq!(response.status(), 200);
}

#[test]
fn host_and_forwarding_fields_are_ours() {
    let rig = Rig::raw();
    let (mut client, mut upstream, request) = rig.begin(
        "GET / HTTP/1.1\r\nHost: app.example:8080\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\n\
         X-Forwarded-Host: evil.example\r\n\r\n",
    );
    let head = request.head;
    assert_eq!(head.field("host"), Some(rig.upstream.address().to_string().as_str()));
    assert_eq!(head.field("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(head.field("x-forwarded-proto"), Some(if pki::is_tls() { "https" } else { "http" }));
    assert_eq!(head.field("x-forwarded-host"), Some("app.example:8080"));
    let via = head.all("via");
    assert!(!via.is_empty() && via.iter().all(|value| value.starts_with(b"1.1 ")), "{head:?}");
    upstream.send("HTTP/1.1 200 OK\r\nVia: 1.0 inner\r\nContent-Length: 0\r\n\r\n");
    let response = client.response();
    let via = response.head.all("via").join(&b", "[..]);
    assert!(via.starts_with(b"1.0 inner, 1.1 "), "{:?}", response.head);
}

#[test]
fn a_trusted_proxy_is_believed() {
    let rig = Rig::raw_with(&["--trusted-proxy", "127.0.0.0/8"], &[]);
    let (request, _) = rig.exchange(
        "GET / HTTP/1.1\r\nHost: inner\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\n\
         X-Forwarded-Host: app.example\r\nVia: 1.1 front\r\n\r\n",
        OK,
    );
    let head = request.head;
    let from = head.all("x-forwarded-for").join(&b", "[..]);
    assert_eq!(String::from_utf8_lossy(&from), "1.2.3.4, 127.0.0.1");
    assert_eq!(head.field("x-forwarded-proto"), Some("https"));
    assert_eq!(head.field("x-forwarded-host"), Some("app.example"));
    assert!(head.all("via").join(&b", "[..]).starts_with(b"1.1 front, 1.1 "), "{head:?}");
}

#[test]
fn the_application_host_is_kept_when_asked_for() {
    let rig = Rig::raw_with(&[], &["--preserve-host"]);
    let (request, _) = rig.exchange("GET / HTTP/1.1\r\nHost: app.example:8080\r\n\r\n", OK);
    assert_eq!(request.head.field("host"), Some("app.example:8080"));
}

#[test]
fn hop_by_hop_and_control_fields_end_at_us() {
    let rig = Rig::raw_with(&[], &["--agent-id", "box"]);
    let (mut client, mut upstream, request) = rig.begin(
        "GET / HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, X-Private\r\nX-Private: 1\r\nX-Public: 2\r\n\
         Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: gzip\r\nUpgrade: h2c\r\n\
         Slime-Ready: ?0\r\nSlime-Agent-Id: forged\r\nSlime-Anything: x\r\nslime-block: 1\r\n\r\n",
    );
    let head = request.head;
    assert_eq!(head.field("x-public"), Some("2"));
    for name in ["x-private", "keep-alive", "proxy-connection", "upgrade"] {
        assert!(!head.has(name), "{name} passed: {head:?}");
    }
    assert!(!head.has_prefix("slime-"), "{head:?}");
    assert!(head.field("te").is_none_or(|te| te == "trailers"), "{head:?}");
    upstream.send(
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nSlime-Heartbeat: ?1\r\n\r\n\
         HTTP/1.1 200 OK\r\nConnection: X-Private\r\nX-Private: 1\r\nX-Public: 2\r\nKeep-Alive: timeout=5\r\n\
         Slime-Refused: forged\r\nSlime-Agent-Id: forged\r\nSlime-Close: replaced\r\nTransfer-Encoding: chunked\r\n\r\n\
         2\r\nok\r\n0\r\nSlime-Refused: forged\r\nX-Sum: 3\r\n\r\n",
    );
    let response = client.response();
    let head = response.head;
    assert_eq!((head.status(), response.body.as_slice()), (200, &b"ok"[..]));
    assert_eq!(head.field("x-public"), Some("2"));
    assert!(!head.has("x-private") && !head.has("keep-alive"), "{head:?}");
    assert_eq!(head.field("slime-agent-id"), Some("box"));
    assert!(!head.has("slime-refused") && !head.has("slime-close"), "{head:?}");
    assert!(response.interim.iter().all(|interim| !interim.has_prefix("slime-heartbeat")));
    assert!(response.trailers.iter().all(|(name, _)| !name.to_ascii_lowercase().starts_with("slime-")));
}

#[test]
fn field_values_pass_untouched() {
    let rig = Rig::raw();
    let mut bytes = b"GET / HTTP/1.1\r\nHost: h\r\nCookie: a=1\r\nCookie: b=2\r\nX-Bytes: \xe4\xf6\xfc \xff \xf0\x9f\x90\x8c\r\n".to_vec();
    bytes.extend_from_slice(b"Accept-Encoding: gzip;q=0.5, *\r\nX-Empty:\r\nX-Spaced: \t a  \t b \t\r\nX-Quoted: \"a,\\\"b\"\r\n\r\n");
    let (mut client, mut upstream, request) = rig.begin(&bytes);
    let head = request.head;
    assert_eq!(head.all("cookie"), [b"a=1", b"b=2"]);
    assert_eq!(head.all("x-bytes"), [b"\xe4\xf6\xfc \xff \xf0\x9f\x90\x8c"]);
    assert_eq!(head.field("accept-encoding"), Some("gzip;q=0.5, *"));
    assert_eq!(head.field("x-empty"), Some(""));
    assert_eq!(head.field("x-spaced"), Some("a  \t b"));
    assert_eq!(head.field("x-quoted"), Some("\"a,\\\"b\""));

    // Bytes that claim to be gzip are not looked at, be they gzip or not.
    let body = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xff\x00";
    let mut bytes = b"HTTP/1.1 200 Fine by me\r\nSet-Cookie: a=1; Path=/\r\nSet-Cookie: b=2, c\r\n".to_vec();
    bytes.extend_from_slice(b"X-Bytes: \xe4 \xff\r\nContent-Encoding: gzip\r\nETag: W/\"x\"\r\nVary: *\r\n");
    bytes.extend_from_slice(b"Server: up/1\r\nDate: whenever\r\nContent-Length: 12\r\n\r\n");
    bytes.extend_from_slice(body);
    upstream.send(&bytes);
    let response = client.response();
    assert_eq!(response.head.start, "HTTP/1.1 200 Fine by me");
    assert_eq!(response.head.all("set-cookie"), [&b"a=1; Path=/"[..], b"b=2, c"]);
    assert_eq!(response.head.all("x-bytes"), [b"\xe4 \xff"]);
    assert_eq!(response.head.field("content-encoding"), Some("gzip"));
    assert_eq!(response.head.field("etag"), Some("W/\"x\""));
    assert_eq!(response.head.field("server"), Some("up/1"));
    assert_eq!(response.head.field("date"), Some("whenever"));
    assert_eq!(response.body, body);
}

#[test]
fn every_status_passes_and_redirects_are_not_followed() {
    let rig = Rig::serve(async |request| {
        let status: u16 = request.uri().path().trim_start_matches('/').parse().unwrap();
        let mut reply = reply(status, "");
        reply.headers_mut().insert("location", "http://elsewhere.example/a?b#c".parse().unwrap());
        reply
    });
    let mut client = rig.hub.client();
    for status in [
        200, 201, 202, 206, 299, 300, 301, 302, 303, 307, 308, 400, 401, 404, 418, 429, 451, 500, 502, 503,
        504, 599,
    ] {
        client.send(format!("GET /{status} HTTP/1.1\r\nHost: h\r\n\r\n"));
        let response = client.response();
        assert_eq!(response.status(), status);
        assert_eq!(response.head.field("location"), Some("http://elsewhere.example/a?b#c"));
        assert!(
            !response.head.has("proxy-status"),
            "the answer of the upstream is not ours: {:?}",
            response.head
        );
    }
    assert_eq!(rig.upstream.requests(), 22);
}

#[test]
fn nothing_is_invented() {
    let rig = Rig::raw();
    let (request, response) = rig.exchange("GET /a HTTP/1.1\r\nHost: h\r\n\r\n", OK);
    let known = [
        "host",
        "via",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "x-request-id",
        "connection",
    ];
    for (name, _) in &request.head.fields {
        assert!(known.contains(&name.to_ascii_lowercase().as_str()), "{name} was added");
    }
    for (name, _) in &response.head.fields {
        let name = name.to_ascii_lowercase();
        assert!(
            ["content-length", "via", "slime-agent-id", "x-request-id", "server-timing", "date"]
                .contains(&name.as_str()),
            "{name} was added"
        );
    }
}

#[test]
fn base_path_query_and_credentials_of_the_upstream_are_applied() {
    let upstream = RawUpstream::new();
    let hub = Hub::start(&[]);
    let url = pki::url(format!("us%65r:p%40ss@{}/base/v2/", upstream.address()));
    let _agent = hub.agent(&url, &[]);
    for (asked, given) in [("/x?y=1", "/base/v2/x?y=1"), ("/", "/base/v2/"), ("/?q", "/base/v2/?q")] {
        let mut client = hub.client_sending(format!("GET {asked} HTTP/1.1\r\nHost: h\r\n\r\n"));
        let mut at = upstream.accept();
        let request = at.request();
        assert_eq!(request.head.target(), given);
        assert_eq!(request.head.field("host"), Some(upstream.address().to_string().as_str()));
        // user:p@ss
        assert_eq!(request.head.field("authorization"), Some("Basic dXNlcjpwQHNz"));
        at.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(client.response().status(), 200);
    }
}

#[test]
fn the_application_authorizes_itself_at_an_upstream_without_credentials() {
    let rig = Rig::raw();
    let (request, _) = rig.exchange("GET / HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer key\r\n\r\n", OK);
    assert_eq!(request.head.field("authorization"), Some("Bearer key"));
}

#[test]
fn ipv6_on_both_sides() {
    let upstream = Server::start_on("[::1]:0".parse().unwrap(), async |request: crate::harness::Request| {
        let host = request.headers()["host"].to_str().unwrap().to_owned();
        let from = request.headers()["x-forwarded-for"].to_str().unwrap().to_owned();
        reply(200, format!("{host} {from}"))
    });
    let hub = Hub::start_on("::1", 0, &[]);
    assert!(hub.address().is_ipv6());
    let _agent = hub.agent(&upstream.url(), &[]);
    let mut client = hub.client_sending(format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", hub.address()));
    let response = client.response();
    let text = response.text();
    let (host, from) = text.split_once(' ').unwrap();
    assert_eq!(host, upstream.address().to_string());
    assert!(matches!(from, "::1" | "[::1]"), "{from}");
}

#[test]
fn names_are_looked_up() {
    let upstream = Server::start(async |_| reply(200, "by name"));
    let hub = Hub::start(&[]);
    let port = upstream.address().port();
    let token = shared_token();
    let at = pki::url(format!("localhost:{}", hub.address().port()));
    let _agent = crate::harness::Agent::start(&at, token, &pki::url(format!("localhost:{port}")), &[]);
    let mut client = hub.client_sending("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(client.response().text(), "by name");
}
