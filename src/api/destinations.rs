//! How mail to a domain would be sent.

use std::time::Duration;

use crate::doctor::Destination;
use crate::mail::DomainName;
use crate::model::{RefusalCode, TenantId};

use super::{Access, ApiError, ApiResponse, Operation, RequestContext, Resource, Result};

/// The time for look-ups and probes.
const EXAMINE_TIMEOUT: Duration = Duration::from_secs(60);

/// The operations of destinations.
pub fn resource() -> Resource {
    let text = "How mail to a domain would be sent now.";
    Resource::new("Destinations", text, Access::Platform).live_only().operations([
        Operation::get("/v1/destinations/{id}", "examine_destination", examine)
            .id::<DomainName>("The domain of recipients.")
            .describe("Explain how mail to a domain would be sent", "The route and why, source addresses, limits of the site, hosts with their addresses, and the TLS that each must offer, decided by the code that sends mail. No mail is sent.")
            .query::<TenantId>("tenant_id", "The tenant that sends. Default: one without a smart host and a source pool of its own.")
            .query::<bool>("probe", "Whether to connect to each host, up to where a message would begin.")
            .takes_long()
            .returns::<Destination>("The route, the hosts and their TLS."),
    ])
}

async fn examine(mut call: RequestContext) -> Result<ApiResponse> {
    let tenant: Option<TenantId> = call.query.value("tenant_id");
    let probe = call.query.value("probe").unwrap_or(false);
    call.query.finish()?;
    let domain = DomainName::parse(call.id.as_deref().unwrap_or_default())
        .map_err(|error| ApiError::field("id", "invalid", format!("not a domain: {error}")))?;
    let _permit = call.api.lookups.acquire(call.scope()).await.map_err(ApiError::internal)?;
    let planner = call.api.doctor.planner().ok_or_else(|| ApiError::internal("no relay is built"))?;
    let explained = tokio::time::timeout(EXAMINE_TIMEOUT, planner.explain(tenant, &domain, probe)).await;
    let destination = explained.map_err(|_| slow(&domain))??;
    ApiResponse::ok(&destination.ok_or_else(|| ApiError::not_found("active tenant"))?)
}

fn slow(domain: &DomainName) -> ApiError {
    ApiError::new(
        RefusalCode::Overloaded,
        format!("the name servers or hosts of {domain} are slow"),
        "try again; without `probe` it takes less time",
    )
}
