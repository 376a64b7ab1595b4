//! What sites take: the rules of the configuration, and those that are built in.

use serde::Deserialize;

use super::Relay;
use super::error::Fault;
use crate::mail::DomainName;

/// What the hosts of some destinations take at most.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteRule {
    /// What the site is called.
    pub name: String,
    /// Domains all of whose mail hosts are one of these or under one of these.
    #[serde(default)]
    pub mx: Vec<String>,
    /// Domains by name, wherever their mail hosts are.
    #[serde(default)]
    pub domains: Vec<DomainName>,
    /// Whether each set of mail hosts remains a site of its own under this rule.
    #[serde(default)]
    pub apart: bool,
    /// Connections at one time.
    pub connections_max: Option<usize>,
    /// Messages over one connection.
    pub messages_per_connection_max: Option<u32>,
    /// Messages in a minute.
    pub messages_per_minute: Option<u32>,
    /// Connections begun in a minute.
    pub connections_per_minute: Option<u32>,
}

/// What is built in.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KnownSites {
    rule: Vec<SiteRule>,
}

const KNOWN_SITES: &str = include_str!("../../config/shaping.toml");

impl Relay {
    /// What holds for sites, the first that covers a destination: the configuration's rules, then those that are built
    /// in. One of the configuration without hosts and domains changes the built-in one of its name.
    pub fn site_rules(&self) -> Vec<SiteRule> {
        // A test reads it.
        let known = toml::from_str::<KnownSites>(KNOWN_SITES).map_or_else(|_| Vec::new(), |known| known.rule);
        let mut rules = self.shaping.clone();
        for rule in &mut rules {
            if let Some(built_in) = known.iter().find(|known| known.name == rule.name) {
                rule.complete(built_in);
            }
        }
        rules.extend(known);
        rules
    }
}

pub(super) fn find_fault(relay: &Relay) -> Option<Fault> {
    let known = Relay::default().site_rules();
    relay.shaping.iter().any(|rule| rule.has_fault(&known)).then(|| {
        Fault::new(
            "relay.shaping",
            "each rule needs a name, and mx or domains unless the name is that of a built-in rule; limits must be at least 1",
        )
    })
}

impl SiteRule {
    fn complete(&mut self, built_in: &Self) {
        if self.mx.is_empty() && self.domains.is_empty() {
            self.mx.clone_from(&built_in.mx);
            self.domains.clone_from(&built_in.domains);
            self.apart |= built_in.apart;
        }
        self.connections_max = self.connections_max.or(built_in.connections_max);
        self.messages_per_connection_max =
            self.messages_per_connection_max.or(built_in.messages_per_connection_max);
        self.messages_per_minute = self.messages_per_minute.or(built_in.messages_per_minute);
        self.connections_per_minute = self.connections_per_minute.or(built_in.connections_per_minute);
    }

    /// Whether it says something that makes no sense.
    fn has_fault(&self, known: &[Self]) -> bool {
        let covers_something = !self.mx.is_empty()
            || !self.domains.is_empty()
            || known.iter().any(|known| known.name == self.name);
        let some_zero = self.connections_max == Some(0)
            || self.messages_per_connection_max == Some(0)
            || self.messages_per_minute == Some(0)
            || self.connections_per_minute == Some(0);
        !covers_something || some_zero || self.name.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_site_is_covered_once() {
        let known = toml::from_str::<KnownSites>(KNOWN_SITES).unwrap().rule;
        let mut hosts: Vec<&String> = known.iter().flat_map(|rule| &rule.mx).collect();
        let count = hosts.len();
        hosts.sort();
        hosts.dedup();
        assert!(known.len() >= 15 && hosts.len() == count);
        assert!(!known.iter().any(|rule| rule.has_fault(&[])));
    }
}
