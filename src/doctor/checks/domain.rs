//! The records of a sending domain.

use super::super::facts::{DkimFacts, DomainFacts, MailExchange, Seen, SpfFacts};
use super::super::{Finding, Fix};
use super::spf::{LOOKUPS_MAX, VOID_LOOKUPS_MAX, replacing_all};
use super::{listed, look, one};
use crate::mail::DomainName;
use crate::model::DkimAlgorithm;

/// RFC 8301 §3.2.
const RSA_BITS_MIN: usize = 1024;
const RSA_BITS_GOOD: usize = 2048;

pub fn ownership(facts: &DomainFacts) -> Vec<Finding> {
    const ID: &str = "domain.ownership";
    let (name, value, found) = &facts.ownership;
    let domain = facts.name.as_str();
    if facts.is_manual {
        return vec![Finding::skipped(ID, domain, "the platform has verified the domain by hand")];
    }
    one(look(ID, &domain, found).map(|found| {
        let found = found.map(Vec::as_slice).unwrap_or_default();
        if found.iter().any(|text| text.trim() == value) {
            return Finding::ok(ID, domain, format!("{name} shows who owns {domain}"));
        }
        let what = if found.is_empty() { "has no record" } else { "has another record than the one" };
        let text = format!("{name} {what} that shows who owns {domain}");
        Finding::error(ID, domain, text, Fix::record("TXT", name.as_str(), value.as_str()))
            .with(found.to_vec(), value.as_str())
    }))
}

/// A finding for each key, or the one that there is none.
fn of_keys(id: &'static str, facts: &DomainFacts, check: impl Fn(&DkimFacts) -> Finding) -> Vec<Finding> {
    if facts.keys.is_empty() {
        return vec![Finding::skipped(id, facts.name.as_str(), "the domain has no DKIM key")];
    }
    facts.keys.iter().map(check).collect()
}

fn keys_in(found: &[String]) -> usize {
    let has_key = |text: &&String| text.split(';').any(|tag| tag.trim_start().starts_with("p="));
    found.iter().filter(has_key).count()
}

pub fn dkim_record(facts: &DomainFacts) -> Vec<Finding> {
    const ID: &str = "dkim.record";
    let is_signed = facts.keys.iter().any(|key| key.is_signing);
    of_keys(ID, facts, |key| {
        let DkimFacts { selector, record_name, record, .. } = key;
        let found = match look(ID, record_name, &key.found) {
            Ok(found) => found.cloned().unwrap_or_default(),
            Err(skipped) => return skipped,
        };
        let wrong = |text: String| {
            let fix = Fix::record("TXT", record_name.as_str(), record.as_str());
            // Until the record of a new key is there, the old key signs.
            let finding = match key.is_signing || !is_signed {
                true => Finding::error(ID, record_name.as_str(), text, fix),
                false => Finding::warning(ID, record_name.as_str(), text, fix),
            };
            finding.with(found.clone(), record.as_str())
        };
        if found.is_empty() {
            return wrong(format!("{}: the key {selector} has no record", facts.name));
        }
        match look(ID, record_name, &key.verifies) {
            Ok(Some(true)) => Finding::ok(
                ID,
                record_name.as_str(),
                format!("signatures of {selector} are valid with its record"),
            ),
            Ok(_) if keys_in(&found) > 1 => Finding::skipped(
                ID,
                record_name.as_str(),
                format!("{record_name} has several records, which dkim.duplicate looks at"),
            ),
            Ok(_) => {
                wrong(format!("{}: {selector} publishes another key than the one that signs", facts.name))
            }
            Err(skipped) => skipped,
        }
    })
}

pub fn dkim_size(facts: &DomainFacts) -> Vec<Finding> {
    const ID: &str = "dkim.size";
    of_keys(ID, facts, |key| {
        let (selector, subject) = (&key.selector, key.record_name.as_str());
        if key.algorithm == DkimAlgorithm::Ed25519 {
            return Finding::ok(ID, subject, format!("{selector} is an Ed25519 key, which has one size"));
        }
        let Some(bits) = key.rsa_bits else {
            return Finding::skipped(ID, subject, format!("the length of the key {selector} cannot be read"));
        };
        let fix = || Fix::command("replace the key", format!("pillarbox domain rotate-dkim {}", facts.name));
        let text = format!("the key {selector} has {bits} bits; 2048 are usual");
        match bits {
            ..RSA_BITS_MIN => Finding::error(ID, subject, text, fix()),
            RSA_BITS_MIN..RSA_BITS_GOOD => Finding::warning(ID, subject, text, fix()),
            _ => Finding::ok(ID, subject, format!("the key {selector} has {bits} bits")),
        }
    })
}

