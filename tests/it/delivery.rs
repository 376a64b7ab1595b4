//! From submission to the MX host, with one and with several recipients.

use serde_json::json;

use crate::fake_dns::FakeDns;
use crate::fake_mx::{FakeMx, Fault, Offer, Phase};
use crate::server::{TestServer, message};

/// An MX for each of these domains, all at one port.
async fn hosts(dns: &FakeDns, domains: &[&str]) -> Vec<FakeMx> {
    let servers = FakeMx::several(vec![Offer::default(); domains.len()]).await;
    for (domain, server) in domains.iter().zip(&servers) {
        let host = format!("mx.{domain}");
        dns.mx(domain, &[(10, &host)]);
        dns.addresses(&host, &[server.address.ip()]);
    }
    servers
}

#[tokio::test]
async fn a_message_is_delivered_with_exactly_the_submitted_octets_after_our_fields() {
    let dns = FakeDns::start().await;
    let mx = hosts(&dns, &["b.test"]).await.remove(0);
    let server = TestServer::start(&dns, mx.address.port()).await;
    let account = server.create_account("acme.test").await;
    let submitted = message(&account, "one");
    let id = server.submit(&account, &["bob@b.test"], &submitted).await;

    let received = mx.wait_for(1).await.remove(0);
    assert_eq!(received.reverse_path, "alice@acme.test");
    assert_eq!(received.recipients, ["bob@b.test"]);
    assert!(received.mail_parameters.contains("BODY=8BITMIME"), "{}", received.mail_parameters);
    assert_eq!(received.ehlo, "relay.test");
    let prefix = received.prefix_before(&submitted);
    assert!(prefix.starts_with("DKIM-Signature: "), "{prefix}");
    assert!(prefix.contains("Received: ") && prefix.contains("ESMTPSA") && prefix.contains(&id), "{prefix}");
    assert!(!prefix.contains("127.0.0.1"), "the client's address stays ours: {prefix}");
    assert!(!prefix.contains("\nDate:") && !prefix.contains("\nMessage-ID:"), "both were there: {prefix}");

    let email = server.wait_for_status(&id, &["delivered"]).await;
    assert_eq!(email["deliveries"][0]["attempts"], 1);
    let timeline = server.control.get(&format!("/v1/emails/{id}/timeline")).await.to_string();
    for part in ["message.accepted", "message.delivered", "mx.b.test", "250 2.0.0 taken"] {
        assert!(timeline.contains(part), "{part} in {timeline}");
    }
}

#[tokio::test]
async fn missing_date_and_message_id_are_added_and_bcc_is_removed() {
    let dns = FakeDns::start().await;
    let mx = hosts(&dns, &["b.test"]).await.remove(0);
    let server = TestServer::start(&dns, mx.address.port()).await;
    let account = server.create_account("acme.test").await;
    let submitted =
        b"From: alice@acme.test\r\nBcc: secret@b.test,\r\n other@b.test\r\nSubject: x\r\n\r\nbody\r\n";
    server.submit(&account, &["bob@b.test"], submitted).await;

    let received = mx.wait_for(1).await.remove(0);
    let whole = String::from_utf8(received.content).unwrap();
    assert!(whole.contains("\r\nDate: ") && whole.contains("\r\nMessage-ID: <"), "{whole}");
    assert!(!whole.contains("secret@") && !whole.contains("other@"), "{whole}");
    assert!(whole.ends_with("From: alice@acme.test\r\nSubject: x\r\n\r\nbody\r\n"), "{whole}");
}

#[tokio::test]
async fn submission_with_implicit_tls_works_the_same() {
    let dns = FakeDns::start().await;
    let mx = hosts(&dns, &["b.test"]).await.remove(0);
    let server = TestServer::start(&dns, mx.address.port()).await;
    let account = server.create_account("acme.test").await;
    let trust = crate::identity::trust_pem(&server.certificate_pem());
    let address = server.submissions();
    let mut client = crate::client::Client::connect_implicit(address, crate::server::HOSTNAME, trust).await;
    assert!(!client.ehlo().await.text().contains("STARTTLS"));
    client.auth_plain(&account.user, &account.secret).await.expect_code(235);
    client.send("alice@acme.test", &["bob@b.test"], &message(&account, "465")).await.expect_code(250);
    mx.wait_for(1).await;
}

