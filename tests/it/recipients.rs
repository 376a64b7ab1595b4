//! What is stored about one recipient, and its erasure.

use std::path::Path;
use std::time::Duration;

use pillarbox::mail::Timestamp;
use pillarbox::model::ErasureId;
use pillarbox::store::{Erasures, NewErasure};
use serde_json::{Value, json};

use crate::fake_mx::{FakeMx, Fault, Phase};
use crate::http::request;
use crate::server::{Account, TestServer, message, one_destination, text};
use crate::wait::until;

const BOB: &str = "bob@b.test";
const PATH: &str = "/v1/recipients/bob%40b.test";

async fn call(server: &TestServer, key: &str, method: &str, target: &str) -> Value {
    request(server.control.address, method, target, Some(key), None).await.expect(200)
}

async fn erase(server: &TestServer, query: &str) -> Value {
    call(server, &server.control.secret, "DELETE", &format!("{PATH}{query}")).await
}

/// A message whose content has the address of its recipient.
fn letter(account: &Account, subject: &str, octets: usize) -> Vec<u8> {
    let mut letter =
        format!("From: alice@{}\r\nSubject: {subject}\r\n\r\nDear Bob@B.test,\r\n", account.domain)
            .into_bytes();
    while letter.len() < octets {
        letter.extend_from_slice(b"we wrote to bob@b.test before.\r\n");
    }
    letter
}

/// The files below a directory that contain a text, in whatever case.
fn files_with(directory: &Path, needle: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, needle));
            continue;
        }
        let octets = std::fs::read(&path).unwrap().to_ascii_lowercase();
        if octets.windows(needle.len()).any(|window| window == needle.as_bytes()) {
            found.push(path.display().to_string());
        }
    }
    found
}

/// Everything that can name Bob: mail in three spellings, alone and with Carl, a bounce that suppresses him, refused mail to him,
/// an inbox, a webhook delivery, and what a person did about him.
async fn fill(server: &TestServer, mx: &FakeMx, account: &Account) -> (String, String) {
    let of_tenant = json!({"tenant_id": account.tenant_id});
    let hook = json!({"url": "https://hooks.example/", "tenant_id": account.tenant_id});
    server.control.ok("POST", "/v1/webhooks", hook).await;
    let alone = server.submit(account, &["Bob@B.test"], &letter(account, "zanzibar plan", 300_000)).await;
    server.wait_for_status(&alone, &["delivered"]).await;
    let shared = server.submit(account, &[BOB, "carl@b.test"], &message(account, "shared")).await;
    server.wait_for_status(&shared, &["delivered"]).await;
    mx.script(Phase::Rcpt, "", 1, Fault::Reply("550 5.1.1 <bob@b.test>: there is no such user"));
    let bounced = server.submit(account, &["BOB@b.test"], &letter(account, "bounced", 0)).await;
    server.wait_for_status(&bounced, &["bounced"]).await;
    until("the notification of the bounce was tried", async || {
        let list = server.control.get("/v1/emails?kind=report").await;
        (list["data"][0]["status"].as_str()? != "queued").then_some(())
    })
    .await;
    let mut client = server.log_in(account).await;
    client.command(&format!("MAIL FROM:<alice@{}>", account.domain)).await.expect_code(250);
    client.command("RCPT TO:<bob@b.test>").await.expect_code(550);
    let suppression =
        json!({"address": BOB, "reason": "manual", "evidence": "bob@b.test asked", "list": "news"});
    let suppression = merged(suppression, &of_tenant);
    let added = server.control.ok("POST", "/v1/suppressions", suppression).await;
    server.control.ok("DELETE", &format!("/v1/suppressions/{}", text(&added["id"])), Value::Null).await;
    until("the refusal is noted", async || {
        let noted = server.control.get("/v1/rejections").await;
        noted["data"].as_array().is_some_and(|noted| !noted.is_empty()).then_some(())
    })
    .await;
    (alone, shared)
}

