//! For how long a request waits for a worker, and who has a place in the queue.

use super::dispatch::{ask, get, path_at, with_agents};
use super::*;
use crate::proto::testing::Setup;
use crate::proto::testing::pair::token;
use crate::proto::testing::scenario::*;

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
