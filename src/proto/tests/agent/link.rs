//! Joining, staying, leaving, and when to try again.

use super::*;
use crate::proto::seam::{Target, Unreachable};
use crate::proto::testing::scenario::*;
use crate::proto::tunnel::{CloseReason, PING, PONG, write_farewell};

const PONG_TEXT: &str = "HTTP/1.1 204 No Content\r\nSlime-Heartbeat: ?1\r\n\r\n";

/// When the hub was dialled, in milliseconds since `from`.
fn dials_since(pair: &Pair, from: u64) -> Vec<u64> {
    let to_hub = pair.dials.iter().filter(|(target, _)| *target == Target::Hub);
    to_hub.map(|(_, at)| at.0).filter(|at| *at >= from).map(|at| at - from).collect()
}

/// Dials of one agent in an hour in which none succeeds: quick while the outage is young, then two or so each
/// minute.
fn assert_patient(dials: &[u64]) {
    let young = dials.iter().filter(|at| **at < 15_000).count();
    assert!((2..=60).contains(&young), "{young} dials in the first 15 s");
    assert!((60..=500).contains(&dials.len()), "{} dials in an hour", dials.len());
    for pair in dials.windows(2) {
        let most = if pair[1] < 15_000 { 7_100 } else { 35_100 };
        assert!(pair[1] - pair[0] <= most, "{pair:?}");
    }
    let last: Vec<_> = dials.iter().filter(|at| **at > 120_000).collect();
    assert!(last.len() < 400, "{} dials in the last 58 minutes", last.len());
}

#[test]
fn a_worker_joins_and_serves_wherever_the_answer_is_split() {
    let request = "GET /x HTTP/1.1\r\nHost: app.test\r\n\r\n";
    let all = format!("{WELCOME}{request}");
    for at in 0..=all.len() {
        let (mut pair, hub) = dialled(Setup::default());
        assert_eq!(pair.got(hub), hello("?1"));
        pair.send(hub, &all[..at]);
        pair.send(hub, &all[at..]);
        let upstream = pair.upstream();
        assert_eq!(pair.got(upstream), "GET /x HTTP/1.1\r\nHost: up.test\r\n\r\n");
        pair.send(upstream, OK);
        assert_eq!(pair.got(hub), OK);
    }
}

#[test]
fn a_handshake_that_ends_without_an_answer_is_over_at_once() {
    for end in [Pair::finish, Pair::close, Pair::reset] {
        for begun in ["", "HTTP/1.1 10"] {
            let (mut pair, hub) = dialled(Setup::default());
            assert_eq!(pair.got(hub), hello("?1"));
            pair.send(hub, begun);
            let before = pair.dials.len();
            end(&mut pair, hub);
            pair.advance(seconds(2));
            assert!(pair.dials.len() > before, "'{begun}': it waits for an answer that cannot come");
        }
    }
}

#[test]
fn an_outage_of_an_hour_makes_no_hot_loop_and_ends_within_the_longest_window() {
    for seeds in 0..8 {
        // Another position is another seed.
        let mut setup = Setup::hub_only();
        for at in 0..=seeds {
            setup = setup.with_agent(token(1), &format!("agent-{at}"));
        }
        let mut pair = setup.joined();
        pair.agents.drain(..seeds);
        pair.settle();
        let began = pair.now.mono.0;
        pair.kill_hub();
        pair.advance(seconds(3600));
        assert_patient(&dials_since(&pair, began));
        pair.start_hub();
        pair.advance(seconds(31));
        assert_eq!(pair.hub.core.census().tunnels, 1, "not back within the longest window");
    }
}

#[test]
fn whatever_answers_there_the_windows_hold() {
    let cases: [(&str, bool); 8] = [
        ("", true),
        ("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", false),
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", false),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", false),
        ("HTTP/1.1 301 Moved\r\nLocation: /\r\n\r\n", false),
        ("SSH-2.0-OpenSSH\r\n", false),
        ("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n", false),
        (WELCOME, true),
    ];
    for (answer, then_closes) in cases {
        let mut pair = Setup::default().start();
        pair.to_hub = Reach::Raw;
        pair.settle();
        let began = pair.now.mono.0;
        for _ in 0..36_000 {
            while pair.arrivals_of(Target::Hub) > 0 {
                let hub = pair.raw_hub();
                pair.send(hub, answer);
                if then_closes {
                    pair.close(hub);
                }
            }
            pair.advance(Duration::from_millis(100));
        }
        let mut dials = dials_since(&pair, began);
        // To an answer that may be a reverse proxy's, one handshake follows at once.
        dials.dedup_by(|later, earlier| *later - *earlier <= 100);
        assert_patient(&dials);
    }
}

