//! `pillarbox queue`: shows the queue and why mail waits; pauses, resumes and flushes parts of it.

use anyhow::bail;
use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::api_client::{ApiClient, Query, ServerArguments};
use super::expiry;
use super::name_lookup::tenant_of;
use super::output::{counted, relative, text, time, utc};
use super::table::{Table, printable};
use crate::mail::{SignedDuration, Timestamp};

/// Groups in one page of the API.
const GROUPS_MAX: i64 = 100;

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: ListArguments,
}

/// The part of the queue that a command is for.
#[derive(Debug, clap::Args)]
struct FilterArguments {
    /// Only this tenant's mail (slug or id)
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// Only mail for this domain
    #[arg(long, value_name = "DOMAIN")]
    destination: Option<String>,
}

#[derive(Debug, clap::Args)]
struct ListArguments {
    #[command(flatten)]
    filter: FilterArguments,
    /// How many groups to show, the largest first
    #[arg(long, value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(u8).range(1..=GROUPS_MAX))]
    limit: u8,
    /// Continues after this cursor, which the previous page printed
    #[arg(long, value_name = "CURSOR")]
    after: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows what waits and why, by tenant and destination (default)
    List(ListArguments),
    /// Pauses the mail of a tenant, to a destination, or both, or all mail; deliveries in flight finish
    Pause {
        #[command(flatten)]
        filter: FilterArguments,
        /// Pauses all mail
        #[arg(long, conflicts_with_all = ["tenant", "destination"])]
        all: bool,
        /// The reason, shown with the queue
        #[arg(long)]
        reason: Option<String>,
        /// Ends the pause after this time, for example 2h; without it, resume ends it
        #[arg(long = "for", value_name = "DURATION")]
        duration: Option<SignedDuration>,
    },
    /// Ends a pause; name the same tenant and destination as for the pause, or --all
    Resume {
        #[command(flatten)]
        filter: FilterArguments,
        /// Ends the pause of all mail; pauses of tenants and destinations stay
        #[arg(long, conflicts_with_all = ["tenant", "destination", "restored"])]
        all: bool,
        /// Releases what waits because the server was restored from a backup; it may be delivered a second time
        #[arg(long)]
        restored: bool,
    },
    /// Retries deferred mail now
    Flush {
        #[command(flatten)]
        filter: FilterArguments,
    },
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { server, command, list } = arguments;
    server.run(async |client| match command.unwrap_or(Command::List(list)) {
        Command::List(list) => list.run(&client).await,
        Command::Pause { filter, all, reason, duration } => {
            filter.require_part(all, "name the mail to pause: --tenant, --destination or both, or --all")?;
            pause(&client, &filter, reason, duration).await
        }
        Command::Resume { filter, restored: true, .. } => release(&client, &filter).await,
        Command::Resume { filter, all, restored: false } => {
            filter.require_part(
                all,
                "name the pause as for `queue pause`: --tenant, --destination or both, or --all",
            )?;
            resume(&client, &filter).await
        }
        Command::Flush { filter } => flush(&client, &filter).await,
    })
}

impl FilterArguments {
    async fn resolve(&self, client: &ApiClient) -> anyhow::Result<Query> {
        let mut fields = client.tenant_parameter(self.tenant.as_deref()).await?;
        fields.extend(self.destination.clone().map(|destination| ("destination", destination)));
        Ok(fields)
    }

    async fn body(&self, client: &ApiClient) -> anyhow::Result<Map<String, Value>> {
        let fields = self.resolve(client).await?;
        Ok(fields.into_iter().map(|(name, value)| (name.to_owned(), Value::String(value))).collect())
    }

    fn require_part(&self, all: bool, hint: &'static str) -> anyhow::Result<()> {
        if !all && self.tenant.is_none() && self.destination.is_none() {
            bail!(hint);
        }
        Ok(())
    }
}

impl ListArguments {
    async fn run(&self, client: &ApiClient) -> anyhow::Result<()> {
        let mut query = self.filter.resolve(client).await?;
        query.push(("limit", self.limit.to_string()));
        query.extend(self.after.clone().map(|cursor| ("after", cursor)));
        let queue = client.with_slugs(client.get("/v1/queue", &query).await?).await;
        client.print(&queue, |queue| queue_text(queue, Timestamp::now()))
    }
}

