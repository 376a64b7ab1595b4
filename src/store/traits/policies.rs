use std::future::Future;

use crate::mail::{DomainName, Timestamp};
use crate::store::{Result, StsRecord};

/// What destinations ask of those who send to them, so that a restart forgets none of it.
pub trait Policies {
    /// The MTA-STS policy of a domain, unless it has expired.
    fn sts_policy(
        &self,
        domain: &DomainName,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<StsRecord>>> + Send;
    /// Keeps a policy in the place of the domain's earlier one, and drops expired ones, and of more than
    /// [`STS_POLICIES_MAX`](crate::store::STS_POLICIES_MAX) those that expire first.
    fn keep_sts_policy(&self, record: StsRecord) -> impl Future<Output = Result<()>> + Send;
    /// Policies that were fetched before a time and have not expired: at most `limit`, the oldest first.
    fn stale_sts_policies(
        &self,
        before: Timestamp,
        now: Timestamp,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<StsRecord>>> + Send;
}
