//! The usage of limits in their current window. In a database that several nodes serve, it is that of all of them together:
//! a node takes a block of quota before it uses it, and gives back each second what it has not used. Here, everything counts as
//! used but its unused blocks.

use std::hash::Hash;
use std::ops::DerefMut;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::limits::quota_blocks::{QuotaBlocks, Shortage};
use crate::mail::Timestamp;
use crate::model::LimitPeriod;
use crate::policy::fixed_window::{FixedWindow, QuotaStatus};
use crate::store::{Ledger, QuotaBlock, QuotaWish, Spool, Store, StoreError, UnusedQuota};

/// How often unused blocks are given back.
const SHARE_INTERVAL: Duration = Duration::from_secs(1);

/// The usage of limits of one period.
pub struct SharedWindow<K> {
    window: FixedWindow<K>,
    /// What this node has taken and not used; nothing unless nodes share the limits.
    blocks: QuotaBlocks<K>,
    is_shared: bool,
}

/// Quota that is needed.
#[derive(Debug, Clone)]
pub struct QuotaNeed<K> {
    /// Whose limit it is.
    pub key: K,
    /// The name of the limit in the database.
    pub subject: String,
    /// The limit.
    pub limit: u64,
    /// How much.
    pub count: u64,
    /// When.
    pub at: Timestamp,
}

/// What must be done for a need.
enum Step {
    Nothing,
    Refuse,
    /// Ask the database. If the period is not known, what was used before in it is necessary.
    Ask {
        wish: QuotaWish,
        is_known: bool,
    },
}

impl<K: Copy + Eq + Hash> SharedWindow<K> {
    /// No usage.
    pub fn new(period: LimitPeriod, is_shared: bool) -> Self {
        Self { window: FixedWindow::new(period), blocks: QuotaBlocks::default(), is_shared }
    }

    /// The state of a limit.
    pub fn status(&mut self, key: &K, limit: u64, now: Timestamp) -> QuotaStatus {
        self.window.status(key, limit, now)
    }

    /// Whether any usage is known.
    pub fn contains(&mut self, key: &K, now: Timestamp) -> bool {
        self.window.contains(key, now)
    }

    /// Sets usage from before this process, unless it is known.
    pub fn preload(&mut self, key: K, used: u64, now: Timestamp) {
        self.window.preload(key, used, now);
    }

    /// Forgets usage, so that it must be preloaded again.
    pub fn forget(&mut self, key: &K) {
        self.window.forget(key);
    }

    /// Whether this much can be used without another block.
    pub fn has(&mut self, key: &K, count: u64, now: Timestamp) -> bool {
        !self.is_shared || self.blocks.unused(key, self.window.ends_at(now)) >= count
    }

    /// Counts usage, for which there must be a block.
    pub fn take(&mut self, key: K, count: u64, now: Timestamp) {
        self.window.take(key, count, now);
        if self.is_shared {
            self.blocks.spend(key, self.window.ends_at(now), count);
        }
    }

    /// Takes usage back that was counted at a time, unless its window is over.
    pub fn release(&mut self, key: K, count: u64, taken_at: Timestamp) {
        if self.window.release(&key, count, taken_at) && self.is_shared {
            self.blocks.add(key, self.window.ends_at(taken_at), count);
        }
    }

    /// Takes all unused blocks out, with the ends of their periods.
    pub fn take_unused(&mut self) -> Vec<(K, Timestamp, u64)> {
        self.blocks.take_unused()
    }

    /// Forgets blocks of periods that have ended.
    pub fn forget_ended(&mut self, now: Timestamp) {
        self.blocks.forget_ended(now);
    }

    fn step_for(&mut self, need: &QuotaNeed<K>) -> Step {
        let QuotaNeed { key, limit, count, at, .. } = need;
        let ends_at = self.window.ends_at(*at);
        let needed = match self.blocks.shortage(key, ends_at, *count, *at) {
            Shortage::None => return Step::Nothing,
            Shortage::Refused => return Step::Refuse,
            Shortage::Of(needed) => needed,
        };
        let wish = QuotaWish { subject: need.subject.clone(), ends_at, limit: *limit, needed, used: None };
        Step::Ask { wish, is_known: self.window.contains(key, *at) }
    }

    /// Notes the answer to a wish. False if the limit does not allow it.
    fn note(&mut self, need: &QuotaNeed<K>, wish: &QuotaWish, block: QuotaBlock) -> bool {
        let QuotaNeed { key, at, .. } = *need;
        let ends_at = wish.ends_at;
        if self.window.ends_at(at) != ends_at {
            // The period is over.
            return true;
        }
        self.blocks.add(key, ends_at, block.granted);
        let used = block.taken.saturating_sub(self.blocks.unused(&key, ends_at));
        self.window.set(key, used, at);
        let is_granted = block.granted >= wish.needed;
        if !is_granted {
            self.blocks.note_refusal(key, ends_at, wish.limit.saturating_sub(block.taken), at);
        }
        is_granted
    }
}

/// Takes a block, unless there is enough. Returns false if the limit does not allow this much. `used_before` says what was used
/// in the period with this end, as far as the store knows.
///
/// # Errors
/// The store's.
pub async fn take_block<K, W, F>(
    store: &Store,
    lock: impl Fn() -> W,
    need: QuotaNeed<K>,
    used_before: impl FnOnce(Timestamp) -> F,
) -> Result<bool, StoreError>
where
    K: Copy + Eq + Hash,
    W: DerefMut<Target = SharedWindow<K>>,
    F: Future<Output = Result<u64, StoreError>>,
{
    let step = lock().step_for(&need);
    let (mut wish, is_known) = match step {
        Step::Nothing => return Ok(true),
        Step::Refuse => return Ok(false),
        Step::Ask { wish, is_known } => (wish, is_known),
    };
    let known = if is_known { store.take_quota(wish.clone()).await? } else { None };
    let block = match known {
        Some(block) => block,
        None => {
            wish.used = Some(used_before(wish.ends_at).await?);
            let begun = store.take_quota(wish.clone()).await?;
            begun.ok_or_else(|| StoreError::Failed("the quota of all nodes is not known".to_owned()))?
        }
    };
    Ok(lock().note(&need, &wish, block))
}

/// Limits that nodes share.
pub trait SharedLimits {
    /// What they limit, in a message.
    const WHAT: &'static str;
    /// Takes all unused blocks out.
    fn take_unused(&self) -> Vec<UnusedQuota>;
    /// Forgets blocks of periods that have ended.
    fn forget_ended(&self, now: Timestamp);
}

/// Gives unused blocks back each second while there are other nodes, and at the end. Without shared limits there are none.
pub async fn share_until<L: SharedLimits>(limits: &L, store: &Store, clock: &Clock, stop: CancellationToken) {
    if !store.shares_quota() {
        return stop.cancelled().await;
    }
    while stop.run_until_cancelled(clock.sleep(SHARE_INTERVAL)).await.is_some() {
        match store.nodes().count {
            1 => limits.forget_ended(clock.now()),
            _ => give_back_unused(limits, store).await,
        }
    }
    give_back_unused(limits, store).await;
}

/// Gives unused blocks back.
pub async fn give_back_unused<L: SharedLimits>(limits: &L, store: &Store) {
    let unused = limits.take_unused();
    if !unused.is_empty()
        && let Err(error) = store.give_back_quota(unused).await
    {
        let what = L::WHAT;
        tracing::warn!(%error, "unused quota of {what} was not given back; it counts until the end of its period");
    }
}
