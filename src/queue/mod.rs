//! The queue manager: all decisions in memory about waiting mail. The store is durable and reports its commits through a
//! feed; the relay's delivery agents choose the route of mail and deliver it.
//!
//! * `scheduler` claims due mail and gives it to the agents; `dispatch` chooses which claim gets the next connection, fair
//!   between tenants, under the limits of each `site`; `site_resolution` looks up unknown sites in the background,
//! * `manager` hands out claims, in passes (`claim_pass`) over the store and the `hot_queue`; `node_share` divides what is due
//!   between the nodes of a database; `claim_filter` skips mail for queues without capacity,
//! * `claim_table` tracks claims and decides in which order tenants' mail is claimed; `pauses` has what must not be handed
//!   out (suspended tenants, paused parts of the queue), `due_index` when each tenant has due mail,
//! * `bounce_breaker` finds sites with a bad day, `soft_bounces` addresses that no delivery reaches,
//! * `failure_reasons` counts why deliveries failed lately,
//! * `announced_backoffs` tells other nodes which sites back off, and learns it from them,
//! * `retry_cancel` changes the deliveries of one message, on all nodes,
//! * `erasures` cancels what waits for recipients that are erased,
//! * `snapshot` shows the sites, counts and `wait_reasons` to the API and metrics.

mod announced_backoffs;
mod batches;
mod bounce_breaker;
mod claim;
mod claim_filter;
mod claim_pass;
mod claim_table;
mod dispatch;
mod due_index;
mod erasures;
mod failure_reasons;
mod hot_queue;
mod manager;
mod node_share;
mod pauses;
mod queue_key;
mod retry_cancel;
mod scheduler;
mod site;
mod site_resolution;
mod snapshot;
mod soft_bounces;
#[cfg(test)]
mod tests;
pub mod wait_reasons;

pub use bounce_breaker::SiteResults;
pub use claim::{Claim, Slot};
pub use claim_pass::{Admits, ClaimLimits, Claimed};
pub use dispatch::ConnectionCounts;
pub use erasures::ErasurePass;
pub use failure_reasons::{FailureKey, FailureReason, FailureReasons};
pub use manager::{ClaimCounts, QueueDepth, QueueManager};
pub use queue_key::{MxRoute, NextHop, QueueKey, RouteDecision, RouteId, Routed, SourcePoolId};
pub use scheduler::DeliveryAgents;
pub use site::{Site, Sites};
pub use snapshot::{QueueSnapshot, name_of as queue_name};
pub use soft_bounces::EndingDelivery;
