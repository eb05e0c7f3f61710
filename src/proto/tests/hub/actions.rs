//! What an operator does.

use super::*;
use crate::proto::admin::Subject as _;
use crate::proto::admin::action::{Action, Done, NotDone};
use crate::proto::hub::Hub;
use crate::proto::testing::Setup;
use crate::proto::testing::pair::token;
use crate::proto::testing::scenario::{GET, OK, WAS_OK};
use crate::proto::tunnel::{PING, PONG};

const PATIENT: &str = "GET /x HTTP/1.1\r\nHost: app.test\r\nSlime-Block: 1\r\n\r\n";

fn act(pair: &mut Pair, action: Action<'_>) -> Result<Done, NotDone> {
    let mut done = None;
    pair.at_hub(|hub, now| done = Some(hub.act(&action, now)));
    done.unwrap()
}

fn pause_agent(pair: &mut Pair, id: &str, pause: bool) -> Option<bool> {
    changed(act(pair, Action::Agent { id, pause }))
}

fn changed(done: Result<Done, NotDone>) -> Option<bool> {
    match done {
        Ok(Done::Changed(changed)) => Some(changed),
        Ok(Done::Cancelled { .. }) | Err(_) => None,
    }
}

fn ask(pair: &mut Pair, request: &str) -> Raw {
    let client = pair.client();
    pair.send(client, request);
    client
}

fn at(hub: &Hub) -> u64 {
    hub.exchanges.iter().map(|(_, exchange)| exchange.arrival.0).max().unwrap()
}

/// The number of the request that came last.
fn last(pair: &mut Pair) -> u64 {
    let mut number = 0;
    pair.at_hub(|hub, _| number = at(hub));
    number
}

#[test]
fn a_paused_agent_gets_nothing_and_keeps_what_it_has() {
    let mut pair = Setup::hub_only().start();
    let (first, second) = (pair.raw_agent(&token(1), 0), pair.raw_agent(&token(1), 1));
    let id = agent_id(&mut pair);
    let client = ask(&mut pair, GET);
    assert!(pair.got(second).ends_with("\r\n\r\n"));
    assert_eq!(pause_agent(&mut pair, &id, true), Some(true));
    assert_eq!(pause_agent(&mut pair, &id, true), Some(false));
    assert_eq!(pause_agent(&mut pair, "nobody", true), None);
    let waits = ask(&mut pair, PATIENT);
    pair.send(second, OK);
    assert_eq!(pair.got(client), WAS_OK);
    pair.got(first);
    // Signs of life bring it no work, and are asked for.
    pair.advance(seconds(16));
    for agent in [first, second] {
        assert!(pair.got(agent).ends_with(core::str::from_utf8(PING).unwrap()));
        pair.send(agent, PONG);
    }
    assert_eq!(pair.got(first) + &pair.got(second) + &pair.got(waits), "");
    let another = pair.raw_agent(&token(1), 2);
    pair.got(another);
    assert_eq!(pause_agent(&mut pair, &id, false), Some(true));
    let got = [first, second, another].map(|agent| pair.got(agent));
    let served = got.iter().position(|got| got.contains("GET /x ")).unwrap();
    pair.send([first, second, another][served], OK);
    assert_eq!(pair.got(waits), WAS_OK);
    pair.assert_quiet(0);
}

/// The id by which the hub knows the only agent.
fn agent_id(pair: &mut Pair) -> String {
    let mut found = String::new();
    pair.at_hub(|hub, _| {
        found =
            hub.tunnels.pool().known().map(|agent| format!("{}:{}", agent.token, agent.id)).next().unwrap();
    });
    found
}

#[test]
fn who_waits_for_paused_agents_is_told_after_the_grace() {
    let mut pair = Setup::hub_only().hub(|hub| hub.agent_grace = seconds(5)).start();
    let _agent = pair.raw_agent(&token(1), 0);
    let id = agent_id(&mut pair);
    pause_agent(&mut pair, &id, true);
    let waits = ask(&mut pair, GET);
    let patient = ask(&mut pair, PATIENT);
    pair.advance(seconds(5) - COARSE);
    assert_eq!(pair.got(waits), "");
    pair.advance(2 * COARSE);
    assert_refused(&mut pair, waits, 503, "has paused them");
    let at_once = ask(&mut pair, GET);
    assert_refused(&mut pair, at_once, 503, "has paused them");
    assert_eq!(pair.got(patient), "");
    pair.at_hub(|hub, _| assert_eq!(hub.tunnels.pool().ready_agents(), 0));
}

#[test]
fn a_name_is_paused_also_for_those_who_join_later() {
    let mut pair = Setup::hub_only().start();
    let pause = |pair: &mut Pair, pause| changed(act(pair, Action::Name { name: "token-1", pause }));
    assert_eq!(pause(&mut pair, false), Some(false));
    assert_eq!(pause(&mut pair, true), Some(true));
    assert_eq!(pause(&mut pair, true), Some(false));
    let (agent, other) = (pair.raw_agent(&token(1), 0), pair.raw_agent(&token(2), 0));
    pair.got(agent);
    for _ in 0..2 {
        let client = ask(&mut pair, GET);
        assert!(pair.got(other).contains("GET /x "));
        pair.send(other, OK);
        assert_eq!(pair.got(client), WAS_OK);
    }
    assert_eq!(pair.got(agent), "");
    pair.close(other);
    let waits = ask(&mut pair, PATIENT);
    assert_eq!(pause(&mut pair, false), Some(true));
    assert!(pair.got(agent).contains("GET /x "));
    pair.send(agent, OK);
    assert_eq!(pair.got(waits), WAS_OK);
    for number in 0..1024 {
        assert!(act(&mut pair, Action::Name { name: &format!("{number}"), pause: true }).is_ok());
    }
    let full = act(&mut pair, Action::Name { name: "x", pause: true });
    assert_eq!(full, Err(NotDone::Full("too many names are paused")));
}

