//! The checks: each decides on facts, without I/O. A check without its fact is skipped and says why.

mod acme;
mod backup;
mod blocklists;
mod config;
mod domain;
mod machine;
mod name;
mod network;
mod postgres;
mod spf;
mod state;
mod submission;
mod tls;

#[cfg(test)]
mod tests;

use std::fmt::Display;
use std::net::IpAddr;

use super::catalogue::{CHECKS, Subject};
use super::facts::{DomainFacts, Facts, Seen, Times};
use super::{Finding, Fix};
use crate::dns::reverse_name;
use crate::mail::DomainName;

type ServerCheck = fn(&Facts) -> Vec<Finding>;
type DomainCheck = fn(&DomainFacts) -> Vec<Finding>;
/// The time of the looks that the facts of a check come from, in milliseconds.
type LookTime = fn(&Times) -> u64;

/// Each check of the server, and the looks that its facts come from.
const SERVER_CHECKS: &[(ServerCheck, LookTime)] = &[
    (config::valid, |_| 0),
    (config::hostname, |_| 0),
    (config::api_exposed, |_| 0),
    (config::ports, |times| times.ports),
    (name::resolves, |times| times.names),
    (name::ehlo, |times| times.names),
    (name::ptr, |times| times.names),
    (network::port25, |times| times.egress),
    (network::public_address, |times| times.egress),
    (network::ipv6, |times| times.names),
    (blocklists::dnsbl, |times| times.blocklists),
    (network::answers, |times| times.name_servers),
    (network::dnssec, |times| times.name_servers),
    (network::public_resolver, |_| 0),
    (spf::host, |times| times.spf),
    (spf::include, |times| times.spf),
    (tls::chain, |times| times.certificate),
    (tls::name, |times| times.certificate),
    (tls::expires, |times| times.certificate),
    (tls::starttls, |times| times.handshakes),
    (tls::implicit, |times| times.handshakes),
    (tls::no_auth_in_clear, |times| times.handshakes),
    (submission::submission, |times| times.submission),
    (acme::order, |_| 0),
    (acme::record, |times| times.certificate),
    (acme::port80, |_| 0),
    (machine::free, |times| times.machine),
    (machine::fsync, |times| times.machine),
    (machine::kind, |times| times.machine),
    (machine::key_mode, |times| times.machine),
    (machine::key_opens, |times| times.machine),
    (machine::key_beside_data, |_| 0),
    (machine::files, |_| 0),
    (machine::memory, |_| 0),
    (machine::clock, |_| 0),
    (state::queue_age, |times| times.state),
    (state::site_held, |times| times.state),
    (state::webhooks, |times| times.state),
    (state::domains, |times| times.state),
    (state::smart_hosts, |times| times.state),
    (postgres::database, |times| times.postgres),
    (state::database, |times| times.database),
    (backup::age, |times| times.state),
];

const DOMAIN_CHECKS: &[DomainCheck] = &[
    domain::ownership,
    domain::dkim_record,
    domain::dkim_size,
    domain::dkim_duplicate,
    domain::spf_one,
    domain::spf_passes,
    domain::spf_lookups,
    domain::spf_plus_all,
    domain::dmarc_one,
    domain::dmarc_policy,
    domain::dmarc_aligned,
    domain::dmarc_rua,
    domain::mx_replies,
    domain::taken_above,
];

/// All checks of the server.
pub fn server(facts: &Facts) -> Vec<Finding> {
    let timed = |(check, time): &(ServerCheck, fn(&Times) -> u64)| {
        let duration_ms = time(&facts.times);
        check(facts).into_iter().map(move |finding| Finding { duration_ms, ..finding })
    };
    SERVER_CHECKS.iter().flat_map(timed).collect()
}

/// All checks of a domain.
pub fn domain(facts: &DomainFacts) -> Vec<Finding> {
    let timed = |finding: Finding| Finding { duration_ms: facts.duration_ms, ..finding };
    DOMAIN_CHECKS.iter().flat_map(|check| check(facts)).map(timed).collect()
}

/// A server whose configuration cannot be read: nothing else can be looked at.
pub fn invalid_config(file: &str, error: &str) -> Vec<Finding> {
    let others = CHECKS.iter().filter(|check| check.subject == Subject::Server && check.id != config::VALID);
    let others = others.map(|check| Finding::skipped(check.id, "", "the configuration is not valid"));
    std::iter::once(config::invalid(file, error)).chain(others).collect()
}

/// The value of a fact, or the finding that nobody saw it. `Nothing` gives `None`.
#[expect(clippy::result_large_err, reason = "the finding is the answer of the check")]
fn look<'a, T>(
    id: &'static str,
    subject: &impl Display,
    fact: &'a Seen<T>,
) -> Result<Option<&'a T>, Finding> {
    fact.get().map_err(|reason| {
        let subject = subject.to_string();
        let text = match (fact, subject.is_empty()) {
            (Seen::Failed(_), false) => format!("{subject} {reason}"),
            _ => reason,
        };
        Finding::skipped(id, subject, text)
    })
}

/// The finding about a name that no receiver can look up: `config.hostname` says what to do.
#[expect(clippy::result_large_err, reason = "the finding is the answer of the check")]
fn require_qualified(id: &'static str, name: &DomainName) -> Result<(), Finding> {
    if name.is_fully_qualified() {
        return Ok(());
    }
    let text = format!("{name} is not fully qualified, so nobody can look it up; see config.hostname");
    Err(Finding::skipped(id, name.as_str(), text))
}

/// The one finding of a check that ends early.
fn one(result: Result<Finding, Finding>) -> Vec<Finding> {
    vec![result.unwrap_or_else(|skipped| skipped)]
}

/// Like `a, b and c`.
fn listed(items: &[impl ToString]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    match items.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

/// The record that makes a name lead to an address, beside others that may be right.
fn address_record(name: impl Display, address: IpAddr) -> Fix {
    let kind = if address.is_ipv6() { "AAAA" } else { "A" };
    let text = format!("add {kind} {name} with {address}; keep its other addresses that are right");
    Fix { text, ..Fix::record(kind, name.to_string(), address.to_string()) }
}

/// The reverse name of an address, which is its provider's to set.
fn reverse_record(address: IpAddr, name: &DomainName) -> Fix {
    Fix {
        text: format!("ask the provider of the address to set its reverse name to {name}"),
        ..Fix::record("PTR", reverse_name(address), name.as_str())
    }
}
