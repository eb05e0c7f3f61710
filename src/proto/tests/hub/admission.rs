//! What is asked of a request before it gets a worker.

use super::*;
use crate::proto::testing::Setup;
use crate::proto::testing::pair::{token, without_names};
use crate::proto::testing::scenario::*;

const POST: &str = "POST /x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\n\r\n";
const GOT_POST: &str = "POST /x HTTP/1.1\r\nHost: up.test\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: http\r\n\
     X-Forwarded-Host: app.test\r\nVia: 1.1 slime\r\nContent-Length: 5\r\n\r\nhello";
const FORWARDED: &str = "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: app.test\r\nVia: 1.1 slime\r\n";
const EXPECT: &str = "Expect: 100-continue\r\n";
const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";

fn put(length: usize, more: &str) -> String {
    format!("PUT /x HTTP/1.1\r\nHost: app.test\r\nContent-Length: {length}\r\n{more}\r\n")
}

fn put_chunked(more: &str) -> String {
    format!("PUT /x HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n{more}\r\n")
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| b'a' + u8::try_from(at % 23).unwrap()).collect()
}

#[test]
fn requests_reach_the_upstream_and_responses_the_application() {
    Setup::default().in_every_way(|setup| {
        let mut pair = setup.joined();
        let client = pair.client();
        pair.send(client, GET);
        let upstream = pair.upstream();
        for _ in 0..3 {
            assert_eq!(pair.got(upstream), GOT);
            pair.send(upstream, OK);
            assert_eq!(pair.got(client), WAS_OK);
            pair.send(client, GET);
        }
        assert_eq!((pair.ended(client), pair.arrivals()), (None, 0));
        pair.assert_quiet(1);
    });
}

#[test]
fn a_small_body_is_awaited_wherever_it_is_split() {
    let request = format!("{POST}hello");
    for at in 0..request.len() {
        let mut pair = Setup::default().joined();
        let client = pair.client();
        pair.send(client, &request[..at]);
        assert_eq!(pair.arrivals(), 0, "a worker is taken before the body is complete, at {at}");
        assert_eq!(pair.hub.core.census().gathering, usize::from(at >= POST.len()));
        pair.send(client, &request[at..]);
        let upstream = pair.upstream();
        assert_eq!(pair.got(upstream), GOT_POST);
        pair.send(upstream, OK);
        assert_eq!(pair.got(client), WAS_OK);
        pair.assert_quiet(1);
    }
}

#[test]
fn a_body_that_does_not_come_in_time_is_408() {
    let mut pair = Setup::default().joined();
    let client = pair.client();
    pair.send(client, POST);
    // However it dribbles: the limit is for all of it.
    for byte in ["h", "e", "l", "l"] {
        pair.advance(seconds(7));
        pair.send(client, byte);
    }
    assert_eq!(pair.got(client), "");
    pair.advance(seconds(2));
    assert_refused(&mut pair, client, 408, "body did not arrive in time");
    assert_closed(&mut pair, client);
    assert_eq!(pair.arrivals(), 0);
    pair.assert_quiet(1);
}

#[test]
fn who_leaves_while_the_body_is_awaited_costs_no_worker() {
    for leave in [Pair::finish, Pair::close, Pair::reset] {
        let mut pair = Setup::default().joined();
        let client = pair.client();
        pair.send(client, POST);
        pair.send(client, "hell");
        leave(&mut pair, client);
        assert_eq!(pair.hub.core.census().exchanges, 0);
        assert_eq!(pair.arrivals(), 0);
        pair.assert_quiet(1);
    }
}

#[test]
fn a_large_body_gets_a_worker_once_as_much_is_held_as_may_be_and_goes_when_the_agent_is_ready_for_it() {
    let body = bytes(40_000);
    let mut pair = Setup::hub_only().hub(|hub| hub.hold = 0).start();
    let agent = pair.raw_agent(&token(1), 0);
    pair.got(agent);
    let client = pair.client();
    pair.send(client, put(body.len(), ""));
    pair.send(client, &body[..16 * 1024 - 1]);
    assert_eq!(pair.got(agent), "");
    pair.send(client, &body[16 * 1024 - 1..]);
    let head = format!(
        "PUT /x HTTP/1.1\r\nHost: app.test\r\n{FORWARDED}Content-Length: 40000\r\n{EXPECT}Slime-Expect: connect\r\n\r\n"
    );
    assert_eq!(pair.got(agent), head);
    pair.send(agent, CONTINUE);
    assert_eq!(pair.got_bytes(agent), body);
    pair.send(agent, OK);
    assert_eq!(pair.got(client), WAS_OK);
    pair.assert_quiet(0);
}

