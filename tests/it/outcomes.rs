//! Why mail was not delivered, as tenants see it: the class of each result, and its consequences.

use std::time::Duration;

use serde_json::json;

use crate::fake_dns::FakeDns;
use crate::fake_mx::{FakeMx, Fault, Offer, Phase};
use crate::http::request;
use crate::server::{Account, LIFETIME_MAX, RETRY_DELAY_MAX, TestServer, destinations, message, message_id};

/// A server whose destinations are `b.test` and, for DSNs, `acme.test`, both at one MX.
async fn stage() -> (FakeDns, FakeMx, TestServer, Account) {
    let (dns, mx, server) = destinations(&["b.test", "acme.test"], |_| ()).await;
    let account = server.create_account("acme.test").await;
    (dns, mx, server, account)
}

async fn set(server: &TestServer, account: &Account, settings: serde_json::Value) {
    let path = format!("/v1/tenants/{}", account.tenant_id);
    server.control.ok("PATCH", &path, json!({"settings": settings})).await;
}

/// The last entry of this kind in a message's timeline.
async fn last_entry(server: &TestServer, id: &str, key: &str, value: &str) -> serde_json::Value {
    let timeline = server.control.get(&format!("/v1/emails/{id}/timeline")).await;
    let entries = timeline["data"].as_array().unwrap();
    let found = entries.iter().rev().find(|entry| entry[key] == value);
    found.unwrap_or_else(|| panic!("no {key} {value} in {timeline}")).clone()
}

#[tokio::test]
async fn each_failure_has_a_class_and_only_unknown_addresses_are_suppressed() {
    let (_dns, mx, server, account) = stage().await;
    for (name, reply, status, class, suppressed) in [
        (
            "gone",
            "550 5.1.1 The email account that you tried to reach does not exist",
            "bounced",
            "recipient_unknown",
            1,
        ),
        ("closed", "550 5.2.1 This mailbox is disabled", "bounced", "recipient_inactive", 2),
        ("rule", "550 5.7.1 Relaying denied", "bounced", "policy", 2),
        ("listed", "554 5.7.1 blocked using zen.spamhaus.org", "bounced", "reputation", 2),
        ("full", "452 4.2.2 mailbox full", "deferred", "mailbox_full", 2),
        ("grey", "451 4.7.1 Greylisted", "deferred", "temporary", 2),
    ] {
        let recipient = format!("{name}@b.test");
        mx.script(Phase::Rcpt, &format!("<{name}@"), 1, Fault::Reply(reply));
        let id = server.submit(&account, &[&recipient], &message(&account, name)).await;
        let email = server.wait_for_status(&id, &[status]).await;
        assert_eq!(email["deliveries"][0]["bounce_class"], class, "{email}");
        assert_eq!(last_entry(&server, &id, "object", "attempt").await["bounce_class"], class);
        let event = last_entry(&server, &id, "type", &format!("message.{status}")).await;
        assert_eq!(event["data"]["bounce_class"], class, "{event}");
        let all = server.control.get("/v1/suppressions").await;
        assert_eq!(all["data"].as_array().map(Vec::len), Some(suppressed), "{name}: {all}");
    }
}

#[tokio::test]
async fn what_could_not_be_reached_says_so_and_what_arrived_has_no_class() {
    let (dns, mx, server, account) = stage().await;
    dns.fail("b.test");
    let id = server.submit(&account, &["bob@b.test"], &message(&account, "dns")).await;
    let email = server.wait_for_status(&id, &["deferred"]).await;
    assert_eq!(email["deliveries"][0]["bounce_class"], "dns", "{email}");
    dns.mend("b.test");
    mx.script(Phase::Greeting, "", 1, Fault::Drop);
    server.clock.advance(RETRY_DELAY_MAX);
    crate::wait::until("the second try", async || {
        let email = server.control.get(&format!("/v1/emails/{id}")).await;
        (email["deliveries"][0]["bounce_class"] == "network").then_some(())
    })
    .await;
    server.clock.advance(RETRY_DELAY_MAX);
    let email = server.wait_for_status(&id, &["delivered"]).await;
    assert!(email["deliveries"][0]["bounce_class"].is_null(), "{email}");
    let event = last_entry(&server, &id, "type", "message.delivered").await;
    assert!(event["data"]["bounce_class"].is_null(), "{event}");
}

#[tokio::test]
async fn a_delivery_that_expires_keeps_the_class_of_what_was_in_its_way() {
    let (_dns, mx, server, account) = stage().await;
    mx.script(Phase::Rcpt, "<bob@", 9, Fault::Reply("452 4.2.2 mailbox full"));
    let id = server.submit(&account, &["bob@b.test"], &message(&account, "full")).await;
    let mut client = server.log_in(&account).await;
    client.command("MAIL FROM:<alice@acme.test> BODY=8BITMIME HOLDFOR=864000").await.expect_code(250);
    client.command("RCPT TO:<bob@b.test>").await.expect_code(250);
    let reply = client.data(&message(&account, "held")).await.expect_code(250);
    let held = crate::server::message_id(&reply);
    server.wait_for_status(&id, &["deferred"]).await;
    // Its lifetime begins when it is due.
    server.clock.advance(Duration::from_secs(864_000) + LIFETIME_MAX);
    for (id, class) in [(&id, "mailbox_full"), (&held, "expired")] {
        server.wait_for_status(id, &["expired"]).await;
        let event = last_entry(&server, id, "type", "message.expired").await;
        assert_eq!(event["data"]["bounce_class"], class, "{event}");
    }
}

