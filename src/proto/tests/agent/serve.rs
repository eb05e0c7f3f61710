//! One request, from the tunnel to the upstream and back.

use super::*;
use crate::config::OnCancel;
use crate::proto::seam::{Target, Unreachable};
use crate::proto::testing::scenario::{GET, OK};

pub(super) const TO_UPSTREAM: &str = "GET /x HTTP/1.1\r\nHost: up.test\r\n\r\n";
pub(super) const POST: &str = "POST /x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 2\r\n\r\nab";
pub(super) const POSTED: &str = "POST /x HTTP/1.1\r\nHost: up.test\r\nContent-Length: 2\r\n\r\nab";
pub(super) const SIGN: &str = "HTTP/1.1 102 Processing\r\nSlime-Heartbeat: ?1\r\n\r\n";
pub(super) const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";

pub(super) fn refusal(reason: &str) -> String {
    format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\nSlime-Refused: {reason}\r\n\r\n"
    )
}

/// A request is at the upstream, which has read it.
pub(super) fn serving(setup: Setup, request: &str) -> (Pair, Raw, Raw) {
    let (mut pair, hub) = joined(setup);
    pair.send(hub, request);
    let upstream = pair.upstream();
    pair.got(upstream);
    (pair, hub, upstream)
}

#[test]
fn the_upstreams_url_is_applied() {
    let setup = || {
        Setup::default().agent(|agent| {
            agent.upstreams[0].base_path = "/base".to_owned();
            agent.upstreams[0].authorization = Some("Basic dTpw".to_owned());
        })
    };
    let request = "GET /x?y HTTP/1.1\r\nHost: app.test\r\nAuthorization: Bearer z\r\nSlime-Scope: s\r\n\r\n";
    let (mut pair, hub) = joined(setup());
    pair.send(hub, request);
    let upstream = pair.upstream();
    assert_eq!(
        pair.got(upstream),
        "GET /base/x?y HTTP/1.1\r\nHost: up.test\r\nAuthorization: Basic dTpw\r\n\r\n"
    );
    let (mut pair, hub) = joined(setup().agent(|agent| agent.preserve_host = true));
    pair.send(hub, request);
    let upstream = pair.upstream();
    assert!(pair.got(upstream).starts_with("GET /base/x?y HTTP/1.1\r\nHost: app.test\r\n"));
}

#[test]
fn an_upstream_that_cannot_be_reached_refuses_and_the_worker_comes_back_withdrawn() {
    for (reach, reason, within) in [
        (Reach::Fails(Unreachable::Refused), "nothing is listening there", 0),
        (Reach::Fails(Unreachable::NameNotFound), "cannot resolve its name", 0),
        (Reach::Fails(Unreachable::Other), "it cannot be reached", 0),
        (Reach::Silent, "it does not answer", 5),
    ] {
        for request in [GET, POST] {
            let (mut pair, hub) = joined(Setup::default());
            pair.got(hub);
            pair.to_upstream = reach;
            pair.send(hub, request);
            pair.advance(seconds(within));
            assert_eq!(pair.got(hub), refusal(reason));
            pair.close(hub);
            let hub = pair.raw_hub();
            let withdrawn = hello(&format!("?0\r\nSlime-Reason: {reason}"));
            assert_eq!(pair.got(hub), withdrawn);
            pair.send(hub, WELCOME);
            // It is back within two seconds of its upstream.
            pair.advance(seconds(60));
            pair.to_upstream = Reach::Raw;
            pair.advance(seconds(if reach == Reach::Silent { 7 } else { 2 }));
            assert!(pair.ended(hub).is_some());
            joins_again(&mut pair, "?1");
        }
    }
}

#[test]
fn an_upstream_that_ends_connections_before_they_stand_is_not_reached() {
    for request in [GET, POST] {
        let (mut pair, hub) = joined(Setup::default());
        pair.got(hub);
        pair.to_upstream = Reach::Ends("");
        pair.send(hub, request);
        assert_eq!(pair.got(hub), refusal("it ends connections at once"));
        pair.close(hub);
        let hub = pair.raw_hub();
        assert_eq!(pair.got(hub), hello("?0\r\nSlime-Reason: it ends connections at once"));
        // It can be connected to, and no probe asks for more.
        pair.send(hub, WELCOME);
        pair.advance(seconds(1));
        joins_again(&mut pair, "?1");
    }
}

