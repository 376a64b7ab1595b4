//! Header fields as they are written: addresses and display names, encoded and folded (RFC 5322, RFC 2047). Pure.

use std::fmt::{self, Write as _};

use email_encoding::headers::rfc2047;
use email_encoding::headers::writer::EmailWriter;

use super::mailbox::Mailbox;

/// Octets of a line of addresses after which it ends at the next comma.
const LINE_OCTETS_WANTED: usize = 50;

/// The value of a field with addresses, folded (RFC 5322 §3.4).
pub fn write_mailboxes(field: &str, mailboxes: &[Mailbox]) -> String {
    let mut value = String::new();
    let mut writer = EmailWriter::new(&mut value, field.len() + ": ".len(), 0, false);
    // Writing to a String does not fail.
    let _ = mailboxes.iter().enumerate().try_for_each(|(place, Mailbox { name, address })| {
        if place > 0 {
            writer.write_char(',')?;
            if writer.line_len() > LINE_OCTETS_WANTED {
                writer.new_line()?;
            }
            writer.space();
        }
        if let Some(name) = name {
            write_name(name, &mut writer)?;
            writer.space();
        }
        writer.folding().write_str(&format!("<{address}>"))
    });
    drop(writer);
    value
}

/// A display name: an atom, a quoted string, or encoded-words if it is not ASCII. Many readers decode encoded-words within
/// quotes too, against RFC 2047 §5, so a name that looks like one is encoded as well.
fn write_name(name: &str, writer: &mut EmailWriter<'_>) -> fmt::Result {
    if !name.is_ascii() || name.contains("=?") {
        return rfc2047::encode(name, writer);
    }
    if name.bytes().all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_')) {
        return writer.write_str(name);
    }
    let escaped = name.replace('\\', "\\\\").replace('"', "\\\"");
    writer.write_char('"')?;
    writer.folding().write_str(&escaped)?;
    writer.write_char('"')
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
            assert_eq!(write_mailboxes("To", &[named(name)]), format!("{written} <a@b.example>"), "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_display_name_arrives_as_it_was(name in "[!-~é]{1,20}( [!-~é]{1,20}){0,8}", count in 1usize..4) {
            let mailboxes = vec![named(&name); count];
            let value = write_mailboxes("To", &mailboxes);
            prop_assert!(value.split("\r\n").all(|line| line.len() < 500 && !line.trim().is_empty()));
            let message = format!("From: x@y.example\r\nTo: {value}\r\n\r\n");
            let message = MessageParser::default().parse(message.as_bytes()).unwrap();
            let read: Vec<_> = message.to().unwrap().iter().map(|one| one.name().unwrap().to_owned()).collect();
            prop_assert_eq!(read, vec![name; count]);
        }
    }
}
