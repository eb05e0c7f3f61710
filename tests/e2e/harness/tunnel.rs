//! The tunnel as another implementation would speak it: an agent, or a hub, that the test plays itself.

use super::{Hub, Wire};

/// Joins a hub as an agent that is the test itself. The connection then carries requests to the test.
#[track_caller]
pub fn join(hub: &Hub, token: &str, id: &str, worker: u32) -> Wire {
    let mut wire = hub.client_sending(hello(token, id, worker));
    let head = wire.head();
    assert_eq!(head.status(), 101, "{head:?}");
    assert_eq!(head.field("upgrade"), Some("slime/1"));
    wire
}

/// A hub's consent, with the pace of its signs of life in seconds.
pub const WELCOME: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: slime/1\r\n\
     Slime-Heartbeat: 1\r\n\r\n";

/// The request of a handshake.
pub fn hello(token: &str, id: &str, worker: u32) -> String {
    format!(
        "GET /.slime/tunnel HTTP/1.1\r\nHost: hub\r\nConnection: Upgrade\r\nUpgrade: slime/1\r\n\
         Slime-Agent-Token: {token}\r\nSlime-Agent-Id: {id}\r\nSlime-Worker: {worker}\r\nSlime-Ready: ?1\r\n\r\n"
    )
}

/// Takes an agent in, as a hub that is the test itself.
#[track_caller]
pub fn upgrade_tunnel(tunnel: &mut Wire) {
    assert!(tunnel.request_head().has("slime-agent-token"));
    tunnel.send(WELCOME);
}

/// Reads a request on a tunnel, or at an upstream, and answers it with its own target as body.
#[track_caller]
pub fn respond(wire: &mut Wire) -> String {
    let target = wire.request().head.target().to_owned();
    wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{target}", target.len()));
    target
}
