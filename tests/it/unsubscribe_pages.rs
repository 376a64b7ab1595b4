//! The pages of unsubscribe links, on a listener of their own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use pillarbox::mail::{Address, Timestamp};
use pillarbox::model::{Environment, MessageId, UnsubscribeLink};
use pillarbox::store::Reports;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::http::{Answer, exchange};
use crate::identity::trust_pem;
use crate::inbound_stage::{DOMAIN, InboundStage};
use crate::server::{HOSTNAME, message};
use crate::unsubscribe::{list_message, open_pages, start};

const URLENCODED: (&str, &str) = ("application/x-www-form-urlencoded", "List-Unsubscribe=One-Click");
const MULTIPART: (&str, &str) = (
    "multipart/form-data; boundary=\"b 1\"",
    "--b 1\r\nContent-Disposition: form-data; name=\"List-Unsubscribe\"\r\n\r\nOne-Click\r\n--b 1--\r\n",
);

fn public(stage: &InboundStage) -> SocketAddr {
    stage.server.running().public_addresses[0]
}

async fn visit(stage: &InboundStage, method: &str, path: &str) -> Answer {
    exchange(public(stage), format!("{method} {path} HTTP/1.1\r\nHost: mail.relay.test\r\n\r\n").as_bytes())
        .await
}

async fn post(stage: &InboundStage, path: &str, (kind, body): (&str, &str)) -> Answer {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: mail.relay.test\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    exchange(public(stage), (head + body).as_bytes()).await
}

/// The path of a link for bob, of a message that may not exist.
fn link_of(stage: &InboundStage, environment: Environment, message: MessageId) -> String {
    let link = UnsubscribeLink {
        tenant_id: stage.account.tenant_id.parse().unwrap(),
        environment,
        message_id: message,
        list: "news".parse().unwrap(),
        address: Address::parse("bob@b.test").unwrap(),
    };
    format!("/u/{}", stage.server.running().store().link_keys().seal(&link).unwrap())
}

/// A link of a message that is deleted.
fn old_link(stage: &InboundStage) -> String {
    link_of(stage, Environment::Live, MessageId::generate(Timestamp::UNIX_EPOCH))
}

async fn suppressions(stage: &InboundStage) -> Vec<Value> {
    let list =
        stage.server.control.get(&format!("/v1/suppressions?tenant_id={}", stage.account.tenant_id)).await;
    list["data"].as_array().unwrap().clone()
}

async fn unsubscribed(stage: &InboundStage) -> Vec<Value> {
    let path = format!("/v1/events?tenant_id={}&type=message.unsubscribed", stage.account.tenant_id);
    stage.server.control.get(&path).await["data"].as_array().unwrap().clone()
}

async fn admits(stage: &InboundStage, octets: &[u8]) -> bool {
    let mut client = stage.server.log_in(&stage.account).await;
    client.send(&format!("alice@{DOMAIN}"), &["bob@b.test"], octets).await.code == 250
}

fn body(answer: &Answer) -> &str {
    std::str::from_utf8(&answer.body).unwrap()
}

#[tokio::test]
async fn looking_at_a_link_changes_nothing_however_often_and_shows_only_what_its_owner_may_see() {
    let stage = start().await;
    let path = old_link(&stage);
    let page = visit(&stage, "GET", &path).await;
    assert_eq!(page.status, 200, "{page}");
    let html = body(&page);
    assert!(html.contains("own.test") && html.contains("news") && html.contains("b…@b.test"), "{html}");
    assert!(!html.contains("bob@b.test") && !html.contains(&stage.account.tenant_id), "{html}");
    for (name, part) in [
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-store"),
        ("content-security-policy", "default-src 'none'; style-src 'sha256-"),
        ("content-security-policy", "form-action 'self'"),
        ("content-type", "text/html; charset=utf-8"),
    ] {
        assert!(page.header(name).is_some_and(|value| value.contains(part)), "{name} in {}", page.head);
    }
    assert_eq!(page.header("set-cookie"), None);
    let head = visit(&stage, "HEAD", &path).await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    for method in ["OPTIONS", "PUT", "DELETE"] {
        let answer = visit(&stage, method, &path).await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD, POST")), "{answer}");
    }
    let mut answers = Vec::new();
    // One address has at most a quarter of the connections.
    for _ in 0..4 {
        answers.extend(join_all((0..25).map(|_| visit(&stage, "GET", &path))).await);
    }
    assert!(answers.iter().any(|answer| answer.status == 429 && answer.header("retry-after").is_some()));
    assert!(answers.iter().all(|answer| matches!(answer.status, 200 | 429)));
    assert_eq!(suppressions(&stage).await, [Value::Null; 0]);
    // One network that looks too often does not stop those who leave.
    assert_eq!(post(&stage, &path, URLENCODED).await.status, 200);
    assert_eq!(suppressions(&stage).await.len(), 1);
}

