//! The agent, together with the real hub or with one that the test plays.

mod cut;
mod ending;
mod health;
mod kept;
mod lend;
mod light;
mod link;
mod serve;
mod waiting;
mod websocket;

use core::time::Duration;

use crate::proto::testing::pair::{sealed, token};
use crate::proto::testing::{Ended, Pair, Raw, Reach, Setup};

const WELCOME: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: slime/1\r\nSlime-Heartbeat: 15.000\r\n\r\n";

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn idle_workers_are_small() {
    // Beside its wake-up, which takes eight bytes.
    assert!(size_of::<super::Worker>() <= 72);
    assert!(size_of::<super::connections::Tunnel>() <= 24);
}

/// What the agent of the default setup says to join.
fn hello(ready: &str) -> String {
    format!(
        "GET /.slime/tunnel HTTP/1.1\r\nHost: hub.test\r\nConnection: Upgrade\r\nUpgrade: slime/1\r\n\
         Slime-Agent-Token: {}\r\nSlime-Agent-Id: a\r\nSlime-Worker: 0\r\nSlime-Ready: {ready}\r\n\r\n",
        sealed(&token(1))
    )
}

/// An agent that has said hello to a hub that the test plays.
fn dialled(setup: Setup) -> (Pair, Raw) {
    let mut pair = setup.start();
    pair.to_hub = Reach::Raw;
    pair.settle();
    // The first connection was a probe of the upstream.
    let probe = pair.upstream();
    assert!(pair.ended(probe).is_some());
    let hub = pair.raw_hub();
    (pair, hub)
}

/// An agent whose worker is ready at a hub that the test plays, which speaks without frames.
fn joined(setup: Setup) -> (Pair, Raw) {
    let (mut pair, hub) = dialled(setup.agent(|config| config.websocket = false));
    assert_eq!(pair.got(hub), hello("?1"));
    pair.send(hub, WELCOME);
    (pair, hub)
}

/// Takes the next tunnel of the agent, and lets it join.
fn joins_again(pair: &mut Pair, ready: &str) -> Raw {
    let hub = pair.raw_hub();
    assert_eq!(pair.got(hub), hello(ready));
    pair.send(hub, WELCOME);
    hub
}

/// Takes the tunnel of an agent whose worker reads an answer to its end. It has no heartbeats.
fn finishes(pair: &mut Pair) -> Raw {
    let hub = pair.raw_hub();
    let busy = "?0\r\nSlime-Reason: its upstream is busy with a request whose application has left\r\nSlime-Loading: ?1";
    assert_eq!(pair.got(hub), hello(busy));
    pair.send(hub, WELCOME.replace("15.000", "10000.000"));
    hub
}
