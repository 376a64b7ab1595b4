//! What the commands print: JSON for programs; objects, tables and confirmations for people.

use std::io::{BufRead, IsTerminal, Write, stderr, stdin, stdout};

use anyhow::bail;
use serde_json::Value;

use super::colour;
use super::table::{Table, printable, render_fields};
use crate::mail::Timestamp;

/// Begins a sequence that sets a colour (ECMA-48 §8.3.117).
const ESCAPE: &str = "\u{1b}";

/// Writes to the standard output. A closed pipe is an error, not a panic.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// The format of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OutputFormat {
    Text,
    Json,
}

impl OutputFormat {
    /// Prints a response as JSON, or as the text that `to_text` makes of it.
    pub(super) fn print(
        self,
        response: &Value,
        to_text: impl FnOnce(&Value) -> String,
    ) -> anyhow::Result<()> {
        match self {
            Self::Text => print(&lines_for(&to_text(response), colour::is_on())),
            Self::Json => print(&format!("{response:#}\n")),
        }
    }
}

/// The text without control characters except line ends: a terminal would obey them.
pub(super) fn printable_lines(text: &str) -> String {
    text.replace(|c: char| c.is_control() && c != '\n', " ")
}

/// The text without control characters except line ends and, if colours are on, the sequences that set them.
fn lines_for(text: &str, has_colours: bool) -> String {
    if !has_colours {
        return printable_lines(text);
    }
    let mut parts = text.split(ESCAPE);
    let first = parts.next().map(printable_lines).unwrap_or_default();
    parts.fold(first, |lines, part| {
        let codes = part.strip_prefix('[').and_then(|rest| rest.split_once('m')).map(|(codes, _)| codes);
        let is_colour = codes.is_some_and(|codes| codes.chars().all(|c| c.is_ascii_digit() || c == ';'));
        lines + if is_colour { ESCAPE } else { " " } + &printable_lines(part)
    })
}

/// An object as lines, one for each field: first the `leading` fields, then the others. Lists of objects are omitted.
pub(super) fn object_text(object: &Value, leading: &[&str]) -> String {
    let mut fields = Vec::new();
    flatten(object, "", &mut fields);
    let rank = |name: &str| leading.iter().position(|field| *field == name).unwrap_or(leading.len());
    fields.sort_by_key(|(name, _)| rank(name));
    let now = Timestamp::now();
    render_fields(fields.iter().map(|(name, value)| (name, value_text(value, now))))
}

fn flatten(value: &Value, name: &str, fields: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(members) if !members.is_empty() || name.is_empty() => {
            for (member, value) in members {
                let name = if name.is_empty() { member.clone() } else { format!("{name}.{member}") };
                flatten(value, &name, fields);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {}
        _ if name == "object" => {}
        _ => fields.push((name.to_owned(), value.clone())),
    }
}

fn value_text(value: &Value, now: Timestamp) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => match time(value) {
            Some(at) => format!("{} ({})", utc(at), relative(at, now)),
            None => text.clone(),
        },
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => items.iter().map(|item| value_text(item, now)).collect::<Vec<_>>().join(", "),
        Value::Object(members) if members.is_empty() => "-".to_owned(),
        other => other.to_string(),
    }
}

/// The text of a field; `-` if it is null or missing.
pub(super) fn text(object: &Value, field: &str) -> String {
    match &object[field] {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The strings of a list; `-` if there are none.
pub(super) fn texts(object: &Value, field: &str) -> String {
    let items = object[field].as_array().map(Vec::as_slice).unwrap_or_default();
    let items: Vec<_> = items.iter().filter_map(Value::as_str).collect();
    if items.is_empty() { "-".to_owned() } else { items.join(", ") }
}

/// The time in a field, relative to now; `-` if there is none.
pub(super) fn when(object: &Value, field: &str) -> String {
    time(&object[field]).map_or("-".to_owned(), |at| relative(at, Timestamp::now()))
}

pub(super) fn time(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

/// A time to the second, with its zone.
pub(super) fn utc(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// Like `1 delivery` or `3 deliveries`.
pub(super) fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Like `in 5 m` or `2 h ago`.
pub(super) fn relative(at: Timestamp, now: Timestamp) -> String {
    let seconds = at.as_second() - now.as_second();
    let rough = match seconds.unsigned_abs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} m", seconds / 60),
        seconds @ 3600..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    };
    if seconds > 0 { format!("in {rough}") } else { format!("{rough} ago") }
}

/// An empty line and the table; nothing if the table has no rows.
pub(super) fn table_below<const N: usize>(table: &Table<N>) -> String {
    if table.is_empty() { String::new() } else { format!("\n{}", table.render()) }
}

/// Asks for a confirmation at the terminal.
///
/// # Errors
/// If the standard input is no terminal, or the reply is not `y`.
pub(super) fn confirm(question: &str) -> anyhow::Result<()> {
    let question = printable(question);
    if !stdin().is_terminal() {
        bail!("{question}? This needs a confirmation, and the standard input is not a terminal; use --yes");
    }
    write!(stderr(), "{question}? [y/N] ")?;
    let mut reply = String::new();
    stdin().lock().read_line(&mut reply)?;
    if !reply.trim().eq_ignore_ascii_case("y") {
        bail!("not confirmed; nothing was changed");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_object_is_printed_in_lines_with_its_leading_fields_first() {
        let object = json!({
            "object": "tenant", "id": "tnt_1", "name": "A\u{1b}[1m", "slug": "acme", "metadata": {},
            "rate_limit": {"emails_per_day": 5, "emails_per_minute": null}, "tags": ["a", "b"], "rows": [{"a": 1}],
        });
        assert_eq!(
            object_text(&object, &["slug", "id"]),
            "slug                          acme\n\
             id                            tnt_1\n\
             metadata                      -\n\
             name                          A [1m\n\
             rate_limit.emails_per_day     5\n\
             rate_limit.emails_per_minute  -\n\
             tags                          a, b\n"
        );
    }

    #[test]
    fn text_has_no_control_characters_but_line_ends() {
        assert_eq!(printable_lines("a\u{1b}[2J\r\nb\u{9b}\n"), "a [2J \nb \n");
    }

    #[test]
    fn with_colours_only_sequences_of_colours_are_left() {
        let text = "\u{1b}[38;5;1mbounced\u{1b}[39m \u{1b}[2J\u{1b}]0;title\u{7}\u{1b}[1;m\u{1b}[?25l\n";
        let shown = "\u{1b}[38;5;1mbounced\u{1b}[39m  [2J ]0;title \u{1b}[1;m [?25l\n";
        assert_eq!(lines_for(text, true), shown);
        assert!(!lines_for(text, false).contains(ESCAPE));
    }

    #[test]
    fn times_are_relative_to_now() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        for (offset, text) in
            [(0, "0 s ago"), (-59, "59 s ago"), (300, "in 5 m"), (-7200, "2 h ago"), (259_200, "in 3 d")]
        {
            assert_eq!(relative(Timestamp::from_second(1_000_000 + offset).unwrap(), now), text);
        }
    }
}