#[tokio::test]
async fn a_tenant_that_wants_events_only_gets_no_dsn() {
    let (_dns, mx, server, account) = stage().await;
    mx.script(Phase::Rcpt, "<bob@", 9, Fault::Reply("550 5.2.0 no"));
    set(&server, &account, json!({"delivery_reports": "event"})).await;
    let id = server.submit(&account, &["bob@b.test"], &message(&account, "event")).await;
    server.wait_for_status(&id, &["bounced"]).await;
    last_entry(&server, &id, "type", "message.bounced").await;
    let reports = server.control.get("/v1/emails?kind=report").await;
    assert_eq!(reports["data"].as_array().map(Vec::len), Some(0), "{reports}");
    set(&server, &account, json!({"delivery_reports": null})).await;
    server.submit(&account, &["bob@b.test"], &message(&account, "mail")).await;
    mx.wait_for(1).await;
    let reports = server.control.get("/v1/emails?kind=report").await;
    assert_eq!(reports["data"].as_array().map(Vec::len), Some(1), "{reports}");
}

#[tokio::test]
async fn a_tenant_has_its_own_message_lifetime_within_the_servers_limit() {
    let (_dns, mx, server, account) = stage().await;
    mx.script(Phase::Rcpt, "<bob@", 9, Fault::Reply("451 4.7.1 later"));
    let lifetime_h = async || {
        let id = server.submit(&account, &["bob@b.test"], &message(&account, "time")).await;
        let email = server.control.get(&format!("/v1/emails/{id}")).await;
        let at = |key: &str| email[key].as_str().unwrap().parse::<pillarbox::mail::Timestamp>().unwrap();
        at("expires_at").duration_since(at("created_at")).as_hours()
    };
    assert_eq!(lifetime_h().await, 120);
    set(&server, &account, json!({"message_lifetime_hours": 7})).await;
    assert_eq!(lifetime_h().await, 7);
    let path = format!("/v1/tenants/{}", account.tenant_id);
    let too_long = json!({"settings": {"message_lifetime_hours": 241}});
    let control = &server.control;
    let refused = request(control.address, "PATCH", &path, Some(&control.secret), Some(&too_long)).await;
    let error = refused.expect_error(422, "validation_failed");
    assert_eq!(error["errors"][0]["path"], "settings.message_lifetime_hours", "{error}");
}

/// RFC 6531 §3.2: also a header inside the message needs SMTPUTF8 at the next server.
#[tokio::test]
async fn a_utf8_field_of_a_mime_part_needs_smtputf8_at_the_next_server() {
    let mut extensions = Offer::default().extensions;
    extensions.retain(|extension| *extension != "SMTPUTF8");
    let old = Offer { extensions, ..Offer::default() };
    let [able, unable] =
        <[FakeMx; 2]>::try_from(FakeMx::several(vec![Offer::default(), old]).await).ok().unwrap();
    let dns = FakeDns::start().await;
    for (domain, mx) in [("b.test", &able), ("old.test", &unable)] {
        let host = format!("mx.{domain}");
        dns.mx(domain, &[(10, host.as_str())]);
        dns.addresses(&host, &[mx.address.ip()]);
    }
    let server = TestServer::start(&dns, able.address.port()).await;
    let account = server.create_account("acme.test").await;
    let part = |field: &str| {
        format!(
            "From: alice@acme.test\r\nSubject: x\r\nMIME-Version: 1.0\r\n\
             Content-Type: multipart/mixed; boundary=b1\r\n\r\n--b1\r\n{field}\r\n\r\nGrüße\r\n--b1--\r\n"
        )
    };
    let mut client = server.log_in(&account).await;
    for (field, is_needed, status) in [
        ("Content-Disposition: attachment; filename=\"Größe.txt\"", true, "bounced"),
        ("Content-Disposition: attachment; filename=\"size.txt\"", false, "delivered"),
    ] {
        for (recipient, status) in [("bob@b.test", "delivered"), ("bob@old.test", status)] {
            client.command("MAIL FROM:<alice@acme.test> BODY=8BITMIME SMTPUTF8").await.expect_code(250);
            client.command(&format!("RCPT TO:<{recipient}>")).await.expect_code(250);
            let id = message_id(&client.data(part(field).as_bytes()).await.expect_code(250));
            let email = server.wait_for_status(&id, &["delivered", "bounced"]).await;
            assert_eq!(email["status"], status, "{recipient}: {email}");
        }
        let sent = able.transactions().pop().unwrap();
        assert_eq!(sent.mail_parameters.contains("SMTPUTF8"), is_needed, "{}", sent.mail_parameters);
    }
}
