//! Routes and sources: the hosts that mail is sent to, and the address and name that it is sent from.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use pillarbox::config::{Config, NamedHost, Pool, Route, Source};
use pillarbox::model::{DkimPolicy, TlsMode};
use serde_json::json;

use crate::fake_dns::FakeDns;
use crate::fake_mx::{FakeMx, Fault, Phase};
use crate::http::request;
use crate::server::{TestServer, destinations, message, one_destination_with, text};

fn route(destinations: &[&str], hosts: &[(&str, u16)]) -> Route {
    let hosts = hosts.iter().map(|&(host, port)| NamedHost { host: host.to_owned(), port: Some(port) });
    Route {
        destinations: destinations.iter().map(|text| text.parse().unwrap()).collect(),
        hosts: hosts.collect(),
        tls: Some(TlsMode::Opportunistic),
        user: None,
        password_file: None,
        dkim: DkimPolicy::All,
        source_pool: None,
        ehlo_name: None,
        return_path: false,
    }
}

fn source(name: &str, ip: &str, ehlo_name: &str) -> Source {
    let (ipv4, ehlo_name) = (Some(ip.parse().unwrap()), Some(ehlo_name.parse().unwrap()));
    Source { name: name.into(), ipv4, ipv6: None, ehlo_name, weight: 1 }
}

fn pool(name: &str, sources: &[&str]) -> Pool {
    Pool { name: name.into(), sources: sources.iter().map(|&name| name.to_owned()).collect() }
}

#[tokio::test]
async fn the_tenants_smart_host_precedes_the_most_specific_route_and_the_platforms_smart_host() {
    let dns = FakeDns::start().await;
    let [own, exact, below, rest] =
        [FakeMx::start().await, FakeMx::start().await, FakeMx::start().await, FakeMx::start().await];
    for (host, mx) in
        [("own.host", &own), ("exact.host", &exact), ("below.host", &below), ("rest.host", &rest)]
    {
        dns.addresses(host, &[mx.address.ip()]);
    }
    let server = TestServer::start_with(&dns, 1, |config| {
        config.relay.routes = vec![
            route(&[".b.test"], &[("below.host", below.address.port())]),
            route(&["b.test", "deep.a.b.test"], &[("exact.host", exact.address.port())]),
            route(&["*"], &[("rest.host", rest.address.port())]),
        ];
    })
    .await;
    let account = server.create_account("acme.test").await;
    let smtp = json!({"smtp": {
        "host": "own.host", "port": own.address.port(), "tls": "none", "destinations": ["own.test", ".own.test"],
    }});
    let path = format!("/v1/tenants/{}", account.tenant_id);
    let changed = server.control.ok("PATCH", &path, smtp).await;
    assert_eq!(changed["smtp"]["destinations"], json!(["own.test", ".own.test"]));
    let recipients =
        ["a@own.test", "a@x.own.test", "a@b.test", "a@deep.a.b.test", "a@a.b.test", "a@else.test"];
    let id = server.submit(&account, &recipients, &message(&account, "ways")).await;
    server.wait_for_status(&id, &["delivered"]).await;
    let got = |mx: &FakeMx| {
        let mut all: Vec<_> = mx.transactions().into_iter().flat_map(|t| t.recipients).collect();
        all.sort();
        all
    };
    assert_eq!(got(&own), ["a@own.test", "a@x.own.test"]);
    assert_eq!(got(&exact), ["a@b.test", "a@deep.a.b.test"]);
    assert_eq!(got(&below), ["a@a.b.test"]);
    assert_eq!(got(&rest), ["a@else.test"]);
}

#[tokio::test]
async fn the_hosts_of_a_route_are_tried_in_order_each_at_its_port() {
    let dns = FakeDns::start().await;
    let (closed, busy, ready) = (FakeMx::start().await, FakeMx::start().await, FakeMx::start().await);
    busy.script(Phase::Greeting, "", usize::MAX, Fault::ReplyAndClose("421 4.3.2 busy"));
    let dead = closed.address;
    drop(closed);
    for (host, ip) in
        [("dead.host", dead.ip()), ("busy.host", busy.address.ip()), ("ready.host", ready.address.ip())]
    {
        dns.addresses(host, &[ip]);
    }
    let hosts = [
        ("dead.host", dead.port()),
        ("busy.host", busy.address.port()),
        ("ready.host", ready.address.port()),
    ];
    let server =
        TestServer::start_with(&dns, 1, |config| config.relay.routes = vec![route(&["b.test"], &hosts)])
            .await;
    let account = server.create_account("acme.test").await;
    let id = server.submit(&account, &["a@b.test"], &message(&account, "failover")).await;
    server.wait_for_status(&id, &["delivered"]).await;
    assert_eq!((busy.connections().len(), ready.transactions().len()), (1, 1));
    assert_eq!(dns.queries("b.test"), 0);
}

