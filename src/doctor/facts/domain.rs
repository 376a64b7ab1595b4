//! The records of a sending domain.

use std::time::Instant;

use futures_util::future::join_all;

use super::{DkimFacts, DomainFacts, Gatherer, Lookups, MailExchange, Seen, name};
use crate::dkim::{Signer, rsa_bits};
use crate::dns::MailHosts;
use crate::mail::{Content, DomainName};
use crate::model::{DkimAlgorithm, DkimKeyState, DomainStatus, ReturnPathMode, Verification};
use crate::store::{self, Directory, DkimKey, Domain, Store};
use crate::verification::{
    DnsRecord, Purpose, Sender, VerificationSettings, dmarc_policies, expected_records, merged_spf,
    source_pool_of, spf_refers_to,
};

/// Other domains in `rua` that are asked whether they agree.
const REPORT_DOMAINS_MAX: usize = 10;
const SIBLING: &str = "no consent is needed if one organization owns both domains";
/// Mail hosts whose addresses are looked up.
const MAIL_HOSTS_MAX: usize = 5;
/// RFC 9989 §4.10: the walk up the tree of names ends after eight queries.
const DMARC_WALK_MAX: usize = 8;

/// All facts about a domain.
///
/// # Errors
/// The errors of the store.
pub async fn gather(
    gatherer: &Gatherer<'_>,
    domain: &Domain,
    store: &Store,
    settings: &VerificationSettings,
) -> store::Result<DomainFacts> {
    let Gatherer { config, lookups, .. } = gatherer;
    let start = Instant::now();
    let mut keys = store.dkim_keys(domain.id).await?;
    // The record of a retiring key may be removed once no queued mail has its signature.
    keys.retain(|key| key.state != DkimKeyState::Retiring);
    let expected = expected_records(domain, &keys, settings);
    let pool = source_pool_of(domain, store).await?;
    let own = name::own_addresses(config, Sender::Tenant(pool.as_deref()));
    let ownership = find_record(&expected, |record| record.purpose == Purpose::Ownership);
    let (reverse_path, leads_here) = reverse_path_of(gatherer, domain);
    let (found_ownership, dkim, spf, dmarc, mail_exchanges) = tokio::join!(
        async {
            match domain.verification {
                Verification::Manual => Seen::NotAsked("the platform has verified the domain by hand"),
                Verification::Dns => lookups.texts(&ownership.0).await,
            }
        },
        join_all(keys.iter().map(|key| dkim_facts(domain, key, &expected, store, lookups))),
        name::spf(&domain.name, &config.hostname, &own, lookups),
        dmarc(&domain.name, lookups),
        mail_exchanges(&reverse_path, leads_here, lookups),
    );
    let consents = report_consents(&dmarc, lookups).await;
    let policies = spf.value().map(|spf| spf.records.clone()).unwrap_or_default();
    let include = &settings.spf_include;
    Ok(DomainFacts {
        name: domain.name.clone(),
        ownership: (ownership.0, ownership.1, found_ownership),
        is_manual: domain.verification == Verification::Manual,
        keys: dkim.into_iter().collect::<store::Result<_>>()?,
        includes_us: policies.len() == 1 && spf_refers_to(&policies[0], include.as_str()),
        spf_wanted: wanted_spf(&policies, include),
        spf_include: include.clone(),
        spf,
        own_addresses: own,
        report_consents: consents,
        duration_ms: start.elapsed().as_millis().try_into().unwrap_or(u64::MAX),
        dmarc,
        reverse_path,
        mail_exchanges,
        taken_above: taken_above(domain, store).await?,
    })
}

/// The record to publish. A record that permits the whole Internet is closed.
fn wanted_spf(policies: &[String], include: &DomainName) -> String {
    let merged = merged_spf(policies, include);
    let terms = merged.split(' ').map(|term| if matches!(term, "all" | "+all") { "~all" } else { term });
    terms.collect::<Vec<_>>().join(" ")
}

fn find_record(expected: &[DnsRecord], is_wanted: impl Fn(&DnsRecord) -> bool) -> (String, String) {
    let found = expected.iter().find(|record| is_wanted(record));
    found.map(|record| (record.name.clone(), record.value.clone())).unwrap_or_default()
}

