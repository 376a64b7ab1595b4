//! Decisions on facts: what a tenant may send, what a reply means, when to try again, whose turn it is, what
//! TLS a mail host must have.
//!
//! Pure: no I/O, no clock. Imports `mail`, and of `smtp` the reply and the phase that it belongs to.

pub mod allowance;
pub mod classes;
pub mod fairness;
pub mod lesson;
pub mod mta_sts;
pub mod outcome;
pub mod retry;
pub mod rounds;
pub mod shaping;
pub mod site;
pub mod slots;
pub mod submission;
pub mod tls;
