//! `pillarbox tenant`: the customers of the platform.

mod bundle;
mod import;

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::api_client::{ApiClient, Query, ServerArguments};
use super::domain::domain_text;
use super::input::read_text;
use super::output::{confirm, object_text, text, when};
use super::pagination::PageArguments;
use super::table::Table;
use crate::mail::Timestamp;

/// The fields of a tenant that are shown first.
const LEADING: &[&str] = &["id", "slug", "name", "status", "external_ref"];

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists tenants, the newest first
    List(PageArguments),
    /// Shows a tenant with all its fields
    Show {
        /// Its slug or id
        tenant: String,
    },
    /// Creates a tenant
    Create {
        /// The display name
        name: String,
        /// The short name for the command line and SMTP logins; derived from the name by default
        #[arg(long)]
        slug: Option<String>,
        /// Its first sending domain, for example acme.com
        #[arg(long)]
        domain: Option<String>,
        #[command(flatten)]
        fields: Fields,
    },
    /// Changes a tenant
    Update {
        /// Its slug or id
        tenant: String,
        /// The new display name
        #[arg(long)]
        name: Option<String>,
        /// The new slug
        #[arg(long)]
        slug: Option<String>,
        #[command(flatten)]
        fields: Fields,
    },
    /// Suspends a tenant: its keys are refused and its queued mail waits
    Suspend {
        /// Its slug or id
        tenant: String,
    },
    /// Resumes a suspended or archived tenant: its keys work and its queued mail is delivered
    Resume {
        /// Its slug or id
        tenant: String,
    },
    /// Archives a tenant: its keys may only read and its queued mail waits
    Archive {
        /// Its slug or id
        tenant: String,
        /// Refuses to delete the tenant before this day or time, for example 2027-01-01
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        delete_after: Option<Timestamp>,
    },
    /// Deletes a tenant and all its data; this cannot be undone
    Delete {
        /// Its slug or id
        tenant: String,
        /// Only shows what would be deleted
        #[arg(long)]
        dry_run: bool,
        /// Writes the tenant with its messages to this new file first, as `tenant export --messages` does
        #[arg(long, value_name = "FILE")]
        export: Option<PathBuf>,
        /// Deletes without asking
        #[arg(long)]
        yes: bool,
    },
    /// Prints a tenant as a bundle: everything but usage, as lines of JSON; secrets only with --to
    Export(bundle::ExportArguments),
    /// Imports a bundle of another server; a second time changes nothing
    Import(import::ImportArguments),
    /// Shows the usage of a tenant in a month
    Usage {
        /// Its slug or id
        tenant: String,
        /// The month, for example 2026-01; the current month by default
        #[arg(long, value_name = "MONTH")]
        period: Option<String>,
    },
}

/// Fields of a tenant besides name and slug.
#[derive(Debug, clap::Args)]
struct Fields {
    /// The id of the tenant in the systems of the platform
    #[arg(long, value_name = "REFERENCE")]
    external_ref: Option<String>,
    /// Sets any field of the API, for example rate_limit.emails_per_day=1000 or settings.from_name=Acme; can be repeated
    ///
    /// The value is JSON (null clears the field); anything else is text. FIELD=@FILE reads the text from a file and
    /// FIELD=@- from the standard input, without the final line end. Use this for passwords (smtp.pass=@FILE), because
    /// other users of this machine can read the command line.
    #[arg(long = "set", value_name = "FIELD=VALUE")]
    settings: Vec<String>,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { server, command } = arguments;
    server.run(async |client| match command {
        Command::List(page) => list(&client, &page).await,
        Command::Show { tenant } => {
            print(&client, &client.get(&path(&client, &tenant).await?, &Query::new()).await?)
        }
        Command::Create { name, slug, domain, fields } => {
            let body = fields.body([("name", Some(name)), ("slug", slug), ("domain", domain)])?;
            print(&client, &client.post("/v1/tenants", &body).await?)
        }
        Command::Update { tenant, name, slug, fields } => {
            let body = fields.body([("name", name), ("slug", slug)])?;
            if body == json!({}) {
                bail!("nothing to change: use --name, --slug, --external-ref or --set");
            }
            print(&client, &client.patch(&path(&client, &tenant).await?, &body).await?)
        }
        Command::Suspend { tenant } => set_status(&client, &tenant, "suspended").await,
        Command::Resume { tenant } => set_status(&client, &tenant, "active").await,
        Command::Archive { tenant, delete_after } => archive(&client, &tenant, delete_after).await,
        Command::Delete { tenant, dry_run, export, yes } => {
            delete(&client, &tenant, dry_run, export, yes).await
        }
        Command::Export(arguments) => {
            bundle::export(&client, &path(&client, &arguments.tenant).await?, &arguments).await
        }
        Command::Import(arguments) => import::import(&client, arguments).await,
        Command::Usage { tenant, period } => usage(&client, &tenant, period).await,
    })
}

