//! `pillarbox ban`: networks and keys that may not log in over SMTP for a while.

use clap::Subcommand;
use serde_json::Value;

use super::api_client::{ApiClient, Query, ServerArguments};
use super::output::{text, when};
use super::pagination::list_text;
use super::table::Table;
use crate::limits::auth_limiter::BanSubject;

const PATH: &str = "/v1/bans";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists the bans in force
    List,
    /// Lifts a ban
    Lift {
        /// The banned network or an address in it, or the id of the banned key
        ban: String,
    },
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { server, command } = arguments;
    server.run(async |client| match command {
        Command::List => list(&client).await,
        Command::Lift { ban } => {
            // Of a network, its address selects the ban.
            let id = ban.split_once('/').map_or(ban.as_str(), |(address, _)| address);
            if BanSubject::parse(id).is_none() {
                anyhow::bail!("{ban} is neither a network or address nor the id of a key; `pillarbox ban list` shows all bans");
            }
            let lifted = client.delete(&format!("{PATH}/{id}"), &Query::new()).await?;
            client.print(&lifted, |_| format!("the ban of {ban} is lifted\n"))
        }
    })
}

async fn list(client: &ApiClient) -> anyhow::Result<()> {
    let table = Table::new(["NETWORK OR KEY", "FAILED LOGINS", "BANNED", "ENDS"]);
    let row = |ban: &Value| {
        let subject = if ban["network"].is_null() { text(ban, "key_id") } else { text(ban, "network") };
        [subject, text(ban, "failures"), when(ban, "created_at"), when(ban, "expires_at")]
    };
    let bans = client.get(PATH, &Query::new()).await?;
    client.print(&bans, |bans| list_text(bans, table, row))
}