#[test]
fn an_agent_that_comes_back_is_still_paused() {
    let mut pair = Setup::hub_only().hub(|hub| hub.agent_grace = seconds(5)).start();
    let agent = pair.raw_agent(&token(1), 0);
    let id = agent_id(&mut pair);
    pause_agent(&mut pair, &id, true);
    pair.close(agent);
    pair.advance(seconds(60));
    pair.at_hub(|hub, _| assert_eq!(hub.tunnels.pool().agents(), 0));
    let agent = pair.raw_agent(&token(1), 0);
    pair.got(agent);
    let waits = ask(&mut pair, PATIENT);
    assert_eq!(pair.got(agent), "");
    assert_eq!(pause_agent(&mut pair, &id, false), Some(true));
    assert!(pair.got(agent).contains("GET /x "));
    pair.send(agent, OK);
    assert_eq!(pair.got(waits), WAS_OK);
}

#[test]
fn a_paused_queue_holds_requests_and_their_time_runs() {
    let mut pair = Setup::hub_only().hub(|hub| hub.queue_timeout = seconds(60)).start();
    let agent = pair.raw_agent(&token(1), 0);
    let runs = ask(&mut pair, GET);
    assert!(pair.got(agent).contains("GET /x "));
    let pause = |pair: &mut Pair, pause| changed(act(pair, Action::Queue { pause }));
    assert_eq!(pause(&mut pair, true), Some(true));
    assert_eq!(pause(&mut pair, true), Some(false));
    pair.send(agent, OK);
    assert_eq!(pair.got(runs), WAS_OK);
    let waits = ask(&mut pair, GET);
    let short = ask(&mut pair, "GET /s HTTP/1.1\r\nHost: app.test\r\nSlime-Max-Wait: 5\r\n\r\n");
    let never = ask(&mut pair, "GET /n HTTP/1.1\r\nHost: app.test\r\nSlime-Block: 0\r\n\r\n");
    assert_refused(&mut pair, never, 503, "Slime-Block: 0 does not wait");
    pair.advance(seconds(6));
    assert_refused(&mut pair, short, 503, "no worker became free in time");
    assert_eq!(pair.got(waits) + &pair.got(agent), "");
    assert_eq!(pause(&mut pair, false), Some(true));
    assert!(pair.got(agent).contains("GET /x "));
    pair.send(agent, OK);
    assert_eq!(pair.got(waits), WAS_OK);
    pair.assert_quiet(0);
}

#[test]
fn requests_are_cancelled_wherever_they_are() {
    let mut pair = Setup::hub_only().start();
    let (waiting, running) = (Ok(Done::Cancelled { ran: false }), Ok(Done::Cancelled { ran: true }));
    let unknown = Err(NotDone::Unknown("no request with this id waits or runs"));
    assert_eq!(act(&mut pair, Action::Cancel { number: 1 }), unknown);
    // Its body is awaited.
    let gathering = ask(&mut pair, "POST /x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\n\r\nhe");
    let number = last(&mut pair);
    assert_eq!(act(&mut pair, Action::Cancel { number }), waiting);
    let got = pair.got(gathering);
    assert!(got.starts_with("HTTP/1.1 503 ") && got.contains("has cancelled this request"), "{got}");
    assert!(!got.contains("Retry-After"), "{got}");
    assert_eq!(act(&mut pair, Action::Cancel { number }), unknown);
    // It waits; its connection is good for another one.
    let client = ask(&mut pair, PATIENT);
    let number = last(&mut pair);
    assert_eq!(act(&mut pair, Action::Cancel { number }), waiting);
    assert!(pair.got(client).starts_with("HTTP/1.1 503 "));
    // It runs.
    let agent = pair.raw_agent(&token(1), 0);
    pair.send(client, GET);
    assert!(pair.got(agent).contains("GET /x "));
    let number = last(&mut pair);
    assert_eq!(act(&mut pair, Action::Cancel { number }), running);
    assert!(pair.got(client).starts_with("HTTP/1.1 503 "));
    assert!(pair.ended(agent).is_some());
    // It is answered in part: the client sees that something is missing.
    let agent = pair.raw_agent(&token(1), 0);
    pair.send(client, GET);
    pair.got(agent);
    pair.send(agent, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
    assert!(pair.got(client).ends_with("hello"));
    let number = last(&mut pair);
    assert_eq!(act(&mut pair, Action::Cancel { number }), running);
    assert_eq!(act(&mut pair, Action::Cancel { number }), unknown);
    assert!(pair.got(client).is_empty() && pair.ended(client).is_some());
    assert!(pair.ended(agent).is_some());
    pair.assert_quiet(0);
}
