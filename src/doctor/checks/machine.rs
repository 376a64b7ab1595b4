//! The machine that the server runs on.

use std::time::Duration;

use super::super::facts::{Facts, KeyMode, Seen};
use super::super::{Finding, Fix};
use super::{look, one};

/// Synced writes that are slower delay every acceptance.
const SYNC_MAX: Duration = Duration::from_millis(50);

pub fn free(facts: &Facts) -> Vec<Finding> {
    const ID: &str = "disk.free";
    let machine = &facts.machine;
    let dir = machine.data_dir.as_str();
    let check = |&(free, whole): &(u64, u64)| {
        let (shown, min) = (size(free), size(machine.free_min));
        let fix = || Fix::text(format!("free space on the file system of {dir}, or enlarge it"));
        if free < machine.free_min {
            let text = format!("{dir} has {shown} free, and mail is refused under {min}");
            Finding::error(ID, dir, text, fix())
        } else if free < machine.free_min.saturating_mul(4) || free < whole / 10 {
            let text = format!("{dir} has {shown} of {} free; mail is refused under {min}", size(whole));
            Finding::warning(ID, dir, text, fix())
        } else {
            Finding::ok(ID, dir, format!("{dir} has {shown} free"))
        }
    };
    of(ID, dir, &machine.space, check)
}

pub fn fsync(facts: &Facts) -> Vec<Finding> {
    const ID: &str = "disk.fsync";
    let dir = facts.machine.data_dir.as_str();
    of(ID, dir, &facts.machine.sync, |&(p50, p99)| {
        let times = format!("{} ms, half of them {} ms", milliseconds(p99), milliseconds(p50));
        if p99 <= SYNC_MAX {
            return Finding::ok(ID, dir, format!("synced writes take at most {times}"));
        }
        let fix = Fix::text(
            "put data_dir on a disk with fast synced writes: an SSD with protection against power loss",
        );
        Finding::warning(
            ID,
            dir,
            format!("synced writes take up to {times}; each acceptance waits for one"),
            fix,
        )
    })
}

pub fn kind(facts: &Facts) -> Vec<Finding> {
    const ID: &str = "disk.kind";
    let dir = facts.machine.data_dir.as_str();
    of(ID, dir, &facts.machine.file_system, |kind| match *kind {
        "local" => Finding::ok(ID, dir, format!("{dir} is on a local file system")),
        "tmpfs" | "ramfs" | "overlayfs" => {
            let fix =
                Fix::text("set data_dir to a directory on a disk; in a container, mount a volume there");
            let text =
                format!("{dir} is on {kind}: accepted mail is lost when the machine or container restarts");
            Finding::error(ID, dir, text, fix)
        }
        network => {
            let fix = Fix::text("set data_dir to a directory on a local disk, with ext4 or xfs");
            let text = format!("{dir} is on {network}, where SQLite and synced writes are not safe");
            Finding::warning(ID, dir, text, fix)
        }
    })
}

pub fn key_mode(facts: &Facts) -> Vec<Finding> {
    const ID: &str = "key.mode";
    let file = facts.machine.master_key.as_str();
    of(ID, file, &facts.machine.master_key_mode, |key| {
        if !is_open(key) {
            let reader = if key.is_of_root { "root and the group of the server" } else { "its owner" };
            return Finding::ok(ID, file, format!("only {reader} can read {file}"));
        }
        let fix = match key.is_of_root {
            true => {
                Fix::command("let only root and the group of the server read it", format!("chmod 640 {file}"))
            }
            false => Fix::command("let only its owner read it", format!("chmod 600 {file}")),
        };
        Finding::error(ID, file, format!("other users can access {file} (mode {:03o})", key.mode), fix)
    })
}

/// Whether other users can access it.
fn is_open(key: &KeyMode) -> bool {
    key.mode & 0o077 != 0
}

