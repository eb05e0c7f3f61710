//! When a request goes to another tunnel, and when it must not.

use super::*;
use crate::proto::testing::Setup;
use crate::proto::testing::pair::token;
use crate::proto::testing::scenario::*;

const REFUSAL: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\nSlime-Refused: down\r\n\r\n";
const SIGN: &str = "HTTP/1.1 102 Processing\r\nSlime-Heartbeat: ?1\r\n\r\n";
const EARLY: &str = "HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n";
const POST: &str = "POST /x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\n\r\nhello";

/// A hub with agents `a`, `b`, ... of one worker each, the first of which has been sent the request.
fn sent_to_first_of(agents: usize, request: &str) -> (Pair, Vec<Raw>, Raw) {
    let mut pair = Setup::hub_only().start();
    let raws: Vec<Raw> = (0..agents)
        .map(|at| {
            let id = char::from(b'a' + u8::try_from(at).unwrap()).to_string();
            pair.raw_agent_called(&token(1), &id, 0, None)
        })
        .collect();
    for raw in &raws {
        pair.got(*raw);
    }
    let client = pair.client();
    pair.send(client, request);
    assert!(pair.got(raws[0]).ends_with(request.split("\r\n\r\n").nth(1).unwrap()));
    (pair, raws, client)
}

fn assert_served_by(pair: &mut Pair, agent: Raw, request: &str, client: Raw) {
    let got = pair.got(agent);
    assert!(got.starts_with(&request[..request.find("\r\n").unwrap()]), "{got}");
    assert!(got.ends_with(request.split("\r\n\r\n").nth(1).unwrap()), "{got}");
    pair.send(agent, OK);
    let got = pair.got(client);
    assert!(got.starts_with("HTTP/1.1 200 OK") && got.ends_with("\r\n\r\nhi"), "{got}");
}

#[test]
fn a_refused_request_goes_to_another_agent_whatever_it_is() {
    for request in [GET, POST] {
        for signs in 0..3 {
            for at in 0..=REFUSAL.len() {
                let (mut pair, agents, client) = sent_to_first_of(2, request);
                pair.send(agents[0], SIGN.repeat(signs));
                pair.send(agents[0], &REFUSAL[..at]);
                assert_eq!(pair.got(agents[1]).is_empty(), at < REFUSAL.len());
                if at == REFUSAL.len() {
                    assert_eq!(pair.ended(agents[0]), Some(Ended::Fin));
                    pair.send(agents[1], OK);
                    assert!(pair.got(client).starts_with("HTTP/1.1 200 OK"));
                } else {
                    pair.send(agents[0], &REFUSAL[at..]);
                    assert_served_by(&mut pair, agents[1], request, client);
                }
                pair.assert_quiet(0);
            }
        }
    }
}

#[test]
fn refusals_do_not_count_and_the_last_one_is_502() {
    let (mut pair, agents, client) = sent_to_first_of(5, POST);
    for (at, agent) in agents.iter().enumerate() {
        if at > 0 {
            assert!(pair.got(*agent).ends_with("hello"));
        }
        pair.send(*agent, REFUSAL);
    }
    assert_eq!((pair.got(client).as_str(), pair.hub.core.census().queued), ("", 1));
    pair.advance(seconds(6));
    assert_refused(&mut pair, client, 502, "every agent that could serve this refused it");
    assert_eq!(pair.ended(client), None);
    pair.assert_quiet(0);
}

#[test]
fn a_refused_request_waits_for_an_agent_that_is_busy_and_keeps_its_place() {
    let (mut pair, agents, first) = sent_to_first_of(2, GET);
    let second = pair.client();
    pair.send(second, POST);
    assert!(pair.got(agents[1]).ends_with("hello"));
    let third = pair.client();
    pair.send(third, GET);
    pair.send(agents[0], REFUSAL);
    assert_eq!((pair.hub.core.census().queued, pair.hub.core.census().active), (2, 1));
    pair.send(agents[1], OK);
    assert!(pair.got(second).starts_with("HTTP/1.1 200"));
    pair.send(agents[1], OK);
    assert!(pair.got(first).starts_with("HTTP/1.1 200"));
    assert_eq!(pair.got(third), "");
    pair.send(agents[1], OK);
    assert!(pair.got(third).starts_with("HTTP/1.1 200"));
    pair.assert_quiet(0);
}

