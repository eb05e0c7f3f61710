//! Light paths: small questions beside the job, at the real hub and at one that the test plays.

use super::*;
use crate::proto::light::TUNNELS;
use crate::proto::testing::scenario::{GET, OK, WAS_OK};
use crate::proto::trust::agent_token::AgentToken;

const STOP: &str = "POST /stop?now HTTP/1.1\r\nHost: app.test\r\nContent-Length: 0\r\n\r\n";
const KNOWS: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: slime/1\r\nSlime-Heartbeat: 15.000\r\n\
     Slime-Features: light\r\n\r\n";

fn with_light() -> Setup {
    Setup::default().agent(|agent| agent.light_paths = vec!["/stop".to_owned(), "/v1/models".to_owned()])
}

fn busy() -> (Pair, Raw, Raw) {
    let at = with_light().at_upstream(GET);
    (at.pair, at.client, at.upstream)
}

/// Such a request is at the upstream: its application and the upstream.
fn asked(pair: &mut Pair, request: &str) -> (Raw, Raw) {
    let client = pair.client();
    pair.send(client, request);
    let upstream = pair.upstream();
    assert!(pair.got(upstream).starts_with(request.lines().next().unwrap()));
    (client, upstream)
}

fn waits(pair: &mut Pair, request: &str) -> Raw {
    let (queued, arrivals) = (pair.hub.core.census().queued, pair.arrivals());
    let client = pair.client();
    pair.send(client, request);
    assert_eq!((pair.hub.core.census().queued, pair.arrivals()), (queued + 1, arrivals), "{request}");
    client
}

#[test]
fn a_small_question_is_answered_beside_the_job() {
    with_light().in_every_way(|setup| {
        let mut at = setup.at_upstream(GET);
        assert_eq!(at.pair.hub.core.census().tunnels, 1 + TUNNELS as usize);
        for request in [STOP, "GET /v1/models/a HTTP/1.1\r\nHost: app.test\r\n\r\n"] {
            let (client, upstream) = asked(&mut at.pair, request);
            at.pair.send(upstream, OK.replace("OK\r\n", "OK\r\nConnection: close\r\n"));
            assert_eq!(at.pair.got(client), WAS_OK);
            at.pair.close(client);
        }
        // It is not refused where nobody waits, either.
        let never = "GET /stop HTTP/1.1\r\nHost: app.test\r\nSlime-Block: 0\r\n\r\n";
        let (client, upstream) = asked(&mut at.pair, "GET /stop HTTP/1.1\r\nHost: app.test\r\n\r\n");
        at.pair.send(upstream, OK);
        assert_eq!(at.pair.got(client), WAS_OK);
        at.pair.send(client, never);
        assert_eq!(at.pair.arrivals(), 0, "the connection was kept");
        at.pair.close(client);
        // What is none waits for the job, however it is spelt.
        let mut clients = Vec::new();
        for path in ["/x", "/stopp", "/", "/stop/../x", "/%73top", "//stop", "/x?/stop"] {
            clients.push(waits(&mut at.pair, &format!("GET {path} HTTP/1.1\r\nHost: app.test\r\n\r\n")));
        }
        for client in clients {
            at.pair.close(client);
        }
        at.pair.send(at.upstream, OK);
        assert_eq!(at.pair.got(at.client), WAS_OK);
        at.pair.close(at.client);
        at.pair.assert_quiet(1 + TUNNELS as usize);
    });
}

#[test]
fn jobs_wait_for_workers_and_small_questions_for_whatever_is_free_first() {
    let (mut pair, _, job) = busy();
    let light: Vec<(Raw, Raw)> = (0..TUNNELS).map(|_| asked(&mut pair, STOP)).collect();
    let first = waits(&mut pair, STOP);
    let second = waits(&mut pair, GET);
    let third = waits(&mut pair, STOP);
    // One of the tunnels for them becomes free: no job gets that.
    pair.send(light[0].1, OK);
    assert_eq!(pair.got(light[0].0), WAS_OK);
    assert!(pair.got(light[0].1).starts_with("POST /stop?now HTTP/1.1\r\n"));
    pair.send(light[0].1, OK);
    assert_eq!(pair.got(first), WAS_OK);
    assert!(pair.got(light[0].1).starts_with("POST /stop?now HTTP/1.1\r\n"));
    pair.send(light[0].1, OK);
    assert_eq!(pair.got(third), WAS_OK);
    assert_eq!((pair.got(light[0].1).as_str(), pair.hub.core.census().queued), ("", 1));
    // The worker becomes free: who came first has it.
    pair.send(job, OK);
    assert!(pair.got(job).starts_with("GET /x HTTP/1.1\r\n"));
    pair.send(job, OK);
    assert_eq!(pair.got(second), WAS_OK);
    // All tunnels for them are busy, and nobody waits for the worker.
    let another = pair.client();
    pair.send(another, STOP);
    let (client, upstream) = (another, light[0].1);
    assert!(pair.got(upstream).starts_with("POST /stop?now HTTP/1.1\r\n"));
    let last = pair.client();
    pair.send(last, STOP);
    assert!(pair.got(job).starts_with("POST /stop?now HTTP/1.1\r\n"));
    pair.send(upstream, OK);
    assert_eq!(pair.got(client), WAS_OK);
}

