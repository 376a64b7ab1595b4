//! `pillarbox doctor`: what is wrong with the server, and what to do.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};

use super::CONFIG_FILE_DEFAULT;
use super::api_client::{ApiClient, Query, ServerArguments};
use super::output::{OutputFormat, print, printable_lines};
use super::serve::runtime;
use crate::config::Config;
use crate::doctor::{self, CHECKS, Destination, Diagnosis, Extra};
use crate::mail::{DomainName, Timestamp};
use crate::model::FindingStatus;

/// The exit status of a doctor that could not look, as plugins of Nagios have it.
const UNKNOWN: u8 = 3;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status, as plugins of Nagios have it: 0 if all is well, 1 for warnings, 2 for errors, 3 if \
    nothing could be looked at."
)]
pub(super) struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    /// Looks from here instead of asking the running server; works before the first start
    #[arg(long)]
    local: bool,
    /// The configuration file for --local [default: /etc/pillarbox/pillarbox.toml]
    #[arg(long, short, value_name = "FILE", requires = "local")]
    config: Option<PathBuf>,
    /// Connects to port 25 of a mail host of this domain, with --local
    #[arg(long, value_name = "DOMAIN", requires = "local")]
    egress_domain: Option<DomainName>,
    /// Looks again now instead of showing what was seen within the last hour
    #[arg(long, conflicts_with = "local")]
    refresh: bool,
    /// Looks at the records of this sending domain (its id or name) instead of the server
    #[arg(long, value_name = "DOMAIN", conflicts_with_all = ["local", "refresh"])]
    domain: Option<String>,
    /// Shows how mail to this domain would be sent, instead of the checks
    #[arg(long, value_name = "DOMAIN", conflicts_with_all = ["local", "refresh", "domain", "only", "all"])]
    to: Option<DomainName>,
    /// The tenant that sends (its id or slug), with --to [default: one without settings of its own]
    #[arg(long, value_name = "TENANT", requires = "to")]
    tenant: Option<String>,
    /// Connects to each host, up to where a message would begin, with --to
    #[arg(long, requires = "to")]
    probe: bool,
    /// Asks 2 public block lists on the Internet about the addresses of the server, or those of doctor.dnsbls
    #[arg(long, conflicts_with_all = ["domain", "to"])]
    dnsbl: bool,
    /// Reads the whole database to find damage
    #[arg(long, conflicts_with_all = ["domain", "to"])]
    deep: bool,
    /// Submits a message to the sandbox of the running server, with a test key for a minute
    #[arg(long, conflicts_with_all = ["local", "domain", "to"])]
    send: bool,
    /// Shows these checks only
    #[arg(long, value_name = "ID,…", value_delimiter = ',')]
    only: Vec<String>,
    /// Shows what is right, too
    #[arg(long)]
    all: bool,
    /// Prints one line, for monitoring
    #[arg(long)]
    quiet: bool,
    /// Says what a check looks at and what happens if it is wrong
    #[arg(long, value_name = "ID", exclusive = true)]
    explain: Option<String>,
}

/// The doctor could not look.
#[derive(Debug, thiserror::Error)]
#[error("the doctor could not look")]
pub(super) struct NotRun;

impl NotRun {
    pub(super) const STATUS: u8 = UNKNOWN;
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let done = examine(arguments);
    match done {
        Err(error) if arguments.quiet => {
            print(&printable_lines(&format!("PILLARBOX UNKNOWN - {error:#}\n")))?;
            Ok(UNKNOWN.into())
        }
        done => done.context(NotRun),
    }
}

