//! Source addresses of connections: chosen by weight from the pool of the tenant, the route or the configuration.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use crate::config;
use crate::mail::DomainName;
use crate::queue::SourcePoolId;
use crate::rng::Rng;

/// A source of connections: addresses and EHLO name. If it has no addresses, the system chooses one.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    ipv4: Option<Ipv4Addr>,
    ipv6: Option<Ipv6Addr>,
    /// The name in EHLO.
    pub ehlo_name: String,
    weight: u32,
}

impl Source {
    /// The source address for a target; `None` lets the system choose.
    pub fn address_towards(&self, target: IpAddr) -> Option<IpAddr> {
        match target {
            IpAddr::V4(_) => self.ipv4.map(IpAddr::V4),
            IpAddr::V6(_) => self.ipv6.map(IpAddr::V6),
        }
    }

    /// Whether the source can connect to the target. A source with an address of one family is not used for the other
    /// family, because the system would choose an address outside the configuration.
    pub fn reaches(&self, target: IpAddr) -> bool {
        (self.ipv4.is_none() && self.ipv6.is_none()) || self.address_towards(target).is_some()
    }
}

/// All source pools of the configuration.
pub struct Sources {
    pools: Vec<Vec<Arc<Source>>>,
    names: HashMap<String, SourcePoolId>,
    default: SourcePoolId,
    rng: Rng,
}

impl Sources {
    /// The pools of a configuration. `source_address` is an unnamed pool.
    pub fn new(config: &config::Relay, hostname: &DomainName, rng: Rng) -> Self {
        let ehlo_name = config.ehlo_name.as_ref().unwrap_or(hostname);
        let single = Source {
            ipv4: config.source_address.and_then(|ip| if let IpAddr::V4(v4) = ip { Some(v4) } else { None }),
            ipv6: config.source_address.and_then(|ip| if let IpAddr::V6(v6) = ip { Some(v6) } else { None }),
            ehlo_name: ehlo_name.to_string(),
            weight: 1,
        };
        let named: HashMap<&str, Arc<Source>> = config
            .sources
            .iter()
            .map(|source| {
                let ehlo_name = source.ehlo_name.as_ref().unwrap_or(ehlo_name).to_string();
                let config::Source { name, ipv4, ipv6, weight, .. } = source;
                (name.as_str(), Arc::new(Source { ipv4: *ipv4, ipv6: *ipv6, ehlo_name, weight: *weight }))
            })
            .collect();
        let mut pools = vec![vec![Arc::new(single)]];
        let mut names = HashMap::new();
        for pool in &config.pools {
            names.insert(pool.name.clone(), SourcePoolId(pools.len()));
            pools.push(pool.sources.iter().filter_map(|name| named.get(name.as_str()).cloned()).collect());
        }
        let default = config.source_pool.as_ref().and_then(|name| names.get(name).copied());
        Self { pools, names, default: default.unwrap_or(SourcePoolId(0)), rng }
    }

    /// The pool of this name, or the default one for none; `None` if there is no such pool.
    pub fn pool(&self, name: Option<&str>) -> Option<SourcePoolId> {
        name.map_or(Some(self.default), |name| self.names.get(name).copied())
    }

    /// The addresses of a pool; empty if the system chooses.
    pub fn addresses(&self, pool: SourcePoolId) -> Vec<IpAddr> {
        let sources = self.pools.get(pool.0).into_iter().flatten();
        sources
            .flat_map(|source| [source.ipv4.map(IpAddr::V4), source.ipv6.map(IpAddr::V6)])
            .flatten()
            .collect()
    }

    /// A random source, by weight, among those that reach any of the targets.
    pub fn choose(&self, pool: SourcePoolId, targets: &[SocketAddr]) -> Option<Arc<Source>> {
        let reaches_any = |source: &&Arc<Source>| targets.iter().any(|target| source.reaches(target.ip()));
        let fit: Vec<&Arc<Source>> = self.pools.get(pool.0)?.iter().filter(reaches_any).collect();
        self.rng.choose_weighted(&fit, |source| source.weight).map(|source| Arc::clone(source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(text: &str) -> Sources {
        let config = config::Config::parse(text, std::path::Path::new("test.toml")).unwrap();
        Sources::new(&config.relay, &DomainName::parse("relay.example").unwrap(), Rng::seeded(1))
    }

    fn targets(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    const POOLS: &str = r#"
        [relay]
        ehlo_name = "mail.example"
        [[relay.sources]]
        name = "four"
        ipv4 = "192.0.2.4"
        weight = 3
        [[relay.sources]]
        name = "both"
        ipv4 = "192.0.2.46"
        ipv6 = "2001:db8::46"
        ehlo_name = "both.example"
        [[relay.pools]]
        name = "mixed"
        sources = ["four", "both"]
    "#;

    #[test]
    fn one_address_is_a_pool_of_its_own_and_reaches_its_family_only() {
        let sources = sources("[relay]\nsource_address = \"192.0.2.1\"\n");
        let pool = sources.pool(None).unwrap();
        let four = targets(&["198.51.100.1:25"]);
        let source = sources.choose(pool, &four).unwrap();
        assert_eq!(source.address_towards(four[0].ip()), Some("192.0.2.1".parse().unwrap()));
        assert_eq!(source.ehlo_name, "relay.example");
        assert_eq!(sources.choose(pool, &targets(&["[2001:db8::1]:25"])), None);
        assert_eq!(sources.pool(Some("other")), None);
    }

    #[test]
    fn the_system_chooses_the_address_if_none_is_configured() {
        let sources = sources("");
        let target = targets(&["[2001:db8::1]:25"]);
        let source = sources.choose(sources.pool(None).unwrap(), &target).unwrap();
        assert_eq!(source.address_towards(target[0].ip()), None);
    }

    #[test]
    fn a_pool_chooses_by_weight_among_the_sources_that_reach_the_host() {
        let sources = sources(POOLS);
        let pool = sources.pool(Some("mixed")).unwrap();
        let names = |targets: &[SocketAddr]| {
            let mut counts = HashMap::new();
            for _ in 0..4000 {
                *counts.entry(sources.choose(pool, targets).unwrap().ehlo_name.clone()).or_insert(0) += 1;
            }
            counts
        };
        let counts = names(&targets(&["198.51.100.1:25"]));
        // Three of four: eight standard deviations are 220.
        assert!((2780..3220).contains(&counts["mail.example"]), "{counts:?}");
        let counts = names(&targets(&["[2001:db8::1]:25"]));
        assert_eq!((counts.len(), counts["both.example"]), (1, 4000));
    }
}
