//! What receivers find when they authenticate a message: DKIM (RFC 6376), SPF (RFC 7208) and DMARC (RFC 9989), with
//! mail-auth over the same resolver.

use std::net::IpAddr;
use std::time::Duration;

use mail_auth::common::crypto::{Algorithm, CryptoError};
use mail_auth::dkim::{Canonicalization, DkimError, Signature};
use mail_auth::dmarc::Policy;
use mail_auth::dmarc::verify::DmarcParameters;
use mail_auth::spf::verify::SpfParameters;
use mail_auth::{
    AuthenticatedMessage, DkimOutput, DkimResult, DmarcOutput, DmarcResult, Error, MessageAuthenticator,
    SpfOutput, SpfResult,
};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use super::Resolver;
use super::dkim::{is_aligned, without_blank_lines};
use crate::mail::DomainName;

/// Signatures that are verified; each may need a look-up and a hash of the message.
const SIGNATURES_MAX: usize = 8;
/// The time for all look-ups.
const AUTHENTICATE_TIMEOUT: Duration = Duration::from_secs(10);

/// How a message left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Departure {
    /// The address that the receiver saw.
    pub address: IpAddr,
    /// The name in EHLO.
    pub ehlo_name: String,
    /// The domain of the reverse path; `None` for the null reverse path.
    pub domain: Option<String>,
}

/// The result of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "AuthenticationResult")]
pub enum AuthenticationResult {
    /// It succeeded.
    Pass,
    /// It failed.
    Fail,
    /// There is nothing to check.
    None,
    /// A DNS look-up failed: a later check may have another result.
    TemporaryError,
}

/// What a domain asks receivers to do with mail that fails DMARC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "DmarcPolicy")]
pub enum DmarcPolicy {
    /// Nothing.
    None,
    /// To treat it as suspicious.
    Quarantine,
    /// To refuse it.
    Reject,
}

/// What is aligned with From.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "DmarcIdentifier")]
pub enum DmarcIdentifier {
    /// The domain of a valid signature.
    Dkim,
    /// The domain of the reverse path.
    Spf,
}

/// What receivers find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authentication {
    /// The domain of From; `None` if it has none, or several.
    pub from_domain: Option<String>,
    /// The first signatures.
    pub signatures: Vec<SignatureReport>,
    /// SPF of the address that the message left from; `None` if it has not left.
    pub spf: Option<SpfReport>,
    /// DMARC.
    pub dmarc: DmarcReport,
}

/// A signature. Its fields are `None` if it cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "DkimCheck")]
pub struct SignatureReport {
    /// The domain that signed, `d=`.
    domain: Option<String>,
    /// The selector, `s=`.
    selector: Option<String>,
    /// The algorithm, `a=`.
    algorithm: Option<&'static str>,
    /// Whether it is valid.
    result: AuthenticationResult,
    /// Whether its domain is aligned with that of From.
    aligned: bool,
    /// Why.
    reason: String,
}

/// SPF of an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "SpfCheck")]
pub struct SpfReport {
    /// The domain of the reverse path, or the EHLO name if that is the null reverse path.
    domain: String,
    /// The address that the message left from. Behind a router that translates addresses, and through a smart host, receivers
    /// see another one.
    address: IpAddr,
    /// Whether the record permits the address.
    result: AuthenticationResult,
    /// Whether the domain is aligned with that of From.
    aligned: bool,
    /// Why.
    reason: String,
}

/// DMARC of the domain of From.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "DmarcCheck")]
pub struct DmarcReport {
    /// Whether an aligned check succeeded.
    result: AuthenticationResult,
    /// The policy of the domain; `null` without a record.
    policy: Option<DmarcPolicy>,
    /// The check that succeeded.
    by: Option<DmarcIdentifier>,
    /// Why.
    reason: String,
}

/// A message that is being checked until a deadline.
struct Examination<'a> {
    authenticator: MessageAuthenticator,
    message: &'a AuthenticatedMessage<'a>,
    from: Option<DomainName>,
    deadline: Instant,
}

