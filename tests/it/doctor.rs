//! The doctor of a running server, and `pillarbox doctor`.

use std::path::Path;
use std::time::Duration;

use clap::CommandFactory;
use pillarbox::cli::Arguments;
use pillarbox::config::{Config, DestinationTls};
use pillarbox::doctor::{CHECKS, Diagnosis, Extra, Finding, FixRecord, Subject, diagnose_locally};
use pillarbox::mail::Timestamp;
use pillarbox::model::{FindingStatus, Scope, TlsMinimum};
use serde_json::json;

use crate::api_stage::ApiStage;
use crate::fake_dns::FakeDns;
use crate::fake_mx::{Fault, Phase};
use crate::program;
use crate::server::message;
use crate::wait::{PATIENCE, until};

async fn ask(stage: &ApiStage, key: &str, target: &str) -> Diagnosis {
    serde_json::from_value(stage.get(key, target).await.expect(200)).unwrap()
}

fn is_wrong(finding: &Finding) -> bool {
    finding.status >= FindingStatus::Warning
}

fn status_of(diagnosis: &Diagnosis, id: &str) -> FindingStatus {
    let of_check = diagnosis.findings.iter().filter(|finding| finding.id == id);
    of_check.map(|finding| finding.status).max().unwrap_or_else(|| panic!("no {id}"))
}

/// Publishes what a fix says: addresses beside those that are there, all else in place of it.
fn publish(dns: &FakeDns, record: &FixRecord) {
    let FixRecord { name, kind, value } = record;
    match kind.as_ref() {
        "TXT" => dns.text(name, value),
        "A" | "AAAA" => dns.add_address(name, value.parse().unwrap()),
        "PTR" => dns.pointer(name, value),
        other => panic!("{other}"),
    }
}

/// Does what the fixes say until nothing is left, three times at most.
async fn follow_fixes(stage: &ApiStage, key: &str, target: &str, is_followed: impl Fn(&Finding) -> bool) {
    for _ in 0..3 {
        let found = ask(stage, key, target).await;
        let wrong: Vec<_> = found.findings.iter().filter(|one| is_wrong(one) && is_followed(one)).collect();
        if wrong.is_empty() {
            return;
        }
        for finding in wrong {
            let record = finding.fix.as_ref().and_then(|fix| fix.record.as_ref());
            publish(&stage.dns, record.unwrap_or_else(|| panic!("{finding:?}")));
        }
    }
    let left = ask(stage, key, target).await.findings;
    let left: Vec<_> = left.into_iter().filter(|one| is_wrong(one) && is_followed(one)).collect();
    assert!(left.is_empty(), "{left:#?}");
}

#[tokio::test]
async fn what_a_fix_says_makes_the_check_right() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("Acme").await;
    let made = stage.post(&tenant.key, "/v1/domains", json!({"name": "acme.test"})).await.expect(201);
    let domain = format!("/v1/domains/{}/doctor", made["id"].as_str().unwrap());
    let server = "/v1/doctor?refresh=true";
    let is_of_dns = |one: &Finding| one.id.starts_with("name.") || one.id.starts_with("spf.");
    let before = ask(&stage, &stage.platform, server).await;
    for id in ["name.resolves", "name.ptr", "spf.host"] {
        assert_eq!(status_of(&before, id), FindingStatus::Error, "{id}");
    }
    follow_fixes(&stage, &stage.platform, server, is_of_dns).await;
    // Bounces need a mail host, whose name no fix can know.
    let before = ask(&stage, &tenant.key, &domain).await;
    assert_eq!(status_of(&before, "mx.replies"), FindingStatus::Error);
    stage.dns.mx("acme.test", &[(10, "mx.acme.test")]);
    stage.dns.addresses("mx.acme.test", &["192.0.2.25".parse().unwrap()]);
    stage.dns.texts("acme.test", &["v=spf1 a +all", "v=spf1 mx -all", "site=1"]);
    stage.dns.text("_dmarc.acme.test", "v=DMARC1; p=none; rua=mailto:dmarc@reports.test");
    follow_fixes(&stage, &tenant.key, &domain, |_| true).await;
    for (key, target, subject) in
        [(&stage.platform, server, Subject::Server), (&tenant.key, domain.as_str(), Subject::Domain)]
    {
        let after = ask(&stage, key, target).await;
        for check in CHECKS.iter().filter(|check| check.subject == subject) {
            let _ = status_of(&after, check.id);
        }
    }
    // What the doctor calls right verifies the domain.
    let path = format!("/v1/domains/{}/verify", made["id"].as_str().unwrap());
    let verified = stage.post(&tenant.key, &path, json!(null)).await.expect(200);
    assert_eq!(verified["status"], "verified", "{verified}");
    assert!(
        verified["dns_records"].as_array().unwrap().iter().all(|record| record["status"] == "ok"),
        "{verified}"
    );
    // A record with another key.
    let key = &made["dns_records"][1];
    stage.dns.text(key["name"].as_str().unwrap(), "v=DKIM1; k=rsa; p=MIIBIjAN");
    assert_eq!(status_of(&ask(&stage, &tenant.key, &domain).await, "dkim.record"), FindingStatus::Error);
    follow_fixes(&stage, &tenant.key, &domain, |_| true).await;
}