#[tokio::test]
async fn a_post_in_either_form_unsubscribes_once_without_a_redirect() {
    let stage = start().await;
    let octets = list_message(&stage.account, "news", "a");
    let id = stage.server.submit(&stage.account, &["bob@b.test"], &octets).await;
    let path = link_of(&stage, Environment::Live, id.parse().unwrap());
    for form in [MULTIPART, URLENCODED, URLENCODED] {
        let answer = post(&stage, &path, form).await;
        assert_eq!((answer.status, answer.header("location")), (200, None), "{answer}");
        assert!(body(&answer).contains("You are unsubscribed"), "{answer}");
    }
    let events = unsubscribed(&stage).await;
    assert_eq!(events.len(), 1, "{events:?}");
    let event = &events[0];
    assert_eq!(
        (&event["message_id"], &event["data"]["list"], &event["data"]["via"]),
        (&id.into(), &"news".into(), &"link".into())
    );
    assert_eq!(suppressions(&stage).await.len(), 1);
    assert!(!admits(&stage, &list_message(&stage.account, "news", "b")).await);
    assert!(admits(&stage, &list_message(&stage.account, "offers", "c")).await);
    assert!(admits(&stage, &message(&stage.account, "reset")).await);
}

#[tokio::test]
async fn fifty_posts_at_once_are_one_event_and_one_suppression() {
    let stage = start().await;
    let path = old_link(&stage);
    let answers = join_all((0..50).map(|_| post(&stage, &path, URLENCODED))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!((unsubscribed(&stage).await.len(), suppressions(&stage).await.len()), (1, 1));
}

#[tokio::test]
async fn the_second_button_leaves_every_list_of_the_sender() {
    let stage = start().await;
    let form = (URLENCODED.0, "List-Unsubscribe=One-Click&scope=all");
    let answer = post(&stage, &old_link(&stage), form).await;
    assert!(answer.status == 200 && body(&answer).contains("any list"), "{answer}");
    let events = unsubscribed(&stage).await;
    assert_eq!((&events[0]["data"]["list"], &events[0]["data"]["via"]), (&"*".into(), &"page".into()));
    assert!(!admits(&stage, &list_message(&stage.account, "offers", "a")).await);
    assert!(admits(&stage, &message(&stage.account, "reset")).await);
}

#[tokio::test]
async fn another_body_a_changed_link_and_a_refused_key_change_nothing() {
    let stage = start().await;
    let path = old_link(&stage);
    for body in ["", "List-Unsubscribe=No", "unsubscribe"] {
        assert_eq!(post(&stage, &path, (URLENCODED.0, body)).await.status, 400, "{body}");
    }
    assert_eq!(post(&stage, &path, ("text/plain", URLENCODED.1)).await.status, 400);
    let large = format!("{}&x={}", URLENCODED.1, "x".repeat(4096));
    assert_eq!(post(&stage, &path, (URLENCODED.0, &large)).await.status, 413);
    let middle = path.len() / 2;
    let other = if path[middle..].starts_with('A') { "B" } else { "A" };
    let changed = format!("{}{other}{}", &path[..middle], &path[middle + 1..]);
    let mut pages = Vec::new();
    for wrong in
        [&*changed, &path[..40], "/u/", "/u", "/", "/docs", &format!("{path}/x"), &format!("/x{path}")]
    {
        for answer in [visit(&stage, "GET", wrong).await, post(&stage, wrong, URLENCODED).await] {
            assert_eq!(answer.status, 404, "{wrong}: {answer}");
            pages.push(answer.body);
        }
    }
    pages.dedup();
    assert_eq!(pages.len(), 1, "every reason has the same page");

    let store = stage.server.running().store();
    let now = stage.server.clock.now();
    store.rotate_tokens(false, now).await.unwrap();
    store.rotate_tokens(true, now).await.unwrap();
    assert_eq!(post(&stage, &path, URLENCODED).await.status, 404);
    assert_eq!(unsubscribed(&stage).await, [Value::Null; 0]);
    assert_eq!(post(&stage, &old_link(&stage), URLENCODED).await.status, 200);
}

#[tokio::test]
async fn a_link_works_after_its_message_is_gone_and_years_after_a_rotation() {
    let mut stage = start().await;
    let path = old_link(&stage);
    let store = stage.server.running().store();
    store.rotate_tokens(false, stage.server.clock.now()).await.unwrap();
    stage.server.clock.advance(Duration::from_secs(3 * 365 * 24 * 3600));
    store.rotate_tokens(false, stage.server.clock.now()).await.unwrap();
    assert_eq!(post(&stage, &path, URLENCODED).await.status, 200);
    stage.server.restart(|_| ()).await;
    assert_eq!(post(&stage, &path, URLENCODED).await.status, 200);
    let events = unsubscribed(&stage).await;
    assert_eq!((events.len(), &events[0]["message_id"]), (1, &Value::Null));
}

#[tokio::test]
async fn a_link_of_a_test_message_stops_test_mail_only() {
    let stage = start().await;
    let path = link_of(&stage, Environment::Test, MessageId::generate(Timestamp::UNIX_EPOCH));
    assert_eq!(post(&stage, &path, URLENCODED).await.status, 200);
    assert_eq!(suppressions(&stage).await[0]["environment"], "test");
    assert!(admits(&stage, &list_message(&stage.account, "news", "a")).await);
}

#[tokio::test]
async fn the_link_of_a_deleted_sender_has_nothing_left_to_do() {
    let stage = start().await;
    let path = old_link(&stage);
    stage.server.control.ok("DELETE", &format!("/v1/tenants/{}", stage.account.tenant_id), Value::Null).await;
    for answer in [visit(&stage, "GET", &path).await, post(&stage, &path, URLENCODED).await] {
        assert!(answer.status == 200 && body(&answer).contains("no longer sends"), "{answer}");
    }
}

#[tokio::test]
async fn without_the_store_a_post_says_to_try_again() {
    let stage = start().await;
    let path = old_link(&stage);
    stage.server.running().store().close().await;
    let answer = post(&stage, &path, URLENCODED).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("60")), "{answer}");
    assert!(body(&answer).contains("Nothing was changed"), "{answer}");
}

