//! The document is complete: every operation, parameter and field has a description, and every reference a target.

use std::collections::HashSet;

use super::*;
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
    assert_eq!(schemas["NewKey"]["properties"]["secret"]["type"], "string");
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
