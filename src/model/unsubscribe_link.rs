//! The sealed part of an unsubscribe link: who leaves which list, encrypted, so that the link works without any row.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ulid::Ulid;

use super::{Environment, ListName, MessageId, TenantId};
use crate::mail::Address;

const VERSION: u8 = 1;
const AAD: &[u8] = b"pillarbox.unsubscribe.1";
/// Environment, tenant, message, and the length of the name of the list.
const FIXED_OCTETS: usize = 1 + 16 + 16 + 1;
/// Characters of the longest link that is read.
const CHARS_MAX: usize = 1024;
/// Octets of a key.
pub const LINK_KEY_OCTETS: usize = 32;

/// Who leaves which list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsubscribeLink {
    /// The tenant that sent the message.
    pub tenant_id: TenantId,
    /// The environment of the message.
    pub environment: Environment,
    /// The message, which may be deleted by the time that the link is opened.
    pub message_id: MessageId,
    /// The list.
    pub list: ListName,
    /// The recipient.
    pub address: Address,
}

/// The crypto library failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the unsubscribe link could not be encrypted")]
pub struct SealLinkError;

/// The keys of the accepted generations.
pub struct LinkKeys {
    /// With the last octet of the number of the generation; the newest last.
    keys: Vec<(u8, RandomizedNonceKey)>,
}

impl LinkKeys {
    /// The accepted generations with their keys, the newest last.
    ///
    /// # Errors
    /// [`SealLinkError`] if the crypto library rejects a key.
    pub fn new<'k>(
        keys: impl IntoIterator<Item = (u32, &'k [u8; LINK_KEY_OCTETS])>,
    ) -> Result<Self, SealLinkError> {
        let open = |(generation, key): (u32, &[u8; LINK_KEY_OCTETS])| {
            let key = RandomizedNonceKey::new(&AES_256_GCM, key).map_err(|_| SealLinkError)?;
            Ok(((generation % 256) as u8, key))
        };
        Ok(Self { keys: keys.into_iter().map(open).collect::<Result<_, _>>()? })
    }

    /// The sealed part of the link.
    ///
    /// # Errors
    /// [`SealLinkError`].
    pub fn seal(&self, link: &UnsubscribeLink) -> Result<String, SealLinkError> {
        let (generation, key) = self.keys.last().ok_or(SealLinkError)?;
        let mut text = link.to_octets();
        let nonce = key.seal_in_place_append_tag(Aad::from(AAD), &mut text).map_err(|_| SealLinkError)?;
        let sealed = [&[VERSION, *generation][..], nonce.as_ref(), &text].concat();
        Ok(URL_SAFE_NO_PAD.encode(sealed))
    }

    /// What the link says; `None` if it was not made by this server or its key is refused.
    pub fn open(&self, sealed: &str) -> Option<UnsubscribeLink> {
        if sealed.len() > CHARS_MAX {
            return None;
        }
        let octets = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let ([VERSION, generation], rest) = octets.split_first_chunk::<2>()? else { return None };
        let (nonce, text) = rest.split_at_checked(NONCE_LEN)?;
        let nonce: [u8; NONCE_LEN] = nonce.try_into().ok()?;
        let named = self.keys.iter().filter(|(known, _)| known == generation);
        named.map(|(_, key)| key).find_map(|key| {
            let mut text = text.to_vec();
            let nonce = Nonce::assume_unique_for_key(nonce);
            let plain = key.open_in_place(nonce, Aad::from(AAD), &mut text).ok()?;
            UnsubscribeLink::from_octets(plain)
        })
    }
}

impl fmt::Debug for LinkKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|(generation, _)| generation)).finish()
    }
}

impl UnsubscribeLink {
    fn to_octets(&self) -> Vec<u8> {
        let list = self.list.as_str();
        let id = |id: Ulid| u128::from(id).to_be_bytes();
        let mut octets = Vec::with_capacity(FIXED_OCTETS + list.len() + 64);
        octets.push(u8::from(self.environment == Environment::Test));
        octets.extend(id(self.tenant_id.into()));
        octets.extend(id(self.message_id.into()));
        // A name has at most 64 octets.
        octets.push(list.len() as u8);
        octets.extend(list.as_bytes());
        octets.extend(self.address.to_string().into_bytes());
        octets
    }

    fn from_octets(octets: &[u8]) -> Option<Self> {
        let (fixed, rest) = octets.split_first_chunk::<FIXED_OCTETS>()?;
        let id = |at: usize| {
            let octets: [u8; 16] = fixed.get(at..at + 16)?.try_into().ok()?;
            Some(Ulid::from(u128::from_be_bytes(octets)))
        };
        let (list, address) = rest.split_at_checked(usize::from(fixed[FIXED_OCTETS - 1]))?;
        Some(Self {
            tenant_id: id(1)?.into(),
            environment: if fixed[0] == 0 { Environment::Live } else { Environment::Test },
            message_id: id(17)?.into(),
            list: std::str::from_utf8(list).ok()?.parse().ok()?,
            address: Address::parse(std::str::from_utf8(address).ok()?).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Timestamp;

    #[test]
    fn a_link_opens_with_its_key_only_and_no_changed_octet_opens() {
        let link = UnsubscribeLink {
            tenant_id: TenantId::generate(Timestamp::UNIX_EPOCH),
            environment: Environment::Live,
            message_id: MessageId::generate(Timestamp::UNIX_EPOCH),
            list: "news".parse().unwrap(),
            address: Address::parse("jürgen@b.example").unwrap(),
        };
        let keys = LinkKeys::new([(1, &[1; 32]), (2, &[2; 32])]).unwrap();
        let sealed = keys.seal(&link).unwrap();
        assert_eq!(keys.open(&sealed), Some(link.clone()));
        assert_ne!(keys.seal(&link).unwrap(), sealed);
        assert_eq!(LinkKeys::new([(1, &[1; 32])]).unwrap().open(&sealed), None);
        for at in 0..sealed.len() {
            let other = if sealed[at..].starts_with('A') { 'B' } else { 'A' };
            let changed = format!("{}{other}{}", &sealed[..at], &sealed[at + 1..]);
            // The last character has bits that decode to nothing.
            assert!(keys.open(&changed).is_none() || at == sealed.len() - 1, "{changed}");
        }
        assert_eq!(keys.open(&"A".repeat(5000)), None);
    }
}
