//! Composes DSNs to the reverse path (RFC 3464 in the multipart of RFC 6522; in the internationalized form of RFC 6533
//! for a sender that used SMTPUTF8).

use std::fmt::Write;
use std::time::Duration;

use lettre::message::header::{ContentTransferEncoding, ContentType};
use lettre::message::{Body, MultiPart, SinglePart};

use super::delivery_status::{DeliveryStatus, date, one_line};
use super::recipient::{DsnAction, DsnRecipient};
use crate::mail::{
    Address, BodyType, Content, DomainName, MailParameters, ReturnContent, ReversePath, Timestamp,
};
use crate::model::{DeliveryId, MessageId, MessageKind};
use crate::store::{Message, NewMessage};

/// Octets of the original header that a DSN returns.
const HEADER_OCTETS_MAX: usize = 32 * 1024;
/// Octets of the largest message that is returned in full.
const RETURNED_OCTETS_MAX: usize = 1024 * 1024;

/// The content of a DSN.
#[derive(Debug)]
pub struct DsnMessage<'a> {
    /// The host name of this server.
    pub hostname: &'a DomainName,
    /// The message that the DSN is about.
    pub message: &'a Message,
    /// Its content, if it is still stored.
    pub content: Option<&'a Content>,
    /// The recipients that are reported; at least one.
    pub recipients: &'a [DsnRecipient],
    /// The date of the DSN.
    pub now: Timestamp,
    /// How long delivery of the DSN is attempted.
    pub lifetime: Duration,
}

