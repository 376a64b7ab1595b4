//! Archived tenants: nothing is sent, everything can be read, and they are deleted only after their date.

use std::time::Duration;

use pillarbox::mail::SignedDuration;
use serde_json::{Value, json};

use crate::api_objects::{Belongings, body, operations};
use crate::api_stage::ApiStage;
use crate::fake_mx::{Fault, Phase};
use crate::page_visitor::Visitor;
use crate::server::{RETRY_DELAY_MAX, message, one_destination};

const DAY: Duration = Duration::from_secs(24 * 3600);

#[tokio::test]
async fn the_keys_of_an_archived_tenant_read_everything_and_change_nothing() {
    let stage = ApiStage::start().await;
    let own = Belongings::make(&stage, "own").await;
    let path = format!("/v1/tenants/{}", own.tenant.id);
    let archived = stage.patch(&stage.platform, &path, json!({"status": "archived"})).await.expect(200);
    assert!(archived["archived_at"].is_string() && archived["deletable_at"].is_null(), "{archived}");
    let (mut read, mut refused) = (0, 0);
    for (route, operation) in operations() {
        let body = body(route, operation, None);
        let answer = stage.call(&own.tenant.key, operation.method.as_str(), &own.path(route), body).await;
        if operation.reads() {
            let is_refused = answer.status == 403 && answer.json()["error"]["code"] == "tenant_archived";
            assert!(!is_refused, "{}: {answer}", route.path);
            read += usize::from(answer.status == 200);
        } else {
            answer.expect_error(403, "tenant_archived");
            refused += 1;
        }
    }
    assert!(read > 20 && refused > 20, "{read} read, {refused} refused");
    own.look(&stage).await;
    stage.patch(&stage.platform, &path, json!({"status": "active"})).await.expect(200);
    stage.post(&own.tenant.key, "/v1/suppressions", json!({"address": "b@x.example"})).await.expect(201);
}

