//! The last backup.

use schemars::JsonSchema;
use serde::Serialize;

use super::queue::RestorationView;
use super::{Access, ApiError, ApiResponse, Operation, RequestContext, Resource, Result};
use crate::archive::LastBackup;
use crate::mail::Timestamp;
use crate::store::Queue;

/// The operation.
pub fn resource() -> Resource {
    let text = "The last backup of the server. `pillarbox backup` makes them on the machine itself.";
    Resource::new("Backup", text, Access::Platform).live_only().operations([
        Operation::get("/v1/backup", "show_backup", show)
            .describe("Show the last backup", "When it was made, and whether the server was restored from one whose deliveries still wait: `POST /v1/queue/resume` with `restored` releases them.")
            .returns::<BackupView>("The last backup."),
    ])
}

/// The last backup.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Backup")]
pub struct BackupView {
    /// Always `backup`.
    #[schemars(extend("const" = "backup"))]
    object: &'static str,
    /// The time of its contents; `null` if there was none.
    taken_at: Option<Timestamp>,
    /// Seconds since then.
    age_seconds: Option<u64>,
    /// Where it was written; `-` for the standard output.
    path: Option<String>,
    /// Its octets.
    octets: Option<u64>,
    /// The backup that the server was restored from, while its deliveries wait.
    restoration: Option<RestorationView>,
}

async fn show(call: RequestContext) -> Result<ApiResponse> {
    let data_dir = call.api.data_dir.clone();
    let read = tokio::task::spawn_blocking(move || LastBackup::read(&data_dir)).await;
    let last = read.map_err(ApiError::internal)?.map_err(ApiError::internal)?;
    let restoration = call.store().restoration().await?;
    ApiResponse::ok(&BackupView {
        object: "backup",
        taken_at: last.as_ref().map(|last| last.taken_at),
        age_seconds: last.as_ref().map(|last| last.age(call.now).as_secs().unsigned_abs()),
        octets: last.as_ref().map(|last| last.octets),
        path: last.map(|last| last.path),
        restoration: restoration.map(RestorationView::from),
    })
}
