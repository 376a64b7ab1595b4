//! Why a host could not be reached, or why the dialogue with it ended early.

use crate::mail::EnhancedStatus;
use crate::model::{BounceClass, TlsFailure};
use crate::policy::tls::NO_TLS;
use crate::smtp::Reply;
use crate::smtp::client::{HandshakeError, Phase};

/// The error text if the time limit of the attempt, not of a step, was reached.
pub const ATTEMPT_TIMED_OUT: &str = "the time limit of the attempt was reached";

/// The failure of a delivery to a host.
#[derive(Debug, Clone)]
pub struct DeliveryError {
    /// The phase of the dialogue in which the failure occurred.
    pub phase: Phase,
    /// The server's reply, if a reply caused it.
    pub reply: Option<Reply>,
    /// The description.
    pub text: String,
    /// The cause, if there is no reply to classify.
    pub class: BounceClass,
    /// Whether the TLS handshake failed.
    pub in_handshake: bool,
    /// Whether the host refused the account permanently, independently of the message.
    pub is_login: bool,
    /// Whether the server offers no TLS, or has no certificate that proves its name, so that a retry would not help.
    pub lacks_tls: bool,
    /// The result type for TLS reports (RFC 8460 §4.3), if it is about TLS.
    pub tls_failure: Option<TlsFailure>,
    /// The status code that this server assigns if the server sent none.
    pub status: Option<EnhancedStatus>,
}

impl DeliveryError {
    /// An error without a reply, classified as a fault of TLS or else of the network.
    pub fn new(phase: Phase, text: impl Into<String>) -> Self {
        let class = if phase == Phase::StartTls { BounceClass::Tls } else { BounceClass::Network };
        Self {
            phase,
            reply: None,
            text: text.into(),
            class,
            in_handshake: false,
            is_login: false,
            lacks_tls: false,
            tls_failure: None,
            status: None,
        }
    }

    /// Replaces the class.
    pub fn with_class(self, class: BounceClass) -> Self {
        Self { class, ..self }
    }

    /// The connection was lost.
    pub fn connection_lost(phase: Phase, cause: &str) -> Self {
        Self::new(phase, format!("connection lost at {}: {cause}", phase.as_str()))
    }
}

impl From<HandshakeError> for DeliveryError {
    fn from(error: HandshakeError) -> Self {
        let mut failed = Self::new(error.phase(), error.text().into_owned());
        if matches!(error, HandshakeError::NoTls) {
            failed.lacks_tls = true;
            failed.tls_failure = Some(TlsFailure::StarttlsNotSupported);
            failed.status = Some(NO_TLS);
            failed.text = format!("[tls_not_offered] {}", failed.text);
        }
        // RFC 4954 §6: 4xx is a temporary fault of the server, 5xx is about the account.
        failed.is_login = match &error {
            HandshakeError::Refused(Phase::Auth, reply) => reply.code / 100 == 5,
            HandshakeError::NoMechanism | HandshakeError::Scram(_) => true,
            _ => false,
        };
        match error {
            HandshakeError::Refused(_, reply) => failed.reply = Some(reply),
            HandshakeError::NoMechanism | HandshakeError::Scram(_) => {
                failed.class = BounceClass::Authentication
            }
            HandshakeError::LoginInClear => failed.class = BounceClass::Tls,
            HandshakeError::NoTls | HandshakeError::Injection => {}
        }
        failed
    }
}
