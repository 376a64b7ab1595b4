//! `pillarbox domain`: sending domains and their DNS records.

use clap::Subcommand;
use serde_json::{Value, json};

use super::api_client::{ApiClient, Query, Refusal, ServerArguments};
use super::name_lookup::tenant_of;
use super::output::{confirm, object_text, table_below, text, texts, when};
use super::pagination::{PageArguments, list_text};
use super::table::Table;

/// The fields of a domain that are shown first.
const LEADING: &[&str] = &["id", "name", "status", "tenant", "tenant_id", "verification"];
/// About the records of the sandbox domain.
const SANDBOX_NOTE: &str = "\nThis is the sandbox domain: test mail never leaves the server and needs no record. Publish these only so that \
    receivers accept trial mail.\n";
/// Longest string in a TXT record (RFC 1035 §3.3).
const STRING_OCTETS_MAX: usize = 255;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists domains, the newest first
    List {
        #[command(flatten)]
        page: PageArguments,
        /// Only domains of this tenant (slug or id)
        #[arg(long, value_name = "TENANT")]
        tenant: Option<String>,
        /// Only domains with this status: pending, verified, failing or taken
        #[arg(long)]
        status: Option<String>,
    },
    /// Adds a domain and shows the DNS records to publish
    Add {
        /// The domain, for example acme.com
        name: String,
        /// The tenant that owns it (slug or id); with a platform key, the tenant `default` if absent
        #[arg(long, value_name = "TENANT")]
        tenant: Option<String>,
        /// The platform vouches for the domain: no DNS records are checked
        #[arg(long)]
        manual: bool,
        /// Allows senders at this name only, not at its subdomains
        #[arg(long)]
        no_subdomains: bool,
        /// Also creates a DKIM key for Ed25519
        #[arg(long)]
        ed25519: bool,
        #[command(flatten)]
        output: RecordOutput,
    },
    /// Shows a domain and its DNS records
    Show {
        /// Its name or id
        domain: String,
        #[command(flatten)]
        output: RecordOutput,
    },
    /// Checks the DNS records now; fails unless the domain is verified
    Verify {
        /// Its name or id
        domain: String,
    },
    /// Lists the DKIM keys of a domain, also those that are being replaced
    Dkim {
        /// Its name or id
        domain: String,
    },
    /// Replaces the DKIM keys of a domain; shows the DNS records to publish
    ///
    /// A new key signs once its record is found. Until then, and for mail that is in the queue, the old key stays in use.
    RotateDkim {
        /// Its name or id
        domain: String,
        /// Replaces only the key for this algorithm: rsa-sha256 or ed25519-sha256
        #[arg(long)]
        algorithm: Option<String>,
        #[command(flatten)]
        output: RecordOutput,
    },
    /// Sets the reverse path that mail of a domain leaves with
    ReturnPath {
        /// Its name or id
        domain: String,
        /// auto (the domain's return host, once its record works), platform, off, or default (as the configuration says)
        #[arg(long, required_unless_present = "host")]
        mode: Option<String>,
        /// The return host, a name under the domain, or default (the label of the configuration under the domain)
        #[arg(long, value_name = "NAME")]
        host: Option<String>,
        #[command(flatten)]
        output: RecordOutput,
    },
    /// Deletes a domain: the tenant can no longer send from it
    Delete {
        /// Its name or id
        domain: String,
        /// Deletes without asking
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, clap::Args)]
struct RecordOutput {
    /// Prints only the DNS records, as lines of a zone file
    #[arg(long, conflicts_with = "json")]
    zone: bool,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { server, command } = arguments;
    server.run(async |client| match command {
        Command::List { page, tenant, status } => {
            let mut query = client.tenant_parameter(tenant.as_deref()).await?;
            query.extend(status.map(|status| ("status", status)));
            list(&client, &page, query).await
        }
        Command::Add { name, tenant, manual, no_subdomains, ed25519, output } => {
            let mut body = json!({"name": name, "subdomains": !no_subdomains, "ed25519": ed25519});
            if let Some(tenant) = tenant {
                body["tenant_id"] = client.tenant_id(&tenant).await?.into();
            }
            if manual {
                body["verification"] = "manual".into();
            }
            output.print(&client, client.post("/v1/domains", &body).await?).await
        }
        Command::Show { domain, output } => {
            output.print(&client, client.get(&path(&client, &domain).await?, &Query::new()).await?).await
        }
        Command::Dkim { domain } => list_dkim_keys(&client, &domain).await,
        Command::RotateDkim { domain, algorithm, output } => {
            let path = format!("{}/dkim/rotate", path(&client, &domain).await?);
            let body = algorithm.map_or(json!({}), |algorithm| json!({"algorithm": algorithm}));
            let keys = client.post(&path, &body).await?;
            client
                .print(&keys, |keys| if output.zone { key_lines(keys) } else { new_keys_text(keys, &domain) })
        }
        Command::ReturnPath { domain, mode, host, output } => {
            let value = |text: String| if text == "default" { Value::Null } else { text.into() };
            let mut return_path = json!({});
            for (field, given) in [("mode", mode), ("host", host)] {
                if let Some(given) = given {
                    return_path[field] = value(given);
                }
            }
            let path = path(&client, &domain).await?;
            let changed = client.patch(&path, &json!({ "return_path": return_path })).await?;
            output.print(&client, changed).await
        }
        Command::Verify { domain } => verify(&client, &domain).await,
        Command::Delete { domain, yes } => delete(&client, &domain, yes).await,
    })
}

