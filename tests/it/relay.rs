//! The relay with a scripted server: the result of each recipient, deferrals, broken and reused connections, and what a
//! stop or a drop leaves behind.

use std::time::Duration;

use pillarbox::mail::{ReversePath, SignedDuration, Timestamp};
use pillarbox::model::{
    DeliveryState::{self, Bounced, Deferred, Delivered},
    DkimPolicy, Environment, QueueFilter, TenantStatus, TlsMode,
};
use pillarbox::store::{Directory, Journal, NewSmartHost, NewTenant, SmartHost, TenantPatch};
use tokio::time::timeout;

use crate::fake_mx::{FakeMx, Fault, Offer, Phase};
use crate::identity::Identity;
use crate::relay_stage::{RelayStage, new_message};
use crate::wait::{PATIENCE, until};

const ALWAYS: usize = usize::MAX;

/// A server with STARTTLS.
async fn server_with_tls() -> FakeMx {
    let identity = Identity::new(&["fake.test"]);
    FakeMx::with(Offer { tls: Some(identity.server_config()), ..Offer::default() }).await
}

#[tokio::test]
async fn messages_share_a_connection_and_each_recipient_has_a_result() {
    let mx = FakeMx::start().await;
    mx.script(Phase::Rcpt, "TO:<no@", ALWAYS, Fault::Reply("550 5.1.1 nobody"));
    let stage = RelayStage::start(&mx).await;
    let first = stage.send(&["yes@x.example", "no@x.example"]).await;
    stage.expect(first, &[Delivered, Bounced]).await;
    let second = stage.send(&["yes@y.example"]).await;
    stage.expect(second, &[Delivered]).await;

    let attempts = stage.attempts(first).await;
    assert_eq!(attempts.len(), 2);
    assert!(attempts.iter().any(|attempt| attempt.code == Some(250)));
    assert!(attempts[0].transcript.contains("> RCPT TO:<no@x.example>\n"), "{}", attempts[0].transcript);
    assert_eq!(stage.suppressed().await, ["no@x.example"]);
    stage.expect_empty().await;
    let wire = b"Received: us\r\nSubject: x\r\n\r\n..dot\r\n.\r\n";
    let all = mx.transactions();
    assert_eq!(all.iter().filter(|transaction| transaction.wire == wire).count(), 2, "{all:?}");
    // The DSN was sent the same way.
    let failed = "Final-Recipient: rfc822; no@x.example";
    let is_report = |content: &[u8]| String::from_utf8_lossy(content).contains(failed);
    let reports = all.iter().filter(|transaction| is_report(&transaction.content));
    assert_eq!((reports.count(), all.len()), (1, 3), "{all:?}");
    stage.end().await;
    for connection in mx.connections() {
        assert_eq!(connection.commands.last().map(String::as_str), Some("QUIT"));
    }
}

#[tokio::test]
async fn a_failure_is_reported_to_the_sender_once() {
    let mx = FakeMx::start().await;
    mx.script(Phase::Dot, "", ALWAYS, Fault::Reply("554 5.6.0 no"));
    let stage = RelayStage::start(&mx).await;
    let id = stage.send(&["a@x.example", "b@x.example"]).await;
    stage.expect(id, &[Bounced, Bounced]).await;
    assert_eq!(stage.last_reply(id).await, "554 5.6.0 no");
    // The DSN is refused too, and no DSN is sent about a DSN.
    stage.expect_empty().await;
    stage.end().await;
    let commands = mx.commands();
    assert_eq!(commands.iter().filter(|command| *command == "DATA").count(), 2, "{commands:?}");
    assert!(commands.iter().any(|command| command.starts_with("MAIL FROM:<>")), "{commands:?}");
}

#[tokio::test]
async fn temporary_failures_are_deferred_with_the_reason() {
    for (phase, fault, reply) in [
        (Phase::Rcpt, Fault::Reply("451 4.7.1 grey"), "451 4.7.1 grey"),
        (Phase::Greeting, Fault::Reply("554 5.7.1 go away"), "554 5.7.1 go away"),
        (Phase::Greeting, Fault::Reply("hello"), "at the greeting: the server sent something"),
        (Phase::Mail, Fault::Reply("421 busy"), "421 busy"),
        (Phase::Data, Fault::Drop, "connection lost at DATA"),
        (Phase::Dot, Fault::Drop, "connection lost at the message"),
        (Phase::Starttls, Fault::Reply("220 go\r\n250 injected"), "the server sent plain-text data"),
    ] {
        let mx = match phase {
            Phase::Starttls => server_with_tls().await,
            _ => FakeMx::start().await,
        };
        mx.script(phase, "", ALWAYS, fault);
        let stage = RelayStage::start(&mx).await;
        let id = stage.send(&["a@x.example"]).await;
        stage.expect(id, &[Deferred]).await;
        let last = stage.last_reply(id).await;
        assert!(last.starts_with(reply), "{last}");
        let delivery = &stage.store.deliveries(id).await.unwrap()[0];
        assert!(delivery.next_attempt_at.unwrap() > Timestamp::now() + SignedDuration::from_secs(30));
        stage.end().await;
    }
}

