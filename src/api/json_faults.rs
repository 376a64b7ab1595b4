//! All faults of a body at once. serde stops at the first one; the others are found with the schema of the type. Pure.

use std::fmt;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::error::{ApiError, FieldError};
use super::json::{self, echo};
use super::schema::Schemas;

/// Longer bodies report the first fault only: their values would take much memory.
const BODY_OCTETS_MAX: usize = 1024 * 1024;
/// Faults in one response.
const FAULTS_MAX: usize = 20;

/// Adds the other faults of a body to the first one.
pub fn complete<T: DeserializeOwned + JsonSchema>(first: ApiError, body: &[u8]) -> ApiError {
    let [fault] = &first.fields[..] else { return first };
    if body.len() > BODY_OCTETS_MAX {
        return first;
    }
    let Ok(value) = serde_json::from_slice::<Value>(body) else { return first };
    let mut found = find::<T>(&value);
    let count = found.len();
    found.retain(|other| !is_known_by_serde::<T>(other, &value));
    if found.len() < count {
        // The field that seems to be missing may be there under its other name.
        found.retain(|other| other.code != "required");
    }
    let mut faults = vec![fault.clone()];
    for other in found {
        if faults.iter().all(|known| known.path != other.path) {
            faults.push(other);
        }
    }
    faults.truncate(FAULTS_MAX);
    ApiError::invalid(faults)
}

/// Whether a field that is not in the schema is one for serde, under another name.
fn is_known_by_serde<T: DeserializeOwned>(fault: &FieldError, body: &Value) -> bool {
    let Some(value) = body.get(&fault.path).filter(|_| fault.code == "unknown_field") else { return false };
    let alone = Value::Object(Map::from_iter([(fault.path.clone(), value.clone())])).to_string();
    match json::parse::<T>(&alone.into()) {
        Ok(_) => true,
        Err(error) => error.fields.iter().all(|field| field.code != "unknown_field"),
    }
}

fn find<T: JsonSchema>(body: &Value) -> Vec<FieldError> {
    let mut schemas = Schemas::new();
    let schema = schemas.request::<T>();
    let definitions = schemas.finish();
    let mut search = Search { definitions: &definitions, faults: Vec::new() };
    search.check(schema.as_value(), body, &Path::Body);
    search.faults
}

/// The place of a value in the body. It becomes text for a fault only, because a body can have long names and many values.
#[derive(Clone, Copy)]
enum Path<'a> {
    Body,
    Member(&'a Self, &'a str),
    Item(&'a Self, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Body => Ok(()),
            Self::Member(Self::Body, name) => f.write_str(name),
            Self::Member(parent, name) => write!(f, "{parent}.{name}"),
            Self::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

struct Search<'a> {
    definitions: &'a Map<String, Value>,
    faults: Vec<FieldError>,
}

impl<'a> Search<'a> {
    fn check(&mut self, schema: &'a Value, value: &Value, path: &Path<'_>) {
        if self.is_full() {
            return;
        }
        if let Some(name) = schema["$ref"].as_str().and_then(|reference| reference.rsplit('/').next())
            && let Some(definition) = self.definitions.get(name)
        {
            self.check(definition, value, path);
        }
        for part in schema["allOf"].as_array().into_iter().flatten() {
            self.check(part, value, path);
        }
        if let Some(choices) = schema["anyOf"].as_array().or(schema["oneOf"].as_array()) {
            self.check_choices(choices, value, path);
        }
        let types = types_of(schema);
        if !types.is_empty() && !types.iter().any(|name| is_of_type(value, name)) {
            self.refuse(path, mismatch(&types, value));
            return;
        }
        self.check_value(schema, value, path);
        match value {
            Value::Object(members) => self.check_object(schema, members, path),
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    if self.is_full() {
                        return;
                    }
                    self.check(&schema["items"], item, &Path::Item(path, index));
                }
            }
            _ => {}
        }
    }

    /// Whether the response has no place for another fault.
    fn is_full(&self) -> bool {
        self.faults.len() >= FAULTS_MAX
    }

    /// The value must meet one choice. The faults are those of the choice that it comes closest to.
    fn check_choices(&mut self, choices: &'a [Value], value: &Value, path: &Path<'_>) {
        let mut closest: Option<Vec<FieldError>> = None;
        for choice in choices {
            let mut search = Search { definitions: self.definitions, faults: Vec::new() };
            search.check(choice, value, path);
            if search.faults.is_empty() {
                return;
            }
            let types = self.types_behind(choice);
            if types.is_empty() || types.iter().any(|name| is_of_type(value, name)) {
                closest.get_or_insert(search.faults);
            }
        }
        match closest {
            Some(faults) => self.faults.extend(faults),
            None => {
                let types: Vec<&str> = choices.iter().flat_map(|choice| self.types_behind(choice)).collect();
                self.refuse(path, mismatch(&types, value));
            }
        }
    }

    fn types_behind(&self, schema: &'a Value) -> Vec<&'a str> {
        let name = schema["$ref"].as_str().and_then(|reference| reference.rsplit('/').next());
        types_of(name.and_then(|name| self.definitions.get(name)).unwrap_or(schema))
    }

    fn check_value(&mut self, schema: &Value, value: &Value, path: &Path<'_>) {
        if let Some(allowed) = schema["enum"].as_array().filter(|allowed| !allowed.contains(value)) {
            let names: Vec<_> = allowed.iter().filter_map(Value::as_str).collect();
            self.refuse(path, format!("this must be one of {}", names.join(", ")));
        }
        let Some(number) = value.as_i64() else { return };
        let (min, max) = (schema["minimum"].as_i64(), schema["maximum"].as_i64());
        if number < min.unwrap_or(i64::MIN) || number > max.unwrap_or(i64::MAX) {
            let text = match (min, max) {
                (Some(min), Some(max)) => format!("this must be a number from {min} to {max}"),
                (Some(min), None) => format!("this must be at least {min}"),
                (None, max) => format!("this must be at most {}", max.unwrap_or(i64::MAX)),
            };
            self.refuse(path, text);
        }
    }

    fn check_object(&mut self, schema: &'a Value, members: &Map<String, Value>, path: &Path<'_>) {
        let properties = schema["properties"].as_object();
        for (name, value) in members {
            if self.is_full() {
                return;
            }
            let path = Path::Member(path, name);
            match (properties.and_then(|known| known.get(name)), &schema["additionalProperties"]) {
                (Some(property), _) => self.check(property, value, &path),
                (None, Value::Bool(false)) => {
                    let known = properties.into_iter().flat_map(Map::keys).map(|name| format!("`{name}`"));
                    let known = known.collect::<Vec<_>>().join(", ");
                    let message = format!("unknown field; expected one of {known}");
                    self.add(&path, "unknown_field", message);
                }
                (None, other) => self.check(other, value, &path),
            }
        }
        let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
        for name in required.filter(|name| !members.contains_key(*name)) {
            if self.is_full() {
                return;
            }
            self.add(&Path::Member(path, name), "required", "this field is required".to_owned());
        }
    }

    fn refuse(&mut self, path: &Path<'_>, message: String) {
        self.add(path, "invalid", message);
    }

    fn add(&mut self, path: &Path<'_>, code: &'static str, message: String) {
        self.faults.push(FieldError::new(echo(&path.to_string()), code, message));
    }
}

