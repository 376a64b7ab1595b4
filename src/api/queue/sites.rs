//! The sites with connections, waiting deliveries or a back-off.

use schemars::JsonSchema;
use serde::Serialize;

use crate::api::{ApiResponse, List, RequestContext, Result};
use crate::mail::Timestamp;
use crate::model::TenantId;
use crate::queue::wait_reasons::SiteStatus;

/// A destination site: a set of mail hosts that serves one or more domains, or a smart host.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Site")]
pub struct SiteView {
    /// Always `site`.
    #[schemars(extend("const" = "site"))]
    object: &'static str,
    /// The mail hosts in short form, or the smart host.
    name: String,
    /// Tenant of the smart host or sandbox; `null` if all tenants share the site.
    tenant_id: Option<TenantId>,
    /// Known domains of the site, at most 100.
    domains: Vec<String>,
    /// Current connection limit. It grows while deliveries succeed.
    connections_max: usize,
    /// Open connections.
    connections: usize,
    /// Deliveries that wait for a connection.
    waiting: usize,
    /// End of the back-off.
    backoff_until: Option<Timestamp>,
    /// Reason of the back-off: the SMTP reply or the error.
    reason: Option<String>,
}

impl From<SiteStatus> for SiteView {
    fn from(site: SiteStatus) -> Self {
        Self {
            object: "site",
            name: site.name,
            tenant_id: site.tenant_id,
            domains: site.domains,
            connections_max: site.connections_max,
            connections: site.connections,
            waiting: site.waiting,
            backoff_until: site.backoff_until,
            reason: site.reason,
        }
    }
}

pub(super) async fn list(call: RequestContext) -> Result<ApiResponse> {
    let sites = call.api.queue.snapshot(call.now).sites;
    ApiResponse::ok(&List::whole(sites.into_iter().map(SiteView::from).collect()))
}
