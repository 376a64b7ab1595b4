//! The document is complete: every operation, parameter and field has a description, every body an example, every reference
//! a target, and every schema that generators of clients make a type of a name.

use std::collections::HashSet;

use super::*;
use crate::api::schema::RequestBody;
use crate::api::{ROUTES, page};

/// Calls `visit` with each object of the document and its place.
fn walk(value: &Value, place: &str, visit: &mut dyn FnMut(&str, &Map<String, Value>)) {
    match value {
        Value::Object(object) => {
            visit(place, object);
            object.iter().for_each(|(key, inner)| walk(inner, &format!("{place}/{key}"), visit));
        }
        Value::Array(items) => items.iter().for_each(|inner| walk(inner, place, visit)),
        _ => {}
    }
}

fn has_description(object: &Value) -> bool {
    object["description"].as_str().is_some_and(|text| !text.trim().is_empty())
}

#[test]
fn every_field_is_described() {
    let mut fields = 0;
    walk(&DOCUMENT["components"]["schemas"], "", &mut |place, object| {
        let Some(Value::Object(properties)) = object.get("properties") else { return };
        for (name, property) in properties {
            assert!(has_description(property), "{place}.{name} has no description");
            fields += 1;
        }
    });
    assert!(fields > 200, "{fields}");
    let schemas = DOCUMENT["components"]["schemas"].as_object().unwrap();
    for (name, schema) in schemas.iter().filter(|(_, schema)| schema.get("properties").is_some()) {
        assert!(has_description(schema), "{name} has no description");
    }
}

#[test]
fn every_operation_has_a_unique_id_and_describes_its_parameters() {
    let mut ids = HashSet::new();
    for route in ROUTES.iter() {
        for operation in &route.operations {
            let method = operation.method.as_str().to_ascii_lowercase();
            let described = &DOCUMENT["paths"][route.path][&method];
            let name = format!("{method} {}", route.path);
            assert!(
                ids.insert(described["operationId"].as_str().unwrap()),
                "{name}: {}",
                described["operationId"]
            );
            assert!(RESOURCES.iter().any(|resource| described["tags"][0] == resource.name), "{name}");
            let parameters = described["parameters"].as_array().unwrap();
            let has = |wanted: &str| {
                let found = parameters.iter().find(|parameter| parameter["name"] == wanted);
                found.is_some_and(has_description)
            };
            for parameter in &operation.parameters {
                assert!(has(parameter.name), "{name}: the parameter {} is not described", parameter.name);
            }
            let response = described["responses"][operation.status.to_string()].clone();
            assert!(has_description(&response), "{name}");
            let takes_body = operation.method == Method::PATCH || operation.method == Method::PUT;
            assert!(described["requestBody"].is_object() || !takes_body, "{name}");
        }
    }
}

#[test]
fn every_body_has_an_example_that_its_handler_parses() {
    let mut bodies = 0;
    for operation in ROUTES.iter().flat_map(|route| &route.operations) {
        let Some(body) = operation.body else { continue };
        let name = format!("{} {}", operation.method, operation.path);
        assert!(
            body.example.len() > 2 || !has_properties(body),
            "{name}: the example has no field; give one that callers send, as in .takes::<T>(r#\"{{\"name\": \"acme.com\"}}\"#)"
        );
        if let Err(error) = (body.parse_example)(body.example) {
            panic!("{name}: the example of .takes or .may_take is no such body: {error:?}");
        }
        assert!(
            !body.example.contains('\''),
            "{name}: an apostrophe ends the argument of -d in the reference"
        );
        bodies += 1;
    }
    assert!(bodies > 30, "{bodies}");
}

/// Whether a body can have fields.
fn has_properties(body: RequestBody) -> bool {
    let mut schemas = Schemas::new();
    let schema = (body.schema)(&mut schemas);
    let name = schema.get("$ref").and_then(Value::as_str).and_then(|reference| reference.rsplit('/').next());
    let definitions = schemas.finish();
    name.and_then(|name| definitions.get(name)).is_none_or(|schema| schema.get("properties").is_some())
}

#[test]
fn aliases_name_the_operation_that_they_stand_for_and_can_be_left_out() {
    let without = without_aliases(&DOCUMENT);
    let ids = |document: &Value| -> HashSet<String> {
        let methods = document["paths"].as_object().unwrap().values().flat_map(|of| of.as_object().unwrap());
        methods.map(|(_, operation)| operation["operationId"].as_str().unwrap().to_owned()).collect()
    };
    let (all, main) = (ids(&DOCUMENT), ids(&without));
    let mut aliases = HashSet::new();
    for route in ROUTES.iter() {
        for operation in &route.operations {
            let method = operation.method.as_str().to_ascii_lowercase();
            let described = &DOCUMENT["paths"][route.path][&method];
            let name = format!("{method} {}", route.path);
            let id = described["operationId"].as_str().unwrap();
            if route.is_alias() || method == "put" {
                assert_eq!(described["deprecated"], true, "{name}");
                assert_eq!(described["x-alias-of"], operation.name, "{name}");
                assert!(main.contains(operation.name), "{name}");
                aliases.insert(id.to_owned());
            } else {
                assert!(described["deprecated"].is_null() && main.contains(id), "{name}");
            }
        }
    }
    assert!(aliases.len() > 15, "{}", aliases.len());
    assert_eq!(&all - &main, aliases);
    assert_eq!(without["components"], DOCUMENT["components"]);
    assert!(without["paths"].as_object().unwrap().values().all(|of| !of.as_object().unwrap().is_empty()));
}

