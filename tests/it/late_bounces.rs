//! Failures that are reported after the delivery: what they change, and what they never change.

use pillarbox::mail::{TokenKind, TokenScope, TokenSubject};
use pillarbox::model::MessageId;
use pillarbox::store::Reports;
use serde_json::{Value, json};

use crate::api_stage::local_webhooks;
use crate::fake_mx::{Fault, Phase};
use crate::inbound_stage::{Delivered, InboundStage, PLATFORM_HOST, dsn};
use crate::receiver::Receiver;
use crate::server::{message, text};
use crate::wait::until;

const GONE: &str = "550 5.1.1 no such user";

impl InboundStage {
    /// Sends a DSN about a delivery, which is accepted.
    async fn report(&self, delivered: &Delivered, groups: &[(&str, &str, &str, &str)]) {
        self.report_octets(delivered, &dsn(groups)).await;
    }

    async fn report_octets(&self, delivered: &Delivered, octets: &[u8]) {
        let address = self.address_of(TokenKind::Bounce, delivered);
        self.send_back("", &address, octets).await.expect_saying(250, "recorded as rpt_");
    }

    async fn status(&self, delivered: &Delivered) -> String {
        let email = self.server.control.get(&format!("/v1/emails/{}", delivered.message)).await;
        text(&email["deliveries"][0]["status"])
    }

    async fn suppressions(&self, address: &str) -> Vec<Value> {
        let list = self.server.control.get(&format!("/v1/suppressions?address={address}")).await;
        list["data"].as_array().unwrap().clone()
    }

    async fn reports(&self, delivered: &Delivered) -> Vec<Value> {
        let path = format!("/v1/reports?message_id={}", delivered.message);
        self.server.control.get(&path).await["data"].as_array().unwrap().clone()
    }

    /// The types of the events of a message after its delivery.
    async fn events_after_delivery(&self, delivered: &Delivered) -> Vec<String> {
        let events = self.events_of(&delivered.message).await;
        let kinds: Vec<_> = events.iter().map(|event| text(&event["type"])).collect();
        let at = kinds.iter().position(|kind| kind == "message.delivered").expect("it was delivered");
        kinds[at + 1..].to_vec()
    }
}

#[tokio::test]
async fn a_failure_reported_after_the_delivery_bounces_it_suppresses_counts_and_calls_the_webhook_once() {
    let receiver = Receiver::start().await;
    let stage = InboundStage::start_with(|config| config.webhooks = local_webhooks()).await;
    let hook = json!({
        "url": format!("http://{}/hook", receiver.address), "tenant_id": stage.account.tenant_id, "events": ["message.bounced"],
    });
    stage.server.control.ok("POST", "/v1/webhooks", hook).await;
    let delivered = stage.deliver(&["bob@b.test"]).await.remove(0);
    stage.report(&delivered, &[("Bob@b.test", "failed", "5.1.1", GONE)]).await;

    assert_eq!(stage.status(&delivered).await, "bounced");
    assert_eq!(stage.events_after_delivery(&delivered).await, ["message.bounced", "suppression.created"]);
    let report = stage.reports(&delivered).await.remove(0);
    let events = stage.events_of(&delivered.message).await;
    let bounced = events.iter().find(|event| event["type"] == "message.bounced").unwrap();
    let data = &bounced["data"];
    assert_eq!((&data["late"], &data["report_id"]), (&true.into(), &report["id"]), "{data}");
    assert_eq!(data["bounce_class"], "recipient_unknown", "{data}");
    let suppression = stage.suppressions("bob@b.test").await.remove(0);
    assert_eq!((&suppression["report_id"], &suppression["reason"]), (&report["id"], &"bounce".into()));
    assert_eq!(suppression["message_id"], delivered.message.as_str());
    let evidence = suppression["evidence"].as_str().unwrap();
    assert!(evidence.contains("mx.b.test") && evidence.contains("no such user"), "{evidence}");
    for (field, value) in [
        ("kind", "dsn"),
        ("effect", "bounced"),
        ("action", "failed"),
        ("status", "5.1.1"),
        ("recipient", "Bob@b.test"),
        ("bounce_class", "recipient_unknown"),
        ("delivery_id", &delivered.delivery),
    ] {
        assert_eq!(report[field], value, "{report}");
    }
    let usage = format!("/v1/tenants/{}/usage", stage.account.tenant_id);
    let usage = stage.server.control.get(&usage).await;
    let counts =
        ["emails_delivered", "emails_bounced", "emails_bounced_late"].map(|name| usage[name].clone());
    assert_eq!(counts, [json!(1), json!(0), json!(1)], "{usage}");

    // The next failure is of another message: what arrives at the webhook is each bounce once.
    let next = stage.deliver(&["eve@b.test"]).await.remove(0);
    stage.report(&delivered, &[("bob@b.test", "failed", "5.1.1", GONE)]).await;
    stage.report(&next, &[("eve@b.test", "failed", "5.2.2", "552 5.2.2 mailbox full")]).await;
    let received = receiver.wait_for(2).await;
    let bodies: Vec<Value> =
        received.iter().map(|request| serde_json::from_slice(&request.body).unwrap()).collect();
    let told: Vec<_> = bodies.iter().map(|body| text(&body["data"]["recipient"])).collect();
    assert_eq!(told, ["bob@b.test", "eve@b.test"], "{bodies:?}");
}

