//! Which way mail leaves: smart hosts, routes for destinations, and the addresses that connections come from.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

use super::Relay;
use super::error::Fault;
use crate::mail::{DestinationPattern, DkimPolicy, DomainName, TlsMode};

/// The port of an [`Endpoint`] that names none.
const SUBMISSION_PORT: u16 = 587;

/// A smart host of the whole platform: the short form of a [`Route`] for `*` with one host.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlatformSmartHost {
    /// A host name or an IP address.
    pub host: String,
    /// Its port.
    #[serde(default = "submission_port")]
    pub port: u16,
    /// `implicit`, `starttls`, `opportunistic` or `none`.
    #[serde(default = "starttls")]
    pub tls: TlsMode,
    /// The account, if it wants one.
    pub user: Option<String>,
    /// The file with the password.
    pub password_file: Option<PathBuf>,
}

fn submission_port() -> u16 {
    SUBMISSION_PORT
}

fn starttls() -> TlsMode {
    TlsMode::Starttls
}

/// How some destinations are reached. Of several that fit, the closest counts.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// For which: `example.com`, `.example.com` for what is below it, `*` for all.
    pub destinations: Vec<DestinationPattern>,
    /// The hosts to go to instead of the destination's own, in the order in which they are tried. The destination's
    /// MX if empty.
    #[serde(default)]
    pub hosts: Vec<Endpoint>,
    /// `starttls` if absent; without hosts `opportunistic`.
    pub tls: Option<TlsMode>,
    /// The account, if the hosts want one.
    pub user: Option<String>,
    /// The file with the password.
    pub password_file: Option<PathBuf>,
    /// Which of our DKIM signatures go along.
    #[serde(default = "dual")]
    pub dkim: DkimPolicy,
    /// The pool that connections come from; the tenant's, else the default, if absent.
    pub source_pool: Option<String>,
    /// The name in EHLO, before that of the source.
    pub ehlo_name: Option<DomainName>,
}

fn dual() -> DkimPolicy {
    DkimPolicy::Dual
}

impl Route {
    /// The mode of TLS, given or not.
    pub fn tls(&self) -> TlsMode {
        let default = if self.hosts.is_empty() { TlsMode::Opportunistic } else { TlsMode::Starttls };
        self.tls.unwrap_or(default)
    }
}

/// A host and its port: `smtp.example.net`, `smtp.example.net:25`, `192.0.2.1:25`, `[2001:db8::1]:25`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// A host name or an IP address.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// The text is no [`Endpoint`].
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a host; write it like smtp.example.net, smtp.example.net:25 or [2001:db8::1]:25")]
pub struct EndpointError(String);

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let fault = || EndpointError(text.to_owned());
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or_else(fault)?;
                host.parse::<Ipv6Addr>().map_err(|_| fault())?;
                (host, if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or_else(fault)?) })
            }
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let is_host = host.parse::<IpAddr>().is_ok() || DomainName::parse(host).is_ok();
        let port = port.map_or(Ok(SUBMISSION_PORT), str::parse).map_err(|_| fault())?;
        if !is_host || port == 0 {
            return Err(fault());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Where connections come from. Without any address the system chooses.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// What pools call it.
    pub name: String,
    /// To IPv4 hosts; if only `ipv6` is given, there is no way to them.
    pub ipv4: Option<Ipv4Addr>,
    /// To IPv6 hosts; if only `ipv4` is given, there is no way to them.
    pub ipv6: Option<Ipv6Addr>,
    /// The name in EHLO; `relay.ehlo_name` if absent.
    pub ehlo_name: Option<DomainName>,
    /// Its share of the connections of a pool.
    #[serde(default = "one")]
    pub weight: u32,
}

fn one() -> u32 {
    1
}

/// Sources that mail leaves from by turns, each as often as its weight says.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// What tenants and routes call it.
    pub name: String,
    /// Names of sources.
    pub sources: Vec<String>,
}

/// The first value that makes no sense, by its key, and what to do.
pub(super) fn find_fault(relay: &Relay) -> Option<Fault> {
    let smart_host = relay.smart_host.iter();
    if smart_host.clone().any(|host| host.user.is_some() != host.password_file.is_some()) {
        return Some(Fault::new(
            "relay.smart_host",
            "user and password_file go together: set both or neither",
        ));
    }
    find_fault_of_sources(relay).or_else(|| {
        let mut patterns = smart_host.map(|_| &DestinationPattern::Any).collect();
        relay.routes.iter().find_map(|route| find_fault_of_route(relay, route, &mut patterns))
    })
}

