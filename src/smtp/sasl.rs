//! AUTH: the mechanisms PLAIN (RFC 4616) and LOGIN, as exchanges of lines (RFC 4954 §4).
//!
//! A mechanism is a value that takes the client's responses one by one, so that those which prove the password
//! instead of sending it can stand beside these.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// A user name and a password, as the client sent them.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// A key's id or a tenant's slug, if it is honest.
    pub username: String,
    /// Wiped from memory when dropped.
    pub password: Zeroizing<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Users swap the two fields, so neither is shown.
        f.write_str("Credentials(…)")
    }
}

/// An exchange that waits for the client's next response.
#[derive(Debug)]
pub enum Exchange {
    /// PLAIN, sent without an initial response.
    Plain,
    /// LOGIN, before the user name.
    LoginUsername,
    /// LOGIN, before the password.
    LoginPassword {
        /// What came before.
        username: String,
    },
}

/// Where a response leads.
#[derive(Debug)]
pub enum Progress {
    /// Another response is needed, after this challenge in base64.
    Challenge(&'static str, Exchange),
    /// The exchange is complete.
    Done(Credentials),
}

/// Why an exchange ends without credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaslError {
    /// No such mechanism.
    Mechanism,
    /// The client gave up with `*`.
    Cancelled,
    /// Not base64, or not what the mechanism wants.
    Malformed,
    /// One user asks to act as another, which nobody may.
    Authorization,
}

/// `Username:` and `Password:`.
const LOGIN_USERNAME: &str = "VXNlcm5hbWU6";
const LOGIN_PASSWORD: &str = "UGFzc3dvcmQ6";

/// The names for EHLO.
pub const MECHANISMS: &str = "PLAIN LOGIN";

/// Begins an exchange.
pub fn start(mechanism: &str, initial: Option<&str>) -> Result<Progress, SaslError> {
    let (challenge, exchange) = match mechanism.to_ascii_uppercase().as_str() {
        "PLAIN" => ("", Exchange::Plain),
        "LOGIN" => (LOGIN_USERNAME, Exchange::LoginUsername),
        _ => return Err(SaslError::Mechanism),
    };
    match initial {
        None => Ok(Progress::Challenge(challenge, exchange)),
        // RFC 4954 §4: `=` is an initial response of no octets.
        Some("=") => exchange.advance(b""),
        Some(response) => exchange.advance(response.as_bytes()),
    }
}

impl Exchange {
    /// Takes a response in base64.
    pub fn advance(self, response: &[u8]) -> Result<Progress, SaslError> {
        // RFC 4954 §4.
        if response == b"*" {
            return Err(SaslError::Cancelled);
        }
        let decoded = Zeroizing::new(STANDARD.decode(response).map_err(|_| SaslError::Malformed)?);
        let text = std::str::from_utf8(&decoded).map_err(|_| SaslError::Malformed)?;
        match self {
            Self::Plain => read_plain(text).map(Progress::Done),
            Self::LoginUsername => {
                Ok(Progress::Challenge(LOGIN_PASSWORD, Self::LoginPassword { username: text.to_owned() }))
            }
            Self::LoginPassword { username } => {
                Ok(Progress::Done(Credentials { username, password: Zeroizing::new(text.to_owned()) }))
            }
        }
    }
}

/// RFC 4616 §2: `[authzid] NUL authcid NUL passwd`.
fn read_plain(text: &str) -> Result<Credentials, SaslError> {
    let mut parts = text.split('\0');
    let (Some(actor), Some(username), Some(password), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(SaslError::Malformed);
    };
    if username.is_empty() {
        return Err(SaslError::Malformed);
    }
    if !actor.is_empty() && actor != username {
        return Err(SaslError::Authorization);
    }
    Ok(Credentials { username: username.to_owned(), password: Zeroizing::new(password.to_owned()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(message: &str) -> Result<(String, String), SaslError> {
        match start("plain", Some(&STANDARD.encode(message)))? {
            Progress::Done(c) => Ok((c.username, c.password.to_string())),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn plain_is_taken_with_and_without_an_equal_authorization_identity() {
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
        assert_eq!(start("PLAIN", Some("=")).unwrap_err(), SaslError::Malformed);
        assert_eq!(start("PLAIN", Some("not base64")).unwrap_err(), SaslError::Malformed);
        assert_eq!(start("PLAIN", Some("*")).unwrap_err(), SaslError::Cancelled);
        assert_eq!(start("CRAM-MD5", None).unwrap_err(), SaslError::Mechanism);
        assert!(matches!(start("LOGIN", Some("=")), Ok(Progress::Challenge(LOGIN_PASSWORD, _))));
    }

    #[test]
    fn login_asks_for_the_name_and_then_for_the_password() {
        let Ok(Progress::Challenge(asked, exchange)) = start("Login", None) else { panic!() };
        assert_eq!(STANDARD.decode(asked).unwrap(), b"Username:");
        let Ok(Progress::Challenge(asked, exchange)) = exchange.advance(b"dXNlcg==") else { panic!() };
        assert_eq!(STANDARD.decode(asked).unwrap(), b"Password:");
        let Ok(Progress::Done(credentials)) = exchange.advance(b"cGFzcw==") else { panic!() };
        assert_eq!((credentials.username.as_str(), credentials.password.as_str()), ("user", "pass"));
    }

    #[test]
    fn no_credential_shows_in_debug_output() {
        let Ok(done) = start("PLAIN", Some(&STANDARD.encode("\0user\0hunter2"))) else { panic!() };
        assert!(!format!("{done:?}").contains("hunter2"));
    }
}
