//! What follows from a message that came back. Pure: the store applies it, and decides only what depends on the state of
//! the delivery at that time.

use sha2::{Digest, Sha256};

use super::AdmittedToken;
use crate::feedback::{Feedback, FeedbackContent, RecipientGroup, ReturnedMail};
use crate::mail::{DomainName, Timestamp};
use crate::model::{ReportEffect, ReportKind};
use crate::store::Consequence;

/// What follows.
#[derive(Debug, Clone)]
pub(super) struct Decision {
    /// What it is.
    pub(super) kind: ReportKind,
    /// What the store does.
    pub(super) consequence: Consequence,
    /// The effect, if the state of the delivery allows it.
    pub(super) effect: ReportEffect,
    /// The group of a DSN that is about the recipient.
    pub(super) group: Option<RecipientGroup>,
    /// Of what the report says, so that its repetition is recognised.
    pub(super) digest: [u8; 32],
}

/// What the decision depends on.
pub(super) struct Facts<'a> {
    /// What it is about; `None` if nothing proves it.
    pub(super) token: Option<&'a AdmittedToken>,
    /// What it says.
    pub(super) feedback: &'a Feedback,
    /// The message.
    pub(super) mail: &'a ReturnedMail,
    /// The domain of a valid and aligned signature; also that of the sandbox.
    pub(super) signer: Option<&'a DomainName>,
    /// The time.
    pub(super) now: Timestamp,
}

/// Decides what follows.
pub(super) fn decide(facts: &Facts<'_>) -> Decision {
    let kind = match facts.feedback.content {
        FeedbackContent::Dsn(_) => ReportKind::Dsn,
        FeedbackContent::Prose(_) => ReportKind::Prose,
        FeedbackContent::Complaint(_) => ReportKind::Complaint,
        FeedbackContent::AutoReply => ReportKind::AutoReply,
        FeedbackContent::Receipt => ReportKind::Receipt,
        FeedbackContent::Other => ReportKind::Other,
    };
    let effect = if facts.token.is_some() { ReportEffect::None } else { ReportEffect::Unattributed };
    let digest = Sha256::digest(&facts.mail.octets).into();
    Decision { kind, consequence: Consequence::None, effect, group: None, digest }
}
