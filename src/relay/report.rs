//! Reports of failed delivery to the reverse path (RFC 3464 in the multipart of RFC 6522).

use std::fmt::Write;
use std::time::Duration;

use lettre::message::header::{ContentTransferEncoding, ContentType};
use lettre::message::{Body, MultiPart, SinglePart};

use crate::mail::{
    Address, BodyType, Content, DeliveryId, DomainName, EnhancedStatus, MessageId, ReversePath, Timestamp,
};
use crate::store::{Message, NewMessage};

/// Octets of the original's header that a report carries.
const HEADER_OCTETS_MAX: usize = 32 * 1024;
/// Characters of a diagnostic: a reply may have 64 KiB.
const DIAGNOSTIC_CHARS_MAX: usize = 900;

/// A recipient who will not get the message.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Who.
    pub recipient: Address,
    /// Why, as a code.
    pub status: EnhancedStatus,
    /// The server that said so, if one did.
    pub host: Option<String>,
    /// Its reply, or what went wrong.
    pub diagnostic: String,
    /// Whether the lifetime ended, rather than a server refusing.
    pub expired: bool,
}

/// What a report is about.
#[derive(Debug)]
pub struct Report<'a> {
    /// Our name.
    pub hostname: &'a DomainName,
    /// The message that failed.
    pub message: &'a Message,
    /// Its bytes, if they are still there.
    pub content: Option<&'a Content>,
    /// At least one.
    pub failures: &'a [Failure],
    /// When.
    pub now: Timestamp,
    /// How long delivery of the report is tried.
    pub lifetime: Duration,
}

