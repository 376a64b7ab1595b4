//! A provider's bad day: a site says of living addresses that they are gone. What it suppresses then ends soon.

use std::time::Duration;

use pillarbox::mail::TokenKind;
use serde_json::{Value, json};

use crate::fake_mx::{Fault, Phase};
use crate::http::request;
use crate::inbound_stage::{Delivered, InboundStage, dsn};
use crate::server::{Account, message, text};
use crate::wait::until;

const GONE: &str = "550 5.1.1 no such user";
const HOUR: Duration = Duration::from_secs(3600);

impl InboundStage {
    /// Delivers a message to each of these recipients, and waits until the search index has them.
    async fn deliver_to_each(&self, account: &Account, recipients: &[String]) -> Vec<Delivered> {
        let mut sent = Vec::new();
        for recipient in recipients {
            let id = self.server.submit(account, &[recipient], &message(account, "hello")).await;
            sent.push((id, recipient));
        }
        let mut delivered = Vec::new();
        for (id, recipient) in sent {
            let email = self.server.wait_for_status(&id, &["delivered"]).await;
            let delivery = text(&email["deliveries"][0]["id"]);
            delivered.push(Delivered { message: id, delivery, recipient: recipient.clone() });
        }
        self.wait_for_index(recipients).await;
        delivered
    }

    async fn wait_for_index(&self, recipients: &[String]) {
        for recipient in recipients {
            until("the search index has it", async || {
                let found = self.server.control.get(&format!("/v1/emails?to={recipient}")).await;
                (found["data"] != json!([])).then_some(())
            })
            .await;
        }
    }

    /// Sends a message to each of these recipients, who are said to be gone.
    async fn refuse_each(&self, account: &Account, recipients: &[String]) {
        for recipient in recipients {
            let local = recipient.split('@').next().unwrap();
            self.mx.script(Phase::Rcpt, &format!("<{local}@"), 1, Fault::Reply(GONE));
            let id = self.server.submit(account, &[recipient], &message(account, "again")).await;
            self.server.wait_for_status(&id, &["bounced"]).await;
        }
    }

    async fn suppressions_in(&self, query: &str) -> Vec<Value> {
        let list = self.server.control.get(&format!("/v1/suppressions?limit=100{query}")).await;
        list["data"].as_array().unwrap().clone()
    }

    /// Waits until so many suppressions are provisional, of so many.
    async fn expect_provisional(&self, provisional: usize, all: usize) -> Vec<Value> {
        until(&format!("{provisional} of {all} suppressions are provisional"), async || {
            let found = self.suppressions_in("").await;
            let count = found.iter().filter(|suppression| suppression["provisional"] == true).count();
            ((count, found.len()) == (provisional, all)).then_some(found)
        })
        .await
    }

    async fn suspicions(&self) -> Vec<Value> {
        let list = self.server.control.get("/v1/events?type=site.bounces_suspicious").await;
        list["data"].as_array().unwrap().clone()
    }
}

fn recipients(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{name}{number}@b.test")).collect()
}

