//! The metrics for Prometheus.

use std::net::{Ipv4Addr, SocketAddr};

use pillarbox::archive::LastBackup;
use serde_json::json;

use crate::client::Client;
use crate::fake_dns::FakeDns;
use crate::http::{Answer, request};
use crate::server::{HOSTNAME, TestServer, message, one_destination_with};
use crate::wait::until;

async fn scrape(server: &TestServer) -> Answer {
    request(server.running().metrics_addresses[0], "GET", "/metrics", None, None).await
}

/// The value of a series, as text.
fn value(text: &str, series: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map(|value| value.parse().unwrap())
}

#[tokio::test]
async fn what_happens_to_mail_is_counted_and_told_without_naming_anybody() {
    let (_dns, _mx, server) = one_destination_with(|config| {
        config.api.metrics_listen = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
        config.inbound.listen = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
    })
    .await;
    let account = server.create_account("acme.test").await;
    let id = server.submit(&account, &["bob@b.test"], &message(&account, "one")).await;
    server.wait_for_status(&id, &["delivered"]).await;
    let held = json!({"tenant_id": account.tenant_id});
    server.control.ok("POST", "/v1/queue/pause", held).await;
    let last = LastBackup { taken_at: server.clock.now(), path: "-".into(), octets: 1 };
    last.write(&server.config.data_dir).unwrap();
    let diagnosis = server.control.get("/v1/doctor").await;
    let found = diagnosis["findings"].as_array().unwrap().len() as u64;
    server.submit(&account, &["bob@b.test", "carol@b.test"], &message(&account, "two")).await;
    let mut client = server.log_in(&account).await;
    let refused = client.command("MAIL FROM:<alice@foreign.test>").await;
    refused.expect_saying(550, "[domain_not_allowed_for_key]");
    let mut other = Client::connect(server.running().inbound_addresses[0], HOSTNAME).await;
    other.ehlo().await.expect_code(250);
    other.command("MAIL FROM:<>").await.expect_code(250);
    other.command("RCPT TO:<stranger@relay.test>").await.expect_code(550);
    other.command("RCPT TO:<postmaster>").await.expect_code(250);
    other.data(b"Subject: hello\r\n\r\n").await.expect_code(250);
    let told = until("all of it is counted", async || {
        let answer = scrape(&server).await;
        let text = String::from_utf8(answer.body.clone()).unwrap();
        let open: u64 = ["in_flight", "due", "paused", "deferred"]
            .iter()
            .filter_map(|state| value(&text, &format!("pillarbox_queue_deliveries{{state=\"{state}\"}}")))
            .sum();
        let is_noted = value(&text, "pillarbox_events_total{type=\"message.rejected\"}") == Some(1);
        (open == 2 && is_noted).then_some((answer, text))
    });
    let (answer, text) = told.await;
    assert!(answer.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"), "{answer}");
    let is = |series: &str| value(&text, series).unwrap_or_else(|| panic!("{series} in {text}"));
    assert_eq!(is("pillarbox_events_total{type=\"message.accepted\"}"), 2);
    assert_eq!(is("pillarbox_events_total{type=\"message.delivered\"}"), 1);
    assert_eq!(is("pillarbox_events_total{type=\"message.bounced\"}"), 0);
    assert_eq!(is("pillarbox_refusals_total{code=\"domain_not_allowed_for_key\"}"), 1);
    assert_eq!(is("pillarbox_connections{direction=\"smtp\"}"), 1);
    assert_eq!(is("pillarbox_connections{direction=\"inbound\"}"), 1);
    assert_eq!(is("pillarbox_report_refusals_total{code=\"mailbox_unknown\"}"), 1);
    let reports = text.lines().filter(|line| line.starts_with("pillarbox_reports_total{kind="));
    assert_eq!(reports.filter(|line| line.ends_with("} 1")).count(), 1, "{text}");
    assert_eq!(is("pillarbox_webhook_backlog"), 0);
    assert_eq!(is("pillarbox_store_commits_total{result=\"failed\"}"), 0);
    assert!(is("pillarbox_store_commits_total{result=\"committed\"}") > 0);
    assert!(is("pillarbox_store_commit_seconds_count") > 0);
    assert!(is("pillarbox_disk_free_bytes") > 1_000_000);
    assert_eq!(is("pillarbox_attempts_total{outcome=\"delivered\",class=\"none\"}"), 1);
    assert_eq!(is("pillarbox_accept_seconds_count"), 2);
    assert_eq!(is("pillarbox_accept_seconds_bucket{le=\"+Inf\"}"), 2);
    assert_eq!(is("pillarbox_delivery_seconds_count{outcome=\"delivered\"}"), 1);
    assert_eq!(is("pillarbox_delivery_seconds_bucket{le=\"+Inf\",outcome=\"delivered\"}"), 1);
    assert_eq!(is("pillarbox_delivery_seconds_count{outcome=\"bounced\"}"), 0);
    assert_eq!(is("pillarbox_site_backoffs"), 0);
    assert_eq!(is("pillarbox_pauses"), 1);
    assert_eq!(is("pillarbox_doctor{check=\"config.hostname\",status=\"ok\"}"), 1);
    let findings = text.lines().filter_map(|line| line.strip_prefix("pillarbox_doctor{check=\""));
    let findings = findings.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap());
    assert_eq!(findings.sum::<u64>(), found, "{diagnosis} {text}");
    assert!(is("pillarbox_certificate_expiry_seconds") > 86_400);
    assert!(is("process_resident_memory_bytes") > 1_000_000);
    assert_eq!(is(&format!("pillarbox_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))), 1);
    assert!(text.contains("pillarbox_queue_oldest_age_seconds "), "{text}");
    let families = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let mut families: Vec<&str> = families.map(|(name, _)| name).collect();
    let rows = include_str!("../../src/docs/metrics.md").lines().filter_map(|line| line.strip_prefix("| `"));
    let mut documented: Vec<&str> = rows.filter_map(|row| row.split('`').next()).collect();
    let helped = text.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' '));
    let helped: Vec<&str> = helped.filter(|(_, help)| help.len() > 1).map(|(name, _)| name).collect();
    assert_eq!(helped, families, "{text}");
    let of_samples = text.lines().filter(|line| !line.starts_with('#'));
    for name in of_samples.filter_map(|line| line.split(['{', ' ']).next()) {
        let parts = ["_bucket", "_sum", "_count"];
        let family = parts.iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name);
        assert!(helped.contains(&family), "{name} has no help");
    }
    families.sort_unstable();
    documented.sort_unstable();
    assert_eq!(documented, families, "the page of metrics names others");
    for name in [&account.tenant_id, &account.domain, "b.test", "alice"] {
        assert!(!text.contains(name), "{name} in {text}");
    }
}

#[tokio::test]
async fn metrics_are_off_by_default_and_their_listener_serves_nothing_else() {
    let dns = FakeDns::start().await;
    let mut server = TestServer::start(&dns, 25).await;
    assert_eq!(server.running().metrics_addresses, []);
    let of_api = request(server.control.address, "GET", "/metrics", None, None).await;
    of_api.expect_error(404, "not_found");
    server.stop().await;
    server.config.api.metrics_listen = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
    server.restart(|_| ()).await;
    assert_eq!(scrape(&server).await.status, 200);
    let address = server.running().metrics_addresses[0];
    for (method, path) in [("GET", "/v1/tenants"), ("POST", "/metrics"), ("GET", "/")] {
        let key = Some(server.control.secret.as_str());
        assert_eq!(request(address, method, path, key, None).await.status, 404, "{method} {path}");
    }
}
