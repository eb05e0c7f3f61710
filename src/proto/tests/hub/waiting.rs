//! Who waits for agents that are not there, until when, and what is said then.

use super::*;
use crate::proto::testing::Setup;
use crate::proto::testing::pair::{UNIX, token};
use crate::proto::testing::scenario::*;
use crate::proto::trust::agent_token::AgentToken;
use crate::proto::trust::revocation::Revocations;
use crate::proto::tunnel::{PONG, Trouble, write_refusal};

const REFUSAL: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\nSlime-Refused: down\r\n\r\n";
const SIGN: &str = "HTTP/1.1 102 Processing\r\nSlime-Heartbeat: ?1\r\n\r\n";
const POST: &str = "POST /x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\n\r\nhello";
/// Rounding of deadlines that need no precision.
const COARSE: Duration = Duration::from_millis(500);

fn get(path: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: app.test\r\n{more}\r\n")
}

fn scoped(id: u8, scope: &str) -> AgentToken {
    let mut token = token(id);
    token.scopes.push(scope.to_owned());
    token
}

fn ask(pair: &mut Pair, request: &str) -> Raw {
    let client = pair.client();
    pair.send(client, request);
    client
}

fn revoke(pair: &mut Pair, rule: &str) {
    let revocations = Revocations::parse(rule).unwrap();
    pair.at_hub(|hub, now| hub.set_revocations(revocations, now));
}

#[test]
fn nobody_waits_longer_than_the_grace_for_agents_that_are_gone() {
    let leaves: [fn(&mut Pair, Raw); 4] = [
        Pair::close,
        Pair::reset,
        |pair, agent| pair.send(agent, REFUSAL),
        |pair, _| {
            pair.raw_agent_called(&token(1), "a", 0, Some("down"));
        },
    ];
    for (at, leave) in leaves.into_iter().enumerate() {
        for grace in [0, 5, 30] {
            let setup = Setup::hub_only().hub(|hub| hub.agent_grace = seconds(grace));
            let mut pair = setup.start();
            let agent = pair.raw_agent(&token(1), 0);
            // Others that could not serve it are no reason to wait.
            let mut other = scoped(2, "other");
            other.scope_paths.push("/other".to_owned());
            let _other = pair.raw_agent(&other, 0);
            leave(&mut pair, agent);
            let waiting = ask(&mut pair, POST);
            let patient = ask(&mut pair, &get("/p", "Slime-Block: 1\r\n"));
            if grace > 0 {
                pair.advance(seconds(grace) - COARSE);
                assert_eq!(pair.got(waiting), "", "{at}");
                pair.advance(2 * COARSE);
            }
            let detail = if at == 3 { "their upstreams cannot be used" } else { "no agent" };
            assert_refused(&mut pair, waiting, 503, detail);
            assert_eq!((pair.got(patient).as_str(), pair.ended(patient)), ("", None));
            let again = pair.raw_agent(&token(1), 0);
            assert!(pair.got(again).contains("GET /p "));
            pair.send(again, OK);
            assert_eq!(pair.got(patient), WAS_OK);
            pair.assert_quiet(0);
        }
    }
}

const LOADING: Trouble<'_> = Trouble::loading("its health path answered 503");

/// A withdrawn agent stays for so many heartbeats.
fn stays(pair: &mut Pair, agent: Raw, heartbeats: u32) {
    for _ in 0..heartbeats {
        pair.advance(seconds(15) + COARSE);
        assert!(pair.got(agent).contains("Slime-Heartbeat"));
        pair.send(agent, PONG);
    }
}

/// A hub with an agent that was ready, and whose upstream is loading now.
fn with_loading_agent(first: Option<&str>) -> (Pair, Option<Raw>, Raw) {
    let mut pair = Setup::hub_only().start();
    let agent = pair.raw_agent(&token(1), 0);
    let victim = first.map(|request| ask(&mut pair, request));
    pair.send(agent, write_refusal(LOADING, true));
    let loading = pair.raw_agent_in_trouble(&token(1), "a", 0, Some(LOADING));
    (pair, victim, loading)
}