#[tokio::test]
async fn after_a_failed_handshake_opportunistic_mail_is_sent_without_tls() {
    let mx = server_with_tls().await;
    mx.script(Phase::Handshake, "", ALWAYS, Fault::Hang);
    let stage = RelayStage::with(&mx, |_, relay| relay.timeouts.starttls = Duration::from_millis(200)).await;
    let id = stage.send(&["a@x.example"]).await;
    stage.expect(id, &[Delivered]).await;
    assert_eq!(mx.connections().len(), 2);
    let attempt = &stage.attempts(id).await[0];
    assert!(attempt.transcript.contains("* again, without TLS") && attempt.tls.is_none());
    stage.end().await;

    let mx = server_with_tls().await;
    mx.script(Phase::Handshake, "", ALWAYS, Fault::Hang);
    let stage = RelayStage::with(&mx, |_, relay| {
        relay.timeouts.starttls = Duration::from_millis(200);
        relay.smart_host.as_mut().unwrap().tls = Some(TlsMode::Starttls);
    })
    .await;
    let id = stage.send(&["a@x.example"]).await;
    stage.expect(id, &[Deferred]).await;
    assert!(!mx.commands().iter().any(|command| command.starts_with("MAIL")));
    stage.end().await;
}

#[tokio::test]
async fn an_idle_connection_that_was_closed_costs_no_attempt() {
    let mx = FakeMx::start().await;
    mx.script(Phase::Dot, "", ALWAYS, Fault::ReplyAndClose("250 2.0.0 taken"));
    let stage = RelayStage::start(&mx).await;
    for _ in 0..5 {
        let id = stage.send(&["a@x.example"]).await;
        stage.expect(id, &[Delivered]).await;
        assert_eq!(stage.attempts(id).await.len(), 1);
    }
    assert_eq!(mx.connections().len(), 5);
    stage.end().await;
}

#[tokio::test]
async fn a_limit_of_one_session_costs_a_new_connection_and_no_delay() {
    let mx = FakeMx::start().await;
    let stage = RelayStage::start(&mx).await;
    let id = stage.send(&["a@x.example"]).await;
    stage.expect(id, &[Delivered]).await;
    for (phase, reply) in [
        (Phase::Mail, "451 4.5.3 too many messages in this session"),
        (Phase::Rcpt, "452 4.5.3 too many recipients in this connection"),
    ] {
        let before = mx.connections().len();
        mx.script(phase, "", 1, Fault::Reply(reply));
        let id = stage.send(&["a@x.example"]).await;
        stage.expect(id, &[Delivered]).await;
        assert_eq!((stage.attempts(id).await.len(), mx.connections().len()), (1, before + 1), "{reply}");
    }
    // Over a new connection, too, if the server accepted some recipients before the others.
    let before = mx.connections().len();
    mx.script(Phase::Rcpt, "TO:<b@", 2, Fault::Reply("452 4.5.3 too many recipients in this session"));
    mx.script(Phase::Rcpt, "TO:<c@", 1, Fault::Reply("452 4.5.3 too many recipients in this session"));
    let id = stage.send(&["a@x.example", "b@x.example", "c@x.example"]).await;
    stage.expect(id, &[Delivered, Delivered, Delivered]).await;
    assert_eq!((stage.attempts(id).await.len(), mx.connections().len()), (3, before + 2));
    stage.end().await;
}

#[tokio::test]
async fn a_server_that_accepts_nothing_in_any_session_defers() {
    let mx = FakeMx::start().await;
    mx.script(Phase::Mail, "", ALWAYS, Fault::Reply("451 4.5.3 too many messages in this session"));
    let stage = RelayStage::start(&mx).await;
    let id = stage.send(&["a@x.example"]).await;
    stage.expect(id, &[Deferred]).await;
    assert_eq!(mx.connections().len(), 1);
    stage.end().await;
}

#[tokio::test]
async fn an_additional_reply_is_never_used_for_another_message() {
    let mx = FakeMx::start().await;
    mx.script(Phase::Rcpt, "TO:<no@", ALWAYS, Fault::Reply("550 5.1.1 nobody"));
    mx.script(Phase::Dot, "", ALWAYS, Fault::Reply("250 taken\r\n250 stray"));
    let stage = RelayStage::start(&mx).await;
    let first = stage.send(&["a@x.example"]).await;
    stage.expect(first, &[Delivered]).await;
    let mut new = new_message(stage.tenant, &["no@x.example"]);
    new.message.reverse_path = ReversePath::Null;
    let second = stage.enqueue(new).await;
    stage.expect(second, &[Bounced]).await;
    assert_eq!(stage.attempts(second).await.len(), 1);
    assert_eq!(mx.connections().len(), 2);
    stage.end().await;
}

