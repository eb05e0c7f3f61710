//! Deadlines.

use super::*;
use crate::proto::seam::Core;
use crate::proto::testing::Setup;
use crate::proto::testing::pair::token;
use crate::proto::testing::scenario::*;

#[test]
fn a_head_comes_in_ten_seconds_or_is_408() {
    let mut pair = Setup::default().joined();
    let client = pair.client();
    pair.advance(seconds(9));
    pair.send(client, "GET /x");
    // Bytes that dribble in buy no time.
    for _ in 0..9 {
        pair.advance(seconds(1));
        pair.send(client, "x");
    }
    assert_eq!((pair.got(client).as_str(), pair.ended(client)), ("", None));
    pair.advance(seconds(1) + COARSE);
    assert_refused(&mut pair, client, 408, "head did not arrive in time");
    assert_closed(&mut pair, client);
    pair.assert_quiet(1);
}

#[test]
fn who_says_nothing_is_closed_without_a_word() {
    let mut pair = Setup::default().joined();
    let client = pair.client();
    pair.advance(Duration::from_millis(9_900));
    assert_eq!(pair.ended(client), None);
    pair.advance(COARSE);
    assert_closed(&mut pair, client);
    // Between two requests it is allowed more, and an empty line is nothing.
    let mut at = Setup::default().at_upstream(GET);
    at.pair.send(at.upstream, OK);
    at.pair.got(at.client);
    at.pair.send(at.client, "\r\n");
    at.pair.advance(Duration::from_millis(74_900));
    assert_eq!(at.pair.ended(at.client), None);
    at.pair.advance(COARSE);
    assert_closed(&mut at.pair, at.client);
    at.pair.assert_quiet(1);
}

#[test]
fn the_second_head_has_its_own_ten_seconds() {
    let mut at = Setup::default().at_upstream(GET);
    at.pair.send(at.upstream, OK);
    at.pair.got(at.client);
    at.pair.advance(seconds(60));
    at.pair.send(at.client, "GET ");
    at.pair.advance(Duration::from_millis(9_900));
    assert_eq!(at.pair.ended(at.client), None);
    at.pair.advance(Duration::from_millis(200) + COARSE);
    assert_refused(&mut at.pair, at.client, 408, "");
    at.pair.assert_quiet(1);
}

#[test]
fn a_body_that_stalls_on_its_way_is_408() {
    let head = "PUT /x HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut at = Setup::default().at_upstream(head);
    for _ in 0..5 {
        at.pair.advance(seconds(59));
        at.pair.send(at.client, "1\r\nx\r\n");
        assert_eq!(at.pair.got(at.upstream), "1\r\nx\r\n");
    }
    at.pair.advance(seconds(60) + COARSE);
    assert_refused(&mut at.pair, at.client, 408, "body did not arrive in time");
    assert!(at.pair.ended(at.upstream).is_some());
    at.pair.assert_quiet(1);
}

#[test]
fn a_body_that_began_before_it_was_asked_for_must_not_stall_either() {
    let head =
        "PUT /x HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n";
    let mut at = Setup::default().at_upstream(head);
    at.pair.advance(seconds(4));
    at.pair.send(at.client, "1\r\nx\r\n");
    assert_eq!(at.pair.got(at.upstream), "1\r\nx\r\n");
    at.pair.advance(seconds(60) + COARSE);
    assert_refused(&mut at.pair, at.client, 408, "body did not arrive in time");
    assert!(at.pair.ended(at.upstream).is_some());
    at.pair.assert_quiet(1);
}

#[test]
fn a_body_that_stalls_after_the_head_of_the_response_cuts_it() {
    let head = "PUT /x HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut at = Setup::default().streaming(head, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    at.pair.advance(seconds(60) + COARSE);
    assert_closed(&mut at.pair, at.client);
    at.pair.assert_quiet(1);
}

