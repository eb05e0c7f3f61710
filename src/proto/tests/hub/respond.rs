//! Responses: how they end, what follows them on the same connection, and what is left of a request that
//! nobody read.

use super::*;
use crate::proto::testing::Setup;
use crate::proto::testing::pair::token;
use crate::proto::testing::scenario::*;

const HEAD_10: &str = "GET /x HTTP/1.0\r\nHost: app.test\r\n";
const OURS: &str = "Slime-Agent-Id: a\r\nVia: 1.1 slime\r\n";

fn old(more: &str) -> String {
    format!("{HEAD_10}{more}\r\n")
}

#[test]
fn each_framing_comes_through_to_each_version() {
    let length = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x\r\nhello\r\n0\r\nA: b\r\n\r\n";
    let until_close = "HTTP/1.1 200 OK\r\n\r\nhello";
    let old_until_close = "HTTP/1.0 200 OK\r\n\r\nhello";
    let none = "HTTP/1.1 204 No Content\r\n\r\n";
    let as_length = format!("HTTP/1.1 200 OK\r\n{OURS}Content-Length: 5\r\n");
    let as_chunked = format!("HTTP/1.1 200 OK\r\n{OURS}Transfer-Encoding: chunked\r\n\r\n");
    let as_closed = format!("HTTP/1.1 200 OK\r\n{OURS}Connection: close\r\n\r\nhello");
    let as_none = format!("HTTP/1.1 204 No Content\r\n{OURS}");
    let keep = "Connection: keep-alive\r\n";
    for (request, response, closes, expected, kept) in [
        (GET.to_owned(), length, false, format!("{as_length}\r\nhello"), true),
        (old(""), length, false, format!("{as_length}Connection: close\r\n\r\nhello"), false),
        (old(keep), length, false, format!("{as_length}{keep}\r\nhello"), true),
        (GET.to_owned(), chunked, false, format!("{as_chunked}5\r\nhello\r\n0\r\nA: b\r\n\r\n"), true),
        (old(""), chunked, false, as_closed.clone(), false),
        (old(keep), chunked, false, as_closed.clone(), false),
        (GET.to_owned(), until_close, true, format!("{as_chunked}5\r\nhello\r\n0\r\n\r\n"), true),
        (GET.to_owned(), old_until_close, true, format!("{as_chunked}5\r\nhello\r\n0\r\n\r\n"), true),
        (old(keep), until_close, true, as_closed, false),
        (GET.to_owned(), none, false, format!("{as_none}\r\n"), true),
        (old(""), none, false, format!("{as_none}Connection: close\r\n\r\n"), false),
        (GET.replace("GET", "HEAD"), &length[..length.len() - 5], false, format!("{as_length}\r\n"), true),
    ] {
        for (room, splices) in [(1, false), (9, false), (256 * 1024, false), (9, true), (256 * 1024, true)] {
            let mut at = Setup { room, splices, ..Setup::default() }.at_upstream(&request);
            at.pair.send(at.upstream, response);
            if closes {
                at.pair.close(at.upstream);
            }
            let got = at.pair.got(at.client);
            if closes && kept && room < 9 {
                // The chunks are as large as what came at once.
                assert!(got.starts_with(&as_chunked) && got.ends_with("\r\n0\r\n\r\n"), "{got}");
            } else {
                assert_eq!(got, expected, "{request}{response}");
            }
            assert_eq!(at.pair.ended(at.client), (!kept).then_some(Ended::Fin), "{request}{response}");
            // The worker is free: the next request is served.
            let next = at.pair.client();
            at.pair.send(next, GET);
            assert_eq!(at.pair.hub.core.census().active, 1);
            at.pair.assert_quiet(1);
        }
    }
}

#[test]
fn responses_come_through_wherever_they_are_split() {
    let response = "HTTP/1.1 103 Early Hints\r\nLink: <a>\r\nSlime-Refused: x\r\n\r\n\
         HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nSlime-Heartbeat: ?1\r\n\r\n5;x\r\nhello\r\n0\r\nSlime-Close: x\r\nA: b\r\n\r\n";
    let expected = format!(
        "HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n{OURS}\r\n\
         HTTP/1.1 200 OK\r\n{OURS}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n"
    );
    for grain in [1, usize::MAX] {
        for at in 0..=response.len() {
            let mut all = Setup { grain, ..Setup::default() }.at_upstream(GET);
            all.pair.send(all.upstream, &response[..at]);
            all.pair.send(all.upstream, &response[at..]);
            assert_eq!(all.pair.got(all.client), expected, "{at}");
            all.pair.assert_quiet(1);
        }
    }
}

