//! How content is stored and where it ends: a table of octets after DATA, sent over a real socket and compared with the
//! store.

use pillarbox::config::BareNewline;
use pillarbox::mail::Timestamp;
use pillarbox::store::Spool;

use crate::client::Client;
use crate::submission_stage::{HOSTNAME, SubmissionStage};

const FROM: &str = "From: <app@own.example>\r\n";

/// A connection that has received the 354 reply.
async fn begin(stage: &SubmissionStage, parameters: &str) -> Client {
    let trust = stage.identity.client_config();
    let mut client = Client::connect_implicit(stage.submissions, HOSTNAME, trust).await;
    client.ehlo().await;
    client.auth_plain(&stage.user, &stage.password).await.expect_code(235);
    client.command(&format!("MAIL FROM:<app@own.example>{parameters}")).await.expect_code(250);
    client.command("RCPT TO:<b@other.example>").await.expect_code(250);
    client.command("DATA").await.expect_code(354);
    client
}

/// Sends these octets, which must end the data. Returns the stored message, or the refusal.
async fn submit(stage: &SubmissionStage, octets: &[u8], parameters: &str) -> Result<Vec<u8>, String> {
    let mut client = begin(stage, parameters).await;
    client.write(octets).await;
    let reply = client.read_reply().await;
    client.command("NOOP").await.expect_code(250);
    if reply.code != 250 {
        return Err(reply.text());
    }
    let stored =
        stage.store.content(SubmissionStage::id_in(&reply.text()), Timestamp::now()).await.unwrap().unwrap();
    Ok(stored.submitted.to_vec())
}

async fn in_mode(bare_newline: BareNewline) -> SubmissionStage {
    SubmissionStage::with(|limits| {
        limits.bare_newline = bare_newline;
        limits.message_size_max = bytesize::ByteSize::mib(2);
    })
    .await
}

fn wire(body: &[u8]) -> Vec<u8> {
    [FROM.as_bytes(), b"\r\n", body, b"\r\n.\r\n"].concat()
}

fn stored(body: &[u8]) -> Vec<u8> {
    [FROM.as_bytes(), b"\r\n", body, b"\r\n"].concat()
}

/// A body as sent, as stored in `normalize` mode, and whether `reject` mode accepts it.
const BODIES: &[(&str, &str, bool)] = &[
    ("", "", true),
    ("x", "x", true),
    ("..", ".", true),
    ("..x", ".x", true),
    ("...\r\n..", "..\r\n.", true),
    (".x", "x", true),
    (" leading", " leading", true),
    ("trailing \r\n\t\r\n\r\n", "trailing \r\n\t\r\n\r\n", true),
    ("From: <evil@bank.example>", "From: <evil@bank.example>", true),
    ("a\nb", "a\r\nb", false),
    ("a\n\nb", "a\r\n\r\nb", false),
    ("a\n.\nb", "a\r\n.\r\nb", false),
    ("a\n.\r\nb", "a\r\n.\r\nb", false),
    ("a\r\n.\nb", "a\r\n.\r\nb", false),
    ("a\n..\nb", "a\r\n..\r\nb", false),
    ("a\rb", "a b", false),
    ("a\r\rb", "a  b", false),
    ("a\r.\rb", "a . b", false),
    ("a\r\n.\rb", "a\r\n b", false),
    ("a\r\n.\r\r\nb", "a\r\n \r\nb", false),
    ("a\r\r\nb", "a \r\nb", false),
    ("a\n\rb", "a\r\n b", false),
    ("a\r", "a ", false),
    ("a\n", "a\r\n", false),
    ("a\n.\r\nMAIL FROM:<evil@bank.example>\r\n", "a\r\n.\r\nMAIL FROM:<evil@bank.example>\r\n", false),
    ("Gr\u{fc}\u{df}e \u{1f4ec}", "Gr\u{fc}\u{df}e \u{1f4ec}", true),
    ("\u{7f}\u{1b}[2J\u{8}", "\u{7f}\u{1b}[2J\u{8}", true),
];

#[tokio::test]
async fn bare_line_ends_are_normalized_or_refused_and_all_other_octets_are_kept() {
    let mending = in_mode(BareNewline::Normalize).await;
    let refusing = in_mode(BareNewline::Reject).await;
    for &(sent, mended, is_clean) in BODIES {
        let body = submit(&mending, &wire(sent.as_bytes()), "").await;
        assert_eq!(body, Ok(stored(mended.as_bytes())), "{sent:?}");
        let body = submit(&refusing, &wire(sent.as_bytes()), "").await;
        if is_clean {
            assert_eq!(body, Ok(stored(mended.as_bytes())), "{sent:?}");
        } else {
            assert!(
                body.as_ref().is_err_and(|said| said.starts_with("554 5.6.0 [bare_newline]")),
                "{sent:?}: {body:?}"
            );
        }
    }
}

#[tokio::test]
async fn octets_above_127_are_accepted_whatever_mail_declares() {
    let stage = in_mode(BareNewline::Reject).await;
    for parameters in ["", " BODY=7BIT", " BODY=8BITMIME", " SMTPUTF8", " BODY=8BITMIME SMTPUTF8"] {
        for body in [&b"caf\xe9"[..], "caf\u{e9}".as_bytes(), b"\xff\xfe\x80"] {
            assert_eq!(submit(&stage, &wire(body), parameters).await, Ok(stored(body)), "{parameters}");
        }
    }
}

