//! Arguments and results of the store: plain structs.

mod acme_account;
mod audit;
mod bundle;
mod database;
mod dkim_key;
mod domain;
mod duty;
mod erasure;
mod inbox;
mod journal;
mod journal_cursor;
mod key;
mod queue;
mod quota;
mod report;
mod sign_in;
mod site_backoff;
mod spool;
mod sts;
mod suppression;
mod template;
mod tenant;
mod tls_result;
mod usage;
mod webhook;

use crate::mail::Timestamp;

pub use acme_account::*;
pub use audit::*;
pub use bundle::*;
pub use database::{DatabaseSettings, DatabaseStatus};
pub use dkim_key::*;
pub use domain::*;
pub use duty::*;
pub use erasure::*;
pub use inbox::*;
pub use journal::*;
pub use journal_cursor::*;
pub use key::*;
pub use queue::*;
pub use quota::*;
pub use report::*;
pub use sign_in::*;
pub use site_backoff::*;
pub use spool::*;
pub use sts::*;
pub use suppression::*;
pub use template::*;
pub use tenant::*;
pub use tls_result::*;
pub use usage::*;
pub use webhook::*;

/// The requested page of a list. Lists are ordered from the newest id to the oldest.
#[derive(Debug, Clone, Default)]
pub struct PageRequest {
    /// At most this many objects, 1–100.
    pub limit: usize,
    /// Objects after the one with this id, that is, older ones.
    pub after: Option<String>,
    /// Objects before the one with this id, that is, newer ones: the adjacent page.
    pub before: Option<String>,
    /// Only objects created at this time or later.
    pub created_after: Option<Timestamp>,
    /// Only objects created before this time.
    pub created_before: Option<Timestamp>,
}

impl PageRequest {
    /// Whether an object is between the cursors and times of the request.
    pub fn contains(&self, id: &str, created_at: Timestamp) -> bool {
        self.after.as_deref().is_none_or(|after| id < after)
            && self.before.as_deref().is_none_or(|before| id > before)
            && self.created_after.is_none_or(|since| created_at >= since)
            && self.created_before.is_none_or(|until| created_at < until)
    }
}

/// A page of a list.
#[derive(Debug, Clone)]
pub struct Page<T> {
    /// Newest first.
    pub items: Vec<T>,
    /// Whether there are more in the direction of the request.
    pub has_more: bool,
}
