//! Sending over HTTP: a message described in JSON passes the same checks as over SMTP and is sent as one.

use mail_parser::{MessageParser, MimeHeaders};
use pillarbox::model::Scope;
use serde_json::{Value, json};

use crate::api_stage::{ApiStage, Tenant, text};
use crate::fake_dns::FakeDns;
use crate::fake_mx::{Fault, Phase};
use crate::http::Answer;
use crate::server::{TestServer, message, one_destination};

/// A tenant with the verified domain `acme.example`.
async fn sender(stage: &ApiStage) -> Tenant {
    let tenant = stage.tenant("Acme").await;
    let body = json!({"name": "acme.example", "tenant_id": tenant.id, "verification": "manual"});
    stage.post(&stage.platform, "/v1/domains", body).await.expect(201);
    tenant
}

fn email() -> Value {
    json!({
        "from": "hello@acme.example",
        "to": ["Bob <bob@remote.example>"],
        "subject": "Grüße",
        "text": "Hi Bob",
    })
}

/// The email with these fields changed.
fn email_with(fields: Value) -> Value {
    let mut email = email();
    for (name, value) in fields.as_object().unwrap() {
        email[name] = value.clone();
    }
    email
}

async fn raw(stage: &ApiStage, tenant: &Tenant, answer: &Value) -> Vec<u8> {
    let id = answer["id"].as_str().unwrap();
    let answer = stage.get(&tenant.key, &format!("/v1/emails/{id}/raw")).await;
    assert_eq!(answer.status, 200);
    answer.body
}

async fn count(stage: &ApiStage, tenant: &Tenant) -> usize {
    stage.get(&tenant.key, "/v1/emails").await.expect(200)["data"].as_array().unwrap().len()
}

#[tokio::test]
async fn a_json_message_is_sent_signed_and_shows_its_metadata() {
    let stage = ApiStage::start().await;
    let tenant = sender(&stage).await;
    let body = email_with(json!({
        "cc": ["c@remote.example"], "bcc": ["secret@remote.example"], "reply_to": ["Support <help@acme.example>"],
        "html": "<p>Hi <img src='cid:logo'></p>", "headers": {"X-Campaign": "spring", "List-Unsubscribe": "<mailto:u@acme.example>"},
        "attachments": [
            {"filename": "a.txt", "content_type": "text/plain", "content": "aGVsbG8="},
            {"filename": "logo.png", "content_type": "image/png", "content": "iVBORw==", "content_id": "logo"},
        ],
        "tags": ["welcome", "spring"], "metadata": {"order": 7},
    }));
    let sent = stage.post(&tenant.key, "/v1/emails", body).await.expect(202);
    assert_eq!(
        (&sent["object"], &sent["status"], &sent["suppressed"]),
        (&json!("email"), &json!("queued"), &json!([]))
    );
    let bytes = raw(&stage, &tenant, &sent).await;
    let message = MessageParser::default().parse(&bytes).unwrap();
    assert_eq!(message.subject(), Some("Grüße"));
    assert_eq!(message.body_text(0).as_deref(), Some("Hi Bob"));
    assert_eq!(message.header_raw("X-Campaign").map(str::trim), Some("spring"));
    assert_eq!(
        message.attachments().map(|part| part.attachment_name().unwrap()).collect::<Vec<_>>().len(),
        2
    );
    let text = String::from_utf8_lossy(&bytes);
    assert!(
        text.starts_with("DKIM-Signature: ")
            && text.contains("\r\nMessage-ID: <")
            && !text.contains("secret@")
    );
    let shown =
        stage.get(&tenant.key, &format!("/v1/emails/{}", sent["id"].as_str().unwrap())).await.expect(200);
    assert_eq!(shown["tags"], json!(["spring", "welcome"]));
    assert_eq!(shown["metadata"], json!({"order": 7}));
    let to: Vec<&str> = shown["to"].as_array().unwrap().iter().map(|to| to.as_str().unwrap()).collect();
    assert_eq!(to, ["bob@remote.example", "c@remote.example", "secret@remote.example"]);
    let by_tag = |tag: &str| format!("/v1/emails?tag={tag}");
    for (tag, found) in [("spring", 1), ("summer", 0)] {
        for key in [&tenant.key, &stage.platform] {
            let list = stage.get(key, &by_tag(tag)).await.expect(200);
            assert_eq!(list["data"].as_array().unwrap().len(), found, "{tag}");
        }
    }
}

