//! Where a batch goes, as the relay's routes decide it, and what limits and connections belong to.

use std::sync::Arc;

use super::site::Site;
use crate::model::{TenantId, Weight};
use crate::store::SmartHost;

/// One of the configuration's pools of source addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PoolId(pub usize);

/// What connections, limits and idle connections belong to: mail of two lanes never shares a connection, so no
/// tenant's account ever carries another's mail, and none leaves from a source that is not its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct QueueKey {
    /// Where to.
    pub way: NextHop,
    /// Where from; `None` if the tenant's pool is not in the configuration (any more).
    pub sources: Option<PoolId>,
}

/// Where mail goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum NextHop {
    /// Mail of the test environment, which stays here.
    Sandbox(TenantId),
    /// The hosts that take mail for some domains, spoken to as a route says.
    Mx(Arc<Site>, RouteId),
    /// The hosts that a route names.
    Hosts(RouteId),
    /// A tenant's own smart host with its account.
    TenantSmartHost(TenantId, Arc<SmartHost>),
}

/// A route of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RouteId(pub usize);

/// Where a batch goes.
#[derive(Debug, Clone)]
pub struct Routed {
    /// How.
    pub course: RouteDecision,
    /// Its tenant's weight among others.
    pub weight: Weight,
}

/// How a batch gets to its destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteDecision {
    /// Over this lane, wherever it goes.
    Known(QueueKey),
    /// Over the lane of its destination's site.
    Mx(MxRoute),
}

/// How mail is sent to the hosts of a site, whichever it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MxRoute {
    /// Which route of the configuration says how.
    pub route: RouteId,
    /// Where from; as in [`QueueKey`].
    pub sources: Option<PoolId>,
}

impl MxRoute {
    /// The lane at a site.
    pub fn lane_to(self, site: Arc<Site>) -> QueueKey {
        QueueKey { way: NextHop::Mx(site, self.route), sources: self.sources }
    }
}

impl std::fmt::Display for RouteId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "route {} of the configuration", self.0 + 1)
    }
}
