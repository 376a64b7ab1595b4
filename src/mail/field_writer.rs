//! Writes header fields: folded lines and display names (RFC 5322 §2.2.3, §3.4; RFC 2047).

use std::fmt::{self, Write as _};

use email_encoding::headers::rfc2047;
use email_encoding::headers::writer::EmailWriter;

/// Octets of a line that writers aim at (RFC 5322 §2.1.1).
const LINE_OCTETS_WANTED: usize = 76;

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

/// An address in angle brackets, on the next line if this one would be too long. A quoted local part may have spaces, but no line
/// ends there: strict readers refuse an address with a fold.
pub fn write_angle_address(address: impl fmt::Display, writer: &mut EmailWriter<'_>) -> fmt::Result {
    let text = format!("<{address}>");
    let has_space_before = writer.projected_line_len() > writer.line_len() && writer.line_len() > 0;
    if has_space_before && writer.projected_line_len() + text.len() > LINE_OCTETS_WANTED {
        writer.new_line()?;
    }
    writer.write_str(&text)
}