#[test]
fn refused_requests_keep_their_order_among_one_another() {
    let mut pair = Setup::hub_only().start();
    let busy = pair.raw_agent_called(&token(1), "b", 0, None);
    let occupant = pair.client();
    pair.send(occupant, GET);
    assert!(pair.got(busy).contains("GET /x"));
    let refusing = [0, 1].map(|worker| pair.raw_agent_called(&token(1), "a", worker, None));
    let clients = ["/first", "/second"].map(|path| {
        let client = pair.client();
        pair.send(client, GET.replace("/x", path));
        client
    });
    // The one that came later is refused first.
    // (The tunnel that joined last is used first.)
    for (agent, path) in refusing.into_iter().zip(["/second", "/first"]) {
        assert!(pair.got(agent).contains(path));
        pair.send(agent, REFUSAL);
    }
    assert_eq!(pair.hub.core.census().queued, 2);
    for (client, path) in [occupant].into_iter().chain(clients).zip(["/first", "/second", ""]) {
        pair.send(busy, OK);
        assert!(pair.got(client).starts_with("HTTP/1.1 200"));
        assert!(pair.got(busy).contains(path));
    }
    pair.assert_quiet(0);
}

#[test]
fn an_agent_that_refused_gets_the_same_request_again_only_once_it_is_back() {
    let (mut pair, agents, client) = sent_to_first_of(2, GET);
    let second = pair.client();
    pair.send(second, POST);
    pair.got(agents[1]);
    pair.send(agents[0], REFUSAL);
    assert_eq!(pair.hub.core.census().queued, 1);
    // It joins anew while the request waits for the other agent: what it refused, it takes now.
    let again = pair.raw_agent_called(&token(1), "a", 0, None);
    assert!(!pair.got(again).contains("GET /x"), "it has refused that just now");
    pair.advance(Duration::from_millis(1500));
    assert!(pair.got(again).contains("GET /x"));
    pair.send(again, OK);
    assert!(pair.got(client).starts_with("HTTP/1.1 200"));
    pair.send(agents[1], OK);
    pair.got(second);
    pair.assert_quiet(0);
}

#[test]
fn an_agent_that_refused_is_back_also_while_its_other_workers_are_busy() {
    let mut pair = Setup::hub_only().start();
    let first = pair.raw_agent_called(&token(1), "a", 0, None);
    let busy = pair.raw_agent_called(&token(1), "a", 1, None);
    let clients = [pair.client(), pair.client()];
    let patient = GET.replace("\r\n\r\n", "\r\nSlime-Block: 1\r\n\r\n");
    for client in clients {
        pair.send(client, &patient);
    }
    assert!(pair.got(busy).contains("GET /x"));
    pair.send(first, REFUSAL);
    assert_eq!(pair.hub.core.census().queued, 1);
    let again = pair.raw_agent_called(&token(1), "a", 0, None);
    pair.advance(Duration::from_millis(1500));
    assert!(pair.got(again).contains("GET /x"));
    pair.send(again, OK);
    pair.send(busy, OK);
    for client in clients {
        assert!(pair.got(client).starts_with("HTTP/1.1 200"));
    }
    pair.assert_quiet(0);
}

#[test]
fn a_withdrawal_that_crosses_a_request_refuses_it() {
    // The agent had written the refusal before the request came: the bytes are the same, and so is the
    // meaning.
    let mut pair = Setup::hub_only().start();
    let first = pair.raw_agent_called(&token(1), "a", 0, None);
    let second = pair.raw_agent_called(&token(1), "b", 0, None);
    pair.got(second);
    let client = pair.client();
    pair.send(client, POST);
    pair.send(first, REFUSAL);
    assert_served_by(&mut pair, second, POST, client);
    pair.assert_quiet(0);
}

#[test]
fn a_lost_idempotent_request_is_sent_again_twice_at_most() {
    for method in ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"] {
        let request = GET.replace("GET", method);
        let (mut pair, agents, client) = sent_to_first_of(4, &request);
        for agent in &agents[..3] {
            assert_eq!(pair.got(client), "");
            pair.send(*agent, SIGN);
            pair.close(*agent);
        }
        let got = pair.got(client);
        assert!(got.starts_with("HTTP/1.1 502 "), "{got}");
        assert_eq!(pair.got(agents[3]), "", "sent four times");
        pair.assert_quiet(0);
    }
}

