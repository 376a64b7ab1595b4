//! Liveness and readiness probes.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use crate::model::RefusalCode;
use crate::store::{Journal, Store, StoreError};

use super::error::{ApiError, Result};
use super::response::ApiResponse;

/// How long the store may take before it counts as down.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// How the server is.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Health")]
pub struct Health {
    /// `ok` or `ready`.
    status: &'static str,
}

/// The process runs and answers.
pub fn alive() -> Result<ApiResponse> {
    ApiResponse::ok(&Health { status: "ok" })
}

/// The process can do its work: mail can be stored, and nothing is stopping it.
pub async fn ready(store: &Store, is_stopping: bool) -> Result<ApiResponse> {
    if is_stopping {
        return Err(ApiError::new(
            RefusalCode::ShuttingDown,
            "the server is stopping",
            "send requests to another server, or wait until this one is back",
        ));
    }
    match tokio::time::timeout(PROBE_TIMEOUT, store.probe()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(not_ready(error)),
        Err(_) => {
            return Err(ApiError::new(
                RefusalCode::StorageUnavailable,
                format!("the store did not answer within {} seconds", PROBE_TIMEOUT.as_secs()),
                "check the load of the disk with the data directory",
            ));
        }
    }
    ApiResponse::ok(&Health { status: "ready" })
}

/// The refusal names the cause for the operator, and no path, because the endpoint needs no key.
fn not_ready(error: StoreError) -> ApiError {
    let message = format!("the server cannot store mail: {error}");
    let mut refused = ApiError::from(error);
    refused.refusal.message = message;
    refused
}
