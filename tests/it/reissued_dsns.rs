//! DSNs of ours to the sender's own reverse path about reports that came back to ours.

use pillarbox::mail::TokenKind;
use serde_json::json;

use crate::fake_mx::{FakeMx, Offer, Transaction};
use crate::inbound_stage::{DOMAIN, Delivered, InboundStage, PLATFORM_HOST, RETURN_HOST, dsn};
use crate::server::{message, message_id, text};
use crate::wait::until;

/// The sender's own reverse path, which names the member of a list.
const OWN_PATH: &str = "list+bob=b.test@own.test";
const GONE: &[(&str, &str, &str, &str)] = &[("bob@b.test", "failed", "5.1.1", "550 5.1.1 gone away")];

/// A stage whose sender's domain receives mail at the MX too.
async fn stage() -> InboundStage {
    let stage = InboundStage::start().await;
    stage.dns.mx(DOMAIN, &[(10, "mx.b.test")]);
    stage
}

/// Delivers a message with these envelope parameters to bob.
async fn deliver(stage: &InboundStage, path: &str, mail: &str, rcpt: &str) -> Delivered {
    deliver_to(stage, "bob@b.test", path, (mail, rcpt)).await
}

async fn deliver_to(stage: &InboundStage, to: &str, path: &str, (mail, rcpt): (&str, &str)) -> Delivered {
    let mut client = stage.server.log_in(&stage.account).await;
    client.command(&format!("MAIL FROM:<{path}> BODY=8BITMIME{mail}")).await.expect_code(250);
    client.command(&format!("RCPT TO:<{to}>{rcpt}")).await.expect_code(250);
    let id = message_id(&client.data(&message(&stage.account, "hello")).await.expect_code(250));
    let email = stage.server.wait_for_status(&id, &["delivered"]).await;
    let delivery = &email["deliveries"][0];
    Delivered { message: id, delivery: text(&delivery["id"]), recipient: text(&delivery["recipient"]) }
}

async fn send_back(stage: &InboundStage, delivered: &Delivered, octets: &[u8]) {
    let address = stage.address_of(TokenKind::Bounce, delivered);
    stage.send_back("", &address, octets).await.expect_code(250);
}

fn to_own_path(mx: &FakeMx, path: &str) -> Vec<Transaction> {
    mx.transactions().into_iter().filter(|transaction| transaction.recipients == [path]).collect()
}

/// Waits for another message to the sender's own path, so that an unwanted DSN would have been sent before.
async fn pass_by(stage: &InboundStage) {
    let marker =
        stage.server.submit(&stage.account, &["marker@own.test"], &message(&stage.account, "m")).await;
    stage.server.wait_for_status(&marker, &["delivered"]).await;
}

#[tokio::test]
async fn a_late_bounce_reaches_the_senders_own_path_as_a_dsn_of_ours() {
    let stage = stage().await;
    let rcpt = " ORCPT=rfc822;old+2Bbob@b.test";
    let delivered = deliver(&stage, OWN_PATH, " ENVID=QQ+2B314", rcpt).await;
    send_back(&stage, &delivered, &dsn(GONE)).await;
    let found = until("the DSN arrives", async || to_own_path(&stage.mx, OWN_PATH).into_iter().next()).await;
    assert_eq!(found.reverse_path, "");
    let content = String::from_utf8(found.content).unwrap();
    for part in [
        "Original-Envelope-Id: QQ+314\r\n",
        "Original-Recipient: rfc822;old+bob@b.test\r\nFinal-Recipient: rfc822; bob@b.test\r\nAction: failed\r\nStatus: 5.1.1\r\n",
        "Remote-MTA: dns; mx.b.test\r\n",
        "Diagnostic-Code: smtp; 550 5.1.1 gone away\r\n",
        "Reporting-MTA: dns; relay.test\r\n",
        "Subject: hello\r\n",
    ] {
        assert!(content.contains(part), "{part} in\n{content}");
    }
    for foreign in ["It could not be delivered.", "MAILER-DAEMON@b.test"] {
        assert!(!content.contains(foreign), "{content}");
    }
    // The same report again is no news.
    send_back(&stage, &delivered, &dsn(GONE)).await;
    pass_by(&stage).await;
    assert_eq!(to_own_path(&stage.mx, OWN_PATH).len(), 1);
}

