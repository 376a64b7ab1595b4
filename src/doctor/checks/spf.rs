//! The SPF records of the server.

use std::net::IpAddr;

use super::super::facts::{Facts, Seen, SpfFacts};
use super::super::{Finding, Fix};
use super::{look, require_qualified};
use crate::mail::DomainName;

/// RFC 7208 §4.6.4.
pub const LOOKUPS_MAX: u32 = 10;
pub const VOID_LOOKUPS_MAX: u32 = 2;

pub fn host(facts: &Facts) -> Vec<Finding> {
    vec![check("spf.host", &facts.hostname, &facts.host_spf, facts, LOOKUPS_MAX)]
}

pub fn include(facts: &Facts) -> Vec<Finding> {
    const ID: &str = "spf.include";
    let Some((name, spf)) = &facts.included_spf else {
        let text = format!("tenants include {}, which spf.host looks at", facts.hostname);
        return vec![Finding::skipped(ID, facts.hostname.as_str(), text)];
    };
    // The include itself is a look-up of each tenant's record.
    vec![check(ID, name, spf, facts, LOOKUPS_MAX - 1)]
}

fn check(
    id: &'static str,
    name: &DomainName,
    spf: &Seen<SpfFacts>,
    facts: &Facts,
    lookups_max: u32,
) -> Finding {
    if let Err(skipped) = require_qualified(id, name) {
        return skipped;
    }
    let own = match look(id, name, &facts.own_addresses) {
        Ok(own) => own.map(Vec::as_slice).unwrap_or_default(),
        Err(skipped) => return skipped,
    };
    let spf = match look(id, name, spf) {
        Ok(spf) => spf,
        Err(skipped) => return skipped,
    };
    let wanted = permitting(spf, own, lookups_max);
    let error = |text: String| {
        let found = spf.map(|spf| spf.records.clone()).unwrap_or_default();
        Finding::error(id, name.as_str(), text, Fix::record("TXT", name.as_str(), wanted.as_str()))
            .with(found, wanted.as_str())
    };
    let Some(SpfFacts { records, refused, lookups, void_lookups }) = spf else {
        return error(format!("{name} has no SPF record, so mail of this server itself fails SPF"));
    };
    if records.len() > 1 {
        return error(format!("{name} has {} SPF records; receivers use none", records.len()));
    }
    if *lookups > lookups_max {
        return error(format!(
            "{name} needs {lookups} look-ups for SPF; at most {lookups_max} are allowed here"
        ));
    }
    if *void_lookups > VOID_LOOKUPS_MAX {
        return error(format!(
            "{name} has {void_lookups} look-ups without an answer in its SPF record; at most 2 are allowed"
        ));
    }
    match refused.first() {
        Some(address) => error(format!("the SPF record of {name} does not permit {address}")),
        None => Finding::ok(id, name.as_str(), format!("the SPF record of {name} permits every source")),
    }
}

/// A record that permits the addresses: the one that is there with the addresses before all else, or a new one if it is of
/// no use.
fn permitting(spf: Option<&SpfFacts>, own: &[IpAddr], lookups_max: u32) -> String {
    let addresses = own.iter().map(|address| match address {
        IpAddr::V4(v4) => format!("ip4:{v4}"),
        IpAddr::V6(v6) => format!("ip6:{v6}"),
    });
    let mut terms: Vec<String> = addresses.collect();
    match spf {
        Some(SpfFacts { records, lookups, void_lookups, .. })
            if records.len() == 1 && *lookups <= lookups_max && *void_lookups <= VOID_LOOKUPS_MAX =>
        {
            let kept = records[0].split_ascii_whitespace().skip(1).filter(|term| is_known(term));
            let kept: Vec<String> = kept.map(str::to_owned).filter(|term| !terms.contains(term)).collect();
            terms.extend(kept);
        }
        _ => terms.push("-all".to_owned()),
    }
    format!("v=spf1 {}", terms.join(" "))
}

/// Whether a term has a name of RFC 7208: another mechanism makes the whole record invalid (§4.6).
fn is_known(term: &str) -> bool {
    let bare = term.trim_start_matches(['+', '-', '~', '?']).to_ascii_lowercase();
    let name = bare.split([':', '/']).next().unwrap_or_default();
    let mechanisms = ["all", "include", "a", "mx", "ptr", "ip4", "ip6", "exists"];
    mechanisms.contains(&name) || bare.contains('=')
}
