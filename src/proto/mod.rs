//! The sans-IO core: every protocol decision of slime, and nothing that touches the operating system.
//!
//! It knows no socket and reads no clock; time and randomness are arguments. Built alone it has no standard
//! library, so it cannot name `std::net` and `std::io`. What it owns: HTTP/1.1 heads, framing and rewriting
//! ([`http1`]), the exchange machine, the hub with its pool of tunnels and its queue of waiters, the agent,
//! the tunnel handshake, who is trusted, the [`admin`] side, and all deadlines ([`deadline`]). How it meets
//! the shell in `net` is [`seam`]. What tests it, and the support of that, stands in `tests/`.

pub mod admin;
pub mod agent;
pub mod deadline;
pub mod ends;
pub mod error;
pub mod exchange;
#[cfg(any(test, feature = "fuzzing"))]
#[path = "tests/fuzzing/mod.rs"]
pub mod fuzzing;
pub mod http1;
pub mod hub;
pub mod info;
pub mod light;
pub mod node;
pub mod notice;
mod random;
pub mod seam;
pub mod tables;
#[cfg(any(test, feature = "fuzzing"))]
#[path = "tests/testing/mod.rs"]
pub(crate) mod testing;
pub mod trust;
pub mod tunnel;
pub mod utc;
pub mod websocket;