#[test]
fn a_request_that_is_quiet_while_its_response_streams_is_not_late() {
    let head = "PUT /x HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    for splices in [false, true] {
        let response = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let mut at = Setup { splices, ..Setup::default() }.streaming(head, response);
        for _ in 0..20 {
            at.pair.advance(seconds(50));
            at.pair.send(at.upstream, "1\r\nx\r\n");
            assert_eq!(at.pair.got(at.client), "1\r\nx\r\n");
        }
        at.pair.send(at.client, "0\r\n\r\n");
        assert_eq!(at.pair.got(at.upstream), "0\r\n\r\n");
        at.pair.send(at.upstream, "0\r\n\r\n");
        assert_eq!((at.pair.got(at.client).as_str(), at.pair.ended(at.client)), ("0\r\n\r\n", None));
        at.pair.assert_quiet(1);
    }
}

#[test]
fn a_long_job_after_a_body_that_nobody_looked_at_is_not_late() {
    let head = "PUT /x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 2000000\r\n\r\n";
    let mut at = Setup { splices: true, ..Setup::default() }.hub(|hub| hub.hold = 0).joined();
    let client = at.client();
    at.send(client, head);
    at.send(client, "x".repeat(2_000_000));
    let upstream = at.upstream();
    assert!(at.got(upstream).ends_with('x'));
    at.advance(seconds(3600));
    at.send(upstream, OK);
    assert_eq!((at.got(client).as_str(), at.ended(client)), (WAS_OK, None));
    at.assert_quiet(1);
}

#[test]
fn the_response_timeout_begins_when_the_request_is_complete() {
    let setup = || Setup::default().hub(|hub| hub.limits.response = Some(seconds(30)));
    let head = "PUT /x HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut at = setup().at_upstream(head);
    for _ in 0..5 {
        at.pair.advance(seconds(29));
        at.pair.send(at.client, "1\r\nx\r\n");
    }
    at.pair.send(at.client, "0\r\n\r\n");
    at.pair.advance(seconds(29));
    assert_eq!(at.pair.got(at.client), "");
    at.pair.advance(seconds(1) + COARSE);
    assert_refused(&mut at.pair, at.client, 504, "--response-timeout");
    at.pair.assert_quiet(1);

    // What a tunnel has not been sent yet no upstream can answer.
    let mut pair =
        Setup { room: 1000, ..Setup::hub_only() }.hub(|hub| hub.limits.response = Some(seconds(30))).start();
    let agent = pair.raw_agent(&token(1), 0);
    pair.got(agent);
    let client = pair.client();
    pair.send(
        client,
        format!("PUT /x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 90000\r\n\r\n{}", "x".repeat(90_000)),
    );
    pair.reads_only(agent, 0);
    pair.send(agent, "HTTP/1.1 100 Continue\r\n\r\n");
    for _ in 0..4 {
        pair.advance(seconds(20));
        pair.send(agent, "HTTP/1.1 102 Processing\r\nSlime-Heartbeat: ?1\r\n\r\n");
        pair.reads_only(agent, 1000);
    }
    assert_eq!(pair.got(client), "");
    pair.reads_only(agent, usize::MAX);
    assert!(pair.got(agent).ends_with('x'));
    pair.advance(seconds(29));
    assert_eq!(pair.got(client), "");
    pair.advance(seconds(1) + COARSE);
    assert_refused(&mut pair, client, 504, "--response-timeout");
    pair.assert_quiet(0);
}

#[test]
fn an_upstream_that_takes_nothing_is_not_the_clients_fault() {
    let head = "PUT /x HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut at = Setup { room: 1000, ..Setup::default() }.at_upstream(head);
    at.pair.reads_only(at.upstream, 0);
    at.pair.send(at.client, format!("fffff\r\n{}", "x".repeat(0xfffff)));
    at.pair.advance(seconds(3));
    at.pair.reads_only(at.upstream, 1500);
    at.pair.advance(seconds(59));
    assert_eq!(at.pair.got(at.client), "");
    at.pair.advance(seconds(62));
    let got = at.pair.got(at.client);
    assert!(got.starts_with("HTTP/1.1 502 "), "{got}");
    at.pair.assert_quiet(1);
}

