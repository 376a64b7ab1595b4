//! `pillarbox suppression`: addresses that get no mail.

use clap::Subcommand;
use serde_json::{Value, json};

use super::api_client::{ApiClient, Query, Refusal, ServerArguments};
use super::expiry;
use super::name_lookup::tenant_of;
use super::output::{object_text, text, when};
use super::pagination::{PageArguments, fetch_all};
use super::table::Table;
use crate::mail::SignedDuration;
use crate::model::Environment;

const PATH: &str = "/v1/suppressions";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Args)]
struct TenantArgument {
    /// The tenant (slug or id); not needed with a key of that tenant
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// The environment: live or test. Without it, the environment of the key; with a platform key, lists show both
    #[arg(long, value_parser = str::parse::<Environment>)]
    environment: Option<Environment>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists suppressions, the newest first
    List {
        #[command(flatten)]
        page: PageArguments,
        #[command(flatten)]
        owner: TenantArgument,
        /// Only suppressions with this reason: bounce, complaint, unsubscribe or manual
        #[arg(long)]
        reason: Option<String>,
    },
    /// Suppresses an address for a tenant; with a platform key and without --tenant, for everybody
    Add {
        /// The address
        address: String,
        #[command(flatten)]
        owner: TenantArgument,
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
        owner: TenantArgument,
    },
    /// Removes a suppression
    Remove {
        /// The address, or the id of the suppression: sup_…
        suppression: String,
        #[command(flatten)]
        owner: TenantArgument,
    },
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { server, command } = arguments;
    server.run(async |client| match command {
        Command::List { page, owner, reason } => {
            let mut query = owner.query(&client).await?;
            query.extend(reason.map(|reason| ("reason", reason)));
            list(&client, &page, query).await
        }
        Command::Add { address, owner, reason, evidence, expires_in } => {
            let mut body = json!({
                "address": address, "reason": reason, "evidence": evidence,
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

impl TenantArgument {
    async fn query(&self, client: &ApiClient) -> anyhow::Result<Query> {
        let mut query = client.tenant_parameter(self.tenant.as_deref()).await?;
        query.extend(self.environment.map(|environment| ("environment", environment.to_string())));
        Ok(query)
    }

    async fn find(&self, client: &ApiClient, address: &str) -> anyhow::Result<Vec<Value>> {
        let mut query = self.query(client).await?;
        query.push(("address", address.to_owned()));
        fetch_all(client, PATH, query).await
    }
}

async fn list(client: &ApiClient, page: &PageArguments, query: Query) -> anyhow::Result<()> {
    page.print(client, PATH, query, table(), row).await
}

fn table() -> Table<7> {
    Table::new(["ADDRESS", "ENVIRONMENT", "REASON", "CREATED", "EXPIRES", "ID", "TENANT"])
}

fn row(suppression: &Value) -> [String; 7] {
    [
        text(suppression, "address"),
        text(suppression, "environment"),
        text(suppression, "reason"),
        when(suppression, "created_at"),
        when(suppression, "expires_at"),
        text(suppression, "id"),
        if suppression["tenant_id"].is_null() { "everybody".to_owned() } else { tenant_of(suppression) },
    ]
}

async fn check(client: &ApiClient, address: &str, owner: &TenantArgument) -> anyhow::Result<()> {
    let list = client.with_slugs(json!({"data": owner.find(client, address).await?})).await;
    let mut table = table();
    list["data"].as_array().into_iter().flatten().for_each(|suppression| table.add(row(suppression)));
    client.print(&list["data"], |_| {
        if table.is_empty() {
            return format!("{address} is not suppressed\n");
        }
        format!("{address} is suppressed\n{}", table.render())
    })
}

async fn remove(client: &ApiClient, suppression: &str, owner: &TenantArgument) -> anyhow::Result<()> {
    let id = if suppression.starts_with("sup_") {
        suppression.to_owned()
    } else {
        match owner.find(client, suppression).await?.as_slice() {
            [] => return Err(Refusal::new(format!("{suppression} is not suppressed")).into()),
            [one] => text(one, "id"),
            several => {
                let ids = several.iter().map(|one| text(one, "id")).collect::<Vec<_>>().join(", ");
                return Err(Refusal::new(format!(
                    "{suppression} has several suppressions; name the --tenant and --environment, or one of these ids: {ids}"
                ))
                .into());
            }
        }
    };
    let removed = client.delete(&format!("{PATH}/{id}"), &Query::new()).await?;
    client.print(&removed, |_| format!("{suppression} is no longer suppressed\n"))
}
