//! Decisions on facts: what a tenant may send, what a reply means, when to try again, whose turn it is.
//!
//! Pure: no I/O, no clock. Imports `mail` and `smtp::Reply`.

pub mod submission;