#[tokio::test]
async fn a_foreign_sender_is_refused_as_over_smtp_and_recorded_under_the_request_id() {
    let stage = ApiStage::start().await;
    let tenant = sender(&stage).await;
    let body = email_with(json!({"from": "ceo@other.example"}));
    let answer = stage.post(&tenant.key, "/v1/emails", body).await;
    let request_id = answer.header("x-request-id").unwrap().to_owned();
    answer.expect_error(403, "domain_not_allowed_for_key");
    // The event is written after the response.
    let noted = crate::wait::until("the refusal is noted", async || {
        let list = stage.get(&tenant.key, "/v1/rejections").await.expect(200);
        list["data"].as_array().unwrap().first().cloned()
    })
    .await;
    assert_eq!(
        (noted["id"].as_str().unwrap(), &noted["code"]),
        (&request_id[..], &json!("domain_not_allowed_for_key"))
    );
    assert_eq!(count(&stage, &tenant).await, 0);
}

#[tokio::test]
async fn suppressed_recipients_are_omitted_and_reported() {
    let stage = ApiStage::start().await;
    let tenant = sender(&stage).await;
    stage.post(&tenant.key, "/v1/suppressions", json!({"address": "gone@remote.example"})).await.expect(201);
    let body = email_with(json!({"to": ["bob@remote.example", "GONE@remote.example"]}));
    let sent = stage.post(&tenant.key, "/v1/emails", body).await.expect(202);
    assert_eq!(sent["suppressed"], json!(["GONE@remote.example"]));
    let id = sent["id"].as_str().unwrap();
    let timeline = stage.get(&tenant.key, &format!("/v1/emails/{id}/timeline")).await.expect(200);
    assert!(timeline.to_string().contains("message.suppressed"), "{timeline}");
    let shown = stage.get(&tenant.key, &format!("/v1/emails/{id}")).await.expect(200);
    assert_eq!(shown["recipient_count"], 1);
    let only = email_with(json!({"to": ["gone@remote.example"]}));
    stage.post(&tenant.key, "/v1/emails", only).await.expect_error(422, "recipient_suppressed");
}

#[tokio::test]
async fn all_invalid_fields_are_reported_together() {
    let stage = ApiStage::start().await;
    let tenant = sender(&stage).await;
    let body = json!({
        "from": "hello@acme.example", "to": [], "tags": ["a\nb"], "send_at": "2020-01-01T00:00:00Z",
        "headers": {"Subject": "x", "X-A": "b\r\nBcc: c@d.example", "X B": "c"},
        "attachments": [{"filename": "", "content": "%"}],
    });
    let answer = stage.post(&tenant.key, "/v1/emails", body).await;
    let error = answer.expect_error(422, "validation_failed");
    let paths: Vec<&str> =
        error["errors"].as_array().unwrap().iter().map(|e| e["path"].as_str().unwrap()).collect();
    for path in [
        "to",
        "subject",
        "text",
        "tags[0]",
        "send_at",
        "headers.Subject",
        "headers.X-A",
        "headers.X B",
        "attachments[0].filename",
        "attachments[0].content",
    ] {
        assert!(paths.contains(&path), "{path} in {paths:?}");
    }
    let many: Vec<String> = (0..51).map(|n| format!("r{n}@remote.example")).collect();
    let answer = stage.post(&tenant.key, "/v1/emails", email_with(json!({"to": many}))).await;
    assert_eq!(answer.expect_error(422, "validation_failed")["errors"][0]["code"], "too_many_recipients");
    let large = email_with(json!({"text": "x".repeat(5 * 1024 * 1024)}));
    stage.post(&tenant.key, "/v1/emails", large).await.expect_error(413, "message_too_large");
    let reader = stage.key(tenant.id, &[Scope::EmailsRead], |_| {}).await;
    stage.post(&reader, "/v1/emails", email()).await.expect_error(403, "insufficient_scope");
    assert_eq!(count(&stage, &tenant).await, 0);
}

#[tokio::test]
async fn a_date_and_a_message_id_are_sent_as_given_or_refused() {
    let stage = ApiStage::start().await;
    let tenant = sender(&stage).await;
    for (name, value) in [
        ("Message-ID", ""),
        ("message-id", "<>"),
        ("Message-ID", "order-7"),
        ("Message-ID", "<order 7@acme.example>"),
        ("Date", ""),
        ("Date", "today"),
        ("DATE", "2026-01-01T00:00:00Z"),
    ] {
        let headers = json!({name: value});
        let answer = stage.post(&tenant.key, "/v1/emails", email_with(json!({"headers": headers}))).await;
        let error = answer.expect_error(422, "validation_failed");
        assert_eq!(error["errors"][0]["path"], format!("headers.{name}"), "{value}");
    }
    let (id, date) = ("<order-7@acme.example>", "Thu, 1 Jan 2026 10:00:00 +0100");
    let headers = json!({"Message-ID": id, "Date": date});
    let answer = stage.post(&tenant.key, "/v1/emails", email_with(json!({"headers": headers}))).await;
    let text = String::from_utf8(raw(&stage, &tenant, &answer.expect(202)).await).unwrap();
    for field in [format!("\r\nMessage-ID: {id}\r\n"), format!("\r\nDate: {date}\r\n")] {
        assert_eq!(text.matches(&field).count(), 1, "{text}");
    }
}

