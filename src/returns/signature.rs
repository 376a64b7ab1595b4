//! Verifies who sent a complaint (RFC 9477 §3.5).

use super::ReturnsService;
use crate::dns::SignatureCheck;
use crate::feedback::{Feedback, FeedbackContent, ReturnedMail};
use crate::mail::DomainName;
use crate::model::{Refusal, RefusalCode, TenantId};

/// Messages of up to 8 MiB whose signatures are verified at one time: the hash takes 20 ms.
pub(super) const VERIFIED_AT_ONCE_MAX: u32 = 4;
/// How many of them may be about one tenant, or about none. A look-up of a key takes up to 5 s.
pub(super) const VERIFIED_OF_TENANT_MAX: u32 = 2;

impl ReturnsService {
    /// The domain of a valid signature that is aligned with From, if the message is a complaint. That of the sandbox needs
    /// no signature.
    pub(super) async fn check_signature(
        &self,
        feedback: &Feedback,
        mail: &ReturnedMail,
        tenant: Option<TenantId>,
    ) -> Result<Option<DomainName>, Refusal> {
        if !matches!(feedback.content, FeedbackContent::Complaint(_)) {
            return Ok(None);
        }
        if mail.peer.is_none() {
            return Ok(Some(self.settings.hostname.clone()));
        }
        let Some(from) = feedback.from_domain.as_ref().filter(|_| !mail.is_truncated) else {
            return Ok(None);
        };
        let _permit = self.verifying.acquire(tenant).await;
        match self.resolver.verify_signature(&mail.octets, from).await {
            SignatureCheck::Aligned(domain) => Ok(Some(domain)),
            SignatureCheck::NotAligned => Ok(None),
            SignatureCheck::Temporary => Err(Refusal::new(
                RefusalCode::ReportEarly,
                "the DKIM key of this complaint cannot be looked up at present",
                "try again in a minute",
            )),
        }
    }
}
