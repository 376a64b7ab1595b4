//! The machine: disk, files, master key, certificate.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit};

use super::{KeyMode, MachineFacts, NOT_IN_SQLITE, Seen, TlsFacts, blocking, system};
use crate::acme;
use crate::config::{Config, comes_with_the_service};
use crate::mail::Timestamp;
use crate::relay::LOADED_OCTETS_MAX;
use crate::store::check_master_key;
use crate::tls;

/// Synced writes that are timed, and their octets.
const WRITES: usize = 20;
const WRITE_OCTETS: usize = 4096;
const NO_DIRECTORY: &str = "the data directory does not exist yet";
const UNKNOWN_KIND: &str = "the kind of the file system is not known";
const NO_KEY: &str = "the master key does not exist yet; the server makes it at its first start";

const NO_SERVICE: &str = "systemd puts the master key there when it starts the service";

pub async fn gather(config: &Config, files_needed: usize) -> MachineFacts {
    let data_dir = config.data_dir.clone();
    let (space_dir, sync_dir, kind_dir) = (data_dir.clone(), data_dir.clone(), data_dir.clone());
    let key = config.master_key_file.clone().unwrap_or_else(|| data_dir.join("master.key"));
    let (named, mode_key, key_dir) = (config.master_key_file.clone(), key.clone(), data_dir.clone());
    // With PostgreSQL, no mail is on the disk of this machine.
    let has_mail = config.store.url.is_none();
    let (space, sync, file_system, master_key_mode, master_key_opens, memory, clock) = tokio::join!(
        blocking(move || match has_mail {
            true => read(space_of(existing(&space_dir))),
            false => Seen::NotAsked(NOT_IN_SQLITE),
        }),
        blocking(move || match (has_mail, sync_dir.is_dir()) {
            (false, _) => Seen::NotAsked(NOT_IN_SQLITE),
            (true, true) => read(time_writes(&sync_dir)),
            (true, false) => Seen::NotAsked(NO_DIRECTORY),
        }),
        blocking(move || match has_mail {
            true => file_system_of(existing(&kind_dir)),
            false => Seen::NotAsked(NOT_IN_SQLITE),
        }),
        blocking(move || mode_of(&mode_key)),
        blocking(move || open_key(named.as_deref(), &key_dir)),
        blocking(system::memory),
        blocking(|| system::clock(Path::new(system::TIMESYNCD))),
    );
    MachineFacts {
        data_dir: data_dir.display().to_string(),
        space,
        free_min: config.store.free_disk_min.as_u64(),
        sync,
        file_system,
        is_master_key_beside_data: has_mail && key.starts_with(&data_dir),
        master_key: key.display().to_string(),
        master_key_mode,
        master_key_opens,
        files: Seen::Value(getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)),
        files_needed: files_needed.try_into().unwrap_or(u64::MAX),
        memory,
        memory_needed: config.buffer_octets().saturating_add(LOADED_OCTETS_MAX),
        is_clock_synchronized: clock,
    }
}

fn open_key(named: Option<&Path>, data_dir: &Path) -> Seen<()> {
    if named.is_some_and(comes_with_the_service) {
        return Seen::NotAsked(NO_SERVICE);
    }
    match check_master_key(named, data_dir) {
        Ok(()) if data_dir.is_dir() => Seen::Value(()),
        Ok(()) => Seen::NotAsked(NO_KEY),
        Err(error) => Seen::Failed(error.to_string()),
    }
}

fn read<T>(result: io::Result<T>) -> Seen<T> {
    result.map_or_else(|error| Seen::Failed(error.to_string()), Seen::Value)
}

/// The nearest directory that exists: the server makes the data directory there.
fn existing(data_dir: &Path) -> &Path {
    data_dir.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"))
}

fn space_of(directory: &Path) -> io::Result<(u64, u64)> {
    let found = rustix::fs::statvfs(directory)?;
    Ok((found.f_bavail.saturating_mul(found.f_frsize), found.f_blocks.saturating_mul(found.f_frsize)))
}

/// p50 and p99 of the times of synced writes to a file. It has no name while it is written, so a killed run leaves
/// nothing. Root may do this in a directory of another user, so no link there is followed.
fn time_writes(directory: &Path) -> io::Result<(Duration, Duration)> {
    let path = directory.join(format!("doctor-{}.tmp", std::process::id()));
    // A run that was killed may have left its file.
    remove(&path)?;
    let mut file: File = OpenOptions::new().write(true).create_new(true).open(&path)?;
    remove(&path)?;
    let mut times = Vec::with_capacity(WRITES);
    for _ in 0..WRITES {
        let start = Instant::now();
        file.write_all(&[0; WRITE_OCTETS])?;
        file.sync_data()?;
        times.push(start.elapsed());
    }
    times.sort();
    Ok((times[WRITES / 2], times[WRITES - 1]))
}

