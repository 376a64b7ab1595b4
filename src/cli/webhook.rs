//! `pillarbox webhook`: URLs to which the server posts events, and what was posted.

use clap::Subcommand;
use serde_json::{Value, json};

use super::api_client::{ApiClient, Query, ServerArguments};
use super::name_lookup::{object_path, tenant_of};
use super::output::{OutputFormat, confirm, object_text, text, texts, when};
use super::pagination::{OwnerArguments, PageArguments};
use super::table::Table;
use crate::model::Environment;

const PATH: &str = "/v1/webhooks";
/// The fields of a webhook that are shown first.
const LEADING: &[&str] = &["id", "url", "status", "tenant", "tenant_id", "environments", "events", "secret"];

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists webhooks, the newest first
    List {
        #[command(flatten)]
        page: PageArguments,
        #[command(flatten)]
        owner: OwnerArguments,
        /// Only webhooks with this status: enabled or disabled
        #[arg(long)]
        status: Option<String>,
    },
    /// Shows a webhook
    Show {
        /// Its id: whk_…
        id: String,
    },
    /// Creates a webhook and shows its secret, once
    Create {
        /// The URL that receives the events
        #[arg(value_name = "URL")]
        endpoint: String,
        /// The tenant of the events (slug or id); without it, with a platform key, all tenants
        #[arg(long, value_name = "TENANT")]
        tenant: Option<String>,
        /// Only events of this type, for example message.bounced; can be repeated. Default: all types
        #[arg(long = "event", value_name = "TYPE")]
        events: Vec<String>,
        /// The environment of the events: live or test; can be repeated. Default: that of the key
        #[arg(long = "environment", value_name = "ENVIRONMENT", value_parser = str::parse::<Environment>)]
        environments: Vec<Environment>,
    },
    /// Changes the URL or the events of a webhook
    Update {
        /// Its id: whk_…
        id: String,
        /// The new URL; it also receives the events that wait
        #[arg(long = "to", value_name = "URL")]
        endpoint: Option<String>,
        /// The types of events from now on; can be repeated
        #[arg(long = "event", value_name = "TYPE")]
        events: Vec<String>,
        /// All types of events from now on
        #[arg(long, conflicts_with = "events")]
        all_events: bool,
        /// The environments of the events from now on: live or test; can be repeated
        #[arg(long = "environment", value_name = "ENVIRONMENT", value_parser = str::parse::<Environment>)]
        environments: Vec<Environment>,
    },
    /// Enables a disabled webhook; it receives the events that wait
    Enable {
        /// Its id: whk_…
        id: String,
    },
    /// Disables a webhook; its events wait
    Disable {
        /// Its id: whk_…
        id: String,
    },
    /// Sends a test event
    Test {
        /// Its id: whk_…
        id: String,
    },
    /// Replaces the secret and shows the new one, once; the old one also signs for 24 hours
    RotateSecret {
        /// Its id: whk_…
        id: String,
    },
    /// Lists what was sent to a webhook, what waits and what failed, the newest first
    Deliveries {
        /// Its id: whk_…
        id: String,
        #[command(flatten)]
        page: PageArguments,
        /// Only deliveries with this status: pending, delivered or failed
        #[arg(long)]
        status: Option<String>,
    },
    /// Sends a delivery again, with the same id
    Replay {
        /// The id of the delivery: whd_…
        id: String,
    },
    /// Deletes a webhook; events that wait are not sent
    Delete {
        /// Its id: whk_…
        id: String,
        /// Deletes without asking
        #[arg(long)]
        yes: bool,
    },
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { server, command } = arguments;
    server.run(async |client| match command {
        Command::List { page, owner, status } => {
            let mut query = owner.query(&client).await?;
            query.extend(status.map(|status| ("status", status)));
            list(&client, &page, query).await
        }
        Command::Show { id } => print(&client, client.get(&path(&id)?, &Query::new()).await?).await,
        Command::Create { endpoint, tenant, events, environments } => {
            let mut body = json!({"url": endpoint, "events": events});
            if let Some(tenant) = tenant {
                body["tenant_id"] = client.tenant_id(&tenant).await?.into();
            }
            set_environments(&mut body, &environments);
            print_secret(&client, client.post(PATH, &body).await?).await
        }
        Command::Update { id, endpoint, events, all_events, environments } => {
            let mut body = json!({});
            if let Some(endpoint) = endpoint {
                body["url"] = endpoint.into();
            }
            if all_events || !events.is_empty() {
                body["events"] = events.into();
            }
            set_environments(&mut body, &environments);
            if body == json!({}) {
                anyhow::bail!("nothing to change: use --to, --event, --all-events or --environment");
            }
            print(&client, client.patch(&path(&id)?, &body).await?).await
        }
        Command::Enable { id } => set_status(&client, &id, "enabled").await,
        Command::Disable { id } => set_status(&client, &id, "disabled").await,
        Command::Test { id } => {
            let delivery = client.post(&format!("{}/test", path(&id)?), &json!({})).await?;
            client.print(&delivery, |delivery| {
                let delivery = text(delivery, "id");
                format!(
                    "the test event is queued as {delivery}: `pillarbox webhook deliveries {id}` shows it\n"
                )
            })
        }
        Command::RotateSecret { id } => {
            print_secret(&client, client.post(&format!("{}/rotate-secret", path(&id)?), &json!({})).await?)
                .await
        }
        Command::Deliveries { id, page, status } => {
            let query = status.map(|status| ("status", status)).into_iter().collect();
            deliveries(&client, &format!("{}/deliveries", path(&id)?), &page, query).await
        }
        Command::Replay { id } => {
            let path = object_path("webhook delivery", "whd_", &format!("{PATH}/deliveries"), &id)?;
            let delivery = client.post(&format!("{path}/replay"), &json!({})).await?;
            client.print(&delivery, |_| format!("{id} is queued again\n"))
        }
        Command::Delete { id, yes } => {
            let path = path(&id)?;
            if !yes {
                confirm(&format!("Delete the webhook {id}"))?;
            }
            let deleted = client.delete(&path, &Query::new()).await?;
            client.print(&deleted, |_| format!("{id} is deleted\n"))
        }
    })
}