#[tokio::test]
async fn the_mail_of_an_archived_tenant_waits_and_goes_on_when_it_is_active_again() {
    let (_dns, mx, mut server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    let other = server.create_account("other.test").await;
    mx.script(Phase::Rcpt, "", 1, Fault::Reply("451 4.3.0 later"));
    let held = server.submit(&account, &["held@b.test"], &message(&account, "held")).await;
    server.wait_for_status(&held, &["deferred"]).await;

    let mut client = server.log_in(&account).await;
    let tenant = format!("/v1/tenants/{}", account.tenant_id);
    server.control.ok("PATCH", &tenant, json!({"status": "archived"})).await;
    client.command("MAIL FROM:<alice@acme.test>").await.expect_saying(550, "[tenant_archived]");
    drop(client);
    let mut client = server.connect().await;
    let refused = client.auth_plain(&account.user, &account.secret).await;
    refused.expect_saying(535, "5.7.8 [tenant_archived] tenant acme-test is archived");
    drop(client);

    // Also after a restart, which reads the tenants that do not send from the database.
    server.restart(|_| {}).await;
    server.clock.advance(RETRY_DELAY_MAX);
    let id = server.submit(&other, &["bob@b.test"], &message(&other, "other")).await;
    server.wait_for_status(&id, &["delivered"]).await;
    assert_eq!(mx.transactions().len(), 1, "only the other tenant's: {:?}", mx.transactions());
    let queue = server.control.get(&format!("/v1/queue?tenant_id={}", account.tenant_id)).await;
    let reason = &queue["data"][0]["reasons"][0];
    assert_eq!(reason["detail"], "the tenant is archived", "{queue}");
    let found = server.control.get("/v1/doctor?refresh=true").await;
    let mut findings = found["findings"].as_array().unwrap().iter();
    let age = findings.find(|finding| finding["id"] == "queue.age").unwrap();
    assert_eq!(age["status"], "ok", "{age}");

    server.control.ok("PATCH", &tenant, json!({"status": "active"})).await;
    server.wait_for_status(&held, &["delivered"]).await;
}

#[tokio::test]
async fn an_archived_tenant_is_deleted_only_after_its_date() {
    let stage = ApiStage::start().await;
    let acme = stage.tenant("acme").await;
    let path = format!("/v1/tenants/{}", acme.id);
    let at = stage.clock.now() + SignedDuration::from_hours(24);
    let of_active = stage.patch(&stage.platform, &path, json!({"deletable_at": at})).await;
    assert_eq!(of_active.expect_error(422, "validation_failed")["errors"][0]["path"], "deletable_at");
    let own = stage.patch(&acme.key, &path, json!({"deletable_at": at})).await;
    own.expect_error(403, "platform_key_required");

    let archive = json!({"status": "archived", "deletable_at": at});
    let archived = stage.patch(&stage.platform, &path, archive.clone()).await.expect(200);
    assert_eq!(archived["deletable_at"], json!(at));
    stage.delete(&stage.platform, &path).await.expect_error(409, "not_deletable_yet");
    stage.delete(&stage.platform, &format!("{path}?dry_run=true")).await.expect(200);
    stage.get(&acme.key, &path).await.expect(200);

    let active = stage.patch(&stage.platform, &path, json!({"status": "active"})).await.expect(200);
    assert_eq!((&active["archived_at"], &active["deletable_at"]), (&Value::Null, &Value::Null));
    stage.patch(&stage.platform, &path, archive).await.expect(200);
    let events = stage.get(&stage.platform, "/v1/events?type=tenant.archived").await.expect(200);
    assert_eq!(events["data"][0]["data"]["deletable_at"], json!(at), "{events}");
    assert_eq!(events["data"].as_array().map(Vec::len), Some(2));

    stage.clock.advance(2 * DAY);
    stage.delete(&stage.platform, &path).await.expect(200);
    stage.get(&stage.platform, &path).await.expect_error(404, "not_found");
}

#[tokio::test]
async fn the_domains_of_an_archived_tenant_are_not_checked() {
    let stage = ApiStage::start().await;
    let (acme, other) = (stage.tenant("acme").await, stage.tenant("other").await);
    let archived = stage.publish_domain(&acme.key, "acme.example").await;
    let checked = stage.publish_domain(&other.key, "other.example").await;
    let path = format!("/v1/tenants/{}", acme.id);
    stage.patch(&stage.platform, &path, json!({"status": "archived"})).await.expect(200);
    stage.recheck_until_verified(&other.key, &checked).await;
    let domain = stage.get(&acme.key, &archived).await.expect(200);
    assert_eq!(
        (&domain["status"], &domain["last_checked_at"]),
        (&json!("pending"), &Value::Null),
        "{domain}"
    );
    stage.stop.cancel();
}

#[tokio::test]
async fn what_failed_when_a_tenant_was_archived_needs_no_attention() {
    let stage = ApiStage::start().await;
    let acme = stage.tenant("acme").await;
    let domain = stage.publish_domain(&acme.key, "acme.example").await;
    let verify = async || {
        stage.post(&acme.key, &format!("{domain}/verify"), json!({})).await.expect(200)["status"].clone()
    };
    assert_eq!(verify().await, "verified");
    stage.dns.remove("_pillarbox.acme.example");
    assert_eq!(verify().await, "verified");
    stage.clock.advance(4 * DAY);
    assert_eq!(verify().await, "failing");
    let visitor = Visitor::sign_in(&stage, &stage.platform).await;
    let fact = "Domain <bdi>acme.example</bdi> fails";
    Visitor::expect(visitor.get("/ui/").await).has(fact);
    let finding = async || {
        let found = stage.get(&stage.platform, "/v1/doctor?refresh=true").await.expect(200);
        let findings = found["findings"].as_array().unwrap();
        findings.iter().find(|finding| finding["id"] == "domain.failing").unwrap()["status"].clone()
    };
    assert_ne!(finding().await, "ok");
    let path = format!("/v1/tenants/{}", acme.id);
    stage.patch(&stage.platform, &path, json!({"status": "archived"})).await.expect(200);
    stage.clock.advance(Duration::from_secs(120));
    Visitor::expect(visitor.get("/ui/").await).lacks(fact);
    assert_eq!(finding().await, "ok");
}

#[tokio::test]
async fn a_page_archives_a_tenant_with_a_date_and_activates_it() {
    let stage = ApiStage::start().await;
    let acme = stage.tenant("acme").await;
    let here = format!("/ui/tenants/{}", acme.id);
    let path = format!("/v1/tenants/{}", acme.id);
    let visitor = Visitor::sign_in(&stage, &stage.platform).await;
    let page = Visitor::expect(visitor.get(&here).await);
    let done = visitor.submit(&page, "archive", &[("deletable_at", "2099-01-01T00:00")]).await;
    let page = visitor.follow(&done).await;
    page.has("The tenant is archived.");
    page.has("may be deleted from");
    page.lacks("value=\"archive\"");
    // It would be refused.
    page.lacks("value=\"ask_delete\"");
    let tenant = stage.get(&stage.platform, &path).await.expect(200);
    assert_eq!(tenant["status"], "archived");
    assert!(tenant["deletable_at"].as_str().unwrap().starts_with("2099-01-01T00:00:00"), "{tenant}");
    // The pages of the tenant are signed in to with its key as before.
    let own = Visitor::sign_in(&stage, &acme.key).await;
    let note = "This tenant is archived.";
    let buttons = [
        ("/ui/domains", "Add a domain"),
        ("/ui/keys", "Create a key"),
        ("/ui/templates", "Create a template"),
        ("/ui/webhooks", "Create a webhook"),
        ("/ui/suppressions", "Suppress an address"),
        (here.as_str(), "value=\"save_mail\""),
    ];
    for (path, button) in buttons {
        let page = Visitor::expect(own.get(path).await);
        page.has(note);
        page.lacks(button);
    }
    visitor.follow(&visitor.submit(&page, "activate", &[]).await).await.has("The tenant is active.");
    stage.clock.advance(Duration::from_secs(120));
    for (path, button) in buttons {
        let page = Visitor::expect(own.get(path).await);
        page.lacks(note);
        page.has(button);
    }
}
