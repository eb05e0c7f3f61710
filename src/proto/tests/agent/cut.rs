//! Responses that are cut, or come before their request has ended.

use super::serve::{POST, SIGN, serving};
use super::*;
use crate::proto::testing::scenario::{GET, OK};

#[test]
fn an_upstream_that_breaks_before_it_answers_is_502_and_nothing_is_said_to_be_refused() {
    for response in
        ["", "HTTP/1.1 200 OK\r\nContent-", "HTTP/1.1 100 Continue\r\n\r\n", "\r\n\r\n", "SSH-2.0-x\r\n"]
    {
        for end in [Pair::close, Pair::reset, Pair::finish] {
            let (mut pair, hub, upstream) = serving(Setup::default(), POST);
            pair.got(hub);
            pair.send(upstream, response);
            end(&mut pair, upstream);
            let got = pair.got(hub);
            let last = got.rfind("HTTP/1.1 ").unwrap();
            assert!(got[last..].starts_with("HTTP/1.1 502 ") && !got.contains("Slime-Refused"), "{got}");
            assert_eq!(pair.ended(hub), None);
            pair.send(hub, GET);
            let fresh = pair.upstream();
            pair.send(fresh, OK);
            assert_eq!(pair.got(hub), OK);
        }
    }
}

#[test]
fn a_response_that_is_cut_closes_the_tunnel() {
    for response in [
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ] {
        for end in [Pair::close, Pair::reset, Pair::finish] {
            let (mut pair, hub, upstream) = serving(Setup::default(), GET);
            pair.got(hub);
            pair.send(upstream, response);
            end(&mut pair, upstream);
            assert_eq!(pair.got(hub), response);
            assert!(pair.ended(hub).is_some());
            joins_again(&mut pair, "?1");
        }
    }
}

#[test]
fn an_early_response_comes_through_and_the_rest_of_the_request_is_dropped() {
    let head = "PUT /x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 50000\r\n\r\n";
    let (mut pair, hub, upstream) = serving(Setup::default(), head);
    pair.got(hub);
    pair.send(hub, "x".repeat(20_000));
    pair.send(upstream, "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
    assert_eq!(pair.got(hub), "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
    assert!(pair.ended(upstream).is_some());
    // The hub may have sent all of it, and the next request behind it: the tunnel must not be closed under
    // them.
    assert_eq!(pair.ended(hub), None);
    pair.send(hub, "x".repeat(30_000));
    pair.send(hub, "GET /next HTTP/1.1\r\nHost: app.test\r\n\r\n");
    let upstream = pair.upstream();
    assert!(pair.got(upstream).starts_with("GET /next "));
    pair.send(upstream, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(pair.got(hub), "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(pair.arrivals(), 0);
}

#[test]
fn a_request_that_does_not_end_after_its_response_costs_the_tunnel() {
    let head = "PUT /x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 50000\r\n\r\n";
    let (mut pair, hub, upstream) = serving(Setup::default(), head);
    pair.got(hub);
    pair.send(upstream, "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
    pair.got(hub);
    pair.advance(seconds(59));
    assert_eq!(pair.ended(hub), None);
    pair.advance(seconds(2));
    assert_eq!(pair.ended(hub), Some(Ended::Fin));
    joins_again(&mut pair, "?1");
}

#[test]
fn a_response_is_read_even_if_the_request_could_not_be_written() {
    let head = "PUT /x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 50000\r\n\r\n";
    let (mut pair, hub, upstream) = serving(Setup::default(), head);
    pair.got(hub);
    // It answers and closes while the body is on its way: the bytes of the body meet a reset.
    pair.reads_only(upstream, 0);
    pair.send(hub, "x".repeat(1000));
    let answer = "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno";
    pair.send_quietly(upstream, answer);
    pair.reset(upstream);
    pair.send(hub, "x".repeat(1000));
    let got = pair.got(hub);
    assert!(got.starts_with("HTTP/1.1 413 ") && got.ends_with("\r\n\r\nno"), "{got}");
    assert_eq!(pair.ended(hub), None);
}

#[test]
fn an_upstream_that_reads_and_then_takes_nothing_for_a_minute_is_502() {
    let head = "PUT /x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 90000\r\n\r\n";
    let (mut pair, hub, upstream) = serving(Setup { room: 1000, ..Setup::default() }, head);
    pair.got(hub);
    pair.reads_only(upstream, 0);
    pair.send(hub, "x".repeat(50_000));
    pair.advance(seconds(3));
    pair.reads_only(upstream, 500);
    pair.advance(seconds(59));
    assert_eq!(pair.ended(upstream), None);
    pair.advance(seconds(2));
    let got = pair.got(hub).replace(SIGN, "");
    assert!(got.starts_with("HTTP/1.1 502 "), "{got}");
    assert!(got.contains("Connection: close\r\n"), "{got}");
}
