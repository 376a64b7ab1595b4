use crate::mail::{DomainName, Timestamp};
use crate::store::traits::store_trait;
use crate::store::{Result, StsRecord};

store_trait! {
    /// MTA-STS policies of destinations, cached across restarts (RFC 8461 §10.2).
    pub trait StsPolicies {
        /// The MTA-STS policy of a domain, unless it has expired.
        async fn sts_policy(&self, domain: &DomainName, now: Timestamp) -> Result<Option<StsRecord>>;
        /// Stores the policy of a domain in place of an earlier one. Deletes expired policies and, beyond
        /// [`STS_POLICIES_MAX`](crate::store::STS_POLICIES_MAX), those that expire first.
        async fn store_sts_policy(&self, record: StsRecord) -> Result<()>;
        /// Unexpired policies that were fetched before a time, or whose lifetime is half over: at most `limit`, the oldest first.
        async fn stale_sts_policies(
            &self,
            before: Timestamp,
            now: Timestamp,
            limit: usize,
        ) -> Result<Vec<StsRecord>>;
    }
}
