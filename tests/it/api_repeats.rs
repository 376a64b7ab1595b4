//! Requests with an `Idempotency-Key`: which are equal, and which responses are stored, up to what size.

use bytesize::ByteSize;
use serde_json::{Value, json};

use crate::api_stage::{ApiStage, text};
use crate::http::{Answer, request_with};

async fn post(stage: &ApiStage, key: &str, name: &str, path: &str, body: &Value) -> Answer {
    request_with(stage.address, "POST", path, Some(key), Some(body), &[("Idempotency-Key", name)]).await
}

#[tokio::test]
async fn the_same_body_to_another_path_is_another_request() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    let body = json!({"name": "new", "scopes": ["smtp:send"]});
    let made = post(&stage, &tenant.key, "k", "/v1/keys", &body).await.expect(201);
    post(&stage, &tenant.key, "k", "/v1/api-keys", &body).await.expect_error(409, "idempotency_key_reused");
    assert_eq!(post(&stage, &tenant.key, "k", "/v1/keys", &body).await.expect(201), made);
}

#[tokio::test]
async fn a_temporary_refusal_is_not_stored() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    let domain = json!({"name": "own.example", "tenant_id": tenant.id, "verification": "manual"});
    stage.post(&stage.platform, "/v1/domains", domain).await.expect(201);
    let limit = async |emails_per_day: u32| {
        let change = json!({"rate_limit": {"emails_per_day": emails_per_day}});
        stage.patch(&stage.platform, &format!("/v1/tenants/{}", tenant.id), change).await.expect(200);
    };
    limit(1).await;
    let email = json!({"from": "a@own.example", "to": ["b@x.example"], "subject": "s", "text": "t"});
    post(&stage, &tenant.key, "first", "/v1/emails", &email).await.expect(202);
    post(&stage, &tenant.key, "second", "/v1/emails", &email).await.expect_error(429, "send_limit_exceeded");
    limit(2).await;
    post(&stage, &tenant.key, "second", "/v1/emails", &email).await.expect(202);
}

#[tokio::test]
async fn a_tenant_whose_stored_responses_reach_the_limit_gets_the_time_when_some_expire() {
    let stage = ApiStage::with(|api, _| api.idempotency_storage_max = ByteSize::b(1)).await;
    let (greedy, other) = (stage.tenant("greedy").await, stage.tenant("other").await);
    let body = json!({"name": "new", "scopes": ["smtp:send"]});
    let made = post(&stage, &greedy.key, "first", "/v1/keys", &body).await.expect(201);
    let refused = post(&stage, &greedy.key, "second", "/v1/keys", &body).await;
    assert!(refused.header("retry-after").is_some_and(|seconds| seconds.parse::<u32>().unwrap() > 0));
    let error = refused.expect_error(429, "rate_limited");
    assert!(text(&error, "/hint").contains("api.idempotency_storage_max"), "{error}");
    let listed = stage.get(&greedy.key, "/v1/keys").await.expect(200);
    assert_eq!(listed.to_string().matches(r#""name":"new""#).count(), 1, "what was refused was not done");
    assert_eq!(post(&stage, &greedy.key, "first", "/v1/keys", &body).await.expect(201), made);
    stage.post(&greedy.key, "/v1/keys", body.clone()).await.expect(201);
    post(&stage, &other.key, "first", "/v1/keys", &body).await.expect(201);
    let of_platform = json!({"name": "new"});
    for name in ["first", "second"] {
        post(&stage, &stage.platform, name, "/v1/keys", &of_platform).await.expect(201);
    }
}

#[tokio::test]
async fn a_request_that_changes_nothing_is_not_stored() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    let template = json!({"name": "one", "subject": "s", "text": "before"});
    let template = stage.post(&tenant.key, "/v1/templates", template).await.expect(201);
    let path = format!("/v1/templates/{}", text(&template, "/id"));
    let render = async || post(&stage, &tenant.key, "k", &format!("{path}/render"), &json!({})).await;
    assert_eq!(render().await.expect(200)["text"], "before");
    stage.patch(&tenant.key, &path, json!({"text": "after"})).await.expect(200);
    assert_eq!(render().await.expect(200)["text"], "after");
}
