//! RFC 8689: a message that requires TLS is sent over verified TLS to servers that support REQUIRETLS, or bounces.

use std::path::PathBuf;

use pillarbox::config::{DestinationTls, Route};
use pillarbox::model::{DkimPolicy, TlsMinimum, TlsMode};

use crate::fake_dns::FakeDns;
use crate::fake_mx::{FakeMx, Offer};
use crate::identity::Identity;
use crate::receiver::{Reaction, Receiver};
use crate::server::{Account, TestServer, message, message_id};

/// The TLS of an MX: trusted, untrusted or none, and whether it supports REQUIRETLS.
struct Kind {
    trusted: bool,
    tls: bool,
    require_tls: bool,
}

/// Whether DNSSEC or MTA-STS proves that the hosts belong to the domain.
#[derive(Clone, Copy, PartialEq)]
enum Proof {
    Dnssec,
    MtaSts,
    Nobody,
}

async fn stage(
    kinds: &[Kind],
    proof: Proof,
) -> (FakeDns, Vec<FakeMx>, TestServer, Account, (Receiver, tempfile::TempDir)) {
    let dns = FakeDns::start_signed().await;
    let hosts: Vec<String> = (0..kinds.len()).map(|n| format!("mx{n}.b.test")).collect();
    let names: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let shown: Vec<&str> = names.iter().copied().chain(["mta-sts.b.test"]).collect();
    let (identity, stranger) = (Identity::new(&shown), Identity::new(&shown));
    let offers = kinds.iter().map(|kind| {
        let mut offer = Offer::default();
        let shown = if kind.trusted { &identity } else { &stranger };
        offer.tls = kind.tls.then(|| shown.server_config());
        if kind.require_tls {
            offer.extensions.push("REQUIRETLS");
        }
        offer
    });
    let servers = FakeMx::several(offers.collect()).await;
    let preferences: Vec<(u16, &str)> = names.iter().enumerate().map(|(n, name)| (n as u16, *name)).collect();
    dns.mx("b.test", &preferences);
    for (name, server) in names.iter().zip(&servers) {
        dns.addresses(name, &[server.address.ip()]);
    }
    let directory = tempfile::tempdir().unwrap();
    let ca: PathBuf = directory.path().join("ca.pem");
    std::fs::write(&ca, &identity.certificate_pem).unwrap();
    let anchor = directory.path().join("root.key");
    std::fs::write(&anchor, dns.trust_anchor()).unwrap();
    if proof != Proof::Dnssec {
        dns.unsign("b.test");
    }
    let policies = Receiver::with(Some(identity.server_config())).await;
    if proof == Proof::MtaSts {
        dns.text("_mta-sts.b.test", "v=STSv1; id=1");
        dns.addresses("mta-sts.b.test", &[policies.address.ip()]);
        let policy = "version: STSv1\nmode: testing\nmx: *.b.test\nmax_age: 86400\n";
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n";
        policies.script([Reaction::Write(format!("{head}{policy}").into())]);
    }
    let port = servers[0].address.port();
    let server = TestServer::start_with(&dns, port, |config| {
        config.relay.ca_file = Some(ca);
        config.relay.trust_anchor_file = Some(anchor);
        config.relay.mta_sts.port = policies.address.port();
    })
    .await;
    let account = server.create_account("acme.test").await;
    (dns, servers, server, account, (policies, directory))
}

async fn submit(server: &TestServer, account: &Account) -> String {
    let mut client = server.log_in(account).await;
    client.command("MAIL FROM:<alice@acme.test> BODY=8BITMIME REQUIRETLS").await.expect_code(250);
    client.command("RCPT TO:<bob@b.test>").await.expect_code(250);
    message_id(&client.data(&message(account, "secret")).await.expect_code(250))
}

async fn submit_plain(server: &TestServer, account: &Account) {
    let id = server.submit(account, &["bob@b.test"], &message(account, "plain")).await;
    server.wait_for_status(&id, &["delivered"]).await;
}

#[tokio::test]
async fn a_server_that_supports_requiretls_gets_the_message_over_verified_tls() {
    let kind = Kind { trusted: true, tls: true, require_tls: true };
    let (_dns, servers, server, account, _kept) = stage(&[kind], Proof::Dnssec).await;
    // An idle connection whose certificate was not verified must not be used, although other messages may use it.
    submit_plain(&server, &account).await;
    submit_plain(&server, &account).await;
    let id = submit(&server, &account).await;
    server.wait_for_status(&id, &["delivered"]).await;
    let all = servers[0].transactions();
    assert!(all[2].tls && all[2].mail_parameters.ends_with(" REQUIRETLS"), "{:?}", all[2].mail_parameters);
    assert!(all[..2].iter().all(|plain| !plain.mail_parameters.contains("REQUIRETLS")));
    assert_eq!(all.iter().map(|taken| taken.connection).collect::<Vec<_>>(), [0, 0, 1]);
}

