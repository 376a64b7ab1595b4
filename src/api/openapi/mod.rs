//! The OpenAPI 3.1 document and its HTML page. Paths, methods, access and parameters come from [`ROUTES`]; schemas come from
//! the request and response structs, and their descriptions from the doc comments. [`describe`] adds one entry per endpoint;
//! `manual` renders the page.

mod describe;
mod headers;
mod manual;
mod parameters;

use std::sync::LazyLock;

use hyper::Method;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

use self::describe::{Description, TAGS, describe};
use super::auth::Access;
use super::error::{Envelope, Result};
use super::response::{ApiResponse, Fixed};
use super::route::{Endpoint, Operation, ROUTES, Route};

/// What holds for every operation.
const CONVENTIONS: &str = include_str!("conventions.md");

static DOCUMENT: LazyLock<Value> = LazyLock::new(build);
static DOCUMENT_ANSWER: LazyLock<Result<Fixed>> = LazyLock::new(|| Fixed::document(DOCUMENT.to_string()));
static PAGE_ANSWER: LazyLock<Result<Fixed>> =
    LazyLock::new(|| manual::render(&DOCUMENT).and_then(Fixed::page));

/// `GET /openapi.json`
pub fn document() -> Result<ApiResponse> {
    DOCUMENT_ANSWER.as_ref().map(ApiResponse::fixed).map_err(Clone::clone)
}

/// `GET /docs`
pub fn page() -> Result<ApiResponse> {
    PAGE_ANSWER.as_ref().map(ApiResponse::fixed).map_err(Clone::clone)
}

/// Collects the schemas of bodies and answers, each once and by its name.
pub struct Schemas {
    /// As they are read: fields with a default may be left out.
    requests: SchemaGenerator,
    /// As they are written: every field is there.
    answers: SchemaGenerator,
}

impl Schemas {
    fn new() -> Self {
        let settings = SchemaSettings::draft2020_12().with(|settings| {
            settings.definitions_path = "/components/schemas".into();
            settings.meta_schema = None;
        });
        // What is absent from a change stays, and `null` clears it: null is no default.
        let settings = settings.with_transform(RecursiveTransform(|schema: &mut Schema| {
            if schema.get("default").is_some_and(Value::is_null) {
                schema.remove("default");
            }
        }));
        let requests = settings.clone().for_deserialize().into_generator();
        Self { requests, answers: settings.for_serialize().into_generator() }
    }

    /// The schema of what a request has.
    pub fn request<T: JsonSchema>(&mut self) -> Schema {
        self.requests.subschema_for::<T>()
    }

    /// The schema of what an answer has.
    pub fn answer<T: JsonSchema>(&mut self) -> Schema {
        self.answers.subschema_for::<T>()
    }

    fn finish(mut self) -> Map<String, Value> {
        let mut all = self.requests.take_definitions(true);
        for (name, schema) in self.answers.take_definitions(true) {
            debug_assert!(
                all.get(&name).is_none_or(|other| *other == schema),
                "{name} is read otherwise than it is written: give the request a struct of its own"
            );
            all.insert(name, schema);
        }
        all
    }
}

fn build() -> Value {
    let mut schemas = Schemas::new();
    let mut paths = Map::new();
    for route in ROUTES {
        let mut methods = Map::new();
        for operation in route.operations {
            let method = operation.method.as_str().to_ascii_lowercase();
            methods.insert(method, build_operation(route, operation, &mut schemas));
        }
        paths.insert(route.path.to_owned(), Value::Object(methods));
    }
    let error = schemas.answer::<Envelope<'static>>();
    let tags: Vec<Value> =
        TAGS.iter().map(|(name, text)| json!({ "name": name, "description": text })).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Pillarbox",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": env!("CARGO_PKG_DESCRIPTION"),
            "description": CONVENTIONS,
            "license": { "name": env!("CARGO_PKG_LICENSE"), "identifier": env!("CARGO_PKG_LICENSE") },
        },
        "servers": [{ "url": "/", "description": "The server that serves this document." }],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": schemas.finish(),
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The secret of an API key: `pb_live_…` or `pb_test_…`.",
                },
            },
            "headers": headers::components(),
            "responses": {
                "Error": {
                    "description": "The request failed. The response says why and what to do.",
                    "headers": headers::of_refusal(),
                    "content": { "application/json": { "schema": error } },
                },
            },
        },
    })
}

fn build_operation(route: &Route, operation: &Operation, schemas: &mut Schemas) -> Value {
    let description = describe(operation.endpoint);
    let text = format!("{}\n\n{}", description.text, access_text(operation.access));
    let mut built = json!({
        "operationId": operation_id(route, operation),
        "tags": [description.tag],
        "summary": description.summary,
        "description": text.trim(),
        "security": security(operation.access),
        "parameters": parameters::of(route, operation, &description, schemas),
        "responses": {
            description.status.to_string(): {
                "description": description.gives_text,
                "headers": headers::of(route, operation),
                "content": contents(&description, schemas),
            },
            "default": { "$ref": "#/components/responses/Error" },
        },
    });
    if let Some(takes) = description.takes {
        let schema = takes(schemas);
        built["requestBody"] = json!({
            "description": "The body, in JSON.",
            "required": description.is_body_required,
            "content": { "application/json": { "schema": schema } },
        });
    }
    built
}

fn contents(description: &Description, schemas: &mut Schemas) -> Value {
    let of_media = |(media, schema): &(&str, describe::SchemaOf)| {
        ((*media).to_owned(), json!({ "schema": schema(schemas) }))
    };
    Value::Object(description.gives.iter().map(of_media).collect())
}

/// OpenAPI 3.1 §4.8.30: what a scheme other than OAuth lists are the roles that are needed.
fn security(access: Access) -> Value {
    match access {
        Access::Public => json!([]),
        Access::Platform => json!([{ "key": ["platform"] }]),
        Access::Scope(scope) => json!([{ "key": [scope] }]),
    }
}

fn access_text(access: Access) -> String {
    match access {
        Access::Public => "Requires no key.".to_owned(),
        Access::Platform => "Requires a platform key.".to_owned(),
        Access::Scope(scope) => format!("Requires a key with the scope `{scope}`."),
    }
}

/// The route that an endpoint is known by; its other routes are aliases.
fn main_route(endpoint: Endpoint) -> Option<&'static Route> {
    let has_it = |route: &&Route| route.operations.iter().any(|operation| operation.endpoint == endpoint);
    ROUTES.iter().filter(has_it).min_by_key(|route| route.path.len())
}

/// Whether an operation is another way to ask for one.
fn is_alias(route: &Route, operation: &Operation) -> bool {
    operation.method == Method::PUT
        || main_route(operation.endpoint).is_some_and(|main| main.path != route.path)
}

/// Like `create_domain`; unique.
fn operation_id(route: &Route, operation: &Operation) -> String {
    let mut id = String::new();
    for letter in format!("{:?}", operation.endpoint).chars() {
        if letter.is_ascii_uppercase() && !id.is_empty() {
            id.push('_');
        }
        id.push(letter.to_ascii_lowercase());
    }
    if main_route(operation.endpoint).is_some_and(|main| main.path != route.path) {
        id.push_str(if route.path.contains("{tenant_id}") { "_of_tenant" } else { "_alias" });
    }
    if operation.method == Method::PUT {
        id.push_str("_by_put");
    }
    id
}

#[cfg(test)]
mod tests;
