//! Derives the status of a domain from its DNS records. Pure: lookup results and time are arguments.

use crate::mail::{SignedDuration, Timestamp};
use crate::model::{DomainStatus, Verification};
use crate::store::{DkimKey, Domain, DomainCheck, RecordCheck, RecordStatus};

use super::records::{DnsRecord, Purpose, check_texts, primary_keys};
use super::return_path::ReturnHostLookup;

/// Maximum of characters stored of the texts found for one record.
const FOUND_CHARS_MAX: usize = 4096;

/// The result of looking up one expected record.
#[derive(Debug, Clone)]
pub struct RecordLookup {
    /// The expected record.
    pub record: DnsRecord,
    /// The TXT records at its name; `None` if the lookup failed.
    pub texts: Option<Vec<String>>,
    /// Whether it is an SPF policy that permits the sources of the server.
    pub permits_sources: bool,
    /// The records of a return host; `None` if it is none, or the lookup failed.
    pub return_host: Option<ReturnHostLookup>,
}

/// Whether the domain is proved to belong to the tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    Valid,
    Invalid,
    /// The lookup of a decisive record failed.
    Unknown,
}

/// Derives the check of a domain. If a lookup failed, the earlier result of its record stays.
pub fn evaluate(
    domain: &Domain,
    keys: &[DkimKey],
    lookups: &[RecordLookup],
    now: Timestamp,
    verification_grace: SignedDuration,
) -> DomainCheck {
    let checked: Vec<_> = lookups.iter().map(|lookup| check_record(domain, lookup)).collect();
    let proof = domain_proof(keys, lookups, &checked);
    let (status, failing_since) = match domain.verification {
        // The platform verified the domain: its records are shown but do not decide.
        Verification::Manual => (domain.status, None),
        Verification::Dns => next_status(domain, proof, now, verification_grace),
    };
    let mut check = DomainCheck {
        checked_at: now,
        status,
        failing_since,
        records: checked.iter().map(|(check, _)| check.clone()).collect(),
        dkim_seen: Vec::new(),
        dkim_unseen: Vec::new(),
        return_path: None,
        return_path_of: domain.return_path.clone(),
    };
    for (lookup, (result, is_known)) in lookups.iter().zip(&checked) {
        let Some(id) = lookup.record.dkim_key else { continue };
        match (domain.verification, result.status) {
            // The platform verified the domain: receivers may see records that this server cannot look up.
            (Verification::Manual, _) => check.dkim_seen.push(id),
            (Verification::Dns, _) if !is_known => {}
            (Verification::Dns, RecordStatus::Ok) => check.dkim_seen.push(id),
            (Verification::Dns, _) => check.dkim_unseen.push(id),
        }
    }
    check
}

/// The result for one record, and whether its lookup succeeded.
fn check_record(domain: &Domain, lookup: &RecordLookup) -> (RecordCheck, bool) {
    let name = &lookup.record.name;
    let compared = match (lookup.record.purpose, &lookup.texts) {
        (Purpose::ReturnPath, _) => {
            lookup.return_host.as_ref().map(|records| (records.status, records.found.clone()))
        }
        (_, texts) => texts.as_ref().map(|texts| check_texts(&lookup.record, texts, lookup.permits_sources)),
    };
    match compared {
        Some((status, found)) => {
            let found = truncate_texts(found);
            (RecordCheck { name: name.clone(), status, found, is_published: false }, true)
        }
        None => {
            let earlier = domain.last_check.iter().flat_map(|check| &check.records).find(|r| r.name == *name);
            let unknown = || RecordCheck {
                name: name.clone(),
                status: RecordStatus::Pending,
                found: Vec::new(),
                is_published: false,
            };
            // That the servers of the domain have it already is asked again after each look-up that succeeds.
            let kept = |earlier: &RecordCheck| RecordCheck { is_published: false, ..earlier.clone() };
            (earlier.map_or_else(unknown, kept), false)
        }
    }
}

