//! Decides the TLS requirement of a mail host, and why, from DNSSEC, DANE, MTA-STS and the configuration. Each attempt
//! shows the requirement.

use std::fmt;
use std::sync::Arc;

use super::mta_sts::{StsMode, StsPolicy};
use crate::mail::{DomainName, EnhancedStatus, Tlsa};
use crate::model::{TlsFailure, TlsMinimum, TlsPolicyType};

/// RFC 3463 §3.8: 4.7.4 security features not supported; 4.7.5 cryptographic failure.
pub const NO_TLS: EnhancedStatus = EnhancedStatus::new(4, 7, 4);
/// See [`NO_TLS`].
pub const NOT_TRUSTED: EnhancedStatus = EnhancedStatus::new(4, 7, 5);

/// The facts about the recipient domain.
#[derive(Debug, Clone)]
pub struct DomainFacts {
    /// The recipient domain.
    pub domain: DomainName,
    /// The DNSSEC state of its MX records.
    pub mx: MxProof,
    /// Its MTA-STS policy.
    pub sts: StsLookup,
    /// The configured minimum.
    pub minimum: TlsMinimum,
}

/// The DNSSEC state of the MX records of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MxProof {
    /// DNSSEC is off.
    Off,
    /// The records are unsigned.
    Insecure,
    /// The records are signed and name these hosts; a domain without MX is its own host.
    Secure(Vec<String>),
    /// Validation failed, or there was no answer.
    Failed(String),
}

/// The MTA-STS policy of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StsLookup {
    /// No policy, or MTA-STS is off.
    Absent,
    /// The policy.
    Policy(Arc<StsPolicy>),
    /// The domain announces a policy that cannot be fetched.
    Unavailable(StsLookupError),
    /// The store failed, so a cached policy may be unknown.
    Unknown(String),
}

/// Why the MTA-STS policy of a domain is unavailable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StsLookupError {
    /// The reason as text.
    pub reason: String,
    /// The failure type for TLS reports; `None` if this server may be the cause.
    pub failure: Option<TlsFailure>,
}

/// The TLSA records of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsaLookup {
    /// The host's addresses are unsigned, so no records count.
    Insecure,
    /// No records.
    Absent,
    /// These records.
    Found {
        /// The TLSA base domain, which is also the SNI of the handshake (RFC 7672 §8.1).
        base: String,
        /// All records, usable or not.
        records: Vec<Tlsa>,
    },
    /// Validation failed, or there was no answer.
    Failed(String),
}

/// The TLS requirement of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Requirement {
    /// None; TLS if offered.
    Opportunistic,
    /// None; TLS with a valid certificate is tried first and its failure reported.
    Tested,
    /// TLS with any certificate.
    Encrypted,
    /// TLS with a certificate for the host name from a trusted authority.
    Verified,
    /// TLS with a certificate that matches the TLSA records.
    Dane(Arc<DaneSet>),
}

/// The usable TLSA records of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaneSet {
    /// The SNI of the handshake.
    pub base: String,
    /// The names of which a certificate under a trust anchor must have one (RFC 7672 §3.2.2).
    pub names: Vec<String>,
    /// At least one record.
    pub records: Vec<Tlsa>,
}

/// The TLS policy of one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPolicy {
    /// The requirement.
    pub requirement: Requirement,
    /// The rule that decided and its basis, as text.
    pub basis: String,
    /// How sessions are counted in TLS reports; `None` if the domain did not choose the host.
    pub reported: Option<ReportedPolicy>,
}

/// How a session is counted in the TLS report (RFC 8460 §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportedPolicy {
    /// The type of the domain's policy.
    pub policy: TlsPolicyType,
    /// A failure known before the session begins.
    pub failure: Option<TlsFailure>,
}

impl ReportedPolicy {
    const fn without_failure(policy: TlsPolicyType) -> Option<Self> {
        Some(Self { policy, failure: None })
    }

    const fn with_failure(policy: TlsPolicyType, failure: TlsFailure) -> Option<Self> {
        Some(Self { policy, failure: Some(failure) })
    }
}

