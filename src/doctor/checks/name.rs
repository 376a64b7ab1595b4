//! The names of the server in the DNS.

use std::net::IpAddr;

use super::super::facts::{Facts, Seen, SourceFacts};
use super::super::{Finding, Fix};
use super::{address_record, listed, look, require_qualified, reverse_record};

/// Words in the names that providers give to addresses of homes and of pools.
const POOL_WORDS: &[&str] = &[
    "dsl",
    "adsl",
    "vdsl",
    "dyn",
    "dynamic",
    "dhcp",
    "pool",
    "static",
    "ppp",
    "pppoe",
    "cable",
    "broadband",
];

pub fn resolves(facts: &Facts) -> Vec<Finding> {
    const ID: &str = "name.resolves";
    let name = &facts.hostname;
    if let Err(skipped) = require_qualified(ID, name) {
        return vec![skipped];
    }
    if let Err(skipped) = look(ID, name, &facts.own_addresses) {
        return vec![skipped];
    }
    let found = match look(ID, name, &facts.hostname_addresses) {
        Ok(found) => found.map(Vec::as_slice).unwrap_or_default(),
        Err(skipped) => return vec![skipped],
    };
    // `name.ehlo` looks at those that greet with another name.
    let greeting = facts.sources.iter().filter(|source| source.ehlo == *name);
    let own: Vec<IpAddr> = greeting.map(|source| source.address).collect();
    let missing: Vec<IpAddr> = own.iter().copied().filter(|address| !found.contains(address)).collect();
    if found.is_empty() && own.is_empty() {
        let fix = Fix::text(format!("add an A or AAAA record of {name} with the address of this server"));
        let text = format!("{name} has no address in the DNS");
        return vec![Finding::error(ID, name.as_str(), text, fix)];
    }
    if missing.is_empty() {
        return vec![Finding::ok(ID, name.as_str(), format!("{name} leads to {}", listed(found)))];
    }
    let found_texts: Vec<String> = found.iter().map(ToString::to_string).collect();
    // One finding for each record, so that each has its fix.
    let of_missing = |address: &IpAddr| {
        let fix = address_record(name, *address);
        let finding = if found.is_empty() {
            Finding::error(ID, name.as_str(), format!("{name} has no address in the DNS"), fix)
        } else if missing.len() == own.len() {
            let text = format!("{name} leads to {}, but mail leaves from {}", listed(found), listed(&own));
            Finding::error(ID, name.as_str(), text, fix)
        } else {
            Finding::warning(ID, name.as_str(), format!("{name} does not lead to {address}"), fix)
        };
        finding.with(found_texts.clone(), address.to_string())
    };
    missing.iter().map(of_missing).collect()
}

/// A finding for each source, or the one that there is none.
fn of_sources(id: &'static str, facts: &Facts, check: impl Fn(&SourceFacts) -> Finding) -> Vec<Finding> {
    match look(id, &facts.hostname, &facts.own_addresses) {
        Ok(_) => facts.sources.iter().map(check).collect(),
        Err(skipped) => vec![skipped],
    }
}

pub fn ehlo(facts: &Facts) -> Vec<Finding> {
    const ID: &str = "name.ehlo";
    of_sources(ID, facts, |source| {
        let SourceFacts { address, ehlo, .. } = source;
        if *ehlo == facts.hostname {
            let text = format!("{address} greets as {ehlo}, which name.resolves looks at");
            return Finding::skipped(ID, address.to_string(), text);
        }
        match look(ID, address, &source.ehlo_addresses) {
            Ok(Some(found)) if found.contains(address) => {
                Finding::ok(ID, address.to_string(), format!("{ehlo}, the name in EHLO, leads to {address}"))
            }
            Ok(found) => {
                let found: Vec<String> = found.into_iter().flatten().map(ToString::to_string).collect();
                let text = format!("{ehlo}, the name in EHLO, does not lead to {address}");
                Finding::error(ID, address.to_string(), text, address_record(ehlo, *address))
                    .with(found, address.to_string())
            }
            Err(skipped) => skipped,
        }
    })
}

pub fn ptr(facts: &Facts) -> Vec<Finding> {
    of_sources("name.ptr", facts, check_reverse)
}

