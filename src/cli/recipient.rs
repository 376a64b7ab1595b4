//! `pillarbox recipient`: everything about one address, and its erasure.

use clap::Subcommand;
use serde_json::Value;

use super::api_client::{ApiClient, Query, ServerArguments};
use super::output::{confirm, print, text, when};
use super::pagination::PageArguments;
use super::table::Table;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prints everything that is stored about an address, as JSON
    Export {
        /// The address
        address: String,
        /// Only the data of this tenant (slug or id)
        #[arg(long, value_name = "TENANT")]
        tenant: Option<String>,
    },
    /// Erases a recipient: cancels open deliveries to the address and replaces it, except as the envelope sender; this cannot
    /// be undone
    Erase {
        /// The address
        address: String,
        /// Only in the data of this tenant (slug or id)
        #[arg(long, value_name = "TENANT")]
        tenant: Option<String>,
        /// Only counts
        #[arg(long)]
        dry_run: bool,
        /// Removes the suppression of the address too
        #[arg(long)]
        forget_suppression: bool,
        /// Does not ask
        #[arg(long)]
        yes: bool,
    },
    /// Lists erasures, without the addresses
    Erasures {
        #[command(flatten)]
        page: PageArguments,
        /// Prints all of them as lines of JSON, to keep beside a backup
        #[arg(long)]
        export: bool,
    },
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { server, command } = arguments;
    server.run(async |client| match command {
        Command::Export { address, tenant } => {
            let query = client.tenant_parameter(tenant.as_deref()).await?;
            let data = client.get(&path(&address), &query).await?;
            print(&format!("{data:#}\n"))
        }
        Command::Erase { address, tenant, dry_run, forget_suppression, yes } => {
            let mut query = client.tenant_parameter(tenant.as_deref()).await?;
            query.push(("forget_suppression", forget_suppression.to_string()));
            erase(&client, &address, query, dry_run, yes).await
        }
        Command::Erasures { export: true, .. } => export_all(&client).await,
        Command::Erasures { page, .. } => {
            let table = Table::new(["ID", "ASKED", "DONE", "TENANT"]);
            page.print(&client, "/v1/erasures", Query::new(), table, row).await
        }
    })
}

fn path(address: &str) -> String {
    let encoded: String = url::form_urlencoded::byte_serialize(address.as_bytes()).collect();
    format!("/v1/recipients/{}", encoded.replace('+', "%20"))
}

async fn erase(
    client: &ApiClient,
    address: &str,
    query: Query,
    dry_run: bool,
    yes: bool,
) -> anyhow::Result<()> {
    let with =
        |dry_run: bool| query.iter().cloned().chain([("dry_run", dry_run.to_string())]).collect::<Query>();
    if !dry_run && !yes {
        let would = client.delete(&path(address), &with(true)).await?;
        confirm(&format!("Erase {address} ({})", counts_text(&would)))?;
    }
    let erased = client.delete(&path(address), &with(dry_run)).await?;
    let verb = match (dry_run, erased["applied_at"].is_string()) {
        (true, _) => "would be erased",
        (false, true) => "is erased",
        (false, false) => "is erased as soon as its deliveries in progress end",
    };
    client.print(&erased, |erased| format!("{address} {verb} ({})\n", counts_text(erased)))
}

fn counts_text(erasure: &Value) -> String {
    let counts = erasure["counts"].as_object().into_iter().flatten().filter(|(_, count)| **count != 0);
    let counts: Vec<_> = counts.map(|(name, count)| format!("{}: {count}", name.replace('_', " "))).collect();
    if counts.is_empty() { "nothing is stored".to_owned() } else { counts.join(", ") }
}

/// All pages, one object in a line.
async fn export_all(client: &ApiClient) -> anyhow::Result<()> {
    let mut query: Query = vec![("limit", "100".to_owned())];
    loop {
        let page = client.get("/v1/erasures", &query).await?;
        for erasure in page["data"].as_array().into_iter().flatten() {
            print(&format!("{erasure}\n"))?;
        }
        let Some(next) = page["next_cursor"].as_str().filter(|_| page["has_more"] == true) else {
            return Ok(());
        };
        query = vec![("limit", "100".to_owned()), ("after", next.to_owned())];
    }
}

fn row(erasure: &Value) -> [String; 4] {
    [
        text(erasure, "id"),
        when(erasure, "requested_at"),
        when(erasure, "applied_at"),
        text(erasure, "tenant_id"),
    ]
}
