//! Keys that create, change and revoke keys.

use pillarbox::mail::Timestamp;
use serde_json::{Value, json};

use crate::api_stage::{ApiStage, text};

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
        stage.get(&secret, "/v1/keys").await.expect_error(401, "expired_api_key");
    }
}
