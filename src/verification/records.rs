//! The DNS records of a sending domain, and the comparison with published ones.

use std::fmt;

use crate::dkim;
use crate::mail::DomainName;
use crate::model::{DkimKeyId, DkimKeyState};
use crate::store::{DkimKey, Domain, RecordCheck, RecordStatus};

use super::{VerificationSettings, spf};

/// The purpose of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "RecordPurpose")]
pub enum Purpose {
    /// Proves that the tenant controls the domain.
    Ownership,
    /// The public half of a DKIM key (RFC 6376 §3.6.1).
    Dkim,
    /// Authorizes the server to send for the domain (RFC 7208).
    Spf,
    /// Tells receivers how to treat mail that fails authentication (RFC 9989).
    Dmarc,
    /// Leads reports about mail of the domain to this server.
    ReturnPath,
}

/// The type of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum RecordType {
    /// TXT.
    Txt,
    /// CNAME.
    Cname,
    /// MX: preference and host.
    Mx,
}

/// A record of another type at the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordAlternative {
    /// The type.
    pub kind: RecordType,
    /// The value.
    pub value: String,
}

/// A record that a domain should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsRecord {
    /// The purpose.
    pub purpose: Purpose,
    /// The type.
    pub kind: RecordType,
    /// The owner name, without a final dot.
    pub name: String,
    /// The recommended value; other values may be valid too.
    pub value: String,
    /// Records that together stand in place of this one.
    pub alternatives: Vec<RecordAlternative>,
    /// Whether verification needs this record.
    pub required: bool,
    /// The DKIM key of the record.
    pub dkim_key: Option<DkimKeyId>,
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ownership => "ownership",
            Self::Dkim => "dkim",
            Self::Spf => "spf",
            Self::Dmarc => "dmarc",
            Self::ReturnPath => "return_path",
        })
    }
}

/// The owner name of a DKIM record (RFC 6376 §3.6.2.1).
pub fn dkim_record_name(selector: &str, domain: &DomainName) -> String {
    format!("{selector}._domainkey.{domain}")
}

/// All records of a domain, in the order in which people enter them. Names are unique. The sandbox domain needs none, but
/// receivers of trial mail look for some of them.
pub fn expected_records(
    domain: &Domain,
    keys: &[DkimKey],
    settings: &VerificationSettings,
) -> Vec<DnsRecord> {
    let (name, spf_include) = (&domain.name, &settings.spf_include);
    let plain = |purpose, name: String, value: String, required| DnsRecord {
        purpose,
        kind: RecordType::Txt,
        name,
        value,
        alternatives: Vec::new(),
        required,
        dkim_key: None,
    };
    let mut records = vec![plain(
        Purpose::Ownership,
        format!("_pillarbox.{name}"),
        format!("pillarbox-verify={}", domain.ownership_token),
        true,
    )];
    let required = required_keys(keys);
    let mut keys: Vec<_> = keys.iter().collect();
    keys.sort_by_key(|key| (key.created_at, key.algorithm));
    records.extend(keys.into_iter().map(|key| DnsRecord {
        dkim_key: Some(key.id),
        ..plain(
            Purpose::Dkim,
            dkim_record_name(&key.selector, name),
            dkim::public_record(key.algorithm, &key.public_key),
            required.contains(&key.id),
        )
    }));
    records.push(plain(Purpose::Spf, name.to_string(), spf_value(domain, spf_include), false));
    records.push(plain(Purpose::Dmarc, format!("_dmarc.{name}"), "v=DMARC1; p=none".into(), false));
    let return_path = settings.return_path.as_ref();
    records.extend(return_path.and_then(|return_path| return_path.expected(domain, spf_include)));
    if domain.tenant_id.is_none() {
        records.retain(|record| matches!(record.purpose, Purpose::Dkim | Purpose::Spf));
        records.iter_mut().for_each(|record| record.required = false);
    }
    records
}

/// The recommended SPF policy: the one that the last check found, if it is sufficient, else one that extends it.
fn spf_value(domain: &Domain, spf_include: &DomainName) -> String {
    let checked = domain.last_check.iter().flat_map(|check| &check.records);
    match checked.into_iter().find(|record| record.name == domain.name.as_str()) {
        Some(RecordCheck { status: RecordStatus::Ok, found, .. }) if found.len() == 1 => found[0].clone(),
        found => {
            let policies = found.map(|record| record.found.as_slice()).unwrap_or_default();
            spf::merged(policies, spf_include)
        }
    }
}

