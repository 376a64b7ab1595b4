use crate::mail::Timestamp;

/// A wish for quota of a limit that holds for all nodes of a database together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuotaWish {
    /// Names the limit and those that it is for.
    pub subject: String,
    /// The end of its period.
    pub ends_at: Timestamp,
    /// The limit in this period.
    pub limit: u64,
    /// How much is needed: this much or nothing is granted.
    pub needed: u64,
    /// What was used before in this period, if it is known.
    pub used: Option<u64>,
}

/// The answer to a [`QuotaWish`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaBlock {
    /// What this node may use; more than needed if much is left, so that it need not ask for each message.
    pub granted: u64,
    /// What all nodes have taken, with this.
    pub taken: u64,
}

/// Quota that a node has taken and not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnusedQuota {
    /// See [`QuotaWish::subject`].
    pub subject: String,
    /// The end of its period.
    pub ends_at: Timestamp,
    /// How much.
    pub count: u64,
}
