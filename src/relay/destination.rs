//! Where a batch goes: the hosts of its lane, and those of their addresses that may be dialled.

use std::net::{IpAddr, SocketAddr};

use super::Core;
use super::ending::Ending;
use super::route::{Lane, SmartHostRoute};
use crate::dns::{DnsError, MailHosts};
use crate::mail::{DomainName, EnhancedStatus, Host};
use crate::network;

/// Where a lane leads.
pub struct Destination {
    /// In the order in which they are tried.
    pub hosts: Vec<String>,
    /// Of each of them.
    pub port: u16,
    /// The smart host, if it is one.
    pub route: Option<SmartHostRoute>,
    /// The domain of the recipients if its own mail hosts are meant.
    domain: Option<DomainName>,
}

/// Why there is no host, or no address.
pub enum Obstacle {
    /// Nobody takes mail for the destination, now or later.
    Final(Box<Ending>),
    /// Another time may do better.
    Passing(String),
}

impl Obstacle {
    fn refusal(code: u16, status: EnhancedStatus, text: impl Into<String>) -> Self {
        Self::Final(Box::new(Ending::unroutable(code, status, text)))
    }
}

impl Destination {
    /// Finds the hosts of a lane.
    ///
    /// # Errors
    /// What is in the way.
    pub async fn find(core: &Core, lane: &Lane, destination: &Host) -> Result<Self, Obstacle> {
        let relay = &core.settings;
        let smart_host = core.router.smart_host(lane).await;
        let smart_host =
            smart_host.map_err(|error| Obstacle::Passing(format!("the smart host's password: {error}")))?;
        if let Some(route) = smart_host {
            let (hosts, port) = (vec![route.host.clone()], route.port);
            return Ok(Self { hosts, port, route: Some(route), domain: None });
        }
        let port = relay.port;
        match destination {
            Host::Domain(domain) => {
                let hosts = mail_hosts(core, domain).await?;
                Ok(Self { hosts, port, route: None, domain: Some(domain.clone()) })
            }
            Host::Literal(ip)
                if relay.allowed_private_networks.iter().any(|network| network.contains(ip)) =>
            {
                Ok(Self { hosts: vec![ip.to_string()], port, route: None, domain: None })
            }
            Host::Literal(_) => {
                let text = "mail to address literals is not relayed";
                Err(Obstacle::refusal(550, EnhancedStatus::new(5, 1, 2), text))
            }
        }
    }

    /// The addresses of a host that may be dialled; at least one.
    ///
    /// # Errors
    /// What is in the way.
    pub async fn addresses_of(&self, core: &Core, host: &str) -> Result<Vec<SocketAddr>, Obstacle> {
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
                    Obstacle::Passing(format!("addresses of {host}: {error}"))
                });
            }
        };
        let relay = &core.settings;
        let trusted = self.route.as_ref().is_some_and(|route| route.trusted);
        let permitted = |ip: &IpAddr| trusted || network::is_permitted(*ip, &relay.allowed_private_networks);
        let same_family =
            |ip: &IpAddr| relay.source_address.is_none_or(|source| source.is_ipv4() == ip.is_ipv4());
        let usable: Vec<SocketAddr> = found
            .iter()
            .filter(|ip| permitted(ip) && same_family(ip))
            .map(|ip| SocketAddr::new(*ip, self.port))
            .collect();
        if usable.is_empty() {
            return Err(Obstacle::Passing(match found.iter().find(|ip| !permitted(ip)) {
                Some(ip) => {
                    format!("{host} is at {ip}, a private address that the configuration does not allow")
                }
                None => format!("{host} has no address of the family of our source address"),
            }));
        }
        Ok(usable)
    }
}

async fn mail_hosts(core: &Core, domain: &DomainName) -> Result<Vec<String>, Obstacle> {
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
        Err(error) => Err(Obstacle::Passing(format!("MX of {domain}: {error}"))),
    }
}
