//! The life of a tunnel, as the hub sees it: handshake, heartbeats, and its end.

use super::*;
use crate::proto::testing::Setup;
use crate::proto::testing::pair::{UNIX, sealed, token};
use crate::proto::testing::scenario::*;
use crate::proto::trust::revocation::Revocations;
use crate::proto::tunnel::PONG;

const WELCOME: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: slime/1\r\nSlime-Heartbeat: 15.000\r\n\r\n";
const PING: &str = "OPTIONS * HTTP/1.1\r\nHost: slime\r\nSlime-Heartbeat: ?1\r\n\r\n";

fn hello(more: &str) -> String {
    let token = sealed(&token(1));
    format!(
        "GET /.slime/tunnel HTTP/1.1\r\nHost: hub.test\r\nConnection: Upgrade\r\nUpgrade: slime/1\r\n\
         Slime-Agent-Token: {token}\r\nSlime-Agent-Id: a\r\nSlime-Worker: 0\r\nSlime-Ready: ?1\r\n{more}\r\n"
    )
}

const REFUSAL: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nSlime-Refused: down\r\nConnection: close\r\n\r\n";

fn farewell(reason: &str) -> String {
    format!("OPTIONS * HTTP/1.1\r\nHost: slime\r\nConnection: close\r\nSlime-Close: {reason}\r\n\r\n")
}

#[test]
fn a_handshake_makes_a_tunnel_wherever_it_is_split() {
    let hello = hello("");
    for at in 0..hello.len() {
        let mut pair = Setup::hub_only().start();
        let agent = pair.client();
        pair.send(agent, &hello[..at]);
        assert_eq!(pair.got(agent), "");
        pair.send(agent, &hello[at..]);
        assert_eq!(pair.got(agent), WELCOME);
        let census = pair.hub.core.census();
        assert_eq!((census.clients, census.tunnels), (0, 1));
        let client = pair.client();
        pair.send(client, GET);
        assert!(pair.got(agent).starts_with("GET /x "));
        pair.assert_quiet(0);
    }
}

#[test]
fn any_prefix_may_stand_before_the_path() {
    let mut pair = Setup::hub_only().start();
    let agent = pair.client();
    pair.send(agent, hello("").replace("GET /", "GET /some/where/"));
    assert_eq!(pair.got(agent), WELCOME);
}

#[test]
fn a_handshake_that_is_not_right_is_refused() {
    let good = hello("");
    let cases = [
        (400, good.replace("Slime-Agent-Id: a", "Slime-Agent-Id: a b")),
        (400, good.replace("Slime-Agent-Id: a\r\n", "")),
        (400, good.replace("Slime-Worker: 0", "Slime-Worker: -1")),
        (400, good.replace("Slime-Ready: ?1", "Slime-Ready: 1")),
        (400, good.replace("Slime-Ready", "Slime-Light: /\r\nSlime-Ready")),
        (400, good.replace("Slime-Ready", "Slime-Light: /a, /b?c\r\nSlime-Ready")),
        (401, good.replace("Slime-Agent-Token", "Slime-Token")),
        (401, good.replace("slime1_", "slime1_A")),
        (404, good.replace("GET", "POST")),
        (404, good.replace("slime/1", "slime/2")),
        (400, good.replace("Connection: Upgrade\r\n", "")),
    ];
    for (status, request) in cases {
        let mut pair = Setup::hub_only().start();
        let agent = pair.client();
        pair.send(agent, &request);
        assert_refused(&mut pair, agent, status, "");
        assert_closed(&mut pair, agent);
        assert_eq!(pair.hub.core.census().tunnels, 0);
        pair.assert_quiet(0);
    }
}

#[test]
fn a_token_is_expired_from_its_last_second_on_and_revoked_by_id_name_or_age() {
    let mut short = token(1);
    short.expires = Some(UNIX + 10);
    let mut pair = Setup::hub_only().start();
    let agent = pair.raw_agent(&short, 0);
    assert_eq!(pair.got(agent), WELCOME);
    pair.advance(seconds(10));
    let late = pair.raw_agent(&short, 1);
    assert_refused(&mut pair, late, 401, "expired");
    assert_closed(&mut pair, late);

    for rule in ["0303030303030303", "token-3", &format!("issued-before {}", UNIX + 1)] {
        let mut pair = Setup::hub_only().start();
        pair.at_hub(|hub, now| hub.set_revocations(Revocations::parse(rule).unwrap(), now));
        let agent = pair.raw_agent(&token(3), 0);
        assert_refused(&mut pair, agent, 401, "revoked");
        assert_closed(&mut pair, agent);
    }
}

