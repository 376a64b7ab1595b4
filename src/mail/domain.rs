//! Domain names, stored as lower-case A-labels, so that equal names have equal octets.

use std::fmt;
use std::str::FromStr;

/// A domain name as A-labels in lower case, without a final dot (RFC 5321 §4.1.2, RFC 5890).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DomainName(String);

/// Why a text is not a domain name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DomainError {
    /// The text or a label is empty.
    #[error("a domain name cannot have an empty label")]
    Empty,
    /// RFC 5321 §4.5.3.1.2: 255 octets; RFC 1035 §2.3.4: 63 for a label.
    #[error("a domain name can have at most 255 octets, and 63 in a label")]
    TooLong,
    /// Other characters than letters, digits and inner hyphens, or invalid IDNA.
    #[error("a domain name can have letters, digits and inner hyphens only")]
    Syntax,
}

impl DomainName {
    /// Parses a name of A-labels or U-labels. A final dot is not accepted (RFC 5321 §2.3.5).
    pub fn parse(text: &str) -> Result<Self, DomainError> {
        // Limits the work of the IDNA conversion. No name of 255 octets needs a longer text.
        if text.len() > 1024 {
            return Err(DomainError::TooLong);
        }
        let ascii = if text.is_ascii() {
            text.to_ascii_lowercase()
        } else {
            idna::domain_to_ascii_strict(text).map_err(|_| DomainError::Syntax)?
        };
        if ascii.len() > 255 {
            return Err(DomainError::TooLong);
        }
        for label in ascii.split('.') {
            check_label(label)?;
        }
        // `1.2.3.4` is an address: RFC 3696 §2 forbids an all-numeric top-level label.
        let top = ascii.rsplit('.').next().unwrap_or_default();
        if top.bytes().all(|b| b.is_ascii_digit()) {
            return Err(DomainError::Syntax);
        }
        Ok(Self(ascii))
    }

    /// The name as A-labels.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as U-labels, for display.
    pub fn to_unicode(&self) -> String {
        idna::domain_to_unicode(&self.0).0
    }

    /// Whether the name has more than one label.
    pub fn is_fully_qualified(&self) -> bool {
        self.0.contains('.')
    }

    /// Whether this name equals `parent` or is below it, by whole labels.
    pub fn is_at_or_under(&self, parent: &DomainName) -> bool {
        self.0.strip_suffix(parent.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }

    /// The name itself, then each parent up to the top-level label.
    pub fn ancestors(&self) -> impl Iterator<Item = &str> {
        std::iter::successors(Some(self.as_str()), |name| name.split_once('.').map(|(_, parent)| parent))
    }
}

fn check_label(label: &str) -> Result<(), DomainError> {
    if label.is_empty() {
        return Err(DomainError::Empty);
    }
    if label.len() > 63 {
        return Err(DomainError::TooLong);
    }
    // RFC 5321 does not allow underscores, but real host names have them, and DNS allows them.
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if !label.bytes().all(is_allowed) || label.starts_with('-') || label.ends_with('-') {
        return Err(DomainError::Syntax);
    }
    Ok(())
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for DomainName {
    type Err = DomainError;
    fn from_str(text: &str) -> Result<Self, DomainError> {
        Self::parse(text)
    }
}

impl schemars::JsonSchema for DomainName {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "DomainName".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "description": "A domain name, as A-labels in lower case.", "examples": ["example.com"] })
    }
}

impl serde::Serialize for DomainName {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for DomainName {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> DomainName {
        DomainName::parse(text).unwrap()
    }

    #[test]
    fn u_labels_a_labels_and_case_compare_equal() {
        assert_eq!(name("Bücher.Example"), name("xn--bcher-kva.EXAMPLE"));
        assert_eq!(name("bücher.example").to_unicode(), "bücher.example");
    }

    #[test]
    fn ownership_is_decided_on_whole_labels() {
        let own = name("example.com");
        assert!(own.is_at_or_under(&own));
        assert!(name("a.b.example.com").is_at_or_under(&own));
        assert!(!name("evilexample.com").is_at_or_under(&own));
        assert!(!name("com").is_at_or_under(&own));
    }

    #[test]
    fn invalid_names_are_refused() {
        for bad in [
            "", ".", "a..b", "a.", ".a", "-a.b", "a-.b", "a b.c", "a@b", "1.2.3.4", "a.b\r\n", "a/b.c",
            "a.\0b",
        ] {
            assert!(DomainName::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(DomainName::parse(&"a".repeat(64)), Err(DomainError::TooLong));
        assert_eq!(DomainName::parse(&["a"; 200].join(".")), Err(DomainError::TooLong));
        assert!(!name("localhost").is_fully_qualified());
    }

    #[test]
    fn ancestors_go_up_label_by_label() {
        assert_eq!(name("a.b.c").ancestors().collect::<Vec<_>>(), ["a.b.c", "b.c", "c"]);
    }
}
