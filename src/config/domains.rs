//! The table `[domains]`.

use std::time::Duration;

use serde::Deserialize;

use super::error::{InvalidOption, require_positive_durations};
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

impl Domains {
    pub(super) fn find_invalid(&self) -> Option<InvalidOption> {
        require_positive_durations(&[("domains.check_interval", self.check_interval)])
    }
}

impl Default for Domains {
    fn default() -> Self {
        Self { check_interval: Duration::from_secs(60 * 60), verification_grace: 3 * DAY, spf_include: None }
    }
}