impl Report<'_> {
    /// The report as a message; `None` if nobody wants one: the reverse path is `<>` (RFC 5321 §6.1).
    pub fn compose(&self) -> Option<NewMessage> {
        let to = self.message.reverse_path.mailbox()?;
        let id = MessageId::generate(self.now);
        let bytes = self.render(to, id)?;
        let expires_at = self.now.checked_add(self.lifetime).unwrap_or(Timestamp::MAX);
        let message = Message {
            id,
            tenant_id: self.message.tenant_id,
            key_id: None,
            environment: self.message.environment,
            reverse_path: ReversePath::Null,
            body: BodyType::SevenBit,
            smtputf8: to.needs_smtputf8(),
            size: bytes.len() as u64,
            subject: Some(SUBJECT.into()),
            header_from: Some(self.sender()),
            header_message_id: Some(format!("{id}@{}", self.hostname)),
            dkim_domain: None,
            created_at: self.now,
            expires_at,
        };
        let content = Content { prefix: bytes::Bytes::new(), submitted: bytes.into() };
        let recipients = vec![(DeliveryId::generate(self.now), to.clone())];
        Some(NewMessage { message, recipients, content })
    }

    fn sender(&self) -> String {
        format!("MAILER-DAEMON@{}", self.hostname)
    }

    fn render(&self, to: &Address, id: MessageId) -> Option<Vec<u8>> {
        let boundary = format!("report-{id}");
        let kind = format!("multipart/report; report-type=delivery-status; boundary=\"{boundary}\"");
        let parts = MultiPart::builder()
            .header(ContentType::parse(&kind).ok()?)
            .build()
            .singlepart(SinglePart::plain(self.explain()))
            .singlepart(ascii_part("message/delivery-status", self.status_fields())?)
            .singlepart(
                // RFC 6522 §4: the third part may be the header alone.
                SinglePart::builder()
                    .header(ContentType::parse("text/rfc822-headers; charset=utf-8").ok()?)
                    .body(self.original_header()),
            );
        let date = jiff::fmt::rfc2822::to_string(&self.now.to_zoned(jiff::tz::TimeZone::UTC)).ok()?;
        // RFC 3834 §5: what is sent by itself says so, and answers nobody.
        let mut bytes = format!(
            "Date: {date}\r\nFrom: Mail Delivery System <{}>\r\nTo: <{to}>\r\nSubject: {SUBJECT}\r\n\
             Message-ID: <{id}@{}>\r\nAuto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n",
            self.sender(),
            self.hostname
        )
        .into_bytes();
        bytes.extend(parts.formatted());
        Some(bytes)
    }

    /// The part for people.
    fn explain(&self) -> String {
        let mut text = format!(
            "This is the mail server {}.\r\n\r\nYour message could not be delivered to the recipients below. \
             It will not be tried again.\r\n",
            self.hostname
        );
        if let Some(subject) = &self.message.subject {
            let _ = write!(text, "\r\nSubject: {}\r\n", one_line(subject));
        }
        for failure in self.failures {
            let _ = write!(text, "\r\n<{}>\r\n", failure.recipient);
            let diagnostic = one_line(&failure.diagnostic);
            let _ = match (&failure.host, failure.expired) {
                (_, true) => {
                    write!(text, "    The time for its delivery has run out. Last: {diagnostic}\r\n")
                }
                (Some(host), false) => write!(text, "    {host} said: {diagnostic}\r\n"),
                (None, false) => write!(text, "    {diagnostic}\r\n"),
            };
        }
        text
    }

    /// The part for programs (RFC 3464 §2).
    fn status_fields(&self) -> String {
        let mut text = format!(
            "Reporting-MTA: dns; {}\r\nX-Original-Message-ID: {}\r\nArrival-Date: {}\r\n",
            self.hostname,
            self.message.id,
            jiff::fmt::rfc2822::to_string(&self.message.created_at.to_zoned(jiff::tz::TimeZone::UTC))
                .unwrap_or_default()
        );
        for failure in self.failures {
            let _ = write!(
                text,
                "\r\nFinal-Recipient: {}\r\nAction: failed\r\nStatus: {}\r\n",
                typed_address(&failure.recipient),
                failure.status
            );
            let diagnostic: String = one_line(&failure.diagnostic).chars().map(ascii_only).collect();
            if let Some(host) = &failure.host {
                let _ = write!(text, "Remote-MTA: dns; {}\r\n", one_line(host));
            }
            // RFC 3464 §2.3.6: `smtp` is for replies; our own words are no reply.
            let kind = if is_reply(&diagnostic) { "smtp" } else { "X-Pillarbox" };
            let _ = write!(text, "Diagnostic-Code: {kind}; {diagnostic}\r\n");
        }
        text
    }

    /// The original's header as it was sent, or what we know of it.
    fn original_header(&self) -> String {
        let Some(content) = self.content else {
            return self
                .message
                .subject
                .iter()
                .map(|subject| format!("Subject: {}\r\n", one_line(subject)))
                .collect();
        };
        let submitted = &content.submitted;
        // An empty line at once: nothing but our own fields.
        let end = match submitted.starts_with(b"\r\n") {
            true => 0,
            false => memchr::memmem::find(submitted, b"\r\n\r\n").map_or(submitted.len(), |at| at + 2),
        };
        let header = [&content.prefix[..], &submitted[..end]].concat();
        String::from_utf8_lossy(&header[..header.len().min(HEADER_OCTETS_MAX)]).into_owned()
    }
}

const SUBJECT: &str = "Undelivered mail returned to sender";

/// A part that must be 7bit (RFC 3464 §2.1).
fn ascii_part(kind: &str, text: String) -> Option<SinglePart> {
    let body = Body::dangerous_pre_encoded(text.into_bytes(), ContentTransferEncoding::SevenBit);
    Some(SinglePart::builder().header(ContentType::parse(kind).ok()?).body(body))
}

/// RFC 6533 §3: an address beyond ASCII in a form that ASCII holds.
fn typed_address(address: &Address) -> String {
    let text = address.to_string();
    if text.is_ascii() {
        return format!("rfc822; {text}");
    }
    let escaped: String = text
        .chars()
        .map(|c| if c.is_ascii() && c != '\\' { c.to_string() } else { format!("\\x{{{:X}}}", u32::from(c)) })
        .collect();
    format!("utf-8; {escaped}")
}

