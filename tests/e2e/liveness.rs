//! Links that break, freeze or come back: who notices, how soon, and what happens to requests meanwhile.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::framing::assert_own;
use crate::harness::{
    Agent, DEADLINE, Hub, RawUpstream, Rig, Server, WELCOME, alone, assert_quiet, join, pki, reply, respond,
    shared_token, upgrade_tunnel, wait_agents, wait_until,
};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
const WAIT: &str = "GET / HTTP/1.1\r\nHost: h\r\nSlime-Block: 1\r\n\r\n";

#[test]
fn idle_tunnels_are_asked_for_a_sign_of_life() {
    let hub = Hub::start(&["--heartbeat", "1"]);
    let mut tunnel = join(&hub, shared_token(), "a", 0);
    for _ in 0..3 {
        let start = Instant::now();
        let beat = tunnel.request();
        assert_eq!(beat.head.start, "OPTIONS * HTTP/1.1");
        assert_eq!(beat.head.field("slime-heartbeat"), Some("?1"));
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
        tunnel.send("HTTP/1.1 204 No Content\r\n\r\n");
    }
    let mut client = hub.client_sending(GET);
    assert_eq!(respond(&mut tunnel), "/");
    assert_eq!(client.response().status(), 200);
}

#[test]
fn a_silent_tunnel_gets_no_work_and_is_dropped_after_three_beats() {
    let hub = Hub::start(&["--heartbeat", "1"]);
    let token = shared_token();
    let mut silent = join(&hub, token, "a", 0);
    let start = Instant::now();
    assert!(silent.request().head.has("slime-heartbeat"));
    // It owes an answer: a request waits rather than go there.
    let mut client = hub.client_sending(GET);
    let mut impatient = hub.client_sending("GET / HTTP/1.1\r\nHost: h\r\nSlime-Max-Wait: 1\r\n\r\n");
    assert_own(&impatient.response(), 503);
    // More beats may come, work not, then the end.
    while let Ok(head) = silent.try_head() {
        assert!(head.has("slime-heartbeat"), "{head:?}");
    }
    let took = start.elapsed();
    assert!((2500..7000).contains(&took.as_millis()), "dropped after {took:?}");
    let mut alive = join(&hub, token, "b", 0);
    assert_eq!(respond(&mut alive), "/");
    assert_eq!(client.response().status(), 200);
}

