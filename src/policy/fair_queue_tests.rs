//! The fair queue, by examples and properties.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// Work in which each destination queue has this many slots.
struct Fair {
    fair: FairQueue<u8, u8, u32>,
    per_queue: usize,
}

impl Fair {
    fn push(&mut self, tenant: u8, key: u8, work: u32) {
        self.fair.push(Job { tenant, weight: Weight::default(), key, cost: 1, work });
    }

    fn grant_slot(&mut self) -> Option<Grant<u8, u8, u32>> {
        let per_queue = self.per_queue;
        self.fair.grant_slot(|_, _| per_queue)
    }

    fn reuse_slot(&mut self, key: &u8, holder: &u8) -> Option<(u8, u32)> {
        self.fair.reuse_slot(key, holder, self.per_queue)
    }
}

impl std::ops::Deref for Fair {
    type Target = FairQueue<u8, u8, u32>;
    fn deref(&self) -> &Self::Target {
        &self.fair
    }
}

impl std::ops::DerefMut for Fair {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.fair
    }
}

fn fairness(total: usize, per_queue: usize) -> Fair {
    Fair { fair: FairQueue::new(total), per_queue }
}

/// Destination queue and work of the next grant.
fn grant(fair: &mut Fair) -> Option<(u8, u32)> {
    fair.grant_slot().map(|grant| (grant.key, grant.job))
}

#[test]
fn tenants_are_served_in_rounds_independently_of_their_backlogs() {
    let mut fair = fairness(100, 100);
    (0..50).for_each(|job| fair.push(1, 1, job));
    fair.push(2, 1, 100);
    fair.push(3, 2, 101);
    let firsts: Vec<u32> = (0..4).map(|_| grant(&mut fair).unwrap().1).collect();
    assert_eq!(firsts, [0, 100, 101, 1]);
}

#[test]
fn a_reused_slot_serves_the_tenants_of_its_queue_in_rounds() {
    let mut fair = fairness(100, 1);
    (0..50).for_each(|job| fair.push(1, 1, job));
    assert_eq!(grant(&mut fair), Some((1, 0)));
    fair.push(2, 1, 100);
    assert_eq!(grant(&mut fair), None);
    assert_eq!(fair.reuse_slot(&1, &1), Some((2, 100)));
    assert_eq!(fair.reuse_slot(&1, &2), Some((1, 1)));
}

#[test]
fn a_new_tenant_finds_a_slot_in_a_crowded_queue_and_returns_it() {
    let mut fair = fairness(500, 20);
    (0..100).for_each(|job| fair.push(1, 1, job));
    assert_eq!(std::iter::from_fn(|| fair.grant_slot()).count(), 19);
    fair.push(2, 1, 1000);
    assert_eq!(grant(&mut fair), Some((1, 1000)));
    fair.push(3, 1, 1001);
    assert_eq!(grant(&mut fair), None, "all twenty are taken");
    assert_eq!(fair.reuse_slot(&1, &1), Some((3, 1001)), "the slot passes from tenant 1 to tenant 3");
    assert_eq!(fair.reuse_slot(&1, &2), None, "the one with nineteen gets none of two");
    fair.free(&1, &2);
    assert_eq!(grant(&mut fair), None);
    assert_eq!(fair.reuse_slot(&1, &3), Some((1, 19)), "of its own nineteen one is another's");
    assert_eq!(fair.reuse_slot(&1, &1), Some((1, 20)));
}

#[test]
fn a_full_destination_does_not_block_another() {
    let mut fair = fairness(100, 1);
    fair.push(1, 1, 0);
    fair.push(1, 1, 1);
    fair.push(1, 2, 2);
    assert_eq!([grant(&mut fair), grant(&mut fair), grant(&mut fair)], [Some((1, 0)), Some((2, 2)), None]);
    fair.free(&1, &1);
    assert_eq!(grant(&mut fair), Some((1, 1)));
}

#[test]
fn a_slot_is_returned_when_others_have_none() {
    let mut fair = fairness(1, 1);
    (0..50).for_each(|job| fair.push(1, 1, job));
    assert_eq!(grant(&mut fair), Some((1, 0)));
    assert_eq!(fair.reuse_slot(&1, &1), Some((1, 1)));
    fair.push(2, 2, 100);
    assert_eq!(fair.reuse_slot(&1, &1), None);
    fair.free(&1, &1);
    let both = [(); 2].map(|()| {
        let grant = fair.grant_slot().unwrap();
        fair.free(&grant.key, &grant.tenant);
        grant.key
    });
    assert!(both.contains(&2), "{both:?}");
}

