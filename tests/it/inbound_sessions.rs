//! Sessions of the listener for reports.

use std::path::Path;
use std::time::Duration;

use bytesize::ByteSize;
use pillarbox::config::InboundForward;
use pillarbox::mail::{Address, TokenKind, TokenScope, TokenSubject};
use pillarbox::model::DeliveryId;
use pillarbox::store::Reports;
use serde_json::json;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::client::{Client, Reply};
use crate::dialogue::{Variables, load_all};
use crate::dialogue_player::{parts, play};
use crate::identity::trust_pem;
use crate::inbound_stage::{InboundStage, PLATFORM_HOST, arf, bounce};
use crate::server::{HOSTNAME, message};

async fn mail_and_rcpt(client: &mut Client, recipient: &str) -> Reply {
    client.command("RSET").await.expect_code(250);
    client.command("MAIL FROM:<>").await.expect_code(250);
    client.command(&format!("RCPT TO:<{recipient}>")).await
}

#[tokio::test]
async fn a_report_to_a_token_is_recorded_before_its_reply() {
    let stage = InboundStage::start().await;
    let (_, address) = stage.deliver_one().await;
    let reply = stage.send_back("", &address, &bounce()).await;
    let text = reply.expect_saying(250, "Ok: recorded as rpt_").text();
    assert_eq!(stage.times_recorded().await, 1, "{text}");
}

#[tokio::test]
async fn a_session_offers_what_a_report_needs_and_neither_login_nor_relaying() {
    let stage = InboundStage::start().await;
    let mut client = Client::connect(stage.server.running().inbound_addresses[0], HOSTNAME).await;
    client.command("MAIL FROM:<>").await.expect_saying(503, "EHLO");
    let offer = client.ehlo().await.expect_code(250).text();
    for offered in [
        "PIPELINING",
        "SIZE",
        "8BITMIME",
        "SMTPUTF8",
        "CHUNKING",
        "ENHANCEDSTATUSCODES",
        "LIMITS RCPTMAX=1",
        "STARTTLS",
    ] {
        assert!(offer.contains(offered), "{offered}: {offer}");
    }
    for hidden in ["AUTH", "DSN", "FUTURERELEASE", "REQUIRETLS", "BINARYMIME"] {
        assert!(!offer.contains(hidden), "{hidden}: {offer}");
    }
    client.command("AUTH PLAIN AGEAYg==").await.expect_code(502);
    client.command("VRFY postmaster").await.expect_code(252);
    client.command("EXPN all").await.expect_code(502);
    let refused = client.command("MAIL FROM:<> AUTH=<>").await;
    refused.expect_saying(555, "MAIL supports SIZE, BODY and SMTPUTF8");
    let refused = client.command("MAIL FROM:<> BODY=BINARYMIME").await;
    refused.expect_saying(555, "BODY supports 7BIT or 8BITMIME");
    let mut client = stage.connect().await.starttls(trust_pem(&stage.server.certificate_pem())).await;
    let offer = client.ehlo().await.expect_code(250).text();
    assert!(
        !offer.contains("AUTH") && !offer.contains("STARTTLS") && !offer.contains("REQUIRETLS"),
        "{offer}"
    );
    client.command("MAIL FROM:<>").await.expect_code(250);
    client
        .command("RCPT TO:<postmaster> NOTIFY=NEVER")
        .await
        .expect_saying(555, "RCPT supports no parameters");
    client.command("RCPT TO:<postmaster>").await.expect_code(250);
}

#[tokio::test]
async fn a_message_has_one_recipient_and_a_repeated_one_is_the_same() {
    let stage = InboundStage::start().await;
    let (_, address) = stage.deliver_one().await;
    let mut client = stage.connect().await;
    client.command("MAIL FROM:<>").await.expect_code(250);
    client.command(&format!("RCPT TO:<{address}>")).await.expect_code(250);
    client.command(&format!("RCPT TO:<{address}>")).await.expect_code(250);
    client.command("RCPT TO:<postmaster>").await.expect_saying(452, "4.5.3");
    client.data(&bounce()).await.expect_saying(250, "recorded as");
    assert_eq!(stage.times_recorded().await, 1);
    mail_and_rcpt(&mut client, &address).await.expect_code(250);
    client.data(&bounce()).await.expect_code(250);
}

#[tokio::test]
async fn commands_before_the_handshake_are_never_executed() {
    let stage = InboundStage::start().await;
    let mut client = stage.connect().await;
    client.write(b"STARTTLS\r\nMAIL FROM:<>\r\nRCPT TO:<postmaster>\r\n").await;
    client.read_reply().await.expect_code(220);
    let mut client = client.into_tls(trust_pem(&stage.server.certificate_pem())).await.unwrap();
    client.command("RCPT TO:<postmaster>").await.expect_code(503);
    client.ehlo().await.expect_code(250);
    client.command("RCPT TO:<postmaster>").await.expect_code(503);
}

