use crate::mail::Timestamp;
use crate::model::{TenantId, UsageInterval};
use crate::store::dispatch::store_trait;
use crate::store::{LimitWarning, Result, Usage, UsedBy};

store_trait! {
    /// What tenants used. Counted in the transaction that causes it, but for requests to the API.
    pub trait Ledger {
        /// What a tenant used in the hours or days that begin at `from` or later and before `to`, in their order; those in
        /// which nothing was used are left out. Hours are kept for [`USAGE_HOURS_LIFETIME`](crate::store::USAGE_HOURS_LIFETIME).
        async fn usage(
            &self,
            tenant: TenantId,
            interval: UsageInterval,
            from: Timestamp,
            to: Timestamp,
        ) -> Result<Vec<Usage>>;
        /// Adds requests to the API; those of a tenant that is gone are dropped.
        async fn count_requests(&self, requests: Vec<(UsedBy, u64)>) -> Result<()>;
        /// Appends the event that a tenant nears a send limit or has reached it, once in a period. Never waits for the
        /// disk: when too many wait to be written, it is dropped.
        fn warn_of_limit(&self, warning: LimitWarning);
    }
}
