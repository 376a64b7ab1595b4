//! What people do on the pages, through the forms that the pages have. The API shows the effect, and the audit log who did it.

use std::net::{IpAddr, UdpSocket};

use pillarbox::config;
use pillarbox::mail::DomainName;
use pillarbox::model::{Environment, Scope};
use pillarbox::store::{Directory, RESTORED_US};
use pillarbox::ui::snippets::{self, Account};
use pillarbox::verification::{CheckReason, VerificationSettings, Verifier, ZoneServers};
use serde_json::json;

use crate::api_objects::Belongings;
use crate::api_stage::{ApiStage, text};
use crate::fake_dns::FakeDns;
use crate::page_visitor::{Visitor, unescape};

/// The operations of the audit log, the newest first.
async fn operations(stage: &ApiStage) -> Vec<String> {
    let entries = stage.get(&stage.platform, "/v1/audit?limit=100").await.expect(200);
    entries["data"].as_array().unwrap().iter().map(|entry| text(entry, "/operation")).collect()
}

#[tokio::test]
async fn a_site_is_paused_and_resumed_from_its_group_after_a_confirmation_that_counts() {
    let stage = ApiStage::start().await;
    let acme = stage.tenant("acme").await;
    for _ in 0..3 {
        stage.enqueue(acme.id).await;
    }
    let visitor = Visitor::sign_in(&stage, &stage.platform).await;
    let queue = Visitor::expect(visitor.get("/ui/queue").await);
    queue.has("remote.example");
    // The first form asks for any part; that of the group has its fields.
    let part = [("tenant_id", acme.id.to_string()), ("destination", "remote.example".to_owned())];
    let part: Vec<_> = part.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let asked = Visitor::expect(visitor.submit(&queue, "ask_pause", &part).await);
    asked.has("3 deliveries");
    asked.has("remote.example of acme");
    let pauses = async || stage.get(&stage.platform, "/v1/queue").await.expect(200)["pauses"].clone();
    assert_eq!(pauses().await, json!([]), "a question changes nothing");

    let refused =
        visitor.submit(&asked, "pause", &[("reason", "looking"), ("until", "2001-01-01T10:00")]).await;
    assert_eq!(refused.status, 422);
    refused.has("this must be in the future");
    refused.has("value=\"looking\"");
    let paused = visitor.submit(&refused, "pause", &[("until", "")]).await;
    visitor.follow(&paused).await.has("Paused: remote.example of acme.");
    let made = pauses().await;
    assert_eq!((&made[0]["destination"], &made[0]["reason"]), (&json!("remote.example"), &json!("looking")));
    assert_eq!(operations(&stage).await[0], "pause_queue");

    let queue = visitor.get("/ui/queue").await;
    queue.has("looking");
    let resumed = visitor.submit(&queue, "resume", &[]).await;
    visitor.follow(&resumed).await.has("Resumed: remote.example of acme.");
    assert_eq!(pauses().await, json!([]));
    assert_eq!(operations(&stage).await[0], "resume_queue");

    let asked = visitor.submit(&visitor.get("/ui/queue").await, "ask_flush", &part).await;
    asked.has("Scheduled mail keeps its time.");
    let flushed = visitor.submit(&asked, "flush", &[]).await;
    visitor.follow(&flushed).await.has("Flushed remote.example of acme");
    assert_eq!(operations(&stage).await[0], "flush_queue");
}

#[tokio::test]
async fn deliveries_of_a_restored_backup_are_released_from_the_queue() {
    let stage = ApiStage::start().await;
    let acme = stage.tenant("acme").await;
    stage.enqueue(acme.id).await;
    let restored = format!(
        "UPDATE delivery SET next_attempt_us = {RESTORED_US};
         INSERT INTO restoration (id, taken_us, restored_us, deliveries) VALUES (1, 1, 2, 1);"
    );
    stage.database().execute_batch(&restored).unwrap();
    let visitor = Visitor::sign_in(&stage, &stage.platform).await;
    let queue = visitor.get("/ui/queue").await;
    queue.has("Restored from a backup");
    queue.has("restored from the backup of 1970-01-01");
    let released = visitor.submit(&queue, "release", &[]).await;
    let queue = visitor.follow(&released).await;
    queue.has("Released 1 delivery.");
    queue.lacks("Restored from a backup");
    assert_eq!(operations(&stage).await[0], "resume_queue");
}

#[tokio::test]
async fn a_key_is_created_and_its_secret_shown_once() {
    let stage = ApiStage::start().await;
    let acme = stage.tenant("acme").await;
    stage.add_domain(acme.id, "own.example").await;
    let visitor = Visitor::sign_in(&stage, &acme.key).await;
    let form = Visitor::expect(visitor.get("/ui/keys?new=key").await);
    let refused = visitor
        .submit(&form, "create", &[("name", ""), ("scopes", "smtp:send"), ("allowed_cidrs", "everywhere")])
        .await;
    assert_eq!(refused.status, 422);
    refused.has("value=\"everywhere\"");
    refused.has("id=\"key-name-error\"");

    let typed = [
        ("name", "web shop"),
        ("environment", "live"),
        ("scopes", "smtp:send"),
        ("scopes", "emails:read"),
        ("allowed_cidrs", "192.0.2.0/24, 127.0.0.1"),
    ];
    let made = Visitor::expect(visitor.submit(&form, "create", &typed).await);
    let secret = made.text.split("<code>pb_live_").nth(1).unwrap().split('<').next().unwrap();
    let secret = format!("pb_live_{secret}");
    let keys = stage.get(&acme.key, "/v1/keys?limit=1").await.expect(200);
    let key = &keys["data"][0];
    assert_eq!((&key["name"], &key["scopes"]), (&json!("web shop"), &json!(["smtp:send", "emails:read"])));
    assert_eq!(key["allowed_cidrs"], json!(["192.0.2.0/24", "127.0.0.1/32"]));
    assert_eq!(stage.get(&secret, "/v1/emails").await.status, 200, "the secret on the page works");
    assert_eq!(operations(&stage).await[0], "create_key");
    let account = Account {
        host: "mail.host.example",
        port: 587,
        user: &text(key, "/id"),
        secret: &secret,
        sender: "hello@own.example",
    };
    for snippet in snippets::all(&account) {
        assert!(unescape(&made.text).contains(snippet.text.trim_end()), "{}", snippet.name);
    }

    for path in ["/ui/keys".to_owned(), format!("/ui/keys/{}", text(key, "/id"))] {
        let page = Visitor::expect(visitor.get(&path).await);
        page.has("web shop");
        page.lacks(&secret);
    }
    let page = visitor.get(&format!("/ui/keys/{}", text(key, "/id"))).await;
    let rotated = Visitor::expect(visitor.submit(&page, "rotate", &[("expires_in", "0")]).await);
    rotated.has("pb_live_");
    assert_eq!(stage.get(&secret, "/v1/emails").await.status, 401, "the old secret ended");
    let revoked = visitor.submit(&page, "revoke", &[]).await;
    visitor.follow(&revoked).await.has("Revoked: web shop.");
    assert_eq!(
        stage.get(&acme.key, &format!("/v1/keys/{}", text(key, "/id"))).await.expect(200)["status"],
        "revoked"
    );
}

