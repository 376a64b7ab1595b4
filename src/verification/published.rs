//! Records that the name servers of a domain have already, though resolvers do not give them yet.

use futures_util::future::join_all;
use ipnet::IpNet;

use super::decision::RecordLookup;
use super::records::{Purpose, check_texts};
use crate::dns::Resolver;
use crate::egress_guard;
use crate::store::{RecordCheck, RecordStatus};

/// How the name servers of domains are asked.
#[derive(Debug, Clone)]
pub struct ZoneServers {
    /// Their port.
    pub port: u16,
    /// Networks that they may be in, besides public ones.
    pub allowed_private_networks: Vec<IpNet>,
}

impl Default for ZoneServers {
    fn default() -> Self {
        Self { port: 53, allowed_private_networks: Vec::new() }
    }
}

impl ZoneServers {
    /// Asks about each record that is missing or different, and marks those that are published. SPF policies and return
    /// hosts depend on other names, so nothing is said about them.
    pub(super) async fn mark_published(
        &self,
        resolver: &Resolver,
        lookups: &[RecordLookup],
        checks: &mut [RecordCheck],
    ) {
        let is_asked = |lookup: &RecordLookup, check: &RecordCheck| {
            let has_own_text =
                matches!(lookup.record.purpose, Purpose::Ownership | Purpose::Dkim | Purpose::Dmarc);
            has_own_text && lookup.texts.is_some() && check.status != RecordStatus::Ok
        };
        let wrong = lookups.iter().zip(checks).filter(|(lookup, check)| is_asked(lookup, check));
        let marked = wrong.map(|(lookup, check)| async move {
            let is_permitted = |ip| egress_guard::is_permitted(ip, &self.allowed_private_networks);
            let texts = resolver.texts_of_zone(&lookup.record.name, self.port, is_permitted).await;
            check.is_published =
                texts.is_ok_and(|texts| check_texts(&lookup.record, &texts, false).0 == RecordStatus::Ok);
        });
        join_all(marked).await;
    }
}
