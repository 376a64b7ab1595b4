//! Keys that create, change and revoke keys.

use std::time::Duration;

use pillarbox::mail::Timestamp;
use serde_json::{Value, json};

use crate::api_stage::{ApiStage, text};
use crate::http::request;
use crate::server::one_destination;
use crate::wait::until;

#[tokio::test]
async fn a_restricted_platform_key_cannot_create_a_platform_key_with_more_rights() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    let in_seconds =
        |seconds| Timestamp::from_second(Timestamp::now().as_second() + seconds).unwrap().to_string();
    let expiry = in_seconds(3600);
    let bound = json!({
        "name": "bound", "environment": "test", "allowed_cidrs": ["127.0.0.0/8"], "expires_at": expiry,
    });
    let bound = stage.post(&stage.platform, "/v1/keys", bound).await.expect(201);
    let secret = text(&bound, "/secret");
    let made = stage.post(&secret, "/v1/keys", json!({"name": "made"})).await.expect(201);
    for field in ["environment", "allowed_cidrs", "expires_at"] {
        assert_eq!(made[field], bound[field], "{field}");
    }
    let more = [
        json!({"allowed_cidrs": []}),
        json!({"allowed_cidrs": ["0.0.0.0/0"]}),
        json!({"expires_at": in_seconds(7200)}),
    ];
    for mut new in more {
        new["name"] = json!("more");
        stage.post(&secret, "/v1/keys", new).await.expect_error(403, "insufficient_scope");
    }
    let live = json!({"name": "more", "environment": "live"});
    stage.post(&secret, "/v1/keys", live).await.expect_error(403, "live_key_required");
    let itself = format!("/v1/keys/{}", text(&bound, "/id"));
    for change in [json!({"expires_at": null}), json!({"allowed_cidrs": []})] {
        stage.patch(&secret, &itself, change).await.expect_error(403, "insufficient_scope");
    }
    let of_tenant = json!({"name": "theirs", "tenant_id": tenant.id, "scopes": ["smtp:send"]});
    let of_tenant = stage.post(&secret, "/v1/keys", of_tenant).await.expect(201);
    assert_eq!((&of_tenant["allowed_cidrs"], &of_tenant["expires_at"]), (&json!([]), &Value::Null));
    assert_eq!(of_tenant["environment"], "test", "a key for tests makes none for real mail");
}

#[tokio::test]
async fn a_key_cannot_revoke_itself() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    let of_platform = stage.post(&stage.platform, "/v1/keys", json!({"name": "second"})).await.expect(201);
    let of_tenant = json!({"name": "second", "scopes": ["keys:manage"]});
    let of_tenant = stage.post(&tenant.key, "/v1/keys", of_tenant).await.expect(201);
    for (key, other) in [(&of_platform, &stage.platform), (&of_tenant, &tenant.key)] {
        let (secret, path) = (text(key, "/secret"), format!("/v1/keys/{}", text(key, "/id")));
        let error = stage.delete(&secret, &path).await.expect_error(409, "key_in_use");
        assert!(text(&error, "/hint").contains("another key"), "{error}");
        stage.get(&secret, "/v1/keys").await.expect(200);
        stage.delete(other, &path).await.expect(200);
        stage.get(&secret, "/v1/keys").await.expect_error(401, "revoked_api_key");
    }
}

const HOUR: Duration = Duration::from_secs(3600);

/// A key of the tenant with some scopes: its path and its secret.
async fn make(stage: &ApiStage, key: &str, body: Value) -> (String, String) {
    let made = stage.post(key, "/v1/keys", body).await.expect(201);
    (format!("/v1/keys/{}", text(&made, "/id")), text(&made, "/secret"))
}

