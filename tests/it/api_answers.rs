//! The memory that answers take: what clients ask for and do not read.

use std::path::PathBuf;

use bytesize::ByteSize;
use pillarbox::model::MessageId;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::api_stage::{ApiStage, Tenant, text};
use crate::http::{Answer, read_answer, request, request_with};
use crate::http2::{HEADERS, Http2};
use crate::wait::until;

/// A body that is no file, and one that is.
const SMALL: usize = 200_000;
const LARGE: usize = 4_000_000;
/// Streams that a connection may have.
const STREAMS: u32 = 32;

async fn message(stage: &ApiStage, tenant: &Tenant, octets: usize) -> String {
    let id: MessageId = stage.enqueue_body(tenant.id, vec![b'x'; octets].into()).await;
    format!("/v1/emails/{id}/raw")
}

/// Asks so often on one connection, and reads nothing.
async fn ask(stage: &ApiStage, path: &str, key: &str, times: u32) -> Http2 {
    let mut client = Http2::connect(stage.address).await;
    for number in 0..times {
        client.get(2 * number + 1, path, key).await;
    }
    client
}

/// Waits until each of so many requests has the head of its answer: what it holds of the room is what it will hold.
async fn wait_for_heads(client: &mut Http2, times: u32) {
    let mut heads = 0;
    while heads < times {
        let frame = client.frame().await.expect("the connection lives");
        heads += u32::from(frame.kind == HEADERS);
    }
}

async fn refused(stage: &ApiStage, key: &str, path: &str) -> Option<Answer> {
    let answer = stage.get(key, path).await;
    (answer.status != 200).then_some(answer)
}

#[tokio::test]
async fn answers_that_a_tenant_does_not_take_leave_room_for_others() {
    let stage = ApiStage::with(|api, _| api.inbound_buffer_max = ByteSize::kib(2048)).await;
    let (greedy, other) = (stage.tenant("greedy").await, stage.tenant("other").await);
    let path = message(&stage, &greedy, SMALL).await;
    let of_other = message(&stage, &other, SMALL).await;
    let mut held = ask(&stage, &path, &greedy.key, STREAMS).await;
    wait_for_heads(&mut held, STREAMS).await;
    let refusal = until("there is no room", async || refused(&stage, &greedy.key, &path).await).await;
    assert!(refusal.header("retry-after").is_some(), "{refusal}");
    refusal.expect_error(503, "overloaded");
    let keys = format!("/v1/keys?tenant_id={}", greedy.id);
    let count =
        async || stage.get(&stage.platform, &keys).await.expect(200)["data"].as_array().unwrap().len();
    let before = count().await;
    // The room is full to a few octets; an answer that shows a secret once is not to be lost.
    let fill = stage.room.clone();
    let mut rest = fill.reserve(Some(greedy.id));
    (1..).take_while(|kib| rest.grow_to(kib * 1024)).count();
    let refusal = stage.post(&greedy.key, "/v1/keys", json!({"name": "k", "scopes": ["emails:read"]})).await;
    refusal.expect_error(503, "overloaded");
    assert_eq!(count().await, before, "nothing was made");
    drop(rest);
    assert!(stage.room.octets_reserved() >= SMALL as u64);
    assert!(stage.room.octets_reserved() <= 1024 * 1024, "half of the room is for others");
    let answer = stage.get(&other.key, &of_other).await;
    assert_eq!((answer.status, answer.body.len()), (200, SMALL + 14));
    drop(held);
    until("the room is free", async || (stage.room.octets_reserved() == 0).then_some(())).await;
    assert_eq!(stage.get(&greedy.key, &path).await.status, 200);
}

#[tokio::test]
async fn a_list_that_is_not_taken_is_in_the_room() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    for _ in 0..50 {
        stage.enqueue(tenant.id).await;
    }
    let octets = stage.get(&tenant.key, "/v1/emails?limit=50").await.body.len() as u64;
    let held = ask(&stage, "/v1/emails?limit=50", &tenant.key, STREAMS).await;
    // What one connection may be sent ahead is not held any more.
    let expected = octets * u64::from(STREAMS) - 2 * 65_535;
    until("the lists are in the room", async || (stage.room.octets_reserved() >= expected).then_some(()))
        .await;
    drop(held);
    until("the room is free", async || (stage.room.octets_reserved() == 0).then_some(())).await;
}

#[tokio::test]
async fn a_large_message_takes_a_few_pieces_of_room_however_large_it_is() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    let path = message(&stage, &tenant, LARGE).await;
    let held = ask(&stage, &path, &tenant.key, STREAMS).await;
    let expected = u64::from(STREAMS) * 256 * 1024;
    until("all are being read", async || (stage.room.octets_reserved() == expected).then_some(())).await;
    drop(held);
    until("the room is free", async || (stage.room.octets_reserved() == 0).then_some(())).await;
    let answer = stage.get(&tenant.key, &path).await;
    assert_eq!(answer.header("content-length"), Some((LARGE + 14).to_string().as_str()));
    assert_eq!(answer.body, [&b"A: b\r\nC: d\r\n\r\n"[..], &vec![b'x'; LARGE]].concat());
    let head = stage.call(&tenant.key, "HEAD", &path, Value::Null).await;
    assert_eq!(head.header("content-length"), Some((LARGE + 14).to_string().as_str()));
    assert_eq!((head.status, head.body.len()), (200, 0));
}