#[test]
fn what_is_revoked_is_closed_at_once() {
    let mut pair = Setup::hub_only().start();
    let idle = pair.raw_agent_called(&token(1), "a", 0, None);
    let busy = pair.raw_agent_called(&token(1), "b", 0, None);
    let other = pair.raw_agent(&token(2), 0);
    for agent in [idle, busy, other] {
        pair.got(agent);
    }
    let clients = [pair.client(), pair.client()];
    pair.send(clients[0], GET);
    pair.send(clients[1], GET.replace("GET", "POST"));
    // They went to the longest idle ones: free one of them.
    pair.send(idle, OK);
    pair.got(idle);
    assert_eq!(pair.got(clients[0]), WAS_OK);
    pair.at_hub(|hub, now| hub.set_revocations(Revocations::parse("token-1").unwrap(), now));
    assert_eq!(pair.got(idle), farewell("revoked"));
    assert_eq!(pair.ended(idle), Some(Ended::Fin));
    assert!(pair.ended(busy).is_some());
    assert_eq!(pair.ended(other), None);
    assert_refused(&mut pair, clients[1], 502, "");
    pair.assert_quiet(0);
}

#[test]
fn the_workers_of_a_token_are_counted_over_all_its_agents() {
    let mut limited = token(1);
    limited.max_workers = Some(2);
    let mut pair = Setup::hub_only().start();
    let first = pair.raw_agent_called(&limited, "a", 0, None);
    let second = pair.raw_agent_called(&limited, "b", 0, Some("down"));
    assert_eq!((pair.got(first).as_str(), pair.got(second).as_str()), (WELCOME, WELCOME));
    let third = pair.raw_agent_called(&limited, "c", 0, None);
    assert_refused(&mut pair, third, 403, "allows no more workers");
    assert_closed(&mut pair, third);
    // Another token, and a tunnel that replaces one of these, are welcome.
    let other = pair.raw_agent_called(&token(2), "c", 0, None);
    let again = pair.raw_agent_called(&limited, "b", 0, None);
    assert_eq!((pair.got(other).as_str(), pair.got(again).as_str()), (WELCOME, WELCOME));
    // And when one has left, there is room.
    pair.close(first);
    let third = pair.raw_agent_called(&limited, "c", 0, None);
    assert_eq!(pair.got(third), WELCOME);
    pair.assert_quiet(0);
}

#[test]
fn a_hub_takes_no_more_tunnels_than_it_may() {
    let mut pair = Setup::hub_only().hub(|hub| hub.max_tunnels = 2).start();
    let first = pair.raw_agent(&token(1), 0);
    let second = pair.raw_agent(&token(1), 1);
    let third = pair.raw_agent(&token(1), 2);
    assert_eq!((pair.got(first).as_str(), pair.got(second).as_str()), (WELCOME, WELCOME));
    assert_refused(&mut pair, third, 503, "--max-tunnels");
    let again = pair.raw_agent(&token(1), 1);
    assert_eq!(pair.got(again), WELCOME);
    assert_eq!(pair.got(second), farewell("replaced"));
    pair.assert_quiet(0);
}

#[test]
fn a_newcomer_of_the_same_name_replaces_the_old_one() {
    // An idle one.
    let mut pair = Setup::hub_only().start();
    let old = pair.raw_agent(&token(1), 0);
    let new = pair.raw_agent(&token(1), 0);
    assert_eq!(pair.got(old), format!("{WELCOME}{}", farewell("replaced")));
    assert_eq!(pair.ended(old), Some(Ended::Fin));
    assert_eq!(pair.got(new), WELCOME);
    // Another worker, agent id or token is another name.
    for other in [pair.raw_agent(&token(1), 1), pair.raw_agent(&token(2), 0)] {
        assert_eq!(pair.got(other), WELCOME);
    }
    assert_eq!(pair.ended(new), None);

    // A busy one: its exchange is aborted first, and goes to the newcomer if it may.
    for (request, again) in [(GET.to_owned(), true), (GET.replace("GET", "POST"), false)] {
        let mut pair = Setup::hub_only().start();
        let old = pair.raw_agent(&token(1), 0);
        let client = pair.client();
        pair.send(client, &request);
        let new = pair.raw_agent(&token(1), 0);
        assert!(pair.ended(old).is_some());
        assert_eq!(pair.got(new).contains("GET /x"), again);
        if again {
            pair.send(new, OK);
            assert_eq!(pair.got(client), WAS_OK);
        } else {
            assert_refused(&mut pair, client, 502, "");
        }
        pair.assert_quiet(0);
    }
}

