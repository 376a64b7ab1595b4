//! Message content: our header fields, and the submitted message.

use bytes::Bytes;

use super::header::find_end;
use super::mime::has_utf8_header;

/// A message as sent: our header fields followed by the submitted message, with CRLF line ends. The parts are
/// separate, so that the submitted octets are never copied.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Content {
    /// Complete header fields, each ending with CRLF; may be empty.
    pub prefix: Bytes,
    /// The submitted message without the removed fields.
    pub submitted: Bytes,
}

impl Content {
    /// The size of the whole message.
    pub fn len(&self) -> usize {
        self.prefix.len() + self.submitted.len()
    }

    /// Whether the message is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The header of the submitted message, up to the empty line.
    pub fn header(&self) -> &[u8] {
        &self.submitted[..find_end(&self.submitted)]
    }

    /// Whether a header has octets above 127: that of the message, of a MIME part or of a contained message.
    pub fn has_utf8_header(&self) -> bool {
        !self.prefix.is_ascii() || (!self.submitted.is_ascii() && has_utf8_header(&self.submitted))
    }

    /// The whole message as one vector.
    pub fn to_vec(&self) -> Vec<u8> {
        [&self.prefix[..], &self.submitted[..]].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_ends_before_the_first_empty_line() {
        for (submitted, header) in [
            ("A: b\r\n\r\nbody\r\n\r\n", "A: b\r\n"),
            ("A: b\r\n", "A: b\r\n"),
            ("\r\nbody\r\n\r\n", ""),
            ("", ""),
        ] {
            let content = Content { prefix: "X: y\r\n".into(), submitted: submitted.into() };
            assert_eq!(content.header(), header.as_bytes(), "{submitted:?}");
        }
    }
}
