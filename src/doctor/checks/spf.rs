//! The SPF records of the server.

use std::net::IpAddr;

use super::super::facts::{Facts, Seen, SpfFacts};
use super::super::{Finding, Fix};
use super::{look, require_qualified};
use crate::mail::DomainName;
use crate::verification::merged_spf;

/// RFC 7208 §4.6.4.
pub const LOOKUPS_MAX: u32 = 10;
pub const VOID_LOOKUPS_MAX: u32 = 2;

/// The fix for several records, of which one may be left (RFC 7208 §3.2).
pub fn replacing_all(fix: Fix) -> Fix {
    let Some(record) = &fix.record else { return fix };
    Fix { text: format!("replace all SPF records of {} by one: {}", record.name, record.value), ..fix }
}

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
    let is_too_costly = |spf: &SpfFacts| spf.lookups > lookups_max || spf.void_lookups > VOID_LOOKUPS_MAX;
    let wanted = permitting(name, spf, own, is_too_costly);
    let error = |text: String| {
        let found = spf.map(|spf| spf.records.clone()).unwrap_or_default();
        let fix = Fix::record("TXT", name.as_str(), wanted.as_str());
        let fix = match spf {
            Some(spf) if spf.records.len() > 1 => replacing_all(fix),
            Some(spf) if is_too_costly(spf) => {
                Fix { text: format!("{}, and add what else sends as {name}", fix.text), ..fix }
            }
            _ => fix,
        };
        Finding::error(id, name.as_str(), text, fix).with(found, wanted.as_str())
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

/// A record that permits the addresses: those that are there, merged into one, with the addresses before all else. Of a
/// record with too many look-ups, what needs none is kept, and what else sends fails softly.
fn permitting(
    name: &DomainName,
    spf: Option<&SpfFacts>,
    own: &[IpAddr],
    is_too_costly: impl Fn(&SpfFacts) -> bool,
) -> String {
    let addresses = own.iter().map(|address| match address {
        IpAddr::V4(v4) => format!("ip4:{v4}"),
        IpAddr::V6(v6) => format!("ip6:{v6}"),
    });
    let mut terms: Vec<String> = addresses.collect();
    let Some(spf) = spf else { return format!("v=spf1 {} -all", terms.join(" ")) };
    let merged = merged_spf(&spf.records, name);
    let is_costly = is_too_costly(spf);
    // A record that includes its own name has no result (RFC 7208 §5.2).
    let itself = format!("include:{name}");
    let is_kept = |term: &&str| {
        let needs_no_lookup = ["ip4:", "ip6:"].iter().any(|kind| bare(term).starts_with(kind));
        is_known(term) && *term != itself && (!is_costly || needs_no_lookup)
    };
    let kept = merged.split(' ').skip(1).filter(is_kept).map(str::to_owned);
    let kept: Vec<String> = kept.filter(|term| !terms.contains(term)).collect();
    terms.extend(kept);
    if is_costly {
        terms.push("~all".to_owned());
    }
    format!("v=spf1 {}", terms.join(" "))
}

fn bare(term: &str) -> String {
    term.trim_start_matches(['+', '-', '~', '?']).to_ascii_lowercase()
}

/// Whether a term has a name of RFC 7208: another mechanism makes the whole record invalid (§4.6).
fn is_known(term: &str) -> bool {
    let bare = bare(term);
    let name = bare.split([':', '/']).next().unwrap_or_default();
    let mechanisms = ["all", "include", "a", "mx", "ptr", "ip4", "ip6", "exists"];
    mechanisms.contains(&name) || bare.contains('=')
}