#[tokio::test]
async fn the_records_of_two_addresses_stand_side_by_side() {
    let dns = FakeDns::start().await;
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "hostname = \"mail.example.com\"\ndata_dir = {:?}\n[relay]\nname_servers = [\"{}\"]\n\
         source_address = \"192.0.2.7\"\n[doctor]\npublic_addresses = [\"192.0.2.8\"]\n",
        dir.path(),
        dns.address
    );
    let config = Config::parse(&text, Path::new("pillarbox.toml")).unwrap();
    let look = async || {
        let looked =
            diagnose_locally(&config, "pillarbox.toml".into(), None, Extra::default(), Timestamp::now());
        let found = looked.await.unwrap().findings.into_iter();
        found.filter(|one| is_wrong(one) && one.id.starts_with("name.")).collect::<Vec<_>>()
    };
    for _ in 0..2 {
        for finding in look().await {
            publish(&dns, finding.fix.as_ref().and_then(|fix| fix.record.as_ref()).expect("a record"));
        }
    }
    let left = look().await;
    assert!(left.is_empty(), "{left:#?}");
}

#[tokio::test]
async fn a_finding_about_a_webhook_hides_its_url() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("Acme").await;
    let hook = json!({"url": "https://hooks.example/secret-token"});
    let made = stage.post(&tenant.key, "/v1/webhooks", hook).await.expect(201);
    stage.database().execute("UPDATE webhook SET failing_since_us = 1", []).unwrap();
    let found = ask(&stage, &stage.platform, "/v1/doctor?refresh=true").await;
    assert_eq!(status_of(&found, "webhook.failing"), FindingStatus::Warning);
    let text = serde_json::to_string(&found).unwrap();
    assert!(text.contains(made["id"].as_str().unwrap()) && !text.contains("secret-token"), "{text}");
}

#[tokio::test]
async fn a_run_goes_on_if_its_request_goes_away() {
    let stage = ApiStage::start().await;
    stage.dns.silence("mail.host.example");
    let asked = tokio::spawn({
        let (address, key) = (stage.address, stage.platform.clone());
        async move { crate::http::request(address, "GET", "/v1/doctor", Some(&key), None).await }
    });
    until("the run asks the DNS", async || (stage.dns.queries("mail.host.example") > 0).then_some(())).await;
    let started = stage.clock.now();
    asked.abort();
    assert!(asked.await.unwrap_err().is_cancelled());
    stage.clock.advance(Duration::from_secs(60));
    assert!(ask(&stage, &stage.platform, "/v1/doctor").await.at <= started, "it ran again");
}

#[tokio::test]
async fn lists_do_not_wait_for_the_slow_dns_of_a_domain() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("Acme").await;
    let made = stage.post(&tenant.key, "/v1/domains", json!({"name": "acme.test"})).await.expect(201);
    stage.dns.silence("acme.test");
    let target = format!("/v1/domains/{}/doctor", made["id"].as_str().unwrap());
    let slow = futures_util::future::select_all((0..8).map(|_| Box::pin(ask(&stage, &tenant.key, &target))));
    let list = async {
        until("they ask the DNS", async || (stage.dns.queries("_dmarc.acme.test") > 0).then_some(())).await;
        stage.get(&tenant.key, "/v1/domains").await.expect(200);
    };
    tokio::select! {
        _ = slow => panic!("the list waits for the DNS"),
        () = list => {}
    }
}