impl DsnMessage<'_> {
    /// The DSN as a message; `None` if the reverse path is `<>` (RFC 5321 §6.1).
    pub fn compose(&self) -> Option<NewMessage> {
        let to = self.message.reverse_path.mailbox()?;
        let id = MessageId::generate(self.now);
        let bytes = self.render(to, id)?;
        let expires_at = self.now.checked_add(self.lifetime).unwrap_or(Timestamp::MAX);
        let message = Message {
            id,
            tenant_id: self.message.tenant_id,
            key_id: None,
            kind: MessageKind::Report,
            environment: self.message.environment,
            reverse_path: ReversePath::Null,
            body: if bytes.is_ascii() { BodyType::SevenBit } else { BodyType::EightBitMime },
            smtputf8: to.needs_smtputf8(),
            annotations: Default::default(),
            // RFC 8689 §5: a DSN about a REQUIRETLS message requires TLS too.
            parameters: MailParameters {
                require_tls: self.message.parameters.require_tls,
                ..MailParameters::default()
            },
            size: bytes.len() as u64,
            subject: Some(self.subject().into()),
            header_from: Some(self.sender()),
            header_message_id: Some(format!("{id}@{}", self.hostname)),
            dkim_domain: None,
            sender_domain: None,
            list: None,
            created_at: self.now,
            expires_at,
        };
        let content = Content { prefix: bytes::Bytes::new(), submitted: bytes.into() };
        let recipients = vec![(DeliveryId::generate(self.now), to.clone().into())];
        Some(NewMessage { message, recipients, content, suppressed: Vec::new(), submission_key: None })
    }

    fn sender(&self) -> String {
        format!("MAILER-DAEMON@{}", self.hostname)
    }

    fn has_failure(&self) -> bool {
        self.recipients.iter().any(|recipient| matches!(recipient.action, DsnAction::Failed { .. }))
    }

    fn subject(&self) -> &'static str {
        if self.has_failure() {
            "Undelivered mail returned to sender"
        } else if self.recipients.iter().any(|recipient| matches!(recipient.action, DsnAction::Delayed(_))) {
            "Delivery of your mail is delayed"
        } else if !self.recipients.iter().any(|recipient| recipient.action == DsnAction::Relayed) {
            "Your mail was delivered"
        } else {
            "Mail was relayed to a server without delivery reports"
        }
    }

    fn render(&self, to: &Address, id: MessageId) -> Option<Vec<u8>> {
        let boundary = format!("report-{id}");
        let kind = format!("multipart/report; report-type=delivery-status; boundary=\"{boundary}\"");
        let status =
            DeliveryStatus { hostname: self.hostname, message: self.message, recipients: self.recipients };
        let status = status.compose();
        // RFC 3464 §2.1: message/delivery-status must be 7bit; RFC 6533 §4 defines another type for UTF-8.
        let status_kind = if status.is_ascii() { "delivery-status" } else { "global-delivery-status" };
        let original = self.original();
        let is_ascii =
            status.is_ascii() && original.as_ref().is_none_or(|original| original.octets.is_ascii());
        let returned = match original {
            Some(Original { kind, octets }) => verbatim_part(kind, octets)?,
            // RFC 6522 §4: the third part may be only the header.
            None => SinglePart::builder()
                .header(ContentType::parse("text/rfc822-headers; charset=utf-8").ok()?)
                .body(self.original_header()),
        };
        let parts = MultiPart::builder()
            .header(ContentType::parse(&kind).ok()?)
            // RFC 2045 §6.4: the outer part needs the widest encoding of the inner ones.
            .header(encoding_of(is_ascii))
            .build()
            .singlepart(SinglePart::plain(self.explanation()))
            .singlepart(verbatim_part(status_kind, status.into_bytes())?)
            .singlepart(returned);
        let date = date(self.now);
        // RFC 3834 §5: marks an automatic response.
        let mut bytes = format!(
            "Date: {date}\r\nFrom: Mail Delivery System <{}>\r\nTo: <{to}>\r\nSubject: {}\r\n\
             Message-ID: <{id}@{}>\r\nAuto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n",
            self.sender(),
            self.subject(),
            self.hostname
        )
        .into_bytes();
        bytes.extend(parts.formatted());
        Some(bytes)
    }

    /// The human-readable part (RFC 6522 §3).
    fn explanation(&self) -> String {
        let mut text = format!("This is the mail server {}.\r\n", self.hostname);
        if let Some(subject) = &self.message.subject {
            let _ = write!(text, "\r\nSubject: {}\r\n", one_line(subject));
        }
        for recipient in self.recipients {
            let said = one_line(&recipient.diagnostic);
            let said = match &recipient.host {
                Some(host) => format!("{host} said: {said}"),
                None => said,
            };
            let _ = write!(text, "\r\n<{}>\r\n    ", recipient.recipient);
            let _ = match recipient.action {
                DsnAction::Failed { expired: false } => {
                    write!(text, "Your message could not be delivered. {said}\r\n")
                }
                DsnAction::Failed { expired: true } => {
                    write!(
                        text,
                        "Your message could not be delivered before its lifetime ended. Last result: {said}\r\n"
                    )
                }
                DsnAction::Delayed(until) => write!(
                    text,
                    "Delivery of your message is delayed. This server retries until {}; you need not do anything. \
                     Last result: {said}\r\n",
                    date(until)
                ),
                DsnAction::Relayed => write!(
                    text,
                    "Your message was relayed to a server that sends no delivery reports. Whether it reached the \
                     recipient is not known here. {said}\r\n"
                ),
                DsnAction::Delivered => write!(text, "Your message was delivered. {said}\r\n"),
                DsnAction::Expanded => {
                    write!(text, "Your message was sent on to the addresses behind this one. {said}\r\n")
                }
            };
        }
        text
    }

    /// The third part if it returns the message, or its header, unchanged.
    fn original(&self) -> Option<Original> {
        let content = self.content?;
        let header = self.header_octets(content);
        // RFC 6532 §3.7, RFC 6533 §4.2, §4.3: a message with UTF-8 in its header has a type that not every sender
        // reads.
        let is_global = !header.is_ascii();
        let is_readable = !is_global || self.message.smtputf8;
        if is_readable && self.is_returned_in_full(content) {
            return Some(Original {
                kind: if is_global { "global" } else { "rfc822" },
                octets: content.to_vec(),
            });
        }
        let fits = header.len() <= HEADER_OCTETS_MAX && std::str::from_utf8(&header).is_ok();
        (is_global && is_readable && fits).then_some(Original { kind: "global-headers", octets: header })
    }

    /// Whether the full message is returned: RET=FULL was given (RFC 3461 §4.3), a recipient failed (§6.2), and it
    /// fits.
    fn is_returned_in_full(&self, content: &Content) -> bool {
        let MailParameters { return_content, require_tls, .. } = self.message.parameters;
        // RFC 8689 §5: REQUIRETLS implies RET=HDRS.
        let is_requested = return_content == Some(ReturnContent::Full) && !require_tls;
        is_requested && content.len() <= RETURNED_OCTETS_MAX && self.has_failure()
    }

    /// The original header as it was sent, or the stored subject if the content is gone.
    fn original_header(&self) -> String {
        let Some(content) = self.content else {
            return self
                .message
                .subject
                .iter()
                .map(|subject| format!("Subject: {}\r\n", one_line(subject)))
                .collect();
        };
        let header = self.header_octets(content);
        String::from_utf8_lossy(&header[..header.len().min(HEADER_OCTETS_MAX)]).into_owned()
    }

    fn header_octets(&self, content: &Content) -> Vec<u8> {
        [&content.prefix[..], content.header()].concat()
    }
}

