//! Two tunnels of one name: the later one has it, and the worker that both stand for has one request at a
//! time.

use super::*;
use crate::proto::testing::Setup;
use crate::proto::testing::pair::token;
use crate::proto::testing::scenario::*;
use crate::proto::trust::agent_token::AgentToken;
use crate::proto::trust::revocation::Revocations;

const HALF: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh";
const REPLACED: &str = "Slime-Close: replaced\r\n\r\n";

/// An agent that the test plays is in the middle of a response, and another tunnel of its name has joined:
/// hub, client, both tunnels.
fn replaced_in_a_response(setup: Setup, token: &AgentToken) -> (Pair, Raw, Raw, Raw) {
    let mut pair = setup.start();
    let old = pair.raw_agent(token, 0);
    let client = pair.client();
    pair.send(client, GET);
    pair.send(old, HALF);
    let new = pair.raw_agent(token, 0);
    assert!(pair.got(old).contains("GET /x "));
    assert!(pair.got(new).starts_with("HTTP/1.1 101 "));
    assert!(pair.got(client).ends_with("\r\n\r\nh"));
    assert_eq!(pair.ended(old), None, "its response is seen through");
    (pair, client, old, new)
}

fn asked(pair: &mut Pair, path: &str) -> Raw {
    let client = pair.client();
    pair.send(client, GET.replace("/x", path));
    client
}

#[test]
fn the_newcomer_begins_when_the_response_is_through_and_the_old_one_gets_nothing_more() {
    let mut limited = token(1);
    limited.max_workers = Some(1);
    for token in [token(1), limited] {
        let (mut pair, client, old, new) = replaced_in_a_response(Setup::hub_only(), &token);
        let waiting = [asked(&mut pair, "/1"), asked(&mut pair, "/2")];
        assert_eq!((pair.got(old).as_str(), pair.got(new).as_str()), ("", ""), "two requests at once");
        pair.send(old, "i");
        assert_eq!(pair.got(client), "i");
        assert!(pair.got(old).ends_with(REPLACED));
        assert_eq!(pair.ended(old), Some(Ended::Fin));
        for (client, path) in waiting.into_iter().zip(["/1", "/2"]) {
            assert!(pair.got(new).contains(&format!("GET {path} ")));
            pair.send(new, OK);
            assert_eq!(pair.got(client), WAS_OK);
        }
        pair.assert_quiet(0);
    }
}

#[test]
fn a_newcomer_waits_for_the_response_however_it_ends() {
    let ends: [fn(&mut Pair, Raw, Raw); 4] = [
        |pair, client, _| pair.close(client),
        |pair, _, old| pair.close(old),
        |pair, _, old| pair.reset(old),
        // Nothing of it moves any more: whoever has sent it is gone.
        |pair, _, _| pair.advance(seconds(6)),
    ];
    for end in ends {
        let (mut pair, client, old, new) = replaced_in_a_response(Setup::hub_only(), &token(1));
        let waiting = asked(&mut pair, "/1");
        assert_eq!(pair.got(new), "");
        end(&mut pair, client, old);
        assert!(pair.got(new).contains("GET /1 "));
        pair.send(new, OK);
        assert_eq!(pair.got(waiting), WAS_OK);
        pair.assert_quiet(0);
    }
}

#[test]
fn a_vanished_agent_does_not_keep_out_the_next_one_of_its_name() {
    let mut limited = token(1);
    limited.max_workers = Some(1);
    let upgrade = "GET /x HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    for (request, response) in [("", ""), (GET, ""), (GET, HALF), (upgrade, switched)] {
        let mut pair = Setup::hub_only().start();
        let ghost = pair.raw_agent(&limited, 0);
        let client = pair.client();
        pair.send(client, request);
        pair.send(ghost, response);
        let new = pair.raw_agent(&limited, 0);
        assert!(pair.got(new).starts_with("HTTP/1.1 101 "));
        pair.advance(seconds(6));
        assert!(pair.ended(ghost).is_some());
        let next = asked(&mut pair, "/next");
        if request == GET && response.is_empty() {
            // What the ghost did not answer comes first.
            pair.send(new, OK);
            assert_eq!(pair.got(client), WAS_OK);
        }
        pair.send(new, OK);
        assert_eq!(pair.got(next), WAS_OK);
        pair.assert_quiet(0);
    }
}