async fn path(client: &ApiClient, domain: &str) -> anyhow::Result<String> {
    Ok(format!("/v1/domains/{}", client.domain_id(domain).await?))
}

async fn list(client: &ApiClient, page: &PageArguments, query: Query) -> anyhow::Result<()> {
    let table = Table::new(["NAME", "STATUS", "VERIFICATION", "CHECKED", "TENANT", "ID"]);
    let row = |domain: &Value| {
        [
            text(domain, "name"),
            text(domain, "status"),
            text(domain, "verification"),
            when(domain, "last_checked_at"),
            tenant_of(domain),
            text(domain, "id"),
        ]
    };
    page.print(client, "/v1/domains", query, table, row).await
}

impl RecordOutput {
    async fn print(&self, client: &ApiClient, domain: Value) -> anyhow::Result<()> {
        client.print(&client.with_slugs(domain).await, |domain| match self.zone {
            true => records(domain).map(zone_line).collect(),
            false => domain_text(domain),
        })
    }
}

/// A domain with its records.
pub(super) fn domain_text(domain: &Value) -> String {
    let mut table = Table::unwrapped(["PURPOSE", "STATUS", "TYPE", "NAME", "VALUE"]);
    for record in records(domain) {
        let suffix = if record["required"] == true { "" } else { " (optional)" };
        let purpose = text(record, "purpose") + suffix;
        let [status, kind, name, value] =
            ["status", "type", "name", "value"].map(|field| text(record, field));
        table.add([purpose, status, kind, name, value]);
        for other in record["alternatives"].as_array().into_iter().flatten() {
            let [kind, value] = ["type", "value"].map(|field| text(other, field));
            table.add(["  or together".to_owned(), String::new(), kind, String::new(), value]);
        }
    }
    let note = if domain["tenant_id"].is_null() { SANDBOX_NOTE } else { "" };
    object_text(domain, LEADING) + &table_below(&table) + note
}

fn records(domain: &Value) -> impl Iterator<Item = &Value> {
    domain["dns_records"].as_array().into_iter().flatten()
}

