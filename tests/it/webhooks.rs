//! Webhooks: what arrives and how it is authenticated, what happens to failed deliveries, and which webhooks a slow one
//! delays.

use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use pillarbox::config;
use pillarbox::http_client::Client;
use pillarbox::mail::{Address, Timestamp};
use pillarbox::model::{
    DeliveryState, DisabledReason, Environment, SuppressionReason, TenantId, WebhookId, WebhookStatus,
};
use pillarbox::queue::ClaimLimits;
use pillarbox::rng::Rng;
use pillarbox::store::{AttemptRecord, Directory, NewSuppression, Outbox, RecordBatch, Spool};
use pillarbox::webhook::{WebhookDependencies, WebhookDispatcher, WebhookSettings};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api_stage::{ApiStage, local_webhooks, text};
use crate::receiver::{Reaction, Received, Receiver};
use crate::wait::until;

const QUICK: &[Duration] = &[Duration::from_millis(20), Duration::from_millis(20), Duration::from_millis(20)];

struct Stage {
    api: ApiStage,
    stop: CancellationToken,
    telling: JoinHandle<()>,
}

struct Hook {
    id: WebhookId,
    secret: String,
}

impl Stage {
    async fn start() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(adjust: impl FnOnce(&mut config::Webhooks)) -> Self {
        let api = ApiStage::start().await;
        let mut config = local_webhooks();
        adjust(&mut config);
        let client = Client::new(api.resolver.clone(), None, &config.allowed_private_networks).unwrap();
        let services = WebhookDependencies {
            store: api.store.clone(),
            client,
            clock: api.clock.clone(),
            rng: Rng::system(),
        };
        let teller = WebhookDispatcher::new(services, WebhookSettings { config, retries: QUICK });
        let stop = CancellationToken::new();
        let telling = tokio::spawn(teller.run(stop.clone()));
        Self { api, stop, telling }
    }

    async fn hook(&self, key: &str, receiver: &Receiver, events: &[&str]) -> Hook {
        let body = json!({"url": format!("http://{}/hook", receiver.address), "events": events});
        let made = self.api.post(key, "/v1/webhooks", body).await.expect(201);
        Hook { id: text(&made, "/id").parse().unwrap(), secret: text(&made, "/secret") }
    }

    /// An event of a tenant without a message.
    async fn suppress(&self, tenant: TenantId, address: &str) {
        let new = NewSuppression::of_all_mail(
            Some(tenant),
            Environment::Live,
            Address::parse(address).unwrap(),
            SuppressionReason::Manual,
        );
        self.api.store.suppress(new, Timestamp::now()).await.unwrap();
    }

    /// Waits until the latest delivery of a webhook satisfies the probe. Returns the delivery.
    async fn wait_for_delivery(&self, hook: &Hook, what: &str, probe: impl Fn(&Value) -> bool) -> Value {
        let path = format!("/v1/webhooks/{}/deliveries", hook.id);
        until(what, async || {
            let list = self.api.get(&self.api.platform, &path).await.expect(200);
            Some(list["data"][0].clone()).filter(|first| probe(first))
        })
        .await
    }
}

/// The signature with one secret, computed without the program's own code.
pub fn signature(secret: &str, request: &Received) -> String {
    let key = BASE64_STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
    assert!((24..=64).contains(&key.len()));
    let id_and_time = format!("{}.{}.", request.header("webhook-id"), request.header("webhook-timestamp"));
    let signed = [id_and_time.as_bytes(), &request.body].concat();
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), &signed);
    format!("v1,{}", BASE64_STANDARD.encode(tag))
}

fn body(request: &Received) -> Value {
    serde_json::from_slice(&request.body).unwrap()
}