/// Why a host must not get mail now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsRefusal {
    /// The text with a stable code in brackets.
    pub text: String,
    /// The enhanced status.
    pub status: EnhancedStatus,
    /// Whether a retry cannot meet REQUIRETLS.
    pub is_permanent: bool,
    /// The rule that decided, as in [`HostPolicy`].
    pub basis: String,
    /// How it is counted in TLS reports, if the domain is the cause.
    pub reported: Option<ReportedPolicy>,
}

impl TlsRefusal {
    fn temporary(code: &str, basis: &str, text: impl fmt::Display) -> Self {
        Self {
            text: format!("[{code}] {text}"),
            status: NOT_TRUSTED,
            is_permanent: false,
            basis: basis.to_owned(),
            reported: None,
        }
    }

    fn reported_as(self, policy: TlsPolicyType, failure: TlsFailure) -> Self {
        Self { reported: ReportedPolicy::with_failure(policy, failure), ..self }
    }
}

/// Whether a host is an MX of the domain, before any lookup of the host itself. RFC 7672 §2.2.1: the MX hosts of a
/// signed domain are those of the validated answer; without an answer no mail is sent for now.
pub fn admit(facts: &DomainFacts, host: &str) -> Result<(), TlsRefusal> {
    let domain = &facts.domain;
    match &facts.mx {
        MxProof::Failed(error) => Err(TlsRefusal::temporary(
            "dnssec_mx_lookup",
            "dane: the MX records could not be validated",
            format_args!("MX of {domain}: {error}"),
        )
        .reported_as(TlsPolicyType::Tlsa, TlsFailure::DnssecInvalid)),
        MxProof::Secure(hosts) if !hosts.iter().any(|named| named == host) => Err(TlsRefusal::temporary(
            "dnssec_mx_host",
            "dane: the validated MX records do not name the host",
            format_args!("{host} is not among the validated mail hosts of {domain}"),
        )
        .reported_as(TlsPolicyType::Tlsa, TlsFailure::DnssecInvalid)),
        MxProof::Off | MxProof::Insecure | MxProof::Secure(_) => Ok(()),
    }
}

/// The TLS policy of a host that [`admit`] accepted. `require_tls`: the message has REQUIRETLS.
///
/// # Errors
/// The host must not get the message.
pub fn decide(
    facts: &DomainFacts,
    host: &str,
    tlsa: &TlsaLookup,
    require_tls: bool,
) -> Result<HostPolicy, TlsRefusal> {
    // RFC 8461 §2: MTA-STS never overrides DANE.
    let found = match dane_policy(facts, host, tlsa)? {
        Some(policy) if policy.requirement != Requirement::Encrypted => policy,
        unauthenticated => match (sts_policy(facts, host)?, unauthenticated) {
            (Some(sts), Some(dane)) if sts.requirement.strength() < dane.requirement.strength() => dane,
            (Some(policy), _) | (None, Some(policy)) => policy,
            (None, None) => without_policy(facts, tlsa),
        },
    };
    let policy = apply_minimum(facts, host, found)?;
    if require_tls { apply_requiretls(facts, host, policy) } else { Ok(policy) }
}

fn dane_policy(facts: &DomainFacts, host: &str, tlsa: &TlsaLookup) -> Result<Option<HostPolicy>, TlsRefusal> {
    let (base, records) = match tlsa {
        TlsaLookup::Insecure | TlsaLookup::Absent => return Ok(None),
        // RFC 7672 §2.1.2: the records that could not be read may be the ones that protect the host.
        TlsaLookup::Failed(error) => {
            let basis = "dane: the TLSA records could not be validated";
            let refusal =
                TlsRefusal::temporary("dane_lookup", basis, format_args!("TLSA of {host}: {error}"));
            return Err(refusal.reported_as(TlsPolicyType::Tlsa, TlsFailure::DnssecInvalid));
        }
        TlsaLookup::Found { base, records } => (base, records),
    };
    let usable = strongest(records);
    if usable.is_empty() {
        // RFC 7672 §2.2: TLS is required, but no certificate can be verified.
        let basis = format!("dane: no TLSA record of {base} is usable, so any certificate is accepted");
        let reported = ReportedPolicy::with_failure(TlsPolicyType::Tlsa, TlsFailure::TlsaInvalid);
        return Ok(Some(HostPolicy { requirement: Requirement::Encrypted, basis, reported }));
    }
    let kinds: Vec<String> = usable.iter().map(Tlsa::to_string).collect();
    let basis = format!("dane: validated TLSA records of {base} ({})", kinds.join(", "));
    let mut names = vec![base.clone()];
    for other in [host, facts.domain.as_str()] {
        if !names.iter().any(|name| name == other) {
            names.push(other.to_owned());
        }
    }
    let set = DaneSet { base: base.clone(), names, records: usable };
    let reported = ReportedPolicy::without_failure(TlsPolicyType::Tlsa);
    Ok(Some(HostPolicy { requirement: Requirement::Dane(Arc::new(set)), basis, reported }))
}

