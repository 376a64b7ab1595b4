//! What is held back because of a site or an account, and how it goes on.

use super::*;
use crate::clock::Instant;
use crate::policy::site_feedback::SiteFeedback;
use crate::queue::RouteDecision;
use crate::relay::smart_host_backoff::SmartHostAccount;

/// Its address is the destination, and a site.
fn straight_to(server: SocketAddr, relay: &mut config::Relay) {
    relay.smart_host = None;
    relay.port = server.port();
    relay.allowed_private_networks = vec!["127.0.0.0/8".parse().unwrap()];
}

#[tokio::test]
async fn what_waits_for_a_host_that_wants_a_rest_is_not_tried_until_the_rest_is_over() {
    let refusal = ("greeting", "421 4.7.0 too many connections");
    let (server, seen) = serve(Script { replies: [refusal].into(), ..Script::default() }).await;
    let stage = Stage::set(server, |relay| straight_to(server, relay)).await;
    let first = stage.send(Environment::Live, &["a@[127.0.0.1]"]).await;
    stage.expect(first, &[Deferred]).await;
    let status = loop {
        match stage.queue.snapshot(Timestamp::now()).sites.pop() {
            Some(status) if status.held_until.is_some() => break status,
            _ => tokio::task::yield_now().await,
        }
    };
    assert_eq!(status.reason.as_deref(), Some("421 4.7.0 too many connections"));
    let rest = status.held_until.unwrap().duration_since(Timestamp::now()).as_secs();
    assert!((20..=30).contains(&rest), "{rest}");
    let second = stage.send(Environment::Live, &["b@[127.0.0.1]"]).await;
    // Past it.
    let sandboxed = stage.send(Environment::Test, &["c@x.example"]).await;
    stage.expect(sandboxed, &[Delivered]).await;
    let waiting = &stage.store.deliveries(second).await.unwrap()[0];
    assert_eq!((waiting.state, waiting.attempts), (DeliveryState::Queued, 0));
    assert_eq!(seen.lock().unwrap().connections, 1);
    stage.queue.end_backoffs(&crate::model::QueueFilter::default());
    stage.expect(second, &[Deferred]).await;
    stage.end().await;
}

#[tokio::test]
async fn a_site_is_tried_again_when_its_hold_is_over_and_free_again_when_it_takes_something() {
    let (server, _seen) = serve(Script { slowness: Duration::from_millis(50), ..Script::default() }).await;
    let stage = Stage::set(server, |relay| straight_to(server, relay)).await;
    let first = stage.send(Environment::Live, &["a@[127.0.0.1]"]).await;
    let lane = loop {
        match stage.queue.dispatcher().lanes(Instant::now()).pop() {
            Some(state) if state.in_use > 0 => break state.lane,
            _ => {}
        }
        tokio::task::yield_now().await;
    };
    stage.expect(first, &[Delivered]).await;
    // As if it had been closed so long ago that the rest is nearly over.
    let close = |ago| {
        let closed = SiteFeedback::Closed { reason: "421 4.7.0 too much".into() };
        stage.queue.dispatcher().learn(&lane, &closed, ago, ago).backoff.unwrap().until
    };
    let until = close(Instant::now() - Duration::from_secs(29));
    assert!(until > Instant::now());
    let second = stage.send(Environment::Live, &["b@[127.0.0.1]"]).await;
    stage.expect(second, &[Delivered]).await;
    assert!(Instant::now() >= until, "it was spared a try until then");
    assert_eq!(stage.store.deliveries(second).await.unwrap()[0].attempts, 1);
    let now = Instant::now();
    assert_eq!(close(now) - now, Duration::from_secs(30), "no longer than the first one");
    stage.end().await;
}

