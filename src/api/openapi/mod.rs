//! The OpenAPI 3.1 document and its HTML page. Operations come from their registration, schemas from the request and
//! response structs, and descriptions of fields from their doc comments. `manual` renders the page.

pub mod headers;
mod manual;

use std::sync::LazyLock;

use axum::extract::RawQuery;
use hyper::Method;
use schemars::Schema;
use serde_json::{Map, Value, json};

use super::RESOURCES;
use super::content::{HTML, JSON, StaticContent};
use super::error::{Envelope, Result};
use super::layers::auth::Access;
use super::operation::{Operation, Parameter, Resource, Route};
use super::page::Query;
use super::response::ApiResponse;
use super::schema::Schemas;
use crate::model::TenantId;

/// The conventions of all operations.
const CONVENTIONS: &str = include_str!("conventions.md");
/// The query parameter of the document.
pub const ALIASES: &str = "aliases";
/// Marks an operation that duplicates the one with this `operationId`.
const ALIAS_OF: &str = "x-alias-of";

static DOCUMENT: LazyLock<Value> = LazyLock::new(build);
static DOCUMENT_RESPONSE: LazyLock<Result<StaticContent>> =
    LazyLock::new(|| StaticContent::new(JSON, DOCUMENT.to_string()));
static MAIN_RESPONSE: LazyLock<Result<StaticContent>> =
    LazyLock::new(|| StaticContent::new(JSON, without_aliases(&DOCUMENT).to_string()));
static PAGE_RESPONSE: LazyLock<Result<StaticContent>> =
    LazyLock::new(|| manual::render(&DOCUMENT).and_then(|html| StaticContent::new(HTML, html)));

/// `GET /openapi.json`.
pub async fn document(RawQuery(query): RawQuery) -> Result<ApiResponse> {
    let mut query = Query::parse(&query.unwrap_or_default(), |name| name == ALIASES);
    let response = match query.value(ALIASES).unwrap_or(true) {
        true => &DOCUMENT_RESPONSE,
        false => &MAIN_RESPONSE,
    };
    query.finish()?;
    response.as_ref().map(ApiResponse::fixed).map_err(Clone::clone)
}

pub async fn page() -> Result<ApiResponse> {
    PAGE_RESPONSE.as_ref().map(ApiResponse::fixed).map_err(Clone::clone)
}

fn build() -> Value {
    let mut schemas = Schemas::new();
    let mut paths = Map::new();
    for (resource, route) in RESOURCES.iter().flat_map(|one| one.routes.iter().map(move |route| (one, route)))
    {
        let methods: Map<_, _> = route
            .operations
            .iter()
            .map(|operation| {
                let method = operation.method.as_str().to_ascii_lowercase();
                (method, build_operation(resource, route, operation, &mut schemas))
            })
            .collect();
        paths.insert(route.path.to_owned(), Value::Object(methods));
    }
    let error = schemas.response::<Envelope<'static>>();
    let tags: Vec<Value> =
        RESOURCES.iter().map(|one| json!({ "name": one.name, "description": one.text })).collect();
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
                    "description": "The request failed. The response states the reason and a remedy.",
                    "headers": headers::of_error(),
                    "content": { "application/json": { "schema": error } },
                },
            },
        },
    })
}

/// The document with each operation once. Every generator of clients makes a function for each operation.
fn without_aliases(document: &Value) -> Value {
    let mut document = document.clone();
    if let Some(paths) = document["paths"].as_object_mut() {
        for operations in paths.values_mut().filter_map(Value::as_object_mut) {
            operations.retain(|_, operation| operation.get(ALIAS_OF).is_none());
        }
        paths.retain(|_, operations| operations.as_object().is_some_and(|all| !all.is_empty()));
    }
    document
}

