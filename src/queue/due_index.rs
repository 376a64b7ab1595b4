//! When each tenant may next have work in the database that nobody has claimed: the reason why a claim
//! with nothing due reads nothing.

use std::collections::{BTreeSet, HashMap};

use crate::model::TenantId;

/// For each tenant a time, in microseconds, before which the database has nothing to claim.
#[derive(Default)]
pub(super) struct DueIndex {
    times: HashMap<TenantId, i64>,
    order: BTreeSet<(i64, TenantId)>,
}

impl DueIndex {
    /// There may be work of a tenant from `at` on. True if that is earlier than anything known.
    pub(super) fn advance(&mut self, tenant: TenantId, at: i64) -> bool {
        let is_first = self.next().is_none_or(|next| at < next);
        let known = self.times.entry(tenant).or_insert(i64::MAX);
        if at < *known {
            self.order.remove(&(*known, tenant));
            self.order.insert((at, tenant));
            *known = at;
        }
        is_first
    }

    /// Nothing is known of a tenant any more.
    pub(super) fn remove(&mut self, tenant: TenantId) {
        if let Some(at) = self.times.remove(&tenant) {
            self.order.remove(&(at, tenant));
        }
    }

    /// Whether the database may have work of a tenant now or later.
    pub(super) fn has(&self, tenant: TenantId) -> bool {
        self.times.contains_key(&tenant)
    }

    /// The tenants that may have work by `now`, longest due first.
    pub(super) fn due(&self, now: i64) -> impl Iterator<Item = TenantId> {
        self.order.iter().take_while(move |&&(at, _)| at <= now).map(|&(_, tenant)| tenant)
    }

    /// The earliest time at which any tenant may have work.
    pub(super) fn next(&self) -> Option<i64> {
        self.order.first().map(|&(at, _)| at)
    }
}
