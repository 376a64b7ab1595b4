//! RFC 4865: a message is held until its release time.

use std::time::Duration;

use crate::http::request;
use crate::server::{message, message_id, one_destination, text};
use pillarbox::mail::{SignedDuration, Timestamp};
use serde_json::json;

#[tokio::test]
async fn a_held_message_is_queued_until_its_time_and_expires_only_after_that() {
    let (_dns, mx, server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    let mut client = server.log_in(&account).await;
    assert!(client.ehlo().await.text().contains("FUTURERELEASE 2592000 "));
    client.command("MAIL FROM:<alice@acme.test> HOLDFOR=2592001").await.expect_code(501);
    client.command("MAIL FROM:<alice@acme.test> BODY=8BITMIME HOLDFOR=864000").await.expect_code(250);
    client.command("RCPT TO:<bob@b.test>").await.expect_code(250);
    let id = message_id(&client.data(&message(&account, "held")).await.expect_code(250));
    let at = |value: &serde_json::Value| value.as_str().unwrap().parse::<Timestamp>().unwrap().as_second();

    // A later message overtakes it.
    let other = server.submit(&account, &["bob@b.test"], &message(&account, "other")).await;
    server.wait_for_status(&other, &["delivered"]).await;
    let email = server.control.get(&format!("/v1/emails/{id}")).await;
    let delivery = &email["deliveries"][0];
    assert_eq!((&email["status"], &delivery["status"]), (&"queued".into(), &"queued".into()), "{email}");
    let held_s = at(&delivery["next_attempt_at"]) - at(&email["created_at"]);
    assert!((863_990..=864_000).contains(&held_s), "{email}");
    assert_eq!(email["send_at"], delivery["next_attempt_at"], "{email}");
    assert_eq!(at(&email["expires_at"]) - at(&email["send_at"]), 120 * 3600, "{email}");
    assert_eq!(mx.transactions().len(), 1);

    server.clock.advance(Duration::from_secs(864_000));
    server.wait_for_status(&id, &["delivered"]).await;
    assert_eq!(mx.transactions().len(), 2);
}

#[tokio::test]
async fn a_scheduled_message_that_is_cancelled_before_its_time_never_goes_out() {
    let (_dns, mx, server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    let send_at = (Timestamp::now() + SignedDuration::from_hours(1)).to_string();
    let mut ids = Vec::new();
    for subject in ["cancelled", "kept"] {
        let email = json!({
            "from": "alice@acme.test", "to": ["bob@b.test"], "subject": subject, "text": "x", "send_at": send_at,
        });
        let reply =
            request(server.control.address, "POST", "/v1/emails", Some(&account.secret), Some(&email)).await;
        ids.push(text(&reply.json()["id"]));
    }
    let path = format!("/v1/emails/{}", ids[0]);
    let cancelled = server.control.ok("POST", &format!("{path}/cancel"), json!(null)).await;
    assert_eq!(cancelled["cancelled"][0]["recipient"], "bob@b.test", "{cancelled}");
    server.clock.advance(Duration::from_secs(3600));
    server.wait_for_status(&ids[1], &["delivered"]).await;
    assert_eq!(server.control.get(&path).await["status"], "cancelled");
    assert_eq!(mx.transactions().len(), 1);
}

#[tokio::test]
async fn a_message_is_sent_at_its_release_time() {
    let (_dns, _mx, server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    let mut client = server.log_in(&account).await;
    client.command("MAIL FROM:<alice@acme.test> BODY=8BITMIME HOLDFOR=2").await.expect_code(250);
    client.command("RCPT TO:<bob@b.test>").await.expect_code(250);
    let id = message_id(&client.data(&message(&account, "soon")).await.expect_code(250));
    let email = server.wait_for_status(&id, &["delivered"]).await;
    let attempts = server.control.get(&format!("/v1/emails/{id}/timeline")).await;
    let at =
        |value: &serde_json::Value| value.as_str().unwrap().parse::<Timestamp>().unwrap().as_millisecond();
    let entries = attempts["data"].as_array().unwrap();
    let attempt = entries.iter().find(|entry| entry["object"] == "attempt").unwrap();
    assert!(at(&attempt["at"]) - at(&email["created_at"]) >= 1000, "{attempts}");
}
