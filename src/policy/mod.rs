//! Pure decisions: what a tenant may send, what a reply means, when to retry, fair sharing, TLS requirements of a
//! host.
//!
//! No I/O, no clock. Imports `mail` and `model`, and of `smtp` the reply and its phase.

pub mod admission;
pub mod bounce_classifier;
pub mod brakes;
pub mod deficit_round_robin;
pub mod fair_queue;
pub mod fixed_window;
pub mod mta_sts;
pub mod reply_verdict;
pub mod retry_schedule;
pub mod site_bounces;
pub mod site_feedback;
pub mod site_limiter;
pub mod site_name;
pub mod slot_counts;
pub mod soft_bounces;
pub mod tls;
