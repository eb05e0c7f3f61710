//! How much memory there is to be had.

use std::fs;

/// What limits the memory of a container, in the two generations of control groups (cgroups(7)).
const LIMITS: [&str; 2] = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];

/// The memory of the machine, or of the container if that has less, in bytes.
pub fn memory() -> u64 {
    let info = rustix::system::sysinfo();
    let unit = u64::from(info.mem_unit.max(1));
    #[allow(clippy::useless_conversion, reason = "32 bits wide on some machines")]
    let machine = u64::from(info.totalram).saturating_mul(unit);
    let limit = LIMITS.iter().filter_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok()).min();
    limit.map_or(machine, |limit: u64| limit.min(machine))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_some() {
        // Less than the tests need to run, and more than any machine has.
        assert!((4 << 20..1 << 50).contains(&memory()));
    }
}
