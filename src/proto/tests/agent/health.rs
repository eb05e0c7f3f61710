//! Whether an upstream can be reached.

use super::*;
use crate::proto::seam::{Target, Unreachable};
use crate::proto::testing::scenario::{GET, OK};
use crate::proto::tunnel::Trouble;

const POST: &str = "POST /x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 2\r\n\r\nab";

fn with_path() -> Setup {
    Setup::default().agent(|agent| agent.health_path = Some("/health".to_owned()))
}

const PROBE: &str = "GET /health HTTP/1.1\r\nHost: up.test\r\nConnection: close\r\n\r\n";

/// What an agent says whose health path has answered 503.
const LOADING: &str = "?0\r\nSlime-Reason: its health path answered 503\r\nSlime-Loading: ?1";
const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable\r\n\r\n";

/// Takes a probe and answers it.
fn answer(pair: &mut Pair, response: &str) {
    let probe = pair.upstream();
    assert_eq!(pair.got(probe), PROBE);
    pair.send(probe, response);
    assert!(pair.ended(probe).is_some());
}

/// A healthy upstream is probed, and a request has come meanwhile: the probe and the client.
fn waiting_for_probe() -> (Pair, Raw, Raw) {
    let mut pair = with_path().start();
    pair.settle();
    answer(&mut pair, OK);
    pair.advance(seconds(16));
    let probe = pair.upstream();
    let client = pair.client();
    pair.send(client, GET);
    (pair, probe, client)
}

#[test]
fn an_agent_joins_once_it_knows() {
    let mut pair = with_path().start();
    pair.to_hub = Reach::Raw;
    pair.settle();
    assert_eq!(pair.hub_dials(), 0);
    answer(&mut pair, "HTTP/1.1 404 Not Found\r\n\r\n");
    joins_again(&mut pair, "?1");
    for (bad, says) in [
        ("HTTP/1.1 500 Internal Server Error\r\n\r\n", "its health path answered 500\r\nSlime-Loading: ?1"),
        ("HTTP/1.1 503 Loading\r\n\r\n", "its health path answered 503\r\nSlime-Loading: ?1"),
        ("HTTP/1.1 555 Odd\r\n\r\n", "its health path answered with a status above 500\r\nSlime-Loading: ?1"),
        ("SSH-2.0-x\r\n\r\n", "its health path does not answer in HTTP"),
    ] {
        let mut pair = with_path().start();
        pair.to_hub = Reach::Raw;
        pair.settle();
        answer(&mut pair, bad);
        let hub = joins_again(&mut pair, &format!("?0\r\nSlime-Reason: {says}"));
        pair.advance(seconds(1));
        answer(&mut pair, OK);
        assert!(pair.ended(hub).is_some());
        joins_again(&mut pair, "?1");
    }
}

#[test]
fn what_comes_before_the_answer_of_a_health_path_is_none() {
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    for (grain, bad) in [
        (usize::MAX, format!("{hints}HTTP/1.1 503 Service Unavailable\r\n\r\n")),
        (1, format!("HTTP/1.1 100 Continue\n\n{hints}HTTP/1.0  503\n\n")),
    ] {
        let mut pair = Setup { grain, ..with_path() }.start();
        pair.to_hub = Reach::Raw;
        pair.settle();
        answer(&mut pair, &bad);
        joins_again(&mut pair, LOADING);
    }
    let mut pair = with_path().start();
    pair.to_hub = Reach::Raw;
    pair.settle();
    answer(&mut pair, &format!("{hints}{hints}HTTP/1.1 204\r\n\r\n"));
    joins_again(&mut pair, "?1");
}

