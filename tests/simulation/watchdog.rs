//! Ends the process if a seed takes for ever: a turn that never ends makes no calls that the world could
//! count.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// Far longer than any seed takes, on a machine that has other things to do, too.
const LONGEST: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_secs(1);
const NONE: u64 = u64::MAX;

/// The seed that is being run. Nothing is watched any more once this is gone.
pub(crate) struct Watched(Arc<AtomicU64>);

impl Watched {
    pub(crate) fn begin(&self, seed: u64) {
        self.0.store(seed, Ordering::Relaxed);
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.begin(NONE);
    }
}

/// Watches over what is begun from now on.
pub(crate) fn watch() -> Watched {
    let current = Arc::new(AtomicU64::new(NONE));
    let weak = Arc::downgrade(&current);
    thread::spawn(move || {
        let (mut seed, mut looks) = (NONE, 0);
        // It ends with the one who has it watched.
        while let Some(current) = weak.upgrade() {
            let now = current.load(Ordering::Relaxed);
            looks = if now == seed && now != NONE { looks + 1 } else { 0 };
            seed = now;
            if LOOK_EVERY * looks >= LONGEST {
                println!("a turn never ends with SLIME_SEED={seed}");
                std::process::abort();
            }
            drop(current);
            thread::sleep(LOOK_EVERY);
        }
    });
    Watched(current)
}
