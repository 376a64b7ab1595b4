//! Sites: the hosts that accept mail for a destination, with their limits.
//!
//! The site of a domain is cached, so that mail enters its destination queue without a DNS look-up. Unknown sites are looked
//! up in the background ([`super::site_resolution`]).

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;
use parking_lot::{Mutex, MutexGuard};
use sha2::{Digest, Sha256};

use crate::clock::{Clock, Instant};
use crate::config;
use crate::mail::{DomainName, Host};
use crate::policy::site_limiter::Rule;
use crate::policy::site_name;

/// Maximum of cached domains. Above it the oldest are removed; each costs another look-up.
const DOMAINS_MAX: usize = 50_000;
/// How long the site of a domain is cached. The resolver's own cache uses the time to live of records.
const KNOWN_FOR: Duration = Duration::from_secs(10 * 60);
/// How long a failed look-up is cached.
const FAILURE_KNOWN_FOR: Duration = Duration::from_secs(30);

/// Hosts that accept mail for one or more domains.
#[derive(Debug)]
pub struct Site {
    /// The name in the API and logs; not unique.
    pub name: String,
    /// Its limits.
    pub rule: Rule,
    identity: Identity,
}

/// The identity of a site. It must not be a text that an attacker can construct with names of hosts.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Identity {
    /// All hosts of the rule with this name.
    Rule(String),
    /// These hosts, in order.
    Hosts(Vec<String>),
    /// A destination whose hosts are unknown.
    Destination(Host),
}

impl Site {
    /// A text that no other site has, for the database.
    pub fn key(&self) -> String {
        let (kind, parts) = match &self.identity {
            Identity::Rule(name) => ("rule", vec![name.clone()]),
            Identity::Hosts(hosts) => ("hosts", hosts.clone()),
            Identity::Destination(destination) => ("destination", vec![destination.to_string()]),
        };
        let mut digest = Sha256::new_with_prefix(kind);
        for part in &parts {
            // A separator that is in no name, whatever the DNS answers.
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        HEXLOWER.encode(&digest.finalize()[..16])
    }
}

impl PartialEq for Site {
    fn eq(&self, other: &Self) -> bool {
        self.identity == other.identity
    }
}

impl Eq for Site {}

impl Hash for Site {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity.hash(state);
    }
}

/// The cache of sites.
pub struct Sites {
    rules: Rules,
    clock: Clock,
    known: Mutex<HashMap<DomainName, Known>>,
}

struct Known {
    site: Arc<Site>,
    hosts: Vec<String>,
    until: Instant,
}

impl Sites {
    /// Nothing is known yet.
    pub fn new(config: &config::Relay, clock: Clock) -> Self {
        Self { rules: Rules::new(config), clock, known: Mutex::default() }
    }

    /// The rule of destinations without a rule of their own.
    pub fn default_rule(&self) -> &Rule {
        &self.rules.default
    }

    /// The site of a destination, if it is known.
    pub fn find(&self, destination: &Host) -> Option<Arc<Site>> {
        match destination {
            Host::Literal(_) => Some(self.provisional(destination)),
            Host::Domain(domain) => {
                let known = self.known();
                let known = known.get(domain).filter(|known| self.clock.instant() < known.until)?;
                Some(known.site.clone())
            }
        }
    }

    /// A site for the destination alone.
    pub fn provisional(&self, destination: &Host) -> Arc<Site> {
        Arc::new(Site {
            name: destination.to_string(),
            rule: self.rules.default.clone(),
            identity: Identity::Destination(destination.clone()),
        })
    }

    /// Records the mail hosts of a domain from the DNS. If the look-up failed (`None`), the domain is a site of its own, and
    /// the attempt will report the failure.
    pub fn learn(&self, domain: &DomainName, hosts: Option<Vec<String>>) -> Arc<Site> {
        let known_for = if hosts.is_some() { KNOWN_FOR } else { FAILURE_KNOWN_FOR };
        let hosts = hosts.unwrap_or_default();
        let now = self.clock.instant();
        let site = Arc::new(self.rules.site_of(domain, &hosts));
        let mut known = self.known();
        if known.len() >= DOMAINS_MAX {
            evict(&mut known, now);
        }
        known.insert(domain.clone(), Known { site: site.clone(), hosts, until: now + known_for });
        site
    }

