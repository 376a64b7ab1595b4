//! Turns for what takes long: so many at the same time in all, and few of them for one tenant, so that who asks for
//! much waits behind its own requests and nobody else does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use crate::mail::TenantId;

/// The turns there are.
pub struct Turns {
    all: Arc<Semaphore>,
    of_one_max: usize,
    /// Of those who have a turn or wait for one; the platform counts as one of them.
    of_each: Mutex<HashMap<Option<TenantId>, Weak<Semaphore>>>,
}

/// The right to go on, given back when dropped.
pub struct Turn {
    _of_all: OwnedSemaphorePermit,
    _of_one: OwnedSemaphorePermit,
}

/// Who has the turns, if there is none left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// The one who asks.
    ByOneself,
    /// Everybody together.
    ByAll,
}

impl Turns {
    /// So many in all, and so many for one tenant.
    pub fn new(all_max: usize, of_one_max: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(all_max)), of_one_max, of_each: Mutex::default() }
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// None: the turns are never closed.
    pub async fn take(&self, tenant: Option<TenantId>) -> Result<Turn, AcquireError> {
        // In this order only one's own requests wait here, and few of anybody's wait for the others.
        let of_one = self.of(tenant).acquire_owned().await?;
        Ok(Turn { _of_all: self.all.clone().acquire_owned().await?, _of_one: of_one })
    }

    /// Takes a turn if there is one now.
    pub fn try_take(&self, tenant: Option<TenantId>) -> Result<Turn, Taken> {
        let of_one = self.of(tenant).try_acquire_owned().map_err(|_| Taken::ByOneself)?;
        let of_all = self.all.clone().try_acquire_owned().map_err(|_| Taken::ByAll)?;
        Ok(Turn { _of_all: of_all, _of_one: of_one })
    }

    fn of(&self, tenant: Option<TenantId>) -> Arc<Semaphore> {
        let mut of_each = self.of_each.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = of_each.get(&tenant).and_then(Weak::upgrade) {
            return found;
        }
        of_each.retain(|_, turns| turns.strong_count() > 0);
        let fresh = Arc::new(Semaphore::new(self.of_one_max));
        of_each.insert(tenant, Arc::downgrade(&fresh));
        fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Timestamp;

    #[tokio::test]
    async fn nobody_waits_behind_the_many_requests_of_another() {
        let turns = Arc::new(Turns::new(1, 1));
        let [busy, other] = [(); 2].map(|()| Some(TenantId::generate(Timestamp::UNIX_EPOCH)));
        let (order, mut served) = tokio::sync::mpsc::unbounded_channel();
        let first = turns.take(busy).await.unwrap();
        let mut requests = tokio::task::JoinSet::new();
        for tenant in [busy, busy, busy, other] {
            let (turns, order) = (turns.clone(), order.clone());
            requests.spawn(async move {
                let turn = turns.take(tenant).await.unwrap();
                order.send(tenant).unwrap();
                drop(turn);
            });
            // Each waits before the next one comes.
            tokio::task::yield_now().await;
        }
        drop(first);
        requests.join_all().await;
        let mut place_of_other = 1;
        while served.recv().await != Some(other) {
            place_of_other += 1;
        }
        assert!(place_of_other <= 2, "{place_of_other}");
    }

    #[tokio::test]
    async fn those_who_have_gone_are_forgotten() {
        let turns = Turns::new(1, 1);
        for second in 0..100 {
            let tenant = TenantId::generate(Timestamp::from_second(second).unwrap());
            drop(turns.take(Some(tenant)).await.unwrap());
        }
        assert!(turns.of_each.lock().unwrap().len() <= 1);
    }
}
