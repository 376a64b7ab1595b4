//! `pillarbox event`: the events of the past; `tail` follows new ones.

use clap::Subcommand;
use serde_json::Value;

use super::api_client::ServerArguments;
use super::name_lookup::tenant_of;
use super::output::{text, time, utc};
use super::pagination::{OwnerArguments, PageArguments, SinceArgument};
use super::table::{Table, printable};

/// The fields of an event's data that say what it is about, beside its recipient.
const SUBJECTS: &[&str] = &["address", "domain", "name"];
/// The other fields of an event's data that people read.
const DETAILS: &[&str] = &["code", "reply", "reason"];

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists events, the newest first
    List {
        #[command(flatten)]
        page: PageArguments,
        #[command(flatten)]
        owner: OwnerArguments,
        /// Only events of this type, for example message.bounced
        #[arg(long = "type", value_name = "TYPE")]
        kind: Option<String>,
        /// Only events of this message: msg_…
        #[arg(long, value_name = "ID")]
        message: Option<String>,
        #[command(flatten)]
        since: SinceArgument,
    },
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { server, command: Command::List { page, owner, kind, message, since } } = arguments;
    server.run(async |client| {
        let mut query = owner.query(&client).await?;
        query.extend(kind.map(|kind| ("type", kind)));
        query.extend(message.map(|message| ("message_id", message)));
        query.extend(since.parameter()?);
        let table = Table::new(["TIME", "TYPE", "TENANT", "ABOUT", "ID", "DETAILS"]);
        page.print(&client, "/v1/events", query, table, row).await
    })
}

fn row(event: &Value) -> [String; 6] {
    [at(event), text(event, "type"), tenant_of(event), subject(event), text(event, "id"), details(event)]
}

fn at(event: &Value) -> String {
    time(&event["created_at"]).map_or("-".to_owned(), utc)
}

/// The recipient, address or domain, else the message.
fn subject(event: &Value) -> String {
    let of_data = SUBJECTS.iter().map(|field| &event["data"][*field]);
    let subjects = [&event["recipient"]].into_iter().chain(of_data).chain([&event["message_id"]]);
    subjects.filter_map(Value::as_str).next().unwrap_or("-").to_owned()
}

fn details(event: &Value) -> String {
    let details = DETAILS.iter().filter_map(|field| event["data"][*field].as_str());
    details.collect::<Vec<_>>().join("; ")
}

/// An event on one line: time, type, recipient or another subject, message, details.
pub(super) fn event_text(event: &str) -> String {
    let event: Value = serde_json::from_str(event).unwrap_or_default();
    let subject = Some(subject(&event)).filter(|subject| subject != "-");
    let subject = subject.unwrap_or_else(|| tenant_of(&event));
    let message = event["message_id"].as_str().filter(|id| *id != subject).unwrap_or_default();
    let (at, kind, details) = (at(&event), format!("{:<20}", text(&event, "type")), details(&event));
    let parts = [at.as_str(), &kind, &subject, message, &details];
    let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty() && *part != "-").collect();
    printable(parts.join("  ").trim_end()) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_is_one_line_without_control_characters() {
        let event = json!({
            "created_at": "2026-01-01T12:00:00Z", "type": "message.bounced", "recipient": "a@b.test",
            "message_id": "msg_1", "data": {"reply": "550 no\u{1b}[2J\r\nsuch user"},
        });
        assert_eq!(
            event_text(&event.to_string()),
            "2026-01-01 12:00:00Z  message.bounced       a@b.test  msg_1  550 no [2J  such user\n"
        );
    }
}