    /// Whether a host is a mail host of a destination, so that an open connection to it may be used. Two domains of one site
    /// can have different hosts.
    pub fn is_mail_host(&self, host: &str, destination: &Host) -> bool {
        match destination {
            Host::Literal(ip) => ip.to_string() == host,
            Host::Domain(domain) => {
                self.known().get(domain).is_some_and(|known| known.hosts.iter().any(|other| other == host))
            }
        }
    }

    /// Domains that are known to be at a site; at most `limit`.
    pub fn domains_of(&self, site: &Site, limit: usize) -> Vec<DomainName> {
        let known = self.known();
        let own = known.iter().filter(|(_, known)| *known.site == *site);
        own.map(|(domain, _)| domain.clone()).take(limit).collect()
    }

    /// The domains that are known to be at each of these sites, in order; at most `limit` of each.
    pub fn domains(&self, sites: &[&Arc<Site>], limit: usize) -> HashMap<Arc<Site>, Vec<String>> {
        let known = self.known();
        let mut domains: HashMap<&Site, Vec<&DomainName>> =
            sites.iter().map(|site| (&***site, Vec::new())).collect();
        for (domain, known) in known.iter() {
            if let Some(of_site) = domains.get_mut(&*known.site) {
                of_site.push(domain);
            }
        }
        let first = |site: &Arc<Site>| {
            let mut of_site = domains.get(&**site).cloned().unwrap_or_default();
            of_site.sort_by_key(|domain| domain.as_str());
            of_site.into_iter().take(limit).map(ToString::to_string).collect()
        };
        sites.iter().map(|&site| (Arc::clone(site), first(site))).collect()
    }

    fn known(&self) -> MutexGuard<'_, HashMap<DomainName, Known>> {
        self.known.lock()
    }
}

/// Removes expired entries. If that leaves more than half of the maximum, also removes the half that expires first.
fn evict(known: &mut HashMap<DomainName, Known>, now: Instant) {
    known.retain(|_, known| now < known.until);
    if known.len() >= DOMAINS_MAX / 2 {
        let mut ends: Vec<Instant> = known.values().map(|known| known.until).collect();
        let middle = ends.len() / 2;
        let (_, &mut middle, _) = ends.select_nth_unstable(middle);
        known.retain(|_, known| known.until > middle);
    }
}

/// The site rules of the configuration and of the built-in list.
struct Rules {
    named: Vec<config::SiteRule>,
    default: Rule,
}

impl Rules {
    fn new(config: &config::Relay) -> Self {
        let default = Rule {
            connections_max: config.connections_per_destination_max,
            messages_per_connection_max: config.messages_per_connection_max,
            messages_per_minute: None,
            connections_per_minute: None,
            trusted: false,
            by_suffix: false,
            per_node: false,
        };
        Self { named: config.site_rules(), default }
    }

    fn site_of(&self, domain: &DomainName, hosts: &[String]) -> Site {
        let by_name = self.named.iter().find(|rule| rule.domains.contains(domain));
        let named = by_name.or_else(|| self.named.iter().find(|rule| rule.covers(hosts)));
        let rule = named.map_or_else(|| self.default.clone(), |named| self.rule_of(named));
        let (name, identity) = match (named, hosts) {
            (Some(named), _) if !named.separate_sites => {
                (named.name.clone(), Identity::Rule(named.name.clone()))
            }
            (_, []) => (domain.to_string(), Identity::Destination(Host::Domain(domain.clone()))),
            (_, hosts) => {
                let mut sorted = hosts.to_vec();
                sorted.sort();
                sorted.dedup();
                (site_name::name_of(hosts), Identity::Hosts(sorted))
            }
        };
        Site { name, rule, identity }
    }

    fn rule_of(&self, named: &config::SiteRule) -> Rule {
        let default = &self.default;
        Rule {
            connections_max: named.connections_max.unwrap_or(default.connections_max),
            messages_per_connection_max: named
                .messages_per_connection_max
                .unwrap_or(default.messages_per_connection_max),
            messages_per_minute: named.messages_per_minute,
            connections_per_minute: named.connections_per_minute,
            trusted: false,
            by_suffix: !named.separate_sites && !named.mx.is_empty(),
            per_node: named.per_node,
        }
    }
}

