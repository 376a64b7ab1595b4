//! The certificate.

use super::super::facts::{AcmeFacts, Facts, Handshake, Seen, TlsFacts};
use super::super::{Finding, Fix};
use super::{listed, look};
use crate::mail::{SignedDuration, Timestamp};
use crate::tls::Inspection;

const DAY: SignedDuration = SignedDuration::from_hours(24);
/// A certificate that ends sooner is an error.
const LEFT_MIN: SignedDuration = SignedDuration::from_hours(3 * 24);
/// Names of a certificate that are shown.
const NAMES_SHOWN: usize = 3;
/// What systemd copies when it starts a service; the copies do not change until it starts the service again.
const CREDENTIALS: &str = "/run/credentials/";

fn order_fix(what: &str) -> Fix {
    Fix::command(format!("{what}; acme.order says why it fails"), "pillarbox certificate renew")
}

/// What to do with the file of a certificate, or with the one that systemd copies it from.
fn file_fix(tls: &TlsFacts, what: &str) -> Fix {
    if tls.is_by_acme {
        return order_fix("order another certificate");
    }
    let file = &tls.file;
    match file.starts_with(CREDENTIALS) {
        true => Fix::command(
            format!("{what} the file that systemd copies to {file}, and restart the server"),
            "systemctl restart pillarbox",
        ),
        false => Fix::text(format!("{what} {file}; the server reads it again within half a minute")),
    }
}

pub fn chain(facts: &Facts) -> Vec<Finding> {
    const ID: &str = "tls.chain";
    let tls = &facts.tls;
    let file = tls.file.as_str();
    if tls.is_self_signed {
        let fix = match tls.is_by_acme {
            true => order_fix("order a certificate"),
            false => Fix::command(
                "let the server get a certificate of an authority, or name the files of one that another program gets",
                format!("hostname = \"{}\"\n[acme]\nenabled = true", facts.hostname),
            ),
        };
        return vec![Finding::warning(
            ID,
            file,
            "the certificate is self-signed; mail clients refuse it",
            fix,
        )];
    }
    let finding = match &tls.certificate {
        Seen::Value(Inspection { chain_fault: None, .. }) => {
            Finding::ok(ID, file, format!("{file} leads to an authority that systems trust"))
        }
        Seen::Value(Inspection { chain_fault: Some(fault), .. }) => {
            let what = "put the certificate and then each intermediate certificate of its authority into";
            let fix = file_fix(tls, what);
            Finding::error(ID, file, format!("{file} is not trusted: {fault}"), fix)
        }
        Seen::Failed(reason) => {
            let fix = match tls.is_by_acme {
                true => {
                    order_fix("run the doctor as a user who may read the file, or order another certificate")
                }
                false => Fix::text(
                    "set tls.certificate and tls.private_key to the files of one certificate, readable by this user",
                ),
            };
            Finding::error(ID, file, reason.as_str(), fix)
        }
        Seen::Nothing => Finding::skipped(ID, file, "there is no certificate"),
        Seen::NotAsked(reason) => Finding::skipped(ID, file, *reason),
    };
    vec![finding]
}

/// What a check says about a certificate that can be read; `tls.chain` says why it cannot.
fn of_certificate(id: &'static str, facts: &Facts, check: impl Fn(&Inspection) -> Finding) -> Vec<Finding> {
    let finding = match look(id, &facts.tls.file, &facts.tls.certificate) {
        Ok(Some(found)) => check(found),
        Ok(None) => Finding::skipped(id, facts.tls.file.as_str(), "there is no certificate"),
        Err(skipped) => skipped,
    };
    vec![finding]
}

pub fn name(facts: &Facts) -> Vec<Finding> {
    const ID: &str = "tls.name";
    let hostname = &facts.hostname;
    of_certificate(ID, facts, |found| {
        if found.is_for_hostname {
            return Finding::ok(ID, hostname.as_str(), format!("the certificate is for {hostname}"));
        }
        let shown = &found.names[..found.names.len().min(NAMES_SHOWN)];
        let names = if shown.is_empty() { "no name".to_owned() } else { listed(shown) };
        let fix = if facts.tls.is_self_signed {
            Fix::command(
                "remove the self-signed certificate and restart; the server makes one for its name",
                format!("rm {}", facts.tls.file),
            )
        } else if facts.tls.is_by_acme {
            Fix::command(
                format!(
                    "add {hostname} to acme.names, if that is set, and restart the server, which then orders a certificate; acme.order says why it fails"
                ),
                "systemctl restart pillarbox",
            )
        } else {
            Fix::text(format!("get a certificate for {hostname}, or set hostname to a name of this one"))
        };
        Finding::error(
            ID,
            hostname.as_str(),
            format!("the certificate is for {names}, and not for {hostname}"),
            fix,
        )
        .with(found.names.clone(), hostname.as_str())
    })
}

