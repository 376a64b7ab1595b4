//! Options of what is kept: sending domains and their proof, the store, and how long things stay in it.

use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;

use super::error::{Fault, at_least_one};
use super::{DAY, duration};
use crate::mail::DomainName;

/// Sending domains and their proof.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Domains {
    /// Between two looks at a domain's records.
    #[serde(with = "duration")]
    pub check_interval: Duration,
    /// How long the records of a verified domain may be wrong before it stops sending.
    #[serde(with = "duration")]
    pub verification_grace: Duration,
    /// What the `include:` of a tenant's SPF record should name; the server's host name if absent.
    pub spf_include: Option<DomainName>,
}

/// How long things are kept after the last delivery of a message is finished.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Bodies.
    pub body_days: u32,
    /// What was said in each attempt.
    pub transcript_days: u32,
    /// What is known of a message; a tenant's own value goes first.
    pub message_days: u32,
    /// What webhooks were told or could not be told, after the event.
    pub webhook_days: u32,
}

/// The store.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// Connections that read.
    pub readers: u32,
    /// A body above this goes to a file of its own.
    pub inline_body_max: ByteSize,
    /// Nothing is accepted while the file system of the data directory has less room than this.
    pub free_disk_min: ByteSize,
}

impl Default for Domains {
    fn default() -> Self {
        Self { check_interval: Duration::from_secs(60 * 60), verification_grace: 3 * DAY, spf_include: None }
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self { body_days: 3, transcript_days: 7, message_days: 30, webhook_days: 7 }
    }
}

impl Default for Store {
    fn default() -> Self {
        Self { readers: 4, inline_body_max: ByteSize::kib(256), free_disk_min: ByteSize::mib(256) }
    }
}

impl Retention {
    pub(super) fn find_fault(&self) -> Option<Fault> {
        // A try that failed is repeated for more than three days.
        let is_short = self.webhook_days < 4;
        is_short.then(|| {
            Fault::new(
                "retention.webhook_days",
                "must be at least 4, because failed deliveries are retried for more than three days",
            )
        })
    }
}

impl Store {
    pub(super) fn find_fault(&self) -> Option<Fault> {
        at_least_one(&[("store.readers", self.readers.into())])
    }
}