impl Fields {
    fn body<const N: usize>(&self, named: [(&str, Option<String>); N]) -> anyhow::Result<Value> {
        let named = named.into_iter().chain([("external_ref", self.external_ref.clone())]);
        let given = named.filter_map(|(name, value)| Some((name.to_owned(), Value::String(value?))));
        let mut body: Map<String, Value> = given.collect();
        for setting in &self.settings {
            set(&mut body, setting)?;
        }
        Ok(body.into())
    }
}

/// Sets the field of `a.b=value` in a body.
fn set(body: &mut Map<String, Value>, setting: &str) -> anyhow::Result<()> {
    let Some((field, value)) = setting.split_once('=').filter(|(field, _)| !field.is_empty()) else {
        bail!("--set {setting}: write it as FIELD=VALUE");
    };
    let value = match value.strip_prefix('@') {
        Some(source) => {
            let text = read_text(source).with_context(|| format!("--set {setting}"))?;
            Value::String(without_line_end(text))
        }
        None => serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned())),
    };
    let (parents, last) = field.rsplit_once('.').unwrap_or(("", field));
    let mut object = body;
    for parent in parents.split('.').filter(|parent| !parent.is_empty()) {
        let inner = object.entry(parent).or_insert_with(|| json!({}));
        let Value::Object(inner) = inner else { bail!("--set {setting}: {parent} already has a value") };
        object = inner;
    }
    object.insert(last.to_owned(), value);
    Ok(())
}

/// The text without its final line end.
fn without_line_end(text: String) -> String {
    text.strip_suffix('\n').map_or(text.as_str(), |line| line.trim_end_matches('\r')).to_owned()
}

async fn path(client: &ApiClient, tenant: &str) -> anyhow::Result<String> {
    Ok(format!("/v1/tenants/{}", client.tenant_id(tenant).await?))
}

fn print(client: &ApiClient, tenant: &Value) -> anyhow::Result<()> {
    client.print(tenant, tenant_text)
}

/// A tenant, and its first domain with the records to publish if it was created with one.
fn tenant_text(tenant: &Value) -> String {
    let Some(domain) = tenant.get("domain") else { return object_text(tenant, LEADING) };
    let mut alone = tenant.clone();
    if let Some(fields) = alone.as_object_mut() {
        fields.remove("domain");
    }
    format!("{}\n{}", object_text(&alone, LEADING), domain_text(domain))
}

async fn list(client: &ApiClient, page: &PageArguments) -> anyhow::Result<()> {
    let table = Table::new(["SLUG", "STATUS", "CREATED", "EXTERNAL REF", "ID", "NAME"]);
    let row = |tenant: &Value| {
        [
            text(tenant, "slug"),
            text(tenant, "status"),
            when(tenant, "created_at"),
            text(tenant, "external_ref"),
            text(tenant, "id"),
            text(tenant, "name"),
        ]
    };
    page.print(client, "/v1/tenants", Query::new(), table, row).await
}

async fn set_status(client: &ApiClient, tenant: &str, status: &str) -> anyhow::Result<()> {
    let tenant = client.patch(&path(client, tenant).await?, &json!({"status": status})).await?;
    client.print(&tenant, |tenant| format!("{} is {}\n", text(tenant, "slug"), text(tenant, "status")))
}

