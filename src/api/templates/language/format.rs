//! How values are printed: HTML is escaped, `null` prints nothing. Pure.

use std::fmt::{self, Write};

use minijinja::{AutoEscape, Error, Output, State, Value, escape_formatter};

/// Prints a value of an expression.
pub(super) fn print(out: &mut Output<'_>, state: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    if value.is_none() {
        return Ok(());
    }
    if !matches!(state.auto_escape(), AutoEscape::Html) || value.is_safe() {
        return escape_formatter(out, state, value);
    }
    match value.as_str() {
        Some(text) => escape_html(text, out)?,
        None => escape_html(&value.to_string(), out)?,
    }
    Ok(())
}

/// The filter `escape`.
pub(super) fn escape(value: Value) -> Result<Value, Error> {
    if value.is_safe() {
        return Ok(value);
    }
    let mut escaped = String::new();
    match value.as_str() {
        Some(text) => escape_html(text, &mut escaped)?,
        None => escape_html(&value.to_string(), &mut escaped)?,
    }
    Ok(Value::from_safe_string(escaped))
}

/// Escapes what has a meaning in text and attributes. The engine would also escape `/`, which makes links unreadable in the
/// source of a message.
fn escape_html(text: &str, out: &mut impl Write) -> fmt::Result {
    let mut rest = text;
    while let Some(at) = rest.find(['&', '<', '>', '"', '\'']) {
        let (plain, special) = rest.split_at(at);
        out.write_str(plain)?;
        out.write_str(match special.as_bytes()[0] {
            b'&' => "&amp;",
            b'<' => "&lt;",
            b'>' => "&gt;",
            b'"' => "&quot;",
            _ => "&#x27;",
        })?;
        rest = &special[1..];
    }
    out.write_str(rest)
}
