//! Upgraded connections: blind relays with half-close.

use super::*;
use crate::config::OnCancel;
use crate::proto::testing::Setup;
use crate::proto::testing::pair::token;
use crate::proto::testing::scenario::*;

const ASKED: &str = "GET /ws HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const SWITCHED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

#[test]
fn both_sides_become_blind() {
    Setup::default().in_every_way(|setup| {
        let mut at = setup.at_upstream(ASKED);
        at.pair.send(at.upstream, format!("{SWITCHED}first"));
        let got = at.pair.got(at.client);
        assert!(got.starts_with("HTTP/1.1 101 ") && got.contains("Upgrade: websocket\r\n"), "{got}");
        assert!(got.ends_with("\r\n\r\nfirst"), "{got}");
        at.pair.send(at.client, GET);
        assert_eq!(at.pair.got(at.upstream), GET);
        at.pair.send(at.upstream, OK);
        assert_eq!(at.pair.got(at.client), OK);
        at.pair.assert_quiet(1);
    });
}

#[test]
fn what_the_application_sends_ahead_of_the_switch_comes_after_it() {
    Setup::default().in_every_way(|setup| {
        let mut at = setup.at_upstream(ASKED);
        at.pair.send(at.client, "early");
        assert_eq!(at.pair.got(at.upstream), "");
        at.pair.send(at.upstream, SWITCHED);
        assert_eq!(at.pair.got(at.upstream), "early");
        at.pair.assert_quiet(1);
    });
}

#[test]
fn a_half_close_ends_one_direction_only() {
    Setup::default().in_every_way(|setup| {
        let mut at = setup.clone().upgraded();
        at.pair.send(at.client, "last");
        at.pair.finish(at.client);
        assert_eq!(at.pair.got(at.upstream), "last");
        assert_eq!(at.pair.ended(at.upstream), Some(Ended::Fin));
        for _ in 0..10 {
            at.pair.advance(seconds(50));
            at.pair.send(at.upstream, "more");
            assert_eq!((at.pair.got(at.client).as_str(), at.pair.ended(at.client)), ("more", None));
        }
        at.pair.finish(at.upstream);
        assert_eq!(at.pair.ended(at.client), Some(Ended::Fin));
        assert_eq!(at.pair.hub.core.census().exchanges, 0);
        at.pair.assert_quiet(1);

        let mut at = setup.upgraded();
        at.pair.send(at.upstream, "last");
        at.pair.finish(at.upstream);
        assert_eq!(at.pair.got(at.client), "last");
        assert_eq!(at.pair.ended(at.client), Some(Ended::Fin));
        at.pair.send(at.client, "more");
        assert_eq!((at.pair.got(at.upstream).as_str(), at.pair.ended(at.upstream)), ("more", None));
        at.pair.finish(at.client);
        assert_eq!(at.pair.ended(at.upstream), Some(Ended::Fin));
        at.pair.assert_quiet(1);
    });
}

#[test]
fn once_one_side_has_ended_a_minute_of_silence_ends_both() {
    for upstream_first in [false, true] {
        let mut at = Setup::default().upgraded();
        at.pair.advance(seconds(4000));
        assert_eq!(at.pair.hub.core.census().active, 1, "silence alone ends nothing");
        let (first, other) = if upstream_first { (at.upstream, at.client) } else { (at.client, at.upstream) };
        at.pair.finish(first);
        at.pair.advance(Duration::from_millis(59_900));
        assert_eq!(at.pair.hub.core.census().active, 1);
        at.pair.advance(seconds(1));
        assert_eq!(at.pair.hub.core.census().active, 0);
        // Who has had the end of the other side keeps what came before it; who has not sees that it is
        // missing.
        let expected = if upstream_first { Ended::Fin } else { Ended::Reset };
        assert_eq!(at.pair.ended(at.client), Some(expected));
        assert!(at.pair.ended(other).is_some());
        assert_worker_is_back(&mut at.pair);
        at.pair.assert_quiet(1);
    }
}

/// Whatever the ends of the upgraded connection do, or do not.
fn assert_worker_is_back(pair: &mut Pair) {
    let next = pair.client();
    pair.send(next, GET);
    let upstream = pair.upstream();
    pair.send(upstream, OK);
    assert_eq!(pair.got(next), WAS_OK);
}