fn answer(status: &str) -> Reaction {
    Reaction::Write(format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\nhello").into())
}

#[tokio::test]
async fn an_event_arrives_signed_and_the_response_is_stored() {
    let stage = Stage::start().await;
    let acme = stage.api.tenant("acme").await;
    let receiver = Receiver::start().await;
    receiver.script([answer("201 Created")]);
    let hook = stage.hook(&acme.key, &receiver, &["message.accepted"]).await;
    let before = Timestamp::now().as_second();
    let message = stage.api.enqueue(acme.id).await;
    let request = &receiver.wait_for(1).await[0];
    assert!(request.head.starts_with("POST /hook HTTP/1.1\r\n"), "{}", request.head);
    assert_eq!(request.header("webhook-signature"), signature(&hook.secret, request));
    assert_eq!(request.header("content-type"), "application/json");
    let at: i64 = request.header("webhook-timestamp").parse().unwrap();
    assert!((before..=Timestamp::now().as_second()).contains(&at));
    let event = body(request);
    assert_eq!((&event["type"], &event["object"]), (&json!("message.accepted"), &json!("event")), "{event}");
    assert_eq!(
        (text(&event, "/message_id"), text(&event, "/tenant_id")),
        (message.to_string(), acme.id.to_string())
    );
    assert_eq!(event["timestamp"], event["created_at"]);
    let shown =
        stage.wait_for_delivery(&hook, "the delivery is noted", |first| first["status"] == "delivered").await;
    assert_eq!(text(&shown, "/id"), request.header("webhook-id"));
    assert_eq!(shown["last_attempt"]["response_code"], 201, "{shown}");
    assert_eq!(shown["last_attempt"]["response_body"], "hello", "{shown}");
    assert_eq!(shown["event"]["id"], event["id"]);
    let listed = stage.api.get(&acme.key, &format!("/v1/webhooks/{}", hook.id)).await.expect(200);
    assert!(listed.get("secret").is_none(), "{listed}");
}

#[tokio::test]
async fn each_webhook_gets_the_subscribed_events_of_its_own_tenant_and_a_platform_webhook_those_of_all() {
    let stage = Stage::start().await;
    let (acme, other) = (stage.api.tenant("acme").await, stage.api.tenant("other").await);
    let [own, platform] = [Receiver::start().await, Receiver::start().await];
    stage.hook(&acme.key, &own, &["suppression.created"]).await;
    stage.hook(&stage.api.platform, &platform, &[]).await;
    stage.api.enqueue(acme.id).await;
    stage.suppress(other.id, "theirs@x.example").await;
    stage.suppress(acme.id, "own@x.example").await;
    let heard = platform.wait_for(3).await;
    assert_eq!(heard.len(), 3);
    let heard = own.wait_for(1).await;
    assert_eq!(body(&heard[0])["data"]["address"], "own@x.example");
    assert_eq!(heard.len(), 1);
}

#[tokio::test]
async fn a_webhook_gets_what_an_event_carried_though_message_and_tenant_are_gone() {
    let stage = Stage::start().await;
    let acme = stage.api.tenant("acme").await;
    let path = format!("/v1/tenants/{}", acme.id);
    stage.api.patch(&stage.api.platform, &path, json!({"external_ref": "cus_17"})).await.expect(200);
    stage.api.add_domain(acme.id, "acme.example").await;
    let receiver = Receiver::start().await;
    receiver.script([answer("500 Oops")]);
    stage.hook(&stage.api.platform, &receiver, &["message.accepted", "tenant.deleted"]).await;
    let message = json!({
        "from": "shop@acme.example", "to": "to@remote.example", "subject": "s", "text": "t",
        "tags": ["invoice"], "metadata": {"order": 4711},
    });
    stage.api.post(&acme.key, "/v1/emails", message).await.expect(202);
    let database = stage.api.database();
    for table in ["body", "delivery", "event", "message"] {
        database.execute(&format!("DELETE FROM {table}"), []).unwrap();
    }
    let again = &receiver.wait_for(2).await[1];
    let event = body(again);
    assert_eq!(
        (&event["tags"], &event["metadata"]),
        (&json!(["invoice"]), &json!({"order": 4711})),
        "{event}"
    );
    assert_eq!(event["external_ref"], "cus_17");
    stage.api.delete(&stage.api.platform, &path).await.expect(200);
    let deleted = body(&receiver.wait_for(3).await[2]);
    assert_eq!((&deleted["type"], &deleted["external_ref"]), (&json!("tenant.deleted"), &json!("cus_17")));
}

#[tokio::test]
async fn a_failed_event_is_retried_with_its_id_and_later_events_of_the_message_wait_for_it() {
    let stage = Stage::start().await;
    let acme = stage.api.tenant("acme").await;
    let receiver = Receiver::start().await;
    receiver.script([answer("500 Oops"), answer("302 Found")]);
    let hook = stage.hook(&acme.key, &receiver, &[]).await;
    stage.api.enqueue(acme.id).await;
    let limits = ClaimLimits {
        deliveries_max: 10,
        per_tenant_max: 10,
        admits: std::sync::Arc::new(|_: &pillarbox::mail::Host| true),
    };
    let claimed = stage.api.queue.claim_due(Timestamp::now(), &limits).await.unwrap();
    let batch = &claimed.batches[0];
    let record = AttemptRecord {
        message_id: batch.message.id,
        kind: batch.message.kind,
        tenant_id: acme.id,
        environment: Environment::Live,
        key_id: None,
        sender_domain: None,
        delivery_id: batch.deliveries[0].id,
        state: DeliveryState::Delivered,
        next_attempt_at: None,
        attempt: None,
        reply: "250 ok".into(),
        suppress: None,
        bounce_class: None,
        delayed: false,
        at: Timestamp::now(),
    };
    stage.api.store.record(RecordBatch { records: vec![record], report: None }).await.unwrap();
    let heard = receiver.wait_for(4).await;
    let kinds: Vec<_> = heard.iter().map(|request| text(&body(request), "/type")).collect();
    assert_eq!(kinds, ["message.accepted", "message.accepted", "message.accepted", "message.delivered"]);
    assert_eq!(body(&heard[3])["recipient"], "to@remote.example");
    for again in &heard[1..3] {
        assert_eq!(
            (again.header("webhook-id"), &again.body),
            (heard[0].header("webhook-id"), &heard[0].body)
        );
    }
    assert_ne!(heard[3].header("webhook-id"), heard[0].header("webhook-id"));
    let found =
        stage.wait_for_delivery(&hook, "all is delivered", |first| first["status"] == "delivered").await;
    assert_eq!(found["attempts"], 1);
    let webhook = stage.api.store.webhook(None, hook.id).await.unwrap().unwrap();
    assert_eq!(webhook.failing_since, None, "the success ended it");
}

#[tokio::test]
async fn a_delivery_whose_result_was_not_stored_is_repeated_without_other_events() {
    let stage = Stage::start().await;
    let acme = stage.api.tenant("acme").await;
    let receiver = Receiver::start().await;
    let hook = stage.hook(&acme.key, &receiver, &["suppression.created"]).await;
    // A database that cannot be written: damage is what SQL in a test is for.
    let database = stage.api.database();
    let fault =
        "CREATE TRIGGER fault BEFORE UPDATE ON webhook_delivery BEGIN SELECT RAISE(ABORT, 'a fault'); END";
    database.execute_batch(fault).unwrap();
    stage.suppress(acme.id, "a@x.example").await;
    let heard = receiver.wait_for(2).await;
    assert_eq!(heard[1].header("webhook-id"), heard[0].header("webhook-id"));
    database.execute_batch("DROP TRIGGER fault").unwrap();
    let told = stage.wait_for_delivery(&hook, "it is written", |first| first["status"] == "delivered").await;
    assert_eq!(text(&told, "/id"), heard[0].header("webhook-id"));
}

#[tokio::test]
async fn a_failed_delivery_can_be_repeated_and_a_test_event_is_sent_immediately() {
    let stage = Stage::start().await;
    let acme = stage.api.tenant("acme").await;
    let receiver = Receiver::start().await;
    let tries = QUICK.len() + 1;
    receiver.script((0..2 * tries).map(|_| answer("503 No")));
    let hook = stage.hook(&acme.key, &receiver, &["suppression.created"]).await;
    stage.suppress(acme.id, "a@x.example").await;
    let failed = stage.wait_for_delivery(&hook, "it is given up", |first| first["status"] == "failed").await;
    assert_eq!((&failed["attempts"], &failed["next_attempt_at"]), (&json!(tries), &Value::Null), "{failed}");
    let path = format!("/v1/webhooks/deliveries/{}/replay", text(&failed, "/id"));
    stage.api.post(&acme.key, &path, Value::Null).await.expect(202);
    let again =
        stage.wait_for_delivery(&hook, "it is given up again", |first| first["status"] == "failed").await;
    assert_eq!(again["attempts"], tries, "it is tried as often as the first time");
    stage.api.post(&acme.key, &path, Value::Null).await.expect(202);
    let heard = receiver.wait_for(2 * tries + 1).await;
    assert!(heard.iter().all(|request| request.header("webhook-id") == text(&failed, "/id")));
    stage.wait_for_delivery(&hook, "it is delivered", |first| first["status"] == "delivered").await;
    let path = format!("/v1/webhooks/endpoints/{}/test", hook.id);
    let tested = stage.api.post(&acme.key, &path, Value::Null).await.expect(202);
    let heard = receiver.wait_for(2 * tries + 2).await;
    assert_eq!(body(heard.last().unwrap())["type"], "webhook.test");
    assert_eq!(heard.last().unwrap().header("webhook-id"), text(&tested, "/id"));
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_disabled_with_an_event_and_gets_the_waiting_events_when_it_is_enabled() {
    let stage = Stage::start().await;
    let acme = stage.api.tenant("acme").await;
    let [gone, watching] = [Receiver::start().await, Receiver::start().await];
    gone.script([answer("410 Gone")]);
    let hook = stage.hook(&acme.key, &gone, &["suppression.created"]).await;
    stage.hook(&stage.api.platform, &watching, &["webhook.disabled"]).await;
    stage.suppress(acme.id, "a@x.example").await;
    let told = body(&watching.wait_for(1).await[0]);
    assert_eq!(
        (text(&told, "/data/webhook_id"), text(&told, "/data/reason")),
        (hook.id.to_string(), "gone".into())
    );
    let webhook = stage.api.store.webhook(None, hook.id).await.unwrap().unwrap();
    assert_eq!(webhook.status, WebhookStatus::Disabled);
    assert_eq!(webhook.disabled_reason, Some(DisabledReason::Gone));
    let path = format!("/v1/webhooks/{}", hook.id);
    stage
        .api
        .post(&acme.key, &format!("{path}/test"), Value::Null)
        .await
        .expect_error(409, "webhook_disabled");
    stage.suppress(acme.id, "b@x.example").await;
    let enabled = stage.api.patch(&acme.key, &path, json!({"status": "enabled"})).await.expect(200);
    assert_eq!((&enabled["status"], &enabled["disabled_reason"]), (&json!("enabled"), &Value::Null));
    stage.suppress(acme.id, "c@x.example").await;
    let heard = gone.wait_for(2).await;
    assert_eq!(body(&heard[1])["data"]["address"], "c@x.example", "nothing was told while it was disabled");
}

#[tokio::test]
async fn for_a_day_after_a_rotation_both_secrets_sign() {
    let stage = Stage::start().await;
    let acme = stage.api.tenant("acme").await;
    let receiver = Receiver::start().await;
    let hook = stage.hook(&acme.key, &receiver, &["suppression.created"]).await;
    let path = format!("/v1/webhooks/{}/rotate-secret", hook.id);
    let rotated = stage.api.post(&acme.key, &path, Value::Null).await.expect(200);
    let secret = text(&rotated, "/secret");
    assert_ne!(secret, hook.secret);
    let until: Timestamp = text(&rotated, "/previous_secret_until").parse().unwrap();
    assert_eq!(until.duration_since(text(&rotated, "/updated_at").parse().unwrap()).as_hours(), 24);
    stage.suppress(acme.id, "a@x.example").await;
    let request = &receiver.wait_for(1).await[0];
    let both = format!("{} {}", signature(&secret, request), signature(&hook.secret, request));
    assert_eq!(request.header("webhook-signature"), both);
    stage.api.clock.advance(Duration::from_secs(12 * 3600));
    let third = text(&stage.api.post(&acme.key, &path, Value::Null).await.expect(200), "/secret");
    stage.suppress(acme.id, "b@x.example").await;
    let request = &receiver.wait_for(2).await[1];
    let all = [&third, &secret, &hook.secret].map(|secret| signature(secret, request)).join(" ");
    assert_eq!(request.header("webhook-signature"), all, "the day of the first one has not ended");
    stage.api.clock.advance(Duration::from_secs(12 * 3600));
    stage.suppress(acme.id, "c@x.example").await;
    let request = &receiver.wait_for(3).await[2];
    let both = format!("{} {}", signature(&third, request), signature(&secret, request));
    assert_eq!(request.header("webhook-signature"), both, "the first one does not sign any more");
}

#[tokio::test]
async fn a_failing_endpoint_gets_one_event_at_a_time() {
    let stage = Stage::with(|config| config.timeout = Duration::from_secs(600)).await;
    let acme = stage.api.tenant("acme").await;
    let [failing, alive] = [Receiver::start().await, Receiver::start().await];
    failing.script([answer("500 Oops")]);
    failing.script((0..10).map(|_| Reaction::WriteAndHang(Vec::new())));
    let hook = stage.hook(&acme.key, &failing, &["suppression.created"]).await;
    stage.hook(&acme.key, &alive, &["suppression.created"]).await;
    stage.suppress(acme.id, "a@x.example").await;
    failing.wait_for(2).await;
    let path = format!("/v1/webhooks/{}", hook.id);
    let shown = stage.api.get(&acme.key, &path).await.expect(200);
    assert_ne!(shown["failing_since"], Value::Null, "{shown}");
    for number in 0..8 {
        stage.suppress(acme.id, &format!("b{number}@x.example")).await;
        alive.wait_for(2 + number).await;
    }
    assert_eq!(failing.requests().len(), 2, "the second is not answered yet");
}

#[tokio::test]
async fn unresponsive_endpoints_of_one_tenant_delay_no_other_tenant() {
    let adjust = |config: &mut config::Webhooks| {
        config.timeout = Duration::from_secs(600);
        config.requests_max = 16;
    };
    let stage = Stage::with(adjust).await;
    let (acme, other) = (stage.api.tenant("acme").await, stage.api.tenant("other").await);
    let [dead, alive] = [Receiver::start().await, Receiver::start().await];
    dead.script((0..100).map(|_| Reaction::WriteAndHang(Vec::new())));
    for _ in 0..3 {
        stage.hook(&acme.key, &dead, &["suppression.created"]).await;
    }
    stage.hook(&other.key, &alive, &["suppression.created"]).await;
    for number in 0..8 {
        stage.suppress(acme.id, &format!("a{number}@x.example")).await;
    }
    dead.wait_for(12).await;
    stage.suppress(other.id, "b@x.example").await;
    alive.wait_for(1).await;
    assert_eq!(dead.requests().len(), 12, "three quarters of all");
}

#[tokio::test]
async fn one_dead_endpoint_of_a_hundred_delays_no_other() {
    const EVENTS: usize = 10;
    let adjust = |config: &mut config::Webhooks| {
        config.timeout = Duration::from_secs(600);
        config.requests_max = 16;
    };
    let stage = Stage::with(adjust).await;
    let acme = stage.api.tenant("acme").await;
    let [dead, alive] = [Receiver::start().await, Receiver::start().await];
    dead.script((0..100).map(|_| Reaction::WriteAndHang(Vec::new())));
    stage.hook(&stage.api.platform, &dead, &["suppression.created"]).await;
    for _ in 1..100 {
        stage.hook(&stage.api.platform, &alive, &["suppression.created"]).await;
    }
    for number in 0..EVENTS {
        stage.suppress(acme.id, &format!("a{number}@x.example")).await;
    }
    dead.wait_for(8).await;
    assert_eq!(alive.wait_for(99 * EVENTS).await.len(), 99 * EVENTS);
    assert_eq!(dead.requests().len(), 8, "none of them was answered");
    stage.stop.cancel();
    stage.telling.await.unwrap();
}

#[tokio::test]
async fn nothing_is_posted_to_an_address_or_over_a_scheme_that_is_not_permitted() {
    let stage = Stage::with(|config| config.allowed_private_networks.clear()).await;
    let acme = stage.api.tenant("acme").await;
    let receiver = Receiver::start().await;
    stage.api.dns.addresses("inside.example", &["127.0.0.1".parse().unwrap()]);
    let url = format!("https://inside.example:{}/", receiver.address.port());
    let body = json!({"url": url, "events": ["suppression.created"]});
    let made = stage.api.post(&acme.key, "/v1/webhooks", body).await.expect(201);
    let hook = Hook { id: text(&made, "/id").parse().unwrap(), secret: text(&made, "/secret") };
    stage.suppress(acme.id, "a@x.example").await;
    let failed = stage.wait_for_delivery(&hook, "it is given up", |first| first["status"] == "failed").await;
    let error = text(&failed, "/last_attempt/error");
    assert!(error.contains("only to private, loopback"), "{failed}");
    assert!(!error.contains("127.0.0.1"), "the error must not show the private address: {failed}");
    // The configuration no longer permits the host, although it did when the webhook was created.
    let stage = Stage::with(|config| config.plain_http_hosts.clear()).await;
    let acme = stage.api.tenant("acme").await;
    let hook = stage.hook(&acme.key, &receiver, &["suppression.created"]).await;
    stage.suppress(acme.id, "a@x.example").await;
    let failed = stage.wait_for_delivery(&hook, "it is given up", |first| first["status"] == "failed").await;
    assert!(text(&failed, "/last_attempt/error").contains("plain http"), "{failed}");
    assert!(receiver.requests().is_empty());
}

#[tokio::test]
async fn invalid_webhooks_are_refused_and_the_number_per_tenant_is_limited() {
    let stage = ApiStage::start().await;
    let acme = stage.tenant("acme").await;
    for (body, path) in [
        (json!({"url": "http://hooks.example/"}), "url"),
        (json!({"url": "https://10.0.0.1/"}), "url"),
        (json!({"url": "https://hooks.example/", "events": ["message.read"]}), "events[0]"),
        (json!({"url": "https://hooks.example/", "events": ["webhook.test"]}), "events"),
        (json!({}), "url"),
    ] {
        let error = stage.post(&acme.key, "/v1/webhooks", body).await.expect_error(422, "validation_failed");
        assert_eq!(error["errors"][0]["path"], path, "{error}");
    }
    let body = json!({"url": "https://hooks.example/", "events": ["message.bounced", "message.accepted"]});
    let made = stage.post(&acme.key, "/v1/webhooks/endpoints", body.clone()).await.expect(201);
    assert_eq!(made["events"], json!(["message.accepted", "message.bounced"]));
    let path = format!("/v1/webhooks/{}", text(&made, "/id"));
    let put =
        stage.call(&acme.key, "PUT", &path, json!({"url": "https://other.example/x"})).await.expect(200);
    assert_eq!((&put["url"], &put["events"]), (&json!("https://other.example/x"), &made["events"]));
    for _ in 1..20 {
        stage.post(&acme.key, "/v1/webhooks", body.clone()).await.expect(201);
    }
    stage.post(&acme.key, "/v1/webhooks", body).await.expect_error(409, "limit_reached");
    stage.delete(&acme.key, &path).await.expect(200);
    stage.get(&acme.key, &path).await.expect_error(404, "not_found");
    stage.delete(&acme.key, &path).await.expect_error(404, "not_found");
}
