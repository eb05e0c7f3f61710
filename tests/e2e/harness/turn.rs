//! Tests that measure time run alone; all others run side by side.
//!
//! A thread shares the machine from its first process on until its last one is gone. [`alone`] waits until
//! nobody does, and keeps everybody else waiting.

use std::cell::RefCell;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

static MACHINE: RwLock<()> = RwLock::new(());

thread_local! {
    static HERE: RefCell<Here> = const { RefCell::new(Here { processes: 0, turn: Turn::None }) };
}

/// What this thread runs, and the lock that it holds for it.
struct Here {
    processes: usize,
    turn: Turn,
}

enum Turn {
    None,
    Shared { _guard: RwLockReadGuard<'static, ()> },
    Alone,
}

/// Held by a test that runs alone, from before its first process on.
pub struct Alone {
    _guard: RwLockWriteGuard<'static, ()>,
}

/// Waits until no other test runs.
pub fn alone() -> Alone {
    let guard = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
    HERE.with_borrow_mut(|here| {
        assert_eq!(here.processes, 0, "to be called before anything is started");
        here.turn = Turn::Alone;
    });
    Alone { _guard: guard }
}

impl Drop for Alone {
    fn drop(&mut self) {
        HERE.with_borrow_mut(|here| here.turn = Turn::None);
    }
}

/// Held as long as a process of this thread runs.
pub struct Running(());

impl Running {
    pub fn begin() -> Self {
        HERE.with_borrow_mut(|here| {
            here.processes += 1;
            if let (1, Turn::None) = (here.processes, &here.turn) {
                let guard = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
                here.turn = Turn::Shared { _guard: guard };
            }
        });
        Self(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        HERE.with_borrow_mut(|here| {
            here.processes = here.processes.saturating_sub(1);
            if let (0, Turn::Shared { .. }) = (here.processes, &here.turn) {
                here.turn = Turn::None;
            }
        });
    }
}
