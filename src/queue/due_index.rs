//! When each tenant may next have unclaimed due rows in the database, so that a pass reads nothing if nothing is due.

use std::collections::{BTreeSet, HashMap};

use crate::model::TenantId;

/// For each tenant a time in microseconds before which the database has nothing to claim.
#[derive(Default)]
pub(super) struct DueIndex {
    times: HashMap<TenantId, i64>,
    order: BTreeSet<(i64, TenantId)>,
}

impl DueIndex {
    /// Records that a tenant may have due rows from `at` on. True if that is earlier than all known times.
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

    /// Removes a tenant.
    pub(super) fn remove(&mut self, tenant: TenantId) {
        if let Some(at) = self.times.remove(&tenant) {
            self.order.remove(&(at, tenant));
        }
    }

    /// Whether a tenant has a time.
    pub(super) fn has(&self, tenant: TenantId) -> bool {
        self.times.contains_key(&tenant)
    }

    /// The tenants that may have rows due by `now`, longest due first.
    pub(super) fn due(&self, now: i64) -> impl Iterator<Item = TenantId> {
        self.order.iter().take_while(move |&&(at, _)| at <= now).map(|&(_, tenant)| tenant)
    }

    /// The earliest time of all tenants.
    pub(super) fn next(&self) -> Option<i64> {
        self.order.first().map(|&(at, _)| at)
    }
}