#[tokio::test]
async fn an_spf_record_with_eleven_look_ups_is_counted() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("Acme").await;
    let made = stage.post(&tenant.key, "/v1/domains", json!({"name": "acme.test"})).await.expect(201);
    let domain = format!("/v1/domains/{}/doctor", made["id"].as_str().unwrap());
    let hosts: Vec<String> = (0..10).map(|n| format!("a:h{n}.test")).collect();
    for n in 0..10 {
        stage.dns.addresses(&format!("h{n}.test"), &["192.0.2.99".parse().unwrap()]);
    }
    stage.dns.text("spf.test", &format!("v=spf1 {} -all", hosts.join(" ")));
    stage.dns.text("acme.test", "v=spf1 include:spf.test -all");
    let found = ask(&stage, &tenant.key, &domain).await;
    assert_eq!(status_of(&found, "spf.lookups"), FindingStatus::Error);
    stage.dns.text("spf.test", &format!("v=spf1 {} -all", hosts[1..].join(" ")));
    let found = ask(&stage, &tenant.key, &domain).await;
    assert_eq!(status_of(&found, "spf.lookups"), FindingStatus::Ok);
}

#[tokio::test]
async fn a_tenant_sees_the_doctor_of_its_own_domains() {
    let stage = ApiStage::start().await;
    let (owner, other) = (stage.tenant("Acme").await, stage.tenant("Other").await);
    let made = stage.post(&owner.key, "/v1/domains", json!({"name": "acme.test"})).await.expect(201);
    let target = format!("/v1/domains/{}/doctor", made["id"].as_str().unwrap());
    let found = ask(&stage, &owner.key, &target).await;
    assert_eq!(found.subject, "acme.test");
    assert_eq!(status_of(&found, "domain.ownership"), FindingStatus::Error);
    stage.get(&other.key, &target).await.expect_error(404, "not_found");
    let sender = stage.key(owner.id, &[Scope::EmailsSend], |_| {}).await;
    stage.get(&sender, &target).await.expect_error(403, "insufficient_scope");
    stage.get(&owner.key, "/v1/doctor").await.expect_error(403, "platform_key_required");
}

#[tokio::test]
async fn a_change_of_a_status_is_an_event() {
    let stage = ApiStage::start().await;
    let target = "/v1/doctor?refresh=true";
    let before = ask(&stage, &stage.platform, target).await;
    assert_eq!(status_of(&before, "spf.host"), FindingStatus::Error);
    ask(&stage, &stage.platform, target).await;
    let events = async || {
        let list = stage.get(&stage.platform, "/v1/events?type=doctor.changed").await.expect(200);
        // Checks of the machine, like the time of a write, change with its load.
        let of_spf = |event: &&serde_json::Value| event["data"]["check"] == "spf.host";
        list["data"].as_array().unwrap().iter().filter(of_spf).cloned().collect::<Vec<_>>()
    };
    assert!(events().await.is_empty());
    stage.dns.text("mail.host.example", "v=spf1 ip4:192.0.2.7 -all");
    ask(&stage, &stage.platform, target).await;
    let events = events().await;
    assert_eq!(events.len(), 1, "{events:?}");
    let data = &events[0]["data"];
    assert_eq!([&data["check"], &data["from"], &data["to"]], ["spf.host", "error", "ok"], "{data}");
    assert_eq!(events[0]["tenant_id"], json!(null));
}

#[tokio::test]
async fn a_diagnosis_is_kept_for_an_hour_unless_it_is_to_be_refreshed() {
    let stage = ApiStage::start().await;
    let first = ask(&stage, &stage.platform, "/v1/doctor").await;
    stage.clock.advance(Duration::from_secs(60));
    assert_eq!(ask(&stage, &stage.platform, "/v1/doctor").await.at, first.at);
    assert_ne!(ask(&stage, &stage.platform, "/v1/doctor?refresh=true").await.at, first.at);
    stage.clock.advance(Duration::from_secs(3600));
    let later = ask(&stage, &stage.platform, "/v1/doctor").await;
    assert!(later.at > first.at);
}

