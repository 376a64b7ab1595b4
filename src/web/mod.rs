//! The public web pages, which recipients open from their mail: only unsubscribe links. They have a listener of their own,
//! because the API is private.
//!
//! * `server` accepts connections,
//! * `handler` answers requests; `form` reads the body of a POST, `page` renders the response,
//! * `client_address` finds the client behind a proxy.

mod client_address;
pub mod form;
mod handler;
mod page;
mod server;

use std::net::IpAddr;
use std::sync::Arc;

use crate::clock::Clock;
use crate::config::Public;
use crate::limits::connection_limiter::{ConnectionLimiter, ConnectionSlot, LimitReached, Limits};
use crate::limits::network_limiter::NetworkLimiter;
use crate::tls::SharedServerConfig;
use crate::unsubscribe::UnsubscribeService;

/// One client that is no trusted proxy has at most this share of the connections.
const ADDRESS_SHARE: usize = 4;
/// Pages that a network may open in a minute, and requests without a valid link.
const VISITS_PER_MINUTE_MAX: u32 = 30;
/// How often a network may unsubscribe in a minute. A few hosts of a mail provider do so for all of its users.
const UNSUBSCRIBES_PER_MINUTE_MAX: u32 = 600;

/// Serves the public pages.
pub struct PublicWeb {
    unsubscribe: UnsubscribeService,
    settings: Public,
    tls: Option<SharedServerConfig>,
    connections: Arc<ConnectionLimiter>,
    clock: Clock,
    visits: NetworkLimiter,
    unsubscribes: NetworkLimiter,
}

impl PublicWeb {
    /// Without connections. `tls` is the certificate, if the listeners use TLS.
    pub fn new(
        unsubscribe: UnsubscribeService,
        settings: Public,
        tls: Option<SharedServerConfig>,
        clock: Clock,
    ) -> Arc<Self> {
        let limits = Limits {
            total_max: settings.connections_max,
            per_address_max: settings.connections_max.div_ceil(ADDRESS_SHARE),
            per_tenant_max: usize::MAX,
        };
        let connections = ConnectionLimiter::new(limits);
        Arc::new(Self {
            unsubscribe,
            settings,
            tls,
            connections,
            clock,
            visits: NetworkLimiter::new(VISITS_PER_MINUTE_MAX),
            unsubscribes: NetworkLimiter::new(UNSUBSCRIBES_PER_MINUTE_MAX),
        })
    }

    /// The open connections.
    pub fn connections(&self) -> Arc<ConnectionLimiter> {
        self.connections.clone()
    }

    /// Reserves a slot for a connection. A proxy has the connections of many clients.
    fn admit(&self, peer: IpAddr) -> Result<ConnectionSlot, LimitReached> {
        let mut slot = self.connections.admit()?;
        if !client_address::is_trusted(&self.settings.trusted_proxies, peer) {
            slot.set_address(peer)?;
        }
        Ok(slot)
    }
}
