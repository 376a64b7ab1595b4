//! `pillarbox key`: credentials, through a running server or (`local`) directly in the data directory.

mod local;
mod snippet;

use anyhow::bail;
use clap::Subcommand;
use ipnet::IpNet;
use serde_json::{Value, json};

use super::api_client::{ApiClient, Query, ServerArguments};
use super::expiry;
use super::name_lookup::{object_path, tenant_of};
use super::output::{OutputFormat, object_text, text, when};
use super::pagination::PageArguments;
use super::serve::runtime;
use super::table::Table;
use crate::mail::SignedDuration;
use crate::model::{Environment, KeyStatus, Scope};
use local::DataDirArguments;
use snippet::SnippetArguments;

/// The fields of a key that are shown first.
const LEADING: &[&str] = &["id", "name", "tenant", "tenant_id", "environment", "scopes"];

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Creates a key and prints its secret, once
    Create {
        #[command(flatten)]
        directory: DataDirArguments,
        /// Creates the data directory if it does not exist; works on it without a running server, as --local does
        #[arg(long, conflicts_with_all = ["url", "ca_file"], help_heading = local::HEADING)]
        init: bool,
        #[command(flatten)]
        new: NewKeyArguments,
        /// Allows sending from this domain only (name or id); can be repeated
        #[arg(long = "domain", value_name = "DOMAIN", conflicts_with_all = ["local", "config", "data_dir", "init"])]
        domains: Vec<String>,
    },
    /// Lists keys, the newest first, without their secrets
    List {
        #[command(flatten)]
        directory: DataDirArguments,
        /// Only keys of this tenant (slug or id)
        #[arg(long, value_name = "TENANT")]
        tenant: Option<String>,
        /// Only keys with this status: active, revoked or expired
        #[arg(long, conflicts_with_all = ["local", "config", "data_dir"], value_parser = str::parse::<KeyStatus>)]
        status: Option<KeyStatus>,
        #[command(flatten)]
        page: PageArguments,
    },
    /// Shows a key without its secret
    Show {
        /// The key's id: key_…
        id: String,
    },
    /// Gives a key a new secret and prints it, once; the old one works on for a while
    Rotate {
        /// The key's id: key_…
        id: String,
        /// How long the old secret works on, for example 24h (default) or 0s; at most 30 days
        #[arg(long, value_name = "DURATION")]
        expires_in: Option<SignedDuration>,
    },
    /// Revokes a key; this cannot be undone
    Revoke {
        #[command(flatten)]
        directory: DataDirArguments,
        /// The key's id: key_…
        id: String,
    },
}

/// A new key.
#[derive(Debug, clap::Args)]
struct NewKeyArguments {
    /// The display name
    #[arg(long)]
    name: String,
    /// The tenant that the key belongs to (slug or id); without it, a platform key that may do everything
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// `live` delivers mail, `test` delivers to the sandbox
    #[arg(long, default_value = "live", value_parser = str::parse::<Environment>)]
    environment: Environment,
    /// What the key of a tenant may do, for example smtp:send; can be repeated. Default: everything, if you use a
    /// platform key; with a key of a tenant, name scopes that this key has
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// Accepts the key from this network only, for example 192.0.2.0/24; can be repeated
    #[arg(long = "cidr", value_name = "NETWORK")]
    cidrs: Vec<IpNet>,
    /// How long the key is valid, for example 72h; unlimited by default
    #[arg(long, value_name = "DURATION")]
    expires_in: Option<SignedDuration>,
    #[command(flatten)]
    snippet: SnippetArguments,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { server, command } = arguments;
    match command {
        Command::Create { directory, init, new, .. } if init || directory.is_local() => {
            runtime()?.block_on(local::create(&directory, init, new, server.output()))
        }
        Command::List { directory, tenant, page, .. } if directory.is_local() => {
            runtime()?.block_on(local::list(&directory, tenant.as_deref(), &page, server.output()))
        }
        Command::Revoke { directory, id } if directory.is_local() => {
            runtime()?.block_on(local::revoke(&directory, &id, server.output()))
        }
        Command::Create { new, domains, .. } => {
            server.run(async |client| create(&client, new, &domains).await)
        }
        Command::List { tenant, status, page, .. } => {
            server.run(async |client| list(&client, tenant.as_deref(), status, &page).await)
        }
        Command::Show { id } => server.run(async |client| {
            let key = client.with_slugs(client.get(&path(&id)?, &Query::new()).await?).await;
            client.print(&key, |key| object_text(key, LEADING))
        }),
        Command::Rotate { id, expires_in } => server.run(async |client| {
            let mut body = json!({});
            if let Some(duration) = expires_in {
                body["expires_in"] = duration.as_secs().into();
            }
            let key = client.post(&format!("{}/rotate", path(&id)?), &body).await?;
            print_new(client.output, key, None)
        }),
        Command::Revoke { id, .. } => server.run(async |client| {
            let key = client.delete(&path(&id)?, &Query::new()).await?;
            client.print(&key, |_| format!("{id} is revoked\n"))
        }),
    }
}

