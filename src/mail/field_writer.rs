//! Writes header fields: folded lines and display names (RFC 5322 §2.2.3, §3.4; RFC 2047).

use std::fmt::{self, Write as _};

use email_encoding::headers::rfc2047;
use email_encoding::headers::writer::EmailWriter;

/// A field with its CRLF; `write` writes the value.
pub fn folded_field(name: &str, write: impl FnOnce(&mut EmailWriter<'_>) -> fmt::Result) -> String {
    let mut field = format!("{name}: ");
    let mut writer = EmailWriter::new(&mut field, name.len() + ": ".len(), 0, false);
    // Writing to a String does not fail.
    let _ = write(&mut writer);
    drop(writer);
    field.push_str("\r\n");
    field
}

/// A display name: an atom, a quoted string, or encoded-words if it is not ASCII. Many readers decode encoded-words within
/// quotes too, against RFC 2047 §5, so a name that looks like one is encoded as well.
pub fn write_display_name(name: &str, writer: &mut EmailWriter<'_>) -> fmt::Result {
    if !name.is_ascii() || name.contains("=?") {
        return rfc2047::encode(name, writer);
    }
    if name.bytes().all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_')) {
        return writer.write_str(name);
    }
    let escaped = name.replace('\\', "\\\\").replace('"', "\\\"");
    writer.write_char('"')?;
    writer.folding().write_str(&escaped)?;
    writer.write_char('"')
}
