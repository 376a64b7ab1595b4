//! Positions in the journal.

use std::fmt;
use std::str::FromStr;

use ulid::Ulid;

/// A position in the journal, between two events. Cursors of one store are ordered like its commits. Only the engine knows
/// the meaning of the number. It is not the id of an event, even if an engine derives it from one.
///
/// With the highest bit, it is a [`CommitPosition`]; without it, the id of the event before it. Those sort first, so that a
/// client of a store that was moved to another engine is behind all of its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct JournalCursor(u128);

/// The position behind an event in the order of commits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::store) struct CommitPosition {
    /// Grows from one transaction to those that see what it has changed.
    pub(in crate::store) transaction: i64,
    /// Grows within a transaction, from 1.
    pub(in crate::store) number: i64,
}

/// The text is not a position in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a position in the journal: expected cur_ followed by 26 characters")]
pub struct JournalCursorError;

impl JournalCursor {
    const PREFIX: &'static str = "cur_";

    const OF_COMMIT: u128 = 1 << 127;

    /// A position before this one that every client may know. It has the time of the event before this position, but nothing
    /// else of its id; or the transaction of this event.
    pub fn rounded_down(self) -> Self {
        let unknown_bits = if self.is_of_commit() { u64::BITS } else { u32::from(Ulid::RAND_BITS) };
        Self(self.0 >> unknown_bits << unknown_bits)
    }

    fn is_of_commit(self) -> bool {
        self.0 & Self::OF_COMMIT != 0
    }

    /// The position in the order of commits, unless it is that of an event by its id.
    pub(in crate::store) fn commit_position(self) -> Option<CommitPosition> {
        let part = |bits: u128| i64::try_from(bits & i64::MAX as u128).unwrap_or(i64::MAX);
        let position = CommitPosition { transaction: part(self.0 >> u64::BITS), number: part(self.0) };
        self.is_of_commit().then_some(position)
    }

    pub(in crate::store) fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    pub(in crate::store) fn bits(self) -> u128 {
        self.0
    }
}

impl From<CommitPosition> for JournalCursor {
    fn from(CommitPosition { transaction, number }: CommitPosition) -> Self {
        let part = |number: i64| u128::try_from(number).unwrap_or(0);
        Self(Self::OF_COMMIT | part(transaction) << u64::BITS | part(number))
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
        let position = |transaction, number| CommitPosition { transaction, number };
        let cursors = [(0, 0), (0, 9), (7, 0), (7, i64::MAX), (i64::MAX, 1)]
            .map(|(transaction, number)| JournalCursor::from(position(transaction, number)));
        assert!(cursors.is_sorted() && cursors[0] > JournalCursor::from_bits(u128::MAX >> 1));
        assert_eq!(cursors[3].commit_position(), Some(position(7, i64::MAX)));
        assert_eq!(cursors[3].rounded_down(), cursors[2]);
        assert_eq!(cursors[4].to_string().parse(), Ok(cursors[4]));
        assert_eq!(JournalCursor::from_bits(u128::MAX >> 1).commit_position(), None);
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
