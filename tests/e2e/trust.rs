//! Nobody is what it says it is: applications are no agents, upstreams are no hubs, and secrets stay where
//! they were put.

use std::time::Duration;

use crate::framing::assert_own;
use crate::harness::{Cut, Hub, RawUpstream, Rig, Wire, hello, join, pki, register, respond, wait_until};

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const PASSWORD: &str = "the-password-of-the-applications";
/// All that must stay secret in the tests of this file; the hub's own secret is the harness's.
const SECRETS: [&str; 5] =
    [PASSWORD, "wrong-password", "upstream-password", "slime1_", "a secret of the tests"];

/// Whatever spelling of the hub's own paths an application finds, none reaches an upstream and none makes a
/// tunnel.
#[test]
fn no_application_becomes_an_agent() {
    let rig = Rig::raw_with(&["--app-password", PASSWORD], &[]);
    let handshake = |target: &str, token: &str| {
        format!(
            "GET {target} HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: slime/1\r\nSlime-App-Password: {PASSWORD}\r\n\
             Slime-Agent-Token: {token}\r\nSlime-Agent-Id: evil\r\nSlime-Worker: 0\r\nSlime-Ready: ?1\r\n\r\n"
        )
    };
    let other = register("another secret", &[]);
    let cut = &other[..other.len() - 1];
    for token in
        ["", "slime1_", PASSWORD, "slime1_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", &other, cut]
    {
        let mut client = rig.hub.client_sending(handshake("/.slime/tunnel", token));
        let head = client.response().head;
        assert!([400, 401].contains(&head.status()), "{token}: {head:?}");
    }
    // With a good token, but on a path that is none.
    let good = rig.hub.token(&[]);
    for target in [
        "/.slime/Tunnel",
        "/.SLIME/tunnel",
        "/.slime/tunnel/",
        "/.slime/tunnel;x",
        "/.slime//tunnel",
        "/%2eslime/tunnel",
        "/.slime%2ftunnel",
        "/.slime%5ctunnel",
        "/.slime/tunnel%00",
        "/x/..%2f.slime/tunnel",
        "/x\\.slime/tunnel",
    ] {
        let mut client = rig.hub.client_sending(handshake(target, &good));
        let status = if let Some(request) = served(&rig, &mut client) {
            // What is none of the hub's paths is an ordinary one, without anything that the hub and its
            // agents understand.
            assert!(!request.contains("\r\nSlime-") && !request.contains(&good), "{request}");
            200
        } else {
            client.response().status()
        };
        assert_ne!(status, 101, "{target}");
        assert!(status != 200 || !target.contains(".slime"), "{target} reached the upstream");
    }
    // Fields by which hub and agents speak with each other mean nothing in an application's request.
    let fields = "Slime-Heartbeat: ?1\r\nSlime-Close: draining\r\nSlime-Expect: connect\r\nSlime-Refused: x\r\nSlime-Agent-Id: x\r\n";
    let (request, response) = rig.exchange(
        format!("OPTIONS * HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {PASSWORD}\r\n{fields}\r\n"),
        OK,
    );
    assert_eq!((request.head.target(), response.text().as_str()), ("*", "ok"));
    assert!(!format!("{:?}", request.head).to_lowercase().contains("slime-"), "{:?}", request.head);
}

/// One request through an agent whose upstream is its own hub would take all workers, and the hub with them.
#[test]
fn a_request_that_comes_back_to_its_hub_ends_there() {
    let hub = Hub::start(&[]);
    let agent = hub.agent(&hub.url(), &["--num-worker", "4"]);
    agent.wait_line("joined the hub");
    for _ in 0..3 {
        assert_eq!(hub.client_sending(GET).response().status(), 508);
    }
    hub.wait_line("has come through this hub before");
}

