//! Who is served by whom, and in which order.

use super::*;
use crate::proto::testing::Setup;
use crate::proto::testing::pair::{UNIX, token};
use crate::proto::testing::scenario::*;

pub(super) fn get(path: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: app.test\r\n{more}\r\n")
}

/// The path of the request that a raw agent got, empty if it got none.
pub(super) fn path_at(pair: &mut Pair, agent: Raw) -> String {
    pair.got(agent).split(' ').nth(1).unwrap_or_default().to_owned()
}

/// A hub with so many agents that the test plays, of one worker each, all free.
pub(super) fn with_agents(setup: Setup, count: u8) -> (Pair, Vec<Raw>) {
    let mut pair = setup.start();
    let agents: Vec<Raw> = (1..=count).map(|agent| pair.raw_agent(&token(agent), 0)).collect();
    for agent in &agents {
        assert!(pair.got(*agent).starts_with("HTTP/1.1 101 "));
    }
    (pair, agents)
}

pub(super) fn ask(pair: &mut Pair, request: &str) -> Raw {
    let client = pair.client();
    pair.send(client, request);
    client
}

#[test]
fn the_longest_idle_agent_goes_first() {
    let (mut pair, agents) = with_agents(Setup::hub_only(), 3);
    let mut order = vec![agents[0], agents[1], agents[2]];
    for round in [2, 0, 1, 1, 2, 0] {
        let clients: Vec<Raw> = (0..3).map(|at| ask(&mut pair, &get(&format!("/{at}"), ""))).collect();
        for (at, agent) in order.iter().enumerate() {
            assert_eq!(path_at(&mut pair, *agent), format!("/{at}"));
        }
        // They end in another order, which is the next one of their turns.
        order.rotate_left(round);
        for agent in &order {
            pair.send(*agent, OK);
        }
        for client in clients {
            assert_eq!(pair.got(client), WAS_OK);
        }
    }
    pair.assert_quiet(0);
}

#[test]
fn an_agent_is_asked_on_the_tunnel_that_was_used_last() {
    let mut pair = Setup::hub_only().start();
    let tunnels: Vec<Raw> = (0..3).map(|worker| pair.raw_agent(&token(1), worker)).collect();
    let other = pair.raw_agent(&token(2), 0);
    for tunnel in tunnels.iter().chain([&other]) {
        assert!(pair.got(*tunnel).starts_with("HTTP/1.1 101 "));
    }
    // Three turns for three workers, and the second agent's.
    for expected in [tunnels[2], tunnels[2], tunnels[2], other, tunnels[2]] {
        let client = ask(&mut pair, &get("/x", ""));
        assert_eq!(path_at(&mut pair, expected), "/x");
        pair.send(expected, OK);
        assert_eq!(pair.got(client), WAS_OK);
    }
    // All of them can be had at once.
    let clients: Vec<Raw> = (0..4).map(|at| ask(&mut pair, &get(&format!("/{at}"), ""))).collect();
    for tunnel in tunnels.iter().chain([&other]) {
        assert!(!path_at(&mut pair, *tunnel).is_empty());
        pair.send(*tunnel, OK);
    }
    for client in clients {
        assert_eq!(pair.got(client), WAS_OK);
    }
    pair.assert_quiet(0);
}

#[test]
fn waiters_are_served_in_order_of_arrival() {
    let (mut pair, agents) = with_agents(Setup::hub_only(), 1);
    let clients: Vec<Raw> = (0..5).map(|at| ask(&mut pair, &get(&format!("/{at}"), ""))).collect();
    // One leaves: its request is never sent.
    pair.close(clients[2]);
    for at in [0, 1, 3, 4] {
        assert_eq!(path_at(&mut pair, agents[0]), format!("/{at}"));
        pair.send(agents[0], OK);
        assert_eq!(pair.got(clients[at]), WAS_OK);
    }
    assert_eq!(pair.got(agents[0]), "");
    pair.assert_quiet(0);
}

