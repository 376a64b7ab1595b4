//! The header block of a message: where it ends and where its fields lie, byte for byte (RFC 5322 §2.2).

use std::ops::Range;

use memchr::memmem;

/// One field of a header block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// The name as written, without the colon.
    pub name: String,
    /// The whole field with its folded lines and final CRLF.
    pub span: Range<usize>,
    /// What follows the colon, folded lines and final CRLF included.
    pub value: Range<usize>,
}

/// The fields in front of a message's first empty line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderBlock {
    /// In the order in which they stand.
    pub fields: Vec<Field>,
    /// Where the fields end: at the empty line, or at the end of a message without a body.
    pub end: usize,
}

/// Why the front of a message is not a header block that has exactly one reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The first line begins with white space: it would continue whatever field we put before it.
    #[error("the message begins with white space")]
    LeadingWhiteSpace,
    /// A line is neither `Name: value` nor the continuation of one.
    #[error("line {line} of the header is not a field and not the continuation of one")]
    NotAField {
        /// Counted from 1.
        line: usize,
    },
    /// More octets than the limit before the empty line.
    #[error("the header has more than {octets_max} octets")]
    TooLong {
        /// The limit.
        octets_max: usize,
    },
}

impl HeaderBlock {
    /// Finds the fields of a message whose lines all end in CRLF.
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

    /// The fields of a name, in order; names compare without case.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Field> + 'a {
        self.fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name))
    }
}

/// Where the header ends: before the empty line.
pub(super) fn find_end(message: &[u8]) -> usize {
    if message.starts_with(b"\r\n") {
        return 0;
    }
    memmem::find(message, b"\r\n\r\n").map_or(message.len(), |at| at + 2)
}

fn lines(block: &[u8]) -> impl Iterator<Item = &[u8]> {
    block.split_inclusive(|&b| b == b'\n')
}

/// The field name and the place of the colon. RFC 5322 §2.2: printable ASCII but the colon. The white space that
/// §4.5 allows obsolete messages before it is refused: readers and signers differ over what such a field is called.
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
    fn fields_carry_their_folded_lines() {
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
    fn a_block_with_two_readings_is_refused() {
        assert_eq!(scan(" a: b\r\n\r\n"), Err(HeaderError::LeadingWhiteSpace));
        assert_eq!(scan("A: b\r\nno field\r\n\r\n"), Err(HeaderError::NotAField { line: 2 }));
        assert_eq!(scan("A\u{e9}: b\r\n\r\n"), Err(HeaderError::NotAField { line: 1 }));
        assert_eq!(scan("A: b\r\nFrom : c\r\n\r\n"), Err(HeaderError::NotAField { line: 2 }));
        assert_eq!(scan(": b\r\n\r\n"), Err(HeaderError::NotAField { line: 1 }));
        assert_eq!(
            scan(&("A: ".to_owned() + &"b".repeat(1000))),
            Err(HeaderError::TooLong { octets_max: 1000 })
        );
    }
}
