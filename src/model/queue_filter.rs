//! A filter of queued mail: by tenant, by destination, or both.

use super::TenantId;
use crate::mail::Host;

/// Selects queued mail; the default selects all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct QueueFilter {
    /// Only this tenant's mail.
    pub tenant_id: Option<TenantId>,
    /// Only mail for this destination.
    pub destination: Option<Host>,
}

impl QueueFilter {
    /// All mail for a destination.
    pub fn destination(host: Host) -> Self {
        Self { tenant_id: None, destination: Some(host) }
    }

    /// All mail of a tenant.
    pub fn tenant(id: TenantId) -> Self {
        Self { tenant_id: Some(id), destination: None }
    }

    /// Whether the filter matches a tenant's mail for a destination.
    pub fn covers(&self, tenant: TenantId, destination: &Host) -> bool {
        self.tenant_id.is_none_or(|own| own == tenant)
            && self.destination.as_ref().is_none_or(|own| own == destination)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Timestamp;

    #[test]
    fn a_filter_matches_by_tenant_by_destination_or_by_both() {
        let (own, other) =
            (TenantId::generate(Timestamp::UNIX_EPOCH), TenantId::generate(Timestamp::UNIX_EPOCH));
        let host = Host::parse("a.example").unwrap();
        let both = QueueFilter { tenant_id: Some(own), destination: Some(host.clone()) };
        assert!(both.covers(own, &host) && !both.covers(other, &host));
        assert!(
            QueueFilter::tenant(own).covers(own, &host) && !QueueFilter::tenant(own).covers(other, &host)
        );
        let elsewhere = QueueFilter::destination(Host::parse("b.example").unwrap());
        assert!(
            QueueFilter::destination(host.clone()).covers(other, &host) && !elsewhere.covers(other, &host)
        );
        assert!(QueueFilter::default().covers(own, &host));
    }
}
