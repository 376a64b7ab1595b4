//! The header fields by which complaints find their message (CFBL, RFC 9477).

/// The fields to add.
pub(super) fn fields() -> String {
    String::new()
}
