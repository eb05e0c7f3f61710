//! How an agent ends, and how upgraded connections do.

use super::serve::{refusal, serving};
use super::*;
use crate::proto::seam::Target;
use crate::proto::testing::scenario::{GET, OK};

const ASKED: &str = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n";
const SWITCHED: &str = "HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n";

#[test]
fn the_end_of_a_response_is_not_thrown_away_however_slowly_it_is_taken() {
    let response = format!("HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{}", "x".repeat(5000));
    // It waits in the agent, or all of it is in the kernels; the agent ends, or its upstream does.
    for room in [1000, 100_000] {
        for drains in [true, false] {
            let (mut pair, hub, upstream) = serving(Setup { room, ..Setup::default() }, GET);
            pair.got(hub);
            pair.reads_only(hub, 0);
            pair.send(upstream, &response);
            let why = if drains {
                pair.drain_agent();
                "draining"
            } else {
                let now = pair.now;
                let trouble = crate::proto::tunnel::Trouble::new("a test says so");
                pair.agents[0].core.upstream_is_down(0, trouble, now);
                pair.settle();
                "a test says so"
            };
            for _ in 0..10 {
                pair.advance(seconds(50));
                pair.reads_only(hub, 300);
                assert_eq!((pair.ended(hub), pair.agents[0].exit), (None, None));
            }
            pair.reads_only(hub, usize::MAX);
            assert_eq!(pair.got(hub), format!("{response}{}", refusal(why)));
            pair.close(hub);
            assert_eq!(pair.agents[0].exit, drains.then_some(0));
        }
    }
}

#[test]
fn an_end_of_a_response_that_is_given_up_is_no_success() {
    let setup = Setup { room: 1000, ..Setup::default() }.agent(|agent| agent.drain_timeout = seconds(3600));
    let (mut pair, hub, upstream) = serving(setup, GET);
    pair.reads_only(hub, 0);
    pair.send(upstream, format!("HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{}", "x".repeat(5000)));
    pair.drain_agent();
    pair.advance(seconds(610));
    assert_eq!(pair.agents[0].exit, Some(1));
}

#[test]
fn the_rest_of_a_request_that_never_comes_does_not_cost_the_end_of_its_response() {
    let head = "PUT /x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 50000\r\n\r\n";
    let (mut pair, hub, upstream) = serving(Setup { room: 1000, ..Setup::default() }, head);
    pair.got(hub);
    pair.reads_only(hub, 0);
    let response = format!("HTTP/1.1 403 Forbidden\r\nContent-Length: 5000\r\n\r\n{}", "x".repeat(5000));
    pair.send(upstream, &response);
    for _ in 0..4 {
        pair.advance(seconds(50));
        pair.reads_only(hub, 300);
        assert_eq!(pair.ended(hub), None);
    }
    pair.reads_only(hub, usize::MAX);
    assert_eq!(pair.got(hub), response);
}

#[test]
fn an_idle_upgraded_connection_holds_an_end_up_for_a_moment_only() {
    for extra in [0, 1] {
        let (mut pair, hub, upstream) =
            serving(Setup::default().agent(|agent| agent.extra_upgrades = extra), ASKED);
        pair.send(upstream, SWITCHED);
        pair.drain_agent();
        pair.advance(Duration::from_millis(4900));
        assert_eq!((pair.agents[0].exit, pair.ended(hub)), (None, None));
        pair.advance(Duration::from_millis(200));
        // FIN would be the regular end of a direction.
        assert_eq!((pair.ended(hub), pair.ended(upstream)), (Some(Ended::Reset), Some(Ended::Reset)));
        pair.advance(seconds(6));
        assert_eq!(pair.agents[0].exit, Some(0));
    }
    // So does one that is upgraded only then.
    let (mut pair, hub, upstream) = serving(Setup::default(), ASKED);
    pair.drain_agent();
    pair.advance(seconds(60));
    assert_eq!(pair.agents[0].exit, None);
    pair.send(upstream, SWITCHED);
    pair.advance(Duration::from_millis(4900));
    assert_eq!(pair.ended(hub), None);
    pair.advance(seconds(1));
    assert_eq!((pair.ended(hub), pair.agents[0].exit), (Some(Ended::Reset), Some(0)));
}

#[test]
fn what_is_cut_off_at_the_end_does_not_look_complete() {
    let twice = |pair: &mut Pair| {
        pair.drain_agent();
        pair.drain_agent();
    };
    let late = |pair: &mut Pair| {
        pair.drain_agent();
        pair.advance(seconds(601));
    };
    for end in [twice, late] {
        let setup = Setup::default().agent(|agent| agent.upgrade_drain = seconds(3600));
        let (mut pair, hub, upstream) = serving(setup, ASKED);
        pair.send(upstream, SWITCHED);
        end(&mut pair);
        assert_eq!(pair.agents[0].exit, Some(1));
        assert_eq!((pair.ended(hub), pair.ended(upstream)), (Some(Ended::Reset), Some(Ended::Reset)));
    }
}

#[test]
fn the_end_of_an_upgraded_connection_leaves_a_worker_beside_a_full_token() {
    let full = "HTTP/1.1 403 Forbidden\r\nContent-Length: 20\r\n\r\n{\"detail\":\"no more\"}";
    // The place at the hub becomes free while the other worker rests, or while it asks once more.
    for asks in [false, true] {
        let (mut pair, hub, upstream) =
            serving(Setup::default().agent(|agent| agent.extra_upgrades = 1), ASKED);
        pair.send(upstream, SWITCHED);
        let mut waited = 0;
        while waited < 200 || (pair.arrivals_of(Target::Hub) > 0) != asks {
            if pair.arrivals_of(Target::Hub) > 0 {
                let other = pair.raw_hub();
                pair.send(other, full);
            }
            pair.advance(seconds(1));
            waited += 1;
        }
        pair.finish(hub);
        pair.finish(upstream);
        if asks {
            let other = pair.raw_hub();
            pair.send(other, full);
        }
        pair.close(hub);
        pair.advance(Duration::from_millis(if asks { 300 } else { 0 }));
        let hub = pair.raw_hub();
        pair.send(hub, WELCOME);
        pair.send(hub, GET);
        let upstream = pair.upstream();
        pair.send(upstream, OK);
        assert!(pair.got(hub).ends_with(OK));
    }
}