#[test]
fn old_applications_get_no_interim_responses() {
    let mut at = Setup::default().at_upstream(&old(""));
    at.pair.send(at.upstream, format!("HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n{OK}"));
    let got = at.pair.got(at.client);
    assert!(got.starts_with("HTTP/1.1 200 OK"), "{got}");
    assert_closed(&mut at.pair, at.client);
    at.pair.assert_quiet(1);
}

#[test]
fn a_truncated_body_never_looks_complete() {
    let length = "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let keep = "Connection: keep-alive\r\n";
    for (request, response, ended) in [
        (GET.to_owned(), length, Ended::Fin),
        (GET.to_owned(), chunked, Ended::Fin),
        (old(keep), length, Ended::Fin),
        // The length says it as well as the reset does.
        (old(""), length, Ended::Reset),
        (old(""), chunked, Ended::Reset),
        (old(keep), chunked, Ended::Reset),
    ] {
        for broken in [Pair::close, Pair::reset] {
            let mut at = Setup::default().streaming(&request, response);
            broken(&mut at.pair, at.upstream);
            assert_eq!(at.pair.got(at.client), "");
            assert_eq!(at.pair.ended(at.client), Some(ended), "{request}{response}");
            at.pair.assert_quiet(1);
        }
        // The agent goes down under it.
        let mut at = Setup::default().streaming(&request, response);
        let mut wires =
            core::mem::replace(&mut at.pair.wires, crate::proto::testing::wires::Wires::new(1, 1, false));
        at.pair.agents[0].end_process(&mut wires);
        at.pair.wires = wires;
        at.pair.agents.clear();
        at.pair.settle();
        assert_eq!((at.pair.got(at.client).as_str(), at.pair.ended(at.client)), ("", Some(ended)));
        at.pair.assert_quiet(0);
    }
    // A reset under a body that is delimited by its end is not the end of it.
    for request in [GET.to_owned(), old("")] {
        let mut at = Setup::default().streaming(&request, "HTTP/1.1 200 OK\r\n\r\nhello");
        at.pair.reset(at.upstream);
        assert_eq!(at.pair.got(at.client), "");
        assert_eq!(at.pair.ended(at.client), Some(if request == GET { Ended::Fin } else { Ended::Reset }));
        at.pair.assert_quiet(1);
    }
}

#[test]
fn a_broken_chunk_cuts_the_response() {
    let response = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let mut at = Setup::default().streaming(GET, response);
    at.pair.send(at.upstream, "+5\r\n");
    assert_closed(&mut at.pair, at.client);
    at.pair.assert_quiet(1);
}

#[test]
fn bytes_after_a_response_are_nobodys() {
    let mut pair = Setup::hub_only().start();
    let agent = pair.raw_agent(&token(1), 0);
    pair.got(agent);
    let client = pair.client();
    pair.send(client, GET);
    pair.send(agent, format!("{OK}HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"));
    assert_eq!(pair.got(client), WAS_OK);
    assert!(pair.ended(agent).is_some(), "the tunnel goes on after bytes that nobody asked for");
    pair.send(client, GET);
    assert_eq!(pair.got(client), "");
    pair.assert_quiet(0);
    // The same at the upstream.
    let mut at = Setup::default().at_upstream(GET);
    at.pair.send(at.upstream, format!("{OK}poison"));
    assert_eq!(at.pair.got(at.client), WAS_OK);
    assert!(at.pair.ended(at.upstream).is_some());
    at.pair.send(at.client, GET);
    let fresh = at.pair.upstream();
    at.pair.send(fresh, OK);
    assert_eq!(at.pair.got(at.client), WAS_OK);
    at.pair.assert_quiet(1);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    Setup::default().in_every_way(|setup| {
        let mut pair = setup.joined();
        let client = pair.client();
        let post = "POST /b HTTP/1.1\r\nHost: app.test\r\nContent-Length: 3\r\n\r\nabc";
        let chunks =
            "POST /c HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n";
        pair.send(client, format!("{GET}\r\n{post}{chunks}{GET}"));
        let upstream = pair.upstream();
        for beginning in ["GET /x ", "POST /b ", "POST /c ", "GET /x "] {
            let got = pair.got(upstream);
            assert!(got.starts_with(beginning), "{got}");
            assert_eq!(got.matches("HTTP/1.1").count(), 1, "{got}");
            assert_eq!(pair.got(client), "");
            pair.send(upstream, OK);
            assert_eq!(pair.got(client), WAS_OK);
        }
        pair.assert_quiet(1);
    });
}

