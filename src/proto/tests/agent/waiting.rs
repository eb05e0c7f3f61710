//! How long an agent waits, for whom.

use super::serve::{POST, SIGN, refusal, serving};
use super::*;
use crate::config::OnCancel;
use crate::proto::agent::Agent;
use crate::proto::agent::connections::UpstreamUser;
use crate::proto::seam::{Core, Target};
use crate::proto::tables::timer::{Mono, Now};
use crate::proto::testing::scenario::{GET, OK};

/// An upload of which the kernels on the way have room for a small part, to an upstream that does not read.
fn unread() -> (Pair, Raw, Raw) {
    let head = "PUT /x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 50000\r\n\r\n";
    let (mut pair, hub, upstream) = serving(Setup { room: 1000, ..Setup::default() }, head);
    pair.reads_only(upstream, 0);
    pair.send(hub, "x".repeat(50_000));
    pair.got(hub);
    (pair, hub, upstream)
}

#[test]
fn an_upstream_that_has_not_begun_to_read_is_waited_for_however_large_the_request_is() {
    let (mut pair, hub, upstream) = unread();
    for _ in 0..240 {
        pair.advance(seconds(15));
        assert_eq!((pair.got(hub).as_str(), pair.ended(upstream)), (SIGN, None));
    }
    pair.reads_only(upstream, usize::MAX);
    assert_eq!(pair.got(upstream).len(), 50_000);
    pair.send(upstream, OK);
    assert_eq!(pair.got(hub), OK);
}

