//! The memory of responses that clients request and do not read.

use std::path::PathBuf;
use std::sync::Arc;

use bytesize::ByteSize;
use pillarbox::mail::Timestamp;
use pillarbox::model::{AttemptId, DeliveryState, Environment, MessageId, MessageKind};
use pillarbox::store::{Attempt, AttemptRecord, Directory, Journal, RecordBatch, Spool, TenantPatch};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::api_stage::{ApiStage, Tenant, text};
use crate::http::{Answer, read_answer, request, request_with};
use crate::http2::{HEADERS, Http2};
use crate::wait::until;

/// A body that is stored in the database, and one that is stored in a file.
const SMALL: usize = 200_000;
const LARGE: usize = 4_000_000;
/// Maximum number of streams of a connection.
const STREAMS: u32 = 32;

async fn message(stage: &ApiStage, tenant: &Tenant, octets: usize) -> String {
    let id: MessageId = stage.enqueue_body(tenant.id, vec![b'x'; octets].into()).await;
    format!("/v1/emails/{id}/raw")
}

/// Sends this many requests on one connection, and reads nothing.
async fn ask(stage: &ApiStage, path: &str, key: &str, times: u32) -> Http2 {
    let mut client = Http2::connect(stage.address).await;
    for number in 0..times {
        client.get(2 * number + 1, path, key).await;
    }
    client
}

/// Waits until each of this many requests has the head of its response: it then holds all the memory that it will hold.
async fn wait_for_heads(client: &mut Http2, times: u32) {
    let mut heads = 0;
    while heads < times {
        let frame = client.frame().await.expect("the connection lives");
        heads += u32::from(frame.kind == HEADERS);
    }
}

/// Begins to read a large message more often than a tenant may at the same time.
async fn read_up_to_the_limit(stage: &ApiStage, path: &str, key: &str) -> Vec<Http2> {
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut client = ask(stage, path, key, STREAMS).await;
        wait_for_heads(&mut client, STREAMS).await;
        held.push(client);
    }
    held
}

async fn refused(stage: &ApiStage, key: &str, path: &str) -> Option<Answer> {
    let answer = stage.get(key, path).await;
    (answer.status != 200).then_some(answer)
}

#[tokio::test]
async fn responses_that_a_tenant_does_not_read_leave_memory_for_others() {
    let stage = ApiStage::with(|api, _| api.inbound_buffer_max = ByteSize::kib(2048)).await;
    let (greedy, other) = (stage.tenant("greedy").await, stage.tenant("other").await);
    let path = message(&stage, &greedy, SMALL).await;
    let of_other = message(&stage, &other, SMALL).await;
    let mut held = ask(&stage, &path, &greedy.key, STREAMS).await;
    wait_for_heads(&mut held, STREAMS).await;
    let refusal = until("the memory is used up", async || refused(&stage, &greedy.key, &path).await).await;
    assert!(refusal.header("retry-after").is_some(), "{refusal}");
    refusal.expect_error(503, "overloaded");
    let keys = format!("/v1/keys?tenant_id={}", greedy.id);
    let count =
        async || stage.get(&stage.platform, &keys).await.expect(200)["data"].as_array().unwrap().len();
    let before = count().await;
    // The memory budget is full except for a few octets; a response that shows a secret once must not be lost.
    let fill = stage.memory.clone();
    let mut rest = fill.reserve(Some(greedy.id));
    (1..).take_while(|kib| rest.grow_to(kib * 1024)).count();
    let refusal = stage.post(&greedy.key, "/v1/keys", json!({"name": "k", "scopes": ["emails:read"]})).await;
    refusal.expect_error(503, "overloaded");
    assert_eq!(count().await, before, "nothing was made");
    drop(rest);
    assert!(stage.memory.octets_reserved() >= SMALL as u64);
    assert!(stage.memory.octets_reserved() <= 1024 * 1024, "half of the memory is for others");
    let answer = stage.get(&other.key, &of_other).await;
    assert_eq!((answer.status, answer.body.len()), (200, SMALL + 14));
    drop(held);
    until("all memory is free", async || (stage.memory.octets_reserved() == 0).then_some(())).await;
    assert_eq!(stage.get(&greedy.key, &path).await.status, 200);
}

#[tokio::test]
async fn a_list_that_is_not_read_counts_in_the_memory_budget() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    for _ in 0..50 {
        stage.enqueue(tenant.id).await;
    }
    let octets = stage.get(&tenant.key, "/v1/emails?limit=50").await.body.len() as u64;
    let held = ask(&stage, "/v1/emails?limit=50", &tenant.key, STREAMS).await;
    // The octets that the connection's window allows to send are not counted any more.
    let expected = octets * u64::from(STREAMS) - 2 * 65_535;
    until("the lists have reserved memory", async || {
        (stage.memory.octets_reserved() >= expected).then_some(())
    })
    .await;
    drop(held);
    until("all memory is free", async || (stage.memory.octets_reserved() == 0).then_some(())).await;
}