async fn pause(
    client: &ApiClient,
    filter: &FilterArguments,
    reason: Option<String>,
    duration: Option<SignedDuration>,
) -> anyhow::Result<()> {
    let mut body = filter.body(client).await?;
    body.extend(reason.map(|reason| ("reason".to_owned(), json!(reason))));
    if let Some(duration) = duration {
        body.insert("until".to_owned(), json!(expiry(duration)?));
    }
    let pause = client.post("/v1/queue/pause", &body.into()).await?;
    client.print(&client.with_slugs(pause).await, |pause| pause_text(pause, Timestamp::now()))
}

async fn resume(client: &ApiClient, filter: &FilterArguments) -> anyhow::Result<()> {
    let resumed = client.post("/v1/queue/resume", &filter.body(client).await?.into()).await?;
    let resumed = client.with_slugs(resumed).await;
    // The other pauses hold mail that people may expect to go now.
    let queue = client.get("/v1/queue", &vec![("limit", "1".to_owned())]).await?;
    let others = queue["pauses"].as_array().map_or(0, Vec::len) as u64;
    client.print(&resumed, |resumed| {
        let others = match others {
            0 => String::new(),
            count => format!(
                "; {}: see `pillarbox queue`",
                counted(count, "other pause stays", "other pauses stay")
            ),
        };
        format!("resumed: {}{others}\n", mail_of(resumed))
    })
}

async fn release(client: &ApiClient, filter: &FilterArguments) -> anyhow::Result<()> {
    let mut body = filter.body(client).await?;
    body.insert("restored".to_owned(), json!(true));
    let released = client.post("/v1/queue/resume", &body.into()).await?;
    client.print(&released, |released| {
        let count = released["released"].as_u64().unwrap_or(0);
        counted(count, "restored delivery is released\n", "restored deliveries are released\n")
    })
}

async fn flush(client: &ApiClient, filter: &FilterArguments) -> anyhow::Result<()> {
    let flushed = client.post("/v1/queue/flush", &filter.body(client).await?.into()).await?;
    client.print(&flushed, |flushed| {
        let count = flushed["flushed"].as_u64().unwrap_or(0);
        counted(count, "delivery is due now\n", "deliveries are due now\n")
    })
}

/// The pauses, the table of the groups and the totals.
fn queue_text(queue: &Value, now: Timestamp) -> String {
    let empty = Vec::new();
    let list = |name: &str| queue[name].as_array().unwrap_or(&empty).clone();
    let mut table = Table::new(["TENANT", "DESTINATION", "OPEN", "OLDEST", "NEXT", "WHY"]);
    for group in list("data") {
        let at = |name: &str| time(&group[name]).map_or("-".to_owned(), |at| relative(at, now));
        let reasons = group["reasons"].as_array().unwrap_or(&empty);
        table.add([
            group["tenant_slug"].as_str().map_or_else(|| text(&group, "tenant_id"), str::to_owned),
            text(&group, "destination"),
            group["open"].to_string(),
            at("oldest_at"),
            at("next_due_at"),
            reasons.iter().map(|reason| reason_text(reason, now)).collect::<Vec<_>>().join("; "),
        ]);
    }
    let mut shown = String::new();
    if let Some(taken_at) = time(&queue["restoration"]["taken_at"]) {
        shown += &format!(
            "restored from the backup of {}: what was open then waits until `pillarbox queue resume --restored`\n",
            utc(taken_at)
        );
    }
    for pause in list("pauses") {
        shown += &pause_text(&pause, now);
    }
    if !table.is_empty() {
        shown += &table.render();
    }
    let [open, in_flight, due, paused, deferred] =
        ["open", "in_flight", "due", "paused", "deferred"].map(|name| queue[name].as_u64().unwrap_or(0));
    shown += &counted(open, "delivery waits", "deliveries wait");
    shown += &format!(": {in_flight} in flight, {due} due, {deferred} deferred, {paused} paused\n");
    let groups = queue["group_count"].as_u64().unwrap_or(0);
    let (listed, truncated) = (table_rows(queue), queue["truncated"] == true);
    if groups > listed || truncated {
        let more = if truncated { "more than " } else { "" };
        shown += &format!("this is {listed} of {more}{groups} groups");
        if let Some(cursor) = queue["next_cursor"].as_str() {
            shown += &format!("; --after {cursor} shows the next ones, --limit up to {GROUPS_MAX} at once");
        }
        shown += "\n";
    }
    shown
}

