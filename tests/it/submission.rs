//! Submission over real sockets: the scripted dialogues, and what needs a socket: limits, timeouts, disconnections.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use pillarbox::store::Journal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::client::Client;
use crate::dialogue::{Dialogue, load_all};
use crate::dialogue_player::{parts, play};
use crate::submission_stage::{HOSTNAME, SubmissionStage};
use crate::wait::{PATIENCE, until};

pub const MESSAGE: &[u8] = b"From: app@own.example\r\nSubject: x\r\n\r\ntext\r\n";

async fn secure(stage: &SubmissionStage, stream: TcpStream) -> TlsStream<TcpStream> {
    let connector = TlsConnector::from(stage.identity.client_config());
    connector.connect(HOSTNAME.to_owned().try_into().unwrap(), stream).await.unwrap()
}

async fn hold(stage: &SubmissionStage, dialogue: &Dialogue) {
    let variables = stage.variables();
    let parts = parts(dialogue);
    let address = if dialogue.starts_with_tls() { stage.submissions } else { stage.submission };
    let mut plain = TcpStream::connect(address).await.unwrap();
    play(&mut plain, &dialogue.name, parts[0], &variables).await;
    if let Some(part) = parts.get(1) {
        play(&mut secure(stage, plain).await, &dialogue.name, part, &variables).await;
    }
}

#[tokio::test]
async fn every_dialogue_gets_its_replies_over_a_socket() {
    let stage = SubmissionStage::start().await;
    let dialogues = load_all(Path::new("tests/dialogues"));
    assert!(dialogues.len() >= 150);
    // Collects all failures, so that one run shows all of them.
    let stage = Arc::new(stage);
    let mut failed = 0;
    for dialogue in dialogues {
        let stage = stage.clone();
        failed += u32::from(tokio::spawn(async move { hold(&stage, &dialogue).await }).await.is_err());
    }
    assert_eq!(failed, 0);
}

pub async fn log_in(stage: &SubmissionStage) -> Client {
    let trust = stage.identity.client_config();
    let mut client = Client::connect_implicit(stage.submissions, HOSTNAME, trust).await;
    client.ehlo().await;
    client.auth_plain(&stage.user, &stage.password).await.expect_code(235);
    client
}

#[tokio::test]
async fn a_message_is_in_the_store_after_its_250() {
    let stage = SubmissionStage::start().await;
    let reply =
        log_in(&stage).await.send("app@own.example", &["b@other.example"], MESSAGE).await.expect_code(250);
    let found = stage.store.message(Some(stage.tenant), SubmissionStage::id_in(&reply.text())).await.unwrap();
    assert!(found.is_some(), "{reply:?}");
}

#[tokio::test]
async fn a_refusal_can_be_looked_up_by_its_request_id() {
    let stage = SubmissionStage::start().await;
    let mut client = log_in(&stage).await;
    let reply = client.command("MAIL FROM:<a@foreign.example>").await.expect_saying(550, "(ref req_").text();
    assert!(reply.contains("[domain_not_allowed_for_key] ") && reply.contains("acme"), "{reply}");
    let mut oversized = MESSAGE.to_vec();
    oversized.extend(b"0123456789\r\n".repeat(10_000));
    let reply = client.send("app@own.example", &["b@other.example"], &oversized).await;
    reply.expect_saying(552, "(ref req_");
    // The session continues as before.
    client.send("app@own.example", &["b@other.example"], MESSAGE).await.expect_code(250);
}

#[tokio::test]
async fn plain_text_after_starttls_is_not_executed_after_the_handshake() {
    let stage = SubmissionStage::start().await;
    let mut plain = TcpStream::connect(stage.submission).await.unwrap();
    plain.write_all(b"EHLO c.example\r\n").await.unwrap();
    read_until(&mut plain, "250 STARTTLS\r\n").await;
    plain.write_all(b"STARTTLS\r\nEHLO injected.example\r\n").await.unwrap();
    read_until(&mut plain, "220 2.0.0 Ready to start TLS\r\n").await;
    let mut secured = secure(&stage, plain).await;
    secured.write_all(b"NOOP\r\n").await.unwrap();
    assert_eq!(read_until(&mut secured, "\r\n").await, "250 2.0.0 Ok\r\n");
}

/// RFC 3207 §4.1: after a failed handshake the session ends, and others are served.
#[tokio::test]
async fn a_failed_handshake_ends_its_own_connection_only() {
    let stage = SubmissionStage::start().await;
    for garbage in
        [&b"EHLO c.example\r\nAUTH PLAIN AAAA\r\n"[..], b"\x16\x03\x01\0\x05hello", b"\x80\x2e\x01\0\x02"]
    {
        let mut plain = TcpStream::connect(stage.submission).await.unwrap();
        plain.write_all(b"EHLO c.example\r\n").await.unwrap();
        read_until(&mut plain, "250 STARTTLS\r\n").await;
        plain.write_all(b"STARTTLS\r\n").await.unwrap();
        read_until(&mut plain, "220 2.0.0 Ready to start TLS\r\n").await;
        plain.write_all(garbage).await.unwrap();
        let mut said = Vec::new();
        // At most an alert (RFC 8446 §6.2), and never a reply.
        let _ = timeout(PATIENCE, plain.read_to_end(&mut said)).await.unwrap();
        assert!(said.is_empty() || said.starts_with(b"\x15\x03"), "{}", said.escape_ascii());
    }
    log_in(&stage).await.send("app@own.example", &["b@other.example"], MESSAGE).await.expect_code(250);
}