#[test]
fn three_missed_signs_of_life_are_death() {
    let mut pair = Setup::hub_only().start();
    let agent = pair.raw_agent(&token(1), 0);
    pair.got(agent);
    pair.advance(Duration::from_millis(14_900));
    assert_eq!(pair.got(agent), "");
    for _ in 0..3 {
        pair.advance(Duration::from_millis(200));
        assert_eq!(pair.got(agent), PING);
        pair.advance(Duration::from_millis(14_800));
        assert_eq!((pair.got(agent).as_str(), pair.ended(agent)), ("", None));
    }
    // Nothing was sent on it meanwhile, though somebody waited.
    let client = pair.client();
    pair.send(client, GET);
    assert_eq!((pair.got(agent).as_str(), pair.hub.core.census().queued), ("", 1));
    pair.advance(Duration::from_millis(200));
    assert_eq!(pair.ended(agent), Some(Ended::Fin));
    assert_eq!(pair.hub.core.census().tunnels, 0);
    pair.assert_quiet(0);
}

#[test]
fn a_sign_of_life_makes_a_tunnel_free_again_wherever_it_is_split() {
    let pong = core::str::from_utf8(PONG).unwrap();
    for at in 0..pong.len() {
        let mut pair = Setup::hub_only().start();
        let agent = pair.raw_agent(&token(1), 0);
        pair.got(agent);
        for _ in 0..3 {
            pair.advance(seconds(15));
            assert_eq!(pair.got(agent), PING);
            let client = pair.client();
            pair.send(client, GET);
            pair.send(agent, &pong[..at]);
            assert_eq!(pair.got(agent), "");
            pair.send(agent, &pong[at..]);
            assert!(pair.got(agent).starts_with("GET /x "));
            pair.send(agent, OK);
            assert_eq!(pair.got(client), WAS_OK);
        }
        pair.assert_quiet(0);
    }
}

#[test]
fn signs_of_life_are_counted() {
    // Two were asked for; the first answer does not make it free.
    let mut pair = Setup::hub_only().start();
    let agent = pair.raw_agent(&token(1), 0);
    pair.advance(seconds(30));
    assert_eq!(pair.got(agent), format!("{WELCOME}{PING}{PING}"));
    let client = pair.client();
    pair.send(client, GET);
    pair.send(agent, PONG);
    assert_eq!(pair.got(agent), "");
    pair.send(agent, PONG);
    assert!(pair.got(agent).starts_with("GET /x "));
    pair.send(agent, OK);
    // One that nobody asked for is one byte too many.
    pair.send(agent, PONG);
    assert!(pair.ended(agent).is_some());
    pair.assert_quiet(0);
}