#[tokio::test]
async fn a_server_that_answers_each_recipient_just_before_the_timeout_does_not_hold_a_connection_forever() {
    let mx = FakeMx::start().await;
    mx.script(Phase::Rcpt, "", ALWAYS, Fault::Late(Duration::from_millis(50), "250 2.1.5 ok"));
    let stage = RelayStage::with(&mx, |_, relay| {
        let timeouts = &mut relay.timeouts;
        timeouts.command = Duration::from_millis(500);
        for rest in
            [&mut timeouts.connect, &mut timeouts.greeting, &mut timeouts.starttls, &mut timeouts.data]
        {
            *rest = Duration::from_millis(100);
        }
    })
    .await;
    let recipients: Vec<String> = (0..100).map(|n| format!("r{n}@x.example")).collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    let id = stage.send(&recipients).await;
    stage.expect(id, &[Deferred; 100]).await;
    let last = stage.last_reply(id).await;
    assert!(last.starts_with("the time limit of the attempt was reached"), "{last}");
    assert!(mx.transactions().is_empty());
    stage.end().await;
}

#[tokio::test]
async fn a_dropped_relay_leaves_no_worker_behind() {
    let mx = FakeMx::start().await;
    mx.script(Phase::Rcpt, "", ALWAYS, Fault::Hang);
    let stage = RelayStage::with(&mx, |_, relay| relay.connections_max = 1).await;
    let first = stage.send(&["a@x.example"]).await;
    let second = stage.send(&["b@x.example"]).await;
    until("RCPT was sent", async || mx.commands().iter().any(|c| c.starts_with("RCPT")).then_some(())).await;
    stage.expect_all_claimed(2).await;
    stage.relay.abort();
    // The result writer ends when no worker is left that could send it a result.
    timeout(PATIENCE, stage.recording.end()).await.unwrap();
    assert_eq!(stage.queue.depth().await.unwrap().claimed, 0);
    stage.expect(first, &[DeliveryState::Queued]).await;
    stage.expect(second, &[DeliveryState::Queued]).await;
}

#[tokio::test]
async fn a_backlog_is_delivered_over_few_connections() {
    let mx = FakeMx::start().await;
    let stage = RelayStage::with(&mx, |_, relay| {
        relay.connections_per_destination_max = 2;
        relay.messages_per_connection_max = 40;
    })
    .await;
    let mut ids = Vec::new();
    for n in 0..200 {
        ids.push(stage.send(&[&format!("a@d{}.example", n % 10)]).await);
    }
    for id in ids {
        stage.expect(id, &[Delivered]).await;
    }
    assert_eq!(mx.transactions().len(), 200);
    let connections = mx.connections().len();
    assert!((5..=30).contains(&connections), "{connections}");
    stage.end().await;
}

#[tokio::test]
async fn the_sandbox_gives_every_result_and_sends_nothing() {
    let mx = FakeMx::start().await;
    let stage = RelayStage::start(&mx).await;
    let mut new = new_message(
        stage.tenant,
        &[
            "a@x.example",
            "bounce@x.example",
            "defer+1@x.example",
            "complaint@x.example",
            "suppressed@x.example",
        ],
    );
    new.message.environment = Environment::Test;
    let id = stage.enqueue(new).await;
    stage.expect(id, &[Delivered, Bounced, Delivered, Delivered, Bounced]).await;
    let attempts = stage.attempts(id).await;
    assert_eq!(attempts.len(), 6);
    assert!(attempts.iter().all(|attempt| attempt.host == "sandbox" && attempt.tls.is_none()));
    assert_eq!(stage.suppressed().await, ["bounce@x.example"]);
    assert!(mx.connections().is_empty());
    stage.end().await;
}

#[tokio::test]
async fn a_tenants_smart_host_in_a_private_network_is_not_connected_to() {
    let mx = FakeMx::start().await;
    let stage = RelayStage::start(&mx).await;
    let smart_host = SmartHost {
        host: mx.address.ip().to_string(),
        port: mx.address.port(),
        user: None,
        tls: TlsMode::None,
        destinations: Vec::new(),
        dkim: DkimPolicy::All,
        password_revision: 0,
    };
    let own = Some(Some(NewSmartHost { smart_host, password: None }));
    let patch = TenantPatch { smart_host: own, ..TenantPatch::default() };
    stage.store.update_tenant(stage.tenant, patch, Timestamp::now()).await.unwrap();
    let id = stage.send(&["a@x.example"]).await;
    stage.expect(id, &[Deferred]).await;
    assert!(stage.last_reply(id).await.contains("a private address"), "{}", stage.last_reply(id).await);
    assert!(mx.connections().is_empty());
    stage.end().await;
}

