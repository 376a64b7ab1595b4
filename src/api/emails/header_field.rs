//! Header fields as they are written: texts, addresses and display names, encoded and folded (RFC 5322, RFC 2047). Pure.

use std::fmt::Write as _;

use email_encoding::headers::rfc2047;

use super::mailbox::{Mailbox, unquote};
use crate::mail::{folded_field, write_angle_address, write_display_name};

/// Octets of a line of addresses after which it ends at the next comma.
const LINE_OCTETS_WANTED: usize = 50;
/// Octets of a line without its CRLF (RFC 5322 §2.1.1).
const LINE_OCTETS_MAX: usize = 998;

/// Why a field cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FieldValueError {
    /// A word is longer than a line.
    #[error(
        "this cannot be folded: between two spaces there are at most {LINE_OCTETS_MAX} octets, with the name"
    )]
    LineTooLong,
    /// Characters that the grammar of the field has no place for, not even encoded (RFC 2047 §5).
    #[error(
        "this field must be ASCII: write domains as A-labels (xn--…) and other characters of a URL percent-encoded; only a \
         display name before a single address in angle brackets may have other characters"
    )]
    NotAscii,
}

/// What the value of a field is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Grammar {
    /// Free text.
    Text,
    /// `phrase <address>`: the phrase may be encoded.
    Phrase,
    /// Ids, URLs, dates, tokens: nothing may be encoded.
    Ascii,
}

impl Grammar {
    fn of(name: &str) -> Self {
        match name.to_ascii_lowercase().as_str() {
            "disposition-notification-to"
            | "errors-to"
            | "list-id"
            | "mail-followup-to"
            | "mail-reply-to"
            | "resent-cc"
            | "resent-from"
            | "resent-sender"
            | "resent-to"
            | "return-receipt-to"
            | "sender" => Self::Phrase,
            "accept-language"
            | "archived-at"
            | "authentication-results"
            | "auto-submitted"
            | "autocrypt"
            | "date"
            | "expires"
            | "importance"
            | "in-reply-to"
            | "message-id"
            | "obsoletes"
            | "original-message-id"
            | "precedence"
            | "priority"
            | "received-spf"
            | "references"
            | "reply-by"
            | "sensitivity"
            | "supersedes"
            | "tls-required" => Self::Ascii,
            "content-description" => Self::Text,
            other
                if ["arc-", "content-", "list-", "resent-"].iter().any(|start| other.starts_with(start)) =>
            {
                Self::Ascii
            }
            _ => Self::Text,
        }
    }
}

/// `Subject`, folded; encoded if it is not ASCII, would be decoded although it is not encoded (RFC 2047 §7), or has a word
/// that is longer than a line.
pub fn write_subject(subject: &str) -> String {
    let plain = fold("Subject", subject);
    let is_plain = subject.is_ascii() && !subject.contains("=?") && has_short_lines(&plain);
    if is_plain { plain } else { encode("Subject", subject) }
}

/// Another field, folded; encoded if it is not ASCII and its grammar permits that.
pub fn write_field(name: &str, value: &str) -> Result<String, FieldValueError> {
    let field = match Grammar::of(name) {
        _ if value.is_ascii() => fold(name, value),
        Grammar::Text => encode(name, value),
        Grammar::Phrase => encode_phrase(name, value).ok_or(FieldValueError::NotAscii)?,
        Grammar::Ascii => return Err(FieldValueError::NotAscii),
    };
    if has_short_lines(&field) { Ok(field) } else { Err(FieldValueError::LineTooLong) }
}

/// `phrase <address>` with the phrase encoded; `None` for several addresses, and for one that is not ASCII.
fn encode_phrase(name: &str, value: &str) -> Option<String> {
    let (phrase, address) = value.trim().strip_suffix('>')?.rsplit_once('<')?;
    let phrase = phrase.trim();
    let is_quoted = phrase.starts_with('"') && phrase.ends_with('"');
    let is_one = !phrase.contains(['<', '>']) && (is_quoted || !phrase.contains(['"', ',', ':', ';', '@']));
    (is_one && address.is_ascii()).then(|| {
        folded_field(name, |writer| {
            write_display_name(&unquote(phrase), writer)?;
            writer.space();
            write_angle_address(address, writer)
        })
    })
}

fn has_short_lines(field: &str) -> bool {
    field.split("\r\n").all(|line| line.len() <= LINE_OCTETS_MAX)
}

/// A field as it stands, with line ends in front of spaces (RFC 5322 §2.2.3).
fn fold(name: &str, value: &str) -> String {
    folded_field(name, |writer| writer.folding().write_str(value))
}

/// A field in encoded-words (RFC 2047).
fn encode(name: &str, value: &str) -> String {
    folded_field(name, |writer| rfc2047::encode(value, writer))
}

