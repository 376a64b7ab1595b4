//! `pillarbox check-config`.

use std::path::PathBuf;

use anyhow::{Context, bail};

use super::ConfigFile;
use super::output::utc;
use super::serve::runtime;
use crate::app::{self, open_files};
use crate::config::{Config, comes_with_the_service};
use crate::mail::Timestamp;
use crate::store::{Access, DatabaseStatus, StoreOptions, database_status};
use crate::{acme, tls};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let path = &arguments.file.config;
    let config = Config::load(path)?;
    let name = path.display();
    runtime()?.block_on(async { app::check(&config) }).with_context(|| name.to_string())?;
    // A server with one of these faults starts, too.
    let certificate = check_certificate(&config).with_context(|| format!("{name}: tls"))?;
    acme::check(&config.acme).with_context(|| name.to_string())?;
    let database = runtime()?.block_on(look_at_database(&config)).with_context(|| name.to_string())?;
    println!("{name} is valid: hostname {}, data in {}", config.hostname, place(&config, database.as_ref()));
    if !config.hostname.is_fully_qualified() {
        println!(
            "note: the hostname {} is not fully qualified, and receivers distrust such a name; set hostname",
            config.hostname
        );
    }
    for file in credentials(&config) {
        if comes_with_the_service(file) {
            println!("note: {} is there only while the service runs, so it was not checked", file.display());
        }
    }
    let (_, lowered) = open_files::fit(&config, open_files::raise()).with_context(|| format!("{name}"))?;
    if let Some(lowered) = lowered {
        println!("warning: in this shell, {lowered}");
    }
    if let Some(ending) = certificate {
        println!("warning: tls.certificate: {ending}");
    }
    if config.tls.certificate.is_none() && !config.acme.enabled {
        println!(
            "note: tls.certificate is not set, so the server uses a self-signed certificate, which mail clients refuse"
        );
    }
    Ok(())
}

/// The files that may come with the service.
fn credentials(config: &Config) -> impl Iterator<Item = &PathBuf> {
    [&config.master_key_file, &config.tls.certificate, &config.store.password_file].into_iter().flatten()
}

/// The database in PostgreSQL; `None` with SQLite, and if the password is there only while the service runs.
async fn look_at_database(config: &Config) -> anyhow::Result<Option<DatabaseStatus>> {
    if config.store.password_file.as_deref().is_some_and(comes_with_the_service) {
        return Ok(None);
    }
    match StoreOptions::new(config, Access::Manage)? {
        StoreOptions::Sqlite(_) => Ok(None),
        StoreOptions::Postgres(options) => Ok(Some(database_status(*options).await?)),
    }
}

/// Where the data is: a directory, or like `postgres://pillarbox@db:5432/pillarbox (PostgreSQL 15.18, answers within 0.4 ms)`.
fn place(config: &Config, database: Option<&DatabaseStatus>) -> String {
    match (database, &config.store.url) {
        (None, None) => config.data_dir.display().to_string(),
        (None, Some(_)) => "PostgreSQL".to_owned(),
        (Some(DatabaseStatus { name, version, round_trip, has_tables, .. }), _) => {
            let new = if *has_tables { "" } else { ", without tables yet" };
            let time = round_trip.as_secs_f64() * 1000.0;
            format!("{name} (PostgreSQL {version}, answers within {time:.1} ms{new})")
        }
    }
}

/// That clients accept the certificate that the configuration names. Returns what will end that soon.
fn check_certificate(config: &Config) -> anyhow::Result<Option<String>> {
    let (Some(certificate), Some(private_key)) = (&config.tls.certificate, &config.tls.private_key) else {
        return Ok(None);
    };
    if comes_with_the_service(certificate) {
        return Ok(None);
    }
    let now = Timestamp::now();
    let found = tls::inspect(certificate, private_key, &config.hostname, now)?;
    let file = certificate.display();
    if let Some(fault) = found.find_faults(&config.hostname, now).first() {
        bail!("{file} {fault}, so mail clients refuse it");
    }
    Ok(found.ends_soon(now).then(|| format!("{file} ends at {}; renew it", utc(found.not_after))))
}
