//! `pillarbox message`: messages and their delivery.

use std::io::{Write, stdout};
use std::path::{Path, PathBuf};

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::api_client::{ApiClient, METADATA, Query, ServerArguments};
use super::input::{read_file, read_json, read_text};
use super::name_lookup::object_path;
use super::output::{object_text, table_below, text, texts, time, utc, when};
use super::pagination::{PageArguments, SinceArgument};
use super::table::{Table, printable};
use crate::mail::Timestamp;

const PATH: &str = "/v1/emails";
/// The fields of a message that are shown first.
const LEADING: &[&str] = &["id", "status", "tenant", "from", "to", "subject"];

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists messages, the newest first
    List {
        #[command(flatten)]
        page: PageArguments,
        #[command(flatten)]
        filter: Box<Filter>,
    },
    /// Shows a message and the state of each recipient
    Show {
        /// Its id: msg_…
        id: String,
    },
    /// Shows all events and delivery attempts of a message, in order
    Timeline {
        /// Its id: msg_…
        id: String,
        /// Includes the SMTP dialogues
        #[arg(long)]
        transcript: bool,
    },
    /// Prints the message as it is sent
    Raw {
        /// Its id: msg_…
        id: String,
    },
    /// Sends a message; prints its id
    Send(Box<Draft>),
    /// Retries deferred deliveries now
    Retry {
        /// Its id: msg_…
        id: String,
    },
    /// Cancels deliveries that are not in flight
    Cancel {
        /// Its id: msg_…
        id: String,
    },
}

#[derive(Debug, clap::Args)]
struct Filter {
    /// Only messages of this tenant (slug or id)
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// Only messages with this status: queued, deferred, delivered, bounced, expired or cancelled
    ///
    /// The status of a message with several recipients is queued or deferred while one of them waits, then the worst.
    #[arg(long)]
    status: Option<String>,
    /// Only messages with at least one recipient in this state, whatever the status of the message is
    #[arg(long, value_name = "STATUS")]
    delivery_status: Option<String>,
    /// Only messages to this recipient
    #[arg(long, value_name = "ADDRESS")]
    to: Option<String>,
    /// Only messages from this envelope sender
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
    /// Only messages with this tag
    #[arg(long)]
    tag: Option<String>,
    /// Only messages with a recipient in this domain
    #[arg(long, value_name = "DOMAIN")]
    recipient_domain: Option<String>,
    /// Only messages with this member of their metadata; can be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    metadata: Vec<String>,
    /// Only messages that this key sent: key_…
    #[arg(long, value_name = "ID")]
    key: Option<String>,
    /// Only messages of this list
    #[arg(long, value_name = "NAME")]
    list: Option<String>,
    /// Only messages with this Message-ID
    #[arg(long)]
    message_id: Option<String>,
    /// Only messages of this environment: live or test
    #[arg(long)]
    environment: Option<String>,
    /// Only messages of this kind: message (default), report or confirmation
    #[arg(long)]
    kind: Option<String>,
    #[command(flatten)]
    since: SinceArgument,
}

/// A message to send.
#[derive(Debug, clap::Args)]
struct Draft {
    /// The tenant that sends (slug or id); with a platform key, the tenant `default` if absent
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// The sender; may have a name: 'Acme <shop@acme.com>'. Default: settings.from of the tenant
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
    /// A recipient; can be repeated
    #[arg(long, value_name = "ADDRESS", required = true)]
    to: Vec<String>,
    /// A recipient of a copy; can be repeated
    #[arg(long, value_name = "ADDRESS")]
    cc: Vec<String>,
    /// A recipient of a hidden copy; can be repeated
    #[arg(long, value_name = "ADDRESS")]
    bcc: Vec<String>,
    /// The address for replies; can be repeated
    #[arg(long, value_name = "ADDRESS")]
    reply_to: Vec<String>,
    /// The subject
    #[arg(long)]
    subject: Option<String>,
    /// The text; read from the standard input if neither this nor --html-file nor --template is given
    #[arg(long)]
    text: Option<String>,
    /// A file with the HTML body
    #[arg(long, value_name = "FILE")]
    html_file: Option<PathBuf>,
    /// A file to attach; can be repeated
    #[arg(long, value_name = "FILE")]
    attach: Vec<PathBuf>,
    /// An additional header field; can be repeated
    #[arg(long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// A tag to find the message by; can be repeated
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// The template for subject and body (name or id)
    #[arg(long, value_name = "TEMPLATE", conflicts_with_all = ["text", "html_file"])]
    template: Option<String>,
    /// The data for the template, a JSON object
    #[arg(long, value_name = "JSON", requires = "template", value_parser = read_json)]
    data: Option<Value>,
    /// Delivers not before this time, for example 2026-01-31T08:00:00Z
    #[arg(long, value_name = "TIME")]
    at: Option<Timestamp>,
    /// Stops trying after this time, for example 2026-01-31T09:00:00Z
    #[arg(long, value_name = "TIME")]
    expires_at: Option<Timestamp>,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { server, command } = arguments;
    server.run(async |client| match command {
        Command::List { page, filter } => list(&client, &page, *filter).await,
        Command::Show { id } => show(&client, &id).await,
        Command::Timeline { id, transcript } => timeline(&client, &id, transcript).await,
        Command::Raw { id } => {
            let octets = client.get_octets(&path(&id, "/raw")?).await?;
            Ok(stdout().lock().write_all(&octets)?)
        }
        Command::Send(draft) => send(&client, *draft).await,
        Command::Retry { id } => retry_or_cancel(&client, &id, "retry", "retried").await,
        Command::Cancel { id } => retry_or_cancel(&client, &id, "cancel", "cancelled").await,
    })
}