#[tokio::test]
async fn without_a_network_it_ends_and_each_error_has_a_fix() {
    let dns = FakeDns::start().await;
    dns.silence("example.com");
    dns.silence("arpa");
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "hostname = \"mail.example.com\"\ndata_dir = {:?}\n[relay]\nname_servers = [\"{}\"]\nsource_address = \"192.0.2.7\"\n",
        dir.path(),
        dns.address
    );
    let config = Config::parse(&text, Path::new("pillarbox.toml")).unwrap();
    let looked = diagnose_locally(&config, "pillarbox.toml".into(), None, Extra::default(), Timestamp::now());
    let found = tokio::time::timeout(PATIENCE, looked).await.expect("it ends").unwrap();
    for id in ["name.resolves", "name.ptr", "spf.host"] {
        assert_eq!(status_of(&found, id), FindingStatus::Skipped, "{id}");
    }
    assert!(found.findings.iter().filter(|one| is_wrong(one)).all(|one| one.fix.is_some()), "{found:?}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "it left files");
}

#[tokio::test]
async fn the_command_prints_lines_json_one_line_and_explanations_with_the_exit_status_of_plugins() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pillarbox.toml");
    let file = file.to_str().unwrap();
    let write = |text: &str| std::fs::write(file, text).unwrap();
    let run = async |arguments: &[&str]| program::status_of(arguments, &[]).await;
    let base = format!("data_dir = {:?}\n", dir.path());
    write(&format!("hostname = \"mail.example.com\"\n{base}[relay]\nname_servers = [\"127.0.0.1:9\"]\n"));
    let local = ["doctor", "--local", "--config", file];
    let only = |more: &[&'static str]| [local.as_slice(), more].concat();

    let (status, text) = run(&only(&["--only", "config.hostname", "--all"])).await;
    assert_eq!(status, Some(0), "{text}");
    assert!(
        text.contains("OK       config.hostname the host name mail.example.com is fully qualified\n"),
        "{text}"
    );
    let (status, text) = run(&only(&["--only", "config.hostname", "--quiet"])).await;
    assert_eq!((status, text.as_str()), (Some(0), "PILLARBOX OK - 1 check\n"));
    let (status, text) = run(&only(&["--only", "tls.chain", "--quiet"])).await;
    assert_eq!((status, text.as_str()), (Some(1), "PILLARBOX WARNING - 1 warning: tls.chain\n"));
    let (status, text) = run(&only(&["--only", "tls.chain,config.hostname", "--json"])).await;
    let found: Diagnosis = serde_json::from_str(&text).unwrap();
    assert_eq!((status, found.findings.len(), found.status), (Some(1), 2, FindingStatus::Warning));
    let (status, text) = run(&only(&["--only", "tls.name"])).await;
    assert_eq!(status, Some(3), "{text}");
    let (status, text) = run(&only(&["--only", "tls.nose"])).await;
    assert!(
        status == Some(3) && text.contains("tls.nose is not a check; the checks are config.valid,"),
        "{text}"
    );

    let web = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = web.local_addr().unwrap();
    write(&format!(
        "hostname = \"mail.example.com\"\n{base}[relay]\nname_servers = [\"127.0.0.1:9\"]\n[acme]\nenabled = true\nhttp_listen = [\"{address}\"]\n"
    ));
    let (_, text) = run(&only(&["--only", "config.ports"])).await;
    assert!(
        text.contains(&format!("acme.http_listen: another program, or a running Pillarbox, has {address}")),
        "{text}"
    );

    write("hostnam = \"x\"\n");
    let (status, text) = run(&only(&["--quiet"])).await;
    assert_eq!((status, text.as_str()), (Some(2), "PILLARBOX CRITICAL - 1 error: config.valid\n"));

    let (status, text) = run(&["doctor", "--explain", "name.ptr"]).await;
    assert!(status == Some(0) && text.contains("Large receivers refuse the mail."), "{text}");
    let (status, text) = run(&["doctor", "--probe"]).await;
    assert!(status == Some(2) && text.contains("--to <DOMAIN>"), "{text}");
    let unreached = [("PILLARBOX_URL", "http://127.0.0.1:9"), ("PILLARBOX_KEY", "x")];
    let (status, text) = program::status_of(&["doctor"], &unreached).await;
    assert!(status == Some(3) && text.contains("cannot reach http://127.0.0.1:9"), "{text}");
    let (status, text) = program::status_of(&["doctor", "--quiet"], &unreached).await;
    assert!(status == Some(3) && text.starts_with("PILLARBOX UNKNOWN - cannot reach"), "{text}");
}

