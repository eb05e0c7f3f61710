//! Whether an upstream can be reached.

use super::*;
use crate::proto::seam::{Target, Unreachable};
use crate::proto::testing::scenario::{GET, OK};

fn with_path() -> Setup {
    Setup::default().agent(|agent| agent.health_path = Some("/health".to_owned()))
}

const PROBE: &str = "GET /health HTTP/1.1\r\nHost: up.test\r\nConnection: close\r\n\r\n";

/// Takes a probe and answers it.
fn answer(pair: &mut Pair, response: &str) {
    let probe = pair.upstream();
    assert_eq!(pair.got(probe), PROBE);
    pair.send(probe, response);
    assert!(pair.ended(probe).is_some());
}

#[test]
fn an_agent_joins_once_it_knows() {
    let mut pair = with_path().start();
    pair.to_hub = Reach::Raw;
    pair.settle();
    assert_eq!(pair.hub_dials(), 0);
    answer(&mut pair, "HTTP/1.1 404 Not Found\r\n\r\n");
    joins_again(&mut pair, "?1");
    for bad in ["HTTP/1.1 500 Internal Server Error\r\n\r\n", "SSH-2.0-x\r\n\r\n"] {
        let mut pair = with_path().start();
        pair.to_hub = Reach::Raw;
        pair.settle();
        answer(&mut pair, bad);
        let hub = joins_again(&mut pair, "?0\r\nSlime-Reason: its health path does not answer as it should");
        pair.advance(seconds(1));
        answer(&mut pair, OK);
        assert!(pair.ended(hub).is_some());
        joins_again(&mut pair, "?1");
    }
}

#[test]
fn a_probe_has_five_seconds() {
    let mut pair = with_path().start();
    pair.to_hub = Reach::Raw;
    pair.settle();
    let probe = pair.upstream();
    pair.advance(Duration::from_millis(4_900));
    assert_eq!((pair.ended(probe), pair.hub_dials()), (None, 0));
    pair.advance(Duration::from_millis(200));
    assert!(pair.ended(probe).is_some());
    joins_again(&mut pair, "?0\r\nSlime-Reason: it does not answer");
}

#[test]
fn an_upstream_that_is_down_for_an_hour_is_asked_every_second_and_the_hub_is_left_alone() {
    let mut pair = Setup::default().start();
    pair.to_upstream = Reach::Fails(Unreachable::Refused);
    pair.advance(seconds(3600));
    let probes = pair.dials.iter().filter(|(target, _)| matches!(target, Target::Upstream(_))).count();
    assert!((3000..=3700).contains(&probes), "{probes}");
    assert_eq!((pair.hub_dials(), pair.hub.core.census().tunnels), (1, 1));
    let client = pair.client();
    pair.send(client, GET);
    assert!(pair.got(client).starts_with("HTTP/1.1 503 "));
    pair.to_upstream = Reach::Raw;
    pair.advance(seconds(2));
    pair.upstream();
    pair.send(client, GET);
    let upstream = pair.upstream();
    pair.send(upstream, OK);
    assert!(pair.got(client).starts_with("HTTP/1.1 200 "));
    pair.assert_quiet(1);
}

#[test]
fn a_healthy_upstream_is_asked_on_an_idle_worker_only_and_occupies_it() {
    let mut pair = with_path().start();
    pair.settle();
    answer(&mut pair, OK);
    assert_eq!(pair.hub.core.census().tunnels, 1);
    pair.advance(seconds(16));
    let probe = pair.upstream();
    assert_eq!(pair.got(probe), PROBE);
    // A request that comes meanwhile waits, so that the upstream does one thing at a time.
    let client = pair.client();
    pair.send(client, GET);
    assert_eq!(pair.arrivals(), 0);
    pair.send(probe, OK);
    let upstream = pair.upstream();
    assert!(pair.got(upstream).starts_with("GET /x "));
    // Busy is healthy.
    pair.advance(seconds(600));
    assert_eq!(pair.arrivals(), 0);
    pair.send(upstream, OK);
    assert!(pair.got(client).starts_with("HTTP/1.1 200 "));
    pair.advance(seconds(16));
    answer(&mut pair, OK);
    pair.assert_quiet(1);
}

#[test]
fn a_sick_upstream_withdraws_its_workers_and_a_request_that_waited_is_refused() {
    let mut pair = with_path().start();
    pair.settle();
    answer(&mut pair, OK);
    pair.advance(seconds(16));
    let probe = pair.upstream();
    let client = pair.client();
    pair.send(client, GET);
    pair.send(probe, "HTTP/1.1 503 Service Unavailable\r\n\r\n");
    // The upstream is not asked to do what it cannot do.
    let got = pair.got(client);
    assert!(got.starts_with("HTTP/1.1 502 ") || got.is_empty(), "{got}");
    pair.advance(seconds(1));
    while pair.arrivals() > 0 {
        let next = pair.upstream();
        let got = pair.got(next);
        pair.send(next, OK);
        assert!(got.is_empty() || got == PROBE || got.starts_with("GET /x "), "{got}");
    }
    pair.advance(seconds(3));
    assert_eq!(pair.hub.core.census().tunnels, 1);
    pair.assert_quiet(1);
}

#[test]
fn a_cancelled_request_leaves_the_probe_alone() {
    let mut pair = with_path().start();
    pair.settle();
    answer(&mut pair, OK);
    pair.advance(seconds(16));
    let probe = pair.upstream();
    let client = pair.client();
    pair.send(client, GET);
    pair.close(client);
    pair.send(probe, OK);
    assert_eq!(pair.arrivals(), 0);
    assert_eq!(pair.hub.core.census().tunnels, 1);
    pair.assert_quiet(1);
}

#[test]
fn probes_do_not_accumulate_while_the_upstream_flaps() {
    let mut pair = Setup::default().start();
    pair.settle();
    for round in 0..200 {
        pair.to_upstream = if round % 2 == 0 { Reach::Fails(Unreachable::Refused) } else { Reach::Raw };
        let client = pair.client();
        pair.send(client, GET);
        pair.advance(seconds(3));
        pair.close(client);
    }
    assert!(pair.hub_dials() < 500, "{} dials", pair.hub_dials());
    pair.assert_quiet(1);
}
