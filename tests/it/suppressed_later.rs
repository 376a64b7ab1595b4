//! Recipients that are suppressed, or leave a list, after a message to them was accepted.

use pillarbox::mail::SignedDuration;
use pillarbox::model::{SuppressedMail, SuppressionReason};
use serde_json::{Value, json};
use std::time::Duration;

use crate::fake_mx::{Fault, Phase};
use crate::http::{Answer, request};
use crate::inbound_stage::InboundStage;
use crate::server::{message, text};
use crate::unsubscribe::{leave, list_message, send_over_http, start};

/// The usage of the month.
async fn usage(stage: &InboundStage) -> Value {
    stage.server.control.get(&format!("/v1/tenants/{}/usage", stage.account.tenant_id)).await
}

async fn ask(stage: &InboundStage, path: &str) -> Answer {
    let control = &stage.server.control;
    request(control.address, "GET", path, Some(&control.secret), None).await
}

/// The last event of a message.
async fn last_event(stage: &InboundStage, id: &str) -> Value {
    stage.events_of(id).await.pop().unwrap()
}

/// The subjects of what the receiver got.
fn received(stage: &InboundStage) -> Vec<String> {
    let subject = |content: Vec<u8>| {
        let text = String::from_utf8(content).unwrap();
        text.lines().find_map(|line| line.strip_prefix("Subject: ")).unwrap().to_owned()
    };
    stage.mx.transactions().into_iter().map(|transaction| subject(transaction.content)).collect()
}

async fn schedule(stage: &InboundStage, subject: &str, list: Option<&str>) -> String {
    let send_at = (stage.server.clock.now() + SignedDuration::from_hours(24 * 7)).to_string();
    let mut email = json!({"subject": subject, "send_at": send_at});
    if let Some(list) = list {
        email["unsubscribe"] = json!({"list": list});
    }
    text(&send_over_http(stage, email).await.expect(202)["id"])
}

#[tokio::test]
async fn scheduled_mail_of_a_list_that_its_recipient_has_left_is_not_sent_and_other_mail_is() {
    let stage = start().await;
    let news = schedule(&stage, "news", Some("news")).await;
    let offers = schedule(&stage, "offers", Some("offers")).await;
    let reset = schedule(&stage, "reset", None).await;
    leave(&stage, "news", SuppressedMail::List("news".parse().unwrap()), SuppressionReason::Unsubscribe)
        .await;
    stage.server.clock.advance(Duration::from_secs(7 * 24 * 3600));
    for sent in [offers, reset] {
        stage.server.wait_for_status(&sent, &["delivered"]).await;
    }
    let email = stage.server.wait_for_status(&news, &["bounced"]).await;
    let delivery = &email["deliveries"][0];
    let reply = "550 5.7.1 [recipient_unsubscribed] bob@b.test was excluded from the list news after the message was \
                 accepted (reason: unsubscribe)";
    assert_eq!((&delivery["last_reply"], &delivery["attempts"]), (&reply.into(), &0.into()), "{email}");
    let event = last_event(&stage, &news).await;
    assert_eq!(
        (&event["type"], &event["data"]["reply"]),
        (&"message.bounced".into(), &reply.into()),
        "{event}"
    );
    assert_eq!(event["data"]["bounce_class"], "policy");
    let mut subjects = received(&stage);
    subjects.sort();
    assert_eq!(subjects, ["offers", "reset"]);
    let usage = usage(&stage).await;
    assert_eq!((&usage["emails_suppressed"], &usage["emails_bounced"]), (&1.into(), &0.into()), "{usage}");
    // The sender learns it, as of every failure.
    let path = format!("/v1/emails?kind=report&tenant_id={}", stage.account.tenant_id);
    let reports = stage.server.control.get(&path).await;
    let raw = format!("/v1/emails/{}/raw", text(&reports["data"][0]["id"]));
    let report = ask(&stage, &raw).await;
    let report = String::from_utf8(report.body).unwrap();
    assert!(report.contains("Status: 5.7.1\r\n") && report.contains("[recipient_unsubscribed]"), "{report}");
}

#[tokio::test]
async fn a_retry_leaves_out_the_recipients_that_were_suppressed_since_and_sends_to_the_others() {
    let stage = InboundStage::start().await;
    stage.mx.script(Phase::Rcpt, "@b.test", 2, Fault::Reply("451 4.3.0 later"));
    let recipients = ["bob@b.test", "eve@b.test"];
    let id = stage.server.submit(&stage.account, &recipients, &message(&stage.account, "hello")).await;
    stage.server.wait_for_status(&id, &["deferred"]).await;
    let suppression =
        json!({"tenant_id": stage.account.tenant_id, "address": "BOB@b.test", "reason": "manual"});
    stage.server.control.ok("POST", "/v1/suppressions", suppression).await;
    stage.server.control.ok("POST", &format!("/v1/emails/{id}/retry"), json!({})).await;
    let email = stage.server.wait_for_status(&id, &["bounced", "delivered"]).await;
    let of = |recipient: &str| {
        let mut deliveries = email["deliveries"].as_array().unwrap().iter();
        deliveries.find(|delivery| delivery["recipient"] == recipient).unwrap()
    };
    assert_eq!(of("eve@b.test")["status"], "delivered", "{email}");
    let reply = "550 5.7.1 [recipient_suppressed] bob@b.test was suppressed after the message was accepted (reason: manual)";
    assert_eq!(
        (&of("bob@b.test")["status"], &of("bob@b.test")["last_reply"]),
        (&"bounced".into(), &reply.into())
    );
    assert_eq!(of("bob@b.test")["attempts"], 1);
    let received: Vec<_> = stage.mx.transactions().into_iter().flat_map(|one| one.recipients).collect();
    assert_eq!(received, ["eve@b.test"]);
}

#[tokio::test]
async fn mail_that_waits_through_a_restart_is_not_sent_to_a_recipient_that_was_suppressed_before() {
    let mut stage = start().await;
    let id = schedule(&stage, "news", Some("news")).await;
    leave(&stage, "news", SuppressedMail::EveryList, SuppressionReason::Complaint).await;
    stage.server.restart(|_| ()).await;
    stage.server.clock.advance(Duration::from_secs(7 * 24 * 3600));
    let email = stage.server.wait_for_status(&id, &["bounced"]).await;
    let reply = email["deliveries"][0]["last_reply"].as_str().unwrap();
    assert!(reply.contains("excluded from all lists") && reply.contains("complaint"), "{reply}");
}

#[tokio::test]
async fn messages_are_listed_by_their_list() {
    let stage = start().await;
    let submit = async |octets: &[u8]| stage.server.submit(&stage.account, &["bob@b.test"], octets).await;
    let news = submit(&list_message(&stage.account, "news", "a")).await;
    submit(&list_message(&stage.account, "offers", "b")).await;
    submit(&message(&stage.account, "c")).await;
    let page = stage.server.control.get("/v1/emails?list=news").await;
    let found: Vec<_> = page["data"].as_array().unwrap().iter().map(|email| email["id"].clone()).collect();
    assert_eq!(found, [Value::from(news)]);
    let page = stage.server.control.get("/v1/emails?list=absent").await;
    assert_eq!(page["data"], json!([]));
    let refused = ask(&stage, "/v1/emails?list=News").await;
    refused.expect_error(422, "validation_failed");
}