#[tokio::test]
async fn requests_through_a_trusted_proxy_are_counted_by_the_client() {
    let stage = InboundStage::start_with(|config| {
        open_pages(config);
        config.public.url = Some("https://mail.relay.test/mail".parse().unwrap());
        config.public.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await;
    let path = old_link(&stage);
    let from = async |client: &str, path: &str| {
        let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {client}\r\n\r\n");
        exchange(public(&stage), head.as_bytes()).await.status
    };
    // A minute begins, so that all requests fall into it.
    let second = stage.server.clock.now().as_second().rem_euclid(60);
    stage.server.clock.advance(Duration::from_secs(60 - second as u64));
    for _ in 0..30 {
        assert_eq!(from("198.51.100.7", &path).await, 200);
    }
    assert_eq!(from("203.0.113.1, 198.51.100.7", &path).await, 429);
    // The proxy may pass on the path of the public URL, or remove it.
    assert_eq!(from("198.51.100.8", &format!("/mail{path}")).await, 200);
}

#[tokio::test]
async fn robots_are_turned_away_and_nothing_else_is_served() {
    let stage = start().await;
    let robots = visit(&stage, "GET", "/robots.txt").await;
    assert_eq!((robots.status, body(&robots)), (200, "User-agent: *\nDisallow: /\n"));
    for path in ["/v1/emails", "/healthz", "/metrics", "/docs"] {
        assert_eq!(visit(&stage, "GET", path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn the_pages_are_served_over_tls_with_the_certificate_of_the_server() {
    let stage = InboundStage::start_with(|config| {
        open_pages(config);
        config.public.tls = true;
    })
    .await;
    let connector = TlsConnector::from(trust_pem(&stage.server.certificate_pem()) as Arc<_>);
    let stream = TcpStream::connect(public(&stage)).await.unwrap();
    let name = ServerName::try_from(HOSTNAME).unwrap();
    let mut stream = connector.connect(name, stream).await.unwrap();
    let head = format!("GET {} HTTP/1.1\r\nHost: {HOSTNAME}\r\n\r\n", old_link(&stage));
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("<button"), "{answer}");
}