pub fn dkim_duplicate(facts: &DomainFacts) -> Vec<Finding> {
    const ID: &str = "dkim.duplicate";
    of_keys(ID, facts, |key| {
        let name = key.record_name.as_str();
        let found = match look(ID, &name, &key.found) {
            Ok(found) => found.map(Vec::as_slice).unwrap_or_default(),
            Err(skipped) => return skipped,
        };
        match keys_in(found) {
            0 => Finding::skipped(ID, name, format!("{name} has no record")),
            1 => Finding::ok(ID, name, format!("{name} has one record")),
            several => {
                let fix = Fix {
                    text: format!("remove all TXT records of {name} but {}", key.record),
                    ..Fix::record("TXT", name, key.record.as_str())
                };
                let text = format!("{name} has {several} records; receivers may take the wrong one");
                Finding::error(ID, name, text, fix).with(found.to_vec(), key.record.as_str())
            }
        }
    })
}

fn spf_fix(facts: &DomainFacts) -> Fix {
    Fix::record("TXT", facts.name.as_str(), facts.spf_wanted.as_str())
}

pub fn spf_one(facts: &DomainFacts) -> Vec<Finding> {
    const ID: &str = "spf.one";
    let name = &facts.name;
    one(look(ID, name, &facts.spf).map(|spf| {
        let records = spf.map(|spf| spf.records.clone()).unwrap_or_default();
        let wanted = facts.spf_wanted.as_str();
        match records.len() {
            0 => Finding::warning(ID, name.as_str(), format!("{name} has no SPF record"), spf_fix(facts))
                .with(records, wanted),
            1 => Finding::ok(ID, name.as_str(), format!("{name} has one SPF record")),
            several => {
                let text = format!("{name} has {several} SPF records; receivers use none");
                Finding::error(ID, name.as_str(), text, replacing_all(spf_fix(facts))).with(records, wanted)
            }
        }
    }))
}

/// What a check says about the one SPF record; `spf.one` says that there are more or none.
fn of_spf(id: &'static str, facts: &DomainFacts, check: impl Fn(&SpfFacts) -> Finding) -> Vec<Finding> {
    let name = &facts.name;
    let skipped = |text: &str| Finding::skipped(id, name.as_str(), text);
    one(look(id, name, &facts.spf).map(|spf| match spf {
        Some(spf) if spf.records.len() == 1 => check(spf),
        Some(_) => skipped("there are several SPF records, which spf.one looks at"),
        None => skipped("there is no SPF record, which spf.one looks at"),
    }))
}

pub fn spf_passes(facts: &DomainFacts) -> Vec<Finding> {
    const ID: &str = "spf.passes";
    let (name, include) = (facts.name.as_str(), &facts.spf_include);
    of_spf(ID, facts, |spf| {
        let wrong = |text: String| {
            Finding::warning(ID, name, text, spf_fix(facts))
                .with(spf.records.clone(), facts.spf_wanted.as_str())
        };
        match (&facts.own_addresses, spf.refused.first()) {
            (Seen::Value(_), None) => {
                Finding::ok(ID, name, format!("the SPF record of {name} permits every source"))
            }
            (Seen::Value(_), Some(address)) if facts.includes_us => Finding::skipped(
                ID,
                name,
                format!("{name} includes {include}, whose own record does not permit {address}"),
            ),
            (Seen::Value(_), Some(address)) => {
                wrong(format!("the SPF record of {name} does not permit {address}"))
            }
            _ if facts.includes_us => {
                Finding::ok(ID, name, format!("the SPF record of {name} includes {include}"))
            }
            _ => wrong(format!("the SPF record of {name} does not include {include}")),
        }
    })
}

pub fn spf_lookups(facts: &DomainFacts) -> Vec<Finding> {
    const ID: &str = "spf.lookups";
    let name = facts.name.as_str();
    of_spf(ID, facts, |&SpfFacts { lookups, void_lookups, .. }| {
        if lookups > LOOKUPS_MAX {
            let fix = Fix::text(format!(
                "remove the includes of {name} that no mail needs; {LOOKUPS_MAX} look-ups are allowed"
            ));
            let text = format!(
                "the SPF record of {name} needs {lookups} look-ups or more; at most {LOOKUPS_MAX} are allowed"
            );
            Finding::error(ID, name, text, fix)
        } else if void_lookups > VOID_LOOKUPS_MAX {
            let fix = Fix::text(format!("remove the terms of {name} whose names do not exist"));
            let text = format!(
                "the SPF record of {name} has {void_lookups} look-ups without an answer; at most {VOID_LOOKUPS_MAX} are allowed"
            );
            Finding::warning(ID, name, text, fix)
        } else {
            Finding::ok(
                ID,
                name,
                format!("the SPF record of {name} needs {lookups} of {LOOKUPS_MAX} look-ups"),
            )
        }
    })
}

