//! The return host of a domain: the record that leads mail to it here. What counts is the effect of the records, not their
//! types: its MX names this server, and its SPF policy is ours.

use std::net::IpAddr;

use crate::config;
use crate::dns::{DnsError, Resolver};
use crate::mail::DomainName;
use crate::model::{ReturnPathMode, ReturnPathStatus};
use crate::store::{Domain, RecordStatus};

use super::records::{DnsRecord, Purpose, RecordAlternative, RecordType, spf_policies, status_of};
use super::spf;

/// Where mail to return hosts must lead. Only for a server that receives reports.
#[derive(Debug, Clone)]
pub struct ReturnHostChecks {
    /// The return hosts.
    pub hosts: config::ReturnHosts,
    /// The names of this server in MX records.
    pub mx_hosts: Vec<DomainName>,
    /// The port of mail hosts.
    pub port: u16,
}

/// What the DNS has for a return host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReturnHostLookup {
    /// Whether the records lead here.
    pub status: RecordStatus,
    /// The records that were found.
    pub found: Vec<String>,
    /// The name of this server among the MX records.
    pub exchange: Option<DomainName>,
}

/// The records at the name of a return host, aliases followed.
#[derive(Debug, Default)]
struct Records {
    exchanges: Vec<String>,
    /// The SPF policies.
    policies: Vec<String>,
    /// Looked up only without MX records.
    addresses: Vec<IpAddr>,
    /// The SPF policies of the platform's return host.
    own_policies: Vec<String>,
}

impl ReturnHostChecks {
    /// The settings of a configuration; `None` without a listener for reports.
    pub fn of(config: &config::Config) -> Option<Self> {
        Some(Self {
            hosts: config.return_hosts()?,
            mx_hosts: config.inbound.mx_hosts(&config.hostname),
            port: config.relay.port,
        })
    }

    /// The record of a domain's return host; `None` if its mail uses no return host of its own.
    pub(super) fn expected(&self, domain: &Domain, spf_include: &DomainName) -> Option<DnsRecord> {
        let mode = domain.return_path.mode.unwrap_or(self.hosts.defaults.mode);
        let host = domain.return_host(&self.hosts.defaults.label).filter(|_| mode == ReturnPathMode::Auto)?;
        let exchange = self.mx_hosts.first()?;
        let alternatives = [
            (RecordType::Mx, format!("10 {exchange}")),
            (RecordType::Txt, format!("v=spf1 include:{spf_include} ~all")),
        ];
        Some(DnsRecord {
            purpose: Purpose::ReturnPath,
            kind: RecordType::Cname,
            name: host.as_str().to_owned(),
            value: self.hosts.host.as_str().to_owned(),
            alternatives: alternatives.map(|(kind, value)| RecordAlternative { kind, value }).to_vec(),
            required: false,
            dkim_key: None,
        })
    }

    /// Looks up the records of a return host. `None` if the DNS does not answer.
    pub(super) async fn look_up(
        &self,
        host: &str,
        spf_include: &DomainName,
        resolver: &Resolver,
    ) -> Option<ReturnHostLookup> {
        let (exchanges, texts, own_texts) = tokio::join!(
            resolver.mail_exchanges(host),
            resolver.texts(host),
            resolver.texts(self.hosts.host.as_str())
        );
        let exchanges = known(exchanges)?;
        let addresses = match exchanges.as_slice() {
            [] => known(resolver.addresses(host).await)?,
            _ => Vec::new(),
        };
        let records = Records {
            exchanges,
            policies: spf_policies(&known(texts)?),
            addresses,
            own_policies: spf_policies(&known(own_texts)?),
        };
        Some(self.compare(&records, spf_include))
    }

