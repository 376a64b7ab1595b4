//! One object of each kind, and what each operation of the API takes to be about it.

use hyper::Method;
use pillarbox::api::{Access, Operation, ROUTES, Route};
use pillarbox::model::TenantId;
use serde_json::{Value, json};

use crate::api_stage::{ApiStage, Tenant, text};
use crate::wait::until;

/// One object of each kind that belongs to a tenant.
pub struct Belongings {
    pub tenant: Tenant,
    pub domain: String,
    pub key: String,
    pub suppression: String,
    pub inbox: String,
    pub template: String,
    pub email: String,
    pub webhook: String,
    pub webhook_delivery: String,
    pub rejection: String,
    pub report: String,
    pub audit_entry: String,
}

impl Belongings {
    /// Makes them, with a tenant and a key of it that has every scope.
    pub async fn make(stage: &ApiStage, name: &str) -> Self {
        let tenant = stage.tenant(name).await;
        let post = async |path: &str, body: Value| {
            let made = stage.post(&tenant.key, path, body).await.expect(201);
            text(&made, "/id")
        };
        let domain = post("/v1/domains", json!({"name": format!("{name}.example")})).await;
        let key = post("/v1/keys", json!({"name": name, "scopes": ["smtp:send"]})).await;
        let suppression = post("/v1/suppressions", json!({"address": format!("{name}@x.example")})).await;
        stage.add_sandbox_domain().await;
        let inbox = post("/v1/inboxes", json!({"address": format!("{name}-inbox@x.example")})).await;
        let template = json!({"name": name, "subject": "s", "text": "t"});
        let template = post("/v1/templates", template).await;
        let webhook = post(
            "/v1/webhooks",
            json!({"url": format!("https://{name}.example/"), "events": ["message.accepted"]}),
        )
        .await;
        let email = stage.enqueue(tenant.id).await.to_string();
        let told = stage.get(&tenant.key, &format!("/v1/webhooks/{webhook}/deliveries")).await.expect(200);
        let webhook_delivery = text(&told, "/data/0/id");
        let report = stage.record_report(tenant.id, &email).await.to_string();
        stage.post(&tenant.key, "/v1/emails", email_from("a@foreign.example")).await.expect(403);
        let rejection = until("the refusal is noted", async || {
            let noted = stage.get(&tenant.key, "/v1/rejections").await.expect(200);
            noted["data"].get(0).map(|first| text(first, "/id"))
        })
        .await;
        let changes = stage.get(&tenant.key, "/v1/audit").await.expect(200);
        let audit_entry = text(&changes, "/data/0/id");
        Self {
            tenant,
            domain,
            key,
            suppression,
            inbox,
            template,
            email,
            webhook,
            webhook_delivery,
            rejection,
            report,
            audit_entry,
        }
    }

    /// The objects that appear in a list of their kind.
    pub fn listed(&self) -> [&String; 10] {
        let Self { domain, key, suppression, inbox, template, email, webhook, .. } = self;
        let Self { rejection, report, audit_entry, .. } = self;
        [domain, key, suppression, inbox, template, email, webhook, rejection, report, audit_entry]
    }

    /// The path of a route with the ids of these objects.
    pub fn path(&self, route: &Route) -> String {
        let id = match route.path.split('/').nth(2) {
            _ if route.path == "/docs/{id}" => "errors",
            Some("domains") => &self.domain,
            Some("keys" | "api-keys") => &self.key,
            Some("suppressions") => &self.suppression,
            Some("inboxes") => &self.inbox,
            Some("reports") => &self.report,
            Some("rejections") => &self.rejection,
            Some("audit") => &self.audit_entry,
            Some("destinations") => "x.example",
            Some("recipients") => "nobody@x.example",
            Some("templates") => &self.template,
            Some("webhooks") if route.path.contains("deliveries/{id}") => &self.webhook_delivery,
            Some("webhooks") => &self.webhook,
            _ => &self.email,
        };
        route
            .path
            .replace("{tenant_id}", &self.tenant.id.to_string())
            .replace("{id}", id)
            .replace("{part}", "0")
    }

    /// The objects as the platform sees them.
    pub async fn look(&self, stage: &ApiStage) -> Vec<Value> {
        let mut seen = Vec::new();
        for path in [
            format!("/v1/tenants/{}", self.tenant.id),
            format!("/v1/domains/{}", self.domain),
            format!("/v1/domains/{}/dkim", self.domain),
            format!("/v1/keys/{}", self.key),
            format!("/v1/suppressions/{}", self.suppression),
            format!("/v1/inboxes/{}", self.inbox),
            format!("/v1/templates/{}", self.template),
            format!("/v1/emails/{}", self.email),
            format!("/v1/webhooks/{}", self.webhook),
            format!("/v1/webhooks/{}/deliveries", self.webhook),
            format!("/v1/domains?tenant_id={}", self.tenant.id),
            format!("/v1/suppressions?tenant_id={}&environment=live", self.tenant.id),
        ] {
            seen.push(stage.get(&stage.platform, &path).await.expect(200));
        }
        seen
    }
}

/// Each operation with its route, without the public ones.
pub fn operations() -> impl Iterator<Item = (&'static Route, &'static Operation)> {
    let all =
        ROUTES.iter().flat_map(|route| route.operations.iter().map(move |operation| (route, operation)));
    all.filter(|(_, operation)| operation.access() != Access::Public)
}

/// A body that the operation accepts from the owner; it names an owner if the operation allows it.
pub fn body(route: &Route, operation: &Operation, owner: Option<TenantId>) -> Value {
    let mut body = match (operation.method.as_str(), route.path.rsplit('/').next().unwrap()) {
        ("GET" | "DELETE", _) => return Value::Null,
        ("POST", "tenants") => return json!({"name": "new"}),
        ("POST", "domains") => json!({"name": "new.example"}),
        ("POST", "keys" | "api-keys") => json!({"name": "new", "scopes": ["smtp:send"]}),
        ("POST", "webhooks" | "endpoints") => json!({"url": "https://new.example/"}),
        ("POST", "suppressions") => json!({"address": "new@x.example"}),
        ("POST", "inboxes") => json!({"address": "new@x.example"}),
        // The digest of nothing.
        ("POST", "import") => {
            let sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
            return json!({"objects": [], "sha256": sha256});
        }
        ("POST", "confirm") => return json!({"code": "0000-0000"}),
        ("POST", "templates") => json!({"name": "new", "subject": "s", "text": "t"}),
        ("POST", "emails") => email(),
        ("POST", "sessions") => json!({}),
        ("POST", "batch") if route.path == "/v1/emails/batch" => json!({"emails": [email()]}),
        ("POST", "batch") => {
            return json!({"suppressions": [{"address": "new@x.example", "tenant_id": owner}]});
        }
        ("POST", "dkim") => return json!({"selector": "own", "private_key": "x"}),
        _ => return json!({}),
    };
    body["tenant_id"] = json!(owner);
    body
}

fn email() -> Value {
    email_from("a@own.example")
}

fn email_from(from: &str) -> Value {
    json!({"from": from, "to": ["b@x.example"], "subject": "s", "text": "t"})
}

/// Whether the body names the owner of a new object.
pub fn is_post_of_new(route: &Route, operation: &Operation) -> bool {
    operation.method == Method::POST && !route.path.contains("{id}")
}
