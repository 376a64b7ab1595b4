//! Which way mail leaves: smart hosts, routes for destinations, and the addresses that connections come from.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

use super::Relay;
use super::error::Fault;
use crate::mail::DomainName;
use crate::model::{DestinationPattern, DkimPolicy, TlsMode};

/// A smart host of the whole platform: the short form of a [`Route`] for `*` with one host.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlatformSmartHost {
    /// A host name or an IP address.
    pub host: String,
    /// Its port; 587, or 465 with implicit TLS, if absent.
    pub port: Option<u16>,
    /// `implicit`, `starttls`, `opportunistic` or `none`; `starttls` if absent, `implicit` at port 465.
    pub tls: Option<TlsMode>,
    /// The account, if it wants one.
    pub user: Option<String>,
    /// The file with the password.
    pub password_file: Option<PathBuf>,
}

impl PlatformSmartHost {
    /// What it is short for.
    pub fn route(&self) -> Route {
        Route {
            destinations: vec![DestinationPattern::Any],
            hosts: vec![NamedHost { host: self.host.clone(), port: self.port }],
            tls: self.tls,
            user: self.user.clone(),
            password_file: self.password_file.clone(),
            dkim: dual(),
            source_pool: None,
            ehlo_name: None,
        }
    }
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
    pub hosts: Vec<NamedHost>,
    /// `starttls` if absent, `implicit` where all hosts are at port 465; without hosts `opportunistic`.
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
        let is_implicit = |host: &NamedHost| TlsMode::of_port(host.port) == TlsMode::Implicit;
        self.tls.unwrap_or_else(|| match self.hosts.as_slice() {
            [] => TlsMode::Opportunistic,
            hosts if hosts.iter().all(is_implicit) => TlsMode::Implicit,
            _ => TlsMode::Starttls,
        })
    }

    /// The hosts with their ports, given or not.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        let port = self.tls().port();
        let endpoint =
            |host: &NamedHost| Endpoint { host: host.host.clone(), port: host.port.unwrap_or(port) };
        self.hosts.iter().map(endpoint).collect()
    }
}

/// A host and its port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// A host name or an IP address.
    pub host: String,
    /// Its port.
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// A host as the configuration names it, with a port or without: `smtp.example.net`, `smtp.example.net:25`,
/// `192.0.2.1:25`, `[2001:db8::1]:25`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedHost {
    /// A host name or an IP address.
    pub host: String,
    /// Its port, if there is one.
    pub port: Option<u16>,
}

/// The text is no [`NamedHost`].
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a host; examples: smtp.example.net, smtp.example.net:25, [2001:db8::1]:25")]
pub struct NamedHostError(String);

impl NamedHost {
    fn is_right(&self) -> bool {
        let is_host = self.host.parse::<IpAddr>().is_ok() || DomainName::parse(&self.host).is_ok();
        is_host && self.port != Some(0)
    }