#[tokio::test]
async fn the_same_failure_again_is_accepted_and_changes_nothing() {
    let stage = InboundStage::start().await;
    let delivered = stage.deliver(&["bob@b.test"]).await.remove(0);
    let first = dsn(&[("bob@b.test", "failed", "5.1.1", GONE)]);
    let other_id = String::from_utf8(first.clone()).unwrap().replace("<1@b.test>", "<other@b.test>");
    for octets in [&first, &first, &other_id.into_bytes()] {
        stage.report_octets(&delivered, octets).await;
    }
    assert_eq!(stage.events_after_delivery(&delivered).await, ["message.bounced", "suppression.created"]);
    assert_eq!(stage.suppressions("bob@b.test").await.len(), 1);
    let reports = stage.reports(&delivered).await;
    assert_eq!((reports.len(), &reports[0]["times"]), (1, &3.into()), "{reports:?}");
}

#[tokio::test]
async fn a_failure_bounces_with_its_class_and_suppresses_only_an_address_that_is_gone() {
    let stage = InboundStage::start().await;
    for (number, (status, diagnostic, class, is_gone)) in [
        ("5.2.2", "552 5.2.2 mailbox full", "mailbox_full", false),
        ("5.7.1", "550 5.7.1 rejected by policy", "policy", false),
        ("5.7.1", "550 5.7.1 user unknown", "recipient_unknown", false),
        ("5.4.1", "550 5.4.1 Recipient address rejected: Access denied", "recipient_unknown", true),
        ("5.6.0", "554 5.6.0 message content rejected", "content", false),
        ("4.4.7", "451 4.4.7 message expired", "expired", false),
    ]
    .into_iter()
    .enumerate()
    {
        let recipient = format!("u{number}@b.test");
        let delivered = stage.deliver(&[&recipient]).await.remove(0);
        stage.report(&delivered, &[(&recipient, "failed", status, diagnostic)]).await;
        assert_eq!(stage.status(&delivered).await, "bounced", "{diagnostic}");
        let events = stage.events_of(&delivered.message).await;
        let bounced = events.iter().find(|event| event["type"] == "message.bounced").unwrap();
        assert_eq!(bounced["data"]["bounce_class"], class, "{diagnostic}");
        assert_eq!(!stage.suppressions(&recipient).await.is_empty(), is_gone, "{diagnostic}");
    }
}