#[tokio::test]
async fn a_session_sees_the_new_secret_of_its_own_key_though_the_old_one_ended() {
    let stage = ApiStage::start().await;
    let secret = stage.platform_key(|_| {}).await;
    let id = text(&stage.get(&secret, "/v1/me").await.expect(200), "/key/id");
    let visitor = Visitor::sign_in(&stage, &secret).await;
    let page = Visitor::expect(visitor.get(&format!("/ui/keys/{id}")).await);
    let rotated = visitor.submit(&page, "rotate", &[("expires_in", "0")]).await;
    assert_eq!(stage.get(&secret, "/v1/me").await.status, 401, "the old secret ended");
    assert_eq!(rotated.status, 200, "{}", rotated.text);
    let new = rotated.text.split("<code>pb_live_").nth(1).unwrap().split('<').next().unwrap();
    stage.get(&format!("pb_live_{new}"), "/v1/me").await.expect(200);
}

#[tokio::test]
async fn a_key_of_the_platform_is_made_only_if_the_platform_is_chosen() {
    let stage = ApiStage::start().await;
    let acme = stage.tenant("acme").await;
    stage.add_domain(acme.id, "own.example").await;
    let visitor = Visitor::sign_in(&stage, &stage.platform).await;
    let newest = async || stage.get(&stage.platform, "/v1/keys?limit=1").await.expect(200)["data"][0].clone();
    let form = Visitor::expect(visitor.get("/ui/keys?new=key").await);
    let refused = visitor.submit(&form, "create", &[("name", "shop")]).await;
    assert_eq!(refused.status, 422, "{}", refused.text);
    refused.has("id=\"key-tenant_id-error\"");
    refused.has("value=\"shop\"");
    assert_ne!(newest().await["name"], "shop");
    Visitor::expect(visitor.submit(&refused, "create", &[("tenant_id", "platform")]).await);
    let made = newest().await;
    assert_eq!((&made["name"], &made["tenant_id"]), (&json!("shop"), &json!(null)));

    // The keys of a tenant lead to a new key of the tenant, with its domains to choose from.
    let keys = visitor.get(&format!("/ui/keys?tenant_id={}", acme.id)).await;
    let form = Visitor::expect(visitor.get(&keys.link("/ui/keys?new=key")).await);
    form.has("own.example");
    Visitor::expect(visitor.submit(&form, "create", &[("name", "of acme")]).await);
    let made = newest().await;
    let acme_id = acme.id.to_string();
    assert_eq!(
        (&made["tenant_id"], &made["scopes"]),
        (&json!(acme_id), &json!(["smtp:send", "emails:send"]))
    );
}

#[tokio::test]
async fn the_sandbox_leads_to_a_new_test_key() {
    let stage = ApiStage::start().await;
    let acme = stage.tenant("acme").await;
    let visitor = Visitor::sign_in(&stage, &acme.key).await;
    let inbox = Visitor::expect(visitor.get("/ui/sandbox").await);
    inbox.has("pb_test_");
    let form = Visitor::expect(visitor.get(&inbox.link("/ui/keys?new=key")).await);
    let made = Visitor::expect(visitor.submit(&form, "create", &[("name", "trial")]).await);
    made.has("<code>pb_test_");
}

#[tokio::test]
async fn a_chip_and_a_search_keep_the_other_filters() {
    let stage = ApiStage::start().await;
    let acme = stage.tenant("acme").await;
    let visitor = Visitor::sign_in(&stage, &stage.platform).await;
    let of_tenant = format!("tenant_id={}", acme.id);
    let list = visitor.get(&format!("/ui/suppressions?reason=manual&{of_tenant}")).await;
    list.has(&format!("class=\"chip\" href=\"/ui/suppressions?{of_tenant}\""));
    list.has("class=\"chip\" href=\"/ui/suppressions?reason=manual\"");

    let filters = "metadata%5Border%5D=4711&created_after=2026-01-01T00%3A00%3A00Z";
    let list = Visitor::expect(visitor.get(&format!("/ui/messages?tag=shop&{filters}")).await);
    list.has("class=\"chip\" href=\"/ui/messages?created_after=2026-01-01T00:00:00Z&amp;tag=shop\"");
    list.has("<input type=\"hidden\" name=\"metadata[order]\" value=\"4711\">");
    list.has("<input type=\"hidden\" name=\"created_after\" value=\"2026-01-01T00:00:00Z\">");
}

