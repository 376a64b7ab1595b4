//! Reads what other servers send back: delivery status notifications (RFC 3464, RFC 6533), complaints (RFC 5965), failures
//! told in prose, automatic replies. Pure. Every count and length is limited before anything is parsed.
//!
//! Imports `mail`, `model`, and of `smtp` and `policy` the reply and its class.

mod automatic;
mod complaint;
mod delivery_status;
mod diagnostic;
mod excerpt;
mod fields;
mod mime_parts;
mod prose;
mod returned_header;

use std::net::IpAddr;

use bytes::Bytes;
use mail_parser::HeaderValue;
use mail_parser::parsers::MessageStream;

use automatic::Mark;
use fields::Fields;
use mime_parts::Message;
use prose::OwnWords;

use crate::mail::{Address, DomainName, ReversePath, Token};
use crate::model::{BounceClass, FeedbackType, MessageId, ReportAction, ReportKind};
use crate::smtp::Reply;

pub use excerpt::excerpt;

/// What a message that came back says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feedback {
    /// What it is.
    pub content: FeedbackContent,
    /// The rule that decided this, for people and for the corpora.
    pub rule: &'static str,
    /// Whether it is marked as automatic (RFC 3834 §5), whatever else it is.
    pub is_automatic: bool,
    /// What identifies the returned message; empty without one.
    pub returned: ReturnedHeader,
    /// The domain of its own From field.
    pub from_domain: Option<DomainName>,
}

/// What a message that came back is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeedbackContent {
    /// A delivery status notification.
    Dsn(DeliveryStatus),
    /// A failure told in prose.
    Prose(FailedReply),
    /// A complaint.
    Complaint(Complaint),
    /// An automatic reply.
    AutoReply,
    /// A disposition notification (RFC 8098).
    Receipt,
    /// Anything else.
    Other,
}

impl FeedbackContent {
    /// Its kind.
    pub fn kind(&self) -> ReportKind {
        match self {
            Self::Dsn(_) => ReportKind::Dsn,
            Self::Prose(_) => ReportKind::Prose,
            Self::Complaint(_) => ReportKind::Complaint,
            Self::AutoReply => ReportKind::AutoReply,
            Self::Receipt => ReportKind::Receipt,
            Self::Other => ReportKind::Other,
        }
    }

    /// The failure in prose, or that of a group of a DSN.
    pub fn failure<'a>(&'a self, group: Option<&'a RecipientGroup>) -> Option<&'a FailedReply> {
        match self {
            Self::Prose(failed) => Some(failed),
            _ => group.map(|group| &group.reply),
        }
    }
}

/// The machine-readable part of a delivery status notification.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeliveryStatus {
    /// `Reporting-MTA`, without its type.
    pub reporting_mta: Option<String>,
    /// One for each recipient; may be empty.
    pub groups: Vec<RecipientGroup>,
}

/// What a DSN says about one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipientGroup {
    /// `None` if it is absent, `unknown` or no address.
    pub final_recipient: Option<Address>,
    /// It proves nothing: behind an alias it is ours too.
    pub original_recipient: Option<Address>,
    /// What happened.
    pub action: ReportAction,
    /// The words of the server.
    pub reply: FailedReply,
    /// `Remote-MTA`, without its type.
    pub remote_mta: Option<String>,
}

/// The words of a server, and what they mean by the same table as in a dialogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedReply {
    /// The reply; its code follows from the status if there is none.
    pub reply: Reply,
    /// The class.
    pub class: BounceClass,
    /// Whether the address does not exist.
    pub suppress: bool,
}

/// A complaint. None of its fields proves whom it is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Complaint {
    /// The type.
    pub feedback_type: FeedbackType,
    /// The program that wrote it.
    pub user_agent: Option<String>,
    /// `Original-Rcpt-To` and the fields that stand for it.
    pub original_recipients: Vec<Address>,
    /// `Original-Mail-From`.
    pub original_mail_from: Option<ReversePath>,
    /// `Source-IP`.
    pub source_ip: Option<IpAddr>,
}

/// What a returned header says that identifies our message. Only the tokens can be proved.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReturnedHeader {
    /// Of CFBL-Feedback-ID, CFBL-Address, Return-Path and Original-Mail-From.
    pub tokens: Vec<Token>,
    /// Of our Received fields.
    pub message_ids: Vec<MessageId>,
    /// The Message-ID without its angle brackets.
    pub header_message_id: Option<String>,
}

/// A message that came back, with its envelope: from port 25 or from the sandbox.
#[derive(Debug, Clone)]
pub struct ReturnedMail {
    /// Its recipient.
    pub recipient: Address,
    /// Its reverse path.
    pub sender: ReversePath,
    /// Its beginning, with CRLF line ends.
    pub octets: Bytes,
    /// Whether there was more.
    pub is_truncated: bool,
    /// Who sent it; `None` is the sandbox.
    pub peer: Option<ReturnPeer>,
}

/// The client that sent a message back.
#[derive(Debug, Clone)]
pub struct ReturnPeer {
    /// Its address.
    pub ip: IpAddr,
    /// Its EHLO name.
    pub helo: String,
}

