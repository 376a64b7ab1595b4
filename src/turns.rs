//! Turns for what is scarce: so many at the same time in all, and few of them for one tenant, so that who asks for
//! much waits behind its own requests and nobody else does. Of each tenant no more than its few wait with the others
//! for the next one that comes free. Imports `mail` only.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::mail::TenantId;

/// The turns there are.
pub struct Turns {
    all: Semaphore,
    of_one_max: u32,
    /// Of those who have a turn or wait for one; the platform counts as one of them.
    of_each: Mutex<HashMap<Option<TenantId>, Weak<Semaphore>>>,
}

/// The right to go on, given back when dropped.
pub struct Turn<'a> {
    _of_all: SemaphorePermit<'a>,
    _of_one: OwnedSemaphorePermit,
}

impl Turns {
    /// So many in all, and so many for one tenant.
    pub fn new(all_max: u32, of_one_max: u32) -> Self {
        let of_one_max = of_one_max.min(all_max);
        Self { all: Semaphore::new(all_max as usize), of_one_max, of_each: Mutex::default() }
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// None: the turns are never closed.
    pub async fn take(&self, tenant: Option<TenantId>) -> Result<Turn<'_>, AcquireError> {
        self.take_weighed(tenant, 1).await
    }

    /// Waits for a turn that counts as so many; one that weighs more than a tenant may have counts as all of these.
    ///
    /// # Errors
    /// None: the turns are never closed.
    pub async fn take_weighed(
        &self,
        tenant: Option<TenantId>,
        weight: u64,
    ) -> Result<Turn<'_>, AcquireError> {
        let weight = u32::try_from(weight).unwrap_or(u32::MAX).min(self.of_one_max);
        // In this order only one's own requests wait here, and few of anybody's wait for the others.
        let of_one = self.of(tenant).acquire_many_owned(weight).await?;
        Ok(Turn { _of_all: self.all.acquire_many(weight).await?, _of_one: of_one })
    }

    fn of(&self, tenant: Option<TenantId>) -> Arc<Semaphore> {
        let mut of_each = self.of_each.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = of_each.get(&tenant).and_then(Weak::upgrade) {
            return found;
        }
        of_each.retain(|_, turns| turns.strong_count() > 0);
        let fresh = Arc::new(Semaphore::new(self.of_one_max as usize));
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