#[tokio::test]
async fn a_running_server_shakes_hands_with_itself_and_looks_at_its_state() {
    let text = "hostname = \"mail.example.com\"\n[doctor]\nbackup_age_max = \"0s\"\n";
    let without_backups = Config::parse(text, Path::new("pillarbox.toml")).unwrap().doctor;
    let (dns, _mx, server) =
        crate::server::one_destination_with(|config| config.doctor = without_backups).await;
    let _dns = dns;
    let found = server.control.ok("GET", "/v1/doctor?refresh=true", json!(null)).await;
    let found: Diagnosis = serde_json::from_value(found).unwrap();
    for id in [
        "tls.starttls",
        "tls.implicit",
        "tls.no_auth_in_clear",
        "dns.answers",
        "queue.age",
        "queue.site_held",
        "webhook.failing",
        "domain.failing",
        "smart_host.refused",
        "key.opens",
    ] {
        assert_eq!(status_of(&found, id), FindingStatus::Ok, "{id}: {:#?}", found.findings);
    }
    // Nobody is asked unasked, and the fake DNS of this test signs nothing.
    assert_eq!(status_of(&found, "net.port25"), FindingStatus::Skipped);
    assert_eq!(status_of(&found, "dns.dnssec"), FindingStatus::Warning);
    let backup = found.findings.iter().find(|one| one.id == "backup.age").unwrap();
    assert_eq!(backup.text, "doctor.backup_age_max is zero");
}

#[tokio::test]
async fn a_mail_host_of_the_domain_that_is_named_is_greeted() {
    let (dns, _mx, server) = crate::server::one_destination_with(|config| {
        config.doctor.egress_domain = Some("b.test".parse().unwrap());
    })
    .await;
    let ask = async || {
        let found = server.control.ok("GET", "/v1/doctor?refresh=true", json!(null)).await;
        serde_json::from_value::<Diagnosis>(found).unwrap()
    };
    let found = ask().await;
    assert_eq!(status_of(&found, "net.port25"), FindingStatus::Ok, "{:#?}", found.findings);
    dns.addresses("mx.b.test", &["10.0.0.7".parse().unwrap()]);
    assert_eq!(status_of(&ask().await, "net.port25"), FindingStatus::Skipped);
}

#[tokio::test]
async fn a_block_list_is_asked_only_if_somebody_wants_it_and_counts_only_if_it_works() {
    let dns = FakeDns::start().await;
    let dir = tempfile::tempdir().unwrap();
    let look = async |lists: &str| {
        let text = format!(
            "hostname = \"mail.example.com\"\ndata_dir = {:?}\n[relay]\nname_servers = [\"{}\"]\n\
             source_address = \"192.0.2.7\"\n[doctor]\ndnsbls = [{lists}]\n",
            dir.path(),
            dns.address
        );
        let config = Config::parse(&text, Path::new("pillarbox.toml")).unwrap();
        let looked = diagnose_locally(&config, "f".into(), None, Extra::default(), Timestamp::now()).await;
        let found = looked.unwrap().findings.into_iter().find(|one| one.id == "net.dnsbl").unwrap();
        (found.status, found.text)
    };
    let code = |name: &str, code: &str| dns.addresses(name, &[code.parse().unwrap()]);
    code("2.0.0.127.list.test", "127.0.0.2");
    code("7.2.0.192.list.test", "127.0.0.4");
    dns.text("7.2.0.192.list.test", "see https://list.test/");
    assert_eq!(look("").await.0, FindingStatus::Skipped);
    assert_eq!(dns.queries("7.2.0.192.list.test"), 0, "asked unasked");
    const ASKED: &str = "\"list.test\"";
    let (status, text) = look(ASKED).await;
    assert_eq!(
        (status, text.as_str()),
        (FindingStatus::Warning, "192.0.2.7 is on list.test: see https://list.test/")
    );
    // What the fix asks for.
    dns.remove("7.2.0.192.list.test");
    assert_eq!(look(ASKED).await.0, FindingStatus::Ok);
    // A list that lists everything, one that ended, and one that does not serve the name servers.
    code("1.0.0.127.list.test", "127.0.0.2");
    assert_eq!(look(ASKED).await.0, FindingStatus::Skipped);
    dns.remove("1.0.0.127.list.test");
    dns.remove("2.0.0.127.list.test");
    assert_eq!(look(ASKED).await.0, FindingStatus::Skipped);
    code("2.0.0.127.list.test", "127.255.255.254");
    let (status, text) = look(ASKED).await;
    assert!(status == FindingStatus::Skipped && text.contains("does not answer"), "{text}");
}

