//! Back-off after refused and accepted logins at a smart host, and the writing of results, over a real store.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::result_record::UnattemptedBatch;
use super::result_writer::ResultWriter;
use super::{Relay, RelayContext};
use crate::clock::Clock;
use crate::config;
use crate::dns::Resolver;
use crate::mail::{DomainName, Host, SignedDuration, Timestamp};
use crate::model::{DeliveryState, DkimPolicy, TenantId, TlsMode};
use crate::queue::{ClaimLimits, NextHop, QueueManager, RouteDecision};
use crate::rng::Rng;
use crate::store::contract::{SqliteHarness, TestBed, ids, later, outcomes};
use crate::store::{
    AttemptRecord, Batch, Directory, NewSmartHost, NewTenant, Queue, RecordBatch, SmartHost, Spool,
    TenantPatch,
};

type Bed = TestBed<SqliteHarness>;

/// A tenant with an account at a smart host.
async fn tenant_with_smart_host(bed: &Bed) -> TenantId {
    let tenant = bed.tenant("a").await.id;
    let smart_host = SmartHost {
        host: "192.0.2.1".to_owned(),
        port: 587,
        user: Some("acme".into()),
        tls: TlsMode::None,
        destinations: Vec::new(),
        dkim: DkimPolicy::All,
        password_revision: 0,
    };
    let own = Some(Some(NewSmartHost { smart_host, password: Some("x".to_owned().into()) }));
    set_smart_host(bed, tenant, own).await;
    tenant
}

async fn set_smart_host(bed: &Bed, tenant: TenantId, smart_host: Option<Option<NewSmartHost>>) {
    let patch = TenantPatch { smart_host, ..TenantPatch::default() };
    bed.store.update_tenant(tenant, patch, later(0)).await.unwrap();
}

fn relay(bed: &Bed) -> RelayContext {
    let config = config::Relay::default();
    let queue = Arc::new(QueueManager::new(Arc::clone(&bed.store), &config, Clock::system(), Rng::system()));
    let resolver = Resolver::new(&config.name_servers, Rng::system()).unwrap();
    let hostname = DomainName::parse("relay.example").unwrap();
    Relay::new(&config, &hostname, queue, resolver).unwrap().context
}

async fn claim(context: &RelayContext, at: Timestamp) -> Vec<Batch> {
    let limits = ClaimLimits { deliveries_max: 9, per_tenant_max: 9, admits: Arc::new(|_: &Host| true) };
    context.queue.claim_due(at, &limits).await.unwrap().batches
}

async fn next_hop_of(context: &RelayContext, batch: &Batch) -> NextHop {
    match context.router.route_batch(batch).await.unwrap().map(|routed| routed.decision) {
        Some(RouteDecision::Known(queue_key)) => queue_key.next_hop,
        other => panic!("not over its smart host: {other:?}"),
    }
}

#[tokio::test]
async fn an_accepted_login_makes_all_mail_of_the_account_due() {
    let bed = Bed::new().await;
    let tenant = tenant_with_smart_host(&bed).await;
    bed.enqueue(tenant, &["a@x.example"]).await;
    bed.enqueue(tenant, &["b@y.example"]).await;
    let context = relay(&bed);
    let refused_at = later(0);
    let batches = claim(&context, refused_at).await;
    let (first, next_hop) = (&batches[0], next_hop_of(&context, &batches[0]).await);
    let backoff = context.logins.refused(&next_hop, first, "535 5.7.8 no", refused_at).await.unwrap();
    let next_attempt_at = Some(backoff.until + SignedDuration::from_hours(1));
    for batch in &batches {
        let unattempted = UnattemptedBatch { batch, now: refused_at };
        let record = unattempted.record_backoff(&batch.deliveries[0], "back-off", backoff.until);
        let records = vec![AttemptRecord { next_attempt_at, ..record }];
        bed.store.record(RecordBatch { records, report: None }).await.unwrap();
    }

    let early = backoff.until - SignedDuration::from_secs(1);
    assert!(context.logins.backoff_of(&next_hop, first, early).await.is_some());
    assert!(context.logins.backoff_of(&next_hop, first, backoff.until).await.is_none(), "one attempt");
    assert!(context.logins.backoff_of(&next_hop, &batches[1], backoff.until).await.is_some(), "and no other");
    assert!(claim(&context, backoff.until).await.is_empty());
    let ended = context.logins.accepted(&next_hop).unwrap();
    context.logins.end_backoff(&ended, "login_accepted", backoff.until).await;
    assert!(context.logins.backoff_of(&next_hop, &batches[1], backoff.until).await.is_none());
    assert!(context.queue.wait_reasons().records(backoff.until).is_empty());
    assert_eq!(ids(&claim(&context, backoff.until).await), ids(&batches));
}

