//! Verifies certificates against TLSA records (RFC 7671, RFC 7672 §3), without certificate authorities.

use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, Der, ServerName, SubjectPublicKeyInfoDer, TrustAnchor, UnixTime};
use webpki::EndEntityCert;

use crate::mail::Tlsa;
use crate::policy::tls::DaneSet;

/// Verifies a server's certificate against the TLSA records of one host.
#[derive(Debug)]
pub struct DaneVerifier {
    /// The records.
    pub set: Arc<DaneSet>,
    /// Verifies signatures.
    pub provider: Arc<CryptoProvider>,
}

#[derive(Debug, thiserror::Error)]
#[error("no TLSA record matches the server's certificate")]
struct NoMatch;

impl DaneVerifier {
    /// RFC 7672 §3.1.1: with DANE-EE the certificate's names and dates are ignored.
    fn matches_end_entity(&self, end_entity: &CertificateDer<'_>) -> bool {
        self.records_of(Tlsa::END_ENTITY).any(|record| is_match(record, end_entity))
    }

    /// RFC 7672 §3.1.2: with DANE-TA the chain must end at the trust anchor, and the certificate must have one of the
    /// names.
    fn check_trust_anchors(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let mut anchors = RootCertStore::empty();
        for record in self.records_of(Tlsa::TRUST_ANCHOR) {
            // RFC 7671 §5.2.2: a digest identifies a certificate of the chain, which the server must send.
            for certificate in intermediates.iter().filter(|certificate| is_match(record, certificate)) {
                // An unreadable certificate is not trusted.
                let _ = anchors.add(certificate.clone().into_owned());
            }
            match (record.selector, record.matching) {
                (0, 0) => drop(anchors.add(CertificateDer::from(record.data.clone()))),
                (1, 0) => anchors.roots.extend(bare_key_anchors(&record.data, end_entity, intermediates)),
                _ => {}
            }
        }
        if anchors.is_empty() {
            return Err(no_match());
        }
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &anchors, intermediates, now, algorithms)?;
        let mut wrong_name = no_match();
        for name in &self.set.names {
            let Ok(name) = ServerName::try_from(name.as_str()) else { continue };
            match verify_server_name(&certificate, &name) {
                Ok(()) => return Ok(()),
                Err(error) => wrong_name = error,
            }
        }
        Err(wrong_name)
    }

    fn records_of(&self, usage: u8) -> impl Iterator<Item = &Tlsa> {
        self.set.records.iter().filter(move |record| record.usage == usage)
    }
}

/// The trust anchors of a bare key (RFC 7671 §5.2.3): one for the issuer name of each certificate of the chain.
fn bare_key_anchors(
    key: &[u8],
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> Vec<TrustAnchor<'static>> {
    // webpki expects the content of the SEQUENCE.
    let Some(key) = sequence_content(key) else { return Vec::new() };
    let chain = std::iter::once(end_entity).chain(intermediates);
    let issuers =
        chain.filter_map(|certificate| Some(EndEntityCert::try_from(certificate).ok()?.issuer().to_vec()));
    let anchor = |issuer: Vec<u8>| TrustAnchor {
        subject: Der::from(issuer),
        subject_public_key_info: Der::from(key.to_vec()),
        name_constraints: None,
    };
    issuers.map(anchor).collect()
}

/// The content of a DER SEQUENCE, if it spans all octets (X.690 §8.1.3, §8.9).
fn sequence_content(der: &[u8]) -> Option<&[u8]> {
    let (&[tag, length], rest) = der.split_first_chunk()?;
    let content = match length {
        0..=0x7f => rest,
        0x81 | 0x82 => rest.get(usize::from(length & 0x7f)..)?,
        _ => return None,
    };
    let octets = match length {
        0..=0x7f => usize::from(length),
        _ => rest[..rest.len() - content.len()].iter().fold(0, |sum, &octet| sum << 8 | usize::from(octet)),
    };
    (tag == 0x30 && octets == content.len()).then_some(content)
}

/// RFC 6698 §2.1.
fn is_match(record: &Tlsa, certificate: &CertificateDer<'_>) -> bool {
    let key: SubjectPublicKeyInfoDer<'_>;
    let selected: &[u8] = match record.selector {
        0 => certificate,
        _ => {
            let Ok(parsed) = ParsedCertificate::try_from(certificate) else { return false };
            key = parsed.subject_public_key_info();
            &key
        }
    };
    match record.matching {
        0 => selected == record.data,
        1 => digest::digest(&digest::SHA256, selected).as_ref() == record.data,
        2 => digest::digest(&digest::SHA512, selected).as_ref() == record.data,
        _ => false,
    }
}

fn no_match() -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(NoMatch))))
}

impl ServerCertVerifier for DaneVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // RFC 7671 §4: one matching record is enough.
        if !self.matches_end_entity(end_entity) {
            self.check_trust_anchors(end_entity, intermediates, now)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