#[test]
fn newcomers_of_newcomers_wait_too_ready_or_not() {
    let (mut pair, client, old, second) = replaced_in_a_response(Setup::hub_only(), &token(1));
    let waiting = asked(&mut pair, "/1");
    let third = pair.raw_agent_called(&token(1), "a", 0, Some("down"));
    assert!(pair.got(second).ends_with(REPLACED));
    let fourth = pair.raw_agent(&token(1), 0);
    assert!(pair.got(third).ends_with(REPLACED));
    // It answers for itself while it waits.
    for _ in 0..5 {
        pair.advance(seconds(4));
        pair.send(old, "");
        if pair.ended(old).is_some() {
            break;
        }
    }
    assert!(pair.ended(old).is_some() && pair.ended(client).is_some());
    assert!(pair.got(fourth).contains("GET /1 "));
    pair.send(fourth, OK);
    assert_eq!(pair.got(waiting), WAS_OK);
    pair.assert_quiet(0);
}

#[test]
fn one_that_waits_for_long_gives_signs_of_life() {
    for answers_late in [false, true] {
        let mut pair = Setup { room: 1000, ..Setup::hub_only() }.start();
        let old = pair.raw_agent(&token(1), 0);
        let client = pair.client();
        pair.reads_only(client, 0);
        pair.send(client, GET);
        pair.send(old, format!("HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n{}", "x".repeat(4000)));
        let new = pair.raw_agent(&token(1), 0);
        pair.got(new);
        let waiting = asked(&mut pair, "/1");
        // Nothing moves because its client is slow.
        pair.advance(seconds(16));
        assert!(pair.got(new).contains("Slime-Heartbeat"));
        if !answers_late {
            pair.send(new, crate::proto::tunnel::PONG);
        }
        assert_eq!(pair.got(new), "");
        pair.reads_only(client, usize::MAX);
        assert!(pair.got(client).ends_with("xxx"));
        assert!(pair.got(old).ends_with(REPLACED));
        if answers_late {
            assert_eq!(pair.got(new), "");
            pair.send(new, crate::proto::tunnel::PONG);
        }
        assert!(pair.got(new).contains("GET /1 "));
        pair.send(new, OK);
        assert_eq!(pair.got(waiting), WAS_OK);
        pair.assert_quiet(0);
    }
}

#[test]
fn the_slot_of_an_agent_is_kept_for_a_response_that_is_seen_through() {
    let scoped = |id: u8, scope: &str| {
        let mut token = token(id);
        token.scopes.push(scope.to_owned());
        token
    };
    let mut pair = Setup::hub_only().start();
    let a = scoped(1, "a");
    let old = pair.raw_agent(&a, 0);
    let client = pair.client();
    pair.send(client, GET);
    pair.send(old, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n");
    let new = pair.raw_agent(&a, 0);
    pair.close(new);
    // The response goes on for longer than an agent is remembered.
    for _ in 0..5 {
        pair.send(old, "x");
        pair.advance(seconds(3));
    }
    let other = pair.raw_agent(&scoped(2, "b"), 0);
    pair.send(old, "xxxxx");
    assert!(pair.got(client).ends_with("xxxxxxxxxx"));
    assert!(pair.got(old).ends_with(REPLACED));
    let wanted = pair.client();
    pair.send(wanted, GET.replace("\r\n\r\n", "\r\nSlime-Scope: b\r\n\r\n"));
    assert_eq!(pair.got(old), "");
    assert!(pair.got(other).contains("GET /x "));
    pair.send(other, OK);
    assert_eq!(pair.got(wanted), WAS_OK);
    pair.assert_quiet(0);
    assert_eq!(pair.hub.core.tunnels.pool().agents(), 0);
}

#[test]
fn a_replaced_tunnel_is_revoked_with_its_token() {
    let (mut pair, client, old, new) = replaced_in_a_response(Setup::hub_only(), &token(1));
    pair.at_hub(|hub, now| hub.set_revocations(Revocations::parse("token-1").unwrap(), now));
    assert!(pair.ended(old).is_some() && pair.ended(new).is_some());
    assert_closed(&mut pair, client);
    pair.assert_quiet(0);
}
