//! The bytes of a message: what we put in front, and what the client sent.

use bytes::Bytes;

use super::header::find_end;

/// A message as it goes on the wire: our header fields, then the submitted message, CRLF throughout.
/// The two are kept apart so that the client's bytes are never copied to make room for ours.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Content {
    /// Whole header fields, each ending in CRLF; may be empty.
    pub prefix: Bytes,
    /// The message as submitted, less the fields that are removed.
    pub submitted: Bytes,
}

impl Content {
    /// Octets of the whole message.
    pub fn len(&self) -> usize {
        self.prefix.len() + self.submitted.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The header of the message as submitted, up to the empty line.
    pub fn header(&self) -> &[u8] {
        &self.submitted[..find_end(&self.submitted)]
    }

    /// The message in one piece.
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
