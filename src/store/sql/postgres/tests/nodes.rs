//! Several nodes on one database.

use std::collections::HashSet;
use std::time::Duration;

use super::{Bed, harness};
use crate::limits::auth_limiter::{BanChange, BanSubject};
use crate::mail::{SignedDuration, Timestamp, TokenKind, TokenScope, TokenSubject};
use crate::model::{DeliveryId, DeliveryState, ErasureId, QueueFilter, TenantId, TenantStatus};
use crate::store::contract::postgres::PostgresHarness;
use crate::store::contract::{new_message, new_suppression, new_webhook, now, outcome};
use crate::store::{
    AnnouncedBackoff, Directory, DueCursor, DueRange, Erasures, Journal, LeaseState, NewErasure,
    OPEN_ENDED_PAUSE_US, Outbox, Pause, PausedRow, PostgresOptions, Queue, QueueRequest, RecordBatch,
    Reports, Spool, SpoolChange, Store, TenantPatch,
};

/// Two nodes, without memory for accepted mail.
struct Nodes {
    bed: Bed,
    one: Store,
    other: Store,
}

impl Nodes {
    async fn start() -> Option<Self> {
        let harness = harness().await?;
        let one = Store::open(PostgresOptions { hot_queue_bytes_max: 0, ..harness.options() }).await.unwrap();
        let other = second_node(&harness).await;
        Some(Self { bed: Bed::of(harness, one.clone()), one, other })
    }

    /// A tenant with a delivery that no node has.
    async fn delivery(&self) -> (TenantId, DeliveryId) {
        let tenant = self.bed.tenant("a").await.id;
        let new = new_message(tenant, &["x@example.net"], "body");
        let id = new.recipients[0].0;
        self.one.enqueue(new).await.unwrap();
        (tenant, id)
    }
}

async fn second_node(harness: &PostgresHarness) -> Store {
    let options = PostgresOptions { hot_queue_bytes_max: 0, ..harness.options_of_node("other") };
    Store::open(options).await.unwrap()
}

async fn due(store: &Store, tenant_id: TenantId) -> usize {
    let range = DueRange { tenant_id, after: None, until: None, rows_max: 10 };
    store.due_pages(vec![range], now()).await.unwrap().remove(0).rows.len()
}

/// Waits until a condition holds.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap_or_else(|_| panic!("{what}"));
}

async fn state_of(store: &Store, id: DeliveryId) -> DeliveryState {
    let sql = "SELECT state FROM delivery WHERE id = ?1";
    store.read(move |connection| Ok(connection.query_row(sql, [id], |row| row.get(0))?)).await.unwrap()
}

#[tokio::test]
async fn a_delivery_that_a_node_has_claimed_is_not_given_to_another_before_it_is_released() {
    let Some(nodes) = Nodes::start().await else { return };
    let (tenant, id) = nodes.delivery().await;
    assert_eq!((due(&nodes.one, tenant).await, due(&nodes.other, tenant).await), (1, 1));
    assert_eq!(nodes.one.take(vec![id], now()).await.unwrap().len(), 1);
    assert_eq!((due(&nodes.one, tenant).await, due(&nodes.other, tenant).await), (0, 0));
    assert_eq!(nodes.other.take(vec![id], now()).await.unwrap().len(), 0);
    assert_eq!(nodes.other.count_open().await.unwrap(), 1);
    nodes.one.release(vec![id]);
    // The other node looked for later times only.
    until("the claim ends", async || due(&nodes.other, tenant).await == 1).await;
    assert_eq!(nodes.other.take(vec![id], now()).await.unwrap().len(), 1);
}

/// Claims a delivery for a node; returns its result, which is not written yet.
async fn deliver(store: &Store, tenant: TenantId, id: DeliveryId) -> RecordBatch {
    let taken = store.take(vec![id], now()).await.unwrap();
    RecordBatch { records: vec![outcome(tenant, &taken[0].1, DeliveryState::Delivered)], report: None }
}