#[test]
fn an_upstream_that_is_busy_with_something_else_is_waited_for_however_large_the_request_is() {
    let head = "PUT /x HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut at = Setup { room: 1000, ..Setup::default() }.at_upstream(head);
    at.pair.reads_only(at.upstream, 0);
    at.pair.send(at.client, format!("c350\r\n{}\r\n0\r\n\r\n", "x".repeat(50_000)));
    at.pair.advance(seconds(3000));
    assert_eq!((at.pair.got(at.client).as_str(), at.pair.ended(at.client)), ("", None));
    at.pair.reads_only(at.upstream, usize::MAX);
    assert!(at.pair.got(at.upstream).ends_with("x\r\n0\r\n\r\n"));
    at.pair.send(at.upstream, OK);
    assert_eq!(at.pair.got(at.client), WAS_OK);
    at.pair.assert_quiet(1);
}

#[test]
fn a_response_may_take_as_long_as_it_likes() {
    let mut at = Setup::default().at_upstream(GET);
    at.pair.advance(seconds(10_000));
    assert_eq!((at.pair.got(at.client).as_str(), at.pair.ended(at.client)), ("", None));
    at.pair.send(at.upstream, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh");
    at.pair.advance(seconds(10_000));
    at.pair.send(at.upstream, "i");
    assert_eq!(at.pair.got(at.client), WAS_OK);
    at.pair.assert_quiet(1);
}

#[test]
fn a_response_timeout_is_504() {
    let setup = || Setup::default().hub(|hub| hub.limits.response = Some(seconds(20)));
    let mut at = setup().at_upstream(GET);
    at.pair.advance(Duration::from_millis(19_900));
    assert_eq!(at.pair.got(at.client), "");
    at.pair.advance(Duration::from_millis(200));
    assert_refused(&mut at.pair, at.client, 504, "--response-timeout");
    assert_eq!(at.pair.ended(at.client), None);
    assert!(at.pair.ended(at.upstream).is_some());
    at.pair.assert_quiet(1);
    // The head is what counts.
    let mut at = setup().streaming(GET, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n");
    at.pair.advance(seconds(100));
    at.pair.send(at.upstream, "hi");
    assert_eq!(at.pair.got(at.client), "hi");
    at.pair.assert_quiet(1);
}

#[test]
fn who_takes_nothing_of_a_response_for_a_minute_is_reset() {
    let mut at = Setup { room: 1000, ..Setup::default() }
        .streaming(GET, "HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n");
    at.pair.reads_only(at.client, 0);
    at.pair.send(at.upstream, vec![b'x'; 10_000]);
    at.pair.advance(seconds(59));
    assert_eq!(at.pair.hub.core.census().clients, 1);
    at.pair.advance(seconds(1) + COARSE);
    assert_eq!(at.pair.hub.core.census().clients, 0);
    at.pair.reads_only(at.client, usize::MAX);
    assert_eq!(at.pair.ended(at.client), Some(Ended::Reset));
    at.pair.assert_quiet(1);
}

/// Takes all that comes to `client` in small portions, with just too little time between them to be thrown
/// out.
fn take_slowly(pair: &mut Pair, client: Raw, portion: usize, all: usize) {
    let mut got = 0;
    while got < all {
        pair.advance(seconds(50));
        pair.reads_only(client, portion);
        let now = pair.got_bytes(client).len();
        assert_ne!(now, 0, "{:?} after {got} bytes, {:?}", pair.ended(client), pair.hub.core.census());
        got += now;
    }
}

#[test]
fn who_takes_a_little_now_and_then_gets_it_all() {
    for (room, portion) in [(1000, 1000), (15_000, 5000)] {
        for request in [GET.to_owned(), GET.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")] {
            let length = 40 * room;
            let mut at = Setup { room, ..Setup::default() }
                .streaming(&request, &format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"));
            at.pair.reads_only(at.client, 0);
            at.pair.send(at.upstream, vec![b'x'; length]);
            take_slowly(&mut at.pair, at.client, portion, length);
            at.pair.assert_quiet(1);
        }
    }
}

#[test]
fn who_is_still_taking_a_response_is_not_idle() {
    let mut at = Setup { room: 40_000, ..Setup::default() }
        .hub(|hub| hub.max_clients = 2)
        .streaming(GET, "HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n");
    at.pair.reads_only(at.client, 0);
    at.pair.send(at.upstream, vec![b'x'; 70_000]);
    assert_eq!(at.pair.hub.core.census().exchanges, 0, "the response is not complete");
    let _second = at.pair.client();
    let _third = at.pair.client();
    take_slowly(&mut at.pair, at.client, 10_000, 70_000);
    at.pair.assert_quiet(1);
}

#[test]
fn an_early_response_reaches_those_who_take_it_slowly() {
    let head = "PUT /x HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut at = Setup { room: 40_000, ..Setup::default() }
        .streaming(head, "HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n");
    at.pair.reads_only(at.client, 0);
    at.pair.send(at.upstream, vec![b'x'; 70_000]);
    assert_eq!(at.pair.hub.core.census().exchanges, 0, "the response is not complete");
    take_slowly(&mut at.pair, at.client, 10_000, 70_000);
    at.pair.assert_quiet(1);
}

#[test]
fn the_longest_idle_client_makes_room_for_a_new_one() {
    // Four more are let in who have asked for nothing.
    let mut pair = Setup::default().hub(|hub| hub.max_clients = 3).joined();
    let busy = pair.client();
    pair.send(busy, GET);
    let idle: Vec<Raw> = (0..4).map(|_| pair.client()).collect();
    assert!(idle.iter().all(|client| pair.ended(*client).is_none()));
    let newest = pair.client();
    assert_closed(&mut pair, idle[0]);
    // A connection that was used is younger than one that waited all the time.
    let upstream = pair.upstream();
    pair.send(upstream, OK);
    assert_eq!(pair.got(busy), WAS_OK);
    let other = pair.client();
    assert_closed(&mut pair, idle[1]);
    for client in [idle[2], newest, other] {
        pair.send(client, GET);
    }
    assert_eq!((pair.hub.core.census().clients, pair.hub.core.census().exchanges), (5, 3));
    // All that may ask do so now: another request is turned away.
    pair.send(idle[3], GET);
    assert_refused(&mut pair, idle[3], 503, "too many clients");
    assert_closed(&mut pair, idle[3]);
    assert_eq!(pair.ended(busy), None);
    pair.assert_quiet(1);
}

#[test]
fn one_that_cannot_be_accepted_costs_an_idle_one() {
    let mut pair = Setup::default().joined();
    let idle = pair.client();
    pair.at_hub(|hub, now| assert!(hub.handle_exhausted(now)));
    assert_closed(&mut pair, idle);
    pair.at_hub(|hub, now| assert!(!hub.handle_exhausted(now)));
    pair.assert_quiet(1);
}

#[test]
fn clients_that_are_waited_for_make_room_for_those_that_ask() {
    let mut pair = Setup::default().hub(|hub| hub.max_clients = 3).joined();
    let ending = [(); 3].map(|()| {
        let client = pair.client();
        pair.send(client, "GARBAGE\r\n\r\n");
        assert!(pair.got(client).starts_with("HTTP/1.1 400 "));
        client
    });
    assert_eq!(pair.hub.core.census().clients, 3);
    for _ in 0..3 {
        let client = pair.client();
        pair.send(client, GET);
        assert_eq!(pair.ended(client), None);
    }
    let census = pair.hub.core.census();
    assert_eq!((census.clients, census.exchanges), (3, 3));
    assert!(ending.iter().all(|client| pair.ended(*client).is_some()));
    pair.assert_quiet(1);
}

#[test]
fn short_connections_leave_no_wake_ups_behind() {
    let mut pair = Setup::hub_only().start();
    let agent = pair.raw_agent(&token(1), 0);
    let wait = "GET /y HTTP/1.1\r\nHost: app.test\r\nSlime-Block: 1\r\nSlime-Max-Wait: 30000000\r\n\r\n";
    let busy = pair.client();
    pair.send(busy, GET);
    pair.got(agent);
    for _ in 0..2000 {
        let client = pair.client();
        pair.send(client, wait);
        pair.close(client);
        assert!(pair.hub.core.timers.len() < 400);
    }
    pair.assert_quiet(0);
}
