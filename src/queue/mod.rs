//! The queue manager: everything that is decided in memory about mail that waits. The store keeps what is durable and
//! tells of its commits by a feed; the relay's delivery agents say where mail goes and deliver it.
//!
//! * `scheduler` claims what is due and hands it to the agents in fair turns, which `dispatch` decides under the limits
//!   of each `site`; `site_resolution` finds sites that nobody knows, beside it,
//! * `manager` hands out claims, in passes (`claim_pass`) over the store and the `hot_queue`; `claim_filter` passes over
//!   what would find no room,
//! * `claim_table` knows what is claimed, `pauses` what is not to be handed out, `due_index` when to look again,
//! * `site_status` and `wait_reasons` say what people may know: one snapshot.

mod batches;
mod claim;
mod claim_filter;
mod claim_pass;
mod claim_table;
mod dispatch;
mod due_index;
mod hot_queue;
mod manager;
mod pauses;
mod queue_key;
mod scheduler;
mod site;
mod site_resolution;
mod site_status;
#[cfg(test)]
mod tests;
pub mod wait_reasons;

pub use claim::{Claim, Slot};
pub use claim_pass::{Admits, ClaimLimits, Claimed};
pub use dispatch::ConnectionCounts;
pub use manager::{QueueDepth, QueueManager};
pub use queue_key::{MxRoute, NextHop, QueueKey, RouteDecision, RouteId, Routed, SourcePoolId};
pub use scheduler::DeliveryAgents;
pub use site::{Site, Sites};
pub use site_status::QueueSnapshot;
