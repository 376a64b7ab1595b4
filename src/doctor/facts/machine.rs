//! The machine: disk, files, master key, certificate.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit};

use super::{MachineFacts, Seen, TlsFacts, blocking};
use crate::config::Config;
use crate::mail::Timestamp;
use crate::store::check_master_key;
use crate::tls;

/// Synced writes that are timed, and their octets.
const WRITES: usize = 20;
const WRITE_OCTETS: usize = 4096;
/// Files besides connections: the database, listeners, DNS, bodies.
const OTHER_FILES: u64 = 512;
const NO_DIRECTORY: &str = "the data directory does not exist yet";
const NO_KEY: &str = "the master key does not exist yet; the server makes it at its first start";

pub async fn gather(config: &Config) -> MachineFacts {
    let data_dir = config.data_dir.clone();
    let is_there = data_dir.is_dir();
    let (space_dir, sync_dir, kind_dir) = (existing(&data_dir), data_dir.clone(), existing(&data_dir));
    let key = config.master_key_file.clone().unwrap_or_else(|| data_dir.join("master.key"));
    let (named, mode_key, key_dir) = (config.master_key_file.clone(), key.clone(), data_dir.clone());
    let (space, sync, file_system, master_key_mode, master_key_opens) = tokio::join!(
        blocking(move || read(space_of(&space_dir))),
        blocking(move || if is_there { read(time_writes(&sync_dir)) } else { Seen::NotAsked(NO_DIRECTORY) }),
        blocking(move || read(file_system_of(&kind_dir))),
        blocking(move || mode_of(&mode_key)),
        blocking(move || match check_master_key(named.as_deref(), &key_dir) {
            Ok(()) if is_there => Seen::Value(()),
            Ok(()) => Seen::NotAsked(NO_KEY),
            Err(error) => Seen::Failed(error.to_string()),
        }),
    );
    MachineFacts {
        data_dir: data_dir.display().to_string(),
        space,
        free_min: config.store.free_disk_min.as_u64(),
        sync,
        file_system,
        is_master_key_beside_data: key.starts_with(&data_dir),
        master_key: key.display().to_string(),
        master_key_mode,
        master_key_opens,
        files: Seen::Value(getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)),
        files_needed: files_needed(config),
    }
}

fn read<T>(result: io::Result<T>) -> Seen<T> {
    result.map_or_else(|error| Seen::Failed(error.to_string()), Seen::Value)
}

/// The nearest directory that exists: the server makes the data directory there.
fn existing(data_dir: &Path) -> PathBuf {
    data_dir.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

fn space_of(directory: &Path) -> io::Result<(u64, u64)> {
    let found = rustix::fs::statvfs(directory)?;
    Ok((found.f_bavail.saturating_mul(found.f_frsize), found.f_blocks.saturating_mul(found.f_frsize)))
}

/// p50 and p99 of the times of synced writes to a file, which is removed.
fn time_writes(directory: &Path) -> io::Result<(Duration, Duration)> {
    let path = directory.join(format!("doctor-{}.tmp", std::process::id()));
    let timed = (|| {
        let mut file: File = OpenOptions::new().write(true).create_new(true).open(&path)?;
        let mut times = Vec::with_capacity(WRITES);
        for _ in 0..WRITES {
            let start = Instant::now();
            file.write_all(&[0; WRITE_OCTETS])?;
            file.sync_data()?;
            times.push(start.elapsed());
        }
        times.sort();
        Ok((times[WRITES / 2], times[WRITES - 1]))
    })();
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => timed,
    }
}

/// The name of the kind of file system, as far as it decides something; `local` for all others.
fn file_system_of(directory: &Path) -> io::Result<&'static str> {
    let found = rustix::fs::statfs(directory)?;
    // statfs(2).
    Ok(match found.f_type as u32 {
        0x0102_1994 => "tmpfs",
        0x8584_58f6 => "ramfs",
        0x794c_7630 => "overlayfs",
        0x6969 => "nfs",
        0xff53_4d42 | 0xfe53_4d42 => "cifs",
        0x0102_1997 => "9p",
        0x6573_5546 => "fuse",
        _ => "local",
    })
}

fn mode_of(key: &Path) -> Seen<u32> {
    match std::fs::metadata(key) {
        // The group may read it if root owns it: credentials of the service manager have such a mode.
        Ok(found) if found.uid() == 0 => Seen::Value(found.mode() & 0o777 & !0o040),
        Ok(found) => Seen::Value(found.mode() & 0o777),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Seen::NotAsked(NO_KEY),
        Err(error) => Seen::Failed(error.to_string()),
    }
}

fn files_needed(config: &Config) -> u64 {
    let inbound = if config.inbound.is_enabled() { config.inbound.connections_max } else { 0 };
    let public = if config.public.listen.is_empty() { 0 } else { config.public.connections_max };
    let all = [
        config.smtp.connections_max,
        config.api.connections_max,
        config.relay.connections_max,
        config.webhooks.requests_max,
        inbound,
        public,
    ];
    all.into_iter().fold(OTHER_FILES, |sum, max| sum.saturating_add(max as u64))
}

/// The files of the certificate and of its key.
pub fn certificate_files(config: &Config) -> (PathBuf, PathBuf) {
    let configured = config.tls.certificate.clone().zip(config.tls.private_key.clone());
    configured
        .unwrap_or_else(|| (config.data_dir.join("self-signed.crt"), config.data_dir.join("self-signed.key")))
}

/// The certificate in its files.
pub async fn certificate(config: &Config, now: Timestamp) -> TlsFacts {
    let is_self_signed = config.tls.certificate.is_none();
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
    TlsFacts { file: name, is_self_signed, certificate: certificate.await }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timed_writes_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (p50, p99) = time_writes(dir.path()).unwrap();
        assert!(p50 <= p99);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(time_writes(&dir.path().join("absent")).is_err());
    }

    #[test]
    fn the_nearest_directory_that_exists_has_the_space() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(existing(&dir.path().join("a/b")), dir.path());
        assert!(space_of(dir.path()).unwrap().1 > 0);
    }
}
