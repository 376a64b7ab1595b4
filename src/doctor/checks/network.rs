//! Name servers, port 25, and the address that others see.

use std::net::IpAddr;
use std::time::Duration;

use super::super::facts::{EgressFacts, Facts, ResolverFacts, SMART_HOST, Seen, SourceFacts};
use super::super::{Finding, Fix};
use super::{listed, look, one, require_qualified, reverse_record};

/// A name server that is slower delays every delivery.
const ANSWER_MAX: Duration = Duration::from_millis(500);
/// Resolvers that everybody shares.
pub const PUBLIC_RESOLVERS: &[&str] = &[
    "1.1.1.1",
    "1.0.0.1",
    "8.8.8.8",
    "8.8.4.4",
    "9.9.9.9",
    "149.112.112.112",
    "208.67.222.222",
    "208.67.220.220",
    "2606:4700:4700::1111",
    "2606:4700:4700::1001",
    "2001:4860:4860::8888",
    "2001:4860:4860::8844",
    "2620:fe::fe",
    "2620:fe::9",
];

fn own_resolver() -> Fix {
    Fix::command(
        "install a validating resolver on this machine, as unbound is, and use it",
        "[relay]\nname_servers = [\"127.0.0.1:53\"]",
    )
}

pub fn answers(facts: &Facts) -> Vec<Finding> {
    const ID: &str = "dns.answers";
    let of_server = |ResolverFacts { address, answered_in }: &ResolverFacts| {
        let subject = address.to_string();
        match answered_in {
            Seen::Value(time) if *time <= ANSWER_MAX => Finding::ok(
                ID,
                subject,
                format!("the name server {address} answers in {} ms", time.as_millis()),
            ),
            Seen::Value(time) => {
                let text = format!("the name server {address} takes {} ms for an answer", time.as_millis());
                Finding::warning(ID, subject, text, own_resolver())
            }
            _ => Finding::error(
                ID,
                subject,
                format!("the name server {address} does not answer"),
                own_resolver(),
            ),
        }
    };
    match facts.dns.resolvers.as_slice() {
        [] => vec![Finding::skipped(ID, "", "there is no name server")],
        servers => servers.iter().map(of_server).collect(),
    }
}

pub fn dnssec(facts: &Facts) -> Vec<Finding> {
    const ID: &str = "dns.dnssec";
    if !facts.dns.is_dnssec_used {
        return vec![Finding::info(ID, "", "relay.dnssec is off, so DANE is not used")];
    }
    one(look(ID, &"", &facts.dns.is_dnssec_passed).map(|passed| match passed {
        Some(true) => Finding::ok(ID, "", "the name servers pass DNSSEC signatures, so DANE is used"),
        _ => {
            let text = "the name servers do not pass DNSSEC signatures, so DANE is not used";
            Finding::warning(ID, "", text, own_resolver())
        }
    }))
}

pub fn public_resolver(facts: &Facts) -> Vec<Finding> {
    const ID: &str = "dns.public_resolver";
    let is_public =
        |server: &&ResolverFacts| PUBLIC_RESOLVERS.contains(&server.address.ip().to_string().as_str());
    let public: Vec<_> = facts.dns.resolvers.iter().filter(is_public).map(|server| server.address).collect();
    vec![match public.as_slice() {
        _ if facts.dns.resolvers.is_empty() => Finding::skipped(ID, "", "there is no name server"),
        [] => Finding::ok(ID, "", "no name server is a public resolver"),
        [first, ..] => {
            let text = format!("{} is a public resolver: block lists refuse its questions", listed(&public));
            Finding::info(ID, first.to_string(), text)
        }
    }]
}

