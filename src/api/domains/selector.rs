//! The selectors of generated DKIM keys.

use crate::mail::{SignedDuration, Timestamp};
use crate::model::DkimAlgorithm;
use crate::store::DkimKey;

/// The selector of a key that is generated now, like `pb20260131-235959`: a name is never used for a second key, whose
/// record caches might lack. At most 21 octets, for which the name of a domain leaves room.
pub(super) fn selector_of(algorithm: DkimAlgorithm, now: Timestamp) -> String {
    let time = now.strftime("pb%Y%m%d-%H%M%S");
    match algorithm {
        DkimAlgorithm::Rsa => time.to_string(),
        DkimAlgorithm::Ed25519 => format!("{time}-ed"),
    }
}

/// The same of the next second whose selector no key of the domain has: the keys of a new domain may be of this one.
pub(super) fn free_selector(algorithm: DkimAlgorithm, keys: &[DkimKey], now: Timestamp) -> String {
    let mut selectors = (0..).map(|later_s| selector_of(algorithm, now + SignedDuration::from_secs(later_s)));
    let is_free = |selector: &String| keys.iter().all(|key| key.selector != *selector);
    selectors.find(is_free).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::domains::{NAME_OCTETS_MAX, dkim};
    use crate::mail::DomainName;
    use crate::verification::dkim_record_name;

    #[test]
    fn there_is_room_for_the_selector_before_the_longest_domain() {
        let name = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(28)].join(".");
        let name = DomainName::parse(&name).unwrap();
        assert_eq!(name.as_str().len(), NAME_OCTETS_MAX);
        for &algorithm in DkimAlgorithm::ALL {
            let record = dkim_record_name(&selector_of(algorithm, Timestamp::UNIX_EPOCH), &name);
            assert!(record.len() <= dkim::RECORD_NAME_OCTETS_MAX, "{}", record.len());
        }
    }
}