/// The keys whose records are required: active RSA keys, as every verifier supports RSA (RFC 8463 §3). Before any key
/// is active, the newest pending one.
fn required_keys(keys: &[DkimKey]) -> Vec<DkimKeyId> {
    let current = |key: &&DkimKey| key.state != DkimKeyState::Retiring;
    let candidates: Vec<_> = primary_keys(keys).into_iter().filter(current).collect();
    let active: Vec<_> =
        candidates.iter().filter(|key| key.state == DkimKeyState::Active).map(|key| key.id).collect();
    match (active.is_empty(), candidates.last()) {
        (true, Some(newest)) => vec![newest.id],
        _ => active,
    }
}

/// The keys of which at least one must be published: the RSA keys, or all keys if none is RSA. A retiring key counts,
/// because it signs again if the record of its successor is lost.
pub(super) fn primary_keys(keys: &[DkimKey]) -> Vec<&DkimKey> {
    let rsa: Vec<_> = keys.iter().filter(|key| key.algorithm == crate::model::DkimAlgorithm::Rsa).collect();
    if rsa.is_empty() { keys.iter().collect() } else { rsa }
}

/// Compares the TXT records at the name of a record with the expected value. Also returns the relevant TXT records,
/// because the apex of a domain has many unrelated ones. `permits_sources`: whether an SPF policy permits the sources of
/// the server.
pub(super) fn check_texts(
    record: &DnsRecord,
    texts: &[String],
    permits_sources: bool,
) -> (RecordStatus, Vec<String>) {
    match record.purpose {
        Purpose::Ownership => {
            let matches = texts.iter().any(|text| text.trim() == record.value);
            (status_of(matches, texts), texts.to_vec())
        }
        Purpose::Dkim => (check_dkim(&record.value, texts), texts.to_vec()),
        Purpose::Spf => {
            let policies = spf_policies(texts);
            // RFC 7208 §4.5: two policies are an error.
            (status_of(policies.len() == 1 && permits_sources, &policies), policies)
        }
        // Its records have another type.
        Purpose::ReturnPath => (RecordStatus::Pending, Vec::new()),
        Purpose::Dmarc => {
            let policies = dmarc_policies(texts);
            (status_of(policies.len() == 1, &policies), policies)
        }
    }
}

pub(super) fn status_of(matches: bool, found: &[String]) -> RecordStatus {
    match (matches, found) {
        (true, _) => RecordStatus::Ok,
        (false, []) => RecordStatus::Missing,
        (false, _) => RecordStatus::Mismatch,
    }
}

/// The SPF policies among the TXT records of a domain.
pub fn spf_policies(texts: &[String]) -> Vec<String> {
    of_version(texts, "v=spf1")
}

/// The DMARC policies among the TXT records at `_dmarc`.
pub fn dmarc_policies(texts: &[String]) -> Vec<String> {
    of_version(texts, "v=dmarc1")
}

fn of_version(texts: &[String], version: &str) -> Vec<String> {
    texts.iter().filter(|text| has_version(text, version)).cloned().collect()
}

/// Whether a text starts with a version tag, as a whole word.
fn has_version(text: &str, version: &str) -> bool {
    let word = text.trim_start().split([' ', ';', '\t']).next().unwrap_or_default();
    word.eq_ignore_ascii_case(version)
}

/// RFC 6376 §3.6.2.2: the result of several key records at one name is undefined.
fn check_dkim(expected: &str, texts: &[String]) -> RecordStatus {
    let keys: Vec<&String> = texts.iter().filter(|text| tag(text, "p").is_some()).collect();
    match keys[..] {
        [] => status_of(false, texts),
        [key] => status_of(is_same_key(expected, key), texts),
        _ => RecordStatus::Mismatch,
    }
}

/// Compares public key and key type; order, spaces and other tags do not matter (RFC 6376 §3.6.1).
fn is_same_key(expected: &str, found: &str) -> bool {
    let kind = |record| tag(record, "k").unwrap_or_else(|| "rsa".into()).to_ascii_lowercase();
    let version_is_known = tag(found, "v").is_none_or(|v| v.eq_ignore_ascii_case("DKIM1"));
    version_is_known && tag(expected, "p") == tag(found, "p") && kind(expected) == kind(found)
}

