#![allow(missing_docs)]
//! Accounts at certificate authorities.

use zeroize::Zeroizing;

/// An account.
#[derive(Clone)]
pub struct AcmeAccount {
    /// The URL of the directory.
    pub directory: String,
    pub account_url: String,
    /// What the ACME library needs to use the account: a secret.
    pub credentials: Zeroizing<Vec<u8>>,
}
