//! `pillarbox backup restore`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};

use super::super::output::{confirm, counted, print, printable_lines};
use super::super::serve::runtime;
use super::{ServerDirectory, master_key_of, minute};
use crate::archive::{self, Manifest, RestoreOptions, RestoreReport};
use crate::config::Config;
use crate::mail::Timestamp;
use crate::model::QueueFilter;
use crate::store::{self, Access, Erasures, Queue, ReleaseMode, Store, StoreOptions};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// A directory or a tar file
    backup: PathBuf,
    #[command(flatten)]
    server: ServerDirectory,
    /// Takes the place of the present data directory, which stays under another name
    #[arg(long)]
    replace: bool,
    /// The file with the master key [default: that of the server, if it can be read]
    #[arg(long, value_name = "FILE")]
    master_key: Option<PathBuf>,
    /// Erasures of recipients to apply again, from `pillarbox recipient erasures --export`
    #[arg(long, value_name = "FILE")]
    erasures: Option<PathBuf>,
    /// What happens to open deliveries
    #[arg(long, value_enum, default_value_t = Open::Paused)]
    open: Open,
    /// Does not ask
    #[arg(long)]
    yes: bool,
}

/// What happens to the open deliveries of a restored backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Open {
    /// They wait until `pillarbox queue resume --restored`
    Paused,
    /// They are delivered, perhaps a second time
    Send,
    /// They end as expired
    Expire,
}

impl Open {
    fn release_mode(self) -> Option<ReleaseMode> {
        match self {
            Self::Paused => None,
            Self::Send => Some(ReleaseMode::Send),
            Self::Expire => Some(ReleaseMode::Expire),
        }
    }
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let config = arguments.server.config(
        "restore the backup into another directory with --data-dir, and copy that with: pillarbox store copy",
    )?;
    let manifest = archive::read_manifest(&arguments.backup)?;
    let master_key = arguments.master_key.clone().or_else(|| master_key_of(&config, &config.data_dir));
    if arguments.open != Open::Paused && master_key.is_none() {
        bail!("--open send and --open expire need the master key; name its file with --master-key");
    }
    if !arguments.yes {
        eprint!("{}", printable_lines(&warning(&manifest)));
        let data_dir = config.data_dir.display();
        confirm(&format!("restore the backup of {} into {data_dir}", minute(manifest.taken_at)))?;
    }
    let options = RestoreOptions {
        backup: arguments.backup.clone(),
        data_dir: config.data_dir.clone(),
        replaces: arguments.replace,
        master_key: master_key.clone(),
        erasures: arguments.erasures.clone(),
    };
    let report = archive::restore(&options, Timestamp::now())?;
    print(&printable_lines(&text(&report, &config)))?;
    if let Some(mode) = arguments.open.release_mode() {
        let released = release(Config { master_key_file: master_key, ..config }, mode)?;
        let what = if mode == ReleaseMode::Send { "due" } else { "expired" };
        print(&format!(
            "{}\n",
            counted(released, &format!("delivery is {what}"), &format!("deliveries are {what}"))
        ))?;
    } else if report.paused > 0 {
        print("start the server, then release them: pillarbox queue resume --restored\n")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What people must know before.
fn warning(manifest: &Manifest) -> String {
    format!(
        "Mail that was accepted after {} is not in the backup. What was open then ({}) waits afterwards, because it may have \
         been sent since. Keys, suspensions, suppressions and limits that were changed since are as they were.\n",
        minute(manifest.taken_at),
        counted(manifest.open_deliveries, "delivery", "deliveries"),
    )
}

fn text(report: &RestoreReport, config: &Config) -> String {
    let manifest = &report.manifest;
    let messages = manifest.rows.get("message").copied().unwrap_or_default();
    let mut text = format!(
        "restored the backup of {} into {}: {}\n",
        minute(manifest.taken_at),
        config.data_dir.display(),
        counted(messages, "message", "messages"),
    );
    if let Some(old) = &report.moved_to {
        text += &format!("the replaced directory is {}\n", old.display());
    }
    for id in &manifest.missing_bodies {
        text += &format!("its body is missing: {id}\n");
    }
    text += &counted(report.paused, "delivery waits\n", "deliveries wait\n");
    for key in &report.revoked_keys {
        text += &format!("revoked again: {key}\n");
    }
    if report.erasures > 0 {
        text += &counted(
            report.erasures,
            "erasure of a recipient is applied again when the server starts\n",
            "erasures of recipients are applied again when the server starts\n",
        );
    }
    for undone in &report.undone {
        text += &format!("undone: {undone}\n");
    }
    for skipped in &report.skipped {
        text += &format!("not looked at: {skipped}\n");
    }
    text += "webhooks may tell events a second time, with the same webhook-id\n";
    text += "DKIM keys that were made since are missing: run pillarbox doctor\n";
    if let Some(key) = &manifest.master_key {
        text += &format!("the server needs the master key with the fingerprint {key}\n");
    }
    text
}

/// Releases the deliveries, as the server would.
fn release(config: Config, mode: ReleaseMode) -> anyhow::Result<u64> {
    runtime()?.block_on(async {
        let store = Store::open(StoreOptions::new(&config, Access::Serve)?)
            .await
            .context("the backup is restored, but its deliveries wait")?;
        let released = erase_and_release(&store, mode, Timestamp::now()).await;
        store.close().await;
        Ok(released?)
    })
}

/// No server runs, so nobody has claimed what waits for erased recipients.
async fn erase_and_release(store: &Store, mode: ReleaseMode, now: Timestamp) -> store::Result<u64> {
    for (message, ids) in store.deliveries_to_cancel().await? {
        store.cancel(message, ids, now).await?;
    }
    store.apply_erasures(now).await?;
    store.release_restored(QueueFilter::default(), mode, now).await
}