#[tokio::test]
async fn no_line_of_a_header_is_longer_than_998_octets() {
    let stage = ApiStage::start().await;
    let tenant = sender(&stage).await;
    let subject = "s".repeat(998);
    let body = email_with(json!({"subject": subject, "headers": {"X-Words": "word ".repeat(800)}}));
    let sent = stage.post(&tenant.key, "/v1/emails", body).await.expect(202);
    let bytes = raw(&stage, &tenant, &sent).await;
    assert!(bytes.split(|&octet| octet == b'\n').all(|line| line.len() <= 999));
    assert_eq!(MessageParser::default().parse(&bytes).unwrap().subject(), Some(subject.as_str()));
    let body = email_with(json!({"headers": {"X-Word": "w".repeat(4000)}}));
    let error = stage.post(&tenant.key, "/v1/emails", body).await.expect_error(422, "validation_failed");
    assert_eq!(error["errors"][0]["path"], "headers.X-Word");
}

#[tokio::test]
async fn fields_that_are_not_text_must_be_ascii() {
    let stage = ApiStage::start().await;
    let tenant = sender(&stage).await;
    let body = email_with(json!({
        "headers": {"References": "<ü@acme.example>", "List-Unsubscribe": "<https://acme.example/ü>", "X-Note": "ü"},
        "attachments": [{"filename": "a", "content": "", "content_type": "text/plain; name=\"ü\""}],
    }));
    let error = stage.post(&tenant.key, "/v1/emails", body).await.expect_error(422, "validation_failed");
    let paths: Vec<_> = error["errors"].as_array().unwrap().iter().map(|fault| &fault["path"]).collect();
    assert_eq!(paths, ["headers.List-Unsubscribe", "headers.References", "attachments[0].content_type"]);
    let body = email_with(json!({"headers": {"X-Note": "ü", "Sender": "ü <a@acme.example>"}}));
    let sent = stage.post(&tenant.key, "/v1/emails", body).await.expect(202);
    let bytes = raw(&stage, &tenant, &sent).await;
    assert!(String::from_utf8_lossy(&bytes).contains("\r\nSender: =?utf-8?b?w7w=?= <a@acme.example>\r\n"));
}

#[tokio::test]
async fn a_subject_that_looks_encoded_arrives_as_it_was() {
    let stage = ApiStage::start().await;
    let tenant = sender(&stage).await;
    let subject = "=?utf-8?q?J=C3=BCrgen?= is an encoded-word";
    let sent =
        stage.post(&tenant.key, "/v1/emails", email_with(json!({"subject": subject}))).await.expect(202);
    let bytes = raw(&stage, &tenant, &sent).await;
    assert_eq!(MessageParser::default().parse(&bytes).unwrap().subject(), Some(subject));
    let path = format!("/v1/emails/{}", sent["id"].as_str().unwrap());
    assert_eq!(stage.get(&tenant.key, &path).await.expect(200)["subject"], subject);
}

#[tokio::test]
async fn every_field_of_a_message_has_a_length() {
    let stage = ApiStage::start().await;
    let tenant = sender(&stage).await;
    let long = |length: usize| "x".repeat(length);
    let file = |field: &str, value: String| {
        let mut file = json!({"filename": "a.txt", "content": ""});
        file[field] = json!(value);
        json!({"attachments": [file]})
    };
    let address = "bob@remote.example";
    for (fields, path) in [
        (json!({"from": format!("{} <hello@acme.example>", long(201))}), "from"),
        (json!({"to": vec![address; 51]}), "to"),
        (json!({"to": [address], "cc": vec![address; 50]}), "to"),
        (json!({"reply_to": vec![address; 11]}), "reply_to"),
        (json!({"subject": long(999)}), "subject"),
        (json!({"tags": [long(65)]}), "tags[0]"),
        (json!({"tags": vec!["x"; 11]}), "tags"),
        (json!({"metadata": {"x": long(9000)}}), "metadata"),
        (json!({"headers": {"X-A": "y ".repeat(2001)}}), "headers.X-A"),
        (json!({"headers": {long(77): "y"}}), "headers."),
        (file("filename", long(256)), "attachments[0].filename"),
        (
            file("content_type", format!("text/plain; name={}", long(2 * 1024 * 1024))),
            "attachments[0].content_type",
        ),
        (file("content_type", format!("text/{}", long(251))), "attachments[0].content_type"),
        (file("content_id", long(256)), "attachments[0].content_id"),
        (json!({"attachments": vec![json!({"filename": "a", "content": ""}); 51]}), "attachments"),
    ] {
        let answer = stage.post(&tenant.key, "/v1/emails", email_with(fields)).await;
        let error = answer.expect_error(422, "validation_failed");
        let found = error["errors"][0]["path"].as_str().unwrap();
        assert!(found.starts_with(path), "{path}: {found}");
    }
    assert_eq!(count(&stage, &tenant).await, 0);
}

