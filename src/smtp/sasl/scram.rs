//! The messages of SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677), server role. The caller has the stored
//! key and verifies the proof. The channel binding is `tls-exporter` (RFC 9266), for TLS 1.3 only.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::SaslError;

/// Exported keying material of 32 octets (RFC 9266 §2).
pub type ChannelBinding = [u8; 32];

/// The channel binding type `tls-exporter` (RFC 9266 §4.2).
const BINDING_FLAG: &str = "p=tls-exporter";
const USERNAME_OCTETS_MAX: usize = 255;
/// No known client sends a longer nonce. A challenge with a nonce of this length fits one reply line.
const NONCE_OCTETS_MAX: usize = 128;
const PROOF_OCTETS: usize = 32;

/// The parsed `client-first-message`.
#[derive(Debug)]
pub struct ClientFirst {
    /// The user name: a key id.
    pub username: String,
    nonce: String,
    /// `client-first-message-bare`.
    bare: String,
    /// The expected value of `c=`: the GS2 header, and with PLUS the channel binding.
    binding: Vec<u8>,
}

/// The parameters of the challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameters {
    /// The user's salt; for an unknown user, a constant fake one.
    pub salt: Vec<u8>,
    /// The user's iteration count.
    pub iterations: u32,
    /// The server nonce: fresh, printable ASCII without commas, at most 64 octets.
    pub nonce: String,
}

/// The `server-first-message` that was sent.
#[derive(Debug)]
pub struct ServerFirst {
    /// The message before base64.
    pub text: String,
    client: ClientFirst,
    nonce: String,
}

/// The client's proof that it knows the password.
#[derive(PartialEq, Eq)]
pub struct Proof {
    /// `AuthMessage`: the messages that the proof covers.
    pub auth_message: String,
    /// The `ClientProof`.
    pub octets: Vec<u8>,
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proof(…)")
    }
}

impl ClientFirst {
    /// Parses `client-first-message` (RFC 5802 §7). `plus` is whether the client chose the PLUS mechanism; `channel` is
    /// the channel binding of the connection.
    ///
    /// # Errors
    /// [`SaslError`] if the message is malformed, names another authorization identity, or binds another channel.
    pub fn read(text: &str, plus: bool, channel: Option<&ChannelBinding>) -> Result<Self, SaslError> {
        let (flag, rest) = text.split_once(',').ok_or(SaslError::Malformed)?;
        let (authzid, bare) = rest.split_once(',').ok_or(SaslError::Malformed)?;
        let mut binding = text.as_bytes()[..text.len() - bare.len()].to_vec();
        match (flag, plus, channel) {
            ("n", false, _) | ("y", false, None) => {}
            // RFC 5802 §6: the server offered PLUS and the client did not see it: a downgrade attack.
            ("y", false, Some(_)) => return Err(SaslError::Binding),
            (BINDING_FLAG, true, Some(channel)) => binding.extend_from_slice(channel),
            (flag, true, _) if flag.starts_with("p=") => return Err(SaslError::Binding),
            _ => return Err(SaslError::Malformed),
        }
        // A leading `m=` is a mandatory extension (RFC 5802 §5.1); none is supported.
        let mut parts = bare.split(',');
        let username = parts.next().and_then(|part| part.strip_prefix("n="));
        let username = username.and_then(decode_name).ok_or(SaslError::Malformed)?;
        let nonce = parts.next().and_then(|part| part.strip_prefix("r=")).ok_or(SaslError::Malformed)?;
        let is_printable = nonce.bytes().all(|b| b.is_ascii_graphic());
        if nonce.is_empty() || nonce.len() > NONCE_OCTETS_MAX || !is_printable {
            return Err(SaslError::Malformed);
        }
        match authzid.strip_prefix("a=") {
            None if authzid.is_empty() => {}
            None => return Err(SaslError::Malformed),
            Some(name) if decode_name(name).as_ref() == Some(&username) => {}
            Some(_) => return Err(SaslError::Authorization),
        }
        let nonce = nonce.to_owned();
        Ok(Self { username, nonce, bare: bare.to_owned(), binding })
    }

