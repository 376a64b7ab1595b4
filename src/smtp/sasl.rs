//! AUTH (RFC 4954 §4): the mechanisms PLAIN (RFC 4616), LOGIN, SCRAM-SHA-256 and SCRAM-SHA-256-PLUS, as state
//! machines over response lines.

mod scram;

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use scram::ServerFirst;
pub use scram::{ChannelBinding, ClientFirst, Parameters, Proof};

/// User name and password, as sent by the client.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// A key id or the slug of a tenant.
    pub username: String,
    /// Zeroed on drop.
    pub password: Zeroizing<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Users confuse the two fields, so neither is shown.
        f.write_str("Credentials(…)")
    }
}

/// A SASL exchange that waits for the next response of the client.
#[derive(Debug)]
pub enum Exchange {
    /// PLAIN, sent without an initial response.
    Plain,
    /// LOGIN, before the user name.
    LoginUsername,
    /// LOGIN, before the password.
    LoginPassword(Username),
    /// SCRAM, before the client's first message.
    ScramFirst {
        /// Whether the client chose channel binding.
        plus: bool,
        /// The channel binding of the connection.
        channel: Option<ChannelBinding>,
    },
    /// SCRAM, before the client's proof.
    ScramFinal(Box<ServerFirst>),
    /// SCRAM, after the server signature was sent as a challenge (RFC 4954 §4: the 235 reply cannot carry it).
    ScramAcknowledge,
}

/// The user name of a LOGIN exchange. Users confuse it with the password, so `Debug` does not show it.
pub struct Username(String);

impl fmt::Debug for Username {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Username(…)")
    }
}

/// The progress of an exchange after a response.
#[derive(Debug)]
pub enum SaslProgress {
    /// Another response is needed after this challenge (base64).
    Challenge(Cow<'static, str>, Exchange),
    /// The exchange is complete.
    Done(Credentials),
    /// The SCRAM parameters of the user are needed to continue with [`challenge`].
    Find(ClientFirst),
    /// The proof must be verified to continue with [`server_final`].
    Prove(Proof),
    /// The exchange is complete: the proof was valid, and the client has the server signature.
    Proven,
}

/// Why an exchange failed before credentials were checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaslError {
    /// Unknown mechanism.
    Mechanism,
    /// The client cancelled with `*`.
    Cancelled,
    /// Not base64, or not in the mechanism's syntax.
    Malformed,
    /// The authorization identity differs from the user; acting as another user is not supported.
    Authorization,
    /// The channel binding or the nonce is wrong.
    Binding,
}

/// Base64 of `Username:` and `Password:`.
const LOGIN_USERNAME: &str = "VXNlcm5hbWU6";
const LOGIN_PASSWORD: &str = "UGFzc3dvcmQ6";

/// The mechanisms for EHLO; PLUS only with a channel binding.
pub fn mechanisms(channel: Option<&ChannelBinding>) -> &'static str {
    match channel {
        Some(_) => "SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN",
        None => "SCRAM-SHA-256 PLAIN LOGIN",
    }
}

/// Starts an exchange.
pub fn start(
    mechanism: &str,
    initial: Option<&str>,
    channel: Option<ChannelBinding>,
) -> Result<SaslProgress, SaslError> {
    let (challenge, exchange) = match mechanism.to_ascii_uppercase().as_str() {
        "PLAIN" => ("", Exchange::Plain),
        "LOGIN" => (LOGIN_USERNAME, Exchange::LoginUsername),
        "SCRAM-SHA-256" => ("", Exchange::ScramFirst { plus: false, channel }),
        "SCRAM-SHA-256-PLUS" if channel.is_some() => ("", Exchange::ScramFirst { plus: true, channel }),
        _ => return Err(SaslError::Mechanism),
    };
    match initial {
        None => Ok(SaslProgress::Challenge(challenge.into(), exchange)),
        // RFC 4954 §4: `=` is an empty initial response.
        Some("=") => exchange.advance(b""),
        Some(response) => exchange.advance(response.as_bytes()),
    }
}

/// The server's first SCRAM message, with the parameters of the user.
pub fn challenge(first: ClientFirst, parameters: &Parameters) -> SaslProgress {
    let server_first = first.challenge(parameters);
    let text = STANDARD.encode(&server_first.text);
    SaslProgress::Challenge(text.into(), Exchange::ScramFinal(Box::new(server_first)))
}

/// The server's final SCRAM message, with the server signature. Call it after the proof was verified.
pub fn server_final(signature: &[u8]) -> SaslProgress {
    let text = STANDARD.encode(scram::server_final_message(signature));
    SaslProgress::Challenge(text.into(), Exchange::ScramAcknowledge)
}