async fn dkim_facts(
    domain: &Domain,
    key: &DkimKey,
    expected: &[DnsRecord],
    store: &Store,
    lookups: &Lookups,
) -> store::Result<DkimFacts> {
    let (record_name, record) = find_record(expected, |record| record.dkim_key == Some(key.id));
    let found = lookups.texts(&record_name).await;
    let verifies = match found {
        Seen::Value(_) => match store.dkim_private_key(key.id).await? {
            Some(private_key) => verify_sample(domain, key, &private_key, lookups).await,
            None => Seen::NotAsked("the key was removed meanwhile"),
        },
        _ => Seen::NotAsked("there is no record to verify a signature with"),
    };
    Ok(DkimFacts {
        selector: key.selector.clone(),
        record_name,
        record,
        algorithm: key.algorithm,
        rsa_bits: match key.algorithm {
            DkimAlgorithm::Rsa => rsa_bits(&key.public_key),
            DkimAlgorithm::Ed25519 => None,
        },
        is_signing: key.state == DkimKeyState::Active,
        found,
        verifies,
    })
}

/// Signs a message and verifies it with the record that the DNS has, as receivers do.
async fn verify_sample(domain: &Domain, key: &DkimKey, private_key: &[u8], lookups: &Lookups) -> Seen<bool> {
    let name = &domain.name;
    let message = format!(
        "From: doctor@{name}\r\nTo: doctor@{name}\r\nSubject: doctor\r\nMessage-ID: <doctor@{name}>\r\n\r\ndoctor\r\n"
    );
    let content = Content { prefix: Default::default(), submitted: message.clone().into() };
    let signed = Signer::new(key.algorithm, private_key, name, &key.selector)
        .and_then(|signer| signer.sign(&content, &[]));
    let message = match signed {
        Ok(signature) => format!("{signature}{message}"),
        Err(error) => return Seen::Failed(error.to_string()),
    };
    lookups.verifies(message.as_bytes(), name).await
}

/// The DMARC policies of the domain, or of the nearest domain above that has some.
async fn dmarc(domain: &DomainName, lookups: &Lookups) -> Seen<(DomainName, Vec<String>)> {
    let names = domain.ancestors().filter(|name| name.contains('.')).take(DMARC_WALK_MAX);
    for name in names.filter_map(|name| DomainName::parse(name).ok()) {
        match lookups.texts(&format!("_dmarc.{name}")).await {
            Seen::Value(texts) => {
                let policies = dmarc_policies(&texts);
                if !policies.is_empty() {
                    return Seen::Value((name, policies));
                }
            }
            Seen::Nothing => {}
            other => return other.absent(),
        }
    }
    Seen::Nothing
}

/// Whether each other domain in `rua` agreed to get reports (RFC 9989 §6.3, RFC 9990 §4).
async fn report_consents(
    dmarc: &Seen<(DomainName, Vec<String>)>,
    lookups: &Lookups,
) -> Vec<(DomainName, Seen<bool>)> {
    let Some((domain, policies)) = dmarc.value() else { return Vec::new() };
    let mut others: Vec<DomainName> = Vec::new();
    for other in policies.iter().flat_map(|policy| report_domains(policy)) {
        let is_related = other.is_at_or_under(domain) || domain.is_at_or_under(&other);
        if !is_related && !others.contains(&other) && others.len() < REPORT_DOMAINS_MAX {
            others.push(other);
        }
    }
    let asked = others.into_iter().map(async |other| {
        let consent = match lookups.texts(&format!("{domain}._report._dmarc.{other}")).await {
            Seen::Value(texts) => Seen::Value(!dmarc_policies(&texts).is_empty()),
            Seen::Nothing => Seen::Value(false),
            other => other.absent(),
        };
        // Within one organization nobody needs to agree, and only the DNS of both knows where one ends.
        let needs_none = consent == Seen::Value(false) && may_be_related(domain, &other);
        (other, if needs_none { Seen::NotAsked(SIBLING) } else { consent })
    });
    join_all(asked).await
}

/// Whether both are under one name of two labels or more, so that one organization may own both.
fn may_be_related(one: &DomainName, other: &DomainName) -> bool {
    let last_two =
        |name: &DomainName| name.as_str().rsplit('.').take(2).map(str::to_owned).collect::<Vec<_>>();
    last_two(one) == last_two(other)
}

