//! The hosts that accept the mail of a batch, and the addresses of each that may be dialled.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use super::happy_eyeballs::interleave;
use super::recipient_result::RecipientResult;
use super::route::{Route, Router};
use crate::config::Endpoint;
use crate::dns::{DnsError, MailHosts, Resolver};
use crate::egress_guard;
use crate::mail::{DomainName, EnhancedStatus, Host};
use crate::model::BounceClass;
use crate::queue::NextHop;

/// Finds hosts and their addresses.
pub struct TargetFinder {
    /// Looks up MX and addresses.
    pub resolver: Resolver,
    /// Knows the configured next hops.
    pub router: Arc<Router>,
    /// The port of mail hosts.
    pub port: u16,
    /// Private networks that may be dialled.
    pub allowed_private_networks: Vec<IpNet>,
}

/// The hosts of one destination, and how to connect to them.
pub struct TargetHosts {
    /// The hosts by preference.
    pub hosts: Vec<Endpoint>,
    /// The settings for connecting to them.
    pub route: Arc<Route>,
    /// The recipients' domain, if the hosts come from its MX records.
    pub domain: Option<DomainName>,
}

/// Why no host or address was found.
pub enum TargetError {
    /// No host accepts mail for the destination: a permanent failure.
    Permanent(Box<RecipientResult>),
    /// By the DNS, a host of the MX records does not exist, or is at addresses to which no mail is sent.
    Unroutable(BounceClass, String),
    /// A retry may succeed.
    Temporary(BounceClass, String),
}

impl TargetError {
    fn refusal(code: u16, status: EnhancedStatus, text: impl Into<String>) -> Self {
        Self::Permanent(Box::new(RecipientResult::unroutable(code, status, text)))
    }
}

impl TargetFinder {
    /// Finds the hosts of a next hop.
    ///
    /// # Errors
    /// No host accepts the mail, or a look-up in the DNS or the store failed.
    pub async fn hosts_of(&self, next_hop: &NextHop, destination: &Host) -> Result<TargetHosts, TargetError> {
        let route = self.router.route_of(next_hop).await;
        let route = route.map_err(|error| {
            TargetError::Temporary(BounceClass::Temporary, format!("the smart host's password: {error}"))
        })?;
        if !route.hosts.is_empty() {
            return Ok(TargetHosts { hosts: route.hosts.clone(), route, domain: None });
        }
        let (hosts, domain) = match destination {
            Host::Domain(domain) => (self.mail_hosts(domain).await?, Some(domain.clone())),
            Host::Literal(ip) if self.allowed_private_networks.iter().any(|network| network.contains(ip)) => {
                (vec![ip.to_string()], None)
            }
            Host::Literal(_) => {
                let text = "mail to address literals is not relayed";
                return Err(TargetError::refusal(550, EnhancedStatus::new(5, 1, 2), text));
            }
        };
        let hosts = hosts.into_iter().map(|host| Endpoint { host, port: self.port }).collect();
        Ok(TargetHosts { hosts, route, domain })
    }

    /// The addresses of a host that may be dialled; at least one.
    ///
    /// # Errors
    /// The host has no address, no address may be dialled, or the DNS does not answer.
    pub async fn addresses_of(
        &self,
        targets: &TargetHosts,
        Endpoint { host, port }: &Endpoint,
    ) -> Result<Vec<SocketAddr>, TargetError> {
        // A wrong name in the configuration or in the settings of a tenant is retried until it is corrected.
        let names_mail_host = targets.domain.is_some();
        let unroutable = |class, text| match names_mail_host {
            true => TargetError::Unroutable(class, text),
            false => TargetError::Temporary(class, text),
        };
        let found = match self.resolver.addresses(host).await {
            Ok(found) => found,
            Err(error) => {
                let gone = matches!(error, DnsError::NoRecords | DnsError::NoSuchDomain);
                // RFC 5321 §5.1: without MX records the domain is its own host, and it has no address. Another host may
                // accept the mail if the MX records name the domain itself among others.
                let is_own_host = targets.domain.as_ref().is_some_and(|domain| domain.as_str() == host);
                return Err(if gone && is_own_host && targets.hosts.len() == 1 {
                    let text = format!("the domain {host} has neither mail hosts nor addresses");
                    TargetError::refusal(550, EnhancedStatus::new(5, 4, 4), text)
                } else {
                    let text = format!("addresses of {host}: {error}");
                    match gone {
                        true => unroutable(BounceClass::Dns, text),
                        false => TargetError::Temporary(BounceClass::Dns, text),
                    }
                });
            }
        };
        let allowed = &self.allowed_private_networks;
        let permitted = |ip: &IpAddr| targets.route.trusted || egress_guard::is_permitted(*ip, allowed);
        let usable: Vec<SocketAddr> =
            found.iter().filter(|ip| permitted(ip)).map(|ip| SocketAddr::new(*ip, *port)).collect();
        match found.first() {
            Some(ip) if usable.is_empty() => Err(unroutable(
                BounceClass::Network,
                format!("{host} is at {ip}, a private address that the configuration does not allow"),
            )),
            _ => Ok(interleave(&usable)),
        }
    }

    /// The mail hosts of a domain, none for a null MX; `None` if the look-up failed.
    pub async fn known_hosts(&self, domain: &DomainName) -> Option<Vec<String>> {
        match self.resolver.mail_hosts(domain).await {
            Ok(MailHosts::Hosts(hosts)) => Some(hosts),
            Ok(MailHosts::NullMx) => Some(Vec::new()),
            Err(_) => None,
        }
    }

    async fn mail_hosts(&self, domain: &DomainName) -> Result<Vec<String>, TargetError> {
        match self.resolver.mail_hosts(domain).await {
            Ok(MailHosts::Hosts(hosts)) => Ok(hosts),
            Ok(MailHosts::NullMx) => {
                let text = format!("{domain} accepts no mail: it has a null MX");
                Err(TargetError::refusal(556, EnhancedStatus::new(5, 1, 10), text))
            }
            Err(DnsError::NoSuchDomain) => {
                let text = format!("the domain {domain} does not exist");
                Err(TargetError::refusal(550, EnhancedStatus::new(5, 1, 2), text))
            }
            Err(error) => Err(TargetError::Temporary(BounceClass::Dns, format!("MX of {domain}: {error}"))),
        }
    }
}
