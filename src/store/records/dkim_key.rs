#![allow(missing_docs)]
//! DKIM keys of domains.

use zeroize::Zeroizing;

use crate::mail::Timestamp;
use crate::model::{DkimAlgorithm, DkimKeyId, DkimKeyState, DomainId};

/// Maximum of DKIM keys of a domain: each check of the domain looks up the record of each.
pub const DKIM_KEYS_MAX: usize = 10;

/// A DKIM key without its private key.
#[derive(Debug, Clone)]
pub struct DkimKey {
    pub id: DkimKeyId,
    pub domain_id: DomainId,
    pub selector: String,
    pub algorithm: DkimAlgorithm,
    pub state: DkimKeyState,
    /// The value of `p=`: base64.
    pub public_key: String,
    /// Whether it signs now or did before.
    pub has_signed: bool,
    /// When a newer key replaced it.
    pub retiring_since: Option<Timestamp>,
    pub created_at: Timestamp,
}

impl DkimKey {
    /// A new key with a new id.
    pub fn new(new: &NewDkimKey, domain_id: DomainId, now: Timestamp) -> Self {
        Self {
            id: DkimKeyId::generate(now),
            domain_id,
            selector: new.selector.clone(),
            algorithm: new.algorithm,
            state: new.state,
            public_key: new.public_key.clone(),
            has_signed: new.state == DkimKeyState::Active,
            retiring_since: None,
            created_at: now,
        }
    }

    /// Whether it was never published. A pending key that has signed lost its record, perhaps because its owner gave it up.
    pub fn waits_for_first_record(&self) -> bool {
        self.state == DkimKeyState::Pending && !self.has_signed
    }
}

/// A DKIM key to store; the private key is encrypted.
#[derive(Clone)]
pub struct NewDkimKey {
    pub selector: String,
    pub algorithm: DkimAlgorithm,
    pub state: DkimKeyState,
    /// The value of `p=`: base64.
    pub public_key: String,
    /// PKCS#8, DER.
    pub private_key: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for NewDkimKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewDkimKey").field("selector", &self.selector).finish_non_exhaustive()
    }
}
