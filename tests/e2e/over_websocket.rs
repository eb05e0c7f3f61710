//! The end-to-end tests with tunnels in frames of WebSocket: modules of `main.rs`, built anew with agents
//! that have `--websocket`.
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

mod cancel;
mod ending;
mod failing;
mod framing;
#[allow(dead_code, unused_imports, reason = "the tests that are left out need the rest of it")]
mod harness;
mod streaming;
mod upgrade;
