//! The secret of a key: `pb_live_` or `pb_test_`, 256 random bits in base 62, and a checksum, which detects a typing
//! error without a query.

use std::fmt;
use std::hash::{Hash, Hasher};

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{Environment, ScramVerifier};

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// 62^43 is the smallest power above 2^256.
const RANDOM_DIGITS: usize = 43;
/// 62^6 is the smallest power above 2^32, for the CRC-32.
const CHECK_DIGITS: usize = 6;

/// A secret in clear text, zeroed on drop.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct KeySecret(String);

/// SHA-256 of a secret. A plain hash suffices for 256 random bits.
#[derive(Clone, Copy)]
pub struct SecretDigest([u8; 32]);

/// The stored form of a secret. It does not contain the secret.
#[derive(Debug, Clone)]
pub struct StoredSecret {
    /// Finds the key when the client sends the secret.
    pub digest: SecretDigest,
    /// Verifies a SCRAM proof.
    pub scram: ScramVerifier,
    /// The last four characters, for display.
    pub last_four: String,
}

/// The text is not a valid secret: truncated or mistyped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a key secret: expected pb_live_ or pb_test_ and 49 letters and digits with a valid checksum")]
pub struct KeySecretError;

impl KeySecret {
    /// Generates a secret.
    pub fn generate(environment: Environment) -> Self {
        let mut random: [u8; 32] = rand::random();
        let mut digits = [0; RANDOM_DIGITS];
        for digit in digits.iter_mut().rev() {
            *digit = ALPHABET[divide(&mut random, 62)];
        }
        // Reserved completely: a growing string would leave copies of the secret that are not zeroed.
        let mut text = String::with_capacity("pb_live_".len() + RANDOM_DIGITS + CHECK_DIGITS);
        text.extend(["pb_", environment.as_str(), "_"]);
        text.extend(digits.iter().map(|&b| char::from(b)));
        text.push_str(&checksum(&text));
        digits.zeroize();
        Self(text)
    }

    /// Parses a secret sent by a client.
    pub fn parse(text: &str) -> Result<Self, KeySecretError> {
        let digits = text
            .strip_prefix("pb_live_")
            .or_else(|| text.strip_prefix("pb_test_"))
            .filter(|d| {
                d.len() == RANDOM_DIGITS + CHECK_DIGITS && d.bytes().all(|b| b.is_ascii_alphanumeric())
            })
            .ok_or(KeySecretError)?;
        let (body, check) = text.split_at(text.len() - CHECK_DIGITS);
        debug_assert!(digits.ends_with(check));
        if checksum(body) == check { Ok(Self(text.to_owned())) } else { Err(KeySecretError) }
    }

    /// Computes the stored form. Takes about a millisecond of CPU.
    pub fn stored_secret(&self) -> StoredSecret {
        self.stored_with(ScramVerifier::new(&self.0))
    }

    /// The stored form beside an earlier secret of the same key. SCRAM sends the salt before it knows which of them the
    /// client has, so both use one.
    pub fn stored_secret_beside(&self, earlier: &ScramVerifier) -> StoredSecret {
        self.stored_with(earlier.of_another_password(&self.0))
    }

    fn stored_with(&self, scram: ScramVerifier) -> StoredSecret {
        StoredSecret { digest: self.digest(), scram, last_four: self.last_four().to_owned() }
    }

    /// The digest of the secret.
    pub fn digest(&self) -> SecretDigest {
        SecretDigest(Sha256::digest(self.0.as_bytes()).into())
    }

    /// The last four characters, for display.
    fn last_four(&self) -> &str {
        &self.0[self.0.len() - 4..]
    }

    /// The secret itself, to show once.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// Divides a big-endian number in place and returns the remainder.
fn divide(number: &mut [u8; 32], divisor: usize) -> usize {
    number.iter_mut().fold(0, |remainder, byte| {
        let value = remainder * 256 + usize::from(*byte);
        // The remainder is less than the divisor, so the quotient fits into a byte.
        *byte = (value / divisor) as u8;
        value % divisor
    })
}

fn checksum(body: &str) -> String {
    let mut value = crc32fast::hash(body.as_bytes()) as usize;
    let mut digits = [b'0'; CHECK_DIGITS];
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET[value % 62];
        value /= 62;
    }
    digits.iter().map(|&b| char::from(b)).collect()
}

impl fmt::Debug for KeySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeySecret(…)")
    }
}

impl SecretDigest {
    /// The digest.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for SecretDigest {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl PartialEq for SecretDigest {
    /// In constant time, against timing attacks.
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for SecretDigest {}

impl Hash for SecretDigest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl fmt::Debug for SecretDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretDigest(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_parses_and_a_mistyped_one_is_detected() {
        let secret = KeySecret::generate(Environment::Live);
        let text = secret.expose().to_owned();
        assert_eq!(text.len(), "pb_live_".len() + 49);
        assert_eq!(KeySecret::parse(&text).unwrap().digest(), secret.digest());
        let wrong = if text.ends_with('a') { "b" } else { "a" };
        assert!(KeySecret::parse(&(text[..text.len() - 1].to_owned() + wrong)).is_err());
        assert!(KeySecret::parse(&text[..text.len() - 1]).is_err());
        assert!(KeySecret::parse(&text.replace("live", "test")).is_err());
        assert!(KeySecret::parse("").is_err());
    }

    #[test]
    fn no_secret_shows_in_debug_output() {
        let secret = KeySecret::generate(Environment::Test);
        let shown = format!("{secret:?} {:?}", secret.digest());
        assert!(!shown.contains(&secret.expose()[8..]), "{shown}");
    }

    #[test]
    fn two_secrets_differ() {
        assert_ne!(
            KeySecret::generate(Environment::Live).digest(),
            KeySecret::generate(Environment::Live).digest()
        );
    }
}
