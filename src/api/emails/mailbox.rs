//! An address with an optional display name: `bob@example.com` or `Bob <bob@example.com>`; one or a list of them.

use std::fmt;
use std::str::FromStr;

use serde::de::value::SeqAccessDeserializer;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::mail::{Address, AddressError};

const NAME_CHARS_MAX: usize = 200;

/// An address, alone or with a display name: `bob@example.com`, `Bob <bob@example.com>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mailbox {
    /// The display name, without quotes; not empty.
    pub name: Option<String>,
    /// The address.
    pub address: Address,
}

impl schemars::JsonSchema for Mailbox {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Mailbox".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "An address, alone or with a display name in front.",
            "examples": ["bob@example.com", "Bob <bob@example.com>"],
        })
    }
}

/// Why a text is not a mailbox.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MailboxError {
    /// The address is wrong.
    #[error("{0}")]
    Address(#[from] AddressError),
    /// The display name is wrong.
    #[error("a display name has at most {NAME_CHARS_MAX} characters, no control characters and no < or >")]
    Name,
}

impl FromStr for Mailbox {
    type Err = MailboxError;

    /// A name may contain characters that RFC 5322 requires to be quoted. [`super::compose`] quotes it.
    fn from_str(text: &str) -> Result<Self, MailboxError> {
        let text = text.trim();
        let Some((name, address)) = text.strip_suffix('>').and_then(|rest| rest.rsplit_once('<')) else {
            return Ok(Self { name: None, address: Address::parse(text)? });
        };
        let address = Address::parse(address)?;
        let name = unquote(name.trim());
        let is_wrong = |c: char| c.is_control() || matches!(c, '<' | '>');
        if name.chars().count() > NAME_CHARS_MAX || name.chars().any(is_wrong) {
            return Err(MailboxError::Name);
        }
        Ok(Self { name: (!name.is_empty()).then_some(name), address })
    }
}

/// A display name without its quotes.
pub fn unquote(name: &str) -> String {
    let quoted = name.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    match quoted {
        // RFC 5322 §3.2.1.
        Some(inner) => {
            let mut chars = inner.chars();
            let unescaped = || match chars.next()? {
                '\\' => Some(chars.next().unwrap_or('\\')),
                c => Some(c),
            };
            std::iter::from_fn(unescaped).collect()
        }
        None => name.to_owned(),
    }
}

impl<'de> Deserialize<'de> for Mailbox {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Mailboxes: one as a string, or any number in an array.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mailboxes(pub Vec<Mailbox>);

impl schemars::JsonSchema for Mailboxes {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Mailboxes".into()
    }

    fn json_schema(schemas: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let (one, many) = (schemas.subschema_for::<Mailbox>(), schemas.subschema_for::<Vec<Mailbox>>());
        schemars::json_schema!({ "description": "An address, or a list of addresses.", "anyOf": [one, many] })
    }
}

impl<'de> Deserialize<'de> for Mailboxes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;

        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Mailboxes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of strings")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Mailboxes, E> {
                text.parse().map(|mailbox| Mailboxes(vec![mailbox])).map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, elements: A) -> Result<Mailboxes, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(elements)).map(Mailboxes)
            }
        }

        deserializer.deserialize_any(OneOrMany)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_follow_a_display_name() {
        for (text, name, address) in [
            ("a@b.example", None, "a@b.example"),
            (" a@b.example ", None, "a@b.example"),
            ("<a@b.example>", None, "a@b.example"),
            ("Ann <a@b.example>", Some("Ann"), "a@b.example"),
            ("\"Doe, Ann\" <a@b.example>", Some("Doe, Ann"), "a@b.example"),
            ("Doe, Ann <a@b.example>", Some("Doe, Ann"), "a@b.example"),
            ("\"a \\\"b\\\" c\" <a@b.example>", Some("a \"b\" c"), "a@b.example"),
            ("\"a\\, \\\\\" <a@b.example>", Some("a, \\"), "a@b.example"),
            ("Jürgen 🦀 <a@bücher.example>", Some("Jürgen 🦀"), "a@xn--bcher-kva.example"),
            ("\"a@x\" <a..b@docomo.example>", Some("a@x"), "\"a..b\"@docomo.example"),
        ] {
            let mailbox: Mailbox = text.parse().unwrap();
            assert_eq!(mailbox.name.as_deref(), name, "{text}");
            assert_eq!(mailbox.address.to_string(), address, "{text}");
        }
    }

    #[test]
    fn mailboxes_are_one_string_or_an_array() {
        let (a, b): (Mailbox, Mailbox) = ("A <a@b.example>".parse().unwrap(), "b@b.example".parse().unwrap());
        for (text, expected) in [
            (r#""A <a@b.example>""#, vec![a.clone()]),
            (r#"["A <a@b.example>","b@b.example"]"#, vec![a, b]),
            ("[]", vec![]),
        ] {
            assert_eq!(serde_json::from_str::<Mailboxes>(text).unwrap(), Mailboxes(expected), "{text}");
        }
        for text in ["1", "null", "{}", "[1]", r#""a""#, r#"["a@b.example", ["b@b.example"]]"#] {
            assert!(serde_json::from_str::<Mailboxes>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn text_that_could_become_another_field_or_address_is_refused() {
        for text in [
            "",
            "Ann",
            "Ann <>",
            "a@b.example, c@d.example",
            "Ann\r\nBcc: x@y.example <a@b.example>",
            "<x@y.example> <a@b.example>",
            "Ann <a@b.example> x",
            &format!("{} <a@b.example>", "n".repeat(NAME_CHARS_MAX + 1)),
        ] {
            assert!(text.parse::<Mailbox>().is_err(), "{text:?}");
        }
    }
}
