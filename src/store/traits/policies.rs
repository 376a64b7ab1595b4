use crate::mail::{DomainName, Timestamp};
use crate::store::dispatch::store_trait;
use crate::store::{Result, StsRecord};

store_trait! {
    /// What destinations ask of those who send to them, so that a restart forgets none of it.
    pub trait Policies {
        /// The MTA-STS policy of a domain, unless it has expired.
        async fn sts_policy(&self, domain: &DomainName, now: Timestamp) -> Result<Option<StsRecord>>;
        /// Keeps a policy in the place of the domain's earlier one, and drops expired ones, and of more than
        /// [`STS_POLICIES_MAX`](crate::store::STS_POLICIES_MAX) those that expire first.
        async fn store_sts_policy(&self, record: StsRecord) -> Result<()>;
        /// Policies that were fetched before a time and have not expired: at most `limit`, the oldest first.
        async fn stale_sts_policies(
            &self,
            before: Timestamp,
            now: Timestamp,
            limit: usize,
        ) -> Result<Vec<StsRecord>>;
    }
}
