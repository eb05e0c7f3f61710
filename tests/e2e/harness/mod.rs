//! What the tests are made of: processes, raw connections, a server and clients that are not ours, checked
//! bodies.

mod body;
mod client;
#[allow(dead_code, reason = "the tests without TLS need some of it")]
pub mod pki;
mod process;
mod proxy;
mod rig;
mod server;
#[allow(dead_code, reason = "the tests without TLS need some of it")]
mod socket;
mod tunnel;
mod turn;
mod upstream;
#[allow(dead_code, reason = "the tests without TLS need some of it")]
mod wire;

pub use body::{Checker, Pattern};
pub use client::{hyper_exchange, text, ureq_agent};
pub use process::{Proc, assert_quiet};
pub use proxy::ConnectProxy;
pub use rig::{Agent, Hub, Rig, command, register, secure_agent, secure_hub, shared_token, wait_agents};
pub use server::{Request, Server, body_of, empty, full, reply, stream};
pub use socket::Socket;
pub use tunnel::{WELCOME, hello, join, respond, upgrade_tunnel};
pub use turn::alone;
pub use upstream::RawUpstream;
pub use wire::{Cut, Head, Message, Wire};

use std::time::{Duration, Instant};

/// How long anything may take that must happen. Only a failing test waits for so long.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Waits until the closure says so; panics when the time is over.
#[track_caller]
pub fn wait_until(what: &str, deadline: Duration, mut done: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    loop {
        if done() {
            return start.elapsed();
        }
        assert!(start.elapsed() < deadline, "not within {deadline:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