#[tokio::test]
async fn living_addresses_that_a_site_reports_as_gone_are_suppressed_for_two_days_only() {
    let stage = InboundStage::start().await;
    let (account, clock) = (&stage.account, &stage.server.clock);
    let all = recipients("u", 40);
    stage.deliver_to_each(account, &all).await;
    clock.advance(2 * HOUR);
    // A tenant that mails strangers: their addresses never took mail, and end with the others.
    let strangers = recipients("stranger", 2);
    stage.refuse_each(account, &strangers).await;
    stage.refuse_each(account, &all[..19]).await;
    stage.expect_provisional(0, 21).await;
    assert_eq!(stage.suspicions().await, [] as [Value; 0], "one address is missing");
    stage.refuse_each(account, &all[19..21]).await;

    let suppressed = stage.expect_provisional(23, 23).await;
    for suppression in &suppressed {
        let at = |field: &str| text(&suppression[field]).parse::<pillarbox::mail::Timestamp>().unwrap();
        let hours = at("expires_at").duration_since(at("created_at")).as_secs() as f64 / 3600.0;
        assert!((47.9..48.1).contains(&hours), "{suppression}");
        assert_eq!(suppression["reason"], "bounce", "{suppression}");
    }
    let event = stage.suspicions().await.remove(0);
    assert!(event["tenant_id"].is_null() && event["environment"] == "live", "{event}");
    let data = &event["data"];
    assert_eq!(
        (&data["site"], &data["gone"], &data["results"]),
        (&"mx.b.test".into(), &20.into(), &22.into())
    );

    // Once in an episode, and the site may go on.
    stage.refuse_each(account, &all[21..30]).await;
    stage.expect_provisional(32, 32).await;
    assert_eq!(stage.suspicions().await.len(), 1);
    let changed = stage.server.control.get("/v1/events?type=suppression.updated&limit=100").await;
    let changed = changed["data"].as_array().unwrap();
    assert!((21..=22).contains(&changed.len()), "those that were made before: {changed:?}");
    assert_eq!(changed[0]["tenant_id"], account.tenant_id.as_str());
    assert_eq!(changed[0]["data"]["provisional"], true, "{}", changed[0]);

    // The tenant learns of its own addresses only.
    let shown =
        |path: &'static str| request(stage.server.control.address, "GET", path, Some(&account.secret), None);
    let own = shown("/v1/events?type=site.bounces_suspicious").await;
    assert_eq!(own.json()["data"], json!([]), "{own}");
    assert_eq!(shown("/v1/suppressions?limit=100").await.json()["data"].as_array().map(Vec::len), Some(32));

    // After two days, mail is delivered again.
    clock.advance(48 * HOUR + Duration::from_secs(60));
    let id = stage.server.submit(account, &[&all[0]], &message(account, "later")).await;
    stage.server.wait_for_status(&id, &["delivered"]).await;
    // The bad day is over: an address that is gone now stays suppressed.
    stage.refuse_each(account, &all[39..]).await;
    let last = stage.suppressions_in(&format!("&address={}", all[39])).await.remove(0);
    assert_eq!((&last["provisional"], &last["expires_at"]), (&false.into(), &Value::Null), "{last}");
}

#[tokio::test]
async fn a_bad_list_is_suppressed_without_an_end() {
    let stage = InboundStage::start().await;
    let account = &stage.account;
    let known = recipients("known", 5);
    stage.deliver_to_each(account, &known).await;
    stage.refuse_each(account, &recipients("bad", 30)).await;
    stage.refuse_each(account, &known).await;
    stage.expect_provisional(0, 35).await;
    // The same addresses of another tenant took mail, which is nobody's business.
    let other = stage.server.create_account("other.test").await;
    let strangers = recipients("shared", 25);
    stage.deliver_to_each(&other, &strangers).await;
    stage.refuse_each(account, &strangers).await;
    stage.expect_provisional(0, 60).await;
    assert_eq!(stage.suspicions().await, [] as [Value; 0]);
}

#[tokio::test]
async fn strangers_who_are_first_in_a_message_hide_no_living_addresses() {
    let stage = InboundStage::start().await;
    let account = &stage.account;
    let known = recipients("known", 20);
    stage.deliver_to_each(account, &known).await;
    let all: Vec<String> = recipients("bad", 25).into_iter().chain(known).collect();
    stage.mx.script(Phase::Rcpt, "@b.test", all.len(), Fault::Reply(GONE));
    let to: Vec<&str> = all.iter().map(String::as_str).collect();
    let id = stage.server.submit(account, &to, &message(account, "again")).await;
    stage.server.wait_for_status(&id, &["bounced"]).await;
    stage.expect_provisional(45, 45).await;
}

