//! What a certificate says, without its chain.

use rustls_pki_types::{CertificateDer, ServerName};
use webpki::EndEntityCert;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use crate::mail::{DomainName, Timestamp};

/// A certificate whose content can be read.
pub struct Leaf<'a> {
    parsed: X509Certificate<'a>,
    end_entity: EndEntityCert<'a>,
}

impl<'a> Leaf<'a> {
    /// Reads a certificate.
    ///
    /// # Errors
    /// Why it cannot be read or used.
    pub fn parse(certificate: &'a CertificateDer<'a>) -> Result<Self, String> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
            .map_err(|error| format!("not readable: {error}"))?;
        let end_entity =
            EndEntityCert::try_from(certificate).map_err(|error| format!("not usable: {error}"))?;
        Ok(Self { parsed, end_entity })
    }

    /// The begin and the end of its life.
    pub fn validity(&self) -> (Timestamp, Timestamp) {
        let at = |seconds| Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX);
        let validity = self.parsed.validity();
        (at(validity.not_before.timestamp()), at(validity.not_after.timestamp()))
    }

    /// Whether it is for this name.
    pub fn is_for(&self, name: &DomainName) -> bool {
        ServerName::try_from(name.as_str())
            .is_ok_and(|name| self.end_entity.verify_is_valid_for_subject_name(&name).is_ok())
    }

    /// The first of the names that it is for.
    pub(super) fn names(&self, count: usize) -> Vec<String> {
        let names = self.parsed.subject_alternative_name().ok().flatten();
        let names = names.iter().flat_map(|extension| &extension.value.general_names);
        let names = names.filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        });
        names.take(count).collect()
    }

    pub(super) fn end_entity(&self) -> &EndEntityCert<'a> {
        &self.end_entity
    }
}