#[tokio::test]
async fn recipients_are_a_string_or_a_list_in_any_of_three_fields() {
    let stage = ApiStage::start().await;
    let tenant = sender(&stage).await;
    let send = async |fields: Value| {
        let mut email = email_with(fields.clone());
        email.as_object_mut().unwrap().retain(|name, value| *name != "to" || !value.is_null());
        let sent = stage.post(&tenant.key, "/v1/emails", email).await.expect(202);
        let path = format!("/v1/emails/{}", sent["id"].as_str().unwrap());
        let shown = stage.get(&tenant.key, &path).await.expect(200);
        (String::from_utf8(raw(&stage, &tenant, &sent).await).unwrap(), shown["to"].clone())
    };
    let (text, to) =
        send(json!({"to": "Bob <bob@remote.example>", "cc": "c@remote.example", "bcc": "d@remote.example",
            "reply_to": "help@acme.example"}))
        .await;
    assert_eq!(to, json!(["bob@remote.example", "c@remote.example", "d@remote.example"]));
    for line in ["To: Bob <bob@remote.example>", "Cc: <c@remote.example>", "Reply-To: <help@acme.example>"] {
        assert!(text.contains(&format!("\r\n{line}\r\n")), "{line}: {text}");
    }
    let (text, to) = send(json!({"to": null, "bcc": ["d@remote.example"]})).await;
    assert_eq!(to, json!(["d@remote.example"]));
    assert!(text.contains("\r\nTo: undisclosed-recipients:;\r\n") && !text.contains("d@remote"), "{text}");
    let (text, to) = send(json!({"to": [], "cc": "c@remote.example"})).await;
    assert_eq!(to, json!(["c@remote.example"]));
    assert!(!text.contains("\r\nTo:"), "{text}");
}

#[tokio::test]
async fn base64_with_line_breaks_is_taken() {
    let stage = ApiStage::start().await;
    let tenant = sender(&stage).await;
    let body =
        email_with(json!({"attachments": [{"filename": "a.txt", "content": "aGVs\r\nbG8g\nd29ybGQ=\n"}]}));
    let sent = stage.post(&tenant.key, "/v1/emails", body).await.expect(202);
    let bytes = raw(&stage, &tenant, &sent).await;
    let message = MessageParser::default().parse(&bytes).unwrap();
    assert_eq!(message.attachment(0).unwrap().contents(), b"hello world");
    let body = email_with(json!({"attachments": [{"filename": "a.txt", "content": "aGVs*bG8="}]}));
    stage.post(&tenant.key, "/v1/emails", body).await.expect_error(422, "validation_failed");
}

#[tokio::test]
async fn an_array_is_not_taken_for_an_object() {
    let stage = ApiStage::start().await;
    let tenant = sender(&stage).await;
    let fields = json!([
        "hello@acme.example",
        ["bob@remote.example"],
        [],
        [],
        [],
        "s",
        "t",
        null,
        {},
        [],
        [],
        {},
        null,
        {},
        null,
        null
    ]);
    for (path, body) in [
        ("/v1/emails", fields.clone()),
        ("/v1/emails/batch", json!([[email()]])),
        ("/v1/templates", json!(["t", null, "s", "t", null])),
    ] {
        stage.post(&tenant.key, path, body).await.expect_error(400, "invalid_json");
    }
    let nested = json!({"emails": [fields]});
    let answer = stage.post(&tenant.key, "/v1/emails/batch", nested).await;
    assert_eq!(answer.expect_error(422, "validation_failed")["errors"][0]["path"], "emails[0]");
    let file = email_with(json!({"attachments": [["a.txt", null, "aGVsbG8=", null]]}));
    let answer = stage.post(&tenant.key, "/v1/emails", file).await;
    assert_eq!(answer.expect_error(422, "validation_failed")["errors"][0]["path"], "attachments[0]");
    assert_eq!(count(&stage, &tenant).await, 0);
}