/// The head of the request that the upstream is given, or nothing if the client is answered first. Answers
/// it.
fn served(rig: &Rig<RawUpstream>, client: &mut Wire) -> Option<String> {
    rig.hub.settle();
    let mut upstream = rig.upstream.try_accept(Duration::from_millis(100))?;
    let head = format!("{:?}", upstream.request().head);
    upstream.send(OK);
    drop(upstream);
    assert_eq!(client.response().text(), "ok");
    Some(head)
}

/// What an upstream says in the hub's and the agents' own words is an answer like any other, without those
/// words.
#[test]
fn no_upstream_speaks_for_its_agent() {
    let rig = Rig::raw();
    // A refusal would be tried elsewhere, or again.
    for request in [GET, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx"] {
        let (_, response) = rig.exchange(
            request,
            "HTTP/1.1 503 Service Unavailable\r\nSlime-Refused: upstream down\r\nSlime-Agent-Id: evil\r\nConnection: close\r\nContent-Length: 4\r\n\r\nmine",
        );
        let head = &response.head;
        assert_eq!((head.status(), response.text().as_str()), (503, "mine"), "{head:?}");
        assert!(!head.has("slime-refused") && !head.has("proxy-status"), "{head:?}");
        assert!(head.field("slime-agent-id").is_some_and(|id| id != "evil"), "{head:?}");
    }
    // A sign of life would be swallowed; it is an interim response like others. In trailers the words mean
    // nothing, either.
    let (_, response) = rig.exchange(
        GET,
        "HTTP/1.1 102 Processing\r\nSlime-Heartbeat: ?1\r\n\r\nHTTP/1.1 103 Early Hints\r\nSlime-Agent-Id: evil\r\nLink: <x>\r\n\r\n\
         HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nSlime-Agent-Id: evil\r\nSlime-Refused: x\r\n\r\n",
    );
    assert_eq!(response.text(), "ok");
    let all = format!("{response:?}");
    assert!(
        !all.contains("evil") && !all.contains("Slime-Heartbeat") && !all.contains("Slime-Refused"),
        "{all}"
    );
    assert_eq!(response.interim.len(), 2, "{all}");
    // The agent has not withdrawn.
    let (_, response) = rig.exchange(GET, OK);
    assert_eq!(response.text(), "ok");
}

/// After an upgrade that the upstream refused the connection is HTTP as before: what follows is looked at
/// like any request.
#[test]
fn nothing_is_smuggled_through_a_refused_upgrade() {
    let rig = Rig::raw_with(&["--app-password", PASSWORD], &[]);
    let upgrade = format!(
        "GET /socket HTTP/1.1\r\nHost: h\r\nSlime-App-Password: {PASSWORD}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 777\r\n\r\n"
    );
    for answer in [
        "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno",
        "HTTP/1.1 200 OK\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nno",
    ] {
        for smuggled in [GET, "GET /.slime/tunnel HTTP/1.1\r\nHost: h\r\n\r\n", "\u{1}\u{2}\u{3}\r\n\r\n"] {
            let (mut client, mut upstream, request) = rig.begin(format!("{upgrade}{smuggled}"));
            assert!(request.body.is_empty());
            upstream.send(answer);
            assert_eq!(client.response().text(), "no");
            let status = client.response().status();
            assert!([400, 401, 404].contains(&status), "{smuggled:?}: {status}");
            drop((client, upstream));
        }
    }
    // Only the upgrades have reached it, on as many connections.
    assert_eq!(rig.upstream.accepted(), 6);
}

