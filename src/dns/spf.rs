//! Evaluation of SPF records (RFC 7208), with mail-auth over the same resolver.

use std::net::IpAddr;

use mail_auth::spf::verify::SpfParameters;
use mail_auth::{MessageAuthenticator, SpfResult};
use tokio::time::timeout;

use super::{DnsError, LOOKUP_TIMEOUT, Resolver};
use crate::mail::DomainName;

impl Resolver {
    /// Whether the SPF record of a domain permits an address to send mail. A record that is wrong, or that needs more
    /// look-ups than §4.6.4 allows, permits nothing.
    ///
    /// # Errors
    /// [`DnsError::Temporary`] if a look-up failed.
    pub async fn spf_permits(
        &self,
        domain: &DomainName,
        address: IpAddr,
        ehlo_name: &DomainName,
    ) -> Result<bool, DnsError> {
        let (sender, ehlo_name) = (format!("postmaster@{domain}"), ehlo_name.as_str());
        let parameters = SpfParameters::verify_mail_from(address, ehlo_name, ehlo_name, &sender);
        let authenticator = MessageAuthenticator(self.current.clone());
        let evaluated = timeout(LOOKUP_TIMEOUT, authenticator.verify_spf(parameters)).await;
        match evaluated.map(|output| output.result()) {
            Ok(SpfResult::TempError) => Err(DnsError::Temporary("a look-up for SPF failed".into())),
            Ok(result) => Ok(result == SpfResult::Pass),
            Err(_) => Err(DnsError::Temporary("timeout".into())),
        }
    }
}