#[tokio::test]
async fn a_domain_shows_its_records_and_is_verified_now() {
    let stage = ApiStage::start().await;
    let acme = stage.tenant("acme").await;
    let visitor = Visitor::sign_in(&stage, &acme.key).await;
    let list = Visitor::expect(visitor.get("/ui/domains").await);
    list.has("No domain yet");
    let refused = visitor.submit(&list, "create", &[("name", "localhost")]).await;
    assert_eq!(refused.status, 422);
    refused.has("value=\"localhost\"");
    refused.has("this must be a complete domain name");

    let added = visitor.submit(&list, "create", &[("name", "own.example")]).await;
    let page = visitor.follow(&added).await;
    let domain = stage.get(&acme.key, "/v1/domains").await.expect(200)["data"][0].clone();
    let records = domain["dns_records"].as_array().unwrap().clone();
    for record in &records {
        assert!(unescape(&page.text).contains(&text(record, "/value")), "{record}");
        page.has(&text(record, "/name"));
    }
    for record in &records[..2] {
        stage.dns.text(&text(record, "/name"), &text(record, "/value"));
    }
    let verified = visitor.submit(&page, "verify", &[]).await;
    let page = visitor.follow(&verified).await;
    page.has("Checked: own.example is verified.");
    page.has("2 records are right: Ownership, DKIM");
    page.has("data-refresh=\"10\"");
    assert_eq!(stage.get(&acme.key, "/v1/domains").await.expect(200)["data"][0]["status"], "verified");

    let rotated = visitor.submit(&page, "rotate", &[]).await;
    visitor.follow(&rotated).await.has("New keys are made.");
    let path = format!("/v1/domains/{}", text(&domain, "/id"));
    let keys = stage.get(&acme.key, &format!("{path}/dkim")).await.expect(200);
    assert_eq!(keys["data"].as_array().unwrap().len(), 2);
    let refused = visitor.submit(&page, "save", &[("mode", "nonsense"), ("subdomains", "false")]).await;
    assert!([400, 422].contains(&refused.status), "{}", refused.text);
    refused.has("<option value=\"false\" selected>");
    let saved = visitor.submit(&page, "save", &[("mode", "off"), ("subdomains", "false")]).await;
    visitor.follow(&saved).await.has("Saved.");
    let changed = stage.get(&acme.key, &path).await.expect(200);
    assert_eq!((&changed["subdomains"], &changed["return_path"]["mode"]), (&json!(false), &json!("off")));

    let kept = visitor.submit(&page, "delete", &[("confirm", "own.exampl")]).await;
    assert_eq!(kept.status, 422);
    kept.has("nothing was deleted");
    let deleted = visitor.submit(&page, "delete", &[("confirm", "own.example")]).await;
    visitor.follow(&deleted).await.has("Deleted: own.example.");
    assert_eq!(stage.get(&acme.key, &path).await.status, 404);
    let done = operations(&stage).await;
    for operation in ["create_domain", "rotate_dkim_keys", "update_domain", "delete_domain"] {
        assert!(done.iter().any(|one| one == operation), "{operation} in {done:?}");
    }
}

#[tokio::test]
async fn the_sandbox_domain_says_that_it_needs_no_record() {
    let stage = ApiStage::start().await;
    stage.add_sandbox_domain().await;
    let domains = stage.get(&stage.platform, "/v1/domains?name=sandbox.mail.host.example").await.expect(200);
    let visitor = Visitor::sign_in(&stage, &stage.platform).await;
    let page = Visitor::expect(visitor.get(&format!("/ui/domains/{}", text(&domains, "/data/0/id"))).await);
    page.has("test mail never leaves the server and needs no record");
    page.has("sandbox._domainkey.sandbox.mail.host.example");
    page.lacks("_pillarbox.sandbox");
    page.lacks("What is wrong");
}

#[tokio::test]
async fn a_record_that_only_the_name_servers_of_the_domain_have_says_so() {
    let stage = ApiStage::start().await;
    let acme = stage.tenant("acme").await;
    let made = stage.post(&acme.key, "/v1/domains", json!({"name": "own.example"})).await.expect(201);
    let record = made["dns_records"][0].clone();
    let name = text(&record, "/name");
    let own_servers = FakeDns::start().await;
    own_servers.text(&name, &text(&record, "/value"));
    own_servers.text("_dmarc.own.example", "v=DMARC1; p=none");
    stage.dns.name_servers("own.example", &["ns1.own.example"]);
    // All but one of its servers are silent.
    let addresses = [1, 2, 3, 4].map(|last| IpAddr::from([127, 0, 0, last]));
    let silent = |ip| UdpSocket::bind((ip, own_servers.address.port())).unwrap();
    let silent = [2, 3, 4].map(|last| silent(addresses[last - 1]));
    stage.dns.addresses("ns1.own.example", &addresses);

    let check = async |networks: &[&str], reason| {
        let networks = networks.iter().map(|network| network.parse().unwrap()).collect();
        let hostname = DomainName::parse("mail.host.example").unwrap();
        let settings = VerificationSettings {
            zone_servers: ZoneServers {
                port: own_servers.address.port(),
                allowed_private_networks: networks,
            },
            ..VerificationSettings::new(&config::Domains::default(), &hostname)
        };
        let verifier = Verifier {
            store: stage.store.clone(),
            resolver: stage.resolver.clone(),
            settings,
            clock: stage.clock.clone(),
            probes: Default::default(),
        };
        let domain = stage.store.domain(None, text(&made, "/id").parse().unwrap()).await.unwrap().unwrap();
        verifier.check(&domain, reason).await.unwrap();
        let path = format!("/v1/domains/{}", text(&made, "/id"));
        stage.get(&acme.key, &path).await.expect(200)["dns_records"].clone()
    };
    // The address is a private one.
    let records = check(&[], CheckReason::Request).await;
    assert_eq!((&records[0]["status"], &records[0]["hint"]), (&json!("missing"), &json!(null)));
    // Nobody waits.
    let records = check(&["127.0.0.0/8"], CheckReason::Interval).await;
    assert_eq!(records[0]["hint"], json!(null));
    assert_eq!(own_servers.queries(&name), 0);
    let records = check(&["127.0.0.0/8"], CheckReason::Request).await;
    assert_eq!(records[0]["status"], "missing");
    assert!(text(&records[0], "/hint").contains("have it already"), "{records}");
    assert_eq!((&records[1]["status"], &records[1]["hint"]), (&json!("missing"), &json!(null)));
    let policy = records.as_array().unwrap().iter().find(|record| record["name"] == "_dmarc.own.example");
    assert!(text(policy.unwrap(), "/hint").contains("have it already"), "{records}");
    let visitor = Visitor::sign_in(&stage, &acme.key).await;
    let page = Visitor::expect(visitor.get(&format!("/ui/domains/{}", text(&made, "/id"))).await);
    page.has("the name servers of the domain have it already");
    // All are silent. All are asked, once: the DNS library sends a query in at most three packets.
    stage.dns.addresses("ns1.own.example", &addresses[1..]);
    for server in &silent {
        packets(server);
    }
    let records = check(&["127.0.0.0/8"], CheckReason::Request).await;
    assert_eq!(records[0]["hint"], json!(null));
    let counts = silent.each_ref().map(packets);
    assert!(counts.iter().all(|count| (1..=3).contains(count)), "{counts:?}");
    // Resolvers have it now.
    stage.dns.text(&name, &text(&record, "/value"));
    let records = check(&["127.0.0.0/8"], CheckReason::Request).await;
    assert_eq!((&records[0]["status"], &records[0]["hint"]), (&json!("ok"), &json!(null)));
}