#[test]
fn an_agent_whose_upstream_is_loading_is_waited_for_however_long() {
    for first in [None, Some(POST)] {
        let (mut pair, victim, loading) = with_loading_agent(first);
        let early = ask(&mut pair, POST);
        stays(&mut pair, loading, 20);
        let late = ask(&mut pair, POST);
        stays(&mut pair, loading, 2);
        let waiting: Vec<Raw> = victim.into_iter().chain([early, late]).collect();
        assert_eq!(pair.hub.core.census().queued, waiting.len());
        let ready = pair.raw_agent(&token(1), 0);
        for client in waiting {
            assert!(pair.got(ready).contains("POST /x "));
            pair.send(ready, OK);
            assert_eq!(pair.got(client), WAS_OK);
        }
        pair.assert_quiet(0);
    }
}

#[test]
fn an_agent_whose_upstream_is_loading_has_the_grace_once_it_is_not() {
    let leaves: [fn(&mut Pair, Raw); 5] = [
        |pair, _| {
            pair.raw_agent_in_trouble(&token(1), "a", 0, Some(Trouble::new("nothing is listening there")));
        },
        |pair, agent| {
            pair.close(agent);
            pair.raw_agent_in_trouble(&token(1), "a", 0, Some(Trouble::new("nothing is listening there")));
        },
        // What is said there is not that it is loading.
        |pair, _| {
            pair.raw_agent_in_trouble(&token(1), "a", 0, Some(Trouble::new("x\r\nSlime-Loading: ?0")));
        },
        Pair::close,
        |pair, agent| pair.send(agent, write_refusal(Trouble::new("draining"), true)),
    ];
    for (at, leave) in leaves.into_iter().enumerate() {
        let (mut pair, _, loading) = with_loading_agent(None);
        let waiting = ask(&mut pair, POST);
        stays(&mut pair, loading, 3);
        leave(&mut pair, loading);
        pair.advance(seconds(5) - COARSE);
        assert_eq!((pair.got(waiting).as_str(), pair.ended(waiting)), ("", None), "{at}");
        pair.advance(2 * COARSE);
        let detail = if at < 3 { "their upstreams cannot be used" } else { "no agent" };
        assert_refused(&mut pair, waiting, 503, detail);
        let late = ask(&mut pair, POST);
        assert_refused(&mut pair, late, 503, detail);
        pair.assert_quiet(0);
    }
}

#[test]
fn a_busy_agent_that_is_lost_is_waited_for_as_long_as_the_others() {
    let mut pair = Setup::hub_only().start();
    let agent = pair.raw_agent(&token(1), 0);
    let lost = ask(&mut pair, GET);
    let waiting = ask(&mut pair, POST);
    pair.advance(seconds(30));
    pair.close(agent);
    assert_eq!(pair.hub.core.census().queued, 2);
    pair.advance(seconds(5) + COARSE);
    assert_refused(&mut pair, lost, 502, "lost before it answered");
    assert_refused(&mut pair, waiting, 503, "no agent");
    pair.assert_quiet(0);
}