/// The domain is proved by the ownership record and the record of at least one primary DKIM key.
fn domain_proof(keys: &[DkimKey], lookups: &[RecordLookup], checked: &[(RecordCheck, bool)]) -> Proof {
    let primary: Vec<_> = primary_keys(keys).iter().map(|key| key.id).collect();
    let proofs_of = |wanted: &dyn Fn(&DnsRecord) -> bool| -> Vec<Proof> {
        let pairs = lookups.iter().zip(checked).filter(|(lookup, _)| wanted(&lookup.record));
        pairs
            .map(|(_, (check, is_known))| match (is_known, check.status) {
                (false, _) => Proof::Unknown,
                (true, RecordStatus::Ok) => Proof::Valid,
                (true, _) => Proof::Invalid,
            })
            .collect()
    };
    let ownership = best_of(&proofs_of(&|record| record.purpose == Purpose::Ownership));
    let dkim = best_of(&proofs_of(&|record| record.dkim_key.is_some_and(|id| primary.contains(&id))));
    match (ownership, dkim) {
        (Proof::Valid, Proof::Valid) => Proof::Valid,
        (Proof::Invalid, _) | (_, Proof::Invalid) => Proof::Invalid,
        _ => Proof::Unknown,
    }
}

fn best_of(proofs: &[Proof]) -> Proof {
    [Proof::Valid, Proof::Unknown].into_iter().find(|p| proofs.contains(p)).unwrap_or(Proof::Invalid)
}

/// The next status. A verified domain with wrong records stays verified for the grace period.
fn next_status(
    domain: &Domain,
    proof: Proof,
    now: Timestamp,
    verification_grace: SignedDuration,
) -> (DomainStatus, Option<Timestamp>) {
    match (domain.status, proof) {
        (status, Proof::Unknown) => (status, domain.failing_since),
        (_, Proof::Valid) => (DomainStatus::Verified, None),
        (DomainStatus::Verified, Proof::Invalid) => {
            let since = domain.failing_since.unwrap_or(now);
            let is_over = now.duration_since(since) >= verification_grace;
            (if is_over { DomainStatus::Failing } else { DomainStatus::Verified }, Some(since))
        }
        (status, Proof::Invalid) => (status, domain.failing_since),
    }
}

