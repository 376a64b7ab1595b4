//! Where a batch goes: the hosts of its lane, and those of their addresses that may be dialled.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::RelayContext;
use super::happy_eyeballs::interleave;
use super::recipient_result::RecipientResult;
use super::route::Route;
use crate::config::Endpoint;
use crate::dns::{DnsError, MailHosts};
use crate::egress_guard;
use crate::mail::{DomainName, EnhancedStatus, Host};
use crate::model::BounceClass;
use crate::queue::NextHop;

/// Where a lane leads.
pub struct Destination {
    /// In the order in which they are tried.
    pub hosts: Vec<Endpoint>,
    /// How to speak to them.
    pub route: Arc<Route>,
    /// The domain of the recipients if its own mail hosts are meant.
    pub domain: Option<DomainName>,
}

/// Why there is no host, or no address.
pub enum Obstacle {
    /// Nobody takes mail for the destination, now or later.
    Final(Box<RecipientResult>),
    /// Another time may do better.
    Passing(BounceClass, String),
}

impl Obstacle {
    fn refusal(code: u16, status: EnhancedStatus, text: impl Into<String>) -> Self {
        Self::Final(Box::new(RecipientResult::unroutable(code, status, text)))
    }
}

impl Destination {
    /// Finds the hosts on a way.
    ///
    /// # Errors
    /// What is in the way.
    pub async fn find(core: &RelayContext, way: &NextHop, destination: &Host) -> Result<Self, Obstacle> {
        let relay = &core.settings;
        let route = core.router.route_of(way).await;
        let route = route.map_err(|error| {
            Obstacle::Passing(BounceClass::Temporary, format!("the smart host's password: {error}"))
        })?;
        if !route.hosts.is_empty() {
            return Ok(Self { hosts: route.hosts.clone(), route, domain: None });
        }
        let (hosts, domain) = match destination {
            Host::Domain(domain) => (mail_hosts(core, domain).await?, Some(domain.clone())),
            Host::Literal(ip)
                if relay.allowed_private_networks.iter().any(|network| network.contains(ip)) =>
            {
                (vec![ip.to_string()], None)
            }
            Host::Literal(_) => {
                let text = "mail to address literals is not relayed";
                return Err(Obstacle::refusal(550, EnhancedStatus::new(5, 1, 2), text));
            }
        };
        let hosts = hosts.into_iter().map(|host| Endpoint { host, port: relay.port }).collect();
        Ok(Self { hosts, route, domain })
    }

    /// The addresses of a host that may be dialled; at least one.
    ///
    /// # Errors
    /// What is in the way.
    pub async fn addresses_of(
        &self,
        core: &RelayContext,
        Endpoint { host, port }: &Endpoint,
    ) -> Result<Vec<SocketAddr>, Obstacle> {
        let found = match core.resolver.addresses(host).await {
            Ok(found) => found,
            Err(error) => {
                let gone = matches!(error, DnsError::NoRecords | DnsError::NoSuchDomain);
                // RFC 5321 §5.1: without an MX the domain's own address counts, and there is none.
                let own = self.domain.as_ref().is_some_and(|domain| domain.as_str() == host);
                return Err(if gone && own {
                    let text = format!("the domain {host} has neither mail hosts nor addresses");
                    Obstacle::refusal(550, EnhancedStatus::new(5, 4, 4), text)
                } else {
                    Obstacle::Passing(BounceClass::Dns, format!("addresses of {host}: {error}"))
                });
            }
        };
        let allowed = &core.settings.allowed_private_networks;
        let permitted = |ip: &IpAddr| self.route.trusted || egress_guard::is_permitted(*ip, allowed);
        let usable: Vec<SocketAddr> =
            found.iter().filter(|ip| permitted(ip)).map(|ip| SocketAddr::new(*ip, *port)).collect();
        match found.first() {
            Some(ip) if usable.is_empty() => Err(Obstacle::Passing(
                BounceClass::Network,
                format!("{host} is at {ip}, a private address that the configuration does not allow"),
            )),
            _ => Ok(interleave(&usable)),
        }
    }
}

async fn mail_hosts(core: &RelayContext, domain: &DomainName) -> Result<Vec<String>, Obstacle> {
    match core.resolver.mail_hosts(domain).await {
        Ok(MailHosts::Hosts(hosts)) => Ok(hosts),
        Ok(MailHosts::NullMx) => {
            let text = format!("{domain} takes no mail: it has a null MX");
            Err(Obstacle::refusal(556, EnhancedStatus::new(5, 1, 10), text))
        }
        Err(DnsError::NoSuchDomain) => {
            let text = format!("the domain {domain} does not exist");
            Err(Obstacle::refusal(550, EnhancedStatus::new(5, 1, 2), text))
        }
        Err(error) => Err(Obstacle::Passing(BounceClass::Dns, format!("MX of {domain}: {error}"))),
    }
}
