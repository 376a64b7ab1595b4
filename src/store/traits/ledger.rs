use std::future::Future;

use crate::mail::Timestamp;
use crate::model::{TenantId, UsageInterval};
use crate::store::{LimitWarning, Result, Usage, UsedBy};

/// What tenants used. Counted in the transaction that causes it, but for requests to the API.
pub trait Ledger {
    /// What a tenant used in the hours or days that begin at `from` or later and before `to`, in their order; those in
    /// which nothing was used are left out. Hours are kept for [`USAGE_HOURS_LIFETIME`](crate::store::USAGE_HOURS_LIFETIME).
    fn usage(
        &self,
        tenant: TenantId,
        interval: UsageInterval,
        from: Timestamp,
        to: Timestamp,
    ) -> impl Future<Output = Result<Vec<Usage>>> + Send;
    /// Adds requests to the API; those of a tenant that is gone are dropped.
    fn count_requests(&self, requests: Vec<(UsedBy, u64)>) -> impl Future<Output = Result<()>> + Send;
    /// Appends the event that a tenant nears a send limit or has reached it, once in a period. Never waits for the
    /// disk: when too many wait to be written, it is dropped.
    fn warn_of_limit(&self, warning: LimitWarning);
}