#[tokio::test]
async fn a_batch_is_sent_whole_or_not_at_all() {
    let stage = ApiStage::start().await;
    let tenant = sender(&stage).await;
    let wrong = email_with(json!({"from": "x@other.example"}));
    let answer = stage.post(&tenant.key, "/v1/emails/batch", json!({"emails": [email(), wrong]})).await;
    let error = answer.expect_error(403, "domain_not_allowed_for_key");
    assert_eq!(error["errors"][0]["path"], "emails[1]");
    assert_eq!(count(&stage, &tenant).await, 0);
    let sent =
        stage.post(&tenant.key, "/v1/emails/batch", json!({"emails": [email(), email()]})).await.expect(202);
    assert_eq!(sent["data"].as_array().unwrap().len(), 2);
    assert_eq!(count(&stage, &tenant).await, 2);
    stage
        .post(&tenant.key, "/v1/emails/batch", json!({"emails": []}))
        .await
        .expect_error(422, "validation_failed");
}

#[tokio::test]
async fn a_batch_is_stored_with_its_response_in_one_transaction() {
    let stage = ApiStage::start().await;
    let tenant = sender(&stage).await;
    let last = email_with(json!({"subject": "last"}));
    let batch = json!({"emails": [email(), email(), last]});
    let database = stage.database();
    for (number, fault) in
        ["message WHEN NEW.subject = 'last'", "idempotent_response"].into_iter().enumerate()
    {
        let name = number.to_string();
        let post = async || post_under(&stage, &tenant.key, &name, "/v1/emails/batch", &batch).await;
        let fault =
            format!("CREATE TRIGGER fault BEFORE INSERT ON {fault} BEGIN SELECT RAISE(ABORT, 'fault'); END");
        database.execute_batch(&fault).unwrap();
        assert!(post().await.status >= 500);
        assert_eq!(count(&stage, &tenant).await, 3 * number, "a part of the batch was stored");
        database.execute_batch("DROP TRIGGER fault").unwrap();
        let sent = post().await.expect(202);
        assert_eq!(sent["data"].as_array().unwrap().len(), 3);
        assert_eq!(post().await.expect(202), sent);
        assert_eq!(count(&stage, &tenant).await, 3 * (number + 1));
    }
}

#[tokio::test]
async fn a_batch_with_a_message_that_would_be_refused_at_data_is_not_sent() {
    let stage = ApiStage::start().await;
    let tenant = sender(&stage).await;
    for (header, status, code) in [
        (json!({"Sender": "ceo@bank.example"}), 403, "domain_not_allowed_for_key"),
        (json!({"Resent-From": "a@acme.example b@acme.example"}), 422, "from_header_ambiguous"),
    ] {
        let wrong = email_with(json!({"headers": header}));
        let batch = json!({"emails": [email(), wrong]});
        let answer = stage.post(&tenant.key, "/v1/emails/batch", batch).await;
        assert_eq!(answer.expect_error(status, code)["errors"][0]["path"], "emails[1]");
        assert_eq!(count(&stage, &tenant).await, 0);
    }
}

/// A stage with these limits and a batch whose messages have 110 KiB each.
async fn stage_of_long_messages(send_body_kib: u64, room_kib: u64) -> (ApiStage, Tenant, Value) {
    let stage = ApiStage::with(|api, _| {
        api.send_body_max = bytesize::ByteSize::kib(send_body_kib);
        api.inbound_buffer_max = bytesize::ByteSize::kib(room_kib);
    })
    .await;
    let tenant = sender(&stage).await;
    let template = json!({"name": "long", "subject": "s", "text": "{% for a in l %}{{ s }}{% endfor %}"});
    let made = stage.post(&tenant.key, "/v1/templates", template).await.expect(201);
    let email = json!({
        "from": "hello@acme.example", "to": ["b@remote.example"], "template_id": made["id"],
        "template_data": {"l": vec![1; 10], "s": "yyyyyyyyy\n".repeat(1024)},
    });
    (stage, tenant, email)
}

#[tokio::test]
async fn the_messages_of_a_request_count_in_the_memory_budget_until_the_response() {
    let (stage, tenant, email) = stage_of_long_messages(1024, 300).await;
    let post = async |count: usize| {
        stage.post(&tenant.key, "/v1/emails/batch", json!({"emails": vec![email.clone(); count]})).await
    };
    post(2).await.expect(202);
    assert_eq!(post(3).await.expect_error(503, "overloaded")["errors"][0]["path"], "emails[2]");
    post(2).await.expect(202);
    assert_eq!(count(&stage, &tenant).await, 4);
}