fn set_environments(body: &mut Value, environments: &[Environment]) {
    if !environments.is_empty() {
        body["environments"] = json!(environments);
    }
}

fn path(id: &str) -> anyhow::Result<String> {
    object_path("webhook", "whk_", PATH, id)
}

async fn print(client: &ApiClient, webhook: Value) -> anyhow::Result<()> {
    client.print(&client.with_slugs(webhook).await, |webhook| object_text(webhook, LEADING))
}

async fn print_secret(client: &ApiClient, webhook: Value) -> anyhow::Result<()> {
    if client.output == OutputFormat::Text {
        eprintln!("The secret is shown only once.");
    }
    print(client, webhook).await
}

async fn set_status(client: &ApiClient, id: &str, status: &str) -> anyhow::Result<()> {
    let webhook = client.patch(&path(id)?, &json!({"status": status})).await?;
    client.print(&webhook, |webhook| format!("{id} is {}\n", text(webhook, "status")))
}

async fn list(client: &ApiClient, page: &PageArguments, query: Query) -> anyhow::Result<()> {
    let table = Table::new(["ID", "STATUS", "REASON", "TENANT", "URL", "EVENTS"]);
    let row = |webhook: &Value| {
        let tenant = if webhook["tenant_id"].is_null() { "all".to_owned() } else { tenant_of(webhook) };
        let events = Some(texts(webhook, "events")).filter(|events| events != "-");
        [
            text(webhook, "id"),
            text(webhook, "status"),
            text(webhook, "disabled_reason"),
            tenant,
            text(webhook, "url"),
            events.unwrap_or_else(|| "all".to_owned()),
        ]
    };
    page.print(client, PATH, query, table, row).await
}

async fn deliveries(
    client: &ApiClient,
    path: &str,
    page: &PageArguments,
    query: Query,
) -> anyhow::Result<()> {
    let table = Table::new(["ID", "STATUS", "EVENT", "CREATED", "ATTEMPTS", "NEXT", "LAST RESPONSE"]);
    let row = |delivery: &Value| {
        let last = &delivery["last_attempt"];
        let code = last["response_code"].as_u64().map(|code| code.to_string());
        [
            text(delivery, "id"),
            text(delivery, "status"),
            text(&delivery["event"], "type"),
            when(delivery, "created_at"),
            text(delivery, "attempts"),
            when(delivery, "next_attempt_at"),
            code.unwrap_or_else(|| text(last, "error")),
        ]
    };
    page.print(client, path, query, table, row).await
}
