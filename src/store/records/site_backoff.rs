use crate::mail::Timestamp;

/// A back-off of a site that a node has learnt from a receiver, or its end, for the other nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnnouncedBackoff {
    /// Names the site on all nodes.
    pub site: String,
    /// The number of the source pool in the configuration.
    pub pool: Option<u32>,
    /// `None` if it was ended early.
    pub until: Option<Timestamp>,
    /// The reply.
    pub reason: String,
}