fn check_reverse(source: &SourceFacts) -> Finding {
    const ID: &str = "name.ptr";
    let SourceFacts { address, ehlo, reverse, .. } = source;
    if let Err(skipped) = require_qualified(ID, ehlo) {
        return skipped;
    }
    let names = match look(ID, address, reverse) {
        Ok(names) => names.map(Vec::as_slice).unwrap_or_default(),
        Err(skipped) => return skipped,
    };
    let found: Vec<String> = names.iter().map(|(name, _)| name.clone()).collect();
    let subject = address.to_string();
    let fix = || reverse_record(*address, ehlo);
    let error =
        |text: String| Finding::error(ID, subject.as_str(), text, fix()).with(found.clone(), ehlo.as_str());
    let warning =
        |text: String| Finding::warning(ID, subject.as_str(), text, fix()).with(found.clone(), ehlo.as_str());
    let [(name, leads_to)] = names else {
        return match names {
            [] if address.is_ipv6() => Finding::skipped(
                ID,
                subject.as_str(),
                format!("{address} has no reverse name, which net.ipv6 looks at"),
            ),
            [] => error(format!("{address} has no reverse name; large receivers refuse it")),
            _ => warning(format!("{address} has {} reverse names: {}", names.len(), listed(&found))),
        };
    };
    match leads_to {
        Seen::Failed(reason) => {
            return Finding::skipped(
                ID,
                subject.as_str(),
                format!("{name} could not be looked at: {reason}"),
            );
        }
        Seen::Value(addresses) if addresses.contains(address) => {}
        _ if name.eq_ignore_ascii_case(ehlo.as_str()) => {
            let text = format!("{name}, the reverse name of {address}, does not lead back");
            let fix = address_record(ehlo, *address);
            let others = leads_to.value().into_iter().flatten().map(ToString::to_string).collect();
            return Finding::error(ID, subject.as_str(), text, fix).with(others, address.to_string());
        }
        _ => return error(format!("{address} has a reverse name that does not lead back: {name}")),
    }
    if name.eq_ignore_ascii_case(ehlo.as_str()) {
        return Finding::ok(ID, subject.as_str(), format!("{address} is called {name}, which leads back"));
    }
    if is_of_pool(name, *address) {
        return warning(format!("{address} has a reverse name as home connections have it: {name}"));
    }
    let text = format!("{address} greets as {ehlo}, and its reverse name leads back: {name}");
    Finding::info(ID, subject.as_str(), text)
}

/// Whether a reverse name is made from the address, or says that it is one of a pool.
fn is_of_pool(name: &str, address: IpAddr) -> bool {
    let name = name.to_ascii_lowercase();
    let numbers: Vec<&str> =
        name.split(|c: char| !c.is_ascii_digit()).filter(|part| !part.is_empty()).collect();
    let has_octets = match address {
        IpAddr::V4(v4) => {
            let octets = v4.octets().map(|octet| octet.to_string());
            octets.iter().all(|octet| numbers.contains(&octet.as_str()))
        }
        IpAddr::V6(_) => false,
    };
    let labels: Vec<&str> = name.split('.').take(2).collect();
    let has_word = labels.iter().flat_map(|label| label.split(|c: char| !c.is_ascii_alphabetic()));
    let has_digits = labels.iter().any(|label| label.contains(|c: char| c.is_ascii_digit()));
    has_octets || (has_digits && has_word.into_iter().any(|word| POOL_WORDS.contains(&word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_pools_have_the_octets_or_a_word_with_digits() {
        let address = "192.0.2.7".parse().unwrap();
        for (name, expected) in [
            ("7.2.0.192.dsl.isp.example", true),
            ("host-192-0-2-7.isp.example", true),
            ("pool-17.fra.isp.example", true),
            ("cable17.isp.example", true),
            ("mail.example.com", false),
            ("mx7.example.com", false),
            ("static.example.com", false),
            ("poolside1.example.com", false),
        ] {
            assert_eq!(is_of_pool(name, address), expected, "{name}");
        }
        for word in POOL_WORDS {
            assert!(is_of_pool(&format!("{word}-17.isp.example"), address), "{word}");
        }
    }
}
