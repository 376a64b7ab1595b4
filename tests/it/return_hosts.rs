//! The return host of a domain: its records, the probe, its status in the API and in events.

use std::net::SocketAddr;
use std::time::Duration;

use pillarbox::config::Config;
use serde_json::{Value, json};

use crate::fake_mx::{FakeMx, Fault, Phase, own_address};
use crate::http::request;
use crate::inbound_stage::{DOMAIN, InboundStage, PLATFORM_HOST, RETURN_HOST};
use crate::server::{HOSTNAME, text};

/// Longer than a failed probe counts.
const PROBED_AGAIN: Duration = Duration::from_secs(90);

/// Checks the domain now. Returns it.
async fn verify(stage: &InboundStage) -> Value {
    let path = format!("/v1/domains/{}/verify", stage.account.domain_id);
    stage.server.control.ok("POST", &path, json!({})).await
}

fn return_record(domain: &Value) -> Value {
    let records = domain["dns_records"].as_array().unwrap();
    records.iter().find(|record| record["purpose"] == "return_path").unwrap().clone()
}

/// The reverse path of a message that is sent now.
async fn path_of_next_message(stage: &InboundStage) -> String {
    let before = stage.mx.transactions().len();
    stage.deliver(&["bob@b.test"]).await;
    stage.mx.wait_for(before + 1).await[before].reverse_path.clone()
}

async fn kinds_of_events(stage: &InboundStage) -> Vec<String> {
    let path = format!("/v1/events?tenant_id={}", stage.account.tenant_id);
    let page = stage.server.control.get(&path).await;
    let kinds = page["data"].as_array().unwrap().iter().rev().map(|event| text(&event["type"]));
    kinds.filter(|kind| kind.starts_with("domain.return_path")).collect()
}

#[tokio::test]
async fn mail_leaves_under_the_return_host_once_its_alias_leads_here() {
    let stage = InboundStage::start().await;
    let before = stage.server.control.get(&format!("/v1/domains/{}", stage.account.domain_id)).await;
    assert_eq!(before["return_path"], json!({"mode": null, "host": RETURN_HOST, "status": "pending"}));
    let record = return_record(&before);
    assert_eq!(
        (&record["type"], &record["name"], &record["value"]),
        (&json!("CNAME"), &json!(RETURN_HOST), &json!(PLATFORM_HOST))
    );
    let instead = json!([
        {"type": "MX", "value": format!("10 {HOSTNAME}")},
        {"type": "TXT", "value": format!("v=spf1 include:{HOSTNAME} ~all")},
    ]);
    assert_eq!((&record["alternatives"], &record["required"]), (&instead, &json!(false)));
    assert_eq!(path_of_next_message(&stage).await, format!("alice@{DOMAIN}"));
    assert_eq!(verify(&stage).await["return_path"]["status"], "missing");

    stage.dns.alias(RETURN_HOST, PLATFORM_HOST);
    let checked = verify(&stage).await;
    assert_eq!(
        (&checked["return_path"]["status"], &return_record(&checked)["status"]),
        (&json!("active"), &json!("ok"))
    );
    let path = path_of_next_message(&stage).await;
    let (local, host) = path.split_once('@').unwrap();
    assert!(local.starts_with("bounce+d") && host == RETURN_HOST, "{path}");
    verify(&stage).await;
    assert_eq!(kinds_of_events(&stage).await, ["domain.return_path_active"]);
}

#[tokio::test]
async fn an_mx_and_an_spf_record_stand_in_place_of_the_alias_and_spf_passes_under_the_domain() {
    let stage = InboundStage::start().await;
    stage.dns.mx(RETURN_HOST, &[(10, HOSTNAME)]);
    stage.dns.text(RETURN_HOST, &format!("v=spf1 include:{HOSTNAME} ~all"));
    stage.dns.text(HOSTNAME, "v=spf1 ip4:127.0.0.0/8 -all");
    assert_eq!(verify(&stage).await["return_path"]["status"], "active");
    let path = path_of_next_message(&stage).await;
    let host = path.split_once('@').unwrap().1.parse().unwrap();
    let source = stage.mx.transactions()[0].source;
    let resolver =
        pillarbox::dns::Resolver::new(&[stage.dns.address], pillarbox::rng::Rng::system()).unwrap();
    assert!(resolver.spf_permits(&host, source, &HOSTNAME.parse().unwrap()).await.unwrap());
    assert!(host.is_at_or_under(&DOMAIN.parse().unwrap()), "SPF aligns with From: {path}");
}

