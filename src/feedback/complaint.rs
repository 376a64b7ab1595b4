//! The part `message/feedback-report` (RFC 5965 §3).

use crate::mail::{Address, ReversePath};

use super::Complaint;
use super::fields::{Fields, lines};

/// Recipients that are kept.
const RECIPIENTS_MAX: usize = 32;

/// Fields with recipients. All but the first are in use without a registration.
const RECIPIENTS: [&str; 5] = [
    "Original-Rcpt-To",
    "Removal-Recipient",
    "Redacted-Address",
    "Original-Recipient",
    "X-HmXmrOriginalRecipient",
];

/// Reads the fields, wherever empty lines stand between them.
pub(super) fn read(content: &[u8]) -> Complaint {
    let mut fields = Fields::default();
    lines(content).for_each(|line| fields.add(line));
    let feedback_type = fields.get("Feedback-Type").map(|value| value.trim().to_ascii_lowercase());
    let mut complaint = Complaint {
        feedback_type: feedback_type.and_then(|value| value.parse().ok()).unwrap_or_default(),
        user_agent: fields.get("User-Agent"),
        original_recipients: Vec::new(),
        original_mail_from: fields.get("Original-Mail-From").and_then(|value| read_path(&value)),
        source_ip: fields.get("Source-IP").and_then(|value| value.trim_matches(['[', ']']).parse().ok()),
    };
    complaint.add_recipients(&fields);
    complaint
}

impl Complaint {
    /// Adds the recipients that a report or a returned header names.
    pub(super) fn add_recipients(&mut self, fields: &Fields<'_>) {
        for value in RECIPIENTS.into_iter().flat_map(|name| fields.all(name)) {
            let found = value.split(',').filter_map(read_address);
            for address in found {
                if self.original_recipients.len() < RECIPIENTS_MAX
                    && !self.original_recipients.contains(&address)
                {
                    self.original_recipients.push(address);
                }
            }
        }
    }
}

fn read_address(text: &str) -> Option<Address> {
    super::delivery_status::read_recipient(text)
}

fn read_path(value: &str) -> Option<ReversePath> {
    if value.trim() == "<>" {
        return Some(ReversePath::Null);
    }
    read_address(value).map(ReversePath::Mailbox)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::FeedbackType;

    #[test]
    fn each_recipient_is_kept_and_an_unknown_type_is_unknown() {
        let complaint = read(
            b"Feedback-Type: Opt-Out\r\nUser-Agent: Some/1.0\r\nVersion: 1\r\n\r\nOriginal-Mail-From: <bounce@a.example>\r\n\
            Original-Rcpt-To: <b@c.example>\r\noriginal-rcpt-to: d@c.example, e@c.example\r\n\
            Removal-Recipient: b@c.example\r\nRedacted-Address: redacted\r\nSource-IP: 192.0.2.1\r\n",
        );
        assert_eq!(complaint.feedback_type, FeedbackType::OptOut);
        assert_eq!(complaint.user_agent.as_deref(), Some("Some/1.0"));
        let recipients: Vec<_> = complaint.original_recipients.iter().map(ToString::to_string).collect();
        assert_eq!(recipients, ["b@c.example", "d@c.example", "e@c.example"]);
        assert_eq!(
            complaint.original_mail_from,
            Some(ReversePath::Mailbox("bounce@a.example".parse().unwrap()))
        );
        assert_eq!(complaint.source_ip, "192.0.2.1".parse().ok());
        assert_eq!(read(b"Feedback-Type: dislike\r\n").feedback_type, FeedbackType::Unknown);
        assert_eq!(read(b"Original-Mail-From: <>\r\n").original_mail_from, Some(ReversePath::Null));
        assert_eq!(read(b""), Complaint::default());
        let many: String = (0..100).map(|n| format!("Original-Rcpt-To: {n}@a.example\r\n")).collect();
        assert_eq!(read(many.as_bytes()).original_recipients.len(), RECIPIENTS_MAX);
    }
}
