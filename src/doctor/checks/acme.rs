//! The renewal of the certificate.

use super::super::facts::Facts;
use super::super::{Finding, Fix};
use super::{listed, look, one};
use crate::acme::AcmeState;
use crate::mail::Timestamp;

pub fn order(facts: &Facts) -> Vec<Finding> {
    const ID: &str = "acme.order";
    of_renewal(ID, facts, |acme| match &acme.error {
        None if acme.is_running => Finding::skipped(ID, "", "an order runs"),
        None => {
            let next = acme.next_at.map(|at| format!(" at {}", minute(at))).unwrap_or_default();
            Finding::ok(ID, "", format!("the server renews its certificate{next}"))
        }
        // The present certificate stays in use; `tls.expires` says how long.
        Some(error) => {
            let since = acme.failing_since.map(minute).unwrap_or_default();
            let fix = Fix::command(
                "mend it, then order again; the server also tries by itself",
                "pillarbox certificate renew",
            );
            Finding::warning(ID, "", format!("no certificate was issued since {since}: {error}"), fix)
        }
    })
}

pub fn record(facts: &Facts) -> Vec<Finding> {
    const ID: &str = "acme.record";
    of_renewal(ID, facts, |acme| match acme.missing_records.as_deref() {
        None => Finding::skipped(ID, "", "no order has needed a record"),
        Some([]) => Finding::ok(ID, "", "the DNS has the records that prove the names"),
        Some(missing @ [first, ..]) => {
            let value = acme.records.iter().find(|(name, _)| name == first).map(|(_, value)| value.as_str());
            let fix = Fix::record("TXT", first.as_str(), value.unwrap_or_default());
            let text = format!("the DNS lacks {}, so the authority issues no certificate", listed(missing));
            Finding::error(ID, first.as_str(), text, fix)
        }
    })
}

pub fn port80(facts: &Facts) -> Vec<Finding> {
    const ID: &str = "acme.port80";
    of_renewal(ID, facts, |acme| match &acme.challenge_listener {
        None => Finding::skipped(ID, "", "no order has needed http-01"),
        Some(Ok(())) => Finding::ok(ID, "", "the listener for http-01 could be opened"),
        Some(Err(error)) => {
            let fix = Fix::text(
                "stop the program that has the port, set acme.http_listen to an address of this machine, or publish the record for dns-persist-01",
            );
            Finding::error(ID, "", format!("the authority gets no answer by http-01: {error}"), fix)
        }
    })
}

fn of_renewal(id: &'static str, facts: &Facts, check: impl Fn(&AcmeState) -> Finding) -> Vec<Finding> {
    one(look(id, &"", &facts.acme).map(|acme| match acme {
        Some(acme) => check(acme),
        None => Finding::skipped(id, "", "acme.enabled is false"),
    }))
}

fn minute(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M UTC").to_string()
}
