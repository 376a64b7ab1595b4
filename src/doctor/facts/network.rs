//! What is beyond this machine: name servers, and port 25 of a mail host.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};

use super::dialogue::read_reply;
use super::{DnsFacts, EgressFacts, FACT_TIMEOUT, Gatherer, Lookups, ResolverFacts, Seen, blocking};
use crate::config::Dnssec;
use crate::dns::{MailHosts, Resolver, SecureResolver, name_servers};
use crate::egress_guard;
use crate::mail::DomainName;
use crate::rng::Rng;
use crate::verification::{Sender, configured_sources, uses_smart_hosts_only};

/// The time for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// Mail hosts that are connected to, until one answers, and addresses of each.
const HOSTS_MAX: usize = 2;
const ADDRESSES_MAX: usize = 2;

pub async fn name_server_facts(gatherer: &Gatherer<'_>) -> DnsFacts {
    let relay = &gatherer.config.relay;
    let configured = relay.name_servers.clone();
    let servers = blocking(move || Seen::Value(name_servers(&configured))).await;
    let servers = servers.value().cloned().unwrap_or_default();
    let hostname = &gatherer.config.hostname;
    let is_dnssec_used = relay.dnssec == Dnssec::Validate;
    let (resolvers, is_dnssec_passed) =
        tokio::join!(join_all(servers.into_iter().map(|server| time_answer(server, hostname))), async {
            if !is_dnssec_used {
                return Seen::NotAsked("relay.dnssec is off");
            }
            let (servers, anchor) = (relay.name_servers.clone(), relay.trust_anchor_file.clone());
            let resolver = blocking(move || match SecureResolver::new(&servers, anchor.as_deref()) {
                Ok(resolver) => Seen::Value(resolver),
                Err(error) => Seen::Failed(error.to_string()),
            });
            match resolver.await {
                Seen::Value(resolver) => Seen::Value(resolver.returns_signatures().await),
                other => other.absent(),
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

/// Connects to the first mail host of a domain that answers, and greets it.
pub async fn egress(gatherer: &Gatherer<'_>) -> Seen<EgressFacts> {
    let config = gatherer.config;
    if uses_smart_hosts_only(config) {
        return Seen::NotAsked("mail leaves through a smart host");
    }
    let Some(domain) = gatherer.egress_domain.as_ref().or(config.doctor.egress_domain.as_ref()) else {
        return Seen::NotAsked("no domain to connect to: set doctor.egress_domain");
    };
    let lookups = &gatherer.lookups;
    let hosts = match lookups.ask(lookups.resolver.mail_hosts(domain)).await {
        Seen::Value(MailHosts::Hosts(hosts)) if !hosts.is_empty() => hosts,
        Seen::Value(_) | Seen::Nothing => return Seen::Failed(format!("{domain} has no mail host")),
        other => return other.absent(),
    };
    let own = configured_sources(config, Sender::Any);
    let mut first = None;
    for host in hosts.into_iter().take(HOSTS_MAX) {
        let tried = try_host(gatherer, host, &own).await;
        if tried.value().is_some_and(|egress| egress.result.is_ok()) {
            return tried;
        }
        first.get_or_insert(tried);
    }
    first.unwrap_or(Seen::Nothing)
}

/// Greets a host at the first address that answers.
async fn try_host(gatherer: &Gatherer<'_>, host: String, own: &[IpAddr]) -> Seen<EgressFacts> {
    let relay = &gatherer.config.relay;
    let mut addresses = match gatherer.lookups.addresses(&host).await {
        Seen::Value(found) => found,
        other => return other.absent(),
    };
    addresses.retain(|ip| egress_guard::is_permitted(*ip, &relay.allowed_private_networks));
    if addresses.is_empty() {
        return Seen::Failed(format!("{host} has no address that may be connected to"));
    }
    let mut failure = String::new();
    for address in addresses.into_iter().take(ADDRESSES_MAX) {
        let target = SocketAddr::new(address, relay.port);
        let greeting = greet(target, source_towards(own, address), &gatherer.config.hostname);
        match tokio::time::timeout(FACT_TIMEOUT, greeting).await {
            Ok(Ok(replies)) => {
                let seen = address_in(&replies.1);
                return Seen::Value(EgressFacts { host, result: Ok(replies), seen });
            }
            Ok(Err(error)) => failure = error.to_string(),
            Err(_) => failure = "it did not answer in time".to_owned(),
        }
    }
    Seen::Value(EgressFacts { host, result: Err(failure), seen: None })
}

/// The configured address that mail to the target leaves from.
fn source_towards(own: &[IpAddr], target: IpAddr) -> Option<IpAddr> {
    own.iter().copied().find(|own| own.is_ipv4() == target.is_ipv4())
}

async fn connect(target: SocketAddr, source: Option<IpAddr>) -> std::io::Result<TcpStream> {
    let socket = if target.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Some(source) = source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    socket.connect(target).await
}

/// The greeting and the first line of the reply to EHLO.
async fn greet(
    target: SocketAddr,
    source: Option<IpAddr>,
    hostname: &DomainName,
) -> std::io::Result<(String, String)> {
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, connect(target, source)).await;
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

    #[tokio::test]
    async fn a_mail_host_is_greeted_from_the_configured_address() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap();
        let own: Vec<IpAddr> = ["::1", "127.0.0.5"].map(|text| text.parse().unwrap()).to_vec();
        let server = async {
            let (mut stream, peer) = listener.accept().await.unwrap();
            stream.write_all(b"220 mx.example\r\n250 mx.example\r\n").await.unwrap();
            peer.ip()
        };
        let hostname = DomainName::parse("mail.example.com").unwrap();
        let greeting = greet(target, source_towards(&own, target.ip()), &hostname);
        let both = async { tokio::join!(server, greeting) };
        let (peer, greeted) = tokio::time::timeout(FACT_TIMEOUT, both).await.unwrap();
        assert_eq!(greeted.unwrap(), ("220 mx.example".to_owned(), "250 mx.example".to_owned()));
        assert_eq!(peer, own[1]);
    }

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
