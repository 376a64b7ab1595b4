//! The `message/delivery-status` part of a DSN (RFC 3464 §2).

use std::fmt::Write;

use super::recipient::{DsnAction, DsnRecipient};
use crate::mail::{Address, DomainName, Timestamp};
use crate::store::Message;

/// Characters of a diagnostic: a reply may have 64 KiB.
const DIAGNOSTIC_CHARS_MAX: usize = 900;

/// The machine-readable part (RFC 3464 §2).
pub struct DeliveryStatus<'a> {
    /// The name of this server.
    pub hostname: &'a DomainName,
    /// The message that the DSN is about.
    pub message: &'a Message,
    /// The recipients that the DSN reports.
    pub recipients: &'a [DsnRecipient],
}

impl DeliveryStatus<'_> {
    /// The text of the part.
    pub fn compose(&self) -> String {
        let mut text = String::new();
        if let Some(id) = &self.message.parameters.envelope_id {
            let _ = write!(text, "Original-Envelope-Id: {}\r\n", id.decoded());
        }
        let _ = write!(
            text,
            "Reporting-MTA: dns; {}\r\nX-Original-Message-ID: {}\r\nArrival-Date: {}\r\n",
            self.hostname,
            self.message.id,
            date(self.message.created_at)
        );
        for recipient in self.recipients {
            text.push_str("\r\n");
            if let Some(original) = &recipient.original {
                let _ = write!(text, "Original-Recipient: {}\r\n", original.decoded());
            }
            let _ = write!(
                text,
                "Final-Recipient: {}\r\nAction: {}\r\nStatus: {}\r\n",
                typed_address(&recipient.recipient, self.message.smtputf8),
                recipient.action.as_str(),
                recipient.status
            );
            let diagnostic: String = one_line(&recipient.diagnostic).chars().map(ascii_only).collect();
            if let Some(host) = &recipient.host {
                let _ = write!(text, "Remote-MTA: dns; {}\r\n", one_line(host));
            }
            // RFC 3464 §2.3.6: the type `smtp` is for replies; the description of this server has another type.
            let kind = if is_reply(&diagnostic) { "smtp" } else { "X-Pillarbox" };
            let _ = write!(text, "Diagnostic-Code: {kind}; {diagnostic}\r\n");
            if let Some(at) = recipient.last_attempt_at {
                let _ = write!(text, "Last-Attempt-Date: {}\r\n", date(at));
            }
            if let DsnAction::Delayed(until) = recipient.action {
                let _ = write!(text, "Will-Retry-Until: {}\r\n", date(until));
            }
        }
        text
    }
}

/// A non-ASCII address in the type `utf-8`, escaped for a reader of ASCII (RFC 6533 §3).
fn typed_address(address: &Address, reads_utf8: bool) -> String {
    let text = address.to_string();
    if text.is_ascii() {
        return format!("rfc822; {text}");
    }
    if reads_utf8 {
        return format!("utf-8; {text}");
    }
    // QCHAR (RFC 6533 §3); an escape must not look like xtext (RFC 3461 §4).
    let is_plain = |c: char| c.is_ascii_graphic() && !matches!(c, '\\' | '+' | '=');
    let escape = |c: char| if is_plain(c) { c.to_string() } else { format!("\\x{{{:X}}}", u32::from(c)) };
    format!("utf-8; {}", text.chars().map(escape).collect::<String>())
}

/// Text without control characters, truncated, so that it cannot inject a field.
pub fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(DIAGNOSTIC_CHARS_MAX).collect()
}

/// The value of a date field.
pub fn date(time: Timestamp) -> String {
    jiff::fmt::rfc2822::to_string(&time.to_zoned(jiff::tz::TimeZone::UTC)).unwrap_or_default()
}

fn is_reply(text: &str) -> bool {
    let code = text.split(' ').next().unwrap_or_default();
    code.len() == 3 && code.starts_with(['2', '4', '5']) && code.bytes().all(|b| b.is_ascii_digit())
}

fn ascii_only(c: char) -> char {
    if c.is_ascii() { c } else { '?' }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_non_ascii_address_has_the_type_utf_8_and_is_escaped_for_a_reader_of_ascii() {
        for (address, reads_utf8, expected) in [
            ("b+c@x.example", false, "rfc822; b+c@x.example"),
            ("é+c=d@x.example", true, "utf-8; é+c=d@x.example"),
            ("é+c=d@x.example", false, "utf-8; \\x{E9}\\x{2B}c\\x{3D}d@x.example"),
            ("\"é \\\\\"@x.example", false, "utf-8; \"\\x{E9}\\x{20}\\x{5C}\\x{5C}\"@x.example"),
        ] {
            assert_eq!(typed_address(&address.parse().unwrap(), reads_utf8), expected, "{address}");
        }
    }
}