#[test]
fn the_hub_hears_whether_an_upstream_that_is_not_ready_answers() {
    const DOWN: &str = "?0\r\nSlime-Reason: nothing is listening there";
    let mut pair = with_path().start();
    pair.to_hub = Reach::Raw;
    pair.settle();
    answer(&mut pair, UNAVAILABLE);
    let mut hub = joins_again(&mut pair, LOADING);
    for _ in 0..3 {
        // Another status is no news.
        for _ in 0..10 {
            pair.advance(seconds(1));
            answer(&mut pair, "HTTP/1.1 500 Internal Server Error\r\n\r\n");
            assert_eq!((pair.ended(hub), pair.arrivals()), (None, 0));
        }
        pair.to_upstream = Reach::Fails(Unreachable::Refused);
        pair.advance(seconds(1));
        assert!(pair.ended(hub).is_some());
        hub = joins_again(&mut pair, DOWN);
        pair.advance(seconds(5));
        assert_eq!((pair.ended(hub), pair.arrivals()), (None, 0));
        pair.to_upstream = Reach::Raw;
        pair.advance(seconds(1));
        answer(&mut pair, UNAVAILABLE);
        assert!(pair.ended(hub).is_some());
        hub = joins_again(&mut pair, LOADING);
    }
    // It is so, too, if the upstream is lost while the worker joins.
    let mut pair = with_path().start();
    pair.to_hub = Reach::Raw;
    pair.settle();
    answer(&mut pair, UNAVAILABLE);
    let hub = pair.raw_hub();
    assert_eq!(pair.got(hub), hello(LOADING));
    pair.to_upstream = Reach::Fails(Unreachable::Refused);
    pair.advance(seconds(2));
    assert_eq!((pair.ended(hub), pair.arrivals()), (None, 0));
    pair.send(hub, WELCOME);
    assert!(pair.ended(hub).is_some());
    let hub = joins_again(&mut pair, DOWN);
    pair.advance(seconds(10));
    assert_eq!((pair.ended(hub), pair.arrivals()), (None, 0));
}

#[test]
fn a_worker_withdraws_from_an_upstream_that_is_loading_and_says_so() {
    let mut pair = with_path().start();
    pair.to_hub = Reach::Raw;
    pair.settle();
    answer(&mut pair, OK);
    for is_asked in [false, true] {
        let hub = joins_again(&mut pair, "?1");
        pair.advance(seconds(16));
        let probe = pair.upstream();
        if is_asked {
            // It waits for the probe.
            pair.send(hub, POST);
        }
        pair.send(probe, UNAVAILABLE);
        assert_eq!(
            pair.got(hub),
            "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\
             Slime-Refused: its health path answered 503\r\nSlime-Loading: ?1\r\n\r\n"
        );
        pair.close(hub);
        joins_again(&mut pair, LOADING);
        pair.advance(seconds(1));
        answer(&mut pair, OK);
    }
}

#[test]
fn a_probe_has_five_seconds() {
    let mut pair = with_path().start();
    pair.to_hub = Reach::Raw;
    pair.settle();
    let probe = pair.upstream();
    pair.advance(Duration::from_millis(4_900));
    assert_eq!((pair.ended(probe), pair.hub_dials()), (None, 0));
    pair.advance(Duration::from_millis(200));
    assert!(pair.ended(probe).is_some());
    joins_again(&mut pair, "?0\r\nSlime-Reason: it does not answer");
}

#[test]
fn an_upstream_that_is_down_for_an_hour_is_asked_every_second_and_the_hub_is_left_alone() {
    let mut pair = Setup::default().start();
    pair.to_upstream = Reach::Fails(Unreachable::Refused);
    pair.advance(seconds(3600));
    let probes = pair.dials.iter().filter(|(target, _)| matches!(target, Target::Upstream(_))).count();
    assert!((3000..=3700).contains(&probes), "{probes}");
    assert_eq!((pair.hub_dials(), pair.hub.core.census().tunnels), (1, 1));
    let client = pair.client();
    pair.send(client, GET);
    assert!(pair.got(client).starts_with("HTTP/1.1 503 "));
    pair.to_upstream = Reach::Raw;
    pair.advance(seconds(2));
    pair.upstream();
    pair.send(client, GET);
    let upstream = pair.upstream();
    pair.send(upstream, OK);
    assert!(pair.got(client).starts_with("HTTP/1.1 200 "));
    pair.assert_quiet(1);
}

