//! The renewal of the certificate.

use std::io::ErrorKind;

use super::super::facts::{AcmeFacts, AcmeRecordFacts, Facts};
use super::super::{Finding, Fix};
use super::look;
use crate::acme::ListenFault;
use crate::mail::Timestamp;

const RENEW: &str = "pillarbox certificate renew";

pub fn order(facts: &Facts) -> Vec<Finding> {
    const ID: &str = "acme.order";
    of_renewal(ID, facts, |AcmeFacts { state: acme, .. }| {
        vec![match (&acme.error, acme.next_at) {
            (None, _) if acme.is_running => Finding::skipped(ID, "", "an order runs"),
            (None, None) => Finding::skipped(ID, "", "the server has not looked at its certificate yet"),
            (None, Some(at)) => {
                Finding::ok(ID, "", format!("the server renews its certificate at {}", minute(at)))
            }
            // The present certificate stays in use; `tls.expires` says how long.
            (Some(error), _) => {
                let since = acme.failing_since.map(minute).unwrap_or_default();
                let fix = Fix::command("mend it, then order again; the server also tries by itself", RENEW);
                Finding::warning(ID, "", format!("no certificate was issued since {since}: {error}"), fix)
            }
        }]
    })
}

pub fn record(facts: &Facts) -> Vec<Finding> {
    const ID: &str = "acme.record";
    of_renewal(ID, facts, |acme| match acme.records.as_slice() {
        [] => vec![Finding::skipped(ID, "", "no order has needed a record")],
        records => records.iter().map(|record| needed_record(ID, record)).collect(),
    })
}

fn needed_record(id: &'static str, record: &AcmeRecordFacts) -> Finding {
    let name = record.name.as_str();
    match look(id, &name, &record.is_published) {
        Ok(Some(true)) => Finding::ok(id, name, format!("the DNS has {name}")),
        Ok(_) => {
            let text = format!("the DNS lacks {name}, so the authority issues no certificate");
            Finding::error(id, name, text, Fix::record("TXT", name, record.value.as_str()))
        }
        Err(skipped) => skipped,
    }
}

pub fn port80(facts: &Facts) -> Vec<Finding> {
    const ID: &str = "acme.port80";
    of_renewal(ID, facts, |acme| {
        vec![match &acme.state.challenge_listener {
            None => Finding::skipped(ID, "", "the last order has not needed http-01"),
            Some(Ok(())) => {
                Finding::ok(ID, "", "at the last order, the listener for http-01 could be opened")
            }
            Some(Err(fault)) => {
                let text = format!("at the last order, the authority got no answer by http-01: {fault}");
                Finding::error(ID, "", text, listener_fix(fault))
            }
        }]
    })
}

fn listener_fix(fault: &ListenFault) -> Fix {
    let what = match fault.kind {
        ErrorKind::AddrInUse => {
            "let the program that has the port pass requests for /.well-known/acme-challenge/ on to another port, and name that in acme.http_listen, or stop it"
        }
        ErrorKind::PermissionDenied => {
            "start the server with the capability that the systemd unit grants, CAP_NET_BIND_SERVICE"
        }
        _ => "set acme.http_listen to an address that this machine has; without IPv6, to 0.0.0.0:80",
    };
    Fix::command(format!("{what}, or publish the record for dns-persist-01; then order again"), RENEW)
}

fn of_renewal(id: &'static str, facts: &Facts, check: impl Fn(&AcmeFacts) -> Vec<Finding>) -> Vec<Finding> {
    match look(id, &"", &facts.acme) {
        Ok(Some(acme)) => check(acme),
        Ok(None) => vec![Finding::skipped(id, "", "acme.enabled is false")],
        Err(skipped) => vec![skipped],
    }
}

fn minute(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M UTC").to_string()
}
