//! Refused submissions.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::Serialize;

use crate::mail::Timestamp;
use crate::model::{Environment, KeyId, RefusalCode, RequestId, Scope, Stage, TenantId};
use crate::store::{Journal, Rejection, RejectionFilter};

use super::{Access, ApiError, ApiResponse, List, Operation, RequestContext, Resource, Result};

/// The operations of rejections.
pub fn resource() -> Resource {
    let text = "Submissions that the server refused, over SMTP or HTTP.";
    Resource::new("Rejections", text, Access::Scope(Scope::EmailsRead))
        .id::<RequestId>("The reference of the refusal: the id of the request, or the one in the SMTP reply.")
        .operations([
            Operation::get("/v1/rejections", "list_rejections", list)
                .summary("List refused submissions")
                .tenant_filter()
                .environment_filter()
                .pages::<RequestId, RejectionView>("Rejections."),
            Operation::get("/v1/rejections/{id}", "get_rejection", get)
                .summary("Get a refused submission by its reference")
                .returns::<RejectionView>("The rejection."),
        ])
}

/// A refused submission.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Rejection")]
pub struct RejectionView {
    /// The id of the request or session.
    id: RequestId,
    /// Always `rejection`.
    #[schemars(extend("const" = "rejection"))]
    object: &'static str,
    /// The tenant.
    tenant_id: TenantId,
    /// The key that was used.
    key_id: Option<KeyId>,
    /// Environment of the key: `live` or `test`.
    environment: Environment,
    /// Stage of the refusal.
    stage: Stage,
    /// The stable code of the refusal.
    #[schemars(with = "RefusalCode")]
    code: &'static str,
    /// The refusal message.
    message: String,
    /// Client address.
    client_address: Option<IpAddr>,
    /// Time of the refusal.
    created_at: Timestamp,
}

impl From<Rejection> for RejectionView {
    fn from(rejection: Rejection) -> Self {
        Self {
            id: rejection.id,
            object: "rejection",
            tenant_id: rejection.tenant_id,
            key_id: rejection.key_id,
            environment: rejection.environment,
            stage: rejection.stage,
            code: rejection.code.as_str(),
            message: rejection.message,
            client_address: rejection.client_address,
            created_at: rejection.created_at,
        }
    }
}

async fn list(mut call: RequestContext) -> Result<ApiResponse> {
    let tenant_id = call.listed_tenant().await?;
    let filter = RejectionFilter { tenant_id, environment: call.listed_environment() };
    let request = call.query.page::<RequestId>();
    call.query.finish()?;
    let page = call.store().list_rejections(filter, request.clone()).await?;
    ApiResponse::ok(&List::page(page, &request, |rejection| rejection.id.to_string(), RejectionView::from))
}

async fn get(call: RequestContext) -> Result<ApiResponse> {
    let found = call.store().rejection(call.scope(), call.id("rejection")?).await?;
    let found = found.filter(|rejection| call.caller.sees(rejection.environment));
    ApiResponse::ok(&RejectionView::from(found.ok_or_else(|| ApiError::not_found("rejection"))?))
}
