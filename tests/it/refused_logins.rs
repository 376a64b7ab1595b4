//! Smart hosts that refuse our login: which mail waits, which events are written, and how the wait ends.

use pillarbox::config::PlatformSmartHost;
use pillarbox::model::TlsMode;
use serde_json::{Value, json};

use crate::fake_dns::FakeDns;
use crate::fake_mx::{FakeMx, Fault, Offer, Phase};
use crate::identity::Identity;
use crate::report::expect_report;
use crate::server::{Account, LIFETIME_MAX, TestServer, message};
use crate::wait::until;

/// A host with an account, and more of them at the same port.
async fn smart_hosts(count: usize, identity: &Identity) -> Vec<FakeMx> {
    let tls = Some(identity.server_config());
    let offer = Offer { tls, account: Some(("relay-user", "right")), ..Offer::default() };
    FakeMx::several(vec![offer; count]).await
}

/// The events of this type, oldest first: the tenant and the data.
async fn events(server: &TestServer, kind: &str) -> Vec<(Option<String>, Value)> {
    let page = server.control.get(&format!("/v1/events?limit=100&type={kind}")).await;
    let events = page["data"].as_array().unwrap().iter().rev();
    events.map(|event| (event["tenant_id"].as_str().map(str::to_owned), event["data"].clone())).collect()
}

async fn wait_until_held(server: &TestServer, id: &str) -> Value {
    until(&format!("{id} has a back-off"), async || {
        let delivery = server.control.get(&format!("/v1/emails/{id}")).await["deliveries"][0].clone();
        let reply = delivery["last_reply"].as_str().unwrap_or_default();
        reply.starts_with("back-off").then_some(delivery)
    })
    .await
}

async fn set_smart_host(server: &TestServer, account: &Account, port: u16, password: &str) {
    let smtp = json!({"smtp": {
        "host": "own.test", "port": port, "user": "relay-user", "pass": password, "destinations": ["b.test"],
    }});
    server.control.ok("PATCH", &format!("/v1/tenants/{}", account.tenant_id), smtp).await;
}

fn logins(mx: &FakeMx) -> usize {
    mx.connections().iter().filter(|c| c.commands.iter().any(|line| line.starts_with("AUTH"))).count()
}

#[tokio::test]
async fn a_message_accepted_by_one_host_is_not_sent_again_because_another_refuses_the_login() {
    let dns = FakeDns::start().await;
    let identity = Identity::new(&["own.test"]);
    let hosts = smart_hosts(2, &identity).await;
    dns.addresses("own.test", &[hosts[0].address.ip(), hosts[1].address.ip()]);
    hosts[1].script(Phase::Auth, "", usize::MAX, Fault::Reply("535 5.7.8 no"));
    let ca = identity.certificate_file();
    let server =
        TestServer::start_with(&dns, 1, |config| config.relay.ca_file = Some(ca.path().into())).await;
    let account = server.create_account("acme.test").await;
    set_smart_host(&server, &account, hosts[0].address.port(), "right").await;
    let first = server.submit(&account, &["a@b.test"], &message(&account, "first")).await;
    server.wait_for_status(&first, &["delivered"]).await;
    hosts[0].script(Phase::Rcpt, "<later@", 1, Fault::Reply("451 4.7.1 greylisted"));
    let second = server.submit(&account, &["now@b.test", "later@b.test"], &message(&account, "second")).await;
    let email = server.wait_for_status(&second, &["delivered", "deferred"]).await;
    let told: Vec<_> = (0..2).map(|n| &email["deliveries"][n]["last_reply"]).collect();
    assert_eq!(told, ["250 2.0.0 taken", "451 4.7.1 greylisted"], "{email}");
    assert_eq!(hosts[0].transactions().len(), 2);
    assert!(logins(&hosts[1]) > 0, "the other one was asked");
    assert!(events(&server, "smart_host.login_failed").await.is_empty());
}

#[tokio::test]
async fn mail_that_waits_for_a_login_expires_with_one_dsn_at_the_end_of_its_lifetime() {
    let dns = FakeDns::start().await;
    let identity = Identity::new(&["own.test"]);
    let host = smart_hosts(1, &identity).await.remove(0);
    let world = FakeMx::beside(&host).await;
    dns.addresses("own.test", &[host.address.ip()]);
    dns.mx("acme.test", &[(10, "mx.acme.test")]);
    dns.addresses("mx.acme.test", &[world.address.ip()]);
    let ca = identity.certificate_file();
    let port = host.address.port();
    let server =
        TestServer::start_with(&dns, port, |config| config.relay.ca_file = Some(ca.path().into())).await;
    let account = server.create_account("acme.test").await;
    set_smart_host(&server, &account, port, "wrong").await;
    let id = server.submit(&account, &["bob@b.test"], &message(&account, "held")).await;
    let delivery = wait_until_held(&server, &id).await;
    assert_eq!(delivery["bounce_class"], "authentication", "{delivery}");
    // A pause that is longer than the lifetime: what it held gets one try.
    let own = json!({"tenant_id": account.tenant_id});
    server.control.ok("POST", "/v1/queue/pause", own.clone()).await;
    server.clock.advance(LIFETIME_MAX);
    server.control.ok("POST", "/v1/queue/resume", own).await;
    let email = server.wait_for_status(&id, &["expired"]).await;
    assert_eq!(email["deliveries"][0]["bounce_class"], "authentication", "{email}");
    let report = world.wait_for(1).await.remove(0);
    expect_report(&report.content, "bob@b.test", "failed", "4.4.7");
    assert_eq!(logins(&host), 2, "one try before the pause, and one after it");
}