#[tokio::test]
async fn both_secrets_of_a_rotated_key_work_until_the_old_one_expires() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    let (path, old) = make(&stage, &tenant.key, json!({"name": "app", "scopes": ["emails:read"]})).await;
    let rotated = stage.post(&tenant.key, &format!("{path}/rotate"), json!({"expires_in": 3600})).await;
    let rotated = rotated.expect(200);
    let new = text(&rotated, "/secret");
    assert!(new != old && new.ends_with(&text(&rotated, "/last_four")));
    for secret in [&old, &new] {
        stage.get(secret, "/v1/emails").await.expect(200);
    }
    let shown = stage.get(&tenant.key, &path).await.expect(200);
    assert!(shown.get("secret").is_none());
    let until: Timestamp = text(&shown, "/previous_secret_until").parse().unwrap();
    assert_eq!(until.duration_since(text(&shown, "/rotated_at").parse().unwrap()).as_secs(), 3600);
    // Again in this time: three secrets work.
    let third = stage.post(&tenant.key, &format!("{path}/rotate"), Value::Null).await.expect(200);
    for secret in [&old, &new, &text(&third, "/secret")] {
        stage.get(secret, "/v1/emails").await.expect(200);
    }
    stage.clock.advance(HOUR);
    let error = stage.get(&old, "/v1/emails").await.expect_error(401, "expired_api_key");
    assert!(text(&error, "/message").contains("has a new secret, and this one expired at"), "{error}");
    stage.get(&new, "/v1/emails").await.expect(200);
    let last = stage.post(&tenant.key, &format!("{path}/rotate"), json!({"expires_in": 0})).await.expect(200);
    assert_eq!(last["previous_secret_until"], Value::Null);
    for secret in [&old, &new, &text(&third, "/secret")] {
        stage.get(secret, "/v1/emails").await.expect_error(401, "expired_api_key");
    }
    stage.get(&text(&last, "/secret"), "/v1/emails").await.expect(200);
    let list = stage.get(&tenant.key, "/v1/events?type=key.rotated").await.expect(200);
    assert_eq!(list["data"].as_array().unwrap().len(), 3);
    assert!(!list.to_string().contains("pb_live_"));
    stage.delete(&tenant.key, &path).await.expect(200);
    for secret in [&old, &text(&last, "/secret")] {
        stage.get(secret, "/v1/emails").await.expect_error(401, "revoked_api_key");
    }
    let again = stage.post(&tenant.key, &format!("{path}/rotate"), Value::Null).await;
    again.expect_error(409, "key_not_active");
}

#[tokio::test]
async fn nobody_gets_more_rights_by_a_rotation() {
    let stage = ApiStage::start().await;
    let (tenant, other) = (stage.tenant("own").await, stage.tenant("other").await);
    let strong = json!({"name": "strong", "scopes": ["keys:manage", "emails:read"]});
    let (strong, _) = make(&stage, &tenant.key, strong).await;
    let (weak_path, weak) =
        make(&stage, &tenant.key, json!({"name": "weak", "scopes": ["keys:manage"]})).await;
    let rotate = async |key: &str, path: &str| {
        stage.post(key, &format!("{path}/rotate"), json!({"expires_in": 3600})).await
    };
    rotate(&weak, &strong).await.expect_error(403, "insufficient_scope");
    rotate(&other.key, &strong).await.expect_error(404, "not_found");
    let new = text(&rotate(&weak, &weak_path).await.expect(200), "/secret");
    // A secret that ends cannot get one that does not.
    rotate(&weak, &weak_path).await.expect_error(403, "insufficient_scope");
    let made =
        stage.post(&weak, "/v1/keys", json!({"name": "x", "scopes": ["keys:manage"]})).await.expect(201);
    assert!(made["expires_at"].is_string(), "{made}");
    rotate(&new, &weak_path).await.expect(200);
    let long =
        stage.post(&tenant.key, &format!("{weak_path}/rotate"), json!({"expires_in": 2_592_001})).await;
    long.expect_error(422, "validation_failed");
}

#[tokio::test]
async fn me_says_whose_key_it_is_and_what_it_may_do() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    let limits =
        json!({"rate_limit": {"emails_per_day": 500, "emails_per_hour": 90, "requests_per_minute": 60}});
    stage.patch(&stage.platform, &format!("/v1/tenants/{}", tenant.id), limits).await.expect(200);
    let body = json!({"name": "app", "scopes": ["smtp:send"], "environment": "test"});
    let (path, secret) = make(&stage, &tenant.key, body).await;
    let me = stage.get(&secret, "/v1/me").await.expect(200);
    assert_eq!(path, format!("/v1/keys/{}", text(&me, "/key/id")));
    assert_eq!((&me["tenant"]["slug"], &me["environment"]), (&json!("own"), &json!("test")));
    assert_eq!((&me["scopes"], &me["key"]["status"]), (&json!(["smtp:send"]), &json!("active")));
    let limits = &me["limits"];
    assert_eq!((&limits["emails_per_day"], &limits["emails_per_minute"]), (&json!(500), &Value::Null));
    assert_eq!(limits["emails_per_hour"], 90);
    assert_eq!((&limits["requests_per_minute"], &limits["recipients_per_message"]), (&json!(60), &json!(50)));
    assert!(!me.to_string().contains(&secret));
    let me = stage.get(&stage.platform, "/v1/me").await.expect(200);
    assert_eq!((&me["tenant"], &me["limits"]["requests_per_minute"]), (&Value::Null, &Value::Null));
    request(stage.address, "GET", "/v1/me", None, None).await.expect_error(401, "authentication_required");
}