impl Resolver {
    /// Checks the first signatures of a message, the address that it left from, and the policy of the domain of From.
    pub async fn authenticate(&self, message: &[u8], departure: Option<&Departure>) -> Authentication {
        let deadline = Instant::now() + AUTHENTICATE_TIMEOUT;
        let authenticator = MessageAuthenticator(self.current.clone());
        let mut whole = AuthenticatedMessage::parse(message).unwrap_or_default();
        shorten(&mut whole);
        let trimmed = without_blank_lines(message);
        let mut trimmed = match trimmed.len() < message.len() {
            true => AuthenticatedMessage::parse(trimmed).unwrap_or_default(),
            false => AuthenticatedMessage::default(),
        };
        shorten(&mut trimmed);
        let from = author_domain(&whole);
        let examination = Examination { authenticator, message: &whole, from, deadline };
        let outputs = examination.verify_signatures(&trimmed);
        let (outputs, spf) = tokio::join!(outputs, examination.check_address(departure));
        let dmarc = examination.check_policy(&outputs, spf.as_ref(), departure).await;
        let mut signatures = Vec::with_capacity(outputs.len());
        for output in &outputs {
            signatures.push(examination.report_signature(output).await);
        }
        let spf = match (spf, departure) {
            (Some(spf), Some(departure)) => Some(examination.report_address(&spf, departure).await),
            _ => None,
        };
        let from_domain = examination.from.as_ref().map(ToString::to_string);
        Authentication { from_domain, signatures, spf, dmarc }
    }
}

/// Only the first signatures are verified.
fn shorten(message: &mut AuthenticatedMessage<'_>) {
    message.dkim_headers.truncate(SIGNATURES_MAX);
    message.errors.truncate(SIGNATURES_MAX);
}

/// The only domain in From.
fn author_domain(message: &AuthenticatedMessage<'_>) -> Option<DomainName> {
    let mut domains = message.from.iter().map(|from| DomainName::parse(from.rsplit_once('@')?.1).ok());
    let first = domains.next()??;
    domains.all(|other| other.as_ref() == Some(&first)).then_some(first)
}

