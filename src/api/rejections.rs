//! Refused submissions.

use std::net::IpAddr;

use serde::Serialize;

use crate::mail::{Environment, KeyId, RequestId, Stage, TenantId, Timestamp};
use crate::store::{Journal, Rejection};

use super::answer::Answer;
use super::call::Call;
use super::error::Result;
use super::page::List;

#[derive(Serialize)]
struct RejectionView {
    id: RequestId,
    object: &'static str,
    tenant_id: TenantId,
    key_id: Option<KeyId>,
    environment: Environment,
    stage: Stage,
    code: &'static str,
    message: String,
    client_address: Option<IpAddr>,
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

/// `GET /v1/rejections`
pub async fn list(mut call: Call<'_>) -> Result<Answer> {
    let scope = call.listed_tenant().await?;
    let request = call.query.page::<RequestId>();
    call.query.finish()?;
    let page = call.store().list_rejections(scope, request.clone()).await?;
    Answer::ok(&List::page(page, &request, |rejection| rejection.id.to_string(), RejectionView::from))
}
