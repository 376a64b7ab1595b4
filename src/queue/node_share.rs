//! The due deliveries that this node may claim, of those that all nodes of a database see. If each chose the first rows, most
//! would be gone when it claims them.
//!
//! Each node has a part of the deliveries, and another one in each period. So nothing waits longer than a few periods for a
//! node that claims nothing at the moment, and no node has to know what the others do.

use ulid::Ulid;

use crate::model::DeliveryId;
use crate::store::Nodes;

/// How long a node has a part of the deliveries, in microseconds. Nodes whose clocks differ by a period choose the same rows:
/// then they claim less at once, but each delivery is still claimed by one of them.
const PERIOD_US: i64 = 5_000_000;

/// The part of a node at a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct NodeShare {
    nodes: Nodes,
    /// The number of the period.
    period: i64,
}

impl NodeShare {
    pub(super) fn at(nodes: Nodes, now_us: i64) -> Self {
        Self { nodes, period: now_us.div_euclid(PERIOD_US) }
    }

    /// Among how many nodes the deliveries are divided.
    pub(super) fn nodes(self) -> usize {
        self.nodes.count.max(1) as usize
    }

    /// Whether this node may claim a delivery. Those of a message have the same time in their ids, so one node has them all
    /// and sends them together.
    pub(super) fn has(self, id: DeliveryId) -> bool {
        let nodes = u64::from(self.nodes.count.max(1));
        // Mail may come at regular times.
        let part = Ulid::from(id).timestamp_ms().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        part.wrapping_add(self.period.unsigned_abs()) % nodes == u64::from(self.nodes.rank)
    }

    /// When this node gets another part, in microseconds.
    pub(super) fn ends_us(self) -> i64 {
        self.period.saturating_add(1).saturating_mul(PERIOD_US)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Timestamp;

    fn ids() -> impl Iterator<Item = DeliveryId> {
        (0..4000).map(|second| DeliveryId::generate(Timestamp::from_second(1_800_000_000 + second).unwrap()))
    }

    #[test]
    fn each_delivery_belongs_to_one_node_and_to_each_in_turn() {
        for count in 1..=5 {
            let shares = |now_us| (0..count).map(move |rank| NodeShare::at(Nodes { count, rank }, now_us));
            for id in ids().take(20) {
                let mut ranks: Vec<_> = (0..i64::from(count))
                    .map(|period| {
                        let of: Vec<_> = shares(period * PERIOD_US).map(|share| share.has(id)).collect();
                        assert_eq!(of.iter().filter(|has| **has).count(), 1);
                        of.iter().position(|has| *has)
                    })
                    .collect();
                ranks.sort();
                ranks.dedup();
                assert_eq!(ranks.len(), count as usize);
            }
        }
    }

    #[test]
    fn nodes_have_parts_of_about_the_same_size() {
        for count in 2..=5 {
            for rank in 0..count {
                let share = NodeShare::at(Nodes { count, rank }, 0);
                let size = ids().filter(|id| share.has(*id)).count();
                let even = 4000 / count as usize;
                assert!((even * 3 / 4..even * 5 / 4).contains(&size), "{size} of {even}");
            }
        }
    }

    #[test]
    fn a_part_changes_at_the_end_of_its_period() {
        let share = NodeShare::at(Nodes { count: 2, rank: 0 }, 12_000_000);
        assert_eq!(share.ends_us(), 15_000_000);
        assert_eq!(NodeShare::at(share.nodes, share.ends_us() - 1).period, share.period);
        assert_eq!(NodeShare::at(share.nodes, share.ends_us()).period, share.period + 1);
    }
}
