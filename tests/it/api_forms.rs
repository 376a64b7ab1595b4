//! The forms of a response: ETags and conditions on them, gzip, and CORS.

use std::io::Read;

use pillarbox::mail::Timestamp;
use pillarbox::store::{Directory, Journal};
use serde_json::{Value, json};

use crate::api_stage::{ApiStage, Tenant, text};
use crate::http::{Answer, exchange};

/// Sends a request with additional header lines.
async fn send(stage: &ApiStage, key: &str, line: &str, head: &str, body: Value) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let text = format!(
        "{line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n{head}\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    exchange(stage.address, text.as_bytes()).await
}

/// Paths of one object of each kind that a tenant can change, and a change for each.
async fn objects(stage: &ApiStage, tenant: &Tenant) -> Vec<(String, Value)> {
    let make = async |path: &str, body: Value| {
        let made = stage.post(&tenant.key, path, body).await.expect(201);
        format!("{path}/{}", text(&made, "/id"))
    };
    let key = make("/v1/keys", json!({"name": "one", "scopes": ["smtp:send"]})).await;
    let webhook = make("/v1/webhooks", json!({"url": "https://a.example/"})).await;
    let template = make("/v1/templates", json!({"name": "one", "subject": "s", "text": "t"})).await;
    vec![
        (format!("/v1/tenants/{}", tenant.id), json!({"name": "two"})),
        (make("/v1/domains", json!({"name": "own.example"})).await, json!({"subdomains": false})),
        (key.replace("/keys/", "/api-keys/"), json!({"name": "two"})),
        (key, json!({"name": "three"})),
        (webhook.replace("/webhooks/", "/webhooks/endpoints/"), json!({"events": ["message.bounced"]})),
        (webhook, json!({"events": ["message.expired"]})),
        (template, json!({"subject": "two"})),
    ]
}

#[tokio::test]
async fn an_unchanged_object_is_not_sent_again_and_a_conditional_change_needs_the_current_etag() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    for (path, change) in objects(&stage, &tenant).await {
        let request = async |method: &str, head: &str, body: Value| {
            send(&stage, &tenant.key, &format!("{method} {path}"), head, body).await
        };
        let read = request("GET", "", Value::Null).await;
        let tag = read.header("etag").unwrap_or_else(|| panic!("{path}: {read}")).to_owned();
        let known = request("GET", &format!("If-None-Match: \"x\", W/{tag}\r\n"), Value::Null).await;
        assert_eq!((known.status, known.body.len(), known.header("etag")), (304, 0, Some(tag.as_str())));
        assert_eq!((known.header("content-length"), known.header("content-type")), (None, None));
        assert_eq!(request("HEAD", "", Value::Null).await.header("etag"), Some(tag.as_str()));

        assert_eq!(request("GET", &format!("If-Match: {tag}\r\n"), Value::Null).await.status, 200);
        for (method, head) in [("GET", "If-Match: \"x\"\r\n"), ("PATCH", "If-None-Match: *\r\n")] {
            request(method, head, change.clone()).await.expect_error(412, "precondition_failed");
        }
        let matching = format!("If-Match: {tag}\r\n");
        let changed = request("PATCH", &matching, change.clone()).await;
        assert_eq!(changed.status, 200, "{changed}");
        let new_tag = changed.header("etag").unwrap().to_owned();
        assert_ne!(new_tag, tag, "{path}");
        let late = request("PUT", &matching, change.clone()).await;
        let error = late.expect_error(412, "precondition_failed");
        assert_eq!(error["type"], "conflict");
        let read = request("GET", &format!("If-None-Match: {tag}\r\n"), Value::Null).await;
        assert_eq!((read.status, read.header("etag")), (200, Some(new_tag.as_str())), "{path}");
        if path.contains("/keys/") || path.contains("/domains/") {
            request("DELETE", &matching, Value::Null).await.expect_error(412, "precondition_failed");
            request("DELETE", &format!("If-Match: {new_tag}\r\n"), Value::Null).await.expect(200);
        }
    }
}