#[tokio::test]
async fn large_messages_that_a_tenant_has_read_at_one_time_are_limited() {
    let stage = ApiStage::start().await;
    let (greedy, other) = (stage.tenant("greedy").await, stage.tenant("other").await);
    let path = message(&stage, &greedy, LARGE).await;
    let of_other = message(&stage, &other, LARGE).await;
    let mut held = Vec::new();
    // More than it may have, for the probe may have been first.
    for _ in 0..3 {
        held.push(ask(&stage, &path, &greedy.key, STREAMS).await);
    }
    let refusal = until("it has enough of them", async || refused(&stage, &greedy.key, &path).await).await;
    refusal.expect_error(503, "overloaded");
    assert_eq!(stage.get(&other.key, &of_other).await.status, 200);
    drop(held);
    until("it may go on", async || (stage.get(&greedy.key, &path).await.status == 200).then_some(())).await;
}

#[tokio::test]
async fn the_file_of_a_message_is_read_neither_for_head_nor_for_a_download_over_the_limit() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    let path = message(&stage, &tenant, LARGE).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(ask(&stage, &path, &tenant.key, STREAMS).await);
    }
    until("it has enough of them", async || refused(&stage, &tenant.key, &path).await).await;
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

/// Begins to read a large message, does something to its file, and reads on; answers the octets of the body.
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
async fn a_message_that_is_removed_while_it_is_read_is_read_whole() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    let octets = read_while(&stage, &tenant, |file| std::fs::remove_file(file).unwrap()).await;
    assert_eq!(octets, 20_000_014);
}

#[tokio::test]
async fn a_message_whose_file_is_cut_breaks_off_instead_of_ending() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    let cut = |file| std::fs::File::options().write(true).open(file).unwrap().set_len(19_000_000).unwrap();
    let octets = read_while(&stage, &tenant, cut).await;
    assert!(octets < 20_000_014, "{octets}");
}

#[tokio::test]
async fn a_list_of_templates_has_no_bodies_and_a_single_one_has() {
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
async fn a_page_of_large_objects_ends_early_and_says_where_to_go_on() {
    let stage = ApiStage::start().await;
    for number in 0..15 {
        stage.tenant(&format!("t{number}")).await;
    }
    let metadata = json!({"note": "x".repeat(200_000)}).to_string();
    stage.database().execute("UPDATE tenant SET metadata = ?1", [metadata]).unwrap();
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
async fn a_timeline_of_long_dialogues_is_cut_and_says_so() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    let id = stage.enqueue(tenant.id).await;
    let mut database = stage.database();
    let rows = database.transaction().unwrap();
    for number in 0..500 {
        let attempt = format!("att_{number:026}");
        rows.execute(
            "INSERT INTO attempt (id, message_id, delivery_id, started_us, duration_ms, host, text, transcript,
                                  outcome, reason)
             SELECT ?1, message_id, id, ?2, 1, 'mx', 'later', ?3, 'deferred', '' FROM delivery",
            rusqlite::params![attempt, 1_700_000_000_000_000_i64 + number, "y".repeat(16_384)],
        )
        .unwrap();
    }
    rows.commit().unwrap();
    let answer = stage.get(&tenant.key, &format!("/v1/emails/{id}/timeline")).await;
    assert!(answer.body.len() < 2_500_000, "{}", answer.body.len());
    let timeline = answer.expect(200);
    let entries = timeline["data"].as_array().unwrap();
    assert_eq!(timeline["has_more"], true);
    // What happened after the last dialogue that is shown is not told before those between.
    assert!(
        entries.len() > 100 && entries.iter().all(|entry| entry["object"] == "attempt"),
        "{}",
        entries.len()
    );
}

#[tokio::test]
async fn the_head_of_a_request_is_in_the_room_while_its_body_is_awaited() {
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
    until("it is in the room", async || (stage.room.octets_reserved() > 10_000).then_some(())).await;
    drop(client);
    until("the room is free", async || (stage.room.octets_reserved() == 0).then_some(())).await;
}

#[tokio::test]
async fn what_everybody_is_told_takes_no_room_and_is_given_when_there_is_none() {
    let stage = ApiStage::start().await;
    let mut all = stage.room.reserve(None);
    assert!(all.grow_to(stage.room.octets_max()));
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
async fn an_answer_for_whose_short_form_there_is_no_room_is_given_as_it_is() {
    let stage = ApiStage::with(|api, _| api.inbound_buffer_max = ByteSize::kib(100)).await;
    stage.tenant("a").await;
    let gzip = [("Accept-Encoding", "gzip")];
    for _ in 0..3 {
        stage.enqueue(stage.tenant("t").await.id).await;
    }
    let answer = request_with(stage.address, "GET", "/v1/emails", Some(&stage.platform), None, &gzip).await;
    assert_eq!((answer.status, answer.header("content-encoding")), (200, None), "{answer}");
}
