//! Templates that use too much time, memory or depth.

use pillarbox::store::{Directory, TemplatePatch};
use serde_json::json;

use crate::api_stage::{ApiStage, Tenant};
use crate::http::{exchange, request};

async fn template(stage: &ApiStage, tenant: &Tenant, text: &str) -> String {
    let template = json!({"name": "t", "subject": "s", "text": text});
    let made = stage.post(&tenant.key, "/v1/templates", template).await.expect(201);
    made["id"].as_str().unwrap().to_owned()
}

async fn sender(stage: &ApiStage) -> Tenant {
    let tenant = stage.tenant("Acme").await;
    let domain = json!({"name": "acme.example", "tenant_id": tenant.id, "verification": "manual"});
    stage.post(&stage.platform, "/v1/domains", domain).await.expect(201);
    tenant
}

#[tokio::test]
async fn a_template_that_processes_gigabytes_in_few_steps_is_refused_while_others_are_served() {
    let stage = ApiStage::start().await;
    let tenant = sender(&stage).await;
    let source = "{% for a in l %}{% if s|upper|length == 0 %}x{% endif %}{% endfor %}";
    let id = template(&stage, &tenant, source).await;
    let data = json!({"l": vec![1; 25_000], "s": "x".repeat(100_000)});
    let path = format!("/v1/templates/{id}/render");
    let render = || stage.post(&tenant.key, &path, json!({"data": data}));
    let email =
        json!({"from": "a@acme.example", "to": ["b@x.example"], "template_id": id, "template_data": data});
    let send = stage.post(&tenant.key, "/v1/emails", email);
    let health = request(stage.address, "GET", "/healthz", None, None);
    let (one, other, sent, health) = tokio::join!(render(), render(), send, health);
    assert_eq!(health.status, 200);
    for answer in [one, other, sent] {
        let error = answer.expect_error(422, "template_failed");
        assert!(error["message"].as_str().unwrap().contains("read more than"), "{error}");
    }
}

#[tokio::test]
async fn data_for_a_template_has_a_size_limit() {
    let stage = ApiStage::start().await;
    let tenant = sender(&stage).await;
    let id = template(&stage, &tenant, "{{ s|length }}").await;
    for (octets, status) in [(250 * 1024, 200), (256 * 1024, 422)] {
        let data = json!({"s": "x".repeat(octets)});
        let path = format!("/v1/templates/{id}/render");
        let shown = stage.post(&tenant.key, &path, json!({"data": data})).await;
        let email = json!({"from": "a@acme.example", "to": ["b@x.example"], "template_id": id, "template_data": data});
        let sent = stage.post(&tenant.key, "/v1/emails", email).await;
        if status == 200 {
            shown.expect(200);
            sent.expect(202);
            continue;
        }
        for (answer, path) in [(shown, "data"), (sent, "template_data")] {
            let error = answer.expect_error(422, "validation_failed");
            assert_eq!(
                (&error["errors"][0]["path"], &error["errors"][0]["code"]),
                (&json!(path), &json!("too_long"))
            );
        }
    }
}

