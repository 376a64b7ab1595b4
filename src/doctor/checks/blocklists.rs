//! DNS block lists.

use std::net::Ipv4Addr;

use super::super::facts::{Blocklist, BlocklistFacts, Facts};
use super::super::{Finding, Fix};
use super::{listed as names, look};

pub fn dnsbl(facts: &Facts) -> Vec<Finding> {
    const ID: &str = "net.dnsbl";
    let of_list = |BlocklistFacts { list, answer }: &BlocklistFacts| {
        let subject = list.as_str();
        let answer = match look(ID, list, answer) {
            Ok(Some(answer)) => answer,
            Ok(None) => return vec![Finding::skipped(ID, subject, format!("{list} does not exist"))],
            Err(skipped) => return vec![skipped],
        };
        match answer {
            Blocklist::Refuses => {
                let text = format!("{list} does not answer the name servers of this server");
                vec![Finding::skipped(ID, subject, text)]
            }
            Blocklist::Broken(why) => {
                vec![Finding::skipped(ID, subject, format!("{list} does not work: {why}"))]
            }
            Blocklist::Answers { asked, listed } if listed.is_empty() => {
                vec![Finding::ok(ID, subject, format!("{list} does not list {}", names(asked)))]
            }
            Blocklist::Answers { listed, .. } => vec![on_list(ID, subject, listed)],
        }
    };
    match look(ID, &"", &facts.blocklists) {
        Ok(lists) => lists.into_iter().flatten().flat_map(of_list).collect(),
        Err(skipped) => vec![skipped],
    }
}

/// One finding for each list. Lists give the same reason for addresses of one network.
fn on_list(id: &'static str, list: &str, listed: &[(Ipv4Addr, String)]) -> Finding {
    let fix = Fix::text(format!(
        "find and stop the mail that was the cause, then ask for removal on the web page of {list}"
    ));
    let addresses: Vec<Ipv4Addr> = listed.iter().map(|(address, _)| *address).collect();
    let verb = if addresses.len() == 1 { "is" } else { "are" };
    let reason = listed.iter().map(|(_, reason)| reason).find(|reason| !reason.is_empty());
    let why = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
    Finding::warning(id, list, format!("{} {verb} on {list}{why}", names(&addresses)), fix)
}
