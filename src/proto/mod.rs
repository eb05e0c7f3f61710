//! The sans-IO core: every protocol decision of slime, and nothing that touches the operating system.
//!
//! It knows no socket and reads no clock; time and randomness are arguments. `std::net` and `std::io` are not named here
//! (`tests/layering.rs` fails if they are). What it owns: HTTP/1.1 heads, framing and rewriting ([`http1`]), the exchange
//! machine, the pool of tunnels and the queue of waiters, the tunnel handshake, agent tokens, and all deadlines. How it
//! meets the shell in [`crate::net`] is [`seam`].

pub mod error;
pub mod http1;
pub mod key;
pub mod seam;
pub mod table;
#[cfg(test)]
pub(crate) mod testing;
pub mod timer;