impl config::SiteRule {
    /// Whether all of these hosts are named: one of somebody else makes it another site.
    fn covers(&self, hosts: &[String]) -> bool {
        let is_named = |host: &String| self.mx.iter().any(|suffix| site_name::is_under(host, suffix));
        !hosts.is_empty() && hosts.iter().all(is_named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(text: &str) -> DomainName {
        DomainName::parse(text).unwrap()
    }

    fn site(config: &config::Relay, name: &str, hosts: &[&str]) -> Site {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        Rules::new(config).site_of(&domain(name), &hosts)
    }

    #[test]
    fn domains_of_one_provider_are_one_site() {
        let config = config::Relay::default();
        for (name, hosts, expected) in [
            ("gmail.com", vec!["gmail-smtp-in.l.google.com", "alt1.gmail-smtp-in.l.google.com"], "google"),
            ("shop.example", vec!["aspmx.l.google.com", "alt1.aspmx.l.google.com"], "google"),
            ("a.example", vec!["a-example.mail.protection.outlook.com"], "microsoft-365"),
            ("hotmail.com", vec!["hotmail-com.olc.protection.outlook.com"], "outlook"),
            ("b.example", vec!["mx1.host.example", "mx2.host.example"], "(mx1|mx2).host.example"),
            // Somebody else's host among them: another site.
            (
                "c.example",
                vec!["aspmx.l.google.com", "mx.c.example"],
                "(aspmx|mx).(c|l).(example|google).com",
            ),
            ("d.example", vec![], "d.example"),
        ] {
            let found = site(&config, name, &hosts).name;
            if name == "c.example" {
                assert!(found.contains("google") && found != "google", "{found}");
            } else {
                assert_eq!(found, expected, "{name}");
            }
        }
    }

    #[test]
    fn sites_are_the_same_whose_hosts_are_and_no_others() {
        let config = config::Relay::default();
        let of = |name: &str, hosts: &[&str]| site(&config, name, hosts);
        let crossed = [
            of("a.example", &["mx1.a.example", "mx2.b.example"]),
            of("b.example", &["mx1.b.example", "mx2.a.example"]),
        ];
        assert_eq!(crossed[0].name, crossed[1].name);
        assert_ne!(crossed[0], crossed[1]);
        assert_eq!(crossed[0], of("c.example", &["mx2.b.example", "mx1.a.example"]));
        assert_ne!(of("mx.example", &[]), of("d.example", &["mx.example"]));
        assert_ne!(of("google", &[]), of("gmail.com", &["gmail-smtp-in.l.google.com"]));
        assert_ne!(crossed[0].key(), crossed[1].key());
        assert_eq!(crossed[0].key(), of("c.example", &["mx2.b.example", "mx1.a.example"]).key());
        assert_ne!(of("google", &[]).key(), of("gmail.com", &["gmail-smtp-in.l.google.com"]).key());
    }

    #[test]
    fn the_configuration_goes_before_what_is_built_in() {
        let rule = |text: &str| toml::from_str::<config::SiteRule>(text).unwrap();
        let mut config = config::Relay::default();
        let built_in = site(&config, "gmail.com", &["gmail-smtp-in.l.google.com"]).rule;
        config.shaping = vec![
            rule("name = \"google\"\nmessages_per_minute = 90"),
            rule("name = \"ours\"\ndomains = [\"own.example\"]\nconnections_max = 77"),
        ];
        let google = site(&config, "gmail.com", &["gmail-smtp-in.l.google.com"]).rule;
        assert_eq!(google, Rule { messages_per_minute: Some(90), ..built_in });
        let ours = site(&config, "own.example", &["aspmx.l.google.com"]);
        assert_eq!((ours.name.as_str(), ours.rule.connections_max), ("ours", 77));
    }

    #[test]
    fn regions_of_a_provider_can_be_sites_of_their_own_under_one_rule() {
        let config = config::Relay::default();
        let (eu, us) = (
            site(&config, "a.example", &["eu-smtp-inbound-1.mimecast.com"]),
            site(&config, "b.example", &["us-smtp-inbound-1.mimecast.com"]),
        );
        assert_ne!(eu, us);
        assert_eq!((eu.rule.connections_max, us.rule.connections_max), (10, 10));
    }

    #[test]
    fn what_is_known_is_bounded() {
        let sites = Sites::new(&config::Relay::default(), Clock::system());
        let now = sites.clock.instant();
        {
            let mut known = sites.known();
            for n in 0..DOMAINS_MAX {
                let site = sites.provisional(&Host::Domain(domain("x.example")));
                let until = now + Duration::from_secs(1 + n as u64);
                known.insert(domain(&format!("d{n}.example")), Known { site, hosts: Vec::new(), until });
            }
            evict(&mut known, now);
            assert!(known.len() <= DOMAINS_MAX / 2);
            assert!(known.contains_key(&domain(&format!("d{}.example", DOMAINS_MAX - 1))));
        }
    }
}
