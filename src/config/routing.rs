//! Routing: smart hosts, routes for destinations, sources and pools.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

use super::Relay;
use super::error::InvalidOption;
use crate::mail::DomainName;
use crate::model::{DestinationPattern, DkimPolicy, TlsMode};

/// `[relay.smart_host]`: the short form of a [`Route`] for `*` with one host.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlatformSmartHost {
    /// A host name or an IP address.
    pub host: String,
    /// The port; by default 587, or 465 with implicit TLS.
    pub port: Option<u16>,
    /// `implicit`, `starttls`, `opportunistic` or `none`; by default `starttls`, and `implicit` on port 465.
    pub tls: Option<TlsMode>,
    /// The user name, if the host requires authentication.
    pub user: Option<String>,
    /// The file with the password.
    pub password_file: Option<PathBuf>,
    /// Whether mail to the host may have a reverse path of this server.
    #[serde(default)]
    pub return_path: bool,
}

impl PlatformSmartHost {
    /// The route that this is short for.
    pub fn route(&self) -> Route {
        Route {
            destinations: vec![DestinationPattern::Any],
            hosts: vec![NamedHost { host: self.host.clone(), port: self.port }],
            tls: self.tls,
            user: self.user.clone(),
            password_file: self.password_file.clone(),
            dkim: DkimPolicy::All,
            source_pool: None,
            ehlo_name: None,
            return_path: self.return_path,
        }
    }
}

/// `[[relay.routes]]`: how mail for some destinations is routed. The most specific matching route applies.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Destination domains: `example.com`, `.example.com` for its subdomains, `*` for all.
    pub destinations: Vec<DestinationPattern>,
    /// The hosts to deliver to instead of the destination's MX, in order of preference. The destination's MX if
    /// empty.
    #[serde(default)]
    pub hosts: Vec<NamedHost>,
    /// By default `starttls`, or `implicit` if all hosts are on port 465; without hosts `opportunistic`.
    pub tls: Option<TlsMode>,
    /// The user name, if the hosts require authentication.
    pub user: Option<String>,
    /// The file with the password.
    pub password_file: Option<PathBuf>,
    /// Which of our DKIM signatures the message carries.
    #[serde(default)]
    pub dkim: DkimPolicy,
    /// The source pool; by default the tenant's, else `relay.source_pool`.
    pub source_pool: Option<String>,
    /// The EHLO name; it has priority over the source's.
    pub ehlo_name: Option<DomainName>,
    /// Whether mail to `hosts` may have a reverse path of this server. Mail to the MX always may.
    #[serde(default)]
    pub return_path: bool,
}

impl Route {
    /// The TLS mode, or its default.
    pub fn tls(&self) -> TlsMode {
        let is_implicit = |host: &NamedHost| TlsMode::of_port(host.port) == TlsMode::Implicit;
        self.tls.unwrap_or_else(|| match self.hosts.as_slice() {
            [] => TlsMode::Opportunistic,
            hosts if hosts.iter().all(is_implicit) => TlsMode::Implicit,
            _ => TlsMode::Starttls,
        })
    }

    /// The hosts with their ports, or the default port.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        let port = self.tls().port();
        let endpoint =
            |host: &NamedHost| Endpoint { host: host.host.clone(), port: host.port.unwrap_or(port) };
        self.hosts.iter().map(endpoint).collect()
    }
}

/// A host with its port.
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

/// A host in the configuration, with or without a port: `smtp.example.net`, `smtp.example.net:25`, `192.0.2.1:25`,
/// `[2001:db8::1]:25`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedHost {
    /// A host name or an IP address.
    pub host: String,
    /// Its port, if given.
    pub port: Option<u16>,
}

/// The text is not a [`NamedHost`].
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a host; write it like smtp.example.net, smtp.example.net:25 or [2001:db8::1]:25")]
pub struct NamedHostError(String);

impl NamedHost {
    fn is_valid(&self) -> bool {
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
        let invalid = || NamedHostError(text.to_owned());
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or_else(invalid)?;
                host.parse::<Ipv6Addr>().map_err(|_| invalid())?;
                (host, if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or_else(invalid)?) })
            }
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let port = port.map(str::parse).transpose().map_err(|_| invalid())?;
        let named = Self { host: host.to_owned(), port };
        if named.is_valid() { Ok(named) } else { Err(invalid()) }
    }
}

