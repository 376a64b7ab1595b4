//! The names of the server in the DNS: its addresses, their reverse names, SPF.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use futures_util::future::join_all;

use super::{Lookups, Seen, SourceFacts, SpfFacts};
use crate::config::Config;
use crate::mail::DomainName;
use crate::verification::{
    Sender, ehlo_name, is_chosen_by_system, is_public, public_sources, spf_policies, uses_smart_hosts_only,
};

/// Sources and their reverse names that are looked at.
const SOURCES_MAX: usize = 64;
const REVERSE_NAMES_MAX: usize = 5;
/// Addresses for documentation (RFC 5737, RFC 3849): the route to them is the default route.
const ELSEWHERE: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), 25),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)), 25),
];
const UNKNOWN: &str = "the address that the Internet sees is not known";
/// Receivers see the addresses of the smart host.
pub const SMART_HOST: &str = "mail leaves through a smart host, whose address is not known";

/// The addresses that the Internet sees: those of the configuration, or those that the routes choose.
pub fn own_addresses(config: &Config, sender: Sender<'_>) -> Seen<Vec<IpAddr>> {
    own_addresses_by(config, sender, local_address_towards)
}

/// `route` says which address a packet to another one would have.
fn own_addresses_by(
    config: &Config,
    sender: Sender<'_>,
    route: impl Fn(SocketAddr) -> Option<IpAddr>,
) -> Seen<Vec<IpAddr>> {
    let smart_hosts_only = uses_smart_hosts_only(config);
    let mut own = public_sources(config, sender);
    if own.is_empty() && smart_hosts_only {
        return Seen::NotAsked(SMART_HOST);
    }
    if !smart_hosts_only && (own.is_empty() || is_chosen_by_system(config, sender)) {
        // A translator of addresses translates one family; the other may be native.
        let translated = &config.doctor.public_addresses;
        let is_translated =
            |target: &SocketAddr| translated.iter().any(|own| own.is_ipv4() == target.is_ipv4());
        let chosen = ELSEWHERE.into_iter().filter(|target| !is_translated(target)).filter_map(route);
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
    let ehlo = ehlo_name(config, address).clone();
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
    let own = own.value().map(Vec::as_slice).unwrap_or_default();
    let asked = own.iter().map(|address| lookups.ask(lookups.resolver.spf_permits(name, *address, ehlo)));
    let mut refused = Vec::new();
    for (address, permitted) in own.iter().zip(join_all(asked).await) {
        match permitted {
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

    /// On a machine whose route of IPv4 has a private address, and whose route of IPv6 has this one.
    fn own(text: &str, v6: Option<&str>) -> Seen<Vec<IpAddr>> {
        let config = Config::parse(text, std::path::Path::new("test.toml")).unwrap();
        own_addresses_by(&config, Sender::Any, |target| match target.is_ipv4() {
            true => Some("10.0.0.7".parse().unwrap()),
            false => v6.map(|address| address.parse().unwrap()),
        })
    }

    fn seen(addresses: &[&str]) -> Seen<Vec<IpAddr>> {
        Seen::Value(addresses.iter().map(|address| address.parse().unwrap()).collect())
    }

    #[test]
    fn own_addresses_are_those_of_the_configuration_behind_a_translator_too() {
        for (text, expected) in [
            ("[relay]\nsource_address = \"192.0.2.7\"", seen(&["192.0.2.7"])),
            (
                "[relay]\nsource_address = \"10.0.0.7\"\n[doctor]\npublic_addresses = [\"192.0.2.9\"]",
                seen(&["192.0.2.9"]),
            ),
            ("[doctor]\npublic_addresses = [\"192.0.2.9\", \"192.0.2.9\"]", seen(&["192.0.2.9"])),
        ] {
            assert_eq!(own(text, None), expected, "{text}");
        }
    }

    #[test]
    fn beside_a_translated_ipv4_address_the_route_chooses_that_of_ipv6() {
        const V6: &str = "2a00:1450::7";
        for (text, expected) in [
            ("", &[V6][..]),
            ("[doctor]\npublic_addresses = [\"192.0.2.9\"]", &["192.0.2.9", V6]),
            (
                "[doctor]\npublic_addresses = [\"192.0.2.9\", \"2a00:1450::9\"]",
                &["192.0.2.9", "2a00:1450::9"],
            ),
            ("[relay]\nsource_address = \"192.0.2.7\"", &["192.0.2.7"]),
        ] {
            assert_eq!(own(text, Some(V6)), seen(expected), "{text}");
        }
    }

    #[test]
    fn no_own_address_is_that_of_a_smart_host_unless_the_configuration_names_it() {
        const SMART: &str = "[relay.smart_host]\nhost = \"smtp.example.net\"\n";
        let named = format!("{SMART}[doctor]\npublic_addresses = [\"192.0.2.9\"]");
        let direct = format!("{SMART}[[relay.routes]]\ndestinations = [\"example.org\"]");
        const ROUTE: &str = "[[relay.routes]]\ndestinations = [\"*\"]\nhosts = [\"smtp.example.net\"]";
        let v6 = Some("2a00:1450::7");
        assert_eq!(own(SMART, v6), Seen::NotAsked(SMART_HOST));
        assert_eq!(own(ROUTE, v6), Seen::NotAsked(SMART_HOST));
        assert_eq!(own(&named, v6), seen(&["192.0.2.9"]));
        assert_eq!(own(&direct, v6), seen(&["2a00:1450::7"]));
    }
}
