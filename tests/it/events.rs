//! The journal over the API: as a list, and as a live stream.

use pillarbox::mail::{Address, Timestamp};
use pillarbox::model::{
    Environment, RefusalCode, RequestId, Stage as SubmissionStage, SuppressionReason, TenantId,
};
use pillarbox::store::{Directory, Journal, NewSuppression, Rejection};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::api_stage::{ApiStage, text};
use crate::http::request;
use crate::wait::{PATIENCE, until};

/// Types of the events of a list, the oldest first, without those of messages.
fn changes(list: &Value) -> Vec<&str> {
    let kinds = list["data"].as_array().unwrap().iter().rev().map(|event| event["type"].as_str().unwrap());
    kinds.filter(|kind| !kind.starts_with("message.")).collect()
}

#[tokio::test]
async fn events_of_a_message_have_its_tags_and_metadata_and_the_reference_of_the_tenant() {
    let stage = ApiStage::start().await;
    let acme = stage.tenant("acme").await;
    let path = format!("/v1/tenants/{}", acme.id);
    stage.patch(&stage.platform, &path, json!({"external_ref": "cus_17"})).await.expect(200);
    stage.add_domain(acme.id, "acme.example").await;
    let mut follower = Follower::start(&stage, &acme.key, "/v1/events?type=message.accepted", "").await;
    let metadata = json!({"order": 4711, "note": "a \"b\" é", "nested": {"x": [1, null]}});
    let message = json!({
        "from": "shop@acme.example", "to": "to@remote.example", "subject": "s", "text": "t",
        "tags": ["invoice", "may"], "metadata": metadata,
    });
    stage.post(&acme.key, "/v1/emails", message).await.expect(202);
    let list = stage.get(&acme.key, "/v1/events").await.expect(200);
    let event = &list["data"][0];
    assert_eq!(event["type"], "message.accepted");
    assert_eq!((&event["tags"], &event["metadata"]), (&json!(["invoice", "may"]), &metadata));
    assert_eq!(event["external_ref"], "cus_17");
    follower.until("cus_17").await;
    assert_eq!(follower.events()[0], *event);
    let created = list["data"].as_array().unwrap().last().unwrap();
    assert_eq!(created["type"], "tenant.created");
    assert_eq!((&created["tags"], &created["metadata"]), (&json!([]), &json!({})));
    assert_eq!(created["external_ref"], "cus_17");
}

#[tokio::test]
async fn changes_of_tenants_keys_and_domains_are_events_without_secrets() {
    let stage = ApiStage::start().await;
    let made = json!({"name": "Acme", "slug": "acme", "external_ref": "cus_17"});
    let tenant = text(&stage.post(&stage.platform, "/v1/tenants", made).await.expect(201), "/id");
    let path = format!("/v1/tenants/{tenant}");
    let password = "correct horse battery";
    let smart_host = json!({"host": "smtp.relay.example", "port": 587, "user": "u", "pass": password});
    stage.patch(&stage.platform, &path, json!({"smtp": smart_host, "name": "Acme"})).await.expect(200);
    stage.patch(&stage.platform, &path, json!({"name": "Acme"})).await.expect(200);
    let key = json!({"name": "shop", "tenant_id": tenant, "scopes": ["emails:read", "domains:manage"]});
    let key = stage.post(&stage.platform, "/v1/keys", key).await.expect(201);
    let key_path = format!("/v1/keys/{}", text(&key, "/id"));
    let domain = stage.post(&text(&key, "/secret"), "/v1/domains", json!({"name": "acme.example"})).await;
    let domain_path = format!("/v1/domains/{}", text(&domain.expect(201), "/id"));
    stage.delete(&stage.platform, &domain_path).await.expect(200);
    let list = stage.get(&text(&key, "/secret"), "/v1/events").await.expect(200);
    for secret in [password, &text(&key, "/secret")] {
        assert!(!list.to_string().contains(secret), "{list}");
    }
    assert_eq!(
        changes(&list),
        ["tenant.created", "tenant.updated", "key.created", "domain.created", "domain.deleted"]
    );
    let data = |kind: &str| {
        let events = list["data"].as_array().unwrap();
        events.iter().find(|event| event["type"] == kind).unwrap()["data"].clone()
    };
    assert_eq!(data("tenant.updated"), json!({"changed": ["smtp"]}));
    assert_eq!((&data("key.created")["name"], &data("key.created")["key_id"]), (&json!("shop"), &key["id"]));
    assert_eq!(data("domain.deleted")["name"], "acme.example");
    for _ in 0..2 {
        stage.delete(&stage.platform, &key_path).await.expect(200);
    }
    stage.delete(&stage.platform, &path).await.expect(200);
    let list = stage.get(&stage.platform, &format!("/v1/events?tenant_id={tenant}")).await.expect(200);
    assert_eq!(changes(&list), ["tenant.deleted"]);
    let deleted = &list["data"][0];
    assert_eq!((&deleted["tenant_id"], &deleted["external_ref"]), (&json!(tenant), &json!("cus_17")));
    assert_eq!((&deleted["data"]["slug"], &deleted["data"]["name"]), (&json!("acme"), &json!("Acme")));
}

