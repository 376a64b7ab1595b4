//! Faults: a full disk, a client that hangs or sends nonsense, a malformed message, a shutdown during a message. Each
//! gets a clear reply, and no accepted mail is lost.

use std::time::Duration;

use bytesize::ByteSize;

use crate::client::Client;
use crate::fake_mx::{Fault, Phase};
use crate::identity::trust_pem;
use crate::server::{HOSTNAME, RETRY_DELAY_MAX, message, message_id, one_destination, one_destination_with};

#[tokio::test]
async fn a_full_disk_refuses_mail_temporarily_and_keeps_accepted_mail() {
    let (_dns, mx, mut server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    mx.script(Phase::Rcpt, "", 1, Fault::Reply("451 4.3.0 later"));
    let id = server.submit(&account, &["bob@b.test"], &message(&account, "before")).await;
    server.wait_for_status(&id, &["deferred"]).await;

    server.config.store.free_disk_min = ByteSize::pib(512);
    let clock = server.clock.clone();
    server.restart(|_| clock.advance(RETRY_DELAY_MAX)).await;
    let mut client = server.log_in(&account).await;
    let mut refusal = client.command("MAIL FROM:<alice@acme.test>").await;
    if refusal.code == 250 {
        client.command("RCPT TO:<bob@b.test>").await.expect_code(250);
        refusal = client.data(&message(&account, "refused")).await;
    }
    refusal.expect_saying(452, "4.3.1 [disk_low]");
    server.wait_for_status(&id, &["delivered"]).await;
    assert_eq!(mx.transactions().len(), 1);
}

#[tokio::test]
async fn an_idle_client_gets_421_and_is_disconnected() {
    let (_dns, _mx, server) =
        one_destination_with(|config| config.smtp.idle_timeout = Duration::from_millis(300)).await;
    let account = server.create_account("acme.test").await;
    let mut greeted = Client::connect(server.submission(), HOSTNAME).await;
    greeted.read_reply().await.expect_saying(421, "4.4.2");
    greeted.expect_close().await;

    let mut in_data = server.log_in(&account).await;
    in_data.command("MAIL FROM:<alice@acme.test>").await.expect_code(250);
    in_data.command("RCPT TO:<bob@b.test>").await.expect_code(250);
    in_data.command("DATA").await.expect_code(354);
    in_data.write(b"From: alice@acme.test\r\n").await;
    in_data.read_reply().await.expect_code(421);
    in_data.expect_close().await;

    // A TLS handshake that never comes ends the connection too.
    let silent = Client::open(server.submissions(), HOSTNAME).await;
    silent.expect_close().await;
    let emails = server.control.get("/v1/emails").await;
    assert_eq!(emails["data"].as_array().map(Vec::len), Some(0), "a part of a message is not accepted");
}

#[tokio::test]
async fn a_client_that_sends_only_errors_is_disconnected() {
    let (_dns, _mx, server) = one_destination_with(|config| config.smtp.errors_max = 3).await;
    let mut client = Client::connect(server.submission(), HOSTNAME).await;
    let mut last = client.command("FOO").await;
    for _ in 0..5 {
        if last.code == 421 {
            break;
        }
        last = client.command("FOO").await;
    }
    last.expect_code(421);
    client.expect_close().await;
    for nonsense in [&b"GET / HTTP/1.1\r\n"[..], b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n"] {
        let mut client = Client::connect(server.submission(), HOSTNAME).await;
        client.write(nonsense).await;
        client.read_reply().await.expect_code(421);
        client.expect_close().await;
    }
}

#[tokio::test]
async fn plain_text_after_starttls_is_never_executed() {
    let (_dns, _mx, server) = one_destination().await;
    let mut client = Client::connect(server.submission(), HOSTNAME).await;
    client.ehlo().await;
    client.write(b"STARTTLS\r\nEHLO injected.test\r\nNOOP\r\n").await;
    client.read_reply().await.expect_code(220);
    // Either the handshake fails or the octets are discarded: the next reply belongs to a command sent over TLS.
    if let Some(mut client) = client.into_tls(trust_pem(&server.certificate_pem())).await {
        client.command("MAIL FROM:<a@b.test>").await.expect_code(503);
    }
}

#[tokio::test]
async fn ambiguous_messages_get_a_clear_refusal() {
    let (_dns, mx, server) =
        one_destination_with(|config| config.smtp.message_size_max = ByteSize::kib(64)).await;
    let account = server.create_account("acme.test").await;
    let mut client = server.log_in(&account).await;
    let big = [b"From: alice@acme.test\r\n\r\n".to_vec(), b"x".repeat(60).repeat(2000)].concat();
    let big: Vec<u8> = big.chunks(900).collect::<Vec<_>>().join(&b"\r\n"[..]);
    for (content, code, saying) in [
        (&b"From: alice@acme.test\r\n\r\na\0b\r\n"[..], 554, "[nul_in_content]"),
        (b"From: alice@acme.test, mallory@evil.test\r\n\r\nbody\r\n", 550, "[domain_not_allowed_for_key]"),
        (b"From: \xff\xfe <alice@acme.test\r\n\r\nbody\r\n", 550, "[from_header_"),
        (b"no header at all", 554, "[header_malformed]"),
        (
            &[&b"Received: x\r\n".repeat(101)[..], b"From: alice@acme.test\r\n\r\nx\r\n"].concat(),
            554,
            "[mail_loop]",
        ),
        (&[&big[..], b"\r\n"].concat(), 552, "[message_too_large]"),
    ] {
        let content = if content.ends_with(b"\r\n") { content.to_vec() } else { [content, b"\r\n"].concat() };
        client.send("alice@acme.test", &["bob@b.test"], &content).await.expect_saying(code, saying);
    }
    client.command("MAIL FROM:<alice@acme.test> SIZE=70000").await.expect_saying(552, "[message_too_large]");
    let broken = b"From: alice@acme.test\r\nSubject: \xff\xfe broken\r\n\r\nbody\r\n";
    let reply = client.send("alice@acme.test", &["bob@b.test"], broken).await;
    if reply.code == 250 {
        server.wait_for_status(&message_id(&reply), &["delivered"]).await;
        mx.transactions()[0].content.ends_with(broken).then_some(()).expect("passed on as it came");
    } else {
        reply.expect_saying(554, "[header_malformed]");
    }
}

#[tokio::test]
async fn a_message_during_a_shutdown_is_answered_and_kept() {
    let (_dns, mx, mut server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    let idle = server.log_in(&account).await;
    let mut busy = server.log_in(&account).await;
    busy.command("MAIL FROM:<alice@acme.test>").await.expect_code(250);
    busy.command("RCPT TO:<bob@b.test>").await.expect_code(250);
    busy.command("DATA").await.expect_code(354);
    let content = message(&account, "stopping");
    let (head, rest) = content.split_at(40);
    busy.write(head).await;

    let stopping = async {
        server.stop().await;
        server
    };
    let finishing = async {
        let mut idle = idle;
        idle.read_reply().await.expect_code(421);
        idle.expect_close().await;
        busy.write(&crate::client::stuff(rest)).await;
        busy.write(b".\r\n").await;
        busy.read_reply().await
    };
    let (server, reply) = tokio::join!(stopping, finishing);
    let id = message_id(&reply.expect_code(250));
    let mut server = server;
    server.restart(|_| ()).await;
    server.wait_for_status(&id, &["delivered"]).await;
    assert_eq!(mx.transactions().len(), 1);
}
