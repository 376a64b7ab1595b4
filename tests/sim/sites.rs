//! The other servers that there are: names, addresses, certificates and policies.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use crate::chance::Chance;
use crate::fake_mx::{FakeMx, Fault, Offer, Phase};
use crate::hook::Hook;
use crate::identity::Identity;
use crate::network::Network;
use crate::policy_host::PolicyHost;
use crate::world::{TENANTS, tenant_domain};

/// Destinations with mail servers.
pub const SITES: usize = 6;
/// The site to which one tenant sends through a smart host.
const ROUTED_SITE: usize = 1;
pub const ROUTED_TENANT: usize = 2;
/// The site with a certificate that no authority has signed.
const UNTRUSTED_SITE: usize = 2;
/// The site whose host has no extensions.
const PLAIN_SITE: usize = 3;
/// The site with a signed zone and TLSA records (DANE).
const SIGNED_SITE: usize = 4;
/// The site with an MTA-STS policy.
pub const STRICT_SITE: usize = 5;
/// The host of the addresses that reports come to.
pub const RETURN_HOST: &str = "bounce.relay.example";

const SMART_HOST: &str = "smart.example";
const SMART_HOST_USER: &str = "customer";
const SMART_HOST_PASSWORD: &str = "a password";

/// What matters about a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    SmartHost,
    /// It answers in the place of another one, with a certificate of its own.
    Impostor,
    Host {
        site: usize,
    },
    /// Of a tenant's domain.
    Sender,
}

pub fn role_of(host: SocketAddr) -> Role {
    match host {
        host if host == smart_host_address() => Role::SmartHost,
        host if host == impostor_address() => Role::Impostor,
        host => {
            let site = (0..SITES).find(|site| addresses_of(*site).any(|own| own == host));
            site.map_or(Role::Sender, |site| Role::Host { site })
        }
    }
}

/// A destination. The last two have no mail server.
pub fn site(number: usize) -> String {
    format!("site{number}.example")
}

/// Whether mail of a tenant to an address goes through the smart host.
pub fn is_routed(tenant: usize, recipient: &str) -> bool {
    tenant == ROUTED_TENANT && is_at(recipient, ROUTED_SITE)
}

pub fn is_strict(recipient: &str) -> bool {
    is_at(recipient, STRICT_SITE)
}

pub fn is_signed(recipient: &str) -> bool {
    is_at(recipient, SIGNED_SITE)
}

fn is_at(recipient: &str, number: usize) -> bool {
    recipient.split_once('@').is_some_and(|(_, domain)| domain == site(number))
}

/// The hosts that must prove who they are: those of the strict and of the signed site.
pub fn proved_hosts() -> impl Iterator<Item = SocketAddr> {
    [STRICT_SITE, SIGNED_SITE].into_iter().flat_map(addresses_of)
}

/// The user that a client of the smart host has.
pub fn is_smart_host_user(user: Option<&str>) -> bool {
    user == Some(SMART_HOST_USER)
}

/// The field `smtp` of the tenant with a smart host.
pub fn smart_host_settings() -> Value {
    json!({
        "host": SMART_HOST, "port": smart_host_address().port(), "tls": "starttls",
        "user": SMART_HOST_USER, "pass": SMART_HOST_PASSWORD, "destinations": [site(ROUTED_SITE)],
    })
}

/// The host of a tenant's webhook.
pub fn hook(tenant: usize) -> String {
    format!("hook{tenant}.example")
}

fn address(number: usize, host: usize) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(20, 2, number as u8, host as u8)), 25)
}

fn smart_host_address() -> SocketAddr {
    SocketAddr::new(address(50, 1).ip(), 587)
}

fn impostor_address() -> SocketAddr {
    address(60, 1)
}

fn names_of(site_number: usize) -> impl Iterator<Item = String> {
    (1..=1 + site_number % 2).map(move |host| format!("mx{host}.{}", site(site_number)))
}

fn addresses_of(site_number: usize) -> impl Iterator<Item = SocketAddr> {
    (1..=1 + site_number % 2).map(move |host| address(site_number, host))
}

