//! Checks and rewrites the header of a submitted message. Pure.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use jiff::fmt::rfc2822;
use mail_parser::MessageParser;

use super::Trace;
use crate::mail::{
    Address, DomainName, Field, HeaderBlock, HeaderError, MailboxListError, Timestamp, Token, TokenKind,
    UnquotedName, folded_field, parse_mailbox_list, quote_display_name, write_angle_address,
    write_display_name,
};
use crate::model::{ListName, ListNameError, MessageId, Refusal, RefusalCode};
use crate::policy::admission::{refuse_from, refuse_from_count};
use crate::store::TenantSettings;

/// Where complaints about a message are sent (RFC 9477).
pub(super) const FEEDBACK_ADDRESS: &str = "CFBL-Address";
/// What identifies a message in complaints (RFC 9477).
pub(super) const FEEDBACK_ID: &str = "CFBL-Feedback-ID";

/// Downstream parsers are slow on huge headers, some quadratically.
const HEADER_OCTETS_MAX: usize = 256 * 1024;
/// RFC 5321 §6.3: loop detection.
const RECEIVED_MAX: usize = 100;
/// RFC 5322 §3.6.2 and §3.6.6: fields that state who sent a message, besides From.
const SENDER_FIELDS: &[&str] = &["Sender", "Resent-From", "Resent-Sender"];
/// Each address needs a lookup.
const SENDERS_MAX: usize = 50;
/// Bcc must not reach recipients (RFC 5322 §3.6.3); only the final server adds Return-Path (RFC 5321 §4.4).
const REMOVED_FIELDS: &[&str] = &["Bcc", "Resent-Bcc", "Return-Path", IDEMPOTENCY_KEY, LIST];
/// The fields that a message needs besides From (RFC 5322 §3.6); the server adds them.
const REQUIRED_FIELDS: &[&str] = &["Date", "Message-ID"];
/// RFC 5322 §3.6: fields that occur at most once, besides From, which has a check of its own, and Bcc, which is removed.
/// Large receivers refuse messages with several of one.
const SINGLE_FIELDS: &[&str] =
    &["Subject", "To", "Cc", "Date", "Message-ID", "Reply-To", "Sender", "In-Reply-To", "References"];
/// Identifies a submission; removed before delivery.
const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
/// Names the list that the message belongs to; removed before delivery.
const LIST: &str = "X-Pillarbox-List";
const IDEMPOTENCY_KEY_CHARS_MAX: usize = 255;

/// Changes of a message, in order: the span of a field, and the text in its place.
type Edits = Vec<(Range<usize>, String)>;

/// A header that can be interpreted in exactly one way.
#[derive(Debug)]
pub struct CheckedHeader {
    /// The fields that are relayed.
    block: HeaderBlock,
    edits: Edits,
    /// The addresses of From, at least one.
    pub from: Vec<Address>,
    /// The addresses of Sender, Resent-From and Resent-Sender.
    pub senders: Vec<Address>,
    /// The value of Idempotency-Key.
    pub idempotency_key: Option<String>,
    /// The list that the message belongs to.
    pub list: Option<ListName>,
    /// Reply-To, if the tenant's is to be added.
    reply_to: Option<Address>,
}

/// Parses the header, or refuses it.
pub fn check(message: &[u8]) -> Result<CheckedHeader, Refusal> {
    let mut block = HeaderBlock::scan(message, HEADER_OCTETS_MAX).map_err(refuse_header)?;
    let received = block.named("Received").count();
    if received > RECEIVED_MAX {
        return Err(Refusal::new(
            RefusalCode::MailLoop,
            format!("the message has passed {received} servers: a mail loop"),
            "check servers and forwarding rules for a loop",
        ));
    }
    let from_fields: Vec<_> = block.named("From").collect();
    let [field] = from_fields[..] else {
        return Err(refuse_from_count(from_fields.len()));
    };
    let mut edits = Edits::new();
    let from = read_mailboxes(field, message, &mut edits).map_err(|error| refuse_from("From", error))?;
    let senders = read_senders(&block, message, &mut edits)?;
    let idempotency_key = read_idempotency_key(&block, message)?;
    let list = read_list(&block, message)?;
    let removed = block.fields.extract_if(.., |field| is_removed(field, message));
    edits.extend(removed.map(|field| (field.span, String::new())));
    edits.sort_unstable_by_key(|(span, _)| span.start);
    Ok(CheckedHeader { block, edits, from, senders, idempotency_key, list, reply_to: None })
}