#[test]
fn a_healthy_upstream_is_asked_while_a_worker_is_idle_and_occupies_it() {
    let mut pair = with_path().start();
    pair.settle();
    answer(&mut pair, OK);
    assert_eq!(pair.hub.core.census().tunnels, 1);
    pair.advance(seconds(16));
    let probe = pair.upstream();
    assert_eq!(pair.got(probe), PROBE);
    // A request that comes meanwhile waits, so that the upstream does one thing at a time.
    let client = pair.client();
    pair.send(client, GET);
    assert_eq!(pair.arrivals(), 0);
    pair.send(probe, OK);
    let upstream = pair.upstream();
    assert!(pair.got(upstream).starts_with("GET /x "));
    // Busy is healthy.
    pair.advance(seconds(600));
    assert_eq!(pair.arrivals(), 0);
    pair.send(upstream, OK);
    assert!(pair.got(client).starts_with("HTTP/1.1 200 "));
    pair.advance(seconds(16));
    answer(&mut pair, OK);
    pair.assert_quiet(1);
}

#[test]
fn a_sick_upstream_withdraws_its_workers_and_a_request_that_waited_is_refused() {
    let (mut pair, probe, client) = waiting_for_probe();
    pair.send(probe, "HTTP/1.1 503 Service Unavailable\r\n\r\n");
    // The upstream is not asked to do what it cannot do, and the hub hears that it has seen nothing.
    assert_eq!(pair.arrivals(), 0);
    let got = pair.got(client);
    assert!(got.starts_with("HTTP/1.1 502 ") || got.is_empty(), "{got}");
    pair.advance(seconds(1));
    while pair.arrivals() > 0 {
        let next = pair.upstream();
        let got = pair.got(next);
        pair.send(next, OK);
        assert!(got.is_empty() || got == PROBE || got.starts_with("GET /x "), "{got}");
    }
    pair.advance(seconds(3));
    assert_eq!(pair.hub.core.census().tunnels, 1);
    pair.assert_quiet(1);
}

#[test]
fn a_cancelled_request_leaves_the_probe_alone() {
    let (mut pair, probe, client) = waiting_for_probe();
    pair.close(client);
    pair.send(probe, OK);
    assert_eq!(pair.arrivals(), 0);
    assert_eq!(pair.hub.core.census().tunnels, 1);
    pair.assert_quiet(1);
}

#[test]
fn probes_do_not_accumulate_while_the_upstream_flaps() {
    let mut pair = Setup::default().start();
    pair.settle();
    for round in 0..200 {
        pair.to_upstream = if round % 2 == 0 { Reach::Fails(Unreachable::Refused) } else { Reach::Raw };
        let client = pair.client();
        pair.send(client, GET);
        pair.advance(seconds(3));
        pair.close(client);
    }
    assert!(pair.hub_dials() < 500, "{} dials", pair.hub_dials());
    pair.assert_quiet(1);
}

/// How many probes and requests there are at the upstream.
fn at_once(pair: &Pair, upstreams: &[Raw]) -> usize {
    upstreams.iter().filter(|upstream| pair.ended(**upstream).is_none()).count()
}

#[test]
fn no_probe_runs_beside_the_job_of_the_only_worker() {
    let mut pair = with_path().start();
    pair.to_hub = Reach::Raw;
    pair.settle();
    answer(&mut pair, OK);
    let hub = joins_again(&mut pair, "?1");
    // A probe fails while a request is on its way to the worker; the next one finds a job.
    pair.send(hub, GET);
    let job = pair.upstream();
    assert!(pair.got(job).starts_with("GET /x "));
    pair.agents[0].core.upstream_is_down(0, Trouble::new("a test says so"), pair.now);
    for _ in 0..120 {
        pair.advance(Duration::from_millis(500));
        assert_eq!(pair.arrivals_of(Target::Upstream(0)), 0, "a probe beside the job");
    }
    pair.send(job, OK);
    pair.advance(seconds(2));
    answer(&mut pair, OK);
}