#[test]
fn a_request_behind_one_that_was_refused_is_served() {
    let refused = "GET /a HTTP/1.1\r\nHost: app.test\r\nSlime-Scope: none\r\n\r\n";
    Setup::default().in_every_way(|setup| {
        let mut pair = setup.joined();
        let client = pair.client();
        pair.send(client, format!("{refused}{refused}{GET}"));
        let got = pair.got(client);
        assert_eq!(got.matches("HTTP/1.1 503 ").count(), 2, "{got}");
        let upstream = pair.upstream();
        assert_eq!(pair.got(upstream), GOT);
        pair.send(upstream, OK);
        assert_eq!(pair.got(client), WAS_OK);
        pair.assert_quiet(1);
    });
}

#[test]
fn an_early_response_ends_the_connection_and_the_rest_of_the_request_goes_nowhere() {
    // What follows looks like a request of its own.
    let rest = "GET /smuggled HTTP/1.1\r\nHost: app.test\r\n\r\n".repeat(100);
    for length in [20_000, 100_000] {
        let head = format!("PUT /x HTTP/1.1\r\nHost: app.test\r\nContent-Length: {length}\r\n\r\n");
        Setup::default().hub(|hub| hub.hold = 0).in_every_way(|setup| {
            let mut pair = setup.joined();
            let client = pair.client();
            pair.send(client, &head);
            pair.send(client, "x".repeat(17_000));
            let upstream = pair.upstream();
            pair.send(upstream, "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
            let got = pair.got(client);
            assert!(got.starts_with("HTTP/1.1 403 ") && got.ends_with("\r\n\r\nno"), "{got}");
            assert_eq!(pair.ended(client), Some(Ended::Fin));
            // It is still taken in, so that the answer is not lost in a reset.
            pair.send(client, &rest);
            assert_eq!(pair.ended(client), Some(Ended::Fin));
            assert!(pair.ended(upstream).is_some());
            assert_eq!(pair.arrivals(), 0);
            // The worker is back, and serves another application.
            let other = pair.client();
            pair.send(other, GET);
            let upstream = pair.upstream();
            assert_eq!(pair.got(upstream), GOT);
            pair.send(upstream, OK);
            assert_eq!(pair.got(other), WAS_OK);
            pair.assert_quiet(1);
        });
    }
}

#[test]
fn the_drain_after_an_early_response_is_bounded() {
    // In time.
    let mut at = Setup::default()
        .at_upstream("PUT /x HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n");
    at.pair.send(at.upstream, OK);
    assert_eq!(at.pair.ended(at.client), Some(Ended::Fin));
    at.pair.advance(Duration::from_millis(4900));
    assert_eq!(at.pair.hub.core.census().clients, 1);
    at.pair.advance(Duration::from_millis(200));
    assert_eq!(at.pair.hub.core.census().clients, 0);
    at.pair.assert_quiet(1);
    // And in bytes.
    let mut at = Setup::default()
        .at_upstream("PUT /x HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n");
    at.pair.send(at.upstream, OK);
    at.pair.send(at.client, vec![b'x'; 5 * 1024 * 1024]);
    assert_eq!(at.pair.hub.core.census().clients, 0);
    at.pair.assert_quiet(1);
}

#[test]
fn a_request_may_end_after_its_response_has_begun() {
    let head = "PUT /x HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut at = Setup::default().streaming(head, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    for _ in 0..3 {
        at.pair.send(at.client, "2\r\nab\r\n");
        assert_eq!(at.pair.got(at.upstream), "2\r\nab\r\n");
        at.pair.send(at.upstream, "2\r\nab\r\n");
        assert_eq!(at.pair.got(at.client), "2\r\nab\r\n");
    }
    at.pair.send(at.client, "0\r\n\r\n");
    at.pair.send(at.upstream, "0\r\n\r\n");
    assert_eq!((at.pair.got(at.client).as_str(), at.pair.ended(at.client)), ("0\r\n\r\n", None));
    at.pair.send(at.client, GET);
    assert_eq!(at.pair.got(at.upstream), format!("0\r\n\r\n{GOT}"));
    at.pair.assert_quiet(1);
}