/// Whether recipients must not see the field, whether it is an empty `Date` or `Message-ID`, which counts as absent, or whether
/// it has a token of another message.
fn is_removed(field: &Field, message: &[u8]) -> bool {
    let is_one_of = |names: &[&str]| names.iter().any(|name| field.name.eq_ignore_ascii_case(name));
    let is_empty = || message[field.value.clone()].iter().all(|octet| b" \t\r\n<>".contains(octet));
    is_one_of(REMOVED_FIELDS)
        || (is_one_of(REQUIRED_FIELDS) && is_empty())
        || has_token_of_another_message(field, message)
}

/// Whether a server like this one added the field to another message: a complaint about this message is not about that one.
fn has_token_of_another_message(field: &Field, message: &[u8]) -> bool {
    let value = std::str::from_utf8(message[field.value.clone()].trim_ascii()).unwrap_or_default();
    if field.name.eq_ignore_ascii_case(FEEDBACK_ID) {
        return Token::parse_bare(TokenKind::Feedback, value).is_some();
    }
    let local = value.trim_start_matches('<').split_once('@').map(|(local, _)| local);
    field.name.eq_ignore_ascii_case(FEEDBACK_ADDRESS)
        && local.is_some_and(|local| Token::parse(local).is_some())
}

/// The addresses of a field. A display name that must be quoted is quoted in the message.
fn read_mailboxes(
    field: &Field,
    message: &[u8],
    edits: &mut Edits,
) -> Result<Vec<Address>, MailboxListError> {
    let value = &message[field.value.clone()];
    parse_mailbox_list(value).or_else(|error| {
        let UnquotedName { address, quoted } = quote_display_name(value).ok_or(error)?;
        edits.push((field.span.clone(), format!("{}: {quoted}\r\n", field.name)));
        Ok(vec![address])
    })
}

/// Whether the value of a field is the address alone, with or without angle brackets.
fn has_no_name(value: &[u8], address: &Address) -> bool {
    let text = String::from_utf8_lossy(value.trim_ascii());
    let bare = text.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')).unwrap_or(&text);
    Address::parse(bare).is_ok_and(|bare| bare == *address)
}

/// Some mail clients show Sender or Resent-From in place of From.
fn read_senders(block: &HeaderBlock, message: &[u8], edits: &mut Edits) -> Result<Vec<Address>, Refusal> {
    let mut senders = Vec::new();
    for name in SENDER_FIELDS {
        for field in block.named(name) {
            let addresses = read_mailboxes(field, message, edits);
            senders.extend(addresses.map_err(|error| refuse_from(name, error))?);
            if senders.len() > SENDERS_MAX {
                return Err(refuse_from(name, MailboxListError::TooMany));
            }
        }
    }
    Ok(senders)
}

fn read_idempotency_key(block: &HeaderBlock, message: &[u8]) -> Result<Option<String>, Refusal> {
    let fields: Vec<_> = block.named(IDEMPOTENCY_KEY).collect();
    let value = match fields[..] {
        [] => return Ok(None),
        [field] => message[field.value.clone()].trim_ascii(),
        _ => &[],
    };
    let printable = value.iter().all(|octet| (b' '..=b'~').contains(octet));
    match std::str::from_utf8(value) {
        Ok(key) if printable && (1..=IDEMPOTENCY_KEY_CHARS_MAX).contains(&key.len()) => {
            Ok(Some(key.to_owned()))
        }
        _ => Err(Refusal::new(
            RefusalCode::HeaderMalformed,
            "Idempotency-Key must be one line of 1 to 255 printable ASCII characters",
            "send the field once, with a unique value",
        )),
    }
}

fn read_list(block: &HeaderBlock, message: &[u8]) -> Result<Option<ListName>, Refusal> {
    let fields: Vec<_> = block.named(LIST).collect();
    let value = match fields[..] {
        [] => return Ok(None),
        [field] => message[field.value.clone()].trim_ascii(),
        _ => &[],
    };
    let name = std::str::from_utf8(value).ok().and_then(|name| name.parse().ok());
    name.map(Some).ok_or_else(|| {
        Refusal::new(
            RefusalCode::HeaderMalformed,
            format!("the {LIST} field is not one valid name: {ListNameError}"),
            "send the field once, like X-Pillarbox-List: news",
        )
    })
}

