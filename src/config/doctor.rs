//! The table `[doctor]`.

use std::net::IpAddr;
use std::time::Duration;

use serde::Deserialize;

use super::duration;
use super::error::InvalidOption;
use crate::mail::DomainName;

/// Block lists that one run asks.
const DNSBLS_MAX: usize = 10;

/// `[doctor]`: what the doctor looks at besides this machine and its own names.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Doctor {
    /// The domain whose mail host `net.port25` connects to; without it, the check needs `--egress-domain`.
    pub egress_domain: Option<DomainName>,
    /// The addresses that the Internet sees, behind a translator of addresses.
    pub public_addresses: Vec<IpAddr>,
    /// DNS block lists that `net.dnsbl` asks.
    pub dnsbls: Vec<DomainName>,
    /// The last backup may be this old; zero if another program makes backups, which the server does not see.
    #[serde(with = "duration")]
    pub backup_age_max: Duration,
}

impl Default for Doctor {
    fn default() -> Self {
        Self {
            egress_domain: None,
            public_addresses: Vec::new(),
            dnsbls: Vec::new(),
            backup_age_max: Duration::from_secs(7 * 24 * 60 * 60),
        }
    }
}

impl Doctor {
    pub(super) fn find_invalid(&self) -> Option<InvalidOption> {
        let is_too_long = self.dnsbls.len() > DNSBLS_MAX;
        is_too_long.then(|| InvalidOption::new("doctor.dnsbls", "must have at most 10 lists"))
    }
}
