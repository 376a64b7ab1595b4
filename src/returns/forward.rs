//! Forwards mail for people, and complaints that belong to no message, to an address of the operator. It is a new message
//! with the original attached, so that it passes DMARC.

use std::fmt::Write;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;

use crate::config::InboundForward;
use crate::feedback::ReturnedMail;
use crate::mail::{Address, Timestamp};
use crate::model::ReportId;
use crate::submission::{KeyFileError, LocalSender, LocalSubmitter, SubmissionService, read_key_file};
use crate::telemetry::FLOOD;

/// Messages that are forwarded within a day of UTC.
const FORWARDED_OF_DAY_MAX: u32 = 100;
/// Octets of the original that are attached.
const ATTACHED_OCTETS_MAX: usize = 1024 * 1024;
/// RFC 5322 §2.1.1: octets of a line without its end.
const LINE_OCTETS_MAX: usize = 998;
/// RFC 2045 §6.8.
const BASE64_LINE_OCTETS: usize = 76;

/// Forwards mail to one address.
pub struct Forwarder {
    submitter: LocalSubmitter,
    to: Address,
    forwarded: Mutex<Forwarded>,
}

/// How many messages were forwarded on a day.
#[derive(Debug, Default)]
struct Forwarded {
    day: i64,
    count: u32,
}

/// Checks that the key file of the configuration is readable.
///
/// # Errors
/// [`KeyFileError`].
pub fn check(config: &InboundForward) -> Result<(), KeyFileError> {
    read_key_file(&config.key_file).map(drop)
}

impl Forwarder {
    /// Reads the key of the tenant.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn new(config: &InboundForward, submission: Arc<SubmissionService>) -> Result<Self, KeyFileError> {
        let InboundForward { tenant, key_file, from, to } = config.clone();
        let sender = LocalSender { option: "inbound.forward", tenant, key_file, from };
        Ok(Self { submitter: LocalSubmitter::new(sender, submission)?, to, forwarded: Mutex::default() })
    }

    /// Forwards a recorded message. A failure is logged: the message is in the list of reports anyway.
    pub(super) async fn forward(&self, mail: &ReturnedMail, report: ReportId, now: Timestamp) {
        if !self.count(now) {
            return tracing::warn!(target: FLOOD, %report, "not forwarded: {FORWARDED_OF_DAY_MAX} messages today");
        }
        let message = compose(mail, report, self.submitter.from(), &self.to);
        if let Err(error) = self.submitter.submit("inbound-forward", &self.to, message, None).await {
            tracing::warn!(target: FLOOD, %report, "not forwarded: {error}");
        }
    }

    /// Counts a message. Returns false if it is one too many on this day.
    fn count(&self, now: Timestamp) -> bool {
        let day = now.as_second().div_euclid(24 * 3600);
        let mut forwarded = self.forwarded.lock();
        if forwarded.day != day {
            *forwarded = Forwarded { day, count: 0 };
        }
        forwarded.count += 1;
        forwarded.count <= FORWARDED_OF_DAY_MAX
    }
}

/// No field is taken from the original, which may contain anything.
fn compose(mail: &ReturnedMail, report: ReportId, from: &Address, to: &Address) -> Vec<u8> {
    let mut octets = &mail.octets[..mail.octets.len().min(ATTACHED_OCTETS_MAX)];
    let is_cut = mail.is_truncated || octets.len() < mail.octets.len();
    if is_cut {
        // Whole lines: an end between CR and LF would leave a bare CR (RFC 5321 §2.3.8).
        octets = &octets[..memchr::memrchr(b'\n', octets).map_or(0, |at| at + 1)];
    }
    let boundary = format!("forward-{report}");
    let local = mail.recipient.local().as_str().to_ascii_lowercase();
    let mut head = format!(
        "From: <{from}>\r\nTo: <{to}>\r\nSubject: Mail for {local} ({report})\r\nAuto-Submitted: auto-generated\r\n\
         MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"{boundary}\"\r\n"
    );
    if !octets.is_ascii() {
        head += "Content-Transfer-Encoding: 8bit\r\n";
    }
    let _ = write!(head, "\r\n--{boundary}\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n");
    let _ = write!(head, "This message came to {local} of this mail server. It is attached");
    head += if is_cut { ", as far as it was kept.\r\n" } else { ".\r\n" };
    if let Some(peer) = &mail.peer {
        let _ = write!(head, "It came from {} ({}).\r\n", peer.ip, peer.helo);
    }
    let _ = write!(head, "To see how it was read: pillarbox report show {report}\r\n\r\n--{boundary}\r\n");
    let mut message = head.into_bytes();
    attach(octets, &boundary, &mut message);
    message.extend(format!("\r\n--{boundary}--\r\n").bytes());
    message
}

