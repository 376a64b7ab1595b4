//! What goes into the store and what comes out: plain structs with the words of the product.

mod dkim_key;
mod domain;
mod journal;
mod journal_cursor;
mod key;
mod queue;
mod spool;
mod sts;
mod suppression;
mod template;
mod tenant;
mod tls_result;
mod usage;
mod webhook;

use crate::mail::Timestamp;

pub use dkim_key::*;
pub use domain::*;
pub use journal::*;
pub use journal_cursor::*;
pub use key::*;
pub use queue::*;
pub use spool::*;
pub use sts::*;
pub use suppression::*;
pub use template::*;
pub use tenant::*;
pub use tls_result::*;
pub use usage::*;
pub use webhook::*;

/// Which part of a list is wanted. Lists go from the newest id to the oldest.
#[derive(Debug, Clone, Default)]
pub struct PageRequest {
    /// At most this many objects, 1–100.
    pub limit: usize,
    /// Only objects older than the one with this id.
    pub after: Option<String>,
    /// Only objects newer than the one with this id; the page next to it.
    pub before: Option<String>,
    /// Only objects made at this time or later.
    pub created_after: Option<Timestamp>,
    /// Only objects made before this time.
    pub created_before: Option<Timestamp>,
}

/// A part of a list.
#[derive(Debug, Clone)]
pub struct Page<T> {
    /// Newest first.
    pub items: Vec<T>,
    /// Whether there are more in the direction of the request.
    pub has_more: bool,
}
