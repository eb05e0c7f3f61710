//! Agents, upstreams and connections that fail: what is tried again, what never is, and what the application
//! learns.

mod kept;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::framing::assert_own;
use crate::harness::{
    DEADLINE, Hub, Pattern, RawUpstream, Rig, Server, Wire, join, pki, reply, respond, shared_token,
    wait_agents, wait_until,
};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody";
const REFUSED: &str =
    "HTTP/1.1 503 Service Unavailable\r\nSlime-Refused: upstream unreachable\r\nContent-Length: 0\r\n\r\n";

/// A hub and two agents that the test plays.
fn two_tunnels() -> (Hub, Wire, Wire) {
    let hub = Hub::start(&[]);
    let tunnels = ["a", "b"].map(|id| join(&hub, shared_token(), id, 0));
    let [first, second] = tunnels;
    (hub, first, second)
}

#[test]
fn a_lost_tunnel_costs_an_idempotent_request_nothing() {
    for (method, fields, body) in [
        ("GET", "", ""),
        ("HEAD", "", ""),
        ("OPTIONS", "", ""),
        ("PUT", "Content-Length: 4\r\n", "body"),
        ("DELETE", "", ""),
        ("POST", "Idempotency-Key: \"k\"\r\nContent-Length: 4\r\n", "body"),
    ] {
        let (hub, mut first, mut second) = two_tunnels();
        let mut client = hub.client_sending(format!("{method} /x HTTP/1.1\r\nHost: h\r\n{fields}\r\n{body}"));
        let seen = first.request();
        drop(first);
        let again = second.request();
        assert_eq!((again.head.raw, again.body), (seen.head.raw, seen.body), "not the same request");
        second.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(client.response_to(method).status(), 200);
    }
}

#[test]
fn a_lost_tunnel_is_502_for_a_request_that_may_have_been_executed() {
    for cut in ["", "HTTP/1.1 200 OK\r\nConte"] {
        let (hub, mut first, mut second) = two_tunnels();
        let mut client = hub.client_sending(POST);
        first.request();
        first.send(cut);
        let start = Instant::now();
        drop(first);
        assert_own(&client.response(), 502);
        assert!(start.elapsed() < Duration::from_secs(2));
        assert!(second.is_silent(), "it was sent twice");
        client.send(GET);
        assert_eq!(respond(&mut second), "/");
        assert_eq!(client.response().status(), 200);
    }
}

#[test]
fn an_idempotent_request_is_sent_three_times_at_most() {
    let hub = Hub::start(&[]);
    let token = shared_token();
    let mut tunnels: Vec<Wire> = (0..4).map(|n| join(&hub, token, &format!("a{n}"), 0)).collect();
    let mut client = hub.client_sending(GET);
    for mut tunnel in tunnels.drain(..3) {
        tunnel.request();
        drop(tunnel);
    }
    assert_own(&client.response(), 502);
    assert!(tunnels[0].is_silent());
}

#[test]
fn nothing_is_tried_again_once_a_byte_has_come() {
    let (hub, mut first, mut second) = two_tunnels();
    let mut client = hub.client_sending(GET);
    first.request();
    first.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
    client.response_head("GET");
    assert_eq!(client.body_bytes(3), b"abc");
    drop(first);
    assert!(client.rest().1.is_some());
    assert!(second.is_silent());
}

#[test]
fn a_large_upload_is_not_replayed() {
    let (hub, mut first, mut second) = two_tunnels();
    let mut client = hub.client_sending("PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 3000000\r\n\r\n");
    let mut writer = client.writer();
    let sending = std::thread::spawn(move || {
        let _ = std::io::Write::write_all(&mut writer, &Pattern::new(1).bytes(2_000_000));
    });
    let head = first.request_head();
    // The agent says when its upstream can be reached.
    assert_eq!(head.field("slime-expect"), Some("connect"));
    assert_eq!(head.field("expect"), Some("100-continue"));
    first.send("HTTP/1.1 100 Continue\r\n\r\n");
    first.body_bytes_at_least(1_500_000);
    drop(first);
    assert_own(&client.response(), 502);
    sending.join().unwrap();
    assert!(second.is_silent());
}

