//! Hostile clients: each limit gives its reason and does not affect other clients.

use std::time::{Duration, Instant};

use bytesize::ByteSize;
use serde_json::Value;

use crate::client::Client;
use crate::fake_dns::FakeDns;
use crate::http::request;
use crate::identity::trust_pem;
use crate::server::{Account, HOSTNAME, TestServer};
use crate::submission::{MESSAGE, log_in};
use crate::submission_stage::{self, SubmissionStage};
use crate::wait::until;

async fn secured(stage: &SubmissionStage) -> Client {
    let trust = stage.identity.client_config();
    let mut client = Client::connect_implicit(stage.submissions, submission_stage::HOSTNAME, trust).await;
    client.ehlo().await;
    client
}

#[tokio::test]
async fn the_number_of_connections_of_a_tenant_is_limited() {
    let stage = SubmissionStage::with(|limits| limits.connections_per_tenant_max = 1).await;
    let first = log_in(&stage).await;
    let mut second = secured(&stage).await;
    let reply = second.auth_plain(&stage.user, &stage.password).await;
    reply.expect_saying(421, "4.7.0 Too many connections for your account");
    second.expect_close().await;
    drop(first);
    until("the connection of the first is free", async || {
        let reply = secured(&stage).await.auth_plain(&stage.user, &stage.password).await;
        (reply.code == 235).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_client_that_sends_only_commands_is_disconnected_and_one_that_sends_mail_is_not() {
    let stage = SubmissionStage::with(|limits| limits.commands_without_message_max = 10).await;
    let mut busy = log_in(&stage).await;
    for _ in 0..3 {
        for _ in 0..6 {
            busy.command("NOOP").await.expect_code(250);
        }
        busy.send("app@own.example", &["b@other.example"], MESSAGE).await.expect_code(250);
    }
    for _ in 0..10 {
        busy.command("NOOP").await.expect_code(250);
    }
    busy.command("RSET").await.expect_saying(421, "4.7.0 Too many commands without a message");
    busy.expect_close().await;
}

#[tokio::test]
async fn a_message_below_the_minimum_rate_is_refused_and_one_above_it_is_not() {
    let stage = SubmissionStage::with(|limits| {
        limits.data_rate_min = ByteSize::kib(1);
        limits.data_rate_grace = Duration::from_millis(600);
    })
    .await;
    let mut slow = log_in(&stage).await;
    slow.send("app@own.example", &["b@other.example"], MESSAGE).await.expect_code(250);
    slow.command("MAIL FROM:<app@own.example>").await.expect_code(250);
    slow.command("RCPT TO:<b@other.example>").await.expect_code(250);
    slow.command("DATA").await.expect_code(354);
    let since = Instant::now();
    slow.write(b"From: app@own.example\r\n").await;
    slow.read_reply().await.expect_saying(421, "4.4.2 Message data arrives too slowly");
    assert!(since.elapsed() >= Duration::from_millis(500), "{:?}", since.elapsed());
    slow.expect_close().await;
}

#[tokio::test]
async fn a_message_in_chunks_below_the_minimum_rate_is_refused_too() {
    let stage = SubmissionStage::with(|limits| {
        limits.data_rate_min = ByteSize::kib(1);
        limits.data_rate_grace = Duration::from_millis(600);
    })
    .await;
    let mut slow = log_in(&stage).await;
    slow.command("MAIL FROM:<app@own.example>").await.expect_code(250);
    slow.command("RCPT TO:<b@other.example>").await.expect_code(250);
    let mut chunks = 0;
    let last = loop {
        slow.write(b"BDAT 1\r\nx").await;
        let reply = slow.read_reply().await;
        if reply.code != 250 {
            break reply;
        }
        chunks += 1;
        assert!(chunks < 100, "each chunk gets a time of its own");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    last.expect_saying(421, "4.4.2 Message data arrives too slowly");
    slow.expect_close().await;
}

#[tokio::test]
async fn a_pause_before_the_message_does_not_count_for_the_minimum_rate() {
    const GRACE: Duration = Duration::from_secs(1);
    let stage = SubmissionStage::with(|limits| {
        limits.data_rate_min = ByteSize::kib(1);
        limits.data_rate_grace = GRACE;
    })
    .await;
    let mut client = log_in(&stage).await;
    client.command("MAIL FROM:<app@own.example>").await.expect_code(250);
    client.command("RCPT TO:<b@other.example>").await.expect_code(250);
    tokio::time::sleep(GRACE + Duration::from_millis(100)).await;
    client.data(MESSAGE).await.expect_code(250);
}

#[tokio::test]
async fn a_client_that_probes_recipients_is_disconnected() {
    // The stage allows five recipients per message.
    let stage = SubmissionStage::start().await;
    let mut client = log_in(&stage).await;
    client.command("MAIL FROM:<app@own.example>").await.expect_code(250);
    for _ in 0..10 {
        client.command("RCPT TO:<suppressed@other.example>").await.expect_code(550);
    }
    let reply = client.command("RCPT TO:<suppressed@other.example>").await;
    reply.expect_saying(421, "4.7.0 Too many rejected recipients");
    client.expect_close().await;
}

#[tokio::test]
async fn octets_after_a_chunk_of_unknown_length_are_never_executed() {
    let stage = SubmissionStage::start().await;
    let mut client = log_in(&stage).await;
    client.command("MAIL FROM:<app@own.example>").await.expect_code(250);
    client.command("RCPT TO:<b@other.example>").await.expect_code(250);
    let message = String::from_utf8_lossy(MESSAGE).into_owned();
    let smuggled =
        "MAIL FROM:<app@own.example>\r\nRCPT TO:<c@other.example>\r\nDATA\r\n".to_owned() + &message;
    client.write(format!("BDAT {}x LAST\r\n{smuggled}.\r\n", smuggled.len()).as_bytes()).await;
    client.read_reply().await.expect_saying(501, "5.5.4 Syntax: BDAT");
    client.expect_close().await;
}

#[tokio::test]
async fn a_new_connection_takes_the_place_of_the_oldest_silent_one_and_never_of_one_that_is_logged_in() {
    let stage = SubmissionStage::with(|limits| limits.connections_max = 4).await;
    let mut kept = log_in(&stage).await;
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(Client::connect(stage.submission, submission_stage::HOSTNAME).await);
    }
    let mut newcomer = log_in(&stage).await;
    let mut oldest = silent.remove(0);
    oldest.read_reply().await.expect_saying(421, "4.3.2 Too many connections");
    oldest.expect_close().await;
    for client in [&mut kept, &mut newcomer, &mut silent[0]] {
        client.command("NOOP").await.expect_code(250);
    }
}

#[tokio::test]
async fn a_client_that_does_not_log_in_is_soon_disconnected_and_one_that_did_stays() {
    let stage = SubmissionStage::with(|limits| limits.login_timeout = Duration::from_secs(2)).await;
    let mut kept = log_in(&stage).await;
    let mut silent = Client::connect(stage.submission, submission_stage::HOSTNAME).await;
    silent.ehlo().await;
    silent.read_reply().await.expect_saying(421, "4.4.2 No login in time");
    silent.expect_close().await;
    kept.command("NOOP").await.expect_code(250);
}

#[tokio::test]
async fn each_failed_login_is_answered_later_than_the_previous_one() {
    let stage = SubmissionStage::start().await;
    let mut client = secured(&stage).await;
    for expected in [250, 500, 1000] {
        let since = Instant::now();
        client.auth_plain(&stage.user, "wrong").await.expect_code(535);
        assert!(since.elapsed() >= Duration::from_millis(expected), "{:?}", since.elapsed());
    }
    client.auth_plain(&stage.user, &stage.password).await.expect_code(235);
    let since = Instant::now();
    secured(&stage).await.auth_plain("nobody", "wrong").await.expect_code(535);
    assert!(since.elapsed() < Duration::from_secs(2), "the success is forgotten: {:?}", since.elapsed());
}

struct Guarded {
    server: TestServer,
    account: Account,
    _dns: FakeDns,
}

/// The third failure bans the client. The server is behind a proxy, so that a test can use many addresses.
async fn guarded() -> Guarded {
    let dns = FakeDns::start().await;
    let server = TestServer::start_with(&dns, 1, |config| {
        config.smtp.proxy_protocol_from = vec!["127.0.0.1/32".parse().unwrap()];
        config.smtp.login_failures_max = 2;
    })
    .await;
    let account = server.create_account("acme.test").await;
    Guarded { server, account, _dns: dns }
}

impl Guarded {
    /// The server's greeting for a client at this address.
    async fn knock(&self, from: &str) -> u16 {
        let mut client = Client::open(self.server.submission(), HOSTNAME).await;
        client.write(format!("PROXY TCP4 {from} 127.0.0.1 1 2\r\n").as_bytes()).await;
        client.read_reply().await.code
    }

    async fn connect(&self, from: &str) -> Client {
        let mut client = Client::open(self.server.submissions(), HOSTNAME).await;
        client.write(format!("PROXY TCP4 {from} 127.0.0.1 1 2\r\n").as_bytes()).await;
        let mut client = client.into_tls(trust_pem(&self.server.certificate_pem())).await.unwrap();
        client.read_reply().await.expect_code(220);
        client.ehlo().await;
        client
    }

    async fn bans(&self) -> Vec<Value> {
        self.server.control.get("/v1/bans").await["data"].as_array().unwrap().clone()
    }

    async fn lift(&self, id: &str, secret: &str) -> u16 {
        let path = format!("/v1/bans/{id}");
        request(self.server.control.address, "DELETE", &path, Some(secret), None).await.status
    }
}

#[tokio::test]
async fn an_address_that_guesses_passwords_is_banned_until_the_platform_lifts_the_ban() {
    let it = guarded().await;
    let mut early = it.connect("192.0.2.1").await;
    let mut client = it.connect("192.0.2.1").await;
    client.auth_plain("nobody", "wrong").await.expect_code(535);
    client.auth_plain("somebody", "wrong").await.expect_code(535);
    client.auth_plain("anybody", "wrong").await.expect_saying(421, "4.7.0 Too many failed logins");
    client.expect_close().await;

    assert_eq!((it.knock("192.0.2.1").await, it.knock("192.0.2.2").await), (421, 220));
    // A session that began before the ban cannot log in either, with any secret.
    early.auth_plain(&it.account.user, &it.account.secret).await.expect_code(421);

    let bans = it.bans().await;
    assert_eq!((bans.len(), bans[0]["id"].as_str()), (1, Some("192.0.2.1")), "{bans:?}");
    assert_eq!((bans[0]["network"].as_str(), bans[0]["failures"].as_u64()), (Some("192.0.2.1/32"), Some(3)));
    let platform = it.server.control.secret.clone();
    assert_eq!(it.lift("192.0.2.1", &it.account.secret).await, 403);
    assert_eq!(it.lift("192.0.2.2", &platform).await, 404);
    assert_eq!(it.lift("192.0.2.1", &platform).await, 200);
    assert_eq!(it.lift("192.0.2.1", &platform).await, 404);
    assert!(it.bans().await.is_empty());
    let mut client = it.connect("192.0.2.1").await;
    client.auth_plain(&it.account.user, &it.account.secret).await.expect_code(235);
}

#[tokio::test]
async fn one_outdated_credential_locks_out_nobody_else_behind_its_address_and_its_ban_is_an_event() {
    let it = guarded().await;
    let stale = &it.account.user;
    for code in [535, 535, 421, 421, 421] {
        it.connect("192.0.2.1").await.auth_plain(stale, "wrong").await.expect_code(code);
    }
    assert_eq!(it.knock("192.0.2.1").await, 220);
    let neighbour = it.server.create_account("other.test").await;
    let mut client = it.connect("192.0.2.1").await;
    client.auth_plain(&neighbour.user, &neighbour.secret).await.expect_code(235);

    let events = it.server.control.get("/v1/events?type=login.banned").await["data"].clone();
    let events = events.as_array().unwrap();
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0]["tenant_id"].as_str(), Some(it.account.tenant_id.as_str()), "{events:?}");
    let data = &events[0]["data"];
    assert_eq!(
        (data["key_id"].as_str(), data["failures"].as_u64()),
        (Some(stale.as_str()), Some(3)),
        "{data}"
    );
    assert!(data["network"].is_null() && data["expires_at"].is_string(), "{data}");
}

#[tokio::test]
async fn guesses_at_a_key_from_many_addresses_are_stopped_and_its_owner_can_still_log_in() {
    let it = guarded().await;
    let user = &it.account.user;
    for (from, code) in [("192.0.2.1", 535), ("192.0.2.2", 535), ("192.0.2.3", 421), ("192.0.2.4", 421)] {
        it.connect(from).await.auth_plain(user, "wrong").await.expect_code(code);
    }
    let bans = it.bans().await;
    assert_eq!((bans.len(), bans[0]["key_id"].as_str()), (1, Some(user.as_str())), "{bans:?}");
    it.connect("192.0.2.5").await.auth_plain(user, &it.account.secret).await.expect_code(235);
    assert!(it.bans().await.is_empty(), "a success resets the count");
}