impl<'a> Examination<'a> {
    /// Relaxed canonicalization ignores lines of white space at the end, see [`without_blank_lines`].
    async fn verify_signatures(&self, trimmed: &'a AuthenticatedMessage<'a>) -> Vec<DkimOutput<'a>> {
        let mut outputs = self.verify(self.message).await;
        let is_other_body = |output: &DkimOutput<'_>| {
            *output.result() == DkimResult::Neutral(Error::Dkim(DkimError::FailedBodyHashMatch))
                && output.signature().is_some_and(|signature| signature.cb == Canonicalization::Relaxed)
        };
        if !trimmed.dkim_headers.is_empty() && outputs.iter().any(is_other_body) {
            let again = self.verify(trimmed).await;
            for (output, again) in outputs.iter_mut().zip(again).filter(|(output, _)| is_other_body(output)) {
                *output = again;
            }
        }
        outputs
    }

    async fn verify(&self, message: &'a AuthenticatedMessage<'a>) -> Vec<DkimOutput<'a>> {
        match timeout_at(self.deadline, self.authenticator.verify_dkim(message)).await {
            Ok(outputs) => outputs,
            Err(_) => {
                let late =
                    || DkimOutput::temp_err(Error::Dns(mail_auth::DnsError::Resolver("timeout".into())));
                message.dkim_headers.iter().map(|found| late().with_signature(&found.header)).collect()
            }
        }
    }

    async fn check_address(&self, departure: Option<&Departure>) -> Option<SpfOutput> {
        let departure = departure?;
        let (address, ehlo_name) = (departure.address, departure.ehlo_name.as_str());
        let sender = departure.domain.as_ref().map(|domain| format!("postmaster@{domain}"));
        let parameters = match &sender {
            Some(sender) => SpfParameters::verify_mail_from(address, ehlo_name, ehlo_name, sender),
            None => SpfParameters::verify_ehlo(address, ehlo_name, ehlo_name),
        };
        let evaluated = timeout_at(self.deadline, self.authenticator.verify_spf(parameters)).await;
        let late = |_| SpfOutput::new(departure.spf_domain().to_owned()).with_result(SpfResult::TempError);
        Some(evaluated.unwrap_or_else(late))
    }

    /// The policy of the domain of From, and what these results are with it; `None` if the time is over.
    async fn evaluate(&self, dkim: &[DkimOutput<'_>], spf: &SpfOutput, domain: &str) -> Option<DmarcOutput> {
        let parameters = DmarcParameters {
            message: self.message,
            dkim_output: dkim,
            dkim2_output: None,
            rfc5321_mail_from_domain: domain,
            spf_output: spf,
        };
        timeout_at(self.deadline, self.authenticator.verify_dmarc(parameters)).await.ok()
    }

    async fn check_policy(
        &self,
        dkim: &[DkimOutput<'_>],
        spf: Option<&SpfOutput>,
        departure: Option<&Departure>,
    ) -> DmarcReport {
        let Some(from) = &self.from else {
            let reason = "From has no domain, or several".to_owned();
            return DmarcReport { result: AuthenticationResult::None, policy: None, by: None, reason };
        };
        let domain = departure.map_or("", Departure::spf_domain);
        let no_spf = SpfOutput::new(String::new());
        let output = self.evaluate(dkim, spf.unwrap_or(&no_spf), domain).await;
        let has_record = output.as_ref().is_some_and(|output| output.dmarc_record().is_some());
        let policy = output.as_ref().filter(|_| has_record).and_then(|output| match output.policy() {
            Policy::None => Some(DmarcPolicy::None),
            Policy::Quarantine => Some(DmarcPolicy::Quarantine),
            Policy::Reject => Some(DmarcPolicy::Reject),
            Policy::Unspecified => None,
        });
        let results = output.as_ref().map(|output| (output.dkim_result(), output.spf_result()));
        let (result, by, reason) = match results {
            Some((DmarcResult::Pass, _)) => {
                let reason = format!("a valid signature is aligned with {from}");
                (AuthenticationResult::Pass, Some(DmarcIdentifier::Dkim), reason)
            }
            Some((_, DmarcResult::Pass)) => {
                let reason = format!("the reverse path passes SPF and is aligned with {from}");
                (AuthenticationResult::Pass, Some(DmarcIdentifier::Spf), reason)
            }
            None | Some((DmarcResult::TempError(_), _) | (_, DmarcResult::TempError(_))) => {
                (AuthenticationResult::TemporaryError, None, "a DNS look-up failed".to_owned())
            }
            _ if !has_record => (AuthenticationResult::None, None, format!("{from} has no DMARC record")),
            _ => {
                let reason = format!("neither a valid signature nor SPF is aligned with {from}");
                (AuthenticationResult::Fail, None, reason)
            }
        };
        DmarcReport { result, policy, by, reason }
    }

    async fn report_signature(&self, output: &DkimOutput<'_>) -> SignatureReport {
        let (result, reason) = explain(output.result(), output.signature());
        let Some(signature) = output.signature() else {
            return SignatureReport {
                domain: None,
                selector: None,
                algorithm: None,
                result,
                aligned: false,
                reason,
            };
        };
        let valid = [DkimOutput::pass().with_signature(signature)];
        let aligned = self.evaluate(&valid, &SpfOutput::new(String::new()), "").await;
        SignatureReport {
            domain: Some(signature.d.clone()),
            selector: Some(signature.s.clone()),
            algorithm: Some(match signature.a {
                Algorithm::RsaSha1 => "rsa-sha1",
                Algorithm::RsaSha256 => "rsa-sha256",
                Algorithm::Ed25519Sha256 => "ed25519-sha256",
            }),
            result,
            aligned: self.is_aligned(aligned.as_ref().map(DmarcOutput::dkim_result), &signature.d),
            reason,
        }
    }

    async fn report_address(&self, spf: &SpfOutput, departure: &Departure) -> SpfReport {
        let (address, domain) = (departure.address, departure.spf_domain());
        let (result, reason) = match spf.result() {
            SpfResult::Pass => {
                (AuthenticationResult::Pass, format!("the SPF record of {domain} permits {address}"))
            }
            SpfResult::Fail => {
                (AuthenticationResult::Fail, format!("the SPF record of {domain} does not permit {address}"))
            }
            SpfResult::SoftFail => (
                AuthenticationResult::Fail,
                format!("the SPF record of {domain} does not permit {address}, and asks to accept it (~all)"),
            ),
            SpfResult::Neutral => (
                AuthenticationResult::Fail,
                format!("the SPF record of {domain} says nothing about {address} (?all)"),
            ),
            SpfResult::PermError => {
                (AuthenticationResult::Fail, format!("the SPF record of {domain} is not valid"))
            }
            SpfResult::TempError => (AuthenticationResult::TemporaryError, "a DNS look-up failed".to_owned()),
            SpfResult::None => (AuthenticationResult::None, format!("{domain} has no SPF record")),
        };
        let valid = SpfOutput::new(domain.to_owned()).with_result(SpfResult::Pass);
        let aligned = self.evaluate(&[], &valid, domain).await;
        let aligned = self.is_aligned(aligned.as_ref().map(DmarcOutput::spf_result), domain);
        SpfReport { domain: domain.to_owned(), address, result, aligned, reason }
    }

    /// What DMARC says of a domain, or without a record, whether it is at, above or under that of From.
    fn is_aligned(&self, evaluated: Option<&DmarcResult>, domain: &str) -> bool {
        let is_related = || {
            let domain = DomainName::parse(domain).ok();
            domain.zip(self.from.as_ref()).is_some_and(|(domain, from)| is_aligned(&domain, from))
        };
        match evaluated {
            Some(DmarcResult::Pass) => true,
            Some(DmarcResult::Fail(_)) => false,
            _ => is_related(),
        }
    }
}

impl Departure {
    /// RFC 7208 §2.4: without a reverse path, the EHLO name is checked.
    fn spf_domain(&self) -> &str {
        self.domain.as_deref().unwrap_or(&self.ehlo_name)
    }
}

fn explain(result: &DkimResult, signature: Option<&Signature>) -> (AuthenticationResult, String) {
    let key = signature.map_or_else(String::new, |one| format!("{}._domainkey.{}", one.s, one.d));
    let failed = |reason: String| (AuthenticationResult::Fail, reason);
    match result {
        DkimResult::Pass => (AuthenticationResult::Pass, format!("the key at {key} fits")),
        DkimResult::None => (AuthenticationResult::None, "there is no signature".to_owned()),
        DkimResult::TempError(_) => {
            (AuthenticationResult::TemporaryError, format!("the key at {key} could not be looked up"))
        }
        DkimResult::Neutral(error) | DkimResult::Fail(error) | DkimResult::PermError(error) => {
            failed(match error {
                Error::Dns(mail_auth::DnsError::RecordNotFound(_)) => format!("there is no key at {key}"),
                Error::Crypto(CryptoError::FailedVerification) => {
                    format!("the key at {key} is another one, or a signed field was changed")
                }
                Error::Dkim(DkimError::FailedBodyHashMatch) => {
                    "the body was changed after it was signed".into()
                }
                Error::Dkim(DkimError::SignatureExpired) => "the signature has expired".into(),
                Error::Dkim(DkimError::RevokedPublicKey) => format!("the key at {key} is revoked"),
                other => format!("the signature cannot be verified: {other}"),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_not_evaluated_in_time_is_a_temporary_error() {
        let resolver = Resolver::new(&["127.0.0.1:9".parse().unwrap()], crate::rng::Rng::system()).unwrap();
        let message = AuthenticatedMessage::parse(b"From: a@acme.test\r\n\r\nhello\r\n").unwrap();
        let examination = Examination {
            authenticator: MessageAuthenticator(resolver.current.clone()),
            from: author_domain(&message),
            message: &message,
            deadline: Instant::now(),
        };
        let departure = Departure {
            address: "192.0.2.7".parse().unwrap(),
            ehlo_name: "relay.test".into(),
            domain: Some("acme.test".into()),
        };
        let spf = examination.check_address(Some(&departure)).await.unwrap();
        assert_eq!(spf.result(), SpfResult::TempError);
        let report = examination.report_address(&spf, &departure).await;
        assert_eq!((report.result, report.aligned), (AuthenticationResult::TemporaryError, true));
    }
}
