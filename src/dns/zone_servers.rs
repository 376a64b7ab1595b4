//! What the name servers of a zone have now. A resolver may still have an earlier answer, such as that there is no record
//! (RFC 2308).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::proto::rr::{RData, RecordType};

use super::{DnsError, Resolver, configuration_for, default_options, host_text};

/// Name servers of a zone whose addresses are looked up, and addresses that are asked.
const SERVERS_MAX: usize = 4;
/// Time for one query.
const QUERY_TIMEOUT: Duration = Duration::from_millis(1500);
/// Time for the name servers, their addresses and their answer.
const TIMEOUT: Duration = Duration::from_secs(3);

impl Resolver {
    /// The TXT records of a name, as the name servers of its zone have them. Only permitted addresses are asked, because the
    /// zone names them.
    ///
    /// # Errors
    /// [`DnsError`]; [`DnsError::Temporary`] if no name server of the zone answers.
    pub async fn texts_of_zone(
        &self,
        name: &str,
        port: u16,
        is_permitted: impl Fn(IpAddr) -> bool,
    ) -> Result<Vec<String>, DnsError> {
        let asked = async {
            let mut servers = Vec::new();
            for host in self.zone_servers(name).await?.into_iter().take(SERVERS_MAX) {
                let found = self.addresses(&host).await.unwrap_or_default();
                servers.extend(
                    found.into_iter().filter(|ip| is_permitted(*ip)).map(|ip| SocketAddr::new(ip, port)),
                );
            }
            if servers.is_empty() {
                return Err(DnsError::Temporary("no address of a name server may be asked".into()));
            }
            servers.truncate(SERVERS_MAX);
            let mut options = default_options();
            options.recursion_desired = false;
            // Attempts after the first.
            options.attempts = 0;
            // The timeout is that of all servers together, so none waits for another. A truncated answer may be lost beside
            // a silent server; then only a hint is missing.
            options.num_concurrent_reqs = SERVERS_MAX;
            options.timeout = QUERY_TIMEOUT;
            Self::with(&configuration_for(&servers), &options, 0, self.rng.clone())?.texts(name).await
        };
        let timeout = |_| Err(DnsError::Temporary("timeout".into()));
        tokio::time::timeout(TIMEOUT, asked).await.unwrap_or_else(timeout)
    }

    /// The name servers of the closest zone at or above a name, but not of a top-level domain.
    async fn zone_servers(&self, name: &str) -> Result<Vec<String>, DnsError> {
        let mut zone = name;
        loop {
            let servers = self.lookup(zone, RecordType::NS, |data| match data {
                RData::NS(server) => Some(host_text(&server.0)),
                _ => None,
            });
            match (servers.await, zone.split_once('.')) {
                (Err(DnsError::NoSuchDomain | DnsError::NoRecords), Some((_, above)))
                    if above.contains('.') =>
                {
                    zone = above;
                }
                (servers, _) => return servers,
            }
        }
    }
}