#[test]
fn tunnels_for_light_paths_are_no_workers_of_the_token() {
    let one = AgentToken { max_workers: Some(1), ..token(1) };
    let pair = Setup::hub_only()
        .with_agent(one, "a")
        .agent(|agent| {
            agent.workers = 2;
            agent.light_paths = vec!["/stop".to_owned()];
        })
        .joined();
    assert_eq!(pair.hub.core.census().tunnels, 1 + TUNNELS as usize);
    // Scope paths hold for them as for workers.
    let only = AgentToken { scope_paths: vec!["/v1".to_owned()], scopes: vec!["s".to_owned()], ..token(1) };
    let mut pair = Setup::hub_only()
        .with_agent(only, "a")
        .agent(|agent| agent.light_paths = vec!["/stop".to_owned(), "/v1/models".to_owned()])
        .joined();
    let (_, job) = asked(&mut pair, "GET /v1/x HTTP/1.1\r\nHost: app.test\r\nSlime-Scope: s\r\n\r\n");
    let scoped = "GET /v1/models HTTP/1.1\r\nHost: app.test\r\nSlime-Scope: s\r\n\r\n";
    asked(&mut pair, scoped);
    for (path, scope) in [("/stop", "s"), ("/v1/models", "t")] {
        let client = pair.client();
        pair.send(client, format!("GET {path} HTTP/1.1\r\nHost: app.test\r\nSlime-Scope: {scope}\r\n\r\n"));
        assert!(pair.got(client).starts_with("HTTP/1.1 503 "), "{path} {scope}");
    }
    pair.send(job, OK);
}

#[test]
fn an_agent_ends_with_what_it_has_begun() {
    let (mut pair, client, upstream) = busy();
    let (light, its) = asked(&mut pair, STOP);
    pair.drain_agent();
    pair.send(its, OK);
    assert_eq!((pair.got(light).as_str(), pair.agents[0].exit), (WAS_OK, None));
    pair.send(upstream, OK);
    assert_eq!((pair.got(client).as_str(), pair.agents[0].exit), (WAS_OK, Some(0)));
}

#[test]
fn a_hub_that_knows_no_light_paths_sees_workers_alone() {
    let (mut pair, hub) = dialled(with_light());
    let asks = hello("?1").replace("?1\r\n\r\n", "?1\r\nSlime-Features: light\r\n\r\n");
    assert_eq!(pair.got(hub), asks);
    pair.send(hub, WELCOME);
    pair.advance(seconds(10));
    assert_eq!(pair.arrivals_of(crate::proto::seam::Target::Hub), 0);
    // One that does, in its place.
    pair.close(hub);
    pair.advance(seconds(2));
    let hub = pair.raw_hub();
    assert_eq!(pair.got(hub), asks);
    pair.send(hub, KNOWS);
    let mut others: Vec<Raw> = (0..TUNNELS).map(|_| pair.raw_hub()).collect();
    for (number, other) in (1..).zip(&others) {
        let expected = asks
            .replace("Slime-Worker: 0", &format!("Slime-Worker: {number}"))
            .replace("light\r\n", "light\r\nSlime-Light: /stop, /v1/models\r\n");
        assert_eq!(pair.got(*other), expected);
    }
    // It forgets, and the agent takes back what it would take for a worker.
    let other = others.pop().unwrap();
    pair.send(other, format!("{WELCOME}{GET}"));
    assert!(pair.got(other).contains("Slime-Refused: this tunnel is for light paths\r\n"));
    pair.close(other);
    pair.advance(seconds(60));
    assert_eq!(pair.arrivals(), 0);
}

#[test]
fn a_job_that_comes_by_a_light_tunnel_is_refused() {
    let (mut pair, hub) = dialled(with_light());
    pair.got(hub);
    pair.send(hub, KNOWS);
    let light = pair.raw_hub();
    pair.got(light);
    pair.send(light, KNOWS);
    pair.send(light, GET);
    let refusal = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\
                   Slime-Refused: this tunnel is for light paths\r\n\r\n";
    assert_eq!(
        (pair.got(light).as_str(), pair.arrivals_of(crate::proto::seam::Target::Upstream(0))),
        (refusal, 0)
    );
    // The worker itself is as it was.
    pair.send(hub, GET);
    let upstream = pair.upstream();
    pair.send(upstream, OK);
    assert_eq!(pair.got(hub), OK);
}

#[test]
fn what_a_small_question_meets_says_nothing_of_the_upstream() {
    let (mut pair, client, upstream) = busy();
    pair.to_upstream = Reach::Fails(crate::proto::seam::Unreachable::Refused);
    let light = pair.client();
    pair.send(light, STOP);
    // It waits for the worker, and the job goes on.
    assert_eq!((pair.ended(upstream), pair.hub.core.census().queued), (None, 1));
    pair.to_upstream = Reach::Raw;
    pair.send(upstream, OK);
    assert_eq!(pair.got(client), WAS_OK);
    pair.advance(seconds(2));
    assert_eq!(pair.hub.core.census().queued, 0);
}