fn merged(mut body: Value, more: &Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn an_erased_address_is_in_no_file_of_the_data_directory() {
    let (_dns, mx, mut server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    let (alone, shared) = fill(&server, &mx, &account).await;

    let would = erase(&server, "?dry_run=true&forget_suppression=true").await;
    assert_eq!(would["id"], Value::Null);
    assert_eq!(server.control.get("/v1/erasures").await["data"], json!([]));
    assert_eq!(server.control.get(&format!("/v1/emails/{alone}")).await["to"], json!(["Bob@b.test"]));
    let done = erase(&server, "?forget_suppression=true").await;
    assert!(done["applied_at"].is_string(), "{done}");
    for (field, count) in [("deliveries", 3), ("messages", 2), ("shared_messages", 1), ("cancelled", 0)] {
        assert_eq!(done["counts"][field], count, "{field} of {done}");
        assert_eq!(would["counts"][field], count, "{field} of {would}");
    }
    for field in ["events", "attempts", "rejections", "suppressions", "other"] {
        assert!(done["counts"][field].as_u64().unwrap() > 0, "{field} of {done}");
    }

    let email = server.control.get(&format!("/v1/emails/{alone}")).await;
    assert!(text(&email["to"][0]).starts_with("erased-"), "{email}");
    assert_eq!((&email["subject"], &email["status"]), (&Value::Null, &json!("delivered")));
    let secret = server.control.secret.clone();
    let raw = format!("/v1/emails/{alone}/raw");
    request(server.control.address, "GET", &raw, Some(&secret), None).await.expect_error(404, "not_found");
    let email = server.control.get(&format!("/v1/emails/{shared}")).await;
    assert_eq!((&email["subject"], &email["to"][1]), (&json!("shared"), &json!("carl@b.test")), "{email}");
    let found = server.control.get("/v1/emails?to=bob%40b.test").await;
    assert_eq!(found["data"], json!([]));
    let found = server.control.get("/v1/emails?to=carl%40b.test").await;
    assert_eq!(found["data"][0]["id"], json!(shared));
    let found = server.control.get("/v1/emails?subject=zanzibar").await;
    assert_eq!(found["data"], json!([]), "the index has the words no more");
    let events = server.control.get("/v1/events?type=recipient.erased").await;
    assert_eq!(events["data"][0]["data"]["erasure_id"], done["id"], "{events}");

    let erasures = server.control.get("/v1/erasures").await;
    assert_eq!((&erasures["data"][0]["id"], &erasures["has_more"]), (&done["id"], &json!(false)));
    server.stop().await;
    for needle in [BOB, "bob%40b.test", "zanzibar"] {
        assert_eq!(files_with(&server.config.data_dir, needle), Vec::<String>::new(), "{needle}");
    }
    assert_ne!(files_with(&server.config.data_dir, "carl@b.test"), Vec::<String>::new(), "others stay");
}

#[tokio::test]
async fn the_suppression_of_an_erased_address_stays_and_goes_on_refusing() {
    let (_dns, mx, server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    fill(&server, &mx, &account).await;
    erase(&server, "").await;
    let left = server.control.get("/v1/suppressions").await;
    assert_eq!(left["data"].as_array().map(Vec::len), Some(1), "{left}");
    assert_eq!(left["data"][0]["address"], BOB);
    let mut client = server.log_in(&account).await;
    client.command("MAIL FROM:<alice@acme.test>").await.expect_code(250);
    client.command("RCPT TO:<BOB@b.test>").await.expect_saying(550, "[recipient_suppressed]");
}

#[tokio::test]
async fn what_waits_for_an_erased_address_is_cancelled_and_what_is_in_progress_is_erased_when_it_ends() {
    let (_dns, mx, server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    mx.script(Phase::Rcpt, "", 2, Fault::Reply("451 4.3.0 later"));
    let waiting = server.submit(&account, &[BOB, "carl@b.test"], &message(&account, "waiting")).await;
    server.wait_for_status(&waiting, &["deferred"]).await;
    let done = erase(&server, "").await;
    assert_eq!(
        (&done["counts"]["cancelled"], &done["counts"]["deliveries"]),
        (&json!(1), &json!(1)),
        "{done}"
    );
    let email = server.control.get(&format!("/v1/emails/{waiting}")).await;
    let statuses: Vec<_> =
        email["deliveries"].as_array().unwrap().iter().map(|one| text(&one["status"])).collect();
    assert_eq!(statuses, ["cancelled", "deferred"], "{email}");

    let gate = mx.wait_at(Phase::Dot);
    let running = server.submit(&account, &[BOB], &message(&account, "running")).await;
    let email = server.control.get(&format!("/v1/emails/{running}")).await;
    let delivery = text(&email["deliveries"][0]["id"]).parse().unwrap();
    until("the delivery is in progress", async || {
        server.running().queue().is_in_flight(delivery).then_some(())
    })
    .await;
    let noted = erase(&server, "").await;
    assert_eq!(noted["applied_at"], Value::Null, "{noted}");
    gate.cancel();
    server.wait_for_status(&running, &["delivered"]).await;
    until("the erasure is complete", async || {
        server.clock.advance(Duration::from_secs(60));
        let erasures = server.control.get("/v1/erasures").await;
        erasures["data"][0]["applied_at"].is_string().then_some(())
    })
    .await;
    let email = server.control.get(&format!("/v1/emails/{running}")).await;
    assert!(text(&email["to"][0]).starts_with("erased-"), "{email}");
}

#[tokio::test]
async fn a_tenant_reads_and_erases_its_own_data_only() {
    let (_dns, _mx, server) = one_destination().await;
    let (acme, other) = (server.create_account("acme.test").await, server.create_account("other.test").await);
    let key =
        json!({"name": "all", "tenant_id": acme.tenant_id, "scopes": ["emails:read", "suppressions:manage"]});
    let key = text(&server.control.ok("POST", "/v1/keys", key).await["secret"]);
    let mut sent = Vec::new();
    for account in [&acme, &other] {
        let id = server.submit(account, &[BOB, "carl@b.test"], &message(account, "hello")).await;
        server.wait_for_status(&id, &["delivered"]).await;
        sent.push(id);
    }
    let own = call(&server, &key, "GET", PATH).await;
    assert_eq!(own["deliveries"].as_array().map(Vec::len), Some(1), "{own}");
    assert_eq!(
        (&own["deliveries"][0]["message_id"], &own["deliveries"][0]["recipient"]),
        (&json!(sent[0]), &json!(BOB))
    );
    assert_eq!(own["deliveries"][0]["attempts"].as_array().map(Vec::len), Some(1), "{own}");
    assert!(!own.to_string().contains("carl"), "nothing about others: {own}");
    let all = server.control.get(PATH).await;
    assert_eq!(all["deliveries"].as_array().map(Vec::len), Some(2), "{all}");
    let foreign = format!("{PATH}?tenant_id={}", other.tenant_id);
    request(server.control.address, "DELETE", &foreign, Some(&key), None)
        .await
        .expect_error(404, "not_found");

    call(&server, &key, "DELETE", PATH).await;
    let kept = server.control.get(&format!("/v1/emails/{}", sent[1])).await;
    assert_eq!(kept["to"][0], BOB);
    let gone = server.control.get(&format!("/v1/emails/{}", sent[0])).await;
    assert!(text(&gone["to"][0]).starts_with("erased-"), "{gone}");
    let nobody = server.control.get("/v1/recipients/nobody%40b.test").await;
    assert_eq!((&nobody["deliveries"], &nobody["suppressions"]), (&json!([]), &json!([])));
    let wrong = request(server.control.address, "GET", "/v1/recipients/nobody", Some(&key), None).await;
    wrong.expect_error(422, "validation_failed");
}

#[tokio::test]
async fn an_interrupted_erasure_is_completed_at_the_next_start() {
    let (_dns, mx, mut server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    let (alone, _) = fill(&server, &mx, &account).await;
    let now = Timestamp::now();
    let new = NewErasure {
        id: ErasureId::generate(now),
        tenant_id: None,
        folded: BOB.into(),
        keeps_suppression: false,
    };
    server.running().store().note_erasure(new, now).await.unwrap();
    server.restart(|_| {}).await;
    until("the erasure is complete", async || {
        let erasures = server.control.get("/v1/erasures").await;
        erasures["data"][0]["applied_at"].is_string().then_some(())
    })
    .await;
    let email = server.control.get(&format!("/v1/emails/{alone}")).await;
    assert!(text(&email["to"][0]).starts_with("erased-"), "{email}");
    server.stop().await;
    assert_eq!(files_with(&server.config.data_dir, BOB), Vec::<String>::new());
}

#[tokio::test]
async fn the_audit_log_does_not_name_an_erased_address() {
    let (_dns, _mx, server) = one_destination().await;
    erase(&server, "").await;
    let log = server.control.get("/v1/audit?operation=erase_recipient").await;
    assert_eq!(log["data"].as_array().map(Vec::len), Some(1), "{log}");
    assert!(!log.to_string().contains("bob"), "{log}");
    assert_eq!(log["data"][0]["object_type"], "erasure", "{log}");
}

#[tokio::test]
async fn an_erasure_leaves_the_counts_of_usage_and_of_a_pending_webhook_right() {
    let (_dns, mx, server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    let usage = format!("/v1/tenants/{}/usage", account.tenant_id);
    fill(&server, &mx, &account).await;
    let before = server.control.get(&usage).await;
    erase(&server, "?forget_suppression=true").await;
    assert_eq!(server.control.get(&usage).await["emails_sent"], before["emails_sent"]);
    let database = rusqlite::Connection::open(crate::server::database_file(&server.config.data_dir)).unwrap();
    let sql = "SELECT octets, (SELECT sum(octets) FROM webhook_delivery
                   WHERE webhook_id = webhook_backlog.webhook_id AND next_attempt_us IS NOT NULL)
               FROM webhook_backlog";
    let (counted, summed): (i64, i64) =
        database.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    assert!(summed > 0, "a delivery to the webhook is pending");
    assert_eq!(counted, summed);
}
