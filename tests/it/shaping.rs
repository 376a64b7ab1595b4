//! Sites: destinations with the same mail hosts share connections and limits, and no site delays another.

use pillarbox::config::SiteRule;
use serde_json::json;

use crate::fake_dns::FakeDns;
use crate::fake_mx::{FakeMx, Fault, Offer, Phase};
use crate::server::{TestServer, message};
use crate::wait::until;

/// Domains whose mail hosts are all the same host.
fn host(dns: &FakeDns, host: &str, mx: &FakeMx, domains: &[&str]) {
    dns.addresses(host, &[mx.address.ip()]);
    domains.iter().for_each(|domain| dns.mx(domain, &[(10, host)]));
}

#[tokio::test]
async fn domains_with_the_same_mail_hosts_share_a_connection() {
    let (dns, mx) = (FakeDns::start().await, FakeMx::start().await);
    host(&dns, "mx.host.test", &mx, &["b.test", "c.test"]);
    let server = TestServer::start(&dns, mx.address.port()).await;
    let account = server.create_account("acme.test").await;
    for recipient in ["bob@b.test", "carol@c.test"] {
        let id = server.submit(&account, &[recipient], &message(&account, "shared")).await;
        server.wait_for_status(&id, &["delivered"]).await;
    }
    let used: Vec<usize> = mx.transactions().iter().map(|transaction| transaction.connection).collect();
    assert_eq!(used, [0, 0]);
}

#[tokio::test]
async fn domains_of_one_provider_with_different_hosts_share_no_connection() {
    let (dns, mx) = (FakeDns::start().await, FakeMx::start().await);
    host(&dns, "b.provider.test", &mx, &["b.test"]);
    host(&dns, "c.provider.test", &mx, &["c.test"]);
    let server = TestServer::start_with(&dns, mx.address.port(), |config| {
        config.relay.shaping = vec![provider("provider.test")];
    })
    .await;
    let account = server.create_account("acme.test").await;
    for (recipient, connection) in [("bob@b.test", 0), ("carol@c.test", 1), ("dave@b.test", 0)] {
        let id = server.submit(&account, &[recipient], &message(&account, "apart")).await;
        server.wait_for_status(&id, &["delivered"]).await;
        assert_eq!(mx.transactions().last().unwrap().connection, connection, "{recipient}");
    }
}

fn provider(suffix: &str) -> SiteRule {
    SiteRule {
        name: "provider".into(),
        mx: vec![suffix.into()],
        domains: Vec::new(),
        separate_sites: false,
        per_node: false,
        connections_max: None,
        messages_per_connection_max: None,
        messages_per_minute: None,
        connections_per_minute: None,
    }
}

#[tokio::test]
async fn the_back_off_of_a_site_applies_to_all_its_domains() {
    let dns = FakeDns::start().await;
    let servers = FakeMx::several(vec![Offer::default(); 2]).await;
    host(&dns, "mx.host.test", &servers[0], &["b.test", "c.test"]);
    host(&dns, "mx.other.test", &servers[1], &["d.test"]);
    let server = TestServer::start(&dns, servers[0].address.port()).await;
    let account = server.create_account("acme.test").await;
    let fault = Fault::ReplyAndClose("421 4.7.0 too many connections, come back later");
    servers[0].script(Phase::Greeting, "", 9, fault);
    let first = server.submit(&account, &["bob@b.test"], &message(&account, "one")).await;
    server.wait_for_status(&first, &["deferred"]).await;
    assert_eq!(servers[0].connections().len(), 1);

    let spared = server.submit(&account, &["carol@c.test"], &message(&account, "two")).await;
    // Later, after the back-off.
    let other = server.submit(&account, &["dave@d.test"], &message(&account, "three")).await;
    server.wait_for_status(&other, &["delivered"]).await;
    let email = server.wait_for_status(&spared, &["queued"]).await;
    assert_eq!(email["deliveries"][0]["attempts"], 0, "{email}");
    assert_eq!(servers[0].connections().len(), 1);
}