#[tokio::test]
async fn a_tenant_leaves_from_its_pool_under_the_names_of_its_sources_and_others_from_theirs() {
    let (_dns, mx, server) = destinations(&["b.test", "routed.test"], |Config { relay, .. }| {
        relay.source_address = Some("127.44.0.1".parse().unwrap());
        relay.sources = vec![
            source("one", "127.44.0.2", "one.test"),
            source("two", "127.44.0.3", "two.test"),
            source("three", "127.44.0.4", "three.test"),
        ];
        relay.pools = vec![pool("bulk", &["one", "two"]), pool("routed", &["three"])];
        relay.messages_per_connection_max = 1;
        let routed = Route { source_pool: Some("routed".into()), ..route(&["routed.test"], &[]) };
        relay.routes = vec![Route { ehlo_name: Some("given.test".parse().unwrap()), ..routed }];
    })
    .await;
    let (own, other) = (server.create_account("own.test").await, server.create_account("other.test").await);
    let path = format!("/v1/tenants/{}", own.tenant_id);
    let control = &server.control;
    let wanted = json!({"source_pool": "nope"});
    let unknown = request(control.address, "PATCH", &path, Some(&control.secret), Some(&wanted)).await;
    assert_eq!((unknown.status, &unknown.json()["error"]["errors"][0]["path"]), (422, &json!("source_pool")));
    server.control.ok("PATCH", &path, json!({"source_pool": "bulk"})).await;
    // Each message uses its own connection: twenty of them miss one of two sources once in half a million runs.
    for round in 0..20 {
        let id = server.submit(&own, &["a@b.test"], &message(&own, &format!("own{round}"))).await;
        server.wait_for_status(&id, &["delivered"]).await;
    }
    for (account, recipient) in [(&other, "a@b.test"), (&own, "a@routed.test")] {
        let id = server.submit(account, &[recipient], &message(account, "other")).await;
        server.wait_for_status(&id, &["delivered"]).await;
    }
    let seen = |chosen: &dyn Fn(&str, &str) -> bool| -> HashSet<(String, String)> {
        let all = mx.transactions().into_iter();
        let chosen = all.filter(|t| chosen(&t.reverse_path, &t.recipients[0]));
        chosen.map(|t| (t.source.to_string(), t.ehlo)).collect()
    };
    let pair = |ip: &str, name: &str| (ip.to_owned(), name.to_owned());
    assert_eq!(
        seen(&|from, to| from.ends_with("@own.test") && to.ends_with("@b.test")),
        HashSet::from([pair("127.44.0.2", "one.test"), pair("127.44.0.3", "two.test")])
    );
    assert_eq!(
        seen(&|from, _| from.ends_with("@other.test")),
        HashSet::from([pair("127.44.0.1", "relay.test")])
    );
    assert_eq!(
        seen(&|_, to| to.ends_with("@routed.test")),
        HashSet::from([pair("127.44.0.4", "given.test")])
    );
}

#[tokio::test]
async fn tenants_with_different_pools_never_share_a_connection() {
    let (_dns, mx, server) = one_destination_with(|Config { relay, .. }| {
        relay.sources =
            vec![source("one", "127.44.1.1", "one.test"), source("two", "127.44.1.2", "two.test")];
        relay.pools = vec![pool("first", &["one"]), pool("second", &["two"])];
        relay.source_pool = Some("first".into());
    })
    .await;
    let (own, other) = (server.create_account("own.test").await, server.create_account("other.test").await);
    let path = format!("/v1/tenants/{}", own.tenant_id);
    server.control.ok("PATCH", &path, json!({"source_pool": "second"})).await;
    for round in 0..3 {
        for account in [&own, &other] {
            let id = server.submit(account, &["a@b.test"], &message(account, &format!("r{round}"))).await;
            server.wait_for_status(&id, &["delivered"]).await;
        }
    }
    for transaction in mx.transactions() {
        let expected =
            if transaction.reverse_path.ends_with("@own.test") { "127.44.1.2" } else { "127.44.1.1" };
        assert_eq!(transaction.source.to_string(), expected);
    }
    assert_eq!(mx.connections().len(), 2, "and each uses its own again");
}