fn truncate_texts(found: Vec<String>) -> Vec<String> {
    let mut left = FOUND_CHARS_MAX;
    let mut truncated = Vec::new();
    for text in found {
        if left == 0 {
            break;
        }
        let text: String = text.chars().take(left).collect();
        left -= text.chars().count();
        truncated.push(text);
    }
    truncated
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::mail::DomainName;
    use crate::model::{DkimAlgorithm, DkimKeyId, DkimKeyState, DomainId, TenantId};
    use crate::verification::{VerificationSettings, expected_records};

    const HOUR: SignedDuration = SignedDuration::from_hours(1);

    fn at(hours: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + HOUR * i32::try_from(hours).unwrap()
    }

    fn domain(status: DomainStatus, failing_since: Option<Timestamp>) -> Domain {
        Domain {
            id: DomainId::generate(at(0)),
            tenant_id: Some(TenantId::generate(at(0))),
            name: DomainName::parse("example.com").unwrap(),
            status,
            verification: Verification::Dns,
            subdomains: true,
            ownership_token: "tok".into(),
            last_check: None,
            failing_since,
            verified_at: None,
            return_path: Default::default(),
            created_at: at(0),
        }
    }

    fn key(selector: &str, algorithm: DkimAlgorithm, state: DkimKeyState) -> DkimKey {
        DkimKey {
            id: DkimKeyId::generate(at(0)),
            domain_id: DomainId::generate(at(0)),
            selector: selector.into(),
            algorithm,
            state,
            public_key: format!("KEY{selector}"),
            has_signed: state != DkimKeyState::Pending,
            retiring_since: (state == DkimKeyState::Retiring).then(|| at(0)),
            created_at: at(0),
        }
    }

    fn settings() -> VerificationSettings {
        let domains = config::Domains::default();
        VerificationSettings::new(&domains, &DomainName::parse("mx.example").unwrap())
    }

    /// `good` are valid records, `unknown` failed lookups; all others are missing.
    fn run(
        domain: &Domain,
        keys: &[DkimKey],
        good: &[&str],
        unknown: &[&str],
        now: Timestamp,
    ) -> DomainCheck {
        let records = expected_records(domain, keys, &settings());
        let lookups: Vec<_> = records
            .into_iter()
            .map(|record| {
                let label = record.name.split('.').next().unwrap().to_owned();
                let texts = if unknown.contains(&label.as_str()) {
                    None
                } else if good.contains(&label.as_str()) {
                    Some(vec![record.value.clone()])
                } else {
                    Some(vec![])
                };
                RecordLookup { record, texts, permits_sources: false, return_host: None }
            })
            .collect();
        evaluate(domain, keys, &lookups, now, HOUR * 72)
    }

    #[test]
    fn the_status_follows_from_the_lookups_and_the_time() {
        use DomainStatus::{Failing, Pending, Taken, Verified};
        let all: &[&str] = &["_pillarbox", "s1"];
        let keys = [key("s1", DkimAlgorithm::Rsa, DkimKeyState::Active)];
        for (before, since, good, unknown, hours, after, since_after) in [
            (Pending, None, all, &[][..], 1, Verified, None),
            (Pending, None, &["_pillarbox"][..], &[][..], 1, Pending, None),
            (Pending, None, &["s1"], &[], 1, Pending, None),
            (Pending, None, &["_pillarbox"], &["s1"], 1, Pending, None),
            (Taken, None, &[], &[], 1, Taken, None),
            (Taken, None, all, &[], 1, Verified, None),
            (Verified, None, all, &[], 1, Verified, None),
            (Verified, None, &["s1"], &[], 5, Verified, Some(at(5))),
            (Verified, Some(at(5)), &["s1"], &[], 76, Verified, Some(at(5))),
            (Verified, Some(at(5)), &["s1"], &[], 77, Failing, Some(at(5))),
            (Verified, Some(at(5)), all, &[], 77, Verified, None),
            (Verified, Some(at(5)), &[], &["_pillarbox", "s1"], 500, Verified, Some(at(5))),
            (Verified, Some(at(5)), &["_pillarbox"], &["s1"], 500, Verified, Some(at(5))),
            (Verified, None, &[], &["_pillarbox"], 9, Verified, Some(at(9))),
            (Failing, Some(at(5)), &[], &[], 500, Failing, Some(at(5))),
            (Failing, Some(at(5)), all, &[], 500, Verified, None),
            (Failing, Some(at(5)), &["s1"], &["_pillarbox"], 500, Failing, Some(at(5))),
        ] {
            let check = run(&domain(before, since), &keys, good, unknown, at(hours));
            let case = format!("{before} {since:?} {good:?} {unknown:?} {hours}");
            assert_eq!((check.status, check.failing_since), (after, since_after), "{case}");
        }
    }

    #[test]
    fn a_key_signs_only_while_its_record_is_published_and_failed_lookups_change_nothing() {
        let keys = [
            key("a", DkimAlgorithm::Rsa, DkimKeyState::Active),
            key("b", DkimAlgorithm::Rsa, DkimKeyState::Pending),
            key("c", DkimAlgorithm::Ed25519, DkimKeyState::Active),
        ];
        let check = run(&domain(DomainStatus::Verified, None), &keys, &["_pillarbox", "b"], &["c"], at(1));
        assert_eq!(check.dkim_seen, [keys[1].id]);
        assert_eq!(check.dkim_unseen, [keys[0].id]);
        assert_eq!(check.failing_since, None, "the new key has taken over");
    }

    #[test]
    fn the_second_algorithm_and_retiring_keys_are_not_required() {
        let keys = [
            key("old", DkimAlgorithm::Rsa, DkimKeyState::Retiring),
            key("rsa", DkimAlgorithm::Rsa, DkimKeyState::Pending),
            key("ed", DkimAlgorithm::Ed25519, DkimKeyState::Pending),
        ];
        let pending = domain(DomainStatus::Pending, None);
        let records = expected_records(&pending, &keys, &settings());
        let required: Vec<_> = records.iter().filter(|r| r.required).map(|r| r.name.as_str()).collect();
        assert_eq!(required, ["_pillarbox.example.com", "rsa._domainkey.example.com"]);
        assert_eq!(run(&pending, &keys, &["_pillarbox", "rsa"], &[], at(1)).status, DomainStatus::Verified);
        assert_eq!(run(&pending, &keys, &["_pillarbox", "old"], &[], at(1)).status, DomainStatus::Verified);
        assert_eq!(run(&pending, &keys, &["_pillarbox", "ed"], &[], at(1)).status, DomainStatus::Pending);
    }

    #[test]
    fn an_unpublished_new_key_does_not_affect_the_domain_and_the_old_key() {
        let keys = [
            key("old", DkimAlgorithm::Rsa, DkimKeyState::Active),
            key("new", DkimAlgorithm::Rsa, DkimKeyState::Pending),
        ];
        let verified = domain(DomainStatus::Verified, None);
        let check = run(&verified, &keys, &["_pillarbox", "old"], &[], at(500));
        assert_eq!((check.status, check.failing_since), (DomainStatus::Verified, None));
        assert_eq!(check.dkim_seen, [keys[0].id]);
        let records = expected_records(&verified, &keys, &settings());
        let required: Vec<_> = records.iter().filter(|r| r.required).map(|r| r.name.as_str()).collect();
        assert_eq!(required, ["_pillarbox.example.com", "old._domainkey.example.com"]);
    }

    #[test]
    fn a_domain_without_any_key_is_never_verified_by_dns() {
        let check = run(&domain(DomainStatus::Pending, None), &[], &["_pillarbox"], &[], at(1));
        assert_eq!(check.status, DomainStatus::Pending);
    }

    #[test]
    fn a_domain_that_the_platform_verified_needs_no_records() {
        let manual =
            Domain { verification: Verification::Manual, ..domain(DomainStatus::Verified, Some(at(1))) };
        let keys = [key("s1", DkimAlgorithm::Rsa, DkimKeyState::Pending)];
        let check = run(&manual, &keys, &[], &[], at(500));
        assert_eq!((check.status, check.failing_since), (DomainStatus::Verified, None));
        assert_eq!(check.dkim_seen, [keys[0].id]);
        assert!(check.records.iter().all(|record| record.status == RecordStatus::Missing));
    }

    #[test]
    fn a_failed_lookup_keeps_the_earlier_result() {
        let mut verified = domain(DomainStatus::Verified, None);
        let keys = [key("s1", DkimAlgorithm::Rsa, DkimKeyState::Active)];
        let mut earlier = run(&verified, &keys, &["_pillarbox", "s1"], &[], at(1));
        earlier.records.iter_mut().for_each(|record| record.is_published = record.status != RecordStatus::Ok);
        verified.last_check = Some(earlier);
        let check = run(&verified, &keys, &[], &["_pillarbox", "s1", "_dmarc"], at(2));
        let of = |name: &str| check.records.iter().find(|r| r.name.starts_with(name)).unwrap().status;
        assert_eq!(of("_pillarbox"), RecordStatus::Ok);
        assert_eq!(of("example.com"), RecordStatus::Missing);
        assert_eq!(of("_dmarc"), RecordStatus::Missing);
        assert!(check.records.iter().all(|record| !record.is_published), "nobody could ask: {check:?}");
    }

    #[test]
    fn the_stored_texts_are_truncated() {
        let truncated = truncate_texts(vec!["é".repeat(4000), "x".repeat(1000), "more".into()]);
        assert_eq!(truncated.iter().map(|text| text.chars().count()).sum::<usize>(), FOUND_CHARS_MAX);
    }
}
