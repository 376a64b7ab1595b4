//! What comes back in the sandbox: the same rows, events and suppressions as from other servers.

use pillarbox::model::{ReportEffect, ReportKind};
use pillarbox::store::{PageRequest, Report, ReportFilter, Reports};
use serde_json::Value;

use crate::http::request;
use crate::inbound_stage::InboundStage;
use crate::server::{Account, message, text};
use crate::wait::until;

/// Sends to an address of the sandbox, and waits for what comes back.
async fn report_of(stage: &InboundStage, tester: &Account, local: &str) -> (String, Report) {
    let recipient = format!("{local}@b.test");
    let id = stage.server.submit(tester, &[&recipient], &message(tester, local)).await;
    let store = stage.server.running().store();
    let report = until("a report comes back", async || {
        let filter = ReportFilter { message_id: Some(id.parse().unwrap()), ..ReportFilter::default() };
        let page = PageRequest { limit: 10, ..PageRequest::default() };
        store.list_reports(filter, page).await.unwrap().items.pop()
    })
    .await;
    (id, report)
}

async fn kinds_of(stage: &InboundStage, message: &str) -> Vec<String> {
    let events = stage.events_of(message).await;
    events.iter().map(|event| text(&event["type"])).collect()
}

async fn suppressions(stage: &InboundStage, key: &str) -> Vec<Value> {
    let address = stage.server.control.address;
    let list = request(address, "GET", "/v1/suppressions", Some(key), None).await.expect(200);
    list["data"].as_array().unwrap().clone()
}

#[tokio::test]
async fn the_sandbox_sends_back_bounces_complaints_and_automatic_replies() {
    let stage = InboundStage::start().await;
    let tester = stage.server.test_account(&stage.account).await;
    let accepted = ["message.accepted", "message.delivered"];

    let (id, report) = report_of(&stage, &tester, "late-bounce").await;
    assert_eq!((report.kind, report.effect), (ReportKind::Dsn, ReportEffect::Bounced));
    let email = stage.server.wait_for_status(&id, &["bounced"]).await;
    assert_eq!(email["deliveries"][0]["bounce_class"], "recipient_unknown");
    let events = stage.events_of(&id).await;
    let last = events.iter().find(|event| event["type"] == "message.bounced").expect("a late bounce");
    assert_eq!((&last["data"]["late"], &last["environment"]), (&true.into(), &"test".into()));
    assert_eq!(last["data"]["report_id"], report.id.to_string());

    let (id, report) = report_of(&stage, &tester, "late-bounce+5.2.2").await;
    assert_eq!(report.effect, ReportEffect::Bounced);
    stage.server.wait_for_status(&id, &["bounced"]).await;

    let (id, report) = report_of(&stage, &tester, "complaint").await;
    assert_eq!((report.kind, report.effect), (ReportKind::Complaint, ReportEffect::Complained));
    assert!(kinds_of(&stage, &id).await.contains(&"message.complained".to_owned()));
    stage.server.wait_for_status(&id, &["delivered"]).await;

    let (id, report) = report_of(&stage, &tester, "autoreply").await;
    assert_eq!((report.kind, report.effect), (ReportKind::AutoReply, ReportEffect::None));
    assert_eq!(kinds_of(&stage, &id).await, accepted);

    // It waits for deliveries that are being recorded, but nobody was refused.
    assert!(stage.server.running().returns().counts().refusals.is_empty());

    let suppressed = suppressions(&stage, &tester.secret).await;
    let suppressed: Vec<_> =
        suppressed.iter().map(|one| (text(&one["address"]), text(&one["reason"]))).collect();
    let pair = |address: &str, reason: &str| (address.to_owned(), reason.to_owned());
    assert_eq!(suppressed, [pair("complaint@b.test", "complaint"), pair("late-bounce@b.test", "bounce")]);
    assert_eq!(suppressions(&stage, &stage.account.secret).await.len(), 0);
}

#[tokio::test]
async fn the_sandbox_needs_no_listener_for_reports() {
    let stage = InboundStage::start_with(|config| config.inbound.listen.clear()).await;
    let tester = stage.server.test_account(&stage.account).await;
    let (_, report) = report_of(&stage, &tester, "complaint").await;
    assert_eq!(report.effect, ReportEffect::Complained);
}
