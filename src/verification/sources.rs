//! The addresses that mail leaves from, as far as the configuration tells them.

use std::net::IpAddr;

use crate::config::{Config, Route, Source};
use crate::egress_guard;
use crate::mail::DomainName;
use crate::model::DestinationPattern;

/// Whose mail leaves.
#[derive(Debug, Clone, Copy)]
pub enum Sender<'a> {
    /// That of everybody: of the server itself and of all tenants.
    Any,
    /// That of a tenant, with its source pool if it has one of its own.
    Tenant(Option<&'a str>),
}

/// The public ones. Empty if the system chooses them, if a translator of addresses hides them, or if receivers see those
/// of a smart host.
pub fn public_sources(config: &Config, sender: Sender<'_>) -> Vec<IpAddr> {
    let mut addresses = config.doctor.public_addresses.clone();
    if !uses_smart_hosts_only(config) {
        addresses.extend(configured_sources(config, sender).into_iter().filter(is_public));
    }
    addresses
}

/// Whether the configuration routes all mail to smart hosts.
pub fn uses_smart_hosts_only(config: &Config) -> bool {
    let routes = &config.relay.routes;
    let is_for_all = |route: &Route| route.destinations.contains(&DestinationPattern::Any);
    // A route without hosts is to the hosts of the destination.
    (config.relay.smart_host.is_some() || routes.iter().any(is_for_all))
        && routes.iter().all(|route| !route.hosts.is_empty())
}

/// Those of the configuration, which are private behind a translator.
pub fn configured_sources(config: &Config, sender: Sender<'_>) -> Vec<IpAddr> {
    let single = config.relay.source_address.filter(|_| match sender {
        Sender::Any => true,
        Sender::Tenant(_) => pool_of(config, sender).is_none(),
    });
    sources_of(config, sender).flat_map(addresses_of).chain(single).collect()
}

/// Whether the system chooses some of the addresses.
pub fn is_chosen_by_system(config: &Config, sender: Sender<'_>) -> bool {
    match pool_of(config, sender) {
        Some(_) => sources_of(config, sender).any(|source| addresses_of(source).next().is_none()),
        None => config.relay.source_address.is_none(),
    }
}

/// The pool that mail leaves from, unless its route has another one.
fn pool_of<'a>(config: &'a Config, sender: Sender<'a>) -> Option<&'a str> {
    let own = if let Sender::Tenant(own) = sender { own } else { None };
    own.or(config.relay.source_pool.as_deref())
}

/// The sources of the pools, also of those that routes have.
fn sources_of<'a>(config: &'a Config, sender: Sender<'a>) -> impl Iterator<Item = &'a Source> {
    let relay = &config.relay;
    let of_routes = relay.routes.iter().filter_map(|route| route.source_pool.as_deref());
    let pools: Vec<&str> = pool_of(config, sender).into_iter().chain(of_routes).collect();
    let pools = relay.pools.iter().filter(move |pool| pools.contains(&pool.name.as_str()));
    let names: Vec<&str> = pools.flat_map(|pool| &pool.sources).map(String::as_str).collect();
    let is_used = move |source: &&Source| match sender {
        Sender::Any => true,
        Sender::Tenant(_) => names.contains(&source.name.as_str()),
    };
    relay.sources.iter().filter(is_used)
}

/// The addresses of a source.
fn addresses_of(source: &Source) -> impl Iterator<Item = IpAddr> + use<> {
    [source.ipv4.map(IpAddr::V4), source.ipv6.map(IpAddr::V6)].into_iter().flatten()
}

/// The name in EHLO of a connection from this address.
pub fn ehlo_name(config: &Config, address: IpAddr) -> &DomainName {
    let source = config.relay.sources.iter().find(|source| addresses_of(source).any(|own| own == address));
    let of_source = source.and_then(|source| source.ehlo_name.as_ref());
    of_source.or(config.relay.ehlo_name.as_ref()).unwrap_or(&config.hostname)
}

/// Whether receivers can see mail from this address.
pub fn is_public(address: &IpAddr) -> bool {
    egress_guard::is_permitted(*address, &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOLS: &str = r#"
        [relay]
        source_address = "192.0.2.1"
        [[relay.sources]]
        name = "bulk"
        ipv4 = "192.0.2.2"
        [[relay.sources]]
        name = "routed"
        ipv4 = "192.0.2.3"
        [[relay.sources]]
        name = "other"
        ipv4 = "192.0.2.4"
        [[relay.pools]]
        name = "bulk"
        sources = ["bulk"]
        [[relay.pools]]
        name = "routed"
        sources = ["routed"]
        [[relay.pools]]
        name = "other"
        sources = ["other"]
        [[relay.routes]]
        destinations = ["example.org"]
        source_pool = "routed"
    "#;

    #[test]
    fn mail_of_a_tenant_leaves_from_its_pool_and_from_those_of_routes() {
        let config = Config::parse(POOLS, std::path::Path::new("test.toml")).unwrap();
        let of = |sender| {
            let mut found: Vec<_> = public_sources(&config, sender).iter().map(ToString::to_string).collect();
            found.sort();
            found
        };
        assert_eq!(of(Sender::Tenant(Some("bulk"))), ["192.0.2.2", "192.0.2.3"]);
        assert_eq!(of(Sender::Tenant(None)), ["192.0.2.1", "192.0.2.3"]);
        assert_eq!(of(Sender::Any), ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"]);
        assert!(!is_chosen_by_system(&config, Sender::Tenant(Some("bulk"))));
    }
}