#[tokio::test]
async fn a_key_that_is_revoked_twice_has_one_event() {
    let stage = ApiStage::start().await;
    let made = stage.post(&stage.platform, "/v1/keys", json!({"name": "second"})).await.expect(201);
    let path = format!("/v1/keys/{}", text(&made, "/id"));
    for _ in 0..2 {
        stage.delete(&stage.platform, &path).await.expect(200);
    }
    let list = stage.get(&stage.platform, "/v1/events").await.expect(200);
    assert_eq!(changes(&list), ["key.created", "key.created", "key.revoked"]);
}

/// A client that reads a live stream.
struct Follower {
    stream: TcpStream,
    heard: String,
}

impl Follower {
    async fn open(stage: &ApiStage, key: &str, target: &str, headers: &str) -> Self {
        let mut stream = TcpStream::connect(stage.address).await.unwrap();
        let text = format!(
            "GET {target} HTTP/1.1\r\nHost: api\r\nAuthorization: Bearer {key}\r\n\
             Accept: text/event-stream\r\n{headers}\r\n"
        );
        stream.write_all(text.as_bytes()).await.unwrap();
        Self { stream, heard: String::new() }
    }

    /// Opens a stream. After its response, the client gets every event.
    async fn start(stage: &ApiStage, key: &str, target: &str, headers: &str) -> Self {
        let mut follower = Self::open(stage, key, target, headers).await;
        follower.until("events follow").await;
        assert!(follower.heard.starts_with("HTTP/1.1 200 OK\r\n"), "{}", follower.heard);
        assert!(follower.heard.contains("content-type: text/event-stream\r\n"), "{}", follower.heard);
        follower
    }

    async fn until(&mut self, part: &str) {
        while !self.heard.contains(part) {
            assert!(self.read().await, "it ended without {part}: {}", self.heard);
        }
    }

    /// Reads more; false at the end.
    async fn read(&mut self) -> bool {
        let mut chunk = vec![0; 64 * 1024];
        let count =
            timeout(PATIENCE, self.stream.read(&mut chunk)).await.expect("something in time").unwrap();
        self.heard += std::str::from_utf8(&chunk[..count]).unwrap();
        count > 0
    }

    async fn end(mut self) -> String {
        // The last chunk is empty (RFC 9112 §7.1).
        while !self.heard.ends_with("\r\n0\r\n\r\n") && self.read().await {}
        self.heard
    }

    fn events(&self) -> Vec<Value> {
        let lines = self.heard.lines().filter_map(|line| line.strip_prefix("data: "));
        lines.filter_map(|data| serde_json::from_str(data).ok()).collect()
    }
}

fn suppression(tenant: Option<TenantId>, address: &str) -> NewSuppression {
    NewSuppression::of_all_mail(
        tenant,
        Environment::Live,
        Address::parse(address).unwrap(),
        SuppressionReason::Manual,
    )
}

async fn suppress(stage: &ApiStage, tenant: Option<TenantId>, address: &str) {
    stage.store.suppress(suppression(tenant, address), Timestamp::now()).await.unwrap();
}