impl Exchange {
    /// Processes a response (base64).
    ///
    /// # Errors
    /// [`SaslError`] if the client cancels, or the response does not continue the exchange.
    pub fn advance(self, response: &[u8]) -> Result<SaslProgress, SaslError> {
        // RFC 4954 §4.
        if response == b"*" {
            return Err(SaslError::Cancelled);
        }
        let decoded = Zeroizing::new(STANDARD.decode(response).map_err(|_| SaslError::Malformed)?);
        let text = std::str::from_utf8(&decoded).map_err(|_| SaslError::Malformed)?;
        match self {
            Self::Plain => read_plain(text).map(SaslProgress::Done),
            Self::LoginUsername => {
                let next = Self::LoginPassword(Username(text.to_owned()));
                Ok(SaslProgress::Challenge(LOGIN_PASSWORD.into(), next))
            }
            Self::LoginPassword(Username(username)) => {
                Ok(SaslProgress::Done(Credentials { username, password: Zeroizing::new(text.to_owned()) }))
            }
            Self::ScramFirst { plus, channel } => {
                ClientFirst::read(text, plus, channel.as_ref()).map(SaslProgress::Find)
            }
            Self::ScramFinal(server_first) => server_first.finish(text).map(SaslProgress::Prove),
            Self::ScramAcknowledge if text.is_empty() => Ok(SaslProgress::Proven),
            Self::ScramAcknowledge => Err(SaslError::Malformed),
        }
    }
}

/// RFC 4616 §2: `[authzid] NUL authcid NUL passwd`.
fn read_plain(text: &str) -> Result<Credentials, SaslError> {
    let mut parts = text.split('\0');
    let (Some(authzid), Some(username), Some(password), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(SaslError::Malformed);
    };
    if username.is_empty() {
        return Err(SaslError::Malformed);
    }
    if !authzid.is_empty() && authzid != username {
        return Err(SaslError::Authorization);
    }
    Ok(Credentials { username: username.to_owned(), password: Zeroizing::new(password.to_owned()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(message: &str) -> Result<(String, String), SaslError> {
        match start("plain", Some(&STANDARD.encode(message)), None)? {
            SaslProgress::Done(c) => Ok((c.username, c.password.to_string())),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn plain_is_accepted_with_and_without_an_equal_authorization_identity() {
        let expected = Ok(("user".to_owned(), "pass".to_owned()));
        assert_eq!(plain("\0user\0pass"), expected);
        assert_eq!(plain("user\0user\0pass"), expected);
        assert_eq!(plain("root\0user\0pass"), Err(SaslError::Authorization));
        for bad in ["", "user", "\0user", "\0\0pass", "\0user\0pass\0", "a\0b\0c\0d"] {
            assert_eq!(plain(bad), Err(SaslError::Malformed), "{bad:?}");
        }
    }

    #[test]
    fn an_initial_response_may_be_empty_and_must_be_base64() {
        assert_eq!(start("PLAIN", Some("="), None).unwrap_err(), SaslError::Malformed);
        assert_eq!(start("PLAIN", Some("not base64"), None).unwrap_err(), SaslError::Malformed);
        assert_eq!(start("PLAIN", Some("*"), None).unwrap_err(), SaslError::Cancelled);
        assert_eq!(start("CRAM-MD5", None, None).unwrap_err(), SaslError::Mechanism);
        assert!(
            matches!(start("LOGIN", Some("="), None), Ok(SaslProgress::Challenge(sent, _)) if sent == LOGIN_PASSWORD)
        );
    }

    #[test]
    fn login_challenges_for_the_user_name_and_then_for_the_password() {
        let Ok(SaslProgress::Challenge(challenge, exchange)) = start("Login", None, None) else { panic!() };
        assert_eq!(STANDARD.decode(&*challenge).unwrap(), b"Username:");
        let Ok(SaslProgress::Challenge(challenge, exchange)) = exchange.advance(b"dXNlcg==") else {
            panic!()
        };
        assert_eq!(STANDARD.decode(&*challenge).unwrap(), b"Password:");
        let Ok(SaslProgress::Done(credentials)) = exchange.advance(b"cGFzcw==") else { panic!() };
        assert_eq!((credentials.username.as_str(), credentials.password.as_str()), ("user", "pass"));
    }

    #[test]
    fn no_credential_shows_in_debug_output() {
        let Ok(done) = start("PLAIN", Some(&STANDARD.encode("\0user\0hunter2")), None) else { panic!() };
        assert!(!format!("{done:?}").contains("hunter2"));
    }

    #[test]
    fn scram_plus_needs_a_channel_binding() {
        assert_eq!(start("SCRAM-SHA-256-PLUS", None, None).unwrap_err(), SaslError::Mechanism);
        assert!(start("scram-sha-256-plus", None, Some([0; 32])).is_ok());
        assert!(
            !mechanisms(None).contains("PLUS")
                && mechanisms(Some(&[0; 32])).starts_with("SCRAM-SHA-256-PLUS ")
        );
    }
}