fn remove(file: &Path) -> io::Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The name of the kind of file system, as far as it decides something; `local` for those of disks.
fn file_system_of(directory: &Path) -> Seen<&'static str> {
    match rustix::fs::statfs(directory) {
        Ok(found) => kind_of(found.f_type as u32).map_or(Seen::NotAsked(UNKNOWN_KIND), Seen::Value),
        Err(error) => Seen::Failed(io::Error::from(error).to_string()),
    }
}

/// By the number in statfs(2).
fn kind_of(number: u32) -> Option<&'static str> {
    Some(match number {
        0x0102_1994 => "tmpfs",
        0x8584_58f6 => "ramfs",
        0x794c_7630 => "overlayfs",
        0x6969 => "nfs",
        0xff53_4d42 | 0xfe53_4d42 => "cifs",
        0x0102_1997 => "9p",
        0x6573_5546 => "fuse",
        0x00c3_6400 => "ceph",
        0x0bd0_0bd0 => "lustre",
        0x4750_4653 => "gpfs",
        0x5346_414f => "afs",
        // ext2 to ext4, xfs, btrfs, zfs, f2fs, bcachefs.
        0xef53 | 0x5846_5342 | 0x9123_683e | 0x2fc1_2fc1 | 0xf2f5_2010 | 0xca45_1a4e => "local",
        _ => return None,
    })
}

fn mode_of(key: &Path) -> Seen<KeyMode> {
    match std::fs::metadata(key) {
        // The group may read it if root owns it: credentials of the service manager have such a mode.
        Ok(found) if found.uid() == 0 => {
            Seen::Value(KeyMode { mode: found.mode() & 0o777 & !0o040, is_of_root: true })
        }
        Ok(found) => Seen::Value(KeyMode { mode: found.mode() & 0o777, is_of_root: false }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Seen::NotAsked(NO_KEY),
        Err(error) => Seen::Failed(error.to_string()),
    }
}

/// The files of the certificate and of its key.
pub fn certificate_files(config: &Config) -> (PathBuf, PathBuf) {
    let configured = config.tls.certificate.clone().zip(config.tls.private_key.clone());
    let by_acme = || acme::present_file(config).map(|file| (file.clone(), file));
    configured
        .or_else(by_acme)
        .unwrap_or_else(|| (config.data_dir.join("self-signed.crt"), config.data_dir.join("self-signed.key")))
}

/// The certificate in its files.
pub async fn certificate(config: &Config, now: Timestamp) -> TlsFacts {
    let is_self_signed = config.tls.certificate.is_none() && acme::present_file(config).is_none();
    let (file, key) = certificate_files(config);
    let name = file.display().to_string();
    let hostname = config.hostname.clone();
    let certificate = blocking(move || {
        if is_self_signed && !file.exists() {
            return Seen::NotAsked("the server makes a certificate at its first start");
        }
        match tls::inspect(&file, &key, &hostname, now) {
            Ok(found) => Seen::Value(found),
            Err(error) => Seen::Failed(error.to_string()),
        }
    });
    TlsFacts { file: name, is_self_signed, is_by_acme: config.acme.enabled, certificate: certificate.await }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_systemd_has_not_put_there_yet_is_no_fault() {
        let nowhere = Path::new("/nowhere");
        let credential = Path::new("/run/credentials/absent.service/master.key");
        assert_eq!(open_key(Some(credential), nowhere), Seen::NotAsked(NO_SERVICE));
        assert!(matches!(open_key(Some(&nowhere.join("master.key")), nowhere), Seen::Failed(_)));
    }

    #[test]
    fn timed_writes_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (p50, p99) = time_writes(dir.path()).unwrap();
        assert!(p50 <= p99);
        // A run that was killed may have left its file, and somebody else a link.
        let path = dir.path().join(format!("doctor-{}.tmp", std::process::id()));
        std::fs::write(&path, "left").unwrap();
        time_writes(dir.path()).unwrap();
        let target = dir.path().join("target");
        std::fs::write(&target, "kept").unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        time_writes(dir.path()).unwrap();
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "kept");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(time_writes(&dir.path().join("absent")).is_err());
    }

    #[test]
    fn the_nearest_directory_that_exists_has_the_space() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(existing(&dir.path().join("a/b")), dir.path());
        assert!(space_of(dir.path()).unwrap().1 > 0);
    }

    #[test]
    fn a_file_system_is_local_only_if_it_is_known_as_such() {
        // statfs(2) of ext4, Ceph, and one that nobody has.
        assert_eq!(kind_of(0xef53), Some("local"));
        assert_eq!(kind_of(0x00c3_6400), Some("ceph"));
        assert_eq!(kind_of(0x1234_5678), None);
    }
}