/// Like `paused: mail of acme to b.test, until 2026-01-01 12:00:00Z (in 5 m): repairs`.
fn pause_text(pause: &Value, now: Timestamp) -> String {
    let end = time(&pause["until"])
        .map_or("until resumed".to_owned(), |at| format!("until {} ({})", utc(at), relative(at, now)));
    let reason = pause["reason"].as_str().map_or(String::new(), |reason| format!(": {reason}"));
    printable(&format!("paused: {}, {end}{reason}", mail_of(pause))) + "\n"
}

/// The mail that a pause is for.
fn mail_of(pause: &Value) -> String {
    let tenant =
        if pause["tenant_id"].is_null() { String::new() } else { format!(" of {}", tenant_of(pause)) };
    let destination = pause["destination"].as_str().map_or(String::new(), |host| format!(" to {host}"));
    let all = if tenant.is_empty() && destination.is_empty() { "all " } else { "" };
    format!("{all}mail{tenant}{destination}")
}

fn table_rows(queue: &Value) -> u64 {
    queue["data"].as_array().map_or(0, |groups| groups.len() as u64)
}

/// Like `3 deferred, next try in 5 m (451 4.7.1 greylisted)`.
fn reason_text(reason: &Value, now: Timestamp) -> String {
    let count = reason["count"].as_u64().map_or(String::new(), |count| format!("{count} "));
    let kind = text(reason, "reason");
    let what = if kind == "deferred" || kind == "scheduled" { "next try" } else { "ends" };
    let until = time(&reason["until"]).filter(|at| *at > now);
    let until = until.map_or(String::new(), |at| format!(", {what} {}", relative(at, now)));
    let detail = reason["detail"].as_str().map_or(String::new(), |detail| format!(" ({detail})"));
    format!("{count}{}{until}{detail}", kind.replace('_', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_is_printed_with_its_pauses_and_reasons() {
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        let queue = json!({
            "open": 5, "in_flight": 0, "due": 1, "paused": 0, "deferred": 4, "group_count": 2, "truncated": false, "next_cursor": "c1",
            "pauses": [
                {"tenant_id": null, "destination": "b.test", "reason": "repairs", "until": null},
                {"tenant_id": null, "destination": null, "reason": null, "until": "2026-01-01T14:00:00Z"},
            ],
            "data": [{
                "tenant_id": "tnt_1", "tenant_slug": "acme", "destination": "b.test", "open": 5,
                "oldest_at": "2026-01-01T10:00:00Z", "next_due_at": "2026-01-01T12:05:00Z",
                "reasons": [
                    {"reason": "paused", "count": null, "until": null, "detail": "repairs"},
                    {"reason": "deferred", "count": 4, "until": "2026-01-01T12:05:00Z", "detail": "451 later"},
                ],
            }],
        });
        let shown = queue_text(&queue, now);
        assert_eq!(
            shown,
            "paused: mail to b.test, until resumed: repairs\n\
             paused: all mail, until 2026-01-01 14:00:00Z (in 2 h)\n\
             TENANT  DESTINATION  OPEN  OLDEST   NEXT    WHY\n\
             acme    b.test       5     2 h ago  in 5 m  paused (repairs); 4 deferred, next try in 5 m (451 later)\n\
             5 deliveries wait: 0 in flight, 1 due, 4 deferred, 0 paused\n\
             this is 1 of 2 groups; --after c1 shows the next ones, --limit up to 100 at once\n"
        );
        let last = json!({"open": 1, "group_count": 2, "next_cursor": null, "data": [queue["data"][0]]});
        assert!(queue_text(&last, now).ends_with("this is 1 of 2 groups\n"));
    }
}