fn path(id: &str) -> anyhow::Result<String> {
    object_path("key", "key_", "/v1/keys", id)
}

async fn create(client: &ApiClient, new: NewKeyArguments, domains: &[String]) -> anyhow::Result<()> {
    let host = client.host();
    new.snippet.check(host.as_deref())?;
    let mut body = json!({"name": new.name, "environment": new.environment});
    if let Some(tenant) = &new.tenant {
        body["tenant_id"] = client.tenant_id(tenant).await?.into();
        body["scopes"] = json!(Scope::ALL);
    }
    if !new.scopes.is_empty() {
        body["scopes"] = json!(read_scopes(&new.scopes)?);
    }
    if !domains.is_empty() {
        let mut ids = Vec::with_capacity(domains.len());
        for domain in domains {
            ids.push(client.domain_id(domain).await?);
        }
        body["allowed_domain_ids"] = ids.into();
    }
    if !new.cidrs.is_empty() {
        body["allowed_cidrs"] = json!(new.cidrs);
    }
    if let Some(duration) = new.expires_in {
        body["expires_at"] = json!(expiry(duration)?);
    }
    let key = client.with_slugs(client.post("/v1/keys", &body).await?).await;
    let snippet = new.snippet.fill(&key, host.as_deref())?;
    print_new(client.output, key, snippet)
}

/// The scopes that these names stand for.
fn read_scopes(names: &[String]) -> anyhow::Result<Vec<Scope>> {
    let mut scopes = Vec::new();
    for name in names {
        let named = Scope::named(name);
        if named.is_empty() {
            let known: Vec<&str> = Scope::ALL.iter().map(|scope| scope.as_str()).collect();
            bail!("unknown scope: {name}; the scopes are {}", known.join(", "));
        }
        scopes.extend(named.into_iter().filter(|scope| !scopes.contains(scope)).collect::<Vec<_>>());
    }
    Ok(scopes)
}

/// As text, prints the secret alone on the standard output, so that a script can read it, or the settings with the secret.
fn print_new(output: OutputFormat, mut key: Value, snippet: Option<String>) -> anyhow::Result<()> {
    if output == OutputFormat::Text {
        eprintln!("{} ({}). The secret is shown only once:", text(&key, "id"), owner(&key));
    }
    if let Some(snippet) = &snippet {
        key["snippet"] = snippet.as_str().into();
    }
    output.print(&key, |key| snippet.unwrap_or_else(|| text(key, "secret") + "\n"))
}

fn table() -> Table<7> {
    Table::new(["ID", "OWNER", "ENV", "SECRET", "STATE", "USED", "NAME"])
}

fn owner(key: &Value) -> String {
    if key["tenant_id"].is_null() { "platform".to_owned() } else { tenant_of(key) }
}

async fn list(
    client: &ApiClient,
    tenant: Option<&str>,
    status: Option<KeyStatus>,
    page: &PageArguments,
) -> anyhow::Result<()> {
    let mut query = client.tenant_parameter(tenant).await?;
    query.extend(status.map(|status| ("status", status.to_string())));
    page.print(client, "/v1/keys", query, table(), row).await
}

fn row(key: &Value) -> [String; 7] {
    [
        text(key, "id"),
        owner(key),
        text(key, "environment"),
        format!("…{}", text(key, "last_four")),
        text(key, "status"),
        when(key, "last_used_at"),
        text(key, "name"),
    ]
}