#[tokio::test]
async fn a_result_changes_nothing_once_another_node_has_the_delivery() {
    let Some(nodes) = Nodes::start().await else { return };
    let (tenant, id) = nodes.delivery().await;
    let late = deliver(&nodes.one, tenant, id).await;
    nodes.one.release(vec![id]);
    until("the claim ends", async || due(&nodes.other, tenant).await == 1).await;
    let timely = deliver(&nodes.other, tenant, id).await;
    nodes.one.record(late).await.unwrap();
    assert_eq!(state_of(&nodes.one, id).await, DeliveryState::Queued);
    assert_eq!(nodes.one.count_open().await.unwrap(), 1);
    nodes.other.record(timely).await.unwrap();
    assert_eq!(state_of(&nodes.one, id).await, DeliveryState::Delivered);
    assert_eq!(nodes.one.count_open().await.unwrap(), 0);
}

#[tokio::test]
async fn a_result_that_is_written_again_counts_once() {
    let Some(nodes) = Nodes::start().await else { return };
    let (tenant, id) = nodes.delivery().await;
    let taken = nodes.one.take(vec![id], now()).await.unwrap();
    let records = vec![outcome(tenant, &taken[0].1, DeliveryState::Deferred)];
    for _ in 0..2 {
        nodes.one.record(RecordBatch { records: records.clone(), report: None }).await.unwrap();
    }
    let sql = "SELECT attempts FROM delivery WHERE id = ?1";
    let attempts =
        nodes.one.read(move |connection| Ok(connection.query_row(sql, [id], |row| row.get::<_, u32>(0))?));
    assert_eq!(attempts.await.unwrap(), 1);
    assert_eq!(nodes.one.counts().repeated_commits, 0);
}

#[tokio::test]
async fn a_delivery_that_is_deferred_belongs_to_no_node() {
    let Some(nodes) = Nodes::start().await else { return };
    let (tenant, id) = nodes.delivery().await;
    let taken = nodes.one.take(vec![id], now()).await.unwrap();
    // Due at the same time as before, so that its row changes in nothing else.
    let mut record = outcome(tenant, &taken[0].1, DeliveryState::Deferred);
    record.next_attempt_at = taken[0].1.next_attempt_at;
    nodes.one.record(RecordBatch { records: vec![record], report: None }).await.unwrap();
    assert_eq!(due(&nodes.other, tenant).await, 1);
}

#[tokio::test]
async fn a_node_that_stops_gives_back_what_it_has() {
    let Some(nodes) = Nodes::start().await else { return };
    let (tenant, id) = nodes.delivery().await;
    nodes.one.take(vec![id], now()).await.unwrap();
    nodes.one.close().await;
    assert_eq!(due(&nodes.other, tenant).await, 1);
}

#[tokio::test]
async fn accepted_mail_that_a_node_keeps_in_memory_is_its_own() {
    let Some(harness) = harness().await else { return };
    let one = Store::open(harness.options()).await.unwrap();
    let other = second_node(&harness).await;
    let nodes = Nodes { bed: Bed::of(harness, one.clone()), one, other };
    let (tenant, _) = nodes.delivery().await;
    assert_eq!((due(&nodes.one, tenant).await, due(&nodes.other, tenant).await), (0, 0));
    let accepted = nodes.one.feed().take();
    assert!(accepted.iter().any(|change| matches!(change, SpoolChange::Accepted(_))), "{accepted:?}");
    nodes.one.close().await;
    until("it is given back", async || due(&nodes.other, tenant).await == 1).await;
}

