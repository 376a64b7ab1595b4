//! JSON bodies: parsing with errors that name the field, and shared validation.

use bytes::Bytes;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::model::RefusalCode;

use super::error::{ApiError, FieldError, Result};
use super::json_faults;
use super::json_words::describe_mismatch;
use super::objects_only::ObjectsOnly;

/// Characters of client input that an error repeats.
const ECHO_CHARS_MAX: usize = 100;
/// Characters of what a type says about a value that it does not have: all values of the longest enumeration.
const EXPLANATION_CHARS_MAX: usize = 2000;
const METADATA_KEYS_MAX: usize = 50;
const METADATA_BYTES_MAX: usize = 8 * 1024;

/// Parses a body. Malformed JSON gives 400 with line and column, and so does JSON that is not an object; an invalid or
/// unknown field gives 422 with its path.
pub fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(ObjectsOnly(&mut reader)).map_err(|error| {
        let path = error.path().to_string();
        explain(if path == "." { String::new() } else { path }, error.inner())
    })?;
    reader.end().map_err(|error| malformed(&error))?;
    Ok(value)
}

/// Like [`parse`], but the error has all faults of the body.
pub fn parse_all<T: DeserializeOwned + JsonSchema>(body: &Bytes) -> Result<T> {
    parse(body).map_err(|error| json_faults::complete::<T>(error, body))
}

fn explain(path: String, error: &serde_json::Error) -> ApiError {
    if !error.is_data() {
        return malformed(error);
    }
    let text = error.to_string();
    // serde_json appends line and column. The path is more precise.
    let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(front, _)| front);
    if path.is_empty() && text.starts_with("invalid type: ") {
        return not_an_object();
    }
    let path = echo(&path);
    if text.starts_with("unknown field `") {
        let expected = text.rsplit_once("`, expected ").map_or("other fields", |(_, fields)| fields);
        let message = format!("unknown field; expected {expected}");
        return ApiError::field(path, "unknown_field", message);
    }
    for (start, code, message) in [
        ("missing field `", "required", "this field is required"),
        ("duplicate field `", "duplicate", "this field is given twice"),
    ] {
        if let Some(name) = text.strip_prefix(start).and_then(|rest| rest.strip_suffix('`')) {
            let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
            return ApiError::field(path, code, message);
        }
    }
    let message = describe_mismatch(text).unwrap_or_else(|| shorten(text, EXPLANATION_CHARS_MAX));
    ApiError::field(path, "invalid", message)
}

fn malformed(error: &serde_json::Error) -> ApiError {
    ApiError::new(
        RefusalCode::InvalidJson,
        format!("the body is not JSON: line {}, column {}", error.line(), error.column()),
        "correct the body at that position; it must be one JSON object in UTF-8",
    )
}

fn not_an_object() -> ApiError {
    ApiError::new(
        RefusalCode::InvalidJson,
        "the body is JSON, but not an object",
        "send one JSON object, which begins with { and ends with }",
    )
}

/// Shortens client input and removes control characters.
pub fn echo(text: &str) -> String {
    shorten(text, ECHO_CHARS_MAX)
}

fn shorten(text: &str, chars_max: usize) -> String {
    let mut shortened: String = text.chars().filter(|c| !c.is_control()).take(chars_max).collect();
    if text.chars().nth(chars_max).is_some() {
        shortened.push('…');
    }
    shortened
}

/// For fields of a patch: absent keeps the value, `null` clears it. Use with `#[serde(default, deserialize_with = …)]`.
pub fn nullable<'de, T, D>(deserializer: D) -> std::result::Result<Option<Option<T>>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Option::<T>::deserialize(deserializer).map(Some)
}

/// Collects all validation errors of a body, to report them in one response.
#[derive(Debug, Default)]
pub struct Checks(Vec<FieldError>);