#[tokio::test]
async fn a_report_of_a_delay_or_a_success_is_an_event_and_changes_no_state() {
    let stage = InboundStage::start().await;
    let delivered = stage.deliver(&["bob@b.test"]).await.remove(0);
    let actions = [("delayed", "4.4.1"), ("relayed", "2.0.0"), ("expanded", "2.0.0"), ("delivered", "2.0.0")];
    for (action, status) in actions {
        let words = format!("{}50 {status} words", &status[..1]);
        stage.report(&delivered, &[("bob@b.test", action, status, &words)]).await;
    }
    let events = stage.events_of(&delivered.message).await;
    let told = events.iter().filter(|event| event["type"] == "message.reported");
    let told: Vec<_> = told.map(|event| text(&event["data"]["action"])).collect();
    assert_eq!(told, actions.map(|(action, _)| action));
    assert_eq!(stage.status(&delivered).await, "delivered");
    assert!(stage.suppressions("bob@b.test").await.is_empty());
}

#[tokio::test]
async fn of_several_groups_the_one_that_names_the_recipient_decides() {
    let stage = InboundStage::start().await;
    let own = |name| (name, "failed", "5.1.1", GONE);
    let other = ("other@b.test", "delivered", "2.0.0", "250 2.0.0 ok");
    for (recipient, groups) in [
        ("one@b.test", [own("one@b.test"), other]),
        ("two@b.test", [other, own("two@b.test")]),
        ("three@b.test", [own("left@b.test"), own("three@b.test")]),
    ] {
        let delivered = stage.deliver(&[recipient]).await.remove(0);
        stage.report(&delivered, &groups).await;
        assert_eq!(stage.status(&delivered).await, "bounced", "{groups:?}");
        assert_eq!(stage.suppressions(recipient).await.len(), 1, "{groups:?}");
    }
    let foreign = [own("left@b.test"), other];
    let delivered = stage.deliver(&["team@b.test"]).await.remove(0);
    stage.report(&delivered, &foreign).await;
    assert_eq!(stage.status(&delivered).await, "delivered");
    assert_eq!(stage.events_after_delivery(&delivered).await, ["message.reported"]);
    let events = stage.events_of(&delivered.message).await;
    let data = &events.last().unwrap()["data"];
    assert_eq!(
        (&data["recipient"], &data["reported_recipient"], &data["effect"]),
        (&"team@b.test".into(), &"left@b.test".into(), &"indirect".into())
    );
    assert_eq!(stage.reports(&delivered).await[0]["effect"], "indirect");
    for address in ["team@b.test", "left@b.test"] {
        assert!(stage.suppressions(address).await.is_empty(), "{address}");
    }
}

#[tokio::test]
async fn an_alias_with_a_dead_member_is_never_suppressed() {
    let stage = InboundStage::start().await;
    let original = "Final-Recipient: rfc822; left@b.test\r\nOriginal-Recipient: rfc822; team@b.test";
    let octets = String::from_utf8(dsn(&[("left@b.test", "failed", "5.1.1", GONE)])).unwrap();
    let octets = octets.replace("Final-Recipient: rfc822; left@b.test", original);
    for _ in 0..5 {
        let delivered = stage.deliver(&["team@b.test"]).await.remove(0);
        stage.report_octets(&delivered, octets.as_bytes()).await;
        assert_eq!(stage.reports(&delivered).await[0]["effect"], "indirect");
        assert_eq!(stage.status(&delivered).await, "delivered");
    }
    assert!(stage.suppressions("team@b.test").await.is_empty());
}

#[tokio::test]
async fn a_report_that_names_nobody_is_about_the_recipient() {
    let stage = InboundStage::start().await;
    let known = String::from_utf8(dsn(&[("left@b.test", "failed", "5.1.1", GONE)])).unwrap();
    let line = "Final-Recipient: rfc822; left@b.test\r\n";
    for (number, instead) in
        ["", "Final-Recipient: rfc822; unknown\r\n", "Final-Recipient: rfc822;\r\n"].into_iter().enumerate()
    {
        let recipient = format!("u{number}@b.test");
        let delivered = stage.deliver(&[&recipient]).await.remove(0);
        stage.report_octets(&delivered, known.replace(line, instead).as_bytes()).await;
        assert_eq!(stage.status(&delivered).await, "bounced", "{instead}");
        assert_eq!(stage.suppressions(&recipient).await.len(), 1, "{instead}");
    }
    let delivered = stage.deliver(&["Upper@b.test"]).await.remove(0);
    stage.report(&delivered, &[("uPPER@B.TEST", "failed", "5.1.1", GONE)]).await;
    assert_eq!(stage.status(&delivered).await, "bounced");
}