/// Takes the packets that came, and counts those about the record of ownership.
fn packets(server: &UdpSocket) -> usize {
    server.set_nonblocking(true).unwrap();
    let mut packet = [0; 512];
    let all = std::iter::from_fn(|| server.recv(&mut packet).ok().map(|octets| packet[..octets].to_vec()));
    all.filter(|packet| packet.windows(10).any(|part| part == b"_pillarbox")).count()
}

#[tokio::test]
async fn names_without_the_domain_are_shown_for_dns_forms() {
    let stage = ApiStage::start().await;
    let acme = stage.tenant("acme").await;
    let made = stage.post(&acme.key, "/v1/domains", json!({"name": "own.example"})).await.expect(201);
    let visitor = Visitor::sign_in(&stage, &acme.key).await;
    let path = format!("/ui/domains/{}", text(&made, "/id"));
    let whole = visitor.get(&path).await;
    whole.has("<code>_pillarbox.own.example</code>");
    let short = visitor.get(&whole.link(&format!("{path}?names=short"))).await;
    short.has("<code>_pillarbox</code>");
    short.has("<code>@</code>");
    short.lacks("<code>_pillarbox.own.example</code>");
    let zone = visitor.get(&format!("{path}?names=zone")).await;
    zone.has("_pillarbox.own.example. 3600 IN TXT &quot;pillarbox-verify=");
}

#[test]
fn every_snippet_names_host_port_and_key() {
    let account = Account {
        host: "mail.example.com",
        port: 2587,
        user: "key_01",
        secret: "pb_live_secret",
        sender: "shop@acme.example",
    };
    let written: String = snippets::all(&account)
        .iter()
        .map(|snippet| {
            format!("== {} ({}): {}\n{}\n", snippet.name, snippet.title, snippet.place, snippet.text)
        })
        .collect();
    let names: Vec<_> = snippets::all(&account).iter().map(|snippet| snippet.name).collect();
    assert_eq!(names, snippets::NAMES);
    assert_eq!(names.len(), 14);
    for snippet in snippets::all(&account) {
        assert!(snippet.text.ends_with('\n'), "{}", snippet.name);
        for part in ["mail.example.com", "2587", "key_01", "pb_live_secret"] {
            assert!(snippet.text.contains(part), "{}: {part}", snippet.name);
        }
    }
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/snippets_golden.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(golden, &written).unwrap();
    }
    assert_eq!(written, std::fs::read_to_string(golden).unwrap());
}