fn refuse_header(error: HeaderError) -> Refusal {
    let hint = match error {
        HeaderError::FormFeed { .. } => "use spaces, or encode the text (RFC 2047)",
        _ => "send header fields as `Name: value`, then an empty line, then the body",
    };
    Refusal::new(RefusalCode::HeaderMalformed, error.to_string(), hint)
}

fn refuse_duplicate(name: &str, count: usize) -> Refusal {
    let hint = match name {
        "To" | "Cc" | "Reply-To" => {
            format!("send one {name} field with all its addresses, separated by commas")
        }
        _ => format!("send one {name} field"),
    };
    Refusal::new(RefusalCode::HeaderDuplicate, format!("the message has {count} {name} fields"), hint)
}

impl CheckedHeader {
    /// Refuses several fields of one name where RFC 5322 §3.6 allows one.
    pub fn refuse_duplicates(&self) -> Result<(), Refusal> {
        for name in SINGLE_FIELDS {
            let count = self.block.named(name).count();
            if count > 1 {
                return Err(refuse_duplicate(name, count));
            }
        }
        Ok(())
    }

    /// Whether the message has a field of this name.
    pub fn has(&self, name: &str) -> bool {
        self.block.named(name).next().is_some()
    }

    /// Takes the display name and Reply-To of the tenant where the message has none. A message that the client has signed
    /// stays as it is: both are usually signed.
    pub fn apply_defaults(&mut self, message: &[u8], settings: &TenantSettings, smtputf8: bool) {
        if self.block.named("DKIM-Signature").next().is_some() {
            return;
        }
        if let (Some(name), Some(field), [address]) =
            (&settings.from_name, self.block.named("From").next(), &self.from[..])
            && has_no_name(&message[field.value.clone()], address)
        {
            let named = folded_field(&field.name, |writer| {
                write_display_name(name, writer)?;
                writer.space();
                write_angle_address(address, writer)
            });
            self.edits.push((field.span.clone(), named));
            self.edits.sort_unstable_by_key(|(span, _)| span.start);
        }
        if self.block.named("Reply-To").next().is_none() {
            let is_writable = |address: &&Address| smtputf8 || !address.needs_smtputf8();
            self.reply_to = settings.reply_to.as_ref().filter(is_writable).cloned();
        }
    }

    /// The message with its changes. Copies only if there are any.
    pub fn rewrite(&self, message: Bytes) -> Bytes {
        if self.edits.is_empty() {
            return message;
        }
        let mut rewritten = BytesMut::with_capacity(message.len());
        let mut start = 0;
        for (span, text) in &self.edits {
            rewritten.extend_from_slice(&message[start..span.start]);
            rewritten.extend_from_slice(text.as_bytes());
            start = span.end;
        }
        rewritten.extend_from_slice(&message[start..]);
        rewritten.freeze()
    }

    /// `Date` and `Message-ID`, if missing or empty (RFC 6409 §8.2, §8.3), and the tenant's Reply-To.
    pub fn missing_fields(&self, id: MessageId, now: Timestamp) -> String {
        let mut fields = String::new();
        if self.block.named("Date").next().is_none() {
            fields.push_str(&format!("Date: {}\r\n", date(now)));
        }
        if self.block.named("Message-ID").next().is_none() {
            let domain = self.from.first().map_or_else(|| "localhost".into(), |from| from.host().to_string());
            fields.push_str(&format!("Message-ID: <{id}@{domain}>\r\n"));
        }
        if let Some(reply_to) = &self.reply_to {
            fields.push_str(&format!("Reply-To: {reply_to}\r\n"));
        }
        fields
    }

    /// The summary for lists. `added` are the fields of [`CheckedHeader::missing_fields`].
    pub fn summarize(&self, added: &str, message: &[u8]) -> Summary {
        let shorten = |text: &str| text.chars().take(SUMMARY_CHARS_MAX).collect::<String>();
        let value = |name| {
            let field = self.block.named(name).next()?;
            let end = field.span.end.min(field.span.start + SUMMARIZED_OCTETS_MAX);
            Some(String::from_utf8_lossy(&message[field.span.start..end]).into_owned() + "\r\n")
        };
        let own_id = value("Message-ID")
            .or_else(|| added.lines().find(|l| l.starts_with("Message-ID:")).map(|l| format!("{l}\r\n")));
        // Parsed field by field: only these are needed.
        let subject = value("Subject").and_then(|field| {
            MessageParser::default().parse_headers(field.as_bytes()).and_then(|m| m.subject().map(shorten))
        });
        let message_id = own_id.and_then(|field| {
            MessageParser::default().parse_headers(field.as_bytes()).and_then(|m| m.message_id().map(shorten))
        });
        Summary { subject, from: self.from.first().map(|from| from.to_string()), message_id }
    }
}