#[test]
fn a_large_upload_goes_elsewhere_while_nobody_has_begun() {
    let (hub, mut first, mut second) = two_tunnels();
    let mut client = hub.client_sending("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n");
    let mut writer = client.writer();
    let sending = std::thread::spawn(move || Pattern::new(1).write_to(&mut writer, 1_000_000).unwrap());
    assert_eq!(first.request_head().field("slime-expect"), Some("connect"));
    first.send(REFUSED);
    assert_eq!(second.request_head().field("slime-expect"), Some("connect"));
    second.send("HTTP/1.1 100 Continue\r\n\r\n");
    assert!(second.rest() == (Pattern::new(1).bytes(1_000_000), None));
    sending.join().unwrap();
    second.send(OK);
    let response = client.response();
    assert_eq!(response.text(), "ok");
    assert!(response.interim.is_empty(), "the client asked for no 100");
}

#[test]
fn a_refused_request_goes_to_another_agent_whatever_it_is() {
    for request in [GET, POST] {
        let (hub, mut first, mut second) = two_tunnels();
        let mut client = hub.client_sending(request);
        first.request();
        first.send(REFUSED);
        let again = second.request();
        assert_eq!(again.body.is_empty(), request == GET);
        second.send(OK);
        let response = client.response();
        assert_eq!(response.text(), "ok");
        assert_eq!(response.head.field("slime-agent-id"), Some("b"));
    }
}

