//! ETags (RFC 9110 §8.8.3). The ETag of an object is a hash of its GET response. If the object has fields that change by
//! use, such as `last_used_at`, the ETag starts with a hash without them. `If-None-Match` compares the whole ETag, and
//! `If-Match` only its first part.

use data_encoding::HEXLOWER;
use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue, IF_MATCH};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// Suffix of the ETag of a compressed response: a different encoding needs a different strong ETag (RFC 9110 §8.8.3.3).
const GZIP: &str = "-gzip";
/// Separates the two parts of an ETag: the hash without, and with, the fields that change by use.
const USE_SEPARATOR: char = '.';
/// Octets of a hash in an ETag.
const HASH_OCTETS: usize = 16;

/// An ETag, without quotes.
#[derive(Debug, Clone)]
pub struct ETag(String);

impl ETag {
    /// The ETag of an object in JSON.
    pub fn of(object: &[u8], changed_by_use: &[&str]) -> Self {
        if changed_by_use.is_empty() {
            return Self(hash(object));
        }
        let Ok(mut fields) = serde_json::from_slice::<Map<String, Value>>(object) else {
            return Self(hash(object));
        };
        fields.retain(|field, _| !changed_by_use.contains(&field.as_str()));
        let lasting = serde_json::to_vec(&fields).unwrap_or_default();
        Self(format!("{}{USE_SEPARATOR}{}", hash(&lasting), hash(object)))
    }

    /// The value of the header `ETag`.
    pub fn to_header(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(&format!("\"{}\"", self.0)).ok()
    }

    /// Whether `If-Match` or `If-None-Match` contains this ETag; `None` without the header. `If-Match` uses strong comparison
    /// (RFC 9110 §13.1.1).
    pub fn is_named_by(&self, field: &HeaderName, headers: &HeaderMap) -> Option<bool> {
        let mut values = headers.get_all(field).iter().peekable();
        values.peek()?;
        let is_named = |member: &str| {
            let member = if field == IF_MATCH { member } else { member.strip_prefix("W/").unwrap_or(member) };
            let quoted = member.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
            let is_this = |named: &str| {
                let named = named.strip_suffix(GZIP).unwrap_or(named);
                if field == IF_MATCH { lasting_part(named) == lasting_part(&self.0) } else { named == self.0 }
            };
            member == "*" || quoted.is_some_and(is_this)
        };
        let mut texts = values.filter_map(|value| value.to_str().ok());
        Some(texts.any(|text| text.split(',').map(str::trim).any(is_named)))
    }
}

/// The `ETag` header of the same object in gzip.
pub fn of_gzip(plain: &HeaderValue) -> Option<HeaderValue> {
    let tag = plain.to_str().ok()?.strip_suffix('"')?;
    HeaderValue::from_str(&format!("{tag}{GZIP}\"")).ok()
}

fn hash(octets: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(octets)[..HASH_OCTETS])
}

/// The hash without the fields that change by use.
fn lasting_part(tag: &str) -> &str {
    tag.split_once(USE_SEPARATOR).map_or(tag, |(lasting, _)| lasting)
}

#[cfg(test)]
mod tests {
    use hyper::header::IF_NONE_MATCH;

    use super::*;

    #[test]
    fn if_match_compares_strongly_and_if_none_match_weakly() {
        for (field, value, expected) in [
            (IF_MATCH, "\"abc\"", true),
            (IF_MATCH, "\"x\", \"abc\"", true),
            (IF_MATCH, "\"abc-gzip\"", true),
            (IF_MATCH, "*", true),
            (IF_MATCH, "W/\"abc\"", false),
            (IF_MATCH, "abc", false),
            (IF_MATCH, "\"ab\"", false),
            (IF_MATCH, "", false),
            (IF_NONE_MATCH, "W/\"abc\"", true),
            (IF_NONE_MATCH, "\"x\",W/\"abc-gzip\"", true),
            (IF_NONE_MATCH, "\"x\"", false),
            (IF_NONE_MATCH, "\"abc.1\"", false),
        ] {
            let headers = HeaderMap::from_iter([(field.clone(), value.parse().unwrap())]);
            assert_eq!(ETag("abc".into()).is_named_by(&field, &headers), Some(expected), "{field}: {value}");
        }
        let named = |field: HeaderName, value: &str| {
            let headers = HeaderMap::from_iter([(field.clone(), value.parse().unwrap())]);
            ETag("abc.1".into()).is_named_by(&field, &headers)
        };
        assert_eq!(named(IF_MATCH, "\"abc.2\""), Some(true), "only fields that change by use differ");
        assert_eq!(named(IF_MATCH, "\"abd.1\""), Some(false));
        assert_eq!(named(IF_NONE_MATCH, "\"abc.2\""), Some(false));
        assert_eq!(named(IF_NONE_MATCH, "\"abc.1-gzip\""), Some(true));
        assert_eq!(ETag("abc".into()).is_named_by(&IF_MATCH, &HeaderMap::new()), None);
    }
}