    /// Builds the `server-first-message`.
    pub fn challenge(self, parameters: &Parameters) -> ServerFirst {
        let nonce = format!("{}{}", self.nonce, parameters.nonce);
        let text = format!("r={nonce},s={},i={}", STANDARD.encode(&parameters.salt), parameters.iterations);
        ServerFirst { text, client: self, nonce }
    }
}

impl ServerFirst {
    /// Parses `client-final-message`.
    ///
    /// # Errors
    /// [`SaslError`] if the message is malformed, or belongs to another channel or exchange.
    pub fn finish(self, text: &str) -> Result<Proof, SaslError> {
        let (unproven, proof) = text.rsplit_once(",p=").ok_or(SaslError::Malformed)?;
        let mut parts = unproven.split(',');
        let binding = parts.next().and_then(|part| part.strip_prefix("c=")).ok_or(SaslError::Malformed)?;
        let nonce = parts.next().and_then(|part| part.strip_prefix("r=")).ok_or(SaslError::Malformed)?;
        let binding = STANDARD.decode(binding).map_err(|_| SaslError::Malformed)?;
        let octets = STANDARD.decode(proof).map_err(|_| SaslError::Malformed)?;
        if octets.len() != PROOF_OCTETS {
            return Err(SaslError::Malformed);
        }
        if binding != self.client.binding || nonce != self.nonce {
            return Err(SaslError::Binding);
        }
        Ok(Proof { auth_message: format!("{},{},{unproven}", self.client.bare, self.text), octets })
    }
}

/// Builds the `server-final-message` with the server signature.
pub fn server_final_message(signature: &[u8]) -> String {
    format!("v={}", STANDARD.encode(signature))
}

