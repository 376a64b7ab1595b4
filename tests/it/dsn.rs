//! RFC 3461: DSN parameters are passed on to servers that support them; for other servers, the relay sends the DSNs.

use std::time::Duration;

use crate::fake_dns::FakeDns;
use crate::fake_mx::{FakeMx, Fault, Offer, Phase};
use crate::report::expect_report;
use crate::server::{Account, RETRY_DELAY_MAX, TestServer, message, message_id};

const ENVELOPE_ID: &str = "QQ+20314";

/// An MX of `b.test`, one of the sender's domain, and a server that delivers to both.
async fn stage(offer: Offer) -> (FakeDns, FakeMx, FakeMx, TestServer, Account) {
    let dns = FakeDns::start().await;
    let mut servers = FakeMx::several(vec![offer, Offer::default()]).await;
    for (domain, server) in ["b.test", "acme.test"].into_iter().zip(&servers) {
        dns.mx(domain, &[(10, &format!("mx.{domain}"))]);
        dns.addresses(&format!("mx.{domain}"), &[server.address.ip()]);
    }
    let server = TestServer::start(&dns, servers[0].address.port()).await;
    let account = server.create_account("acme.test").await;
    let own = servers.pop().unwrap();
    (dns, servers.pop().unwrap(), own, server, account)
}

/// Sends to these recipients with their parameters. Returns the message id.
async fn submit(server: &TestServer, account: &Account, ret: &str, recipients: &[(&str, &str)]) -> String {
    let mut client = server.log_in(account).await;
    let mail = format!("MAIL FROM:<alice@acme.test> BODY=8BITMIME RET={ret} ENVID={ENVELOPE_ID}");
    client.command(&mail).await.expect_code(250);
    for (recipient, parameters) in recipients {
        client.command(&format!("RCPT TO:<{recipient}>{parameters}")).await.expect_code(250);
    }
    message_id(&client.data(&message(account, "dsn")).await.expect_code(250))
}

#[tokio::test]
async fn a_server_that_supports_dsn_gets_the_parameters_and_no_dsn_is_sent_here() {
    let mut offer = Offer::default();
    offer.extensions.push("DSN");
    let (_dns, mx, own, server, account) = stage(offer).await;
    let wishes = [("a@b.test", " NOTIFY=SUCCESS,DELAY ORCPT=rfc822;old+2Ba@b.test"), ("b@b.test", "")];
    let id = submit(&server, &account, "FULL", &wishes).await;
    server.wait_for_status(&id, &["delivered"]).await;
    let received = mx.wait_for(1).await.remove(0);
    assert!(received.mail_parameters.ends_with(" RET=FULL ENVID=QQ+20314"), "{}", received.mail_parameters);
    let commands = mx.connections()[0].commands.join("\n");
    assert!(
        commands.contains("RCPT TO:<a@b.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;old+2Ba@b.test\n"),
        "{commands}"
    );
    assert!(commands.contains("RCPT TO:<b@b.test>\n"), "what was not asked for is not invented: {commands}");
    assert!(own.transactions().is_empty());
}

#[tokio::test]
async fn a_success_dsn_is_sent_here_if_the_next_server_does_not_support_dsn() {
    let (_dns, mx, own, server, account) = stage(Offer::default()).await;
    let wishes = [("a@b.test", " NOTIFY=SUCCESS ORCPT=rfc822;old+2Ba@b.test"), ("b@b.test", "")];
    submit(&server, &account, "FULL", &wishes).await;
    let report = own.wait_for(1).await.remove(0);
    expect_report(&report.content, "a@b.test", "relayed", "2.0.0");
    let text = String::from_utf8_lossy(&report.content).into_owned();
    assert!(text.contains("Original-Envelope-Id: QQ 314\r\n"), "{text}");
    assert!(text.contains("Original-Recipient: rfc822;old+a@b.test\r\n"), "{text}");
    assert!(!text.contains("b@b.test>") && !text.contains("message/rfc822"), "{text}");
    assert_eq!(report.reverse_path, "");
    assert!(!mx.transactions()[0].mail_parameters.contains("RET="), "not offered, not sent");
}

#[tokio::test]
async fn a_failure_dsn_returns_the_whole_message_the_header_or_is_not_sent_as_requested() {
    let (_dns, mx, own, server, account) = stage(Offer::default()).await;
    mx.script(Phase::Rcpt, "", 9, Fault::Reply("550 5.2.0 no"));
    let wishes =
        [("a@b.test", " NOTIFY=NEVER"), ("b@b.test", " NOTIFY=SUCCESS"), ("c@b.test", " NOTIFY=FAILURE")];
    let id = submit(&server, &account, "FULL", &wishes).await;
    server.wait_for_status(&id, &["bounced"]).await;
    let report = own.wait_for(1).await.remove(0);
    expect_report(&report.content, "c@b.test", "failed", "5.2.0");
    let submitted = message(&account, "dsn");
    let whole = report.content.windows(submitted.len()).any(|window| window == submitted);
    assert!(whole, "RET=FULL: {}", String::from_utf8_lossy(&report.content));
    let text = String::from_utf8_lossy(&report.content).into_owned();
    assert!(text.contains("Content-Type: message/rfc822") && !text.contains("rfc822; a@b.test"), "{text}");
    assert!(!text.contains("rfc822; b@b.test"), "{text}");
    assert!(report.mail_parameters.contains("BODY=8BITMIME"), "{}", report.mail_parameters);
    let id = submit(&server, &account, "HDRS", &[("a@b.test", " NOTIFY=NEVER")]).await;
    server.wait_for_status(&id, &["bounced"]).await;
    let id = submit(&server, &account, "HDRS", &[("d@b.test", "")]).await;
    server.wait_for_status(&id, &["bounced"]).await;
    let reports = own.wait_for(2).await;
    assert_eq!(reports.len(), 2, "nothing was reported of a");
    expect_report(&reports[1].content, "d@b.test", "failed", "5.2.0");
    assert!(!String::from_utf8_lossy(&reports[1].content).contains("message/rfc822"));
}