#[tokio::test]
async fn a_message_is_submitted_and_the_database_read_only_if_somebody_asks() {
    let (dns, mx, server) = crate::server::one_destination().await;
    let look = async |query: &str| -> Diagnosis {
        let found = server.control.ok("GET", &format!("/v1/doctor?{query}"), json!(null)).await;
        serde_json::from_value(found).unwrap()
    };
    let found = look("refresh=true").await;
    assert_eq!(status_of(&found, "self.submission"), FindingStatus::Skipped);
    assert_eq!(status_of(&found, "store.quick_check"), FindingStatus::Skipped);
    let found = look("deep=true&send=true").await;
    assert_eq!(status_of(&found, "store.quick_check"), FindingStatus::Ok);
    // No domain is verified.
    assert_eq!(status_of(&found, "self.submission"), FindingStatus::Skipped);
    let account = server.create_account("acme.test").await;
    assert_eq!(status_of(&look("send=true").await, "self.submission"), FindingStatus::Error);
    let domain = server.control.get(&format!("/v1/domains/{}", account.domain_id)).await;
    for record in domain["dns_records"].as_array().unwrap() {
        dns.text(record["name"].as_str().unwrap(), record["value"].as_str().unwrap());
    }
    let found = look("send=true").await;
    assert_eq!(status_of(&found, "self.submission"), FindingStatus::Ok, "{:#?}", found.findings);
    // Its key is gone, and the message ended in the sandbox.
    let keys = server.control.get(&format!("/v1/keys?tenant_id={}", account.tenant_id)).await;
    let of_doctor = keys["data"].as_array().unwrap().iter().filter(|key| key["name"] == "doctor");
    let states: Vec<_> = of_doctor.map(|key| key["status"].as_str().unwrap()).collect();
    assert_eq!(states, ["revoked", "revoked"]);
    assert!(mx.transactions().is_empty());
    // What a tenant does is no fault of the server.
    let suppressed =
        json!({"address": "doctor@acme.test", "environment": "test", "tenant_id": account.tenant_id});
    server.control.ok("POST", "/v1/suppressions", suppressed).await;
    assert_eq!(status_of(&look("send=true").await, "self.submission"), FindingStatus::Skipped);
    let tenant = format!("/v1/tenants/{}", account.tenant_id);
    server.control.ok("PATCH", &tenant, json!({"status": "suspended"})).await;
    let found = look("send=true").await;
    let submission = found.findings.iter().find(|one| one.id == "self.submission").unwrap();
    assert_eq!(submission.text, "no domain of an active tenant is verified");
}

