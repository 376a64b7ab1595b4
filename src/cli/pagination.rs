//! Lists of the API, which come in pages.

use anyhow::Context;
use serde_json::{Value, json};

use super::api_client::{ApiClient, Query};
use super::table::Table;
use crate::mail::{SignedDuration, Timestamp};
use crate::model::Environment;
use crate::store::PAGE_OBJECTS_MAX;

/// The part of a list to show.
#[derive(Debug, clap::Args)]
pub(super) struct PageArguments {
    /// How many to show, the newest first
    #[arg(long, value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    limit: u16,
    /// Continues after this cursor, which the previous page printed
    #[arg(long, value_name = "CURSOR")]
    after: Option<String>,
}

/// Whose objects a command is about.
#[derive(Debug, clap::Args)]
pub(super) struct OwnerArguments {
    /// The tenant (slug or id); not needed with a key of that tenant
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// The environment: live or test. Without it, that of the key; with a platform key, lists show both
    #[arg(long, value_parser = str::parse::<Environment>)]
    environment: Option<Environment>,
}

impl OwnerArguments {
    pub(super) async fn query(&self, client: &ApiClient) -> anyhow::Result<Query> {
        let mut query = client.tenant_parameter(self.tenant.as_deref()).await?;
        query.extend(self.environment.map(|environment| ("environment", environment.to_string())));
        Ok(query)
    }
}

/// The age of the objects to show.
#[derive(Debug, clap::Args)]
pub(super) struct SinceArgument {
    /// Only what is not older than this, for example 2h
    #[arg(long, value_name = "DURATION")]
    since: Option<SignedDuration>,
}

impl SinceArgument {
    pub(super) fn parameter(&self) -> anyhow::Result<Option<(&'static str, String)>> {
        let since = self.since.map(|span| Timestamp::now().checked_sub(span)).transpose();
        Ok(since.context("--since is too long")?.map(|at| ("created_after", at.to_string())))
    }
}

impl PageArguments {
    /// Prints a list as JSON, or as a table with one `row` for each object.
    pub(super) async fn print<const N: usize>(
        &self,
        client: &ApiClient,
        path: &str,
        query: Query,
        table: Table<N>,
        row: impl Fn(&Value) -> [String; N],
    ) -> anyhow::Result<()> {
        let get_page = async |limit, after| get_page(client, path, &query, limit, after).await;
        let list = client.with_slugs(self.fetch(get_page).await?).await;
        client.print(&list, |list| list_text(list, table, row))
    }

    /// As many pages as the limit needs, joined into one. `get_page` gets the number of objects and the cursor.
    pub(super) async fn fetch(
        &self,
        get_page: impl AsyncFn(usize, Option<String>) -> anyhow::Result<Value>,
    ) -> anyhow::Result<Value> {
        let (objects, cursor) = fetch(self.limit.into(), self.after.clone(), get_page).await?;
        Ok(json!({"object": "list", "data": objects, "has_more": cursor.is_some(), "next_cursor": cursor}))
    }
}

/// Up to `limit` objects after the cursor, and the cursor of the rest.
pub(super) async fn fetch(
    limit: usize,
    mut cursor: Option<String>,
    get_page: impl AsyncFn(usize, Option<String>) -> anyhow::Result<Value>,
) -> anyhow::Result<(Vec<Value>, Option<String>)> {
    let mut objects = Vec::new();
    loop {
        let mut page = get_page((limit - objects.len()).min(PAGE_OBJECTS_MAX), cursor).await?;
        if let Value::Array(data) = page["data"].take() {
            objects.extend(data);
        }
        cursor = page["next_cursor"].as_str().map(str::to_owned);
        if objects.len() >= limit || cursor.is_none() {
            return Ok((objects, cursor));
        }
    }
}

/// A list as a table, and how to see more of it.
pub(super) fn list_text<const N: usize>(
    list: &Value,
    mut table: Table<N>,
    row: impl Fn(&Value) -> [String; N],
) -> String {
    let objects = list["data"].as_array().map(Vec::as_slice).unwrap_or_default();
    objects.iter().for_each(|object| table.add(row(object)));
    let mut text = if table.is_empty() { "nothing found\n".to_owned() } else { table.render() };
    if let Some(cursor) = list["next_cursor"].as_str() {
        text += &format!("there may be more: --after {cursor} shows the next page, --limit a longer one\n");
    }
    text
}

/// All objects of a list.
pub(super) async fn fetch_all(client: &ApiClient, path: &str, query: Query) -> anyhow::Result<Vec<Value>> {
    let get_page = async |limit, after| get_page(client, path, &query, limit, after).await;
    Ok(fetch(usize::MAX, None, get_page).await?.0)
}

async fn get_page(
    client: &ApiClient,
    path: &str,
    query: &Query,
    limit: usize,
    after: Option<String>,
) -> anyhow::Result<Value> {
    let mut query = query.clone();
    query.push(("limit", limit.to_string()));
    query.extend(after.map(|cursor| ("after", cursor)));
    client.get(path, &query).await
}
