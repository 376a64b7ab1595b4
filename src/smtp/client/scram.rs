//! SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677), client role. The client never sends the password, and the
//! server must prove that it knows the password too.

use std::num::NonZeroU32;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use subtle::ConstantTimeEq;

use super::login::Login;
use crate::model::ScramProof;
use crate::smtp::ChannelBinding;

/// Maximum of the iteration count, about a tenth of a second of CPU: a hostile server could demand any amount of work
/// (RFC 5802 §9).
const ITERATIONS_MAX: u32 = 200_000;

/// The channel binding flag (RFC 5802 §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// The connection has no channel binding.
    None,
    /// The connection has one, but the server does not offer PLUS.
    NotOffered,
    /// The exchange is bound to this value (RFC 9266).
    Bound(ChannelBinding),
}

impl Binding {
    fn header(self) -> &'static str {
        match self {
            Self::None => "n,,",
            Self::NotOffered => "y,,",
            Self::Bound(_) => "p=tls-exporter,,",
        }
    }
}

/// An exchange in progress.
#[derive(Debug)]
pub struct Scram {
    nonce: String,
    bare: String,
    binding: Binding,
    /// The expected server signature.
    signature: Option<[u8; 32]>,
}

/// Why the exchange failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// The message does not match the grammar, or is another one than expected.
    #[error("the server's SCRAM message is malformed")]
    Malformed,
    /// The challenge does not contain our nonce.
    #[error("the server's SCRAM challenge does not contain our nonce")]
    Nonce,
    /// More iterations than we accept.
    #[error("the server requires more than {ITERATIONS_MAX} SCRAM iterations")]
    Iterations,
    /// The server does not know the password: an impostor.
    #[error("the server could not prove that it knows the password")]
    ServerUnproven,
}

impl Scram {
    /// Whether SCRAM can be used with the login. SASLprep (RFC 4013) is not implemented; it leaves printable ASCII
    /// unchanged.
    pub fn supports(login: &Login) -> bool {
        let is_plain = |text: &str| text.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
        is_plain(&login.user) && is_plain(&login.password)
    }

    /// Starts an exchange. The nonce is a new one of printable ASCII without commas.
    pub fn new(user: &str, nonce: &str, binding: Binding) -> Self {
        // RFC 5802 §5.1.
        let name = user.replace('=', "=3D").replace(',', "=2C");
        Self { nonce: nonce.to_owned(), bare: format!("n={name},r={nonce}"), binding, signature: None }
    }

    /// `client-first-message` (base64).
    pub fn first(&self) -> String {
        BASE64.encode(format!("{}{}", self.binding.header(), self.bare))
    }

    /// `client-final-message` (base64) for a `server-first-message` (base64).
    ///
    /// # Errors
    /// [`ScramError`] if the message is malformed, is for another nonce or demands too many iterations.
    pub fn answer(&mut self, challenge: &str, password: &str) -> Result<String, ScramError> {
        let challenge = decode(challenge)?;
        let mut parts = challenge.split(',');
        // A leading `m=` is a mandatory extension (RFC 5802 §5.1); none is supported.
        let mut part =
            |name| parts.next().and_then(|part| part.strip_prefix(name)).ok_or(ScramError::Malformed);
        let (nonce, salt, iterations) = (part("r=")?, part("s=")?, part("i=")?);
        if nonce.len() <= self.nonce.len() || !nonce.starts_with(&self.nonce) {
            return Err(ScramError::Nonce);
        }
        let salt = BASE64.decode(salt).map_err(|_| ScramError::Malformed)?;
        let iterations: NonZeroU32 = iterations.parse().map_err(|_| ScramError::Malformed)?;
        if iterations.get() > ITERATIONS_MAX {
            return Err(ScramError::Iterations);
        }
        let mut binding = self.binding.header().as_bytes().to_vec();
        if let Binding::Bound(value) = self.binding {
            binding.extend_from_slice(&value);
        }
        let without_proof = format!("c={},r={nonce}", BASE64.encode(binding));
        let message = format!("{},{challenge},{without_proof}", self.bare);
        let proof = ScramProof::new(password, &salt, iterations, message.as_bytes());
        self.signature = Some(proof.server_signature);
        Ok(BASE64.encode(format!("{without_proof},p={}", BASE64.encode(proof.client_proof))))
    }