#[test]
fn an_agent_whose_token_is_no_longer_good_has_no_grace() {
    let mut short = token(1);
    short.expires = Some(UNIX + 20);
    for expires in [false, true] {
        for is_busy in [false, true] {
            let mut pair = Setup::hub_only().start();
            let kind = if expires { short.clone() } else { token(1) };
            let agent = pair.raw_agent(&kind, 0);
            let occupant = pair.client();
            if is_busy {
                pair.send(occupant, GET);
            } else {
                pair.advance(seconds(15));
                assert!(pair.got(agent).contains("Slime-Heartbeat"));
            }
            let waiting = ask(&mut pair, POST);
            assert_eq!(pair.hub.core.census().queued, 1);
            if expires {
                pair.advance(seconds(20) + COARSE);
            } else {
                revoke(&mut pair, "token-1");
            }
            assert_refused(&mut pair, waiting, 503, "no agent");
            let late = ask(&mut pair, POST);
            assert_refused(&mut pair, late, 503, "no agent");
            if is_busy && expires {
                // What it was serving ends as it should.
                pair.send(agent, OK);
                assert_eq!(pair.got(occupant), WAS_OK);
                assert!(pair.got(agent).ends_with("Slime-Close: expired\r\n\r\n"));
            } else if is_busy {
                assert_refused(&mut pair, occupant, 502, "lost before it answered");
            }
            pair.assert_quiet(0);
        }
    }
    // One that has just left is not waited for either.
    let mut pair = Setup::hub_only().start();
    let agent = pair.raw_agent(&token(1), 0);
    pair.close(agent);
    let waiting = ask(&mut pair, GET);
    assert_eq!(pair.hub.core.census().queued, 1);
    revoke(&mut pair, "token-1");
    assert_refused(&mut pair, waiting, 503, "no agent");
    // And if it was revoked by mistake, it is as good as ever.
    revoke(&mut pair, "");
    let agent = pair.raw_agent(&token(1), 0);
    let served = ask(&mut pair, GET);
    pair.send(agent, OK);
    assert_eq!(pair.got(served), WAS_OK);
    pair.close(agent);
    let waiting = ask(&mut pair, GET);
    assert_eq!((pair.got(waiting).as_str(), pair.hub.core.census().queued), ("", 1));
    pair.assert_quiet(0);
}

#[test]
fn all_that_is_revoked_is_out_before_a_request_goes_elsewhere() {
    for (request, is_repeated) in [(GET, true), (POST, false)] {
        let mut pair = Setup::hub_only().start();
        let revoked = [0, 1, 2].map(|worker| pair.raw_agent_called(&token(1), "bad", worker, None));
        let client = ask(&mut pair, request);
        let good = pair.raw_agent_called(&token(2), "a", 0, None);
        let got = revoked.map(|agent| pair.got(agent));
        assert_eq!(got.iter().filter(|got| got.contains("/x HTTP")).count(), 1);
        revoke(&mut pair, "token-1");
        for agent in revoked {
            let got = pair.got(agent);
            assert!(!got.contains("/x HTTP"), "it was given the request: {got}");
        }
        if is_repeated {
            assert!(pair.got(good).contains("GET /x "));
            pair.send(good, OK);
            assert_eq!(pair.got(client), WAS_OK);
        } else {
            assert_refused(&mut pair, client, 502, "lost before it answered");
        }
        pair.assert_quiet(0);
    }
}

#[test]
fn a_request_that_finds_an_outage_waits_as_those_that_come_after_it() {
    let mut pair = Setup::hub_only().start();
    let agent = pair.raw_agent(&token(1), 0);
    let victim = ask(&mut pair, POST);
    pair.send(agent, REFUSAL);
    let withdrawn = pair.raw_agent_called(&token(1), "a", 0, Some("down"));
    let next = ask(&mut pair, &get("/next", ""));
    assert_eq!(pair.hub.core.census().queued, 2);
    pair.advance(seconds(2));
    let again = pair.raw_agent(&token(1), 0);
    assert!(pair.got(withdrawn).contains("replaced"));
    for (client, path) in [(victim, "POST /x "), (next, "GET /next ")] {
        assert!(pair.got(again).contains(path));
        pair.send(again, OK);
        assert_eq!(pair.got(client), WAS_OK);
    }
    pair.assert_quiet(0);
    // Nobody comes back: what was refused is told so.
    let mut pair = Setup::hub_only().start();
    let agent = pair.raw_agent(&token(1), 0);
    let victim = ask(&mut pair, POST);
    pair.send(agent, REFUSAL);
    let _withdrawn = pair.raw_agent_called(&token(1), "a", 0, Some("down"));
    let next = ask(&mut pair, &get("/next", ""));
    pair.advance(seconds(5) + COARSE);
    assert_refused(&mut pair, victim, 502, "every agent that could serve this refused it");
    assert_refused(&mut pair, next, 503, "their upstreams cannot be used");
    pair.assert_quiet(0);
}