#[tokio::test]
async fn a_large_message_uses_the_memory_of_a_few_pieces_whatever_its_size() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    let path = message(&stage, &tenant, LARGE).await;
    let held = ask(&stage, &path, &tenant.key, STREAMS).await;
    let expected = u64::from(STREAMS) * 256 * 1024;
    until("all are being read", async || (stage.memory.octets_reserved() == expected).then_some(())).await;
    drop(held);
    until("all memory is free", async || (stage.memory.octets_reserved() == 0).then_some(())).await;
    let answer = stage.get(&tenant.key, &path).await;
    assert_eq!(answer.header("content-length"), Some((LARGE + 14).to_string().as_str()));
    assert_eq!(answer.body, [&b"A: b\r\nC: d\r\n\r\n"[..], &vec![b'x'; LARGE]].concat());
    let head = stage.call(&tenant.key, "HEAD", &path, Value::Null).await;
    assert_eq!(head.header("content-length"), Some((LARGE + 14).to_string().as_str()));
    assert_eq!((head.status, head.body.len()), (200, 0));
}

#[tokio::test]
async fn the_number_of_large_messages_that_a_tenant_reads_at_the_same_time_is_limited() {
    let stage = ApiStage::start().await;
    let (greedy, other) = (stage.tenant("greedy").await, stage.tenant("other").await);
    let path = message(&stage, &greedy, LARGE).await;
    let of_other = message(&stage, &other, LARGE).await;
    let held = read_up_to_the_limit(&stage, &path, &greedy.key).await;
    stage.get(&greedy.key, &path).await.expect_error(503, "overloaded");
    assert_eq!(stage.get(&other.key, &of_other).await.status, 200);
    drop(held);
    until("another one is accepted", async || {
        (stage.get(&greedy.key, &path).await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_file_of_a_message_is_read_neither_for_head_nor_for_a_download_over_the_limit() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    let path = message(&stage, &tenant, LARGE).await;
    let held = read_up_to_the_limit(&stage, &path, &tenant.key).await;
    let file = std::fs::File::options().write(true).open(body_file(&stage)).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"y", LARGE as u64).unwrap();
    stage.get(&tenant.key, &path).await.expect_error(503, "overloaded");
    let head = stage.call(&tenant.key, "HEAD", &path, Value::Null).await;
    assert_eq!((head.status, head.header("content-length")), (200, Some((LARGE + 14).to_string().as_str())));
    drop(held);
    let read = until("it may read again", async || {
        let answer = stage.get(&tenant.key, &path).await;
        (answer.status != 503).then_some(answer)
    });
    read.await.expect_error(500, "content_damaged");
}

/// The only file of a body.
fn body_file(stage: &ApiStage) -> PathBuf {
    let shelf = std::fs::read_dir(stage.bodies()).unwrap().next().unwrap().unwrap().path();
    std::fs::read_dir(shelf).unwrap().next().unwrap().unwrap().path()
}

/// Begins to read a large message, changes its file, and reads on. Returns the octets of the body.
async fn read_while(stage: &ApiStage, tenant: &Tenant, change: impl FnOnce(PathBuf)) -> usize {
    let octets = 20_000_000;
    let path = message(stage, tenant, octets).await;
    let mut client = TcpStream::connect(stage.address).await.unwrap();
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\r\n",
        tenant.key
    );
    client.write_all(head.as_bytes()).await.unwrap();
    client.readable().await.unwrap();
    change(body_file(stage));
    let answer = read_answer(&mut client).await;
    assert_eq!(answer.header("content-length"), Some((octets + 14).to_string().as_str()));
    answer.body.len()
}

#[tokio::test]
async fn a_message_that_is_deleted_while_it_is_read_is_read_completely() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    let octets = read_while(&stage, &tenant, |file| std::fs::remove_file(file).unwrap()).await;
    assert_eq!(octets, 20_000_014);
}

#[tokio::test]
async fn a_message_whose_file_is_truncated_breaks_the_connection_instead_of_ending() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    let cut = |file| std::fs::File::options().write(true).open(file).unwrap().set_len(19_000_000).unwrap();
    let octets = read_while(&stage, &tenant, cut).await;
    assert!(octets < 20_000_014, "{octets}");
}

#[tokio::test]
async fn a_list_of_templates_omits_the_bodies_and_a_single_template_has_them() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    let template = json!({"name": "t", "subject": "s", "text": "a text", "html": "<p>"});
    let made = stage.post(&tenant.key, "/v1/templates", template).await.expect(201);
    let listed = stage.get(&tenant.key, "/v1/templates").await.expect(200);
    let mut expected = made.clone();
    let fields = expected.as_object_mut().unwrap();
    assert!(fields.remove("text").is_some() && fields.remove("html").is_some());
    assert_eq!(listed["data"], json!([expected]));
    let single = stage.get(&tenant.key, &format!("/v1/templates/{}", text(&made, "/id"))).await.expect(200);
    assert_eq!(single, made);
}

