//! `pillarbox backup verify`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};

use super::super::output::{counted, print, printable_lines};
use super::super::serve::runtime;
use super::{DAMAGED, minute};
use crate::archive::{self, Fault, RestoreOptions, VerifyReport, WorkDirectory};
use crate::config::Config;
use crate::mail::Timestamp;
use crate::store::{Access, Journal, Spool, Store, StoreOptions};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// A directory or a tar file
    backup: PathBuf,
    /// The file with the master key
    #[arg(long, value_name = "FILE")]
    master_key: Option<PathBuf>,
    /// Restores it in a directory beside it, opens that as a server does, and removes it
    #[arg(long, requires = "master_key")]
    restore_drill: bool,
    /// Prints the result as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { backup, master_key, restore_drill, json } = arguments;
    let name = backup.display();
    let mut report = archive::verify(backup, master_key.as_deref()).with_context(|| format!("{name}"))?;
    if let (true, true, Some(key)) = (*restore_drill, report.faults.is_empty(), master_key)
        && let Err(error) = drill(backup, key)
    {
        report.faults.push(Fault { place: "restore drill".into(), text: format!("{error:#}") });
    }
    match json {
        true => print(&format!("{}\n", serde_json::to_string_pretty(&report)?))?,
        false => print(&printable_lines(&text(backup, &report)))?,
    }
    Ok(if report.faults.is_empty() { ExitCode::SUCCESS } else { DAMAGED.into() })
}

fn text(backup: &Path, report: &VerifyReport) -> String {
    let mut text = String::new();
    for Fault { place, text: fault } in &report.faults {
        text += &format!("damaged: {place}: {fault}\n");
    }
    if let (Some(manifest), true) = (&report.manifest, report.faults.is_empty()) {
        let messages = manifest.rows.get("message").copied().unwrap_or_default();
        text += &format!(
            "{} is whole: {}, {}, {}\n",
            backup.display(),
            minute(manifest.taken_at),
            counted(messages, "message", "messages"),
            counted(manifest.open_deliveries, "open delivery", "open deliveries"),
        );
    }
    if let Some(opened) = report.secrets_opened {
        text += &format!("the master key opens {}\n", counted(opened, "secret", "secrets"));
    }
    for skipped in &report.skipped {
        text += &format!("not looked at: {skipped}\n");
    }
    text
}

/// Restores the backup beside itself, and opens it as a server does.
fn drill(backup: &Path, master_key: &Path) -> anyhow::Result<()> {
    let work = WorkDirectory::beside(backup)?;
    let data_dir = work.path().join("data");
    let options = RestoreOptions {
        backup: backup.to_owned(),
        data_dir: data_dir.clone(),
        replaces: false,
        master_key: Some(master_key.to_owned()),
        erasures: None,
    };
    let restored = archive::restore(&options, Timestamp::now())?;
    let config = Config { data_dir, master_key_file: Some(master_key.to_owned()), ..Config::default() };
    runtime()?.block_on(async {
        let store = Store::open(StoreOptions::new(&config, Access::Serve)?).await?;
        let open = store.count_open().await;
        let probed = store.probe().await;
        store.close().await;
        let open = open?;
        ensure!(open == restored.paused, "{open} deliveries are open instead of {}", restored.paused);
        Ok(probed?)
    })
}
