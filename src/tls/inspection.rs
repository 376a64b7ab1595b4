//! What clients will think of a certificate.

use std::path::Path;

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::EndEntityCert;

use super::{Leaf, TlsError, load, parse_chain, provider, read, trusted_roots};
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
    let chain = parse_chain(certificate, &read(certificate)?)?;
    let leaf = Leaf::parse(&chain[0]).map_err(fault)?;
    let (not_before, not_after) = leaf.validity();
    // Not `clamp`: the first may be later than the second.
    let in_its_life = now.max(not_before).min(not_after);
    Ok(Inspection {
        names: leaf.names(NAMES_MAX),
        is_for_hostname: leaf.is_for(hostname),
        not_before,
        not_after,
        chain_fault: find_chain_fault(leaf.end_entity(), &chain[1..], in_its_life)?,
    })
}

impl Inspection {
    /// Why clients refuse it now, as predicates; an untrusted issuer aside.
    pub fn find_faults(&self, hostname: &DomainName, now: Timestamp) -> Vec<String> {
        let mut faults = Vec::new();
        if self.not_after <= now {
            faults.push(format!("expired at {}", utc(self.not_after)));
        } else if self.not_before > now {
            faults.push(format!("is not valid before {}", utc(self.not_before)));
        }
        if !self.is_for_hostname {
            faults.push(format!("is not for the hostname {hostname}"));
        }
        faults
    }

    /// Whether less than a third of its life is left.
    pub fn ends_soon(&self, now: Timestamp) -> bool {
        let life = self.not_after.duration_since(self.not_before);
        self.not_after.duration_since(now).as_secs() < life.as_secs() / 3
    }
}

fn utc(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_name_an_expired_certificate_and_one_for_another_host() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let hostname = DomainName::parse("mail.example.com").unwrap();
        let found = |is_for_hostname| Inspection {
            names: Vec::new(),
            is_for_hostname,
            not_before: at("2026-01-01T00:00:00Z"),
            not_after: at("2026-04-01T00:00:00Z"),
            chain_fault: None,
        };
        for (is_for_hostname, now, expected) in [
            (true, "2026-02-01T00:00:00Z", &[][..]),
            (false, "2026-02-01T00:00:00Z", &["is not for the hostname mail.example.com"]),
            (true, "2026-04-01T00:00:00Z", &["expired at 2026-04-01 00:00:00Z"]),
            (true, "2025-12-31T00:00:00Z", &["is not valid before 2026-01-01 00:00:00Z"]),
        ] {
            assert_eq!(found(is_for_hostname).find_faults(&hostname, at(now)), expected, "{now}");
        }
        assert!(!found(true).ends_soon(at("2026-03-01T00:00:00Z")));
        assert!(found(true).ends_soon(at("2026-03-03T00:00:00Z")));
    }

    #[test]
    fn a_certificate_that_ends_before_it_begins_is_inspected() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(vec!["mail.example.com".to_owned()]).unwrap();
        parameters.not_before = rcgen::date_time_ymd(2031, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(2030, 1, 1);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("certificate.pem");
        let pem = key.serialize_pem() + &parameters.self_signed(&key).unwrap().pem();
        std::fs::write(&file, pem).unwrap();
        let hostname = DomainName::parse("mail.example.com").unwrap();
        let found = inspect(&file, &file, &hostname, "2030-06-01T00:00:00Z".parse().unwrap()).unwrap();
        assert!(found.not_after < found.not_before && found.is_for_hostname && found.chain_fault.is_some());
    }
}
