//! `pillarbox rotate-tokens`: new keys for the addresses that reports come to and for unsubscribe links.

use serde_json::json;

use super::api_client::ServerArguments;
use super::output::{confirm, text};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    /// Refuses the earlier generations now: reports about mail that was sent before are lost, and its unsubscribe links do
    /// not work
    #[arg(long)]
    at_once: bool,
    /// Refuses them without asking
    #[arg(long)]
    yes: bool,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { server, at_once, yes } = arguments;
    if at_once && !yes {
        confirm("Refuse all earlier report addresses and unsubscribe links")?;
    }
    server.run(async |client| {
        let rotated = client.post("/v1/tokens/rotate", &json!({ "at_once": at_once })).await?;
        client.print(&rotated, |rotated| {
            let generation = text(rotated, "generation");
            let earlier = match at_once {
                true => "addresses and links of earlier ones are refused",
                false => "addresses of earlier ones work for 60 days more, links for ever",
            };
            format!("generation {generation} is in use; {earlier}\n")
        })
    })
}