#[tokio::test]
async fn events_are_listed_newest_first_and_filtered_by_type_and_message() {
    let stage = ApiStage::start().await;
    let acme = stage.tenant("acme").await;
    let message = stage.enqueue(acme.id).await;
    for number in 0..5 {
        suppress(&stage, Some(acme.id), &format!("a{number}@x.example")).await;
    }
    let list = stage.get(&acme.key, "/v1/events?type=suppression.created&limit=3").await.expect(200);
    let addresses = |list: &Value| -> Vec<String> {
        list["data"].as_array().unwrap().iter().map(|event| text(event, "/data/address")).collect()
    };
    assert_eq!(addresses(&list), ["a4@x.example", "a3@x.example", "a2@x.example"]);
    let next = format!("/v1/events?type=suppression.created&limit=3&after={}", text(&list, "/next_cursor"));
    let rest = stage.get(&acme.key, &next).await.expect(200);
    assert_eq!(
        (addresses(&rest), &rest["has_more"]),
        (vec!["a1@x.example".into(), "a0@x.example".into()], &json!(false))
    );
    let of_message = stage.get(&acme.key, &format!("/v1/events?message_id={message}")).await.expect(200);
    assert_eq!(of_message["data"].as_array().unwrap().len(), 1);
    let event = &of_message["data"][0];
    assert_eq!((&event["type"], &event["object"]), (&json!("message.accepted"), &json!("event")));
    assert_eq!(event["data"]["recipients"], 1);
    stage.get(&acme.key, "/v1/events?type=message.read").await.expect_error(422, "validation_failed");
}

#[tokio::test]
async fn a_refused_submission_and_a_suppressed_recipient_are_events() {
    let stage = ApiStage::start().await;
    let acme = stage.tenant("acme").await;
    for code in [RefusalCode::DomainNotAllowedForKey, RefusalCode::RecipientSuppressed] {
        let now = Timestamp::now();
        stage.store.reject(Rejection {
            id: RequestId::generate(now),
            tenant_id: acme.id,
            key_id: None,
            environment: Environment::Live,
            stage: SubmissionStage::Rcpt,
            code,
            message: "no".into(),
            client_address: None,
            created_at: now,
        });
    }
    let list = until("both are noted", async || {
        let list = stage.get(&acme.key, "/v1/events?limit=2").await.expect(200);
        Some(list).filter(|list| text(list, "/data/1/type") == "message.rejected")
    })
    .await;
    assert_eq!(text(&list, "/data/1/data/code"), "domain_not_allowed_for_key");
    assert_eq!(text(&list, "/data/0/type"), "message.suppressed");
}

#[tokio::test]
async fn a_stream_shows_events_of_its_own_tenant_and_continues_where_it_broke_off() {
    let stage = ApiStage::start().await;
    let (acme, other) = (stage.tenant("acme").await, stage.tenant("other").await);
    suppress(&stage, Some(acme.id), "before@x.example").await;
    let mut own = Follower::start(&stage, &acme.key, "/v1/events", "").await;
    let mut all = Follower::start(&stage, &stage.platform, "/v1/events?type=suppression.created", "").await;
    suppress(&stage, Some(other.id), "theirs@x.example").await;
    suppress(&stage, None, "platform@x.example").await;
    stage.enqueue(other.id).await;
    suppress(&stage, Some(acme.id), "first@x.example").await;
    own.until("first@x.example").await;
    all.until("first@x.example").await;
    assert_eq!(own.events().len(), 1, "{}", own.heard);
    assert_eq!(all.events().len(), 3, "{}", all.heard);
    let event = &own.events()[0];
    let id = text(event, "/id");
    let (before, _) =
        own.heard.split_once("\nevent: suppression.created\ndata: {").expect("the event has a type");
    let (_, cursor) = before.rsplit_once("id: ").expect("the event has a position");
    let cursor = cursor.to_owned();
    let shown = stage.get(&acme.key, "/v1/events?limit=1").await.expect(200);
    assert_eq!(shown["data"][0], *event, "the list and the tail have one shape");
    drop(own);
    suppress(&stage, Some(acme.id), "missed@x.example").await;
    for position in [cursor, id] {
        let headers = format!("Last-Event-ID: {position}\r\n");
        let mut again = Follower::start(&stage, &acme.key, "/v1/events", &headers).await;
        again.until("missed@x.example").await;
        assert_eq!(again.events().len(), 1, "{}", again.heard);
    }
}

#[tokio::test]
async fn a_stream_without_any_event_continues_where_it_broke_off() {
    let stage = ApiStage::start().await;
    let (acme, other) = (stage.tenant("acme").await, stage.tenant("other").await);
    suppress(&stage, Some(acme.id), "before@x.example").await;
    suppress(&stage, Some(other.id), "theirs@x.example").await;
    let last = stage.get(&stage.platform, "/v1/events?limit=1").await.expect(200);
    let mut own = Follower::start(&stage, &acme.key, "/v1/events", "").await;
    own.until("\n\n").await;
    let (preamble, _) = own.heard.split_once("\n\n").unwrap();
    let (_, position) = preamble.rsplit_once("\nid: ").expect("the stream begins with a position");
    let position = position.to_owned();
    assert_ne!(position[4..], text(&last, "/data/0/id")[4..], "an id of another tenant is not shown");
    drop(own);
    suppress(&stage, Some(acme.id), "missed@x.example").await;
    let headers = format!("Last-Event-ID: {position}\r\n");
    let mut again = Follower::start(&stage, &acme.key, "/v1/events", &headers).await;
    again.until("missed@x.example").await;
    assert!(again.events().len() <= 2, "{}", again.heard);
}

