//! How the relay does, site by site, for people who ask why something waits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::route::Lane;
use super::site::Sites;
use super::turns::{LaneState, Turns};
use crate::mail::{Host, TenantId, Timestamp};

/// Domains of one site that are named.
const DOMAINS_SHOWN_MAX: usize = 100;

/// Tells and changes what the relay holds against sites, while it runs. Cheap to clone.
#[derive(Clone)]
pub struct SiteControl {
    pub(super) turns: Arc<Mutex<Turns>>,
    pub(super) sites: Arc<Sites>,
    pub(super) wake: Arc<Notify>,
}

/// A site, or a smart host, that is in use, waited for, or on hold.
#[derive(Debug, Clone)]
pub struct SiteStatus {
    /// The site's name, or the smart host's.
    pub name: String,
    /// Whose smart host it is, or whose sandbox; `None` for what all tenants share.
    pub tenant_id: Option<TenantId>,
    /// Domains that are known to be there, in order; at most a hundred are named.
    pub domains: Vec<String>,
    /// Connections that it may have now.
    pub limit: usize,
    /// Connections that it has.
    pub in_use: usize,
    /// Deliveries that the relay has claimed and that wait for a connection.
    pub waiting: usize,
    /// Nothing is sent before this time.
    pub held_until: Option<Timestamp>,
    /// Why: the reply, or what happened.
    pub reason: Option<String>,
}

impl SiteControl {
    /// Every site that is in use, waited for, or on hold, by name.
    pub fn snapshot(&self) -> Vec<SiteStatus> {
        let lanes = self.turns().lanes(Instant::now());
        let domains = self.sites.domains();
        let mut statuses: Vec<SiteStatus> = lanes.iter().map(|lane| describe(lane, &domains)).collect();
        statuses.sort_by(|a, b| a.name.cmp(&b.name));
        statuses
    }

    /// The site of a destination if it is known to be on hold.
    pub fn hold_of(&self, destination: &Host) -> Option<SiteStatus> {
        let lane = Lane::Mx(self.sites.find(destination)?);
        let state = self.turns().lanes(Instant::now()).into_iter().find(|state| state.lane == lane)?;
        let status = describe(&state, &HashMap::new());
        status.held_until.is_some().then_some(status)
    }

    /// Ends the holds of the site of this name, or of all, before their time.
    pub fn lift_holds(&self, name: Option<&str>) {
        self.turns().lift_holds(|lane| name.is_none_or(|name| name_of(lane) == name));
        self.wake.notify_one();
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What people see of a lane.
pub fn name_of(lane: &Lane) -> String {
    match lane {
        Lane::Mx(site) => site.name.clone(),
        Lane::Sandbox(_) => "sandbox".into(),
        Lane::PlatformSmartHost => "smart host of the platform".into(),
        Lane::TenantSmartHost(_, smart_host) => smart_host.host.clone(),
    }
}

fn describe(state: &LaneState, domains: &HashMap<String, Vec<crate::mail::DomainName>>) -> SiteStatus {
    let tenant_id = match &state.lane {
        Lane::Sandbox(tenant) | Lane::TenantSmartHost(tenant, _) => Some(*tenant),
        Lane::Mx(_) | Lane::PlatformSmartHost => None,
    };
    let mut domains: Vec<String> = match &state.lane {
        Lane::Mx(site) => domains.get(&site.name).into_iter().flatten().map(ToString::to_string).collect(),
        _ => Vec::new(),
    };
    domains.sort();
    domains.truncate(DOMAINS_SHOWN_MAX);
    let held_until = state.hold.as_ref().map(|hold| {
        let left = hold.until.saturating_duration_since(Instant::now());
        Timestamp::now().checked_add(left).unwrap_or(Timestamp::MAX)
    });
    SiteStatus {
        name: name_of(&state.lane),
        tenant_id,
        domains,
        limit: state.limit,
        in_use: state.in_use,
        waiting: state.waiting,
        held_until,
        reason: state.hold.as_ref().map(|hold| hold.reason.clone()),
    }
}
