//! The record of dns-persist-01 (draft-ietf-acme-dns-persist-01): it names the authority and the account, and is set once.

use std::time::Duration;

use crate::dns::Resolver;
use crate::mail::Timestamp;

/// The type of the challenge.
pub(super) const CHALLENGE_TYPE: &str = "dns-persist-01";
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// What the record of a name must say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PersistRecord {
    /// Its name.
    pub name: String,
    /// The names of the authority, of which the record has one. There is at least one.
    issuers: Vec<String>,
    account_url: String,
}

impl PersistRecord {
    /// `None` without a name of the authority.
    pub(super) fn new(domain: &str, issuers: Vec<String>, account_url: &str) -> Option<Self> {
        let name = format!("_validation-persist.{domain}");
        (!issuers.is_empty()).then(|| Self { name, issuers, account_url: account_url.to_owned() })
    }

    /// The value to publish.
    pub fn value(&self) -> String {
        let issuer = self.issuers.first().map(String::as_str).unwrap_or_default();
        format!("{issuer}; accounturi={}", self.account_url)
    }

    /// Whether the DNS has it.
    pub(super) async fn is_published(&self, resolver: &Resolver, now: Timestamp) -> bool {
        let lookup = tokio::time::timeout(LOOKUP_TIMEOUT, resolver.texts(&self.name));
        match lookup.await {
            Ok(Ok(texts)) => texts.iter().any(|text| self.is_met_by(text, now)),
            Ok(Err(error)) => {
                tracing::debug!(name = self.name, %error, "no record for dns-persist-01");
                false
            }
            Err(_) => false,
        }
    }

    /// Whether a text is such a record: an issue-value (RFC 8659 §4.2) of the authority with the account, still valid.
    pub fn is_met_by(&self, text: &str, now: Timestamp) -> bool {
        let mut parts = text.split(';').map(|part| part.trim_matches([' ', '\t']));
        let issuer = parts.next().unwrap_or_default();
        let is_issuer = |own: &String| same_name(own, issuer);
        let mut parameters = Vec::new();
        for part in parts.filter(|part| !part.is_empty()) {
            let Some((tag, value)) = part.split_once('=') else { return false };
            let (tag, value) = (tag.trim().to_ascii_lowercase(), value.trim());
            if parameters.iter().any(|(other, _)| *other == tag) {
                return false;
            }
            parameters.push((tag, value));
        }
        let value_of =
            |wanted: &str| parameters.iter().find(|(tag, _)| tag == wanted).map(|(_, value)| *value);
        let is_valid = match value_of("persistuntil") {
            None => true,
            Some(until) => until.parse::<i64>().is_ok_and(|until| now.as_second() <= until),
        };
        let is_account = value_of("accounturi") == Some(self.account_url.as_str());
        self.issuers.iter().any(is_issuer) && is_account && is_valid
    }
}

/// Whether two domain names are the same (RFC 1034 §3.1).
fn same_name(one: &str, other: &str) -> bool {
    one.trim_end_matches('.').eq_ignore_ascii_case(other.trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_if_it_names_the_authority_and_the_account_and_is_valid() {
        let issuers = vec!["ca.example".to_owned(), "other.example".to_owned()];
        let record = PersistRecord::new("mail.example.com", issuers, "https://ca.example/acct/1").unwrap();
        assert_eq!(record.name, "_validation-persist.mail.example.com");
        assert_eq!(record.value(), "ca.example; accounturi=https://ca.example/acct/1");
        let now = Timestamp::from_second(1_000).unwrap();
        for (text, expected) in [
            ("ca.example; accounturi=https://ca.example/acct/1", true),
            ("ca.example;accounturi=https://ca.example/acct/1", true),
            (" CA.Example. ; accounturi = https://ca.example/acct/1 ;", true),
            ("other.example; policy=wildcard; accounturi=https://ca.example/acct/1", true),
            ("ca.example; accounturi=https://ca.example/acct/1; persistUntil=1000", true),
            ("ca.example; accounturi=https://ca.example/acct/1; persistUntil=999", false),
            ("ca.example; accounturi=https://ca.example/acct/1; persistUntil=soon", false),
            ("ca.example; accounturi=https://ca.example/acct/2", false),
            ("ca.example; accounturi=https://ca.example/acct/1; accounturi=https://ca.example/acct/1", false),
            ("ca.example", false),
            ("ca.example; accounturi", false),
            ("evil.example; accounturi=https://ca.example/acct/1", false),
            ("; accounturi=https://ca.example/acct/1", false),
            ("", false),
        ] {
            assert_eq!(record.is_met_by(text, now), expected, "{text}");
        }
        assert_eq!(PersistRecord::new("mail.example.com", Vec::new(), "https://ca.example/acct/1"), None);
    }
}