#[test]
fn a_lost_post_is_never_sent_again_unless_its_sender_said_so() {
    for (request, again) in [
        (POST.to_owned(), false),
        (POST.replace("POST", "PATCH"), false),
        (POST.replace("POST", "get"), false),
        (POST.replace("\r\n\r\n", "\r\nIdempotency-Key: \"x\"\r\n\r\n"), true),
    ] {
        for end in [Pair::close, Pair::reset, Pair::finish] {
            let (mut pair, agents, client) = sent_to_first_of(2, &request);
            end(&mut pair, agents[0]);
            if again {
                assert_served_by(&mut pair, agents[1], &request, client);
            } else {
                assert_refused(&mut pair, client, 502, "lost before it answered");
                assert_eq!(pair.got(agents[1]), "");
            }
            pair.assert_quiet(0);
        }
    }
}

#[test]
fn a_request_of_which_nothing_was_written_goes_elsewhere() {
    // The tunnel takes nothing, and breaks.
    let mut pair = Setup { room: 1, ..Setup::hub_only() }.start();
    let first = pair.raw_agent_called(&token(1), "a", 0, None);
    let second = pair.raw_agent_called(&token(1), "b", 0, None);
    pair.got(second);
    pair.reads_only(first, 0);
    pair.advance(seconds(15));
    // A heartbeat clogs it; the answer to it makes it free again.
    pair.send(first, crate::proto::tunnel::PONG);
    pair.send(second, crate::proto::tunnel::PONG);
    pair.got(second);
    let client = pair.client();
    pair.send(client, POST);
    assert_eq!((pair.got(client), pair.got(second)), (String::new(), String::new()));
    pair.reset(first);
    assert_served_by(&mut pair, second, POST, client);
    pair.assert_quiet(0);
}

#[test]
fn a_request_whose_first_write_fails_goes_elsewhere() {
    // The kernel tells the write of the reset, and the read that follows finds a mere end.
    let mut pair = Setup::hub_only().start();
    let breaking = pair.raw_agent_called(&token(1), "a", 0, None);
    pair.reset_at_write(breaking);
    let client = pair.client();
    pair.send(client, POST);
    // It waits: nobody else is there yet.
    assert_eq!(pair.hub.core.census().tunnels, 0);
    assert_eq!(pair.got(client), "");
    let other = pair.raw_agent_called(&token(1), "b", 0, None);
    // Behind the answer to its handshake.
    let got = pair.got(other);
    assert!(got.contains("\r\n\r\nPOST /x HTTP/1.1\r\n") && got.ends_with("\r\n\r\nhello"), "{got}");
    pair.send(other, OK);
    assert!(pair.got(client).starts_with("HTTP/1.1 200 OK"));
    pair.assert_quiet(0);
}

#[test]
fn a_request_of_which_nothing_was_written_has_its_place_also_in_a_queue_that_is_full() {
    let setup = Setup { room: 1, ..Setup::hub_only() };
    let mut pair = setup.hub(|config| config.queue_depth = 1).start();
    let breaking = pair.raw_agent_called(&token(1), "a", 0, None);
    pair.reads_only(breaking, 0);
    pair.advance(seconds(15));
    // A heartbeat clogs it; the answer to it makes it free again.
    pair.send(breaking, crate::proto::tunnel::PONG);
    let clients = [POST, GET].map(|request| {
        let client = pair.client();
        pair.send(client, request);
        client
    });
    assert_eq!((pair.hub.core.census().active, pair.hub.core.census().queued), (1, 1));
    // The audit looks whether more wait than may.
    pair.reset(breaking);
    assert_eq!((pair.hub.core.census().active, pair.hub.core.census().queued), (0, 2));
    let other = pair.raw_agent_called(&token(1), "b", 0, None);
    for client in clients {
        pair.send(other, OK);
        assert!(pair.got(client).starts_with("HTTP/1.1 200 OK"));
    }
    pair.assert_quiet(0);
}

