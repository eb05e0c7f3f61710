//! What is read of a request that waits, and what becomes of it.

use super::*;
use crate::proto::hub::hold::{FREE, MOST};
use crate::proto::seam::HELD_BLOCK;
use crate::proto::testing::Setup;
use crate::proto::testing::pair::token;
use crate::proto::testing::scenario::*;

const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";
const SIGN: &str = "HTTP/1.1 102 Processing\r\nSlime-Heartbeat: ?1\r\n\r\n";

fn post(length: usize) -> String {
    format!("POST /x HTTP/1.1\r\nHost: app.test\r\nContent-Length: {length}\r\n\r\n")
}

fn chunked(length: usize) -> String {
    let head = "POST /x HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    format!("{head}{}0\r\n\r\n", chunks(length))
}

fn chunks(length: usize) -> String {
    format!("3e8;x=y\r\n{}\r\n", "c".repeat(1000)).repeat(length / 1000)
}

fn body(length: usize) -> String {
    (0..length).map(|at| char::from(b'a' + u8::try_from(at % 23).unwrap())).collect()
}

/// A hub where this many blocks may be held.
fn holding(blocks: usize) -> Setup {
    Setup { room: 64 * 1024, ..Setup::default() }.hub(|hub| hub.hold = (blocks * HELD_BLOCK) as u64)
}

#[test]
fn who_leaves_while_queued_is_never_served_however_large_the_request() {
    let requests = [
        format!("{}{}", post(300_000), body(300_000)),
        format!("{}{}", post(MOST), body(MOST)),
        chunked(300_000),
    ];
    for request in requests {
        for leave in [Pair::finish, Pair::close, Pair::reset] {
            let (mut at, second) = holding(1024).queued(&request);
            assert!(at.pair.hub.core.census().held > 0);
            leave(&mut at.pair, second);
            let census = at.pair.hub.core.census();
            assert_eq!((census.queued, census.held), (0, 0), "its place and what was held are free again");
            at.pair.send(at.upstream, OK);
            assert_eq!((at.pair.got(at.client).as_str(), at.pair.got(at.upstream).as_str()), (WAS_OK, ""));
            assert_eq!(at.pair.arrivals(), 0);
            at.pair.assert_quiet(1);
        }
    }
}

#[test]
fn what_was_held_arrives_whole_and_in_order() {
    for (request, expected) in [
        (format!("{}{}", post(300_000), body(300_000)), body(300_000)),
        (format!("{}{}", post(3_000_000), body(3_000_000)), body(3_000_000)),
        (chunked(300_000), format!("{}0\r\n\r\n", chunks(300_000).replace(";x=y", ""))),
    ] {
        for blocks in [0, 1, 3, 1024] {
            let (mut at, second) = holding(blocks).queued(&request);
            assert!(at.pair.hub.core.census().held <= blocks);
            at.pair.send(at.upstream, OK);
            let got = at.pair.got(at.upstream);
            assert!(got.ends_with(&expected), "{blocks}: {} bytes", got.len());
            at.pair.send(at.upstream, OK);
            assert_eq!((at.pair.got(second).as_str(), at.pair.ended(second)), (WAS_OK, None));
            assert_eq!(at.pair.hub.core.census().held, 0);
            at.pair.assert_quiet(1);
        }
    }
}

#[test]
fn beyond_what_is_held_an_upstream_sees_a_cut_request_at_most() {
    let (mut at, second) = holding(1024).queued(&format!("{}{}", post(3_000_000), body(3_000_000)));
    assert_eq!(at.pair.hub.core.census().held, (MOST - FREE).div_ceil(HELD_BLOCK));
    // The rest is on its way, and FIN behind it.
    at.pair.finish(second);
    assert_eq!(at.pair.hub.core.census().queued, 1);
    // Its agent has nothing more to do with it than to be told.
    at.pair.reads_only(at.upstream, 1000);
    at.pair.send(at.upstream, OK);
    at.pair.close(second);
    at.pair.reads_only(at.upstream, usize::MAX);
    assert!(at.pair.got(at.upstream).len() < 3_000_000);
    assert!(at.pair.ended(at.upstream).is_some());
    at.pair.assert_quiet(1);
}

#[test]
fn no_more_is_held_than_the_budget_says_and_others_get_what_becomes_free() {
    let (mut at, second) = holding(3).queued(&format!("{}{}", post(400_000), body(400_000)));
    assert_eq!(at.pair.hub.core.census().held, 3);
    let third = at.pair.client();
    at.pair.send(third, format!("{}{}", post(100_000), body(100_000)));
    // A small one needs nothing of it.
    let small = at.pair.client();
    at.pair.send(small, format!("{}{}", post(FREE), body(FREE)));
    let census = at.pair.hub.core.census();
    assert_eq!((census.gathering, census.queued, census.held), (0, 3, 3));
    at.pair.close(second);
    assert_eq!(at.pair.hub.core.census().held, 2, "the third one goes on being read");
    // It is held whole now, and its leaving is seen.
    at.pair.finish(third);
    let census = at.pair.hub.core.census();
    assert_eq!((census.queued, census.held), (1, 0));
    at.pair.send(at.upstream, OK);
    assert!(at.pair.got(at.upstream).ends_with(&body(FREE)));
    at.pair.send(at.upstream, OK);
    assert_eq!(at.pair.got(small), WAS_OK);
    at.pair.assert_quiet(1);
}