/// A handshake that overtook the refusal would replace the tunnel, and cost the request.
#[test]
fn a_worker_that_refused_joins_anew_once_the_hub_has_closed_its_tunnel() {
    for closes in [Pair::close, Pair::finish, Pair::reset] {
        let (mut pair, hub) = joined(Setup::default());
        pair.got(hub);
        pair.to_upstream = Reach::Fails(Unreachable::Refused);
        pair.send(hub, "POST /x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\n\r\nhe");
        assert_eq!(pair.got(hub), refusal("nothing is listening there"));
        // The rest of the request, and more than it: nothing of it is looked at.
        pair.send(hub, "llo");
        pair.send(hub, GET);
        pair.advance(seconds(4));
        assert_eq!((pair.got(hub).as_str(), pair.ended(hub), pair.arrivals()), ("", None, 0));
        closes(&mut pair, hub);
        joins_again(&mut pair, "?0\r\nSlime-Reason: nothing is listening there");
    }
    // A hub that does not close it is not waited for.
    let (mut pair, hub) = joined(Setup::default());
    pair.got(hub);
    pair.to_upstream = Reach::Fails(Unreachable::Refused);
    pair.send(hub, POST);
    pair.advance(seconds(5));
    assert!(pair.ended(hub).is_some());
    joins_again(&mut pair, "?0\r\nSlime-Reason: nothing is listening there");
}