#[tokio::test]
async fn a_connection_to_a_host_that_is_not_proved_to_belong_to_the_domain_is_not_reused_either() {
    let kind = Kind { trusted: true, tls: true, require_tls: true };
    let (_dns, servers, mut server, account, _kept) = stage(&[kind], Proof::Nobody).await;
    let domain = "b.test".parse().unwrap();
    server.config.relay.tls_minimum = vec![DestinationTls { domain, minimum: TlsMinimum::Verified }];
    server.restart(|_| ()).await;
    submit_plain(&server, &account).await;
    submit_plain(&server, &account).await;
    let id = submit(&server, &account).await;
    let email = server.wait_for_status(&id, &["delivered", "bounced"]).await;
    let reply = email["deliveries"][0]["last_reply"].as_str().unwrap();
    assert!(reply.starts_with("550 5.7.30 REQUIRETLS cannot be met: [requiretls_mx]"), "{email}");
    let used: Vec<usize> = servers[0].transactions().iter().map(|taken| taken.connection).collect();
    assert_eq!(used, [0, 0]);
}

/// RFC 8689 §4.1: `TLS-Required: No` waives the requirements of the domain, not those of the configuration.
#[tokio::test]
async fn a_message_that_waives_tls_is_sent_without_tls_unless_a_route_forbids_it() {
    for (tls, expected) in [(TlsMode::Opportunistic, "delivered"), (TlsMode::Starttls, "deferred")] {
        let kind = Kind { trusted: false, tls: false, require_tls: false };
        let (_dns, servers, mut server, account, _kept) = stage(&[kind], Proof::Dnssec).await;
        server.config.relay.routes = vec![Route {
            destinations: vec!["b.test".parse().unwrap()],
            hosts: Vec::new(),
            tls: Some(tls),
            user: None,
            password_file: None,
            dkim: DkimPolicy::All,
            source_pool: None,
            ehlo_name: None,
            return_path: false,
        }];
        server.restart(|_| ()).await;
        let waiving = [b"TLS-Required: No\r\n", &message(&account, "waived")[..]].concat();
        let id = server.submit(&account, &["bob@b.test"], &waiving).await;
        let email = server.wait_for_status(&id, &["delivered", "deferred"]).await;
        assert_eq!(email["status"], expected, "{email}");
        assert_eq!(servers[0].transactions().len(), usize::from(expected == "delivered"));
    }
}

#[tokio::test]
async fn servers_that_cannot_keep_requiretls_are_skipped() {
    let kinds = [
        Kind { trusted: false, tls: false, require_tls: true },
        Kind { trusted: false, tls: true, require_tls: true },
        Kind { trusted: true, tls: true, require_tls: false },
        Kind { trusted: true, tls: true, require_tls: true },
    ];
    let (_dns, servers, server, account, _kept) = stage(&kinds, Proof::Dnssec).await;
    let id = submit(&server, &account).await;
    server.wait_for_status(&id, &["delivered"]).await;
    let counts: Vec<usize> = servers.iter().map(|server| server.transactions().len()).collect();
    assert_eq!(counts, [0, 0, 0, 1]);
}

#[tokio::test]
async fn without_a_server_that_supports_requiretls_the_message_bounces_immediately() {
    for (kind, status) in [
        (Kind { trusted: false, tls: false, require_tls: true }, "5.7.10"),
        (Kind { trusted: false, tls: true, require_tls: true }, "5.7.10"),
        (Kind { trusted: true, tls: true, require_tls: false }, "5.7.30"),
    ] {
        let (_dns, servers, server, account, _kept) = stage(&[kind], Proof::Dnssec).await;
        let id = submit(&server, &account).await;
        let email = server.wait_for_status(&id, &["bounced"]).await;
        let reply = email["deliveries"][0]["last_reply"].as_str().unwrap();
        assert!(reply.starts_with(&format!("550 {status} REQUIRETLS")), "{email}");
        assert!(servers[0].transactions().is_empty());
    }
}

#[tokio::test]
async fn the_host_must_be_proved_by_dnssec_or_mta_sts() {
    for proof in [Proof::MtaSts, Proof::Nobody] {
        let kind = Kind { trusted: true, tls: true, require_tls: true };
        let (_dns, servers, server, account, _kept) = stage(&[kind], proof).await;
        let id = submit(&server, &account).await;
        let email = server.wait_for_status(&id, &["delivered", "bounced"]).await;
        let reply = email["deliveries"][0]["last_reply"].as_str().unwrap();
        if proof == Proof::MtaSts {
            assert_eq!(email["status"], "delivered", "{email}");
        } else {
            assert!(reply.starts_with("550 5.7.30 REQUIRETLS cannot be met: [requiretls_mx]"), "{email}");
            assert!(servers[0].connections().is_empty());
        }
    }
}