/// The other servers. Writes the certificates that the server trusts into a directory.
pub fn build_network(chance: &Chance, directory: &Path) -> Network {
    let impostor = Identity::new(&["impostor.example"]);
    let offer = Offer { tls: Some(impostor.server_config()), ..Offer::default() };
    let mut network = Network::new(chance.clone(), FakeMx::offline(impostor_address(), offer));
    let strict = identity_of(STRICT_SITE);
    let smart_host = Identity::new(&[SMART_HOST]);
    let trusted = format!("{}{}", strict.certificate_pem, smart_host.certificate_pem);
    std::fs::write(ca_file(directory), trusted).unwrap();
    add_policy(&mut network, chance, &strict);
    let (untrusted, signed) = (identity_of(UNTRUSTED_SITE), identity_of(SIGNED_SITE));
    for number in 0..SITES {
        let tls = match number {
            STRICT_SITE => Some(strict.server_config()),
            UNTRUSTED_SITE => Some(untrusted.server_config()),
            SIGNED_SITE => Some(signed.server_config()),
            _ => None,
        };
        for (name, address) in names_of(number).zip(addresses_of(number)) {
            network.add_host(&name, receiver(address, Offer { tls: tls.clone(), ..offer_of(number) }));
            network.add_mx(&site(number), 10, &name);
        }
    }
    add_signatures(&mut network, &signed);
    network.add_host(SMART_HOST, receiver(smart_host_address(), smart_host_offer(&smart_host)));
    // This one exists and has no mail server; the next one does not exist.
    network.add_text(&format!("www.{}", site(SITES)), "nothing");
    network.add_mx(RETURN_HOST, 10, "relay.example");
    network.add_text(RETURN_HOST, "v=spf1 include:relay.example -all");
    for number in 0..TENANTS {
        let name = format!("mx.{}", tenant_domain(number));
        network.add_host(&name, FakeMx::offline(address(100 + number, 1), Offer::default()));
        network.add_mx(&tenant_domain(number), 10, &name);
        let mut address = address(200 + number, 1);
        address.set_port(80);
        network.add_hook(&hook(number), Hook::new(address, chance.clone()));
    }
    network
}

/// A host that refuses some recipients.
fn receiver(address: SocketAddr, offer: Offer) -> FakeMx {
    let mx = FakeMx::offline(address, offer);
    mx.script(Phase::Rcpt, "nobody@", usize::MAX, Fault::Reply("550 5.1.1 no such user"));
    mx.script(Phase::Rcpt, "full@", usize::MAX, Fault::Reply("452 4.2.2 mailbox full"));
    mx
}

fn offer_of(site_number: usize) -> Offer {
    let extensions = if site_number == PLAIN_SITE { Vec::new() } else { Offer::default().extensions };
    Offer { extensions, ..Offer::default() }
}

fn smart_host_offer(identity: &Identity) -> Offer {
    let account = Some((SMART_HOST_USER, SMART_HOST_PASSWORD));
    Offer { tls: Some(identity.server_config()), account, ..Offer::default() }
}

/// A certificate with the names of a site.
fn identity_of(number: usize) -> Identity {
    let names: Vec<String> = names_of(number).chain([format!("mta-sts.{}", site(number))]).collect();
    Identity::new(&names.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Mail for this site must be encrypted (RFC 8461).
fn add_policy(network: &mut Network, chance: &Chance, identity: &Identity) {
    let domain = site(STRICT_SITE);
    let mut address = address(STRICT_SITE, 200);
    address.set_port(443);
    let hosts: Vec<String> = names_of(STRICT_SITE).collect();
    let tls: Arc<ServerConfig> = identity.server_config();
    network
        .add_policy_host(&format!("mta-sts.{domain}"), PolicyHost::new(address, tls, &hosts, chance.clone()));
    network.add_text(&format!("_mta-sts.{domain}"), "v=STSv1; id=1;");
}

/// The DNS of this site says which certificate its hosts have (RFC 7672).
fn add_signatures(network: &mut Network, identity: &Identity) {
    network.sign(&site(SIGNED_SITE));
    let certificate = CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes()).unwrap();
    for name in names_of(SIGNED_SITE) {
        network.add_tlsa(&format!("_25._tcp.{name}"), &certificate);
    }
}

pub fn ca_file(directory: &Path) -> PathBuf {
    directory.join("trusted.pem")
}
