//! Templates put data into text, in the language of Jinja. Pure.
//!
//! They do not compute: what could build a text of any size out of a small one is not in the language here: operators
//! that join texts, literals of lists, captures, macros. So a template costs no more than its data and its output,
//! which have limits. Autoescape is on for HTML, and what is undefined is an error rather than a gap in a letter.

use std::io;

use minijinja::machinery::{Token, WhitespaceConfig, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::StringInput;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, UndefinedBehavior, Value, filters};

/// Octets that a part of a message may come to.
const OUTPUT_OCTETS_MAX: usize = 1024 * 1024;
/// Octets of a text that a filter makes.
const TEXT_OCTETS_MAX: usize = 256 * 1024;
/// Instructions: loops over a few thousand things.
const FUEL: u64 = 200_000;
/// Calls in calls.
const DEPTH_MAX: usize = 50;

/// The statements of the language.
const STATEMENTS: &[&str] = &["if", "elif", "else", "endif", "for", "endfor", "with", "endwith"];
/// Its filters: their results are no longer than what goes in, or have a limit.
const FILTERS: &[&str] = &[
    "abs",
    "capitalize",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "first",
    "float",
    "int",
    "items",
    "join",
    "last",
    "length",
    "lower",
    "max",
    "min",
    "reverse",
    "round",
    "safe",
    "sort",
    "title",
    "trim",
    "unique",
    "upper",
    "urlencode",
];

/// What a part of a message is rendered as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Data stands as it is.
    Text,
    /// Data is escaped.
    Html,
}

impl Form {
    /// The name of a template, by which its escaping is chosen.
    fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Html => "html",
        }
    }
}

/// Why there is no text: what is wrong and in which line, for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RenderError(String);

impl RenderError {
    fn at(line: impl std::fmt::Display, what: impl std::fmt::Display) -> Self {
        Self(format!("line {line}: {what}"))
    }
}

impl From<Error> for RenderError {
    fn from(error: Error) -> Self {
        let what = match (error.kind(), error.detail()) {
            (ErrorKind::OutOfFuel, _) => "the template takes too many steps".to_owned(),
            (kind, Some(detail)) => format!("{kind}: {detail}"),
            (kind, None) => kind.to_string(),
        };
        match error.line() {
            Some(line) => Self::at(line, what),
            None => Self(what),
        }
    }
}

/// Whether a source is a template.
pub fn check(source: &str) -> Result<(), RenderError> {
    check_language(source)?;
    Ok(environment().template_from_str(source).map(drop)?)
}

/// Puts data into a template.
pub fn render(source: &str, form: Form, data: &Value) -> Result<String, RenderError> {
    check_language(source)?;
    let mut output = Bounded(Vec::new());
    let rendered = environment()
        .template_from_named_str(form.name(), source)?
        .render_captured_to(data, &mut output)
        .map(drop);
    match rendered {
        Err(_) if output.is_full() => {
            Err(RenderError(format!("the text comes to more than {OUTPUT_OCTETS_MAX} octets")))
        }
        Err(error) => Err(error.into()),
        Ok(()) => Ok(String::from_utf8_lossy(&output.0).into_owned()),
    }
}

/// Refuses what could make much of little: a text doubled thirty times fills the memory.
fn check_language(source: &str) -> Result<(), RenderError> {
    let mut before = None;
    let mut calls = Vec::new();
    for token in tokenize(source, false, SyntaxConfig, WhitespaceConfig::default()) {
        let (token, span) = token?;
        let fault = match (&before, &token) {
            (_, Token::Plus | Token::Mul | Token::Pow | Token::Mod | Token::Tilde) => {
                Some(format!("there is no operator {token} in templates: put the result into the data"))
            }
            (_, Token::BraceOpen) => Some("a template has no literals of maps: put it into the data".into()),
            (Some(Token::Ident(name)), Token::BracketOpen) if is_operator(name) => Some(NO_LISTS.into()),
            (Some(Token::Ident(_) | Token::ParenClose | Token::BracketClose), Token::BracketOpen) => None,
            (_, Token::BracketOpen) => Some(NO_LISTS.into()),
            (Some(Token::BlockStart), Token::Ident(name)) if !STATEMENTS.contains(name) => Some(format!(
                "there is no statement {name} in templates; there are {}",
                STATEMENTS.join(", ")
            )),
            (Some(Token::Pipe), Token::Ident(name)) if !FILTERS.contains(name) => {
                Some(format!("there is no filter {name} in templates; there are {}", FILTERS.join(", ")))
            }
            (before, Token::ParenOpen) => {
                calls.push(matches!(before, Some(Token::Ident(name)) if !is_operator(name)));
                None
            }
            (_, Token::ParenClose) => {
                calls.pop();
                None
            }
            // Between parentheses that belong to no call it makes a list.
            (_, Token::Comma) if calls.last() == Some(&false) => Some(NO_LISTS.into()),
            _ => None,
        };
        if let Some(fault) = fault {
            return Err(RenderError::at(span.start_line, fault));
        }
        before = Some(token);
    }
    Ok(())
}

const NO_LISTS: &str = "a template has no literals of lists: put it into the data";

/// Words after which an expression begins.
fn is_operator(name: &str) -> bool {
    ["if", "elif", "else", "in", "and", "or", "not", "is", "for", "with"].contains(&name)
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(DEPTH_MAX);
    environment.set_auto_escape_callback(|name| match name {
        "html" => AutoEscape::Html,
        _ => AutoEscape::None,
    });
    for function in ["dict", "namespace", "debug"] {
        environment.remove_global(function);
    }
    environment.add_filter("join", join);
    environment.add_filter("urlencode", |value: &Value| {
        require_room(value.as_str().map_or(0, str::len).saturating_mul(3))?;
        filters::urlencode(value)
    });
    environment
}