pub fn key_opens(facts: &Facts) -> Vec<Finding> {
    const ID: &str = "key.opens";
    let file = facts.machine.master_key.as_str();
    if facts.machine.master_key_mode.value().is_some_and(is_open) {
        let text = format!("other users can access {file}, which key.mode looks at");
        return vec![Finding::skipped(ID, file, text)];
    }
    if let Seen::Failed(reason) = &facts.machine.master_key_opens {
        let fix =
            Fix::text(format!("restore {file} from where you keep it, readable by the user of the server"));
        return vec![Finding::error(ID, file, reason.as_str(), fix)];
    }
    of(ID, file, &facts.machine.master_key_opens, |()| {
        Finding::ok(ID, file, format!("{file} has the form of a master key"))
    })
}

pub fn key_beside_data(facts: &Facts) -> Vec<Finding> {
    const ID: &str = "key.beside_data";
    let machine = &facts.machine;
    let file = machine.master_key.as_str();
    if !machine.is_master_key_beside_data {
        return vec![Finding::ok(ID, file, "the master key is not beside the data")];
    }
    let elsewhere = "/etc/pillarbox/master.key";
    let fix = Fix::command(
        format!("stop the server, move the key, and set master_key_file = \"{elsewhere}\""),
        format!("mv {file} {elsewhere}"),
    );
    let text = "the master key is in the data directory, so a copy of the directory has both";
    vec![Finding::warning(ID, file, text, fix)]
}

pub fn files(facts: &Facts) -> Vec<Finding> {
    const ID: &str = "limit.files";
    let needed = facts.machine.files_needed;
    of(ID, "", &facts.machine.files, |&limit| {
        if limit >= needed {
            return Finding::ok(
                ID,
                "",
                format!("the limits of connections need {needed} open files, which are allowed"),
            );
        }
        let fix = Fix::command(
            "raise the limit in the unit, or lower the options connections_max",
            format!("LimitNOFILE={needed}"),
        );
        let text = format!("{limit} open files are allowed, and the limits of connections need {needed}");
        Finding::warning(ID, "", text, fix)
    })
}

pub fn memory(facts: &Facts) -> Vec<Finding> {
    const ID: &str = "limit.memory";
    let needed = facts.machine.memory_needed;
    of(ID, "", &facts.machine.memory, |&limit| {
        let (shown, filled) = (size(limit), size(needed));
        if limit >= needed {
            return Finding::ok(ID, "", format!("all buffers may fill {filled} of {shown} of memory"));
        }
        let fix = Fix::text(format!(
            "give the server {filled} of memory and some more, or lower smtp.inbound_buffer_max, api.inbound_buffer_max, inbound.buffer_max and relay.hot_queue_bytes_max"
        ));
        let text = format!("the server may use {shown} of memory, and its buffers may fill {filled}");
        Finding::warning(ID, "", text, fix)
    })
}

pub fn clock(facts: &Facts) -> Vec<Finding> {
    const ID: &str = "clock.synced";
    of(ID, "", &facts.machine.is_clock_synchronized, |is_synchronized| {
        if *is_synchronized {
            return Finding::ok(ID, "", "systemd-timesyncd has synchronized the clock");
        }
        let fix = Fix::command(
            "let systemd-timesyncd reach its time servers, on UDP port 123; this shows what it does",
            "timedatectl timesync-status",
        );
        Finding::warning(ID, "", "systemd-timesyncd has not synchronized the clock since it started", fix)
    })
}

fn of<T>(id: &'static str, subject: &str, fact: &Seen<T>, check: impl Fn(&T) -> Finding) -> Vec<Finding> {
    let nothing = || Finding::skipped(id, subject, "there is none");
    one(look(id, &subject, fact).map(|found| found.map_or_else(nothing, check)))
}

/// Octets in units of 1024.
fn size(octets: u64) -> String {
    bytesize::ByteSize(octets).display().iec().to_string()
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1000.0)
}
