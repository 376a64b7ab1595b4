//! `pillarbox rejection`: submissions that the server refused.

use clap::Subcommand;
use serde_json::Value;

use super::api_client::ServerArguments;
use super::name_lookup::tenant_of;
use super::output::{text, when};
use super::pagination::{OwnerArguments, PageArguments, SinceArgument};
use super::table::Table;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists refused submissions, the newest first
    List {
        #[command(flatten)]
        page: PageArguments,
        #[command(flatten)]
        owner: OwnerArguments,
        #[command(flatten)]
        since: SinceArgument,
    },
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { server, command: Command::List { page, owner, since } } = arguments;
    server.run(async |client| {
        let mut query = owner.query(&client).await?;
        query.extend(since.parameter()?);
        let table = Table::new(["REFUSED", "TENANT", "CLIENT", "STAGE", "CODE", "ID", "MESSAGE"]);
        page.print(&client, "/v1/rejections", query, table, row).await
    })
}

fn row(rejection: &Value) -> [String; 7] {
    [
        when(rejection, "created_at"),
        tenant_of(rejection),
        text(rejection, "client_address"),
        text(rejection, "stage"),
        text(rejection, "code"),
        text(rejection, "id"),
        text(rejection, "message"),
    ]
}
