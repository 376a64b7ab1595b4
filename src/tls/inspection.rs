//! What clients will think of a certificate.

use std::path::Path;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::EndEntityCert;
use x509_parser::extensions::GeneralName;

use super::{TlsError, load, provider, read, trusted_roots};
use crate::mail::{DomainName, Timestamp};

/// Names of a certificate that are shown.
const NAMES_MAX: usize = 20;

/// A certificate that can be loaded with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// The names that it is for.
    pub names: Vec<String>,
    /// Whether the host name is one of them.
    pub is_for_hostname: bool,
    /// The begin of its life.
    pub not_before: Timestamp,
    /// The end of its life.
    pub not_after: Timestamp,
    /// Why it does not lead to an authority that this system trusts, expiry aside.
    pub chain_fault: Option<String>,
}

/// Reads a certificate and its key as [`super::Certificate::load`] does, and looks at the certificate.
///
/// # Errors
/// [`TlsError`] if a file cannot be read or used, or the key does not match the certificate.
pub fn inspect(
    certificate: &Path,
    private_key: &Path,
    hostname: &DomainName,
    now: Timestamp,
) -> Result<Inspection, TlsError> {
    load(certificate, private_key)?;
    let fault = |message: String| TlsError::Content { path: certificate.to_owned(), message };
    let chain: Vec<CertificateDer<'_>> = CertificateDer::pem_slice_iter(&read(certificate)?)
        .collect::<Result<_, _>>()
        .map_err(|error| fault(format!("not a certificate in PEM: {error}")))?;
    let [leaf, intermediates @ ..] = chain.as_slice() else {
        return Err(fault("contains no certificate in PEM".into()));
    };
    let (_, parsed) =
        x509_parser::parse_x509_certificate(leaf).map_err(|error| fault(format!("not readable: {error}")))?;
    let end_entity = EndEntityCert::try_from(leaf).map_err(|error| fault(format!("not usable: {error}")))?;
    let at = |seconds| Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX);
    let validity = parsed.validity();
    let (not_before, not_after) = (at(validity.not_before.timestamp()), at(validity.not_after.timestamp()));
    let is_for = |name| end_entity.verify_is_valid_for_subject_name(&name).is_ok();
    Ok(Inspection {
        names: names_of(&parsed),
        is_for_hostname: ServerName::try_from(hostname.as_str()).is_ok_and(is_for),
        not_before,
        not_after,
        chain_fault: find_chain_fault(&end_entity, intermediates, now.clamp(not_before, not_after))?,
    })
}

fn names_of(certificate: &x509_parser::certificate::X509Certificate<'_>) -> Vec<String> {
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|extension| &extension.value.general_names);
    let names = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    });
    names.take(NAMES_MAX).collect()
}

/// Verifies the chain at a time in the life of the certificate.
fn find_chain_fault(
    certificate: &EndEntityCert<'_>,
    intermediates: &[CertificateDer<'_>],
    at: Timestamp,
) -> Result<Option<String>, TlsError> {
    let roots = trusted_roots(None)?;
    let since_epoch = std::time::Duration::from_secs(at.as_second().try_into().unwrap_or(0));
    let verified = certificate.verify_for_usage(
        provider().signature_verification_algorithms.all,
        &roots.roots,
        intermediates,
        UnixTime::since_unix_epoch(since_epoch),
        webpki::KeyUsage::server_auth(),
        None,
        None,
    );
    Ok(match verified {
        Ok(_) => None,
        Err(webpki::Error::UnknownIssuer) => Some(
            "no authority that this system trusts has issued it, or an intermediate certificate is missing"
                .into(),
        ),
        Err(error) => Some(error.to_string()),
    })
}
