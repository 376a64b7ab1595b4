//! The default sender of a tenant: address, display name and Reply-To for messages that have none.

use serde_json::{Value, json};

use crate::api_stage::ApiStage;
use crate::dkim::{publish, verify};
use crate::server::one_destination;

/// The header of a message, unfolded.
fn header(message: &[u8]) -> String {
    let text = String::from_utf8_lossy(message);
    text.split("\r\n\r\n").next().unwrap().replace("\r\n ", " ").replace("\r\n\t", " ")
}

#[track_caller]
fn expect_lines(message: &[u8], lines: &[&str], absent: &[&str]) {
    let header = header(message);
    for line in lines {
        assert!(header.lines().any(|found| found == *line), "{line} in:\n{header}");
    }
    for start in absent {
        assert!(!header.lines().any(|found| found.starts_with(start)), "no {start} in:\n{header}");
    }
}

#[tokio::test]
async fn over_http_a_message_without_a_sender_has_that_of_the_tenant() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("Acme").await;
    let domain = json!({"name": "acme.example", "tenant_id": tenant.id, "verification": "manual"});
    stage.post(&stage.platform, "/v1/domains", domain).await.expect(201);
    let email = json!({"to": "bob@remote.example", "subject": "Hello", "text": "Hi"});
    let send = async |email: &Value| stage.post(&tenant.key, "/v1/emails", email.clone()).await;
    let raw = async |id: &Value| {
        stage.get(&tenant.key, &format!("/v1/emails/{}/raw", id.as_str().unwrap())).await.body
    };
    let error = send(&email).await.expect_error(422, "validation_failed");
    assert_eq!(
        (&error["errors"][0]["path"], &error["errors"][0]["code"]),
        (&json!("from"), &json!("required"))
    );

    let path = format!("/v1/tenants/{}", tenant.id);
    let set = async |settings: Value| stage.patch(&tenant.key, &path, json!({"settings": settings})).await;
    assert_eq!(stage.get(&tenant.key, &path).await.expect(200)["settings"]["apply_to_smtp"], true);
    let settings =
        json!({"from": "shop@acme.example", "from_name": "Doe, Acme", "reply_to": "help@acme.example"});
    let set_up = set(settings).await.expect(200);
    assert_eq!(set_up["settings"]["from"], "shop@acme.example");
    let sent = send(&email).await.expect(202);
    let lines = ["From: \"Doe, Acme\" <shop@acme.example>", "Reply-To: <help@acme.example>"];
    expect_lines(&raw(&sent["id"]).await, &lines, &[]);
    let batch = stage.post(&tenant.key, "/v1/emails/batch", json!({"emails": [email]})).await.expect(202);
    expect_lines(&raw(&batch["data"][0]["id"]).await, &lines, &[]);
    let mut own = email.clone();
    own["from"] = "Alice <alice@acme.example>".into();
    own["reply_to"] = "alice@acme.example".into();
    let lines = ["From: Alice <alice@acme.example>", "Reply-To: <alice@acme.example>"];
    expect_lines(&raw(&send(&own).await.expect(202)["id"]).await, &lines, &[]);

    set(json!({"from": "shop@other.example"})).await.expect(200);
    let refused = send(&email).await;
    assert!(refused.status >= 400 && refused.to_string().contains("other.example"), "{refused}");
    for wrong in ["shop", "shop@[192.0.2.1]"] {
        set(json!({"from": wrong})).await.expect_error(422, "validation_failed");
    }
    set(json!({"from": null})).await.expect(200);
    send(&email).await.expect_error(422, "validation_failed");
}

#[tokio::test]
async fn over_smtp_the_display_name_and_reply_to_are_added_where_absent_and_signed() {
    let (dns, mx, server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    publish(&dns, &server.control.get(&format!("/v1/domains/{}", account.domain_id)).await, &[]);
    let path = format!("/v1/tenants/{}", account.tenant_id);
    let settings = json!({"from": "shop@acme.test", "from_name": "Jürgen", "reply_to": "help@acme.test"});
    server.control.ok("PATCH", &path, json!({"settings": settings})).await;
    let mut count = 0;
    let mut relayed = async |fields: &str| {
        let message = format!("{fields}\r\nTo: bob@b.test\r\nSubject: x\r\n\r\nHello.\r\n");
        server.submit(&account, &["bob@b.test"], message.as_bytes()).await;
        count += 1;
        mx.wait_for(count).await.pop().unwrap().content
    };
    let message = relayed("From: alice@acme.test").await;
    let from = "From: =?utf-8?b?SsO8cmdlbg==?= <alice@acme.test>";
    expect_lines(&message, &[from, "Reply-To: help@acme.test"], &[]);
    let signatures = verify(&dns, &message).await;
    assert!(!signatures.is_empty() && signatures.iter().all(|(.., holds)| *holds), "{signatures:?}");
    let without = String::from_utf8(message).unwrap().replace("Reply-To: help@acme.test\r\n", "");
    assert!(verify(&dns, without.as_bytes()).await.iter().all(|(.., holds)| !holds), "Reply-To is signed");

    let own = "From: Alice <alice@acme.test>\r\nReply-To: alice@acme.test";
    expect_lines(&relayed(own).await, &own.split("\r\n").collect::<Vec<_>>(), &["Reply-To: help"]);
    let named = "From: alice@acme.test (Alice)";
    expect_lines(&relayed(named).await, &[named, "Reply-To: help@acme.test"], &[]);
    let signed =
        "DKIM-Signature: v=1; a=rsa-sha256; d=acme.test; s=own; h=from; bh=; b=\r\nFrom: alice@acme.test";
    expect_lines(&relayed(signed).await, &["From: alice@acme.test"], &["Reply-To"]);
    server.control.ok("PATCH", &path, json!({"settings": {"apply_to_smtp": false}})).await;
    expect_lines(&relayed("From: alice@acme.test").await, &["From: alice@acme.test"], &["Reply-To"]);
}