#[tokio::test]
async fn delay_is_reported_once_after_four_hours_to_those_who_did_not_decline() {
    let (_dns, mx, own, server, account) = stage(Offer::default()).await;
    mx.script(Phase::Rcpt, "", 99, Fault::Reply("451 4.2.1 later"));
    let id = submit(&server, &account, "HDRS", &[("a@b.test", ""), ("b@b.test", " NOTIFY=FAILURE")]).await;
    server.wait_for_status(&id, &["deferred"]).await;
    server.clock.advance(Duration::from_secs(5 * 3600));
    let report = own.wait_for(1).await.remove(0);
    expect_report(&report.content, "a@b.test", "delayed", "4.2.1");
    let text = String::from_utf8_lossy(&report.content).into_owned();
    assert!(text.contains("\r\nWill-Retry-Until: ") && !text.contains("rfc822; b@b.test"), "{text}");
    assert!(text.contains("\r\nLast-Attempt-Date: "), "{text}");
    server.clock.advance(RETRY_DELAY_MAX);
    crate::wait::until("a third try", async || {
        let email = server.control.get(&format!("/v1/emails/{id}")).await;
        (email["deliveries"][0]["attempts"] == 3).then_some(())
    })
    .await;
    assert_eq!(own.transactions().len(), 1, "one DSN");
    let timeline = server.control.get(&format!("/v1/emails/{id}/timeline")).await;
    let delayed = |entry: &&serde_json::Value| entry["data"]["delayed"] == true;
    let events: Vec<_> = timeline["data"].as_array().unwrap().iter().filter(delayed).collect();
    assert_eq!(events.len(), 2, "one for each recipient, whatever it asked to hear: {timeline}");
    assert!(events.iter().all(|event| event["type"] == "message.deferred"), "{timeline}");
}

#[tokio::test]
async fn a_report_is_marked_and_is_neither_mail_of_the_tenant_nor_counted_nor_a_reason_to_suppress_its_sender()
 {
    let (_dns, mx, own, server, account) = stage(Offer::default()).await;
    mx.script(Phase::Rcpt, "", 9, Fault::Reply("550 5.1.1 nobody of that name"));
    own.script(Phase::Rcpt, "", 9, Fault::Reply("550 5.1.1 nobody of that name"));
    let id = submit(&server, &account, "HDRS", &[("gone@b.test", "")]).await;
    server.wait_for_status(&id, &["bounced"]).await;
    let emails = format!("/v1/emails?tenant_id={}", account.tenant_id);
    let report = crate::wait::until("the report is refused", async || {
        let reports = server.control.get(&format!("{emails}&kind=report")).await;
        let report = reports["data"][0].clone();
        (report["status"] == "bounced").then_some(report)
    })
    .await;
    assert_eq!((&report["kind"], &report["key_id"]), (&"report".into(), &serde_json::Value::Null));
    assert_eq!(report["to"], serde_json::json!(["alice@acme.test"]));
    let found = server.control.get(&format!("/v1/emails/{}", report["id"].as_str().unwrap())).await;
    assert_eq!(found["kind"], "report");
    for list in [&emails, &format!("{emails}&kind=message"), &format!("{emails}&status=bounced")] {
        let listed = server.control.get(list).await;
        let ids: Vec<_> = listed["data"].as_array().unwrap().iter().map(|email| &email["id"]).collect();
        assert_eq!(ids, [id.as_str()], "{list}");
    }
    let events = server.control.get(&format!("/v1/events?tenant_id={}", account.tenant_id)).await;
    let events = events["data"].as_array().unwrap();
    assert!(events.iter().all(|event| event["message_id"] != report["id"]), "{events:?}");
    let suppressed = server.control.get(&format!("/v1/suppressions?tenant_id={}", account.tenant_id)).await;
    let addresses: Vec<_> =
        suppressed["data"].as_array().unwrap().iter().map(|one| &one["address"]).collect();
    assert_eq!(addresses, ["gone@b.test"]);
    let usage = server.control.get(&format!("/v1/tenants/{}/usage", account.tenant_id)).await;
    assert_eq!((&usage["emails_sent"], &usage["emails_bounced"]), (&1.into(), &1.into()), "{usage}");
    let timeline = format!("/v1/emails/{}/timeline", report["id"].as_str().unwrap());
    let entries = server.control.get(&timeline).await;
    assert_eq!(entries["data"][0]["object"], "attempt", "{entries}");
}
