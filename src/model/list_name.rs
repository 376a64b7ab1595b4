//! The name that a tenant gives to mail that people can leave, and which mail a suppression stops.

use std::fmt;
use std::str::FromStr;

const OCTETS_MAX: usize = 64;

/// The name of a list, like `news`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListName(Box<str>);

/// The text is not a valid name of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the name of a list has 1 to {OCTETS_MAX} of the characters a-z, 0-9, dot, underscore and hyphen")]
pub struct ListNameError;

impl ListName {
    /// A regular expression of all names.
    pub const PATTERN: &str = "[a-z0-9._-]{1,64}";

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ListName {
    type Err = ListNameError;

    fn from_str(text: &str) -> Result<Self, ListNameError> {
        let is_allowed =
            |octet: u8| octet.is_ascii_lowercase() || octet.is_ascii_digit() || b"._-".contains(&octet);
        let is_valid = (1..=OCTETS_MAX).contains(&text.len()) && text.bytes().all(is_allowed);
        if is_valid { Ok(Self(text.into())) } else { Err(ListNameError) }
    }
}

impl fmt::Display for ListName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl serde::Serialize for ListName {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for ListName {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for ListName {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ListName".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "The name of a list that recipients can leave.",
            "pattern": format!("^{}$", Self::PATTERN),
            "examples": ["news"],
        })
    }
}

/// Which mail a suppression stops.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum SuppressedMail {
    /// All mail.
    #[default]
    All,
    /// The mail of every list.
    EveryList,
    /// The mail of one list.
    List(ListName),
}

impl SuppressedMail {
    /// The text form, in SQL: empty, `*`, or the name.
    pub fn as_str(&self) -> &str {
        match self {
            Self::All => "",
            Self::EveryList => "*",
            Self::List(name) => name.as_str(),
        }
    }
}

impl fmt::Display for SuppressedMail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for SuppressedMail {
    type Err = ListNameError;

    fn from_str(text: &str) -> Result<Self, ListNameError> {
        match text {
            "" => Ok(Self::All),
            "*" => Ok(Self::EveryList),
            name => name.parse().map(Self::List),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_only_characters_that_need_no_quotes_anywhere() {
        for good in ["news", "a", "weekly_2026.en-gb", &"x".repeat(64)] {
            assert!(good.parse::<ListName>().is_ok(), "{good}");
        }
        for bad in ["", "*", "News", "a b", "é", "a/b", &"x".repeat(65)] {
            assert!(bad.parse::<ListName>().is_err(), "{bad}");
        }
        for text in ["", "*", "news"] {
            assert_eq!(text.parse::<SuppressedMail>().unwrap().to_string(), text);
        }
    }
}
