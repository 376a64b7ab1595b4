//! Addresses (RFC 5321 §4.1.2 `Mailbox`). Parsing and Display preserve the wire form.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use icu_casemap::CaseMapper;
use icu_normalizer::{ComposingNormalizerBorrowed, DecomposingNormalizerBorrowed};

use super::{DomainError, DomainName};

/// An email address: local part and host.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Address {
    local: LocalPart,
    host: Host,
}

/// A local part, unquoted. Display quotes it only where the grammar requires.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct LocalPart(String);

/// The host after the `@`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// A domain name.
    Domain(DomainName),
    /// An address literal, `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 §4.1.3).
    Literal(IpAddr),
}

/// Why a text is not an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// No `@`, or nothing before it.
    #[error("an address must have the form local@domain")]
    Shape,
    /// RFC 5321 §4.5.3.1.1.
    #[error("the part before the @ is longer than 64 octets")]
    LocalTooLong,
    /// Not a dot-atom or quoted string.
    #[error("the part before the @ is not valid; quote it if it has special characters")]
    LocalSyntax,
    /// The host is neither a domain name nor an address literal.
    #[error("the domain is not valid: {0}")]
    Domain(#[from] DomainError),
    /// The literal contains no IPv4 or `IPv6:` address.
    #[error("an address literal must be [IPv4 address] or [IPv6:address]")]
    Literal,
}

impl Address {
    /// Parses `local@host`, with a plain or quoted local part.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let at = find_at(text).ok_or(AddressError::Shape)?;
        let local = LocalPart::parse(&text[..at])?;
        let host = Host::parse(&text[at + 1..])?;
        Ok(Self { local, host })
    }

    /// An address from its parts.
    pub fn new(local: LocalPart, host: Host) -> Self {
        Self { local, host }
    }

    /// The part before the `@`.
    pub fn local(&self) -> &LocalPart {
        &self.local
    }

    /// The part after the `@`.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The domain name, if the host is one.
    pub fn domain(&self) -> Option<&DomainName> {
        match &self.host {
            Host::Domain(name) => Some(name),
            Host::Literal(_) => None,
        }
    }

    /// Whether the address needs SMTPUTF8 (RFC 6531 §3.3). The host is always ASCII.
    pub fn needs_smtputf8(&self) -> bool {
        !self.local.0.is_ascii()
    }

    /// The key of a suppression: equal for addresses that differ only in case or in the composition of characters
    /// (Unicode, canonical caseless matching, D145). No relevant mailbox provider distinguishes `Bob` from `bob`, and a
    /// missed suppression would send unwanted mail.
    pub fn folded(&self) -> String {
        fold_address(&self.to_string())
    }
}

/// Folds an address; see [`Address::folded`].
pub fn fold_address(address: &str) -> String {
    if address.is_ascii() {
        return address.to_ascii_lowercase();
    }
    let decomposed = DecomposingNormalizerBorrowed::new_nfd().normalize(address).into_owned();
    let folded = CaseMapper::new().fold_string(&decomposed).into_owned();
    ComposingNormalizerBorrowed::new_nfc().normalize(&folded).into_owned()
}

/// The `@` that ends the local part: the first one outside a quoted string.
fn find_at(text: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (i, b) in text.bytes().enumerate() {
        match b {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'@' if !quoted => return Some(i),
            _ => {}
        }
    }
    None
}

impl LocalPart {
    /// Parses a dot-string or quoted string. Leading, trailing and double dots are accepted: such addresses exist,
    /// and Display quotes them as the grammar requires.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text.is_empty() {
            return Err(AddressError::Shape);
        }
        // RFC 5321 §4.5.3.1.1 limits the wire form.
        if text.len() > 64 {
            return Err(AddressError::LocalTooLong);
        }
        let unquoted = match text.strip_prefix('"') {
            Some(rest) => unquote(rest).ok_or(AddressError::LocalSyntax)?,
            None if text.chars().all(|c| is_atext(c) || c == '.') => text.to_owned(),
            None => return Err(AddressError::LocalSyntax),
        };
        let local = Self(unquoted);
        if local.to_string().len() > 64 {
            return Err(AddressError::LocalTooLong);
        }
        Ok(local)
    }

    /// The local part without quotes.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn is_dot_string(&self) -> bool {
        self.0.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atext))
    }
}

/// RFC 5321 §4.1.2 `Quoted-string` after its first quote, extended by RFC 6531 §3.3.
fn unquote(text: &str) -> Option<String> {
    let mut unquoted = String::new();
    let mut chars = text.chars();
    loop {
        match chars.next()? {
            '"' => return chars.next().is_none().then_some(unquoted),
            '\\' => unquoted.push(chars.next().filter(|&c| is_qtext(c))?),
            c if is_qtext(c) => unquoted.push(c),
            _ => return None,
        }
    }
}

fn is_qtext(c: char) -> bool {
    c == ' ' || c.is_ascii_graphic() || !(c.is_ascii() || c.is_control())
}

fn is_atext(c: char) -> bool {
    c.is_ascii_alphanumeric()
        || "!#$%&'*+-/=?^_`{|}~".contains(c)
        || !(c.is_ascii() || c.is_control() || c.is_whitespace())
}