#[tokio::test]
async fn a_tenant_is_created_changed_and_deleted_only_with_its_slug() {
    let stage = ApiStage::start().await;
    let visitor = Visitor::sign_in(&stage, &stage.platform).await;
    let form = Visitor::expect(visitor.get("/ui/tenants?new=tenant").await);
    let refused = visitor.submit(&form, "create", &[("name", "Acme"), ("slug", "Not A Slug")]).await;
    assert_eq!(refused.status, 422);
    refused.has("value=\"Not A Slug\"");
    refused.has("id=\"tenant-slug-error\"");
    let typed =
        [("name", "Acme"), ("slug", "acme"), ("domain", "own.example"), ("rate_limit.emails_per_day", "500")];
    let page = visitor.follow(&visitor.submit(&form, "create", &typed).await).await;
    page.has("Created: Acme.");
    let tenant = stage.get(&stage.platform, "/v1/tenants?slug=acme").await.expect(200)["data"][0].clone();
    assert_eq!(tenant["rate_limit"]["emails_per_day"], 500);
    let path = format!("/v1/tenants/{}", text(&tenant, "/id"));
    let read = async || stage.get(&stage.platform, &path).await.expect(200);

    let here = format!("/ui/tenants/{}", text(&tenant, "/id"));
    let save = async |action: &str, typed: &[(&str, &str)]| {
        visitor.submit(&Visitor::expect(visitor.get(&here).await), action, typed).await
    };
    let refused =
        save("save_limits", &[("rate_limit.emails_per_day", "many"), ("rate_limit.emails_per_hour", "70")])
            .await;
    assert_eq!(refused.status, 422);
    refused.has("value=\"many\"");
    refused.has("value=\"70\"");
    assert_eq!(save("save_limits", &[("rate_limit.emails_per_hour", "70")]).await.status, 303);
    assert_eq!(read().await["rate_limit"]["emails_per_hour"], 70);
    assert_eq!(read().await["rate_limit"]["emails_per_day"], 500, "an untouched field stays");
    assert_eq!(save("save_limits", &[("rate_limit.emails_per_day", "")]).await.status, 303);
    let limits = read().await["rate_limit"].clone();
    assert_eq!(limits["emails_per_day"], json!(null), "an empty field is no limit");
    assert_eq!(limits["emails_per_hour"], 70);
    let mail = [
        ("name", "Acme Ltd"),
        ("settings.from_name", "Shop"),
        ("settings.apply_to_smtp", "false"),
        ("settings.delivery_reports", "event"),
    ];
    assert_eq!(save("save_mail", &mail).await.status, 303);
    let settings = read().await["settings"].clone();
    assert_eq!((&settings["from_name"], &settings["apply_to_smtp"]), (&json!("Shop"), &json!(false)));
    assert_eq!(
        save("save_brand", &[("settings.brand.name", "Acme Mail"), ("settings.brand.color", "#0b57a4")])
            .await
            .status,
        303
    );
    assert_eq!(read().await["settings"]["brand"], json!({"name": "Acme Mail", "color": "#0b57a4"}));
    assert_eq!(save("save_brand", &[]).await.status, 303);
    assert_eq!(read().await["settings"]["brand"], json!({"name": "Acme Mail", "color": "#0b57a4"}));
    let no_brand = [("settings.brand.name", ""), ("settings.brand.color", "")];
    assert_eq!(save("save_brand", &no_brand).await.status, 303);
    assert_eq!(read().await["settings"]["brand"], json!(null));
    let smart_host = [
        ("smtp.host", "smtp.example.net"),
        ("smtp.tls", "starttls"),
        ("smtp.user", "u"),
        ("smtp.pass", "hidden word"),
        ("smtp.dkim", "all"),
    ];
    assert_eq!(save("save_smart_host", &smart_host).await.status, 303);
    let page = visitor.get(&here).await;
    page.has("value=\"smtp.example.net\"");
    page.lacks("hidden word");
    let smtp = read().await["smtp"].clone();
    assert_eq!(smtp["user"], "u");
    let brakes = [
        ("settings.brakes.bounce_rate", "0.05"),
        ("settings.brakes.complaint_rate", "0.003"),
        ("settings.brakes.window", "48h"),
        ("settings.brakes.action", "notify"),
    ];
    assert_eq!(save("save_brakes", &brakes).await.status, 303);
    let expected = json!({
        "bounce_rate": 0.05, "complaint_rate": 0.003, "window": "48h", "min_recipients": 100, "action": "notify",
    });
    assert_eq!(read().await["settings"]["brakes"], expected);
    let refused = save("save_brakes", &[("settings.brakes.bounce_rate", "much")]).await;
    assert!([400, 422].contains(&refused.status), "{}", refused.text);
    refused.has("id=\"save_brakes-settings.brakes.bounce_rate-error\"");
    refused.has("value=\"much\"");
    let ramp = [
        ("rate_limit.ramp.start", "50"),
        ("rate_limit.ramp.factor", "1.5"),
        ("rate_limit.ramp.until", "10000"),
    ];
    assert_eq!(save("save_ramp", &ramp[..]).await.status, 303);
    let made = read().await["rate_limit"]["ramp"].clone();
    assert_eq!((&made["start"], &made["factor"], &made["until"]), (&json!(50), &json!(1.5), &json!(10000)));
    let soft = [("settings.soft_bounces.messages", "5"), ("settings.soft_bounces.days", "7")];
    assert_eq!(save("save_soft_bounces", &soft[..]).await.status, 303);
    assert_eq!(read().await["settings"]["soft_bounces"], json!({"messages": 5, "days": 7}));
    for action in [
        "save_smart_host",
        "save_mail",
        "save_brand",
        "save_limits",
        "save_platform",
        "save_brakes",
        "save_ramp",
        "save_soft_bounces",
    ] {
        let before = read().await;
        assert_eq!(save(action, &[]).await.status, 303);
        let (mut before, mut after) = (before, read().await);
        for tenant in [&mut before, &mut after] {
            tenant["updated_at"] = json!(null);
        }
        assert_eq!(after, before, "{action} without a change");
    }
    let empty =
        |fields: &[(&'static str, &str)]| fields.iter().map(|(name, _)| (*name, "")).collect::<Vec<_>>();
    for (action, fields) in
        [("save_brakes", &brakes[..2]), ("save_ramp", &ramp[..]), ("save_soft_bounces", &soft[..])]
    {
        assert_eq!(save(action, &empty(fields)).await.status, 303);
    }
    let tenant = read().await;
    for removed in ["/settings/brakes", "/rate_limit/ramp", "/settings/soft_bounces"] {
        assert_eq!(tenant.pointer(removed), Some(&json!(null)), "{removed}");
    }
    assert_eq!(save("save_smart_host", &[("smtp.host", "")]).await.status, 303);
    assert_eq!(read().await["smtp"], json!(null));
    assert_eq!(
        save("save_platform", &[("slug", "acme"), ("weight", "7"), ("external_ref", "4711")]).await.status,
        303
    );
    assert_eq!((&read().await["weight"], &read().await["external_ref"]), (&json!(7), &json!("4711")));

    assert_eq!(save("suspend", &[]).await.status, 303);
    assert_eq!(read().await["status"], "suspended");
    assert_eq!(save("activate", &[]).await.status, 303);
    assert_eq!(read().await["status"], "active");

    let asked = Visitor::expect(save("ask_delete", &[]).await);
    asked.has("<dt>domains</dt><dd>1</dd>");
    let kept = visitor.submit(&asked, "delete", &[("confirm", "acme-2")]).await;
    assert_eq!(kept.status, 422);
    kept.has("nothing was deleted");
    read().await;
    let deleted = visitor.submit(&asked, "delete", &[("confirm", "acme")]).await;
    visitor.follow(&deleted).await.has("Deleted: Acme Ltd.");
    assert_eq!(stage.get(&stage.platform, &path).await.status, 404);
    let done = operations(&stage).await;
    for operation in ["create_tenant", "update_tenant", "delete_tenant"] {
        assert!(done.iter().any(|one| one == operation), "{operation} in {done:?}");
    }
}

#[tokio::test]
async fn the_platform_opens_the_pages_of_a_tenant_and_a_tenant_changes_its_own_settings_only() {
    let stage = ApiStage::start().await;
    let acme = stage.tenant("acme").await;
    let here = format!("/ui/tenants/{}", acme.id);
    let platform = Visitor::sign_in(&stage, &stage.platform).await;
    let opened = platform.submit(&platform.get(&here).await, "open", &[]).await;
    let location = opened.location.unwrap();
    assert!(location.starts_with("/ui/sign-in#"), "{location}");
    let as_tenant = Visitor::open_link(&stage, &location).await;
    assert_eq!(as_tenant.get("/ui/queue").await.status, 404);
    Visitor::expect(as_tenant.get("/ui/keys?new=key").await).lacks("name=\"tenant_id\"");

    let tenant = Visitor::sign_in(&stage, &acme.key).await;
    let page = Visitor::expect(tenant.get(&here).await);
    for action in [
        "save_limits",
        "save_platform",
        "save_smart_host",
        "save_brakes",
        "save_ramp",
        "suspend",
        "ask_delete",
        "open",
    ] {
        page.lacks(&format!("value=\"{action}\""));
    }
    let saved = tenant
        .submit(&page, "save_mail", &[("name", "Acme Ltd"), ("settings.delivery_reports", "mail")])
        .await;
    assert_eq!(saved.status, 303);
    // The form of the platform, sent by hand: the API decides.
    let refused =
        tenant.submit(&page, "save_mail", &[("do", "save_limits"), ("rate_limit.emails_per_day", "7")]).await;
    assert_eq!(refused.status, 403, "{}", refused.text);
    let now = stage.get(&stage.platform, &format!("/v1/tenants/{}", acme.id)).await.expect(200);
    assert_eq!((&now["name"], &now["rate_limit"]["emails_per_day"]), (&json!("Acme Ltd"), &json!(null)));
}

#[tokio::test]
async fn a_webhook_is_tested_and_a_delivery_replayed() {
    let stage = ApiStage::start().await;
    let acme = stage.tenant("acme").await;
    let visitor = Visitor::sign_in(&stage, &acme.key).await;
    let form = Visitor::expect(visitor.get("/ui/webhooks?new=webhook").await);
    let refused = visitor.submit(&form, "create", &[("url", "ftp://acme.example")]).await;
    assert_eq!(refused.status, 422);
    refused.has("value=\"ftp://acme.example\"");
    let made = Visitor::expect(
        visitor
            .submit(&form, "create", &[("url", "https://acme.example/hooks"), ("events", "message.bounced")])
            .await,
    );
    made.has("whsec_");
    let webhook = stage.get(&acme.key, "/v1/webhooks").await.expect(200)["data"][0].clone();
    assert_eq!(webhook["events"], json!(["message.bounced"]));
    let here = made.link("/ui/webhooks/whk_");
    let page = Visitor::expect(visitor.get(&here).await);
    page.lacks("whsec_");
    let tested = visitor.submit(&page, "test", &[]).await;
    let page = visitor.follow(&tested).await;
    page.has("A test event is on its way.");
    page.has("webhook.test");
    let delivery = Visitor::expect(visitor.get(&page.link("/ui/webhooks/deliveries/")).await);
    delivery.has("webhook.test");
    let replayed = visitor.submit(&delivery, "replay", &[]).await;
    visitor.follow(&replayed).await.has("It is posted again");
    assert_eq!(visitor.submit(&page, "save", &[("url", "https://acme.example/other")]).await.status, 303);
    let rotated = Visitor::expect(visitor.submit(&page, "rotate", &[]).await);
    rotated.has("whsec_");
    let path = format!("/v1/webhooks/{}", text(&webhook, "/id"));
    let read = async || stage.get(&acme.key, &path).await.expect(200);
    assert_eq!(
        (&read().await["url"], &read().await["events"]),
        (&json!("https://acme.example/other"), &json!(["message.bounced"]))
    );
    assert_eq!(visitor.submit(&page, "save", &[("events", "")]).await.status, 303);
    assert_eq!(read().await["events"], json!([]));
    assert_eq!(visitor.submit(&page, "disable", &[]).await.status, 303);
    assert_eq!(read().await["status"], "disabled");
    let page = visitor.get(&here).await;
    let refused = visitor.submit(&delivery, "replay", &[]).await;
    assert_eq!(refused.status, 409);
    refused.has("The webhook is disabled");
    assert_eq!(visitor.submit(&page, "enable", &[]).await.status, 303);
    assert_eq!(read().await["status"], "enabled");
    assert_eq!(visitor.submit(&page, "delete", &[]).await.status, 303);
    assert_eq!(stage.get(&acme.key, &path).await.status, 404);
    let done = operations(&stage).await;
    for operation in [
        "create_webhook",
        "test_webhook",
        "replay_webhook_delivery",
        "rotate_webhook_secret",
        "update_webhook",
        "delete_webhook",
    ] {
        assert!(done.iter().any(|one| one == operation), "{operation} in {done:?}");
    }
}

#[tokio::test]
async fn a_suppression_shows_its_evidence_and_is_lifted() {
    let stage = ApiStage::start().await;
    let acme = stage.tenant("acme").await;
    let visitor = Visitor::sign_in(&stage, &acme.key).await;
    let list = Visitor::expect(visitor.get("/ui/suppressions").await);
    list.has("Nobody is suppressed");
    let refused =
        visitor.submit(&list, "create", &[("address", "nobody"), ("evidence", "asked by phone")]).await;
    assert_eq!(refused.status, 422, "{}", refused.text);
    refused.has("value=\"asked by phone\"");
    let made = visitor
        .submit(
            &list,
            "create",
            &[("address", "old@x.example"), ("evidence", "550 5.1.1 <gone>"), ("list", "news")],
        )
        .await;
    let list = visitor.follow(&made).await;
    list.has("Suppressed: old@x.example.");
    list.has("550 5.1.1 &lt;gone&gt;");
    list.has("list news");
    let found = visitor.get("/ui/suppressions?address=other@x.example").await;
    found.has("Nothing matches");
    let page = Visitor::expect(visitor.get(&list.link("/ui/suppressions/sup_")).await);
    page.has("550 5.1.1 &lt;gone&gt;");
    let lifted = visitor.submit(&page, "lift", &[]).await;
    visitor.follow(&lifted).await.has("Lifted: old@x.example.");
    assert_eq!(stage.get(&acme.key, "/v1/suppressions").await.expect(200)["data"], json!([]));
    assert_eq!(operations(&stage).await[..2], ["lift_suppression", "suppress"]);
}

#[tokio::test]
async fn the_selected_messages_are_tried_again_or_cancelled() {
    let stage = ApiStage::start().await;
    let acme = stage.tenant("acme").await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(stage.enqueue(acme.id).await.to_string());
    }
    let visitor = Visitor::sign_in(&stage, &acme.key).await;
    let list = Visitor::expect(visitor.get("/ui/messages?status=queued&to=remote.example").await);
    for id in &ids {
        list.has(&format!("form=\"bulk\" name=\"ticked\" value=\"{id}\""));
    }
    assert_eq!(visitor.submit(&list, "cancel", &[]).await.status, 422, "nothing is selected");
    let ticked: Vec<_> = ids[..2].iter().map(|id| ("ticked", id.as_str())).collect();
    let retried = visitor.submit(&list, "retry", &ticked).await;
    assert_eq!(retried.location.as_deref(), Some("/ui/messages?status=queued&to=remote.example"));
    visitor.follow(&retried).await.has("Tried again now:");
    let cancelled = visitor.submit(&list, "cancel", &ticked).await;
    visitor.follow(&cancelled).await.has("Cancelled: 2\u{a0}deliveries.");
    let status = async |id: &str| {
        text(&stage.get(&acme.key, &format!("/v1/emails/{id}")).await.expect(200), "/status")
    };
    let mut states = Vec::new();
    for id in &ids {
        states.push(status(id).await);
    }
    assert_eq!(states, ["cancelled", "cancelled", "queued", "queued"]);

    // One is finished meanwhile; the other one is done.
    let ticked: Vec<_> = ids[1..3].iter().map(|id| ("ticked", id.as_str())).collect();
    let partly = visitor.follow(&visitor.submit(&list, "cancel", &ticked).await).await;
    partly.has("Cancelled: 1\u{a0}delivery. Refused: 1. All deliveries of this message are finished.");
    let refused = visitor.submit(&list, "cancel", &ticked).await;
    assert_eq!(refused.status, 409);
    refused.has("All deliveries of this message are finished.");
    // Only what waits can be selected.
    let list = visitor.get("/ui/messages").await;
    assert_eq!(list.text.matches("name=\"ticked\"").count(), 1);
    list.has(&format!("value=\"{}\"", ids[3]));
    assert_eq!(operations(&stage).await[..2], ["cancel_email", "cancel_email"]);

    let reader = stage.key(acme.id, &[Scope::EmailsRead], |_| {}).await;
    let reader = Visitor::sign_in(&stage, &reader).await;
    reader.get("/ui/messages").await.lacks("name=\"ticked\"");
}

#[tokio::test]
async fn the_selected_suppressions_are_lifted() {
    let stage = ApiStage::start().await;
    let acme = stage.tenant("acme").await;
    let suppress = async |key: &str, body: serde_json::Value| {
        text(&stage.post(key, "/v1/suppressions", body).await.expect(201), "/id")
    };
    let first = suppress(&acme.key, json!({"address": "one@x.example"})).await;
    let second = suppress(&acme.key, json!({"address": "two@x.example"})).await;
    let kept = suppress(&acme.key, json!({"address": "three@x.example"})).await;
    let of_all = suppress(&stage.platform, json!({"address": "all@x.example"})).await;
    let visitor = Visitor::sign_in(&stage, &acme.key).await;
    let list = Visitor::expect(visitor.get("/ui/suppressions?reason=manual").await);
    let boxed = |id: &str| format!("name=\"ticked\" value=\"{id}\"");
    for id in [&first, &second, &kept] {
        list.has(&boxed(id));
    }
    let lifted =
        visitor.submit(&list, "lift", &[("ticked", first.as_str()), ("ticked", second.as_str())]).await;
    assert_eq!(lifted.location.as_deref(), Some("/ui/suppressions?reason=manual"));
    let list = visitor.follow(&lifted).await;
    list.has("Lifted: 2\u{a0}suppressions.");
    list.has("three@x.example");
    list.lacks("two@x.example");
    assert_eq!(operations(&stage).await[..2], ["lift_suppression", "lift_suppression"]);
    let partly =
        visitor.submit(&list, "lift", &[("ticked", of_all.as_str()), ("ticked", kept.as_str())]).await;
    visitor.follow(&partly).await.has("Lifted: 1\u{a0}suppression. Refused: 1.");
    stage.get(&stage.platform, &format!("/v1/suppressions/{of_all}")).await.expect(200);
}

#[tokio::test]
async fn a_template_is_previewed_in_a_frame_without_rights() {
    let stage = ApiStage::start().await;
    let acme = stage.tenant("acme").await;
    let visitor = Visitor::sign_in(&stage, &acme.key).await;
    let form = Visitor::expect(visitor.get("/ui/templates?new=template").await);
    let typed = [
        ("name", "welcome"),
        ("subject", "Hi {{ name }}"),
        ("text", "Hello\r\n{{ name }}"),
        ("html", "<script>alert(1)</script><p>{{ name }}</p>"),
    ];
    let refused = visitor
        .submit(&form, "create", &[("name", "welcome"), ("subject", "{{ name"), ("text", "kept")])
        .await;
    assert_eq!(refused.status, 422);
    refused.has("kept</textarea>");
    refused.has("id=\"template-subject-error\"");
    let made = visitor.submit(&form, "create", &typed).await;
    let page = visitor.follow(&made).await;
    page.has("Created: welcome.");
    let here = made.location.clone().unwrap();
    let rendered = Visitor::expect(visitor.get(&format!("{here}?data=%7B%22name%22%3A%22A%26B%22%7D")).await);
    rendered.has("Hi A&amp;B");
    rendered.has("<iframe sandbox=\"\" src=\"/ui/templates/");
    rendered.lacks("<script>alert");
    let frame = visitor.get(&rendered.link_of_frame()).await;
    assert!(frame.header("content-security-policy").unwrap().starts_with("sandbox; default-src 'none'"));
    frame.has("<p>A&amp;B</p>");
    let broken = visitor.get(&format!("{here}?data=nonsense")).await;
    broken.has("the data is no JSON object");

    let path = here.replace("/ui/", "/v1/");
    let whole = "  a <b>\n\nb\n-- \n";
    stage.patch(&acme.key, &path, json!({"text": whole})).await.expect(200);
    let shown = visitor.get(&here).await;
    assert_eq!(visitor.submit(&shown, "save", &[]).await.status, 303);
    assert_eq!(stage.get(&acme.key, &path).await.expect(200)["text"], whole, "a save without a change");
    let refused = visitor.submit(&shown, "save", &[("subject", "{{ name")]).await;
    assert_eq!(refused.status, 422);
    refused.has("\n  a &lt;b&gt;");
    assert_eq!(visitor.submit(&refused, "save", &[("subject", "Ha")]).await.status, 303);
    assert_eq!(
        stage.get(&acme.key, &path).await.expect(200)["text"],
        whole,
        "a refusal keeps what was typed"
    );

    let saved = visitor
        .submit(&page, "save", &[("name", "welcome"), ("subject", "Ho"), ("text", "only text"), ("html", "")])
        .await;
    assert_eq!(saved.status, 303);
    let template = stage.get(&acme.key, &here.replace("/ui/", "/v1/")).await.expect(200);
    assert_eq!((&template["subject"], &template["html"]), (&json!("Ho"), &json!(null)));
    assert_eq!(visitor.submit(&page, "delete", &[]).await.status, 303);
    assert_eq!(operations(&stage).await[..2], ["delete_template", "update_template"]);
}

#[tokio::test]
async fn a_ban_is_lifted() {
    let stage = ApiStage::start().await;
    let visitor = Visitor::sign_in(&stage, &stage.platform).await;
    visitor.get("/ui/bans").await.has("Nobody is banned");
    for user in ["anna", "berta", "clara"] {
        stage.bans.record_failure("192.0.2.9".parse().unwrap(), user, stage.clock.now());
    }
    let page = Visitor::expect(visitor.get("/ui/bans").await);
    let listed = stage.get(&stage.platform, "/v1/bans").await.expect(200)["data"].as_array().unwrap().len();
    assert!(listed > 0);
    page.has("failed login");
    let lifted = visitor.submit(&page, "lift", &[]).await;
    visitor.follow(&lifted).await.has("Lifted: ");
    assert_eq!(
        stage.get(&stage.platform, "/v1/bans").await.expect(200)["data"].as_array().unwrap().len(),
        listed - 1
    );
    assert_eq!(operations(&stage).await[0], "lift_ban");
}

#[tokio::test]
async fn what_happened_is_found_by_filters_and_by_the_reference_of_a_refusal() {
    let stage = ApiStage::start().await;
    let belongings = Belongings::make(&stage, "acme").await;
    let visitor = Visitor::sign_in(&stage, &belongings.tenant.key).await;
    let found = visitor.get(&format!("/ui/rejections?reference={}", belongings.rejection)).await;
    let page = visitor.follow(&found).await;
    assert_eq!(page.status, 200, "{}", page.text);
    page.has(&belongings.rejection);
    page.has("/docs/errors#");
    visitor.get("/ui/rejections").await.has(&belongings.rejection);

    let report =
        Visitor::expect(visitor.get(&visitor.get("/ui/reports").await.link("/ui/reports/rpt_")).await);
    report.has("auto reply");
    report.has(&belongings.email);
    let raw = visitor.get(&report.link(&format!("/ui/reports/{}?format=raw", belongings.report))).await;
    assert!(raw.header("content-disposition").unwrap().starts_with("attachment"));
    raw.has("Subject: away");

    let events = Visitor::expect(visitor.get("/ui/events?type=message.accepted").await);
    events.has(&format!("/ui/messages/{}", belongings.email));
    events.lacks("<code>domain.created</code>");
    visitor.get("/ui/events").await.has("<code>domain.created</code>");
}

#[tokio::test]
async fn the_sandbox_inbox_shows_mail_of_test_keys_and_reads_it() {
    let stage = ApiStage::start().await;
    stage.add_sandbox_domain().await;
    let acme = stage.tenant("acme").await;
    let test_key = stage.key(acme.id, Scope::ALL, |key| key.environment = Environment::Test).await;
    let visitor = Visitor::sign_in(&stage, &acme.key).await;
    visitor.get("/ui/sandbox").await.has("No test message yet");
    let message = json!({
        "from": "hello@sandbox.mail.host.example", "to": ["you@x.example"], "subject": "Trial <1>",
        "text": "plain words", "html": "<b>rich words</b>",
    });
    stage.post(&test_key, "/v1/emails", message).await.expect(202);
    let inbox = Visitor::expect(visitor.get("/ui/sandbox").await);
    inbox.has("Trial &lt;1&gt;");
    let read = Visitor::expect(visitor.get(&inbox.link("/ui/sandbox?message=")).await);
    read.has("<iframe class=\"tablet\" sandbox=\"\"");
    let text =
        Visitor::expect(visitor.get(&format!("{}&part=text", inbox.link("/ui/sandbox?message="))).await);
    text.has("plain words");
    text.lacks("rich words");
    let phone = visitor.get(&format!("{}&width=phone", inbox.link("/ui/sandbox?message="))).await;
    phone.has("<iframe class=\"phone\"");
    let headers = visitor.get(&format!("{}&part=headers", inbox.link("/ui/sandbox?message="))).await;
    headers.has("DKIM-Signature");
}