#[test]
fn an_upload_that_trickles_gets_a_worker_when_it_is_there() {
    let mut pair = holding(1024).joined();
    let client = pair.client();
    pair.send(client, post(200_000));
    let body = body(200_000);
    // A kilobyte a second is enough, and the worker serves others meanwhile.
    for (n, piece) in body.as_bytes().chunks(2000).enumerate() {
        assert_eq!((pair.arrivals(), pair.hub.core.census().gathering), (0, 1), "at {n}");
        pair.advance(seconds(if n < 8 { 1 } else { 2 }));
        pair.send(client, piece);
    }
    let upstream = pair.upstream();
    assert!(pair.got(upstream).ends_with(&body));
    pair.send(upstream, OK);
    assert_eq!(pair.got(client), WAS_OK);
    pair.assert_quiet(1);
}

#[test]
fn an_upload_that_is_slower_than_any_line_is_late() {
    let mut pair = holding(1024).joined();
    let client = pair.client();
    pair.send(client, format!("{}{}", post(200_000), body(100_000)));
    // (100,000 - 16 * 1024) / 1024 seconds more than the first 16 KiB have.
    for _ in 0..11 {
        pair.advance(seconds(10));
        pair.send(client, "x");
        assert_eq!(pair.got(client), "");
    }
    pair.advance(seconds(4));
    assert_refused(&mut pair, client, 408, "body did not arrive in time");
    assert_eq!(pair.arrivals(), 0);
    pair.assert_quiet(1);
}

#[test]
fn a_body_that_finds_no_room_is_served_as_it_comes() {
    // The budget is used up before it begins, or while it is read.
    for blocks in [0, 1] {
        let mut pair = holding(blocks).joined();
        let client = pair.client();
        pair.send(client, format!("{}{}", post(200_000), body(FREE + blocks * HELD_BLOCK - 1)));
        assert_eq!((pair.arrivals(), pair.hub.core.census().gathering), (0, 1));
        pair.send(client, "xy");
        let upstream = pair.upstream();
        assert!(pair.got(upstream).len() > FREE + blocks * HELD_BLOCK);
        assert_eq!(pair.hub.core.census().held, 0, "what can be sent no second time is not kept");
        pair.assert_quiet(1);
    }
}

#[test]
fn what_is_held_whole_can_be_sent_again() {
    let mut pair = Setup { room: 64 * 1024, ..Setup::hub_only() }.start();
    let agents = ["a", "b"].map(|id| pair.raw_agent_called(&token(u8::from(id == "b") + 1), id, 0, None));
    let agents = agents.map(|agent| {
        pair.got(agent);
        agent
    });
    let client = pair.client();
    pair.send(client, post(MOST).replace("POST", "PUT"));
    pair.send(client, body(MOST));
    for (n, agent) in agents.into_iter().enumerate() {
        assert!(pair.got(agent).ends_with("Slime-Expect: connect\r\n\r\n"));
        pair.send(agent, CONTINUE);
        assert!(pair.got(agent) == body(MOST));
        if n == 0 {
            pair.close(agent);
        } else {
            pair.send(agent, OK);
            assert!(pair.got(client).starts_with("HTTP/1.1 200 "));
        }
    }
    assert_eq!(pair.hub.core.census().held, 0);
    pair.assert_quiet(0);
}

#[test]
fn what_waits_in_a_tunnel_keeps_its_share_until_it_is_taken() {
    let mut pair = Setup { room: 1000, ..Setup::hub_only() }.start();
    let agent = pair.raw_agent(&token(1), 0);
    pair.got(agent);
    let client = pair.client();
    pair.send(client, format!("{}{}", post(200_000), body(200_000)));
    assert!(pair.got(agent).ends_with("Slime-Expect: connect\r\n\r\n"));
    pair.reads_only(agent, 0);
    pair.send(agent, CONTINUE);
    pair.send(agent, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n");
    assert!(pair.got(client).starts_with("HTTP/1.1 200 "));
    assert_eq!(pair.hub.core.census().held, 3, "the memory is in use");
    pair.reads_only(agent, usize::MAX);
    assert!(pair.got(agent) == body(200_000));
    assert_eq!(pair.hub.core.census().held, 0);
    pair.assert_quiet(0);
}

#[test]
fn a_tunnel_that_was_not_sent_the_body_carries_nothing_else() {
    // The agent answers before it has asked for the body, all of which has come already.
    let mut pair = Setup::hub_only().start();
    let agent = pair.raw_agent(&token(1), 0);
    pair.got(agent);
    let client = pair.client();
    pair.send(client, format!("{}{}", post(40_000), body(40_000)));
    assert!(pair.got(agent).ends_with("Slime-Expect: connect\r\n\r\n"));
    pair.send(agent, OK);
    assert!(pair.got(client).starts_with("HTTP/1.1 200 "));
    assert!(pair.ended(agent).is_some(), "it would take the next request for the body");
    pair.assert_quiet(0);
}

#[test]
fn a_body_that_has_come_is_awaited_no_longer() {
    for length in [100, 40_000, MOST] {
        let mut pair = Setup::hub_only().start();
        let agent = pair.raw_agent(&token(1), 0);
        pair.got(agent);
        let client = pair.client();
        pair.send(client, format!("{}{}", post(length), body(length)));
        if length > FREE {
            pair.send(agent, CONTINUE);
        }
        assert!(pair.got(agent).ends_with(&body(length)));
        // The job takes an hour.
        for _ in 0..240 {
            pair.advance(seconds(15));
            pair.send(agent, SIGN);
        }
        assert_eq!(pair.got(client), "");
        pair.send(agent, OK);
        assert!(pair.got(client).starts_with("HTTP/1.1 200 "));
        pair.assert_quiet(0);
    }
}