/// The part of the original that is returned unchanged.
struct Original {
    /// The subtype of `message`.
    kind: &'static str,
    octets: Vec<u8>,
}

/// A part of type `message` with unencoded octets.
fn verbatim_part(kind: &str, octets: Vec<u8>) -> Option<SinglePart> {
    let encoding = encoding_of(octets.is_ascii());
    let body = Body::dangerous_pre_encoded(octets, encoding);
    Some(SinglePart::builder().header(ContentType::parse(&format!("message/{kind}")).ok()?).body(body))
}

fn encoding_of(is_ascii: bool) -> ContentTransferEncoding {
    if is_ascii { ContentTransferEncoding::SevenBit } else { ContentTransferEncoding::EightBit }
}

/// Shared by tests of this module and of its users.
#[cfg(test)]
pub fn sample_message(reverse_path: &str) -> std::sync::Arc<Message> {
    use crate::model::{Environment, TenantId};
    let now = Timestamp::UNIX_EPOCH;
    std::sync::Arc::new(Message {
        id: MessageId::generate(now),
        tenant_id: TenantId::generate(now),
        key_id: None,
        kind: MessageKind::Message,
        environment: Environment::Test,
        reverse_path: ReversePath::parse(reverse_path).unwrap(),
        body: BodyType::SevenBit,
        smtputf8: false,
        annotations: Default::default(),
        parameters: Default::default(),
        size: 1,
        subject: Some("Grüße".into()),
        header_from: None,
        header_message_id: None,
        dkim_domain: None,
        sender_domain: None,
        list: None,
        created_at: now,
        expires_at: now + crate::mail::SignedDuration::from_hours(100),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mail_parser::{MessageParser, MimeHeaders, PartType};

    fn failure(recipient: &str, host: Option<&str>, diagnostic: &str) -> DsnRecipient {
        DsnRecipient {
            recipient: Address::parse(recipient).unwrap(),
            original: None,
            action: DsnAction::Failed { expired: false },
            status: crate::mail::EnhancedStatus::new(5, 1, 1),
            host: host.map(str::to_owned),
            diagnostic: diagnostic.into(),
            last_attempt_at: Some(Timestamp::UNIX_EPOCH),
        }
    }

    fn compose(reverse_path: &str, header: &str, failures: &[DsnRecipient]) -> Option<NewMessage> {
        compose_for(&sample_message(reverse_path), header, failures)
    }

    fn compose_for(message: &Message, header: &str, failures: &[DsnRecipient]) -> Option<NewMessage> {
        let content = Content {
            prefix: "Received: by us\r\n".into(),
            submitted: bytes::Bytes::copy_from_slice(header.as_bytes()),
        };
        let hostname = DomainName::parse("relay.example").unwrap();
        let dsn = DsnMessage {
            hostname: &hostname,
            message,
            content: Some(&content),
            recipients: failures,
            now: Timestamp::UNIX_EPOCH,
            lifetime: Duration::from_secs(60),
        };
        dsn.compose()
    }

    #[test]
    fn a_report_names_the_failed_recipients_and_the_reasons() {
        let failures = [
            failure("bob@x.example", Some("mx.x.example"), "550 5.1.1 no such user"),
            failure("é@y.example", None, "time-out\r\nAction: delivered"),
        ];
        let new = compose("alice@a.example", "Subject: Gr\u{fc}\u{df}e\r\n\r\nbody\r\n", &failures).unwrap();
        let bytes = &new.content.submitted;
        assert!(bytes.is_ascii(), "{}", String::from_utf8_lossy(bytes));
        let lone = bytes.windows(2).any(|pair| (pair[0] == b'\r') != (pair[1] == b'\n'));
        assert!(!lone && bytes.ends_with(b"\r\n"));
        assert_eq!(new.message.reverse_path, ReversePath::Null);
        assert_eq!(new.message.size, bytes.len() as u64);
        assert_eq!(new.recipients[0].1.address.to_string(), "alice@a.example");

        let parsed = MessageParser::default().parse(&bytes[..]).unwrap();
        assert_eq!(parsed.from().unwrap().first().unwrap().address(), Some("MAILER-DAEMON@relay.example"));
        assert_eq!(parsed.to().unwrap().first().unwrap().address(), Some("alice@a.example"));
        assert_eq!(parsed.header_raw("Auto-Submitted").map(str::trim), Some("auto-replied"));
        let kind = parsed.content_type().unwrap();
        assert_eq!((kind.ctype(), kind.subtype()), ("multipart", Some("report")));
        assert_eq!(kind.attribute("report-type"), Some("delivery-status"));
        assert!(parsed.date().is_some() && parsed.message_id().is_some());

        let PartType::Multipart(parts) = &parsed.parts[0].body else { panic!("not a multipart") };
        let texts: Vec<String> = parts
            .iter()
            .map(|&n| String::from_utf8_lossy(parsed.parts[n as usize].contents()).into_owned())
            .collect();
        assert_eq!(texts.len(), 3);
        assert!(
            texts[0].contains("mx.x.example said: 550 5.1.1 no such user")
                && texts[0].contains("é@y.example")
        );
        assert!(texts[0].contains("Grüße"), "{}", texts[0]);
        assert!(
            texts[1]
                .contains("Final-Recipient: rfc822; bob@x.example\r\nAction: failed\r\nStatus: 5.1.1\r\n")
        );
        assert!(texts[1].contains("Last-Attempt-Date: Thu, 1 Jan 1970 00:00:00 +0000\r\n"), "{}", texts[1]);
        assert!(texts[1].contains("Diagnostic-Code: smtp; 550 5.1.1 no such user\r\n"));
        assert!(texts[1].contains("Diagnostic-Code: X-Pillarbox; time-out  Action: delivered\r\n"));
        assert!(texts[1].contains("Final-Recipient: utf-8; \\x{E9}@y.example\r\n"));
        assert_eq!(texts[1].matches("\r\nAction: ").count(), 2, "{}", texts[1]);
        assert!(texts[2].starts_with("Received: by us\r\nSubject: Gr\u{fc}\u{df}e"), "{}", texts[2]);
        assert!(!texts[2].contains("body"));
    }

    #[test]
    fn a_dsn_causes_no_dsn() {
        assert!(compose("", "\r\n", &[failure("b@x.example", None, "no")]).is_none());
    }

    #[test]
    fn a_non_ascii_address_gets_its_report() {
        let new =
            compose("ä@a.example", "Subject: x\r\n\r\n", &[failure("b@x.example", None, "no")]).unwrap();
        assert!(new.message.smtputf8);
        assert!(String::from_utf8(new.content.submitted.to_vec()).unwrap().contains("To: <ä@a.example>\r\n"));
    }

    fn part(bytes: &[u8], kind: &str) -> Option<String> {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let (_, rest) = text.split_once(&format!("Content-Type: {kind}"))?;
        let (_, rest) = rest.split_once("\r\n\r\n")?;
        rest.split_once("\r\n--report-").map(|(part, _)| part.to_owned())
    }

    #[test]
    fn a_report_has_the_envelope_id_and_the_original_recipient() {
        let mut message = Message::clone(&sample_message("alice@a.example"));
        message.parameters.envelope_id = "QQ+20314".parse().ok();
        let mut recipient = failure("new@x.example", None, "250 2.0.0 taken");
        recipient.original = "rfc822;old+2Bx@x.example".parse().ok();
        recipient.action = DsnAction::Relayed;
        let relayed = compose_for(&message, "Subject: x\r\n\r\n", &[recipient.clone()]).unwrap();
        let fields = part(&relayed.content.submitted, "message/delivery-status").unwrap();
        assert!(fields.starts_with("Original-Envelope-Id: QQ 314\r\nReporting-MTA: dns; relay.example\r\n"));
        let group = "\r\n\r\nOriginal-Recipient: rfc822;old+x@x.example\r\n\
                     Final-Recipient: rfc822; new@x.example\r\nAction: relayed\r\n";
        assert!(fields.contains(group), "{fields}");
        assert_eq!(
            relayed.message.subject.as_deref(),
            Some("Mail was relayed to a server without delivery reports")
        );
        recipient.action = DsnAction::Delayed(Timestamp::UNIX_EPOCH);
        let delayed = compose_for(&message, "Subject: x\r\n\r\n", &[recipient]).unwrap();
        let fields = part(&delayed.content.submitted, "message/delivery-status").unwrap();
        assert!(fields.contains("Action: delayed\r\n"), "{fields}");
        assert!(fields.contains("\r\nWill-Retry-Until: Thu, 1 Jan 1970 00:00:00 +0000"), "{fields}");
    }

    #[test]
    fn the_full_message_is_returned_only_if_requested_and_small_enough() {
        let failed = [failure("b@x.example", None, "550 no")];
        let text = "Subject: x\r\n\r\nGr\u{fc}\u{df}e\r\n";
        let mut message = Message::clone(&sample_message("alice@a.example"));
        let whole = |message: &Message, text: &str, failures: &[DsnRecipient]| {
            let new = compose_for(message, text, failures).unwrap();
            (part(&new.content.submitted, "message/rfc822"), new.message.body)
        };
        assert_eq!(whole(&message, text, &failed).0, None);
        message.parameters.return_content = Some(ReturnContent::Full);
        let expected = format!("Received: by us\r\n{}", text);
        assert_eq!(whole(&message, text, &failed), (Some(expected), BodyType::EightBitMime));
        let mut delayed = failed.clone();
        delayed[0].action = DsnAction::Delayed(Timestamp::UNIX_EPOCH);
        assert_eq!(whole(&message, text, &delayed).0, None);
        assert_eq!(whole(&message, "Subject: \u{fc}\r\n\r\n", &failed), (None, BodyType::SevenBit));
        let large = format!("Subject: x\r\n\r\n{}", "x\r\n".repeat(RETURNED_OCTETS_MAX / 3));
        assert_eq!(whole(&message, &large, &failed).0, None);
    }

    #[test]
    fn a_sender_with_smtputf8_gets_addresses_and_headers_in_utf8() {
        let failed = [failure("é@y.example", None, "550 no")];
        let text = "Subject: Grüße\r\n\r\nbody\r\n";
        let mut message = Message::clone(&sample_message("alice@a.example"));
        message.smtputf8 = true;
        let new = compose_for(&message, text, &failed).unwrap();
        let bytes = &new.content.submitted;
        assert_eq!((new.message.body, new.message.smtputf8), (BodyType::EightBitMime, false));
        let status = part(bytes, "message/global-delivery-status").unwrap();
        assert!(status.contains("Final-Recipient: utf-8; é@y.example\r\n"), "{status}");
        let header = part(bytes, "message/global-headers").unwrap();
        assert_eq!(header, "Received: by us\r\nSubject: Grüße\r\n");
        message.parameters.return_content = Some(ReturnContent::Full);
        let new = compose_for(&message, text, &failed).unwrap();
        let whole = part(&new.content.submitted, "message/global\r\n").unwrap();
        assert_eq!(whole, format!("Received: by us\r\n{text}"));
        let plain =
            compose_for(&message, "Subject: x\r\n\r\n", &[failure("b@x.example", None, "no")]).unwrap();
        assert!(part(&plain.content.submitted, "message/delivery-status").is_some());
        assert!(
            part(&plain.content.submitted, "message/rfc822").is_some() && plain.content.submitted.is_ascii()
        );
    }
}