/// The usable records; RFC 7671 §9: for each usage and selector only the strongest digest.
fn strongest(records: &[Tlsa]) -> Vec<Tlsa> {
    let usable = || records.iter().filter(|record| record.is_usable());
    let has_stronger = |record: &Tlsa| {
        record.matching == 1
            && usable().any(|other| {
                other.matching == 2 && (other.usage, other.selector) == (record.usage, record.selector)
            })
    };
    usable().filter(|record| !has_stronger(record)).cloned().collect()
}

fn sts_policy(facts: &DomainFacts, host: &str) -> Result<Option<HostPolicy>, TlsRefusal> {
    let policy = match &facts.sts {
        StsLookup::Absent | StsLookup::Unavailable(_) => return Ok(None),
        StsLookup::Policy(policy) => policy,
        // RFC 8461 §5.1: a cached policy stays in force, and there may be one.
        StsLookup::Unknown(error) => {
            let basis = "mta-sts: cached policies cannot be read";
            let text = format_args!("the MTA-STS policy of {}: {error}", facts.domain);
            return Err(TlsRefusal::temporary("mta_sts_unknown", basis, text));
        }
    };
    let (domain, named) = (&facts.domain, policy.names(host));
    let place = if named { "names the host" } else { "does not name the host" };
    let basis = format!("mta-sts {}: the policy of {domain} {place}", policy.mode.as_str());
    let requirement = match policy.mode {
        StsMode::None => return Ok(None),
        // RFC 8461 §5: mail is sent even if the policy is not met.
        StsMode::Testing if named => Requirement::Tested,
        StsMode::Testing => Requirement::Opportunistic,
        StsMode::Enforce if named => Requirement::Verified,
        // RFC 8461 §4.1, §5.
        StsMode::Enforce => {
            let text = format_args!("the MTA-STS policy of {domain} does not name {host}");
            let refusal = TlsRefusal::temporary("mta_sts_host", &basis, text);
            return Err(refusal.reported_as(TlsPolicyType::Sts, TlsFailure::ValidationFailure));
        }
    };
    let failure = (!named).then_some(TlsFailure::ValidationFailure);
    let reported = Some(ReportedPolicy { policy: TlsPolicyType::Sts, failure });
    Ok(Some(HostPolicy { requirement, basis, reported }))
}

fn without_policy(facts: &DomainFacts, tlsa: &TlsaLookup) -> HostPolicy {
    let dane = match (&facts.mx, tlsa) {
        (MxProof::Off, _) => "DNSSEC is not used",
        (MxProof::Secure(_), TlsaLookup::Absent) => "no TLSA records",
        (MxProof::Secure(_), _) => "the host is not signed",
        _ => "the MX records are not signed",
    };
    let sts = match &facts.sts {
        StsLookup::Unavailable(fault) => format!("the MTA-STS policy is unavailable: {}", fault.reason),
        StsLookup::Absent | StsLookup::Policy(_) | StsLookup::Unknown(_) => "no MTA-STS policy".to_owned(),
    };
    HostPolicy {
        requirement: Requirement::Opportunistic,
        basis: format!("opportunistic: {dane}; {sts}"),
        reported: ReportedPolicy::without_failure(TlsPolicyType::NoPolicyFound),
    }
}

