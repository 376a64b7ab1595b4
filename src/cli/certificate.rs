//! `pillarbox certificate`: where the certificate comes from, and how it is renewed.

use clap::Subcommand;
use serde_json::{Value, json};

use super::api_client::{Query, ServerArguments};
use super::output::{object_text, text};

const PATH: &str = "/v1/certificate";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows the certificate, its renewal, and the records for dns-persist-01
    Show,
    /// Orders a new certificate now
    Renew,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { server, command } = arguments;
    server.run(async |client| {
        let certificate = match command {
            Command::Show => client.get(PATH, &Query::new()).await?,
            Command::Renew => client.post(&format!("{PATH}/renew"), &json!({})).await?,
        };
        client.print(&certificate, certificate_text)
    })
}

/// The fields, then the records to set.
fn certificate_text(certificate: &Value) -> String {
    let mut lines = object_text(certificate, &["source", "expires_at"]);
    for record in certificate["acme"]["records"].as_array().into_iter().flatten() {
        lines += &format!("\nTXT {} {}\n", text(record, "name"), text(record, "value"));
    }
    lines
}