#[tokio::test]
async fn only_crlf_dot_crlf_ends_a_report() {
    let stage = InboundStage::start().await;
    let (_, address) = stage.deliver_one().await;
    let ends = ["\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r\n.\r", "\r.\r\n", "\r\n.\r\r\n", "\r\n\0.\r\n"];
    for (number, end) in ends.into_iter().enumerate() {
        let mut client = stage.connect().await;
        mail_and_rcpt(&mut client, &address).await.expect_code(250);
        client.command("DATA").await.expect_code(354);
        let smuggled = format!(
            "Subject: {number}\r\n\r\nfirst{end}MAIL FROM:<a@b.test>\r\nRCPT TO:<postmaster>\r\nDATA\r\nsecond\r\n.\r\n"
        );
        client.write(smuggled.as_bytes()).await;
        let reply = client.read_reply().await;
        let expected = if end.contains('\0') { 554 } else { 250 };
        reply.expect_code(expected);
        client.command("NOOP").await.expect_code(250);
    }
    assert_eq!(stage.times_recorded().await, ends.len() as u64 - 1);
}

#[tokio::test]
async fn a_report_in_chunks_is_recorded() {
    let stage = InboundStage::start().await;
    let (_, address) = stage.deliver_one().await;
    let mut client = stage.connect().await;
    mail_and_rcpt(&mut client, &address).await.expect_code(250);
    let octets = bounce();
    let (front, back) = octets.split_at(100);
    client.write(&[b"BDAT 100\r\n", front].concat()).await;
    client.read_reply().await.expect_code(250);
    client.write(&[format!("BDAT {} LAST\r\n", back.len()).as_bytes(), back].concat()).await;
    client.read_reply().await.expect_saying(250, "recorded as");
}

#[tokio::test]
async fn a_report_with_a_returned_message_of_25_mb_is_taken_with_512_kib_of_memory() {
    let stage = InboundStage::start_with(|config| config.inbound.buffer_max = ByteSize::kib(512)).await;
    let (_, address) = stage.deliver_one().await;
    let mut octets = bounce();
    let line = [b'x'; 76];
    while octets.len() < 25_000_000 {
        octets.extend_from_slice(&line);
        octets.extend_from_slice(b"\r\n");
    }
    stage.send_back("", &address, &octets).await.expect_saying(250, "recorded as");
    assert!(stage.all_reports().await[0].delivery_id.is_some());
    let more = 3_000_000;
    octets.resize(octets.len() + more, b'\n');
    octets.extend_from_slice(b"\r\n");
    stage.send_back("", &address, &octets).await.expect_saying(552, "5.3.4");
    assert_eq!(stage.times_recorded().await, 1);
}

#[tokio::test]
async fn mail_for_people_is_accepted_in_any_case_with_and_without_a_host() {
    let stage = InboundStage::start().await;
    let mut client = stage.connect().await;
    for recipient in [
        "postmaster".to_owned(),
        "POSTMASTER".to_owned(),
        format!("postmaster@{HOSTNAME}"),
        format!("PostMaster@{PLATFORM_HOST}"),
        format!("abuse@{PLATFORM_HOST}"),
        format!("ABUSE@{HOSTNAME}"),
    ] {
        mail_and_rcpt(&mut client, &recipient).await.expect_code(250);
    }
    client.data(b"Subject: hello\r\n\r\nhello\r\n").await.expect_saying(250, "recorded as");
}

#[tokio::test]
async fn twenty_unknown_recipients_ban_a_network_from_this_port_and_from_no_other() {
    let stage = InboundStage::start().await;
    let mut client = stage.connect().await;
    client.command("MAIL FROM:<>").await.expect_code(250);
    for number in 0..20 {
        let (recipient, expected) = match number % 2 {
            0 => (format!("stranger{number}@{PLATFORM_HOST}"), "5.1.1 [mailbox_unknown]"),
            _ => (format!("stranger{number}@elsewhere.test"), "5.7.1 [relay_denied]"),
        };
        let command = format!("RCPT TO:<{recipient}>");
        stage.impatient(client.command(&command)).await.expect_saying(550, expected);
    }
    let command = format!("RCPT TO:<stranger@{PLATFORM_HOST}>");
    client.command(&command).await.expect_code(421);
    client.expect_close().await;
    let address = stage.server.running().inbound_addresses[0];
    Client::open(address, HOSTNAME)
        .await
        .read_reply()
        .await
        .expect_saying(421, "Too many unknown recipients");
    let id = stage.server.submit(&stage.account, &["bob@b.test"], &message(&stage.account, "still")).await;
    stage.server.wait_for_status(&id, &["delivered"]).await;
    stage.server.clock.advance(Duration::from_secs(16 * 60));
    stage.connect().await.command("NOOP").await.expect_code(250);
}