/// A platform's smart host with an account at a server that takes it, and the account.
fn with_account(
    server: SocketAddr,
    password_file: &std::path::Path,
    relay: &mut config::Relay,
) -> SmartHostAccount {
    let smart_host = relay.smart_host.as_mut().unwrap();
    smart_host.tls = Some(TlsMode::None);
    smart_host.user = Some("relay".into());
    smart_host.password_file = Some(password_file.to_owned());
    SmartHostAccount { tenant: None, host: server.to_string(), user: "relay".into(), password_revision: 0 }
}

#[tokio::test]
async fn mail_for_a_refused_account_goes_on_when_one_try_finds_the_login_taken() {
    let (server, seen) = serve(Script {
        capabilities: "250-AUTH PLAIN\r\n",
        replies: [("AUTH", "235 2.7.0 in")].into(),
        ..Script::default()
    })
    .await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut account = None;
    let built = Built::for_server(server, |relay| {
        account = Some(with_account(server, file.path(), relay));
    })
    .await;
    // As if it had been refused so long ago that the wait is nearly over.
    let (now, account) = (Timestamp::now(), account.unwrap());
    let ago = now - SignedDuration::from_secs(58);
    let (hold, _) = built.relay.core.smart_host_backoffs.record_refusal(&account, "535 5.7.8 no", ago);
    assert!(hold.until > now);
    let stage = built.run();
    let ids = [
        stage.send(Environment::Live, &["a@x.example"]).await,
        stage.send(Environment::Live, &["b@y.example"]).await,
    ];
    for id in ids {
        stage.expect(id, &[Delivered]).await;
        assert_eq!(stage.store.deliveries(id).await.unwrap()[0].attempts, 1);
    }
    assert!(Timestamp::now() >= hold.until);
    let commands = seen.lock().unwrap().commands.clone();
    assert!(commands.iter().any(|command| command.starts_with("AUTH")), "{commands:?}");
    stage.end().await;
}

#[tokio::test]
async fn a_hold_does_not_end_because_something_else_changes() {
    let (server, _seen) = serve(Script::default()).await;
    let Built { dir: _dir, store, queue, tenant, relay } = Built::for_server(server, |_| {}).await;
    let smart_host = SmartHost {
        host: server.ip().to_string(),
        port: server.port(),
        user: Some("acme".into()),
        tls: TlsMode::None,
        destinations: Vec::new(),
        dkim: DkimPolicy::All,
        password_revision: 0,
    };
    let own = Some(Some(NewSmartHost { smart_host, password: Some("x".to_owned().into()) }));
    let patch = TenantPatch { smart_host: own, ..TenantPatch::default() };
    store.update_tenant(tenant.id, patch, Timestamp::now()).await.unwrap();
    store.enqueue(new_message(tenant.id, Environment::Live, &["a@x.example"])).await.unwrap();
    let room = ClaimRoom { deliveries_max: 9, per_tenant_max: 9, ..nothing() };
    let batch = queue.claim_due(Timestamp::now(), &room).await.unwrap().batches.remove(0);
    let core = relay.core;
    let Some(RouteDecision::Known(lane)) =
        core.router.route_batch(&batch).await.unwrap().map(|placed| placed.decision)
    else {
        panic!("not over its smart host");
    };
    let account = core.router.account_of(&lane.next_hop).unwrap();
    let now = Timestamp::now();
    core.smart_host_backoffs.record_refusal(&account, "535 5.7.8 no", now);
    assert!(core.smart_host_backoff(&lane.next_hop, &batch, now).await.is_some());
    // Whatever the directory was asked is forgotten.
    store.create_tenant(NewTenant::named("other", "other"), now).await.unwrap();
    assert_eq!(core.router.cached_account(tenant.id), None);
    assert!(core.smart_host_backoff(&lane.next_hop, &batch, now).await.is_some());
    let patch = TenantPatch { smart_host: Some(None), ..TenantPatch::default() };
    store.update_tenant(tenant.id, patch, now).await.unwrap();
    core.router.route_batch(&batch).await.unwrap();
    assert!(core.smart_host_backoff(&lane.next_hop, &batch, now).await.is_none(), "it has none any more");
}