/// Each of these once overflowed the stack of its parser, which ended the process.
fn endless() -> [(&'static str, String); 5] {
    [
        ("subject", format!("{{{{ {}x }}}}", "-".repeat(1900))),
        ("text", format!("{{{{ {}x }}}}", "-".repeat(6000))),
        ("html", format!("{{{{ x{} }}}}", "|upper".repeat(6000))),
        ("text", format!("{{{{ x{} }}}}", ".a".repeat(20_000))),
        ("text", format!("{{% if x %}}{}{{% endif %}}", "{% elif x %}".repeat(6000))),
    ]
}

fn expect_too_deep(error: &serde_json::Value, path: &str) {
    assert_eq!(error["errors"][0]["path"], path, "{error}");
    let message = error["errors"][0]["message"].as_str().unwrap();
    assert!(message.starts_with("line 1: ") && message.contains(" at most "), "{message}");
}

#[tokio::test]
async fn a_template_that_nests_too_deeply_is_refused_when_it_is_created_or_changed() {
    let stage = ApiStage::start().await;
    let tenant = sender(&stage).await;
    let id = template(&stage, &tenant, "{{ x }}").await;
    for (path, source) in endless() {
        let mut body = json!({"name": "deep", "subject": "s", "text": "t"});
        body[path] = json!(source);
        let made = stage.post(&tenant.key, "/v1/templates", body).await;
        expect_too_deep(&made.expect_error(422, "validation_failed"), path);
        let changed = stage.patch(&tenant.key, &format!("/v1/templates/{id}"), json!({path: source})).await;
        expect_too_deep(&changed.expect_error(422, "validation_failed"), path);
        assert_eq!(request(stage.address, "GET", "/healthz", None, None).await.status, 200);
    }
}

#[tokio::test]
async fn a_stored_template_that_nests_too_deeply_is_refused_when_it_is_rendered() {
    let stage = ApiStage::start().await;
    let tenant = sender(&stage).await;
    let id = template(&stage, &tenant, "{{ x }}").await;
    let email = json!({
        "from": "a@acme.example", "to": ["b@x.example"], "template_id": id, "template_data": {"x": 1},
    });
    for (part, source) in endless().iter().filter(|(part, _)| *part == "text") {
        let patch = TemplatePatch { text: Some(Some(source.clone())), ..TemplatePatch::default() };
        let id = id.parse().unwrap();
        stage.store.update_template(id, patch, stage.clock.now()).await.unwrap().unwrap();
        let path = format!("/v1/templates/{id}/render");
        let shown = stage.post(&tenant.key, &path, json!({"data": {"x": 1}})).await;
        let sent = stage.post(&tenant.key, "/v1/emails", email.clone()).await;
        for answer in [shown, sent] {
            let error = answer.expect_error(422, "template_failed");
            let message = error["message"].as_str().unwrap();
            assert!(message.contains(&format!("the {part} of template {id}")), "{message}");
            assert!(message.contains("line 1: ") && message.contains(" at most "), "{message}");
        }
    }
    assert_eq!(request(stage.address, "GET", "/healthz", None, None).await.status, 200);
}

/// A list in a list, or a map in a map, this many times.
fn nested(open: &str, close: &str, depth: usize) -> String {
    format!("{}1{}", open.repeat(depth), close.repeat(depth))
}

#[tokio::test]
async fn data_that_nests_too_deeply_is_not_accepted_as_json() {
    let stage = ApiStage::start().await;
    let tenant = sender(&stage).await;
    let id = template(&stage, &tenant, "{{ x }}").await;
    let path = format!("/v1/templates/{id}/render");
    let post = async |target: &str, body: &str| {
        let head = format!(
            "POST {target} HTTP/1.1\r\nHost: api\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            tenant.key,
            body.len()
        );
        exchange(stage.address, (head + body).as_bytes()).await
    };
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        for depth in [120, 200, 50_000] {
            let value = nested(open, close, depth);
            let shown = post(&path, &format!(r#"{{"data":{{"x":{value}}}}}"#)).await;
            let email =
                r#"{"from":"a@acme.example","to":["b@x.example"],"subject":"s","text":"t","metadata""#;
            let noted = post("/v1/emails", &format!(r#"{email}:{{"x":{value}}}}}"#)).await;
            if depth == 120 {
                shown.expect(200);
                noted.expect(202);
            } else {
                shown.expect_error(400, "invalid_json");
                noted.expect_error(400, "invalid_json");
            }
        }
    }
    for target in ["/v1/templates", "/v1/webhooks", "/v1/domains", "/v1/keys", "/v1/emails/batch"] {
        let error = post(target, &"[".repeat(100_000)).await;
        assert!([400, 422].contains(&error.status), "{target}: {}", error.status);
    }
    assert_eq!(request(stage.address, "GET", "/healthz", None, None).await.status, 200);
}
