//! Mail by time, and why deliveries failed lately.

use pillarbox::mail::{SignedDuration, Timestamp};
use pillarbox::model::{Environment, Scope};
use serde_json::{Value, json};

use crate::api_stage::ApiStage;
use crate::fake_mx::{Fault, Phase};
use crate::http::request;
use crate::server::{Account, LIFETIME_MAX, RETRY_DELAY_MAX, TestServer, message, one_destination};
use crate::wait::until;

/// The query for all mail of the last hours.
fn since_hours(server: &TestServer, hours: i64) -> String {
    format!("from={}", server.clock.now() - SignedDuration::from_hours(hours))
}

/// The counts of the intervals together.
fn sum(stats: &Value, name: &str) -> u64 {
    let parts = stats["data"].as_array().unwrap();
    parts.iter().map(|part| part[name].as_u64().unwrap()).sum()
}

#[tokio::test]
async fn minutes_hours_and_days_agree_with_what_was_accepted_and_delivered() {
    let (_dns, mx, server) = one_destination().await;
    mx.script(Phase::Rcpt, "gone@", usize::MAX, Fault::Reply("550 5.1.1 nobody of that name"));
    mx.script(Phase::Rcpt, "later@", 1, Fault::Reply("451 4.3.0 later"));
    let account = server.create_account("acme.test").await;
    let suppressed = json!({"address": "never@b.test", "tenant_id": account.tenant_id});
    server.control.ok("POST", "/v1/suppressions", suppressed).await;
    let recipients = ["bob@b.test", "gone@b.test", "later@b.test"];
    let id = server.submit(&account, &recipients, &message(&account, "mixed")).await;
    server.wait_for_status(&id, &["delivered", "bounced", "deferred"]).await;
    let mut client = server.log_in(&account).await;
    client.command("MAIL FROM:<alice@foreign.test>").await.expect_code(550);
    client.command("MAIL FROM:<alice@acme.test>").await.expect_code(250);
    client.command("RCPT TO:<never@b.test>").await.expect_code(550);
    server.clock.advance(RETRY_DELAY_MAX);
    server.wait_for_status(&id, &["delivered", "bounced"]).await;
    let expected = [
        ("accepted", 3),
        ("delivered", 2),
        ("deferred", 1),
        ("bounced", 1),
        ("expired", 0),
        ("suppressed", 1),
        ("rejected", 1),
        ("complained", 0),
    ];
    for (interval, hours) in [("minute", 10), ("hour", 10), ("day", 24)] {
        let path = format!("/v1/stats?interval={interval}&{}", since_hours(&server, hours));
        let stats = until("all is counted", async || {
            let stats = server.control.get(&path).await;
            (stats["totals"]["rejected"] == 1).then_some(stats)
        })
        .await;
        for (name, count) in expected {
            assert_eq!(stats["totals"][name], count, "{interval} {name}");
            assert_eq!(sum(&stats, name), count, "{interval} {name}");
        }
        let used: Vec<_> =
            stats["data"].as_array().unwrap().iter().filter(|part| part["deferred"] == 1).collect();
        assert_eq!(used.len(), 1, "{interval}");
        assert_eq!(stats["since"].is_null(), interval != "minute");
    }
}