/// The domains of the addresses in `rua`.
fn report_domains(policy: &str) -> Vec<DomainName> {
    let tags = policy.split(';').filter_map(|tag| tag.split_once('='));
    let uris = tags.filter(|(name, _)| name.trim() == "rua").flat_map(|(_, uris)| uris.split(','));
    let domains = uris.filter_map(|uri| {
        let address = uri.trim().strip_prefix("mailto:")?;
        let (_, domain) = address.split('!').next()?.rsplit_once('@')?;
        DomainName::parse(domain.trim()).ok()
    });
    domains.collect()
}

/// The domain that bounces go to, and whether it was seen that they come here.
fn reverse_path_of(gatherer: &Gatherer<'_>, domain: &Domain) -> (DomainName, bool) {
    let Some(hosts) = gatherer.config.return_hosts() else { return (domain.name.clone(), false) };
    let defaults = &hosts.defaults;
    match domain.return_path.mode.unwrap_or(defaults.mode) {
        ReturnPathMode::Off => (domain.name.clone(), false),
        ReturnPathMode::Platform => (hosts.host, false),
        ReturnPathMode::Auto => match domain.active_return_host(defaults.mode, &defaults.label) {
            Some(host) => (host, true),
            None => (domain.name.clone(), false),
        },
    }
}

async fn mail_exchanges(name: &DomainName, leads_here: bool, lookups: &Lookups) -> Seen<MailExchange> {
    if leads_here {
        return Seen::Value(MailExchange::Here);
    }
    match lookups.ask(lookups.resolver.mail_hosts(name)).await {
        Seen::Value(MailHosts::NullMx) => Seen::Value(MailExchange::NullMx),
        // Without an MX record the name itself is the host (RFC 5321 §5.1).
        Seen::Value(MailHosts::Hosts(hosts)) => {
            let asked = hosts.iter().take(MAIL_HOSTS_MAX).map(|host| lookups.addresses(host));
            let found = join_all(asked).await;
            if found.iter().any(|found| found.value().is_some()) {
                return Seen::Value(MailExchange::Hosts(hosts));
            }
            let failed = found.into_iter().find(|found| *found != Seen::Nothing);
            failed.map_or(Seen::Nothing, Seen::absent)
        }
        other => other.absent(),
    }
}

async fn taken_above(domain: &Domain, store: &Store) -> store::Result<Option<DomainName>> {
    let Some(tenant) = domain.tenant_id else { return Ok(None) };
    let covering = store.domains_covering(tenant, &domain.name).await?;
    let foreign = covering.into_iter().find(|found| {
        found.status == DomainStatus::Verified && found.tenant_id.is_some_and(|owner| owner != tenant)
    });
    Ok(foreign.map(|found| found.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_domains_of_report_addresses_are_read() {
        let read = |policy| report_domains(policy).iter().map(ToString::to_string).collect::<Vec<_>>();
        for (policy, expected) in [
            ("v=DMARC1; p=none", &[][..]),
            ("v=DMARC1; p=none; rua=mailto:a@x.example!10m, mailto:b@y.example", &["x.example", "y.example"]),
            ("v=DMARC1; rua=https://x.example/", &[]),
        ] {
            assert_eq!(read(policy), expected, "{policy}");
        }
    }

    #[test]
    fn domains_with_the_same_last_two_labels_may_be_of_one_organization() {
        let related = |one: &str, other: &str| {
            may_be_related(&DomainName::parse(one).unwrap(), &DomainName::parse(other).unwrap())
        };
        assert!(related("a.acme.example", "b.c.acme.example"));
        assert!(!related("a.acme.example", "a.other.example"));
    }

    #[test]
    fn a_record_that_permits_everybody_is_closed() {
        let include = DomainName::parse("mail.example").unwrap();
        let wanted = |policy: &str| wanted_spf(&[policy.to_owned()], &include);
        assert_eq!(wanted("v=spf1 mx +all"), "v=spf1 mx include:mail.example ~all");
        assert_eq!(wanted("v=spf1 mx -all"), "v=spf1 mx include:mail.example -all");
    }
}
