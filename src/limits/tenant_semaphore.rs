//! A semaphore with a limit for each tenant: a tenant with many requests waits behind its own requests, and only as
//! many as its limit compete with those of other tenants. Imports `model`.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::model::TenantId;

/// For this long after requests of two different tenants, tenants are considered to compete.
const CONTENTION_WINDOW: Duration = Duration::from_secs(5);

/// A semaphore whose permits are shared between tenants.
pub struct TenantSemaphore {
    all: Arc<Semaphore>,
    per_tenant_max: u32,
    /// The factor by which a permit counts against its tenant's limit while tenants compete.
    weight_under_contention: u32,
    contention: Mutex<Contention>,
    /// Semaphores of tenants with permits or waiting requests; the platform (`None`) is one of them.
    by_tenant: Mutex<HashMap<Option<TenantId>, Weak<Semaphore>>>,
}

/// A permit; released on drop.
pub struct TenantPermit {
    _total: OwnedSemaphorePermit,
    /// `None` if it counts for no tenant.
    _tenant: Option<OwnedSemaphorePermit>,
}

/// The holder of the last request, and until when tenants are considered to compete.
#[derive(Default)]
struct Contention {
    /// `None` before the first request; the platform is a holder too.
    last: Option<Option<TenantId>>,
    until: Option<Instant>,
}

/// Which limit is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SemaphoreFull {
    /// The limit of the tenant.
    Tenant,
    /// The total limit.
    Total,
}

impl TenantSemaphore {
    /// A semaphore with a total limit and a limit for each tenant.
    pub fn new(total_max: u32, per_tenant_max: u32) -> Self {
        let per_tenant_max = per_tenant_max.min(total_max);
        Self {
            all: Arc::new(Semaphore::new(total_max as usize)),
            per_tenant_max,
            weight_under_contention: 1,
            contention: Mutex::default(),
            by_tenant: Mutex::default(),
        }
    }

    /// Lowers the limit of a tenant while tenants compete, so that free permits are available to others immediately.
    pub fn with_contended_max(self, per_tenant_max: u32) -> Self {
        Self { weight_under_contention: (self.per_tenant_max / per_tenant_max.max(1)).max(1), ..self }
    }

    /// Waits for a permit.
    ///
    /// # Errors
    /// The semaphore was closed.
    pub async fn acquire(&self, tenant: Option<TenantId>) -> Result<TenantPermit, AcquireError> {
        self.acquire_weighted(tenant, 1).await
    }

    /// Waits for a weighted permit; a weight above the tenant's limit counts as the limit.
    ///
    /// # Errors
    /// The semaphore was closed.
    pub async fn acquire_weighted(
        &self,
        tenant: Option<TenantId>,
        weight: u64,
    ) -> Result<TenantPermit, AcquireError> {
        let weight = u32::try_from(weight).unwrap_or(u32::MAX).min(self.per_tenant_max);
        let own_weight = weight.saturating_mul(self.contention_factor(tenant)).min(self.per_tenant_max);
        // In this order requests wait first for their own tenant's limit, and only a limited number competes for the
        // total.
        let own = self.of(tenant).acquire_many_owned(own_weight).await?;
        Ok(TenantPermit { _total: self.all.clone().acquire_many_owned(weight).await?, _tenant: Some(own) })
    }

    /// Waits for a permit that counts against the total limit only.
    ///
    /// # Errors
    /// The semaphore was closed.
    pub async fn acquire_for_server(&self) -> Result<TenantPermit, AcquireError> {
        Ok(TenantPermit { _total: self.all.clone().acquire_owned().await?, _tenant: None })
    }

    /// Ends all waiting; nobody gets a permit any more.
    pub fn close(&self) {
        self.all.close();
    }

    /// Takes a permit if one is free.
    ///
    /// # Errors
    /// The limit that is reached.
    pub fn try_acquire(&self, tenant: Option<TenantId>) -> Result<TenantPermit, SemaphoreFull> {
        let own = self.of(tenant).try_acquire_owned().map_err(|_| SemaphoreFull::Tenant)?;
        let total = self.all.clone().try_acquire_owned().map_err(|_| SemaphoreFull::Total)?;
        Ok(TenantPermit { _total: total, _tenant: Some(own) })
    }

