//! The relay against a real store and a scripted server on loopback.

mod smart_host_backoff;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::dsn::message::sample_message;
use super::{Recording, Relay};
use crate::clock::Clock;
use crate::config;
use crate::dns::Resolver;
use crate::mail::{Address, Content, DomainName, ReversePath, SignedDuration, Timestamp};
use crate::model::{
    DeliveryId, DeliveryState, DkimPolicy, Environment, MessageId, TenantId, TenantStatus, TlsMode,
};
use crate::queue::{ClaimRoom, QueueManager};
use crate::rng::Rng;
use crate::store::{
    Directory, Journal, Message, NewMessage, NewSmartHost, NewTenant, PageRequest, SmartHost, Spool, Store,
    StoreOptions, SuppressionFilter, Tenant, TenantPatch,
};

/// A server that answers by script: replies keyed by the start of the command, else success.
#[derive(Default)]
struct Script {
    replies: HashMap<&'static str, &'static str>,
    /// Ends the connection instead of replying.
    hang_up_at: Option<&'static str>,
    /// Ends a connection after its first message without a word.
    hang_up_after_message: bool,
    /// How long it thinks about each recipient.
    slowness: Duration,
    capabilities: &'static str,
}

/// What the server saw.
#[derive(Default)]
struct Seen {
    connections: usize,
    commands: Vec<String>,
    messages: Vec<String>,
}

async fn serve(script: Script) -> (SocketAddr, Arc<Mutex<Seen>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(Mutex::new(Seen::default()));
    let script = Arc::new(script);
    let shared = seen.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            shared.lock().unwrap().connections += 1;
            tokio::spawn(converse(stream, script.clone(), shared.clone()));
        }
    });
    (address, seen)
}

async fn converse(stream: tokio::net::TcpStream, script: Arc<Script>, seen: Arc<Mutex<Seen>>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let greeting = script.replies.get("greeting").copied().unwrap_or("220 hello");
    stream.write_all(format!("{greeting}\r\n").as_bytes()).await.ok()?;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_owned();
        seen.lock().unwrap().commands.push(line.clone());
        if script.hang_up_at.is_some_and(|at| line.starts_with(at)) {
            return None;
        }
        if line.starts_with("RCPT") && !script.slowness.is_zero() {
            tokio::time::sleep(script.slowness).await;
        }
        let scripted =
            script.replies.iter().filter(|(start, _)| line.starts_with(**start)).max_by_key(|(s, _)| s.len());
        let reply = match scripted {
            Some((_, reply)) => (*reply).to_owned(),
            None if line.starts_with("EHLO") => format!("250-mx\r\n{}250 PIPELINING", script.capabilities),
            None if line == "DATA" => "354 go".to_owned(),
            None if line == "QUIT" => "221 bye".to_owned(),
            None => "250 2.0.0 ok".to_owned(),
        };
        stream.write_all(format!("{reply}\r\n").as_bytes()).await.ok()?;
        if line == "DATA" && reply.starts_with("354") {
            let mut content = Vec::new();
            while !content.ends_with(b"\r\n.\r\n") && content != b".\r\n" {
                content.push(stream.read_u8().await.ok()?);
            }
            seen.lock().unwrap().messages.push(String::from_utf8(content).unwrap());
            if script.hang_up_at == Some(".") {
                return None;
            }
            let reply = script.replies.get(".").copied().unwrap_or("250 2.0.0 taken");
            stream.write_all(format!("{reply}\r\n").as_bytes()).await.ok()?;
            if script.hang_up_after_message {
                return None;
            }
        }
    }
}

/// A store with a tenant, and a relay that sends everything to one server.
struct Stage {
    _dir: tempfile::TempDir,
    store: Arc<Store>,
    queue: Arc<QueueManager>,
    tenant: Tenant,
    stop: CancellationToken,
    relay: tokio::task::JoinHandle<()>,
    recording: Recording,
}

/// A stage whose relay does not run yet.
struct Built {
    dir: tempfile::TempDir,
    store: Arc<Store>,
    queue: Arc<QueueManager>,
    tenant: Tenant,
    relay: Relay,
}