#[tokio::test]
async fn records_that_do_not_lead_here_are_a_mismatch_and_the_given_path_is_used() {
    let stage = InboundStage::start().await;
    let ours = format!("v=spf1 include:{HOSTNAME} ~all");
    type Publish<'a> = &'a dyn Fn();
    let cases: [(&str, Publish, &str, &str); 4] = [
        ("a proxied alias", &|| stage.dns.addresses(RETURN_HOST, &[own_address()]), "mismatch", "DNS only"),
        (
            "the MX of another server",
            &|| {
                stage.dns.mx(RETURN_HOST, &[(10, "mx.b.test")]);
                stage.dns.text(RETURN_HOST, &ours);
            },
            "mismatch",
            "MX record must name this server",
        ),
        (
            "two SPF records",
            &|| {
                stage.dns.mx(RETURN_HOST, &[(10, HOSTNAME)]);
                stage.dns.texts(RETURN_HOST, &[&ours, "v=spf1 -all"]);
            },
            "mismatch",
            "one SPF record",
        ),
        ("nothing", &|| (), "missing", ""),
    ];
    for (case, publish, expected, hint) in cases {
        stage.dns.remove(RETURN_HOST);
        publish();
        let checked = verify(&stage).await;
        let record = return_record(&checked);
        let statuses = (&checked["return_path"]["status"], &record["status"]);
        assert_eq!(statuses, (&json!(expected), &json!(expected)), "{case}: {record}");
        assert_eq!(record["found"].as_array().unwrap().is_empty(), expected == "missing", "{record}");
        assert!(record["hint"].as_str().unwrap_or_default().contains(hint), "{record}");
    }
    assert_eq!(path_of_next_message(&stage).await, format!("alice@{DOMAIN}"));
    assert_eq!(kinds_of_events(&stage).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_return_host_is_unreachable_until_its_mail_host_accepts_the_probe() {
    let stage = InboundStage::start().await;
    let inbound = stage.server.running().inbound_addresses[0].ip();
    let refusing = FakeMx::beside(&stage.mx).await;
    refusing.script(Phase::Rcpt, "bounce+p", 1, Fault::Reply("550 5.1.1 who?"));
    stage.dns.alias(RETURN_HOST, PLATFORM_HOST);
    for (address, expected) in
        [(own_address(), "unreachable"), (refusing.address.ip(), "unreachable"), (inbound, "active")]
    {
        stage.dns.addresses(HOSTNAME, &[address]);
        let checked = verify(&stage).await;
        assert_eq!(checked["return_path"]["status"], expected, "{address}");
        let record = return_record(&checked);
        let hint = record["hint"].as_str().unwrap_or_default();
        assert_eq!(
            (&record["status"], hint.contains("port 25")),
            (&json!("ok"), expected != "active"),
            "{hint}"
        );
        let path = path_of_next_message(&stage).await;
        assert_eq!(path == format!("alice@{DOMAIN}"), expected != "active", "{path}");
        stage.server.clock.advance(PROBED_AGAIN);
    }
    assert!(refusing.transactions().is_empty(), "a probe sends no message");
}

#[tokio::test]
async fn many_domains_with_one_mail_host_cause_one_probe() {
    let stage = InboundStage::start().await;
    let accepting = FakeMx::beside(&stage.mx).await;
    stage.dns.addresses(HOSTNAME, &[accepting.address.ip()]);
    for domain in ["one.test", "two.test", "three.test"] {
        stage.dns.alias(&format!("bounces.{domain}"), PLATFORM_HOST);
        let account = stage.server.create_account(domain).await;
        let path = format!("/v1/domains/{}/verify", account.domain_id);
        let checked = stage.server.control.ok("POST", &path, json!({})).await;
        assert_eq!(checked["return_path"]["status"], "active");
    }
    assert_eq!(accepting.connections().len(), 1);
}

#[tokio::test]
async fn a_lost_record_is_noticed_by_the_hourly_check_and_trouble_of_the_dns_changes_nothing() {
    let stage = InboundStage::start().await;
    stage.dns.alias(RETURN_HOST, PLATFORM_HOST);
    assert_eq!(verify(&stage).await["return_path"]["status"], "active");
    stage.dns.fail(RETURN_HOST);
    assert_eq!(verify(&stage).await["return_path"]["status"], "active");
    stage.dns.mend(RETURN_HOST);
    stage.dns.remove(RETURN_HOST);
    let path = format!("/v1/domains/{}", stage.account.domain_id);
    crate::wait::until("the return path is lost", async || {
        stage.server.clock.advance(Duration::from_secs(3700));
        let domain = stage.server.control.get(&path).await;
        (domain["return_path"]["status"] == "missing").then_some(())
    })
    .await;
    assert_eq!(kinds_of_events(&stage).await, ["domain.return_path_active", "domain.return_path_lost"]);
}

#[tokio::test]
async fn a_domain_may_have_another_return_host_under_its_name() {
    let stage = InboundStage::start().await;
    let path = format!("/v1/domains/{}", stage.account.domain_id);
    for (host, refused) in [
        ("rp.own.test", false),
        ("own.test", true),
        ("rp.other.test", true),
        ("a b", true),
        ("rp.own.test", false),
    ] {
        let (control, body) = (&stage.server.control, json!({"return_path": {"host": host}}));
        let answer = request(control.address, "PATCH", &path, Some(&control.secret), Some(&body)).await;
        assert_eq!(answer.status == 422, refused, "{host}: {answer}");
    }
    stage.dns.alias("rp.own.test", PLATFORM_HOST);
    let checked = verify(&stage).await;
    assert_eq!(checked["return_path"], json!({"mode": null, "host": "rp.own.test", "status": "active"}));
    assert!(path_of_next_message(&stage).await.ends_with("@rp.own.test"));
    // Another tenant has verified a name above the wanted one.
    stage.server.create_account(&format!("news.{DOMAIN}")).await;
    let body = json!({"return_path": {"host": format!("rp.news.{DOMAIN}")}});
    let control = &stage.server.control;
    let answer = request(control.address, "PATCH", &path, Some(&control.secret), Some(&body)).await;
    let error = answer.expect_error(422, "validation_failed").to_string();
    assert!(error.contains("return_path.host") && error.contains("another tenant"), "{error}");

    let reset = json!({"return_path": {"host": null}});
    let changed = stage.server.control.ok("PATCH", &path, reset).await;
    assert_eq!(changed["return_path"], json!({"mode": null, "host": RETURN_HOST, "status": "pending"}));
    assert_eq!(path_of_next_message(&stage).await, format!("alice@{DOMAIN}"));
}

#[tokio::test]
async fn a_server_without_a_listener_for_reports_asks_for_no_return_host() {
    let closed = |config: &mut Config| config.inbound.listen = Vec::<SocketAddr>::new();
    let stage = InboundStage::start_with(closed).await;
    stage.dns.alias(RETURN_HOST, PLATFORM_HOST);
    let checked = verify(&stage).await;
    assert_eq!(checked["return_path"], json!({"mode": null, "host": null, "status": "pending"}));
    let records = checked["dns_records"].as_array().unwrap();
    assert!(records.iter().all(|record| record["purpose"] != "return_path"));
    assert_eq!(path_of_next_message(&stage).await, format!("alice@{DOMAIN}"));
}

#[tokio::test]
async fn a_busy_mail_host_and_trouble_of_its_dns_leave_a_return_host_active() {
    let stage = InboundStage::start().await;
    let probed = FakeMx::beside(&stage.mx).await;
    stage.dns.addresses(HOSTNAME, &[probed.address.ip()]);
    stage.dns.alias(RETURN_HOST, PLATFORM_HOST);
    assert_eq!(verify(&stage).await["return_path"]["status"], "active");
    for (phase, reply) in
        [(Phase::Greeting, "421 4.3.2 too many connections"), (Phase::Rcpt, "451 4.3.0 later")]
    {
        stage.server.clock.advance(PROBED_AGAIN);
        let before = probed.connections().len();
        probed.script(phase, "", 1, Fault::Reply(reply));
        assert_eq!(verify(&stage).await["return_path"]["status"], "active", "{reply}");
        assert_eq!(probed.connections().len(), before + 1, "{reply}");
    }
    stage.server.clock.advance(PROBED_AGAIN);
    stage.dns.fail(HOSTNAME);
    assert_eq!(verify(&stage).await["return_path"]["status"], "active");
    assert_eq!(kinds_of_events(&stage).await, ["domain.return_path_active"]);
}

#[tokio::test]
async fn a_return_host_that_is_set_during_a_check_waits_for_its_own_check() {
    let stage = InboundStage::start().await;
    let probed = FakeMx::beside(&stage.mx).await;
    stage.dns.addresses(HOSTNAME, &[probed.address.ip()]);
    stage.dns.alias(RETURN_HOST, PLATFORM_HOST);
    let gate = probed.wait_at(Phase::Rcpt);
    let path = format!("/v1/domains/{}", stage.account.domain_id);
    let change = async {
        crate::wait::until("the probe asks", async || {
            probed.commands().iter().any(|line| line.starts_with("RCPT")).then_some(())
        })
        .await;
        let other = json!({"return_path": {"host": "rp.own.test"}});
        stage.server.control.ok("PATCH", &path, other).await;
        gate.cancel();
    };
    let (checked, ()) = tokio::join!(verify(&stage), change);
    assert_eq!(checked["return_path"], json!({"mode": null, "host": "rp.own.test", "status": "pending"}));
    assert_eq!(kinds_of_events(&stage).await, Vec::<String>::new());
}

#[tokio::test]
async fn the_hourly_check_finds_the_return_host_of_a_manual_domain_and_confirms_no_key() {
    let stage = InboundStage::start().await;
    stage.dns.alias(RETURN_HOST, PLATFORM_HOST);
    let path = format!("/v1/domains/{}", stage.account.domain_id);
    let rotated = stage.server.control.ok("POST", &format!("{path}/dkim/rotate"), json!({})).await;
    let domain = crate::wait::until("the return path is active", async || {
        stage.server.clock.advance(Duration::from_secs(3700));
        let domain = stage.server.control.get(&path).await;
        (domain["return_path"]["status"] == "active").then_some(domain)
    })
    .await;
    let states = |domain: &Value| -> Vec<String> {
        let records = domain["dns_records"].as_array().unwrap().iter();
        records.filter(|record| record["purpose"] == "dkim").map(|one| text(&one["dkim_key_state"])).collect()
    };
    assert!(states(&domain).contains(&"pending".to_owned()), "{rotated} {domain}");
    let confirmed = verify(&stage).await;
    assert!(!states(&confirmed).contains(&"pending".to_owned()), "{confirmed}");
}