    fn is_loopback(&self) -> bool {
        self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

impl FromStr for NamedHost {
    type Err = NamedHostError;

    fn from_str(text: &str) -> Result<Self, NamedHostError> {
        let fault = || NamedHostError(text.to_owned());
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
        let port = port.map(str::parse).transpose().map_err(|_| fault())?;
        let named = Self { host: host.to_owned(), port };
        if named.is_right() { Ok(named) } else { Err(fault()) }
    }
}

impl<'de> Deserialize<'de> for NamedHost {
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
    let smart_host = relay.smart_host.as_ref().map(PlatformSmartHost::route);
    let fault = smart_host.as_ref().and_then(find_fault_of_hosts);
    let fault = fault.map(|message| Fault::new("relay.smart_host", message));
    fault.or_else(|| find_fault_of_sources(relay)).or_else(|| {
        let mut patterns = smart_host.iter().flat_map(|route| &route.destinations).collect();
        let message = relay.routes.iter().find_map(|route| find_fault_of_route(relay, route, &mut patterns));
        message.map(|message| Fault::new("relay.routes", message))
    })
}

fn find_fault_of_sources(relay: &Relay) -> Option<Fault> {
    const NAMES: &str = "each must have a unique name";
    let mut sources = HashSet::new();
    for source in &relay.sources {
        if source.name.is_empty() || !sources.insert(source.name.as_str()) {
            return Some(Fault::new("relay.sources", NAMES));
        }
        if source.weight == 0 {
            return Some(Fault::new(
                "relay.sources",
                "weight must be at least 1; to disable a source, remove it from the pool",
            ));
        }
    }
    let mut pools = HashSet::new();
    for pool in &relay.pools {
        if pool.name.is_empty() || !pools.insert(pool.name.as_str()) {
            return Some(Fault::new("relay.pools", NAMES));
        }
        if pool.sources.is_empty() || pool.sources.iter().any(|name| !sources.contains(name.as_str())) {
            return Some(Fault::new("relay.pools", "sources must list one or more names of relay.sources"));
        }
    }
    let is_known = relay.source_pool.as_deref().is_none_or(|name| pools.contains(name));
    (!is_known).then(|| Fault::new("relay.source_pool", "must be the name of one of relay.pools"))
}

fn find_fault_of_route<'a>(
    relay: &Relay,
    route: &'a Route,
    patterns: &mut HashSet<&'a DestinationPattern>,
) -> Option<&'static str> {
    let is_pool = |name: &String| relay.pools.iter().any(|pool| pool.name == *name);
    if route.destinations.is_empty() {
        Some("destinations must not be empty; write [\"*\"] for all destinations")
    } else if !route.destinations.iter().all(|pattern| patterns.insert(pattern)) {
        Some("a destination may be in one route only; relay.smart_host is the route for \"*\"")
    } else if !route.source_pool.iter().all(is_pool) {
        Some("source_pool must be the name of one of relay.pools")
    } else {
        find_fault_of_hosts(route)
    }
}