#[tokio::test]
async fn of_two_concurrent_changes_one_gets_412() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    let path = format!("/v1/tenants/{}", tenant.id);
    // Ids are case-insensitive.
    let other_spelling = format!("/v1/tenants/tnt_{}", tenant.id.to_string()[4..].to_lowercase());
    for round in 0..5 {
        let tag = stage.get(&tenant.key, &path).await.header("etag").unwrap().to_owned();
        let head = format!("If-Match: {tag}\r\n");
        let patch = async |path: &str, name: String| {
            send(&stage, &tenant.key, &format!("PATCH {path}"), &head, json!({"name": name})).await.status
        };
        let (a, b, c) = tokio::join!(
            patch(&path, format!("a{round}")),
            patch(&other_spelling, format!("b{round}")),
            patch(&path, format!("c{round}"))
        );
        let mut statuses = [a, b, c];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 412, 412]);
    }
}

#[tokio::test]
async fn using_an_object_changes_its_etag_and_does_not_stop_a_conditional_change() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    let new = json!({"name": "one", "scopes": ["smtp:send"]});
    let key = stage.post(&tenant.key, "/v1/keys", new).await.expect(201);
    let domain = stage.post(&tenant.key, "/v1/domains", json!({"name": "own.example"})).await.expect(201);
    let domain = format!("/v1/domains/{}", text(&domain, "/id"));
    // The first check changes the records from "not checked" to "not found".
    let look = async || stage.post(&tenant.key, &format!("{domain}/verify"), Value::Null).await.expect(200);
    look().await;
    let key_id = text(&key, "/id");
    let of_key = (format!("/v1/keys/{key_id}"), json!({"name": "two"}), "last_used_at");
    let of_domain = (domain.clone(), json!({"subdomains": false}), "last_checked_at");
    for (path, change, field) in [of_key, of_domain] {
        let before = stage.get(&tenant.key, &path).await;
        let tag = before.header("etag").unwrap().to_owned();
        match field {
            "last_used_at" => {
                stage.store.touch_key(key_id.parse().unwrap(), Timestamp::now());
                // Writes are committed in order.
                stage.store.checkpoint().await.unwrap();
            }
            _ => drop(look().await),
        }
        let head = format!("If-None-Match: {tag}\r\n");
        let after = send(&stage, &tenant.key, &format!("GET {path}"), &head, Value::Null).await;
        assert_ne!((after.status, after.header("etag")), (304, Some(tag.as_str())), "{after}");
        assert_ne!(before.expect(200)[field], after.expect(200)[field]);
        let head = format!("If-Match: {tag}\r\n");
        send(&stage, &tenant.key, &format!("PATCH {path}"), &head, change.clone()).await.expect(200);
        send(&stage, &tenant.key, &format!("PATCH {path}"), &head, change)
            .await
            .expect_error(412, "precondition_failed");
    }
}

#[tokio::test]
async fn an_object_of_another_tenant_has_no_etag_and_no_condition() {
    let stage = ApiStage::start().await;
    let (own, other) = (stage.tenant("own").await, stage.tenant("other").await);
    for (path, change) in objects(&stage, &own).await {
        for head in ["", "If-Match: *\r\n", "If-Match: \"x\"\r\n", "If-None-Match: *\r\n"] {
            for (method, body) in [("GET", Value::Null), ("PATCH", change.clone())] {
                let answer = send(&stage, &other.key, &format!("{method} {path}"), head, body).await;
                assert_eq!(answer.header("etag"), None);
                answer.expect_error(404, "not_found");
            }
        }
    }
}

#[tokio::test]
async fn lists_are_filtered_by_exact_fields() {
    let stage = ApiStage::start().await;
    let own = stage.tenant("own").await;
    let other = json!({"name": "Other", "slug": "second", "external_ref": "crm/7"});
    let other = stage.post(&stage.platform, "/v1/tenants", other).await.expect(201);
    let other = format!("/v1/tenants/{}", text(&other, "/id"));
    stage.patch(&stage.platform, &other, json!({"status": "suspended"})).await.expect(200);
    for name in ["one", "two"] {
        let template = json!({"name": name, "subject": "s", "text": "t"});
        stage.post(&own.key, "/v1/templates", template).await.expect(201);
        let webhook = json!({"url": format!("https://{name}.example/a?b=c")});
        stage.post(&own.key, "/v1/webhooks", webhook).await.expect(201);
    }
    stage.post(&own.key, "/v1/domains", json!({"name": "one.example"})).await.expect(201);
    let vouched = json!({"name": "two.example", "tenant_id": own.id, "verification": "manual"});
    stage.post(&stage.platform, "/v1/domains", vouched).await.expect(201);
    for (query, field, expected) in [
        ("tenants?slug=second", "slug", "second"),
        ("tenants?external_ref=crm%2F7", "slug", "second"),
        ("tenants?status=suspended", "slug", "second"),
        ("tenants?status=active", "slug", "own"),
        ("templates?name=two", "name", "two"),
        ("webhooks?url=https%3A%2F%2Ftwo.example%2Fa%3Fb%3Dc", "url", "https://two.example/a?b=c"),
        ("domains?verification=manual", "name", "two.example"),
        ("domains?verification=dns&status=pending", "name", "one.example"),
    ] {
        let list = stage.get(&stage.platform, &format!("/v1/{query}")).await.expect(200);
        let found: Vec<_> =
            list["data"].as_array().unwrap().iter().map(|one| text(one, &format!("/{field}"))).collect();
        assert_eq!(found, [expected], "{query}");
    }
    for (query, path) in [("tenants?status=gone", "status"), ("domains?verification=x", "verification")] {
        let error =
            stage.get(&stage.platform, &format!("/v1/{query}")).await.expect_error(422, "validation_failed");
        assert_eq!(error["errors"][0]["path"], path);
    }
}

