//! Processes: their parents and their children, for the commands that start some.

use std::fs;
use std::process::Child;

use rustix::param::page_size;
use rustix::process::{
    Pid, Resource, Signal, getppid, getrlimit, kill_process, set_parent_process_death_signal,
};
use rustix::time::{ClockId, clock_gettime};

use crate::proto::admin::machine::Usage;

/// What this process uses now.
pub fn usage() -> Usage {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let whole = u64::try_from(cpu.tv_sec).unwrap_or_default().saturating_mul(1000);
    let rest = u64::try_from(cpu.tv_nsec).unwrap_or_default() / 1_000_000;
    // proc(5): sizes in pages, the second one being what is resident.
    let sizes = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let resident: Option<u64> = sizes.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    Usage {
        cpu_ms: Some(whole.saturating_add(rest)),
        resident_bytes: resident.map(|pages| pages.saturating_mul(page_size() as u64)),
        max_fds: getrlimit(Resource::Nofile).current,
        // Its size is their number since Linux 6.2, and was nothing before.
        open_fds: fs::metadata("/proc/self/fd").ok().map(|folder| folder.len()).filter(|count| *count > 0),
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let Usage { cpu_ms, resident_bytes, max_fds, open_fds } = usage();
        assert!(cpu_ms.is_some() && max_fds.is_some_and(|most| most > 3));
        assert!(resident_bytes.is_some_and(|bytes| (1 << 19..1 << 40).contains(&bytes)));
        assert!(open_fds.is_none_or(|count| (3..1 << 20).contains(&count)));
    }
}