    fn compare(&self, records: &Records, spf_include: &DomainName) -> ReturnHostLookup {
        let names_us =
            |name: &String| self.mx_hosts.iter().find(|host| host.as_str().eq_ignore_ascii_case(name));
        let exchange = records.exchanges.iter().find_map(names_us).cloned();
        let permits = match records.policies.as_slice() {
            [policy] => spf::refers_to(policy, spf_include.as_str()) || records.own_policies.contains(policy),
            // RFC 7208 §4.5: two policies are an error.
            _ => false,
        };
        let exchanges = records.exchanges.iter().map(|host| format!("MX {host}"));
        let policies = records.policies.iter().map(|policy| format!("TXT {policy}"));
        let addresses = records.addresses.iter().map(|address| {
            let kind = if address.is_ipv6() { "AAAA" } else { "A" };
            format!("{kind} {address}")
        });
        let found: Vec<_> = exchanges.chain(policies).chain(addresses).collect();
        ReturnHostLookup { status: status_of(exchange.is_some() && permits, &found), found, exchange }
    }
}

/// What to do about the records of a return host.
pub fn return_path_hint(
    record: RecordStatus,
    found: &[String],
    status: ReturnPathStatus,
) -> Option<&'static str> {
    let has = |kind: &str| found.iter().any(|text| text.starts_with(kind));
    match (record, status) {
        (RecordStatus::Mismatch, _) if !has("MX ") && (has("A ") || has("AAAA ")) => Some(
            "the name has an address and no MX: if the DNS provider proxies it, set the record to DNS only",
        ),
        (RecordStatus::Mismatch, _) if !has("MX ") => {
            Some("the name has no MX record: publish the CNAME, or both alternatives")
        }
        (RecordStatus::Mismatch, _) => Some(
            "the MX record must name this server, and one SPF record must include it: publish the CNAME, or both alternatives",
        ),
        (RecordStatus::Ok, ReturnPathStatus::Unreachable) => {
            Some("the records are right, but this server is not reached there: open port 25 of the MX host")
        }
        _ => None,
    }
}

/// No records are an answer too.
fn known<T>(answer: Result<Vec<T>, DnsError>) -> Option<Vec<T>> {
    match answer {
        Ok(records) => Some(records),
        Err(DnsError::NoSuchDomain | DnsError::NoRecords) => Some(Vec::new()),
        Err(DnsError::Temporary(reason)) => {
            tracing::debug!(reason, "DNS lookup of a return host failed");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(exchanges: &[&str], policies: &[&str], addresses: &[&str]) -> RecordStatus {
        let settings = ReturnHostChecks {
            hosts: config::ReturnHosts {
                defaults: config::ReturnPath::default(),
                host: DomainName::parse("bounce.mail.example").unwrap(),
            },
            mx_hosts: vec![DomainName::parse("mail.example").unwrap()],
            port: 25,
        };
        let strings = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        let records = Records {
            exchanges: strings(exchanges),
            policies: strings(policies),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            own_policies: vec!["v=spf1 ip4:192.0.2.1 -all".into()],
        };
        settings.compare(&records, &DomainName::parse("spf.example").unwrap()).status
    }

    #[test]
    fn a_return_host_leads_here_if_its_mx_and_its_only_spf_policy_do() {
        use RecordStatus::{Mismatch, Missing, Ok};
        let (ours, spf) = (&["mail.example"][..], &["v=spf1 include:spf.example ~all"][..]);
        for (exchanges, policies, addresses, expected) in [
            (ours, spf, &[][..], Ok),
            (&["mx.other.example", "mail.example"][..], spf, &[], Ok),
            (ours, &["v=spf1 ip4:192.0.2.1 -all"], &[], Ok),
            (ours, &["v=spf1 ip4:192.0.2.2 -all"], &[], Mismatch),
            (ours, &[], &[], Mismatch),
            (ours, &["v=spf1 include:spf.example ~all", "v=spf1 -all"], &[], Mismatch),
            (&["mx.other.example"], spf, &[], Mismatch),
            (&[], &[], &["192.0.2.9"], Mismatch),
            (&[], spf, &[], Mismatch),
            (&[], &[], &[], Missing),
        ] {
            assert_eq!(status(exchanges, policies, addresses), expected, "{exchanges:?} {policies:?}");
        }
    }
}
