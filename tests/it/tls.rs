//! TLS on both sides: opportunistic to MX hosts, and reloading of the server's certificate.

use std::path::Path;

use pillarbox::config::Tls;

use crate::client::Client;
use crate::fake_dns::FakeDns;
use crate::fake_mx::{FakeMx, Fault, Offer, Phase};
use crate::identity::{Identity, trust_pem};
use crate::server::{HOSTNAME, TestServer, message};

async fn destination(offer: Offer) -> (FakeDns, FakeMx, TestServer) {
    let dns = FakeDns::start().await;
    let mx = FakeMx::with(offer).await;
    dns.mx("b.test", &[(10, "mx.b.test")]);
    dns.addresses("mx.b.test", &[mx.address.ip()]);
    let server = TestServer::start(&dns, mx.address.port()).await;
    (dns, mx, server)
}

#[tokio::test]
async fn an_mx_that_offers_starttls_gets_tls_with_any_certificate() {
    let identity = Identity::new(&["somebody-else.test"]);
    let (_dns, mx, server) =
        destination(Offer { tls: Some(identity.server_config()), ..Offer::default() }).await;
    let account = server.create_account("acme.test").await;
    let id = server.submit(&account, &["bob@b.test"], &message(&account, "tls")).await;
    assert!(mx.wait_for(1).await[0].tls);
    server.wait_for_status(&id, &["delivered"]).await;
    let timeline = server.control.get(&format!("/v1/emails/{id}/timeline")).await.to_string();
    assert!(timeline.contains("TLSv1.3"), "{timeline}");
}

#[tokio::test]
async fn an_mx_that_refuses_starttls_gets_mail_without_tls() {
    expect_delivery_in_clear(Fault::Reply("454 4.7.0 no TLS today")).await;
}

#[tokio::test]
async fn an_mx_whose_handshake_fails_gets_mail_without_tls() {
    expect_delivery_in_clear(Fault::ReplyAndClose("220 go ahead")).await;
}

async fn expect_delivery_in_clear(fault: Fault) {
    let identity = Identity::new(&["mx.b.test"]);
    let (_dns, mx, server) =
        destination(Offer { tls: Some(identity.server_config()), ..Offer::default() }).await;
    let account = server.create_account("acme.test").await;
    mx.script(Phase::Starttls, "", 1, fault);
    server.submit(&account, &["bob@b.test"], &message(&account, "clear")).await;
    assert!(!mx.wait_for(1).await[0].tls);
}

#[tokio::test]
async fn an_old_mx_without_extensions_gets_mail() {
    let (_dns, mx, server) = destination(Offer { extensions: vec![], ..Offer::default() }).await;
    mx.script(Phase::Ehlo, "", 99, Fault::Reply("502 5.5.1 what is EHLO?"));
    let account = server.create_account("acme.test").await;
    server.submit(&account, &["bob@b.test"], b"From: alice@acme.test\r\n\r\nseven bits\r\n").await;
    let received = mx.wait_for(1).await.remove(0);
    assert_eq!(received.mail_parameters, "");
    assert!(mx.connections()[0].commands.iter().any(|line| line.starts_with("HELO ")));
}

#[tokio::test]
async fn a_renewed_certificate_is_served_and_an_invalid_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    let (old, new) = (Identity::new(&[HOSTNAME]), Identity::new(&[HOSTNAME, "renewed.test"]));
    install(&old, directory.path());
    let dns = FakeDns::start().await;
    let server = TestServer::start_with(&dns, 1, |config| {
        config.tls = Tls { certificate: Some(file("tls.crt")), private_key: Some(file("tls.key")) };
    })
    .await;
    let mut early = greet(&server, &old).await.expect("the first certificate is served");

    install(&new, directory.path());
    server.running().reload_certificate().unwrap();
    assert!(greet(&server, &new).await.is_some(), "the new certificate is served");
    assert!(greet(&server, &old).await.is_none(), "to everybody");
    early.command("NOOP").await.expect_code(250);

    std::fs::write(file("tls.crt"), "not a certificate").unwrap();
    let error = server.running().reload_certificate().unwrap_err().to_string();
    assert!(error.contains("tls.crt"), "{error}");
    assert!(greet(&server, &new).await.is_some(), "a bad file changes nothing");
}

fn install(identity: &Identity, directory: &Path) {
    std::fs::write(directory.join("tls.key"), &identity.private_key_pem).unwrap();
    std::fs::write(directory.join("tls.crt"), &identity.certificate_pem).unwrap();
}

/// A session over TLS, if the server has this certificate.
async fn greet(server: &TestServer, identity: &Identity) -> Option<Client> {
    let mut client = Client::connect(server.submission(), HOSTNAME).await;
    client.ehlo().await;
    let mut client = client.try_starttls(trust_pem(&identity.certificate_pem)).await?;
    client.ehlo().await;
    Some(client)
}