#[test]
fn a_request_of_which_nothing_can_be_written_is_not_on_the_move_for_ever() {
    let mut pair = Setup::hub_only().start();
    for number in 0..110 {
        let agent = pair.raw_agent_called(&token(1), &format!("a{number}"), 0, None);
        pair.reset_at_write(agent);
    }
    let client = pair.client();
    pair.send(client, POST);
    assert_refused(&mut pair, client, 502, "lost before it answered");
    assert_eq!(pair.hub.core.census().tunnels, 9);
    pair.assert_quiet(9);
}

#[test]
fn nothing_is_sent_again_once_the_application_has_seen_something() {
    for response in [
        EARLY,
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab",
    ] {
        for end in [Pair::close, Pair::reset, Pair::finish] {
            let (mut pair, agents, client) = sent_to_first_of(2, GET);
            pair.send(agents[0], response);
            assert_ne!(pair.got(client), "");
            end(&mut pair, agents[0]);
            assert_eq!(pair.got(agents[1]), "");
            if response == EARLY {
                assert_refused(&mut pair, client, 502, "lost before it answered");
            } else {
                assert_closed(&mut pair, client);
            }
            pair.assert_quiet(0);
        }
    }
}

#[test]
fn nothing_is_sent_again_once_more_was_sent_than_is_held() {
    let body = "x".repeat(1_500_000);
    let head = "PUT /x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 1500000\r\n\r\n";
    // While the agent has not asked for the body, all that was sent is held, and a refusal costs nothing.
    for (asked, lost) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut pair = Setup::hub_only().start();
        let first = pair.raw_agent_called(&token(1), "a", 0, None);
        let second = pair.raw_agent_called(&token(1), "b", 0, None);
        pair.got(second);
        let client = pair.client();
        pair.send(client, head);
        pair.send(client, &body);
        if asked {
            pair.send(first, "HTTP/1.1 100 Continue\r\n\r\n");
            assert!(pair.got(first).ends_with(&body));
        }
        if lost {
            pair.close(first);
        } else {
            pair.send(first, REFUSAL);
        }
        if asked {
            assert_refused(&mut pair, client, 502, "");
            assert_eq!(pair.got(second), "");
        } else {
            assert!(pair.got(second).ends_with("Slime-Expect: connect\r\n\r\n"));
            pair.send(second, "HTTP/1.1 100 Continue\r\n\r\n");
            assert_eq!(pair.got(second), body);
            pair.send(second, OK);
            assert!(pair.got(client).starts_with("HTTP/1.1 200"));
        }
        pair.assert_quiet(0);
    }
}

#[test]
fn a_retried_request_is_sent_whole_wherever_the_first_tunnel_broke() {
    // A body that just fits, so that it is held whole.
    let body = "y".repeat(3000);
    let request = format!("PUT /x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 3000\r\n\r\n{body}");
    for taken in [0, 1, 50, 150, 151, 1000, 3000] {
        let mut pair = Setup { room: 64, ..Setup::hub_only() }.start();
        let first = pair.raw_agent_called(&token(1), "a", 0, None);
        let second = pair.raw_agent_called(&token(1), "b", 0, None);
        pair.got(first);
        pair.got(second);
        pair.reads_only(first, taken);
        let client = pair.client();
        pair.send(client, &request);
        pair.reset(first);
        let got = pair.got(second);
        assert!(got.starts_with("PUT /x ") && got.ends_with(&format!("\r\n\r\n{body}")), "{taken}");
        pair.send(second, OK);
        assert!(pair.got(client).starts_with("HTTP/1.1 200"));
        pair.assert_quiet(0);
    }
}

#[test]
fn what_is_no_response_is_502_and_closes_the_tunnel() {
    for (response, detail) in [
        ("SSH-2.0-x\r\n\r\n", ""),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", ""),
        ("HTTP/1.1 200 OK\r\n\r\nabc", "without a length"),
        ("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", "not asked for"),
        (&EARLY.repeat(33), "too many interim responses"),
    ] {
        let (mut pair, agents, client) = sent_to_first_of(2, GET);
        pair.send(agents[0], response);
        let got = pair.got(client);
        let last = got.rfind("HTTP/1.1 ").unwrap();
        assert!(got[last..].starts_with("HTTP/1.1 502 ") && got.contains(detail), "{got}");
        assert!(pair.ended(agents[0]).is_some());
        assert_eq!((pair.ended(client), pair.got(agents[1])), (None, String::new()));
        pair.assert_quiet(0);
    }
}
