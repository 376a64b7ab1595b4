//! The header fields of a message that names a list: List-Unsubscribe, List-Unsubscribe-Post and List-Id.

/// The fields to add.
pub(super) fn fields() -> String {
    String::new()
}