async fn read_until(stream: &mut (impl AsyncReadExt + Unpin), end: &str) -> String {
    let mut text = Vec::new();
    while !text.ends_with(end.as_bytes()) {
        let read = timeout(PATIENCE, stream.read_buf(&mut text)).await.unwrap().unwrap();
        assert!(read > 0, "closed after {}", text.escape_ascii());
    }
    String::from_utf8(text).unwrap()
}

async fn read_to_end(mut stream: TcpStream) -> String {
    let mut text = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut text)).await.unwrap().unwrap();
    text
}

#[tokio::test]
async fn connections_over_a_limit_get_421_and_closed_ones_make_room() {
    for (total, per_address, said) in [(2, 1000, "421 4.3.2 "), (1000, 2, "421 4.7.0 ")] {
        let stage = SubmissionStage::with(|limits| {
            limits.connections_max = total;
            limits.connections_per_address_max = per_address;
        })
        .await;
        let first = log_in(&stage).await;
        let _second = log_in(&stage).await;
        let third = read_to_end(TcpStream::connect(stage.submission).await.unwrap()).await;
        assert!(third.starts_with(said), "{third}");
        drop(first);
        until("a connection is free", async || {
            let mut next = TcpStream::connect(stage.submission).await.unwrap();
            read_until(&mut next, "\r\n").await.starts_with("220").then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn an_idle_client_gets_421_and_is_disconnected() {
    let stage = SubmissionStage::with(|limits| limits.idle_timeout = Duration::from_millis(200)).await;
    let said = read_to_end(TcpStream::connect(stage.submission).await.unwrap()).await;
    assert!(said.contains("\r\n421 4.4.2 "), "{said}");
    // A client that never starts its TLS handshake is disconnected without a reply.
    let said = read_to_end(TcpStream::connect(stage.submissions).await.unwrap()).await;
    assert_eq!(said, "");
}

#[tokio::test]
async fn a_session_ends_at_its_time_limit_however_busy_it_is() {
    let stage = SubmissionStage::with(|limits| {
        limits.session_timeout = Duration::from_millis(300);
        limits.commands_without_message_max = u32::MAX;
    })
    .await;
    let stream = TcpStream::connect(stage.submission).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let talk = tokio::spawn(async move { while writer.write_all(b"NOOP\r\n").await.is_ok() {} });
    let mut said = Vec::new();
    let _ = timeout(PATIENCE, reader.read_to_end(&mut said)).await.unwrap();
    assert!(String::from_utf8_lossy(&said).contains("\r\n421 4.4.2 "));
    drop(reader);
    timeout(PATIENCE, talk).await.unwrap().unwrap();
}

#[tokio::test]
async fn mail_without_memory_is_deferred_and_the_session_continues() {
    let stage = SubmissionStage::with(|limits| limits.inbound_buffer_max = ByteSize::kib(64)).await;
    let mut first = log_in(&stage).await;
    let mut second = log_in(&stage).await;
    for client in [&mut first, &mut second] {
        client.command("MAIL FROM:<app@own.example> SIZE=60000").await.expect_code(250);
        client.command("RCPT TO:<b@other.example>").await.expect_code(250);
    }
    first.command("DATA").await.expect_code(354);
    second.command("DATA").await.expect_saying(451, "4.3.2 [overloaded]");
    // A message without a declared size is refused at its end.
    second.command("RSET").await.expect_code(250);
    drop(first);
    let mut large = MESSAGE.to_vec();
    large.extend(b"0123456789\r\n".repeat(8_000));
    until("the memory of the client that left is free", async || {
        let reply = second.send("app@own.example", &["b@other.example"], MESSAGE).await;
        (reply.code == 250).then_some(())
    })
    .await;
    let reply = second.send("app@own.example", &["b@other.example"], &large).await;
    reply.expect_saying(451, "4.3.2 [overloaded]");
    second.send("app@own.example", &["b@other.example"], MESSAGE).await.expect_code(250);
}

#[tokio::test]
async fn at_shutdown_idle_clients_get_421_and_a_message_being_received_finishes() {
    let mut stage = SubmissionStage::start().await;
    let mut idle = TcpStream::connect(stage.submission).await.unwrap();
    read_until(&mut idle, "\r\n").await;
    let mut busy = log_in(&stage).await;
    busy.command("MAIL FROM:<app@own.example>").await.expect_code(250);
    busy.command("RCPT TO:<b@other.example>").await.expect_code(250);
    busy.command("DATA").await.expect_code(354);
    busy.write(b"From: app@own.example\r\n").await;
    stage.stop.cancel();
    let said = read_to_end(idle).await;
    assert!(said.starts_with("421 4.3.2 "), "{said}");
    busy.write(b"\r\n.\r\n").await;
    busy.read_reply().await.expect_code(250);
    busy.read_reply().await.expect_saying(421, "4.3.2 ");
    drop(busy);
    let serving = &mut stage.serving;
    timeout(PATIENCE, async { while serving.join_next().await.is_some() {} }).await.unwrap();
    assert!(TcpStream::connect(stage.submission).await.is_err());
}

#[tokio::test]
async fn many_clients_send_at_once_and_every_message_is_stored() {
    let stage = Arc::new(SubmissionStage::start().await);
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let stage = stage.clone();
        clients.spawn(async move {
            let mut client = log_in(&stage).await;
            for _ in 0..10 {
                let reply =
                    client.send("app@own.example", &["b@other.example"], MESSAGE).await.expect_code(250);
                let id = SubmissionStage::id_in(&reply.text());
                assert!(stage.store.message(Some(stage.tenant), id).await.unwrap().is_some());
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
}