#[test]
fn an_upstream_that_hangs_is_found_out_while_there_is_traffic() {
    let mut pair = with_path().start();
    pair.to_hub = Reach::Raw;
    pair.settle();
    answer(&mut pair, OK);
    let hub = joins_again(&mut pair, "?1");
    pair.send(hub, POST);
    let job = pair.upstream();
    pair.advance(seconds(3));
    pair.close(hub);
    assert!(pair.ended(job).is_some());
    let hub = joins_again(&mut pair, "?1");
    // The next one is not given to it before it has answered a probe.
    pair.send(hub, POST);
    let probe = pair.upstream();
    assert_eq!((pair.got(probe).as_str(), pair.arrivals()), (PROBE, 0));
    pair.advance(seconds(5));
    assert!(pair.ended(probe).is_some());
    let got = pair.got(hub);
    assert!(got.ends_with("Slime-Refused: it does not answer\r\n\r\n"), "{got}");
    pair.close(hub);
    joins_again(&mut pair, "?0\r\nSlime-Reason: it does not answer");
}

#[test]
fn a_cancelled_request_costs_a_probe_only_if_it_tells_something() {
    let cancel = |setup: Setup, response: &str, reused: bool| {
        let mut pair = setup.start();
        pair.to_hub = Reach::Raw;
        pair.settle();
        let probe = pair.upstream();
        pair.send(probe, OK);
        let hub = joins_again(&mut pair, "?1");
        if reused {
            pair.send(hub, GET);
            let upstream = pair.upstream();
            pair.send(upstream, OK);
        }
        pair.send(hub, GET);
        if !reused {
            let upstream = pair.upstream();
            pair.send(upstream, response);
        }
        pair.close(hub);
        pair.arrivals_of(Target::Upstream(0))
    };
    let begun = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc";
    assert_eq!(cancel(with_path(), "", false), 1);
    assert_eq!(cancel(with_path(), "HTTP/1.1 103 Early Hints\r\n\r\n", false), 0);
    assert_eq!(cancel(with_path(), begun, false), 0);
    // Without a path a probe is a connection, and one was made just now.
    assert_eq!(cancel(Setup::default(), "", false), 0);
    assert_eq!(cancel(Setup::default(), "", true), 1);
}

#[test]
fn a_server_of_one_connection_at_a_time_is_well() {
    let setup = with_path().agent(|agent| agent.workers = 2);
    let mut pair = setup.start();
    pair.to_hub = Reach::Raw;
    pair.settle();
    answer(&mut pair, OK);
    let hubs = [pair.raw_hub(), pair.raw_hub()];
    pair.send(hubs[0], WELCOME);
    pair.send(hubs[1], WELCOME);
    pair.advance(Duration::from_millis(14_000));
    let mut kept = Vec::new();
    for hub in hubs {
        pair.send(hub, GET);
        let upstream = pair.upstream();
        pair.send(upstream, OK);
        kept.push(upstream);
    }
    assert_eq!(at_once(&pair, &kept), 2);
    pair.advance(seconds(2));
    assert_eq!(at_once(&pair, &kept), 0, "such a server would not look at the probe");
    answer(&mut pair, OK);
}

#[test]
fn requests_and_probes_are_never_more_than_the_workers() {
    let setup = with_path().agent(|agent| agent.workers = 2);
    let mut pair = setup.start();
    pair.to_hub = Reach::Raw;
    pair.settle();
    answer(&mut pair, OK);
    let hubs = [pair.raw_hub(), pair.raw_hub()];
    pair.send(hubs[0], WELCOME);
    pair.send(hubs[1], WELCOME);
    pair.advance(seconds(16));
    let probe = pair.upstream();
    // One has a place beside the probe, the other one waits.
    pair.send(hubs[0], GET);
    let first = pair.upstream();
    pair.send(hubs[1], GET);
    assert_eq!((pair.arrivals(), at_once(&pair, &[probe, first])), (0, 2));
    pair.send(probe, OK);
    let second = pair.upstream();
    assert!(pair.got(second).starts_with("GET /x "));
    pair.advance(seconds(60));
    assert_eq!(pair.arrivals(), 0);
    // One that is free makes room for a probe.
    pair.send(second, OK);
    pair.advance(seconds(16));
    answer(&mut pair, OK);
}