#[tokio::test]
async fn the_reply_to_an_unknown_recipient_is_delayed_while_others_are_answered() {
    let stage = InboundStage::start().await;
    let (mut client, mut other) = (stage.connect().await, stage.connect().await);
    client.command("MAIL FROM:<>").await.expect_code(250);
    client.write(format!("RCPT TO:<stranger@{PLATFORM_HOST}>\r\n").as_bytes()).await;
    let refused = client.read_reply();
    tokio::pin!(refused);
    // The server reads the refused command before these.
    for _ in 0..20 {
        tokio::select! {
            biased;
            reply = &mut refused => panic!("{reply:?}"),
            reply = other.command("NOOP") => { reply.expect_code(250); }
        }
    }
    stage.server.clock.advance(Duration::from_secs(1));
    refused.await.expect_code(550);
}

#[tokio::test]
async fn a_report_that_comes_while_its_delivery_is_being_recorded_is_to_be_repeated() {
    let stage = InboundStage::start().await;
    let gate = stage.mx.wait_at(crate::fake_mx::Phase::Dot);
    let id = stage.server.submit(&stage.account, &["bob@b.test"], &message(&stage.account, "hello")).await;
    let email = stage.server.control.get(&format!("/v1/emails/{id}")).await;
    let delivery: DeliveryId = email["deliveries"][0]["id"].as_str().unwrap().parse().unwrap();
    crate::wait::until("the relay sends it", async || {
        stage.server.running().queue().is_in_flight(delivery).then_some(())
    })
    .await;
    let subject = TokenSubject { scope: TokenScope::Delivery, id: delivery.into() };
    let token = stage.server.running().store().token_keys().issue(TokenKind::Bounce, subject).unwrap();
    let address = format!("{token}@{PLATFORM_HOST}");
    stage.send_back("", &address, &bounce()).await.expect_saying(451, "4.3.0 [report_early]");
    gate.cancel();
    stage.server.wait_for_status(&id, &["delivered"]).await;
    stage.send_back("", &address, &bounce()).await.expect_code(250);
}

#[tokio::test]
async fn a_full_disk_is_a_temporary_refusal_and_nothing_is_recorded() {
    let mut stage = InboundStage::start().await;
    let (_, address) = stage.deliver_one().await;
    stage.server.stop().await;
    stage.server.config.store.free_disk_min = ByteSize::pib(512);
    stage.server.restart(|_| ()).await;
    stage.send_back("", &address, &bounce()).await.expect_saying(452, "4.3.1 [disk_low]");
    assert_eq!(stage.times_recorded().await, 0);
}

#[tokio::test]
async fn a_message_for_another_host_is_never_relayed() {
    let stage = InboundStage::start().await;
    let mut client = stage.connect().await;
    client.command("MAIL FROM:<alice@own.test>").await.expect_code(250);
    let command = "RCPT TO:<bob@b.test>";
    stage.impatient(client.command(command)).await.expect_saying(550, "5.7.1 [relay_denied]");
    client.command("DATA").await.expect_code(554);
    assert!(stage.mx.transactions().is_empty());
    let messages = stage.server.control.get("/v1/emails").await;
    assert_eq!(messages["data"], json!([]));
}

/// A server that forwards mail for people to a recipient at the fake MX.
async fn forwarding() -> InboundStage {
    let mut stage = InboundStage::start().await;
    let key_file = stage.server.config.data_dir.join("forward.key");
    std::fs::write(&key_file, format!("{}\n", stage.account.secret)).unwrap();
    stage.server.config.inbound.forward = Some(InboundForward {
        tenant: "own-test".to_owned(),
        key_file,
        from: Address::parse("server@own.test").unwrap(),
        to: Address::parse("operator@b.test").unwrap(),
    });
    stage.server.restart(|_| ()).await;
    stage
}

#[tokio::test]
async fn mail_for_people_is_forwarded_as_a_new_message_with_the_original_attached() {
    let stage = forwarding().await;
    let letter = b"From: someone@b.test\r\nSubject: spam from you\r\n\r\nplease stop\r\n";
    stage.send_back("someone@b.test", "postmaster", letter).await.expect_saying(250, "recorded as");
    let forwarded = stage.mx.wait_for(1).await.remove(0);
    let text = String::from_utf8(forwarded.content).unwrap();
    assert!(text.contains("\r\nSubject: Mail for postmaster (rpt_"), "{text}");
    assert!(text.contains("\r\nFrom: <server@own.test>\r\n") && text.contains("please stop"), "{text}");
    assert!(text.contains("message/rfc822"), "{text}");
    let unproved = arf("abuse", "Subject: hello");
    let address = format!("fbl@{PLATFORM_HOST}");
    stage.send_back("feedback@b.test", &address, &unproved).await.expect_code(250);
    stage.mx.wait_for(2).await;
}

