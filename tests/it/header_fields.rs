//! The header fields of a message: which are refused, removed or added, and what is relayed.

use pillarbox::config::DuplicateHeaders;
use pillarbox::mail::Timestamp;
use pillarbox::store::Spool;

use crate::client::Client;
use crate::submission_stage::{HOSTNAME, SubmissionStage};

/// The last reply to a message with these lines before its From field.
async fn submit(client: &mut Client, fields: &str) -> String {
    let message = format!("{fields}From: <app@own.example>\r\n\r\nbody\r\n");
    client.send("app@own.example", &["b@other.example"], message.as_bytes()).await.text()
}

async fn log_in(stage: &SubmissionStage) -> Client {
    let trust = stage.identity.client_config();
    let mut client = Client::connect_implicit(stage.submissions, HOSTNAME, trust).await;
    client.ehlo().await;
    client.auth_plain(&stage.user, &stage.password).await.expect_code(235);
    client
}

#[tokio::test]
async fn a_field_that_may_occur_once_is_refused_twice_unless_the_operator_allows_it() {
    let names = [
        ("Subject", "x"),
        ("To", "b@other.example"),
        ("Cc", "b@other.example"),
        ("Date", "Thu, 1 Jan 1970 00:00:00 +0000"),
        ("Message-ID", "<1@own.example>"),
        ("Reply-To", "b@other.example"),
        ("Sender", "b@own.example"),
        ("In-Reply-To", "<1@own.example>"),
        ("References", "<1@own.example>"),
    ];
    let stage = SubmissionStage::start().await;
    let lenient = SubmissionStage::with(|limits| limits.duplicate_headers = DuplicateHeaders::Allow).await;
    let (mut strict, mut lax) = (log_in(&stage).await, log_in(&lenient).await);
    for (name, value) in names {
        let once = format!("{name}: {value}\r\n");
        let twice = format!("{once}X-Other: y\r\n{}: {value}\r\n", name.to_uppercase());
        let said = submit(&mut strict, &once).await;
        assert!(said.starts_with("250 "), "{name}: {said}");
        let said = submit(&mut strict, &twice).await;
        let expected = format!("550 5.6.0 [header_duplicate] the message has 2 {name} fields; ");
        assert!(said.starts_with(&expected), "{name}: {said}");

        let said = submit(&mut lax, &twice).await;
        assert!(said.starts_with("250 "), "{name}: {said}");
        let stored =
            lenient.store.content(SubmissionStage::id_in(&said), Timestamp::now()).await.unwrap().unwrap();
        assert!(stored.submitted.starts_with(twice.as_bytes()), "{name} is relayed as it came");
    }
    let said = submit(&mut lax, "From: <app@own.example>\r\n").await;
    assert!(said.starts_with("550 5.7.1 [from_header_ambiguous]"), "{said}");
    // Fields that may occur more often: RFC 5322 §3.6 and §3.6.5.
    let said =
        submit(&mut strict, "Comments: a\r\nComments: b\r\nKeywords: a\r\nKeywords: b\r\nX: 1\r\nX: 2\r\n")
            .await;
    assert!(said.starts_with("250 "), "{said}");
}

#[tokio::test]
async fn an_empty_date_or_message_id_is_replaced() {
    let stage = SubmissionStage::start().await;
    let mut client = log_in(&stage).await;
    for (name, field) in [
        ("Message-ID", "Message-ID:\r\n"),
        ("Message-ID", "message-id: \t\r\n  \r\n"),
        ("Message-ID", "Message-ID: <>\r\n"),
        ("Message-ID", "Message-ID: < >\r\n"),
        ("Date", "Date:\r\n"),
        ("Date", "DATE:   \r\n"),
    ] {
        let said = submit(&mut client, &format!("X-Before: 1\r\n{field}X-After: 2\r\n")).await;
        let id = SubmissionStage::id_in(&said);
        let content = stage.store.content(id, Timestamp::now()).await.unwrap().unwrap();
        assert!(content.submitted.starts_with(b"X-Before: 1\r\nX-After: 2\r\nFrom: "), "{field:?}");
        let prefix = String::from_utf8(content.prefix.to_vec()).unwrap();
        assert_eq!(prefix.matches(&format!("\r\n{name}: ")).count(), 1, "{field:?}: {prefix}");
    }
    // The empty field counts as absent beside another.
    let said = submit(&mut client, "Message-ID:\r\nMessage-ID: <1@own.example>\r\n").await;
    let content =
        stage.store.content(SubmissionStage::id_in(&said), Timestamp::now()).await.unwrap().unwrap();
    assert!(content.submitted.starts_with(b"Message-ID: <1@own.example>\r\nFrom: "), "{said}");
    assert!(!String::from_utf8_lossy(&content.prefix).contains("\r\nMessage-ID: "));
}

/// RFC 6376 §3.4.2 counts space and tab as white space; some verifiers count others too.
#[tokio::test]
async fn a_form_feed_or_vertical_tab_is_refused_in_the_header_and_kept_in_the_body() {
    let stage = SubmissionStage::start().await;
    let mut client = log_in(&stage).await;
    for (line, field) in
        [(1, "Subject: page\x0cbreak\r\n"), (2, "X-A: b\r\n\tc \x0b\r\n"), (1, "Subject:\x0c\r\n")]
    {
        let said = submit(&mut client, field).await;
        let expected = format!("554 5.6.0 [header_malformed] line {line} of the header has a form feed");
        assert!(said.starts_with(&expected), "{field:?}: {said}");
    }
    let message = b"From: <app@own.example>\r\n\r\npage\x0cbreak\x0b\r\n";
    let reply = client.send("app@own.example", &["b@other.example"], message).await.expect_code(250);
    let content =
        stage.store.content(SubmissionStage::id_in(&reply.text()), Timestamp::now()).await.unwrap().unwrap();
    assert_eq!(content.submitted, message[..]);
}