#[tokio::test]
async fn mail_of_a_tenant_whose_pool_is_gone_waits_and_says_so() {
    let (_dns, mx, mut server) = one_destination_with(|Config { relay, .. }| {
        relay.sources = vec![source("one", "127.44.2.1", "one.test")];
        relay.pools = vec![pool("first", &["one"])];
    })
    .await;
    let account = server.create_account("acme.test").await;
    let path = format!("/v1/tenants/{}", account.tenant_id);
    server.control.ok("PATCH", &path, json!({"source_pool": "first"})).await;
    server.config.relay.pools.clear();
    server.restart(|_| ()).await;
    let id = server.submit(&account, &["a@b.test"], &message(&account, "stranded")).await;
    let email = server.wait_for_status(&id, &["deferred"]).await;
    assert!(text(&email["deliveries"][0]["last_reply"]).contains("source_pool"), "{email}");
    assert!(mx.connections().is_empty(), "nothing leaves from an address that nobody chose");
    // Choosing another pool makes the mail due again.
    server.control.ok("PATCH", &path, json!({"source_pool": null})).await;
    server.wait_for_status(&id, &["delivered"]).await;
}

/// A port without a listener, at its own address.
async fn refused(port: u16) -> IpAddr {
    let gone = FakeMx::at(SocketAddr::new("127.45.0.1".parse().unwrap(), port)).await;
    gone.address.ip()
}

#[tokio::test]
async fn a_host_whose_first_address_family_does_not_answer_is_reached_over_the_other() {
    let dns = FakeDns::start().await;
    let mx = FakeMx::at("[::1]:0".parse().unwrap()).await;
    dns.mx("b.test", &[(10, "mx.b.test")]);
    dns.addresses("mx.b.test", &[refused(mx.address.port()).await, mx.address.ip()]);
    let server = TestServer::start_with(&dns, mx.address.port(), |config| {
        config.relay.allowed_private_networks.push("::1/128".parse().unwrap());
    })
    .await;
    let account = server.create_account("acme.test").await;
    let id = server.submit(&account, &["a@b.test"], &message(&account, "six")).await;
    server.wait_for_status(&id, &["delivered"]).await;
    let timeline = server.control.get(&format!("/v1/emails/{id}/timeline")).await.to_string();
    assert!(timeline.contains("cannot connect to mx.b.test [127.45.0.1"), "{timeline}");
}

#[tokio::test]
async fn an_unresponsive_address_delays_the_message_only_briefly() {
    let dns = FakeDns::start().await;
    let mx = FakeMx::at("[::1]:0".parse().unwrap()).await;
    // A listener with a full backlog neither accepts nor refuses connections.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new("127.45.0.2".parse().unwrap(), mx.address.port())).unwrap();
    let silent = socket.listen(1).unwrap();
    let address = silent.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(Ok(stream)) =
        tokio::time::timeout(std::time::Duration::from_millis(200), tokio::net::TcpStream::connect(address))
            .await
    {
        waiting.push(stream);
    }
    dns.mx("b.test", &[(10, "mx.b.test")]);
    dns.addresses("mx.b.test", &[address.ip(), mx.address.ip()]);
    let server = TestServer::start_with(&dns, mx.address.port(), |config| {
        config.relay.allowed_private_networks.push("::1/128".parse().unwrap());
        // Longer than the test waits.
        config.relay.timeouts.connect = std::time::Duration::from_secs(600);
    })
    .await;
    let account = server.create_account("acme.test").await;
    let id = server.submit(&account, &["a@b.test"], &message(&account, "silent")).await;
    server.wait_for_status(&id, &["delivered"]).await;
}

#[tokio::test]
async fn a_source_address_that_this_machine_lacks_is_told_and_held_against_no_site() {
    let (_dns, mx, server) = one_destination_with(|Config { relay, .. }| {
        relay.sources = vec![source("gone", "192.0.2.77", "gone.test")];
        relay.pools = vec![pool("gone", &["gone"])];
        relay.source_pool = Some("gone".into());
    })
    .await;
    let account = server.create_account("acme.test").await;
    // A back-off of the site would prevent the second attempt.
    for subject in ["first", "second"] {
        let id = server.submit(&account, &["a@b.test"], &message(&account, subject)).await;
        let email = server.wait_for_status(&id, &["deferred"]).await;
        let reply = email["deliveries"][0]["last_reply"].as_str().unwrap();
        assert!(reply.starts_with("cannot connect to mx.b.test"), "{reply}");
    }
    assert!(mx.connections().is_empty());
}