#[tokio::test]
async fn the_explanation_of_a_destination_agrees_with_the_delivery() {
    let (dns, mx, server) = crate::server::one_destination_with(|config| {
        let domain = "strict.test".parse().unwrap();
        config.relay.tls_minimum = vec![DestinationTls { domain, minimum: TlsMinimum::Verified }];
    })
    .await;
    dns.mx("strict.test", &[(10, "mx.b.test")]);
    dns.null_mx("null.test");
    dns.mx("private.test", &[(10, "mx.private.test")]);
    dns.addresses("mx.private.test", &["10.0.0.7".parse().unwrap()]);
    let explain = async |domain: &str, query: &str| {
        server.control.get(&format!("/v1/destinations/{domain}?{query}")).await
    };
    let account = server.create_account("acme.test").await;
    let deliver = async |recipient: &str| {
        let id = server.submit(&account, &[recipient], &message(&account, recipient)).await;
        let email = server.wait_for_status(&id, &["delivered", "bounced", "deferred"]).await;
        email["deliveries"][0].clone()
    };
    // To the MX, in clear, because the host offers no TLS.
    let plan = explain("b.test", "probe=true").await;
    assert_eq!((&plan["route"], &plan["site"]["name"]), (&json!("mx"), &json!("mx.b.test")), "{plan}");
    let host = &plan["hosts"][0];
    assert_eq!((&host["host"], &host["tls"]), (&json!("mx.b.test"), &json!("none")), "{plan}");
    assert_eq!((&host["probe"]["ready"], &host["probe"]["tls"]), (&json!(true), &json!(null)), "{plan}");
    assert!(mx.transactions().is_empty() && !mx.commands().iter().any(|one| one.starts_with("MAIL")));
    assert_eq!(deliver("a@b.test").await["status"], "delivered");
    // Nowhere, and not to a private address.
    for domain in ["null.test", "private.test"] {
        let plan = explain(domain, "").await;
        let error = match domain {
            "null.test" => &plan["error"],
            _ => &plan["hosts"][0]["error"],
        };
        let reply = deliver(&format!("a@{domain}")).await["last_reply"].as_str().unwrap().to_owned();
        assert!(reply.contains(error.as_str().unwrap()), "{error} is not in {reply}");
    }
    // Not without TLS.
    let plan = explain("strict.test", "probe=true").await;
    let host = &plan["hosts"][0];
    assert_eq!((&host["tls"], &host["probe"]["ready"]), (&json!("verified"), &json!(false)), "{plan}");
    let error = host["probe"]["error"].as_str().unwrap();
    let reply = deliver("a@strict.test").await["last_reply"].as_str().unwrap().to_owned();
    assert!(reply.contains(error), "{error} is not in {reply}");
    // Through the smart host of a tenant.
    let smart_host = json!({"smtp": {"host": "mx.b.test", "port": mx.address.port(), "tls": "none"}});
    server.control.ok("PATCH", &format!("/v1/tenants/{}", account.tenant_id), smart_host).await;
    let plan = explain("b.test", &format!("probe=true&tenant_id={}", account.tenant_id)).await;
    assert_eq!((&plan["route"], &plan["site"]), (&json!("smart_host"), &json!(null)), "{plan}");
    assert_eq!(explain("b.test", "").await["route"], "mx");
    let url = format!("http://{}", server.control.address);
    let environment = [("PILLARBOX_URL", url.as_str()), ("PILLARBOX_KEY", server.control.secret.as_str())];
    let (status, text) =
        program::status_of(&["doctor", "--to", "b.test", "--probe", "--tenant", "acme-test"], &environment)
            .await;
    assert!(status == Some(0) && text.contains("OK       mail could be sent, without TLS\n"), "{text}");
    let (status, text) = program::status_of(&["doctor", "--to", "null.test", "--quiet"], &environment).await;
    assert_eq!((status, text.as_str()), (Some(2), "PILLARBOX CRITICAL - mail to null.test\n"));
}

#[tokio::test]
async fn probes_of_silent_hosts_hold_up_no_others() {
    let (dns, mx, server) = crate::server::one_destination().await;
    let hosts: Vec<String> = (0..10).map(|number| format!("mx{number}.silent.test")).collect();
    hosts.iter().for_each(|host| dns.addresses(host, &[mx.address.ip()]));
    dns.mx("silent.test", &hosts.iter().map(|host| (10, host.as_str())).collect::<Vec<_>>());
    mx.script(Phase::Greeting, "", hosts.len(), Fault::Hang);
    let silent = server.control.get("/v1/destinations/silent.test?probe=true");
    let other = async {
        let all_connected = async || (mx.connections().len() == hosts.len()).then_some(());
        until("all its hosts are connected to", all_connected).await;
        server.control.get("/v1/destinations/b.test?probe=true").await
    };
    tokio::select! {
        plan = silent => panic!("its hosts do not answer: {plan}"),
        plan = other => assert_eq!(plan["hosts"][0]["probe"]["ready"], true, "{plan}"),
    }
}

