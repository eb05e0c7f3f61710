//! The sans-IO core: every protocol decision of slime, and nothing that touches the operating system.
//!
//! It knows no socket and reads no clock; time and randomness are arguments. `std::net` and `std::io` are not named here
//! (`tests/layering.rs` fails if they are). What it owns: HTTP/1.1 heads, framing and rewriting ([`http1`]), the exchange
//! machine, the pool of tunnels and the queue of waiters, the tunnel handshake, agent tokens, and all deadlines. How it
//! meets the shell in `net` is [`seam`].

pub mod agent;
pub mod agent_token;
mod classes;
pub mod error;
pub mod exchange;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod http1;
pub mod hub;
pub mod key;
pub mod light;
pub mod list;
pub mod node;
pub mod notice;
pub mod pool;
mod presence;
mod profile;
pub mod queue;
mod random;
pub mod revocation;
pub mod seam;
pub mod table;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod testing;
pub mod timer;
mod tournament;
pub mod tunnel;
mod turns;
pub mod websocket;
