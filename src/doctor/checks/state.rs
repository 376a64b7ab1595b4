//! What waits and what fails in a running server.

use super::super::facts::{Facts, Failing, HeldSite, Seen};
use super::super::{Finding, Fix};
use super::{look, one};
use crate::mail::SignedDuration;

/// How long a delivery may be due.
const DUE_MAX: SignedDuration = SignedDuration::from_hours(1);
/// How long a site may still be in back-off.
const HELD_MAX: SignedDuration = SignedDuration::from_mins(30);
/// Objects of a kind that have a finding of their own.
const SHOWN_MAX: usize = 5;

pub fn queue_age(facts: &Facts) -> Vec<Finding> {
    const ID: &str = "queue.age";
    one(look(ID, &"", &facts.state.oldest_due).map(|oldest| {
        let late = oldest.map(|(at, reply)| (facts.at.duration_since(*at), reply));
        match late.filter(|(late, _)| *late > DUE_MAX) {
            None => Finding::ok(ID, "", "no delivery is due for more than an hour"),
            Some((late, reply)) => {
                let fix = Fix::command("see why mail waits", "pillarbox queue list");
                let text =
                    format!("the oldest delivery has been due for {} minutes: {reply}", late.as_secs() / 60);
                Finding::warning(ID, "", text, fix)
            }
        }
    }))
}

pub fn site_held(facts: &Facts) -> Vec<Finding> {
    const ID: &str = "queue.site_held";
    let sites = match look(ID, &"", &facts.state.held_sites) {
        Ok(sites) => sites.map(Vec::as_slice).unwrap_or_default(),
        Err(skipped) => return vec![skipped],
    };
    let held: Vec<&HeldSite> =
        sites.iter().filter(|site| site.until.duration_since(facts.at) > HELD_MAX).collect();
    let of_site = |site: &&HeldSite| {
        let HeldSite { name, domain, until, reply } = site;
        let fix = match domain {
            Some(domain) => Fix::command(
                "mend what the reply says, then try again at once",
                format!("pillarbox queue flush --destination {domain}"),
            ),
            None => Fix::text("mend what the reply says; the site is then tried again by itself"),
        };
        let until = until.strftime("%Y-%m-%d %H:%M UTC");
        let text = format!("{name} is not tried again before {until}: {reply}");
        Finding::warning(ID, name.as_str(), text, fix)
    };
    let mut findings: Vec<Finding> = held.iter().take(SHOWN_MAX).map(of_site).collect();
    if held.len() > SHOWN_MAX {
        let text = format!("{} more sites are in back-off", held.len() - SHOWN_MAX);
        let fix = Fix::command("see all sites", "pillarbox queue list");
        findings.push(Finding::warning(ID, "", text, fix));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(ID, "", "no site is in back-off for long"));
    }
    findings
}

pub fn webhooks(facts: &Facts) -> Vec<Finding> {
    const ID: &str = "webhook.failing";
    let mend = |webhook: &Failing| {
        Fix::command("see what its endpoint answers", format!("pillarbox webhook show {}", webhook.id))
    };
    of_seen(ID, &facts.state.failing_webhooks, "no webhook fails", "webhooks fail", mend)
}

pub fn domains(facts: &Facts) -> Vec<Finding> {
    const ID: &str = "domain.failing";
    let mend = |domain: &Failing| {
        Fix::command("see which records are wrong", format!("pillarbox doctor --domain {}", domain.id))
    };
    of_seen(ID, &facts.state.failing_domains, "every verified domain has its records", "domains fail", mend)
}

pub fn smart_hosts(facts: &Facts) -> Vec<Finding> {
    const ID: &str = "smart_host.refused";
    let mend = |_: &Failing| {
        Fix::text("correct user and password of the smart host; its mail then continues by itself")
    };
    let seen = &facts.state.refused_smart_hosts;
    of_seen(ID, seen, "no smart host refuses its login", "smart hosts refuse their logins", mend)
}

pub fn database(facts: &Facts) -> Vec<Finding> {
    const ID: &str = "store.quick_check";
    one(look(ID, &"", &facts.database_faults).map(|faults| match faults.and_then(|faults| faults.split_first()) {
        None => Finding::ok(ID, "", "the database is whole"),
        Some((first, others)) => {
            let count = if others.is_empty() { String::new() } else { format!(" ({} faults)", others.len() + 1) };
            let fix = Fix::text(
                "stop the server, keep a copy of the data directory, and restore the database from its last backup",
            );
            Finding::error(ID, "", format!("the database is damaged{count}: {first}"), fix)
        }
    }))
}

fn of_seen(
    id: &'static str,
    seen: &Seen<Vec<Failing>>,
    right: &str,
    others: &str,
    mend: impl Fn(&Failing) -> Fix,
) -> Vec<Finding> {
    match look(id, &"", seen) {
        Ok(failing) => of_failing(id, failing.map(Vec::as_slice).unwrap_or_default(), right, others, mend),
        Err(skipped) => vec![skipped],
    }
}

fn of_failing(
    id: &'static str,
    failing: &[Failing],
    right: &str,
    others: &str,
    mend: impl Fn(&Failing) -> Fix,
) -> Vec<Finding> {
    let Some(first) = failing.first() else { return vec![Finding::ok(id, "", right)] };
    let of_one = |one: &Failing| {
        Finding::warning(id, one.name.as_str(), format!("{} {}", one.name, one.reason), mend(one))
    };
    let mut findings: Vec<Finding> = failing.iter().take(SHOWN_MAX).map(of_one).collect();
    let more = failing.len().saturating_sub(SHOWN_MAX);
    if more > 0 {
        findings.push(Finding::warning(id, "", format!("{more} more {others}"), mend(first)));
    }
    findings
}