fn types_of(schema: &Value) -> Vec<&str> {
    match &schema["type"] {
        Value::String(name) => vec![name],
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn is_of_type(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => true,
    }
}

fn mismatch(types: &[&str], value: &Value) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in types.iter().filter(|name| **name != "null").map(|name| with_article(name)) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a number with a fraction or an exponent",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    format!("this must be {}, not {found}", names.join(" or "))
}

fn with_article(name: &str) -> &str {
    match name {
        "boolean" => "a boolean",
        "integer" => "an integer",
        "number" => "a number",
        "string" => "a string",
        "array" => "an array",
        "object" => "an object",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde::Deserialize;

    use super::*;
    use crate::model::Environment;

    #[derive(Debug, PartialEq, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Body {
        #[serde(alias = "title")]
        name: String,
        count: Option<u16>,
        environment: Option<Environment>,
        #[serde(default)]
        items: Vec<Item>,
        #[serde(default)]
        headers: HashMap<String, String>,
    }

    #[derive(Debug, PartialEq, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Item {
        id: String,
        flag: Option<bool>,
    }

    fn faults(text: &str) -> Vec<String> {
        let body = text.as_bytes().to_vec().into();
        let error = json::parse::<Body>(&body).unwrap_err();
        let error = complete::<Body>(error, &body);
        let mut faults: Vec<_> = error
            .fields
            .iter()
            .map(|field| format!("{}: {} {}", field.path, field.code, field.message))
            .collect();
        faults.sort();
        faults
    }

    #[test]
    fn all_faults_of_a_body_are_found_at_once() {
        let text = r#"{"name": 7, "count": "x", "environment": "prod", "extra": 1, "headers": {"X-A": 1, "X-B": "b"},
            "items": [{"id": "a", "flag": "yes"}, {"flag": null}, 3, {"id": "b", "more": 1}]}"#;
        let found = faults(text);
        let starts = [
            "count: invalid this must be an integer",
            "environment: invalid this must be one of live, test",
            "extra: unknown_field unknown field; expected one of `",
            "headers.X-A: invalid this must be a string, not a number",
            "items[0].flag: invalid this must be a boolean, not a string",
            "items[1].id: required",
            "items[2]: invalid this must be an object, not a number",
            "items[3].more: unknown_field",
            "name: invalid this must be a string, not a number",
        ];
        assert_eq!(found.len(), starts.len(), "{found:?}");
        for (fault, start) in found.iter().zip(starts) {
            assert!(fault.starts_with(start), "{fault}");
        }
    }

    #[test]
    fn a_field_with_another_name_is_no_unknown_field_and_the_number_of_faults_is_limited() {
        assert_eq!(faults(r#"{"title": "x", "count": true}"#).len(), 1);
        let many: Vec<_> = (0..100).map(|number| format!(r#""k{number}": 1"#)).collect();
        assert_eq!(faults(&format!("{{{}}}", many.join(","))).len(), FAULTS_MAX);
    }

    #[test]
    fn the_search_ends_with_the_last_fault_that_is_reported() {
        let members = (0..100_000).map(|number| (format!("k{number}"), Value::Null));
        let unknown = Value::Object(members.collect());
        let wrong = serde_json::json!({ "name": "x", "headers": &unknown });
        let items = serde_json::json!({ "name": "x", "items": vec![Value::Null; 100_000] });
        for body in [unknown, wrong, items] {
            assert_eq!(find::<Body>(&body).len(), FAULTS_MAX);
        }
        let faults_of_items = serde_json::json!({ "items": vec![serde_json::json!({}); 100] });
        assert_eq!(find::<Body>(&faults_of_items).len(), FAULTS_MAX);
    }
}
