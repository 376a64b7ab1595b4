//! The header block of a message: its end, and the exact positions of its fields (RFC 5322 §2.2).

use std::ops::Range;

use memchr::memmem;

/// One header field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// The name as written, without the colon.
    pub name: String,
    /// The whole field with folded lines and final CRLF.
    pub span: Range<usize>,
    /// The value after the colon, with folded lines and final CRLF.
    pub value: Range<usize>,
}

/// The fields before the first empty line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderBlock {
    /// The fields in order.
    pub fields: Vec<Field>,
    /// The end of the fields: the empty line, or the end of a message without a body.
    pub end: usize,
}

/// Why the header block cannot be interpreted in exactly one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The first line starts with white space: it would continue any field added before it.
    #[error("the message starts with white space")]
    LeadingWhiteSpace,
    /// A line is neither a field nor a continuation.
    #[error("line {line} of the header is neither a field nor a continuation line")]
    NotAField {
        /// The line number from 1.
        line: usize,
    },
    /// A form feed or vertical tab. RFC 6376 §3.4.2 does not count them as white space, but some signers and verifiers
    /// do, mail-auth among them, so that a signature over them may be valid for nobody.
    #[error("line {line} of the header has a form feed or a vertical tab")]
    FormFeed {
        /// The line number from 1.
        line: usize,
    },
    /// The header is larger than the limit.
    #[error("the header is larger than {octets_max} octets")]
    TooLong {
        /// The limit.
        octets_max: usize,
    },
}

impl HeaderBlock {
    /// Scans the header of a message with CRLF line ends.
    pub fn scan(message: &[u8], octets_max: usize) -> Result<Self, HeaderError> {
        let end = find_end(message);
        if end > octets_max {
            return Err(HeaderError::TooLong { octets_max });
        }
        let mut fields: Vec<Field> = Vec::new();
        let mut start = 0;
        for (index, line) in lines(&message[..end]).enumerate() {
            let span = start..start + line.len();
            start = span.end;
            if memchr::memchr2(0x0b, 0x0c, line).is_some() {
                return Err(HeaderError::FormFeed { line: index + 1 });
            }
            if line.starts_with(b" ") || line.starts_with(b"\t") {
                let field = fields.last_mut().ok_or(HeaderError::LeadingWhiteSpace)?;
                field.span.end = span.end;
                field.value.end = span.end;
                continue;
            }
            let (name, colon) = split_name(line).ok_or(HeaderError::NotAField { line: index + 1 })?;
            fields.push(Field { name, value: span.start + colon + 1..span.end, span });
        }
        Ok(Self { fields, end })
    }

    /// The fields with a name, in order, ignoring case.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Field> + 'a {
        self.fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name))
    }
}

/// Whether a value is one message identifier (RFC 5322 §3.6.4): `<left@right>`.
pub fn is_message_id(value: &str) -> bool {
    let id = value.trim().strip_prefix('<').and_then(|rest| rest.strip_suffix('>'));
    let is_text = |text: &str| {
        !text.is_empty()
            && text.bytes().all(|octet| octet.is_ascii_graphic() && !b"<>()@,;\"\\".contains(&octet))
    };
    id.and_then(|id| id.split_once('@')).is_some_and(|(left, right)| is_text(left) && is_text(right))
}

/// The end of the header, before the empty line.
pub(super) fn find_end(message: &[u8]) -> usize {
    if message.starts_with(b"\r\n") {
        return 0;
    }
    memmem::find(message, b"\r\n\r\n").map_or(message.len(), |at| at + 2)
}

fn lines(block: &[u8]) -> impl Iterator<Item = &[u8]> {
    block.split_inclusive(|&b| b == b'\n')
}

/// The field name and the position of the colon. RFC 5322 §2.2: printable ASCII without colon. The obsolete white
/// space before the colon (§4.5) is refused: readers and signers disagree about the name of such a field.
fn split_name(line: &[u8]) -> Option<(String, usize)> {
    let colon = memchr::memchr(b':', line)?;
    let name = &line[..colon];
    let printable = !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
    printable.then(|| (String::from_utf8_lossy(name).into_owned(), colon))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(message: &str) -> Result<HeaderBlock, HeaderError> {
        HeaderBlock::scan(message.as_bytes(), 1000)
    }

    #[test]
    fn fields_include_their_folded_lines() {
        let text = "From: a@b\r\nSubject: one\r\n two\r\n\r\nFrom: body\r\n";
        let block = scan(text).unwrap();
        let read: Vec<_> = block
            .fields
            .iter()
            .map(|f| (f.name.as_str(), &text[f.span.clone()], &text[f.value.clone()]))
            .collect();
        assert_eq!(
            read,
            [
                ("From", "From: a@b\r\n", " a@b\r\n"),
                ("Subject", "Subject: one\r\n two\r\n", " one\r\n two\r\n")
            ]
        );
        assert_eq!(&text[block.end..], "\r\nFrom: body\r\n");
        assert_eq!(block.named("FROM").count(), 1);
    }

    #[test]
    fn a_message_may_lack_a_header_or_a_body() {
        assert_eq!(scan("").unwrap().end, 0);
        assert_eq!(scan("\r\nbody\r\n").unwrap().fields, []);
        assert_eq!(scan("A: b\r\n").unwrap().end, 6);
    }

    #[test]
    fn a_message_id_has_two_parts_in_angle_brackets() {
        for value in ["<a@b>", " <1.2-3_x=y+z@host.example>\r\n", "<a@[127.0.0.1]>"] {
            assert!(is_message_id(value), "{value}");
        }
        for value in [
            "",
            "<>",
            "a@b",
            "<a>",
            "<@b>",
            "<a@>",
            "<a@b@c>",
            "<a b@c>",
            "<a@b> <c@d>",
            "<a@b>x",
            "<é@b>",
            "<<a@b>>",
        ] {
            assert!(!is_message_id(value), "{value}");
        }
    }

    #[test]
    fn an_ambiguous_header_block_is_refused() {
        assert_eq!(scan(" a: b\r\n\r\n"), Err(HeaderError::LeadingWhiteSpace));
        assert_eq!(scan("A: b\r\nno field\r\n\r\n"), Err(HeaderError::NotAField { line: 2 }));
        assert_eq!(scan("A\u{e9}: b\r\n\r\n"), Err(HeaderError::NotAField { line: 1 }));
        assert_eq!(scan("A: b\r\nFrom : c\r\n\r\n"), Err(HeaderError::NotAField { line: 2 }));
        assert_eq!(scan(": b\r\n\r\n"), Err(HeaderError::NotAField { line: 1 }));
        assert_eq!(scan("A: b\r\n\u{c}c\r\n\r\n"), Err(HeaderError::FormFeed { line: 2 }));
        assert_eq!(scan("A: b\u{b}\r\n\r\n"), Err(HeaderError::FormFeed { line: 1 }));
        assert!(scan("A: b\r\n\r\n\u{b}\u{c}\r\n").is_ok());
        assert_eq!(
            scan(&("A: ".to_owned() + &"b".repeat(1000))),
            Err(HeaderError::TooLong { octets_max: 1000 })
        );
    }
}