#[tokio::test]
async fn a_dead_host_in_the_mx_of_one_domain_stops_no_other_mail_to_its_provider() {
    let (dns, mx) = (FakeDns::start().await, FakeMx::start().await);
    host(&dns, "mx.provider.test", &mx, &["b.test"]);
    let dead = FakeMx::beside(&mx).await;
    host(&dns, "www.provider.test", &dead, &["evil.test"]);
    drop(dead);
    let server = TestServer::start_with(&dns, mx.address.port(), |config| {
        config.relay.shaping = vec![provider("provider.test")];
    })
    .await;
    let (evil, account) = (server.create_account("eve.test").await, server.create_account("acme.test").await);
    for subject in ["before", "after"] {
        let id = server.submit(&evil, &["x@evil.test"], &message(&evil, subject)).await;
        server.wait_for_status(&id, &["deferred"]).await;
        let id = server.submit(&account, &["bob@b.test"], &message(&account, subject)).await;
        server.wait_for_status(&id, &["delivered"]).await;
    }
}

#[tokio::test]
async fn the_back_off_of_a_site_does_not_affect_a_tenant_with_its_own_smart_host() {
    let (dns, mx) = (FakeDns::start().await, FakeMx::start().await);
    let own = FakeMx::beside(&mx).await;
    host(&dns, "mx.b.test", &mx, &["b.test"]);
    dns.addresses("own.test", &[own.address.ip()]);
    let server = TestServer::start(&dns, mx.address.port()).await;
    let fault = Fault::ReplyAndClose("421 4.7.0 too many connections, come back later");
    mx.script(Phase::Greeting, "", usize::MAX, fault);
    let (first, second) = (server.create_account("acme.test").await, server.create_account("own.test").await);
    let smtp = json!({"smtp": {"host": "own.test", "port": own.address.port(), "tls": "none"}});
    server.control.ok("PATCH", &format!("/v1/tenants/{}", second.tenant_id), smtp).await;
    let refused = server.submit(&first, &["bob@b.test"], &message(&first, "refused")).await;
    server.wait_for_status(&refused, &["deferred"]).await;
    // The first mail of this tenant: no site of it is known.
    let id = server.submit(&second, &["bob@b.test"], &message(&second, "own")).await;
    server.wait_for_status(&id, &["delivered"]).await;
    assert_eq!(own.transactions().len(), 1);
}

#[tokio::test]
async fn domains_of_one_tenant_whose_dns_does_not_answer_delay_nobody_else() {
    let (dns, mx) = (FakeDns::start().await, FakeMx::start().await);
    host(&dns, "mx.b.test", &mx, &["b.test"]);
    dns.silence("silent.test");
    let server = TestServer::start(&dns, mx.address.port()).await;
    let account = server.create_account("acme.test").await;
    let recipients: Vec<String> = (0..300).map(|n| format!("x@d{n}.silent.test")).collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    server.submit(&account, &recipients, &message(&account, "silence")).await;
    until("the silence is heard", async || (dns.queries("d0.silent.test") > 0).then_some(())).await;
    let other = server.create_account("other.test").await;
    let id = server.submit(&other, &["bob@b.test"], &message(&other, "prompt")).await;
    server.wait_for_status(&id, &["delivered"]).await;
}

#[tokio::test]
async fn the_platform_sets_the_weight_of_a_tenant() {
    let dns = FakeDns::start().await;
    let server = TestServer::start(&dns, 25).await;
    let control = &server.control;
    let made = control.ok("POST", "/v1/tenants", json!({"name": "a"})).await;
    assert_eq!(made["weight"], 10);
    let path = format!("/v1/tenants/{}", made["id"].as_str().unwrap());
    let changed = control.ok("PATCH", &path, json!({"weight": 40})).await;
    assert_eq!(changed["weight"], 40);
    assert_eq!(control.get(&path).await["weight"], 40);
    assert_eq!(control.ok("POST", "/v1/tenants", json!({"name": "b", "weight": 100})).await["weight"], 100);
}
