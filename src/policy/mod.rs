//! Decisions on facts: what a tenant may send, what a reply means, when to try again, whose turn it is, what
//! TLS a mail host must have.
//!
//! Pure: no I/O, no clock. Imports `mail`, and of `smtp` the reply and the phase that it belongs to.

pub mod bounce_classifier;
pub mod concurrency_limiter;
pub mod deficit_round_robin;
pub mod fair_queue;
pub mod fixed_window;
pub mod mta_sts;
pub mod reply_verdict;
pub mod retry;
pub mod site;
pub mod site_feedback;
pub mod slots;
pub mod submission;
pub mod tls;
