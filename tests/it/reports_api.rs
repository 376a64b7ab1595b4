//! Reports over the API, and the keys of their addresses.

use pillarbox::mail::TokenKind;
use pillarbox::store::Reports;
use serde_json::{Value, json};

use crate::control::Control;
use crate::http::{Answer, request};
use crate::inbound_stage::{InboundStage, bounce, dsn};
use crate::server::{Account, text};

const OUT_OF_OFFICE: &[u8] = b"From: bob@b.test\r\nTo: alice@own.test\r\nSubject: away\r\n\
      Auto-Submitted: auto-replied\r\n\r\nI am away.\r\n";

fn of_account(stage: &InboundStage, account: &Account) -> Control {
    Control { address: stage.server.control.address, secret: account.secret.clone() }
}

async fn call(control: &Control, method: &str, path: &str, body: Value) -> Answer {
    let body = (!body.is_null()).then_some(&body);
    request(control.address, method, path, Some(&control.secret), body).await
}

#[tokio::test]
async fn a_tenant_reads_its_own_reports_and_their_text_and_no_other_tenant_does() {
    let stage = InboundStage::start().await;
    let delivered = stage.deliver(&["bob@b.test"]).await.remove(0);
    let address = stage.address_of(TokenKind::Bounce, &delivered);
    let octets = dsn(&[("bob@b.test", "failed", "5.1.1", "550 5.1.1 no such user")]);
    stage.send_back("", &address, &octets).await.expect_code(250);
    let (own, other) = (of_account(&stage, &stage.account), stage.server.create_account("other.test").await);
    let other = of_account(&stage, &other);
    let list = own.get("/v1/reports").await;
    let id = text(&list["data"][0]["id"]);
    assert_eq!(own.get(&format!("/v1/reports/{id}")).await, list["data"][0]);
    let raw = call(&own, "GET", &format!("/v1/reports/{id}/raw"), Value::Null).await;
    assert_eq!(raw.header("content-type"), Some("message/rfc822"));
    let raw = String::from_utf8(raw.body).unwrap();
    assert!(raw.contains("Final-Recipient: rfc822; bob@b.test"), "{raw}");
    assert_eq!(other.get("/v1/reports").await["data"], json!([]));
    for path in [format!("/v1/reports/{id}"), format!("/v1/reports/{id}/raw")] {
        call(&other, "GET", &path, Value::Null).await.expect_error(404, "not_found");
    }
    let of_nobody = call(&other, "GET", "/v1/reports?tenant_id=null", Value::Null).await;
    of_nobody.expect_error(403, "platform_key_required");
}

#[tokio::test]
async fn reports_that_belong_to_no_message_are_the_platforms() {
    let stage = InboundStage::start().await;
    let (_, address) = stage.deliver_one().await;
    stage.send_back("", &address, &bounce()).await.expect_code(250);
    stage.send_back("a@b.test", "postmaster@relay.test", OUT_OF_OFFICE).await.expect_code(250);
    let list = stage.server.control.get("/v1/reports?tenant_id=null").await;
    let [report] = &list["data"].as_array().unwrap()[..] else { panic!("one report: {list}") };
    assert_eq!((&report["effect"], &report["tenant_id"]), (&"unattributed".into(), &Value::Null), "{report}");
    let own = of_account(&stage, &stage.account);
    let list = own.get("/v1/reports").await;
    let [bounced] = &list["data"].as_array().unwrap()[..] else { panic!("one report: {list}") };
    assert_eq!(bounced["effect"], "bounced");
    let path = format!("/v1/reports/{}", text(&report["id"]));
    call(&own, "GET", &path, Value::Null).await.expect_error(404, "not_found");
}

#[tokio::test]
async fn a_report_without_an_event_is_in_the_timeline() {
    let stage = InboundStage::start().await;
    let delivered = stage.deliver(&["bob@b.test"]).await.remove(0);
    let address = stage.address_of(TokenKind::Bounce, &delivered);
    stage.send_back("", &address, OUT_OF_OFFICE).await.expect_code(250);
    let timeline = stage.server.control.get(&format!("/v1/emails/{}/timeline", delivered.message)).await;
    let last = timeline["data"].as_array().unwrap().last().unwrap();
    let expected = ["report", "auto_reply", "none", "bob@b.test"];
    assert_eq!(["object", "kind", "effect", "recipient"].map(|name| text(&last[name])), expected, "{last}");
    let report = stage.server.control.get(&format!("/v1/reports/{}", text(&last["id"]))).await;
    assert_eq!(report["delivery_id"], delivered.delivery.as_str());
}

#[tokio::test]
async fn earlier_addresses_work_after_a_rotation_unless_they_end_at_once() {
    let stage = InboundStage::start().await;
    let delivered = stage.deliver(&["bob@b.test"]).await.remove(0);
    let first = stage.address_of(TokenKind::Bounce, &delivered);
    let rotated = stage.server.control.ok("POST", "/v1/tokens/rotate", json!({})).await;
    assert_eq!((&rotated["generation"], &rotated["accepted_until"]), (&2.into(), &Value::Null), "{rotated}");
    stage.send_back("", &first, OUT_OF_OFFICE).await.expect_code(250);
    stage.server.control.ok("POST", "/v1/tokens/rotate", json!({"at_once": true})).await;
    let refused = stage.send_back("", &first, OUT_OF_OFFICE).await;
    refused.expect_saying(550, "[report_address_unknown]");
    assert_eq!(stage.server.control.get("/v1/tokens").await["data"].as_array().unwrap().len(), 3);
    let later = stage.deliver(&["eve@b.test"]).await.remove(0);
    assert_eq!(stage.server.running().store().token_generations().await.unwrap().len(), 3);
    let address = stage.address_of(TokenKind::Bounce, &later);
    stage.send_back("", &address, OUT_OF_OFFICE).await.expect_code(250);
    let own = of_account(&stage, &stage.account);
    call(&own, "POST", "/v1/tokens/rotate", json!({})).await.expect_error(403, "platform_key_required");
}

#[tokio::test]
async fn a_suppression_of_a_list_is_made_listed_and_stops_no_other_mail() {
    let stage = InboundStage::start().await;
    let own = of_account(&stage, &stage.account);
    let of_list = json!({"address": "bob@b.test", "list": "news", "reason": "unsubscribe"});
    let made = own.ok("POST", "/v1/suppressions", of_list).await;
    assert_eq!(made["list"], "news", "{made}");
    let every = json!({"address": "bob@b.test", "list": "*"});
    let every = own.ok("POST", "/v1/suppressions", every).await;
    assert_ne!(every["id"], made["id"], "each list has its own");
    for (filter, count) in [("list=news", 1), ("list=*", 1), ("list=offers", 0), ("address=bob@b.test", 2)] {
        let found = own.get(&format!("/v1/suppressions?{filter}")).await;
        assert_eq!(found["data"].as_array().unwrap().len(), count, "{filter}");
    }
    for wrong in ["", "News", "a b"] {
        let wrong = json!({"address": "bob@b.test", "list": wrong});
        call(&own, "POST", "/v1/suppressions", wrong).await.expect_error(422, "validation_failed");
    }
    stage.deliver(&["bob@b.test"]).await;
}
