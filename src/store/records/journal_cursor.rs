//! Positions in the journal.

use std::fmt;
use std::str::FromStr;

use ulid::Ulid;

/// A position in the journal, between two events. Cursors of one store are ordered like its commits. Only the engine knows
/// the meaning of the number. It is not the id of an event, even if an engine derives it from one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct JournalCursor(u128);

/// The text is not a position in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a position in the journal: expected cur_ followed by 26 characters")]
pub struct JournalCursorError;

impl JournalCursor {
    const PREFIX: &'static str = "cur_";

    /// A position before this one that every client may know. It has the time of the event before this position, but nothing
    /// else of its id.
    pub fn rounded_down(self) -> Self {
        const RANDOM_BITS: u8 = Ulid::RAND_BITS;
        Self(self.0 >> RANDOM_BITS << RANDOM_BITS)
    }

    pub(in crate::store) fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    pub(in crate::store) fn bits(self) -> u128 {
        self.0
    }
}

impl fmt::Display for JournalCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", Self::PREFIX, Ulid::from(self.0))
    }
}

impl FromStr for JournalCursor {
    type Err = JournalCursorError;

    fn from_str(text: &str) -> Result<Self, JournalCursorError> {
        let digits = text.strip_prefix(Self::PREFIX).filter(|digits| digits.len() == ulid::ULID_LEN);
        let bits = digits.and_then(|digits| Ulid::from_string(digits).ok());
        bits.map(|bits| Self(bits.into())).ok_or(JournalCursorError)
    }
}

/// An event and the position after it.
#[derive(Debug, Clone)]
pub struct JournalEntry {
    /// The position after this event.
    pub cursor: JournalCursor,
    /// The event.
    pub event: super::Event,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_its_text_and_nothing_else_is_read() {
        for bits in [0, 7, u128::MAX] {
            let cursor = JournalCursor::from_bits(bits);
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
        let exact = Ulid::from_parts(1_000, 77);
        let rounded = JournalCursor::from_bits(exact.into()).rounded_down();
        assert_eq!(rounded.to_string(), format!("cur_{}", Ulid::from_parts(1_000, 0)));
        for text in [
            "",
            "7",
            "cur_",
            "evt_01JD8XQZ2V7M5N9T3R6W4Y8KAB",
            "cur_01JD8XQZ2V7M5N9T3R6W4Y8KA",
            "cur_01JD8XQZ2V7M5N9T3R6W4Y8KAU",
        ] {
            assert_eq!(text.parse::<JournalCursor>(), Err(JournalCursorError), "{text}");
        }
    }
}