#[test]
fn what_an_upstream_said_before_its_connection_stood_counts() {
    for splices in [false, true] {
        let (mut pair, hub) = joined(Setup { splices, ..Setup::default() });
        pair.got(hub);
        pair.to_upstream = Reach::Ends(OK);
        pair.send(hub, GET);
        assert_eq!(pair.got(hub), "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
    }
}

#[test]
fn the_body_is_asked_for_once_the_upstream_connection_stands() {
    let head = "PUT /x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\nSlime-Expect: connect\r\n\r\n";
    for at in 0..=head.len() {
        let (mut pair, hub) = joined(Setup::default());
        pair.got(hub);
        pair.send(hub, &head[..at]);
        pair.send(hub, &head[at..]);
        assert_eq!(pair.got(hub), CONTINUE);
        let upstream = pair.upstream();
        assert_eq!(pair.got(upstream), "PUT /x HTTP/1.1\r\nHost: up.test\r\nContent-Length: 5\r\n\r\n");
        pair.send(hub, "hello");
        assert_eq!(pair.got(upstream), "hello");
        pair.send(upstream, OK);
        assert_eq!(pair.got(hub), OK);
    }
    let (mut pair, hub) = joined(Setup::default());
    pair.got(hub);
    pair.to_upstream = Reach::Fails(Unreachable::Refused);
    pair.send(hub, head);
    assert_eq!(pair.got(hub), refusal("nothing is listening there"));
}

#[test]
fn an_applications_expectation_is_the_upstreams() {
    let head = "PUT /x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    let (mut pair, hub) = joined(Setup::default());
    pair.got(hub);
    pair.send(hub, head);
    let upstream = pair.upstream();
    assert_eq!(
        pair.got(upstream),
        "PUT /x HTTP/1.1\r\nHost: up.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    );
    assert_eq!(pair.got(hub), "");
    pair.send(upstream, CONTINUE);
    assert_eq!(pair.got(hub), CONTINUE);
    pair.send(hub, "hello");
    assert_eq!(pair.got(upstream), "hello");
}

#[test]
fn signs_of_life_are_given_until_the_head_has_come() {
    let (mut pair, hub, upstream) = serving(Setup::default(), GET);
    pair.got(hub);
    for _ in 0..4 {
        pair.advance(Duration::from_millis(14_400));
        assert_eq!(pair.got(hub), "");
        pair.advance(Duration::from_millis(600));
        assert_eq!(pair.got(hub), SIGN);
    }
    pair.send(upstream, "HTTP/1.1 103 Early Hints\r\n\r\n");
    assert_eq!(pair.got(hub), "HTTP/1.1 103 Early Hints\r\n\r\n");
    pair.advance(seconds(15));
    assert_eq!(pair.got(hub), SIGN);
    pair.send(upstream, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n");
    pair.got(hub);
    pair.advance(seconds(1000));
    assert_eq!(pair.got(hub), "");
    pair.send(upstream, "hi");
    assert_eq!(pair.got(hub), "hi");
}

#[test]
fn cancelling_closes_the_upstream_connection_and_only_then_dials() {
    for response in
        ["", "HTTP/1.1 103 Early Hints\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"]
    {
        for request in [GET, POST, "PUT /x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 9\r\n\r\nabc"] {
            for leave in [Pair::close, Pair::reset, Pair::finish] {
                let (mut pair, hub, upstream) = serving(Setup::default(), request);
                pair.send(upstream, response);
                leave(&mut pair, hub);
                assert!(pair.ended(upstream).is_some());
                joins_again(&mut pair, "?1");
                let census = pair.agents[0].core.census();
                assert_eq!((census.tunnels, census.upstreams, census.serving), (1, 0, 0));
            }
        }
    }
}

#[test]
fn an_upstream_that_cannot_stop_is_read_to_the_end_before_the_worker_is_free() {
    let setup = || Setup::default().agent(|agent| agent.on_cancel = OnCancel::Drain);
    for (response, end) in [
        ("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", false),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x\r\nhello\r\n0\r\n\r\n", false),
        ("HTTP/1.1 204 No Content\r\n\r\n", false),
        ("HTTP/1.1 200 OK\r\n\r\nhello", true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello", true),
        ("HTTP/1.1 20", true),
        ("", true),
    ] {
        for at in 0..=response.len() {
            let (mut pair, hub, upstream) = serving(setup(), POST);
            pair.send(upstream, &response[..at]);
            let complete = at == response.len() && !end;
            pair.close(hub);
            if complete {
                // The tunnel was idle.
                pair.advance(seconds(1));
            } else {
                let hub = finishes(&mut pair);
                pair.advance(seconds(590));
                assert_eq!((pair.ended(upstream), pair.arrivals()), (None, 0), "{response} at {at}");
                pair.send(upstream, &response[at..]);
                if end {
                    assert_eq!((pair.ended(hub), pair.arrivals()), (None, 0), "{response} at {at}");
                    pair.close(upstream);
                }
                assert!(pair.ended(hub).is_some());
            }
            joins_again(&mut pair, "?1");
            assert_eq!(pair.agents[0].core.census().serving, 0);
        }
    }
    // What is no HTTP has no end: it is given up.
    for response in [
        "SSH-2.0-x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
        "HTTP/1.1 101 x\r\n\r\n",
    ] {
        let (mut pair, hub, upstream) = serving(setup(), POST);
        pair.close(hub);
        finishes(&mut pair);
        pair.send(upstream, response);
        assert!(pair.ended(upstream).is_some(), "{response}");
        joins_again(&mut pair, "?1");
    }
    // A request that is not complete can be stopped, and so can an upgraded connection.
    let (mut pair, hub, upstream) =
        serving(setup(), "PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc");
    pair.close(hub);
    assert!(pair.ended(upstream).is_some());
    joins_again(&mut pair, "?1");
}

#[test]
fn an_upstream_that_has_not_taken_all_of_the_request_can_be_stopped() {
    let body = "x".repeat(5000);
    let request = format!("POST /x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5000\r\n\r\n{body}");
    let setup = Setup { room: 1000, ..Setup::default() };
    let (mut pair, hub) = joined(setup.agent(|agent| agent.on_cancel = OnCancel::Drain));
    pair.send(hub, &request[..1000]);
    let upstream = pair.upstream();
    pair.reads_only(upstream, 0);
    pair.send(hub, &request[1000..]);
    pair.close(hub);
    pair.reads_only(upstream, usize::MAX);
    assert!(pair.ended(upstream).is_some());
    joins_again(&mut pair, "?1");
}

#[test]
fn a_request_waits_for_the_end_of_an_answer_that_nobody_else_waits_for() {
    let mut at = Setup::default().agent(|agent| agent.on_cancel = OnCancel::Drain).at_upstream(GET);
    at.pair.close(at.client);
    let next = at.pair.client();
    at.pair.send(next, GET);
    at.pair.advance(seconds(300));
    assert_eq!((at.pair.got(next).as_str(), at.pair.ended(next)), ("", None));
    at.pair.send(at.upstream, OK);
    let upstream = at.pair.upstream();
    at.pair.send(upstream, OK);
    assert!(at.pair.got(next).starts_with("HTTP/1.1 200 "));
    at.pair.assert_quiet(1);
}

#[test]
fn a_job_for_a_worker_that_reads_an_answer_to_its_end_is_refused() {
    let (mut pair, hub, upstream) =
        serving(Setup::default().agent(|agent| agent.on_cancel = OnCancel::Drain), POST);
    pair.close(hub);
    let hub = finishes(&mut pair);
    pair.send(hub, GET);
    assert!(pair.got(hub).contains("\r\nSlime-Loading: ?1\r\n"));
    assert_eq!((pair.ended(upstream), pair.arrivals_of(Target::Upstream(0))), (None, 0));
}

#[test]
fn draining_waits_for_an_upstream_that_cannot_stop() {
    let (mut pair, hub, upstream) =
        serving(Setup::default().agent(|agent| agent.on_cancel = OnCancel::Drain), POST);
    pair.close(hub);
    pair.drain_agent();
    assert_eq!(pair.agents[0].exit, None);
    pair.send(upstream, OK);
    assert_eq!(pair.agents[0].exit, Some(0));
}

#[test]
fn a_request_that_is_no_http_closes_the_tunnel() {
    for request in [
        "SSH-2.0-x\r\n\r\n",
        "GET /x HTTP/1.1\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    ] {
        let (mut pair, hub) = joined(Setup::default());
        pair.send(hub, request);
        assert!(pair.ended(hub).is_some());
        assert_eq!(pair.arrivals(), 0);
        pair.advance(seconds(1));
        joins_again(&mut pair, "?1");
    }
}

#[test]
fn requests_one_behind_the_other_are_served_one_by_one() {
    let (mut pair, hub, upstream) = serving(Setup::default(), &format!("{GET}{POST}"));
    pair.got(hub);
    assert_eq!(pair.arrivals(), 0);
    pair.send(upstream, OK);
    assert_eq!((pair.got(hub).as_str(), pair.got(upstream).as_str()), (OK, POSTED));
    pair.send(upstream, OK);
    assert_eq!(pair.got(hub), OK);
}

/// What a request gets that the agent answers itself.
fn answered(setup: Setup, request: &str) -> String {
    let (mut pair, hub) = joined(setup);
    pair.got(hub);
    pair.send(hub, request);
    assert_eq!(pair.arrivals_of(Target::Upstream(0)), 0, "{request}");
    let got = pair.got(hub);
    // The next request is served all the same.
    pair.send(hub, GET);
    let upstream = pair.upstream();
    assert!(pair.got(upstream).starts_with("GET "));
    pair.send(upstream, OK);
    assert_eq!(pair.got(hub), OK);
    got
}

#[test]
fn a_base_path_is_not_left() {
    let setup = || Setup::default().agent(|agent| agent.upstreams[0].base_path = "/public".to_owned());
    for path in [
        "/../private/x",
        "/..",
        "/a/%2e%2e/%2E%2E/x",
        "//x",
        "/.%2e/x",
        "/a%2f..%2fx",
        "/..;/x",
        "/a\\..\\x",
        "/./x",
    ] {
        let got = answered(setup(), &format!("GET {path} HTTP/1.1\r\nHost: app.test\r\n\r\n"));
        assert!(got.starts_with("HTTP/1.1 400 ") && got.contains("base path"), "{path}: {got}");
        // Without a base path it is the upstream's to judge.
        let (mut pair, hub) = joined(Setup::default());
        pair.send(hub, format!("GET {path} HTTP/1.1\r\nHost: app.test\r\n\r\n"));
        let upstream = pair.upstream();
        assert!(pair.got(upstream).starts_with(&format!("GET {path} HTTP/1.1\r\n")));
    }
    let (mut pair, hub) = joined(setup());
    pair.send(hub, "GET /a/..b?/../ HTTP/1.1\r\nHost: app.test\r\n\r\n");
    let upstream = pair.upstream();
    assert!(pair.got(upstream).starts_with("GET /public/a/..b?/../ HTTP/1.1\r\n"));
}

#[test]
fn credentials_are_not_traced() {
    let setup =
        || Setup::default().agent(|agent| agent.upstreams[0].authorization = Some("Basic dTpw".to_owned()));
    for method in ["TRACE", "trace", "TRACK"] {
        let request = format!("{method} /x HTTP/1.1\r\nHost: app.test\r\n\r\n");
        let got = answered(setup(), &request);
        assert!(got.starts_with("HTTP/1.1 405 ") && got.contains("\r\nAllow: GET, HEAD, "), "{got}");
        let (mut pair, hub) = joined(Setup::default());
        pair.send(hub, &request);
        let upstream = pair.upstream();
        assert!(pair.got(upstream).starts_with(method));
    }
}

#[test]
fn an_upstream_does_not_speak_for_slime() {
    for (value, is_kept) in [
        ("slime", false),
        ("slime; error=connection_limit_reached", false),
        ("SLIME;x", false),
        ("\"slime\"; error=x", false),
        ("ExampleCDN; error=http_response_timeout, slime", false),
        ("ExampleCDN; error=http_response_timeout", true),
        ("slimer, x-slime", true),
    ] {
        let (mut pair, hub, upstream) = serving(Setup::default(), GET);
        pair.send(upstream, format!("HTTP/1.1 503 X\r\nProxy-Status: {value}\r\nContent-Length: 0\r\n\r\n"));
        assert_eq!(pair.got(hub).contains("Proxy-Status"), is_kept, "{value}");
    }
    let (mut pair, hub, upstream) = serving(Setup::default(), GET);
    let end =
        "0\r\nProxy-Status: slime\r\nProxy_Status: slime\r\nSlime-Refused: x\r\nSlime_Refused: x\r\n\r\n";
    pair.send(upstream, format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{end}"));
    assert!(pair.got(hub).ends_with("\r\n\r\n0\r\n\r\n"));
}

#[test]
fn what_an_upstream_writes_in_another_form_goes_on_in_ours() {
    for (response, went, is_kept) in [
        ("HTTP/1.1 200 OK\nContent-Length: 2\n\nhi", OK, true),
        ("\r\n\nHTTP/1.2  200 OK\r\nContent-Length : 2, 2\r\n\r\nhi", OK, true),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\nContent-Length: 2\r\n\r\nhi", OK, true),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 7\r\n\r\n2 \nhi\n0\n\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
            false,
        ),
        (
            "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
            false,
        ),
    ] {
        Setup::default().in_every_way(|setup| {
            let (mut pair, hub, upstream) = serving(setup, GET);
            pair.got(hub);
            pair.send(upstream, response);
            assert_eq!(pair.got(hub), went);
            assert_eq!(pair.ended(upstream).is_none(), is_kept, "{response:?}");
        });
    }
    for response in ["HTTP/1.1 200 OK\nContent-Length: 2, 3\n\nhi", "HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n"] {
        let (mut pair, hub, upstream) = serving(Setup::default(), GET);
        pair.send(upstream, response);
        assert!(pair.got(hub).starts_with("HTTP/1.1 502 "), "{response:?}");
    }
}

#[test]
fn a_long_job_may_tell_of_itself_all_the_while() {
    let interim = "HTTP/1.1 103 Early Hints\r\n\r\n";
    let (mut pair, hub, upstream) = serving(Setup::default(), GET);
    pair.got(hub);
    for _ in 0..500 {
        pair.send(upstream, interim);
        pair.advance(Duration::from_millis(250));
    }
    pair.send(upstream, OK);
    let got = pair.got(hub).replace(SIGN, "");
    assert_eq!(got, [interim.repeat(500).as_str(), OK].concat());
    // Not in no time.
    let (mut pair, hub, upstream) = serving(Setup::default(), GET);
    pair.send(upstream, interim.repeat(33));
    let got = pair.got(hub);
    assert!(got.starts_with(&interim.repeat(32)) && got.contains("HTTP/1.1 502 "), "{got}");
}
