//! A reply, whichever side gave it (RFC 5321 §4.2).

use crate::mail::EnhancedStatus;

/// A reply code with its lines of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// 200–599.
    pub code: u16,
    /// RFC 2034; absent where the protocol wants none, or the other side gave none.
    pub enhanced: Option<EnhancedStatus>,
    /// At least one, without codes and line ends, printable ASCII.
    pub lines: Vec<String>,
}