#[test]
fn an_upstream_that_has_answered_takes_the_rest_or_loses_it() {
    let (mut pair, hub, upstream) = unread();
    pair.advance(seconds(600));
    pair.got(hub);
    pair.send(upstream, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh");
    pair.advance(seconds(59));
    assert_eq!(pair.agents[0].core.census().upstreams, 1);
    pair.advance(seconds(2));
    assert_eq!(pair.agents[0].core.census().upstreams, 0);
    assert!(pair.ended(hub).is_some());
}

#[test]
fn an_answer_that_nobody_waits_for_does_not_hold_the_worker_for_good() {
    for begun in ["", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel"] {
        let setup = Setup::default().agent(|agent| agent.on_cancel = OnCancel::Drain);
        let (mut pair, hub, upstream) = serving(setup, POST);
        pair.close(hub);
        finishes(&mut pair);
        pair.advance(seconds(500));
        pair.send(upstream, begun);
        // Since the last byte of it.
        pair.advance(seconds(if begun.is_empty() { 99 } else { 599 }));
        assert_eq!((pair.ended(upstream), pair.arrivals()), (None, 0));
        pair.advance(seconds(2));
        assert!(pair.ended(upstream).is_some());
        pair.send(upstream, "");
        while pair.arrivals_of(Target::Upstream(0)) > 0 {
            pair.upstream();
        }
        joins_again(&mut pair, "?1");
    }
}

#[test]
fn an_answer_that_was_passed_on_until_its_application_left_does_not_hold_the_worker_either() {
    let setup = Setup::default().agent(|agent| agent.on_cancel = OnCancel::Drain);
    let (mut pair, hub, upstream) = serving(setup, POST);
    pair.send(upstream, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel");
    pair.got(hub);
    // Nothing of it is due any more, so that no deadline is left from before.
    pair.advance(seconds(100));
    pair.close(hub);
    pair.advance(seconds(599));
    assert_eq!(pair.ended(upstream), None);
    pair.advance(seconds(2));
    assert!(pair.ended(upstream).is_some());
}

#[test]
fn a_response_head_that_has_begun_has_ten_seconds() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";
    for interim in ["", "HTTP/1.1 103 Early Hints\r\n\r\n"] {
        let (mut pair, hub, upstream) = serving(Setup::default(), GET);
        pair.got(hub);
        // Until its first byte nothing hurries.
        pair.advance(seconds(300));
        pair.send(upstream, format!("{interim}H"));
        pair.advance(seconds(5));
        pair.send(upstream, "T");
        pair.advance(Duration::from_millis(4900));
        assert_eq!(pair.ended(upstream), None);
        pair.advance(seconds(1));
        assert!(pair.ended(upstream).is_some());
        let got = pair.got(hub).replace(SIGN, "").replace(interim, "");
        assert!(got.starts_with("HTTP/1.1 502 ") && got.contains("the head of its response"), "{got}");
        // One that comes in time is as good as any, and so is what follows an interim one.
        let (mut pair, hub, upstream) = serving(Setup::default(), GET);
        pair.got(hub);
        for at in [0, 20] {
            pair.send(upstream, &interim[at.min(interim.len())..interim.len().min(at + 20)]);
            pair.advance(seconds(3));
        }
        pair.got(hub);
        pair.send(upstream, &head[..9]);
        pair.advance(seconds(9));
        pair.send(upstream, &head[9..]);
        pair.advance(seconds(100));
        pair.send(upstream, "hi");
        assert!(pair.got(hub).ends_with("\r\n\r\nhi"));
    }
}

#[test]
fn a_request_head_that_has_begun_has_ten_seconds_also_where_the_hub_may_be_silent() {
    let (mut pair, hub, upstream) = serving(Setup::default(), GET);
    pair.send(upstream, OK);
    pair.advance(seconds(100));
    assert_eq!(pair.ended(hub), None);
    pair.send(hub, &GET[..10]);
    pair.advance(Duration::from_millis(9900));
    assert_eq!(pair.ended(hub), None);
    pair.advance(seconds(1));
    assert!(pair.ended(hub).is_some());
    joins_again(&mut pair, "?1");
}

#[test]
fn a_hub_that_takes_nothing_has_ten_times_as_long_as_others() {
    // Its application may take the response slowly, and the hub is the one to judge that.
    let (mut pair, hub, upstream) = serving(Setup { room: 1000, ..Setup::default() }, GET);
    pair.got(hub);
    pair.reads_only(hub, 0);
    pair.send(upstream, format!("HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{}", "x".repeat(5000)));
    pair.advance(seconds(595));
    assert_eq!(pair.ended(upstream), None);
    assert_eq!(pair.agents[0].core.census().tunnels, 1);
    pair.advance(seconds(10));
    assert_eq!(pair.arrivals_of(Target::Hub), 1, "it dials again");
}

#[test]
fn a_request_that_is_cut_short_never_looks_complete() {
    let finish = |pair: &mut Pair, raw: Raw| pair.finish(raw);
    Setup::default().in_every_way(|setup| {
        for (head, body) in [("Content-Length: 9", "abc"), ("Transfer-Encoding: chunked", "3\r\nabc\r\n")] {
            for leave in [Pair::close, Pair::reset, finish] {
                for answered in ["", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"] {
                    let (mut pair, hub) = joined(setup.clone());
                    pair.send(hub, format!("PUT /x HTTP/1.1\r\nHost: app.test\r\n{head}\r\n\r\n{body}"));
                    let upstream = pair.upstream();
                    assert!(pair.got(upstream).ends_with(body));
                    pair.send(upstream, answered);
                    leave(&mut pair, hub);
                    assert_eq!(pair.got(upstream), "", "nothing follows");
                    assert!(pair.ended(upstream).is_some(), "its end is seen");
                    joins_again(&mut pair, "?1");
                }
            }
        }
        // An upgraded connection has no other end than that of the connection.
        let asked = "GET /x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n";
        for switched in ["", "HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n"] {
            let (mut pair, hub) = joined(setup.clone());
            pair.send(hub, asked);
            let upstream = pair.upstream();
            pair.send(upstream, switched);
            pair.reset(hub);
            assert_eq!(pair.ended(upstream), Some(Ended::Reset), "after {switched:?}");
        }
    });
}

#[test]
fn a_request_whose_chunks_are_malformed_never_looks_complete() {
    let head = "PUT /x HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
    // What is sent, and what of it may pass.
    let rests = [
        ("zz\r\n", ""),
        ("3\r\ndefg", "3\r\ndef"),
        ("0\r\nno trailer\r\n\r\n", ""),
        ("00\r\nA: b\r\nno trailer\r\n\r\n", ""),
    ];
    Setup::default().in_every_way(|setup| {
        for (rest, good) in rests {
            for answered in ["", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"] {
                let (mut pair, hub) = joined(setup.clone());
                pair.send(hub, head);
                let upstream = pair.upstream();
                assert!(pair.got(upstream).ends_with("\r\n\r\n3\r\nabc\r\n"));
                pair.send(upstream, answered);
                pair.send(hub, rest);
                let got = pair.got(upstream);
                assert!(good.starts_with(&got), "{got:?} follows of {rest:?}");
                assert!(pair.ended(upstream).is_some() && pair.ended(hub).is_some(), "after {rest:?}");
                joins_again(&mut pair, "?1");
            }
            // All of it at once: there may be no connection to the upstream yet.
            let (mut pair, hub) = joined(setup.clone());
            pair.send(hub, format!("{head}{rest}"));
            while pair.arrivals_of(Target::Upstream(0)) > 0 {
                let upstream = pair.upstream();
                let got = pair.got(upstream);
                assert!(!got.contains("\r\n0"), "{got:?} of {rest:?}");
                assert!(pair.ended(upstream).is_some(), "after {rest:?}");
            }
            assert!(pair.ended(hub).is_some(), "after {rest:?}");
        }
    });
}

#[test]
fn a_request_whose_first_write_to_a_kept_connection_fails_gets_a_new_one() {
    let (mut pair, hub, upstream) = serving(Setup::default(), GET);
    pair.send(upstream, OK);
    pair.got(hub);
    pair.reset_at_write(upstream);
    pair.send(hub, POST);
    let other = pair.upstream();
    assert!(pair.got(other).starts_with("POST /"));
    pair.send(other, OK);
    assert_eq!(pair.got(hub), OK);
}

#[test]
fn a_request_that_waits_for_a_probe_is_refused_when_it_fails() {
    let setup = Setup::default().agent(|agent| agent.health_path = Some("/health".to_owned()));
    let mut pair = setup.start();
    pair.to_hub = Reach::Raw;
    pair.settle();
    let probe = pair.upstream();
    pair.send(probe, OK);
    let hub = joins_again(&mut pair, "?1");
    pair.advance(seconds(16));
    let probe = pair.upstream();
    pair.send(hub, POST);
    pair.send(probe, "HTTP/1.1 503 Service Unavailable\r\n\r\n");
    let got = pair.got(hub);
    assert!(got.ends_with(&refusal("its health path answered 503\r\nSlime-Loading: ?1")), "{got}");
    assert_eq!(pair.arrivals_of(Target::Upstream(0)), 0);
}

/// Leaves an agent no key for another connection to its upstream.
fn fill_upstreams(agent: &mut Agent) {
    let user = UpstreamUser::Nobody { until: Mono(u64::MAX - 1) };
    while agent.connections.dial_upstream(0, user).is_some() {}
    agent.commands().clear();
}

#[test]
fn an_agent_that_can_keep_no_more_connections_tries_again_later() {
    let config = Setup::default().agents[0].1.clone();
    let mut now = Now { mono: Mono(1000), unix: 0 };
    let mut agent = Agent::new(config, 1, now);
    fill_upstreams(&mut agent);
    let worker = agent.workers.iter().next().map(|(key, _)| key).unwrap();
    while agent.connections.dial_hub(worker).is_some() {}
    for _ in 0..20 {
        agent.handle_timeout(now);
        agent.handle_batch_end(now);
        let next = agent.next_timeout().unwrap();
        assert!(next > now.mono, "it tries again and again");
        now.mono = next;
    }
}

#[test]
fn a_request_for_which_there_can_be_no_connection_is_refused() {
    let (mut pair, hub) = joined(Setup::default());
    pair.got(hub);
    fill_upstreams(&mut pair.agents[0].core);
    pair.send(hub, GET);
    assert_eq!(pair.got(hub), refusal("the agent can keep no more connections"));
}