impl Checks {
    /// Adds an error unless `is_right`.
    pub fn require(&mut self, is_right: bool, path: &str, code: &'static str, message: &str) {
        if !is_right {
            self.0.push(FieldError::new(path, code, message));
        }
    }

    /// Adds an error if the text is empty, longer than `chars_max` characters, or has control characters.
    pub fn line(&mut self, text: &str, path: &str, chars_max: usize) {
        let length = text.chars().count();
        self.require(length > 0, path, "too_short", "this must not be empty");
        self.length(length, path, chars_max, "characters");
        self.one_line(text, path);
    }

    /// Adds an error if the text has control characters.
    pub fn one_line(&mut self, text: &str, path: &str) {
        let is_one_line = !text.chars().any(char::is_control);
        self.require(is_one_line, path, "invalid", "this must not contain control characters or line breaks");
    }

    /// Adds an error if `length` exceeds `max`.
    pub fn length(&mut self, length: usize, path: &str, max: usize, unit: &str) {
        if length > max {
            self.0.push(FieldError::new(
                path,
                "too_long",
                format!("this has {length} {unit}; the limit is {max}"),
            ));
        }
    }

    /// Adds an error if `metadata` has too many keys or bytes.
    pub fn metadata(&mut self, metadata: &Map<String, Value>) {
        self.length(metadata.len(), "metadata", METADATA_KEYS_MAX, "keys");
        let bytes = serde_json::to_vec(metadata).map_or(usize::MAX, |text| text.len());
        self.length(bytes, "metadata", METADATA_BYTES_MAX, "bytes");
    }

    /// Returns the value, or adds the error.
    pub fn read<T, E: std::fmt::Display>(
        &mut self,
        result: std::result::Result<T, E>,
        path: &str,
    ) -> Option<T> {
        result.map_err(|error| self.0.push(FieldError::new(path, "invalid", error.to_string()))).ok()
    }

    /// Fails if an error was added.
    pub fn finish(self) -> Result<()> {
        self.into_result().map_err(ApiError::invalid)
    }

