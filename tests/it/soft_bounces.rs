//! Addresses that no delivery reaches are suppressed, if the tenant wants it.

use std::time::Duration;

use pillarbox::mail::TokenKind;
use serde_json::{Value, json};

use crate::fake_mx::{Fault, Phase};
use crate::http::request;
use crate::inbound_stage::{Delivered, InboundStage, dsn};
use crate::server::{Account, TestServer, message, one_destination, text};
use crate::wait::until;

const FULL: &str = "550 5.2.2 mailbox full";
const DAY: Duration = Duration::from_secs(24 * 3600);

async fn set(server: &TestServer, account: &Account, soft_bounces: Value) {
    let path = format!("/v1/tenants/{}", account.tenant_id);
    server.control.ok("PATCH", &path, json!({"settings": {"soft_bounces": soft_bounces}})).await;
}

/// Sends a message, and waits until it is in this state and the search index has it.
async fn send(server: &TestServer, account: &Account, recipient: &str, status: &str) {
    let id = server.submit(account, &[recipient], &message(account, "hello")).await;
    server.wait_for_status(&id, &[status]).await;
    let to = recipient.replace('+', "%2B");
    until("the search index has it", async || {
        let found = server.control.get(&format!("/v1/emails?to={to}&tenant_id={}", account.tenant_id)).await;
        found["data"].as_array().unwrap().iter().any(|email| email["id"] == id.as_str()).then_some(())
    })
    .await;
}

async fn suppressions(server: &TestServer, account: &Account, environment: &str) -> Vec<Value> {
    let path = format!("/v1/suppressions?tenant_id={}&environment={environment}", account.tenant_id);
    server.control.get(&path).await["data"].as_array().unwrap().clone()
}