impl Host {
    /// Parses a domain name or an address literal.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let Some(rest) = text.strip_prefix('[') else {
            return Ok(Self::Domain(DomainName::parse(text)?));
        };
        let inner = rest.strip_suffix(']').ok_or(AddressError::Literal)?;
        let ip = match inner.get(..5) {
            Some(tag) if tag.eq_ignore_ascii_case("IPv6:") => inner[5..].parse::<Ipv6Addr>().map(IpAddr::V6),
            _ => inner.parse::<Ipv4Addr>().map(IpAddr::V4),
        };
        ip.map(Self::Literal).map_err(|_| AddressError::Literal)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Domain(name) => name.fmt(f),
            Self::Literal(IpAddr::V4(ip)) => write!(f, "[{ip}]"),
            Self::Literal(IpAddr::V6(ip)) => write!(f, "[IPv6:{ip}]"),
        }
    }
}

impl fmt::Display for LocalPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_dot_string() {
            return f.write_str(&self.0);
        }
        f.write_str("\"")?;
        for c in self.0.chars() {
            if c == '"' || c == '\\' {
                f.write_str("\\")?;
            }
            write!(f, "{c}")?;
        }
        f.write_str("\"")
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.local, self.host)
    }
}

impl FromStr for Address {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text)
    }
}

macro_rules! debug_as_display {
    ($($name:ty),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}
debug_as_display!(Address, LocalPart, Host);

impl schemars::JsonSchema for Address {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Address".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "description": "An email address: `local@domain`.", "examples": ["bob@example.com"] })
    }
}

impl serde::Serialize for Address {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Address {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wire(text: &str) -> String {
        Address::parse(text).unwrap().to_string()
    }

    #[test]
    fn the_wire_form_is_quoted_only_where_the_grammar_needs_it() {
        for (read, written) in [
            ("a@b.c", "a@b.c"),
            ("A.b@EXAMPLE.com", "A.b@example.com"),
            (r#""a b"@c.d"#, r#""a b"@c.d"#),
            (r#""plain"@c.d"#, "plain@c.d"),
            (r#""a\"b\\"@c.d"#, r#""a\"b\\"@c.d"#),
            (r#""a@b"@c.d"#, r#""a@b"@c.d"#),
            (r#""a>b"@c.d"#, r#""a>b"@c.d"#),
            ("a..b@docomo.example", r#""a..b"@docomo.example"#),
            ("x@[127.0.0.1]", "x@[127.0.0.1]"),
            ("x@[ipv6:::1]", "x@[IPv6:::1]"),
            ("é@bücher.example", "é@xn--bcher-kva.example"),
            (r#"""@c.d"#, r#"""@c.d"#),
        ] {
            assert_eq!(wire(read), written, "{read}");
        }
    }

    #[test]
    fn addresses_that_differ_in_case_or_composition_have_one_key() {
        for (one, other) in [
            ("Bob@EXAMPLE.com", "bob@example.com"),
            ("JOS\u{c9}@a.b", "jose\u{301}@a.b"),
            ("stra\u{df}e@a.b", "STRASSE@a.b"),
            ("\u{3a3}\u{3c2}@a.b", "\u{3c3}\u{3c3}@a.b"),
            ("\u{1e9b}\u{323}@a.b", "\u{1e69}@a.b"),
            ("\u{1fb4}@a.b", "\u{3b1}\u{301}\u{345}@a.b"),
        ] {
            let key = |text: &str| Address::parse(text).unwrap().folded();
            assert_eq!(key(one), key(other));
            assert_eq!(fold_address(&key(one)), key(one));
        }
        assert_ne!(fold_address("jose@a.b"), fold_address("jos\u{e9}@a.b"));
    }

    #[test]
    fn invalid_addresses_are_refused() {
        for bad in [
            "",
            "@",
            "a",
            "a@",
            "@b.c",
            "a b@c.d",
            "a@b@c",
            r#""a@b.c"#,
            r#""a"b@c.d"#,
            "a@[b]",
            "a@[::1]",
            "a@[127.0.0.1",
            "a\r\n@b.c",
            "a@b.c\r\nRCPT",
            "\"a\r\nb\"@c.d",
            "a\0@b.c",
            "a<b@c.d",
            "a\u{85}@b.c",
        ] {
            assert!(Address::parse(bad).is_err(), "{bad:?}");
        }
        let long = "a".repeat(65) + "@b.c";
        assert_eq!(Address::parse(&long), Err(AddressError::LocalTooLong));
    }

    proptest! {
        #[test]
        fn the_wire_form_of_a_parsed_address_parses_to_the_same_address(text in "\\PC{0,40}@\\PC{0,20}") {
            if let Ok(address) = Address::parse(&text) {
                prop_assert_eq!(Address::parse(&address.to_string()), Ok(address));
            }
        }

        #[test]
        fn any_local_part_can_be_written_and_read(unquoted in "[ -~]{0,30}") {
            let address = Address::new(LocalPart(unquoted), Host::parse("a.b").unwrap());
            let written = address.to_string();
            prop_assume!(written.len() <= 60);
            prop_assert_eq!(Address::parse(&written), Ok(address));
        }
    }
}
