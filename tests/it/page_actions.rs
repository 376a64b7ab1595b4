//! What people do on the pages, through the forms that the pages have. The API shows the effect, and the audit log who did it.

use pillarbox::ui::snippets::{self, Account};
use serde_json::json;

use crate::api_stage::{ApiStage, text};
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
    let paused = visitor.submit(&refused, "pause", &[("reason", "looking")]).await;
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
    let flushed = visitor.submit(&asked, "flush", &[]).await;
    visitor.follow(&flushed).await.has("Flushed remote.example of acme");
    assert_eq!(operations(&stage).await[0], "flush_queue");
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
    assert_eq!(snippets::all(&account).len(), 14);
    for snippet in snippets::all(&account) {
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
