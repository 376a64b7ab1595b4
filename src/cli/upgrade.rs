//! `pillarbox upgrade`: the running server hands over to the program on disk.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::ConfigFile;
use super::serve::runtime;
use super::table::printable;
use crate::app;
use crate::app::handover::{
    self, HandoverError, SUDDEN_PAUSE_SECONDS_MAX, Version, ask_for_upgrade, ask_for_version,
};
use crate::config::Config;
use crate::store::{Access, StoreOptions, pending_migrations};

/// Longer than the old process waits for the new one to be prepared.
const PREPARATION_MAX: Duration = Duration::from_secs(150);
/// Longer than the new process takes to open the store, without a migration.
const START_MAX: Duration = Duration::from_secs(30);
/// A migration may take that much longer than estimated, but not longer than a day.
const MIGRATION_FACTOR: u32 = 20;
const MIGRATION_MAX: Duration = Duration::from_secs(24 * 60 * 60);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Only says what would happen: both versions, and how long the migration of the database takes
    #[arg(long)]
    dry_run: bool,
    /// Agrees to a migration of the database that takes longer than a few seconds, in which no mail is accepted
    #[arg(long, conflicts_with = "dry_run")]
    accept_pause: bool,
}

/// No server could be asked.
#[derive(Debug, thiserror::Error)]
#[error("{data_dir}: {error}")]
pub(super) struct NotAsked {
    data_dir: String,
    error: HandoverError,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let path = &arguments.file.config;
    let config = Config::load(path)?;
    let data_dir = &config.data_dir;
    let old = ask_for_version(data_dir)
        .map_err(|error| NotAsked { data_dir: data_dir.display().to_string(), error })?;
    if arguments.dry_run {
        return describe_upgrade(&config, &old).with_context(|| path.display().to_string());
    }
    let begun = Instant::now();
    let upgrade = ask_for_upgrade(data_dir, arguments.accept_pause, PREPARATION_MAX).context("no upgrade")?;
    let migration = Duration::from_secs(upgrade.migration_seconds);
    if !migration.is_zero() {
        println!(
            "migrating the database takes about {} s; no mail is accepted meanwhile",
            migration.as_secs()
        );
    }
    upgrade
        .wait_for_end(config.handover_deadline.max(config.shutdown_deadline) + START_MAX)
        .context("the new process does not take over; see the log")?;
    let patience = START_MAX + migration.saturating_mul(MIGRATION_FACTOR).min(MIGRATION_MAX);
    let new = wait_for_version(data_dir, patience)?;
    println!(
        "handed over to {} (process {}), was {} (process {}), in {:.1} s",
        printable(&new.version),
        new.process,
        printable(&old.version),
        old.process,
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Waits until the new process answers.
fn wait_for_version(data_dir: &Path, patience: Duration) -> anyhow::Result<Version> {
    let end = Instant::now() + patience;
    loop {
        match ask_for_version(data_dir) {
            Ok(version) => return Ok(version),
            Err(_) if Instant::now() < end => std::thread::sleep(POLL_INTERVAL),
            Err(error) => {
                bail!("the old process has ended, and the new one does not answer: {error}; see the log")
            }
        }
    }
}

fn describe_upgrade(config: &Config, old: &Version) -> anyhow::Result<()> {
    let pending = runtime()?.block_on(async {
        app::check(config)?;
        anyhow::Ok(pending_migrations(StoreOptions::new(config, Access::Manage)?).await?)
    })?;
    println!(
        "the server runs {} (process {}); this program is {}",
        printable(&old.version),
        old.process,
        handover::VERSION
    );
    match pending {
        None => println!("the database needs no migration"),
        Some(pending) => {
            let agree = if pending.seconds > SUDDEN_PAUSE_SECONDS_MAX {
                "; --accept-pause agrees to that"
            } else {
                ""
            };
            println!(
                "the migration of the database from schema {} to {} takes about {} s, in which no mail is accepted{agree}",
                pending.from, pending.to, pending.seconds
            );
        }
    }
    Ok(())
}
