//! The names of the server in the DNS: its addresses, their reverse names, SPF.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use futures_util::future::join_all;

use super::{Lookups, Seen, SourceFacts, SpfFacts};
use crate::config::{Config, Source};
use crate::egress_guard;
use crate::mail::DomainName;
use crate::verification::spf_policies;

/// Sources and their reverse names that are looked at.
const SOURCES_MAX: usize = 64;
const REVERSE_NAMES_MAX: usize = 5;
/// Addresses for documentation (RFC 5737, RFC 3849): the route to them is the default route.
const ELSEWHERE: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), 25),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)), 25),
];
const UNKNOWN: &str = "the address that the Internet sees is not known";

/// The addresses that the Internet sees: those of the configuration, or those that the routes choose.
pub fn own_addresses(config: &Config) -> Seen<Vec<IpAddr>> {
    let mut own: Vec<IpAddr> = config.doctor.public_addresses.clone();
    own.extend(configured(config).into_iter().filter(is_public));
    if own.is_empty() || is_chosen_by_system(config) {
        let chosen = ELSEWHERE.into_iter().filter_map(local_address_towards);
        own.extend(chosen.filter(is_public));
    }
    let mut distinct: Vec<IpAddr> = Vec::new();
    for address in own {
        if !distinct.contains(&address) {
            distinct.push(address);
        }
    }
    distinct.truncate(SOURCES_MAX);
    if distinct.is_empty() { Seen::NotAsked(UNKNOWN) } else { Seen::Value(distinct) }
}

fn configured(config: &Config) -> Vec<IpAddr> {
    let of_sources = config.relay.sources.iter().flat_map(addresses_of);
    of_sources.chain(config.relay.source_address).collect()
}

fn addresses_of(source: &Source) -> impl Iterator<Item = IpAddr> + use<> {
    [source.ipv4.map(IpAddr::V4), source.ipv6.map(IpAddr::V6)].into_iter().flatten()
}

/// Whether some mail leaves from the address that the route chooses, and no translator of addresses is configured.
fn is_chosen_by_system(config: &Config) -> bool {
    let has_address = match &config.relay.source_pool {
        Some(_) => config.relay.sources.iter().all(|source| addresses_of(source).next().is_some()),
        None => config.relay.source_address.is_some(),
    };
    !has_address && config.doctor.public_addresses.is_empty()
}

fn is_public(address: &IpAddr) -> bool {
    egress_guard::is_permitted(*address, &[])
}

/// The address that a packet there would have. Sends nothing.
fn local_address_towards(target: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr =
        if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(target).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

/// Each own address with the name that it greets with.
pub async fn sources(config: &Config, own: &Seen<Vec<IpAddr>>, lookups: &Lookups) -> Vec<SourceFacts> {
    let own = own.value().map(Vec::as_slice).unwrap_or_default();
    join_all(own.iter().map(|address| source(config, *address, lookups))).await
}

async fn source(config: &Config, address: IpAddr, lookups: &Lookups) -> SourceFacts {
    let named = config.relay.sources.iter().find(|source| addresses_of(source).any(|own| own == address));
    let ehlo = named.and_then(|source| source.ehlo_name.as_ref()).or(config.relay.ehlo_name.as_ref());
    let ehlo = ehlo.unwrap_or(&config.hostname).clone();
    let (ehlo_addresses, names) =
        tokio::join!(lookups.addresses(ehlo.as_str()), lookups.ask(lookups.resolver.reverse_names(address)));
    let reverse = match names {
        Seen::Value(names) => {
            let names = names.into_iter().take(REVERSE_NAMES_MAX);
            let looked_up = names.map(async |name| {
                let addresses = lookups.addresses(&name).await;
                (name, addresses)
            });
            Seen::Value(join_all(looked_up).await)
        }
        other => other.absent(),
    };
    SourceFacts { address, ehlo, ehlo_addresses, reverse }
}

/// The SPF record of a name, and which of the own addresses it refuses.
pub async fn spf(
    name: &DomainName,
    ehlo: &DomainName,
    own: &Seen<Vec<IpAddr>>,
    lookups: &Lookups,
) -> Seen<SpfFacts> {
    let texts = match lookups.texts(name.as_str()).await {
        Seen::Value(texts) => texts,
        other => return other.absent(),
    };
    let records = spf_policies(&texts);
    if records.is_empty() {
        return Seen::Nothing;
    }
    let cost = match lookups.ask(lookups.resolver.spf_cost(name)).await {
        Seen::Value(cost) => cost,
        other => return other.absent(),
    };
    let mut refused = Vec::new();
    for address in own.value().into_iter().flatten() {
        match lookups.ask(lookups.resolver.spf_permits(name, *address, ehlo)).await {
            Seen::Value(true) => {}
            Seen::Value(false) | Seen::Nothing => refused.push(*address),
            Seen::Failed(reason) => return Seen::Failed(reason),
            Seen::NotAsked(reason) => return Seen::NotAsked(reason),
        }
    }
    Seen::Value(SpfFacts { records, refused, lookups: cost.lookups, void_lookups: cost.void_lookups })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(text: &str) -> Seen<Vec<IpAddr>> {
        own_addresses(&Config::parse(text, std::path::Path::new("test.toml")).unwrap())
    }

    #[test]
    fn own_addresses_are_those_of_the_configuration_behind_a_translator_too() {
        let seen = |addresses: &[&str]| {
            Seen::Value(addresses.iter().map(|address| address.parse().unwrap()).collect::<Vec<IpAddr>>())
        };
        for (text, expected) in [
            ("[relay]\nsource_address = \"192.0.2.7\"", seen(&["192.0.2.7"])),
            (
                "[relay]\nsource_address = \"10.0.0.7\"\n[doctor]\npublic_addresses = [\"192.0.2.9\"]",
                seen(&["192.0.2.9"]),
            ),
            ("[doctor]\npublic_addresses = [\"192.0.2.9\", \"192.0.2.9\"]", seen(&["192.0.2.9"])),
        ] {
            assert_eq!(own(text), expected, "{text}");
        }
    }
}