#[tokio::test]
async fn a_failure_reported_while_the_delivery_is_deferred_suppresses_and_the_relay_goes_on() {
    let stage = InboundStage::start().await;
    stage.mx.script(Phase::Rcpt, "slow@", 1, Fault::Reply("451 4.3.0 later"));
    let id = stage.server.submit(&stage.account, &["slow@b.test"], &message(&stage.account, "hello")).await;
    let email = stage.server.wait_for_status(&id, &["deferred"]).await;
    let delivery = &email["deliveries"][0];
    let delivered =
        Delivered { message: id.clone(), delivery: text(&delivery["id"]), recipient: "slow@b.test".into() };
    let octets = dsn(&[("slow@b.test", "failed", "5.1.1", GONE)]);
    let address = stage.address_of(TokenKind::Bounce, &delivered);
    // The attempt is being recorded when its state is visible.
    until("the report is accepted", async || {
        (stage.send_back("", &address, &octets).await.code == 250).then_some(())
    })
    .await;
    assert_eq!(stage.status(&delivered).await, "deferred");
    assert_eq!(stage.suppressions("slow@b.test").await.len(), 1);
    let events = stage.events_of(&id).await;
    assert!(events.iter().any(|event| event["type"] == "message.reported"), "{events:?}");
    stage.server.control.ok("POST", &format!("/v1/emails/{id}/retry"), json!({})).await;
    stage.server.wait_for_status(&id, &["delivered"]).await;
}

#[tokio::test]
async fn a_report_to_the_address_of_several_recipients_changes_no_state() {
    let stage = InboundStage::start().await;
    let delivered = stage.deliver(&["bob@b.test", "eve@b.test"]).await.remove(0);
    let id: MessageId = delivered.message.parse().unwrap();
    let subject = TokenSubject { scope: TokenScope::Message, id: id.into() };
    let token = stage.server.running().store().token_keys().issue(TokenKind::Bounce, subject).unwrap();
    let octets = dsn(&[("eve@b.test", "failed", "5.1.1", GONE)]);
    stage.send_back("", &format!("{token}@{PLATFORM_HOST}"), &octets).await.expect_code(250);
    let report = stage.reports(&delivered).await.remove(0);
    assert_eq!((&report["effect"], &report["delivery_id"]), (&"shared".into(), &Value::Null), "{report}");
    let events = stage.events_of(&delivered.message).await;
    let told = events.iter().find(|event| event["type"] == "message.reported").unwrap();
    assert_eq!(
        (&told["data"]["effect"], &told["data"]["recipient"]),
        (&"shared".into(), &"eve@b.test".into())
    );
    assert_eq!(stage.status(&delivered).await, "delivered");
    assert!(stage.suppressions("eve@b.test").await.is_empty());
}

#[tokio::test]
async fn a_token_of_a_deleted_tenant_is_refused() {
    let stage = InboundStage::start().await;
    let delivered = stage.deliver(&["bob@b.test"]).await.remove(0);
    let address = stage.address_of(TokenKind::Bounce, &delivered);
    let tenant = format!("/v1/tenants/{}", stage.account.tenant_id);
    stage.server.control.ok("DELETE", &tenant, Value::Null).await;
    // Another tenant has the domain now: the token does nothing to it.
    let next = stage.server.create_account("own.test").await;
    let octets = dsn(&[("bob@b.test", "failed", "5.1.1", GONE)]);
    stage.send_back("", &address, &octets).await.expect_saying(550, "[report_address_expired]");
    let path = format!("/v1/suppressions?tenant_id={}", next.tenant_id);
    assert_eq!(stage.server.control.get(&path).await["data"], json!([]));
    assert_eq!(stage.server.control.get("/v1/reports").await["data"], json!([]));
}
