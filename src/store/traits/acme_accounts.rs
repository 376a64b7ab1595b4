use crate::mail::Timestamp;
use crate::store::traits::store_trait;
use crate::store::{AcmeAccount, Result};

store_trait! {
    /// Accounts at certificate authorities (RFC 8555 §7.3).
    pub trait AcmeAccounts {
        /// The account at the authority with this directory URL.
        async fn acme_account(&self, directory: String) -> Result<Option<AcmeAccount>>;
        /// Stores an account in place of an earlier one.
        async fn store_acme_account(&self, account: AcmeAccount, now: Timestamp) -> Result<()>;
    }
}
