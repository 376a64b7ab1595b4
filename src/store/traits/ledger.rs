use std::ops::Range;

use crate::mail::Timestamp;
use crate::model::{Environment, TenantId, UsageInterval};
use crate::store::traits::store_trait;
use crate::store::{
    AppliedBrake, BrakeReading, LimitWarning, Page, QuotaBlock, QuotaWish, Result, UnusedQuota, Usage,
    UsageCounts, UsageFilter, UsageSum, UsedBy,
};

store_trait! {
    /// Usage of tenants, counted in the transaction that causes it; only API requests are counted separately.
    pub trait Ledger {
        /// Usage of a tenant in the hours or days that begin at `from` or later and before `to`, in order, without those that
        /// have none. Hours are retained for [`USAGE_HOURS_LIFETIME`](crate::store::USAGE_HOURS_LIFETIME).
        async fn usage(
            &self,
            tenant: TenantId,
            interval: UsageInterval,
            from: Timestamp,
            to: Timestamp,
        ) -> Result<Vec<Usage>>;
        /// Usage of all tenants together in the hours or days that begin at `from` or later and before `to`, in order.
        async fn usage_of_all(&self, interval: UsageInterval, from: Timestamp, to: Timestamp) -> Result<Vec<Usage>>;
        /// Usage in the minutes of `during`, all within the last 24 hours: of a tenant or of all, in order and without
        /// minutes that have none; and since when it is complete. It is in memory.
        fn usage_by_minute(
            &self,
            tenant: Option<TenantId>,
            environment: Environment,
            during: Range<Timestamp>,
        ) -> (Vec<(Timestamp, UsageCounts)>, Timestamp);
        /// Sums of usage of all tenants, also of those that were deleted lately: those with usage, ordered by tenant and group.
        async fn usage_sums(&self, filter: UsageFilter) -> Result<Page<UsageSum>>;
        /// Adds API requests; those of a deleted tenant are dropped.
        async fn count_requests(&self, requests: Vec<(UsedBy, u64)>) -> Result<()>;
        /// Appends the event that a tenant approaches or has reached a send limit, once in a period. Never waits for the disk:
        /// it is dropped if too many are pending.
        fn warn_of_limit(&self, warning: LimitWarning);
        /// The active tenants with brakes, and their live usage in the window, without the hours until the brakes were last
        /// applied.
        async fn brake_readings(&self, now: Timestamp) -> Result<Vec<BrakeReading>>;
        /// Appends the event that brakes are applied. The rates start again with the next hour.
        async fn apply_brake(&self, applied: AppliedBrake) -> Result<()>;
        /// Whether limits hold for several processes together. Then quota is taken from the database before it is used.
        fn shares_quota(&self) -> bool;
        /// Takes quota, if the limit allows what is needed. `None` if what was used before must be told with it. Without other
        /// processes, exactly what is needed is granted. Quota that is lost with an error counts until the end of its period.
        async fn take_quota(&self, wish: QuotaWish) -> Result<Option<QuotaBlock>>;
        /// Gives quota back; also after an error it must not be used any more.
        async fn give_back_quota(&self, unused: Vec<UnusedQuota>) -> Result<()>;
    }
}