/// A record as a line of a zone file (RFC 1035 §5.1). A long value becomes several strings, which resolvers join.
fn zone_line(record: &Value) -> String {
    if record["type"] == "CNAME" {
        return format!("{}. 3600 IN CNAME {}.\n", text(record, "name"), text(record, "value"));
    }
    let value = text(record, "value").replace('\\', "\\\\").replace('"', "\\\"");
    let strings: Vec<_> = value.as_bytes().chunks(STRING_OCTETS_MAX).map(String::from_utf8_lossy).collect();
    format!("{}. 3600 IN {} \"{}\"\n", text(record, "name"), text(record, "type"), strings.join("\" \""))
}

async fn verify(client: &ApiClient, domain: &str) -> anyhow::Result<()> {
    let domain = client.post(&format!("{}/verify", path(client, domain).await?), &json!({})).await?;
    let (name, status) = (text(&domain, "name"), text(&domain, "status"));
    let is_verified = status == "verified";
    client.print(&domain, |domain| {
        let mut table = Table::unwrapped(["PURPOSE", "STATUS", "NAME", "FOUND"]);
        for record in records(domain) {
            let [purpose, status, name] = ["purpose", "status", "name"].map(|field| text(record, field));
            table.add([purpose, status, name, texts(record, "found")]);
        }
        let hints = records(domain).filter_map(|record| record["hint"].as_str());
        let mut conclusion: String = hints.map(|hint| format!("return path: {hint}\n")).collect();
        if is_verified {
            conclusion += &format!("{name} is verified\n");
        }
        table.render() + &conclusion
    })?;
    if is_verified {
        return Ok(());
    }
    let reason = text(&domain, "status_reason");
    let hint = match status.as_str() {
        "taken" => text(&domain, "status_hint"),
        _ => format!("`pillarbox domain show {name}` shows the records to publish"),
    };
    Err(Refusal::new(format!("{name} is {status}: {reason}\n  {hint}")).into())
}

async fn list_dkim_keys(client: &ApiClient, domain: &str) -> anyhow::Result<()> {
    let keys = client.get(&format!("{}/dkim", path(client, domain).await?), &Query::new()).await?;
    let table = Table::unwrapped(["SELECTOR", "ALGORITHM", "STATE", "CREATED", "RETIRING", "RECORD"]);
    let row = |key: &Value| {
        let [selector, algorithm, state, record] =
            ["selector", "algorithm", "state", "record_name"].map(|field| text(key, field));
        [selector, algorithm, state, when(key, "created_at"), when(key, "retiring_since"), record]
    };
    client.print(&keys, |keys| list_text(keys, table, row))
}

fn key_lines(keys: &Value) -> String {
    let keys = keys["data"].as_array().into_iter().flatten();
    keys.map(|key| {
        zone_line(&json!({"type": "TXT", "name": key["record_name"], "value": key["record_value"]}))
    })
    .collect()
}

fn new_keys_text(keys: &Value, domain: &str) -> String {
    let table = Table::unwrapped(["STATE", "TYPE", "NAME", "VALUE"]);
    let row = |key: &Value| {
        let [state, name, value] = ["state", "record_name", "record_value"].map(|field| text(key, field));
        [state, "TXT".to_owned(), name, value]
    };
    list_text(keys, table, row)
        + &format!(
            "\nPublish these records and keep the old ones. `pillarbox domain verify {domain}` looks for them at once.\n"
        )
}

async fn delete(client: &ApiClient, domain: &str, yes: bool) -> anyhow::Result<()> {
    let path = path(client, domain).await?;
    if !yes {
        confirm(&format!("Delete the domain {domain}"))?;
    }
    let deleted = client.delete(&path, &Query::new()).await?;
    client.print(&deleted, |_| format!("{domain} is deleted\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_value_becomes_several_strings_in_a_zone_file() {
        let record = json!({"name": "a.test", "type": "TXT", "value": format!("\"{}", "x".repeat(300))});
        let strings = format!("\"\\\"{}\" \"{}\"", "x".repeat(253), "x".repeat(47));
        assert_eq!(zone_line(&record), format!("a.test. 3600 IN TXT {strings}\n"));
    }
}
