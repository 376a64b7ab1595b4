//! Reads what other servers send back: delivery status notifications (RFC 3464, RFC 6533), complaints (RFC 5965), failures
//! told in prose, automatic replies. Pure. Every count and length is limited before anything is parsed.
//!
//! Imports `mail`, `model`, and of `smtp` and `policy` the reply and its class.

use std::net::IpAddr;

use bytes::Bytes;

use crate::mail::{Address, DomainName, ReversePath, Token};
use crate::model::{BounceClass, FeedbackType, MessageId, ReportAction};
use crate::smtp::Reply;

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
    let _ = (octets, sender);
    Feedback {
        content: FeedbackContent::Other,
        rule: "other",
        is_automatic: false,
        returned: ReturnedHeader::default(),
        from_domain: None,
    }
}

/// The part of a report that is stored: without the body of the returned message, at most `octets_max`.
pub fn excerpt(octets: &[u8], octets_max: usize) -> &[u8] {
    &octets[..octets.len().min(octets_max)]
}