#[test]
fn an_agent_that_is_busy_elsewhere_and_refused_is_not_waited_for() {
    let mut pair = Setup::hub_only().start();
    let [first, busy] = [0, 1].map(|worker| pair.raw_agent(&token(1), worker));
    let clients = [ask(&mut pair, POST), ask(&mut pair, POST)];
    pair.send(first, REFUSAL);
    pair.advance(seconds(4));
    assert_eq!(pair.hub.core.census().queued, 1);
    pair.advance(seconds(1) + COARSE);
    pair.send(busy, OK);
    let answers = clients.map(|client| pair.got(client));
    assert!(answers.iter().any(|got| got.starts_with("HTTP/1.1 502 ")), "{answers:?}");
    assert!(answers.iter().any(|got| got == WAS_OK), "{answers:?}");
    pair.assert_quiet(0);
}

#[test]
fn time_in_a_worker_is_no_time_in_the_queue() {
    let mut pair = Setup::hub_only().hub(|hub| hub.queue_timeout = seconds(60)).start();
    let lost = pair.raw_agent_called(&token(1), "lost", 0, None);
    let client = ask(&mut pair, GET);
    let busy = pair.raw_agent_called(&token(1), "a", 0, None);
    let occupant = ask(&mut pair, POST);
    assert!(pair.got(busy).contains("POST /x "));
    for _ in 0..10 {
        pair.advance(seconds(30));
        pair.send(lost, SIGN);
        pair.send(busy, SIGN);
    }
    pair.close(lost);
    pair.advance(seconds(30));
    pair.send(busy, OK);
    assert_eq!(pair.got(occupant), WAS_OK);
    assert!(pair.got(busy).contains("GET /x "));
    pair.send(busy, OK);
    assert_eq!(pair.got(client), WAS_OK);
    pair.assert_quiet(0);
}

#[test]
fn a_refused_request_keeps_its_deadline() {
    for max_wait in ["", "Slime-Max-Wait: 60\r\n"] {
        let mut pair = Setup::hub_only().hub(|hub| hub.queue_timeout = seconds(60)).start();
        let busy = pair.raw_agent_called(&token(1), "a", 0, None);
        let occupant = ask(&mut pair, POST);
        let client = ask(&mut pair, &get("/x", max_wait));
        pair.advance(seconds(40));
        let refusing = pair.raw_agent_called(&token(1), "b", 0, None);
        assert!(pair.got(refusing).contains("GET /x "));
        pair.send(refusing, REFUSAL);
        pair.send(busy, SIGN);
        pair.advance(seconds(19));
        assert_eq!(pair.got(client), "");
        pair.advance(seconds(1));
        assert_refused(&mut pair, client, 503, "no worker became free in time");
        pair.send(busy, OK);
        assert_eq!(pair.got(occupant), WAS_OK);
        pair.assert_quiet(0);
    }
}

#[test]
fn who_refused_is_remembered_when_the_profiles_change() {
    // Waiters are sorted anew, in the class where this one was or in another one, and another worker of the
    // agent that refused is free.
    for (path, trouble) in [("/elsewhere", None), ("/x", Some("down"))] {
        let mut pair = Setup::hub_only().start();
        let busy = pair.raw_agent_called(&token(1), "a", 0, None);
        let occupant = ask(&mut pair, POST);
        let refusing = [0, 1].map(|worker| pair.raw_agent_called(&token(1), "b", worker, None));
        let client = ask(&mut pair, GET);
        let asked = refusing.into_iter().find(|agent| pair.got(*agent).contains("GET /x ")).unwrap();
        pair.send(asked, REFUSAL);
        let mut other = token(3);
        other.scope_paths.push(path.to_owned());
        let _other = pair.raw_agent_called(&other, "c", 0, trouble);
        for agent in refusing {
            assert!(!pair.got(agent).contains("GET /x "), "it has refused that");
        }
        assert_eq!(pair.hub.core.census().queued, 1);
        let _ = (busy, occupant, client);
        pair.assert_quiet(0);
    }
}

