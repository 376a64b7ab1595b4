//! `pillarbox report`: what other servers sent back.

mod parse;

use clap::Subcommand;
use serde_json::Value;

use super::api_client::{ApiClient, Query, ServerArguments};
use super::name_lookup::{object_path, tenant_of};
use super::output::{object_text, text, when};
use super::pagination::{OwnerArguments, PageArguments, SinceArgument};
use super::table::Table;

const PATH: &str = "/v1/reports";
/// The fields of a report that are shown first.
const LEADING: &[&str] = &["id", "kind", "effect", "tenant", "recipient", "reply"];

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists reports about messages, the newest first
    List {
        #[command(flatten)]
        server: ServerArguments,
        #[command(flatten)]
        filter: FilterArguments,
    },
    /// Shows a report
    Show {
        #[command(flatten)]
        server: ServerArguments,
        /// Its id: rpt_…
        id: String,
    },
    /// Shows how a bounce, a complaint or another report is read; needs no server
    Parse(parse::Arguments),
}

#[derive(Debug, clap::Args)]
struct FilterArguments {
    #[command(flatten)]
    page: PageArguments,
    #[command(flatten)]
    owner: OwnerArguments,
    #[command(flatten)]
    since: SinceArgument,
    /// Only reports about this message: msg_…
    #[arg(long, value_name = "ID")]
    message: Option<String>,
    /// Only reports of this kind: dsn, prose, complaint, unsubscribe, auto_reply, receipt or other
    #[arg(long)]
    kind: Option<String>,
    /// Only reports with this effect, for example bounced or indirect
    #[arg(long)]
    effect: Option<String>,
    /// Only reports that belong to no message; needs a platform key
    #[arg(long, conflicts_with_all = ["tenant", "message", "environment"])]
    unattributed: bool,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    match arguments.command {
        Command::List { server, filter } => server.run(async |client| list(&client, filter).await),
        Command::Show { server, id } => server.run(async |client| {
            let report = client.get(&object_path("report", "rpt_", PATH, &id)?, &Query::new()).await?;
            let report = client.with_slugs(report).await;
            client.print(&report, |report| object_text(report, LEADING))
        }),
        Command::Parse(arguments) => parse::run(&arguments),
    }
}

async fn list(client: &ApiClient, filter: FilterArguments) -> anyhow::Result<()> {
    let FilterArguments { page, owner, since, message, kind, effect, unattributed } = filter;
    let mut query = owner.query(client).await?;
    query.extend(since.parameter()?);
    query.extend(message.map(|id| ("message_id", id)));
    query.extend(kind.map(|kind| ("kind", kind)));
    query.extend(effect.map(|effect| ("effect", effect)));
    query.extend(unattributed.then(|| ("tenant_id", "null".to_owned())));
    let table = Table::new(["RECEIVED", "TENANT", "KIND", "EFFECT", "TIMES", "RECIPIENT", "ID", "MESSAGE"]);
    page.print(client, PATH, query, table, row).await
}

fn row(report: &Value) -> [String; 8] {
    [
        when(report, "last_received_at"),
        if report["tenant_id"].is_null() { "-".to_owned() } else { tenant_of(report) },
        text(report, "kind"),
        text(report, "effect"),
        text(report, "times"),
        text(report, "recipient"),
        text(report, "id"),
        text(report, "message_id"),
    ]
}