impl<'de> Deserialize<'de> for NamedHost {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// `[[relay.sources]]`: a source address of outgoing connections. Without an address the operating system chooses.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The name that pools refer to.
    pub name: String,
    /// The source for IPv4 hosts; if only `ipv6` is set, IPv4 hosts are unreachable.
    pub ipv4: Option<Ipv4Addr>,
    /// The source for IPv6 hosts; if only `ipv4` is set, IPv6 hosts are unreachable.
    pub ipv6: Option<Ipv6Addr>,
    /// The EHLO name; `relay.ehlo_name` by default.
    pub ehlo_name: Option<DomainName>,
    /// The share of the pool's connections.
    #[serde(default = "one")]
    pub weight: u32,
}

fn one() -> u32 {
    1
}

/// `[[relay.pools]]`: sources used in rotation by weight.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// The name that tenants and routes refer to.
    pub name: String,
    /// The names of its sources.
    pub sources: Vec<String>,
}

/// The first invalid value.
pub(super) fn find_invalid(relay: &Relay) -> Option<InvalidOption> {
    let smart_host = relay.smart_host.as_ref().map(PlatformSmartHost::route);
    let invalid = smart_host.as_ref().and_then(find_invalid_hosts);
    let invalid = invalid.map(|message| InvalidOption::new("relay.smart_host", message));
    invalid.or_else(|| find_invalid_sources(relay)).or_else(|| {
        let mut patterns = smart_host.iter().flat_map(|route| &route.destinations).collect();
        let message = relay.routes.iter().find_map(|route| find_invalid_route(relay, route, &mut patterns));
        message.map(|message| InvalidOption::new("relay.routes", message))
    })
}

fn find_invalid_sources(relay: &Relay) -> Option<InvalidOption> {
    const NAMES: &str = "each must have a unique name";
    let mut sources = HashSet::new();
    for source in &relay.sources {
        if source.name.is_empty() || !sources.insert(source.name.as_str()) {
            return Some(InvalidOption::new("relay.sources", NAMES));
        }
        if source.weight == 0 {
            return Some(InvalidOption::new(
                "relay.sources",
                "weight must be at least 1; leave the source out of the pool instead",
            ));
        }
    }
    let mut pools = HashSet::new();
    for pool in &relay.pools {
        if pool.name.is_empty() || !pools.insert(pool.name.as_str()) {
            return Some(InvalidOption::new("relay.pools", NAMES));
        }
        if pool.sources.is_empty() || pool.sources.iter().any(|name| !sources.contains(name.as_str())) {
            return Some(InvalidOption::new(
                "relay.pools",
                "sources must name at least one of relay.sources, and nothing else",
            ));
        }
    }
    let is_known = relay.source_pool.as_deref().is_none_or(|name| pools.contains(name));
    (!is_known).then(|| InvalidOption::new("relay.source_pool", "must be the name of one of relay.pools"))
}

fn find_invalid_route<'a>(
    relay: &Relay,
    route: &'a Route,
    patterns: &mut HashSet<&'a DestinationPattern>,
) -> Option<&'static str> {
    let is_pool = |name: &String| relay.pools.iter().any(|pool| pool.name == *name);
    if route.destinations.is_empty() {
        Some("destinations must not be empty; write [\"*\"] for all")
    } else if !route.destinations.iter().all(|pattern| patterns.insert(pattern)) {
        Some("a destination may appear in one route only; relay.smart_host is the route for \"*\"")
    } else if !route.source_pool.iter().all(is_pool) {
        Some("source_pool must be the name of one of relay.pools")
    } else {
        find_invalid_hosts(route)
    }
}

fn find_invalid_hosts(route: &Route) -> Option<&'static str> {
    let is_loopback = route.hosts.iter().all(NamedHost::is_loopback);
    if !route.hosts.iter().all(NamedHost::is_valid) {
        Some("host must be a host name or an IP address, and port from 1 to 65535")
    } else if route.user.is_some() != route.password_file.is_some() {
        Some("user and password_file go together: set both or neither")
    } else if route.user.is_some() && route.hosts.is_empty() {
        Some("a password needs named hosts: set hosts")
    } else if route.user.is_some() && !route.tls().protects_password(is_loopback) {
        Some("a password needs verified TLS: set tls to starttls or implicit")
    } else if route.hosts.is_empty() && route.tls() == TlsMode::Implicit {
        Some("MX hosts do not use implicit TLS: set tls to starttls")
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
    fn port_and_tls_have_matching_defaults() {
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
            for error in refusal(host, tls) {
                assert!(error.is_some_and(|error| error.contains("needs verified TLS")), "{host} {tls}");
            }
        }
        for (host, tls) in [("a.b", "implicit"), ("a.b", "starttls"), ("127.0.0.1", "none")] {
            assert_eq!(refusal(host, tls), [None, None], "{host} {tls}");
        }
    }

    #[test]
    fn an_invalid_value_is_reported_with_its_key() {
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
            (route("tls = \"implicit\""), "relay.routes", "do not use implicit TLS"),
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