#[tokio::test]
async fn an_address_whose_deliveries_fail_for_long_enough_is_suppressed_for_thirty_days() {
    let (_dns, mx, server) = one_destination().await;
    let account = server.create_account("own.test").await;
    let other = server.create_account("other.test").await;
    set(&server, &account, json!({"messages": 3, "days": 14})).await;
    set(&server, &other, json!({"messages": 2, "days": 1})).await;
    for name in ["full", "off"] {
        mx.script(Phase::Rcpt, &format!("<{name}@"), 99, Fault::Reply(FULL));
    }
    // Twelve days are too short, sixteen are enough.
    for _ in 0..4 {
        send(&server, &account, "full@b.test", "bounced").await;
        server.clock.advance(4 * DAY);
    }
    assert_eq!(suppressions(&server, &account, "live").await, [] as [Value; 0]);
    // The failures of one tenant are not those of another.
    send(&server, &other, "full@b.test", "bounced").await;
    assert_eq!(suppressions(&server, &other, "live").await, [] as [Value; 0]);
    send(&server, &account, "full@b.test", "bounced").await;
    let suppression = suppressions(&server, &account, "live").await.remove(0);
    let at = |field: &str| text(&suppression[field]).parse::<pillarbox::mail::Timestamp>().unwrap();
    let hours = at("expires_at").duration_since(at("created_at")).as_secs() as f64 / 3600.0;
    assert!((719.9..=720.1).contains(&hours), "{suppression}");
    assert_eq!((&suppression["reason"], &suppression["list"]), (&"bounce".into(), &Value::Null));
    assert_eq!(suppression["provisional"], false);
    let evidence = text(&suppression["evidence"]);
    assert!(evidence.starts_with("5 deliveries failed since") && evidence.ends_with(FULL), "{evidence}");
    let events = server.control.get("/v1/events?type=suppression.created").await;
    assert_eq!(events["data"][0]["data"]["address"], "full@b.test", "{events}");
    assert_eq!(events["data"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn a_success_a_refusal_of_the_sender_or_no_option_suppresses_nobody() {
    let (_dns, mx, server) = one_destination().await;
    let account = server.create_account("own.test").await;
    set(&server, &account, json!({"messages": 2, "days": 2})).await;
    for (recipient, replies) in [
        ("lucky@b.test", [FULL, FULL, "", FULL]),
        ("blocked@b.test", ["550 5.7.1 policy", "550 5.7.1 policy", "550 5.7.1 policy", FULL]),
        ("full@b.test", [FULL, "550 5.7.1 policy", "550 5.7.1 policy", FULL]),
    ] {
        for reply in replies {
            let local = recipient.split('@').next().unwrap();
            let status = match reply {
                "" => "delivered",
                reply => {
                    mx.script(Phase::Rcpt, &format!("<{local}@"), 1, Fault::Reply(reply));
                    "bounced"
                }
            };
            server.clock.advance(DAY);
            send(&server, &account, recipient, status).await;
        }
    }
    let found = suppressions(&server, &account, "live").await;
    let addresses: Vec<String> = found.iter().map(|suppression| text(&suppression["address"])).collect();
    assert_eq!(addresses, ["full@b.test"]);
    set(&server, &account, Value::Null).await;
    for _ in 0..4 {
        mx.script(Phase::Rcpt, "<off@", 1, Fault::Reply(FULL));
        server.clock.advance(DAY);
        send(&server, &account, "off@b.test", "bounced").await;
    }
    assert_eq!(suppressions(&server, &account, "live").await.len(), 1);
}

#[tokio::test]
async fn deliveries_that_expire_count() {
    let (_dns, mx, server) = one_destination().await;
    let account = server.create_account("own.test").await;
    set(&server, &account, json!({"messages": 2, "days": 3})).await;
    mx.script(Phase::Rcpt, "<slow@", 999, Fault::Reply("451 4.3.0 try later"));
    for left in [0, 1] {
        let id = server.submit(&account, &["slow@b.test"], &message(&account, "late")).await;
        server.wait_for_status(&id, &["deferred"]).await;
        assert_eq!(suppressions(&server, &account, "live").await.len(), 0);
        server.clock.advance(crate::server::LIFETIME_MAX);
        server.wait_for_status(&id, &["expired"]).await;
        assert_eq!(suppressions(&server, &account, "live").await.len(), left);
        server.control.get("/v1/emails?to=slow@b.test").await;
    }
}

#[tokio::test]
async fn test_mail_follows_the_rule_within_its_environment() {
    let (_dns, mx, server) = one_destination().await;
    let account = server.create_account_in("own.test", "test").await;
    set(&server, &account, json!({"messages": 2, "days": 2})).await;
    for _ in 0..3 {
        server.clock.advance(DAY);
        send(&server, &account, "bounce+5.2.2@b.test", "bounced").await;
    }
    let suppression = suppressions(&server, &account, "test").await.remove(0);
    assert_eq!(suppression["address"], "bounce+5.2.2@b.test", "{suppression}");
    assert_eq!(suppressions(&server, &account, "live").await, [] as [Value; 0]);
    // What failed in the sandbox says nothing about live mail.
    let wanted = json!({"name": "live", "tenant_id": account.tenant_id, "environment": "live", "scopes": ["smtp:send"]});
    let key = server.control.ok("POST", "/v1/keys", wanted).await;
    let live = Account { user: text(&key["id"]), secret: text(&key["secret"]), ..account.clone() };
    mx.script(Phase::Rcpt, "<bounce+5.2.2@", 1, Fault::Reply(FULL));
    send(&server, &live, "bounce+5.2.2@b.test", "bounced").await;
    assert_eq!(suppressions(&server, &account, "live").await, [] as [Value; 0]);
}

#[tokio::test]
async fn a_mailbox_that_is_reported_late_as_full_counts() {
    let stage = InboundStage::start().await;
    let (server, account) = (&stage.server, &stage.account);
    set(server, account, json!({"messages": 2, "days": 2})).await;
    for left in [0, 0, 1] {
        let delivered: Delivered = stage.deliver(&["full@b.test"]).await.remove(0);
        until("the search index has it", async || {
            let found = server.control.get("/v1/emails?to=full@b.test").await;
            (found["data"][0]["id"] == delivered.message.as_str()).then_some(())
        })
        .await;
        let address = stage.address_of(TokenKind::Bounce, &delivered);
        let report = dsn(&[("full@b.test", "failed", "5.2.2", "552 5.2.2 mailbox full")]);
        stage.send_back("", &address, &report).await.expect_code(250);
        assert_eq!(suppressions(server, account, "live").await.len(), left);
        server.clock.advance(DAY);
    }
    let suppression = suppressions(server, account, "live").await.remove(0);
    assert!(!suppression["report_id"].is_null() && !suppression["expires_at"].is_null(), "{suppression}");
}

#[tokio::test]
async fn the_option_has_limits_and_a_tenant_may_set_it() {
    let (_dns, _mx, server) = one_destination().await;
    let account = server.create_account("own.test").await;
    let path = format!("/v1/tenants/{}", account.tenant_id);
    for (value, field) in [
        (json!({"messages": 1, "days": 14}), "settings.soft_bounces.messages"),
        (json!({"messages": 51, "days": 14}), "settings.soft_bounces.messages"),
        (json!({"messages": 5, "days": 0}), "settings.soft_bounces.days"),
        (json!({"messages": 5, "days": 91}), "settings.soft_bounces.days"),
        (json!({"messages": 5}), "settings.soft_bounces"),
    ] {
        let body = json!({"settings": {"soft_bounces": value}});
        let refused =
            request(server.control.address, "PATCH", &path, Some(&server.control.secret), Some(&body)).await;
        assert!(refused.status == 422 || refused.status == 400, "{refused}");
        assert!(refused.to_string().contains(field), "{field}: {refused}");
    }
    set(&server, &account, json!({"messages": 5, "days": 14})).await;
    let shown = server.control.get(&path).await;
    assert_eq!(shown["settings"]["soft_bounces"], json!({"messages": 5, "days": 14}), "{shown}");
}