#[test]
fn a_refusal_is_502_only_when_nobody_else_is_there() {
    let hub = Hub::start(&["--startup-grace", "0"]);
    let token = shared_token();
    let mut only = join(&hub, token, "a", 0);
    let mut client = hub.client_sending(POST);
    only.request();
    only.send(REFUSED);
    assert_own(&client.response(), 502);
    drop(only);

    // While the other one is merely busy, the refused request waits for it.
    let mut busy = join(&hub, token, "b", 0);
    let mut long = hub.client_sending("GET /long HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(busy.request().head.target(), "/long");
    for round in 0..5 {
        let mut refusing = join(&hub, token, &format!("c{round}"), 0);
        let mut client = hub.client_sending(POST);
        assert_eq!(refusing.request().head.method(), "POST");
        refusing.send(REFUSED);
        drop(refusing);
        hub.settle();
        assert!(client.is_silent(), "it was not kept for the busy one");
        if round == 4 {
            busy.send(OK);
            assert_eq!(long.response().text(), "ok");
            assert_eq!(respond(&mut busy), "/");
            assert_eq!(client.response().status(), 200);
        }
    }
}

#[test]
fn a_killed_agent_is_502_within_seconds_and_another_one_takes_over() {
    let upstreams = [RawUpstream::new(), RawUpstream::new()];
    let hub = Hub::start(&[]);
    let mut first = hub.agent(&upstreams[0].url(), &["--agent-id", "a"]);
    let mut client = hub.client_sending(POST);
    let mut at = upstreams[0].accept();
    at.request();
    let _second = hub.agent(&upstreams[1].url(), &["--agent-id", "b"]);
    let mut check = hub.client_sending(GET);
    let mut other = upstreams[1].accept();
    respond(&mut other);
    check.response();
    // One request that may be retried waits beside it.
    let mut waiting = hub.client_sending("GET /waiting HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(respond(&mut other), "/waiting");
    assert_eq!(waiting.response().status(), 200);
    let start = Instant::now();
    first.kill();
    assert_own(&client.response(), 502);
    assert!(start.elapsed() < Duration::from_secs(2));
    at.wait_end();

    // In mid-body the client sees the truncation, also of a body that only the end delimits.
    for (version, framing) in [("1.1", "Content-Length: 10\r\n"), ("1.1", ""), ("1.0", "")] {
        let hub = Hub::start(&[]);
        let upstream = RawUpstream::new();
        let mut agent = hub.agent(&upstream.url(), &[]);
        let mut client = hub.client_sending(format!("GET / HTTP/{version}\r\nHost: h\r\n\r\n"));
        let mut at = upstream.accept();
        at.request();
        at.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\nabc"));
        client.response_head("GET");
        assert_eq!(client.body_bytes(3), b"abc");
        agent.kill();
        assert!(client.rest().1.is_some(), "HTTP/{version} {framing}: it looks complete");
    }
}

#[test]
fn an_upstream_that_says_nothing_is_502_and_the_agent_lives_on() {
    let rig = Rig::raw();
    for _ in 0..3 {
        for bad in ["", "HTTP/1.1 2", "no http\r\n\r\n"] {
            let (mut client, mut upstream, _) = rig.begin(POST);
            upstream.send(bad);
            drop(upstream);
            assert_own(&client.response(), 502);
        }
    }
    let (_, response) = rig.exchange(GET, OK);
    assert_eq!(response.text(), "ok");
}

/// An address where nobody listens, and where one may listen later.
fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn an_upstream_that_is_down_is_said_and_found_again() {
    let address = free_address();
    let hub = Hub::start(&["--startup-grace", "0"]);
    let agent = hub.agent(&pki::url(address), &[]);
    for _ in 0..3 {
        let mut client = hub
            .client_sending("POST / HTTP/1.1\r\nHost: h\r\nSlime-Max-Wait: 1\r\nContent-Length: 1\r\n\r\nx");
        let response = client.response();
        assert!(matches!(response.status(), 502 | 503), "{:?}", response.head);
        assert_own(&response, response.status());
    }
    // The agent probes it without making a storm of it.
    crate::harness::assert_quiet(&[&agent, &hub]);
    let mut times = Vec::new();
    for _ in 0..2 {
        let mut waiting = hub.client_sending("GET / HTTP/1.1\r\nHost: h\r\nSlime-Block: 1\r\n\r\n");
        let start = Instant::now();
        let upstream = Server::start_on(address, async |_| reply(200, "back"));
        assert_eq!(waiting.response().text(), "back");
        times.push(start.elapsed());
        drop(upstream);
        // Down again: a request shows it to the agent.
        let mut client = hub.client_sending("GET / HTTP/1.1\r\nHost: h\r\nSlime-Max-Wait: 1\r\n\r\n");
        assert!(matches!(client.response().status(), 502 | 503));
    }
    assert!(times.iter().all(|time| *time < Duration::from_millis(2500)), "{times:?}");
}

#[test]
fn a_health_path_says_when_the_upstream_is_well() {
    let address = free_address();
    let hub = Hub::start(&["--startup-grace", "0"]);
    let _agent = hub.agent(&pki::url(format!("{address}/base")), &["--health-path", "/health"]);
    let mut client = hub.client_sending("GET / HTTP/1.1\r\nHost: h\r\nSlime-Max-Wait: 1\r\n\r\n");
    assert!(matches!(client.response().status(), 502 | 503));
    // It can be connected to, but is still loading its model.
    let well = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_well = std::sync::Arc::clone(&well);
    let probes = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = std::sync::Arc::clone(&probes);
    let _upstream = Server::start_on(address, move |request: crate::harness::Request| {
        let well = is_well.load(std::sync::atomic::Ordering::SeqCst);
        let path = request.uri().path().to_owned();
        seen.lock().unwrap().push((path, well));
        async move { if well { reply(200, "well") } else { reply(503, "loading") } }
    });
    let mut waiting = hub.client_sending("GET /work HTTP/1.1\r\nHost: h\r\nSlime-Block: 1\r\n\r\n");
    wait_until("two probes", DEADLINE, || probes.lock().unwrap().len() >= 2);
    assert!(waiting.is_silent());
    well.store(true, std::sync::atomic::Ordering::SeqCst);
    let start = Instant::now();
    assert_eq!(waiting.response().text(), "well");
    assert!(start.elapsed() < Duration::from_millis(2500), "{:?}", start.elapsed());
    let probes = probes.lock().unwrap();
    assert!(probes.iter().all(|(path, well)| path.ends_with("/health") || *well), "{probes:?}");
}

#[test]
fn a_request_waits_for_an_upstream_that_is_loading_beyond_the_grace() {
    let is_well = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let probes = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let upstream = Server::start({
        let (is_well, probes) = (std::sync::Arc::clone(&is_well), std::sync::Arc::clone(&probes));
        move |request: crate::harness::Request| {
            let is_probe = request.uri().path() == "/health";
            let is_well = is_well.load(std::sync::atomic::Ordering::SeqCst);
            probes.fetch_add(usize::from(is_probe), std::sync::atomic::Ordering::SeqCst);
            async move { if is_well { reply(200, "well") } else { reply(503, "loading") } }
        }
    });
    let hub = Hub::start(&["--startup-grace", "0", "--agent-grace", "200ms"]);
    let _agent = hub.agent(&upstream.url(), &["--health-path", "/health"]);
    hub.wait_line("but takes no work: its health path answered 503");
    let mut client = hub.client_sending(POST);
    // There is a second between two probes, so the grace is over by far.
    let before = probes.load(std::sync::atomic::Ordering::SeqCst);
    wait_until("four probes", DEADLINE, || probes.load(std::sync::atomic::Ordering::SeqCst) >= before + 4);
    assert!(client.is_silent());
    is_well.store(true, std::sync::atomic::Ordering::SeqCst);
    let response = client.response();
    assert_eq!((response.status(), response.text().as_str()), (200, "well"));
}

#[test]
fn a_dead_upstream_does_not_swallow_requests_while_a_healthy_one_is_busy() {
    let hub = Hub::start(&[]);
    let healthy = Server::start(async |_| {
        tokio::time::sleep(Duration::from_millis(20)).await;
        reply(200, "healthy")
    });
    let dead = pki::url(free_address());
    let _agents = [hub.agent(&healthy.url(), &["--agent-id", "a"]), hub.agent(&dead, &["--agent-id", "b"])];
    wait_agents(&hub, &["a"]);
    let mut clients: Vec<Wire> =
        (0..60).map(|n| hub.client_sending(if n % 2 == 0 { GET } else { POST })).collect();
    for client in &mut clients {
        let response = client.response();
        assert_eq!((response.status(), response.text().as_str()), (200, "healthy"));
    }
    assert_eq!(healthy.peak(), 1);
}

#[test]
fn an_upstream_that_dies_under_a_request_takes_no_other_machine_along() {
    // Three machines whose upstreams keep their connections, and die of a certain request.
    let hub = Hub::start(&[]);
    let upstreams: Vec<RawUpstream> = (0..3).map(|_| RawUpstream::new()).collect();
    let ids = ["a", "b", "c"];
    let agents: Vec<_> =
        upstreams.iter().zip(ids).map(|(it, id)| hub.agent(&it.url(), &["--agent-id", id])).collect();
    let mut connections: Vec<Option<Wire>> = ids.map(|_| None).into();
    for agent in &agents {
        agent.wait_line("joined the hub");
    }
    let serve = |at: usize, connections: &mut Vec<Option<Wire>>| {
        let wire = connections[at].get_or_insert_with(|| upstreams[at].accept());
        wire.request();
        wire.send(OK);
    };
    // Each has served one, and keeps the connection.
    for at in 0..3 {
        let mut client = hub.client_sending(GET);
        let turn = (0..3).find(|at| connections[*at].is_none() && upstreams[*at].accepted() > 0);
        let turn = turn.unwrap_or_else(|| {
            let waits = || (0..3).find(|at| connections[*at].is_none() && upstreams[*at].accepted() > 0);
            wait_until("one of them is asked", DEADLINE, || waits().is_some());
            waits().unwrap()
        });
        serve(turn, &mut connections);
        assert_eq!(client.response().status(), 200, "request {at}");
    }
    // It dies of a GET, and nobody listens there any more.
    let mut client = hub.client_sending("GET /deadly HTTP/1.1\r\nHost: h\r\n\r\n");
    let (sender, found) = std::sync::mpsc::channel();
    for (at, (mut wire, upstream)) in connections.into_iter().flatten().zip(upstreams).enumerate() {
        let sender = sender.clone();
        std::thread::spawn(move || {
            if wire.try_head().is_ok() {
                drop(upstream);
                drop(wire);
                let _ = sender.send(at);
            }
        });
    }
    let response = client.response();
    assert_own(&response, 502);
    found.recv_timeout(DEADLINE).unwrap();
    assert!(found.recv_timeout(Duration::from_millis(500)).is_err(), "it was sent to a second machine");
}

/// A server that looks at one connection at a time, as Python's `HTTPServer` does, and keeps it open between
/// requests.
fn one_at_a_time() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let Ok(socket) = crate::harness::Socket::accept(stream) else { continue };
            if !socket.wait_byte() {
                continue;
            }
            let mut wire = Wire::over(socket);
            while let Ok(head) = wire.try_head() {
                let close = head.field("connection") == Some("close");
                wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                if close {
                    break;
                }
            }
        }
    });
    address
}