#[test]
fn scopes_choose_the_agent() {
    let mut scoped = token(2);
    scoped.scopes = vec!["gpu".to_owned(), "big".to_owned()];
    let mut pair = Setup::hub_only().start();
    let plain = pair.raw_agent(&token(1), 0);
    let gpu = pair.raw_agent(&scoped, 0);
    pair.got(plain);
    pair.got(gpu);
    let client = ask(&mut pair, &get("/1", "Slime-Scope: big\r\n"));
    assert_eq!((path_at(&mut pair, plain), path_at(&mut pair, gpu)), (String::new(), "/1".to_owned()));
    // A scope that nobody has is not connected; the right one waits, though another agent is free.
    let nobody = ask(&mut pair, &get("/2", "Slime-Scope: cpu\r\n"));
    assert_refused(&mut pair, nobody, 503, "no agent that could serve this is connected");
    let second = ask(&mut pair, &get("/3", "Slime-Scope: gpu\r\n"));
    assert_eq!(pair.hub.core.census().queued, 1);
    // Without a scope anyone will do, the scoped ones as well.
    let third = ask(&mut pair, &get("/4", ""));
    assert_eq!(path_at(&mut pair, plain), "/4");
    let fourth = ask(&mut pair, &get("/5", ""));
    pair.send(gpu, OK);
    assert_eq!(path_at(&mut pair, gpu), "/3");
    pair.send(gpu, OK);
    assert_eq!(path_at(&mut pair, gpu), "/5");
    pair.send(gpu, OK);
    pair.send(plain, OK);
    for client in [client, second, third, fourth] {
        assert_eq!(pair.got(client), WAS_OK);
    }
    pair.assert_quiet(0);
}

#[test]
fn a_scope_that_cannot_be_read_is_not_no_scope() {
    let (mut pair, agents) = with_agents(Setup::hub_only(), 1);
    let client = pair.client();
    pair.send(client, b"GET / HTTP/1.1\r\nHost: app.test\r\nSlime-Scope: \xff\r\n\r\n");
    assert_eq!(pair.got(agents[0]), "");
    assert_refused(&mut pair, client, 400, "Slime-Scope is not a scope");
    pair.assert_quiet(0);
}

#[test]
fn scope_paths_are_all_that_an_agent_takes() {
    let mut barred = token(1);
    barred.scope_paths = vec!["/v1".to_owned()];
    for (path, taken) in [
        ("/v1", true),
        ("/v1/", true),
        ("/v1/chat?x=/..", true),
        ("/v10", false),
        ("/", false),
        ("/v2", false),
    ] {
        let mut pair = Setup::hub_only().start();
        let agent = pair.raw_agent(&barred, 0);
        pair.got(agent);
        let client = ask(&mut pair, &get(path, ""));
        assert_eq!(path_at(&mut pair, agent), if taken { path } else { "" });
        if !taken {
            assert_refused(&mut pair, client, 503, "no agent that could serve this is connected");
        }
        pair.assert_quiet(0);
    }
    for path in ["/v1/../v2", "/v1//x", "/v1/%2e%2e/x", "/v1/%2f", "/v1/a;b", "/v1/%61", "/v1/%00", "/v1/\\x"]
    {
        let mut pair = Setup::hub_only().start();
        let agent = pair.raw_agent(&barred, 0);
        pair.got(agent);
        let client = ask(&mut pair, &get(path, ""));
        assert_eq!(pair.got(agent), "");
        assert_refused(&mut pair, client, 503, "can be read in more than one way");
        // An agent without scope paths takes it as it is.
        let free = pair.raw_agent(&token(2), 0);
        pair.got(free);
        let _client = ask(&mut pair, &get(path, ""));
        assert_eq!(path_at(&mut pair, free), path);
        pair.assert_quiet(0);
    }
}

#[test]
fn without_an_agent_it_is_503_at_once() {
    let mut pair = Setup::hub_only().start();
    let client = ask(&mut pair, GET);
    assert_refused(&mut pair, client, 503, "Slime-Block: 1");
    // The connection is as good as new.
    assert_eq!(pair.ended(client), None);
    let agent = pair.raw_agent(&token(1), 0);
    pair.got(agent);
    pair.send(client, GET);
    assert_eq!(path_at(&mut pair, agent), "/x");
    pair.assert_quiet(0);
}

#[test]
fn a_withdrawn_agent_is_not_connected() {
    let mut pair = Setup::hub_only().start();
    let agent = pair.raw_agent_called(&token(1), "a", 0, Some("down"));
    assert!(pair.got(agent).starts_with("HTTP/1.1 101 "));
    let client = ask(&mut pair, GET);
    assert_refused(&mut pair, client, 503, "are connected, but their upstreams cannot be used");
    let waiting = ask(&mut pair, &get("/x", "Slime-Block: 1\r\n"));
    assert_eq!(pair.hub.core.census().queued, 1);
    // Ready again: the same worker comes with a new tunnel.
    let again = pair.raw_agent(&token(1), 0);
    assert!(pair.got(again).ends_with("\r\n\r\nGET /x HTTP/1.1\r\nHost: app.test\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: app.test\r\nVia: 1.1 slime\r\n\r\n"));
    pair.send(again, OK);
    assert_eq!(pair.got(waiting), WAS_OK);
    pair.assert_quiet(0);
}

