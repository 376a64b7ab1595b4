//! The tables `[domains]`, `[retention]` and `[store]`.

use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;

use super::error::{Fault, at_least_one};
use super::{DAY, duration};
use crate::mail::DomainName;

/// `[domains]`: verification of sending domains.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Domains {
    /// Time between two DNS checks of a domain.
    #[serde(with = "duration")]
    pub check_interval: Duration,
    /// How long the DNS records of a verified domain may be wrong before it must stop sending.
    #[serde(with = "duration")]
    pub verification_grace: Duration,
    /// The domain that the SPF records of sending domains should include; the server's host name by default.
    pub spf_include: Option<DomainName>,
}

/// `[retention]`: how long data is kept after the last delivery of a message has finished.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Message bodies.
    pub body_days: u32,
    /// Transcripts of attempts.
    pub transcript_days: u32,
    /// Messages with their deliveries; a tenant's own value has priority.
    pub message_days: u32,
    /// Webhook deliveries, counted from the event.
    pub webhook_days: u32,
}

/// `[store]`: the database.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// Database connections for reading.
    pub readers: u32,
    /// Bodies larger than this are stored in separate files.
    pub inline_body_max: ByteSize,
    /// Mail is refused while the file system of the data directory has less free space than this.
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
        // A webhook delivery is retried for more than three days.
        let is_short = self.webhook_days < 4;
        is_short.then(|| {
            Fault::new(
                "retention.webhook_days",
                "must be at least 4: webhook deliveries are retried for up to four days",
            )
        })
    }
}

impl Store {
    pub(super) fn find_fault(&self) -> Option<Fault> {
        at_least_one(&[("store.readers", self.readers.into())])
    }
}