/// The findings in the files of the checks.
fn kept_findings() -> Vec<Finding> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/doctor/golden");
    let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let texts: Vec<String> = files.map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let lines = texts.iter().flat_map(|text| text.lines()).filter(|line| line.starts_with('{'));
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_command_and_every_option_of_a_fix_exists() {
    let mut seen = 0;
    for finding in kept_findings() {
        let Some(command) = finding.fix.and_then(|fix| fix.command) else { continue };
        if command.starts_with("pillarbox ") {
            let words = shlex::split(&command).unwrap();
            let refused = Arguments::command().try_get_matches_from(words).err();
            assert!(refused.is_none(), "{}: {command}: {refused:?}", finding.id);
            seen += 1;
        } else if command.contains(" = ") && !command.contains("sport") {
            Config::parse(&command, Path::new("pillarbox.toml"))
                .unwrap_or_else(|error| panic!("{}: {error}", finding.id));
            seen += 1;
        }
    }
    assert!(seen > 10, "{seen}");
}

#[tokio::test]
async fn requests_for_extra_looks_share_a_run_and_leave_the_last_diagnosis() {
    let stage = ApiStage::start().await;
    let before = ask(&stage, &stage.platform, "/v1/doctor").await;
    assert_eq!(status_of(&before, "store.quick_check"), FindingStatus::Skipped);
    // The run that goes on takes seconds, so the others wait for it.
    stage.dns.silence("mail.host.example");
    let queries = stage.dns.queries("mail.host.example");
    let asked = ["deep", "dnsbl", "deep", "dnsbl", "deep", "deep"];
    let (ended, stage) = (&std::cell::Cell::new(0), &stage);
    let mut found = std::pin::pin!(futures_util::future::join_all(asked.map(|extra| async move {
        let found = ask(stage, &stage.platform, &format!("/v1/doctor?{extra}=true")).await;
        ended.set(ended.get() + 1);
        found
    })));
    let plain = async {
        let runs = async || (stage.dns.queries("mail.host.example") > queries).then_some(());
        until("a run looks", runs).await;
        ask(stage, &stage.platform, "/v1/doctor").await
    };
    tokio::select! {
        _ = &mut found => panic!("it waited for all runs"),
        plain = plain => assert_eq!((plain.at, ended.get()), (before.at, 0), "it waited for a run"),
    }
    let found = found.await;
    let read = |one: &Diagnosis| status_of(one, "store.quick_check") == FindingStatus::Ok;
    assert!(found.iter().zip(asked).all(|(found, extra)| read(found) == (extra == "deep")));
    let mut runs: Vec<Timestamp> = found.iter().map(|one| one.at).collect();
    runs.sort();
    runs.dedup();
    // The first one, and then one of each kind.
    assert!(runs.len() <= 3, "{runs:?}");
    assert_eq!(ask(stage, &stage.platform, "/v1/doctor").await.at, before.at);
}

#[tokio::test]
async fn a_damaged_database_is_an_error_of_the_deep_look() {
    let (_dns, _mx, mut server) = crate::server::one_destination().await;
    server.stop().await;
    let look = async |deep: bool| {
        let extra = Extra { deep, ..Extra::default() };
        let looked = diagnose_locally(&server.config, "pillarbox.toml".into(), None, extra, Timestamp::now());
        let found = looked.await.unwrap().findings.into_iter();
        found.filter(|one| one.id == "store.quick_check").map(|one| (one.status, one.text)).next().unwrap()
    };
    assert_eq!(look(true).await.0, FindingStatus::Ok);
    let file = crate::server::database_file(&server.config.data_dir);
    let mut octets = std::fs::read(&file).unwrap();
    let middle = octets.len() / 2;
    octets[middle..].fill(0xff);
    std::fs::write(&file, octets).unwrap();
    let (status, text) = look(true).await;
    assert_eq!(status, FindingStatus::Error, "{text}");
    assert!(text.starts_with("the database is damaged"), "{text}");
    assert_eq!(look(false).await.0, FindingStatus::Skipped);
}

#[tokio::test]
async fn mail_of_a_tenant_without_its_source_pool_leaves_from_nowhere() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("Acme").await;
    let target = format!("/v1/destinations/x.example?tenant_id={}", tenant.id);
    let sources = async || stage.get(&stage.platform, &target).await.expect(200)["sources"].clone();
    assert_eq!(sources().await, json!(["192.0.2.7"]));
    // The API of this test knows the pool, its relay does not.
    let path = format!("/v1/tenants/{}", tenant.id);
    stage.call(&stage.platform, "PATCH", &path, json!({"source_pool": "bulk"})).await.expect(200);
    assert_eq!(sources().await, json!(null));
}
