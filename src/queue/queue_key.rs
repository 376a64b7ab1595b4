//! Where a batch goes, as the relay's routes decide it, and what limits and connections belong to.

use std::sync::Arc;

use super::site::Site;
use crate::model::{TenantId, Weight};
use crate::store::SmartHost;

/// A source pool of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SourcePoolId(pub usize);

/// Identifies a destination queue, which has its own connections and limits. Mail of two of them never shares a connection,
/// so a tenant's account never carries another's mail, and no mail leaves from another tenant's source address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct QueueKey {
    /// Where the mail goes.
    pub next_hop: NextHop,
    /// The source pool; `None` if the tenant's pool is not in the configuration (any more).
    pub sources: Option<SourcePoolId>,
}

impl QueueKey {
    /// The site, unless the hosts are those of a route or a tenant.
    pub fn site(&self) -> Option<&Arc<Site>> {
        match &self.next_hop {
            NextHop::Mx(site, _) => Some(site),
            NextHop::Sandbox(_) | NextHop::Hosts(_) | NextHop::TenantSmartHost(..) => None,
        }
    }
}

/// Where the mail of a queue goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum NextHop {
    /// Nowhere: the sandbox answers mail of the test environment.
    Sandbox(TenantId),
    /// The mail hosts of a site, with the settings of a route.
    Mx(Arc<Site>, RouteId),
    /// The hosts of a route.
    Hosts(RouteId),
    /// A tenant's own smart host with its account.
    TenantSmartHost(TenantId, Arc<SmartHost>),
}

/// A route of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RouteId(pub usize);

/// The route of a batch.
#[derive(Debug, Clone)]
pub struct Routed {
    /// Its queue, or how to find it.
    pub decision: RouteDecision,
    /// The tenant's weight in the fair queue.
    pub weight: Weight,
}

/// The queue of a batch, as far as it is known without the DNS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteDecision {
    /// This queue, whatever the destination's MX.
    Known(QueueKey),
    /// The queue of the destination's site.
    Mx(MxRoute),
}

/// The route and source pool for mail to a site that is still to be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MxRoute {
    /// The route.
    pub route: RouteId,
    /// The source pool; as in [`QueueKey`].
    pub sources: Option<SourcePoolId>,
}

impl MxRoute {
    /// The queue for a site.
    pub fn queue_to(self, site: Arc<Site>) -> QueueKey {
        QueueKey { next_hop: NextHop::Mx(site, self.route), sources: self.sources }
    }
}

impl std::fmt::Display for RouteId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "route {} of the configuration", self.0 + 1)
    }
}
