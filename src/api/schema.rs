//! JSON schemas of bodies and parameters, for the OpenAPI document.

use std::fmt::Write;

use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// A function that generates the schema of a type.
pub type SchemaOf = fn(&mut Schemas) -> Schema;

/// The body of a request.
#[derive(Clone, Copy)]
pub struct RequestBody {
    pub schema: SchemaOf,
    pub is_required: bool,
    /// A body in JSON, for the OpenAPI document and for commands in the API reference.
    pub example: &'static str,
    /// Parses the example as a handler parses a body.
    #[cfg(test)]
    pub parse_example: fn(&'static str) -> super::Result<()>,
}

impl RequestBody {
    /// A body that a handler parses as `T`.
    pub fn new<T: JsonSchema + DeserializeOwned>(is_required: bool, example: &'static str) -> Self {
        Self {
            schema: Schemas::request::<T>,
            is_required,
            example,
            #[cfg(test)]
            parse_example: |example| super::json::parse_all::<T>(&example.into()).map(drop),
        }
    }
}

/// Gives an enumeration the form that generators of clients know: a list of values. `JsonSchema` makes choices of
/// constants, each with a description.
fn list_values(schema: &mut Schema) {
    let choices = schema.get("oneOf").and_then(Value::as_array);
    let values: Vec<_> =
        choices.into_iter().flatten().filter_map(|choice| choice["const"].as_str()).collect();
    if values.is_empty() || choices.is_some_and(|choices| choices.len() != values.len()) {
        return;
    }
    let described = choices.into_iter().flatten().zip(&values);
    let described = described.filter_map(|(choice, value)| Some((value, choice["description"].as_str()?)));
    let mut text = schema.get("description").and_then(Value::as_str).unwrap_or_default().to_owned();
    for (value, meaning) in described {
        let _ = write!(text, " `{value}`: {meaning}");
    }
    let values: Vec<Value> = values.into_iter().map(Value::from).collect();
    schema.remove("oneOf");
    schema.insert("type".into(), "string".into());
    schema.insert("description".into(), text.trim().into());
    schema.insert("enum".into(), values.into());
}

/// Collects the schemas of request and response bodies by name.
pub struct Schemas {
    /// Schemas of requests: a field with a default may be omitted.
    requests: SchemaGenerator,
    /// Schemas of responses: every field is present.
    responses: SchemaGenerator,
}

impl Schemas {
    /// An empty collection.
    pub fn new() -> Self {
        let settings = SchemaSettings::draft2020_12().with(|settings| {
            settings.definitions_path = "/components/schemas".into();
            settings.meta_schema = None;
        });
        // In a change, an absent field stays unchanged and `null` clears it, so null is not a default.
        let settings = settings.with_transform(RecursiveTransform(|schema: &mut Schema| {
            if schema.get("default").is_some_and(Value::is_null) {
                schema.remove("default");
            }
        }));
        let settings = settings.with_transform(RecursiveTransform(list_values));
        let requests = settings.clone().for_deserialize().into_generator();
        Self { requests, responses: settings.for_serialize().into_generator() }
    }

    /// The schema of a type in requests.
    pub fn request<T: JsonSchema>(&mut self) -> Schema {
        self.requests.subschema_for::<T>()
    }

    /// The schema of a type in responses.
    pub fn response<T: JsonSchema>(&mut self) -> Schema {
        self.responses.subschema_for::<T>()
    }

    /// All named schemas.
    pub fn finish(mut self) -> Map<String, Value> {
        let mut all = self.requests.take_definitions(true);
        for (name, schema) in self.responses.take_definitions(true) {
            debug_assert!(
                all.get(&name).is_none_or(|other| *other == schema),
                "{name} differs between requests and responses: give the request a struct of its own"
            );
            all.insert(name, schema);
        }
        all
    }
}