#[test]
fn a_refused_request_waits_for_agents_that_have_just_left() {
    let mut pair = Setup::hub_only().start();
    let refusing = pair.raw_agent_called(&token(1), "b", 0, None);
    let client = ask(&mut pair, POST);
    let busy = pair.raw_agent_called(&token(1), "a", 0, None);
    let occupant = ask(&mut pair, POST);
    pair.send(refusing, REFUSAL);
    pair.advance(seconds(20));
    assert_eq!(pair.hub.core.census().queued, 1);
    // The one that refused is long gone. The other one goes and comes back.
    pair.close(busy);
    assert_refused(&mut pair, occupant, 502, "");
    pair.advance(seconds(4));
    assert_eq!((pair.got(client).as_str(), pair.hub.core.census().queued), ("", 1));
    let again = pair.raw_agent_called(&token(1), "a", 0, None);
    assert!(pair.got(again).contains("POST /x "));
    pair.send(again, OK);
    assert_eq!(pair.got(client), WAS_OK);
    pair.assert_quiet(0);
}

#[test]
fn an_agent_that_refuses_and_joins_again_and_again_does_not_keep_a_request_on_the_move() {
    for (request, most) in [(POST, 101), (GET, 103)] {
        let mut pair = Setup::hub_only().start();
        let client = ask(&mut pair, &request.replace("\r\n\r\n", "\r\nSlime-Block: 1\r\n\r\n"));
        let (mut joined, mut refused) = (0, 0);
        let begin = pair.now.mono;
        while pair.got(client).is_empty() {
            let agent = pair.raw_agent(&token(1), 0);
            joined += 1;
            for _ in 0..4 {
                if pair.got(agent).contains("/x HTTP/1.1") {
                    refused += 1;
                    pair.send(agent, REFUSAL);
                    break;
                }
                pair.advance(COARSE);
            }
            assert!(refused <= most && joined <= 2 * most, "{refused} refusals");
            let remembered =
                pair.hub.core.exchanges.iter().map(|(_, it)| it.need.refused.len()).max().unwrap_or(0);
            assert!(remembered <= 1, "one agent is remembered {remembered} times");
        }
        let passed = pair.now.mono.since(begin);
        assert!(refused == most && passed >= seconds(100), "{refused} refusals in {passed:?}");
        pair.assert_quiet(0);
    }
}

#[test]
fn a_refused_request_does_not_overtake_an_earlier_one_at_the_cap() {
    let mut pair = Setup::hub_only().hub(|hub| hub.concurrent = 1).start();
    let earlier = ask(&mut pair, &get("/earlier", "Slime-Scope: b\r\nSlime-Block: 1\r\n"));
    let refusing = pair.raw_agent_called(&token(1), "r", 0, None);
    let later = ask(&mut pair, &get("/later", ""));
    assert!(pair.got(refusing).contains("GET /later "));
    let agent = pair.raw_agent(&scoped(2, "b"), 0);
    assert_eq!(pair.hub.core.census().queued, 1, "the only permit is taken");
    pair.send(refusing, REFUSAL);
    for (client, path) in [(earlier, "/earlier"), (later, "/later")] {
        assert!(pair.got(agent).contains(path));
        pair.send(agent, OK);
        assert_eq!(pair.got(client), WAS_OK);
    }
    pair.assert_quiet(0);
}