/// RFC 5802 §5.1: `=2C` is a comma and `=3D` an equals sign; any other `=` is invalid.
fn decode_name(name: &str) -> Option<String> {
    let mut decoded = String::with_capacity(name.len());
    let mut pieces = name.split('=');
    decoded.push_str(pieces.next()?);
    for piece in pieces {
        let (character, rest) = match (piece.strip_prefix("2C"), piece.strip_prefix("3D")) {
            (Some(rest), _) => (',', rest),
            (_, Some(rest)) => ('=', rest),
            _ => return None,
        };
        decoded.push(character);
        decoded.push_str(rest);
    }
    let is_valid = (1..=USERNAME_OCTETS_MAX).contains(&decoded.len()) && !decoded.contains('\0');
    is_valid.then_some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CHANNEL: ChannelBinding = [7; 32];

    fn parameters() -> Parameters {
        Parameters {
            salt: STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap(),
            iterations: 4096,
            nonce: "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0".into(),
        }
    }

    /// RFC 7677 §3.
    #[test]
    fn the_messages_are_those_of_the_example_in_rfc_7677() {
        let first = ClientFirst::read("n,,n=user,r=rOprNGfwEbeRWgbNEkqO", false, None).unwrap();
        assert_eq!(first.username, "user");
        let challenge = first.challenge(&parameters());
        assert_eq!(
            challenge.text,
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        );
        let proof = challenge
            .finish(
                "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                 p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
            )
            .unwrap();
        assert_eq!(
            proof.auth_message,
            "n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
        );
    }

    #[test]
    fn client_first_messages_are_validated() {
        use SaslError::{Authorization, Binding, Malformed};
        let channel = Some(&CHANNEL);
        for (text, plus, channel, expected) in [
            ("n,,n=u,r=x", false, channel, Ok("u")),
            ("y,,n=u,r=x", false, None, Ok("u")),
            ("n,a=u,n=u,r=x", false, None, Ok("u")),
            ("n,,n=a=2Cb=3Dc,r=x", false, None, Ok("a,b=c")),
            ("n,,n=u,r=x,later=1", false, None, Ok("u")),
            ("p=tls-exporter,,n=u,r=x", true, channel, Ok("u")),
            ("y,,n=u,r=x", false, channel, Err(Binding)),
            ("p=tls-exporter,,n=u,r=x", true, None, Err(Binding)),
            ("p=tls-unique,,n=u,r=x", true, channel, Err(Binding)),
            ("p=tls-exporter,,n=u,r=x", false, channel, Err(Malformed)),
            ("n,,n=u,r=x", true, channel, Err(Malformed)),
            ("n,a=root,n=u,r=x", false, None, Err(Authorization)),
            ("n,root,n=u,r=x", false, None, Err(Malformed)),
            ("n,,m=1,n=u,r=x", false, None, Err(Malformed)),
            ("n,,n=,r=x", false, None, Err(Malformed)),
            ("n,,n=u=20,r=x", false, None, Err(Malformed)),
            ("n,,n=u,r=", false, None, Err(Malformed)),
            ("n,,n=u,r=é", false, None, Err(Malformed)),
            ("n,,n=u", false, None, Err(Malformed)),
            ("", false, None, Err(Malformed)),
        ] {
            let found = ClientFirst::read(text, plus, channel).map(|first| first.username);
            assert_eq!(found.as_deref(), expected.as_ref().copied(), "{text}");
        }
        let long = format!("n,,n=u,r={}", "x".repeat(NONCE_OCTETS_MAX + 1));
        assert_eq!(ClientFirst::read(&long, false, None).unwrap_err(), Malformed);
    }

    #[test]
    fn a_proof_for_another_channel_or_exchange_is_refused() {
        let header = b"p=tls-exporter,,";
        let ends = |bound: &[u8], nonce: &str| {
            let first = ClientFirst::read("p=tls-exporter,,n=u,r=x", true, Some(&CHANNEL)).unwrap();
            let proof = STANDARD.encode([1; PROOF_OCTETS]);
            let text = format!("c={},r={nonce},p={proof}", STANDARD.encode(bound));
            first.challenge(&Parameters { nonce: "y".into(), ..parameters() }).finish(&text)
        };
        assert!(ends(&[&header[..], &CHANNEL].concat(), "xy").is_ok());
        assert_eq!(ends(&[&header[..], &[8; 32]].concat(), "xy"), Err(SaslError::Binding));
        assert_eq!(ends(header, "xy"), Err(SaslError::Binding));
        assert_eq!(ends(&[b"n,,", &CHANNEL[..]].concat(), "xy"), Err(SaslError::Binding));
        assert_eq!(ends(&[&header[..], &CHANNEL].concat(), "xz"), Err(SaslError::Binding));
    }

    #[test]
    fn an_invalid_final_message_is_refused() {
        let proof = STANDARD.encode([1; PROOF_OCTETS]);
        for text in [
            String::new(),
            "c=biws,r=xy".into(),
            "c=biws,r=xy,p=".into(),
            "c=biws,r=xy,p=AAAA".into(),
            format!("r=xy,c=biws,p={proof}"),
            format!("c=!,r=xy,p={proof}"),
        ] {
            let first = ClientFirst::read("n,,n=u,r=x", false, None).unwrap();
            let ended = first.challenge(&Parameters { nonce: "y".into(), ..parameters() }).finish(&text);
            assert_eq!(ended, Err(SaslError::Malformed), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_message_makes_the_parser_panic(
            first in "[npy]?(=tls-exporter)?,(a=u)?,(n=[a=,C23]{0,4})?(,r=[a-c,]{0,4})?.{0,3}",
            last in "(c=[a-z=]{0,4})?(,r=[xy]{0,3})?(,p=[A=]{0,5})?.{0,3}",
        ) {
            if let Ok(first) = ClientFirst::read(&first, false, None) {
                let challenge = first.challenge(&parameters());
                prop_assert!(STANDARD.encode(&challenge.text).len() < 500);
                let _ = challenge.finish(&last);
            }
        }
    }
}
