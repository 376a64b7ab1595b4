//! DNS block lists (RFC 5782): whether they have the addresses that mail leaves from. They are asked only if the
//! configuration names them, or if somebody wants it.

use std::net::{IpAddr, Ipv4Addr};

use futures_util::future::join_all;

use super::{Blocklist, BlocklistFacts, Gatherer, Lookups, Seen};
use crate::mail::DomainName;

/// The lists that `--dnsbl` asks if the configuration names none.
const LISTS: [&str; 2] = ["bl.spamcop.net", "psbl.surriel.com"];
const NOT_ASKED: &str = "not asked for; --dnsbl asks 2 lists on the Internet";
const NO_V4: &str = "mail leaves over IPv6 only, and block lists have IPv4 addresses";
/// RFC 5782 §5: every list has the first entry, and no list the second one.
const ALWAYS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const NEVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);

pub async fn gather(gatherer: &Gatherer<'_>, own: &Seen<Vec<IpAddr>>) -> Seen<Vec<BlocklistFacts>> {
    let configured = &gatherer.config.doctor.dnsbls;
    let lists: Vec<DomainName> = match (configured.is_empty(), gatherer.extra.blocklists) {
        (false, _) => configured.clone(),
        (true, true) => LISTS.iter().filter_map(|list| DomainName::parse(list).ok()).collect(),
        (true, false) => return Seen::NotAsked(NOT_ASKED),
    };
    let Seen::Value(own) = own else { return own.clone().absent() };
    let sources: Vec<Ipv4Addr> = own
        .iter()
        .filter_map(|address| if let IpAddr::V4(v4) = address { Some(*v4) } else { None })
        .collect();
    if sources.is_empty() {
        return Seen::NotAsked(NO_V4);
    }
    let asked = lists.into_iter().map(async |list| {
        let answer = ask(&list, &sources, &gatherer.lookups).await;
        BlocklistFacts { list, answer }
    });
    Seen::Value(join_all(asked).await)
}

/// What a list says about itself and about the addresses.
async fn ask(list: &DomainName, sources: &[Ipv4Addr], lookups: &Lookups) -> Seen<Blocklist> {
    let asked = [ALWAYS, NEVER].into_iter().chain(sources.iter().copied());
    let names: Vec<String> = asked.map(|address| entry(list, address)).collect();
    let entries = join_all(names.iter().map(|name| lookups.addresses(name))).await;
    if let Some(failed) = entries.iter().find(|seen| matches!(seen, Seen::Failed(_) | Seen::NotAsked(_))) {
        return failed.clone().absent();
    }
    let codes = |at: usize| entries[at].value().map(Vec::as_slice).unwrap_or_default();
    if entries.iter().flat_map(|seen| seen.value().into_iter().flatten()).any(is_refusal) {
        return Seen::Value(Blocklist::Refuses);
    }
    if !codes(0).iter().any(is_listing) {
        return Seen::Value(Blocklist::Broken("its test entry is missing"));
    }
    if !codes(1).is_empty() {
        return Seen::Value(Blocklist::Broken("it has an address that no list has"));
    }
    let mut listed = Vec::new();
    for (at, source) in sources.iter().enumerate() {
        if codes(at + 2).iter().any(is_listing) {
            let texts = lookups.texts(&entry(list, *source)).await;
            let reason = texts.value().and_then(|texts| texts.first().cloned());
            listed.push((*source, reason.unwrap_or_default()));
        }
    }
    Seen::Value(Blocklist::Answers { asked: sources.to_vec(), listed })
}

/// The name of the entry of an address (RFC 5782 §2.1).
fn entry(list: &DomainName, address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("{d}.{c}.{b}.{a}.{list}")
}

fn is_listing(code: &IpAddr) -> bool {
    matches!(code, IpAddr::V4(v4) if v4.is_loopback())
}

/// The code with which lists answer resolvers that they do not serve.
fn is_refusal(code: &IpAddr) -> bool {
    matches!(code, IpAddr::V4(v4) if v4.octets()[..3] == [127, 255, 255])
}