/// Text without line ends, shortened: nothing of it can become a field of its own.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(DIAGNOSTIC_CHARS_MAX).collect()
}

fn is_reply(text: &str) -> bool {
    let code = text.split(' ').next().unwrap_or_default();
    code.len() == 3 && code.starts_with(['4', '5']) && code.bytes().all(|b| b.is_ascii_digit())
}

fn ascii_only(c: char) -> char {
    if c.is_ascii() { c } else { '?' }
}

/// Shared by tests of this module and of its users.
#[cfg(test)]
pub fn sample_message(reverse_path: &str) -> std::sync::Arc<Message> {
    use crate::mail::{Environment, TenantId};
    let now = Timestamp::UNIX_EPOCH;
    std::sync::Arc::new(Message {
        id: MessageId::generate(now),
        tenant_id: TenantId::generate(now),
        key_id: None,
        environment: Environment::Test,
        reverse_path: ReversePath::parse(reverse_path).unwrap(),
        body: BodyType::SevenBit,
        smtputf8: false,
        size: 1,
        subject: Some("Grüße".into()),
        header_from: None,
        header_message_id: None,
        dkim_domain: None,
        created_at: now,
        expires_at: now + crate::mail::SignedDuration::from_hours(100),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mail_parser::{MessageParser, MimeHeaders, PartType};

    fn failure(recipient: &str, host: Option<&str>, diagnostic: &str) -> Failure {
        Failure {
            recipient: Address::parse(recipient).unwrap(),
            status: EnhancedStatus::new(5, 1, 1),
            host: host.map(str::to_owned),
            diagnostic: diagnostic.into(),
            expired: false,
        }
    }

    fn compose(reverse_path: &str, header: &str, failures: &[Failure]) -> Option<NewMessage> {
        let message = sample_message(reverse_path);
        let content = Content {
            prefix: "Received: by us\r\n".into(),
            submitted: bytes::Bytes::copy_from_slice(header.as_bytes()),
        };
        let hostname = DomainName::parse("relay.example").unwrap();
        let report = Report {
            hostname: &hostname,
            message: &message,
            content: Some(&content),
            failures,
            now: Timestamp::UNIX_EPOCH,
            lifetime: Duration::from_secs(60),
        };
        report.compose()
    }

    #[test]
    fn a_report_says_who_failed_and_why() {
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
        assert_eq!(new.recipients[0].1.to_string(), "alice@a.example");

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
        assert!(texts[1].contains("Diagnostic-Code: smtp; 550 5.1.1 no such user\r\n"));
        assert!(texts[1].contains("Diagnostic-Code: X-Pillarbox; time-out  Action: delivered\r\n"));
        assert!(texts[1].contains("Final-Recipient: utf-8; \\x{E9}@y.example\r\n"));
        assert_eq!(texts[1].matches("\r\nAction: ").count(), 2, "{}", texts[1]);
        assert!(texts[2].starts_with("Received: by us\r\nSubject: Gr\u{fc}\u{df}e"), "{}", texts[2]);
        assert!(!texts[2].contains("body"));
    }

    #[test]
    fn nobody_gets_a_report_of_a_report() {
        assert!(compose("", "\r\n", &[failure("b@x.example", None, "no")]).is_none());
    }

    #[test]
    fn an_address_beyond_ascii_gets_its_report_too() {
        let new =
            compose("ä@a.example", "Subject: x\r\n\r\n", &[failure("b@x.example", None, "no")]).unwrap();
        assert!(new.message.smtputf8);
        assert!(String::from_utf8(new.content.submitted.to_vec()).unwrap().contains("To: <ä@a.example>\r\n"));
    }
}