    /// Verifies the signature in `server-final-message` (base64).
    ///
    /// # Errors
    /// [`ScramError`] if the message is malformed or the signature is wrong.
    pub fn check(&self, text: &str) -> Result<(), ScramError> {
        let text = decode(text)?;
        let signature = text.strip_prefix("v=").ok_or(ScramError::Malformed)?;
        let signature = signature.split(',').next().unwrap_or_default();
        let signature = BASE64.decode(signature).map_err(|_| ScramError::Malformed)?;
        let holds = self.signature.is_some_and(|expected| bool::from(expected[..].ct_eq(&signature)));
        if holds { Ok(()) } else { Err(ScramError::ServerUnproven) }
    }
}

fn decode(text: &str) -> Result<String, ScramError> {
    let octets = BASE64.decode(text).map_err(|_| ScramError::Malformed)?;
    String::from_utf8(octets).map_err(|_| ScramError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ScramVerifier;
    use crate::smtp::sasl::{ClientFirst, Parameters};
    use zeroize::Zeroizing;

    const CHALLENGE: &str =
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    fn text(base64: &str) -> String {
        decode(base64).unwrap()
    }

    fn begun() -> Scram {
        Scram::new("user", "rOprNGfwEbeRWgbNEkqO", Binding::None)
    }

    /// RFC 7677 §3.
    #[test]
    fn the_example_of_the_rfc_is_followed() {
        let mut scram = begun();
        assert_eq!(text(&scram.first()), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        assert_eq!(
            text(&scram.answer(&BASE64.encode(CHALLENGE), "pencil").unwrap()),
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        let last = BASE64.encode("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        assert_eq!(scram.check(&last), Ok(()));
        let other = BASE64.encode("v=7rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        assert_eq!(scram.check(&other), Err(ScramError::ServerUnproven));
        assert_eq!(scram.check(&BASE64.encode("e=other-error")), Err(ScramError::Malformed));
        assert_eq!(begun().check(&last), Err(ScramError::ServerUnproven), "before any proof was sent");
    }

    #[test]
    fn an_invalid_challenge_ends_the_exchange() {
        use ScramError::{Iterations, Malformed, Nonce};
        for (challenge, fault) in [
            ("", Malformed),
            ("r=rOprNGfwEbeRWgbNEkqOx,s=AAAA", Malformed),
            ("m=x,r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=1", Malformed),
            ("r=rOprNGfwEbeRWgbNEkqOx,s=!,i=4096", Malformed),
            ("r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=0", Malformed),
            ("r=rOprNGfwEbeRWgbNEkqO,s=AAAA,i=4096", Nonce),
            ("r=another,s=AAAA,i=4096", Nonce),
            ("r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=200001", Iterations),
        ] {
            assert_eq!(begun().answer(&BASE64.encode(challenge), "p").unwrap_err(), fault, "{challenge}");
        }
        assert_eq!(begun().answer("not base64", "p").unwrap_err(), Malformed);
    }

    /// Client and server role, with and without channel binding.
    #[test]
    fn client_and_server_role_accept_each_other() {
        let channel = [9; 32];
        let verifier = ScramVerifier::new("pass, word");
        for (binding, plus, offered) in [
            (Binding::None, false, None),
            (Binding::NotOffered, false, None),
            (Binding::Bound(channel), true, Some(&channel)),
        ] {
            let mut client = Scram::new("a=b,c", "fresh", binding);
            let first = ClientFirst::read(&text(&client.first()), plus, offered).unwrap();
            assert_eq!(first.username, "a=b,c");
            let parameters = Parameters {
                salt: verifier.salt().to_vec(),
                iterations: verifier.iterations(),
                nonce: "more".into(),
            };
            let challenge = first.challenge(&parameters);
            let answer = client.answer(&BASE64.encode(&challenge.text), "pass, word").unwrap();
            let proof = challenge.finish(&text(&answer)).unwrap();
            let signature = verifier.check(proof.auth_message.as_bytes(), &proof.octets).unwrap();
            assert_eq!(client.check(&BASE64.encode(format!("v={}", BASE64.encode(signature)))), Ok(()));
        }
    }

    #[test]
    fn scram_is_used_only_for_text_that_saslprep_leaves_unchanged() {
        let login = |user: &str, password: &str| Login {
            user: user.into(),
            password: Zeroizing::new(password.into()),
        };
        assert!(Scram::supports(&login("a b", "p~!")));
        assert!(!Scram::supports(&login("ä", "p")) && !Scram::supports(&login("a", "\u{ad}")));
    }
}
