//! The SMTP protocol as values, in both roles. No I/O, no clock, no tokio: bytes come in, steps come out.
//!
//! Imports `mail` only.

pub mod client;
mod reply;

pub use reply::Reply;
