//! What people see of the server's answers: one object as lines, and single values in their words.

use std::io::{BufRead, IsTerminal, Write, stderr, stdin, stdout};

use anyhow::bail;
use serde_json::Value;

use super::table::{Table, relative};
use crate::mail::Timestamp;

/// Writes to the standard output; a reader that went away is an error, not a panic.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Whom answers are shown to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Audience {
    /// In words, lines and tables.
    People,
    /// As JSON.
    Programs,
}

impl Audience {
    /// Shows an answer: as it is, or as `tell` puts it for people.
    pub(super) fn show(self, answer: &Value, tell: impl FnOnce(&Value) -> String) -> anyhow::Result<()> {
        match self {
            Self::People => print(&tell(answer)),
            Self::Programs => print(&format!("{answer:#}\n")),
        }
    }
}

/// One object: `first` its fields that lead, then the others. Lists of objects are left to the caller.
pub(super) fn describe(object: &Value, first: &[&str]) -> String {
    let mut fields = Vec::new();
    flatten(object, "", &mut fields);
    let rank = |name: &str| first.iter().position(|field| *field == name).unwrap_or(first.len());
    fields.sort_by_key(|(name, _)| rank(name));
    let width = fields.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let now = Timestamp::now();
    let lines = fields.iter().map(|(name, value)| format!("{name:<width$}  {}\n", tell(value, now)));
    lines.collect()
}

fn flatten(value: &Value, name: &str, fields: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(parts) if !parts.is_empty() || name.is_empty() => {
            for (part, value) in parts {
                let name = if name.is_empty() { part.clone() } else { format!("{name}.{part}") };
                flatten(value, &name, fields);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {}
        _ if name == "object" => {}
        _ => fields.push((name.to_owned(), value.clone())),
    }
}

/// A value on one line, without control characters, which a terminal might obey.
fn tell(value: &Value, now: Timestamp) -> String {
    let text = match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => match time(value) {
            Some(at) => format!("{text} ({})", relative(at, now)),
            None => text.clone(),
        },
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => items.iter().map(|item| tell(item, now)).collect::<Vec<_>>().join(", "),
        Value::Object(parts) if parts.is_empty() => "-".to_owned(),
        other => other.to_string(),
    };
    text.replace(char::is_control, " ")
}

/// The text of a field; `-` if there is none.
pub(super) fn text(object: &Value, field: &str) -> String {
    match &object[field] {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The texts of a field that is a list.
pub(super) fn texts(object: &Value, field: &str) -> String {
    let items = object[field].as_array().map(Vec::as_slice).unwrap_or_default();
    let items: Vec<_> = items.iter().filter_map(Value::as_str).collect();
    if items.is_empty() { "-".to_owned() } else { items.join(", ") }
}

/// When, told from now; `-` if never.
pub(super) fn when(object: &Value, field: &str) -> String {
    time(&object[field]).map_or("-".to_owned(), |at| relative(at, Timestamp::now()))
}

pub(super) fn time(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

/// A table below other lines, left out if it has no rows.
pub(super) fn below<const N: usize>(table: &Table<N>) -> String {
    if table.is_empty() { String::new() } else { format!("\n{}", table.render()) }
}

/// Asks the person at the terminal.
///
/// # Errors
/// If there is nobody, or the answer is not yes.
pub(super) fn confirm(what: &str) -> anyhow::Result<()> {
    if !stdin().is_terminal() {
        bail!("{what}? Nobody can confirm this here; use --yes");
    }
    write!(stderr(), "{what}? [y/N] ")?;
    let mut answer = String::new();
    stdin().lock().read_line(&mut answer)?;
    if !answer.trim().eq_ignore_ascii_case("y") {
        bail!("not confirmed; nothing was done");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_object_is_told_in_lines_with_its_name_first() {
        let object = json!({
            "object": "tenant", "id": "tnt_1", "name": "A\u{1b}[1m", "slug": "acme", "metadata": {},
            "rate_limit": {"emails_per_day": 5, "emails_per_minute": null}, "tags": ["a", "b"], "rows": [{"a": 1}],
        });
        assert_eq!(
            describe(&object, &["slug", "id"]),
            "slug                          acme\n\
             id                            tnt_1\n\
             metadata                      -\n\
             name                          A [1m\n\
             rate_limit.emails_per_day     5\n\
             rate_limit.emails_per_minute  -\n\
             tags                          a, b\n"
        );
    }
}