/// Maximum length of summary fields.
const SUMMARY_CHARS_MAX: usize = 255;
/// Octets of a field that are decoded for the summary. The decoder searches the rest of the field for the end of each
/// encoded word, so its time grows with the square of the length if the words have no end.
const SUMMARIZED_OCTETS_MAX: usize = 8 * 1024;

/// The fields of a message that lists show.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The subject, decoded and truncated.
    pub subject: Option<String>,
    /// The first address of From.
    pub from: Option<String>,
    /// The Message-ID without angle brackets.
    pub message_id: Option<String>,
}

/// The parts of a `Received` field.
pub struct ReceivedField<'a> {
    /// The host name of the server.
    pub hostname: &'a DomainName,
    /// How the message was submitted.
    pub trace: &'a Trace,
    /// The client's address, if it is to be included.
    pub client_address: Option<std::net::IpAddr>,
    /// The message id.
    pub id: MessageId,
    /// The time of acceptance.
    pub now: Timestamp,
}

impl ReceivedField<'_> {
    /// The `Received` field (RFC 5321 §4.4). Without the client's address there is no `from` clause: the EHLO name of
    /// a mail client often reveals an address in a home network.
    pub fn field(&self) -> String {
        let mut field = String::from("Received:");
        if let Some(address) = self.client_address {
            let literal = match address {
                std::net::IpAddr::V4(ip) => format!("[{ip}]"),
                std::net::IpAddr::V6(ip) => format!("[IPv6:{ip}]"),
            };
            field.push_str(&format!(" from {} ({literal})\r\n", self.trace.helo));
        }
        field.push_str(&format!(" by {} with {}", self.hostname, self.trace.protocol));
        if let Some(tls) = &self.trace.tls {
            field.push_str(&format!("\r\n ({tls})"));
        }
        field.push_str(&format!("\r\n id {};\r\n {}\r\n", self.id, date(self.now)));
        field
    }
}