#[test]
fn an_agent_that_waits_for_its_upstream_gives_signs_of_life() {
    let sign = "HTTP/1.1 102 Processing\r\nSlime-Heartbeat: ?1\r\n\r\n";
    let mut pair = Setup::hub_only().start();
    let agent = pair.raw_agent(&token(1), 0);
    let client = pair.client();
    pair.send(client, GET.replace("GET", "POST"));
    for _ in 0..5 {
        pair.advance(seconds(44));
        pair.send(agent, sign);
        assert_eq!(pair.got(client), "", "the hub swallows them");
    }
    pair.advance(seconds(44));
    assert_eq!(pair.ended(agent), None);
    pair.advance(seconds(10));
    assert!(pair.ended(agent).is_some());
    assert_refused(&mut pair, client, 502, "lost before it answered");
    pair.assert_quiet(0);
    // After the head it owes none.
    let mut pair = Setup::hub_only().start();
    let agent = pair.raw_agent(&token(1), 0);
    let client = pair.client();
    pair.send(client, GET);
    pair.send(agent, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n");
    pair.advance(seconds(1000));
    pair.send(agent, "hi");
    assert_eq!(pair.got(client), WAS_OK);
    pair.assert_quiet(0);
}

#[test]
fn any_other_byte_on_an_idle_tunnel_closes_it() {
    for bytes in
        ["x", "\r\n", OK, "HTTP/1.1 102 Processing\r\nSlime-Heartbeat: ?1\r\n\r\n", "HTTP/1.1 503 x\r\n\r\n"]
    {
        let mut pair = Setup::hub_only().start();
        let agent = pair.raw_agent(&token(1), 0);
        pair.got(agent);
        pair.send(agent, bytes);
        if bytes == "x" {
            // It might still become a status line, but not for long.
            pair.send(agent, "\r\n\r\n");
        }
        assert_eq!(pair.hub.core.census().tunnels, 0, "{bytes}");
        pair.assert_quiet(0);
    }
    for end in [Pair::finish, Pair::close, Pair::reset] {
        let mut pair = Setup::hub_only().start();
        let agent = pair.raw_agent(&token(1), 0);
        end(&mut pair, agent);
        assert_eq!(pair.hub.core.census().tunnels, 0);
        pair.assert_quiet(0);
    }
}

#[test]
fn a_tunnel_that_has_begun_to_say_something_gets_no_work() {
    let mut pair = Setup::hub_only().start();
    let agent = pair.raw_agent(&token(1), 0);
    pair.got(agent);
    pair.send(agent, "HTTP/1.1 ");
    let client = pair.client();
    pair.send(client, GET);
    // Half a withdrawal: whatever is sent now must be taken for refused, not for answered.
    pair.send(
        agent,
        "503 Service Unavailable\r\nContent-Length: 0\r\nSlime-Refused: x\r\nConnection: close\r\n\r\n",
    );
    let got = pair.got(client);
    assert!(got.is_empty() || got.starts_with("HTTP/1.1 50"), "{got}");
    assert!(pair.ended(agent).is_some());
    pair.assert_quiet(0);
}

#[test]
fn an_expired_tunnel_that_idles_is_told_so() {
    let mut short = token(1);
    short.expires = Some(UNIX + 20);
    let mut pair = Setup::hub_only().start();
    let agent = pair.raw_agent(&short, 0);
    for _ in 0..2 {
        pair.advance(seconds(15));
        pair.send(agent, PONG);
    }
    assert!(pair.got(agent).ends_with(&farewell("expired")));
    assert_eq!(pair.ended(agent), Some(Ended::Fin));
    pair.assert_quiet(0);
}

#[test]
fn a_client_that_waited_is_served_by_the_first_tunnel_that_comes() {
    for agents in 1..4 {
        let mut pair = Setup::hub_only().start();
        let client = pair.client();
        pair.send(client, GET.replace("\r\n\r\n", "\r\nSlime-Block: 1\r\n\r\n"));
        let raws: Vec<Raw> = (0..agents).map(|worker| pair.raw_agent(&token(1), worker)).collect();
        assert!(pair.got(raws[0]).contains("GET /x "));
        pair.send(raws[0], OK);
        assert_eq!(pair.got(client), WAS_OK);
        pair.assert_quiet(0);
    }
}

fn text(bytes: &[u8]) -> &str {
    core::str::from_utf8(bytes).unwrap()
}

/// An agent that has been asked for a sign of life, while a request waits for it, as the hub sees both.
fn asked_while_one_waits() -> (Pair, Raw, Raw) {
    let mut pair = Setup::hub_only().start();
    let agent = pair.raw_agent(&token(1), 0);
    assert_eq!(pair.got(agent), WELCOME);
    pair.advance(seconds(15));
    assert_eq!(pair.got(agent), PING);
    let client = pair.client();
    pair.send(client, GET);
    assert_eq!(pair.got(agent), "", "it owes a heartbeat first");
    (pair, agent, client)
}

#[test]
fn a_response_behind_a_sign_of_life_is_nobodys() {
    let forged = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged";
    let text = format!("{}{forged}", text(PONG));
    for at in PONG.len() + 1..=text.len() {
        let (mut pair, agent, client) = asked_while_one_waits();
        pair.send(agent, &text[..at]);
        if at < text.len() {
            pair.send(agent, &text[at..]);
        }
        assert_eq!(pair.got(agent), "", "split at {at}");
        assert!(pair.ended(agent).is_some(), "split at {at}");
        assert_eq!(pair.got(client), "", "split at {at}: it waits for another agent");
        let honest = pair.raw_agent(&token(1), 1);
        assert!(pair.got(honest).contains("GET /x "), "split at {at}");
        pair.send(honest, OK);
        assert_eq!(pair.got(client), WAS_OK, "split at {at}");
    }
}

#[test]
fn a_withdrawal_behind_a_sign_of_life_is_heard() {
    let (mut pair, agent, client) = asked_while_one_waits();
    pair.send(agent, format!("{}{REFUSAL}", text(PONG)));
    assert_eq!(pair.got(agent), "");
    assert!(pair.ended(agent).is_some());
    assert_eq!(pair.got(client), "");
}

#[test]
fn an_agent_that_stops_in_the_middle_of_what_it_owes_is_lost() {
    let (mut pair, agent, _client) = asked_while_one_waits();
    pair.send(agent, format!("{}HTTP/1.1 5", text(PONG)));
    assert_eq!(pair.ended(agent), None);
    pair.advance(seconds(15));
    assert!(pair.ended(agent).is_some());
}
