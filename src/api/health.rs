//! The server: liveness and readiness probes, the OpenAPI document and the guide.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use schemars::JsonSchema;
use serde::Serialize;

use crate::model::RefusalCode;
use crate::store::{Journal, StoreError};

use super::request_context::Origin;
use super::{Access, Api, ApiError, ApiResponse, Operation, Resource, Result, docs, openapi};

/// Timeout of the test write to the store.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// The operations of the server. They need no key.
pub fn resource() -> Resource {
    type Document = serde_json::Map<String, serde_json::Value>;
    Resource::new("Server", "Health checks and documentation.", Access::Public)
        .operations([
            Operation::public("/healthz", "alive", alive)
                .summary("Liveness")
                .returns::<Health>("The server runs."),
            Operation::public("/readyz", "ready", ready)
                .describe("Readiness", "Ready if the server can store mail and is not shutting down. A test write checks the store, at most once a second.")
                .returns::<Health>("The server is ready."),
            Operation::public("/openapi.json", "document", openapi::document)
                .summary("This document")
                .query::<bool>(openapi::ALIASES, "Whether it has aliases: other paths of an operation, and PUT in place of PATCH. Default: `true`.")
                .returns::<Document>("The API in OpenAPI 3.1."),
            Operation::public("/docs", "docs", openapi::page)
                .summary("This document as an HTML page")
                .returns_octets("text/html", "The API reference."),
            Operation::public("/docs/{id}", "docs_page", docs::page)
                .describe("Page of the guide", "`GET /docs` lists the pages.")
                .id::<String>("The name of the page, such as `errors`.")
                .returns_octets("text/html", "The page."),
            Operation::public("/docs/page.css", "docs_style", docs::style_sheet)
                .summary("Style sheet of the guide")
                .returns_octets("text/css", "The style sheet."),
        ])
}

/// The health of the server.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Health")]
pub struct Health {
    /// `ok` or `ready`.
    status: &'static str,
}

/// The process handles requests.
async fn alive() -> Result<ApiResponse> {
    ApiResponse::ok(&Health { status: "ok" })
}

/// The server can store mail and is not shutting down.
async fn ready(State(api): State<Arc<Api>>, Extension(origin): Extension<Origin>) -> Result<ApiResponse> {
    if origin.tasks.stop.is_cancelled() {
        return Err(ApiError::new(
            RefusalCode::ShuttingDown,
            "the server is stopping",
            "send requests to another server, or wait until this one is back",
        ));
    }
    match tokio::time::timeout(PROBE_TIMEOUT, api.store.probe()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(not_ready(error)),
        Err(_) => {
            return Err(ApiError::new(
                RefusalCode::StorageUnavailable,
                format!("the store did not respond within {} seconds", PROBE_TIMEOUT.as_secs()),
                "check the load of the disk with the data directory",
            ));
        }
    }
    ApiResponse::ok(&Health { status: "ready" })
}

/// The refusal states the cause for the operator. It contains no path, because the operation needs no key.
fn not_ready(error: StoreError) -> ApiError {
    let message = format!("the server cannot store mail: {error}");
    let mut refused = ApiError::from(error);
    refused.refusal.message = message;
    refused
}
