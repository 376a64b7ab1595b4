//! The bytes of a message: what we put in front, and what the client sent.

use bytes::Bytes;

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

    /// The message in one piece.
    pub fn to_vec(&self) -> Vec<u8> {
        [&self.prefix[..], &self.submitted[..]].concat()
    }
}
