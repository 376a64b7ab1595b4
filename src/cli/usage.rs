//! `pillarbox usage`: what tenants used in a month.

use serde_json::{Value, json};

use super::api_client::{ApiClient, Query, ServerArguments};
use super::output::text;
use super::pagination::{fetch, list_text};
use super::table::Table;

const PATH: &str = "/v1/usage";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    /// The month, for example 2026-01; the current month by default
    #[arg(long, value_name = "MONTH")]
    period: Option<String>,
    /// A line for each tenant, key, domain or day
    #[arg(long, value_name = "GROUP", default_value = "tenant")]
    group_by: String,
    /// Only this tenant (slug or id)
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// The environment of the counts: live or test
    #[arg(long)]
    environment: Option<String>,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { server, period, group_by, tenant, environment } = arguments;
    server.run(async |client| {
        let mut query = client.tenant_parameter(tenant.as_deref()).await?;
        query.extend(period.map(|period| ("period", period)));
        query.extend(environment.map(|environment| ("environment", environment)));
        query.push(("group_by", group_by.clone()));
        print(&client, query, &group_by).await
    })
}

async fn print(client: &ApiClient, query: Query, group: &str) -> anyhow::Result<()> {
    let table = Table::new([
        "TENANT",
        "OF",
        "SENT",
        "DELIVERED",
        "BOUNCED",
        "LATER",
        "COMPLAINED",
        "UNSUBSCRIBED",
        "REJECTED",
        "TEST",
    ]);
    let part = match group {
        "key" => "key_id",
        "domain" => "domain",
        "day" => "date",
        _ => "period",
    };
    let row = |usage: &Value| {
        let part = usage[part].as_str().unwrap_or("-");
        let part = if group == "day" { part.get(..10).unwrap_or(part) } else { part };
        [
            text(usage, "tenant_slug"),
            part.to_owned(),
            text(usage, "emails_sent"),
            text(usage, "emails_delivered"),
            text(usage, "emails_bounced"),
            text(usage, "emails_bounced_late"),
            text(usage, "emails_complained"),
            text(usage, "emails_unsubscribed"),
            text(usage, "emails_rejected"),
            text(usage, "email_test"),
        ]
    };
    let all = fetch_all(client, query).await?;
    client.print(&all, |list| list_text(list, table, row))
}

/// All sums; a response has some thousands.
async fn fetch_all(client: &ApiClient, query: Query) -> anyhow::Result<Value> {
    let get_page = async |_, after: Option<String>| {
        let mut query = query.clone();
        query.extend(after.map(|cursor| ("after", cursor)));
        client.get(PATH, &query).await
    };
    let (sums, _) = fetch(usize::MAX, None, get_page).await?;
    Ok(json!({"object": "list", "data": sums, "has_more": false, "next_cursor": null}))
}
