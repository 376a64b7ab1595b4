//! Templates that ask for too much.

use serde_json::json;

use crate::api_stage::{ApiStage, Tenant};
use crate::http::request;

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
async fn a_template_that_reads_gigabytes_in_few_steps_is_refused_while_others_are_served() {
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
async fn data_for_a_template_has_a_limit() {
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