/// Reads a message. `sender` is its reverse path: prose is believed from `<>` and mailer daemons only.
pub fn read(octets: &[u8], sender: &ReversePath) -> Feedback {
    let message = Message::split(octets);
    let subject = subject_of(&message);
    let mark = automatic::mark_of(&message.header, &subject);
    let mut returned = ReturnedHeader::default();
    let complaint = complaint_in(&message, &subject, &mut returned);
    returned.add_from(&message);
    let words = OwnWords::of(&message.own_text());
    let (content, rule) = complaint
        .or_else(|| status_in(&message, &words))
        .or_else(|| receipt_in(&message))
        .or_else(|| auto_reply(mark, true))
        .or_else(|| prose_in(&message, &words, sender))
        .or_else(|| auto_reply(mark, false))
        .unwrap_or((FeedbackContent::Other, "other"));
    let from_domain = message.header.author_domain();
    Feedback { content, rule, is_automatic: mark.is_some(), returned, from_domain }
}

/// The path in the Return-Path field of a stored message, without angle brackets; empty for `<>`.
pub fn return_path(octets: &[u8]) -> Option<String> {
    let value = Fields::of_header(octets).all("Return-Path").next()?;
    Some(value.trim().trim_matches(['<', '>']).to_owned())
}

type Found = Option<(FeedbackContent, &'static str)>;

/// The subject without encoded words.
fn subject_of(message: &Message<'_>) -> String {
    let subject = message.header.get("Subject").unwrap_or_default() + "\n";
    match MessageStream::new(subject.as_bytes()).parse_unstructured() {
        HeaderValue::Text(text) => text.into_owned(),
        _ => String::new(),
    }
}

/// A complaint (RFC 5965 §2: its part is a child of the message), or the form of Hotmail before that.
fn complaint_in(message: &Message<'_>, subject: &str, returned: &mut ReturnedHeader) -> Found {
    let part = message.parts.iter().find(|part| part.kind == "message/feedback-report" && part.depth == 1);
    let of_type = |feedback_type| Complaint { feedback_type, ..Complaint::default() };
    let (mut complaint, rule) = match part {
        Some(part) => (complaint::read(&part.content()), "arf"),
        None if is_hotmail_complaint(message, subject) => (of_type(FeedbackType::Abuse), "hotmail"),
        None if message.header.has(automatic::APPLE_UNSUBSCRIBE) => {
            (of_type(FeedbackType::OptOut), "apple-unsubscribe")
        }
        None => return None,
    };
    if let Some(ReversePath::Mailbox(path)) = &complaint.original_mail_from {
        returned.add_address(&path.to_string());
    }
    if let Some(part) = message.returned_part() {
        complaint.add_recipients(&Fields::of_header(&part.content()));
    }
    Some((FeedbackContent::Complaint(complaint), rule))
}

fn is_hotmail_complaint(message: &Message<'_>, subject: &str) -> bool {
    let from = message.header.get("From").unwrap_or_default().to_ascii_lowercase();
    from.contains("staff@hotmail.com")
        && subject.to_ascii_lowercase().starts_with("complaint about message from")
}

/// A DSN, if it tells what happened to at least one recipient.
fn status_in(message: &Message<'_>, words: &OwnWords) -> Found {
    let part = message.part(&["message/delivery-status", "message/global-delivery-status"])?;
    let mut status = delivery_status::read(&part.text());
    status.complete(words);
    (!status.groups.is_empty()).then_some((FeedbackContent::Dsn(status), "rfc3464"))
}

fn receipt_in(message: &Message<'_>) -> Found {
    let kinds = ["message/disposition-notification", "message/global-disposition-notification"];
    message.part(&kinds).map(|_| (FeedbackContent::Receipt, "rfc8098"))
}

/// An automatic reply by its marks: before prose is read only if the marks are those of a reply.
fn auto_reply(mark: Option<Mark>, is_certain: bool) -> Found {
    match mark? {
        Mark::Automatic(_) if is_certain => None,
        Mark::Reply(rule) | Mark::Automatic(rule) => Some((FeedbackContent::AutoReply, rule)),
    }
}

/// Finds a failure in the text of a message: as the fields of a status part, or in the words of a known server.
fn prose_in(message: &Message<'_>, words: &OwnWords, sender: &ReversePath) -> Found {
    if !is_mailer_daemon(sender) {
        return None;
    }
    let status = words.status_lines().map(|text| delivery_status::read(&text));
    if let Some(mut status) = status.filter(|status| !status.groups.is_empty()) {
        status.complete(words);
        return Some((FeedbackContent::Dsn(status), "rfc3464-in-text"));
    }
    let rule = words.rule(&message.header)?;
    Some(match words.is_delay() {
        true => (FeedbackContent::Other, "delay"),
        false => (FeedbackContent::Prose(words.failure()), rule),
    })
}

fn is_mailer_daemon(sender: &ReversePath) -> bool {
    let ReversePath::Mailbox(address) = sender else { return true };
    let local = address.local().as_str();
    ["mailer-daemon", "postmaster"].iter().any(|name| local.eq_ignore_ascii_case(name))
}
