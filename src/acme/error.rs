//! Why no certificate was issued.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use instant_acme::{Error, Problem};

use super::persist::PersistRecord;
use crate::store::StoreError;
use crate::tls::TlsError;

/// Characters of a text of the authority that are shown.
const TEXT_MAX: usize = 300;
/// The beginning of the types of problems (RFC 8555 §6.7).
const PROBLEM_PREFIX: &str = "urn:ietf:params:acme:error:";

/// Why an order failed.
#[derive(Debug, thiserror::Error)]
pub enum AcmeError {
    /// The authority cannot be reached, or its answer is not one of ACME.
    #[error("{0}")]
    Authority(String),
    /// The authority refused a request or the order.
    #[error("the authority refused{about}: {text}")]
    Refused {
        /// The type of the problem, without its prefix; empty if it has none.
        kind: String,
        /// ` NAME`, or nothing.
        about: String,
        /// Type and detail.
        text: String,
    },
    /// No challenge of the authority can be answered.
    #[error("{name}: the authority offers {offered}, and acme.challenge is {wanted}")]
    NoChallenge {
        /// The name.
        name: String,
        /// The challenges, as a list.
        offered: String,
        /// The configured challenge.
        wanted: &'static str,
    },
    /// A listener for http-01 cannot be opened.
    #[error(transparent)]
    Listen(#[from] ListenFault),
    /// Records for dns-persist-01 are not in the DNS.
    #[error("{}", missing_text(.0))]
    Records(Vec<PersistRecord>),
    /// The authority did not decide.
    #[error("the authority did not decide within five minutes")]
    Timeout,
    /// The order has no end.
    #[error("the order did not end within half an hour")]
    Endless,
    /// The issued certificate cannot be used.
    #[error("the issued certificate cannot be used: {0}")]
    Certificate(TlsError),
    /// The certificate cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The key of the external account cannot be used.
    #[error("acme.eab_key_file {path}: {reason}")]
    BindingKey {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// No key could be made.
    #[error("cannot make a key: {0}")]
    Key(rcgen::Error),
    /// The ACME library has a defect, or this module.
    #[error("the renewal panicked; the log says where")]
    Panicked,
    /// The account cannot be read or stored.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a listener for http-01 cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot listen on {address}: {reason}")]
pub struct ListenFault {
    /// Its address.
    pub address: SocketAddr,
    /// The kind of the error.
    pub kind: io::ErrorKind,
    /// What the operating system says.
    pub reason: String,
}

impl AcmeError {
    /// What the authority says about a name, or about the order if there is none.
    pub(super) fn refused(problem: &Problem, name: Option<&str>) -> Self {
        let kind = kind_of(problem);
        let parts = problem.subproblems.iter().map(ToString::to_string);
        let texts: Vec<String> = problem.detail.iter().cloned().chain(parts).collect();
        Self::Refused {
            kind: shown(kind),
            about: name.map(|name| shown(&format!(" {name}"))).unwrap_or_default(),
            text: shown(&format!("{kind}: {}", texts.join("; "))),
        }
    }

    /// Whether the authority does not know the account.
    pub(super) fn is_of_unknown_account(&self) -> bool {
        matches!(self, Self::Refused { kind, .. } if kind == "accountDoesNotExist")
    }
}

/// Each name with the record that it lacks.
fn missing_text(missing: &[PersistRecord]) -> String {
    let missing =
        missing.iter().map(|record| format!("{} has no TXT record {:?}", record.name, record.value()));
    missing.collect::<Vec<_>>().join("; ")
}

/// The type of a problem, without its prefix; empty if it has none.
pub(super) fn kind_of(problem: &Problem) -> &str {
    let kind = problem.r#type.as_deref().unwrap_or_default();
    kind.strip_prefix(PROBLEM_PREFIX).unwrap_or(kind)
}

impl From<Error> for AcmeError {
    fn from(error: Error) -> Self {
        match error {
            Error::Api(problem) => Self::refused(&problem, None),
            Error::Other(error) => Self::Authority(shown(&error.to_string())),
            error => Self::Authority(shown(&format!("the authority gave an unexpected answer: {error}"))),
        }
    }
}

/// A text from outside, on one line.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(TEXT_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_authority_says_is_one_short_line() {
        let problem = serde_json::json!({
            "type": "urn:ietf:params:acme:error:unauthorized",
            "detail": format!("no\u{1b}[31m\r\nway {}", "x".repeat(1000)),
        });
        let problem: Problem = serde_json::from_value(problem).unwrap();
        let text = AcmeError::refused(&problem, Some("mail.example.com")).to_string();
        assert!(
            text.starts_with("the authority refused mail.example.com: unauthorized: no [31m  way x"),
            "{text}"
        );
        assert!(!text.contains(char::is_control) && text.len() < 400, "{text}");
    }
}