fn find_fault_of_sources(relay: &Relay) -> Option<Fault> {
    const NAMES: &str = "each must have a name of its own";
    let mut sources = HashSet::new();
    for source in &relay.sources {
        if source.name.is_empty() || !sources.insert(source.name.as_str()) {
            return Some(Fault::new("relay.sources", NAMES));
        }
        if source.weight == 0 {
            return Some(Fault::new(
                "relay.sources",
                "weight must be at least 1; leave the source out of the pool instead",
            ));
        }
    }
    let mut pools = HashSet::new();
    for pool in &relay.pools {
        if pool.name.is_empty() || !pools.insert(pool.name.as_str()) {
            return Some(Fault::new("relay.pools", NAMES));
        }
        if pool.sources.is_empty() || pool.sources.iter().any(|name| !sources.contains(name.as_str())) {
            return Some(Fault::new(
                "relay.pools",
                "sources must name at least one of relay.sources, and nothing else",
            ));
        }
    }
    let is_known = relay.source_pool.as_deref().is_none_or(|name| pools.contains(name));
    (!is_known).then(|| Fault::new("relay.source_pool", "must be the name of one of relay.pools"))
}

fn find_fault_of_route<'a>(
    relay: &Relay,
    route: &'a Route,
    patterns: &mut HashSet<&'a DestinationPattern>,
) -> Option<Fault> {
    let is_pool = |name: &String| relay.pools.iter().any(|pool| pool.name == *name);
    let message = if route.destinations.is_empty() {
        "destinations must not be empty; write [\"*\"] for all"
    } else if !route.destinations.iter().all(|pattern| patterns.insert(pattern)) {
        "a destination must stand in one route only; relay.smart_host is the route for \"*\""
    } else if route.user.is_some() != route.password_file.is_some() {
        "user and password_file go together: set both or neither"
    } else if route.user.is_some() && route.hosts.is_empty() {
        "a password is sent to hosts that are named only: set hosts"
    } else if route.user.is_some() && route.tls() == TlsMode::Opportunistic {
        "a password is sent over verified TLS only: set tls to starttls or implicit"
    } else if route.hosts.is_empty() && route.tls() == TlsMode::Implicit {
        "an MX has no implicit TLS: set tls to starttls"
    } else if !route.source_pool.iter().all(is_pool) {
        "source_pool must be the name of one of relay.pools"
    } else {
        return None;
    };
    Some(Fault::new("relay.routes", message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use std::path::Path;

    #[test]
    fn a_host_may_have_a_port() {
        for (text, host, port) in [
            ("smtp.example.net", "smtp.example.net", 587),
            ("smtp.example.net:25", "smtp.example.net", 25),
            ("192.0.2.1:2525", "192.0.2.1", 2525),
            ("[2001:db8::1]:25", "2001:db8::1", 25),
            ("[::1]", "::1", 587),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!((endpoint.host.as_str(), endpoint.port), (host, port), "{text}");
            assert_eq!(endpoint.to_string().parse::<Endpoint>().unwrap(), endpoint);
        }
        for bad in ["", ":25", "a b", "a:0", "a:99999", "a:b", "::1", "[::1", "[a]:25", "[::1]25", "1.2.3"] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_told_with_its_key() {
        const SOURCE: &str = "[[relay.sources]]\nname = \"a\"\n";
        const POOL: &str = "[[relay.pools]]\nname = \"p\"\nsources = [\"a\"]\n";
        let route = |rest: &str| format!("[[relay.routes]]\ndestinations = [\"a.b\"]\n{rest}\n");
        for (text, key, part) in [
            (format!("{SOURCE}{SOURCE}"), "relay.sources", "a name of its own"),
            (format!("{SOURCE}weight = 0"), "relay.sources", "at least 1"),
            (POOL.into(), "relay.pools", "relay.sources"),
            (format!("{SOURCE}{POOL}{POOL}"), "relay.pools", "a name of its own"),
            ("[relay]\nsource_pool = \"p\"".into(), "relay.source_pool", "relay.pools"),
            ("[[relay.routes]]\ndestinations = []".into(), "relay.routes", "must not be empty"),
            (route("") + &route(""), "relay.routes", "one route only"),
            (
                "[relay.smart_host]\nhost = \"a\"\n[[relay.routes]]\ndestinations = [\"*\"]".into(),
                "relay.routes",
                "smart_host is the route",
            ),
            (route("user = \"u\""), "relay.routes", "both or neither"),
            (route("user = \"u\"\npassword_file = \"f\""), "relay.routes", "set hosts"),
            (
                route("hosts = [\"h\"]\ntls = \"opportunistic\"\nuser = \"u\"\npassword_file = \"f\""),
                "relay.routes",
                "verified TLS",
            ),
            (route("tls = \"implicit\""), "relay.routes", "no implicit TLS"),
            (route("source_pool = \"p\""), "relay.routes", "relay.pools"),
            (route("hosts = [\"a b\"]"), "hosts", "is not a host"),
        ] {
            let error = Config::parse(&text, Path::new("test.toml")).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains(part), "{text}: {error}");
        }
    }
}