    /// Like [`Checks::finish`], but returns the plain errors.
    pub fn into_result(self) -> std::result::Result<(), Vec<FieldError>> {
        if self.0.is_empty() { Ok(()) } else { Err(self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::{Timestamp, TimestampError};
    use crate::model::Scope;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Body {
        name: String,
        #[serde(default)]
        scopes: Vec<Scope>,
        #[serde(default)]
        nested: Option<Box<Body>>,
        #[serde(default, deserialize_with = "nullable")]
        note: Option<Option<String>>,
    }

    fn fault(text: &str) -> (u16, String, String, &'static str) {
        let error = parse::<Body>(&Bytes::copy_from_slice(text.as_bytes())).unwrap_err();
        let field = error.fields.first();
        (
            error.status().as_u16(),
            error.refusal.code.to_string(),
            field.map(|f| f.path.clone()).unwrap_or_default(),
            field.map_or("", |f| f.code),
        )
    }

    #[test]
    fn an_invalid_field_is_reported_with_its_path() {
        for (text, status, code, path, field_code) in [
            ("", 400, "invalid_json", "", ""),
            ("{", 400, "invalid_json", "", ""),
            (r#"{"name":"a"} x"#, 400, "invalid_json", "", ""),
            ("{\"name\":\"\u{1}\"}", 400, "invalid_json", "", ""),
            (r#"[]"#, 400, "invalid_json", "", ""),
            (r#"["a",[],null,null]"#, 400, "invalid_json", "", ""),
            (r#" "a""#, 400, "invalid_json", "", ""),
            ("7", 400, "invalid_json", "", ""),
            ("null", 400, "invalid_json", "", ""),
            (r#"{"name":"a","nested":["b",[],null,null]}"#, 422, "validation_failed", "nested", "invalid"),
            (r#"{}"#, 422, "validation_failed", "name", "required"),
            (r#"{"name":1}"#, 422, "validation_failed", "name", "invalid"),
            (r#"{"name":"a","nmae":1}"#, 422, "unknown_field", "nmae", "unknown_field"),
            (
                r#"{"name":"a","nested":{"name":"b","x":1}}"#,
                422,
                "unknown_field",
                "nested.x",
                "unknown_field",
            ),
            (r#"{"name":"a","nested":{}}"#, 422, "validation_failed", "nested.name", "required"),
            (
                r#"{"name":"a","scopes":["smtp:send","all"]}"#,
                422,
                "validation_failed",
                "scopes[1]",
                "invalid",
            ),
        ] {
            assert_eq!(fault(text), (status, code.into(), path.into(), field_code), "{text}");
        }
    }

    #[test]
    fn malformed_json_is_reported_with_line_and_column() {
        let error = parse::<Body>(&Bytes::from_static(b"{\n  \"name\": ,\n}")).unwrap_err();
        assert_eq!(error.refusal.message, "the body is not JSON: line 2, column 11");
    }

    #[test]
    fn an_absent_field_differs_from_null_and_from_a_value() {
        let note = |text: &str| parse::<Body>(&Bytes::copy_from_slice(text.as_bytes())).unwrap().note;
        assert_eq!(note(r#"{"name":"a"}"#), None);
        assert_eq!(note(r#"{"name":"a","note":null}"#), Some(None));
        assert_eq!(note(r#"{"name":"a","note":"x"}"#), Some(Some("x".into())));
    }

    #[test]
    fn client_input_is_shortened_in_errors() {
        let long = format!(r#"{{"name":"a","{}":1}}"#, "x".repeat(5000));
        let error = parse::<Body>(&Bytes::from(long)).unwrap_err();
        assert!(error.refusal.message.len() < 500, "{}", error.refusal.message.len());
    }

    #[test]
    fn an_unknown_value_is_answered_with_all_known_ones() {
        let error = parse::<Body>(&Bytes::from_static(br#"{"name":"a","scopes":["all"]}"#)).unwrap_err();
        for scope in Scope::ALL {
            assert!(error.refusal.message.contains(scope.as_str()), "{scope}: {}", error.refusal.message);
        }
        let error = parse::<Vec<crate::model::EventKind>>(&Bytes::from_static(br#"["all"]"#)).unwrap_err();
        for kind in crate::model::EventKind::ALL {
            assert!(error.refusal.message.contains(kind.as_str()), "{kind}: {}", error.refusal.message);
        }
    }

    #[test]
    fn a_wrong_time_is_answered_with_a_right_one() {
        #[derive(Debug, Deserialize)]
        struct Times {
            at: Option<Timestamp>,
        }
        let read = |text: &str| parse::<Times>(&Bytes::copy_from_slice(text.as_bytes()));
        let at = read(r#"{"at":"2026-01-31T12:00:00+02:00"}"#).unwrap().at;
        assert_eq!(at, Some("2026-01-31T10:00:00Z".parse().unwrap()));
        for text in [r#"{"at":"tomorrow"}"#, r#"{"at":"2026-02-30T12:00:00Z"}"#, r#"{"at":""}"#] {
            assert_eq!(read(text).unwrap_err().refusal.message, format!("at: {TimestampError}"), "{text}");
        }
        assert_eq!(
            read(r#"{"at":7}"#).unwrap_err().refusal.message,
            "at: this must be a string, not a number"
        );
    }

    #[test]
    fn all_invalid_fields_are_reported_in_one_response() {
        let mut checks = Checks::default();
        checks.line("", "name", 10);
        checks.line("a\r\nb", "note", 10);
        checks.line("ok", "fine", 10);
        checks.line("too long a text", "text", 10);
        let fields = checks.finish().unwrap_err().fields;
        assert_eq!(
            fields.iter().map(|f| (f.path.as_str(), f.code)).collect::<Vec<_>>(),
            [("name", "too_short"), ("note", "invalid"), ("text", "too_long")]
        );
    }
}
