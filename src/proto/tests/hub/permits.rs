//! How many exchanges are active at once, and when one ends.

use super::dispatch::{ask, get, path_at, with_agents};
use super::*;
use crate::proto::testing::Setup;
use crate::proto::testing::scenario::*;

#[test]
fn no_more_exchanges_are_active_than_are_permitted() {
    let (mut pair, agents) = with_agents(Setup::hub_only().hub(|hub| hub.concurrent = 2), 4);
    let clients: Vec<Raw> = (0..4).map(|at| ask(&mut pair, &get(&format!("/{at}"), ""))).collect();
    let census = pair.hub.core.census();
    assert_eq!((census.active, census.queued), (2, 2));
    assert_eq!(path_at(&mut pair, agents[0]), "/0");
    assert_eq!(path_at(&mut pair, agents[1]), "/1");
    assert_eq!((pair.got(agents[2]), pair.got(agents[3])), (String::new(), String::new()));
    // Whatever ends one, the permit goes on.
    pair.close(clients[0]);
    assert_eq!(path_at(&mut pair, agents[2]), "/2");
    pair.close(agents[1]);
    assert_eq!(pair.hub.core.census().active, 2);
    pair.send(agents[3], OK);
    pair.assert_quiet(0);
}

/// A hub with one permit, which goes with the response: its exchange is over, and its client takes none of
/// the rest.
fn with_a_tail(request: &str) -> (Pair, Raw, Vec<Raw>) {
    let setup = Setup { room: 40_000, ..Setup::hub_only() }.hub(|hub| hub.concurrent = 1);
    let (mut pair, agents) = with_agents(setup, 2);
    let client = ask(&mut pair, request);
    assert_eq!(path_at(&mut pair, agents[0]), "/x");
    pair.send(agents[0], "HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n");
    assert_ne!(pair.got(client), "");
    pair.reads_only(client, 0);
    pair.send(agents[0], "x".repeat(60_000));
    let census = pair.hub.core.census();
    assert_eq!((census.exchanges, census.active, census.tails), (0, 0, 1));
    (pair, client, agents)
}

#[test]
fn a_response_has_its_permit_until_its_client_has_taken_all_of_it() {
    let close = GET.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    for request in [GET, &close] {
        let ways: [fn(&mut Pair, Raw); 3] = [
            |pair, client| pair.reads_only(client, usize::MAX),
            |pair, client| pair.close(client),
            |pair, client| pair.reset(client),
        ];
        for end in ways {
            let (mut pair, client, agents) = with_a_tail(request);
            let next = ask(&mut pair, &get("/next", "Slime-Max-Wait: 1000\r\n"));
            assert_eq!((pair.got(agents[0]), pair.got(agents[1])), (String::new(), String::new()));
            end(&mut pair, client);
            assert_eq!(pair.hub.core.census().tails, 0);
            let served = agents.into_iter().find(|agent| path_at(&mut pair, *agent) == "/next").unwrap();
            pair.send(served, OK);
            assert_eq!(pair.got(next), WAS_OK);
            pair.assert_quiet(0);
        }
        let (mut pair, _, _) = with_a_tail(request);
        pair.advance(seconds(61));
        assert_eq!(pair.hub.core.census().tails, 0);
        pair.assert_quiet(0);
    }
}

#[test]
fn nothing_more_is_answered_until_the_last_response_is_taken() {
    let (mut pair, client, agents) = with_a_tail(GET);
    // Answers of the hub's own would pile up in its memory.
    pair.send(client, get("/none", "Slime-Scope: nobody\r\n").repeat(100));
    pair.send(client, GET);
    assert_eq!(pair.hub.core.census().exchanges, 0);
    pair.reads_only(client, usize::MAX);
    let got = pair.got(client);
    assert_eq!(got.matches("HTTP/1.1 503 ").count(), 100);
    let served = agents.into_iter().find(|agent| path_at(&mut pair, *agent) == "/x").unwrap();
    pair.send(served, OK);
    assert_eq!(pair.got(client), WAS_OK);
    pair.assert_quiet(0);
}

#[test]
fn who_does_not_take_a_refusal_has_no_permit() {
    let setup = Setup { room: 10, ..Setup::hub_only() }.hub(|hub| hub.concurrent = 1);
    let (mut pair, agents) = with_agents(setup, 1);
    let refused = pair.client();
    pair.reads_only(refused, 0);
    pair.send(refused, get("/none", "Slime-Scope: nobody\r\n"));
    assert_eq!(pair.hub.core.census().tails, 0);
    let client = ask(&mut pair, GET);
    assert_eq!(path_at(&mut pair, agents[0]), "/x");
    pair.send(agents[0], OK);
    assert_eq!(pair.got(client), WAS_OK);
    pair.close(refused);
    pair.assert_quiet(0);
}