/// The filter of that name, with a limit.
fn join(state: &State<'_, '_>, value: &Value, joiner: Option<StringInput<'_>>) -> Result<Value, Error> {
    let between = joiner.as_ref().map_or(0, |joiner| joiner.as_str().len());
    let mut octets = 0usize;
    for item in value.try_iter()? {
        octets = octets.saturating_add(between).saturating_add(item.as_str().map_or(20, str::len));
        require_room(octets)?;
    }
    filters::join(state, value, joiner)
}

fn require_room(octets: usize) -> Result<(), Error> {
    if octets <= TEXT_OCTETS_MAX {
        return Ok(());
    }
    let message = format!("a filter makes a text of more than {TEXT_OCTETS_MAX} octets");
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// Takes so much and no more.
struct Bounded(Vec<u8>);

impl Bounded {
    fn is_full(&self) -> bool {
        self.0.len() >= OUTPUT_OCTETS_MAX
    }
}

impl io::Write for Bounded {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let taken = octets.len().min(OUTPUT_OCTETS_MAX - self.0.len());
        self.0.extend_from_slice(&octets[..taken]);
        // Zero is an error to whoever wants all of it written.
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn put(source: &str, form: Form, data: serde_json::Value) -> Result<String, String> {
        render(source, form, &Value::from_serialize(data)).map_err(|error| error.to_string())
    }

    #[test]
    fn data_stands_in_text_as_it_is_and_in_html_escaped() {
        let (source, data) = ("Dear {{ name }},", json!({"name": "<A & B>"}));
        assert_eq!(put(source, Form::Text, data.clone()).unwrap(), "Dear <A & B>,");
        assert_eq!(put(source, Form::Html, data.clone()).unwrap(), "Dear &lt;A &amp; B&gt;,");
        assert_eq!(put("{{ name|safe }}", Form::Html, data).unwrap(), "<A & B>");
    }

    #[test]
    fn the_language_is_enough_for_letters() {
        let data = json!({
            "user": {"name": "ann"}, "paid": true, "tags": ["a", "b"],
            "items": [{"name": "Tea", "price": 2.5}, {"name": "Milk", "price": 1}],
        });
        let source = "{% if paid and user.name %}Thanks {{ user['name']|title }}{% else %}Hm{% endif %}:\n\
            {% for item in items %}{{ loop.index }}. {{ item.name }} {{ item.price|round(2) }}\n{% endfor %}\
            {{ tags|join(', ') }} {{ nickname|default('none') }} {% with first = items[0] %}{{ first.name|upper }}{% endwith %}\
            {% if (1 < 2) and not (3 in items) %}!{% endif %}";
        assert_eq!(
            put(source, Form::Text, data).unwrap(),
            "Thanks Ann:\n1. Tea 2.5\n2. Milk 1\na, b none TEA!"
        );
    }

    #[test]
    fn what_is_missing_is_an_error_with_its_line() {
        let error = put("Dear\n{{ nmae }}", Form::Text, json!({"name": "x"})).unwrap_err();
        assert!(error.starts_with("line 2: "), "{error}");
        assert!(check("{% if x %}").unwrap_err().to_string().starts_with("line 1: "));
        assert!(check("{{ x").is_err());
    }

    #[test]
    fn nothing_in_the_language_makes_much_of_little() {
        for source in [
            "{{ 'a' * 100000000 }}",
            "{{ 'a' ~ 'b' }}",
            "{{ 'a' + 'b' }}",
            "{{ '%1000000000d' % 1 }}",
            "{{ 'a'|indent(1000000000) }}",
            "{{ 'a'|replace('a', 'b') }}",
            "{{ '{:1000000000}'|format(1) }}",
            "{% set x %}{{ y }}{{ y }}{% endset %}",
            "{% set x = y %}",
            "{% macro m() %}{% endmacro %}",
            "{% filter upper %}{% endfilter %}",
            "{% for a in [x, x] %}{% endfor %}",
            "{% for a in (x, x) %}{% endfor %}",
            "{{ [x, x] }}",
            "{{ ((x, x)) }}",
            "{{ {'a': x} }}",
            "{{ x if [x] else y }}",
            "{{ [[x], [x]]|sum }}",
            "{% include 'x' %}",
        ] {
            assert!(check(source).is_err(), "{source}");
        }
        assert!(check("{{ namespace(a=1) }}").is_ok());
        assert!(put("{{ namespace(a=1) }}", Form::Text, json!({})).is_err());
    }

    #[test]
    fn output_steps_and_texts_have_limits() {
        let long = put(
            "{% for a in x %}{% for b in x %}{{ y }}{% endfor %}{% endfor %}",
            Form::Text,
            json!({"x": vec![1; 100], "y": "z".repeat(1000)}),
        );
        assert!(long.unwrap_err().contains("1048576 octets"));
        let many = put(
            "{% for a in x %}{% for b in x %}{{ y }}{% endfor %}{% endfor %}",
            Form::Text,
            json!({"x": vec![1; 1000], "y": ""}),
        );
        assert!(many.unwrap_err().contains("too many steps"));
        let joined = put("{{ x|join(y) }}", Form::Text, json!({"x": vec![1; 1000], "y": "z".repeat(1000)}));
        assert!(joined.unwrap_err().contains("262144 octets"));
    }
}
