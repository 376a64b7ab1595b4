//! Temporary bans from SMTP authentication after too many failed logins.

use schemars::JsonSchema;
use serde::Serialize;

use crate::limits::auth_limiter::{Ban, BanChange, BanSubject};
use crate::mail::Timestamp;
use crate::model::KeyId;
use crate::store::Spool;

use super::{Access, ApiError, ApiResponse, Deleted, List, Operation, RequestContext, Resource, Result};

/// The operations of bans.
pub fn resource() -> Resource {
    let text = "Networks and keys that may not log in over SMTP for a while, after too many failed logins.";
    Resource::new("Bans", text, Access::Platform)
        .id::<String>("An IP address, or the id of a key. Any address of a banned network selects the ban.")
        .operations([
            Operation::get("/v1/bans", "list_bans", list)
                .summary("List bans")
                .returns::<List<BanView>>("All bans."),
            Operation::delete("/v1/bans/{id}", "lift_ban", lift)
                .summary("Lift a ban")
                .returns::<Deleted>("Deleted."),
        ])
}

/// A temporary ban from SMTP authentication.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Ban")]
pub struct BanView {
    /// Id to lift the ban: the address, the first address of the network, or the id of the key.
    id: String,
    /// Always `ban`.
    #[schemars(extend("const" = "ban"))]
    object: &'static str,
    /// The banned network; `null` if a key is banned.
    network: Option<String>,
    /// The banned key; `null` if a network is banned.
    key_id: Option<KeyId>,
    /// Failed logins.
    failures: u32,
    /// Start time.
    created_at: Timestamp,
    /// End time.
    expires_at: Timestamp,
}

impl From<Ban> for BanView {
    fn from(ban: Ban) -> Self {
        let (network, key_id) = match ban.subject {
            BanSubject::Network(network) => (Some(network.to_string()), None),
            BanSubject::Key(id) => (None, Some(id)),
        };
        Self {
            id: ban.subject.to_string(),
            object: "ban",
            network,
            key_id,
            failures: ban.failures,
            created_at: ban.since,
            expires_at: ban.until,
        }
    }
}

async fn list(call: RequestContext) -> Result<ApiResponse> {
    let bans = call.api.bans.list(call.now);
    ApiResponse::ok(&List::whole(bans.into_iter().map(BanView::from).collect()))
}

/// `DELETE /v1/bans/{id}`.
async fn lift(call: RequestContext) -> Result<ApiResponse> {
    let subject = call.id.as_deref().and_then(BanSubject::parse).ok_or_else(|| ApiError::not_found("ban"))?;
    if !call.api.bans.lift(subject, call.now) {
        return Err(ApiError::not_found("ban"));
    }
    call.api.store.announce_ban(BanChange { subject, until: None }).await?;
    ApiResponse::deleted("ban", subject)
}