#[tokio::test]
async fn queued_mail_waits_when_its_tenant_is_suspended() {
    let mx = FakeMx::start().await;
    let greeting = mx.wait_at(Phase::Greeting);
    let stage = RelayStage::with(&mx, |_, relay| relay.connections_max = 1).await;
    let first = stage.send(&["a@x.example"]).await;
    let second = stage.send(&["b@x.example"]).await;
    let set_status = async |status| {
        let patch = TenantPatch { status: Some(status), ..TenantPatch::default() };
        stage.store.update_tenant(stage.tenant, patch, Timestamp::now()).await.unwrap();
    };
    stage.expect_all_claimed(2).await;
    set_status(TenantStatus::Suspended).await;
    greeting.cancel();
    stage.expect(first, &[Delivered]).await;
    until("nothing is claimed", async || (stage.queue.depth().await.unwrap().claimed == 0).then_some(()))
        .await;
    stage.expect(second, &[DeliveryState::Queued]).await;
    assert_eq!(mx.transactions().len(), 1);
    set_status(TenantStatus::Active).await;
    stage.expect(second, &[Delivered]).await;
    stage.end().await;
}

#[tokio::test]
async fn a_tenant_that_fills_the_memory_for_message_bodies_leaves_some_to_others_and_can_be_stopped() {
    // Without SIZE, because the first message would exceed it.
    let mx = FakeMx::with(Offer { extensions: vec!["PIPELINING"], ..Offer::default() }).await;
    let greeting = mx.wait_at(Phase::Greeting);
    let stage = RelayStage::with(&mx, |store, _| store.hot_queue_bytes_max = 0).await;
    let mut filling = new_message(stage.tenant, &["a@x.example"]);
    filling.message.size = 1 << 30;
    let filling = stage.enqueue(filling).await;
    until("the first message is read", async || mx.connections().first().map(drop)).await;
    let now = Timestamp::now();
    let other = stage.store.create_tenant(NewTenant::named("other", "other"), now).await.unwrap().id;
    let waiting = stage.send(&["a@x.example"]).await;
    let others = stage.enqueue(new_message(other, &["a@x.example"])).await;
    stage.expect(others, &[Delivered]).await;
    stage.expect_all_claimed(2).await;
    stage.stop.cancel();
    greeting.cancel();
    stage.expect(filling, &[Delivered]).await;
    let delivery = stage.store.deliveries(waiting).await.unwrap().remove(0);
    assert_eq!((delivery.state, delivery.attempts), (DeliveryState::Queued, 0));
    assert_eq!(mx.transactions().len(), 2);
    stage.end().await;
}

#[tokio::test]
async fn mail_for_a_site_in_back_off_is_not_tried_until_the_back_off_ends() {
    let mx = FakeMx::start().await;
    mx.script(Phase::Greeting, "", ALWAYS, Fault::Reply("421 4.7.0 too many connections"));
    // The address literal is the destination, and a site.
    let stage = RelayStage::with(&mx, |_, relay| {
        relay.smart_host = None;
        relay.port = mx.address.port();
        relay.allowed_private_networks = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await;
    let recipient = format!("a@[{}]", mx.address.ip());
    let first = stage.send(&[&recipient]).await;
    stage.expect(first, &[Deferred]).await;
    let status = until("the site is in back-off", async || {
        let status = stage.queue.snapshot(Timestamp::now()).sites.pop();
        status.filter(|status| status.backoff_until.is_some())
    })
    .await;
    assert_eq!(status.reason.as_deref(), Some("421 4.7.0 too many connections"));
    let rest = status.backoff_until.unwrap().duration_since(Timestamp::now()).as_secs();
    assert!((20..=30).contains(&rest), "{rest}");
    let second = stage.send(&[&recipient]).await;
    // Mail for another site is delivered before it.
    let mut elsewhere = new_message(stage.tenant, &["c@x.example"]);
    elsewhere.message.environment = Environment::Test;
    let elsewhere = stage.enqueue(elsewhere).await;
    stage.expect(elsewhere, &[Delivered]).await;
    let waiting = &stage.store.deliveries(second).await.unwrap()[0];
    assert_eq!((waiting.state, waiting.attempts), (DeliveryState::Queued, 0));
    assert_eq!(mx.connections().len(), 1);
    stage.queue.end_backoffs(&QueueFilter::default());
    stage.expect(second, &[Deferred]).await;
    stage.end().await;
}