fn apply_minimum(facts: &DomainFacts, host: &str, policy: HostPolicy) -> Result<HostPolicy, TlsRefusal> {
    let reached = policy.requirement.strength();
    if reached >= facts.minimum {
        return Ok(policy);
    }
    let basis = format!("minimum {}: the configuration for {}", facts.minimum, facts.domain);
    let requirement = match facts.minimum {
        TlsMinimum::Opportunistic => return Ok(policy),
        TlsMinimum::Encrypted => Requirement::Encrypted,
        TlsMinimum::Verified => Requirement::Verified,
        TlsMinimum::Dane => {
            let text = format_args!("the configuration demands DANE, and {host} has no usable TLSA records");
            let refusal = TlsRefusal::temporary("dane_missing", &basis, text);
            return Err(refusal.reported_as(TlsPolicyType::Tlsa, TlsFailure::DaneRequired));
        }
    };
    Ok(HostPolicy { requirement, basis, ..policy })
}

/// RFC 8689 §4.2.1: DNSSEC or MTA-STS must prove that the host is an MX of the domain, and its certificate must be
/// valid.
fn apply_requiretls(facts: &DomainFacts, host: &str, policy: HostPolicy) -> Result<HostPolicy, TlsRefusal> {
    let domain = &facts.domain;
    let proof = match (&facts.mx, &facts.sts) {
        (MxProof::Secure(_), _) => "the MX records are signed",
        (_, StsLookup::Policy(sts)) if sts.mode != StsMode::None && sts.names(host) => {
            "the MTA-STS policy names the host"
        }
        (_, sts) => {
            let text =
                format_args!("neither DNSSEC nor MTA-STS proves that {host} takes the mail of {domain}");
            let refusal = TlsRefusal::temporary("requiretls_mx", "requiretls: the MX is not proved", text);
            let is_permanent = !matches!(sts, StsLookup::Unavailable(_));
            return Err(TlsRefusal { is_permanent, ..refusal });
        }
    };
    if policy.requirement.strength() >= TlsMinimum::Verified {
        return Ok(policy);
    }
    Ok(HostPolicy { requirement: Requirement::Verified, basis: format!("requiretls: {proof}"), ..policy })
}

impl DaneSet {
    /// Whether a connection verified with this set also satisfies another one. RFC 7672 §3.1.2: names matter only
    /// with trust anchors.
    pub fn is_as_good_as(&self, other: &Self) -> bool {
        let is_same = self.records.len() == other.records.len()
            && self.records.iter().all(|record| other.records.contains(record));
        self.base == other.base && is_same && (self.names_end_entities() || self.names == other.names)
    }

    /// Whether all records identify the server's own certificate or key.
    pub fn names_end_entities(&self) -> bool {
        self.records.iter().all(|record| record.usage == Tlsa::END_ENTITY)
    }
}