#[test]
fn connecting_and_the_handshake_take_five_seconds_at_most() {
    for reach in [Reach::Silent, Reach::Raw] {
        let mut pair = Setup::default().start();
        pair.to_hub = reach;
        pair.settle();
        let dials = pair.hub_dials();
        if reach == Reach::Raw {
            pair.upstream();
            let hub = pair.raw_hub();
            pair.advance(seconds(4));
            pair.send(hub, &WELCOME[..40]);
            pair.advance(Duration::from_millis(900));
            assert_eq!(pair.ended(hub), None);
            pair.advance(Duration::from_millis(200));
            assert!(pair.ended(hub).is_some());
        } else {
            pair.advance(Duration::from_millis(4_900));
        }
        assert_eq!(pair.hub_dials(), dials);
        pair.advance(seconds(1));
        assert_eq!(pair.hub_dials(), dials + 1);
    }
}

#[test]
fn a_name_that_is_not_found_is_asked_for_again() {
    let mut pair = Setup::default().start();
    pair.to_hub = Reach::Fails(Unreachable::NameNotFound);
    let began = pair.now.mono.0;
    pair.advance(seconds(3600));
    assert_patient(&dials_since(&pair, began));
    pair.to_hub = Reach::Hub;
    pair.advance(seconds(31));
    assert_eq!(pair.hub.core.census().tunnels, 1);
}

#[test]
fn a_token_that_is_rejected_at_the_first_start_is_fatal() {
    let rejected =
        "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"slime\"\r\nContent-Length: 0\r\n\r\n";
    let (mut pair, hub) = dialled(Setup::default());
    pair.send(hub, rejected);
    assert_eq!(pair.agents[0].exit, Some(1));
    // Later it may be the hub's fault, and is asked at the slowest rate.
    let (mut pair, hub) = joined(Setup::default());
    pair.close(hub);
    pair.advance(seconds(1));
    let hub = pair.raw_hub();
    let began = pair.now.mono.0;
    pair.send(hub, rejected);
    for _ in 0..600 {
        pair.advance(seconds(1));
        if pair.arrivals() > 0 {
            let hub = pair.raw_hub();
            pair.send(hub, rejected);
        }
    }
    assert_eq!(pair.agents[0].exit, None);
    let dials = dials_since(&pair, began);
    assert!((19..=40).contains(&dials.len()), "{dials:?}");
    assert!(dials.windows(2).all(|two| (15_000..=31_000).contains(&(two[1] - two[0]))), "{dials:?}");
}

#[test]
fn who_is_not_wanted_comes_back_slowly_and_who_is_only_sent_away_soon() {
    for (reason, least, most) in [
        (CloseReason::Replaced, 15_000, 30_000),
        (CloseReason::Expired, 15_000, 30_000),
        (CloseReason::Revoked, 15_000, 30_000),
        (CloseReason::Draining, 0, 200),
    ] {
        let farewell = write_farewell(reason);
        for at in [0, 1, 30, farewell.len()] {
            let (mut pair, hub) = joined(Setup::default());
            let began = pair.now.mono.0;
            pair.send(hub, &farewell[..at]);
            pair.send(hub, &farewell[at..]);
            assert!(pair.ended(hub).is_some());
            pair.advance(seconds(31));
            let first = dials_since(&pair, began).iter().copied().find(|at| *at > 0 || least == 0).unwrap();
            assert!((least..=most).contains(&first), "{reason:?} after {first} ms");
        }
    }
}

#[test]
fn two_agents_of_the_same_name_do_not_fight() {
    let mut pair = Setup::default().with_agent(token(1), "a").joined();
    pair.advance(seconds(3600));
    let dials = pair.hub_dials();
    assert!(dials < 400, "{dials} dials in an hour");
    assert_eq!(pair.hub.core.census().tunnels, 1);
}

#[test]
fn signs_of_life_are_answered_and_missed() {
    let (mut pair, hub) = joined(Setup::default());
    pair.got(hub);
    for _ in 0..5 {
        pair.advance(seconds(60));
        pair.send(hub, PING);
        assert_eq!(pair.got(hub), PONG_TEXT);
    }
    for at in 0..PING.len() {
        pair.send(hub, &PING[..at]);
        pair.send(hub, &PING[at..]);
        assert_eq!(pair.got(hub), PONG_TEXT);
    }
    pair.send(hub, PING.repeat(3));
    assert_eq!(pair.got(hub), PONG_TEXT.repeat(3));
    pair.advance(seconds(60));
    assert_eq!(pair.ended(hub), None);
    pair.advance(seconds(8));
    assert!(pair.ended(hub).is_some(), "a hub that is silent for so long is dead");
    pair.advance(seconds(1));
    joins_again(&mut pair, "?1");
    assert_eq!(PONG, PONG_TEXT.as_bytes());
}