#[tokio::test]
async fn a_page_of_large_objects_ends_early_with_a_cursor() {
    let stage = ApiStage::start().await;
    let metadata = json!({"note": "x".repeat(200_000)});
    for number in 0..15 {
        let tenant = stage.tenant(&format!("t{number}")).await;
        let patch = TenantPatch { metadata: metadata.as_object().cloned(), ..TenantPatch::default() };
        stage.store.update_tenant(tenant.id, patch, stage.clock.now()).await.unwrap().unwrap();
    }
    let (mut seen, mut after, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let answer = stage.get(&stage.platform, &format!("/v1/tenants?limit=100{after}")).await;
        assert!(answer.body.len() < 2_500_000, "{}", answer.body.len());
        let page = answer.expect(200);
        seen.extend(page["data"].as_array().unwrap().iter().map(|tenant| text(tenant, "/id")));
        pages += 1;
        if page["has_more"] == false {
            break;
        }
        after = format!("&after={}", text(&page, "/next_cursor"));
    }
    let count = seen.len();
    seen.dedup();
    assert_eq!((seen.len(), count >= 15, pages > 1), (count, true, true), "{pages} pages");
}

#[tokio::test]
async fn a_timeline_of_long_dialogues_is_truncated_and_says_so() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    let id = stage.enqueue(tenant.id).await;
    let delivery_id = stage.store.deliveries(id).await.unwrap()[0].id;
    let (now, transcript): (_, Arc<str>) =
        (stage.clock.now(), "y".repeat(Attempt::TRANSCRIPT_OCTETS_MAX).into());
    let records = (0..500).map(|number| {
        let attempt = Attempt {
            id: AttemptId::generate(now),
            message_id: id,
            delivery_id,
            started_at: Timestamp::from_microsecond(1_700_000_000_000_000 + number).unwrap(),
            duration_ms: 1,
            host: "mx".into(),
            address: None,
            tls: None,
            source: None,
            tls_policy: None,
            code: None,
            enhanced: None,
            text: "later".into(),
            transcript: Arc::clone(&transcript),
            outcome: DeliveryState::Deferred,
            bounce_class: None,
            reason: String::new(),
        };
        AttemptRecord {
            message_id: id,
            kind: MessageKind::Message,
            tenant_id: tenant.id,
            environment: Environment::Live,
            key_id: None,
            sender_domain: None,
            delivery_id,
            state: DeliveryState::Deferred,
            bounce_class: None,
            next_attempt_at: Some(now),
            attempt: Some(attempt),
            reply: "later".into(),
            suppress: None,
            delayed: false,
            at: now,
        }
    });
    stage.store.record(RecordBatch { records: records.collect(), report: None }).await.unwrap();
    let answer = stage.get(&tenant.key, &format!("/v1/emails/{id}/timeline")).await;
    assert!(answer.body.len() < 2_500_000, "{}", answer.body.len());
    let timeline = answer.expect(200);
    let entries = timeline["data"].as_array().unwrap();
    assert_eq!(timeline["has_more"], true);
    // Entries after the last dialogue that is shown are omitted, because the ones between are missing.
    assert!(
        entries.len() > 100 && entries.iter().all(|entry| entry["object"] == "attempt"),
        "{}",
        entries.len()
    );
}

#[tokio::test]
async fn the_head_of_a_request_counts_in_the_memory_budget_while_its_body_is_awaited() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    let head = format!(
        "POST /v1/templates HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nX-Long: {}\r\n\
         Content-Type: application/json\r\nContent-Length: 10\r\n\r\n",
        tenant.key,
        "x".repeat(10_000)
    );
    let mut client = TcpStream::connect(stage.address).await.unwrap();
    client.write_all(head.as_bytes()).await.unwrap();
    until("the head has reserved memory", async || (stage.memory.octets_reserved() > 10_000).then_some(()))
        .await;
    drop(client);
    until("all memory is free", async || (stage.memory.octets_reserved() == 0).then_some(())).await;
}

#[tokio::test]
async fn public_responses_use_no_memory_budget_and_are_sent_when_it_is_full() {
    let stage = ApiStage::start().await;
    let mut all = stage.memory.reserve(None);
    assert!(all.grow_to(stage.memory.octets_max()));
    let gzip = [("Accept-Encoding", "gzip")];
    for path in ["/openapi.json", "/docs"] {
        assert_eq!(request(stage.address, "GET", path, None, None).await.status, 200);
        let answer = request_with(stage.address, "GET", path, None, None, &gzip).await;
        assert_eq!((answer.status, answer.header("content-encoding")), (200, Some("gzip")), "{path}");
    }
    let list = stage.get(&stage.platform, "/v1/tenants").await;
    list.expect_error(503, "overloaded");
}

#[tokio::test]
async fn a_response_is_sent_uncompressed_if_there_is_no_memory_to_compress_it() {
    let stage = ApiStage::with(|api, _| api.inbound_buffer_max = ByteSize::kib(100)).await;
    stage.tenant("a").await;
    let gzip = [("Accept-Encoding", "gzip")];
    for _ in 0..3 {
        stage.enqueue(stage.tenant("t").await.id).await;
    }
    let answer = request_with(stage.address, "GET", "/v1/emails", Some(&stage.platform), None, &gzip).await;
    assert_eq!((answer.status, answer.header("content-encoding")), (200, None), "{answer}");
}