#[test]
fn an_agent_that_went_less_than_five_seconds_ago_is_connected() {
    for withdraws in [false, true] {
        let (mut pair, agents) = with_agents(Setup::hub_only(), 1);
        if withdraws {
            let refusal = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\nSlime-Refused: down\r\n\r\n";
            pair.send(agents[0], refusal);
            assert_eq!(pair.ended(agents[0]), Some(Ended::Fin));
        } else {
            pair.close(agents[0]);
        }
        assert_eq!(pair.hub.core.census().tunnels, 0);
        pair.advance(Duration::from_millis(4900));
        let early = ask(&mut pair, GET);
        assert_eq!((pair.got(early).as_str(), pair.hub.core.census().queued), ("", 1));
        pair.advance(Duration::from_millis(200));
        let late = ask(&mut pair, GET);
        assert_refused(&mut pair, late, 503, "no agent");
        pair.advance(Duration::from_millis(500));
        assert_refused(&mut pair, early, 503, "no agent");
        pair.assert_quiet(0);
    }
}

#[test]
fn a_hub_that_has_just_started_takes_every_agent_for_connected() {
    let setup = || Setup::hub_only().hub(|hub| hub.startup_grace = seconds(3));
    let mut pair = setup().start();
    pair.advance(Duration::from_millis(2900));
    let early = ask(&mut pair, &get("/x", "Slime-Scope: any\r\n"));
    let other = ask(&mut pair, &get("/x", "Slime-Scope: other\r\n"));
    assert_eq!(pair.hub.core.census().queued, 2);
    let mut scoped = token(1);
    scoped.scopes.push("any".to_owned());
    let agent = pair.raw_agent(&scoped, 0);
    assert!(pair.got(agent).contains("GET /x"));
    let waiting = ask(&mut pair, &get("/y", "Slime-Scope: any\r\n"));
    pair.advance(Duration::from_millis(200));
    // Who has not come by now is not there; who has may be busy for long.
    assert_refused(&mut pair, other, 503, "no agent");
    let late = ask(&mut pair, &get("/x", "Slime-Scope: other\r\n"));
    assert_refused(&mut pair, late, 503, "no agent");
    pair.send(agent, OK);
    assert_eq!(pair.got(early), WAS_OK);
    assert!(pair.got(agent).contains("GET /y"));
    pair.send(agent, OK);
    assert_eq!(pair.got(waiting), WAS_OK);
    pair.assert_quiet(0);
    // What came when nobody was there waits on if somebody is in the end.
    let mut pair = setup().start();
    let first = ask(&mut pair, GET);
    let second = ask(&mut pair, &get("/y", ""));
    let agent = pair.raw_agent(&token(1), 0);
    pair.got(agent);
    pair.advance(seconds(5));
    assert_eq!(pair.got(second), "");
    pair.send(agent, OK);
    assert_eq!(pair.got(first), WAS_OK);
    assert!(pair.got(agent).contains("GET /y"));
    pair.send(agent, OK);
    assert_eq!(pair.got(second), WAS_OK);
    pair.assert_quiet(0);
    // Slime-Block: 0 never waits, not even then.
    let mut pair = setup().start();
    let never = ask(&mut pair, &get("/x", "Slime-Block: 0\r\n"));
    assert_refused(&mut pair, never, 503, "");
}

#[test]
fn an_expired_token_gets_no_new_exchange_and_the_running_one_ends() {
    let mut short = token(1);
    short.expires = Some(UNIX + 10);
    let mut pair = Setup::hub_only().start();
    let agent = pair.raw_agent(&short, 0);
    pair.got(agent);
    let client = ask(&mut pair, GET);
    pair.got(agent);
    pair.advance(seconds(11));
    pair.send(agent, OK);
    assert_eq!(pair.got(client), WAS_OK);
    let farewell = pair.got(agent);
    assert!(
        farewell.starts_with("OPTIONS * ") && farewell.contains("Slime-Close: expired\r\n"),
        "{farewell}"
    );
    pair.send(client, GET);
    assert_refused(&mut pair, client, 503, "no agent");
    pair.assert_quiet(0);
}

#[test]
fn agents_that_left_are_forgotten_withdrawn_or_not() {
    for withdrawn in [None, Some("down")] {
        let mut pair = Setup::hub_only().start();
        for at in 0..20 {
            let agent = pair.raw_agent_called(&token(1), &format!("agent-{at}"), 0, withdrawn);
            pair.close(agent);
            pair.advance(seconds(1));
        }
        pair.advance(seconds(60));
        assert_eq!(pair.hub.core.tunnels.pool().agents(), 0);
    }
}
