//! Watches what sites say about recipients. A site that says of many living addresses that they are gone has a bad day, and
//! its suppressions are provisional while that lasts. Successes are counted in memory only; whether an address took mail is
//! looked up when a site says that it is gone. A restart forgets the counts, but no suspicion.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;

use parking_lot::Mutex;

use super::manager::QueueManager;
use super::site::Site;
use crate::mail::{Address, SignedDuration, Timestamp};
use crate::model::{DeliveryState, Environment, MessageId, TenantId};
use crate::policy::site_bounces::{GONE_MIN, SiteBounces, Suspicion, TOOK_MAIL_WITHIN};
use crate::store::{RecipientHistory, Reports, Result, SuspiciousSite};
use crate::telemetry::FLOOD;

/// Maximum of sites with counts. Above it, idle sites are forgotten and others are not counted.
const SITES_MAX: usize = 10_000;
/// Time between two searches for idle sites. A search looks at all of them, while the others wait for the lock.
const SWEEP_INTERVAL: SignedDuration = SignedDuration::from_mins(5);
/// The last deliveries to an address among which one must have succeeded.
const EXAMINED_MAX: usize = 50;

/// Final results of live mail of a tenant at a site.
#[derive(Debug)]
pub struct SiteResults {
    /// The tenant. Only its own deliveries prove that an address lives, so that no tenant learns of the mail of another.
    pub tenant_id: TenantId,
    /// How many deliveries the site took or refused.
    pub count: u64,
    /// Addresses of which it said that they are gone.
    pub gone: Vec<Address>,
    /// Only earlier messages prove that an address lives: a server that accepts everything and bounces it later does not.
    pub before: Option<MessageId>,
}

/// The counts of sites.
#[derive(Default)]
pub(super) struct BounceBreaker {
    counts: Mutex<Counts>,
    hasher: RandomState,
}

#[derive(Default)]
struct Counts {
    of_sites: HashMap<Arc<Site>, SiteBounces>,
    /// When idle sites were last searched for.
    swept_at: Option<Timestamp>,
}

impl BounceBreaker {
    /// Changes the counts of a site. `None` if there are too many sites.
    fn with<T>(
        &self,
        site: &Arc<Site>,
        now: Timestamp,
        change: impl FnOnce(&mut SiteBounces) -> T,
    ) -> Option<T> {
        let mut counts = self.counts.lock();
        let Counts { of_sites, swept_at } = &mut *counts;
        if !of_sites.contains_key(site) && of_sites.len() >= SITES_MAX {
            if swept_at.is_none_or(|at| now.duration_since(at).abs() >= SWEEP_INTERVAL) {
                *swept_at = Some(now);
                of_sites.retain(|_, bounces| !bounces.is_idle(now));
            }
            if of_sites.len() >= SITES_MAX {
                return None;
            }
        }
        Some(change(of_sites.entry(Arc::clone(site)).or_default()))
    }
}

impl QueueManager {
    /// Counts results, and makes the suppressions of a site provisional that turns out to be suspicious. To be called after the
    /// results are recorded or on their way: the store also limits suppressions that it writes later.
    pub async fn note_results(&self, site: &Arc<Site>, results: SiteResults) {
        if results.count == 0 {
            return;
        }
        let now = self.clock().now();
        let breaker = &self.breaker;
        breaker.with(site, now, |bounces| bounces.note_results(results.count, now));
        if results.gone.is_empty() {
            return;
        }
        let mut living = 0;
        for address in &results.gone {
            // So many make a site suspicious; more look-ups would hold the connection for nothing.
            if living == GONE_MIN {
                break;
            }
            match self.took_mail(&results, address, now).await {
                Ok(true) => {
                    living += 1;
                    let hash = breaker.hasher.hash_one(address.folded());
                    breaker.with(site, now, |bounces| bounces.note_gone(hash, now));
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(target: FLOOD, %error, "cannot look up whether an address took mail");
                }
            }
        }
        let suspicion = breaker.with(site, now, |bounces| bounces.suspect(now)).flatten();
        if let Some(suspicion) = suspicion
            && let Err(error) = self.suspect(site, suspicion, now).await
        {
            tracing::warn!(target: FLOOD, %error, "cannot make the suppressions of a site provisional; the next bounce retries");
            breaker.with(site, now, SiteBounces::forget_suspicion);
        }
    }

    async fn took_mail(&self, results: &SiteResults, address: &Address, now: Timestamp) -> Result<bool> {
        let since = now.checked_sub(TOOK_MAIL_WITHIN).unwrap_or(Timestamp::MIN);
        let history = RecipientHistory {
            tenant_id: results.tenant_id,
            environment: Environment::Live,
            recipient: address.clone(),
            before: results.before,
            limit: EXAMINED_MAX,
        };
        let finished = self.store().finished_deliveries_to(history).await?;
        Ok(finished.iter().any(|end| end.state == DeliveryState::Delivered && end.ended_at >= since))
    }

    async fn suspect(&self, site: &Site, suspicion: Suspicion, at: Timestamp) -> Result<()> {
        let Suspicion { gone, results, since, until } = suspicion;
        tracing::warn!(
            site = %site.name, gone, results, %until,
            "a site says of addresses that they are gone which took mail within 30 days; its suppressions last 48 hours"
        );
        let (key, name) = (site.key(), site.name.clone());
        let suspicious = SuspiciousSite { site: key, name, gone, results, since, until, at };
        self.store().suspect_site(suspicious).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::config;
    use crate::mail::{DomainName, Host};
    use crate::queue::site::Sites;

    #[test]
    fn above_the_maximum_idle_sites_are_searched_for_every_five_minutes() {
        let sites = Sites::new(&config::Relay::default(), Clock::system());
        let site = |number: usize| {
            sites.provisional(&Host::Domain(DomainName::parse(&format!("{number}.test")).unwrap()))
        };
        let at = |minutes| Timestamp::UNIX_EPOCH + SignedDuration::from_mins(minutes);
        let breaker = BounceBreaker::default();
        let count = |number, minutes| {
            breaker.with(&site(number), at(minutes), |bounces| bounces.note_results(1, at(minutes))).is_some()
        };
        assert!((0..SITES_MAX).all(|number| count(number, 0)));
        assert!(!count(SITES_MAX, 58), "all sites have results of the last hour");
        assert!(count(0, 58));
        assert!(!count(SITES_MAX, 62), "the next search is due in a minute");
        assert!(count(SITES_MAX, 63));
        assert_eq!(breaker.counts.lock().of_sites.len(), 2);
    }

    #[test]
    fn counts_of_a_clock_that_went_back_by_a_day_are_forgotten() {
        let sites = Sites::new(&config::Relay::default(), Clock::system());
        let breaker = BounceBreaker::default();
        let count = |number: usize, hours| {
            let destination = Host::Domain(DomainName::parse(&format!("{number}.test")).unwrap());
            let now = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(hours);
            let site = sites.provisional(&destination);
            breaker.with(&site, now, |bounces| bounces.note_results(1, now)).is_some()
        };
        assert!((0..SITES_MAX).all(|number| count(number, 24)));
        assert!(!count(SITES_MAX, 24), "all sites have results of the last hour");
        assert!(count(SITES_MAX, 0));
    }
}