#[test]
fn a_reset_ends_both() {
    for upstream_first in [false, true] {
        let mut at = Setup::default().upgraded();
        let (first, other) = if upstream_first { (at.upstream, at.client) } else { (at.client, at.upstream) };
        at.pair.reset(first);
        // A FIN would say that this was all of it.
        assert_eq!(at.pair.ended(other), Some(Ended::Reset));
        assert_eq!(at.pair.hub.core.census().exchanges, 0);
        assert_worker_is_back(&mut at.pair);
        at.pair.assert_quiet(1);
    }
}

#[test]
fn a_switch_before_the_body_was_asked_for_is_502() {
    let mut pair = Setup::hub_only().start();
    let agent = pair.raw_agent(&token(1), 0);
    pair.got(agent);
    let client = pair.client();
    let asked = ASKED.replace("GET", "POST").replace("Host", "Content-Length: 40000\r\nHost");
    pair.send(client, asked + &"x".repeat(40_000));
    assert!(pair.got(agent).ends_with("Slime-Expect: connect\r\n\r\n"));
    pair.send(agent, SWITCHED);
    assert!(pair.got(client).starts_with("HTTP/1.1 502 "));
    assert!(pair.ended(agent).is_some());
    pair.assert_quiet(0);
}

#[test]
fn a_switch_that_nobody_asked_for_is_502() {
    let other = SWITCHED.replace("websocket", "other");
    let nothing = "HTTP/1.1 101 Switching Protocols\r\n\r\n";
    let h2c = ASKED.replace("websocket", "h2c");
    for (request, response) in [
        (GET, SWITCHED),
        (ASKED, other.as_str()),
        (ASKED, nothing),
        (h2c.as_str(), &SWITCHED.replace("websocket", "h2c")),
    ] {
        let mut at = Setup::default().at_upstream(request);
        at.pair.send(at.upstream, response);
        let got = at.pair.got(at.client);
        assert!(got.starts_with("HTTP/1.1 502 "), "{got}");
        assert!(at.pair.ended(at.upstream).is_some());
        at.pair.assert_quiet(1);
    }
}

#[test]
fn an_upgrade_that_is_declined_is_an_ordinary_exchange() {
    let mut at = Setup::default().at_upstream(ASKED);
    at.pair.send(at.upstream, OK);
    assert_eq!(at.pair.got(at.client), WAS_OK);
    at.pair.send(at.client, GET);
    assert_eq!(at.pair.got(at.upstream), GOT);
    at.pair.assert_quiet(1);
}

#[test]
fn the_worker_stays_taken_unless_there_are_upgrades_to_spare() {
    let mut at = Setup::default().upgraded();
    let waiting = at.pair.client();
    at.pair.send(waiting, GET);
    assert_eq!(at.pair.hub.core.census().queued, 1);
    at.pair.finish(at.client);
    at.pair.finish(at.upstream);
    let upstream = at.pair.upstream();
    at.pair.send(upstream, OK);
    assert_eq!(at.pair.got(waiting), WAS_OK);
    at.pair.assert_quiet(1);

    let mut at = Setup::default().agent(|agent| agent.extra_upgrades = 1).upgraded();
    assert_eq!(at.pair.hub.core.census().tunnels, 2);
    let second = at.pair.client();
    at.pair.send(second, ASKED);
    let upstream = at.pair.upstream();
    at.pair.send(upstream, SWITCHED);
    assert!(at.pair.got(second).starts_with("HTTP/1.1 101 "));
    // There was one to spare, and no more.
    assert_eq!(at.pair.hub.core.census().tunnels, 2);
    let third = at.pair.client();
    at.pair.send(third, GET);
    assert_eq!(at.pair.hub.core.census().queued, 1);
    // One upgraded connection ends: its worker takes requests, and only one does.
    at.pair.reset(at.client);
    let upstream = at.pair.upstream();
    at.pair.send(upstream, OK);
    assert_eq!(at.pair.got(third), WAS_OK);
    at.pair.close(second);
    at.pair.assert_quiet(1);
}

#[test]
fn who_leaves_before_the_switch_ends_it_by_resets() {
    for on_cancel in [OnCancel::Close, OnCancel::Drain] {
        // The upstream may have sent its 101 already, and would take FIN for the end of a direction.
        let mut at = Setup::default().agent(|agent| agent.on_cancel = on_cancel).at_upstream(ASKED);
        at.pair.close(at.client);
        assert_eq!(at.pair.ended(at.upstream), Some(Ended::Reset));
        at.pair.assert_quiet(1);
    }
}
