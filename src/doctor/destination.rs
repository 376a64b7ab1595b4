//! How mail to a domain would be sent, as lines for people.

use std::fmt::Write;

use super::finding::one_line;
use crate::model::FindingStatus;
use crate::relay::{Destination, HostPlan, Probe};

/// The column of names.
const NAME_WIDTH: usize = 9;
/// Characters of a line that are shown, which may have the words of another server.
const LINE_CHARS_MAX: usize = 400;

/// Whether mail would be sent: `Error` to no host, `Warning` not to all of them or later.
pub fn destination_status(destination: &Destination) -> FindingStatus {
    let is_usable =
        |host: &HostPlan| host.error.is_none() && host.probe.as_ref().is_none_or(|probe| probe.ready);
    let usable = destination.hosts.iter().filter(|host| is_usable(host)).count();
    let is_held = destination.site.as_ref().is_some_and(|site| site.backoff_until.is_some());
    match usable {
        0 => FindingStatus::Error,
        some if some < destination.hosts.len() || is_held => FindingStatus::Warning,
        _ => FindingStatus::Ok,
    }
}

/// All that is known, with the dialogues of probes.
pub fn render_destination(destination: &Destination) -> String {
    let Destination { domain, route, route_reason, sources, site, dnssec, mta_sts, error, hosts, .. } =
        destination;
    let mut lines = vec![format!("{domain}   {route}: {route_reason}")];
    let mut add = |name: &str, text: &str| lines.push(format!("{name:NAME_WIDTH$}{text}"));
    match sources.as_deref() {
        None => add("from", "nowhere: the source pool of the tenant is not in the configuration"),
        Some([]) => add("from", "the address that the system chooses"),
        Some(sources) => add("from", &listed(sources)),
    }
    if let Some(site) = site {
        add("site", &format!("{}, {} of {} connections", site.name, site.connections, site.connections_max));
        if let Some(until) = site.backoff_until {
            let reason = site.reason.as_deref().unwrap_or_default();
            add("", &format!("not tried before {}: {reason}", until.strftime("%Y-%m-%d %H:%M UTC")));
        }
    }
    if let Some(dnssec) = dnssec {
        add("DNSSEC", dnssec);
    }
    if let Some(sts) = mta_sts {
        match (&sts.mode, &sts.error) {
            (Some(mode), _) => {
                let seconds = sts.max_age_s.unwrap_or_default();
                add("MTA-STS", &format!("{mode}, for {seconds} s: {}", listed(&sts.mx)));
            }
            (None, error) => add("MTA-STS", error.as_deref().unwrap_or("unknown")),
        }
    }
    if let Some(error) = error {
        add("ERROR", error);
    }
    for host in hosts {
        add_host(&mut add, host);
    }
    let mut text = String::new();
    for line in lines {
        let _ = writeln!(text, "{}", one_line(line.trim_end(), LINE_CHARS_MAX));
    }
    text
}

fn add_host(add: &mut impl FnMut(&str, &str), host: &HostPlan) {
    let HostPlan { host, port, addresses, tls, tls_reason, error, probe } = host;
    add("host", &format!("{host}:{port}   {}", listed(addresses)));
    if let Some(reason) = tls_reason {
        add("", &format!("TLS {}: {reason}", tls.as_deref().unwrap_or("refused")));
    }
    if let Some(error) = error {
        add("ERROR", error);
    }
    let Some(Probe { tls, dialogue, error, .. }) = probe else { return };
    match error {
        None => add("OK", &format!("mail could be sent, {}", tls.as_deref().unwrap_or("without TLS"))),
        Some(error) => add("ERROR", error),
    }
    dialogue.lines().for_each(|line| add("", &format!("  {line}")));
}

