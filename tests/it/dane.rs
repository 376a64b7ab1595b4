//! DANE (RFC 7672) with a signed DNS, and mail hosts with certificates of every kind.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, SHA512, digest};
use hickory_server::proto::rr::RecordType;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, PKCS_RSA_SHA256, PublicKeyData,
    date_time_ymd,
};
use serde_json::Value;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::fake_dns::FakeDns;
use crate::fake_mx::{FakeMx, Offer};
use crate::server::{Account, TestServer, message};

/// A certificate and its key, which a TLSA record can match.
pub struct Named {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Named {
    pub fn record(&self, usage: u8, selector: u8, matching: u8) -> (u8, u8, u8, Vec<u8>) {
        let selected = if selector == 0 { &self.certificate } else { &self.key };
        let data = match matching {
            1 => digest(&SHA256, selected).as_ref().to_vec(),
            2 => digest(&SHA512, selected).as_ref().to_vec(),
            _ => selected.clone(),
        };
        (usage, selector, matching, data)
    }
}

/// A server's certificate with the authority that issued it.
pub struct Chain {
    pub leaf: Named,
    pub authority: Named,
    private_key: Vec<u8>,
    sends_authority: bool,
}

impl Chain {
    pub fn new(name: &str) -> Self {
        Self::with(name, KeyPair::generate().unwrap(), |_| ())
    }

    /// The authority's key is longer than any other.
    fn under_rsa(name: &str) -> Self {
        Self::with(name, KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap(), |_| ())
    }

    pub fn expired(name: &str) -> Self {
        Self::with(name, KeyPair::generate().unwrap(), |leaf| {
            leaf.not_before = date_time_ymd(2020, 1, 1);
            leaf.not_after = date_time_ymd(2021, 1, 1);
        })
    }

    fn with(name: &str, authority_key: KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut authority = CertificateParams::new(vec![]).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, authority_key).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut leaf = CertificateParams::new(vec![name.to_owned()]).unwrap();
        change(&mut leaf);
        let leaf = leaf.signed_by(&key, &authority).unwrap();
        Self {
            leaf: Named { certificate: leaf.der().to_vec(), key: key.subject_public_key_info() },
            authority: Named {
                certificate: authority.der().to_vec(),
                key: authority.key().subject_public_key_info(),
            },
            private_key: key.serialize_der(),
            sends_authority: true,
        }
    }

    fn without_authority(self) -> Self {
        Self { sends_authority: false, ..self }
    }