/// An agent serves what its token names, under its own name, and nothing else.
#[test]
fn no_agent_goes_beyond_its_token() {
    let hub = Hub::start(&["--startup-grace", "0"]);
    let token = hub.token(&["--scopes", "a", "--scope-paths", "/v1", "--max-workers", "1"]);
    let mut tunnel = join(&hub, &token, "gpu-1", 0);
    let mut refused = hub.client_sending(hello(&token, "gpu-2", 0));
    assert_own(&refused.response(), 403);
    for (path, scope) in [("/v10", "a"), ("/", "a"), ("/v1/x", "b"), ("/v1/../x", "a"), ("/v1%2fx", "a")] {
        let mut client =
            hub.client_sending(format!("GET {path} HTTP/1.1\r\nHost: h\r\nSlime-Scope: {scope}\r\n\r\n"));
        assert_own(&client.response(), 503);
    }
    // It cannot say that the answer is another one's.
    let mut client = hub.client_sending("GET /v1/x HTTP/1.1\r\nHost: h\r\nSlime-Scope: a\r\n\r\n");
    assert_eq!(respond(&mut tunnel), "/v1/x");
    assert_eq!(client.response().head.field("slime-agent-id"), Some("gpu-1"));
    // Nor give somebody else bytes behind an answer.
    let mut client = hub.client_sending("GET /v1/x HTTP/1.1\r\nHost: h\r\n\r\n");
    tunnel.request();
    tunnel.send("HTTP/1.1 200 OK\r\nSlime-Agent-Id: x\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
    let response = client.response();
    assert_eq!((response.text().as_str(), response.head.field("slime-agent-id")), ("ok", Some("gpu-1")));
    tunnel.wait_end();
    client.send("GET /v1/x HTTP/1.1\r\nHost: h\r\nSlime-Block: 0\r\n\r\n");
    assert_own(&client.response(), 503);
}

/// Secrets appear in no log at any level, in no answer of the hub's own, and in no request that reaches an
/// upstream.
#[test]
fn secrets_stay_secret() {
    let upstream = RawUpstream::new();
    let hub = Hub::start(&["--app-password", PASSWORD, "--log-level", "debug"]);
    let url = pki::url(format!("me:upstream-password@{}", upstream.address()));
    let agent = hub.agent(&url, &["--log-level", "debug"]);
    let mut answers = Vec::new();
    for fields in [
        "Slime-App-Password: wrong-password",
        "Authorization: Bearer wrong-password",
        &format!("Slime-App-Password: {PASSWORD}x"),
        &format!("Slime-App-Password: {PASSWORD}\r\nbroken"),
        &format!("Authorization: Bearer {PASSWORD}\r\nContent-Length: x"),
        &format!(
            "Slime-Agent-Token: {}\r\nSlime-App-Password: {PASSWORD}\r\nSlime-Scope: nobody\r\nSlime-Block: 0",
            hub.token(&[])
        ),
    ] {
        let mut client = hub.client_sending(format!("GET /x HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n"));
        let response = client.response();
        assert!(response.head.status() >= 400, "{fields}: {:?}", response.head);
        answers.push(format!("{response:?}{}", response.text()));
    }
    let bad = hub.token(&["--age", "1s"]).replace("slime1_A", "slime1_B");
    let mut refused = hub.client_sending(hello(&bad[..bad.len() - 2], "x", 0));
    answers.push(format!("{:?}", refused.response()));
    let mut requests = Vec::new();
    for field in [format!("Slime-App-Password: {PASSWORD}"), format!("Authorization: Bearer {PASSWORD}")] {
        let mut client =
            hub.client_sending(format!("GET /y HTTP/1.1\r\nHost: h\r\n{field}\r\nConnection: close\r\n\r\n"));
        let mut at_upstream = upstream.accept();
        requests.push(format!("{:?}", at_upstream.request()));
        at_upstream.send(OK);
        assert_eq!(client.response().text(), "ok");
        assert_eq!(client.wait_end(), Cut::Eof);
    }
    wait_until("the hub has logged it", crate::harness::DEADLINE, || hub.output().contains("/y"));
    for secret in SECRETS {
        assert!(!hub.output().contains(secret), "{secret} in the log of the hub");
        assert!(!agent.output().contains(secret), "{secret} in the log of the agent");
        assert!(answers.iter().all(|answer| !answer.contains(secret)), "{secret} in an answer");
        assert!(requests.iter().all(|request| !request.contains(secret)), "{secret} at the upstream");
    }
}
