//! The TLS client. It verifies certificates if a policy or a route requires it, and accepts any certificate if TLS is
//! opportunistic.

use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, SignatureScheme, WantsVerifier,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::dane::DaneVerifier;
use crate::model::TlsFailure;
use crate::net;
use crate::policy::tls::{DaneSet, Requirement};
use crate::relay::RelayError;
use crate::smtp::ChannelBinding;
use crate::tls;

/// Which server certificates are accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// A certificate that matches TLSA records (RFC 7672).
    Dane(Arc<DaneSet>),
    /// A certificate for the host's name from a trusted authority.
    Verified,
    /// Any certificate: unauthenticated encryption is better than none (RFC 7435).
    Any,
}

impl Trust {
    /// Whether a connection with this trust meets a requirement. With DANE the records are compared too: a server that
    /// is trusted for one domain need not be trusted for another.
    pub fn meets(&self, requirement: &Requirement) -> bool {
        match (requirement, self) {
            (Requirement::Opportunistic | Requirement::Tested | Requirement::Encrypted, _) => true,
            (Requirement::Verified, Self::Verified) => true,
            (Requirement::Verified, Self::Dane(set)) => set.names_end_entities(),
            (Requirement::Dane(required), Self::Dane(set)) => set.is_as_good_as(required),
            (Requirement::Verified | Requirement::Dane(_), _) => false,
        }
    }
}

/// Settings for each kind of [`Trust`].
pub struct ClientTls {
    provider: Arc<CryptoProvider>,
    verified: TlsConnector,
    any: TlsConnector,
}

impl ClientTls {
    /// Trusts the system's authorities and those in `ca_file` (PEM).
    ///
    /// # Errors
    /// [`RelayError::CaFile`], [`RelayError::NoAuthorities`], [`RelayError::Tls`].
    pub fn load(ca_file: Option<&Path>) -> Result<Self, RelayError> {
        let provider = tls::provider();
        let builder = || builder(&provider).map_err(|error| RelayError::Tls(error.to_string()));
        let roots = tls::trusted_roots(ca_file).map_err(RelayError::CaFile)?;
        if roots.is_empty() {
            return Err(RelayError::NoAuthorities);
        }
        let verified = builder()?.with_root_certificates(roots).with_no_client_auth();
        let any = builder()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AcceptAny(provider.clone())))
            .with_no_client_auth();
        Ok(Self { verified: Arc::new(verified).into(), any: Arc::new(any).into(), provider })
    }

    /// Does the handshake with a server of this name or address.
    ///
    /// # Errors
    /// The certificate is not accepted, the handshake failed, or the connection was lost.
    pub async fn connect(
        &self,
        trust: &Trust,
        host: &str,
        stream: net::Stream,
    ) -> std::io::Result<TlsStream<net::Stream>> {
        let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
        match trust {
            Trust::Verified => self.verified.connect(name, stream).await,
            Trust::Any => self.any.connect(name, stream).await,
            Trust::Dane(set) => self.dane(set).map_err(std::io::Error::other)?.connect(name, stream).await,
        }
    }

    /// Creates a connector for one connection: the records belong to one host, and a session must not be resumed under
    /// older records.
    fn dane(&self, set: &Arc<DaneSet>) -> Result<TlsConnector, rustls::Error> {
        let verifier = DaneVerifier { set: set.clone(), provider: self.provider.clone() };
        let mut config = builder(&self.provider)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config).into())
    }
}

fn builder(
    provider: &Arc<CryptoProvider>,
) -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, rustls::Error> {
    ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()
}

/// The text of a handshake error; an error of the DANE verifier without the wrapper of the library.
pub fn explain(error: &std::io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(own))) => own.to_string(),
        _ => error.to_string(),
    }
}

/// The result type of a failed handshake in TLS reports (RFC 8460 §4.3).
pub fn failure_of(error: &std::io::Error) -> TlsFailure {
    use CertificateError::{
        Expired, ExpiredContext, NotValidForName, NotValidForNameContext, NotValidYet, NotValidYetContext,
    };
    match certificate_fault(error) {
        None => TlsFailure::ValidationFailure,
        Some(Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. }) => {
            TlsFailure::CertificateExpired
        }
        Some(NotValidForName | NotValidForNameContext { .. }) => TlsFailure::CertificateHostMismatch,
        Some(_) => TlsFailure::CertificateNotTrusted,
    }
}

/// Whether a handshake failed because of the server's certificate.
pub fn is_certificate_fault(error: &std::io::Error) -> bool {
    certificate_fault(error).is_some()
}

fn certificate_fault(error: &std::io::Error) -> Option<&CertificateError> {
    match error.get_ref()?.downcast_ref()? {
        rustls::Error::InvalidCertificate(fault) => Some(fault),
        _ => None,
    }
}

/// TLS version and cipher suite, such as `TLSv1.3 TLS13_AES_256_GCM_SHA384`.
pub fn describe(stream: &TlsStream<net::Stream>) -> String {
    let session = &stream.get_ref().1;
    let version = match session.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
        _ => "TLS",
    };
    match session.negotiated_cipher_suite() {
        Some(suite) => format!("{version} {:?}", suite.suite()),
        None => version.to_owned(),
    }
}

/// The `tls-exporter` channel binding, with TLS 1.3 only (RFC 9266 §3).
pub fn channel_binding(stream: &TlsStream<net::Stream>) -> Option<ChannelBinding> {
    let session = &stream.get_ref().1;
    if session.protocol_version() != Some(rustls::ProtocolVersion::TLSv1_3) {
        return None;
    }
    session.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(b"")).ok()
}

/// Accepts any certificate and any signature. Without a trusted certificate a signature proves nothing, and a
/// certificate that the library cannot parse would only cause a fallback to no TLS.
#[derive(Debug)]
struct AcceptAny(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
