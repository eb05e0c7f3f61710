//! The end of a hub.

use super::*;
use crate::proto::seam::Core as _;
use crate::proto::tables::timer::Now;
use crate::proto::testing::Setup;
use crate::proto::testing::pair::token;
use crate::proto::testing::scenario::*;

const FAREWELL: &str =
    "OPTIONS * HTTP/1.1\r\nHost: slime\r\nConnection: close\r\nSlime-Close: draining\r\n\r\n";

#[test]
fn with_nothing_to_do_it_ends_at_once() {
    let mut pair = Setup::hub_only().start();
    let agent = pair.raw_agent(&token(1), 0);
    pair.got(agent);
    let idle = pair.client();
    pair.drain_hub();
    assert_eq!(pair.hub.exit, Some(0));
    assert_eq!(pair.got(agent), FAREWELL);
    assert_eq!(pair.ended(agent), Some(Ended::Fin));
    assert_closed(&mut pair, idle);
}

#[test]
fn what_is_there_is_served_first_and_nothing_else() {
    let (mut at, second) = Setup::default().queued(GET);
    let idle = at.pair.client();
    at.pair.drain_hub();
    assert_eq!(at.pair.hub.exit, None);
    // Idle ones may ask, and are told.
    at.pair.send(idle, GET);
    assert_refused(&mut at.pair, idle, 503, "the hub is shutting down");
    assert_closed(&mut at.pair, idle);
    at.pair.close(idle);
    let late = at.pair.client();
    at.pair.send(late, "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n");
    assert_refused(&mut at.pair, late, 503, "the hub is shutting down");
    at.pair.close(late);
    // Tunnels are still accepted.
    let helper = at.pair.raw_agent(&token(2), 0);
    assert!(at.pair.got(helper).contains("GET /x "));
    at.pair.send(helper, OK);
    assert!(at.pair.got(second).contains("\r\nConnection: close\r\n"));
    assert_eq!(at.pair.ended(second), Some(Ended::Fin));
    at.pair.close(second);
    at.pair.send(at.upstream, OK);
    assert!(at.pair.got(at.client).contains("\r\nConnection: close\r\n"));
    assert_eq!((at.pair.ended(at.client), at.pair.hub.exit), (Some(Ended::Fin), None));
    at.pair.close(at.client);
    assert_eq!(at.pair.hub.exit, Some(0));
    assert_eq!(at.pair.got(helper), FAREWELL);
    assert_eq!(at.pair.ended(helper), Some(Ended::Fin));
}

#[test]
fn a_client_that_does_not_close_holds_it_up_for_a_moment_only() {
    let mut at = Setup::default().at_upstream(GET);
    at.pair.drain_hub();
    at.pair.send(at.upstream, OK);
    assert_eq!(at.pair.hub.exit, None);
    at.pair.advance(seconds(6));
    assert_eq!(at.pair.hub.exit, Some(0));
}

#[test]
fn the_last_answers_are_out_before_it_ends() {
    let mut at = Setup { room: 1000, ..Setup::default() }
        .streaming(GET, "HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n");
    at.pair.reads_only(at.client, 0);
    at.pair.drain_hub();
    at.pair.send(at.upstream, vec![b'x'; 3000]);
    for _ in 0..2 {
        at.pair.advance(seconds(30));
        assert_eq!(at.pair.hub.exit, None);
        at.pair.reads_only(at.client, 1000);
    }
    at.pair.reads_only(at.client, 1000);
    assert_eq!(at.pair.got_bytes(at.client).len(), 3000);
    at.pair.advance(seconds(6));
    assert_eq!(at.pair.hub.exit, Some(0));
}

#[test]
fn the_drain_timeout_ends_what_is_left() {
    let (mut at, second) = Setup::default().hub(|hub| hub.drain_timeout = seconds(100)).queued(GET);
    at.pair.drain_hub();
    at.pair.advance(Duration::from_millis(99_900));
    assert_eq!(at.pair.hub.exit, None);
    at.pair.advance(Duration::from_millis(200));
    assert_eq!(at.pair.hub.exit, Some(1));
    assert!(at.pair.ended(at.client).is_some() && at.pair.ended(second).is_some());
    assert!(at.pair.ended(at.upstream).is_some());
}

#[test]
fn asked_twice_it_ends_at_once() {
    let mut at = Setup::default().at_upstream(GET);
    at.pair.drain_hub();
    at.pair.drain_hub();
    assert_eq!(at.pair.hub.exit, Some(1));
}

