//! Smart hosts of the platform and of tenants, with accounts and TLS; tenants never share a connection.

use std::path::PathBuf;

use pillarbox::config::PlatformSmartHost;
use pillarbox::model::TlsMode;
use serde_json::json;

use crate::fake_dns::FakeDns;
use crate::fake_mx::{FakeMx, Offer};
use crate::identity::Identity;
use crate::server::{TestServer, message};

fn platform_host(mx: &FakeMx, tls: TlsMode) -> PlatformSmartHost {
    let (host, port) = ("smart.test".to_owned(), mx.address.port());
    PlatformSmartHost {
        host,
        port: Some(port),
        tls: Some(tls),
        user: None,
        password_file: None,
        return_path: false,
    }
}

fn offer(identity: &Identity, account: (&'static str, &'static str)) -> Offer {
    Offer { tls: Some(identity.server_config()), account: Some(account), ..Offer::default() }
}

/// A file in a directory that exists until the end of the test process.
fn write(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    std::fs::write(&path, text).unwrap();
    (directory, path)
}

#[tokio::test]
async fn all_mail_goes_to_the_platforms_smart_host_with_its_account_over_tls() {
    let dns = FakeDns::start().await;
    let identity = Identity::new(&["smart.test"]);
    let mx = FakeMx::with(offer(&identity, ("relay-user", "relay-pass"))).await;
    dns.addresses("smart.test", &[mx.address.ip()]);
    let (_a, password) = write("password", "relay-pass\n");
    let (_b, ca) = write("ca.pem", &identity.certificate_pem);
    let server = TestServer::start_with(&dns, 1, |config| {
        let host = platform_host(&mx, TlsMode::Starttls);
        let user = Some("relay-user".to_owned());
        config.relay.smart_host = Some(PlatformSmartHost { user, password_file: Some(password), ..host });
        config.relay.ca_file = Some(ca);
    })
    .await;
    let account = server.create_account("acme.test").await;
    let id = server.submit(&account, &["a@b.test", "a@c.test"], &message(&account, "smart")).await;
    server.wait_for_status(&id, &["delivered"]).await;
    for transaction in mx.transactions() {
        assert_eq!((transaction.tls, transaction.user.as_deref()), (true, Some("relay-user")));
    }
    assert_eq!(dns.queries("b.test"), 0, "a smart host needs no MX");
    let timeline = server.control.get(&format!("/v1/emails/{id}/timeline")).await.to_string();
    assert!(!timeline.contains("relay-pass") && !timeline.contains("cmVsYXktcGFzcw"), "{timeline}");
}

#[tokio::test]
async fn a_smart_host_with_an_untrusted_certificate_gets_no_password() {
    let dns = FakeDns::start().await;
    let identity = Identity::new(&["smart.test"]);
    let mx = FakeMx::with(offer(&identity, ("relay-user", "relay-pass"))).await;
    dns.addresses("smart.test", &[mx.address.ip()]);
    let (_a, password) = write("password", "relay-pass");
    let server = TestServer::start_with(&dns, 1, |config| {
        let host = platform_host(&mx, TlsMode::Starttls);
        let user = Some("relay-user".to_owned());
        config.relay.smart_host = Some(PlatformSmartHost { user, password_file: Some(password), ..host });
    })
    .await;
    let account = server.create_account("acme.test").await;
    let id = server.submit(&account, &["a@b.test"], &message(&account, "untrusted")).await;
    server.wait_for_status(&id, &["deferred"]).await;
    assert!(mx.transactions().is_empty());
    let commands = mx.commands();
    assert!(!commands.iter().any(|line| line.starts_with("AUTH")), "{commands:?}");
}

#[tokio::test]
async fn a_tenants_smart_host_precedes_the_platforms_and_implicit_tls_works() {
    let dns = FakeDns::start().await;
    let identity = Identity::new(&["own.test"]);
    let own =
        FakeMx::with(Offer { implicit_tls: true, ..offer(&identity, ("tenant-user", "tenant-pass")) }).await;
    let platform = FakeMx::start().await;
    dns.addresses("own.test", &[own.address.ip()]);
    dns.addresses("smart.test", &[platform.address.ip()]);
    let (_a, ca) = write("ca.pem", &identity.certificate_pem);
    let server = TestServer::start_with(&dns, 1, |config| {
        config.relay.smart_host = Some(platform_host(&platform, TlsMode::None));
        config.relay.ca_file = Some(ca);
    })
    .await;
    let account = server.create_account("acme.test").await;
    let other = server.create_account("other.test").await;
    let smtp = json!({"smtp": {
        "host": "own.test", "port": own.address.port(), "user": "tenant-user", "pass": "tenant-pass", "tls": "implicit",
    }});
    let changed = server.control.ok("PATCH", &format!("/v1/tenants/{}", account.tenant_id), smtp).await;
    assert!(!changed.to_string().contains("tenant-pass"), "write-only: {changed}");

    server.submit(&account, &["a@b.test"], &message(&account, "own")).await;
    server.submit(&other, &["a@b.test"], &message(&other, "platform")).await;
    let received = own.wait_for(1).await.remove(0);
    assert_eq!((received.tls, received.user.as_deref()), (true, Some("tenant-user")));
    assert_eq!(platform.wait_for(1).await[0].reverse_path, "alice@other.test");
}