#[tokio::test]
async fn the_messages_of_a_request_have_a_limit_together() {
    let (stage, tenant, email) = stage_of_long_messages(150, 1024).await;
    stage.post(&tenant.key, "/v1/emails", email.clone()).await.expect(202);
    let answer = stage.post(&tenant.key, "/v1/emails/batch", json!({"emails": [email, email]})).await;
    assert_eq!(answer.expect_error(413, "payload_too_large")["errors"][0]["path"], "emails[1]");
    assert_eq!(count(&stage, &tenant).await, 1);
}

#[tokio::test]
async fn a_message_may_have_its_own_lifetime() {
    let stage = ApiStage::start().await;
    let tenant = sender(&stage).await;
    let in_hours = |hours: i64| {
        let at = pillarbox::mail::Timestamp::now() + pillarbox::mail::SignedDuration::from_hours(hours);
        pillarbox::mail::Timestamp::from_second(at.as_second()).unwrap().to_string()
    };
    for wrong in [
        json!({"expires_at": in_hours(-1)}),
        json!({"expires_at": in_hours(241)}),
        json!({"expires_at": in_hours(2), "send_at": in_hours(3)}),
        json!({"expires_at": in_hours(244), "send_at": in_hours(3)}),
    ] {
        let answer = stage.post(&tenant.key, "/v1/emails", email_with(wrong)).await;
        assert_eq!(answer.expect_error(422, "validation_failed")["errors"][0]["path"], "expires_at");
    }
    for right in
        [json!({"expires_at": in_hours(239)}), json!({"expires_at": in_hours(242), "send_at": in_hours(3)})]
    {
        let sent = stage.post(&tenant.key, "/v1/emails", email_with(right.clone())).await.expect(202);
        let path = format!("/v1/emails/{}", sent["id"].as_str().unwrap());
        assert_eq!(stage.get(&tenant.key, &path).await.expect(200)["expires_at"], right["expires_at"]);
    }
}

#[tokio::test]
async fn a_message_that_would_be_tried_again_after_its_time_expires_instead() {
    let (_dns, mx, server) = one_destination().await;
    mx.script(Phase::Rcpt, "<bob@", 9, Fault::Reply("451 4.7.1 later"));
    let account = server.create_account("acme.test").await;
    let send = async |fields: Value| {
        let mut email = json!({"from": "a@acme.test", "to": ["bob@b.test"], "subject": "x", "text": "x"});
        email.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let address = server.control.address;
        let sent = crate::http::request(address, "POST", "/v1/emails", Some(&account.secret), Some(&email));
        sent.await.expect(202)["id"].as_str().unwrap().to_owned()
    };
    let soon = pillarbox::mail::Timestamp::now() + pillarbox::mail::SignedDuration::from_secs(40);
    let (short, long) = (send(json!({"expires_at": soon})).await, send(json!({})).await);
    server.wait_for_status(&short, &["expired"]).await;
    server.wait_for_status(&long, &["deferred"]).await;
}

#[tokio::test]
async fn idempotency_keys_of_smtp_and_http_are_separate() {
    let dns = FakeDns::start().await;
    let server = TestServer::start(&dns, 1).await;
    let account = server.create_account("acme.test").await;
    let email = json!({"from": "a@acme.test", "to": ["b@b.test"], "subject": "x", "text": "x"});
    let batch = json!({"emails": [email]});
    let key = &account.user;
    // An Idempotency-Key header over SMTP that looks like one of HTTP, by a key that may only use SMTP.
    for name in [format!("{key} k"), format!("http {key} - k"), format!("{key} - k"), format!("{key} k 0")] {
        let message = [format!("Idempotency-Key: {name}\r\n").as_bytes(), &message(&account, "x")].concat();
        server.submit(&account, &["b@b.test"], &message).await;
    }
    let post = async |name: &str, target: &str, body: &Value| {
        let headers = [("Idempotency-Key", name)];
        let address = server.control.address;
        crate::http::request_with(address, "POST", target, Some(&account.secret), Some(body), &headers).await
    };
    let mut ids = std::collections::BTreeSet::new();
    ids.insert(post("k", "/v1/emails", &email).await.expect(202)["id"].to_string());
    ids.insert(post("x", "/v1/emails/batch", &batch).await.expect(202)["data"][0]["id"].to_string());
    ids.insert(post("x 0", "/v1/emails", &email).await.expect(202)["id"].to_string());
    ids.insert(post("0 x", "/v1/emails", &email).await.expect(202)["id"].to_string());
    assert_eq!(ids.len(), 4);
}

