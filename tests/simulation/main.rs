//! Hub and agents on a simulated network: one thread, a virtual clock, and a seed from which everything
//! follows.
//!
//! - `world`, `calls`, `history`: the network; `scheduler`: the processes and the clock;
//! - `setting`: how hub and agents are set up; `hostile`: peers that mean no good;
//! - `theme`: what a run is about; `quirk`: what else is in it; `plan`, `client`, `upstream`, `http`, `wire`:
//!   what applications and upstreams do, written apart from the code under test;
//! - `model`: what must be true of a run, whatever happened in it;
//! - `flat`: what a crowd costs, for `tests/bench/check`;
//! - `network`, `scripts` (with `relay`): tests of all that; `turns`: the hub, turn by turn; `cluster`: the
//!   tests of the real hub and agents.
//!
//! `SLIME_SEED=n` runs one seed, `SLIME_SEEDS=n` so many of them, `SLIME_KEEP_GOING=1` does not stop at the
//! first that fails, `SLIME_TRACE=1` prints every call and delivery, with what hub and agents log.

#![allow(missing_docs, reason = "nobody depends on a test")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test may fail")]

mod calls;
mod client;
mod cluster;
mod flat;
mod history;
mod hostile;
mod http;
mod memory;
mod model;
mod network;
mod plan;
mod quirk;
mod relay;
mod rng;
mod scheduler;
mod scripts;
mod setting;
mod theme;
mod turns;
mod upstream;
#[path = "../vectors/read.rs"]
mod vectors;
mod watchdog;
mod wire;
mod world;

/// Runs seeds one after the other. Failing ones are named; `SLIME_KEEP_GOING=1` goes on after the first.
fn for_each_seed(default: u64, run: impl Fn(u64)) {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seeds = match number("SLIME_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SLIME_SEEDS").unwrap_or(default),
    };
    let mut failed = Vec::new();
    let watched = watchdog::watch();
    for seed in seeds {
        watched.begin(seed);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(seed)));
        if outcome.is_err() {
            println!("failed with SLIME_SEED={seed}\n");
            failed.push(seed);
            if number("SLIME_KEEP_GOING").is_none() {
                break;
            }
        }
    }
    assert!(failed.is_empty(), "seeds {failed:?} fail");
}