fn path(id: &str, rest: &str) -> anyhow::Result<String> {
    Ok(object_path("message", "msg_", PATH, id)? + rest)
}

impl Filter {
    async fn query(self, client: &ApiClient) -> anyhow::Result<Query> {
        let mut query = client.tenant_parameter(self.tenant.as_deref()).await?;
        let given = [
            ("status", self.status),
            ("delivery_status", self.delivery_status),
            ("to", self.to),
            ("from", self.from),
            ("tag", self.tag),
            ("recipient_domain", self.recipient_domain),
            ("key_id", self.key),
            ("list", self.list),
            ("message_id", self.message_id),
            ("environment", self.environment),
            ("kind", self.kind),
        ];
        query.extend(given.into_iter().filter_map(|(name, value)| Some((name, value?))));
        query.extend(self.since.parameter()?);
        for member in self.metadata {
            if !member.contains('=') {
                anyhow::bail!("--metadata needs KEY=VALUE");
            }
            query.push((METADATA, member));
        }
        Ok(query)
    }
}

async fn list(client: &ApiClient, page: &PageArguments, filter: Filter) -> anyhow::Result<()> {
    let query = filter.query(client).await?;
    let table = Table::new(["ID", "STATUS", "CREATED", "FROM", "TO", "SUBJECT"]);
    let row = |message: &Value| {
        [
            text(message, "id"),
            text(message, "status"),
            when(message, "created_at"),
            message["from"].as_str().unwrap_or("<>").to_owned(),
            recipients(message),
            text(message, "subject"),
        ]
    };
    page.print(client, PATH, query, table, row).await
}

/// The first recipient and the number of the others.
fn recipients(message: &Value) -> String {
    let first = message["to"][0].as_str().unwrap_or("-");
    match message["recipient_count"].as_u64() {
        Some(count @ 2..) => format!("{first} +{}", count - 1),
        _ => first.to_owned(),
    }
}

async fn show(client: &ApiClient, id: &str) -> anyhow::Result<()> {
    let message = client.with_slugs(client.get(&path(id, "")?, &Query::new()).await?).await;
    client.print(&message, |message| object_text(message, LEADING) + &table_below(&deliveries(message)))
}

fn deliveries(message: &Value) -> Table<6> {
    let mut table = Table::new(["RECIPIENT", "STATUS", "ATTEMPTS", "NEXT", "CLASS", "LAST REPLY"]);
    for delivery in message["deliveries"].as_array().into_iter().flatten() {
        table.add([
            text(delivery, "recipient"),
            text(delivery, "status"),
            text(delivery, "attempts"),
            when(delivery, "next_attempt_at"),
            text(delivery, "bounce_class"),
            text(delivery, "last_reply"),
        ]);
    }
    table
}

async fn timeline(client: &ApiClient, id: &str, has_transcripts: bool) -> anyhow::Result<()> {
    let timeline = client.get(&path(id, "/timeline")?, &Query::new()).await?;
    client.print(&timeline, |timeline| {
        let mut text = String::new();
        for entry in timeline["data"].as_array().into_iter().flatten() {
            text += &entry_text(entry);
            let transcript = entry["transcript"].as_str().filter(|_| has_transcripts);
            for line in transcript.into_iter().flat_map(str::lines) {
                text += &format!("    {}\n", printable(line));
            }
        }
        if timeline["has_more"] == true {
            text += "the timeline is longer; this is the first part\n";
        }
        text
    })
}

/// An event, or an attempt with its host, reply and consequence, on one line.
fn entry_text(entry: &Value) -> String {
    let at = time(&entry["at"]).map_or("-".to_owned(), utc);
    let recipient = entry["recipient"].as_str().unwrap_or_default();
    let (kind, details) = match entry["object"].as_str() {
        Some("attempt") => {
            let address = entry["address"].as_str().map_or(String::new(), |ip| format!(" [{ip}]"));
            let tls = entry["tls"].as_str().unwrap_or("no TLS");
            let (host, reply, reason) = (text(entry, "host"), text(entry, "reply"), text(entry, "reason"));
            let code = [&entry["reply_code"], &entry["enhanced_code"]].map(|code| match code {
                Value::Null => String::new(),
                Value::String(text) => format!("{text} "),
                other => format!("{other} "),
            });
            let reason = if reason.is_empty() { String::new() } else { format!("; {reason}") };
            let details = format!("{recipient} at {host}{address}, {tls}: {}{reply}{reason}", code.concat());
            ("attempt".to_owned(), details)
        }
        Some("report") => {
            let (kind, effect) = (text(entry, "kind"), text(entry, "effect"));
            ("report".to_owned(), format!("{recipient} {kind}, effect: {effect}").trim_start().to_owned())
        }
        _ => (text(entry, "type"), recipient.to_owned()),
    };
    printable(format!("{at}  {kind:<20}  {details}").trim_end()) + "\n"
}