#[tokio::test]
async fn large_responses_to_get_are_compressed_on_request_and_secrets_never() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    let metadata = json!({"metadata": {"text": "word ".repeat(500)}});
    let path = format!("/v1/tenants/{}", tenant.id);
    stage.patch(&stage.platform, &path, metadata).await.expect(200);
    let asking = "Accept-Encoding: gzip, br\r\n";
    let get = async |head: &str| send(&stage, &tenant.key, &format!("GET {path}"), head, Value::Null).await;
    let (plain, gzipped) = (get("").await, get(asking).await);
    assert_eq!((plain.header("content-encoding"), gzipped.header("content-encoding")), (None, Some("gzip")));
    assert_eq!(gzipped.header("vary"), Some("Accept-Encoding"));
    assert!(gzipped.body.len() < plain.body.len() / 2);
    assert_eq!(gzipped.header("content-length"), Some(gzipped.body.len().to_string().as_str()));
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(&gzipped.body[..]).read_to_end(&mut unpacked).unwrap();
    assert_eq!(unpacked, plain.body);
    let (tag, tag_of_gzipped) = (plain.header("etag").unwrap(), gzipped.header("etag").unwrap());
    assert_ne!(tag, tag_of_gzipped, "other octets, another tag");
    for (tag, head) in [(tag, ""), (tag_of_gzipped, asking), (tag, asking), (tag_of_gzipped, "")] {
        assert_eq!(get(&format!("{head}If-None-Match: {tag}\r\n")).await.status, 304);
    }
    let head = send(&stage, &tenant.key, &format!("HEAD {path}"), asking, Value::Null).await;
    assert_eq!(head.header("content-length"), gzipped.header("content-length"));

    let domains = async |head: &str| send(&stage, &tenant.key, "GET /v1/domains", head, Value::Null).await;
    assert_eq!(domains(asking).await.header("content-encoding"), None, "too small to be worth it");
    let networks: Vec<_> = (0..90).map(|n| format!("10.{n}.0.0/16")).chain(["127.0.0.0/8".into()]).collect();
    let key = json!({"name": "n".repeat(100), "scopes": ["smtp:send"], "allowed_cidrs": networks});
    let webhook = json!({"url": format!("https://a.example/{}", "u".repeat(1000))});
    for (path, body) in [("/v1/keys", key), ("/v1/webhooks", webhook)] {
        let made = send(&stage, &tenant.key, &format!("POST {path}"), asking, body).await;
        assert!(made.body.len() > 1024, "{made}");
        assert_eq!((made.status, made.header("content-encoding"), made.header("etag")), (201, None, None));
        assert!(made.json()["secret"].is_string());
    }
}

/// Headers that every web server sends; the OpenAPI document may omit them.
const COMMON_HEADERS: &[&str] =
    &["content-type", "content-length", "cache-control", "x-content-type-options", "date", "connection"];

