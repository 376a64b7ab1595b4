//! The selectors of generated DKIM keys.

use crate::mail::{SignedDuration, Timestamp};
use crate::model::DkimAlgorithm;
use crate::store::DkimKey;

/// The selector of a key that is generated now, like `pb20260131-235959`. No second key uses it, because DNS caches could
/// still have the record of the first. It has at most 21 octets; the maximum length of a domain accounts for them.
pub(super) fn selector_of(algorithm: DkimAlgorithm, now: Timestamp) -> String {
    let time = now.strftime("pb%Y%m%d-%H%M%S");
    match algorithm {
        DkimAlgorithm::Rsa => time.to_string(),
        DkimAlgorithm::Ed25519 => format!("{time}-ed"),
    }
}

/// The selector of the first second from now on that no key of the domain uses. The keys of a new domain may use the current
/// second.
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
    fn a_selector_fits_before_the_longest_domain() {
        let name = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(28)].join(".");
        let name = DomainName::parse(&name).unwrap();
        assert_eq!(name.as_str().len(), NAME_OCTETS_MAX);
        for &algorithm in DkimAlgorithm::ALL {
            let record = dkim_record_name(&selector_of(algorithm, Timestamp::UNIX_EPOCH), &name);
            assert!(record.len() <= dkim::RECORD_NAME_OCTETS_MAX, "{}", record.len());
        }
    }
}