#[tokio::test]
async fn two_tenants_with_the_same_smart_host_never_share_a_connection() {
    let dns = FakeDns::start().await;
    let identity = Identity::new(&["shared.test"]);
    let mx = FakeMx::with(offer(&identity, ("user", "pass"))).await;
    dns.addresses("shared.test", &[mx.address.ip()]);
    let (_a, ca) = write("ca.pem", &identity.certificate_pem);
    let server = TestServer::start_with(&dns, 1, |config| config.relay.ca_file = Some(ca)).await;
    let smtp = json!({"smtp": {
        "host": "shared.test", "port": mx.address.port(), "user": "user", "pass": "pass", "tls": "starttls",
    }});
    let accounts = [server.create_account("one.test").await, server.create_account("two.test").await];
    for account in &accounts {
        server.control.ok("PATCH", &format!("/v1/tenants/{}", account.tenant_id), smtp.clone()).await;
    }
    for round in 0..3 {
        for account in &accounts {
            let subject = format!("apart{round}");
            let id = server.submit(account, &["a@b.test"], &message(account, &subject)).await;
            server.wait_for_status(&id, &["delivered"]).await;
        }
    }
    let all = mx.transactions();
    assert_eq!(all.len(), 6);
    for one in all.iter().filter(|t| t.reverse_path == "alice@one.test") {
        let shared = all.iter().any(|t| t.connection == one.connection && t.reverse_path != one.reverse_path);
        assert!(!shared, "connection {} carries mail of two tenants", one.connection);
    }
}

#[tokio::test]
async fn each_message_is_sent_with_the_login_of_its_own_tenant_whichever_connection_is_reused() {
    let dns = FakeDns::start().await;
    let identity = Identity::new(&["shared.test"]);
    let offer = Offer {
        second_account: Some(("user-two", "pass-two")),
        ..offer(&identity, ("user-one", "pass-one"))
    };
    let mx = FakeMx::with(offer).await;
    dns.addresses("shared.test", &[mx.address.ip()]);
    let (_a, ca) = write("ca.pem", &identity.certificate_pem);
    let server = TestServer::start_with(&dns, 1, |config| config.relay.ca_file = Some(ca)).await;
    let mut accounts = Vec::new();
    for (domain, user, pass) in [("one.test", "user-one", "pass-one"), ("two.test", "user-two", "pass-two")] {
        let account = server.create_account(domain).await;
        let port = mx.address.port();
        let smtp = json!({"smtp": {"host": "shared.test", "port": port, "user": user, "pass": pass}});
        server.control.ok("PATCH", &format!("/v1/tenants/{}", account.tenant_id), smtp).await;
        accounts.push(account);
    }
    // First one after the other, so that connections are reused, then many at once.
    for round in 0..3 {
        for account in &accounts {
            let subject = format!("apart{round}");
            let id = server.submit(account, &["a@b.test"], &message(account, &subject)).await;
            server.wait_for_status(&id, &["delivered"]).await;
        }
    }
    let mut ids = Vec::new();
    for round in 0..10 {
        for account in &accounts {
            ids.push(server.submit(account, &["a@c.test"], &message(account, &format!("many{round}"))).await);
        }
    }
    for id in &ids {
        server.wait_for_status(id, &["delivered"]).await;
    }
    let all = mx.transactions();
    assert_eq!(all.len(), 26);
    for transaction in &all {
        let expected = if transaction.reverse_path.ends_with("@one.test") { "user-one" } else { "user-two" };
        assert_eq!(transaction.user.as_deref(), Some(expected), "{transaction:?}");
    }
    assert!(mx.connections().len() < all.len(), "connections are reused");
}

/// Two Pillarbox servers: one is the smart host of a tenant of the other.
#[tokio::test]
async fn the_strongest_mechanism_of_our_own_server_is_used_and_succeeds() {
    let dns = FakeDns::start().await;
    let mx = FakeMx::start().await;
    dns.mx("b.test", &[(10, "mx.b.test")]);
    dns.addresses("mx.b.test", &[mx.address.ip()]);
    dns.addresses("relay.test", &["127.0.0.1".parse().unwrap()]);
    let outer = TestServer::start_with(&dns, mx.address.port(), |config| config.smtp.scram_plus = true).await;
    let there = outer.create_account("acme.test").await;
    let (_a, ca) = write("ca.pem", &outer.certificate_pem());
    let inner = TestServer::start_with(&dns, 1, |config| config.relay.ca_file = Some(ca)).await;
    let here = inner.create_account("acme.test").await;
    for (tls, port) in [("starttls", outer.submission().port()), ("implicit", outer.submissions().port())] {
        let smtp = json!({"smtp": {
            "host": "relay.test", "port": port, "tls": tls, "user": there.user, "pass": there.secret,
        }});
        inner.control.ok("PATCH", &format!("/v1/tenants/{}", here.tenant_id), smtp).await;
        let id = inner.submit(&here, &["a@b.test"], &message(&here, tls)).await;
        inner.wait_for_status(&id, &["delivered"]).await;
        let timeline = inner.control.get(&format!("/v1/emails/{id}/timeline")).await.to_string();
        assert!(timeline.contains("> AUTH SCRAM-SHA-256-PLUS ****"), "{timeline}");
        assert!(!timeline.contains(&there.secret), "{timeline}");
        // With challenge and signature together, a reader of the timeline could try passwords.
        assert_eq!(timeline.matches("< 334 ****").count(), 2, "{timeline}");
        assert_eq!(timeline.matches("< 334 ").count(), 2, "{timeline}");
    }
    mx.wait_for(2).await;
}