    /// Whether several tenants had requests lately.
    pub fn is_contended(&self) -> bool {
        self.contention.lock().until.is_some_and(|until| Instant::now() < until)
    }

    fn contention_factor(&self, tenant: Option<TenantId>) -> u32 {
        if self.weight_under_contention == 1 {
            return 1;
        }
        let now = Instant::now();
        let mut contention = self.contention.lock();
        match contention.last.replace(tenant) {
            Some(last) if last != tenant => contention.until = Some(now + CONTENTION_WINDOW),
            Some(_) | None => {}
        }
        if contention.until.is_some_and(|until| now < until) { self.weight_under_contention } else { 1 }
    }

    /// How many requests of a tenant have or wait for a permit.
    pub fn requests_of(&self, tenant: Option<TenantId>) -> usize {
        let by_tenant = self.by_tenant.lock();
        by_tenant.get(&tenant).map_or(0, Weak::strong_count)
    }

    fn of(&self, tenant: Option<TenantId>) -> Arc<Semaphore> {
        let mut by_tenant = self.by_tenant.lock();
        if let Some(found) = by_tenant.get(&tenant).and_then(Weak::upgrade) {
            return found;
        }
        by_tenant.retain(|_, permits| permits.strong_count() > 0);
        let fresh = Arc::new(Semaphore::new(self.per_tenant_max as usize));
        by_tenant.insert(tenant, Arc::downgrade(&fresh));
        fresh
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use proptest::prelude::*;
    use tokio::task::{JoinSet, yield_now};

    use super::*;
    use crate::mail::Timestamp;

    fn tenants(range: Range<usize>) -> Vec<Option<TenantId>> {
        range.map(|n| Some(TenantId::generate(Timestamp::from_second(n as i64).unwrap()))).collect()
    }

    fn block_on<T>(task: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(task)
    }

    #[test]
    fn a_tenant_alone_has_more_permits_than_under_contention() {
        block_on(async {
            let permits = TenantSemaphore::new(100, 8).with_contended_max(2);
            let [one, other] = tenants(0..2)[..] else { unreachable!() };
            let alone = [(); 8].map(|()| permits.acquire(one));
            let alone = futures_util::future::join_all(alone).await;
            assert!(alone.iter().all(Result::is_ok));
            drop(alone);
            assert!(!permits.is_contended());
            let _of_other = permits.acquire(other).await.unwrap();
            assert!(permits.is_contended());
            let first_two = [permits.acquire(one).await.unwrap(), permits.acquire(one).await.unwrap()];
            assert!(futures_util::FutureExt::now_or_never(permits.acquire(one)).is_none());
            assert!(futures_util::FutureExt::now_or_never(permits.acquire(other)).is_some());
            drop(first_two);
            assert!(futures_util::FutureExt::now_or_never(permits.acquire(one)).is_some());
        });
    }

    /// Counts a permit while it is held, and releases it on drop.
    struct Held<'a> {
        weights: &'a Mutex<HashMap<Option<TenantId>, u64>>,
        tenant: Option<TenantId>,
        weight: u64,
    }