impl Requirement {
    /// The minimum level that meets the requirement.
    pub fn strength(&self) -> TlsMinimum {
        match self {
            Self::Opportunistic | Self::Tested => TlsMinimum::Opportunistic,
            Self::Encrypted => TlsMinimum::Encrypted,
            Self::Verified => TlsMinimum::Verified,
            Self::Dane(_) => TlsMinimum::Dane,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> DomainFacts {
        DomainFacts {
            domain: DomainName::parse("b.test").unwrap(),
            mx: MxProof::Off,
            sts: StsLookup::Absent,
            minimum: TlsMinimum::Opportunistic,
        }
    }

    fn sts(mode: &str, mx: &str) -> StsLookup {
        let text = format!("version: STSv1\nmode: {mode}\nmx: {mx}\nmax_age: 1\n");
        StsLookup::Policy(Arc::new(StsPolicy::parse(&text).unwrap()))
    }

    fn secure() -> MxProof {
        MxProof::Secure(vec!["mx.b.test".into()])
    }

    fn found(kinds: &[(u8, u8, u8)]) -> TlsaLookup {
        let record = |&(usage, selector, matching)| Tlsa {
            usage,
            selector,
            matching,
            data: vec![0; if matching == 2 { 64 } else { 32 }],
        };
        TlsaLookup::Found { base: "mx.b.test".into(), records: kinds.iter().map(record).collect() }
    }

    /// The requirement and the rule, or the code of the refusal.
    fn outcome(facts: &DomainFacts, tlsa: &TlsaLookup, require_tls: bool) -> String {
        let decided = admit(facts, "mx.b.test").and_then(|()| decide(facts, "mx.b.test", tlsa, require_tls));
        match decided {
            Ok(policy) => {
                format!("{} by {}", policy.requirement.strength(), policy.basis.split(':').next().unwrap())
            }
            Err(refusal) => {
                assert_eq!(refusal.status, NOT_TRUSTED);
                let code = refusal.text.split(']').next().unwrap().trim_start_matches('[').to_owned();
                if refusal.is_permanent { format!("{code} for good") } else { code }
            }
        }
    }

    #[test]
    fn the_policy_by_facts() {
        use TlsMinimum::{Dane, Encrypted, Opportunistic, Verified};
        let (none, ee) = (TlsaLookup::Insecure, found(&[(3, 1, 1)]));
        let (useless, broken) = (found(&[(1, 1, 1)]), TlsaLookup::Failed("bogus".into()));
        let (yes, no) = (sts("enforce", "mx.b.test"), sts("enforce", "other.test"));
        let absent = || StsLookup::Absent;
        let lost = || StsLookup::Unavailable(StsLookupError { reason: "404".into(), failure: None });
        let unknown = || StsLookup::Unknown("the disk".into());
        for (mx, tlsa, sts, minimum, expected) in [
            (MxProof::Off, &none, absent(), Opportunistic, "opportunistic by opportunistic"),
            (MxProof::Insecure, &none, lost(), Opportunistic, "opportunistic by opportunistic"),
            (secure(), &TlsaLookup::Absent, absent(), Opportunistic, "opportunistic by opportunistic"),
            (secure(), &ee, absent(), Opportunistic, "dane by dane"),
            (secure(), &useless, absent(), Opportunistic, "encrypted by dane"),
            (secure(), &broken, absent(), Opportunistic, "dane_lookup"),
            (MxProof::Failed("bogus".into()), &none, absent(), Opportunistic, "dnssec_mx_lookup"),
            (MxProof::Secure(vec!["other.test".into()]), &none, absent(), Opportunistic, "dnssec_mx_host"),
            (MxProof::Insecure, &none, yes.clone(), Opportunistic, "verified by mta-sts enforce"),
            (MxProof::Insecure, &none, no.clone(), Opportunistic, "mta_sts_host"),
            (
                MxProof::Off,
                &none,
                sts("testing", "mx.b.test"),
                Opportunistic,
                "opportunistic by mta-sts testing",
            ),
            (
                MxProof::Off,
                &none,
                sts("testing", "other.test"),
                Opportunistic,
                "opportunistic by mta-sts testing",
            ),
            (MxProof::Off, &none, sts("none", "other.test"), Opportunistic, "opportunistic by opportunistic"),
            // DANE has priority over MTA-STS.
            (secure(), &ee, no.clone(), Opportunistic, "dane by dane"),
            (secure(), &broken, yes.clone(), Opportunistic, "dane_lookup"),
            (secure(), &useless, yes.clone(), Opportunistic, "verified by mta-sts enforce"),
            (secure(), &useless, no.clone(), Opportunistic, "mta_sts_host"),
            (secure(), &useless, sts("testing", "mx.b.test"), Opportunistic, "encrypted by dane"),
            (MxProof::Off, &none, unknown(), Opportunistic, "mta_sts_unknown"),
            (secure(), &ee, unknown(), Opportunistic, "dane by dane"),
            (MxProof::Off, &none, absent(), Encrypted, "encrypted by minimum encrypted"),
            (MxProof::Off, &none, sts("testing", "mx.b.test"), Verified, "verified by minimum verified"),
            (MxProof::Off, &none, yes.clone(), Encrypted, "verified by mta-sts enforce"),
            (secure(), &ee, absent(), Dane, "dane by dane"),
            (secure(), &useless, absent(), Verified, "verified by minimum verified"),
            (MxProof::Off, &none, yes.clone(), Dane, "dane_missing"),
        ] {
            let facts = DomainFacts { mx, sts, minimum, ..facts() };
            assert_eq!(outcome(&facts, tlsa, false), expected, "{facts:?} {tlsa:?}");
        }
    }

    #[test]
    fn requiretls_needs_a_proved_mx_and_a_verified_certificate() {
        let (none, ee, useless) = (TlsaLookup::Insecure, found(&[(3, 1, 1)]), found(&[(1, 1, 1)]));
        let lost = || StsLookup::Unavailable(StsLookupError { reason: "time-out".into(), failure: None });
        for (mx, tlsa, sts, expected) in [
            (MxProof::Off, &none, StsLookup::Absent, "requiretls_mx for good"),
            (MxProof::Insecure, &none, lost(), "requiretls_mx"),
            (MxProof::Insecure, &none, sts("none", "mx.b.test"), "requiretls_mx for good"),
            (MxProof::Insecure, &none, sts("testing", "other.test"), "requiretls_mx for good"),
            (MxProof::Insecure, &none, sts("testing", "mx.b.test"), "verified by requiretls"),
            (MxProof::Insecure, &none, sts("enforce", "*.b.test"), "verified by mta-sts enforce"),
            (secure(), &none, StsLookup::Absent, "verified by requiretls"),
            (secure(), &useless, StsLookup::Absent, "verified by requiretls"),
            (secure(), &ee, StsLookup::Absent, "dane by dane"),
            (secure(), &TlsaLookup::Failed("x".into()), StsLookup::Absent, "dane_lookup"),
        ] {
            let facts = DomainFacts { mx, sts, ..facts() };
            assert_eq!(outcome(&facts, tlsa, true), expected, "{facts:?} {tlsa:?}");
        }
    }

    #[test]
    fn a_connection_verified_by_one_record_set_may_fail_another() {
        let set = |base: &str, domain: &str, kinds: &[(u8, u8, u8)]| {
            let TlsaLookup::Found { records, .. } = found(kinds) else { unreachable!() };
            DaneSet { base: base.to_owned(), names: vec![base.to_owned(), domain.to_owned()], records }
        };
        let ee = set("mx.b.test", "b.test", &[(3, 1, 1), (3, 0, 2)]);
        let ta = set("mx.b.test", "b.test", &[(3, 1, 1), (2, 0, 1)]);
        for (held, required, expected) in [
            (&ee, set("mx.b.test", "b.test", &[(3, 0, 2), (3, 1, 1)]), true),
            (&ee, set("mx.b.test", "c.test", &[(3, 1, 1), (3, 0, 2)]), true),
            (&ee, set("mx.c.test", "b.test", &[(3, 1, 1), (3, 0, 2)]), false),
            (&ee, set("mx.b.test", "b.test", &[(3, 1, 1)]), false),
            (&ee, set("mx.b.test", "b.test", &[(3, 1, 1), (3, 0, 1)]), false),
            (&ta, set("mx.b.test", "b.test", &[(2, 0, 1), (3, 1, 1)]), true),
            (&ta, set("mx.b.test", "c.test", &[(3, 1, 1), (2, 0, 1)]), false),
        ] {
            assert_eq!(held.is_as_good_as(&required), expected, "{held:?} {required:?}");
        }
        assert!(ee.names_end_entities() && !ta.names_end_entities());
    }

    #[test]
    fn of_several_digests_the_strongest_counts_for_each_usage_and_selector() {
        let facts = DomainFacts { mx: secure(), ..facts() };
        let tlsa = found(&[(3, 1, 1), (3, 1, 2), (3, 0, 1), (2, 1, 1), (2, 1, 0), (1, 1, 2)]);
        let Ok(HostPolicy { requirement: Requirement::Dane(set), basis, .. }) =
            decide(&facts, "mx.b.test", &tlsa, false)
        else {
            panic!("the records are usable")
        };
        let kinds: Vec<String> = set.records.iter().map(Tlsa::to_string).collect();
        assert_eq!(kinds, ["3 1 2", "3 0 1", "2 1 1", "2 1 0"]);
        assert_eq!(set.names, ["mx.b.test", "b.test"]);
        assert_eq!(basis, "dane: validated TLSA records of mx.b.test (3 1 2, 3 0 1, 2 1 1, 2 1 0)");
    }
}
