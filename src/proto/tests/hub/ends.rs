//! Each end of a request is provoked once.

use super::*;
use crate::proto::ends::End;
use crate::proto::testing::Setup;
use crate::proto::testing::pair::token;
use crate::proto::testing::scenario::*;

const POST: &str = "POST /x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\n\r\n";
const CHUNKED: &str = "POST /x HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n";
const BEGUN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi";

/// The codes of all requests that have ended, in the order of the table.
fn codes(pair: &Pair) -> Vec<&'static str> {
    let hub = &pair.hub.core;
    let each = End::ALL.iter().flat_map(|end| (0..hub.ended(*end)).map(|_| end.code()));
    each.collect()
}

fn assert_ended(pair: &Pair, code: &str) {
    assert_eq!(codes(pair), [code]);
}

#[test]
fn complete_ones() {
    let mut at = Setup::default().at_upstream(GET);
    assert!(codes(&at.pair).is_empty(), "nothing has ended");
    at.pair.send(at.upstream, OK);
    assert_ended(&at.pair, "--");
    let mut at = Setup::default().upgraded();
    at.pair.finish(at.client);
    at.pair.finish(at.upstream);
    assert_ended(&at.pair, "--");
    // What the hub answers itself is one, too.
    let mut pair = Setup::default().joined();
    let client = pair.client();
    pair.send(client, "OPTIONS /x HTTP/1.1\r\nHost: app.test\r\nMax-Forwards: 0\r\n\r\n");
    assert_ended(&pair, "--");
}

#[test]
fn clients_that_leave() {
    let mut pair = Setup::default().joined();
    let client = pair.client();
    pair.send(client, format!("{POST}he"));
    pair.close(client);
    assert_ended(&pair, "CB");
    let (mut at, second) = Setup::default().queued(GET);
    at.pair.close(second);
    assert_ended(&at.pair, "CQ");
    let mut at = Setup::default().at_upstream(GET);
    at.pair.close(at.client);
    assert_ended(&at.pair, "CW");
    let mut at = Setup::default().streaming(GET, BEGUN);
    at.pair.close(at.client);
    assert_ended(&at.pair, "CD");
    let mut at = Setup::default().upgraded();
    at.pair.reset(at.client);
    assert_ended(&at.pair, "CU");
    // In the middle of a head it leaves nothing behind.
    let mut pair = Setup::default().joined();
    let client = pair.client();
    pair.send(client, "GET /x HT");
    pair.close(client);
    assert!(codes(&pair).is_empty());
}

#[test]
fn requests_that_are_not_served() {
    for request in ["GET /.slime/x HTTP/1.1\r\nHost: app.test\r\n\r\n", "GET  x\r\n\r\n"] {
        let mut pair = Setup::default().joined();
        let client = pair.client();
        pair.send(client, request);
        assert_ended(&pair, "HR");
    }
    let mut at = Setup::default().at_upstream(CHUNKED);
    at.pair.send(at.client, "zz\r\n");
    assert_ended(&at.pair, "HB");
    let mut at = Setup::default().streaming(CHUNKED, BEGUN);
    at.pair.send(at.client, "zz\r\n");
    assert_ended(&at.pair, "HD");
    let mut pair = Setup::default().hub(|hub| hub.app_password = Some("k".to_owned())).joined();
    let client = pair.client();
    pair.send(client, GET);
    assert_ended(&pair, "KR");
    let (mut at, _) = Setup::default().hub(|hub| hub.queue_depth = 1).queued(GET);
    let third = at.pair.client();
    at.pair.send(third, GET);
    assert_ended(&at.pair, "LQ");
    let mut pair = Setup::hub_only().start();
    let client = pair.client();
    pair.send(client, GET);
    assert_ended(&pair, "NQ");
}