async fn send(client: &ApiClient, mut draft: Draft) -> anyhow::Result<()> {
    let tenant = draft.tenant.clone();
    if let Some(name) = &draft.template {
        draft.template = Some(client.template_id(tenant.as_deref(), name).await?);
    }
    let mut body = draft.body()?;
    if let Some(tenant) = tenant {
        body["tenant_id"] = client.tenant_id(&tenant).await?.into();
    }
    let accepted = client.post(PATH, &body).await?;
    client.print(&accepted, |accepted| {
        let suppressed = texts(accepted, "suppressed");
        if suppressed != "-" {
            eprintln!("not sent to suppressed recipients: {}", printable(&suppressed));
        }
        format!("{}\n", text(accepted, "id"))
    })
}

impl Draft {
    fn body(self) -> anyhow::Result<Value> {
        let mut body = json!({"to": self.to});
        for (name, list) in
            [("cc", self.cc), ("bcc", self.bcc), ("reply_to", self.reply_to), ("tags", self.tags)]
        {
            if !list.is_empty() {
                body[name] = list.into();
            }
        }
        let html = self.html_file.as_deref().map(read_file).transpose()?;
        let text = match self.text {
            None if html.is_none() && self.template.is_none() => Some(read_text("-")?),
            text => text,
        };
        let given = [
            ("from", self.from),
            ("subject", self.subject),
            ("text", text),
            ("html", html),
            ("template_id", self.template),
        ];
        for (name, value) in given {
            if let Some(value) = value {
                body[name] = value.into();
            }
        }
        if let Some(data) = self.data {
            body["template_data"] = data;
        }
        for (name, at) in [("send_at", self.at), ("expires_at", self.expires_at)] {
            if let Some(at) = at {
                body[name] = json!(at);
            }
        }
        let headers: anyhow::Result<Map<_, _>> =
            self.headers.iter().map(|field| read_header(field)).collect();
        body["headers"] = headers?.into();
        let files: anyhow::Result<Vec<Value>> = self.attach.iter().map(|path| attachment(path)).collect();
        body["attachments"] = files?.into();
        Ok(body)
    }
}

fn read_header(field: &str) -> anyhow::Result<(String, Value)> {
    let (name, value) =
        field.split_once(':').with_context(|| format!("--header {field}: write it as NAME: VALUE"))?;
    Ok((name.trim().to_owned(), value.trim().into()))
}

fn attachment(path: &Path) -> anyhow::Result<Value> {
    let content = std::fs::read(path).with_context(|| path.display().to_string())?;
    let name = path.file_name().with_context(|| format!("{} is not a file", path.display()))?;
    Ok(json!({"filename": name.to_string_lossy(), "content": STANDARD.encode(content)}))
}

async fn retry_or_cancel(client: &ApiClient, id: &str, verb: &str, result: &str) -> anyhow::Result<()> {
    let response = client.post(&path(id, &format!("/{verb}"))?, &json!({})).await?;
    client.print(&response, |response| {
        let lines = |field: &str| {
            let deliveries = response[field].as_array().into_iter().flatten();
            deliveries
                .map(|delivery| format!("{}: {}\n", text(delivery, "recipient"), field.replace('_', " ")))
                .collect::<String>()
        };
        let text = lines(result) + &lines("in_flight");
        if text.is_empty() {
            "nothing to do: no delivery of this message is waiting\n".to_owned()
        } else {
            text
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_is_printed_with_its_host_its_reply_and_its_consequence() {
        let entry = json!({
            "object": "attempt", "at": "2026-01-01T12:00:00.5Z", "recipient": "a@b.test", "host": "mx.b.test",
            "address": "192.0.2.1", "tls": null, "reply_code": 451, "enhanced_code": "4.7.1",
            "reply": "later\r\nplease", "reason": "next try in 5 m",
        });
        assert_eq!(
            entry_text(&entry),
            "2026-01-01 12:00:00Z  attempt               a@b.test at mx.b.test [192.0.2.1], no TLS: \
             451 4.7.1 later  please; next try in 5 m\n"
        );
        let entry = json!({"object": "event", "at": "2026-01-01T12:00:00Z", "type": "message.accepted"});
        assert_eq!(entry_text(&entry), "2026-01-01 12:00:00Z  message.accepted\n");
    }
}