#[tokio::test]
async fn what_took_mail_more_than_a_month_ago_or_is_one_in_many_is_no_bad_day() {
    let stage = InboundStage::start().await;
    let account = &stage.account;
    let old = recipients("old", 20);
    stage.deliver_to_each(account, &old).await;
    stage.server.clock.advance(31 * 24 * HOUR);
    stage.refuse_each(account, &old).await;
    stage.expect_provisional(0, 20).await;
    let known = recipients("known", 20);
    stage.deliver_to_each(account, &known).await;
    // 20 of more than 200 results.
    let others: Vec<String> = recipients("other", 180);
    for chunk in others.chunks(90) {
        let chunk: Vec<&str> = chunk.iter().map(String::as_str).collect();
        let id = stage.server.submit(account, &chunk, &message(account, "many")).await;
        stage.server.wait_for_status(&id, &["delivered"]).await;
    }
    stage.refuse_each(account, &known).await;
    stage.expect_provisional(0, 40).await;
    assert_eq!(stage.suspicions().await, [] as [Value; 0]);
}

#[tokio::test]
async fn failures_that_are_reported_late_make_a_bad_day_too() {
    let stage = InboundStage::start().await;
    let account = &stage.account;
    let all = recipients("u", 20);
    stage.deliver_to_each(account, &all).await;
    let second = stage.deliver_to_each(account, &all).await;
    // The site of the destination is no longer known.
    stage.server.clock.advance(HOUR);
    for (number, delivered) in second.iter().enumerate() {
        let address = stage.address_of(TokenKind::Bounce, delivered);
        let report = dsn(&[(&delivered.recipient, "failed", "5.1.1", GONE)]);
        stage.send_back("", &address, &report).await.expect_code(250);
        assert_eq!(stage.suppressions_in("").await.len(), number + 1);
    }
    let suppressed = stage.expect_provisional(20, 20).await;
    assert!(suppressed.iter().all(|suppression| !suppression["report_id"].is_null()), "{suppressed:?}");
    assert_eq!(stage.suspicions().await.len(), 1);
}

#[tokio::test]
async fn a_site_that_takes_everything_and_bounces_a_bad_list_later_makes_no_bad_day() {
    let stage = InboundStage::start().await;
    let account = &stage.account;
    let all = recipients("bad", 22);
    let first = stage.deliver_to_each(account, &all).await;
    let second = stage.deliver_to_each(account, &all).await;
    for delivered in first.iter().chain(&second) {
        let address = stage.address_of(TokenKind::Bounce, delivered);
        let report = dsn(&[(&delivered.recipient, "failed", "5.1.1", GONE)]);
        stage.send_back("", &address, &report).await.expect_code(250);
    }
    stage.expect_provisional(0, 22).await;
    assert_eq!(stage.suspicions().await, [] as [Value; 0]);
}

#[tokio::test]
async fn what_was_suppressed_for_another_reason_or_by_hand_does_not_become_provisional() {
    let stage = InboundStage::start().await;
    let account = &stage.account;
    let all = recipients("u", 24);
    stage.deliver_to_each(account, &all).await;
    stage.refuse_each(account, &all[..10]).await;
    let by_hand = json!({"address": all[0], "tenant_id": account.tenant_id, "reason": "manual"});
    stage.server.control.ok("POST", "/v1/suppressions", by_hand).await;
    stage.refuse_each(account, &all[10..]).await;
    let suppressed = stage.expect_provisional(23, 24).await;
    let manual = suppressed.iter().find(|suppression| suppression["address"] == all[0].as_str()).unwrap();
    assert_eq!((&manual["provisional"], &manual["expires_at"]), (&false.into(), &Value::Null), "{manual}");
}

#[tokio::test]
async fn a_restart_does_not_end_a_bad_day() {
    let mut stage = InboundStage::start().await;
    let account = stage.account.clone();
    let all = recipients("u", 21);
    stage.deliver_to_each(&account, &all).await;
    stage.refuse_each(&account, &all[..20]).await;
    stage.expect_provisional(20, 20).await;
    stage.server.restart(|_| ()).await;
    stage.refuse_each(&account, &all[20..]).await;
    stage.expect_provisional(21, 21).await;
}
