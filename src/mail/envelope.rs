//! The envelope of a message: who it is from and to, as SMTP says it.

use std::fmt;

use super::{Address, AddressError};

/// The reverse path: where reports go (RFC 5321 §4.1.1.2).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ReversePath {
    /// `<>`: nobody wants a report. RFC 5321 §4.5.5.
    Null,
    /// A mailbox.
    Mailbox(Address),
}

/// What MAIL's `BODY` parameter declared (RFC 6152).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BodyType {
    /// Seven-bit, or undeclared.
    #[default]
    SevenBit,
    /// `BODY=8BITMIME`.
    EightBitMime,
}

/// Everything that MAIL and RCPT said, once they were admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Where reports go.
    pub reverse_path: ReversePath,
    /// At least one, in the order of the RCPT commands, each once.
    pub recipients: Vec<Address>,
    /// What MAIL declared of the body.
    pub body: BodyType,
    /// Whether MAIL asked for SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
}

impl ReversePath {
    /// The mailbox, if there is one.
    pub fn mailbox(&self) -> Option<&Address> {
        match self {
            Self::Null => None,
            Self::Mailbox(address) => Some(address),
        }
    }

    /// Reads the text form of [`fmt::Display`]: empty is the null path.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text.is_empty() { Ok(Self::Null) } else { Address::parse(text).map(Self::Mailbox) }
    }
}

impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => Ok(()),
            Self::Mailbox(address) => address.fmt(f),
        }
    }
}
