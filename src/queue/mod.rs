//! The queue manager: everything that is decided in memory about mail that waits. The store keeps what is durable and
//! tells of its commits by a feed.
//!
//! * `manager` hands out claims of what is due, in passes (`claim_pass`) over the store and the `hot_queue`,
//! * `claim_table` knows what is claimed, `pauses` what is not to be handed out, `due_index` when to look again,
//! * `wait_reasons` says why mail waits where only the relay knows it.

mod batches;
mod claim_pass;
mod claim_table;
mod due_index;
mod hot_queue;
mod manager;
mod pauses;
#[cfg(test)]
mod tests;
pub mod wait_reasons;

pub use claim_pass::{Admits, ClaimRoom, Claimed};
pub use manager::{QueueDepth, QueueManager};