#[tokio::test]
async fn a_scheduled_message_waits_and_says_so() {
    let stage = ApiStage::start().await;
    let tenant = sender(&stage).await;
    let at = pillarbox::mail::Timestamp::now() + pillarbox::mail::SignedDuration::from_hours(2);
    let at = pillarbox::mail::Timestamp::from_second(at.as_second()).unwrap().to_string();
    let sent = stage.post(&tenant.key, "/v1/emails", email_with(json!({"send_at": at}))).await.expect(202);
    assert_eq!(sent["send_at"], json!(at));
    let shown =
        stage.get(&tenant.key, &format!("/v1/emails/{}", sent["id"].as_str().unwrap())).await.expect(200);
    assert_eq!((&shown["send_at"], &shown["deliveries"][0]["next_attempt_at"]), (&json!(at), &json!(at)));
}

#[tokio::test]
async fn a_template_makes_subject_and_bodies_from_data() {
    let stage = ApiStage::start().await;
    let (tenant, other) = (sender(&stage).await, stage.tenant("Other").await);
    let template = json!({"name": "welcome", "subject": "Hello {{ name }}", "text": "Dear {{ name }}", "html": "<p>{{ name }}</p>"});
    let made = stage.post(&tenant.key, "/v1/templates", template.clone()).await.expect(201);
    let id = made["id"].as_str().unwrap();
    stage.post(&tenant.key, "/v1/templates", template).await.expect_error(409, "already_exists");
    let body = json!({"from": "hello@acme.example", "to": ["b@remote.example"], "template_id": id, "template_data": {"name": "A & B"}});
    let sent = stage.post(&tenant.key, "/v1/emails", body.clone()).await.expect(202);
    let bytes = raw(&stage, &tenant, &sent).await;
    let message = MessageParser::default().parse(&bytes).unwrap();
    assert_eq!(message.subject(), Some("Hello A & B"));
    assert_eq!(message.body_text(0).as_deref(), Some("Dear A & B"));
    assert_eq!(message.body_html(0).as_deref(), Some("<p>A &amp; B</p>"));
    let mut missing = body.clone();
    missing["template_data"] = json!({});
    let error = stage.post(&tenant.key, "/v1/emails", missing).await.expect_error(422, "template_failed");
    assert!(error["message"].as_str().unwrap().contains("line 1"), "{error}");
    let path = format!("/v1/templates/{id}");
    let shown =
        stage.post(&tenant.key, &format!("{path}/render"), json!({"data": {"name": "x"}})).await.expect(200);
    assert_eq!((&shown["subject"], &shown["html"]), (&json!("Hello x"), &json!("<p>x</p>")));
    // A template of another tenant cannot be used.
    stage.get(&other.key, &path).await.expect_error(404, "not_found");
    stage.post(&other.key, "/v1/emails", body).await.expect_error(422, "validation_failed");
    assert_eq!(stage.get(&other.key, "/v1/templates").await.expect(200)["data"], json!([]));
    let fault = stage
        .patch(&tenant.key, &path, json!({"html": "{% if %}"}))
        .await
        .expect_error(422, "validation_failed");
    assert_eq!(fault["errors"][0]["path"], "html");
    let changed = stage.patch(&tenant.key, &path, json!({"html": null})).await.expect(200);
    assert_eq!(changed["html"], Value::Null);
    stage.patch(&tenant.key, &path, json!({"text": null})).await.expect_error(422, "validation_failed");
    stage.delete(&tenant.key, &path).await.expect(200);
    stage.get(&tenant.key, &path).await.expect_error(404, "not_found");
}

async fn post_under(stage: &ApiStage, key: &str, name: &str, target: &str, body: &Value) -> Answer {
    crate::http::request_with(
        stage.address,
        "POST",
        target,
        Some(key),
        Some(body),
        &[("Idempotency-Key", name)],
    )
    .await
}

