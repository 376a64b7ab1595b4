//! `pillarbox suppression`: addresses that get no mail.

use clap::Subcommand;
use serde_json::{Value, json};

use super::api_client::{ApiClient, Query, ServerArguments};
use super::expiry;
use super::name_lookup::{only_id, read_id, tenant_of};
use super::output::{object_text, text, when};
use super::pagination::{OwnerArguments, PageArguments, fetch_all};
use super::table::Table;
use crate::mail::SignedDuration;

const PATH: &str = "/v1/suppressions";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists suppressions, the newest first
    List {
        #[command(flatten)]
        page: PageArguments,
        #[command(flatten)]
        owner: OwnerArguments,
        /// Only suppressions with this reason: bounce, complaint, unsubscribe or manual
        #[arg(long)]
        reason: Option<String>,
        /// Only suppressions of mail of this list; * for those of every list
        #[arg(long)]
        list: Option<String>,
    },
    /// Suppresses an address for a tenant; with a platform key and without --tenant, for everybody
    Add {
        /// The address
        address: String,
        #[command(flatten)]
        owner: OwnerArguments,
        /// Stops only mail of this list; * for mail of every list
        #[arg(long)]
        list: Option<String>,
        /// The reason: bounce, complaint, unsubscribe or manual
        #[arg(long, default_value = "manual")]
        reason: String,
        /// A note on where this comes from
        #[arg(long)]
        evidence: Option<String>,
        /// How long it lasts, for example 720h; unlimited by default
        #[arg(long, value_name = "DURATION")]
        expires_in: Option<SignedDuration>,
    },
    /// Shows whether an address is suppressed, and why
    Check {
        /// The address
        address: String,
        #[command(flatten)]
        owner: OwnerArguments,
    },
    /// Removes a suppression
    Remove {
        /// The address, or the id of the suppression: sup_…
        suppression: String,
        #[command(flatten)]
        owner: OwnerArguments,
    },
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { server, command } = arguments;
    server.run(async |client| match command {
        Command::List { page, owner, reason, list } => {
            let mut query = owner.query(&client).await?;
            query.extend(reason.map(|reason| ("reason", reason)));
            query.extend(list.map(|list| ("list", list)));
            print_page(&client, &page, query).await
        }
        Command::Add { address, owner, list, reason, evidence, expires_in } => {
            let mut body = json!({
                "address": address, "list": list, "reason": reason, "evidence": evidence,
                "expires_at": expires_in.map(expiry).transpose()?,
            });
            for (name, value) in owner.query(&client).await? {
                body[name] = value.into();
            }
            let added = client.post(PATH, &body).await?;
            client.print(&added, |added| object_text(added, &["id", "address"]))
        }
        Command::Check { address, owner } => check(&client, &address, &owner).await,
        Command::Remove { suppression, owner } => remove(&client, &suppression, &owner).await,
    })
}

async fn find(client: &ApiClient, address: &str, owner: &OwnerArguments) -> anyhow::Result<Vec<Value>> {
    let mut query = owner.query(client).await?;
    query.push(("address", address.to_owned()));
    fetch_all(client, PATH, query).await
}

async fn print_page(client: &ApiClient, page: &PageArguments, query: Query) -> anyhow::Result<()> {
    page.print(client, PATH, query, table(), row).await
}

fn table() -> Table<8> {
    Table::new(["ADDRESS", "ENVIRONMENT", "LIST", "REASON", "CREATED", "EXPIRES", "ID", "TENANT"])
}

fn row(suppression: &Value) -> [String; 8] {
    [
        text(suppression, "address"),
        text(suppression, "environment"),
        if suppression["list"].is_null() { "all mail".to_owned() } else { text(suppression, "list") },
        match text(suppression, "reason") {
            reason if suppression["provisional"] == true => format!("{reason} (provisional)"),
            reason => reason,
        },
        when(suppression, "created_at"),
        when(suppression, "expires_at"),
        text(suppression, "id"),
        if suppression["tenant_id"].is_null() { "everybody".to_owned() } else { tenant_of(suppression) },
    ]
}

async fn check(client: &ApiClient, address: &str, owner: &OwnerArguments) -> anyhow::Result<()> {
    let list = client.with_slugs(json!({"data": find(client, address, owner).await?})).await;
    let mut table = table();
    list["data"].as_array().into_iter().flatten().for_each(|suppression| table.add(row(suppression)));
    client.print(&list["data"], |_| {
        if table.is_empty() {
            return format!("{address} is not suppressed\n");
        }
        format!("{address} is suppressed\n{}", table.render())
    })
}

async fn remove(client: &ApiClient, suppression: &str, owner: &OwnerArguments) -> anyhow::Result<()> {
    let id = if suppression.starts_with("sup_") {
        read_id("suppression", "sup_", suppression)?
    } else {
        let several =
            format!("{suppression} has several suppressions; name the --tenant and --environment, or one of");
        let none = format!("{suppression} is not suppressed");
        only_id(&find(client, suppression, owner).await?, none, &several)?
    };
    let removed = client.delete(&format!("{PATH}/{id}"), &Query::new()).await?;
    client.print(&removed, |_| format!("{suppression} is no longer suppressed\n"))
}