#[test]
fn who_leaves_cancels_and_the_worker_is_back_at_once() {
    let responses =
        ["", "HTTP/1.1 103 Early Hints\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"];
    for response in responses {
        for leave in [Pair::finish, Pair::close, Pair::reset] {
            let mut at = Setup::default().at_upstream(GET);
            at.pair.send(at.upstream, response);
            leave(&mut at.pair, at.client);
            assert!(at.pair.ended(at.upstream).is_some(), "the upstream works on");
            assert_eq!(at.pair.hub.core.census().exchanges, 0);
            let other = at.pair.client();
            at.pair.send(other, GET);
            let upstream = at.pair.upstream();
            at.pair.send(upstream, OK);
            assert_eq!(at.pair.got(other), WAS_OK);
            at.pair.assert_quiet(1);
        }
    }
}

#[test]
fn leaving_is_noticed_behind_pipelined_bytes_and_back_pressure() {
    // Pipelined requests are not read while the first one is served.
    let mut at = Setup::default().at_upstream(GET);
    at.pair.send(at.client, GET.repeat(3));
    at.pair.finish(at.client);
    assert!(at.pair.ended(at.upstream).is_some());
    assert_eq!(at.pair.arrivals(), 0, "a request was sent for somebody who has left");
    at.pair.assert_quiet(1);
    // It reads nothing of a long response, and sends FIN.
    let mut at = Setup { room: 1000, ..Setup::default() }
        .streaming(GET, "HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n");
    at.pair.reads_only(at.client, 0);
    at.pair.send(at.upstream, vec![b'x'; 1_000_000]);
    at.pair.finish(at.client);
    assert!(at.pair.ended(at.upstream).is_some());
    at.pair.assert_quiet(1);
    // An upload that nobody takes.
    let mut at = Setup { room: 1000, ..Setup::default() }
        .at_upstream("PUT /x HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n");
    at.pair.reads_only(at.upstream, 0);
    at.pair.send(at.client, format!("fffff\r\n{}", "x".repeat(200_000)));
    at.pair.reset(at.client);
    assert_eq!(at.pair.hub.core.census().exchanges, 0);
    at.pair.assert_quiet(1);
}

#[test]
fn an_upload_that_is_cut_short_does_not_look_complete_to_the_upstream() {
    for head in ["Content-Length: 90000", "Transfer-Encoding: chunked"] {
        for leave in [Pair::finish, Pair::close, Pair::reset] {
            let mut at = Setup::default().hub(|hub| hub.hold = 0).joined().at(head);
            leave(&mut at.pair, at.client);
            let got = at.pair.got(at.upstream);
            assert!(!got.ends_with("0\r\n\r\n"));
            assert!(at.pair.ended(at.upstream).is_some());
            at.pair.assert_quiet(1);
        }
    }
}

impl Pair {
    /// An upload of this framing under way, with no end in sight.
    fn at(mut self, framing: &str) -> AtUpstream {
        let client = self.client();
        self.send(client, format!("PUT /x HTTP/1.1\r\nHost: app.test\r\n{framing}\r\n\r\n"));
        self.send(client, format!("8000\r\n{}\r\n", "x".repeat(0x8000)));
        let upstream = self.upstream();
        AtUpstream { pair: self, client, upstream }
    }
}

#[test]
fn back_pressure_holds_no_more_than_a_buffer_in_each_place() {
    let mut at = Setup { room: 1000, ..Setup::default() }
        .streaming(GET, "HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n");
    at.pair.reads_only(at.client, 0);
    at.pair.send(at.upstream, vec![b'x'; 1_000_000]);
    let (hub, agent) = (at.pair.hub.census().1, at.pair.agents[0].census().1);
    assert!(hub <= 128 * 1024 && agent <= 128 * 1024, "{hub} and {agent} bytes are kept");
    at.pair.reads_only(at.client, usize::MAX);
    assert_eq!(at.pair.got_bytes(at.client).len(), 1_000_000);
    at.pair.assert_quiet(1);
}
