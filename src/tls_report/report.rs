//! The report of a domain and day: JSON (RFC 8460 §4), compressed.

use std::io::{self, Write};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::tz::TimeZone;
use mail_auth::report::tlsrpt::{
    DateRange, FailureDetails, Policy, PolicyDetails, PolicyType, ResultType, Summary, TlsReport,
};
use serde_json::Value;

use crate::mail::{Date, DomainName};
use crate::model::{TlsFailure, TlsPolicyType};
use crate::store::{StsRecord, TlsResult};

/// RFC 8460 §6.5: the media type of the compressed report.
pub const MEDIA_TYPE: &str = "application/tlsrpt+gzip";

/// The reporting organization.
pub struct ReportOrigin<'a> {
    /// The host name of the server.
    pub hostname: &'a DomainName,
    /// The name of the organization; the host name by default.
    pub organization: Option<&'a str>,
    /// The contact address.
    pub contact: Option<&'a str>,
}

/// A report ready to be sent.
pub struct Report {
    /// The content.
    pub content: TlsReport,
    /// The domain that the report is about.
    pub domain: DomainName,
    /// The JSON, compressed with gzip.
    pub compressed: Bytes,
}

impl Report {
    /// Builds the report. `sts` is the domain's current MTA-STS policy, if known.
    ///
    /// # Errors
    /// A failure of JSON or compression, which is a defect of the program.
    pub fn build(
        origin: &ReportOrigin<'_>,
        day: Date,
        domain: &DomainName,
        results: &[TlsResult],
        sts: Option<&StsRecord>,
    ) -> io::Result<Self> {
        let begin = day.to_zoned(TimeZone::UTC).map_err(io::Error::other)?.timestamp().as_second();
        let policies = TlsPolicyType::ALL.iter().filter_map(|kind| {
            let of_kind: Vec<&TlsResult> = results.iter().filter(|result| result.policy == *kind).collect();
            let sts = sts.filter(|_| *kind == TlsPolicyType::Sts);
            (!of_kind.is_empty()).then(|| policy(*kind, domain, &of_kind, sts))
        });
        let content = TlsReport {
            organization_name: Some(origin.organization.unwrap_or(origin.hostname.as_str()).to_owned()),
            date_range: DateRange::from_timestamps(begin, begin + 24 * 60 * 60 - 1),
            contact_info: origin.contact.map(ToOwned::to_owned),
            report_id: format!("{day}.{domain}@{}", origin.hostname),
            policies: policies.collect(),
        };
        let mut json = serde_json::to_value(&content)?;
        drop_empty(&mut json);
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&serde_json::to_vec(&json)?)?;
        let compressed = encoder.finish()?.into();
        Ok(Self { content, domain: domain.clone(), compressed })
    }
}

fn policy(
    kind: TlsPolicyType,
    domain: &DomainName,
    results: &[&TlsResult],
    sts: Option<&StsRecord>,
) -> Policy {
    let lines = || sts.iter().flat_map(|record| record.policy.lines()).map(str::trim);
    let patterns = lines().filter_map(|line| line.strip_prefix("mx:"));
    let sessions = |has_failed: bool| {
        let counted = results.iter().filter(|result| result.failure.is_some() == has_failed);
        counted.fold(0_u32, |sum, result| sum.saturating_add(result.sessions))
    };
    let failures = results.iter().filter_map(|result| {
        let host = &result.mx_host;
        Some(FailureDetails {
            receiving_mx_hostname: (!host.is_empty()).then(|| host.clone()),
            failed_session_count: result.sessions,
            ..FailureDetails::new(result_type(result.failure?))
        })
    });
    Policy {
        policy: PolicyDetails {
            policy_type: policy_type(kind),
            policy_string: lines().filter(|line| !line.is_empty()).map(ToOwned::to_owned).collect(),
            policy_domain: domain.to_string(),
            mx_host: patterns.map(|pattern| pattern.trim().to_owned()).collect(),
        },
        summary: Summary { total_success: sessions(false), total_failure: sessions(true) },
        failure_details: failures.collect(),
    }
}

/// Removes empty fields: RFC 8460 §4.4 has no `null`.
fn drop_empty(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(drop_empty);
            fields
                .retain(|_, value| !value.is_null() && value.as_array().is_none_or(|list| !list.is_empty()));
        }
        Value::Array(items) => items.iter_mut().for_each(drop_empty),
        _ => {}
    }
}

fn policy_type(kind: TlsPolicyType) -> PolicyType {
    match kind {
        TlsPolicyType::Tlsa => PolicyType::Tlsa,
        TlsPolicyType::Sts => PolicyType::Sts,
        TlsPolicyType::NoPolicyFound => PolicyType::NoPolicyFound,
    }
}

fn result_type(failure: TlsFailure) -> ResultType {
    match failure {
        TlsFailure::StarttlsNotSupported => ResultType::StartTlsNotSupported,
        TlsFailure::CertificateHostMismatch => ResultType::CertificateHostMismatch,
        TlsFailure::CertificateExpired => ResultType::CertificateExpired,
        TlsFailure::CertificateNotTrusted => ResultType::CertificateNotTrusted,
        TlsFailure::ValidationFailure => ResultType::ValidationFailure,
        TlsFailure::TlsaInvalid => ResultType::TlsaInvalid,
        TlsFailure::DnssecInvalid => ResultType::DnssecInvalid,
        TlsFailure::DaneRequired => ResultType::DaneRequired,
        TlsFailure::StsPolicyFetchError => ResultType::StsPolicyFetchError,
        TlsFailure::StsPolicyInvalid => ResultType::StsPolicyInvalid,
        TlsFailure::StsWebpkiInvalid => ResultType::StsWebpkiInvalid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_and_policy_type_has_its_rfc_name() {
        for failure in TlsFailure::ALL {
            assert_eq!(serde_json::to_value(result_type(*failure)).unwrap(), failure.as_str());
        }
        for kind in TlsPolicyType::ALL {
            assert_eq!(serde_json::to_value(policy_type(*kind)).unwrap(), kind.as_str());
        }
    }
}
