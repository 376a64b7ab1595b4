//! Errors of the engine for people: with the line and the expression. Pure.

use minijinja::{Error, ErrorKind};

use super::{FUEL, RenderError};

/// Characters of an expression that an error repeats.
const EXPRESSION_CHARS_MAX: usize = 100;

/// Describes an error in a template with this source.
pub(super) fn describe(error: &Error, source: &str) -> RenderError {
    let expression = error.range().and_then(|range| expression_at(source, range.start, range.end));
    let what = match (error.kind(), error.detail(), expression) {
        (ErrorKind::OutOfFuel, ..) => {
            format!("the template runs more than {FUEL} instructions: shorten its loops or its data")
        }
        (ErrorKind::UndefinedError, _, Some(expression)) if is_path(&expression) => {
            format!("`{expression}` is undefined: add it to the data, or write `{expression}|default('')`")
        }
        (ErrorKind::UndefinedError, _, Some(expression)) => {
            format!("a variable in `{expression}` is undefined: add it to the data")
        }
        (ErrorKind::InvalidOperation, Some(detail), Some(expression)) => {
            format!("{detail} in `{expression}`")
        }
        (kind, Some(detail), _) => format!("{kind}: {detail}"),
        (kind, None, _) => kind.to_string(),
    };
    match error.line() {
        Some(line) => RenderError::at(line, what),
        None => RenderError(what),
    }
}

/// The expression of a range. The engine names the filter, or what follows the first name; the operand stands before it.
fn expression_at(source: &str, start: usize, end: usize) -> Option<String> {
    let named = source.get(start..end)?;
    let before = source.get(..start)?.trim_end();
    let operand = match before.strip_suffix('|') {
        Some(operand) => operand.trim_end(),
        None if named.starts_with(['.', '[']) => before,
        None => return Some(shorten(named)),
    };
    let is_of_operand = |c: char| c.is_alphanumeric() || "_.[]'\"|".contains(c);
    let begin = operand.rfind(|c: char| !is_of_operand(c)).map_or(0, |at| at + 1);
    // The character before may have several octets.
    let begin = (begin..=operand.len()).find(|at| operand.is_char_boundary(*at))?;
    Some(shorten(source.get(if before.ends_with('|') { begin..operand.len() } else { begin..end })?))
}

/// A variable or a field of one, such as `user.name` or `items[0]`.
fn is_path(expression: &str) -> bool {
    expression.starts_with(|c: char| c.is_alphabetic() || c == '_')
        && expression.chars().all(|c| c.is_alphanumeric() || "_.[]'\"-".contains(c))
}

fn shorten(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(EXPRESSION_CHARS_MAX).collect()
}
