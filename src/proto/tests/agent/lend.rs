//! Workers that are lent to streams of events, and to upgraded connections beside them.

use super::*;
use crate::config::OnCancel;
use crate::proto::testing::scenario::{AtUpstream, GET, OK, WAS_OK};
use crate::proto::trust::agent_token::AgentToken;

const EVENTS: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n5\r\ndata:\r\n";
const SWITCHES: &str =
    "GET /ws HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const SWITCHED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

fn with(streams: u32, upgrades: u32) -> Setup {
    Setup::default().agent(|agent| {
        agent.extra_streams = streams;
        agent.extra_upgrades = upgrades;
    })
}

/// One more application asks for this, and gets this. What the application sees of it, and the two.
fn asks(pair: &mut Pair, request: &str, response: &str) -> (String, Raw, Raw) {
    let client = pair.client();
    pair.send(client, request);
    let upstream = pair.upstream();
    pair.send(upstream, response);
    (pair.got(client), client, upstream)
}

fn is_served(pair: &mut Pair) {
    let request = "POST /x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 2\r\n\r\nab";
    let (got, client, _) = asks(pair, request, &OK.replace("OK\r\n", "OK\r\nConnection: close\r\n"));
    assert_eq!(got, WAS_OK);
    pair.close(client);
}

/// A stream is refused, and its upstream hears of it.
fn is_refused(pair: &mut Pair, request: &str, response: &str, why: &str) {
    let (got, client, upstream) = asks(pair, request, response);
    assert!(got.starts_with("HTTP/1.1 503 ") && got.contains(why), "{got}");
    assert!(got.contains("Proxy-Status: slime; error=connection_limit_reached\r\n"), "{got}");
    // After a switch, FIN would be the regular end of a direction.
    let switched = response == SWITCHED;
    assert!(pair.ended(upstream).is_some_and(|how| !switched || how == Ended::Reset));
    pair.close(client);
}

#[test]
fn a_stream_of_events_lends_its_worker() {
    with(2, 0).in_every_way(|setup| {
        let AtUpstream { mut pair, client, upstream } = setup.streaming(GET, EVENTS);
        assert_eq!(pair.hub.core.census().tunnels, 2);
        is_served(&mut pair);
        let (_, second, its) = asks(&mut pair, GET, EVENTS);
        is_served(&mut pair);
        is_refused(&mut pair, GET, EVENTS, "as its --extra-streams allows");
        is_refused(&mut pair, SWITCHES, SWITCHED, "as its --extra-streams allows");
        is_served(&mut pair);
        assert_eq!(pair.hub.core.census().tunnels, 3);
        // Both go on all the while.
        pair.send(upstream, "2\r\n 1\r\n");
        pair.send(its, "2\r\n 2\r\n");
        assert!(pair.got(client).contains(" 1") && pair.got(second).contains(" 2"));
        // One ends by itself, the other one because nobody is there any more.
        pair.send(upstream, "0\r\n\r\n");
        assert!(pair.got(client).ends_with("0\r\n\r\n"));
        assert_eq!(pair.hub.core.census().tunnels, 2);
        pair.close(second);
        assert!(pair.ended(its).is_some());
        is_served(&mut pair);
        let (got, ..) = asks(&mut pair, GET, EVENTS);
        assert!(got.starts_with("HTTP/1.1 200 "), "{got}");
        is_served(&mut pair);
        // The client of the first one was told that its connection stays open.
        pair.send(client, GET);
        let upstream = pair.upstream();
        pair.send(upstream, OK);
        assert_eq!(pair.got(client), WAS_OK);
        pair.close(client);
        assert_eq!(pair.hub.core.census().tunnels, 2);
    });
}

#[test]
fn what_is_no_stream_of_events_lends_nothing() {
    let post = "POST /x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 2\r\n\r\nab";
    for (extra, request, response, lends) in [
        (1, GET, EVENTS.to_owned(), true),
        (1, GET, EVENTS.replace("text/event-stream", "TEXT/Event-Stream ; charset=utf-8"), true),
        (1, GET, EVENTS.replace("Transfer-Encoding: chunked", "Content-Length: 20"), true),
        (0, GET, EVENTS.to_owned(), false),
        (1, post, EVENTS.to_owned(), false),
        (1, GET, EVENTS.replace("text/event-stream", "text/event-streams"), false),
        (1, GET, EVENTS.replace("Content-Type", "X-Content-Type"), false),
        (1, GET, EVENTS.replace("200 OK", "404 Not Found"), false),
    ] {
        let at = with(extra, 0).streaming(request, &response);
        assert_eq!(at.pair.hub.core.census().tunnels, 1 + usize::from(lends), "{request} {response}");
    }
}

#[test]
fn upgraded_connections_have_their_own_extras_first() {
    let mut pair = with(1, 1).joined();
    for _ in 0..2 {
        let (got, ..) = asks(&mut pair, SWITCHES, SWITCHED);
        assert!(got.starts_with("HTTP/1.1 101 "), "{got}");
        is_served(&mut pair);
    }
    is_refused(&mut pair, GET, EVENTS, "as its --extra-streams allows");
    is_refused(&mut pair, SWITCHES, SWITCHED, "as its --extra-streams allows");
    // A stream leaves what is there for upgrades.
    let mut pair = with(1, 1).joined();
    asks(&mut pair, GET, EVENTS);
    is_refused(&mut pair, GET, EVENTS, "as its --extra-streams allows");
    let (got, ..) = asks(&mut pair, SWITCHES, SWITCHED);
    assert!(got.starts_with("HTTP/1.1 101 "), "{got}");
    is_refused(&mut pair, SWITCHES, SWITCHED, "as its --extra-streams allows");
    is_served(&mut pair);
}

#[test]
fn a_stream_never_takes_the_last_worker() {
    let full = AgentToken { max_workers: Some(2), ..token(1) };
    for (request, response) in [(GET, EVENTS), (SWITCHES, SWITCHED)] {
        let mut pair =
            Setup::hub_only().with_agent(full.clone(), "a").agent(|agent| agent.extra_streams = 5).joined();
        let (_, first, _) = asks(&mut pair, request, response);
        // There is no room for the worker that would stand in for this one, as is known only then: it is
        // ended.
        let (got, second, upstream) = asks(&mut pair, request, response);
        assert!(got.starts_with("HTTP/1.1 "), "{got}");
        assert!(pair.ended(second).is_some() && pair.ended(upstream).is_some());
        assert_eq!(pair.ended(first), None);
        is_served(&mut pair);
        // For a while it is known.
        is_refused(&mut pair, request, response, "would take the last worker");
        is_served(&mut pair);
        assert_eq!(pair.ended(first), None);
        pair.close(first);
        is_served(&mut pair);
        // The place that the first one had is free.
        pair.advance(seconds(70));
        asks(&mut pair, request, response);
        is_served(&mut pair);
    }
}

#[test]
fn a_stream_that_nobody_reads_is_not_read_to_its_end() {
    let mut at = with(1, 0).agent(|agent| agent.on_cancel = OnCancel::Drain).streaming(GET, EVENTS);
    at.pair.close(at.client);
    assert!(at.pair.ended(at.upstream).is_some());
    at.pair.assert_quiet(1);
}
