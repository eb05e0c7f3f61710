//! Hub and agents on a simulated network: one thread, a virtual clock, and a seed from which everything follows.
//!
//! `SLIME_SEED=n` runs one seed, `SLIME_SEEDS=n` so many of them, `SLIME_TRACE=1` prints every call and delivery.

#![allow(missing_docs, reason = "nobody depends on a test")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test may fail")]

mod calls;
mod client;
mod cluster;
mod http;
mod model;
mod network;
mod plan;
mod relay;
mod rng;
mod scheduler;
mod scripts;
mod upstream;
mod world;

/// Runs seeds one after the other; a failing one is named.
fn for_each_seed(default: u64, run: impl Fn(u64)) {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seeds = match number("SLIME_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SLIME_SEEDS").unwrap_or(default),
    };
    for seed in seeds {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(seed)));
        if let Err(panic) = outcome {
            println!("failed with SLIME_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