pub fn spf_plus_all(facts: &DomainFacts) -> Vec<Finding> {
    const ID: &str = "spf.plus_all";
    let name = facts.name.as_str();
    of_spf(ID, facts, |spf| {
        let is_open = spf.records[0]
            .split_ascii_whitespace()
            .any(|term| term.eq_ignore_ascii_case("all") || term.eq_ignore_ascii_case("+all"));
        if !is_open {
            return Finding::ok(ID, name, format!("the SPF record of {name} does not permit everybody"));
        }
        let text = format!("the SPF record of {name} permits the whole Internet");
        Finding::error(ID, name, text, spf_fix(facts)).with(spf.records.clone(), facts.spf_wanted.as_str())
    })
}

pub fn dmarc_one(facts: &DomainFacts) -> Vec<Finding> {
    const ID: &str = "dmarc.one";
    let name = &facts.name;
    const VALUE: &str = "v=DMARC1; p=none";
    one(look(ID, name, &facts.dmarc).map(|dmarc| match dmarc {
        None => {
            let fix = Fix::record("TXT", format!("_dmarc.{name}"), VALUE);
            let text = format!("{name} has no DMARC record; large receivers refuse bulk mail without one");
            Finding::warning(ID, name.as_str(), text, fix).with(Vec::new(), VALUE)
        }
        Some((of, records)) if records.len() == 1 => {
            Finding::ok(ID, name.as_str(), format!("the DMARC record of {of} applies"))
        }
        Some((of, records)) => {
            let first = records[0].as_str();
            let remove = format!("remove all DMARC records of _dmarc.{of} but {first}");
            let fix = Fix {
                text: if of == name { remove } else { format!("ask the owner of {of} to {remove}") },
                ..Fix::record("TXT", format!("_dmarc.{of}"), first)
            };
            let text = format!("_dmarc.{of} has {} DMARC records; receivers use none", records.len());
            Finding::error(ID, name.as_str(), text, fix).with(records.clone(), first)
        }
    }))
}

/// What a check says about the one DMARC record; `dmarc.one` says that there are more or none.
fn of_dmarc(
    id: &'static str,
    facts: &DomainFacts,
    check: impl Fn(&DomainName, &str) -> Vec<Finding>,
) -> Vec<Finding> {
    let name = &facts.name;
    let skipped = |text: &str| vec![Finding::skipped(id, name.as_str(), text)];
    match look(id, name, &facts.dmarc) {
        Ok(Some((of, records))) if records.len() == 1 => check(of, &records[0]),
        Ok(Some(_)) => skipped("there are several DMARC records, which dmarc.one looks at"),
        Ok(None) => skipped("there is no DMARC record, which dmarc.one looks at"),
        Err(finding) => vec![finding],
    }
}

pub fn dmarc_policy(facts: &DomainFacts) -> Vec<Finding> {
    const ID: &str = "dmarc.policy";
    let name = facts.name.as_str();
    of_dmarc(ID, facts, |of, record| {
        let tags = record.split(';').filter_map(|tag| tag.split_once('='));
        let value_of = |wanted: &str| {
            let found = tags.clone().find(|(tag, _)| tag.trim().eq_ignore_ascii_case(wanted));
            found.map(|(_, value)| value.trim().to_ascii_lowercase())
        };
        // The record of a domain above has another policy for the domains below it (RFC 9989 §4.7).
        let of_subdomains = if *of == facts.name { None } else { value_of("sp") };
        let policy = of_subdomains.or_else(|| value_of("p"));
        vec![match policy.as_deref() {
            Some(policy @ ("quarantine" | "reject")) => {
                Finding::ok(ID, name, format!("the DMARC policy is {policy}"))
            }
            _ => Finding::info(
                ID,
                name,
                "the DMARC policy is none, so forged mail is delivered; quarantine or reject stop it",
            ),
        }]
    })
}

