//! What the operating system gives: memory, and the time.

use std::path::Path;

use super::Seen;

/// Where the kernel shows control groups, version 2.
pub const CONTROL_GROUPS: &str = "/sys/fs/cgroup";
/// The directory of systemd-timesyncd while it runs.
pub const TIMESYNCD: &str = "/run/systemd/timesync";
const OTHER_CLOCK: &str =
    "systemd-timesyncd does not run, and no other program says whether the clock is synchronized";

const OTHER_LIMIT: &str = "control groups of version 1 limit the memory, and this limit is not known";

/// The octets of memory that this process may use.
pub fn memory() -> Seen<u64> {
    let system = rustix::system::sysinfo();
    let total = system.totalram.saturating_mul(system.mem_unit.into());
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    memory_in(Path::new(CONTROL_GROUPS), &groups, total)
}

/// The lines of `/proc/self/cgroup` name the controllers of version 1.
fn memory_in(root: &Path, groups: &str, total: u64) -> Seen<u64> {
    let mut controllers =
        groups.lines().filter_map(|line| line.split(':').nth(1)).flat_map(|all| all.split(','));
    match controllers.any(|controller| controller == "memory") {
        true => Seen::NotAsked(OTHER_LIMIT),
        false => Seen::Value(limit_of(root, groups).map_or(total, |limit| limit.min(total))),
    }
}

/// The lowest limit of the control group in `/proc/self/cgroup` and of those above it.
fn limit_of(root: &Path, groups: &str) -> Option<u64> {
    let group = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let directory = root.join(group.trim_start_matches('/'));
    let within = directory.ancestors().take_while(|directory| directory.starts_with(root));
    // Without a limit, the file has the word `max`.
    let limit = |group: &Path| std::fs::read_to_string(group.join("memory.max")).ok()?.trim().parse().ok();
    within.filter_map(limit).min()
}

/// Whether the clock is synchronized.
pub fn clock(timesyncd: &Path) -> Seen<bool> {
    match timesyncd.is_dir() {
        // It touches this file after each synchronization.
        true => Seen::Value(timesyncd.join("synchronized").exists()),
        false => Seen::NotAsked(OTHER_CLOCK),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_limit_of_a_control_group_and_of_those_above_counts() {
        let root = tempfile::tempdir().unwrap();
        let group = root.path().join("system.slice/pillarbox.service");
        std::fs::create_dir_all(&group).unwrap();
        let set =
            |directory: &Path, limit: &str| std::fs::write(directory.join("memory.max"), limit).unwrap();
        let limit = || limit_of(root.path(), "1:cpu:/x\n0::/system.slice/pillarbox.service\n");
        assert_eq!(limit(), None);
        set(&group, "max\n");
        set(group.parent().unwrap(), "2048\n");
        assert_eq!(limit(), Some(2048));
        set(&group, "1024\n");
        assert_eq!(limit(), Some(1024));
        assert_eq!(limit_of(root.path(), "1:cpu:/x\n"), None);
    }

    #[test]
    fn the_limit_of_a_control_group_of_version_1_is_not_known() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(memory_in(root.path(), "1:cpu:/x\n0::/memory\n", 4096), Seen::Value(4096));
        for groups in ["9:memory:/x\n", "4:cpu,memory:/x\n0::/x\n"] {
            assert_eq!(memory_in(root.path(), groups, 4096), Seen::NotAsked(OTHER_LIMIT));
        }
    }

    #[test]
    fn the_clock_is_synchronized_once_timesyncd_says_so() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(clock(directory.path()), Seen::Value(false));
        std::fs::write(directory.path().join("synchronized"), "").unwrap();
        assert_eq!(clock(directory.path()), Seen::Value(true));
        assert!(matches!(clock(&directory.path().join("absent")), Seen::NotAsked(_)));
    }
}