#[test]
fn every_enumeration_is_a_list_of_values_and_no_name_is_that_of_a_constructor() {
    let schemas = DOCUMENT["components"]["schemas"].as_object().unwrap();
    for (name, schema) in schemas {
        assert!(schema["oneOf"][0]["const"].is_null(), "{name}: {schema}");
        // In Go, `NewKey` makes a `Key`.
        let made = name.strip_prefix("New").unwrap_or_default();
        assert!(!schemas.contains_key(made), "{name} is the constructor of {made} in clients");
    }
    assert_eq!(schemas["InboxStatus"]["enum"], json!(["pending", "confirmed"]));
    let text = "Whether the owner of an inbox confirmed it. `pending`: Not yet. `confirmed`: Trial mail may be sent to it.";
    assert_eq!(schemas["InboxStatus"]["description"], text);
}

/// Whether a schema is a reference, also one that may be null.
fn is_reference(schema: &Value) -> bool {
    let choices = schema["anyOf"].as_array().map_or(&[][..], Vec::as_slice);
    schema.get("$ref").is_some()
        || matches!(choices, [named, null] if named.get("$ref").is_some() && null["type"] == "null")
}

/// Fails if a schema inside of another one, or of a parameter or response, needs a name.
fn expect_named(schema: &Value, place: &str) {
    if is_reference(schema) || schema.get("const").is_some() {
        return;
    }
    for keyword in ["properties", "enum", "anyOf", "oneOf", "allOf"] {
        assert!(
            schema.get(keyword).is_none(),
            "{place} has {keyword}, but no name: give it a type of its own that implements JsonSchema, so that generators of \
             clients need not invent one. {schema}"
        );
    }
    expect_parts_named(schema, place);
}

/// Checks the schemas of fields, items and choices.
fn expect_parts_named(schema: &Value, place: &str) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        expect_named(field, &format!("{place}.{name}"));
    }
    for inner in ["items", "additionalProperties"] {
        if schema[inner].is_object() {
            expect_named(&schema[inner], &format!("{place}/{inner}"));
        }
    }
    for choice in ["anyOf", "oneOf", "allOf"].iter().flat_map(|keyword| schema[keyword].as_array()).flatten()
    {
        expect_named(choice, place);
    }
}

#[test]
fn no_schema_is_inline_but_scalars_and_lists() {
    let mut seen = 0;
    for (name, schema) in DOCUMENT["components"]["schemas"].as_object().unwrap() {
        expect_parts_named(schema, name);
        seen += 1;
    }
    walk(&DOCUMENT["paths"], "", &mut |place, object| {
        if let Some(schema) = object.get("schema") {
            expect_named(schema, place);
            seen += 1;
        }
    });
    assert!(seen > 500, "{seen}");
}

#[test]
fn every_reference_has_a_target() {
    let mut references = 0;
    walk(&DOCUMENT, "", &mut |place, object| {
        if let Some(Value::String(reference)) = object.get("$ref") {
            let found = reference.strip_prefix('#').and_then(|pointer| DOCUMENT.pointer(pointer));
            assert!(found.is_some(), "{place}: {reference}");
            references += 1;
        }
    });
    assert!(references > 300, "{references}");
}

#[test]
fn no_field_has_null_as_default() {
    walk(&DOCUMENT["components"]["schemas"], "", &mut |place, object| {
        assert!(!object.get("default").is_some_and(Value::is_null), "{place}");
    });
}

#[test]
fn secrets_occur_only_in_requests_or_in_the_response_that_creates_them() {
    let schemas = &DOCUMENT["components"]["schemas"];
    for (schema, field) in [("Key", "secret"), ("SmartHost", "pass"), ("DkimKey", "private_key")] {
        assert!(schemas[schema]["properties"][field].is_null(), "{schema}.{field}");
    }
    assert_eq!(schemas["KeyWithSecret"]["properties"]["secret"]["type"], "string");
}

#[test]
fn every_list_with_pages_takes_their_parameters() {
    for operation in ROUTES.iter().flat_map(|route| &route.operations) {
        for name in page::PARAMETERS {
            assert!(operation.takes_parameter(name) || !operation.is_list(), "{}: {name}", operation.name);
        }
    }
}

#[test]
fn static_content_has_a_plain_and_a_gzip_form() {
    for content in [&DOCUMENT_RESPONSE, &PAGE_RESPONSE] {
        let content = content.as_ref().unwrap();
        assert_ne!(content.plain, content.gzip);
    }
}