/// A field with addresses, folded (RFC 5322 §3.4).
pub fn write_mailboxes(name: &str, mailboxes: &[Mailbox]) -> String {
    folded_field(name, |writer| {
        mailboxes.iter().enumerate().try_for_each(|(place, Mailbox { name, address })| {
            if place > 0 {
                writer.write_char(',')?;
                if writer.line_len() > LINE_OCTETS_WANTED {
                    writer.new_line()?;
                }
                writer.space();
            }
            if let Some(name) = name {
                write_display_name(name, writer)?;
                writer.space();
            }
            write_angle_address(address, writer)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mail_parser::MessageParser;
    use proptest::prelude::*;

    fn named(name: &str) -> Mailbox {
        Mailbox { name: Some(name.into()), address: "a@b.example".parse().unwrap() }
    }

    #[test]
    fn a_display_name_in_ascii_is_an_atom_or_a_quoted_string() {
        for (name, written) in [
            ("Alice", "Alice"),
            ("O'Brien", "\"O'Brien\""),
            ("Doe, Alice", "\"Doe, Alice\""),
            ("A & B", "\"A & B\""),
            ("[Shop] Alice", "\"[Shop] Alice\""),
            ("Acme.com", "\"Acme.com\""),
            ("alice@a.example", "\"alice@a.example\""),
            ("Alice (Shop): sales; more", "\"Alice (Shop): sales; more\""),
            ("\"A\" \\ B", "\"\\\"A\\\" \\\\ B\""),
            ("Jürgen", "=?utf-8?b?SsO8cmdlbg==?="),
            ("=?utf-8?q?A?=", "=?utf-8?b?PT91dGYtOD9xP0E/PQ==?="),
        ] {
            let field = format!("To: {written} <a@b.example>\r\n");
            assert_eq!(write_mailboxes("To", &[named(name)]), field, "{name}");
        }
    }

    #[test]
    fn a_line_ends_before_an_address_and_not_within_its_quotes() {
        let name = "n".repeat(60);
        let address: crate::mail::Address = "\"a b\"@b.example".parse().unwrap();
        let mailbox = Mailbox { name: Some(name.clone()), address: address.clone() };
        let field = write_mailboxes("From", &[mailbox]);
        assert_eq!(field, format!("From: {name}\r\n <\"a b\"@b.example>\r\n"));
        assert_eq!(crate::mail::parse_mailbox_list(&field.as_bytes()[6..]), Ok(vec![address]));
    }

    #[test]
    fn no_line_has_more_than_998_octets() {
        let words = "word ".repeat(798);
        let long_word = |length: usize| "x".repeat(length);
        assert!(has_short_lines(&write_field("X-Words", &words).unwrap()));
        assert!(write_field("X-Word", &long_word(990)).is_ok());
        for value in [long_word(991), format!("a {}", long_word(998)), format!("a{} b", " ".repeat(998))] {
            assert_eq!(write_field("X-Word", &value), Err(FieldValueError::LineTooLong), "{value}");
        }
        assert!(write_field("X-Word", &"é".repeat(2000)).is_ok());
    }

    #[test]
    fn only_texts_and_phrases_are_encoded() {
        for (name, value, written) in [
            ("X-Note", "é", Some("=?utf-8?b?w6k=?=")),
            ("Content-Description", "é", Some("=?utf-8?b?w6k=?=")),
            ("Sender", "é <a@b.example>", Some("=?utf-8?b?w6k=?= <a@b.example>")),
            ("sender", "\"é\" <a@b.example>", Some("=?utf-8?b?w6k=?= <a@b.example>")),
            ("List-Id", "é <l.b.example>", Some("=?utf-8?b?w6k=?= <l.b.example>")),
            ("Sender", "a@é.example", None),
            ("Sender", "A <a@é.example>", None),
            ("Resent-To", "é <a@b.example>, B <b@b.example>", None),
            ("Resent-To", "b@b.example, é <a@b.example>", None),
            ("Message-ID", "<é@b.example>", None),
            ("in-reply-to", "<é@b.example>", None),
            ("References", "<a@b.example> <é@b.example>", None),
            ("List-Unsubscribe", "<https://b.example/é>", None),
            ("Content-Language", "é", None),
            ("Resent-Message-ID", "<é@b.example>", None),
        ] {
            let expected = written.map(|value| format!("{name}: {value}\r\n"));
            assert_eq!(
                write_field(name, value),
                expected.ok_or(FieldValueError::NotAscii),
                "{name}: {value}"
            );
        }
    }

    fn subject_of(field: &str) -> String {
        let message = format!("{field}From: a@b.example\r\n\r\n");
        MessageParser::default().parse(message.as_bytes()).unwrap().subject().unwrap_or_default().to_owned()
    }

    #[test]
    fn a_subject_is_encoded_only_where_it_cannot_be_written_as_it_is() {
        for subject in ["Your order: 7 (paid)".to_owned(), "word ".repeat(199).trim().to_owned()] {
            let field = write_subject(&subject);
            assert_eq!(field.replace("\r\n", ""), format!("Subject: {subject}"));
        }
        for subject in ["=?utf-8?q?J=C3=BCrgen?=", "Re: =?utf-8?b?w7w=?= and more", "a =? b"] {
            assert_eq!(subject_of(&write_subject(subject)), subject);
        }
        let without_spaces = "x".repeat(998);
        let field = write_subject(&without_spaces);
        assert!(field.lines().all(|line| line.len() <= 78), "{field}");
        assert_eq!(subject_of(&field), without_spaces);
    }

    proptest! {
        #[test]
        fn any_display_name_arrives_as_it_was(name in "[!-~é]{1,20}( [!-~é]{1,20}){0,8}", count in 1usize..4) {
            let mailboxes = vec![named(&name); count];
            let field = write_mailboxes("To", &mailboxes);
            prop_assert!(field.lines().all(|line| line.len() < 500 && !line.trim().is_empty()));
            let message = format!("From: x@y.example\r\n{field}\r\n");
            let message = MessageParser::default().parse(message.as_bytes()).unwrap();
            let read: Vec<_> = message.to().unwrap().iter().map(|one| one.name().unwrap().to_owned()).collect();
            prop_assert_eq!(read, vec![name; count]);
        }

        #[test]
        fn any_subject_arrives_as_it_was_in_short_lines(subject in "([!-~éß🦀]{1,300} ?){0,3}[!-~é]") {
            let field = write_subject(&subject);
            prop_assert!(has_short_lines(&field));
            prop_assert_eq!(subject_of(&field), subject);
        }
    }
}