#[tokio::test]
async fn since_tells_of_a_restart() {
    let (_dns, _mx, mut server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    let id = server.submit(&account, &["bob@b.test"], &message(&account, "one")).await;
    server.wait_for_status(&id, &["delivered"]).await;
    let before = server.control.get("/v1/stats?interval=minute").await;
    assert_eq!(before["totals"]["delivered"], 1, "{before}");
    server.restart(|_| ()).await;
    let after = server.control.get("/v1/stats?interval=minute").await;
    assert_eq!(after["totals"]["delivered"], 0, "{after}");
    let since = |stats: &Value| stats["since"].as_str().unwrap().parse::<Timestamp>().unwrap();
    assert!(since(&before) < since(&after), "{before} {after}");
    let hours = server.control.get("/v1/stats?interval=hour").await;
    assert_eq!(hours["totals"]["delivered"], 1, "{hours}");
}

#[tokio::test]
async fn an_expired_delivery_counts_as_expired_and_not_as_bounced() {
    let (_dns, mx, server) = one_destination().await;
    mx.script(Phase::Rcpt, "full@", usize::MAX, Fault::Reply("452 4.2.2 mailbox full"));
    let account = server.create_account("acme.test").await;
    let id = server.submit(&account, &["full@b.test"], &message(&account, "one")).await;
    server.wait_for_status(&id, &["deferred"]).await;
    server.clock.advance(LIFETIME_MAX);
    server.wait_for_status(&id, &["expired"]).await;
    let stats = server.control.get("/v1/stats?interval=hour").await;
    assert_eq!((&stats["totals"]["expired"], &stats["totals"]["bounced"]), (&json!(1), &json!(0)), "{stats}");
    // In the usage, which is older, an expired delivery is a bounced one.
    let usage = server.control.get(&format!("/v1/usage?tenant_id={}", account.tenant_id)).await;
    let month = server.clock.now().strftime("%Y-%m").to_string();
    assert_eq!(usage["data"][0]["emails_bounced"], 1, "{month} {usage}");
}

#[tokio::test]
async fn a_deferral_is_counted_each_time() {
    let (_dns, mx, server) = one_destination().await;
    mx.script(Phase::Rcpt, "later@", 2, Fault::Reply("451 4.3.0 later"));
    let account = server.create_account("acme.test").await;
    let id = server.submit(&account, &["later@b.test"], &message(&account, "one")).await;
    for attempt in 1..=2 {
        until("it is deferred", async || {
            let email = server.control.get(&format!("/v1/emails/{id}")).await;
            (email["deliveries"][0]["attempts"] == attempt).then_some(())
        })
        .await;
        let path = format!("/v1/stats?{}", since_hours(&server, 24));
        assert_eq!(server.control.get(&path).await["totals"]["deferred"], attempt);
        server.clock.advance(RETRY_DELAY_MAX);
    }
    server.wait_for_status(&id, &["delivered"]).await;
    let stats = server.control.get(&format!("/v1/stats?{}", since_hours(&server, 24))).await;
    assert_eq!((&stats["totals"]["deferred"], &stats["totals"]["delivered"]), (&json!(2), &json!(1)));
}

#[tokio::test]
async fn the_platform_sees_the_sum_of_all_tenants_and_a_tenant_its_own() {
    let stage = ApiStage::start().await;
    let (own, other) = (stage.tenant("own").await, stage.tenant("other").await);
    for tenant in [&own, &own, &other] {
        stage.enqueue(tenant.id).await;
    }
    for interval in ["minute", "hour", "day"] {
        let path = format!("/v1/stats?interval={interval}");
        for (key, tenant, accepted) in [
            (&stage.platform, Value::Null, 3),
            (&own.key, json!(own.id), 2),
            (&other.key, json!(other.id), 1),
        ] {
            let stats = stage.get(key, &path).await.expect(200);
            assert_eq!(stats["totals"]["accepted"], accepted, "{interval} {stats}");
            assert_eq!(stats["tenant_id"], tenant);
        }
        let of_own = format!("{path}&tenant_id={}", own.id);
        assert_eq!(stage.get(&stage.platform, &of_own).await.expect(200)["totals"]["accepted"], 2);
        stage.get(&other.key, &of_own).await.expect_error(404, "not_found");
    }
}

#[tokio::test]
async fn a_test_key_sees_test_mail_only() {
    let stage = ApiStage::start().await;
    let own = stage.tenant("own").await;
    stage.add_domain(own.id, "own.example").await;
    stage.enqueue(own.id).await;
    stage.enqueue(own.id).await;
    let tester = stage.key(own.id, Scope::ALL, |key| key.environment = Environment::Test).await;
    let email = json!({"from": "a@own.example", "to": ["b@x.example"], "subject": "s", "text": "t"});
    stage.post(&tester, "/v1/emails", email).await.expect(202);
    for interval in ["minute", "hour", "day"] {
        let accepted = async |key: &str, query: &str| {
            let path = format!("/v1/stats?interval={interval}{query}");
            let stats = stage.get(key, &path).await.expect(200);
            (stats["environment"].as_str().unwrap().to_owned(), stats["totals"]["accepted"].as_u64().unwrap())
        };
        assert_eq!(accepted(&tester, "").await, ("test".into(), 1));
        assert_eq!(accepted(&own.key, "").await, ("live".into(), 2));
        assert_eq!(accepted(&own.key, "&environment=test").await, ("test".into(), 1));
        let path = format!("/v1/stats?interval={interval}&environment=live");
        assert_eq!(stage.get(&tester, &path).await.status, 403);
    }
}

#[tokio::test]
async fn too_many_intervals_are_refused() {
    let stage = ApiStage::start().await;
    for (query, path) in [
        ("interval=minute&from=2026-01-01&to=2026-01-02T00:01:00Z", "from"),
        ("interval=hour&from=2026-01-01&to=2026-03-02T01:00:00Z", "from"),
        ("interval=day&from=2024-01-01&to=2025-01-02", "from"),
        ("interval=minute&from=2026-01-01&to=2026-01-02T00:00:01Z", "from"),
        ("interval=day&from=2026-01-02&to=2026-01-01", "to"),
        ("interval=week", "interval"),
        ("from=yesterday", "from"),
    ] {
        let refused = stage.get(&stage.platform, &format!("/v1/stats?{query}")).await;
        let error = refused.expect_error(422, "validation_failed");
        assert_eq!(error["errors"][0]["path"], path, "{query}: {error}");
    }
    for (query, count) in [
        ("interval=minute&from=2026-01-01&to=2026-01-02", 1440),
        ("interval=hour&from=2026-01-01T00:59:00Z&to=2026-01-01T02:01:00Z", 3),
        ("interval=day&from=2026-01-30&to=2026-02-02", 3),
        ("interval=day", 31),
    ] {
        let stats = stage.get(&stage.platform, &format!("/v1/stats?{query}")).await.expect(200);
        let parts = stats["data"].as_array().unwrap();
        let is_partial_day = query == "interval=day" && parts.len() == 30;
        assert!(parts.len() == count || is_partial_day, "{query}: {}", parts.len());
        assert_eq!(parts[0]["at"], stats["from"], "{query}");
    }
}

async fn reasons(server: &TestServer, secret: &str, query: &str) -> Vec<Value> {
    let path = format!("/v1/stats/reasons{query}");
    let found = request(server.control.address, "GET", &path, Some(secret), None).await.expect(200);
    found["data"].as_array().unwrap().clone()
}

async fn bounce(server: &TestServer, account: &Account, recipient: &str, status: &str) {
    let id = server.submit(account, &[recipient], &message(account, "one")).await;
    server.wait_for_status(&id, &[status]).await;
}

#[tokio::test]
async fn reasons_name_site_class_and_the_last_reply_and_end_after_the_window() {
    let (_dns, mx, server) = one_destination().await;
    mx.script(Phase::Rcpt, "gone@", 1, Fault::Reply("550 5.1.1 nobody of that name"));
    mx.script(Phase::Rcpt, "away@", 1, Fault::Reply("550 5.1.1 left"));
    mx.script(Phase::Rcpt, "later@", 1, Fault::Reply("451 4.7.1 greylisted"));
    let account = server.create_account("acme.test").await;
    bounce(&server, &account, "gone@b.test", "bounced").await;
    bounce(&server, &account, "away@b.test", "bounced").await;
    bounce(&server, &account, "later@b.test", "deferred").await;
    bounce(&server, &account, "bob@b.test", "delivered").await;
    let found = reasons(&server, &server.control.secret, "").await;
    let reason = |outcome: &str, class: &str, count: u64, reply: &str, at: &Value| {
        json!({
            "object": "failure_reason", "site": "mx.b.test", "outcome": outcome, "bounce_class": class,
            "count": count, "last_reply": reply, "last_at": at["last_at"],
        })
    };
    let expected = [
        reason("bounced", "recipient_unknown", 2, "550 5.1.1 left", &found[0]),
        reason("deferred", "temporary", 1, "451 4.7.1 greylisted", &found[1]),
    ];
    assert_eq!(found, expected);
    assert_eq!(reasons(&server, &account.secret, "?window=5m").await, expected);
    server.clock.advance(std::time::Duration::from_secs(7 * 60));
    for (window, count) in [("5m", 0), ("15m", 2), ("1h", 2)] {
        let found = reasons(&server, &account.secret, &format!("?window={window}")).await;
        assert_eq!(found.len(), count, "{window}");
    }
    server.clock.advance(std::time::Duration::from_secs(55 * 60));
    let found = reasons(&server, &server.control.secret, "?window=1h").await;
    assert!(found.iter().all(|reason| reason["outcome"] != "bounced"), "{found:?}");
    let path = "/v1/stats/reasons?window=2h";
    let refused = request(server.control.address, "GET", path, Some(&server.control.secret), None).await;
    assert_eq!(refused.expect_error(422, "validation_failed")["errors"][0]["path"], "window");
}

#[tokio::test]
async fn a_tenant_sees_no_reply_to_another() {
    let (_dns, mx, server) = one_destination().await;
    mx.script(Phase::Rcpt, "one@", 1, Fault::Reply("550 5.1.1 first"));
    mx.script(Phase::Rcpt, "two@", 1, Fault::Reply("550 5.1.1 second"));
    let (own, other) = (server.create_account("acme.test").await, server.create_account("other.test").await);
    bounce(&server, &own, "one@b.test", "bounced").await;
    bounce(&server, &other, "two@b.test", "bounced").await;
    for (secret, reply, count) in [
        (&own.secret, "550 5.1.1 first", 1),
        (&other.secret, "550 5.1.1 second", 1),
        (&server.control.secret, "550 5.1.1 second", 2),
    ] {
        let found = reasons(&server, secret, "").await;
        assert_eq!(
            (found.len(), &found[0]["last_reply"], &found[0]["count"]),
            (1, &json!(reply), &json!(count))
        );
    }
    let path = format!("/v1/stats/reasons?tenant_id={}", own.tenant_id);
    let refused = request(server.control.address, "GET", &path, Some(&other.secret), None).await;
    refused.expect_error(404, "not_found");
    let tester = server.test_account(&own).await;
    assert_eq!(reasons(&server, &tester.secret, "").await, [json!(null); 0]);
}
