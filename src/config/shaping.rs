//! Traffic shaping: limits for sites, from the configuration and built in.

use serde::Deserialize;

use super::Relay;
use super::error::InvalidOption;
use crate::mail::DomainName;

/// `[[relay.shaping]]`: the limits of a site.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteRule {
    /// The name of the site.
    pub name: String,
    /// Covers domains all of whose MX hosts are one of these or below one of these.
    #[serde(default)]
    pub mx: Vec<String>,
    /// Covers these domains, whatever their MX hosts are.
    #[serde(default)]
    pub domains: Vec<DomainName>,
    /// Whether each set of MX hosts under this rule is a separate site.
    #[serde(default)]
    pub separate_sites: bool,
    /// Maximum of simultaneous connections.
    pub connections_max: Option<usize>,
    /// Maximum of messages over one connection.
    pub messages_per_connection_max: Option<u32>,
    /// Messages per minute.
    pub messages_per_minute: Option<u32>,
    /// New connections per minute.
    pub connections_per_minute: Option<u32>,
    /// Whether the limits hold for each node, and not for all nodes on one database together.
    #[serde(default)]
    pub per_node: bool,
}

/// The built-in rules.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KnownSites {
    rule: Vec<SiteRule>,
}

const KNOWN_SITES: &str = include_str!("../../config/shaping.toml");

impl Relay {
    /// All rules in order of priority: those of the configuration, then the built-in ones; the first that covers a
    /// destination applies. A configured rule without hosts and domains changes the built-in rule of the same name.
    pub fn site_rules(&self) -> Vec<SiteRule> {
        // A test parses the built-in file.
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

pub(super) fn find_invalid(relay: &Relay) -> Option<InvalidOption> {
    let known = Relay::default().site_rules();
    relay.shaping.iter().any(|rule| rule.is_invalid(&known)).then(|| {
        InvalidOption::new(
            "relay.shaping",
            "each rule needs a name, mx or domains (or the name of a built-in rule), and limits of at least 1",
        )
    })
}

impl SiteRule {
    fn complete(&mut self, built_in: &Self) {
        if self.mx.is_empty() && self.domains.is_empty() {
            self.mx.clone_from(&built_in.mx);
            self.domains.clone_from(&built_in.domains);
            self.separate_sites |= built_in.separate_sites;
        }
        self.connections_max = self.connections_max.or(built_in.connections_max);
        self.messages_per_connection_max =
            self.messages_per_connection_max.or(built_in.messages_per_connection_max);
        self.messages_per_minute = self.messages_per_minute.or(built_in.messages_per_minute);
        self.connections_per_minute = self.connections_per_minute.or(built_in.connections_per_minute);
    }

    /// Whether a value is invalid.
    fn is_invalid(&self, known: &[Self]) -> bool {
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
        assert!(!known.iter().any(|rule| rule.is_invalid(&[])));
    }
}