#[test]
fn a_server_of_one_connection_at_a_time_serves_others_too_and_is_well() {
    let address = one_at_a_time();
    let hub = Hub::start(&[]);
    let agent = hub.agent(&pki::url(address), &["--health-path", "/"]);
    let mut client = hub.client_sending(GET);
    assert_eq!(client.response().text(), "ok");
    // Somebody else on the machine of the upstream.
    let start = Instant::now();
    let mut other = Wire::connect(address);
    other.send(GET);
    assert_eq!(other.response().text(), "ok");
    assert!(start.elapsed() < Duration::from_secs(7), "{:?}", start.elapsed());
    drop(other);
    // Requests and probes until there were two of those.
    while start.elapsed() < Duration::from_secs(34) {
        let mut client = hub.client_sending(GET);
        assert_eq!(client.response().text(), "ok");
        std::thread::sleep(Duration::from_millis(1500));
    }
    assert!(!agent.output().contains("cannot be used"), "{}", agent.output());
}

#[test]
fn an_upstream_that_hangs_gets_no_more_requests_while_there_is_traffic() {
    let upstream = RawUpstream::new();
    let hub = Hub::start(&["--heartbeat", "1"]);
    let agent = hub.agent(&upstream.url(), &["--health-path", "/health"]);
    let mut probe = upstream.accept();
    probe.request();
    probe.send(OK);
    agent.wait_line("joined the hub");
    // From now on it takes what comes and says nothing. One application gives up, others wait.
    let start = Instant::now();
    let impatient = hub.client_sending(GET);
    let mut hung = upstream.accept();
    assert_eq!(hung.request().head.start, "GET / HTTP/1.1");
    let _others = [hub.client_sending(POST), hub.client_sending(POST)];
    hub.settle();
    drop(impatient);
    let mut probe = upstream.accept();
    assert_eq!(probe.request().head.start, "GET /health HTTP/1.1");
    agent.wait_line("cannot be used: it does not answer");
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    // What waits is not given to it.
    while let Some(mut wire) = upstream.try_accept(Duration::from_secs(2)) {
        assert_eq!(wire.request().head.start, "GET /health HTTP/1.1");
        if start.elapsed() > Duration::from_secs(20) {
            break;
        }
    }
}