#[tokio::test]
async fn a_back_off_does_not_end_by_an_unrelated_change() {
    let bed = Bed::new().await;
    let tenant = tenant_with_smart_host(&bed).await;
    bed.enqueue(tenant, &["a@x.example"]).await;
    let context = relay(&bed);
    let now = later(0);
    let batch = claim(&context, now).await.remove(0);
    let next_hop = next_hop_of(&context, &batch).await;
    context.logins.refused(&next_hop, &batch, "535 5.7.8 no", now).await.unwrap();
    assert!(context.logins.backoff_of(&next_hop, &batch, now).await.is_some());
    bed.store.create_tenant(NewTenant::named("other", "other"), now).await.unwrap();
    assert!(
        context.router.cached_account(tenant).is_some(),
        "what another tenant changes is not its concern"
    );
    // The cached answer of the directory is outdated.
    let renamed = TenantPatch { name: Some("new".into()), ..TenantPatch::default() };
    bed.store.update_tenant(tenant, renamed, now).await.unwrap();
    assert_eq!(context.router.cached_account(tenant), None);
    assert!(context.logins.backoff_of(&next_hop, &batch, now).await.is_some());
    set_smart_host(&bed, tenant, Some(None)).await;
    context.router.route_batch(&batch).await.unwrap();
    assert!(context.logins.backoff_of(&next_hop, &batch, now).await.is_none(), "it has none any more");
}

#[tokio::test]
async fn a_delivery_that_waits_for_a_back_off_keeps_the_time_of_its_last_attempt() {
    let bed = Bed::new().await;
    let tenant = tenant_with_smart_host(&bed).await;
    bed.enqueue(tenant, &["a@x.example"]).await;
    let context = relay(&bed);
    let accepted_at = later(0);
    let batch = claim(&context, accepted_at).await.remove(0);
    let updated_at = batch.deliveries[0].updated_at;
    let unattempted = UnattemptedBatch { batch: &batch, now: later(18_000) };
    let record = unattempted.record_backoff(&batch.deliveries[0], "back-off", later(18_060));
    bed.store.record(RecordBatch { records: vec![record], report: None }).await.unwrap();
    let again = claim(&context, later(18_060)).await.remove(0);
    assert_eq!(again.deliveries[0].updated_at, updated_at);
}

#[tokio::test]
async fn a_result_that_cannot_be_written_holds_back_no_other() {
    let bed = Bed::new().await;
    let tenant = bed.tenant("a").await.id;
    for recipient in ["a@x.example", "b@y.example", "c@z.example"] {
        bed.enqueue(tenant, &[recipient]).await;
    }
    let context = relay(&bed);
    let batches = claim(&context, later(0)).await;
    let [first, second, third] = &batches[..] else { panic!("{batches:?}") };
    let delivered = |batch: &Batch| outcomes(std::slice::from_ref(batch), DeliveryState::Delivered);
    let written = delivered(first);
    bed.store.record(written.clone()).await.unwrap();
    // The store refuses a second attempt with the id of the first.
    let mut unwritable = delivered(second);
    unwritable.records[0].attempt.as_mut().unwrap().id = written.records[0].attempt.as_ref().unwrap().id;
    let stop = CancellationToken::new();
    let writer = ResultWriter { queue: Arc::clone(&context.queue), stop: stop.clone() };
    let (results, waiting) = mpsc::channel(9);
    for batch in [unwritable, delivered(third)] {
        results.send(batch).await.unwrap();
    }
    let running = tokio::spawn(writer.run(waiting));
    let is_third_done = async || {
        let summaries = bed.store.open_deliveries(third.message.id).await.unwrap();
        summaries.deliveries.is_empty()
    };
    tokio::time::timeout(Duration::from_secs(20), async {
        while !is_third_done().await {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the writable result is written");
    assert_eq!(bed.store.open_deliveries(second.message.id).await.unwrap().deliveries.len(), 1);
    stop.cancel();
    drop(results);
    running.await.unwrap();
}