#[test]
fn a_large_body_comes_through_in_one_piece() {
    Setup::default().in_every_way(|setup| {
        let body = bytes(if setup.grain < 9 || setup.room < 9 { 17_000 } else { 200_000 });
        let mut pair = setup.joined();
        let client = pair.client();
        pair.send(client, put(body.len(), ""));
        pair.send(client, &body);
        let upstream = pair.upstream();
        let mut got = pair.got_bytes(upstream);
        let got_body = got.split_off(got.len() - body.len());
        let head =
            format!("PUT /x HTTP/1.1\r\nHost: up.test\r\n{FORWARDED}Content-Length: {}\r\n\r\n", body.len());
        assert_eq!(without_names(core::str::from_utf8(&got).unwrap()), head);
        assert!(got_body == body);
        pair.send(upstream, OK);
        assert_eq!(pair.got(client), WAS_OK);
        pair.assert_quiet(1);
    });
}

#[test]
fn an_expectation_is_met_by_the_hub_where_the_body_fits() {
    let mut pair = Setup::default().joined();
    let client = pair.client();
    pair.send(client, POST.replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n"));
    assert_eq!(pair.got(client), CONTINUE);
    assert_eq!(pair.arrivals(), 0);
    pair.send(client, "hello");
    let upstream = pair.upstream();
    assert_eq!(pair.got(upstream), GOT_POST);
    pair.send(upstream, OK);
    assert_eq!(pair.got(client), WAS_OK);
    pair.assert_quiet(1);
}

#[test]
fn an_expectation_beyond_the_buffer_is_the_upstreams_to_meet() {
    Setup::default().in_every_way(|setup| {
        let body = bytes(20_000);
        let mut pair = setup.joined();
        let client = pair.client();
        pair.send(client, put(body.len(), EXPECT));
        let upstream = pair.upstream();
        let head =
            format!("PUT /x HTTP/1.1\r\nHost: up.test\r\n{FORWARDED}Content-Length: 20000\r\n{EXPECT}\r\n");
        assert_eq!(pair.got(upstream).len(), head.len());
        assert_eq!(pair.got(client), "");
        // The upstream has some time to say it.
        pair.advance(seconds(4));
        pair.send(upstream, CONTINUE);
        let interim = "HTTP/1.1 100 Continue\r\nSlime-Agent-Id: a\r\nVia: 1.1 slime\r\n\r\n";
        assert_eq!(pair.got(client), interim);
        pair.send(client, &body);
        assert_eq!(pair.got_bytes(upstream), body);
        pair.send(upstream, OK);
        assert_eq!(pair.got(client), WAS_OK);
        pair.assert_quiet(1);
    });
}

#[test]
fn an_expectation_that_the_upstream_does_not_know_is_met_by_the_hub() {
    let body = bytes(20_000);
    let mut at = Setup::default().at_upstream(&put(body.len(), EXPECT));
    at.pair.advance(seconds(5) + COARSE);
    assert_eq!(at.pair.got(at.client), CONTINUE);
    at.pair.send(at.client, &body);
    assert_eq!(at.pair.got_bytes(at.upstream), body);
    at.pair.advance(seconds(3600));
    at.pair.send(at.upstream, OK);
    assert_eq!((at.pair.got(at.client).as_str(), at.pair.ended(at.client)), (WAS_OK, None));
    at.pair.assert_quiet(1);
}

#[test]
fn an_expectation_that_is_met_and_a_body_that_does_not_come_hold_no_worker() {
    let mut at = Setup::default().at_upstream(&put(1_000_000, EXPECT));
    at.pair.advance(seconds(5) + COARSE);
    assert_eq!(at.pair.got(at.client), CONTINUE);
    at.pair.advance(seconds(60) + COARSE);
    assert_refused(&mut at.pair, at.client, 408, "body did not arrive in time");
    assert!(at.pair.ended(at.upstream).is_some());
    at.pair.assert_quiet(1);
}

#[test]
fn an_expectation_may_be_refused_before_the_body_is_sent() {
    let mut at = Setup::default().at_upstream(&put_chunked(EXPECT));
    at.pair.send(at.upstream, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n");
    let got = at.pair.got(at.client);
    // The application must not take the connection for one that carries another request.
    assert!(got.starts_with("HTTP/1.1 413 ") && got.contains("\r\nConnection: close\r\n"), "{got}");
    assert_closed(&mut at.pair, at.client);
    at.pair.assert_quiet(1);
}

#[test]
fn chunks_are_dispatched_at_once_and_gated() {
    let mut pair = Setup::hub_only().start();
    let agent = pair.raw_agent(&token(1), 0);
    pair.got(agent);
    let client = pair.client();
    pair.send(client, put_chunked(""));
    let head = format!(
        "PUT /x HTTP/1.1\r\nHost: app.test\r\n{FORWARDED}Transfer-Encoding: chunked\r\n{EXPECT}Slime-Expect: connect\r\n\r\n"
    );
    assert_eq!(pair.got(agent), head);
    pair.send(client, "5;ext=1\r\nhello\r\n0");
    assert_eq!(pair.got(agent), "");
    pair.send(agent, CONTINUE);
    assert_eq!(pair.got(agent), "5\r\nhello\r\n");
    pair.send(client, "0\r\nA: b\r\n\r\n");
    assert_eq!(pair.got(agent), "0\r\nA: b\r\n\r\n");
    assert_eq!(pair.got(client), "");
    pair.send(agent, OK);
    assert_eq!(pair.got(client), WAS_OK);
    pair.assert_quiet(0);
}

#[test]
fn chunks_come_through_wherever_they_are_split() {
    let head = put_chunked("");
    let body = "5\r\nhello\r\n6;x\r\n world\r\n0\r\n\r\n";
    let request = format!("{head}{body}");
    for at in 0..=request.len() {
        let mut pair = Setup::default().joined();
        let client = pair.client();
        pair.send(client, &request[..at]);
        pair.send(client, &request[at..]);
        let upstream = pair.upstream();
        let to_upstream =
            format!("PUT /x HTTP/1.1\r\nHost: up.test\r\n{FORWARDED}Transfer-Encoding: chunked\r\n\r\n");
        assert_eq!(pair.got(upstream), format!("{to_upstream}5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"));
        pair.send(upstream, OK);
        assert_eq!(pair.got(client), WAS_OK);
        assert_eq!(pair.ended(client), None);
        pair.assert_quiet(1);
    }
}

#[test]
fn a_body_beyond_the_limit_is_413() {
    let setup = || Setup::default().hub(|hub| hub.max_body = Some(10));
    let mut pair = setup().joined();
    let client = pair.client();
    pair.send(client, put(11, ""));
    assert_refused(&mut pair, client, 413, "larger than this hub allows");
    assert_closed(&mut pair, client);
    assert_eq!(pair.arrivals(), 0);
    pair.assert_quiet(1);

    let mut pair = setup().joined();
    let client = pair.client();
    pair.send(client, put_chunked(""));
    let upstream = pair.upstream();
    pair.send(client, "5\r\nhello\r\n5\r\nworld\r\n");
    assert_refused(&mut pair, client, 413, "larger than this hub allows");
    assert_closed(&mut pair, client);
    assert!(pair.ended(upstream).is_some(), "the upstream must not wait for the rest");
    pair.assert_quiet(1);
}

#[test]
fn a_body_beyond_the_limit_is_413_though_nobody_would_have_to_look_at_it() {
    for queued in [false, true] {
        let setup = Setup { splices: true, ..Setup::default() }.hub(|hub| hub.max_body = Some(1_000_000));
        let (mut pair, busy) = if queued {
            let at = setup.at_upstream(GET);
            (at.pair, Some(at.upstream))
        } else {
            (setup.joined(), None)
        };
        let client = pair.client();
        pair.send(client, put_chunked(""));
        // One chunk of 20 MB, of which no more comes.
        pair.send(client, format!("1312d00\r\n{}", "x".repeat(900_000)));
        let upstream = match busy {
            Some(upstream) => {
                pair.send(upstream, OK);
                upstream
            }
            None => pair.upstream(),
        };
        assert!(pair.got(upstream).ends_with('x'), "it goes on as it comes");
        pair.send(client, "x".repeat(200_000));
        assert_refused(&mut pair, client, 413, "larger than this hub");
        assert!(pair.got(upstream).len() < 100_001);
        assert!(pair.ended(upstream).is_some());
        pair.assert_quiet(1);
    }
}

#[test]
fn the_app_password_comes_first_and_goes_no_further() {
    let setup = || Setup::default().hub(|hub| hub.app_password = Some("geheim".to_owned()));
    for wrong in [
        "",
        "Slime-App-Password: gehei\r\n",
        "Authorization: Bearer geheim2\r\n",
        "Authorization: Basic geheim\r\n",
    ] {
        let mut pair = setup().joined();
        let client = pair.client();
        pair.send(client, put(100_000, wrong));
        assert_refused(&mut pair, client, 401, "app password");
        assert_closed(&mut pair, client);
        assert_eq!(pair.arrivals(), 0);
        pair.assert_quiet(1);
    }
    for right in [
        "Slime-App-Password: geheim\r\n",
        "Authorization: Bearer geheim\r\n",
        "authorization: bearer geheim\r\n",
    ] {
        let mut pair = setup().joined();
        let client = pair.client();
        pair.send(client, GET.replace("\r\n\r\n", &format!("\r\n{right}\r\n")));
        let upstream = pair.upstream();
        assert_eq!(pair.got(upstream), GOT);
        pair.assert_quiet(1);
    }
    // What was not meant for the hub goes on.
    let mut pair = setup().joined();
    let client = pair.client();
    pair.send(
        client,
        GET.replace("\r\n\r\n", "\r\nSlime-App-Password: geheim\r\nAuthorization: Bearer own\r\n\r\n"),
    );
    let upstream = pair.upstream();
    assert!(pair.got(upstream).contains("Authorization: Bearer own\r\n"));
}

#[test]
fn what_cannot_be_forwarded_is_refused_and_nothing_after_it_is_read() {
    let long = "x".repeat(9000);
    let fields = "A: b\r\n".repeat(101);
    let deep = format!("A: {}\r\n", "x".repeat(6000)).repeat(3);
    let cases = [
        (400, "GET /x HTTP/1.1\r\n\r\n".to_owned()),
        (400, "GET /x HTTP/1.1\nHost: a\n\n".to_owned()),
        (400, "\u{16}\u{3}\u{1}".to_owned()),
        (400, put(5, "Transfer-Encoding: chunked\r\n")),
        (400, put(5, "Content-Length: 6\r\n")),
        (400, GET.replace("\r\n\r\n", "\r\nSlime-Block: maybe\r\n\r\n")),
        (400, GET.replace("\r\n\r\n", "\r\nSlime-Max-Wait: -1\r\n\r\n")),
        (404, "GET /.slime/tunnel HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        (404, "GET /a/%2eslime/x HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        (414, format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n")),
        (431, format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")),
        (431, format!("GET / HTTP/1.1\r\nHost: a\r\n{deep}\r\n")),
        (501, "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n".to_owned()),
        (505, "GET / HTTP/2.0\r\nHost: a\r\n\r\n".to_owned()),
    ];
    for (status, request) in cases {
        let mut pair = Setup::default().joined();
        let client = pair.client();
        pair.send(client, format!("{request}{GET}"));
        assert_refused(&mut pair, client, status, "");
        assert_closed(&mut pair, client);
        assert_eq!(pair.arrivals(), 0);
        pair.assert_quiet(1);
    }
}

#[test]
fn a_request_that_comes_back_is_508() {
    let own = Setup::hub_only().hub.name;
    for (via, status) in [
        (format!("1.1 {own}"), 508),
        (format!("1.0 front, 1.1 {own}"), 508),
        (format!("1.1 a (x, y),HTTP/1.1 \t{} (z)", own.to_uppercase()), 508),
        (format!("1.1 {own}x, 1.1 x{own}, {own} 1.1"), 200),
        (String::from("1.1 slime.12345678"), 200),
    ] {
        for nominated in ["", "Connection: Via\r\n"] {
            let mut pair = Setup::default().joined();
            let client = pair.client();
            pair.send(client, format!("GET /x HTTP/1.1\r\nHost: app.test\r\n{nominated}Via: {via}\r\n\r\n"));
            if status == 200 {
                let upstream = pair.upstream();
                assert!(pair.got(upstream).contains(&format!("Via: {via}\r\nX-Forwarded-For")), "{via}");
            } else {
                assert_refused(&mut pair, client, 508, "come through this hub before");
                assert_eq!(pair.arrivals(), 0);
            }
        }
    }
}

#[test]
fn a_scope_is_one() {
    for (fields, detail) in [
        ("Slime-Scope:\r\n", "not a scope"),
        ("Slime-Scope: \t\r\n", "not a scope"),
        ("Slime-Scope: a\r\nslime-scope: b\r\n", "given twice"),
        ("Slime-Scope: a\r\nSlime-Scope: a\r\n", "given twice"),
        ("Slime-Scope: a\r\nSlime-Scope:\r\n", "given twice"),
        ("Slime-Block: 0\r\nSlime-Block: 1\r\n", "given twice"),
        ("Slime-Max-Wait: 1\r\nSlime-Max-Wait: 9\r\n", "given twice"),
    ] {
        let mut pair = Setup::default().joined();
        let client = pair.client();
        pair.send(client, format!("GET /x HTTP/1.1\r\nHost: app.test\r\n{fields}\r\n"));
        assert_refused(&mut pair, client, 400, detail);
        assert_eq!(pair.arrivals(), 0);
    }
}

#[test]
fn max_forwards_ends_here_or_is_counted_down() {
    let trace = "TRACE /x HTTP/1.1\r\nHost: app.test\r\nMax-Forwards: 0\r\nX: y\r\n";
    let options = "OPTIONS /x HTTP/1.1\r\nHost: app.test\r\nmax-forwards: 00\r\nMax-Forwards: 7\r\n\r\n";
    let mut pair = Setup::default().joined();
    let client = pair.client();
    pair.send(
        client,
        format!("{trace}Authorization: Bearer s\r\nCookie: s\r\nSlime-App-Password: s\r\n\r\n"),
    );
    let echo = format!("{trace}\r\n");
    let head = "HTTP/1.1 200 OK\r\nContent-Type: message/http\r\nCache-Control: no-store\r\n";
    let expected = format!("{head}Content-Length: {}\r\nConnection: close\r\n\r\n{echo}", echo.len());
    assert_eq!(pair.got(client), expected);
    let client = pair.client();
    pair.send(client, options);
    let expected =
        "HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert_eq!(pair.got(client), expected);
    assert_eq!(pair.arrivals(), 0);
    // The agent is a recipient, too.
    let client = pair.client();
    pair.send(client, "OPTIONS * HTTP/1.1\r\nHost: app.test\r\nMax-Forwards: 1\r\n\r\n");
    assert!(
        pair.got(client).starts_with("HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nSlime-Agent-Id: a\r\n")
    );
    assert_eq!(pair.arrivals(), 0);
    for (method, came, went) in [
        ("OPTIONS", "2", "0"),
        ("TRACE", "10", "8"),
        ("TRACE", "99999999999999999999999", "18446744073709551613"),
        ("OPTIONS", "x", "x"),
        ("GET", "0", "0"),
        ("POST", "5", "5"),
    ] {
        let mut pair = Setup::default().joined();
        let client = pair.client();
        pair.send(client, format!("{method} /x HTTP/1.1\r\nHost: app.test\r\nMax-Forwards: {came}\r\n\r\n"));
        let upstream = pair.upstream();
        assert!(pair.got(upstream).contains(&format!("\r\nMax-Forwards: {went}\r\n")), "{method} {came}");
    }
}
