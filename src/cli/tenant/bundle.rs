//! `pillarbox tenant export`: a tenant as a bundle.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Write, stdout};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;

use crate::archive::read_bundle;
use crate::cli::api_client::{ApiClient, Query};
use crate::http_client::ResponseStream;

/// What is exported.
#[derive(Debug, clap::Args)]
pub(super) struct ExportArguments {
    /// Its slug or id
    pub(super) tenant: String,
    /// Also messages with their deliveries, attempts, events and content
    #[arg(long)]
    messages: bool,
    /// Also secrets, encrypted to this public key of age (age1…); can be repeated
    ///
    /// The secrets are DKIM private keys, webhook secrets and the password of the smart host. age-keygen makes a key pair.
    #[arg(long, value_name = "RECIPIENT")]
    to: Vec<String>,
}

/// Prints the bundle of a tenant as it arrives.
pub(super) async fn export(
    client: &ApiClient,
    path: &str,
    arguments: &ExportArguments,
) -> anyhow::Result<()> {
    let mut stream = open(client, path, arguments.messages, &arguments.to).await?;
    let mut out = stdout().lock();
    while let Some(piece) = stream.next().await? {
        out.write_all(&piece)?;
    }
    Ok(out.flush()?)
}

async fn open(
    client: &ApiClient,
    path: &str,
    messages: bool,
    to: &[String],
) -> anyhow::Result<ResponseStream> {
    let mut query: Query = vec![("messages", messages.to_string())];
    if !to.is_empty() {
        query.push(("to", to.join(",")));
    }
    client.stream(&format!("{path}/export"), &query).await
}

/// Writes the bundle of a tenant with its messages to a new file, and checks that it is whole.
pub(super) async fn save(client: &ApiClient, path: &str, file: &Path) -> anyhow::Result<()> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    let mut written = made.with_context(|| file.display().to_string())?;
    let mut stream = open(client, path, true, &[]).await?;
    while let Some(piece) = stream.next().await? {
        written.write_all(&piece)?;
    }
    written.sync_all()?;
    let saved = File::open(file).with_context(|| file.display().to_string())?;
    read_bundle(BufReader::new(saved), |_| false).with_context(|| file.display().to_string())?;
    Ok(())
}
