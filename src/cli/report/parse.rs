//! `pillarbox report parse`: reads reports without a server.

use std::io::{Read, stdin};

use anyhow::Context;
use serde::Serialize;

use crate::cli::output::{print, printable_lines};
use crate::feedback::{self, Complaint, FailedReply, Feedback, FeedbackContent, RecipientGroup};
use crate::mail::{Address, ReversePath};
use crate::model::{BounceClass, FeedbackType, ReportAction, ReportKind};

/// Octets of a file that are read.
const FILE_OCTETS_MAX: u64 = 64 * 1024 * 1024;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    /// Messages as they arrived, one in each file; - is the standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
    /// The reverse path with which the messages came, or <>. Prose is believed from <> and mailer daemons only.
    /// Default: the Return-Path field of each message, or <> without one
    #[arg(long, value_name = "ADDRESS")]
    sender: Option<String>,
    /// Print one line of JSON for each file
    #[arg(long)]
    json: bool,
}

/// What is read from one file.
#[derive(Debug, Serialize)]
struct View<'a> {
    file: &'a str,
    kind: ReportKind,
    rule: &'static str,
    is_automatic: bool,
    groups: Vec<Group>,
    #[serde(skip_serializing_if = "Option::is_none")]
    complaint: Option<ComplaintView>,
    returned: ReturnedView,
}

/// A failure, delay or success of one recipient. Prose names none.
#[derive(Debug, Serialize)]
struct Group {
    recipient: Option<String>,
    /// Behind an alias it is the address that the message was sent to; it proves nothing.
    original_recipient: Option<String>,
    action: ReportAction,
    code: u16,
    status: Option<String>,
    bounce_class: BounceClass,
    suppress: bool,
    reply: String,
}

#[derive(Debug, Serialize)]
struct ComplaintView {
    feedback_type: FeedbackType,
    user_agent: Option<String>,
    original_recipients: Vec<String>,
    original_mail_from: Option<String>,
    source_ip: Option<String>,
}

#[derive(Debug, Serialize)]
struct ReturnedView {
    tokens: Vec<String>,
    message_ids: Vec<String>,
    header_message_id: Option<String>,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let sender = arguments.sender.as_deref().map(parse_path).transpose()?;
    for file in &arguments.files {
        let octets = read_octets(file)?;
        let feedback = feedback::read(&octets, &sender.clone().unwrap_or_else(|| sender_of(&octets)));
        let view = View::new(file, &feedback);
        let text = if arguments.json { serde_json::to_string(&view)? + "\n" } else { view.to_text() };
        print(&text)?;
    }
    Ok(())
}

fn read_octets(file: &str) -> anyhow::Result<Vec<u8>> {
    let mut octets = Vec::new();
    let read = match file {
        "-" => stdin().take(FILE_OCTETS_MAX).read_to_end(&mut octets),
        path => {
            std::fs::File::open(path).and_then(|file| file.take(FILE_OCTETS_MAX).read_to_end(&mut octets))
        }
    };
    read.with_context(|| format!("cannot read {file}"))?;
    Ok(octets)
}

fn parse_path(text: &str) -> anyhow::Result<ReversePath> {
    match text {
        "<>" | "" => Ok(ReversePath::Null),
        address => {
            Ok(ReversePath::Mailbox(Address::parse(address).with_context(|| format!("--sender {address}"))?))
        }
    }
}

/// The reverse path that the last server wrote into the file (RFC 5321 §4.4). Without it, the empty one.
fn sender_of(octets: &[u8]) -> ReversePath {
    let path = feedback::return_path(octets);
    let address = path.and_then(|path| Address::parse(&path).ok());
    address.map_or(ReversePath::Null, ReversePath::Mailbox)
}

impl<'a> View<'a> {
    fn new(file: &'a str, feedback: &Feedback) -> Self {
        let (groups, complaint) = match &feedback.content {
            FeedbackContent::Dsn(status) => (status.groups.iter().map(Group::of_recipient).collect(), None),
            FeedbackContent::Prose(reply) => (vec![Group::new(None, ReportAction::Failed, reply)], None),
            FeedbackContent::Complaint(complaint) => (Vec::new(), Some(ComplaintView::new(complaint))),
            FeedbackContent::AutoReply | FeedbackContent::Receipt | FeedbackContent::Other => {
                (Vec::new(), None)
            }
        };
        let returned = &feedback.returned;
        Self {
            file,
            kind: feedback.content.kind(),
            rule: feedback.rule,
            is_automatic: feedback.is_automatic,
            groups,
            complaint,
            returned: ReturnedView {
                tokens: returned.tokens.iter().map(ToString::to_string).collect(),
                message_ids: returned.message_ids.iter().map(ToString::to_string).collect(),
                header_message_id: returned.header_message_id.clone(),
            },
        }
    }

    fn to_text(&self) -> String {
        let mut text = format!("{}: {} (rule {})\n", self.file, self.kind, self.rule);
        for group in &self.groups {
            let recipient = group.recipient.as_deref().unwrap_or("the recipient");
            let effect = if group.suppress { "; the address is suppressed" } else { "" };
            text += &format!(
                "  {recipient}: {}, {}{effect}\n    {}\n",
                group.action,
                group.bounce_class,
                group.words()
            );
        }
        if let Some(complaint) = &self.complaint {
            text += &format!("  {}, about {}\n", complaint.feedback_type, complaint.recipients());
        }
        let ids = self.returned.message_ids.iter().chain(&self.returned.header_message_id);
        for id in ids {
            text += &format!("  returned message: {id}\n");
        }
        printable_lines(&text)
    }
}

impl Group {
    fn of_recipient(group: &RecipientGroup) -> Self {
        let original_recipient = group.original_recipient.as_ref().map(ToString::to_string);
        Self { original_recipient, ..Self::new(group.final_recipient.as_ref(), group.action, &group.reply) }
    }

    fn new(recipient: Option<&Address>, action: ReportAction, judged: &FailedReply) -> Self {
        Self {
            recipient: recipient.map(ToString::to_string),
            original_recipient: None,
            action,
            code: judged.reply.code,
            status: judged.reply.enhanced.map(|status| status.to_string()),
            bounce_class: judged.class,
            suppress: judged.suppress,
            reply: judged.reply.lines.join(" "),
        }
    }

    /// The reply; it repeats code and status as the server wrote them.
    fn words(&self) -> String {
        match (&self.status, self.reply.is_empty()) {
            (_, false) => self.reply.clone(),
            (Some(status), true) => status.clone(),
            (None, true) => self.code.to_string(),
        }
    }
}

impl ComplaintView {
    fn new(complaint: &Complaint) -> Self {
        let path = |path: &ReversePath| match path {
            ReversePath::Null => "<>".to_owned(),
            ReversePath::Mailbox(address) => address.to_string(),
        };
        Self {
            feedback_type: complaint.feedback_type,
            user_agent: complaint.user_agent.clone(),
            original_recipients: complaint.original_recipients.iter().map(ToString::to_string).collect(),
            original_mail_from: complaint.original_mail_from.as_ref().map(path),
            source_ip: complaint.source_ip.map(|ip| ip.to_string()),
        }
    }

    fn recipients(&self) -> String {
        if self.original_recipients.is_empty() {
            return "a recipient that it does not name".to_owned();
        }
        self.original_recipients.join(", ")
    }
}