#[tokio::test]
async fn keys_are_listed_by_status() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    let soon = stage.clock.now() + HOUR;
    let new = |name: &str| json!({"name": name, "scopes": ["smtp:send"]});
    let expiring = |name: &str| {
        let mut body = new(name);
        body["expires_at"] = json!(soon);
        body
    };
    // One that is revoked stays so after its expiry.
    let (revoked, secret) = make(&stage, &tenant.key, expiring("revoked")).await;
    let (_, expired) = make(&stage, &tenant.key, expiring("expired")).await;
    stage.delete(&tenant.key, &revoked).await.expect(200);
    stage.clock.advance(HOUR);
    for (status, names) in [("active", &["stage"][..]), ("revoked", &["revoked"]), ("expired", &["expired"])]
    {
        let list = stage.get(&tenant.key, &format!("/v1/keys?status={status}")).await.expect(200);
        let keys = list["data"].as_array().unwrap();
        assert_eq!(keys.iter().map(|key| text(key, "/name")).collect::<Vec<_>>(), names);
        assert!(keys.iter().all(|key| key["status"] == status), "{list}");
    }
    stage.get(&tenant.key, "/v1/keys?status=gone").await.expect_error(422, "validation_failed");
    stage.get(&secret, "/v1/me").await.expect_error(401, "revoked_api_key");
    stage.get(&expired, "/v1/me").await.expect_error(401, "expired_api_key");
}

#[tokio::test]
async fn a_key_that_expires_soon_has_an_event_from_the_running_server() {
    let (_dns, _mx, server) = one_destination().await;
    let expiry = server.clock.now() + 15 * 24 * HOUR;
    let key = server.control.ok("POST", "/v1/keys", json!({"name": "app", "expires_at": expiry})).await;
    server.clock.advance(26 * HOUR);
    let event = until("the event is there", async || {
        server.clock.advance(Duration::from_secs(60));
        let list = server.control.get("/v1/events?type=key.expiring").await;
        list["data"].get(0).cloned()
    })
    .await;
    assert_eq!((&event["data"]["key_id"], &event["data"]["name"]), (&key["id"], &json!("app")));
    assert_eq!(event["data"]["expires_at"], key["expires_at"]);
}

#[tokio::test]
async fn all_faults_of_a_body_are_reported_at_once_in_the_words_of_json() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    let body = json!({"name": 7, "scopes": ["smtp:send", "all"], "allowed_cidrs": "10.0.0.0/8", "extra": {}});
    let error = stage.post(&tenant.key, "/v1/keys", body).await.expect_error(422, "validation_failed");
    let faults = error["errors"].as_array().unwrap();
    let mut paths: Vec<_> = faults.iter().map(|fault| text(fault, "/path")).collect();
    paths.sort();
    assert_eq!(paths, ["allowed_cidrs", "extra", "name", "scopes[1]"], "{error}");
    let message =
        json!({"from": 1, "to": {"x": 1}, "attachments": [{"filename": 1}], "tags": "a", "subjct": "s"});
    let error = stage.post(&tenant.key, "/v1/emails", message).await.expect_error(422, "validation_failed");
    let words = error.to_string();
    for path in ["from", "to", "attachments[0].filename", "tags", "subjct"] {
        assert!(words.contains(&format!("\"path\":\"{path}\"")), "{path}: {error}");
    }
    for word in ["sequence", "a map", "usize", "struct"] {
        assert!(!words.contains(word), "{word}: {error}");
    }
}