    pub fn offer(&self) -> Offer {
        let mut chain = vec![CertificateDer::from(self.leaf.certificate.clone())];
        if self.sends_authority {
            chain.push(CertificateDer::from(self.authority.certificate.clone()));
        }
        let key = PrivateKeyDer::try_from(self.private_key.clone()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        Offer { tls: Some(Arc::new(config)), ..Offer::default() }
    }
}

pub type Records = Vec<(u8, u8, u8, Vec<u8>)>;

struct Case {
    /// The domain, without `.test`.
    name: String,
    offer: Offer,
    records: Records,
    /// The expected policy of the attempt, or the reason for which the delivery waits.
    expected: Expected,
}

enum Expected {
    /// Delivered over TLS, under a policy that begins with this text.
    Delivered(&'static str),
    /// Failed with this code in the reply.
    Deferred(&'static str),
}

use Expected::{Deferred, Delivered};

pub struct Stage {
    pub dns: FakeDns,
    pub hosts: Vec<FakeMx>,
    pub server: TestServer,
    account: Account,
    _directory: tempfile::TempDir,
}

impl Stage {
    /// Host n is `mx.{name}.test` for the domain `{name}.test`; everything is signed.
    pub async fn set(hosts: Vec<(&str, Offer)>) -> Self {
        let dns = FakeDns::start_signed().await;
        let (names, offers): (Vec<_>, Vec<_>) = hosts.into_iter().unzip();
        let hosts = FakeMx::several(offers).await;
        for (name, host) in names.iter().zip(&hosts) {
            dns.mx(&format!("{name}.test"), &[(10, &format!("mx.{name}.test"))]);
            dns.addresses(&format!("mx.{name}.test"), &[host.address.ip()]);
        }
        let directory = tempfile::tempdir().unwrap();
        let anchor = directory.path().join("root.key");
        std::fs::write(&anchor, dns.trust_anchor()).unwrap();
        let port = hosts[0].address.port();
        let server =
            TestServer::start_with(&dns, port, |config| config.relay.trust_anchor_file = Some(anchor)).await;
        let account = server.create_account("acme.test").await;
        Self { dns, hosts, server, account, _directory: directory }
    }

    pub fn port(&self) -> u16 {
        self.hosts[0].address.port()
    }

    pub fn publish(&self, name: &str, records: &Records) {
        self.dns.tlsa(self.port(), &format!("mx.{name}.test"), records);
    }

    pub async fn submit(&self, name: &str) -> String {
        let message = message(&self.account, &format!("to-{name}"));
        self.server.submit(&self.account, &[&format!("bob@{name}.test")], &message).await
    }

    /// Submits a message and waits for its result. Returns the attempt.
    async fn expect(&self, name: &str, expected: &Expected) -> Value {
        let id = self.submit(name).await;
        self.expect_of(name, &id, expected).await
    }

    async fn expect_of(&self, name: &str, id: &str, expected: &Expected) -> Value {
        let email = self.server.wait_for_status(id, &["delivered", "deferred", "bounced"]).await;
        let timeline = self.server.control.get(&format!("/v1/emails/{id}/timeline")).await;
        let entries = timeline["data"].as_array().unwrap();
        let attempt = entries.iter().find(|entry| entry["object"] == "attempt").unwrap().clone();
        let policy = attempt["tls_policy"].as_str().unwrap_or_default();
        match expected {
            Delivered(ground) => {
                assert_eq!(email["status"], "delivered", "{name}: {attempt:#}");
                assert!(policy.starts_with(ground), "{name}: {attempt:#}");
            }
            Deferred(code) => {
                assert_eq!(email["status"], "deferred", "{name}: {attempt:#}");
                let reply = attempt["reply"].as_str().unwrap();
                assert!(reply.starts_with(&format!("[{code}] ")), "{name}: {attempt:#}");
                let status = if *code == "tls_not_offered" { "4.7.4" } else { "4.7.5" };
                assert_eq!(attempt["enhanced_code"], status, "{name}: {attempt:#}");
                assert!(policy.starts_with("dane: "), "{name}: {attempt:#}");
            }
        }
        attempt
    }
}

/// The names of the TLSA records, and the expected result.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name: &str, chain: &Chain, records: Records, expected| {
        cases.push(Case { name: name.to_owned(), offer: chain.offer(), records, expected });
    };
    let host = |name: &str| format!("mx.{name}.test");
    for usage in [2, 3] {
        for selector in [0, 1] {
            for matching in [0, 1, 2] {
                let name = format!("match-{usage}{selector}{matching}");
                let chain = Chain::new(&host(&name));
                let named = if usage == 2 { &chain.authority } else { &chain.leaf };
                add(
                    &name,
                    &chain,
                    vec![named.record(usage, selector, matching)],
                    Delivered("dane: validated"),
                );
                let name = format!("other-{usage}{selector}{matching}");
                let (chain, other) = (Chain::new(&host(&name)), Chain::new(&host(&name)));
                let named = if usage == 2 { &other.authority } else { &other.leaf };
                add(
                    &name,
                    &chain,
                    vec![named.record(usage, selector, matching)],
                    Deferred("tls_not_trusted"),
                );
            }
        }
    }
    for selector in [0, 1] {
        // The record contains the whole authority, so the server need not send it.
        let name = format!("unsent-2{selector}0");
        let chain = Chain::new(&host(&name)).without_authority();
        add(&name, &chain, vec![chain.authority.record(2, selector, 0)], Delivered("dane: validated"));
        let name = format!("unsent-2{selector}1");
        let chain = Chain::new(&host(&name)).without_authority();
        add(&name, &chain, vec![chain.authority.record(2, selector, 1)], Deferred("tls_not_trusted"));
    }
    let chain = Chain::under_rsa(&host("unsent-rsa")).without_authority();
    add("unsent-rsa", &chain, vec![chain.authority.record(2, 1, 0)], Delivered("dane: validated"));
    let chain = Chain::expired(&host("expired-ee"));
    add("expired-ee", &chain, vec![chain.leaf.record(3, 1, 1)], Delivered("dane: validated"));
    let chain = Chain::new("elsewhere.test");
    add("misnamed-ee", &chain, vec![chain.leaf.record(3, 1, 1)], Delivered("dane: validated"));
    let chain = Chain::expired(&host("expired-ta"));
    add("expired-ta", &chain, vec![chain.authority.record(2, 1, 1)], Deferred("tls_not_trusted"));
    let chain = Chain::new("elsewhere.test");
    add("misnamed-ta", &chain, vec![chain.authority.record(2, 1, 1)], Deferred("tls_not_trusted"));
    let chain = Chain::new("domain-ta.test");
    add("domain-ta", &chain, vec![chain.authority.record(2, 1, 1)], Delivered("dane: validated"));
    // The certificate usage is checked: the right data with the wrong usage does not match.
    let chain = Chain::new(&host("leaf-as-ta"));
    add("leaf-as-ta", &chain, vec![chain.leaf.record(2, 1, 1)], Deferred("tls_not_trusted"));
    let chain = Chain::new(&host("ta-as-leaf"));
    add("ta-as-leaf", &chain, vec![chain.authority.record(3, 1, 1)], Deferred("tls_not_trusted"));
    let (chain, next) = (Chain::new(&host("rollover")), Chain::new(&host("rollover")));
    let both = vec![next.leaf.record(3, 1, 1), chain.leaf.record(3, 1, 1)];
    add("rollover", &chain, both, Delivered("dane: validated"));
    let (chain, other) = (Chain::new(&host("weaker")), Chain::new(&host("weaker")));
    let both = vec![chain.leaf.record(3, 1, 1), other.leaf.record(3, 1, 2)];
    add("weaker", &chain, both, Deferred("tls_not_trusted"));
    let chain = Chain::new(&host("useless"));
    let useless = || vec![(1, 1, 1, vec![0; 32]), (3, 1, 9, vec![0; 32]), (3, 1, 1, vec![0; 5])];
    add("useless", &chain, useless(), Delivered("dane: no TLSA record"));
    let chain = Chain::new(&host("none"));
    add("none", &chain, vec![], Delivered("opportunistic: no TLSA records"));
    // STARTTLS is not offered, or was removed by an attacker.
    for (name, records) in [("stripped", vec![chain.leaf.record(3, 1, 1)]), ("useless-clear", useless())] {
        let expected = Deferred("tls_not_offered");
        cases.push(Case { name: name.into(), offer: Offer::default(), records, expected });
    }
    cases
}

#[tokio::test]
async fn mail_is_delivered_to_hosts_whose_certificates_match_their_records_and_to_no_others() {
    let cases = cases();
    let stage = Stage::set(cases.iter().map(|case| (case.name.as_str(), case.offer.clone())).collect()).await;
    let mut ids = Vec::new();
    for case in &cases {
        stage.publish(&case.name, &case.records);
        ids.push(stage.submit(&case.name).await);
    }
    for ((case, id), host) in cases.iter().zip(&ids).zip(&stage.hosts) {
        let attempt = stage.expect_of(&case.name, id, &case.expected).await;
        let is_delivered = matches!(case.expected, Delivered(_));
        stage.server.explains(&format!("{}.test", case.name), &attempt, is_delivered).await;
        let taken = host.transactions();
        match case.expected {
            Delivered(_) => {
                assert!(
                    attempt["tls"].as_str().is_some_and(|tls| tls.starts_with("TLSv1.3 ")),
                    "{attempt:#}"
                );
                assert!(taken.len() == 1 && taken[0].tls, "{}: {taken:?}", case.name);
            }
            Deferred(_) => {
                assert_eq!(taken, [], "{}", case.name);
                let connections = host.connections();
                let mut commands = connections.iter().flat_map(|connection| &connection.commands);
                assert!(!commands.any(|command| command.starts_with("MAIL")), "{}", case.name);
            }
        }
    }
}

#[tokio::test]
async fn mail_waits_if_validation_fails_and_tls_is_opportunistic_for_unsigned_domains() {
    let chain = Chain::new("mx.x.test");
    let names = ["tlsa", "tlsa-down", "a", "mx", "plain", "plain-host"];
    let stage = Stage::set(names.iter().map(|&name| (name, chain.offer())).collect()).await;
    let wrong = vec![Chain::new("mx.x.test").leaf.record(3, 1, 1)];
    names.iter().for_each(|name| stage.publish(name, &wrong));
    stage.dns.strip_signatures(&format!("_{}._tcp.mx.tlsa.test", stage.port()));
    stage.dns.fail(&format!("_{}._tcp.mx.tlsa-down.test", stage.port()));
    stage.dns.strip_signatures("mx.a.test");
    stage.dns.strip_signatures("mx.test");
    stage.dns.unsign("plain.test");
    stage.dns.unsign("mx.plain-host.test");
    for (name, expected) in [
        ("tlsa", Deferred("dane_lookup")),
        ("tlsa-down", Deferred("dane_lookup")),
        ("a", Deferred("dane_lookup")),
        ("mx", Deferred("dnssec_mx_lookup")),
        ("plain", Delivered("opportunistic: the MX records are not signed")),
        ("plain-host", Delivered("opportunistic: the host is not signed")),
    ] {
        stage.expect(name, &expected).await;
    }
    let counts: Vec<usize> = stage.hosts.iter().map(|host| host.connections().len()).collect();
    assert_eq!(counts, [0, 0, 0, 0, 1, 1]);
}

/// The TLSA records of a domain match another key than its host has. An attacker between us and the name server has a
/// zone and that key, and adds its own signed records to the answers. They are ignored, as proof and as proof of
/// absence.
#[tokio::test]
async fn records_of_other_names_in_an_answer_are_ignored() {
    let chain = Chain::new("mx.thief.test");
    let victims: Vec<(&str, RecordType, String)> = ["signed-thief", "unsigned-thief"]
        .into_iter()
        .flat_map(|thief| {
            let kinds = [(RecordType::MX, "mx"), (RecordType::A, "a"), (RecordType::TLSA, "tlsa")];
            kinds.map(|(kind, name)| (thief, kind, format!("{name}-{thief}")))
        })
        .collect();
    let names = victims.iter().map(|(_, _, name)| name.as_str()).chain(["signed-thief", "unsigned-thief"]);
    let stage = Stage::set(names.map(|name| (name, chain.offer())).collect()).await;
    stage.dns.unsign("unsigned-thief.test");
    for thief in ["signed-thief", "unsigned-thief"] {
        stage.dns.mx(&format!("{thief}.test"), &[(1, &format!("mx.{thief}.test"))]);
        stage.publish(thief, &vec![chain.leaf.record(3, 1, 1)]);
    }
    let other = Chain::new("mx.other.test");
    for (thief, kind, name) in &victims {
        stage.publish(name, &vec![other.leaf.record(3, 1, 1)]);
        let place = |name: &str| match kind {
            RecordType::MX => format!("{name}.test"),
            RecordType::A => format!("mx.{name}.test"),
            _ => format!("_{}._tcp.mx.{name}.test", stage.port()),
        };
        stage.dns.slip_in(&place(name), *kind, &place(thief));
        stage.expect(name, &Deferred("tls_not_trusted")).await;
    }
    assert!(stage.hosts.iter().all(|host| host.transactions().is_empty()));
}

#[tokio::test]
async fn only_a_zone_at_or_above_a_name_can_prove_its_absence() {
    let (chain, other) = (Chain::new("mx.x.test"), Chain::new("mx.other.test"));
    let names = ["tlsa", "a", "mx"];
    let stage = Stage::set(names.iter().map(|&name| (name, chain.offer())).collect()).await;
    stage.dns.unsign("thief.test");
    names.iter().for_each(|name| stage.publish(name, &vec![other.leaf.record(3, 1, 1)]));
    stage.dns.deny_by(&format!("_{}._tcp.mx.tlsa.test", stage.port()), RecordType::TLSA, "thief.test");
    stage.dns.deny_by("mx.a.test", RecordType::A, "thief.test");
    // Without an MX, the domain is its own host, which has no records.
    stage.dns.addresses("mx.test", &[stage.hosts[2].address.ip()]);
    stage.dns.deny_by("mx.test", RecordType::MX, "thief.test");
    for (name, code) in [("tlsa", "dane_lookup"), ("a", "dane_lookup"), ("mx", "dnssec_mx_lookup")] {
        stage.expect(name, &Deferred(code)).await;
    }
    assert!(stage.hosts.iter().all(|host| host.connections().is_empty()));
}

#[tokio::test]
async fn tlsa_records_are_found_at_the_target_of_an_alias_or_at_the_alias() {
    let chain = Chain::new("mx.end.test");
    // With a certificate of an authority, the name of the alias target is accepted as well, and the records are there.
    let named = Chain::new("real.named.test");
    let names = ["end", "start", "named"];
    let offers = [chain.offer(), chain.offer(), named.offer()];
    let stage = Stage::set(names.into_iter().zip(offers).collect()).await;
    let right = vec![chain.leaf.record(3, 1, 1)];
    for (name, server) in names.iter().zip(&stage.hosts) {
        let (host, real) = (format!("mx.{name}.test"), format!("real.{name}.test"));
        stage.dns.addresses(&real, &[server.address.ip()]);
        stage.dns.addresses(&host, &[]);
        stage.dns.alias(&host, &real);
    }
    stage.dns.tlsa(stage.port(), "real.end.test", &right);
    stage.dns.tlsa(stage.port(), "mx.start.test", &right);
    stage.dns.tlsa(stage.port(), "real.named.test", &[named.authority.record(2, 1, 1)]);
    stage.expect("end", &Delivered("dane: validated TLSA records of real.end.test (3 1 1)")).await;
    stage.expect("start", &Delivered("dane: validated TLSA records of mx.start.test (3 1 1)")).await;
    stage.expect("named", &Delivered("dane: validated TLSA records of real.named.test (2 1 1)")).await;
    // RFC 7672 §8.1.
    let asked_for = |server: &FakeMx| server.connections()[0].server_name.clone().unwrap();
    let names: Vec<String> = stage.hosts.iter().map(asked_for).collect();
    assert_eq!(names, ["real.end.test", "mx.start.test", "real.named.test"]);
}

/// The certificate names the recipients' domain. This name is accepted for that domain only.
#[tokio::test]
async fn an_idle_connection_is_not_reused_for_a_domain_that_its_certificate_does_not_match() {
    let chain = Chain::new("one.test");
    let stage = Stage::set(vec![("one", chain.offer())]).await;
    stage.dns.mx("two.test", &[(10, "mx.one.test")]);
    stage.publish("one", &vec![chain.authority.record(2, 1, 1)]);
    stage.expect("one", &Delivered("dane: validated")).await;
    stage.expect("one", &Delivered("dane: validated")).await;
    assert_eq!(stage.hosts[0].connections().len(), 1);
    stage.expect("two", &Deferred("tls_not_trusted")).await;
    assert_eq!(stage.hosts[0].transactions().len(), 2);
}

#[tokio::test]
async fn the_next_host_is_tried_if_a_host_fails_dane() {
    let (chain, other) = (Chain::new("mx.two.test"), Chain::new("mx.other.test"));
    let stage = Stage::set(vec![("two", chain.offer()), ("other", other.offer())]).await;
    stage.dns.mx("two.test", &[(10, "mx.two.test"), (20, "mx.other.test")]);
    stage.publish("two", &vec![other.leaf.record(3, 1, 1)]);
    stage.publish("other", &vec![other.leaf.record(3, 1, 1)]);
    let attempt = stage.expect("two", &Delivered("dane: validated TLSA records of mx.other.test")).await;
    assert_eq!(attempt["host"], "mx.other.test");
    assert!(attempt["transcript"].as_str().unwrap().contains("no TLSA record matches"), "{attempt:#}");
}

#[tokio::test]
async fn an_idle_connection_is_not_reused_after_the_domain_requires_more() {
    let chain = Chain::new("mx.late.test");
    let stage = Stage::set(vec![("late", chain.offer())]).await;
    stage.publish("late", &vec![(1, 1, 1, vec![0; 32])]);
    stage.expect("late", &Delivered("dane: no TLSA record")).await;
    stage.publish("late", &vec![chain.leaf.record(3, 1, 1)]);
    stage.expect("late", &Delivered("dane: validated")).await;
    stage.expect("late", &Delivered("dane: validated")).await;
    let connections: Vec<usize> =
        stage.hosts[0].transactions().iter().map(|taken| taken.connection).collect();
    assert_eq!(connections, [0, 1, 1]);
}

#[tokio::test]
async fn with_name_servers_without_dnssec_mail_is_delivered_without_dane() {
    let chain = Chain::new("mx.b.test");
    let dns = FakeDns::start().await;
    let host = FakeMx::with(chain.offer()).await;
    dns.mx("b.test", &[(10, "mx.b.test")]);
    dns.addresses("mx.b.test", &[host.address.ip()]);
    dns.tlsa(host.address.port(), "mx.b.test", &[(3, 1, 1, vec![0; 32])]);
    let server = TestServer::start(&dns, host.address.port()).await;
    let account = server.create_account("acme.test").await;
    let id = server.submit(&account, &["bob@b.test"], &message(&account, "plain")).await;
    server.wait_for_status(&id, &["delivered"]).await;
    let timeline = server.control.get(&format!("/v1/emails/{id}/timeline")).await.to_string();
    assert!(timeline.contains("opportunistic: DNSSEC is not used"), "{timeline}");
}