#[tokio::test]
async fn a_delivery_that_another_node_has_is_neither_cancelled_nor_put_off() {
    let Some(nodes) = Nodes::start().await else { return };
    let (tenant, id) = nodes.delivery().await;
    let taken = nodes.other.take(vec![id], now()).await.unwrap();
    let (message, delivery) = &taken[0];
    let earlier = now() - SignedDuration::from_secs(3600);
    nodes.bed.harness.execute("UPDATE delivery SET state = 'deferred'").await;
    assert_eq!(nodes.one.make_due(tenant, vec![id], earlier).await.unwrap(), [], "its clock is slow");
    assert_eq!(nodes.one.cancel(message.id, vec![id], now()).await.unwrap(), []);
    let destination = delivery.recipient.host().clone();
    let part = QueueFilter::destination(destination.clone());
    nodes.one.pause(Pause { part, reason: None, since: now(), until: None }).await.unwrap();
    let at = DueCursor { next_attempt_us: delivery.next_attempt_at.unwrap().as_microsecond(), id };
    let row = PausedRow { tenant_id: tenant, destination, at, until_us: OPEN_ENDED_PAUSE_US };
    assert_eq!(nodes.one.postpone_paused(vec![row]).await.unwrap(), [tenant]);
    assert_eq!(state_of(&nodes.one, id).await, DeliveryState::Deferred);
    assert_eq!(nodes.other.cancel(message.id, vec![id], now()).await.unwrap(), [id]);
}

#[tokio::test]
async fn the_queue_counts_what_another_node_has_as_in_flight() {
    let Some(nodes) = Nodes::start().await else { return };
    let (tenant, id) = nodes.delivery().await;
    nodes.one.enqueue(new_message(tenant, &["y@example.net"], "body")).await.unwrap();
    nodes.other.take(vec![id], now()).await.unwrap();
    for (store, in_flight, due) in [(&nodes.one, 1, 1), (&nodes.other, 0, 2)] {
        let overview =
            store.overview(QueueRequest { limit: 10, ..QueueRequest::default() }, HashSet::new(), now());
        let overview = overview.await.unwrap();
        let counts = overview.totals;
        assert_eq!((counts.open, counts.in_flight, counts.due), (2, in_flight, due));
        assert_eq!((overview.groups.len(), overview.groups[0].counts), (1, counts), "one destination");
    }
}

/// A process of the same data directory starts after a crash, while the former one is not quite dead.
#[tokio::test]
async fn a_node_whose_mail_was_taken_over_writes_nothing_until_it_has_a_new_lease() {
    let Some(nodes) = Nodes::start().await else { return };
    let (tenant, id) = nodes.delivery().await;
    let late = deliver(&nodes.one, tenant, id).await;
    let epoch = nodes.one.watch_lease().borrow().epoch;
    let options = nodes.bed.harness.options_of_node("restarted");
    std::fs::create_dir(&options.data_dir).unwrap();
    std::fs::copy(nodes.bed.harness.dir.path().join("node_id"), options.data_dir.join("node_id")).unwrap();
    let restarted = Store::open(PostgresOptions { hot_queue_bytes_max: 0, ..options }).await.unwrap();
    let refused = nodes.one.enqueue(new_message(tenant, &["x@example.net"], "body")).await;
    assert!(refused.is_err(), "{refused:?}");
    let timely = deliver(&restarted, tenant, id).await;
    until("the node gets a new lease", async || {
        let lease = *nodes.one.watch_lease().borrow();
        lease.epoch > epoch && lease.state == LeaseState::Fresh
    })
    .await;
    let lost = nodes.one.feed().take();
    assert!(
        lost.iter().any(|change| matches!(change, SpoolChange::ClaimsLost { epoch: lost } if *lost == epoch)),
        "{lost:?}"
    );
    nodes.one.record(late).await.unwrap();
    assert_eq!(state_of(&nodes.one, id).await, DeliveryState::Queued);
    restarted.record(timely).await.unwrap();
    nodes.one.enqueue(new_message(tenant, &["x@example.net"], "body")).await.unwrap();
}