#[test]
fn those_that_wait_for_withdrawn_agents_fill_a_quarter_of_the_queue() {
    let mut pair = Setup::hub_only().hub(|hub| hub.queue_depth = 8).start();
    let _withdrawn = pair.raw_agent_called(&scoped(1, "a"), "a", 0, Some("down"));
    let _busy = pair.raw_agent_called(&scoped(2, "b"), "b", 0, None);
    let occupant = ask(&mut pair, &get("/x", "Slime-Scope: b\r\n"));
    let in_vain = get("/v", "Slime-Scope: a\r\nSlime-Block: 1\r\n");
    let clients: Vec<Raw> = (0..3).map(|_| ask(&mut pair, &in_vain)).collect();
    assert_eq!(pair.hub.core.census().queued, 2);
    assert_refused(&mut pair, clients[2], 503, "queue is full");
    for _ in 0..7 {
        ask(&mut pair, &get("/b", "Slime-Scope: b\r\n"));
    }
    assert_eq!(pair.hub.core.census().queued, 8);
    let _ = occupant;
    pair.assert_quiet(0);
}

#[test]
fn what_has_become_vain_gives_way_to_what_has_not() {
    let mut pair = Setup::hub_only().hub(|hub| hub.queue_depth = 8).start();
    let agent = pair.raw_agent_called(&scoped(1, "a"), "a", 0, None);
    let _busy = pair.raw_agent_called(&scoped(2, "b"), "b", 0, None);
    ask(&mut pair, &get("/x", "Slime-Scope: a\r\n"));
    ask(&mut pair, &get("/x", "Slime-Scope: b\r\n"));
    let patient: Vec<Raw> =
        (0..8).map(|_| ask(&mut pair, &get("/a", "Slime-Scope: a\r\nSlime-Block: 1\r\n"))).collect();
    let early = ask(&mut pair, &get("/b", "Slime-Scope: b\r\n"));
    assert_refused(&mut pair, early, 503, "queue is full");
    pair.close(agent);
    pair.advance(seconds(5) + COARSE);
    // The last ones go first, and the first two stay.
    for at in (2..8).rev() {
        let waiting = ask(&mut pair, &get("/b", "Slime-Scope: b\r\n"));
        assert_eq!(pair.got(waiting), "");
        assert_refused(&mut pair, patient[at], 503, "queue is full");
    }
    let late = ask(&mut pair, &get("/b", "Slime-Scope: b\r\n"));
    assert_refused(&mut pair, late, 503, "queue is full");
    assert_eq!((pair.got(patient[0]), pair.got(patient[1])), (String::new(), String::new()));
    pair.assert_quiet(0);
}

#[test]
fn who_was_refused_by_all_that_are_there_gives_way_too() {
    let mut pair = Setup::hub_only().hub(|hub| hub.queue_depth = 4).start();
    let agents: Vec<Raw> = (0..3).map(|worker| pair.raw_agent_called(&token(1), "a", worker, None)).collect();
    ask(&mut pair, &get("/busy", ""));
    let patient: Vec<Raw> = (0..2).map(|_| ask(&mut pair, &get("/p", "Slime-Block: 1\r\n"))).collect();
    for agent in agents {
        if pair.got(agent).contains("GET /p ") {
            pair.send(agent, REFUSAL);
        }
    }
    pair.advance(seconds(5) + COARSE);
    // The agent is there for others, and busy.
    for _ in 0..2 {
        ask(&mut pair, &get("/w", ""));
    }
    assert_eq!(pair.hub.core.census().queued, 4);
    let waiting = ask(&mut pair, &get("/w", ""));
    assert_eq!(pair.got(waiting), "");
    assert_refused(&mut pair, patient[1], 503, "queue is full");
    let late = ask(&mut pair, &get("/w", ""));
    assert_refused(&mut pair, late, 503, "queue is full");
    assert_eq!(pair.got(patient[0]), "");
    pair.assert_quiet(0);
}