#[test]
fn a_restart_costs_nobody_a_request() {
    let setup = Setup::default().hub(|hub| hub.startup_grace = seconds(3));
    let mut pair = setup.joined();
    pair.drain_hub();
    assert_eq!(pair.hub.exit, Some(0));
    pair.start_hub();
    let client = pair.client();
    pair.send(client, GET);
    assert_eq!((pair.got(client).as_str(), pair.hub.core.census().queued), ("", 1));
    pair.advance(seconds(1));
    let upstream = pair.upstream();
    pair.send(upstream, OK);
    assert_eq!(pair.got(client), WAS_OK);
    pair.assert_quiet(1);
}

/// Bidden twice, or too late.
const ENDS: [fn(&mut Pair); 2] = [
    |pair| {
        pair.drain_hub();
        pair.drain_hub();
    },
    |pair| {
        pair.drain_hub();
        pair.advance(seconds(601));
    },
];

#[test]
fn a_response_that_is_cut_off_does_not_look_complete() {
    for end in ENDS {
        // The end of the connection would be the end of the response.
        let mut at = Setup::default().streaming(
            "GET /x HTTP/1.0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        );
        end(&mut at.pair);
        assert_eq!((at.pair.ended(at.client), at.pair.hub.exit), (Some(Ended::Reset), Some(1)));
        // Complete, but not taken yet.
        let setup = Setup { room: 1000, ..Setup::default() };
        let mut at = setup
            .streaming("GET /x HTTP/1.0\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        at.pair.reads_only(at.client, 0);
        let body = "x".repeat(3000);
        at.pair.send(at.upstream, format!("bb8\r\n{body}\r\n0\r\n\r\n"));
        end(&mut at.pair);
        at.pair.reads_only(at.client, usize::MAX);
        assert_eq!((at.pair.ended(at.client), at.pair.hub.exit.is_some()), (Some(Ended::Reset), true));
        // Neither is an upgraded connection, in either direction.
        let mut at = Setup::default().hub(|hub| hub.upgrade_drain = seconds(3600)).upgraded();
        end(&mut at.pair);
        assert_eq!((at.pair.ended(at.client), at.pair.hub.exit), (Some(Ended::Reset), Some(1)));
        assert_eq!(at.pair.ended(at.upstream), Some(Ended::Reset));
    }
}

/// What an upgraded connection held is given at once to a request that waits for it.
#[test]
fn what_an_upgraded_connection_held_is_free_for_those_that_wait() {
    let setup = Setup::default().hub(|hub| (hub.concurrent, hub.upgrade_drain) = (1, seconds(5)));
    let mut at = setup.upgraded();
    let helper = at.pair.raw_agent(&token(2), 0);
    at.pair.got(helper);
    let waits = at.pair.client();
    at.pair.send(waits, GET);
    assert_eq!(at.pair.got(helper), "");
    at.pair.drain_hub();
    // Not only once something else happens.
    at.pair.at_hub(|hub, now| {
        hub.handle_batch_end(Now { mono: now.mono.after(seconds(5)), ..now });
        assert_eq!(hub.audit(), None);
    });
    assert!(at.pair.ended(at.client).is_some());
    assert!(at.pair.got(helper).contains("GET /x "));
    at.pair.send(helper, OK);
    assert!(at.pair.got(waits).contains("\r\nConnection: close\r\n"));
}

#[test]
fn an_idle_upgraded_connection_holds_a_restart_up_for_a_moment_only() {
    let mut at = Setup::default().upgraded();
    at.pair.drain_hub();
    at.pair.advance(Duration::from_millis(4900));
    assert_eq!((at.pair.hub.exit, at.pair.ended(at.client)), (None, None));
    at.pair.advance(Duration::from_millis(200));
    assert_eq!(
        (at.pair.ended(at.client), at.pair.ended(at.upstream)),
        (Some(Ended::Reset), Some(Ended::Reset))
    );
    assert_eq!(at.pair.hub.exit, Some(0));
    // A request beside it has all the time that it had before, and may be upgraded still.
    let mut at = Setup::default().at_upstream(
        "GET /ws HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    at.pair.drain_hub();
    at.pair.advance(seconds(60));
    assert_eq!(at.pair.hub.exit, None);
    at.pair.send(at.upstream, "HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    at.pair.advance(seconds(4));
    assert_eq!(at.pair.hub.exit, None);
    at.pair.advance(seconds(2));
    assert_eq!(at.pair.hub.exit, Some(0));
}
