//! Back-offs of sites that nodes announce to each other: what one has learnt from a receiver, the others need not try.
//!
//! Only replies of a receiver are announced: that a host cannot be reached may be the network of one node. Rules for each node
//! (`per_node`) and hosts of smart hosts are left out.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::manager::QueueManager;
use super::queue_key::{QueueKey, SourcePoolId};
use super::snapshot::name_of;
use crate::clock::Instant;
use crate::mail::Timestamp;
use crate::policy::site_feedback::SiteFeedback;
use crate::policy::site_limiter::{BACKOFF_MAX, SiteBackoff};
use crate::store::{AnnouncedBackoff, Spool};

/// Maximum of back-offs that wait to be announced; beyond it, other nodes find out by themselves. They are announced together,
/// in a transaction that runs alone, so their number limits what a storm of them costs.
const UNANNOUNCED_MAX: usize = 100;
/// Maximum of announced back-offs of sites that this node does not know yet.
const ANNOUNCED_MAX: usize = 10_000;

/// The destination queues that a back-off is for: those of a site and a source pool.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AnnouncedSite {
    site: String,
    sources: Option<SourcePoolId>,
}

impl AnnouncedSite {
    /// Those of a queue; `None` if its back-offs are not announced.
    fn of(queue_key: &QueueKey) -> Option<Self> {
        let site = queue_key.site().filter(|site| !site.rule.per_node)?;
        Some(Self { site: site.key(), sources: queue_key.sources })
    }

    /// Whether they are those of the site with this key.
    pub(super) fn has_key(&self, key: &str) -> bool {
        self.site == key
    }

    /// Whether a queue is one of them.
    pub fn includes(&self, queue_key: &QueueKey) -> bool {
        queue_key.sources == self.sources && Self::of(queue_key).is_some_and(|of| of == *self)
    }
}

/// Back-offs that other nodes have announced, for sites that this node has no limiter for.
#[derive(Debug, Default)]
pub struct AnnouncedBackoffs(HashMap<AnnouncedSite, SiteBackoff>);

impl AnnouncedBackoffs {
    /// Adds one, unless a longer one is known. If there are too many, it is left out.
    pub fn add(&mut self, site: AnnouncedSite, backoff: SiteBackoff, now: Instant) {
        if self.0.len() >= ANNOUNCED_MAX {
            self.0.retain(|_, backoff| now < backoff.until);
        }
        let is_longest = self.0.get(&site).is_none_or(|known| known.until < backoff.until);
        if is_longest && self.0.len() < ANNOUNCED_MAX {
            self.0.insert(site, backoff);
        }
    }

    /// The active one of a queue.
    pub fn find(&self, queue_key: &QueueKey, now: Instant) -> Option<&SiteBackoff> {
        if self.0.is_empty() {
            return None;
        }
        self.0.get(&AnnouncedSite::of(queue_key)?).filter(|backoff| now < backoff.until)
    }

    /// Forgets that of a site.
    pub fn forget(&mut self, site: &AnnouncedSite) {
        self.0.remove(site);
    }

    /// Forgets all. Returns the sites of those that were active.
    pub fn forget_all(&mut self, now: Instant) -> Vec<AnnouncedSite> {
        self.0.drain().filter(|(_, backoff)| now < backoff.until).map(|(site, _)| site).collect()
    }
}

/// Back-offs to announce, the last one of each site.
#[derive(Debug, Default)]
pub(super) struct Unannounced(HashMap<AnnouncedSite, (Option<Timestamp>, String)>);

impl Unannounced {
    fn add(&mut self, site: AnnouncedSite, until: Option<Timestamp>, reason: String) {
        let has_room = self.0.len() < UNANNOUNCED_MAX;
        match self.0.entry(site) {
            Entry::Occupied(mut entry) => drop(entry.insert((until, reason))),
            Entry::Vacant(entry) if has_room => drop(entry.insert((until, reason))),
            Entry::Vacant(_) => {}
        }
    }
}

impl QueueManager {
    /// Notes a back-off that began by the feedback of a receiver.
    pub(super) fn announce_backoff(
        &self,
        queue_key: &QueueKey,
        feedback: &SiteFeedback,
        backoff: &SiteBackoff,
    ) {
        if matches!(feedback, SiteFeedback::Unreachable { .. }) {
            return;
        }
        let left = backoff.until.saturating_duration_since(self.clock().instant());
        let until = self.clock().now().checked_add(left).unwrap_or(Timestamp::MAX);
        if let Some(site) = AnnouncedSite::of(queue_key) {
            self.note_unannounced(site, Some(until), backoff.reason.clone());
        }
    }

    /// Notes the early end of back-offs: of sites that others have announced, and of queues of this node.
    pub(super) fn announce_ends(&self, announced: Vec<AnnouncedSite>, own: &[QueueKey]) {
        for site in announced.into_iter().chain(own.iter().filter_map(AnnouncedSite::of)) {
            self.note_unannounced(site, None, String::new());
        }
    }

    fn note_unannounced(&self, site: AnnouncedSite, until: Option<Timestamp>, reason: String) {
        if self.store().nodes().count > 1 {
            self.unannounced.lock().add(site, until, reason);
        }
    }

    /// Takes out what the other nodes are to be told.
    pub fn take_unannounced_backoffs(&self) -> Vec<AnnouncedBackoff> {
        let taken = std::mem::take(&mut *self.unannounced.lock()).0.into_iter();
        let announced = taken.map(|(AnnouncedSite { site, sources }, (until, reason))| AnnouncedBackoff {
            site,
            pool: sources.and_then(|SourcePoolId(number)| number.try_into().ok()),
            until,
            reason,
        });
        announced.collect()
    }

    /// Applies a back-off of another node, or its end. It is not announced again.
    pub fn apply_announced_backoff(&self, announced: AnnouncedBackoff) {
        let AnnouncedBackoff { site, pool, until, reason } = announced;
        let sources = pool.and_then(|number| number.try_into().ok()).map(SourcePoolId);
        let site = AnnouncedSite { site, sources };
        let Some(until) = until else {
            self.dispatcher().forget_announced(&site);
            self.lift_backoffs(|queue_key| site.includes(queue_key));
            return;
        };
        let left = until.duration_since(self.clock().now()).try_into().unwrap_or_default();
        let now = self.clock().instant();
        let backoff = SiteBackoff { until: now + BACKOFF_MAX.min(left), reason };
        let effects = self.dispatcher().join_backoff(site, &backoff, now);
        for (queue_key, effect) in effects {
            self.post_backoff(&queue_key, &backoff);
            let waiting = effect.evicted.len();
            tracing::warn!(site = %name_of(&queue_key), reason = %backoff.reason, waiting,
                "the site backs off, as another node has announced");
        }
    }
}
