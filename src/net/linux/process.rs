//! Processes: their parents and their children, for the commands that start some.

use std::process::Child;

use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};

/// Asks the system to end this process with its parent (prctl(2), `PR_SET_PDEATHSIG`). False if that parent
/// is gone already. Where the system cannot do this, a parent that is killed leaves its children.
pub fn end_with_parent(parent: i32) -> bool {
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    getppid().map(|pid| pid.as_raw_nonzero().get()) == Some(parent)
}

/// Sends `SIGTERM` to a child. It may have ended just now; it is still there to be waited for.
pub fn terminate(child: &Child) {
    let _ = kill_process(Pid::from_child(child), Signal::TERM);
}