#[tokio::test]
async fn lines_are_accepted_up_to_the_limit() {
    let stage = in_mode(BareNewline::Reject).await;
    for octets in [998, 999, 1000, 1001, 8192, 65_535, 65_536] {
        let line = vec![b'x'; octets];
        assert_eq!(submit(&stage, &wire(&line), "").await, Ok(stored(&line)), "{octets}");
    }
    for octets in [65_537, 200_000] {
        let said = submit(&stage, &wire(&vec![b'x'; octets]), "").await.unwrap_err();
        assert!(said.starts_with("554 5.6.0 [line_too_long]"), "{said}");
    }
}

/// The octets sent after DATA, and the expected reply.
const MESSAGES: &[(&str, &str)] = &[
    // RFC 5321 §4.1.1.4: no octets, or one.
    (".\r\n", "550 5.7.1 [from_header_missing]"),
    ("x\r\n.\r\n", "554 5.6.0 [header_malformed]"),
    ("\r\n.\r\n", "550 5.7.1 [from_header_missing]"),
    ("..\r\n.\r\n", "554 5.6.0 [header_malformed]"),
    // No header, no empty line.
    ("\r\nFrom: <app@own.example>\r\n.\r\n", "550 5.7.1 [from_header_missing]"),
    ("hello\r\n\r\nFrom: <app@own.example>\r\n.\r\n", "554 5.6.0 [header_malformed]"),
    ("From: <app@own.example>\r\nhello\r\n.\r\n", "554 5.6.0 [header_malformed]"),
    ("From: <app@own.example>\r\n.\r\n", "250 2.0.0"),
    // RFC 5322 §2.2.3: a first line that begins with white space would continue the field that we add before it.
    (" Subject: x\r\nFrom: <app@own.example>\r\n\r\n.\r\n", "554 5.6.0 [header_malformed]"),
    ("\tx\r\nFrom: <app@own.example>\r\n\r\n.\r\n", "554 5.6.0 [header_malformed]"),
    (" \r\nFrom: <app@own.example>\r\n\r\n.\r\n", "554 5.6.0 [header_malformed]"),
    // The content is normalized before it is parsed: a bare line feed cannot hide a field from us that others see.
    ("From: <app@own.example>\nFrom: <evil@bank.example>\r\n\r\n.\r\n", "550 5.7.1 [from_header_ambiguous]"),
    (
        "Subject: x\nFrom: <evil@bank.example>\n\nFrom: <app@own.example>\r\n.\r\n",
        "550 5.7.1 [domain_not_allowed_for_key]",
    ),
    ("X: \0\r\nFrom: <app@own.example>\r\n\r\n.\r\n", "554 5.6.0 [nul_in_content]"),
    (": x\r\nFrom: <app@own.example>\r\n\r\n.\r\n", "554 5.6.0 [header_malformed]"),
    ("S\u{fc}bject: x\r\nFrom: <app@own.example>\r\n\r\n.\r\n", "554 5.6.0 [header_malformed]"),
];

#[tokio::test]
async fn a_message_is_accepted_only_with_an_unambiguous_header() {
    let stage = in_mode(BareNewline::Normalize).await;
    for (octets, expected) in MESSAGES {
        let said = match submit(&stage, octets.as_bytes(), "").await {
            Ok(_) => "250 2.0.0".to_owned(),
            Err(said) => said,
        };
        assert!(said.starts_with(expected), "{octets:?}: {said}");
    }
}

#[tokio::test]
async fn large_headers_are_accepted_up_to_the_limit() {
    let stage = in_mode(BareNewline::Normalize).await;
    let many = [FROM, &"X-Field: y\r\n".repeat(10_000), "\r\nbody\r\n.\r\n"].concat();
    assert!(submit(&stage, many.as_bytes(), "").await.is_ok());
    let large =
        [FROM, &"X-Field: 0123456789 0123456789 0123456789 0123456789\r\n".repeat(20_000), "\r\n.\r\n"]
            .concat();
    let said = submit(&stage, large.as_bytes(), "").await.unwrap_err();
    assert!(large.len() > 1024 * 1024 && said.starts_with("554 5.6.0 [header_malformed]"), "{said}");
}

#[tokio::test]
async fn the_end_is_found_wherever_the_segments_are_split() {
    let stage = in_mode(BareNewline::Normalize).await;
    let octets = b"From: <app@own.example>\r\n\r\na\n.\r\n..\r\n\r\n.\r\nNOOP\r\n";
    let at = octets.len() - b"\r\n\r\n.\r\nNOOP\r\n".len();
    for cut in at..octets.len() {
        let mut client = begin(&stage, "").await;
        client.write(&octets[..cut]).await;
        client.write(&octets[cut..]).await;
        client.read_reply().await.expect_saying(250, "queued as msg_");
        client.read_reply().await.expect_saying(250, "2.0.0 Ok");
    }
}

/// RFC 5321 §4.1.1.4: a message without its end is not accepted, however the connection ends.
#[tokio::test]
async fn a_message_whose_connection_ends_early_is_not_accepted() {
    let stage = in_mode(BareNewline::Normalize).await;
    for octets in [
        "",
        "From: <app@own.example>\r\n",
        "From: <app@own.example>\r\n\r\ntext\r\n.",
        "From: <app@own.example>\r\n\r\n.\r",
    ] {
        let mut client = begin(&stage, "").await;
        client.write(octets.as_bytes()).await;
        // Without close_notify, as an attacker truncates the stream (RFC 8446 §6.1).
        drop(client);
    }
    // A second message proves that the server has processed the first four; it is the only stored one.
    submit(&stage, &wire(b"last"), "").await.unwrap();
    assert_eq!(stage.store.count_open().await.unwrap(), 1);
}