#[tokio::test]
async fn no_dsn_goes_to_who_wants_none_or_to_a_return_host_or_about_another_address() {
    let stage = stage().await;
    // Each failure suppresses its recipient, so each case has one of its own.
    let fail = async |case: &str, path: &str, rcpt: &str, (action, status): (&str, &str), named: &str| {
        let delivered = deliver_to(&stage, &format!("{case}@b.test"), path, ("", rcpt)).await;
        let words = format!("550 {status} words");
        send_back(&stage, &delivered, &dsn(&[(named, action, status, &words)])).await;
        let has_failed = action == "failed" && named == delivered.recipient;
        let expected = if has_failed { "bounced" } else { "delivered" };
        let email = stage.server.control.get(&format!("/v1/emails/{}", delivered.message)).await;
        assert_eq!(email["status"], expected, "{case}");
    };
    let gone = ("failed", "5.1.1");
    fail("never", "never@own.test", " NOTIFY=NEVER", gone, "never@b.test").await;
    fail("success", "success@own.test", " NOTIFY=SUCCESS", gone, "success@b.test").await;
    fail("indirect", "indirect@own.test", "", gone, "other@c.test").await;
    fail("delayed", "delayed@own.test", "", ("delayed", "4.4.1"), "delayed@b.test").await;

    stage.dns.alias(RETURN_HOST, PLATFORM_HOST);
    let domain = format!("/v1/domains/{}/verify", stage.account.domain_id);
    let checked = stage.server.control.ok("POST", &domain, json!({})).await;
    assert_eq!(checked["return_path"]["status"], "active");
    fail("loop", "loop@bounces.own.test", "", gone, "loop@b.test").await;

    let tenant = format!("/v1/tenants/{}", stage.account.tenant_id);
    let events = json!({"settings": {"delivery_reports": "event"}});
    stage.server.control.ok("PATCH", &tenant, events).await;
    fail("event", "event@own.test", "", gone, "event@b.test").await;
    pass_by(&stage).await;
    let page = stage
        .server
        .control
        .get(&format!("/v1/emails?tenant_id={}&kind=report", stage.account.tenant_id))
        .await;
    // NOTIFY=SUCCESS has the report of our relay, because the MX sends none.
    let subjects = page["data"].as_array().unwrap().iter().map(|report| text(&report["subject"]));
    assert_eq!(subjects.collect::<Vec<_>>(), ["Mail was relayed to a server without delivery reports"]);
}

#[tokio::test]
async fn a_success_that_was_asked_for_is_reported_with_the_action_of_the_other_server() {
    let stage = stage().await;
    // Without the extension DSN, our relay reports that it handed the message on.
    let extensions = vec!["PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES", "DSN"];
    let with_dsn = FakeMx::with_at(stage.mx.address.port(), Offer { extensions, ..Offer::default() }).await;
    stage.dns.addresses("mx.b.test", &[with_dsn.address.ip()]);
    for (action, words) in
        [("delivered", "was delivered"), ("relayed", "was relayed"), ("expanded", "sent on")]
    {
        let path = format!("{action}@own.test");
        let delivered = deliver(&stage, &path, "", " NOTIFY=SUCCESS,FAILURE").await;
        send_back(&stage, &delivered, &dsn(&[("bob@b.test", action, "2.1.5", "250 2.1.5 fine")])).await;
        let found = until("the DSN arrives", async || to_own_path(&with_dsn, &path).into_iter().next()).await;
        let content = String::from_utf8(found.content).unwrap();
        let fields = format!("Action: {action}\r\nStatus: 2.1.5\r\n");
        assert!(content.contains(&fields) && content.contains(words), "{content}");
        let email = stage.server.control.get(&format!("/v1/emails/{}", delivered.message)).await;
        assert_eq!(email["status"], "delivered");
        let unasked = deliver(&stage, "unasked@own.test", "", "").await;
        send_back(&stage, &unasked, &dsn(&[("bob@b.test", action, "2.1.5", "250 2.1.5 fine")])).await;
    }
    pass_by(&stage).await;
    assert_eq!(to_own_path(&with_dsn, "unasked@own.test"), []);
}

#[tokio::test]
async fn a_failure_told_in_prose_is_reported_in_our_form() {
    let stage = stage().await;
    let delivered = deliver(&stage, OWN_PATH, "", "").await;
    let prose = "From: MAILER-DAEMON@b.test\r\nTo: x@y.test\r\nSubject: failure notice\r\n\r\n\
         Hi. This is the qmail-send program at b.test.\r\n\
         I'm afraid I wasn't able to deliver your message to the following addresses.\r\n\
         This is a permanent error; I've given up. Sorry it didn't work out.\r\n\r\n\
         <bob@b.test>:\r\n550 5.1.1 Sorry, no mailbox here by that name.\r\n\r\n\
         --- Below this line is a copy of the message.\r\n\r\nReturn-Path: <x@y.test>\r\nSubject: hello\r\n\r\nHello.\r\n";
    send_back(&stage, &delivered, prose.as_bytes()).await;
    let found = until("the DSN arrives", async || to_own_path(&stage.mx, OWN_PATH).into_iter().next()).await;
    let content = String::from_utf8(found.content).unwrap();
    assert!(content.contains("Action: failed\r\nStatus: 5.1.1\r\n"), "{content}");
    assert!(!content.contains("qmail-send"), "{content}");
}
