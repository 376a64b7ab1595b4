//! Lists of the API: as many pages of them as are wanted.

use serde_json::{Value, json};

use super::api_client::{ApiClient, Query};
use super::table::Table;

/// Objects of one page.
const PAGE_OBJECTS_MAX: u16 = 100;

/// How much of a list.
#[derive(Debug, clap::Args)]
pub(super) struct Extent {
    /// How many to show, the newest first
    #[arg(long, value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    limit: u16,
    /// Continues after this cursor, which the previous page printed
    #[arg(long, value_name = "CURSOR")]
    after: Option<String>,
}

impl Extent {
    /// Shows a list: as JSON, or as a table that `row` adds a row to.
    pub(super) async fn show<const N: usize>(
        &self,
        client: &ApiClient,
        path: &str,
        query: Query,
        table: Table<N>,
        row: impl Fn(&Value) -> [String; N],
    ) -> anyhow::Result<()> {
        let page = async |limit, after| get_page(client, path, &query, limit, after).await;
        client.show(&self.fetch(page).await?, |list| tell(list, table, row))
    }

    /// As many pages as are wanted, as one; `page` gives one of so many objects, behind a place.
    pub(super) async fn fetch(
        &self,
        page: impl AsyncFn(usize, Option<String>) -> anyhow::Result<Value>,
    ) -> anyhow::Result<Value> {
        let mut gathered = Vec::new();
        let mut cursor = self.after.clone();
        loop {
            let wanted = (usize::from(self.limit) - gathered.len()).min(PAGE_OBJECTS_MAX.into());
            let mut page = page(wanted, cursor).await?;
            gathered.extend(take_data(&mut page));
            cursor = page["next_cursor"].as_str().map(str::to_owned);
            if gathered.len() >= self.limit.into() || cursor.is_none() {
                return Ok(json!({
                    "object": "list", "data": gathered, "has_more": cursor.is_some(), "next_cursor": cursor,
                }));
            }
        }
    }
}

/// A list for people, and how to see more of it.
pub(super) fn tell<const N: usize>(
    list: &Value,
    mut table: Table<N>,
    row: impl Fn(&Value) -> [String; N],
) -> String {
    let objects = list["data"].as_array().map(Vec::as_slice).unwrap_or_default();
    objects.iter().for_each(|object| table.add(row(object)));
    let mut told = table.render();
    if objects.is_empty() {
        told += "nothing found\n";
    }
    if let Some(cursor) = list["next_cursor"].as_str() {
        told += &format!("there may be more: --after {cursor} shows the next page, --limit a longer one\n");
    }
    told
}

/// All objects of a list.
pub(super) async fn all_pages(client: &ApiClient, path: &str, query: Query) -> anyhow::Result<Vec<Value>> {
    let (mut found, mut cursor) = (Vec::new(), None);
    loop {
        let mut page = get_page(client, path, &query, PAGE_OBJECTS_MAX.into(), cursor).await?;
        found.extend(take_data(&mut page));
        cursor = page["next_cursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            return Ok(found);
        }
    }
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

fn take_data(page: &mut Value) -> Vec<Value> {
    match page["data"].take() {
        Value::Array(objects) => objects,
        _ => Vec::new(),
    }
}
