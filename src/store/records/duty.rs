//! What one node of a cluster does for all.

use ulid::Ulid;

use crate::model::WebhookId;

/// A regular job that one of the nodes that serve a database does. Each job is idempotent: while nodes come and go, two may
/// do it for a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duty {
    /// Adds accepted messages to the search index.
    SearchIndex,
    /// Removes data after its retention.
    Retention,
    /// Compares the bounces and complaints of tenants with their brakes.
    Brakes,
    /// Applies erasures of recipients that are not complete.
    Erasures,
    /// Appends the events of keys that expire soon.
    KeyExpiry,
    /// Checks the DNS records of domains.
    DomainChecks,
    /// Fetches stored MTA-STS policies again.
    StsPolicies,
    /// Sends TLS reports.
    TlsReports,
    /// Posts the events of a webhook.
    Webhook(WebhookId),
}

impl Duty {
    /// Names the duty in the database. Never changes, because nodes of two versions may serve it.
    pub(in crate::store) fn number(self) -> u32 {
        match self {
            Self::SearchIndex => 1,
            Self::Retention => 2,
            Self::Brakes => 3,
            Self::Erasures => 4,
            Self::KeyExpiry => 5,
            Self::DomainChecks => 6,
            Self::StsPolicies => 7,
            Self::TlsReports => 8,
            // Random bits of the id.
            Self::Webhook(id) => Ulid::from(id).random() as u32,
        }
    }

    /// The rank of the node that has the duty, among so many.
    pub(in crate::store) fn rank_among(self, nodes: u32) -> u32 {
        self.number() % nodes.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_the_nodes_has_a_duty() {
        assert_eq!(Duty::Brakes.rank_among(1), 0);
        assert_eq!([Duty::SearchIndex, Duty::Retention].map(|duty| duty.rank_among(2)), [1, 0]);
        assert_eq!(Duty::Brakes.rank_among(0), 0);
    }
}
