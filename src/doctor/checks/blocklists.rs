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
            Blocklist::Answers { listed, .. } => {
                listed.iter().map(|(address, reason)| on_list(ID, subject, *address, reason)).collect()
            }
        }
    };
    match look(ID, &"", &facts.blocklists) {
        Ok(lists) => lists.into_iter().flatten().flat_map(of_list).collect(),
        Err(skipped) => vec![skipped],
    }
}

fn on_list(id: &'static str, list: &str, address: Ipv4Addr, reason: &str) -> Finding {
    let fix = Fix::text(format!(
        "find and stop the mail that was the cause, then ask for removal on the web page of {list}"
    ));
    let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    Finding::warning(id, address.to_string(), format!("{address} is on {list}{why}"), fix)
}