fn find_fault_of_hosts(route: &Route) -> Option<&'static str> {
    let is_loopback = route.hosts.iter().all(NamedHost::is_loopback);
    if !route.hosts.iter().all(NamedHost::is_right) {
        Some("host must be a host name or an IP address, and port from 1 to 65535")
    } else if route.user.is_some() != route.password_file.is_some() {
        Some("set both or neither of user and password_file")
    } else if route.user.is_some() && route.hosts.is_empty() {
        Some("a password needs named hosts: set hosts")
    } else if route.user.is_some() && !route.tls().guards_password(is_loopback) {
        Some("a password needs verified TLS: set tls to starttls or implicit")
    } else if route.hosts.is_empty() && route.tls() == TlsMode::Implicit {
        Some("MX hosts do not support implicit TLS: set tls to starttls")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use std::path::Path;

    #[test]
    fn a_host_may_have_a_port() {
        for (text, host, port) in [
            ("smtp.example.net", "smtp.example.net", None),
            ("smtp.example.net:25", "smtp.example.net", Some(25)),
            ("192.0.2.1:2525", "192.0.2.1", Some(2525)),
            ("[2001:db8::1]:25", "2001:db8::1", Some(25)),
            ("[::1]", "::1", None),
        ] {
            let named: NamedHost = text.parse().unwrap();
            assert_eq!((named.host.as_str(), named.port), (host, port), "{text}");
        }
        for bad in ["", ":25", "a b", "a:0", "a:99999", "a:b", "::1", "[::1", "[a]:25", "[::1]25", "1.2.3"] {
            assert!(bad.parse::<NamedHost>().is_err(), "{bad}");
        }
        assert_eq!(Endpoint { host: "::1".into(), port: 25 }.to_string(), "[::1]:25");
    }

    #[test]
    fn port_and_tls_have_defaults_that_fit_together() {
        use TlsMode::{Implicit, Opportunistic, Starttls};
        for (hosts, tls, mode, ports) in [
            (r#"["a.b"]"#, "", Starttls, &[587][..]),
            (r#"["a.b:465"]"#, "", Implicit, &[465]),
            (r#"["a.b"]"#, "tls = \"implicit\"", Implicit, &[465]),
            (r#"["a.b:25", "a.c"]"#, "tls = \"implicit\"", Implicit, &[25, 465]),
            (r#"["a.b:465", "a.c"]"#, "", Starttls, &[465, 587]),
            (r#"["a.b:465"]"#, "tls = \"starttls\"", Starttls, &[465]),
            ("[]", "", Opportunistic, &[]),
        ] {
            let route: Route =
                toml::from_str(&format!("destinations = [\"*\"]\nhosts = {hosts}\n{tls}")).unwrap();
            let found: Vec<u16> = route.endpoints().iter().map(|endpoint| endpoint.port).collect();
            assert_eq!((route.tls(), found.as_slice()), (mode, ports), "{hosts} {tls}");
        }
        for (text, mode, port) in
            [("", Starttls, 587), ("tls = \"implicit\"", Implicit, 465), ("port = 465", Implicit, 465)]
        {
            let host: PlatformSmartHost = toml::from_str(&format!("host = \"a.b\"\n{text}")).unwrap();
            let route = host.route();
            assert_eq!((route.tls(), route.endpoints()[0].port), (mode, port), "{text}");
        }
    }

    #[test]
    fn a_password_needs_checked_tls_or_a_loopback_address() {
        let refusal = |host: &str, tls: &str| {
            let login = format!("tls = \"{tls}\"\nuser = \"u\"\npassword_file = \"f\"\n");
            let texts = [
                format!("[relay.smart_host]\nhost = \"{host}\"\n{login}"),
                format!("[[relay.routes]]\ndestinations = [\"*\"]\nhosts = [\"[::1]\", \"{host}\"]\n{login}"),
            ];
            texts.map(|text| Config::parse(&text, Path::new("test.toml")).err().map(|e| e.to_string()))
        };
        for (host, tls) in [
            ("a.b", "none"),
            ("192.0.2.1", "none"),
            ("localhost", "none"),
            ("a.b", "opportunistic"),
            ("127.0.0.1", "opportunistic"),
        ] {
            for told in refusal(host, tls) {
                assert!(told.is_some_and(|told| told.contains("needs verified TLS")), "{host} {tls}");
            }
        }
        for (host, tls) in [("a.b", "implicit"), ("a.b", "starttls"), ("127.0.0.1", "none")] {
            assert_eq!(refusal(host, tls), [None, None], "{host} {tls}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_told_with_its_key() {
        const SOURCE: &str = "[[relay.sources]]\nname = \"a\"\n";
        const POOL: &str = "[[relay.pools]]\nname = \"p\"\nsources = [\"a\"]\n";
        let route = |rest: &str| format!("[[relay.routes]]\ndestinations = [\"a.b\"]\n{rest}\n");
        for (text, key, part) in [
            (format!("{SOURCE}{SOURCE}"), "relay.sources", "a unique name"),
            (format!("{SOURCE}weight = 0"), "relay.sources", "at least 1"),
            (POOL.into(), "relay.pools", "relay.sources"),
            (format!("{SOURCE}{POOL}{POOL}"), "relay.pools", "a unique name"),
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
            (route("tls = \"implicit\""), "relay.routes", "do not support implicit TLS"),
            (route("source_pool = \"p\""), "relay.routes", "relay.pools"),
            ("[relay.smart_host]\nhost = \"a b\"".into(), "relay.smart_host", "a host name"),
            ("[relay.smart_host]\nhost = \"a\"\nport = 0".into(), "relay.smart_host", "from 1 to 65535"),
            (route("hosts = [\"a b\"]"), "hosts", "is not a host"),
        ] {
            let error = Config::parse(&text, Path::new("test.toml")).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains(part), "{text}: {error}");
        }
    }
}
