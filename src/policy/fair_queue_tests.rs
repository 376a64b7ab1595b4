//! The fair queue, by examples and properties.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// A queue in which each lane has this many slots.
struct Fair {
    fair: FairQueue<u8, u8, u32>,
    per_lane: usize,
}

impl Fair {
    fn push(&mut self, tenant: u8, lane: u8, work: u32) {
        self.fair.push(Job { tenant, weight: Weight::default(), lane, cost: 1, work });
    }

    fn take_turn(&mut self) -> Option<Turn<u8, u8, u32>> {
        let per_lane = self.per_lane;
        self.fair.take_turn(|_, _| per_lane)
    }

    fn keep_turn(&mut self, lane: &u8, holder: &u8) -> Option<(u8, u32)> {
        self.fair.keep_turn(lane, holder, self.per_lane)
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

fn fairness(total: usize, per_lane: usize) -> Fair {
    Fair { fair: FairQueue::new(total), per_lane }
}

/// Lane and work of the next turn.
fn turn(fair: &mut Fair) -> Option<(u8, u32)> {
    fair.take_turn().map(|turn| (turn.lane, turn.job))
}

#[test]
fn tenants_take_turns_whatever_their_backlog() {
    let mut fair = fairness(100, 100);
    (0..50).for_each(|job| fair.push(1, 1, job));
    fair.push(2, 1, 100);
    fair.push(3, 2, 101);
    let firsts: Vec<u32> = (0..4).map(|_| turn(&mut fair).unwrap().1).collect();
    assert_eq!(firsts, [0, 100, 101, 1]);
}

#[test]
fn a_kept_slot_serves_its_tenants_in_turns_too() {
    let mut fair = fairness(100, 1);
    (0..50).for_each(|job| fair.push(1, 1, job));
    assert_eq!(turn(&mut fair), Some((1, 0)));
    fair.push(2, 1, 100);
    assert_eq!(turn(&mut fair), None);
    assert_eq!(fair.keep_turn(&1, &1), Some((2, 100)));
    assert_eq!(fair.keep_turn(&1, &2), Some((1, 1)));
}

#[test]
fn a_new_tenant_finds_a_slot_in_a_crowded_lane_and_returns_it() {
    let mut fair = fairness(500, 20);
    (0..100).for_each(|job| fair.push(1, 1, job));
    assert_eq!(std::iter::from_fn(|| fair.take_turn()).count(), 19);
    fair.push(2, 1, 1000);
    assert_eq!(turn(&mut fair), Some((1, 1000)));
    fair.push(3, 1, 1001);
    assert_eq!(turn(&mut fair), None, "all twenty are taken");
    assert_eq!(fair.keep_turn(&1, &1), Some((3, 1001)), "whoever frees the first");
    assert_eq!(fair.keep_turn(&1, &2), None, "the one with nineteen gets none of two");
    fair.free(&1, &2);
    assert_eq!(turn(&mut fair), None);
    assert_eq!(fair.keep_turn(&1, &3), Some((1, 19)), "of its own nineteen one is another's");
    assert_eq!(fair.keep_turn(&1, &1), Some((1, 20)));
}

#[test]
fn a_full_destination_does_not_block_another() {
    let mut fair = fairness(100, 1);
    fair.push(1, 1, 0);
    fair.push(1, 1, 1);
    fair.push(1, 2, 2);
    assert_eq!([turn(&mut fair), turn(&mut fair), turn(&mut fair)], [Some((1, 0)), Some((2, 2)), None]);
    fair.free(&1, &1);
    assert_eq!(turn(&mut fair), Some((1, 1)));
}

#[test]
fn a_slot_is_returned_when_others_have_none() {
    let mut fair = fairness(1, 1);
    (0..50).for_each(|job| fair.push(1, 1, job));
    assert_eq!(turn(&mut fair), Some((1, 0)));
    assert_eq!(fair.keep_turn(&1, &1), Some((1, 1)));
    fair.push(2, 2, 100);
    assert_eq!(fair.keep_turn(&1, &1), None);
    fair.free(&1, &1);
    let both = [(); 2].map(|()| {
        let turn = fair.take_turn().unwrap();
        fair.free(&turn.lane, &turn.tenant);
        turn.lane
    });
    assert!(both.contains(&2), "{both:?}");
}

#[test]
fn a_new_tenant_finds_a_slot_however_long_others_hold_theirs() {
    let mut fair = fairness(500, 20);
    for (tenant, slots_expected) in [(1, 352), (2, 88), (3, 22), (4, 6)] {
        (0..10_000u32).for_each(|n| fair.push(tenant, (n % 250) as u8, n));
        let slots = std::iter::from_fn(|| fair.take_turn()).count();
        assert_eq!(slots, slots_expected);
    }
    fair.push(9, 255, 0);
    assert_eq!(turn(&mut fair), Some((255, 0)));
}

#[test]
fn a_tenant_above_its_share_yields_its_slot() {
    let mut fair = fairness(16, 16);
    (0..50).for_each(|job| fair.push(1, 1, job));
    assert_eq!(std::iter::from_fn(|| fair.take_turn()).count(), 12);
    (0..50).for_each(|job| fair.push(2, 2, job));
    assert_eq!(std::iter::from_fn(|| fair.take_turn()).count(), 3);
    // Until no tenant is above its share.
    for _ in 0..20 {
        if fair.keep_turn(&1, &1).is_none() {
            fair.free(&1, &1);
            while fair.take_turn().is_some() {}
        }
    }
    assert_eq!((fair.slots.of(&1), fair.slots.of(&2)), (7, 6));
    assert!(fair.keep_turn(&1, &1).is_some());
}

#[test]
fn a_weight_is_a_share_of_a_crowded_lane_and_a_batch_costs_its_deliveries() {
    let mut fair = fairness(100, 1);
    for (tenant, weight, cost) in [(1, 10u32, 1), (2, 40, 1), (3, 10, 5)] {
        (0..500).for_each(|work| {
            fair.fair.push(Job { tenant, weight: weight.try_into().unwrap(), lane: 1, cost, work })
        });
    }
    let mut holder = fair.take_turn().unwrap().tenant;
    let mut jobs = [0; 4];
    for _ in 0..260 {
        holder = fair.keep_turn(&1, &holder).unwrap().0;
        jobs[usize::from(holder)] += 1;
    }
    assert!((48..=52).contains(&jobs[1]) && (198..=202).contains(&jobs[2]), "{jobs:?}");
    assert!((9..=11).contains(&jobs[3]), "{jobs:?}");
}

#[test]
fn a_lane_that_is_closed_waits_until_it_opens() {
    let mut fair = fairness(100, 0);
    fair.push(1, 1, 0);
    fair.push(2, 1, 1);
    assert_eq!(turn(&mut fair), None);
    fair.per_lane = 1;
    assert_eq!(turn(&mut fair), None, "nobody said that it may have opened");
    fair.reopen(&1);
    assert_eq!(turn(&mut fair), Some((1, 0)));
    fair.per_lane = 0;
    assert_eq!(fair.keep_turn(&1, &1), None, "a slot too many goes back");
    assert_eq!(fair.waiting(&1, &2), (1, 1));
    assert_eq!(fair.evict(&1), [1]);
    fair.free(&1, &1);
    assert!(fair.lanes().next().is_none());
}

#[derive(Debug, Clone)]
enum Act {
    Push(u8, u8),
    Next,
    Keep(usize),
    Free(usize),
    /// The slot limit of each lane from now on.
    Limit(usize),
    Evict(u8),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        (0u8..4, 0u8..4).prop_map(|(tenant, lane)| Act::Push(tenant, lane)),
        Just(Act::Next),
        any::<usize>().prop_map(Act::Keep),
        any::<usize>().prop_map(Act::Free),
        (0usize..3).prop_map(Act::Limit),
        (0u8..4).prop_map(Act::Evict),
    ]
}

proptest! {
    #[test]
    fn no_limit_is_exceeded_and_no_work_is_lost(acts in prop::collection::vec(act(), 0..200)) {
        let mut fair = fairness(5, 2);
        let (mut pushed, mut out) = (0u32, BTreeSet::new());
        // Lane and tenant of each slot.
        let mut slots: Vec<(u8, u8)> = Vec::new();
        for act in acts {
            match act {
                Act::Push(tenant, lane) => {
                    fair.push(tenant, lane, pushed);
                    pushed += 1;
                }
                Act::Next => {
                    if let Some(Turn { tenant, lane, job }) = fair.take_turn() {
                        prop_assert!(out.insert(job));
                        slots.push((lane, tenant));
                    }
                }
                Act::Keep(n) if !slots.is_empty() => {
                    let n = n % slots.len();
                    let (lane, holder) = slots[n];
                    if let Some((tenant, job)) = fair.keep_turn(&lane, &holder) {
                        prop_assert!(out.insert(job));
                        slots[n] = (lane, tenant);
                    }
                }
                Act::Free(n) if !slots.is_empty() => {
                    let (lane, tenant) = slots.swap_remove(n % slots.len());
                    fair.free(&lane, &tenant);
                }
                Act::Keep(_) | Act::Free(_) => {}
                Act::Limit(limit) => {
                    fair.per_lane = limit;
                    (0..4).for_each(|lane| fair.reopen(&lane));
                }
                Act::Evict(lane) => out.extend(fair.evict(&lane)),
            }
            let most = |key: fn(&(u8, u8)) -> u8| {
                (0..5).map(|name| slots.iter().filter(|slot| key(slot) == name).count()).max()
            };
            // Three of five slots leave one for the next tenant and one to share.
            prop_assert!(slots.len() <= 5 && most(|s| s.0) <= Some(2) && most(|s| s.1) <= Some(3));
            let waiting: usize = fair.lanes().map(|(_, _, waiting)| waiting).sum();
            prop_assert_eq!(waiting, pushed as usize - out.len());
        }
        // As slots become free, all work is returned.
        fair.per_lane = 2;
        (0..4).for_each(|lane| fair.reopen(&lane));
        for (lane, tenant) in slots {
            fair.free(&lane, &tenant);
        }
        while let Some(Turn { tenant, lane, job }) = fair.take_turn() {
            prop_assert!(out.insert(job));
            fair.free(&lane, &tenant);
        }
        prop_assert_eq!(out.len(), pushed as usize);
        prop_assert!(fair.lanes.is_empty() && fair.tenants.is_empty() && fair.turns.is_empty());
        prop_assert!(fair.at_share.is_empty() && fair.slots.taken() == 0);
    }

    #[test]
    fn no_tenant_waits_behind_a_backlog(backlogs in prop::collection::vec(1u32..200, 1..6), lanes in 1u8..5) {
        let mut fair = fairness(3, 2);
        for (tenant, &backlog) in backlogs.iter().enumerate() {
            (0..backlog).for_each(|n| fair.push(tenant as u8, (n % u32::from(lanes)) as u8, 0));
        }
        fair.push(99, 0, 1);
        // Every other tenant has at most one turn before, in the round and in each lane.
        let turns_max = (backlogs.len() + 1) * (usize::from(lanes) + 1);
        let served = (0..turns_max).any(|_| {
            let Turn { tenant, lane, job } = fair.take_turn().unwrap();
            fair.free(&lane, &tenant);
            job == 1
        });
        prop_assert!(served);
    }

    #[test]
    fn all_waiting_work_can_be_removed(pushes in prop::collection::vec((0u8..4, 0u8..4), 0..50)) {
        let mut fair = fairness(5, 2);
        for (job, (tenant, lane)) in pushes.iter().enumerate() {
            fair.push(*tenant, *lane, job as u32);
        }
        let mut out: Vec<u32> = std::iter::from_fn(|| fair.take_turn()).map(|turn| turn.job).collect();
        out.extend(fair.drain());
        out.sort_unstable();
        prop_assert_eq!(out, (0..pushes.len() as u32).collect::<Vec<_>>());
        prop_assert!(fair.lanes().all(|(_, _, waiting)| waiting == 0));
    }
}