    impl Drop for Held<'_> {
        fn drop(&mut self) {
            *self.weights.lock().get_mut(&self.tenant).unwrap() -= self.weight;
        }
    }

    proptest! {
        #[test]
        fn limits_hold_and_cancelled_waits_lose_no_permit(
            requests in prop::collection::vec((0usize..4, 1u64..9, any::<bool>()), 1..60),
            total_max in 1u32..10,
            per_tenant_max in 1u32..10,
        ) {
            block_on(async {
                let per_tenant_max = per_tenant_max.min(total_max);
                let permits = Arc::new(TenantSemaphore::new(total_max, per_tenant_max));
                let weights = Arc::new(Mutex::new(HashMap::new()));
                let tenants = tenants(0..4);
                let (mut staying, mut leaving) = (JoinSet::new(), Vec::new());
                for (tenant, weight, leaves) in requests {
                    let (permits, weights, tenant) = (permits.clone(), weights.clone(), tenants[tenant]);
                    let request = async move {
                        let _permit = permits.acquire_weighted(tenant, weight).await.unwrap();
                        let weight = weight.min(u64::from(per_tenant_max));
                        *weights.lock().entry(tenant).or_default() += weight;
                        let held = Held { weights: &weights, tenant, weight };
                        let by_tenant: Vec<u64> = weights.lock().values().copied().collect();
                        assert!(by_tenant.iter().all(|&own| own <= u64::from(per_tenant_max)), "{by_tenant:?}");
                        assert!(by_tenant.iter().sum::<u64>() <= u64::from(total_max), "{by_tenant:?}");
                        yield_now().await;
                        drop(held);
                    };
                    if leaves {
                        leaving.push(tokio::spawn(request));
                    } else {
                        staying.spawn(request);
                    }
                }
                yield_now().await;
                leaving.iter().for_each(tokio::task::JoinHandle::abort);
                staying.join_all().await;
                for left in leaving {
                    let _ = left.await;
                }
                assert_eq!(permits.all.available_permits(), total_max as usize);
                assert!(tenants.iter().all(|&tenant| permits.requests_of(tenant) == 0));
            });
        }

        #[test]
        fn no_tenant_waits_behind_the_backlog_of_another(
            backlogs in prop::collection::vec(0usize..30, 1..5),
            total_max in 1u32..5,
            per_tenant_max in 1u32..5,
        ) {
            block_on(async {
                let permits = Arc::new(TenantSemaphore::new(total_max, per_tenant_max));
                let tenants = tenants(0..backlogs.len() + 1);
                let (&newcomer, busy) = tenants.split_last().unwrap();
                let (order, mut served) = tokio::sync::mpsc::unbounded_channel();
                let mut taken = permits.all.acquire_many(total_max).await.unwrap();
                let mut requests = JoinSet::new();
                let waiting = busy.iter().zip(&backlogs).flat_map(|(&tenant, &n)| vec![tenant; n]);
                for tenant in waiting.chain([newcomer]) {
                    let (permits, order) = (permits.clone(), order.clone());
                    requests.spawn(async move {
                        let permit = permits.acquire(tenant).await.unwrap();
                        order.send(tenant).unwrap();
                        drop(permit);
                    });
                    // Each request waits before the next one is made.
                    yield_now().await;
                }
                // One permit at a time: tasks with a permit would otherwise run in any order.
                drop(taken.split(1));
                requests.join_all().await;
                let per_tenant_max = per_tenant_max.min(total_max) as usize;
                let ahead_max: usize = backlogs.iter().map(|&backlog| backlog.min(per_tenant_max)).sum();
                let mut ahead = 0;
                while served.recv().await != Some(newcomer) {
                    ahead += 1;
                }
                assert!(ahead <= ahead_max, "{ahead} of {backlogs:?}");
            });
        }
    }

    #[tokio::test]
    async fn a_weight_above_the_tenants_limit_is_served_alone() {
        let permits = TenantSemaphore::new(8, 4);
        let tenant = tenants(0..1)[0];
        let heavy = permits.acquire_weighted(tenant, u64::MAX).await.unwrap();
        assert_eq!(permits.all.available_permits(), 4);
        drop(heavy);
        assert_eq!(permits.all.available_permits(), 8);
    }

    #[tokio::test]
    async fn a_tenant_competes_with_the_platform_as_with_another_tenant() {
        let permits = TenantSemaphore::new(8, 4).with_contended_max(1);
        let tenant = tenants(0..1)[0];
        for holder in [tenant, None, tenant, None] {
            drop(permits.acquire(holder).await.unwrap());
        }
        let _first = permits.acquire(tenant).await.unwrap();
        assert!(futures_util::FutureExt::now_or_never(permits.acquire(tenant)).is_none());
    }

    #[tokio::test]
    async fn semaphores_of_absent_tenants_are_removed() {
        let permits = TenantSemaphore::new(1, 1);
        for tenant in tenants(0..100) {
            drop(permits.acquire(tenant).await.unwrap());
        }
        assert!(permits.by_tenant.lock().len() <= 1);
    }
}