#[test]
fn time_that_is_over() {
    let mut pair = Setup::default().joined();
    let client = pair.client();
    pair.send(client, "GET /x");
    pair.advance(seconds(12));
    assert_ended(&pair, "TR");
    let mut pair = Setup::default().joined();
    let client = pair.client();
    pair.send(client, format!("{POST}he"));
    pair.advance(seconds(120));
    assert_ended(&pair, "TB");
    let (at, _) = Setup::default().queued("GET /x HTTP/1.1\r\nHost: app.test\r\nSlime-Max-Wait: 1\r\n\r\n");
    let mut pair = at.pair;
    pair.advance(seconds(2));
    assert_ended(&pair, "TQ");
    let mut at = Setup::default().hub(|hub| hub.limits.response = Some(seconds(5))).at_upstream(GET);
    at.pair.advance(seconds(6));
    assert_ended(&at.pair, "TW");
    let mut at = Setup { room: 1000, ..Setup::default() }
        .streaming(GET, "HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\nhi");
    at.pair.reads_only(at.client, 0);
    at.pair.send(at.upstream, "x".repeat(50_000));
    at.pair.advance(seconds(120));
    assert_ended(&at.pair, "TD");
    let mut at = Setup::default().upgraded();
    at.pair.finish(at.client);
    at.pair.advance(seconds(120));
    assert_ended(&at.pair, "TU");
}

#[test]
fn agents_and_upstreams_that_fail() {
    let mut at = Setup::default().at_upstream(&format!("{POST}hello"));
    at.pair.kill_agent(0);
    assert_ended(&at.pair, "AW");
    let mut at = Setup::default().streaming(GET, BEGUN);
    at.pair.kill_agent(0);
    assert_ended(&at.pair, "AD");
    // A process that ends would end its direction alone.
    let mut at = Setup::default().upgraded();
    at.pair.reset(at.upstream);
    assert_ended(&at.pair, "AU");
    let sent = |request: &str| {
        let mut pair = Setup::hub_only().start();
        let agent = pair.raw_agent(&token(1), 0);
        pair.got(agent);
        let client = pair.client();
        pair.send(client, request);
        (pair, agent, client)
    };
    let (mut pair, agent, _) = sent(GET);
    pair.send(agent, "HTTP/1.1 503 x\r\nSlime-Refused: no\r\nContent-Length: 0\r\n\r\n");
    pair.advance(seconds(12));
    assert_ended(&pair, "UQ");
    let (mut pair, agent, _) = sent(GET);
    pair.send(agent, "nothing\r\n\r\n");
    assert_ended(&pair, "UW");
    let (mut pair, agent, _) = sent(GET);
    pair.send(agent, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\nzz\r\n");
    assert_ended(&pair, "UD");
}

#[test]
fn an_answer_in_place_of_the_upstreams_is_its_failure() {
    let mut at = Setup::default().at_upstream(GET);
    at.pair.send(at.upstream, "nothing\r\n\r\n");
    let got = at.pair.got(at.client);
    assert!(got.starts_with("HTTP/1.1 502 ") && !got.contains("Slime-Failed"), "{got}");
    assert_ended(&at.pair, "UW");
    // An upstream cannot say so.
    let mut at = Setup::default().at_upstream(GET);
    at.pair.send(at.upstream, "HTTP/1.1 502 x\r\nSlime-Failed: 1\r\nContent-Length: 0\r\n\r\n");
    assert_ended(&at.pair, "--");
}

#[test]
fn a_hub_that_ends() {
    let mut at = Setup::default().streaming(GET, BEGUN);
    let client = at.pair.client();
    at.pair.drain_hub();
    at.pair.send(client, GET);
    assert_ended(&at.pair, "SR");
    let http10 = "GET /x HTTP/1.0\r\nHost: app.test\r\n\r\n";
    let endless = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n";
    let mut at = Setup::default().streaming(http10, endless);
    at.pair.drain_hub();
    at.pair.drain_hub();
    assert_ended(&at.pair, "SD");
    let mut at = Setup::default().upgraded();
    at.pair.drain_hub();
    at.pair.drain_hub();
    assert_ended(&at.pair, "SU");
}
