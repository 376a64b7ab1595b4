//! `pillarbox store`: the whole store of a server. Works without a server and without a key.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Subcommand;

use super::output::{counted, print, printable_lines};
use crate::config::{self, Config};
use crate::store::{Access, CopiedStore, CopyOptions, CopyStep, StoreCopyProgress, StoreOptions, copy_store};

/// Time between two lines about the progress.
const REPORT_INTERVAL: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Copies the store between a data directory and PostgreSQL, in both directions, while no server uses it
    ///
    /// Both are read whole and compared in the end. An interrupted copy goes on with the same command. Afterwards the source
    /// cannot be opened any more, unless --keep-source is given.
    Copy(CopyArguments),
}

#[derive(Debug, clap::Args)]
struct CopyArguments {
    /// The store to read: a data directory, or a URL like postgres://user@host/database
    #[arg(long, value_name = "DIR|URL")]
    from: String,
    /// An empty place for the copy: a data directory, or a URL
    #[arg(long, value_name = "DIR|URL")]
    to: String,
    /// The file with the password for PostgreSQL
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// The certificate authorities for PostgreSQL, in place of the system's (PEM)
    #[arg(long, value_name = "FILE")]
    tls_ca_file: Option<PathBuf>,
    /// The file with the master key, to compare it with that of the store; those in the data directories are compared anyway
    #[arg(long, value_name = "FILE")]
    master_key: Option<PathBuf>,
    /// Accepts a server of PostgreSQL that may damage data when its machine crashes, for tests
    #[arg(long)]
    unsafe_database: bool,
    /// Leaves the source as it is; never let servers use both
    #[arg(long)]
    keep_source: bool,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    match &arguments.command {
        Command::Copy(arguments) => copy(arguments),
    }
}

fn copy(arguments: &CopyArguments) -> anyhow::Result<()> {
    let (from, to) = (arguments.options(&arguments.from)?, arguments.options(&arguments.to)?);
    let places = [&from, &to].into_iter();
    let in_directories = places.filter_map(|options| match options {
        StoreOptions::Sqlite(options) => Some(options.data_dir.join("master.key")),
        StoreOptions::Postgres(_) => None,
    });
    let found = in_directories.filter(|file| file.is_file());
    let options = CopyOptions {
        master_keys: arguments.master_key.iter().cloned().chain(found).collect(),
        keeps_source: arguments.keep_source,
        from,
        to,
    };
    let mut lines = ProgressLines::begin();
    let copied = copy_store(&options, &mut |progress| {
        lines.note(progress);
        ControlFlow::Continue(())
    })?;
    for id in &copied.missing_bodies {
        eprintln!("warning: the body of {id} has no file, so it is damaged in the copy, too");
    }
    print(&printable_lines(&describe(&copied, arguments)))
}

impl CopyArguments {
    /// A place: a URL, or a directory.
    fn options(&self, place: &str) -> anyhow::Result<StoreOptions> {
        if place.is_empty() {
            bail!("name a data directory or the URL of a database");
        }
        let is_url = place.contains("://");
        let store = config::Store {
            url: is_url.then(|| place.to_owned().into()),
            password_file: self.password_file.clone(),
            tls_ca_file: self.tls_ca_file.clone(),
            unsafe_database: self.unsafe_database,
            ..config::Store::default()
        };
        let data_dir = if is_url { PathBuf::new() } else { PathBuf::from(place) };
        let config = Config { data_dir, store, ..Config::default() };
        Ok(StoreOptions::new(&config, Access::Serve)?)
    }
}

/// What is printed while a copy runs.
struct ProgressLines {
    last: Instant,
    octets: u64,
}

impl ProgressLines {
    fn begin() -> Self {
        Self { last: Instant::now(), octets: 0 }
    }

    fn note(&mut self, progress: &StoreCopyProgress) {
        let passed = self.last.elapsed();
        if passed < REPORT_INTERVAL {
            return;
        }
        let StoreCopyProgress { step, table, rows, rows_total, octets } = progress;
        let done = match step {
            CopyStep::Copy => "copied",
            CopyStep::Compare => "compared",
        };
        let megabytes = octets.saturating_sub(self.octets) as f64 / 1e6 / passed.as_secs_f64();
        let left = rows_total.saturating_sub(*rows);
        eprintln!("{table}: {rows} of {rows_total} rows {done}, {left} left, {megabytes:.1} MB/s");
        (self.last, self.octets) = (Instant::now(), *octets);
    }
}

fn describe(copied: &CopiedStore, arguments: &CopyArguments) -> String {
    let rows = copied.tables.iter().map(|(_, rows)| rows).sum();
    let (from, to) = (&arguments.from, &arguments.to);
    let mut text =
        format!("copied {} from {from} to {to}; both are the same\n", counted(rows, "row", "rows"));
    if let Some(key) = &copied.master_key {
        text += &format!(
            "the server needs the master key with the fingerprint {key}: set master_key_file, or put it into data_dir\n"
        );
    }
    if !arguments.keep_source {
        text += &format!("{from} cannot be opened any more\n");
    }
    text
}
