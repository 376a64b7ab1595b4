//! Limits how many rejections of one tenant are recorded, separately for live and test mail. A misconfigured client repeats
//! the same rejection endlessly, which must not fill the disk or load the store.

use crate::mail::Timestamp;
use crate::model::{Environment, LimitPeriod, TenantId};
use crate::policy::fixed_window::FixedWindow;
use parking_lot::Mutex;

/// Rejections recorded per tenant, environment and minute.
const REJECTIONS_PER_MINUTE_MAX: u64 = 60;

/// Counts recorded rejections per tenant, environment and minute.
pub struct RejectionLogLimit(Mutex<FixedWindow<(TenantId, Environment)>>);

impl Default for RejectionLogLimit {
    fn default() -> Self {
        Self(Mutex::new(FixedWindow::new(LimitPeriod::Minute)))
    }
}

impl RejectionLogLimit {
    /// Whether another rejection of a tenant, in an environment, may be recorded; counts it if so. Nodes share the limit in equal
    /// parts.
    pub fn take(&self, account: (TenantId, Environment), nodes: u32, now: Timestamp) -> bool {
        let limit = (REJECTIONS_PER_MINUTE_MAX / u64::from(nodes.max(1))).max(1);
        let mut window = self.0.lock();
        let is_within_limit = window.status(&account, limit, now).remaining() > 0;
        if is_within_limit {
            window.take(account, 1, now);
        }
        is_within_limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_rejections_are_limited_per_tenant_environment_and_minute() {
        use Environment::{Live, Test};
        let at = |second| Timestamp::from_second(second).unwrap();
        let (busy, other) = (TenantId::generate(at(0)), TenantId::generate(at(0)));
        let quota = RejectionLogLimit::default();
        let noted = (0..1000).filter(|_| quota.take((busy, Test), 1, at(59))).count();
        assert_eq!(noted, REJECTIONS_PER_MINUTE_MAX as usize);
        assert!(quota.take((other, Test), 1, at(59)) && !quota.take((busy, Test), 1, at(59)));
        assert!(quota.take((busy, Live), 1, at(59)), "a test does not hide rejections of live mail");
        assert!(quota.take((busy, Test), 1, at(60)));
        let noted = (0..1000).filter(|_| quota.take((other, Live), 3, at(60))).count();
        assert_eq!(noted as u64, REJECTIONS_PER_MINUTE_MAX / 3, "of three nodes");
    }
}
