//! What the hub counts of requests, as `/metrics` tells it.

use super::*;
use crate::proto::admin::Subject as _;
use crate::proto::admin::metrics::{METRICS, Metric, Samples};
use crate::proto::testing::Setup;
use crate::proto::testing::pair::token;
use crate::proto::testing::scenario::*;

/// The samples of a metric that are not zero, sorted by the table.
fn told(pair: &mut Pair, name: &str) -> Vec<String> {
    let metric: Metric = METRICS.iter().copied().find(|metric| metric.row().name == name).unwrap();
    let mut text = String::new();
    pair.at_hub(|hub, now| {
        let mut samples = Samples::whole(metric, &mut text);
        assert_eq!(hub.write_samples(metric, None, &mut samples, now), None);
    });
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.ends_with(" 0"));
    lines.filter_map(|line| line.strip_prefix(name)).map(str::to_owned).collect()
}

#[test]
fn a_request_is_counted_with_its_times() {
    let (mut at, second) = Setup::default().queued(GET);
    at.pair.advance(seconds(2));
    at.pair.send(at.upstream, OK);
    assert_eq!(told(&mut at.pair, "slime_hub_requests_total"), ["{app=\"none\",outcome=\"complete\"} 1"]);
    assert_eq!(told(&mut at.pair, "slime_hub_responses_total"), ["{by=\"upstream\",code=\"2xx\"} 1"]);
    let heads = told(&mut at.pair, "slime_hub_response_head_seconds");
    assert_eq!(heads[0], "_bucket{le=\"2.5\"} 1");
    assert_eq!(heads[heads.len() - 3..], ["_bucket{le=\"+Inf\"} 1", "_sum 2.000", "_count 1"]);
    // The other one has waited until now, and leaves.
    at.pair.close(second);
    let waits = told(&mut at.pair, "slime_hub_queue_wait_seconds");
    assert!(waits.contains(&"_count{result=\"served\"} 2".to_owned()), "{waits:?}");
    assert!(waits.contains(&"_sum{result=\"served\"} 2.000".to_owned()), "{waits:?}");
    let spent = told(&mut at.pair, "slime_hub_upstream_seconds_total");
    assert_eq!(spent[0], "{outcome=\"delivered\"} 2.000");
    let ended = told(&mut at.pair, "slime_hub_requests_total");
    assert_eq!(ended[1], "{app=\"none\",outcome=\"client_left\"} 1");
    let whole = told(&mut at.pair, "slime_hub_request_seconds");
    assert!(whole.contains(&"_count 1".to_owned()), "{whole:?}");
}

#[test]
fn the_body_is_not_waited_for_in_the_queue() {
    let (mut at, _) = Setup::default().queued(GET);
    let third = at.pair.client();
    let head = "POST /x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\nSlime-Max-Wait: 9\r\n\r\n";
    at.pair.send(third, head);
    at.pair.advance(seconds(4));
    at.pair.send(third, "hello");
    at.pair.advance(seconds(6));
    let waits = told(&mut at.pair, "slime_hub_queue_wait_seconds");
    assert!(waits.contains(&"_count{result=\"given_up\"} 1".to_owned()), "{waits:?}");
    assert!(waits.iter().any(|it| it.starts_with("_sum{result=\"given_up\"} 5.")), "{waits:?}");
    assert_eq!(told(&mut at.pair, "slime_hub_responses_total"), ["{by=\"hub\",code=\"5xx\"} 1"]);
}

#[test]
fn retries_and_upgrades_are_counted() {
    let mut pair = Setup::hub_only().start();
    let agents = [1, 2].map(|id| pair.raw_agent(&token(id), 0));
    let client = pair.client();
    pair.send(client, GET);
    pair.send(agents[0], "HTTP/1.1 503 x\r\nSlime-Refused: no\r\nContent-Length: 0\r\n\r\n");
    pair.send(agents[1], OK);
    assert_eq!(told(&mut pair, "slime_hub_retries_total"), ["{reason=\"refused\"} 1"]);
    let mut at = Setup::default().upgraded();
    assert_eq!(told(&mut at.pair, "slime_hub_upgrades_total"), [" 1"]);
    assert_eq!(told(&mut at.pair, "slime_hub_responses_total"), ["{by=\"upstream\",code=\"1xx\"} 1"]);
}

#[test]
fn keys_have_counts_of_their_own() {
    let mut pair = Setup::default().hub(|hub| hub.app_password = Some("k".to_owned())).joined();
    let [mut stranger, client] = [(); 2].map(|()| pair.client());
    pair.send(stranger, GET);
    pair.send(client, "GET /x HTTP/1.1\r\nHost: app.test\r\nSlime-App-Password: k\r\n\r\n");
    pair.close(client);
    stranger = pair.client();
    pair.close(stranger);
    let ended = told(&mut pair, "slime_hub_requests_total");
    let expected = ["{app=\"none\",outcome=\"denied\"} 1", "{app=\"app\",outcome=\"client_left\"} 1"];
    assert_eq!(ended, expected);
    assert_eq!(told(&mut pair, "slime_hub_responses_total"), ["{by=\"hub\",code=\"4xx\"} 1"]);
}
