//! Patterns of destinations: a domain, its subdomains, or everything.

use std::fmt;
use std::str::FromStr;

use crate::mail::{DomainError, DomainName, Host};

/// A destination pattern. Variants are ordered from specific to general.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DestinationPattern {
    /// `example.com`: this domain only.
    Exactly(DomainName),
    /// `.example.com`: every subdomain, not the domain itself.
    Below(DomainName),
    /// `*`: every destination, address literals included.
    Any,
}

impl DestinationPattern {
    /// How specifically the pattern matches a destination: higher is more specific, `None` for no match.
    pub fn specificity(&self, destination: &Host) -> Option<usize> {
        match (self, destination) {
            (Self::Any, _) => Some(0),
            (_, Host::Literal(_)) => None,
            (Self::Exactly(name), Host::Domain(domain)) => (name == domain).then_some(usize::MAX),
            (Self::Below(name), Host::Domain(domain)) => {
                (name != domain && domain.is_at_or_under(name)).then_some(name.as_str().len())
            }
        }
    }
}

impl FromStr for DestinationPattern {
    type Err = DomainError;

    fn from_str(text: &str) -> Result<Self, DomainError> {
        match (text, text.strip_prefix('.')) {
            ("*", _) => Ok(Self::Any),
            (_, Some(parent)) => DomainName::parse(parent).map(Self::Below),
            (name, None) => DomainName::parse(name).map(Self::Exactly),
        }
    }
}

impl fmt::Display for DestinationPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(name) => name.fmt(f),
            Self::Below(name) => write!(f, ".{name}"),
            Self::Any => f.write_str("*"),
        }
    }
}

impl serde::Serialize for DestinationPattern {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for DestinationPattern {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for DestinationPattern {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "DestinationPattern".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "A domain, `.example.com` for its subdomains, or `*` for every destination.",
            "examples": ["example.com", ".example.com", "*"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_a_domain_its_subdomains_or_everything() {
        let matches = |entry: &str, host: &str| {
            let entry: DestinationPattern = entry.parse().unwrap();
            assert_eq!(entry.to_string().parse(), Ok(entry.clone()));
            entry.specificity(&Host::parse(host).unwrap()).is_some()
        };
        for (entry, host, expected) in [
            ("example.com", "example.com", true),
            ("Example.COM", "example.com", true),
            ("example.com", "a.example.com", false),
            (".example.com", "a.b.example.com", true),
            (".example.com", "example.com", false),
            (".example.com", "evilexample.com", false),
            ("*", "anything.test", true),
            ("*", "[127.0.0.1]", true),
            (".com", "[127.0.0.1]", false),
        ] {
            assert_eq!(matches(entry, host), expected, "{entry} {host}");
        }
        for bad in ["", ".", "a b", "*.example.com", "..a.b"] {
            assert!(bad.parse::<DestinationPattern>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_exact_domain_is_the_most_specific_pattern_and_the_wildcard_the_least() {
        let host = Host::parse("a.b.example.com").unwrap();
        let specificities = ["*", ".com", ".example.com", ".b.example.com", "a.b.example.com"]
            .map(|entry| entry.parse::<DestinationPattern>().unwrap().specificity(&host).unwrap());
        assert!(specificities.is_sorted_by(|a, b| a < b), "{specificities:?}");
    }
}