/// An RFC 5322 §3.3 date in UTC.
fn date(now: Timestamp) -> String {
    rfc2822::to_string(&now.to_zoned(jiff::tz::TimeZone::UTC))
        .unwrap_or_else(|_| unreachable!("the clock is between the years 0 and 9999"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(message: &str) -> RefusalCode {
        check(message.as_bytes()).unwrap_err().code
    }

    fn id() -> MessageId {
        MessageId::generate(Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn the_header_must_be_unambiguous_and_have_one_from() {
        assert_eq!(refused("To: a@b.c\r\n\r\nhi\r\n"), RefusalCode::FromHeaderMissing);
        assert_eq!(refused(""), RefusalCode::FromHeaderMissing);
        assert_eq!(refused("\r\nFrom: a@b.c\r\n"), RefusalCode::FromHeaderMissing);
        assert_eq!(refused("From: a@b.c\r\nfrom: d@e.f\r\n\r\n"), RefusalCode::FromHeaderAmbiguous);
        assert_eq!(refused("From: a@b.c b@c.d\r\n\r\n"), RefusalCode::FromHeaderAmbiguous);
        assert_eq!(refused(" X: y\r\nFrom: a@b.c\r\n\r\n"), RefusalCode::HeaderMalformed);
        assert_eq!(refused("From: a@b.c\r\nhello\r\n"), RefusalCode::HeaderMalformed);
        let loops = "Received: x\r\n".repeat(101) + "From: a@b.c\r\n\r\n";
        assert_eq!(refused(&loops), RefusalCode::MailLoop);
        assert!(check(&loops.as_bytes()["Received: x\r\n".len()..]).is_ok());
    }

    #[test]
    fn bcc_and_return_path_are_removed_and_nothing_else_changes() {
        let message =
            "From: a@b.c\r\nbcc: x@y.z,\r\n q@y.z\r\nTo: b@c.d\r\nReturn-Path: <>\r\n\r\nBcc: body\r\n";
        let checked = check(message.as_bytes()).unwrap();
        let rewritten = checked.rewrite(Bytes::from_static(message.as_bytes()));
        assert_eq!(rewritten, "From: a@b.c\r\nTo: b@c.d\r\n\r\nBcc: body\r\n");
    }

    #[test]
    fn a_field_with_the_token_of_another_message_is_removed_and_the_address_of_the_sender_stays() {
        let token = format!("d1{}", "0".repeat(46));
        let header = format!(
            "From: a@b.example\r\nCFBL-Feedback-ID: {token}\r\nCFBL-Address: fbl+{token}@c.example; report=arf\r\n"
        );
        let message = format!("{header}\r\nbody\r\n");
        let checked = check(message.as_bytes()).unwrap();
        assert!(!checked.has(FEEDBACK_ID) && !checked.has(FEEDBACK_ADDRESS));
        assert_eq!(checked.rewrite(message.into()), "From: a@b.example\r\n\r\nbody\r\n");
        let own = "From: a@b.example\r\nCFBL-Address: fbl@b.example\r\nCFBL-Feedback-ID: 17\r\n\r\n";
        let checked = check(own.as_bytes()).unwrap();
        assert!(checked.has(FEEDBACK_ID) && checked.has(FEEDBACK_ADDRESS));
    }

    /// Decoded whole, each of these takes more than half a minute.
    #[test]
    fn encoded_words_without_an_end_are_decoded_up_to_a_limit() {
        for unit in ["=?aa?q?_", "=?aa?q?x ", "=?aa?q?x\r\n "] {
            let message = format!("From: a@b.c\r\nSubject: {}\r\n\r\n", unit.repeat(250_000 / unit.len()));
            for _ in 0..10 {
                let summary = check(message.as_bytes()).unwrap().summarize("", message.as_bytes());
                assert_eq!(summary.subject.unwrap().chars().count(), SUMMARY_CHARS_MAX);
            }
        }
    }

    #[test]
    fn a_message_without_such_fields_is_not_copied() {
        let message = Bytes::from_static(b"From: a@b.c\r\n\r\nhi\r\n");
        let rewritten = check(&message).unwrap().rewrite(message.clone());
        assert_eq!(rewritten.as_ptr(), message.as_ptr());
    }

    #[test]
    fn an_idempotency_key_is_read_once_and_removed() {
        let message = b"From: a@b.c\r\nidempotency-key:  order 17 \r\n\r\nhi\r\n";
        let checked = check(message).unwrap();
        assert_eq!(checked.idempotency_key.as_deref(), Some("order 17"));
        assert_eq!(checked.rewrite(Bytes::from_static(message)), "From: a@b.c\r\n\r\nhi\r\n");
        assert_eq!(check(b"From: a@b.c\r\n\r\n").unwrap().idempotency_key, None);
        let long = format!("Idempotency-Key: {}\r\n", "x".repeat(256));
        for bad in
            ["Idempotency-Key: \r\n", "Idempotency-Key: a\r\n b\r\n", &long, "Idempotency-Key: \u{e9}\r\n"]
        {
            assert_eq!(refused(&format!("{bad}From: a@b.c\r\n\r\n")), RefusalCode::HeaderMalformed, "{bad}");
        }
        let twice = "Idempotency-Key: a\r\nIdempotency-Key: a\r\nFrom: a@b.c\r\n\r\n";
        assert_eq!(refused(twice), RefusalCode::HeaderMalformed);
    }

    #[test]
    fn date_and_message_id_are_added_only_where_absent() {
        let id = id();
        let complete =
            |message: &str| check(message.as_bytes()).unwrap().missing_fields(id, Timestamp::UNIX_EPOCH);
        assert_eq!(
            complete("From: a@b.c\r\n\r\n"),
            format!("Date: Thu, 1 Jan 1970 00:00:00 +0000\r\nMessage-ID: <{id}@b.c>\r\n")
        );
        assert_eq!(complete("From: a@b.c\r\nDATE: x\r\nmessage-id: <a>\r\n\r\n"), "");
    }

    #[test]
    fn the_display_name_and_reply_to_of_the_tenant_fill_only_what_is_absent() {
        let settings = TenantSettings {
            from_name: Some("Doe, A".into()),
            reply_to: Some(Address::parse("help@b.c").unwrap()),
            ..TenantSettings::default()
        };
        let with = |message: &str, settings: &TenantSettings, smtputf8| {
            let mut checked = check(message.as_bytes()).unwrap();
            checked.apply_defaults(message.as_bytes(), settings, smtputf8);
            let added = checked.missing_fields(id(), Timestamp::UNIX_EPOCH);
            let reply_to = added.lines().find(|line| line.starts_with("Reply-To")).map(str::to_owned);
            let rewritten = checked.rewrite(Bytes::from(message.to_owned()));
            (String::from_utf8(rewritten.to_vec()).unwrap(), reply_to)
        };
        let reply_to = || Some("Reply-To: help@b.c".to_owned());
        for bare in ["From: a@b.c", "from:<a@b.c>", "From:\r\n a@b.c "] {
            let (written, added) = with(&format!("Bcc: x@y.z\r\n{bare}\r\n\r\n"), &settings, false);
            assert_eq!(written.to_ascii_lowercase(), "from: \"doe, a\" <a@b.c>\r\n\r\n", "{bare}");
            assert_eq!(added, reply_to());
        }
        for kept in ["From: A <a@b.c>", "From: a@b.c (A)", "From: a@b.c, d@b.c", "From: \"\" <a@b.c>"] {
            let message = format!("{kept}\r\n\r\n");
            assert_eq!(with(&message, &settings, false), (message, reply_to()));
        }
        let message = "From: A <a@b.c>\r\nreply-to: a@b.c\r\n\r\n";
        assert_eq!(with(message, &settings, false), (message.to_owned(), None));
        let signed = "DKIM-Signature: v=1\r\nFrom: a@b.c\r\n\r\n";
        assert_eq!(with(signed, &settings, false), (signed.to_owned(), None));
        let settings =
            TenantSettings { reply_to: Address::parse("é@b.c").ok(), ..TenantSettings::default() };
        let message = "From: a@b.c\r\n\r\n";
        assert_eq!(with(message, &settings, false), (message.to_owned(), None));
        assert_eq!(with(message, &settings, true).1.as_deref(), Some("Reply-To: é@b.c"));
    }

    #[test]
    fn the_summary_has_decoded_fields() {
        let message = b"From: A <a@b.c>\r\nSubject: =?utf-8?q?J=C3=BCrgen?=\r\n says\r\n\r\nhi\r\n";
        let summary = check(message).unwrap().summarize("Date: x\r\nMessage-ID: <1@b.c>\r\n", message);
        assert_eq!(
            summary,
            Summary {
                subject: Some("Jürgen says".into()),
                from: Some("a@b.c".into()),
                message_id: Some("1@b.c".into())
            }
        );
    }

    #[test]
    fn received_has_the_client_address_only_when_configured() {
        let hostname = DomainName::parse("mx.example").unwrap();
        let trace = Trace { helo: "laptop".into(), protocol: "ESMTPSA", tls: Some("TLSv1.3 X".into()) };
        let mut received = ReceivedField {
            hostname: &hostname,
            trace: &trace,
            client_address: None,
            id: id(),
            now: Timestamp::UNIX_EPOCH,
        };
        assert_eq!(
            received.field(),
            format!(
                "Received: by mx.example with ESMTPSA\r\n (TLSv1.3 X)\r\n id {};\r\n Thu, 1 Jan 1970 00:00:00 +0000\r\n",
                received.id
            )
        );
        received.client_address = Some("::1".parse().unwrap());
        assert!(received.field().starts_with("Received: from laptop ([IPv6:::1])\r\n by mx.example"));
    }

    #[test]
    fn a_field_that_nests_or_repeats_without_end_is_summarized() {
        for name in ["Subject", "Message-ID"] {
            for unit in ["(", "<", "\"", "[", "=?utf-8?q?", "=?utf-8?b?YQ==?= ", "a@", "\\", ":;", "a\r\n "] {
                let field = unit.repeat(200_000 / unit.len());
                let message = format!("From: a@b.example\r\n{name}: x{field}\r\n\r\n");
                let summary = check(message.as_bytes()).unwrap().summarize("", message.as_bytes());
                assert!(summary.subject.is_none_or(|subject| subject.chars().count() <= SUMMARY_CHARS_MAX));
            }
        }
    }
}