#[tokio::test]
async fn at_most_100_messages_for_people_are_forwarded_in_a_day() {
    let stage = forwarding().await;
    for _ in 0..3 {
        let mut client = stage.connect().await;
        for _ in 0..35 {
            mail_and_rcpt(&mut client, "postmaster").await.expect_code(250);
            client.data(b"Subject: again\r\n\r\n").await.expect_saying(250, "recorded as");
        }
        stage.server.clock.advance(Duration::from_secs(60));
    }
    stage.mx.wait_for(100).await;
    stage.server.clock.advance(Duration::from_secs(24 * 3600));
    let mut client = stage.connect().await;
    mail_and_rcpt(&mut client, "abuse@relay.test").await.expect_code(250);
    client.data(b"Subject: tomorrow\r\n\r\n").await.expect_code(250);
    let all = stage.mx.wait_for(101).await;
    assert_eq!(all.len(), 101);
}

#[tokio::test]
async fn a_network_sends_60_messages_a_minute_to_addresses_without_a_token_and_reports_with_one_do_not_count()
{
    let stage = InboundStage::start().await;
    let (_, address) = stage.deliver_one().await;
    let mut client = stage.connect().await;
    let feedback = format!("fbl@{PLATFORM_HOST}");
    let anybody = ["postmaster", "abuse@relay.test", &feedback];
    // The test may begin at the end of a minute, so that the first messages are of another one.
    let mut refused = None;
    for number in 0..=120 {
        let reply = mail_and_rcpt(&mut client, anybody[number % 3]).await;
        if reply.code != 250 {
            refused = Some((number, reply));
            break;
        }
        client.data(b"Subject: again\r\n\r\n").await.expect_code(250);
    }
    let (accepted, refused) = refused.expect("a limit");
    assert!(accepted >= 60, "{accepted}");
    refused.expect_saying(450, "4.7.1 [too_many_reports]");
    mail_and_rcpt(&mut client, &address).await.expect_code(250);
    client.data(&bounce()).await.expect_saying(250, "recorded as");
    stage.server.clock.advance(Duration::from_secs(60));
    let mut client = stage.connect().await;
    mail_and_rcpt(&mut client, "postmaster").await.expect_code(250);
}

#[tokio::test]
async fn every_dialogue_of_another_server_gets_its_replies_over_a_socket() {
    let stage = InboundStage::start_with(|config| config.smtp.message_size_max = ByteSize::kib(100)).await;
    let (_, token) = stage.deliver_one().await;
    let (size_max, stranger) = (100 * 1024 + 2 * 1024 * 1024, format!("stranger@{PLATFORM_HOST}"));
    let variables: Variables<'_> = [
        ("hostname", HOSTNAME.to_owned()),
        ("token", token),
        ("stranger", stranger),
        ("elsewhere", "a@elsewhere.test".to_owned()),
        ("size_max", size_max.to_string()),
        ("size_over", (size_max + 1).to_string()),
    ]
    .into();
    let dialogues = load_all(Path::new("tests/dialogues/inbound"));
    assert!(dialogues.len() >= 30);
    let address = stage.server.running().inbound_addresses[0];
    let trust = trust_pem(&stage.server.certificate_pem());
    for dialogue in dialogues {
        let parts = parts(&dialogue);
        let mut plain = TcpStream::connect(address).await.unwrap();
        let playing = async {
            play(&mut plain, &dialogue.name, parts[0], &variables).await;
            if let Some(part) = parts.get(1) {
                let connector = TlsConnector::from(trust.clone());
                let name = HOSTNAME.to_owned().try_into().unwrap();
                let mut secure = connector.connect(name, plain).await.unwrap();
                play(&mut secure, &dialogue.name, part, &variables).await;
            }
        };
        stage.impatient(playing).await;
    }
}

#[tokio::test]
async fn a_stop_lets_a_report_end_which_is_recorded() {
    let mut stage = InboundStage::start().await;
    let (_, address) = stage.deliver_one().await;
    let mut idle = stage.connect().await;
    let mut client = stage.connect().await;
    mail_and_rcpt(&mut client, &address).await.expect_code(250);
    client.command("DATA").await.expect_code(354);
    let octets = bounce();
    let (front, back) = octets.split_at(100);
    client.write(front).await;
    let finishing = async {
        idle.read_reply().await.expect_saying(421, "4.3.2");
        client.write(&[back, b".\r\n"].concat()).await;
        client.read_reply().await
    };
    let ((), reply) = tokio::join!(stage.server.stop(), finishing);
    reply.expect_saying(250, "recorded as");
    stage.server.restart(|_| ()).await;
    assert_eq!(stage.times_recorded().await, 1);
}