impl Built {
    async fn for_server(server: SocketAddr, change: impl FnOnce(&mut config::Relay)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(StoreOptions::at(dir.path())).unwrap());
        let new = NewTenant::named("acme", "acme");
        let tenant = store.create_tenant(new, Timestamp::now()).await.unwrap();
        let mut settings = config::Relay {
            smart_host: Some(config::PlatformSmartHost {
                host: server.ip().to_string(),
                port: Some(server.port()),
                tls: Some(TlsMode::Opportunistic),
                user: None,
                password_file: None,
            }),
            ..config::Relay::default()
        };
        change(&mut settings);
        let hostname = DomainName::parse("relay.example").unwrap();
        let queue = Arc::new(QueueManager::new(store.clone(), &settings, Clock::system(), Rng::system()));
        let resolver = Resolver::new(&settings.name_servers, Rng::system()).unwrap();
        let relay = Relay::new(&settings, &hostname, queue.clone(), resolver).unwrap();
        Self { dir, store, queue, tenant, relay }
    }

    fn run(self) -> Stage {
        let Self { dir, store, queue, tenant, relay } = self;
        let stop = CancellationToken::new();
        let recording = relay.recording();
        let relay = tokio::spawn(relay.run(stop.clone()));
        Stage { _dir: dir, store, queue, tenant, stop, relay, recording }
    }
}

fn new_message(tenant_id: TenantId, environment: Environment, recipients: &[&str]) -> NewMessage {
    let now = Timestamp::now();
    let content =
        Content { prefix: "Received: us\r\n".into(), submitted: "Subject: x\r\n\r\n.dot\r\n".into() };
    NewMessage {
        message: Message {
            id: MessageId::generate(now),
            tenant_id,
            environment,
            size: content.len() as u64,
            created_at: now,
            expires_at: now + SignedDuration::from_hours(120),
            ..Message::clone(&sample_message("s@a.example"))
        },
        recipients: recipients
            .iter()
            .map(|r| (DeliveryId::generate(now), Address::parse(r).unwrap().into()))
            .collect(),
        content,
        suppressed: Vec::new(),
        submission_key: None,
    }
}

impl Stage {
    async fn set(server: SocketAddr, change: impl FnOnce(&mut config::Relay)) -> Self {
        Built::for_server(server, change).await.run()
    }

    fn message(&self, environment: Environment, recipients: &[&str]) -> NewMessage {
        new_message(self.tenant.id, environment, recipients)
    }

    async fn send(&self, environment: Environment, recipients: &[&str]) -> MessageId {
        let new = self.message(environment, recipients);
        let id = new.message.id;
        self.store.enqueue(new).await.unwrap();
        id
    }