#[tokio::test]
async fn a_repeated_request_gets_the_first_response_and_is_executed_once() {
    let stage = ApiStage::start().await;
    let tenant = sender(&stage).await;
    let first = post_under(&stage, &tenant.key, "k1", "/v1/emails", &email()).await;
    assert_eq!(first.header("idempotent-replayed"), None);
    let again = post_under(&stage, &tenant.key, "k1", "/v1/emails", &email()).await;
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(first.expect(202), again.expect(202));
    assert_eq!(count(&stage, &tenant).await, 1);
    let other = email_with(json!({"text": "another"}));
    post_under(&stage, &tenant.key, "k1", "/v1/emails", &other)
        .await
        .expect_error(409, "idempotency_key_reused");
    // The same body to another path is another request.
    post_under(&stage, &tenant.key, "k1", "/v1/emails/batch", &email())
        .await
        .expect_error(409, "idempotency_key_reused");
    // A refusal is repeated too, and so is a response with a secret.
    let wrong = email_with(json!({"from": "x@other.example"}));
    let refused = post_under(&stage, &tenant.key, "k2", "/v1/emails", &wrong).await;
    let again = post_under(&stage, &tenant.key, "k2", "/v1/emails", &wrong).await;
    assert_eq!((again.status, again.header("idempotent-replayed")), (403, Some("true")));
    assert_eq!(refused.expect_error(403, "domain_not_allowed_for_key"), again.json()["error"]);
    let key = json!({"name": "app", "scopes": ["emails:send"]});
    let made = post_under(&stage, &tenant.key, "k3", "/v1/keys", &key).await.expect(201);
    assert_eq!(post_under(&stage, &tenant.key, "k3", "/v1/keys", &key).await.expect(201), made);
    // The same Idempotency-Key of another API key is a different one.
    let second = stage.key(tenant.id, Scope::ALL, |_| {}).await;
    post_under(&stage, &second, "k1", "/v1/emails", &other).await.expect(202);
    let long = "k".repeat(256);
    post_under(&stage, &tenant.key, &long, "/v1/emails", &email())
        .await
        .expect_error(422, "validation_failed");
}

#[tokio::test]
async fn concurrent_requests_with_one_idempotency_key_send_one_message() {
    let stage = ApiStage::start().await;
    let tenant = sender(&stage).await;
    let email = email();
    let answers = futures_join(&stage, &tenant, &email).await;
    assert!(answers.iter().any(|answer| answer.status == 202));
    for answer in answers {
        assert!(
            answer.status == 202 || answer.json()["error"]["code"] == "idempotency_in_progress",
            "{answer:?}"
        );
    }
    assert_eq!(count(&stage, &tenant).await, 1);
}

async fn futures_join(stage: &ApiStage, tenant: &Tenant, email: &Value) -> Vec<Answer> {
    let one = || post_under(stage, &tenant.key, "same", "/v1/emails", email);
    let (a, b, c, d) = tokio::join!(one(), one(), one(), one());
    vec![a, b, c, d]
}

#[tokio::test]
async fn messages_are_found_by_metadata_key_and_recipient_domain() {
    let stage = ApiStage::start().await;
    let acme = stage.tenant("acme").await;
    stage.add_domain(acme.id, "acme.example").await;
    let send = async |to: &str, order: Value| {
        let message = json!({
            "from": "shop@acme.example", "to": to, "subject": "s", "text": "t", "metadata": {"order": order},
        });
        text(&stage.post(&acme.key, "/v1/emails", message).await.expect(202), "/id")
    };
    let first = send("a@one.example", json!("A+1 é")).await;
    let second = send("b@two.example", json!(17)).await;
    let key = text(&stage.get(&acme.key, "/v1/keys").await.expect(200), "/data/0/id");
    let both = [second.as_str(), first.as_str()];
    for (query, expected) in [
        ("metadata[order]=17".to_owned(), &both[..1]),
        ("metadata%5Border%5D=A%2B1%20%C3%A9".to_owned(), &both[1..]),
        ("metadata[order]=18".to_owned(), &[]),
        ("metadata[order]=17&metadata[x]=1".to_owned(), &[]),
        ("recipient_domain=TWO.example".to_owned(), &both[..1]),
        (format!("key_id={key}"), &both),
        (format!("key_id={key}&recipient_domain=one.example"), &both[1..]),
        ("key_id=key_01JD8XQZ2V7M5N9T3R6W4Y8KAB".to_owned(), &[]),
    ] {
        let list = stage.get(&acme.key, &format!("/v1/emails?{query}")).await.expect(200);
        let ids: Vec<_> = list["data"].as_array().unwrap().iter().map(|email| text(email, "/id")).collect();
        assert_eq!(ids, expected, "{query}");
    }
    let many: Vec<_> = (0..11).map(|number| format!("metadata[k{number}]=1")).collect();
    for (query, path, code) in [
        ("metadata=17", "metadata", "unknown_parameter"),
        ("metadata[order=17", "metadata[order", "unknown_parameter"),
        ("metadata[order]=17&metadata[order]=18", "metadata[order]", "duplicate"),
        (&many.join("&"), "metadata", "too_many"),
        ("key_id=17", "key_id", "invalid"),
        ("recipient_domain=-", "recipient_domain", "invalid"),
    ] {
        let error = stage.get(&acme.key, &format!("/v1/emails?{query}")).await;
        let error = error.expect_error(422, "validation_failed");
        assert_eq!(
            (text(&error, "/errors/0/path"), text(&error, "/errors/0/code")),
            (path.into(), code.into())
        );
    }
}