#[tokio::test]
async fn recipients_of_one_destination_share_a_transaction() {
    let dns = FakeDns::start().await;
    let servers = hosts(&dns, &["b.test", "c.test", "d.test"]).await;
    let server = TestServer::start(&dns, servers[0].address.port()).await;
    let account = server.create_account("acme.test").await;
    let submitted = message(&account, "many");
    let recipients = ["1@b.test", "2@b.test", "1@c.test", "3@b.test", "1@d.test"];
    let id = server.submit(&account, &recipients, &submitted).await;

    server.wait_for_status(&id, &["delivered"]).await;
    let at_b = servers[0].transactions();
    assert_eq!(at_b.len(), 1);
    assert_eq!(at_b[0].recipients, ["1@b.test", "2@b.test", "3@b.test"]);
    for (server, recipient) in servers[1..].iter().zip(["1@c.test", "1@d.test"]) {
        let all = server.transactions();
        assert_eq!((all.len(), &all[0].recipients), (1, &vec![recipient.to_owned()]));
        assert_eq!(all[0].content, at_b[0].content, "everybody gets the same bytes");
    }
}

#[tokio::test]
async fn a_refused_recipient_gets_a_dsn_and_the_others_are_delivered() {
    let dns = FakeDns::start().await;
    let servers = hosts(&dns, &["b.test", "acme.test"]).await;
    let server = TestServer::start(&dns, servers[0].address.port()).await;
    let account = server.create_account("acme.test").await;
    servers[0].script(Phase::Rcpt, "<no@b.test>", 9, Fault::Reply("550 5.1.1 no such user here"));
    let id =
        server.submit(&account, &["yes@b.test", "no@b.test", "too@b.test"], &message(&account, "part")).await;

    let email = server.wait_for_status(&id, &["delivered", "bounced"]).await;
    assert_eq!(servers[0].transactions()[0].recipients, ["yes@b.test", "too@b.test"]);
    let states: Vec<_> =
        email["deliveries"].as_array().unwrap().iter().map(|d| d["status"].clone()).collect();
    assert_eq!(states, ["delivered", "bounced", "delivered"]);

    let report = servers[1].wait_for(1).await.remove(0);
    assert_eq!((report.reverse_path.as_str(), &report.recipients), ("", &vec!["alice@acme.test".to_owned()]));
    crate::report::expect_report(&report.content, "no@b.test", "failed", "5.1.1");

    let again = server.log_in(&account).await.command("MAIL FROM:<alice@acme.test>").await;
    again.expect_code(250);
    let found = server.control.get("/v1/suppressions?address=no@b.test").await;
    assert_eq!(found["data"].as_array().map(Vec::len), Some(1), "{found}");
}

#[tokio::test]
async fn a_suppressed_recipient_is_refused_and_the_others_are_delivered() {
    let dns = FakeDns::start().await;
    let mx = hosts(&dns, &["b.test"]).await.remove(0);
    let server = TestServer::start(&dns, mx.address.port()).await;
    let account = server.create_account("acme.test").await;
    let wanted = json!({"address": "No@b.test", "tenant_id": account.tenant_id, "reason": "manual"});
    server.control.ok("POST", "/v1/suppressions", wanted).await;

    let mut client = server.log_in(&account).await;
    client.command("MAIL FROM:<alice@acme.test>").await.expect_code(250);
    client.command("RCPT TO:<no@b.test>").await.expect_saying(550, "[recipient_suppressed]");
    client.command("RCPT TO:<yes@b.test>").await.expect_code(250);
    client.data(&message(&account, "rest")).await.expect_code(250);
    assert_eq!(mx.wait_for(1).await[0].recipients, ["yes@b.test"]);
    // The event is written after the reply.
    crate::wait::until("the refusal is noted", async || {
        let rejections = server.control.get("/v1/rejections").await.to_string();
        rejections.contains("recipient_suppressed").then_some(())
    })
    .await;
}

#[tokio::test]
async fn consecutive_messages_reuse_one_connection() {
    let dns = FakeDns::start().await;
    let mx = hosts(&dns, &["b.test"]).await.remove(0);
    let server = TestServer::start(&dns, mx.address.port()).await;
    let account = server.create_account("acme.test").await;
    for number in 1..=5 {
        let subject = format!("row{number}");
        let id = server.submit(&account, &["bob@b.test"], &message(&account, &subject)).await;
        server.wait_for_status(&id, &["delivered"]).await;
    }
    assert_eq!(mx.transactions().len(), 5);
    assert_eq!(mx.connections().len(), 1, "{:?}", mx.connections());
}

#[tokio::test]
async fn a_large_message_is_delivered_unchanged() {
    let dns = FakeDns::start().await;
    let mx = hosts(&dns, &["b.test"]).await.remove(0);
    let server = TestServer::start(&dns, mx.address.port()).await;
    let account = server.create_account("acme.test").await;
    let mut submitted = message(&account, "large");
    for number in 0..40_000 {
        submitted.extend_from_slice(format!("{number:060} .\r\n").as_bytes());
    }
    server.submit(&account, &["bob@b.test"], &submitted).await;
    mx.wait_for(1).await[0].prefix_before(&submitted);
}
