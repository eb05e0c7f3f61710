//! The real binary, end to end: hub and agent as processes, real sockets, and clients and servers that are
//! not ours.
//!
//! Every test starts what it needs on port 0 and waits with deadlines; nothing is synchronised by sleeping. A
//! process that ends although its test did not ask for it fails the test, and what it logged is shown with
//! the failure.

// Test code may fail loudly, reads the clock, and prints what helps to understand a failure.
#![allow(
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::unwrap_used,
    missing_docs,
    unreachable_pub
)]

mod admin;
mod cancel;
mod demo;
mod dialling;
mod ending;
mod extras;
mod failing;
mod framing;
mod handshake;
mod harness;
mod limits;
mod liveness;
mod messages;
mod proxy;
mod queue;
mod relay;
mod streaming;
mod trust;
mod upgrade;
mod vanished;
mod websocket;
mod workers;
