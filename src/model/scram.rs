//! SCRAM-SHA-256 (RFC 5802 §3, RFC 7677 §3): the stored verifier of a secret, and the client's proof.

use std::fmt;
use std::num::NonZeroU32;

use aws_lc_rs::{digest, hmac, pbkdf2};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// The minimum of RFC 7677 §4. More would only slow clients down: 256-bit secrets cannot be guessed.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(4096).unwrap();
const SALT_OCTETS: usize = 16;
const KEY_OCTETS: usize = 32;

/// Salt, iteration count, StoredKey and ServerKey. Nobody can log in with a stolen verifier, but its ServerKey would
/// let a thief impersonate the server: the verifier is secret.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct ScramVerifier {
    salt: [u8; SALT_OCTETS],
    iterations: u32,
    stored_key: [u8; KEY_OCTETS],
    server_key: [u8; KEY_OCTETS],
}

impl ScramVerifier {
    /// The length of the stored form.
    pub const OCTETS: usize = SALT_OCTETS + 4 + 2 * KEY_OCTETS;

    /// The verifier of a password with a fresh salt. Takes about a millisecond.
    pub fn new(password: &str) -> Self {
        Self::derive(password, rand::random(), ITERATIONS)
    }

    /// The verifier of another password with the same salt and iteration count.
    pub fn of_another_password(&self, password: &str) -> Self {
        Self::derive(password, self.salt, NonZeroU32::new(self.iterations).unwrap_or(ITERATIONS))
    }

    /// Whether a client that got the salt and iteration count of one can prove the other.
    pub fn shares_parameters(&self, other: &Self) -> bool {
        (self.salt, self.iterations) == (other.salt, other.iterations)
    }

    /// A verifier for an unknown user. The client cannot tell it from a real one, and no proof satisfies it.
    pub fn fake(salt: [u8; SALT_OCTETS]) -> Self {
        Self { salt, iterations: ITERATIONS.get(), stored_key: rand::random(), server_key: rand::random() }
    }

    /// RFC 5802 §3: `SaltedPassword`, `ClientKey` and `ServerKey`. SASLprep is not applied: this server generates
    /// ASCII secrets, which SASLprep leaves unchanged.
    fn derive(password: &str, salt: [u8; SALT_OCTETS], iterations: NonZeroU32) -> Self {
        let salted = salt_password(password, &salt, iterations);
        let client_key = Zeroizing::new(authenticate(&*salted, b"Client Key"));
        Self {
            salt,
            iterations: iterations.get(),
            stored_key: hash(&*client_key),
            server_key: authenticate(&*salted, b"Server Key"),
        }
    }

    /// The salt.
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// The iteration count.
    pub fn iterations(&self) -> u32 {
        self.iterations
    }

    /// Verifies `ClientProof` against `AuthMessage`. Returns `ServerSignature` if valid.
    pub fn check(&self, auth_message: &[u8], proof: &[u8]) -> Option<[u8; KEY_OCTETS]> {
        let signature = authenticate(&self.stored_key, auth_message);
        let mut client_key: Zeroizing<[u8; KEY_OCTETS]> = Zeroizing::new(proof.try_into().ok()?);
        client_key.iter_mut().zip(signature).for_each(|(octet, mask)| *octet ^= mask);
        let holds = bool::from(hash(&*client_key).ct_eq(&self.stored_key));
        holds.then(|| authenticate(&self.server_key, auth_message))
    }

    /// The stored form.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Vec::with_capacity(Self::OCTETS);
        bytes.extend_from_slice(&self.salt);
        bytes.extend_from_slice(&self.iterations.to_be_bytes());
        bytes.extend_from_slice(&self.stored_key);
        bytes.extend_from_slice(&self.server_key);
        Zeroizing::new(bytes)
    }

    /// Parses the stored form.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (salt, rest) = bytes.split_first_chunk()?;
        let (iterations, rest) = rest.split_first_chunk()?;
        let (stored_key, rest) = rest.split_first_chunk()?;
        Some(Self {
            salt: *salt,
            iterations: u32::from_be_bytes(*iterations),
            stored_key: *stored_key,
            server_key: rest.try_into().ok()?,
        })
    }
}

/// The client's proof, and the signature expected from the server (RFC 5802 §3).
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct ScramProof {
    /// `ClientProof`.
    pub client_proof: [u8; KEY_OCTETS],
    /// `ServerSignature`.
    pub server_signature: [u8; KEY_OCTETS],
}

impl ScramProof {
    /// Computes the proof of a password. Takes about half a microsecond per iteration.
    pub fn new(password: &str, salt: &[u8], iterations: NonZeroU32, auth_message: &[u8]) -> Self {
        let salted = salt_password(password, salt, iterations);
        let mut client_proof = authenticate(&*salted, b"Client Key");
        let signature = authenticate(&hash(&client_proof), auth_message);
        client_proof.iter_mut().zip(signature).for_each(|(octet, mask)| *octet ^= mask);
        let server_key = Zeroizing::new(authenticate(&*salted, b"Server Key"));
        Self { client_proof, server_signature: authenticate(&*server_key, auth_message) }
    }
}

/// `SaltedPassword`.
fn salt_password(password: &str, salt: &[u8], iterations: NonZeroU32) -> Zeroizing<[u8; KEY_OCTETS]> {
    let mut salted = Zeroizing::new([0; KEY_OCTETS]);
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, password.as_bytes(), &mut *salted);
    salted
}

impl fmt::Debug for ScramVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScramVerifier(…)")
    }
}

fn authenticate(key: &[u8], message: &[u8]) -> [u8; KEY_OCTETS] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message);
    let mut octets = [0; KEY_OCTETS];
    octets.copy_from_slice(tag.as_ref());
    octets
}

fn hash(message: &[u8]) -> [u8; KEY_OCTETS] {
    let mut octets = [0; KEY_OCTETS];
    octets.copy_from_slice(digest::digest(&digest::SHA256, message).as_ref());
    octets
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    /// RFC 7677 §3.
    #[test]
    fn the_proof_in_the_example_of_rfc_7677_is_valid() {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let verifier = ScramVerifier::derive("pencil", salt.try_into().unwrap(), ITERATIONS);
        let message = b"n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                        s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let mut proof = STANDARD.decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=").unwrap();
        let signature = verifier.check(message, &proof).unwrap();
        assert_eq!(STANDARD.encode(signature), "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        assert!(verifier.check(&message[1..], &proof).is_none());
        assert!(verifier.check(message, &proof[1..]).is_none() && verifier.check(message, b"").is_none());
        assert!(ScramVerifier::fake([1; 16]).check(message, &proof).is_none());
        proof[31] ^= 1;
        assert!(verifier.check(message, &proof).is_none());
    }

    #[test]
    fn only_the_stored_form_parses() {
        let verifier = ScramVerifier::new("a secret");
        let bytes = verifier.to_bytes();
        assert_eq!(bytes.len(), ScramVerifier::OCTETS);
        assert_eq!(ScramVerifier::from_bytes(&bytes), Some(verifier));
        assert_eq!(ScramVerifier::from_bytes(&bytes[1..]), None);
        assert_eq!(ScramVerifier::from_bytes(&[&bytes[..], b"x"].concat()), None);
    }

    #[test]
    fn two_verifiers_of_one_secret_differ() {
        assert_ne!(ScramVerifier::new("a"), ScramVerifier::new("a"));
    }
}