#[test]
fn a_new_tenant_finds_a_slot_while_others_keep_theirs() {
    let mut fair = fairness(500, 20);
    for (tenant, slots_expected) in [(1, 352), (2, 88), (3, 22), (4, 6)] {
        (0..10_000u32).for_each(|n| fair.push(tenant, (n % 250) as u8, n));
        let slots = std::iter::from_fn(|| fair.grant_slot()).count();
        assert_eq!(slots, slots_expected);
    }
    fair.push(9, 255, 0);
    assert_eq!(grant(&mut fair), Some((255, 0)));
}

#[test]
fn a_tenant_above_its_share_yields_its_slot() {
    let mut fair = fairness(16, 16);
    (0..50).for_each(|job| fair.push(1, 1, job));
    assert_eq!(std::iter::from_fn(|| fair.grant_slot()).count(), 12);
    (0..50).for_each(|job| fair.push(2, 2, job));
    assert_eq!(std::iter::from_fn(|| fair.grant_slot()).count(), 3);
    // Until no tenant is above its share.
    for _ in 0..20 {
        if fair.reuse_slot(&1, &1).is_none() {
            fair.free(&1, &1);
            while fair.grant_slot().is_some() {}
        }
    }
    assert_eq!((fair.slots.of(&1), fair.slots.of(&2)), (7, 6));
    assert!(fair.reuse_slot(&1, &1).is_some());
}

#[test]
fn a_weight_is_a_share_of_a_crowded_queue_and_a_batch_costs_its_deliveries() {
    let mut fair = fairness(100, 1);
    for (tenant, weight, cost) in [(1, 10u32, 1), (2, 40, 1), (3, 10, 5)] {
        (0..500).for_each(|work| {
            fair.fair.push(Job { tenant, weight: weight.try_into().unwrap(), key: 1, cost, work })
        });
    }
    let mut holder = fair.grant_slot().unwrap().tenant;
    let mut jobs = [0; 4];
    for _ in 0..260 {
        holder = fair.reuse_slot(&1, &holder).unwrap().0;
        jobs[usize::from(holder)] += 1;
    }
    assert!((48..=52).contains(&jobs[1]) && (198..=202).contains(&jobs[2]), "{jobs:?}");
    assert!((9..=11).contains(&jobs[3]), "{jobs:?}");
}

#[test]
fn work_for_a_full_queue_waits_until_the_queue_is_reopened() {
    let mut fair = fairness(100, 0);
    fair.push(1, 1, 0);
    fair.push(2, 1, 1);
    assert_eq!(grant(&mut fair), None);
    fair.per_queue = 1;
    assert_eq!(grant(&mut fair), None, "the queue was not reopened");
    fair.reopen(&1);
    assert_eq!(grant(&mut fair), Some((1, 0)));
    fair.per_queue = 0;
    assert_eq!(fair.reuse_slot(&1, &1), None, "a slot too many goes back");
    assert_eq!(fair.waiting(&1, &2), (1, 1));
    assert_eq!(fair.evict(&1), [1]);
    fair.free(&1, &1);
    assert!(fair.queues().next().is_none());
}

#[derive(Debug, Clone)]
enum Act {
    Push(u8, u8),
    Next,
    Keep(usize),
    Free(usize),
    /// The slot limit of each queue from now on.
    Limit(usize),
    Evict(u8),
    /// Removes every second unit of work of a tenant.
    Extract(u8, u32),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        (0u8..4, 0u8..4).prop_map(|(tenant, key)| Act::Push(tenant, key)),
        Just(Act::Next),
        any::<usize>().prop_map(Act::Keep),
        any::<usize>().prop_map(Act::Free),
        (0usize..3).prop_map(Act::Limit),
        (0u8..4).prop_map(Act::Evict),
        (0u8..4, 0u32..2).prop_map(|(tenant, part)| Act::Extract(tenant, part)),
    ]
}