#[tokio::test]
async fn a_node_learns_what_another_one_has_changed() {
    let Some(nodes) = Nodes::start().await else { return };
    let (tenant, _) = nodes.delivery().await;
    nodes.other.feed().take();
    let version = nodes.other.version_of_owner(Some(tenant));
    let status = |status| TenantPatch { status: Some(status), ..TenantPatch::default() };
    let mut learned = Vec::new();
    let mut learns = async |what: &str, is_meant: &dyn Fn(&SpoolChange) -> bool| {
        until(what, async || {
            learned.extend(nodes.other.feed().take());
            learned.iter().any(is_meant)
        })
        .await;
    };
    nodes.one.update_tenant(tenant, status(TenantStatus::Suspended), now()).await.unwrap();
    learns("a suspension", &|change| matches!(change, SpoolChange::TenantSuspended(id) if *id == tenant))
        .await;
    nodes.one.update_tenant(tenant, status(TenantStatus::Active), now()).await.unwrap();
    learns("its end", &|change| matches!(change, SpoolChange::TenantResumed { .. })).await;
    let part = QueueFilter::tenant(tenant);
    let pause = Pause { part: part.clone(), reason: None, since: now(), until: None };
    nodes.one.pause(pause).await.unwrap();
    learns("a pause", &|change| matches!(change, SpoolChange::Paused { .. })).await;
    nodes.one.resume(part, now()).await.unwrap();
    learns("its end", &|change| matches!(change, SpoolChange::PauseLifted { .. })).await;
    assert!(nodes.other.version_of_owner(Some(tenant)) > version, "what is cached of the tenant");
    nodes.one.rotate_tokens(true, Timestamp::now()).await.unwrap();
    let subject = TokenSubject { scope: TokenScope::Delivery, id: DeliveryId::generate(now()).into() };
    let token = nodes.one.token_keys().issue(TokenKind::Bounce, subject).unwrap();
    let at = Timestamp::now();
    until("the keys of report addresses", async || nodes.other.token_keys().verify(&token, at).is_ok()).await;
}

#[tokio::test]
async fn the_last_committed_of_two_changes_on_two_nodes_counts_on_both() {
    let Some(nodes) = Nodes::start().await else { return };
    let (tenant, _) = nodes.delivery().await;
    let status = |status| TenantPatch { status: Some(status), ..TenantPatch::default() };
    nodes.one.update_tenant(tenant, status(TenantStatus::Suspended), now()).await.unwrap();
    nodes.one.update_tenant(tenant, status(TenantStatus::Active), now()).await.unwrap();
    // It may not know of the others yet.
    nodes.other.update_tenant(tenant, status(TenantStatus::Suspended), now()).await.unwrap();
    let mut learned = Vec::new();
    until("its own change behind those of the other node", async || {
        learned.extend(nodes.other.feed().take());
        let resumed = learned.iter().rposition(|change| matches!(change, SpoolChange::TenantResumed { .. }));
        resumed.is_some_and(|resumed| {
            learned[resumed..].iter().any(|change| matches!(change, SpoolChange::TenantSuspended(_)))
        })
    })
    .await;
}

#[tokio::test]
async fn a_webhook_that_a_node_has_created_gets_the_events_of_the_others() {
    let Some(nodes) = Nodes::start().await else { return };
    let (tenant, _) = nodes.delivery().await;
    // It knows the webhooks now.
    nodes.other.enqueue(new_message(tenant, &["x@example.net"], "body")).await.unwrap();
    let webhook = nodes.one.create_webhook(new_webhook(Some(tenant)), now()).await.unwrap();
    until("an event for the webhook", async || {
        nodes.other.enqueue(new_message(tenant, &["x@example.net"], "body")).await.unwrap();
        let sql = "SELECT count(*) FROM webhook_delivery WHERE webhook_id = ?1";
        let id = webhook.id;
        let count = nodes
            .one
            .read(move |connection| Ok(connection.query_row(sql, [id], |row| row.get::<_, i64>(0))?));
        count.await.unwrap() > 0
    })
    .await;
}

