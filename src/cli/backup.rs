//! `pillarbox backup`: copies of the data directory. Works on the machine of the server, without a key.

mod restore;
mod verify;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use bytesize::ByteSize;
use clap::Subcommand;

use super::CONFIG_FILE_DEFAULT;
use super::output::{counted, print, printable_lines};
use crate::archive::{self, BackupPath, CreateOptions, Created, Pace};
use crate::config::Config;
use crate::mail::Timestamp;

/// Priority of a backup (`nice` of POSIX: 19 is the lowest), so that the server beside it keeps its processor time.
const BACKUP_NICE: i32 = 19;
/// A backup that is started with this or a lower priority keeps it. The systemd unit sets one itself, and its filter can kill a
/// process that asks for another.
const KEPT_NICE: i32 = 10;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes a backup beside a running server; the master key is not in it
    ///
    /// Exit status: 0 if all is in it, 2 if bodies of messages are missing; then no other backup is deleted, and the server does
    /// not count this one.
    Create(CreateArguments),
    /// Checks a backup: digests, database, bodies, and with the master key every secret
    ///
    /// Exit status: 0 if all is well, 2 if something is wrong.
    Verify(verify::Arguments),
    /// Restores a backup while no server runs; what was open waits until it is released
    Restore(restore::Arguments),
}

#[derive(Debug, clap::Args)]
struct CreateArguments {
    /// A new directory, a new file that ends in .tar, or - for the standard output as tar
    target: PathBuf,
    #[command(flatten)]
    server: ServerDirectory,
    /// Links the body files that this earlier backup on the same file system has too
    #[arg(long, value_name = "DIR")]
    since: Option<PathBuf>,
    /// Reads at most so much in a second, for example 20MiB; 0 for as fast as possible. Without it, the backup rests up to twice
    /// as long as it works
    #[arg(long, value_name = "SIZE")]
    rate: Option<ByteSize>,
    /// Makes the backup in a new directory below the target, named by its time; keeps the newest so many that were made so for
    /// this host name, which share body files
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..))]
    keep: Option<u16>,
}

/// The data directory of a server.
#[derive(Debug, clap::Args)]
struct ServerDirectory {
    /// The configuration file, which names the data directory
    #[arg(long, short, value_name = "FILE", default_value = CONFIG_FILE_DEFAULT)]
    config: PathBuf,
    /// The data directory; then no configuration file is read
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    data_dir: Option<PathBuf>,
}

impl ServerDirectory {
    /// Refuses a server whose data is in PostgreSQL: `tool` says what to use there.
    fn config(&self, tool: &str) -> anyhow::Result<Config> {
        let config = match &self.data_dir {
            Some(data_dir) => Config { data_dir: data_dir.clone(), ..Config::default() },
            None => Config::load(&self.config).context(
                "name the configuration file with --config, or the data directory with --data-dir",
            )?,
        };
        if config.store.url.is_some() {
            bail!(
                "the data of this server is in PostgreSQL (store.url), and `pillarbox backup` copies data directories; {tool}"
            );
        }
        Ok(config)
    }
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    match &arguments.command {
        Command::Create(arguments) => create(arguments),
        Command::Verify(arguments) => verify::run(arguments),
        Command::Restore(arguments) => restore::run(arguments),
    }
}

fn create(arguments: &CreateArguments) -> anyhow::Result<ExitCode> {
    let CreateArguments { target: named, server, since, rate, keep } = arguments;
    let config = server.config("use pg_basebackup, or pg_dump, and keep a copy of the master key")?;
    let mut since = since.clone();
    let mut target = BackupPath::of(named);
    if keep.is_some() {
        if !matches!(target, BackupPath::Directory(_)) {
            bail!("--keep needs a directory");
        }
        target = BackupPath::Directory(archive::kept_path(named, Timestamp::now()));
        since = since.or_else(|| archive::newest_in(named, &config.hostname.to_string()));
    }
    if since.is_some() && !matches!(target, BackupPath::Directory(_)) {
        bail!("--since needs a directory as the target");
    }
    let options = CreateOptions {
        data_dir: config.data_dir,
        target,
        since,
        pace: Pace::of_rate(rate.map(|rate| rate.as_u64())),
        free_octets_min: config.store.free_disk_min.as_u64(),
        hostname: config.hostname.to_string(),
    };
    lower_priority();
    let created = archive::create(&options, Timestamp::now)?;
    let is_whole = created.manifest.missing_bodies.is_empty();
    warn(&created);
    let text = describe(&created, &options.target);
    match options.target {
        BackupPath::Stdout => eprint!("{text}"),
        _ => print(&text)?,
    }
    if let (Some(keep), BackupPath::Directory(made), true) = (keep, &options.target, is_whole) {
        archive::keep_newest(made, usize::from(*keep), &options.hostname)?;
    }
    Ok(if is_whole { ExitCode::SUCCESS } else { DAMAGED.into() })
}

fn lower_priority() {
    if rustix::process::getpriority_process(None).is_ok_and(|nice| nice < KEPT_NICE) {
        // If that is forbidden, the backup only competes with the server.
        let _ = rustix::process::setpriority_process(None, BACKUP_NICE);
    }
}

fn warn(created: &Created) {
    for id in &created.manifest.missing_bodies {
        eprintln!("warning: the body of {id} has no file, so it is not in the backup");
    }
    if !created.manifest.missing_bodies.is_empty() {
        eprintln!("warning: the backup is not whole: no other is deleted, and the server counts it as none");
    }
    if let Some(error) = &created.not_noted {
        eprintln!("warning: the server does not learn of the backup: {error}");
    }
}

/// Like `backup of 2026-11-29 08:00 UTC in /srv/backup: 3 messages, …`.
fn describe(created: &Created, target: &BackupPath) -> String {
    let manifest = &created.manifest;
    let messages = manifest.rows.get("message").copied().unwrap_or_default();
    let mut text = format!(
        "backup of {} in {target}: {}, {}, {}",
        minute(manifest.taken_at),
        counted(messages, "message", "messages"),
        counted(manifest.open_deliveries, "open delivery", "open deliveries"),
        octets(created.octets()),
    );
    if created.linked > 0 {
        text += &format!(", {}", counted(created.linked, "body file linked", "body files linked"));
    }
    let key = manifest.master_key.as_ref().map(|key| format!(" (fingerprint {key})")).unwrap_or_default();
    text += &format!("; the master key{key} is not in it\n");
    if created.log_octets > LOG_OCTETS_TOLD {
        let log = octets(created.log_octets);
        text += &format!("the write-ahead log grew to {log}; the server empties it within a minute\n");
    }
    printable_lines(&text)
}

/// The exit status if a backup is not whole.
const DAMAGED: u8 = 2;

/// A shorter write-ahead log is as on other days.
const LOG_OCTETS_TOLD: u64 = 64 * 1024 * 1024;

fn octets(octets: u64) -> String {
    ByteSize(octets).display().iec().to_string()
}

fn minute(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M UTC").to_string()
}

/// The file with the master key of a server: the one of the configuration, or that in the data directory, if it is there.
fn master_key_of(config: &Config, data_dir: &Path) -> Option<PathBuf> {
    let file = config.master_key_file.clone().unwrap_or_else(|| data_dir.join("master.key"));
    file.is_file().then_some(file)
}