proptest! {
    #[test]
    fn no_limit_is_exceeded_and_no_work_is_lost(acts in prop::collection::vec(act(), 0..200)) {
        let mut fair = fairness(5, 2);
        let (mut pushed, mut out) = (0u32, BTreeSet::new());
        let mut tenants = Vec::new();
        // Destination queue and tenant of each slot.
        let mut slots: Vec<(u8, u8)> = Vec::new();
        for act in acts {
            match act {
                Act::Push(tenant, key) => {
                    fair.push(tenant, key, pushed);
                    tenants.push(tenant);
                    pushed += 1;
                }
                Act::Next => {
                    if let Some(Grant { tenant, key, job }) = fair.grant_slot() {
                        prop_assert!(out.insert(job));
                        slots.push((key, tenant));
                    }
                }
                Act::Keep(n) if !slots.is_empty() => {
                    let n = n % slots.len();
                    let (key, holder) = slots[n];
                    if let Some((tenant, job)) = fair.reuse_slot(&key, &holder) {
                        prop_assert!(out.insert(job));
                        slots[n] = (key, tenant);
                    }
                }
                Act::Free(n) if !slots.is_empty() => {
                    let (key, tenant) = slots.swap_remove(n % slots.len());
                    fair.free(&key, &tenant);
                }
                Act::Keep(_) | Act::Free(_) => {}
                Act::Limit(limit) => {
                    fair.per_queue = limit;
                    (0..4).for_each(|key| fair.reopen(&key));
                }
                Act::Evict(key) => out.extend(fair.evict(&key)),
                Act::Extract(tenant, part) => {
                    let is_meant = |job: &u32| job % 2 == part;
                    let waited = (0..pushed).filter(|job| !out.contains(job));
                    let meant: BTreeSet<u32> =
                        waited.filter(|job| tenants[*job as usize] == tenant && is_meant(job)).collect();
                    let extracted: BTreeSet<u32> = fair.extract_if(&tenant, is_meant).into_iter().collect();
                    prop_assert_eq!(&extracted, &meant);
                    out.extend(extracted);
                }
            }
            let most = |key: fn(&(u8, u8)) -> u8| {
                (0..5).map(|name| slots.iter().filter(|slot| key(slot) == name).count()).max()
            };
            // Three of five slots leave one for the next tenant and one to share.
            prop_assert!(slots.len() <= 5 && most(|s| s.0) <= Some(2) && most(|s| s.1) <= Some(3));
            let waiting: usize = fair.queues().map(|(_, _, waiting)| waiting).sum();
            prop_assert_eq!(waiting, pushed as usize - out.len());
        }
        // As slots become free, all work is returned.
        fair.per_queue = 2;
        (0..4).for_each(|key| fair.reopen(&key));
        for (key, tenant) in slots {
            fair.free(&key, &tenant);
        }
        while let Some(Grant { tenant, key, job }) = fair.grant_slot() {
            prop_assert!(out.insert(job));
            fair.free(&key, &tenant);
        }
        prop_assert_eq!(out.len(), pushed as usize);
        prop_assert!(fair.queues.is_empty() && fair.tenants.is_empty() && fair.round_robin.is_empty());
        prop_assert!(fair.at_share.is_empty() && fair.slots.taken() == 0);
    }

    #[test]
    fn no_tenant_waits_behind_a_backlog(backlogs in prop::collection::vec(1u32..200, 1..6), queues in 1u8..5) {
        let mut fair = fairness(3, 2);
        for (tenant, &backlog) in backlogs.iter().enumerate() {
            (0..backlog).for_each(|n| fair.push(tenant as u8, (n % u32::from(queues)) as u8, 0));
        }
        fair.push(99, 0, 1);
        // Every other tenant has at most one turn before, in the round and in each queue.
        let turns_max = (backlogs.len() + 1) * (usize::from(queues) + 1);
        let served = (0..turns_max).any(|_| {
            let Grant { tenant, key, job } = fair.grant_slot().unwrap();
            fair.free(&key, &tenant);
            job == 1
        });
        prop_assert!(served);
    }

    #[test]
    fn all_waiting_work_can_be_removed(pushes in prop::collection::vec((0u8..4, 0u8..4), 0..50)) {
        let mut fair = fairness(5, 2);
        for (job, (tenant, key)) in pushes.iter().enumerate() {
            fair.push(*tenant, *key, job as u32);
        }
        let mut out: Vec<u32> = std::iter::from_fn(|| fair.grant_slot()).map(|grant| grant.job).collect();
        out.extend(fair.drain());
        out.sort_unstable();
        prop_assert_eq!(out, (0..pushes.len() as u32).collect::<Vec<_>>());
        prop_assert!(fair.queues().all(|(_, _, waiting)| waiting == 0));
    }
}