#[tokio::test]
async fn a_ban_and_its_lift_reach_the_other_node() {
    let Some(nodes) = Nodes::start().await else { return };
    let mut feed = nodes.other.take_ban_feed().unwrap();
    let subject = BanSubject::of_client("192.0.2.1".parse().unwrap());
    let end = now();
    for until in [Some(end), None] {
        let change = BanChange { subject, until };
        nodes.one.announce_ban(change).await.unwrap();
        let received = tokio::time::timeout(Duration::from_secs(20), feed.recv()).await.unwrap();
        assert_eq!(received, Some(change));
    }
    let both = [Some(end), None].map(|until| BanChange { subject, until });
    assert_eq!(nodes.other.announced_bans().await.unwrap(), both, "for a node that starts later");
}

#[tokio::test]
async fn a_change_of_the_directory_whose_outcome_was_not_known_counts_when_its_commit_is_seen() {
    let Some(nodes) = Nodes::start().await else { return };
    let tenant = nodes.bed.tenant("a").await.id;
    nodes.one.lease.note_unknown_outcome();
    let before = nodes.one.version_of_owner(Some(tenant));
    // The transaction is committed after its caller has got the error.
    let committed = format!(
        "INSERT INTO announcement (epoch, kind, tenant_id) VALUES ({}, 'owner', '{tenant}'); NOTIFY pillarbox",
        nodes.one.lease.epoch()
    );
    nodes.bed.harness.execute(&committed).await;
    until("the caches are read again", async || nodes.one.version_of_owner(Some(tenant)) > before).await;
}

#[tokio::test]
async fn a_back_off_and_its_end_reach_the_other_node_only() {
    let Some(nodes) = Nodes::start().await else { return };
    let (mut own, mut feed) =
        (nodes.one.take_backoff_feed().unwrap(), nodes.other.take_backoff_feed().unwrap());
    let backoff = |pool, until| AnnouncedBackoff {
        site: "0123abcd".into(),
        pool,
        until,
        reason: "421 4.7.0 too many connections".into(),
    };
    for all in [vec![backoff(Some(1), Some(now())), backoff(None, Some(now()))], vec![backoff(None, None)]] {
        nodes.one.announce_backoffs(all.clone()).await.unwrap();
        for expected in all {
            let received = tokio::time::timeout(Duration::from_secs(20), feed.recv()).await.unwrap();
            assert_eq!(received, Some(expected));
        }
    }
    // By now, the node itself would have read them.
    nodes.other.announce_backoffs(vec![backoff(None, None)]).await.unwrap();
    let received = tokio::time::timeout(Duration::from_secs(20), own.recv()).await.unwrap();
    assert_eq!(received, Some(backoff(None, None)));
}

#[tokio::test]
async fn an_erasure_that_two_nodes_apply_at_once_is_completed_and_counted_once() {
    let Some(nodes) = Nodes::start().await else { return };
    let tenant = nodes.bed.tenant("a").await.id;
    for _ in 0..5 {
        nodes.one.suppress(new_suppression(Some(tenant), "bob@one.example"), now()).await.unwrap();
        let erasure = NewErasure {
            id: ErasureId::generate(now()),
            tenant_id: Some(tenant),
            folded: "bob@one.example".into(),
            keeps_suppression: false,
        };
        let id = erasure.id;
        nodes.one.note_erasure(erasure, now()).await.unwrap();
        let (one, other) = tokio::join!(nodes.one.apply_erasures(now()), nodes.other.apply_erasures(now()));
        assert!(one.unwrap() + other.unwrap() > 0);
        assert_eq!(nodes.one.erasure(id).await.unwrap().unwrap().counts.suppressions, 1);
    }
    let count = nodes.one.read(move |connection| {
        let sql = "SELECT count(*) FROM event WHERE kind = 'recipient.erased'";
        Ok(connection.query_row(sql, [], |row| row.get::<_, i64>(0))?)
    });
    assert_eq!(count.await.unwrap(), 5);
}
