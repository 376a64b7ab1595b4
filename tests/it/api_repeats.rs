//! Requests with an `Idempotency-Key`: which are equal, and which responses are stored, up to what size.

use std::collections::BTreeSet;

use bytesize::ByteSize;
use pillarbox::api::{Operation, ROUTES};
use serde_json::{Value, json};

use crate::api_stage::{ApiStage, text};
use crate::http::{Answer, request_with};

async fn post(stage: &ApiStage, key: &str, name: &str, path: &str, body: &Value) -> Answer {
    let body = (!body.is_null()).then_some(body);
    request_with(stage.address, "POST", path, Some(key), body, &[("Idempotency-Key", name)]).await
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

/// The rows that a fault must leave unchanged. Keys change when they are used, so only their ids count.
fn rows(stage: &ApiStage) -> Vec<String> {
    let database = stage.database();
    let mut rows = Vec::new();
    for columns in [
        "* FROM tenant",
        "* FROM domain",
        "* FROM dkim_key",
        "id FROM key",
        "* FROM webhook",
        "* FROM webhook_delivery",
        "* FROM template",
        "* FROM suppression",
        "* FROM token_generation",
    ] {
        let mut select = database.prepare(&format!("SELECT {columns}")).unwrap();
        let width = select.column_count();
        let found = select.query_map([], |row| {
            (0..width)
                .map(|column| row.get::<_, rusqlite::types::Value>(column))
                .collect::<Result<Vec<_>, _>>()
        });
        rows.extend(found.unwrap().map(|row| format!("{columns}: {:?}", row.unwrap())));
    }
    rows
}

#[tokio::test]
async fn a_change_and_its_stored_response_are_written_together_or_not_at_all() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    let domain = stage.post(&tenant.key, "/v1/domains", json!({"name": "own.example"})).await.expect(201);
    let webhook =
        stage.post(&tenant.key, "/v1/webhooks", json!({"url": "https://own.example/"})).await.expect(201);
    let key = json!({"name": "other", "scopes": ["smtp:send"]});
    let key = stage.post(&tenant.key, "/v1/keys", key).await.expect(201);
    let (domain, webhook) = (text(&domain, "/id"), text(&webhook, "/id"));
    stage.enqueue(tenant.id).await;
    let told = stage.get(&tenant.key, &format!("/v1/webhooks/{webhook}/deliveries")).await.expect(200);
    let pem = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().serialize_pem();
    let requests = [
        ("create_tenant", "/v1/tenants".to_owned(), json!({"name": "new"})),
        ("create_domain", "/v1/domains".into(), json!({"name": "new.example"})),
        ("add_dkim_key", format!("/v1/domains/{domain}/dkim"), json!({"selector": "s", "private_key": pem})),
        ("create_key", "/v1/keys".into(), json!({"name": "new", "scopes": ["smtp:send"]})),
        ("rotate_key", format!("/v1/keys/{}/rotate", text(&key, "/id")), Value::Null),
        ("rotate_tokens", "/v1/tokens/rotate".into(), json!({"at_once": false})),
        ("create_template", "/v1/templates".into(), json!({"name": "new", "subject": "s", "text": "t"})),
        ("suppress", "/v1/suppressions".into(), json!({"address": "a@x.example"})),
        (
            "suppress_many",
            "/v1/suppressions/batch".into(),
            json!({"suppressions": [{"address": "b@x.example"}]}),
        ),
        ("create_webhook", "/v1/webhooks".into(), json!({"url": "https://new.example/"})),
        ("test_webhook", format!("/v1/webhooks/{webhook}/test"), Value::Null),
        ("rotate_webhook_secret", format!("/v1/webhooks/{webhook}/rotate-secret"), Value::Null),
        (
            "replay_webhook_delivery",
            format!("/v1/webhooks/deliveries/{}/replay", text(&told, "/data/0/id")),
            Value::Null,
        ),
    ];
    for (name, path, body) in &requests {
        let key =
            if ["create_tenant", "rotate_tokens"].contains(name) { &stage.platform } else { &tenant.key };
        let database = stage.database();
        let fault = "CREATE TRIGGER fault BEFORE INSERT ON idempotent_response BEGIN SELECT RAISE(ABORT, 'fault'); END";
        database.execute_batch(fault).unwrap();
        let before = rows(&stage);
        let failed = post(&stage, key, name, path, body).await;
        assert!(failed.status >= 500, "{name}: {}", failed.status);
        assert_eq!(rows(&stage), before, "{name} was done without its response");
        database.execute_batch("DROP TRIGGER fault").unwrap();
        let first = post(&stage, key, name, path, body).await;
        assert!((200..300).contains(&first.status), "{name}: {}", first.status);
        let (status, after) = (first.status, rows(&stage));
        assert_ne!(after, before, "{name}");
        let first = first.expect(status);
        let again = post(&stage, key, name, path, body).await;
        assert_eq!(again.header("idempotent-replayed"), Some("true"), "{name}");
        assert_eq!(again.expect(status), first, "{name}");
        assert_eq!(rows(&stage), after, "{name} was done twice");
    }
    let of_api = ROUTES.iter().flat_map(|route| &route.operations);
    let of_api = of_api.filter(|operation| operation.stores_response_with_change());
    let tested: BTreeSet<_> = requests.iter().map(|(name, ..)| *name).collect();
    assert_eq!(tested, of_api.map(|operation: &Operation| operation.name).collect());
}