#[test]
fn a_hub_that_is_silent_is_missed_by_a_worker_that_has_served() {
    let (mut pair, hub) = joined(Setup::default());
    pair.send(hub, GET);
    let upstream = pair.upstream();
    pair.send(upstream, OK);
    pair.got(hub);
    // As long as the response may be on its way to its application, the tunnel may be busy for the hub.
    pair.advance(seconds(600));
    assert_eq!(pair.ended(hub), None);
    pair.send(hub, PING);
    assert_eq!(pair.got(hub), PONG_TEXT);
    pair.advance(seconds(67));
    assert_eq!(pair.ended(hub), None);
    pair.advance(seconds(1));
    assert!(pair.ended(hub).is_some());
    pair.advance(seconds(1));
    joins_again(&mut pair, "?1");
}

#[test]
fn an_idle_pair_stays_together_for_good() {
    let mut pair = Setup::default().joined();
    pair.advance(seconds(86_400));
    assert_eq!(pair.hub_dials(), 1);
    let client = pair.client();
    pair.send(client, GET);
    let upstream = pair.upstream();
    assert_eq!(pair.got(upstream), GOT);
    pair.advance(seconds(86_400));
    pair.send(upstream, OK);
    assert_eq!(pair.got(client), WAS_OK);
    pair.advance(seconds(86_400));
    assert_eq!(pair.hub_dials(), 1);
    pair.assert_quiet(1);
}

#[test]
fn a_tunnel_that_carried_a_request_is_redialled_at_once() {
    let (mut pair, hub) = joined(Setup::default());
    pair.send(hub, GET);
    let upstream = pair.upstream();
    pair.got(upstream);
    pair.close(hub);
    assert!(pair.ended(upstream).is_some());
    joins_again(&mut pair, "?1");
}

#[test]
fn all_workers_of_all_upstreams_join() {
    let setup = Setup::default().agent(|agent| {
        agent.workers = 3;
        let mut second = agent.upstreams[0].clone();
        second.agent_id = "b".to_owned();
        agent.upstreams.push(second);
    });
    let mut pair = setup.joined();
    assert_eq!(pair.hub.core.census().tunnels, 6);
    let clients: Vec<Raw> = (0..7).map(|_| pair.client()).collect();
    for client in &clients {
        pair.send(*client, GET);
    }
    let census = pair.hub.core.census();
    assert_eq!((census.active, census.queued), (6, 1));
    for _ in 0..6 {
        let upstream = pair.upstream();
        pair.send(upstream, OK);
    }
    pair.assert_quiet(6);
}

#[test]
fn many_workers_dial_in_turn() {
    let mut pair = Setup::default().agent(|agent| agent.workers = 100).joined();
    for tunnels in [16, 32, 48, 64, 80, 96, 100] {
        assert_eq!(pair.hub.core.census().tunnels, tunnels);
        pair.advance(Duration::from_millis(1));
    }
    pair.assert_quiet(100);
}

#[test]
fn a_draining_agent_withdraws_and_ends() {
    let (mut pair, hub) = joined(Setup::default());
    pair.got(hub);
    pair.drain_agent();
    let refusal = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\nSlime-Refused: draining\r\n\r\n";
    assert_eq!((pair.got(hub).as_str(), pair.ended(hub), pair.agents[0].exit), (refusal, None, None));
    // A request that crosses it is not started.
    pair.send(hub, GET);
    assert_eq!((pair.arrivals(), pair.got(hub).as_str()), (0, ""));
    pair.close(hub);
    assert_eq!(pair.agents[0].exit, Some(0));

    // A hub that does not close holds it up for a moment only.
    let (mut pair, hub) = joined(Setup::default());
    pair.drain_agent();
    pair.advance(seconds(6));
    assert_eq!(pair.agents[0].exit, Some(0));
    assert!(pair.ended(hub).is_some());
}

#[test]
fn a_draining_agent_finishes_what_it_serves() {
    let mut at = Setup::default().at_upstream(GET);
    at.pair.drain_agent();
    assert_eq!(at.pair.agents[0].exit, None);
    at.pair.send(at.upstream, OK);
    assert_eq!(at.pair.got(at.client), WAS_OK);
    assert_eq!(at.pair.agents[0].exit, Some(0));
    assert_eq!(at.pair.hub.core.census().tunnels, 0);
    at.pair.send(at.client, GET);
    assert_eq!(at.pair.hub.core.census().queued, 1, "an agent that withdrew just now is still connected");
    at.pair.assert_quiet(0);

    let mut at = Setup::default().agent(|agent| agent.drain_timeout = seconds(50)).at_upstream(GET);
    at.pair.drain_agent();
    at.pair.advance(seconds(51));
    assert_eq!(at.pair.agents[0].exit, Some(1));
    let got = at.pair.got(at.client);
    assert_eq!((got.as_str(), at.pair.hub.core.census().queued), ("", 1));
    at.pair.assert_quiet(0);
}

