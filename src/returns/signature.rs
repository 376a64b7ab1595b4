//! Verifies who sent a complaint (RFC 9477 §3.5).

use super::ReturnsService;
use crate::feedback::{Feedback, ReturnedMail};
use crate::mail::DomainName;
use crate::model::Refusal;

impl ReturnsService {
    /// The domain of a valid signature that is aligned with From, if the message is a complaint.
    pub(super) async fn check_signature(
        &self,
        _feedback: &Feedback,
        _mail: &ReturnedMail,
    ) -> Result<Option<DomainName>, Refusal> {
        Ok(None)
    }
}