#[test]
fn a_beat_that_is_answered_late_frees_the_tunnel() {
    let hub = Hub::start(&["--heartbeat", "1"]);
    let mut tunnel = join(&hub, shared_token(), "a", 0);
    tunnel.request();
    let mut client = hub.client_sending(GET);
    hub.settle();
    assert!(tunnel.is_silent());
    tunnel.send("HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(respond(&mut tunnel), "/");
    assert_eq!(client.response().status(), 200);
}

#[test]
fn a_frozen_agent_gets_no_work_and_comes_back() {
    let upstream = Server::start(async |_| reply(200, "ok"));
    let hub = Hub::start(&["--heartbeat", "1"]);
    let frozen = hub.agent(&upstream.url(), &["--agent-id", "frozen"]);
    let _other = hub.agent(&upstream.url(), &["--agent-id", "other"]);
    wait_agents(&hub, &["frozen", "other"]);
    frozen.signal(Signal::STOP);
    // At the latest one beat later nothing goes there; GETs that went before are retried when it is given up.
    let mut lost = 0;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(6) {
        let asked = Instant::now();
        let mut client = hub.client_sending(GET);
        let response = client.response();
        assert_eq!((response.status(), response.head.field("slime-agent-id")), (200, Some("other")));
        lost += usize::from(asked.elapsed() > Duration::from_millis(500));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(lost <= 1, "{lost} requests hung on the frozen agent");
    frozen.signal(Signal::CONT);
    wait_agents(&hub, &["frozen", "other"]);
}

#[test]
fn an_agent_that_freezes_before_the_head_is_given_up() {
    let upstream = RawUpstream::new();
    let hub = Hub::start(&["--heartbeat", "1"]);
    let agent = hub.agent(&upstream.url(), &[]);
    let mut client = hub.client_sending("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx");
    let mut at = upstream.accept();
    at.request();
    agent.signal(Signal::STOP);
    let start = Instant::now();
    assert_own(&client.response(), 502);
    let took = start.elapsed();
    assert!((1900..8000).contains(&took.as_millis()), "given up after {took:?}");
    agent.signal(Signal::CONT);
    // It notices, stops its upstream, and is back.
    at.wait_end();
    let mut client = hub.client_sending(WAIT);
    assert_eq!(respond(&mut upstream.accept()), "/");
    assert_eq!(client.response().status(), 200);
}

#[test]
fn a_hub_that_was_stopped_reads_before_it_gives_anybody_up() {
    let upstream = RawUpstream::new();
    let hub = Hub::start(&["--heartbeat", "1"]);
    let _agent = hub.agent(&upstream.url(), &["--num-worker", "5"]);
    let post = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx";
    let mut clients: Vec<_> = (0..5).map(|_| hub.client_sending(post)).collect();
    let mut jobs: Vec<_> = (0..5).map(|_| upstream.accept()).collect();
    for job in &mut jobs {
        job.request();
    }
    // Longer than three signs of life may be late. Those that the agent gives meanwhile lie in the hub's
    // sockets.
    hub.signal(Signal::STOP);
    std::thread::sleep(Duration::from_secs(6));
    hub.signal(Signal::CONT);
    hub.settle();
    for job in &mut jobs {
        job.send(OK);
    }
    for client in &mut clients {
        assert_eq!(client.response().status(), 200);
    }
}

#[test]
fn an_agent_that_was_stopped_reads_before_it_gives_the_hub_up() {
    let hub = RawUpstream::new();
    let agent = Agent::start(&hub.url(), shared_token(), "http://127.0.0.1:9", &["--num-worker", "5"]);
    let mut tunnels: Vec<_> = (0..5).map(|_| hub.accept()).collect();
    for tunnel in &mut tunnels {
        upgrade_tunnel(tunnel);
    }
    agent.signal(Signal::STOP);
    for _ in 0..6 {
        std::thread::sleep(Duration::from_secs(1));
        for tunnel in &mut tunnels {
            tunnel.send("OPTIONS * HTTP/1.1\r\nHost: h\r\nSlime-Heartbeat: ?1\r\n\r\n");
        }
    }
    agent.signal(Signal::CONT);
    for tunnel in &mut tunnels {
        for _ in 0..6 {
            assert_eq!(tunnel.response().status(), 204);
        }
    }
}

#[test]
fn a_long_wait_for_the_head_is_no_silence() {
    let rig = Rig::raw_with(&["--heartbeat", "1", "--stall-timeout", "1"], &["--stall-timeout", "1"]);
    let (mut client, mut upstream, _) = rig.begin("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx");
    // Longer than three beats and than any progress: a job may take its time.
    std::thread::sleep(Duration::from_secs(5));
    assert!(client.is_silent(), "the signs of life of the agent reached the client");
    upstream.send(OK);
    let response = client.response();
    assert_eq!(response.text(), "ok");
    assert!(response.interim.is_empty());
}

#[test]
fn an_agent_notices_a_silent_hub() {
    let hub = RawUpstream::new();
    let token = shared_token();
    let _agent = Agent::start(&hub.url(), token, "http://127.0.0.1:9", &[]);
    let mut tunnel = hub.accept();
    upgrade_tunnel(&mut tunnel);
    let start = Instant::now();
    let mut again = hub.accept();
    let took = start.elapsed();
    assert!((2000..8000).contains(&took.as_millis()), "redialled after {took:?}");
    upgrade_tunnel(&mut again);
    tunnel.wait_end();
}

#[test]
fn agents_return_soon_after_an_outage_and_requests_wait_for_them() {
    let upstream = Server::start(async |_| reply(200, "ok"));
    let mut hub = Hub::start(&[]);
    let token = shared_token();
    let _agents = ["a", "b"].map(|id| hub.agent_with(token, &upstream.url(), &["--agent-id", id]));
    wait_agents(&hub, &["a", "b"]);
    for outage in [0, 4] {
        hub.kill();
        std::thread::sleep(Duration::from_secs(outage));
        // With the grace that hubs have by default.
        hub.restart(&["--startup-grace", "3"]);
        let start = Instant::now();
        let mut at_once = hub.client_sending(GET);
        let response = at_once.response();
        assert_eq!(
            (response.status(), response.text().as_str()),
            (200, "ok"),
            "after {outage} s: {:?}",
            response.head
        );
        wait_agents(&hub, &["a", "b"]);
        let took = start.elapsed();
        assert!(took < Duration::from_millis(2500), "back {took:?} after an outage of {outage} s");
    }
}

#[test]
fn agents_return_soon_after_ten_seconds() {
    let upstream = Server::start(async |_| reply(200, "ok"));
    let mut hub = Hub::start(&[]);
    let agent = hub.agent(&upstream.url(), &[]);
    let mut client = hub.client_sending(WAIT);
    assert_eq!(client.response().text(), "ok");
    hub.kill();
    std::thread::sleep(Duration::from_secs(9));
    assert_quiet(&[&agent]);
    hub.restart(&["--startup-grace", "0"]);
    let start = Instant::now();
    let mut client = hub.client_sending(WAIT);
    assert_eq!(client.response().text(), "ok");
    assert!(start.elapsed() < Duration::from_millis(2500), "{:?}", start.elapsed());
}

#[test]
fn agents_may_be_started_before_their_hub() {
    let upstream = Server::start(async |_| reply(200, "ok"));
    let first = Hub::start(&[]);
    let (address, token) = (first.address(), first.token(&["--name", "n"]));
    drop(first);
    let agent = Agent::start(&pki::url(address), &token, &upstream.url(), &[]);
    assert_quiet(&[&agent]);
    let hub = Hub::start_on("127.0.0.1", address.port(), &[]);
    let mut client = hub.client_sending(GET);
    assert_eq!(client.response().text(), "ok");
}

#[test]
fn a_token_that_is_rejected_later_makes_no_hot_loop() {
    let hub = RawUpstream::new();
    let token = shared_token();
    let agent = Agent::start(&hub.url(), token, "http://127.0.0.1:9", &["--num-worker", "4"]);
    let mut tunnels: Vec<_> = (0..4).map(|_| hub.accept()).collect();
    for tunnel in &mut tunnels {
        upgrade_tunnel(tunnel);
    }
    drop(tunnels);
    // From now on the hub knows it no more.
    let start = Instant::now();
    let mut attempts = 0;
    while start.elapsed() < Duration::from_secs(4) {
        if let Some(mut attempt) = hub.try_accept(Duration::from_millis(100)) {
            attempts += 1;
            attempt.request_head();
            attempt.send("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"slime\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    }
    assert!((1..=8).contains(&attempts), "{attempts} attempts of four workers in four seconds");
    assert_quiet(&[&agent]);
}

#[test]
fn hubs_that_refuse_or_hang_up_make_no_hot_loop() {
    for answer in
        ["", "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", "garbage\r\n\r\n", WELCOME]
    {
        let hub = RawUpstream::new();
        let token = shared_token();
        let _agent = Agent::start(&hub.url(), token, "http://127.0.0.1:9", &[]);
        let start = Instant::now();
        let mut attempts = 0;
        while start.elapsed() < Duration::from_secs(3) {
            if let Some(mut attempt) = hub.try_accept(Duration::from_millis(100)) {
                attempts += 1;
                attempt.request_head();
                attempt.send(answer);
            }
        }
        assert!((2..=40).contains(&attempts), "{answer:?}: {attempts} attempts in three seconds");
    }
}

#[test]
fn a_worker_is_redialled_at_once_after_work() {
    let _alone = alone();
    let upstream = RawUpstream::new();
    let hub = RawUpstream::new();
    let token = shared_token();
    let _agent = Agent::start(&hub.url(), token, &upstream.url(), &[]);
    let mut tunnel = hub.accept();
    upgrade_tunnel(&mut tunnel);
    let mut times = Vec::new();
    for _ in 0..20 {
        tunnel.send("GET /x HTTP/1.1\r\nHost: h\r\n\r\n");
        let mut at = upstream.accept();
        at.request();
        let start = Instant::now();
        drop(tunnel);
        tunnel = hub.accept();
        times.push(start.elapsed());
        // The upstream was stopped before the new tunnel was dialled.
        assert!(!at.is_silent());
        upgrade_tunnel(&mut tunnel);
    }
    times.sort();
    assert!(times[10] < Duration::from_millis(50), "{times:?}");
    wait_until("nothing more", DEADLINE, || hub.try_accept(Duration::ZERO).is_none());
}
