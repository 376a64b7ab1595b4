//! `pillarbox inbox`: addresses for trial mail from the sandbox domain.

use clap::Subcommand;
use serde_json::{Value, json};

use super::api_client::{ApiClient, Query, ServerArguments};
use super::name_lookup::{only_id, read_id, tenant_of};
use super::output::{object_text, text, when};
use super::pagination::{PageArguments, fetch_all};
use super::table::Table;

const PATH: &str = "/v1/inboxes";

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
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists inboxes, the newest first
    List {
        #[command(flatten)]
        page: PageArguments,
        #[command(flatten)]
        owner: TenantArgument,
    },
    /// Adds an inbox and sends a code to it; for an inbox that is not confirmed, a new code
    Add {
        /// The address
        address: String,
        #[command(flatten)]
        owner: TenantArgument,
    },
    /// Confirms an inbox with the code that was sent to it
    Confirm {
        /// The address, or the id of the inbox: inb_…
        inbox: String,
        /// The code
        code: String,
        #[command(flatten)]
        owner: TenantArgument,
    },
    /// Removes an inbox
    Remove {
        /// The address, or the id of the inbox: inb_…
        inbox: String,
        #[command(flatten)]
        owner: TenantArgument,
    },
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { server, command } = arguments;
    server.run(async |client| match command {
        Command::List { page, owner } => {
            let query = owner.query(&client).await?;
            let table = Table::new(["ADDRESS", "STATUS", "CREATED", "CONFIRMED", "ID", "TENANT"]);
            page.print(&client, PATH, query, table, row).await
        }
        Command::Add { address, owner } => {
            let mut body = json!({"address": address});
            for (name, value) in owner.query(&client).await? {
                body[name] = value.into();
            }
            let added = client.post(PATH, &body).await?;
            client.print(&client.with_slugs(added).await, |added| {
                object_text(added, &["id", "address", "status", "tenant", "tenant_id"])
            })
        }
        Command::Confirm { inbox, code, owner } => {
            let path = format!("{PATH}/{}/confirm", owner.find(&client, &inbox).await?);
            let confirmed = client.post(&path, &json!({"code": code})).await?;
            client.print(&confirmed, |_| format!("{inbox} is confirmed\n"))
        }
        Command::Remove { inbox, owner } => {
            let path = format!("{PATH}/{}", owner.find(&client, &inbox).await?);
            let removed = client.delete(&path, &Query::new()).await?;
            client.print(&removed, |_| format!("{inbox} is removed\n"))
        }
    })
}

impl TenantArgument {
    async fn query(&self, client: &ApiClient) -> anyhow::Result<Query> {
        client.tenant_parameter(self.tenant.as_deref()).await
    }

    /// The id of an inbox, which is named by its address or its id.
    async fn find(&self, client: &ApiClient, inbox: &str) -> anyhow::Result<String> {
        if inbox.starts_with("inb_") {
            return read_id("inbox", "inb_", inbox);
        }
        let mut query = self.query(client).await?;
        query.push(("address", inbox.to_owned()));
        let several = format!("several tenants have the inbox {inbox}; name the --tenant, or one of");
        only_id(&fetch_all(client, PATH, query).await?, format!("there is no inbox {inbox}"), &several)
    }
}

fn row(inbox: &Value) -> [String; 6] {
    [
        text(inbox, "address"),
        text(inbox, "status"),
        when(inbox, "created_at"),
        when(inbox, "confirmed_at"),
        text(inbox, "id"),
        tenant_of(inbox),
    ]
}
