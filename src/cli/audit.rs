//! `pillarbox audit`: what people changed.

use clap::Subcommand;
use serde_json::Value;

use super::api_client::{Query, ServerArguments};
use super::name_lookup::{object_path, tenant_of};
use super::output::{object_text, text, when};
use super::pagination::{PageArguments, SinceArgument};
use super::table::Table;

const PATH: &str = "/v1/audit";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists changes, the newest first
    List {
        #[command(flatten)]
        page: PageArguments,
        #[command(flatten)]
        since: SinceArgument,
        /// Only changes of the objects of this tenant: its slug or id
        #[arg(long)]
        tenant: Option<String>,
        /// Only changes of this type of object, for example domain
        #[arg(long = "type", value_name = "TYPE")]
        kind: Option<String>,
        /// Only changes of the object with this id
        #[arg(long, value_name = "ID")]
        object: Option<String>,
        /// Only changes by this operation, for example update_domain
        #[arg(long)]
        operation: Option<String>,
        /// Only changes with the key with this id
        #[arg(long, value_name = "ID")]
        key: Option<String>,
    },
    /// Shows a change: who made it, and the object before and afterwards
    Show {
        /// The id of the change
        id: String,
    },
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { server, command } = arguments;
    server.run(async |client| match command {
        Command::List { page, since, tenant, kind, object, operation, key } => {
            let mut query = client.tenant_parameter(tenant.as_deref()).await?;
            query.extend(since.parameter()?);
            let filters = [("type", kind), ("object_id", object), ("operation", operation), ("key_id", key)];
            query.extend(filters.into_iter().filter_map(|(name, value)| Some((name, value?))));
            let table = Table::new(["CHANGED", "TENANT", "WHO", "OPERATION", "OBJECT", "ID"]);
            page.print(&client, PATH, query, table, row).await
        }
        Command::Show { id } => {
            let entry = client.get(&object_path("audit entry", "aud_", PATH, &id)?, &Query::new()).await?;
            client.print(&entry, |entry| {
                object_text(entry, &["created_at", "operation", "object_type", "object_id"])
            })
        }
    })
}

fn row(entry: &Value) -> [String; 6] {
    let actor = &entry["actor"];
    let is_hidden = actor["name"].is_null() && actor["platform"] == true;
    let who = if is_hidden { "the platform".to_owned() } else { text(actor, "name") };
    [
        when(entry, "created_at"),
        tenant_of(entry),
        who,
        text(entry, "operation"),
        text(entry, "object_id"),
        text(entry, "id"),
    ]
}