#[test]
fn a_draining_agent_ends_whatever_it_is_doing() {
    // Dialling, resting, and waiting for an answer to the handshake.
    for reach in [Reach::Silent, Reach::Fails(Unreachable::Refused), Reach::Raw] {
        let mut pair = Setup::default().start();
        pair.to_hub = reach;
        pair.settle();
        pair.drain_agent();
        if reach == Reach::Raw {
            // The hub may have sent a request behind an answer that is on its way.
            assert_eq!(pair.agents[0].exit, None);
            pair.advance(seconds(5));
        }
        assert_eq!(pair.agents[0].exit, Some(0), "{reach:?}");
    }
    // Withdrawn.
    let mut pair = Setup::default().start();
    pair.to_upstream = Reach::Fails(Unreachable::Refused);
    pair.settle();
    assert_eq!(pair.hub.core.census().tunnels, 1);
    pair.drain_agent();
    assert_eq!(pair.agents[0].exit, Some(0));
    pair.assert_quiet(0);
    // Upgraded, with one to spare.
    let mut at = Setup::default().agent(|agent| agent.extra_upgrades = 1).upgraded();
    at.pair.drain_agent();
    assert_eq!(at.pair.agents[0].exit, None);
    at.pair.finish(at.client);
    at.pair.finish(at.upstream);
    assert_eq!(at.pair.agents[0].exit, Some(0));
}

#[test]
fn a_request_that_crosses_the_end_of_a_handshake_is_refused() {
    let refusal = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\nSlime-Refused: draining\r\n\r\n";
    let request = "POST /x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 2\r\n\r\nab";
    let all = format!("{WELCOME}{request}");
    for at in 0..=all.len() {
        let (mut pair, hub) = dialled(Setup::default());
        assert_eq!(pair.got(hub), hello("?1"));
        pair.drain_agent();
        assert_eq!(pair.ended(hub), None, "the hub would take the request for lost");
        pair.send(hub, &all[..at]);
        pair.send(hub, &all[at..]);
        assert_eq!((pair.got(hub).as_str(), pair.arrivals()), (refusal, 0), "split at {at}");
        pair.close(hub);
        assert_eq!(pair.agents[0].exit, Some(0));
    }
}

#[test]
fn a_request_whose_sender_has_left_is_not_started() {
    let finish = |pair: &mut Pair, hub: Raw| {
        let wire = pair.wire(hub);
        pair.wires.shutdown(wire);
        pair.settle();
    };
    for leave in [Pair::close, Pair::reset, finish] {
        let (mut pair, hub) = joined(Setup::default());
        pair.send_quietly(hub, GET);
        leave(&mut pair, hub);
        assert_eq!(pair.arrivals_of(Target::Upstream(0)), 0, "it was sent to the upstream");
        joins_again(&mut pair, "?1");
    }
}

#[test]
fn what_a_proxy_says_to_connect_is_understood() {
    use crate::config::Proxy;
    for (answer, connects) in [
        ("HTTP/1.1 200 OK\r\n\r\n", true),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 X\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", true),
        // What it says of a body means nothing, whatever it says.
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true),
        ("HTTP/1.1 204 OK\r\nContent-Length: x, y\r\nTransfer-Encoding: gzip\r\n\r\n", true),
        ("HTTP/1.0  200 Connection established\nTransfer-Encoding: chunked\nContent-Length: 3\n\n", true),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n", false),
        ("HTTP/1.1 103 X\r\n\r\nHTTP/1.1 403 Forbidden\r\n\r\n", false),
        ("HTTP/1.1 OK\r\n\r\n", false),
    ] {
        for grain in [usize::MAX, 1] {
            let setup = Setup { grain, ..Setup::default() }.agent(|agent| {
                agent.proxy = Some(Proxy {
                    name: "proxy.test".to_owned(),
                    hub: "hub.test:8080".to_owned(),
                    authorization: None,
                    then_tls: false,
                });
            });
            let (mut pair, hub) = dialled(setup);
            assert_eq!(pair.got(hub), "CONNECT hub.test:8080 HTTP/1.1\r\nHost: hub.test:8080\r\n\r\n");
            pair.send(hub, answer);
            let expected = if connects { hello("?1") } else { String::new() };
            assert_eq!((pair.got(hub), pair.ended(hub).is_none()), (expected, connects), "{answer:?}");
        }
    }
}
