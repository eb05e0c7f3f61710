//! Who is served by whom, in which order, and who waits for how long.

use super::*;
use crate::proto::testing::Setup;
use crate::proto::testing::pair::{UNIX, token};
use crate::proto::testing::scenario::*;

fn get(path: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: app.test\r\n{more}\r\n")
}

/// The path of the request that a raw agent got, empty if it got none.
fn path_at(pair: &mut Pair, agent: Raw) -> String {
    pair.got(agent).split(' ').nth(1).unwrap_or_default().to_owned()
}

/// A hub with so many agents that the test plays, of one worker each, all free.
fn with_agents(setup: Setup, count: u8) -> (Pair, Vec<Raw>) {
    let mut pair = setup.start();
    let agents: Vec<Raw> = (1..=count).map(|agent| pair.raw_agent(&token(agent), 0)).collect();
    for agent in &agents {
        assert!(pair.got(*agent).starts_with("HTTP/1.1 101 "));
    }
    (pair, agents)
}

fn ask(pair: &mut Pair, request: &str) -> Raw {
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
fn the_queue_timeout_ends_the_wait() {
    let (mut at, second) = Setup::default().hub(|hub| hub.queue_timeout = seconds(60)).queued(GET);
    at.pair.advance(Duration::from_millis(59_900));
    assert_eq!(at.pair.got(second), "");
    at.pair.advance(Duration::from_millis(200));
    assert_refused(&mut at.pair, second, 503, "no worker became free in time");
    assert_eq!(at.pair.ended(second), None);
    at.pair.send(at.upstream, OK);
    assert_eq!(at.pair.got(at.client), WAS_OK);
    at.pair.assert_quiet(1);
}

#[test]
fn the_client_says_how_long_it_waits() {
    for (wait, millis) in [("2", 2000), ("0.5", 500), ("0", 0), ("2000", 2_000_000)] {
        for block in ["", "Slime-Block: 1\r\n"] {
            let request = get("/y", &format!("Slime-Max-Wait: {wait}\r\n{block}"));
            let mut at = Setup::default().at_upstream(GET);
            let second = ask(&mut at.pair, &request);
            if millis > 0 {
                at.pair.advance(Duration::from_millis(millis - 1));
                assert_eq!(at.pair.got(second), "");
            }
            at.pair.advance(Duration::from_millis(1));
            assert_refused(&mut at.pair, second, 503, "in time");
            at.pair.assert_quiet(1);
        }
    }
    // A worker that is free at once is taken, however short the wait.
    let mut pair = Setup::default().joined();
    let _client = ask(&mut pair, &get("/x", "Slime-Max-Wait: 0\r\n"));
    let upstream = pair.upstream();
    assert_eq!(pair.got(upstream), GOT);
}

#[test]
fn who_blocks_waits_until_it_leaves_and_who_does_not_block_never_waits() {
    let (mut at, second) = Setup::default().queued(&get("/y", "Slime-Block: 1\r\n"));
    at.pair.advance(seconds(100_000));
    assert_eq!((at.pair.got(second).as_str(), at.pair.hub.core.census().queued), ("", 1));
    let third = ask(&mut at.pair, &get("/z", "Slime-Block: 0\r\n"));
    assert_refused(&mut at.pair, third, 503, "Slime-Block: 0 does not wait");
    at.pair.close(second);
    assert_eq!(at.pair.hub.core.census().queued, 0);
    at.pair.assert_quiet(1);
}

#[test]
fn a_tunnel_whose_heartbeat_is_under_way_counts_as_free_for_a_second() {
    let (mut pair, agents) = with_agents(Setup::hub_only(), 1);
    pair.advance(seconds(15));
    assert!(pair.got(agents[0]).contains("Slime-Heartbeat: ?1"));
    let client = ask(&mut pair, &get("/x", "Slime-Block: 0\r\n"));
    assert_eq!(pair.got(agents[0]), "", "a tunnel whose heartbeat is unanswered gets no work");
    pair.advance(Duration::from_millis(900));
    assert_eq!(pair.got(client), "");
    pair.send(agents[0], crate::proto::tunnel::PONG);
    assert_eq!(path_at(&mut pair, agents[0]), "/x");
    pair.send(agents[0], OK);
    assert_eq!(pair.got(client), WAS_OK);
    // And no longer than that.
    pair.advance(Duration::from_millis(15_100));
    assert!(pair.got(agents[0]).contains("Slime-Heartbeat: ?1"));
    let client = ask(&mut pair, &get("/x", "Slime-Block: 0\r\n"));
    pair.advance(seconds(1));
    assert_refused(&mut pair, client, 503, "does not wait");
    pair.assert_quiet(0);
}

#[test]
fn the_queue_has_an_end() {
    let (mut at, second) = Setup::default().hub(|hub| hub.queue_depth = 3).queued(GET);
    let post = "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 1\r\n\r\n";
    // They wait elsewhere until their body is there.
    let [third, fourth, late] = [(); 3].map(|()| ask(&mut at.pair, post));
    assert_eq!((at.pair.hub.core.census().queued, at.pair.hub.core.census().gathering), (1, 3));
    at.pair.send(third, "x");
    at.pair.send(fourth, "x");
    assert_eq!(at.pair.hub.core.census().queued, 3);
    let fifth = ask(&mut at.pair, GET);
    assert_refused(&mut at.pair, fifth, 503, "queue is full");
    at.pair.send(late, "x");
    assert_refused(&mut at.pair, late, 503, "queue is full");
    at.pair.close(second);
    at.pair.send(fifth, GET);
    assert_eq!((at.pair.got(fifth).as_str(), at.pair.hub.core.census().queued), ("", 3));
    at.pair.assert_quiet(1);
}

#[test]
fn heads_whose_bodies_do_not_come_keep_nobody_out() {
    let post = "POST /x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 30000\r\n\r\n";
    for queue_depth in [0, 3] {
        let mut pair = Setup::default().hub(|hub| hub.queue_depth = queue_depth).joined();
        let most = queue_depth + 64;
        let mut waiting: Vec<Raw> = (0..most).map(|_| ask(&mut pair, post)).collect();
        assert_eq!(pair.hub.core.census().gathering, most);
        // Another one is served all the same, at the cost of the one that has waited the longest.
        let other = ask(&mut pair, "POST /x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 1\r\n\r\nx");
        assert_refused(&mut pair, waiting.remove(0), 503, "wait for their bodies");
        let upstream = pair.upstream();
        assert!(pair.got(upstream).ends_with("\r\n\r\nx"));
        pair.send(upstream, OK);
        assert_eq!(pair.got(other), WAS_OK);
        // One that has sent much goes on with that.
        let body = "y".repeat(30_000);
        pair.send(waiting[0], &body[..20_000]);
        let more = [ask(&mut pair, post), ask(&mut pair, post)];
        assert!(pair.got(upstream).ends_with('y'));
        pair.send(waiting[0], &body[20_000..]);
        pair.send(upstream, OK);
        assert_eq!(pair.got(waiting[0]), WAS_OK);
        assert_eq!(pair.hub.core.census().gathering, most);
        for client in more {
            assert_eq!((pair.got(client).as_str(), pair.ended(client)), ("", None));
        }
        pair.assert_quiet(1);
    }
}

#[test]
fn who_left_is_not_given_what_became_free_in_the_same_turn() {
    // A worker, because its response came.
    let (mut pair, agents) = with_agents(Setup::hub_only(), 1);
    let first = ask(&mut pair, &get("/first", ""));
    assert_eq!(path_at(&mut pair, agents[0]), "/first");
    let left = ask(&mut pair, &get("/left", ""));
    let stays = ask(&mut pair, &get("/stays", ""));
    pair.send_quietly(agents[0], OK);
    pair.close(left);
    assert!(pair.got(first).starts_with("HTTP/1.1 200 "));
    assert_eq!(path_at(&mut pair, agents[0]), "/stays");
    pair.close(stays);
    pair.assert_quiet(0);

    // A permit, because its client left, too.
    let mut pair = Setup::hub_only().hub(|hub| hub.concurrent = 1).start();
    // The hub hears of them in the order in which they came.
    let [first, left, stays] = [(); 3].map(|()| pair.client());
    let agents = [1, 2].map(|agent| pair.raw_agent(&token(agent), 0));
    for agent in agents {
        pair.got(agent);
    }
    for (client, path) in [(first, "/first"), (left, "/left"), (stays, "/stays")] {
        pair.send(client, get(path, ""));
    }
    assert_eq!(path_at(&mut pair, agents[0]), "/first");
    pair.close_quietly(first);
    pair.close(left);
    assert_eq!(path_at(&mut pair, agents[1]), "/stays");
    pair.close(stays);
    pair.assert_quiet(0);
}

#[test]
fn agents_are_let_in_where_all_clients_wait_for_one() {
    let mut pair = Setup::hub_only().hub(|hub| hub.max_clients = 3).start();
    let waiting: Vec<Raw> =
        (0..3).map(|at| ask(&mut pair, &get(&format!("/{at}"), "Slime-Block: 1\r\n"))).collect();
    // There is no place for one more request.
    let more = ask(&mut pair, &get("/more", "Slime-Block: 1\r\n"));
    assert_refused(&mut pair, more, 503, "too many clients");
    // Nor do others that say nothing keep an agent out.
    let silent: Vec<Raw> = (0..20).map(|_| pair.client()).collect();
    let agent = pair.raw_agent(&token(1), 0);
    assert!(pair.got(agent).contains("GET /0 "));
    for (at, client) in waiting.iter().enumerate() {
        pair.send(agent, OK);
        assert!(pair.got(*client).starts_with("HTTP/1.1 200 "), "{at}");
    }
    // Those that were let in early are clients like others now.
    let last = *silent.last().unwrap();
    pair.send(last, get("/last", ""));
    assert_eq!(pair.hub.core.census().exchanges, 1);
    assert!(pair.got(agent).contains("GET /last "));
    pair.assert_quiet(0);
}

#[test]
fn those_that_nobody_can_serve_fill_a_quarter_of_the_queue() {
    let mut at = Setup::default().hub(|hub| hub.queue_depth = 8).at_upstream(GET);
    let hopeless = get("/x", "Slime-Scope: none\r\nSlime-Block: 1\r\n");
    let first = ask(&mut at.pair, &hopeless);
    let _second = ask(&mut at.pair, &hopeless);
    let third = ask(&mut at.pair, &hopeless);
    assert_refused(&mut at.pair, third, 503, "queue is full");
    for _ in 0..6 {
        let _ = ask(&mut at.pair, GET);
    }
    assert_eq!(at.pair.hub.core.census().queued, 8);
    // An agent that can comes up: they are hopeless no more, and the first one is served first.
    let mut scoped = token(2);
    scoped.scopes.push("none".to_owned());
    let agent = at.pair.raw_agent(&scoped, 0);
    at.pair.send(agent, OK);
    assert_eq!(at.pair.got(first), WAS_OK);
    at.pair.assert_quiet(1);
}

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
        assert_eq!(pair.hub.core.pool.agents(), 0);
    }
}