pub fn expires(facts: &Facts) -> Vec<Finding> {
    const ID: &str = "tls.expires";
    of_certificate(ID, facts, |found| check_life(ID, facts, found))
}

fn check_life(id: &'static str, facts: &Facts, found: &Inspection) -> Finding {
    let Inspection { not_before, not_after, .. } = found;
    let file = facts.tls.file.as_str();
    let fix = || match facts.tls.is_self_signed {
        true => Fix::command(
            "remove the self-signed certificate and restart; the server makes another",
            format!("rm {file}"),
        ),
        false => file_fix(&facts.tls, "renew"),
    };
    let left = not_after.duration_since(facts.at);
    let (date, days) = (date(*not_after), left.as_hours() / 24);
    let in_days = if days == 1 { "in 1 day".to_owned() } else { format!("in {days} days") };
    if *not_before > facts.at {
        let text = format!("the certificate is not valid before {}", self::date(*not_before));
        Finding::error(
            id,
            file,
            text,
            Fix::text("set the clock of this machine, or use a certificate that is valid now"),
        )
    } else if left <= SignedDuration::ZERO {
        Finding::error(id, file, format!("the certificate ended on {date}"), fix())
    } else if left < LEFT_MIN {
        let when = if left < DAY { "within a day".to_owned() } else { in_days };
        Finding::error(id, file, format!("the certificate ends {when} ({date})"), fix())
    } else if found.ends_soon(facts.at) && !is_to_be_renewed(facts) {
        Finding::warning(id, file, format!("the certificate ends {in_days} ({date})"), fix())
    } else {
        Finding::ok(id, file, format!("the certificate is valid until {date}"))
    }
}

/// Whether the server has a time to renew its certificate, which the authority may have chosen.
fn is_to_be_renewed(facts: &Facts) -> bool {
    let Seen::Value(AcmeFacts { state, .. }) = &facts.acme else { return false };
    state.error.is_none() && state.next_at.is_some_and(|at| at > facts.at)
}

pub fn starttls(facts: &Facts) -> Vec<Finding> {
    of_listeners("tls.starttls", &facts.tls.file, &facts.handshakes.starttls, "submission with STARTTLS")
}

pub fn implicit(facts: &Facts) -> Vec<Finding> {
    of_listeners("tls.implicit", &facts.tls.file, &facts.handshakes.implicit, "submission with implicit TLS")
}

fn of_listeners(id: &'static str, file: &str, handshakes: &Seen<Vec<Handshake>>, kind: &str) -> Vec<Finding> {
    let handshakes = match look(id, &"", handshakes) {
        Ok(handshakes) => handshakes.map(Vec::as_slice).unwrap_or_default(),
        Err(skipped) => return vec![skipped],
    };
    let of_one = |Handshake { address, result }: &Handshake| match result {
        Ok(_) => Finding::ok(id, address.to_string(), format!("{address} completes the handshake")),
        Err(reason) => {
            let fix = Fix::text(match file.starts_with(CREDENTIALS) {
                true => "see the log of the server; a changed certificate is in use after a restart",
                false => {
                    "see the log of the server; a changed certificate is in use within half a minute, or at once after SIGHUP"
                }
            });
            Finding::error(
                id,
                address.to_string(),
                format!("{address} does not complete the handshake: {reason}"),
                fix,
            )
        }
    };
    match handshakes {
        [] => vec![Finding::skipped(id, "", format!("there is no listener of {kind}"))],
        all => all.iter().map(of_one).collect(),
    }
}

pub fn no_auth_in_clear(facts: &Facts) -> Vec<Finding> {
    const ID: &str = "tls.no_auth_in_clear";
    let handshakes = match look(ID, &"", &facts.handshakes.starttls) {
        Ok(handshakes) => handshakes.map(Vec::as_slice).unwrap_or_default(),
        Err(skipped) => return vec![skipped],
    };
    let open = handshakes.iter().find(|one| one.result == Ok(true));
    vec![match open {
        Some(Handshake { address, .. }) => {
            let fix = Fix::text("report this as a fault of Pillarbox");
            Finding::error(ID, address.to_string(), format!("{address} offers AUTH without encryption"), fix)
        }
        None if handshakes.iter().any(|one| one.result.is_ok()) => {
            Finding::ok(ID, "", "AUTH is offered after encryption only")
        }
        None => Finding::skipped(ID, "", "no listener with STARTTLS answered"),
    }]
}

fn date(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d").to_string()
}