fn examine(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if let Some(id) = &arguments.explain {
        let text = doctor::explain(id).with_context(|| unknown_check(id))?;
        print(&text)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(id) = arguments.only.iter().find(|id| doctor::find_check(id).is_none()) {
        bail!(unknown_check(id));
    }
    if let Some(domain) = &arguments.to {
        return examine_destination(arguments, domain);
    }
    let mut diagnosis = if arguments.local { look_here(arguments)? } else { ask_server(arguments)? };
    if !arguments.only.is_empty() {
        diagnosis = diagnosis.only(&arguments.only);
    }
    show(arguments, &diagnosis)?;
    Ok(exit_code(diagnosis.status))
}

fn unknown_check(id: &str) -> String {
    let ids: Vec<&str> = CHECKS.iter().map(|check| check.id).collect();
    format!("{id} is not a check; the checks are {}", ids.join(", "))
}

fn look_here(arguments: &Arguments) -> anyhow::Result<Diagnosis> {
    let path = arguments.config.clone().unwrap_or_else(|| CONFIG_FILE_DEFAULT.into());
    let (file, now) = (path.display().to_string(), Timestamp::now());
    match Config::load(&path) {
        Ok(config) => Ok(runtime()?.block_on(doctor::diagnose_locally(
            &config,
            file,
            arguments.egress_domain.clone(),
            Extra { blocklists: arguments.dnsbl, deep: arguments.deep, send: false },
            now,
        ))?),
        Err(error) => Ok(doctor::diagnose_invalid_config(&file, &error.to_string(), now)),
    }
}

fn ask_server(arguments: &Arguments) -> anyhow::Result<Diagnosis> {
    let mut found = None;
    arguments.server.run(async |client: ApiClient| {
        found = Some(ask(arguments, &client).await?);
        Ok(())
    })?;
    found.context("the server gave no diagnosis")
}

async fn ask(arguments: &Arguments, client: &ApiClient) -> anyhow::Result<Diagnosis> {
    let response = match &arguments.domain {
        Some(domain) => {
            let id = client.domain_id(domain).await?;
            client.get(&format!("/v1/domains/{id}/doctor"), &Query::new()).await?
        }
        None => {
            let Arguments { refresh, dnsbl, deep, send, .. } = arguments;
            let asked = [("refresh", refresh), ("dnsbl", dnsbl), ("deep", deep), ("send", send)];
            client.get("/v1/doctor", &asked.map(|(name, asked)| (name, asked.to_string())).to_vec()).await?
        }
    };
    serde_json::from_value(response).context("the server gave no diagnosis")
}

/// Shows how mail to a domain would be sent.
fn examine_destination(arguments: &Arguments, domain: &DomainName) -> anyhow::Result<ExitCode> {
    let mut found = None;
    arguments.server.run(async |client: ApiClient| {
        let mut query = vec![("probe", arguments.probe.to_string())];
        if let Some(tenant) = &arguments.tenant {
            query.push(("tenant_id", client.tenant_id(tenant).await?));
        }
        found = Some(client.get(&format!("/v1/destinations/{domain}"), &query).await?);
        Ok(())
    })?;
    let found = found.context("the server explained nothing")?;
    let destination: Destination =
        serde_json::from_value(found).context("the answer of the server cannot be read")?;
    let status = doctor::destination_status(&destination);
    match arguments.server.output() {
        _ if arguments.quiet => {
            print(&format!("PILLARBOX {} - mail to {domain}\n", doctor::state_word(status)))?
        }
        OutputFormat::Json => print(&format!("{}\n", serde_json::to_string_pretty(&destination)?))?,
        OutputFormat::Text => print(&printable_lines(&doctor::render_destination(&destination)))?,
    }
    Ok(exit_code(status))
}

fn show(arguments: &Arguments, diagnosis: &Diagnosis) -> anyhow::Result<()> {
    match arguments.server.output() {
        _ if arguments.quiet => print(&doctor::summarize(diagnosis)),
        OutputFormat::Json => print(&format!("{}\n", serde_json::to_string_pretty(diagnosis)?)),
        OutputFormat::Text => print(&printable_lines(&doctor::render(diagnosis, arguments.all))),
    }
}

fn exit_code(status: FindingStatus) -> ExitCode {
    match status {
        FindingStatus::Error => 2.into(),
        FindingStatus::Warning => 1.into(),
        FindingStatus::Info | FindingStatus::Ok => ExitCode::SUCCESS,
        FindingStatus::Skipped => UNKNOWN.into(),
    }
}