/// RFC 2046 §5.2.1: message/rfc822 has no encoding, so lines that are too long, or the boundary, make it a file.
fn attach(octets: &[u8], boundary: &str, message: &mut Vec<u8>) {
    let is_plain = octets.split(|octet| *octet == b'\n').all(|line| line.len() <= LINE_OCTETS_MAX + 1)
        && memchr::memmem::find(octets, boundary.as_bytes()).is_none();
    if is_plain {
        let encoding = if octets.is_ascii() { "7bit" } else { "8bit" };
        let fields = format!("Content-Type: message/rfc822\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n");
        message.extend(fields.bytes());
        return message.extend_from_slice(octets);
    }
    message.extend_from_slice(
        b"Content-Type: application/octet-stream; name=\"message.eml\"\r\n\
          Content-Disposition: attachment; filename=\"message.eml\"\r\nContent-Transfer-Encoding: base64\r\n\r\n",
    );
    for line in STANDARD.encode(octets).as_bytes().chunks(BASE64_LINE_OCTETS) {
        message.extend_from_slice(line);
        message.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::ReversePath;

    fn composed(octets: &[u8], is_truncated: bool) -> String {
        let address = |text: &str| Address::parse(text).unwrap();
        let mail = ReturnedMail {
            recipient: address("POSTMASTER@relay.test"),
            sender: ReversePath::Null,
            octets: octets.to_vec().into(),
            is_truncated,
            peer: None,
        };
        let report = ReportId::generate(Timestamp::UNIX_EPOCH);
        let message = compose(&mail, report, &address("server@own.test"), &address("op@b.test"));
        String::from_utf8(message).unwrap()
    }

    #[test]
    fn the_original_is_attached_as_it_is() {
        let message = composed(b"Subject: hello\r\n\r\nhow are you\r\n", false);
        assert!(
            message
                .starts_with("From: <server@own.test>\r\nTo: <op@b.test>\r\nSubject: Mail for postmaster (")
        );
        assert!(message.contains("\r\n\r\nSubject: hello\r\n\r\nhow are you\r\n\r\n--"), "{message}");
        assert!(message.contains("message/rfc822\r\nContent-Transfer-Encoding: 7bit\r\n"));
        let utf8 = composed("Subject: grüße\r\n\r\n".as_bytes(), true);
        assert!(
            utf8.matches("Content-Transfer-Encoding: 8bit").count() == 2 && utf8.contains("as it was kept")
        );
    }

    #[test]
    fn a_cut_original_ends_with_a_whole_line() {
        let message = composed(b"Subject: hello\r\n\r\nhow are you\r", true);
        assert!(
            message.contains("Subject: hello\r\n\r\n\r\n--") && !message.contains("\r\r\n"),
            "{message:?}"
        );
    }

    #[test]
    fn an_original_that_is_no_message_text_is_attached_as_a_file() {
        let long = [&b"Subject: long\r\n\r\n"[..], &b"x".repeat(2000)].concat();
        let message = composed(&long, false);
        assert!(message.contains("filename=\"message.eml\"") && !message.contains("message/rfc822"));
        assert!(message.lines().all(|line| line.len() <= LINE_OCTETS_MAX));
    }
}