/// A time, or the beginning of a day.
fn parse_time(text: &str) -> Result<Timestamp, &'static str> {
    let is_day = text.len() == "2027-01-01".len();
    let parsed = if is_day { format!("{text}T00:00:00Z").parse::<Timestamp>() } else { text.parse() };
    parsed.map_err(|_| "this must be a day like 2027-01-01, or a time of RFC 3339 like 2027-01-01T12:00:00Z")
}

async fn archive(client: &ApiClient, tenant: &str, delete_after: Option<Timestamp>) -> anyhow::Result<()> {
    let body = json!({"status": "archived", "deletable_at": delete_after});
    let tenant = client.patch(&path(client, tenant).await?, &body).await?;
    client.print(&tenant, |tenant| {
        let slug = text(tenant, "slug");
        match tenant["deletable_at"].as_str() {
            Some(at) => format!("{slug} is archived; it may be deleted from {at} on\n"),
            None => format!("{slug} is archived\n"),
        }
    })
}

async fn delete(
    client: &ApiClient,
    tenant: &str,
    dry_run: bool,
    export: Option<PathBuf>,
    yes: bool,
) -> anyhow::Result<()> {
    let path = path(client, tenant).await?;
    if let Some(file) = export.filter(|_| !dry_run) {
        bundle::save(client, &path, &file).await?;
    } else if !dry_run && !yes {
        eprintln!("Export it first with: pillarbox tenant export {tenant} --messages > {tenant}.jsonl");
    }
    if !dry_run && !yes {
        let would = client.delete(&path, &vec![("dry_run", "true".to_owned())]).await?;
        confirm(&format!("Delete {tenant} with all its data ({})", counts_text(&would)))?;
    }
    let deleted = client.delete(&path, &vec![("dry_run", dry_run.to_string())]).await?;
    let verb = if dry_run { "would be deleted" } else { "is deleted" };
    client
        .print(&deleted, |deleted| format!("{tenant} {verb} with all its data ({})\n", counts_text(deleted)))
}

/// Like `domains: 2, keys: 1`, without zeros.
fn counts_text(deletion: &Value) -> String {
    let counts = deletion["counts"].as_object().into_iter().flatten();
    let counts = counts.filter(|(_, count)| **count != 0).map(|(name, count)| format!("{name}: {count}"));
    let counts: Vec<_> = counts.collect();
    if counts.is_empty() { "none".to_owned() } else { counts.join(", ") }
}

async fn usage(client: &ApiClient, tenant: &str, period: Option<String>) -> anyhow::Result<()> {
    let query = period.map(|period| ("period", period)).into_iter().collect();
    let usage = client.get(&format!("{}/usage", path(client, tenant).await?), &query).await?;
    client.print(&usage, |usage| object_text(usage, &["tenant_id", "period"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_set_by_their_path() {
        let mut body = Map::new();
        for setting in ["a.b=1", "a.c=null", "d=x=y", "e=\"1\""] {
            set(&mut body, setting).unwrap();
        }
        assert_eq!(Value::from(body.clone()), json!({"a": {"b": 1, "c": null}, "d": "x=y", "e": "1"}));
        for wrong in ["a", "=1", "d.x=1"] {
            assert!(set(&mut body, wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_day_begins_at_midnight_in_utc() {
        let midnight = parse_time("2027-01-01T00:00:00Z").unwrap();
        assert_eq!(parse_time("2027-01-01").unwrap(), midnight);
        for wrong in ["2027-13-01", "tomorrow", "", "2027-01-01T00"] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_field_may_be_read_from_a_file_as_text() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        for (content, value) in [("12\r\n", "12"), (" a b", " a b"), ("a\n\n", "a\n"), ("", "")] {
            std::fs::write(&file, content).unwrap();
            let mut body = Map::new();
            set(&mut body, &format!("smtp.pass=@{}", file.display())).unwrap();
            assert_eq!(Value::from(body), json!({"smtp": {"pass": value}}));
        }
        let error = set(&mut Map::new(), "smtp.pass=@/nonexistent").unwrap_err();
        assert_eq!(error.to_string(), "--set smtp.pass=@/nonexistent");
    }
}
