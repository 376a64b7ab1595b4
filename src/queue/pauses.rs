//! Pauses and suspensions. Times are in microseconds.
//!
//! Claims skip tenants that are paused or suspended. Mail for a paused destination is among the tenant's other due rows, so
//! the pass that finds it moves it to the end of the pause, or to [`crate::store::OPEN_ENDED_PAUSE_US`]. While all mail is
//! paused, there are no passes over due rows.
//!
//! Pauses hold live mail. Test mail that waits in the hot queue is delivered to the sandbox all the same, because it reaches
//! nobody; its rows do not show their environment, so the others wait.

use std::collections::{HashMap, HashSet};

use crate::mail::Host;
use crate::model::{Environment, QueueFilter, TenantId};
use crate::store::is_held;

#[derive(Default)]
pub(super) struct Pauses {
    /// The end of the pause of all mail.
    everything: Option<i64>,
    /// The end of the last pause of all mail.
    everything_resumed: Option<i64>,
    suspended: HashSet<TenantId>,
    tenants: HashMap<TenantId, i64>,
    /// By destination, for everybody (`None`) or one tenant.
    destinations: HashMap<Host, HashMap<Option<TenantId>, i64>>,
    /// The end of a tenant's last suspension or pause.
    resumed: HashMap<TenantId, i64>,
}

impl Pauses {
    pub(super) fn suspend(&mut self, tenant: TenantId) {
        self.suspended.insert(tenant);
    }

    /// False if the tenant was not suspended.
    pub(super) fn end_suspension(&mut self, tenant: TenantId, at: i64) -> bool {
        let was_suspended = self.suspended.remove(&tenant);
        if was_suspended {
            self.note_resumed(tenant, at);
        }
        was_suspended
    }

    pub(super) fn note_resumed(&mut self, tenant: TenantId, at: i64) {
        self.resumed.insert(tenant, at);
    }

    /// Pauses a part until a time, [`crate::store::OPEN_ENDED_PAUSE_US`] for a pause without an end.
    pub(super) fn pause(&mut self, part: &QueueFilter, until: i64) {
        match (&part.destination, part.tenant_id) {
            (Some(host), tenant) => {
                self.destinations.entry(host.clone()).or_default().insert(tenant, until);
            }
            (None, Some(tenant)) => {
                self.tenants.insert(tenant, until);
            }
            (None, None) => self.everything = Some(until),
        }
    }

    pub(super) fn lift(&mut self, part: &QueueFilter, at: i64) {
        match (&part.destination, part.tenant_id) {
            (Some(host), tenant) => {
                if let Some(of_host) = self.destinations.get_mut(host) {
                    of_host.remove(&tenant);
                    if of_host.is_empty() {
                        self.destinations.remove(host);
                    }
                }
            }
            (None, Some(tenant)) => {
                if self.tenants.remove(&tenant).is_some() {
                    self.note_resumed(tenant, at);
                }
            }
            (None, None) => {
                if self.everything.take().is_some() {
                    self.everything_resumed = Some(at);
                }
            }
        }
    }

    pub(super) fn forget_tenant(&mut self, tenant: TenantId) {
        self.suspended.remove(&tenant);
        self.tenants.remove(&tenant);
        self.resumed.remove(&tenant);
        self.destinations.retain(|_, of_host| {
            of_host.remove(&Some(tenant));
            !of_host.is_empty()
        });
    }

    /// The earliest time at which mail of the tenant may be handed out, apart from a pause of all mail; `None` if there is
    /// none.
    pub(super) fn earliest_of(&self, tenant: TenantId) -> Option<i64> {
        if self.suspended.contains(&tenant) {
            return None;
        }
        match self.tenants.get(&tenant) {
            Some(&until_us) if is_held(until_us) => None,
            until => Some(until.copied().unwrap_or(i64::MIN)),
        }
    }

    /// Whether mail in memory is held.
    pub(super) fn hold(
        &self,
        (tenant, environment): (TenantId, Environment),
        destination: &Host,
        now: i64,
    ) -> bool {
        match environment {
            Environment::Live => {
                self.is_tenant_paused(tenant, now) || self.end_of(tenant, destination, now).is_some()
            }
            Environment::Test => self.suspended.contains(&tenant),
        }
    }

    /// Whether no live mail of the tenant may be handed out.
    fn is_tenant_paused(&self, tenant: TenantId, now: i64) -> bool {
        self.end_of_everything(now).is_some() || self.earliest_of(tenant).is_none_or(|begin| begin > now)
    }

    /// The end of the pause of all mail, if there is one.
    pub(super) fn end_of_everything(&self, now: i64) -> Option<i64> {
        self.everything.filter(|&until| until > now)
    }

    /// The end of the pause of the tenant's mail for a destination.
    pub(super) fn end_of(&self, tenant: TenantId, destination: &Host, now: i64) -> Option<i64> {
        if self.destinations.is_empty() {
            return None;
        }
        let of_host = self.destinations.get(destination)?;
        let ends = [of_host.get(&None), of_host.get(&Some(tenant))];
        ends.into_iter().flatten().copied().max().filter(|&until| until > now)
    }

    /// When a delivery that was due at `due` could first be handed out: later if the tenant was paused or suspended then.
    pub(super) fn effective_due(&self, tenant: TenantId, due: i64) -> i64 {
        let of_tenant = [self.resumed.get(&tenant), self.tenants.get(&tenant)];
        let of_all = [self.everything_resumed.as_ref(), self.everything.as_ref()];
        let ended = of_tenant.into_iter().chain(of_all).flatten().copied();
        ended.max().map_or(due, |resumed| due.max(resumed))
    }
}