fn listed(items: &[impl ToString]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::DomainName;
    use crate::relay::{SitePlan, StsPlan};

    fn host(name: &str, error: Option<&str>) -> HostPlan {
        HostPlan {
            host: name.into(),
            port: 25,
            addresses: vec!["192.0.2.25".parse().unwrap()],
            tls: error.is_none().then(|| "verified".into()),
            tls_reason: Some("mta-sts: mode enforce".into()),
            error: error.map(Into::into),
            probe: None,
        }
    }

    fn destination(hosts: Vec<HostPlan>) -> Destination {
        Destination {
            object: "destination".into(),
            domain: DomainName::parse("example.org").unwrap(),
            route: "mx".into(),
            route_reason: "no route and no smart host takes mail for the domain".into(),
            sources: Some(vec!["192.0.2.7".parse().unwrap()]),
            site: Some(SitePlan {
                name: "mx.example.org".into(),
                connections_max: 20,
                connections: 2,
                backoff_until: None,
                reason: None,
            }),
            dnssec: Some("insecure".into()),
            mta_sts: Some(StsPlan {
                mode: Some("enforce".into()),
                max_age_s: Some(604_800),
                mx: vec!["*.example.org".into()],
                error: None,
            }),
            error: None,
            hosts,
            at: "2026-02-01T00:00:00Z".parse().unwrap(),
        }
    }

    #[test]
    fn each_part_has_its_line_and_hostile_words_stay_on_theirs() {
        let mut first = host("mx.example.org", None);
        first.probe = Some(Probe {
            ready: true,
            tls: Some("TLSv1.3 TLS13_AES_256_GCM_SHA384".into()),
            dialogue: "* connected to mx.example.org [192.0.2.25:25]\n< 220 hi\u{1b}[2J\u{202e}\n".into(),
            error: None,
        });
        let second = host("bad.example.net", Some("[sts_mx_mismatch] not in the policy\nOK all is well"));
        let text = render_destination(&destination(vec![first, second]));
        assert_eq!(
            text,
            "example.org   mx: no route and no smart host takes mail for the domain\n\
             from     192.0.2.7\n\
             site     mx.example.org, 2 of 20 connections\n\
             DNSSEC   insecure\n\
             MTA-STS  enforce, for 604800 s: *.example.org\n\
             host     mx.example.org:25   192.0.2.25\n         \
             TLS verified: mta-sts: mode enforce\n\
             OK       mail could be sent, TLSv1.3 TLS13_AES_256_GCM_SHA384\n           \
             * connected to mx.example.org [192.0.2.25:25]\n           \
             < 220 hi [2J \n\
             host     bad.example.net:25   192.0.2.25\n         \
             TLS refused: mta-sts: mode enforce\n\
             ERROR    [sts_mx_mismatch] not in the policy OK all is well\n"
        );
    }

    #[test]
    fn it_says_where_mail_leaves_from() {
        let first = |sources| {
            let text = render_destination(&Destination { sources, ..destination(Vec::new()) });
            text.lines().nth(1).unwrap().to_owned()
        };
        assert_eq!(first(Some(Vec::new())), "from     the address that the system chooses");
        let nowhere = "from     nowhere: the source pool of the tenant is not in the configuration";
        assert_eq!(first(None), nowhere);
    }

    #[test]
    fn it_is_an_error_if_no_host_gets_mail_and_a_warning_if_not_all_do() {
        let good = || host("mx.example.org", None);
        let bad = || host("mx2.example.org", Some("refused"));
        assert_eq!(destination_status(&destination(vec![good()])), FindingStatus::Ok);
        assert_eq!(destination_status(&destination(vec![good(), bad()])), FindingStatus::Warning);
        assert_eq!(destination_status(&destination(vec![bad()])), FindingStatus::Error);
        assert_eq!(destination_status(&destination(Vec::new())), FindingStatus::Error);
        let mut held = destination(vec![good()]);
        held.site.as_mut().unwrap().backoff_until = Some("2026-02-01T01:00:00Z".parse().unwrap());
        assert_eq!(destination_status(&held), FindingStatus::Warning);
    }
}