pub fn port25(facts: &Facts) -> Vec<Finding> {
    const ID: &str = "net.port25";
    let smart_host = || {
        Fix::command(
            "ask the provider to open outgoing port 25, or send through a smart host",
            "[relay.smart_host]\nhost = \"smtp.example.net\"",
        )
    };
    one(look(ID, &"", &facts.egress).map(|egress| match egress {
        None => Finding::skipped(ID, "", "there is no mail host to connect to"),
        Some(EgressFacts { host, result: Err(error), .. }) => {
            let text = format!("{host} was not reached on port 25, which many providers block: {error}");
            Finding::error(ID, host.as_str(), text, smart_host())
        }
        Some(EgressFacts { host, result: Ok((greeting, ehlo)), .. }) => {
            let refusal =
                [greeting, ehlo].into_iter().find(|reply| !reply.starts_with('2') && !reply.is_empty());
            match refusal {
                None => Finding::ok(ID, host.as_str(), format!("{host} answers on port 25")),
                Some(reply) => {
                    let text = format!("{host} was reached on port 25, and refuses this server: {reply}");
                    let fix =
                        Fix::text("do what the reply says; a reverse name that is missing is a usual reason");
                    Finding::warning(ID, host.as_str(), text, fix)
                }
            }
        }
    }))
}

pub fn public_address(facts: &Facts) -> Vec<Finding> {
    const ID: &str = "net.public_address";
    let own = facts.own_addresses.value().map(Vec::as_slice).unwrap_or_default();
    let seen = facts.egress.value().and_then(|egress| egress.seen);
    let fix = |address: IpAddr| {
        Fix::command(
            "write the public address of this server into the configuration",
            format!("[doctor]\npublic_addresses = [\"{address}\"]"),
        )
    };
    vec![match (own, seen) {
        ([], None) if facts.own_addresses == Seen::NotAsked(SMART_HOST) => {
            Finding::skipped(ID, "", SMART_HOST)
        }
        ([], None) => Finding::warning(
            ID,
            "",
            "the address that the Internet sees is not known, so names and SPF cannot be checked",
            fix(IpAddr::from([192, 0, 2, 7])),
        ),
        ([], Some(seen)) => {
            let text = format!("the Internet sees {seen}, which the configuration does not know");
            Finding::warning(ID, seen.to_string(), text, fix(seen))
        }
        (own, Some(seen)) if !own.contains(&seen) => {
            let text = format!("the Internet sees {seen}, and the configuration has {}", listed(own));
            Finding::warning(ID, seen.to_string(), text, fix(seen))
        }
        (own, Some(seen)) => {
            Finding::ok(ID, seen.to_string(), format!("the Internet sees {seen}, one of {}", listed(own)))
        }
        (own, None) => {
            let text = format!(
                "no other server has said which address it sees; the configuration has {}",
                listed(own)
            );
            Finding::skipped(ID, "", text)
        }
    }]
}

pub fn ipv6(facts: &Facts) -> Vec<Finding> {
    const ID: &str = "net.ipv6";
    if let Err(skipped) = look(ID, &"", &facts.own_addresses) {
        return vec![skipped];
    }
    let sources: Vec<&SourceFacts> = facts.sources.iter().filter(|source| source.address.is_ipv6()).collect();
    if sources.is_empty() {
        return vec![Finding::ok(ID, "", "mail does not leave over IPv6")];
    }
    let of_source = |source: &&SourceFacts| {
        let SourceFacts { address, ehlo, reverse, .. } = source;
        let subject = address.to_string();
        if let Err(skipped) = require_qualified(ID, ehlo) {
            return skipped;
        }
        match look(ID, address, reverse) {
            Ok(Some(_)) => Finding::ok(ID, subject, format!("{address} has a reverse name")),
            Ok(None) => {
                let fix = reverse_record(*address, ehlo);
                let fix = Fix { text: format!("{}, or send over IPv4 only", fix.text), ..fix };
                let text =
                    format!("{address} has no reverse name; receivers refuse that sooner than over IPv4");
                Finding::warning(ID, subject, text, fix).with(Vec::new(), ehlo.as_str())
            }
            Err(skipped) => skipped,
        }
    };
    sources.iter().map(of_source).collect()
}