    /// Waits until the recipients of a message are in these states.
    async fn expect(&self, id: MessageId, states: &[DeliveryState]) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            let deliveries = self.store.deliveries(id).await.unwrap();
            let found: Vec<DeliveryState> = deliveries.iter().map(|delivery| delivery.state).collect();
            if found == states {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{deliveries:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until nothing is open.
    async fn expect_empty(&self) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while self.store.count_open().await.unwrap() > 0 {
            assert!(tokio::time::Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until all that is due is the relay's, which has nothing left to claim.
    async fn expect_all_claimed(&self) {
        let all = async {
            while self.queue.claim_due(Timestamp::now(), &nothing()).await.unwrap().next_due_at.is_some() {}
        };
        tokio::time::timeout(Duration::from_secs(20), all).await.unwrap();
    }

    async fn last_reply(&self, id: MessageId) -> String {
        self.store.deliveries(id).await.unwrap()[0].last_reply.clone().unwrap_or_default()
    }

    async fn end(self) {
        self.stop.cancel();
        self.relay.await.unwrap();
        assert_eq!(self.queue.depth().await.unwrap().claimed, 0);
    }
}

use DeliveryState::{Bounced, Deferred, Delivered};

#[tokio::test]
async fn messages_share_a_connection_and_each_recipient_has_an_outcome() {
    let script = Script { replies: [("RCPT TO:<no@", "550 5.1.1 nobody")].into(), ..Script::default() };
    let (server, seen) = serve(script).await;
    let stage = Stage::set(server, |_| {}).await;
    let first = stage.send(Environment::Live, &["yes@x.example", "no@x.example"]).await;
    stage.expect(first, &[Delivered, Bounced]).await;
    let second = stage.send(Environment::Live, &["yes@y.example"]).await;
    stage.expect(second, &[Delivered]).await;

    let attempts = stage.store.attempts(first, None, 1000).await.unwrap().items;
    assert_eq!(attempts.len(), 2);
    assert!(attempts.iter().any(|attempt| attempt.code == Some(250)));
    assert!(attempts[0].transcript.contains("> RCPT TO:<no@x.example>\n"), "{}", attempts[0].transcript);
    let suppressed = SuppressionFilter { tenant_id: Some(stage.tenant.id), ..Default::default() };
    let page = PageRequest { limit: 10, ..Default::default() };
    let found = stage.store.list_suppressions(suppressed, page).await.unwrap().items;
    assert_eq!(found.iter().map(|s| s.address.as_str()).collect::<Vec<_>>(), ["no@x.example"]);
    stage.expect_empty().await;
    let wire = "Received: us\r\nSubject: x\r\n\r\n..dot\r\n.\r\n";
    let messages = seen.lock().unwrap().messages.clone();
    assert_eq!(messages.iter().filter(|message| *message == wire).count(), 2, "{messages:?}");
    // The report of the failure went the same way.
    let reports = messages.iter().filter(|m| m.contains("Final-Recipient: rfc822; no@x.example"));
    assert_eq!((reports.count(), messages.len()), (1, 3), "{messages:?}");
    stage.end().await;
    assert_eq!(seen.lock().unwrap().commands.last().map(String::as_str), Some("QUIT"));
}

#[tokio::test]
async fn a_failure_is_reported_to_the_sender_once() {
    let script = Script { replies: [(".", "554 5.6.0 no")].into(), ..Script::default() };
    let (server, seen) = serve(script).await;
    let stage = Stage::set(server, |_| {}).await;
    let id = stage.send(Environment::Live, &["a@x.example", "b@x.example"]).await;
    stage.expect(id, &[Bounced, Bounced]).await;
    assert_eq!(stage.last_reply(id).await, "554 5.6.0 no");
    // The report is refused too, and there is no report of that.
    stage.expect_empty().await;
    assert_eq!(seen.lock().unwrap().messages.len(), 2);
    assert!(seen.lock().unwrap().commands.iter().any(|command| command == "MAIL FROM:<>"));
    stage.end().await;
}

#[tokio::test]
async fn what_goes_wrong_for_now_is_deferred_with_the_reason() {
    for (script, reply) in [
        (Script { replies: [("RCPT", "451 4.7.1 grey")].into(), ..Script::default() }, "451 4.7.1 grey"),
        (
            Script { replies: [("greeting", "554 5.7.1 go away")].into(), ..Script::default() },
            "554 5.7.1 go away",
        ),
        (
            Script { replies: [("greeting", "hello")].into(), ..Script::default() },
            "at the greeting: the server sent something",
        ),
        (Script { replies: [("MAIL", "421 busy")].into(), ..Script::default() }, "421 busy"),
        (Script { hang_up_at: Some("DATA"), ..Script::default() }, "connection lost at DATA"),
        (Script { hang_up_at: Some("."), ..Script::default() }, "connection lost at the message"),
        (
            Script {
                capabilities: "250-STARTTLS\r\n",
                replies: [("STARTTLS", "220 go\r\n250 injected")].into(),
                ..Script::default()
            },
            "the server sent plain-text data",
        ),
    ] {
        let (server, _seen) = serve(script).await;
        let stage = Stage::set(server, |_| {}).await;
        let id = stage.send(Environment::Live, &["a@x.example"]).await;
        stage.expect(id, &[Deferred]).await;
        let last = stage.last_reply(id).await;
        assert!(last.starts_with(reply), "{last}");
        let delivery = &stage.store.deliveries(id).await.unwrap()[0];
        assert!(delivery.next_attempt_at.unwrap() > Timestamp::now() + SignedDuration::from_secs(30));
        stage.end().await;
    }
}

#[tokio::test]
async fn a_broken_handshake_is_followed_by_clear_text_where_tls_is_a_bonus() {
    let broken = || Script {
        capabilities: "250-STARTTLS\r\n",
        replies: [("STARTTLS", "220 go")].into(),
        ..Script::default()
    };
    let (server, seen) = serve(broken()).await;
    let stage = Stage::set(server, |relay| relay.timeouts.starttls = Duration::from_millis(200)).await;
    let id = stage.send(Environment::Live, &["a@x.example"]).await;
    stage.expect(id, &[Delivered]).await;
    assert_eq!(seen.lock().unwrap().connections, 2);
    let attempt = &stage.store.attempts(id, None, 1000).await.unwrap().items[0];
    assert!(attempt.transcript.contains("* again, without TLS") && attempt.tls.is_none());
    stage.end().await;

    let (server, seen) = serve(broken()).await;
    let stage = Stage::set(server, |relay| {
        relay.timeouts.starttls = Duration::from_millis(200);
        if let Some(smart_host) = &mut relay.smart_host {
            smart_host.tls = Some(TlsMode::Starttls);
        }
    })
    .await;
    let id = stage.send(Environment::Live, &["a@x.example"]).await;
    stage.expect(id, &[Deferred]).await;
    assert!(!seen.lock().unwrap().commands.iter().any(|command| command.starts_with("MAIL")));
    stage.end().await;
}

#[tokio::test]
async fn a_connection_that_died_while_idle_costs_no_try() {
    let (server, seen) = serve(Script { hang_up_after_message: true, ..Script::default() }).await;
    let stage = Stage::set(server, |_| {}).await;
    for _ in 0..5 {
        let id = stage.send(Environment::Live, &["a@x.example"]).await;
        stage.expect(id, &[Delivered]).await;
        assert_eq!(stage.store.attempts(id, None, 1000).await.unwrap().items.len(), 1);
    }
    assert_eq!(seen.lock().unwrap().connections, 5);
    stage.end().await;
}

#[tokio::test]
async fn a_reply_too_many_is_never_taken_for_another_messages_outcome() {
    let refused = ("RCPT TO:<no@", "550 5.1.1 nobody");
    let replies = [refused, (".", "250 taken\r\n250 stray")].into();
    let (server, seen) = serve(Script { replies, ..Script::default() }).await;
    let stage = Stage::set(server, |_| {}).await;
    let first = stage.send(Environment::Live, &["a@x.example"]).await;
    stage.expect(first, &[Delivered]).await;
    let mut new = stage.message(Environment::Live, &["no@x.example"]);
    new.message.reverse_path = ReversePath::Null;
    let second = new.message.id;
    stage.store.enqueue(new).await.unwrap();
    stage.expect(second, &[Bounced]).await;
    assert_eq!(stage.store.attempts(second, None, 10).await.unwrap().items.len(), 1);
    assert_eq!(seen.lock().unwrap().connections, 2);
    stage.end().await;
}

#[tokio::test]
async fn a_server_that_answers_each_recipient_just_in_time_does_not_hold_a_connection_for_all_of_them() {
    let (server, seen) = serve(Script { slowness: Duration::from_millis(50), ..Script::default() }).await;
    let stage = Stage::set(server, |relay| {
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
    let id = stage.send(Environment::Live, &recipients).await;
    stage.expect(id, &[Deferred; 100]).await;
    let last = stage.last_reply(id).await;
    assert!(last.starts_with(super::delivery_error::ATTEMPT_TIMED_OUT), "{last}");
    assert!(seen.lock().unwrap().messages.is_empty());
    stage.end().await;
}

#[tokio::test]
async fn a_relay_that_is_dropped_leaves_no_worker_behind() {
    let slowness = Duration::from_secs(3600);
    let (server, seen) = serve(Script { slowness, ..Script::default() }).await;
    let stage = Stage::set(server, |relay| relay.connections_max = 1).await;
    let id = stage.send(Environment::Live, &["a@x.example"]).await;
    let second = stage.send(Environment::Live, &["b@x.example"]).await;
    while !seen.lock().unwrap().commands.iter().any(|command| command.starts_with("RCPT")) {
        tokio::task::yield_now().await;
    }
    while stage.queue.depth().await.unwrap().claimed < 2 {
        tokio::task::yield_now().await;
    }
    stage.expect_all_claimed().await;
    stage.relay.abort();
    // The recorder ends when no worker is left that could give it something.
    tokio::time::timeout(Duration::from_secs(10), stage.recording.end()).await.unwrap();
    assert_eq!(stage.queue.depth().await.unwrap().claimed, 0);
    stage.expect(id, &[DeliveryState::Queued]).await;
    stage.expect(second, &[DeliveryState::Queued]).await;
}

#[tokio::test]
async fn a_backlog_goes_out_over_few_connections() {
    let (server, seen) = serve(Script::default()).await;
    let stage = Stage::set(server, |relay| {
        relay.connections_per_destination_max = 2;
        relay.messages_per_connection_max = 40;
    })
    .await;
    let mut last = Vec::new();
    for n in 0..200 {
        let recipient = format!("a@d{}.example", n % 10);
        last.push(stage.send(Environment::Live, &[&recipient]).await);
    }
    for id in last {
        stage.expect(id, &[Delivered]).await;
    }
    assert_eq!(seen.lock().unwrap().messages.len(), 200);
    let connections = seen.lock().unwrap().connections;
    assert!((5..=30).contains(&connections), "{connections}");
    stage.end().await;
}

#[tokio::test]
async fn the_sandbox_plays_every_part_and_nothing_leaves() {
    let (server, seen) = serve(Script::default()).await;
    let stage = Stage::set(server, |_| {}).await;
    let id = stage
        .send(
            Environment::Test,
            &[
                "a@x.example",
                "bounce@x.example",
                "defer+1@x.example",
                "complaint@x.example",
                "suppressed@x.example",
            ],
        )
        .await;
    stage.expect(id, &[Delivered, Bounced, Delivered, Delivered, Bounced]).await;
    let attempts = stage.store.attempts(id, None, 1000).await.unwrap().items;
    assert_eq!(attempts.len(), 6);
    assert!(attempts.iter().all(|attempt| attempt.host == "sandbox" && attempt.tls.is_none()));
    let suppressed = SuppressionFilter { tenant_id: Some(stage.tenant.id), ..Default::default() };
    let page = PageRequest { limit: 10, ..Default::default() };
    let mut found: Vec<String> = stage
        .store
        .list_suppressions(suppressed, page)
        .await
        .unwrap()
        .items
        .into_iter()
        .map(|s| s.address)
        .collect();
    found.sort();
    assert_eq!(found, ["bounce@x.example", "complaint@x.example"]);
    assert_eq!(seen.lock().unwrap().connections, 0);
    stage.end().await;
}

#[tokio::test]
async fn a_tenants_smart_host_in_a_private_network_is_not_dialled() {
    let (server, seen) = serve(Script::default()).await;
    let stage = Stage::set(server, |_| {}).await;
    let smart_host = SmartHost {
        host: server.ip().to_string(),
        port: server.port(),
        user: None,
        tls: TlsMode::None,
        destinations: Vec::new(),
        dkim: DkimPolicy::All,
        password_revision: 0,
    };
    let patch = TenantPatch {
        smart_host: Some(Some(NewSmartHost { smart_host, password: None })),
        ..TenantPatch::default()
    };
    stage.store.update_tenant(stage.tenant.id, patch, Timestamp::now()).await.unwrap();
    let id = stage.send(Environment::Live, &["a@x.example"]).await;
    stage.expect(id, &[Deferred]).await;
    assert!(stage.last_reply(id).await.contains("a private address"), "{}", stage.last_reply(id).await);
    assert_eq!(seen.lock().unwrap().connections, 0);
    stage.end().await;
}

#[tokio::test]
async fn what_waits_for_its_turn_is_held_when_its_tenant_is_suspended() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap();
    let seen = Arc::new(Mutex::new(Seen::default()));
    let (greet, greeted) = tokio::sync::oneshot::channel::<()>();
    let shared = seen.clone();
    tokio::spawn(async move {
        let script = Arc::new(Script::default());
        let first = listener.accept().await.unwrap().0;
        greeted.await.unwrap();
        tokio::spawn(converse(first, script.clone(), shared.clone()));
        while let Ok((next, _)) = listener.accept().await {
            tokio::spawn(converse(next, script.clone(), shared.clone()));
        }
    });
    let stage = Stage::set(server, |relay| relay.connections_max = 1).await;
    let first = stage.send(Environment::Live, &["a@x.example"]).await;
    let second = stage.send(Environment::Live, &["b@x.example"]).await;
    let set_status = async |status| {
        let patch = TenantPatch { status: Some(status), ..TenantPatch::default() };
        stage.store.update_tenant(stage.tenant.id, patch, Timestamp::now()).await.unwrap();
    };
    while stage.queue.depth().await.unwrap().claimed < 2 {
        tokio::task::yield_now().await;
    }
    stage.expect_all_claimed().await;
    set_status(TenantStatus::Suspended).await;
    greet.send(()).unwrap();
    stage.expect(first, &[Delivered]).await;
    while stage.queue.depth().await.unwrap().claimed > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(stage.store.deliveries(second).await.unwrap()[0].state, DeliveryState::Queued);
    assert_eq!(seen.lock().unwrap().messages.len(), 1);
    set_status(TenantStatus::Active).await;
    stage.expect(second, &[Delivered]).await;
    stage.end().await;
}

#[tokio::test]
async fn who_fills_the_room_for_messages_that_are_read_back_leaves_some_to_others_and_can_be_stopped() {
    let (server, seen) = serve(Script::default()).await;
    let built = Built::for_server(server, |_| {}).await;
    let (store, tenant) = (built.store.clone(), built.tenant.id);
    let _full = built.relay.core.loaded.acquire_weighted(Some(tenant), u64::MAX).await.unwrap();
    let other = store.create_tenant(NewTenant::named("other", "other"), Timestamp::now()).await.unwrap().id;
    let [own, others] = [tenant, other].map(|id| new_message(id, Environment::Live, &["a@x.example"]));
    let (own_id, other_id) = (own.message.id, others.message.id);
    for message in [own, others] {
        store.enqueue(message).await.unwrap();
    }
    forget_content(&built.queue).await;
    let stage = built.run();
    stage.expect(other_id, &[Delivered]).await;
    stage.expect_all_claimed().await;
    tokio::time::timeout(Duration::from_secs(10), stage.end()).await.unwrap();
    let waiting = &store.deliveries(own_id).await.unwrap()[0];
    assert_eq!((waiting.state, waiting.attempts), (DeliveryState::Queued, 0));
    assert_eq!(seen.lock().unwrap().messages.len(), 1);
}

/// Takes out what was handed over in memory and gives it back, to be read.
async fn forget_content(queue: &QueueManager) {
    let room = ClaimRoom { deliveries_max: 9, per_tenant_max: 9, ..nothing() };
    let claimed = queue.claim_due(Timestamp::now(), &room).await.unwrap();
    let deliveries = claimed.batches.iter().flat_map(|batch| &batch.deliveries);
    queue.release(deliveries.map(|delivery| delivery.id).collect());
}

fn nothing() -> ClaimRoom {
    ClaimRoom { deliveries_max: 0, per_tenant_max: 0, admits: Arc::new(|_: &crate::mail::Host| true) }
}
