//! Why a domain cannot send, and what to do about it.

use super::DomainStatus;

impl DomainStatus {
    /// Why the tenant cannot send from a domain with this status; `None` if it can.
    pub fn reason(self) -> Option<&'static str> {
        match self {
            Self::Verified => None,
            Self::Pending => Some("its DNS records have not been found yet"),
            Self::Failing => Some("its DNS records have been missing or wrong for too long"),
            Self::Taken => Some("another tenant has verified the same domain"),
        }
    }

    /// What to do about [`DomainStatus::reason`].
    pub fn hint(self) -> Option<&'static str> {
        match self {
            Self::Verified => None,
            Self::Pending | Self::Failing => {
                Some("publish the DNS records of the domain, then verify the domain")
            }
            Self::Taken => Some(
                "if the domain is yours, ask the operator to delete it from the other tenant, then verify it",
            ),
        }
    }
}