#[tokio::test]
async fn the_openapi_document_lists_the_response_headers() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    let limits = json!({"rate_limit": {"emails_per_day": 1}});
    stage.patch(&stage.platform, &format!("/v1/tenants/{}", tenant.id), limits).await.expect(200);
    let domain = json!({"name": "own.example", "tenant_id": tenant.id, "verification": "manual"});
    stage.post(&stage.platform, "/v1/domains", domain).await.expect(201);
    let document = send(&stage, "", "GET /openapi.json", "", Value::Null).await.json();
    let told = |path: &str, method: &str, status: u16| {
        let responses = &document["paths"][path][method]["responses"];
        let answer = &responses[status.to_string()];
        let answer = if answer.is_null() { &document["components"]["responses"]["Error"] } else { answer };
        let headers = answer["headers"].as_object().unwrap_or_else(|| panic!("{method} {path}: {answer}"));
        headers.keys().map(|name| name.to_lowercase()).collect::<Vec<_>>()
    };
    let email = json!({"from": "a@own.example", "to": ["b@x.example"], "subject": "s", "text": "t"});
    let key = json!({"name": "new", "scopes": ["smtp:send"]});
    let tenant_path = format!("/v1/tenants/{}", tenant.id);
    let mut all = std::collections::BTreeSet::new();
    for (method, path, route, body) in [
        ("POST", "/v1/keys", "/v1/keys", key.clone()),
        ("POST", "/v1/keys", "/v1/keys", key),
        ("POST", "/v1/emails", "/v1/emails", email.clone()),
        ("POST", "/v1/emails", "/v1/emails", email),
        ("GET", &tenant_path, "/v1/tenants/{tenant_id}", Value::Null),
        ("GET", "/healthz", "/healthz", Value::Null),
    ] {
        let head = if path == "/v1/keys" { "Idempotency-Key: k\r\n" } else { "" };
        let answer = send(&stage, &tenant.key, &format!("{method} {path}"), head, body).await;
        let told = told(route, &method.to_lowercase(), answer.status);
        for line in answer.head.lines().skip(1) {
            let name = line.split(':').next().unwrap();
            if !COMMON_HEADERS.contains(&name) {
                assert!(told.iter().any(|other| other == name), "{name} of {method} {path}: {answer}");
                all.insert(name.to_owned());
            }
        }
    }
    let expected = [
        "etag",
        "idempotent-replayed",
        "ratelimit-limit",
        "retry-after",
        "x-request-id",
        "x-sendlimit-limit",
    ];
    assert!(expected.iter().all(|name| all.contains(*name)), "{all:?}");
}

#[tokio::test]
async fn cors_is_allowed_only_for_the_configured_origins() {
    const OWN: &str = "https://console.example";
    let shut = ApiStage::start().await;
    let open = ApiStage::with(|api, _| api.cors_origins = vec![OWN.into()]).await;
    let asked = |origin: &str| {
        format!(
            "Origin: {origin}\r\nAccess-Control-Request-Method: PATCH\r\nAccess-Control-Request-Headers: authorization\r\n"
        )
    };
    for (stage, origin) in [(&shut, OWN), (&open, "https://console.example.evil"), (&open, "null")] {
        let preflight = send(stage, "", "OPTIONS /v1/tenants", &asked(origin), Value::Null).await;
        assert_eq!((preflight.status, preflight.header("access-control-allow-origin")), (405, None));
        let read =
            send(stage, &stage.platform, "GET /v1/tenants", &format!("Origin: {origin}\r\n"), Value::Null)
                .await;
        assert_eq!((read.status, read.header("access-control-allow-origin")), (200, None));
    }
    let preflight = send(&open, "", "OPTIONS /v1/tenants", &asked(OWN), Value::Null).await;
    assert_eq!((preflight.status, preflight.header("access-control-allow-origin")), (204, Some(OWN)));
    assert!(preflight.header("access-control-allow-methods").unwrap().contains("PATCH"));
    assert!(preflight.header("access-control-allow-headers").unwrap().contains("Authorization"));
    assert_eq!(preflight.header("access-control-allow-credentials"), None);
    for (key, status) in [(open.platform.as_str(), 200), ("", 401)] {
        let head = format!("Origin: {OWN}\r\n");
        let read = send(&open, key, "GET /v1/tenants", &head, Value::Null).await;
        assert_eq!((read.status, read.header("access-control-allow-origin")), (status, Some(OWN)));
        assert_eq!(read.header("vary"), Some("Origin"));
        let exposed = read.header("access-control-expose-headers").unwrap();
        assert!(["X-Request-Id", "Link"].iter().all(|name| exposed.contains(name)), "{exposed}");
    }
    assert_eq!(send(&open, "", "OPTIONS /v1/tenants", "", Value::Null).await.status, 405);
}