#[tokio::test]
async fn a_stream_ends_when_its_key_or_tenant_ends_and_when_the_server_stops() {
    let stage = ApiStage::start().await;
    let (acme, other) = (stage.tenant("acme").await, stage.tenant("other").await);
    let suspended = Follower::start(&stage, &acme.key, "/v1/events", "").await;
    let revoked = Follower::start(&stage, &other.key, "/v1/events", "").await;
    let stopped = Follower::start(&stage, &stage.platform, "/v1/events?type=message.accepted", "").await;
    let path = format!("/v1/tenants/{}", acme.id);
    stage.patch(&stage.platform, &path, json!({"status": "suspended"})).await.expect(200);
    let keys = stage.get(&other.key, "/v1/keys").await.expect(200);
    stage.delete(&stage.platform, &format!("/v1/keys/{}", text(&keys, "/data/0/id"))).await.expect(200);
    for follower in [suspended, revoked] {
        let heard = follower.end().await;
        assert!(heard.contains(": this key is no longer allowed to read events"), "{heard}");
    }
    stage.stop.cancel();
    let heard = stopped.end().await;
    assert!(heard.contains(": the server is stopping"), "{heard}");
    timeout(PATIENCE, stage.serving).await.expect("the server stops").unwrap();
}

#[tokio::test]
async fn the_number_of_streams_of_a_tenant_is_limited() {
    let stage = ApiStage::start().await;
    let (acme, other) = (stage.tenant("acme").await, stage.tenant("other").await);
    let mut open = Vec::new();
    for _ in 0..10 {
        open.push(Follower::start(&stage, &acme.key, "/v1/events", "").await);
    }
    let mut refused = Follower::open(&stage, &acme.key, "/v1/events", "Connection: close\r\n").await;
    refused.until("rate_limited").await;
    assert!(refused.heard.starts_with("HTTP/1.1 429"), "{}", refused.heard);
    Follower::start(&stage, &other.key, "/v1/events", "").await;
    open.pop();
    until("it is accepted again", async || {
        let mut follower = Follower::open(&stage, &acme.key, "/v1/events", "Connection: close\r\n").await;
        follower.until("\r\n\r\n").await;
        follower.heard.starts_with("HTTP/1.1 200").then_some(())
    })
    .await;
    let error = request(stage.address, "GET", "/v1/events?after=evt_x", Some(&acme.key), None).await;
    error.expect_error(422, "validation_failed");
    for (target, headers) in [("/v1/events?limit=3", ""), ("/v1/events", "Last-Event-ID: 7\r\n")] {
        let headers = format!("{headers}Connection: close\r\n");
        let mut wrong = Follower::open(&stage, &other.key, target, &headers).await;
        wrong.until("validation_failed").await;
    }
}

#[tokio::test]
async fn a_slow_reader_delays_nobody_and_loses_no_event() {
    const BATCHES: usize = 6;
    let stage = ApiStage::start().await;
    let acme = stage.tenant("acme").await;
    let mut slow = Follower::start(&stage, &acme.key, "/v1/events", "").await;
    let mut quick = Follower::start(&stage, &stage.platform, "/v1/events", "").await;
    for batch in 0..BATCHES {
        let news = (0..800).map(|number| suppression(Some(acme.id), &format!("a{number}@x{batch}.example")));
        stage.store.suppress_all(news.collect(), Timestamp::now()).await.unwrap();
    }
    let last = format!("a799@x{}.example", BATCHES - 1);
    quick.until(&last).await;
    // The first events are no longer in memory now, and the socket buffers hold less than all of them.
    slow.until(&last).await;
    for mut follower in [slow, quick] {
        while !follower.heard.ends_with("\n\n\r\n") {
            assert!(follower.read().await);
        }
        let ids: Vec<_> = follower.events().iter().map(|event| text(event, "/id")).collect();
        assert!(ids.is_sorted());
        assert_eq!(ids.len(), BATCHES * 800);
    }
}
