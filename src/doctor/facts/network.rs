//! What is beyond this machine: name servers, and port 25 of a mail host.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::dialogue::read_reply;
use super::{DnsFacts, EgressFacts, FACT_TIMEOUT, Gatherer, Lookups, ResolverFacts, Seen};
use crate::config::Dnssec;
use crate::dns::{MailHosts, Resolver, SecureResolver, name_servers};
use crate::egress_guard;
use crate::mail::DomainName;
use crate::rng::Rng;

/// The time for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);

pub async fn name_server_facts(gatherer: &Gatherer<'_>) -> DnsFacts {
    let relay = &gatherer.config.relay;
    let servers = name_servers(&relay.name_servers);
    let hostname = &gatherer.config.hostname;
    let is_dnssec_used = relay.dnssec == Dnssec::Validate;
    let (resolvers, is_dnssec_passed) =
        tokio::join!(join_all(servers.into_iter().map(|server| time_answer(server, hostname))), async {
            if !is_dnssec_used {
                return Seen::NotAsked("relay.dnssec is off");
            }
            match SecureResolver::new(&relay.name_servers, relay.trust_anchor_file.as_deref()) {
                Ok(resolver) => Seen::Value(resolver.returns_signatures().await),
                Err(error) => Seen::Failed(error.to_string()),
            }
        });
    DnsFacts { resolvers, is_dnssec_used, is_dnssec_passed }
}

/// Asks a name server for the host name; that there is no such name is an answer too.
async fn time_answer(address: SocketAddr, hostname: &DomainName) -> ResolverFacts {
    let answered_in = match Resolver::new(&[address], Rng::system()) {
        Ok(resolver) => {
            let lookups = Lookups::new(&resolver);
            let start = Instant::now();
            match lookups.texts(hostname.as_str()).await {
                Seen::Failed(reason) => Seen::Failed(reason),
                _ => Seen::Value(start.elapsed()),
            }
        }
        Err(error) => Seen::Failed(error.to_string()),
    };
    ResolverFacts { address, answered_in }
}

/// Connects to the first mail host of a domain, and greets it.
pub async fn egress(gatherer: &Gatherer<'_>) -> Seen<EgressFacts> {
    let Some(domain) = gatherer.egress_domain.as_ref().or(gatherer.config.doctor.egress_domain.as_ref())
    else {
        return Seen::NotAsked("no domain to connect to: set doctor.egress_domain");
    };
    let lookups = &gatherer.lookups;
    let host = match lookups.ask(lookups.resolver.mail_hosts(domain)).await {
        Seen::Value(MailHosts::Hosts(hosts)) if !hosts.is_empty() => hosts[0].clone(),
        Seen::Value(_) | Seen::Nothing => return Seen::Failed(format!("{domain} has no mail host")),
        other => return other.absent(),
    };
    let relay = &gatherer.config.relay;
    let address = match lookups.addresses(&host).await {
        Seen::Value(found) => {
            found.into_iter().find(|ip| egress_guard::is_permitted(*ip, &relay.allowed_private_networks))
        }
        other => return other.absent(),
    };
    let Some(address) = address else {
        return Seen::Failed(format!("{host} has no address that may be connected to"));
    };
    let target = SocketAddr::new(address, relay.port);
    let greeted = tokio::time::timeout(FACT_TIMEOUT, greet(target, &gatherer.config.hostname)).await;
    let result = match greeted {
        Ok(Ok(replies)) => Ok(replies),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("it did not answer in time".to_owned()),
    };
    let seen = result.as_ref().ok().and_then(|(_, ehlo)| address_in(ehlo));
    Seen::Value(EgressFacts { host, result, seen })
}

/// The greeting and the first line of the reply to EHLO.
async fn greet(target: SocketAddr, hostname: &DomainName) -> std::io::Result<(String, String)> {
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(target)).await;
    let stream = connecting.map_err(|_| std::io::Error::other("the connection timed out"))??;
    let mut stream = BufReader::new(stream);
    let greeting = first_line(read_reply(&mut stream).await?);
    if !greeting.starts_with("220") {
        return Ok((greeting, String::new()));
    }
    stream.write_all(format!("EHLO {hostname}\r\n").as_bytes()).await?;
    let ehlo = first_line(read_reply(&mut stream).await?);
    // What follows is a courtesy.
    let _ = stream.write_all(b"QUIT\r\n").await;
    Ok((greeting, ehlo))
}

fn first_line(lines: Vec<String>) -> String {
    lines.into_iter().next().unwrap_or_default()
}

/// The address in brackets that many servers put into their reply to EHLO.
fn address_in(reply: &str) -> Option<IpAddr> {
    let words = reply.split(|c: char| c.is_whitespace() || "[]()".contains(c));
    words.filter_map(|word| word.trim_start_matches("IPv6:").parse().ok()).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_read_in_the_reply_to_ehlo() {
        for (reply, expected) in [
            ("250-mx.example at your service, [192.0.2.7]", Some("192.0.2.7")),
            ("250-mx.example Hello mail.example.com [IPv6:2a00:1450::7], pleased", Some("2a00:1450::7")),
            ("250 mx.example Hello mail.example.com (2a00:1450::7)", Some("2a00:1450::7")),
            ("250 mx.example", None),
        ] {
            assert_eq!(address_in(reply), expected.map(|text| text.parse().unwrap()), "{reply}");
        }
    }
}