fn build_operation(
    resource: &Resource,
    route: &Route,
    operation: &Operation,
    schemas: &mut Schemas,
) -> Value {
    let mut text = format!("{}\n\n{}", operation.text, access_text(operation.access()));
    if operation.access() != Access::Public && !operation.admits_test_keys() {
        text += " The key must be a live key.";
    }
    let contents: Map<_, _> = operation
        .responses
        .iter()
        .map(|(media_type, schema)| ((*media_type).to_owned(), json!({ "schema": schema(schemas) })))
        .collect();
    let mut built = json!({
        "operationId": operation_id(route, operation),
        "tags": [resource.name],
        "summary": operation.summary,
        "description": text.trim(),
        "security": security(operation.access()),
        "parameters": parameters(route, operation, schemas),
        "responses": {
            operation.status.to_string(): {
                "description": operation.response_text,
                "headers": headers::of_success(route, operation),
                "content": contents,
            },
            "default": { "$ref": "#/components/responses/Error" },
        },
    });
    if is_alias(route, operation) {
        built["deprecated"] = json!(true);
        built[ALIAS_OF] = json!(operation.name);
    }
    if let Some(body) = operation.body {
        let example: Value = serde_json::from_str(body.example).unwrap_or_default();
        built["requestBody"] = json!({
            "description": "The request body in JSON.",
            "required": body.is_required,
            "content": { "application/json": { "schema": (body.schema)(schemas), "example": example } },
        });
    }
    built
}

/// Path parameters, query parameters and request headers.
fn parameters(route: &Route, operation: &Operation, schemas: &mut Schemas) -> Vec<Value> {
    const TENANT: Parameter =
        Parameter { name: "tenant_id", text: "The tenant.", schema: Schemas::request::<TenantId> };
    const PART: Parameter = Parameter {
        name: "part",
        text: "The number of the part, as in `parts`.",
        schema: Schemas::request::<u32>,
    };
    const IDEMPOTENCY_KEY: Parameter = Parameter {
        name: "Idempotency-Key",
        text: "Identifies the request. The server does not execute a repetition with the same key; it returns the stored response.",
        schema: idempotency_key,
    };
    let is_in_path = |name: &str| route.path.contains(&format!("{{{name}}}"));
    let ids = [Some(TENANT), operation.id, Some(PART)].into_iter().flatten().filter(|id| is_in_path(id.name));
    // An alias with `{tenant_id}` in its path has no query parameter `tenant_id`.
    let queries = operation.parameters.iter().copied().filter(|one| !is_in_path(one.name));
    // OpenAPI 3.1 §4.8.12.3: `deepObject` is `name[key]=value`.
    let mut maps = Vec::new();
    for Parameter { name, text, schema } in &operation.maps {
        maps.push(json!({
            "name": name, "in": "query", "description": text, "schema": schema(schemas),
            "style": "deepObject", "explode": true,
        }));
    }
    let key = operation.is_repeatable().then_some(IDEMPOTENCY_KEY);
    let headers = key.into_iter().chain(operation.headers.iter().copied());
    let all = ids.map(|one| ("path", one)).chain(queries.map(|one| ("query", one)));
    let all = all.chain(headers.map(|one| ("header", one)));
    all.map(|(location, Parameter { name, text, schema })| {
        let mut parameter =
            json!({ "name": name, "in": location, "description": text, "schema": schema(schemas) });
        if location == "path" {
            parameter["required"] = json!(true);
        }
        parameter
    })
    .chain(maps)
    .collect()
}

fn idempotency_key(_: &mut Schemas) -> Schema {
    schemars::json_schema!({ "type": "string", "minLength": 1, "maxLength": 255 })
}

/// OpenAPI 3.1 §4.8.30: for a scheme other than OAuth, the list contains the required roles.
fn security(access: Access) -> Value {
    match access {
        Access::Public => json!([]),
        Access::Key => json!([{ "key": [] }]),
        Access::Platform => json!([{ "key": ["platform"] }]),
        Access::Scope(scope) => json!([{ "key": [scope] }]),
    }
}

fn access_text(access: Access) -> String {
    match access {
        Access::Public => "Requires no key.".to_owned(),
        Access::Key => "Requires a key; no scope.".to_owned(),
        Access::Platform => "Requires a platform key.".to_owned(),
        Access::Scope(scope) => format!("Requires a key with the scope `{scope}`."),
    }
}

/// Whether the operation duplicates another one: under an alias, or as PUT.
fn is_alias(route: &Route, operation: &Operation) -> bool {
    operation.method == Method::PUT || route.is_alias()
}

/// Like `create_domain`; unique.
fn operation_id(route: &Route, operation: &Operation) -> String {
    let of_alias = match route.is_alias() {
        true if route.path.contains("{tenant_id}") => "_of_tenant",
        true => "_alias",
        false => "",
    };
    let by_put = if operation.method == Method::PUT { "_by_put" } else { "" };
    format!("{}{of_alias}{by_put}", operation.name)
}

#[cfg(test)]
mod tests;