/// The value of a tag, without white space (RFC 6376 §3.2).
fn tag(record: &str, name: &str) -> Option<String> {
    record.split(';').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        (key.trim() == name).then(|| value.split_whitespace().collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(purpose: Purpose, value: &str) -> DnsRecord {
        DnsRecord {
            purpose,
            kind: RecordType::Txt,
            name: "n".into(),
            value: value.into(),
            alternatives: Vec::new(),
            required: true,
            dkim_key: None,
        }
    }

    fn status(purpose: Purpose, value: &str, texts: &[&str]) -> RecordStatus {
        check_texts(&record(purpose, value), &texts.iter().map(|&t| t.to_owned()).collect::<Vec<_>>(), true).0
    }

    #[test]
    fn a_dkim_record_is_compared_by_its_key_and_not_by_its_text() {
        use RecordStatus::{Mismatch, Missing, Ok};
        let own = "v=DKIM1; k=rsa; p=AB+C/D==";
        for (texts, expected) in [
            (&["v=DKIM1; k=rsa; p=AB+C/D=="][..], Ok),
            (&["p=AB+C/D=="], Ok),
            (&["v=DKIM1;k=rsa;t=s;p=AB +C\t/D = =;"], Ok),
            (&[" v = DKIM1 ; p = AB+C/D== ; k = RSA"], Ok),
            (&["some other text", "p=AB+C/D=="], Ok),
            (&[], Missing),
            (&["v=DKIM1; k=rsa; p="], Mismatch),
            (&["v=DKIM1; k=rsa; p=ab+c/d=="], Mismatch),
            (&["v=DKIM1; k=ed25519; p=AB+C/D=="], Mismatch),
            (&["v=DKIM2; p=AB+C/D=="], Mismatch),
            (&["p=AB+C/D==", "p=ABCD"], Mismatch),
            (&["something else"], Mismatch),
        ] {
            assert_eq!(status(Purpose::Dkim, own, texts), expected, "{texts:?}");
        }
        assert_eq!(
            status(Purpose::Dkim, "v=DKIM1; k=ed25519; p=AB", &["v=DKIM1; k=ed25519; p=A B"]),
            RecordStatus::Ok
        );
    }

    #[test]
    fn the_ownership_record_is_compared_exactly() {
        let own = "pillarbox-verify=abc";
        assert_eq!(status(Purpose::Ownership, own, &["x", "pillarbox-verify=abc"]), RecordStatus::Ok);
        assert_eq!(status(Purpose::Ownership, own, &["pillarbox-verify=abcd"]), RecordStatus::Mismatch);
        assert_eq!(status(Purpose::Ownership, own, &["pillarbox-verify=ABC"]), RecordStatus::Mismatch);
        assert_eq!(status(Purpose::Ownership, own, &[]), RecordStatus::Missing);
    }

    #[test]
    fn an_spf_policy_is_valid_if_it_is_the_only_one_and_permits_the_server() {
        use RecordStatus::{Mismatch, Missing, Ok};
        let own = "v=spf1 include:mail.host.example ~all";
        for (texts, expected) in [
            (&["v=spf1 include:mail.host.example ~all"][..], Ok),
            (&["google-site=1", "V=SPF1 ip4:192.0.2.1 include:MAIL.host.example. -all"], Ok),
            (&["v=spf1 include:mail.host.example -all", "v=spf1 -all"], Mismatch),
            (&["v=spf10 include:mail.host.example"], Missing),
            (&["google-site=1"], Missing),
        ] {
            assert_eq!(status(Purpose::Spf, own, texts), expected, "{texts:?}");
        }
        let refusing = ["v=spf1 -all".to_owned()];
        assert_eq!(check_texts(&record(Purpose::Spf, own), &refusing, false).0, Mismatch);
    }

    #[test]
    fn every_single_dmarc_policy_is_valid() {
        let own = "v=DMARC1; p=none";
        assert_eq!(status(Purpose::Dmarc, own, &["v=DMARC1;p=reject"]), RecordStatus::Ok);
        assert_eq!(status(Purpose::Dmarc, own, &["v=DMARC1; p=none", "v=DMARC1"]), RecordStatus::Mismatch);
        assert_eq!(status(Purpose::Dmarc, own, &["other"]), RecordStatus::Missing);
    }

    #[test]
    fn unrelated_texts_at_the_apex_are_not_shown() {
        let texts = ["secret-site-token=1".to_owned(), "v=spf1 -all".to_owned()];
        let (_, found) = check_texts(&record(Purpose::Spf, "v=spf1 include:a.b ~all"), &texts, true);
        assert_eq!(found, ["v=spf1 -all"]);
    }
}