pub fn dmarc_aligned(facts: &DomainFacts) -> Vec<Finding> {
    const ID: &str = "dmarc.aligned";
    let DomainFacts { name, reverse_path, .. } = facts;
    let subject = name.as_str();
    let signed = facts.keys.iter().find(|key| key.verifies == Seen::Value(true));
    if let Some(key) = signed {
        return vec![Finding::ok(
            ID,
            subject,
            format!("the signatures of {} are aligned with {name}", key.selector),
        )];
    }
    let unknown = facts.keys.iter().find_map(|key| match (&key.found, &key.verifies) {
        (Seen::Failed(_), _) => look(ID, &key.record_name, &key.found).err(),
        (_, Seen::Failed(_)) => look(ID, &key.record_name, &key.verifies).err(),
        _ => None,
    });
    if let Some(skipped) = unknown {
        return vec![skipped];
    }
    let has_aligned_path = reverse_path.is_at_or_under(name);
    let is_permitted = facts.own_addresses.value().is_some()
        && facts.spf.value().is_some_and(|spf| spf.records.len() == 1 && spf.refused.is_empty());
    if *reverse_path == *name && is_permitted {
        return vec![Finding::ok(ID, subject, format!("SPF is aligned with {name}, but no signature is"))];
    }
    let Some(key) = facts.keys.iter().find(|key| key.is_signing).or(facts.keys.first()) else {
        let fix = Fix::command("add a DKIM key", format!("pillarbox domain rotate-dkim {name}"));
        return vec![Finding::error(
            ID,
            subject,
            format!("{name} has no DKIM key, so its mail fails DMARC"),
            fix,
        )];
    };
    let also =
        if has_aligned_path { "and SPF does not pass" } else { "and the reverse path is of another domain" };
    let text = format!("no valid signature is aligned with {name}, {also}, so its mail fails DMARC");
    let fix = Fix::record("TXT", key.record_name.as_str(), key.record.as_str());
    vec![Finding::error(ID, subject, text, fix)]
}

pub fn dmarc_rua(facts: &DomainFacts) -> Vec<Finding> {
    const ID: &str = "dmarc.rua";
    let name = facts.name.as_str();
    let of = facts.dmarc.value().map_or(&facts.name, |(of, _)| of);
    of_dmarc(ID, facts, |_, _| {
        if facts.report_consents.is_empty() {
            return vec![Finding::ok(ID, name, "reports go to no other domain")];
        }
        let of_other = |(other, consent): &(DomainName, Seen<bool>)| {
            one(look(ID, other, consent).map(|consent| match consent {
                Some(true) => Finding::ok(ID, other.as_str(), format!("{other} agrees to get the reports about {of}")),
                _ => {
                    let fix = Fix {
                        text: format!("ask {other} for the TXT record {of}._report._dmarc.{other} with v=DMARC1, or remove its address from rua"),
                        ..Fix::record("TXT", format!("{of}._report._dmarc.{other}"), "v=DMARC1")
                    };
                    let text = format!("{other} does not agree to get the reports about {of}, so none are sent there");
                    Finding::warning(ID, other.as_str(), text, fix)
                }
            }))
        };
        facts.report_consents.iter().flat_map(of_other).collect()
    })
}

pub fn mx_replies(facts: &DomainFacts) -> Vec<Finding> {
    const ID: &str = "mx.replies";
    let path = facts.reverse_path.as_str();
    one(look(ID, &path, &facts.mail_exchanges).map(|exchange| {
        let fix = || Fix::text(match facts.reverse_path.is_at_or_under(&facts.name) {
            true => format!("set an MX record of {path} to a host that takes its mail, or use a return host of the platform"),
            false => format!("ask the operator of this server for an MX record of {path}"),
        });
        match exchange {
            Some(MailExchange::Here) => Finding::ok(ID, path, format!("bounces to {path} come to this server")),
            Some(MailExchange::Hosts(hosts)) => {
                let shown = &hosts[..hosts.len().min(3)];
                Finding::ok(ID, path, format!("bounces to {path} go to {}", listed(shown)))
            }
            Some(MailExchange::NullMx) => {
                Finding::error(ID, path, format!("bounces cannot come back: {path} has a null MX"), fix())
            }
            None => {
                Finding::error(ID, path, format!("bounces cannot come back: {path} has no mail host with an address"), fix())
            }
        }
    }))
}

pub fn taken_above(facts: &DomainFacts) -> Vec<Finding> {
    const ID: &str = "domain.taken_above";
    let name = &facts.name;
    vec![match &facts.taken_above {
        None => Finding::ok(
            ID,
            name.as_str(),
            format!("no other tenant has verified {name} or a domain above it"),
        ),
        Some(taken) if taken == name => {
            let fix =
                Fix::text(format!("let the owner of {name} delete it, or ask the operator of this server"));
            Finding::error(ID, name.as_str(), format!("another tenant has verified {name}"), fix)
        }
        // Who the other tenants are is not for this one.
        Some(_) => Finding::info(
            ID,
            name.as_str(),
            format!("another tenant has verified a domain above {name}, which is yours once it is verified"),
        ),
    }]
}