#[tokio::test]
async fn a_refused_platform_login_stops_the_mail_of_all_tenants_and_does_not_disclose_its_host() {
    let dns = FakeDns::start().await;
    let identity = Identity::new(&["smart.test"]);
    let host = smart_hosts(1, &identity).await.remove(0);
    host.script(Phase::Auth, "", usize::MAX, Fault::Reply("535 5.7.8 relay-user is not welcome"));
    dns.addresses("smart.test", &[host.address.ip()]);
    let (ca, password) = (identity.certificate_file(), tempfile::NamedTempFile::new().unwrap());
    std::fs::write(password.path(), "wrong").unwrap();
    let server = TestServer::start_with(&dns, 1, |config| {
        config.relay.ca_file = Some(ca.path().into());
        config.relay.smart_host = Some(PlatformSmartHost {
            host: "smart.test".into(),
            port: Some(host.address.port()),
            tls: Some(TlsMode::Starttls),
            user: Some("relay-user".into()),
            password_file: Some(password.path().to_owned()),
            return_path: false,
        });
    })
    .await;
    for domain in ["acme.test", "other.test"] {
        let account = server.create_account(domain).await;
        let id = server.submit(&account, &["a@b.test"], &message(&account, "held")).await;
        let delivery = wait_until_held(&server, &id).await;
        assert_eq!((&delivery["status"], &delivery["attempts"]), (&json!("queued"), &json!(0)), "{delivery}");
        let queue = server.control.get("/v1/queue").await.to_string();
        assert!(queue.contains("smart_host_auth_failed"), "{queue}");
        for told in [delivery.to_string(), queue] {
            assert!(told.contains("smart.test") && !told.contains("relay-user"), "{told}");
        }
    }
    assert_eq!(logins(&host), 1, "one attempt for all tenants");
    let failed = events(&server, "smart_host.login_failed").await;
    assert!(matches!(&failed[..], [(None, data)] if data["user"] == "relay-user"), "{failed:?}");
}

#[tokio::test]
async fn mail_waits_while_a_smart_host_refuses_the_login_and_continues_with_a_new_password() {
    let dns = FakeDns::start().await;
    let identity = Identity::new(&["own.test"]);
    let host = smart_hosts(1, &identity).await.remove(0);
    let world = FakeMx::beside(&host).await;
    dns.addresses("own.test", &[host.address.ip()]);
    dns.mx("c.test", &[(10, "mx.c.test")]);
    dns.addresses("mx.c.test", &[world.address.ip()]);
    let ca = identity.certificate_file();
    let port = host.address.port();
    let server =
        TestServer::start_with(&dns, port, |config| config.relay.ca_file = Some(ca.path().into())).await;
    let account = server.create_account("acme.test").await;
    set_smart_host(&server, &account, port, "old-pass").await;
    let first = server.submit(&account, &["a@b.test"], &message(&account, "first")).await;
    let delivery = wait_until_held(&server, &first).await;
    assert_eq!((&delivery["status"], &delivery["attempts"]), (&json!("queued"), &json!(0)), "{delivery}");
    let reply = delivery["last_reply"].as_str().unwrap();
    assert!(reply.contains("own.test") && reply.contains("535 5.7.8"), "{reply}");
    let second = server.submit(&account, &["x@b.test"], &message(&account, "second")).await;
    wait_until_held(&server, &second).await;
    assert_eq!(logins(&host), 1, "one try, and the next waits for what came of it");
    let failed = events(&server, "smart_host.login_failed").await;
    assert!(matches!(&failed[..], [(Some(_), data)] if data["user"] == "relay-user"), "{failed:?}");
    assert!(!failed[0].1.to_string().contains("old-pass"));

    let elsewhere = server.submit(&account, &["a@c.test"], &message(&account, "elsewhere")).await;
    server.wait_for_status(&elsewhere, &["delivered"]).await;
    let path = format!("/v1/tenants/{}", account.tenant_id);
    server.control.ok("PATCH", &path, json!({"smtp": {"pass": "right"}})).await;
    for id in [&first, &second] {
        server.wait_for_status(id, &["delivered"]).await;
    }
    let resumed = events(&server, "smart_host.resumed").await;
    assert!(matches!(&resumed[..], [(Some(_), data)] if data["cause"] == "changed"), "{resumed:?}");
}

#[tokio::test]
async fn a_temporary_failure_of_logins_is_an_ordinary_deferral() {
    let dns = FakeDns::start().await;
    let identity = Identity::new(&["own.test"]);
    let host = smart_hosts(1, &identity).await.remove(0);
    host.script(Phase::Auth, "", usize::MAX, Fault::Reply("454 4.7.0 directory down"));
    dns.addresses("own.test", &[host.address.ip()]);
    let ca = identity.certificate_file();
    let server =
        TestServer::start_with(&dns, 1, |config| config.relay.ca_file = Some(ca.path().into())).await;
    let account = server.create_account("acme.test").await;
    set_smart_host(&server, &account, host.address.port(), "right").await;
    let id = server.submit(&account, &["a@b.test"], &message(&account, "moment")).await;
    let email = server.wait_for_status(&id, &["deferred"]).await;
    assert_eq!(email["deliveries"][0]["attempts"], 1, "{email}");
    assert!(events(&server, "smart_host.login_failed").await.is_empty());
}
