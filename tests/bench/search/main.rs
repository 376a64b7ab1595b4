//! Measures the time of a page of messages or events, by filter.
//!   cargo run --release --example search_bench -- DIR [COUNT]
//! DIR must be new; a million needs about 2 GB. Prints one line of JSON for each figure. Target for 1,000,000: under 50 ms
//! for every page. A page has 20 items; half of the pages are at the top, half behind a random message. A page that
//! reaches the limit of examined rows counts as a page; `short` is the number of such pages.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use pillarbox::clock::Clock;
use pillarbox::mail::{Address, BodyType, Content, DomainName, Host, ReversePath, SignedDuration, Timestamp};
use pillarbox::model::{
    DeliveryId, DeliveryState, Environment, EventId, EventKind, KeyId, MessageId, MessageKind, TenantId,
};
use pillarbox::queue::{ClaimLimits, QueueManager};
use pillarbox::rng::Rng;
use pillarbox::store::{
    Annotations, AttemptRecord, Directory, EventFilter, Journal, Message, MessageFilter, Metadata,
    NewMessage, NewTenant, PageRequest, RecordBatch, Spool, SqliteOptions, Store,
};
use serde_json::json;
use ulid::Ulid;

const TENANTS: usize = 20;
const SUBMITTERS: usize = 256;
const PAGES: usize = 200;
const WORDS: [&str; 12] = [
    "order",
    "invoice",
    "reminder",
    "newsletter",
    "password",
    "welcome",
    "shipping",
    "receipt",
    "update",
    "ticket",
    "digest",
    "alert",
];

fn address(text: &str) -> Address {
    Address::parse(text).unwrap()
}

/// Half of all mail belongs to the first tenant, a third has the same sender, a tenth has the same recipient.
fn message(tenants: &[TenantId], number: usize) -> NewMessage {
    let now = Timestamp::now();
    let tenant_id = if number.is_multiple_of(2) { tenants[0] } else { tenants[number / 2 % tenants.len()] };
    let sender = match number % 3 {
        0 => "noreply@example.com".to_owned(),
        _ => format!("sender{}@example.com", number * 31 % 5000),
    };
    let recipient = match number % 10 {
        0 => "archive@example.net".to_owned(),
        _ => format!("user{}@d{}.example", number * 7 % 300_000, number % 500),
    };
    let subject = format!(
        "{} {} for customer {} in {}",
        WORDS[number % 12],
        number,
        number * 17 % 50_000,
        WORDS[number / 12 % 12]
    );
    let content =
        Content { prefix: Bytes::new(), submitted: Bytes::from_static(b"From: a@example.com\r\n\r\nx\r\n") };
    let message = Message {
        id: MessageId::generate(now),
        tenant_id,
        key_id: Some(KeyId::from(Ulid::from(number as u128 % 3))),
        kind: MessageKind::Message,
        environment: if number % 50 == 1 { Environment::Test } else { Environment::Live },
        reverse_path: ReversePath::Mailbox(address(&sender)),
        body: BodyType::SevenBit,
        smtputf8: false,
        parameters: Default::default(),
        annotations: Annotations {
            tags: if number.is_multiple_of(4) {
                vec![format!("campaign-{}", number / 4 % 100)]
            } else {
                vec![]
            },
            metadata: Metadata::of(json!({"order": number, "plan": number % 100}).as_object().unwrap()),
        },
        size: content.len() as u64,
        subject: Some(subject),
        header_from: Some(sender),
        header_message_id: Some(format!("{number}@example.com")),
        dkim_domain: None,
        sender_domain: None,
        list: None,
        created_at: now,
        expires_at: now + SignedDuration::from_hours(96),
    };
    let recipients = vec![(DeliveryId::generate(now), address(&recipient).into())];
    NewMessage { message, recipients, suppressed: vec![], content, submission_key: None }
}

async fn accept(store: &Arc<Store>, tenants: &Arc<Vec<TenantId>>, numbers: std::ops::Range<usize>) -> f64 {
    let started = Instant::now();
    let count = numbers.len();
    let submitters: Vec<_> = (0..SUBMITTERS)
        .map(|first| {
            let (store, tenants, numbers) = (store.clone(), tenants.clone(), numbers.clone());
            tokio::spawn(async move {
                for number in numbers.skip(first).step_by(SUBMITTERS) {
                    store.enqueue(message(&tenants, number)).await.unwrap();
                }
            })
        })
        .collect();
    for submitter in submitters {
        submitter.await.unwrap();
    }
    count as f64 / started.elapsed().as_secs_f64()
}

/// Finishes all deliveries: of a thousand, 10 bounce, 1 expires, the rest is delivered.
async fn deliver(store: &Arc<Store>) {
    let queue = QueueManager::new(store.clone(), &Default::default(), Clock::system(), Rng::system());
    let limits =
        ClaimLimits { deliveries_max: 1000, per_tenant_max: 1000, admits: Arc::new(|_: &Host| true) };
    let mut number = 0_usize;
    loop {
        let batches = queue.claim_due(Timestamp::now(), &limits).await.unwrap().batches;
        if batches.is_empty() {
            return;
        }
        let mut records = Vec::new();
        for batch in &batches {
            for delivery in &batch.deliveries {
                number += 1;
                let state = match number % 1000 {
                    0..10 => DeliveryState::Bounced,
                    10 => DeliveryState::Expired,
                    _ => DeliveryState::Delivered,
                };
                records.push(AttemptRecord {
                    message_id: batch.message.id,
                    kind: batch.message.kind,
                    tenant_id: batch.message.tenant_id,
                    environment: batch.message.environment,
                    key_id: batch.message.key_id,
                    sender_domain: batch.message.usage_domain().cloned(),
                    delivery_id: delivery.id,
                    state,
                    bounce_class: None,
                    next_attempt_at: None,
                    attempt: None,
                    reply: "250 2.0.0 fine".into(),
                    suppress: None,
                    delayed: false,
                    at: Timestamp::now(),
                });
            }
        }
        store.record(RecordBatch { records, report: None }).await.unwrap();
    }
}

async fn follow(store: &Store) -> f64 {
    let started = Instant::now();
    while store.index_messages().await.unwrap() {}
    started.elapsed().as_secs_f64()
}

fn filters(tenants: &[TenantId]) -> Vec<(&'static str, MessageFilter)> {
    let all = MessageFilter::default;
    let large = || MessageFilter { tenant_id: Some(tenants[0]), ..all() };
    let small = || MessageFilter { tenant_id: Some(tenants[7]), ..all() };
    let from = |text: &str| Some(ReversePath::Mailbox(address(text)));
    let to = |text: &str| Some(address(text));
    let subject = |text: &str| Some(text.parse().unwrap());
    let metadata = |key: &str, value: &str| vec![(key.to_owned(), value.to_owned())];
    let domain = |text: &str| Some(DomainName::parse(text).unwrap());
    let key = |number: u128| KeyId::from(Ulid::from(number));
    let (common, rare) = ("noreply@example.com", "sender31@example.com");
    let (archive, user) = ("archive@example.net", "user7@d1.example");
    let in_state = DeliveryState::Bounced;
    vec![
        ("everything", all()),
        ("tenant", small()),
        ("to, rare", MessageFilter { to: to(user), ..all() }),
        ("to, a tenth of all", MessageFilter { to: to(archive), ..all() }),
        ("to, a tenth of all, tenant", MessageFilter { to: to(archive), ..small() }),
        ("to, nobody", MessageFilter { to: to("nobody@example.net"), ..all() }),
        ("message id", MessageFilter { header_message_id: Some("777@example.com".into()), ..all() }),
        ("from, rare", MessageFilter { from: from(rare), ..all() }),
        ("from, a third of all", MessageFilter { from: from(common), ..all() }),
        ("from, a third of all, tenant", MessageFilter { from: from(common), ..small() }),
        ("from, nobody", MessageFilter { from: from("nobody@example.com"), ..all() }),
        ("tag", MessageFilter { tag: Some("campaign-42".into()), ..all() }),
        ("metadata, one in a million", MessageFilter { metadata: metadata("order", "777"), ..all() }),
        (
            "metadata, a hundredth of all, tenant",
            MessageFilter { metadata: metadata("plan", "7"), ..small() },
        ),
        (
            "metadata, two that never meet",
            MessageFilter { metadata: [metadata("plan", "7"), metadata("order", "8")].concat(), ..all() },
        ),
        ("recipient domain", MessageFilter { recipient_domain: domain("d1.example"), ..all() }),
        (
            "recipient domain, a tenth of all, tenant",
            MessageFilter { recipient_domain: domain("example.net"), ..small() },
        ),
        ("key, a third of all", MessageFilter { key_id: Some(key(1)), ..all() }),
        (
            "key and recipient domain, tenant",
            MessageFilter { key_id: Some(key(1)), recipient_domain: domain("example.net"), ..large() },
        ),
        (
            "tag and status bounced, tenant",
            MessageFilter { tag: Some("campaign-42".into()), status: Some(in_state), ..large() },
        ),
        ("environment test", MessageFilter { environment: Some(Environment::Test), ..all() }),
        ("subject, one in a million", MessageFilter { subject: subject("777"), ..all() }),
        ("subject, a sixth of all", MessageFilter { subject: subject("invoice"), ..all() }),
        ("subject, a sixth of all, tenant", MessageFilter { subject: subject("invoice"), ..small() }),
        ("subject, all of all", MessageFilter { subject: subject("customer"), ..all() }),
        ("subject, two words", MessageFilter { subject: subject("shipping invoice"), ..large() }),
        ("subject, beginning of a word", MessageFilter { subject: subject("customer inv"), ..all() }),
        ("subject, one letter", MessageFilter { subject: subject("i"), ..all() }),
        ("subject, one digit", MessageFilter { subject: subject("1"), ..all() }),
        ("status delivered", MessageFilter { status: Some(DeliveryState::Delivered), ..all() }),
        ("status queued", MessageFilter { status: Some(DeliveryState::Queued), ..all() }),
        ("status queued, tenant", MessageFilter { status: Some(DeliveryState::Queued), ..small() }),
        ("status bounced", MessageFilter { status: Some(in_state), ..all() }),
        ("status bounced, tenant", MessageFilter { status: Some(in_state), ..small() }),
        ("status expired", MessageFilter { status: Some(DeliveryState::Expired), ..all() }),
        ("status cancelled, none", MessageFilter { status: Some(DeliveryState::Cancelled), ..large() }),
        (
            "from and subject, tenant",
            MessageFilter { from: from(common), subject: subject("invoice"), ..large() },
        ),
        ("from and status bounced", MessageFilter { from: from(common), status: Some(in_state), ..all() }),
        (
            "from, subject and status expired, tenant",
            MessageFilter {
                from: from(common),
                subject: subject("order"),
                status: Some(DeliveryState::Expired),
                ..large()
            },
        ),
        (
            "to, from and subject",
            MessageFilter { to: to(archive), from: from(common), subject: subject("order"), ..all() },
        ),
        (
            "to and status bounced, tenant",
            MessageFilter { to: to(archive), status: Some(in_state), ..large() },
        ),
        (
            "to and from that never meet",
            MessageFilter { to: to(archive), from: from("sender1@example.com"), ..all() },
        ),
        (
            "from and environment that hardly meet",
            MessageFilter { from: from(common), environment: Some(Environment::Test), ..small() },
        ),
        (
            "subject and status delivered behind a backlog",
            MessageFilter { subject: subject("invoice"), status: Some(DeliveryState::Delivered), ..all() },
        ),
    ]
}

/// Measures pages. `list` returns the number of items on a page and whether it is short.
async fn measure(
    what: &str,
    cursors: &[Ulid],
    list: impl AsyncFn(Option<Ulid>, PageRequest) -> (usize, bool),
) -> f64 {
    let (mut took_ms, mut items, mut short) = (Vec::new(), 0, 0);
    for number in 0..PAGES {
        let cursor = (number % 2 == 1).then(|| cursors[number * 37 % cursors.len()]);
        let request = PageRequest { limit: 20, ..PageRequest::default() };
        let started = Instant::now();
        let (on_page, has_more) = list(cursor, request).await;
        took_ms.push(started.elapsed().as_secs_f64() * 1000.0);
        items += on_page;
        short += usize::from(has_more && on_page < 20);
    }
    took_ms.sort_by(f64::total_cmp);
    let (median, p99) = (took_ms[PAGES / 2], took_ms[PAGES * 99 / 100]);
    let mean_items = items as f64 / PAGES as f64;
    println!("{}", json!({"by": what, "p50_ms": median, "p99_ms": p99, "items": mean_items, "short": short}));
    p99
}

async fn measure_messages(store: &Store, cursors: &[Ulid], what: &str, filter: MessageFilter) -> f64 {
    measure(what, cursors, async |cursor, request| {
        let after = cursor.map(|id| MessageId::from(id).to_string());
        let page = store.list_messages(filter.clone(), PageRequest { after, ..request }).await.unwrap();
        (page.items.len(), page.next.is_some())
    })
    .await
}

async fn measure_events(store: &Store, cursors: &[Ulid], what: &str, filter: EventFilter) -> f64 {
    measure(what, cursors, async |cursor, request| {
        let after = cursor.map(|id| EventId::from(id).to_string());
        let page = store.list_events(filter.clone(), PageRequest { after, ..request }).await.unwrap();
        (page.items.len(), page.next.is_some())
    })
    .await
}

fn event_filters(tenants: &[TenantId]) -> Vec<(&'static str, EventFilter)> {
    let all = EventFilter::default;
    let (small, nobody) = (Some(tenants[7]), Some(TenantId::generate(Timestamp::now())));
    vec![
        ("events", all()),
        ("events, tenant", EventFilter { tenant_id: small, ..all() }),
        ("events, tenant without any", EventFilter { tenant_id: nobody, ..all() }),
        ("events, bounced", EventFilter { kind: Some(EventKind::MessageBounced), ..all() }),
        (
            "events, bounced, tenant",
            EventFilter { kind: Some(EventKind::MessageBounced), tenant_id: small, ..all() },
        ),
    ]
}

async fn run(dir: PathBuf, count: usize) {
    let options = SqliteOptions { read_connections: 4, hot_queue_bytes_max: 0, ..SqliteOptions::at(&dir) };
    let store = Arc::new(Store::open(options).await.unwrap());
    let mut tenants = Vec::new();
    for number in 0..TENANTS {
        let new = NewTenant::named(&format!("Tenant {number}"), &format!("tenant-{number}"));
        tenants.push(store.create_tenant(new, Timestamp::now()).await.unwrap().id);
    }
    let tenants = Arc::new(tenants);
    let backlog = count / 50;
    let rate = accept(&store, &tenants, 0..count - backlog).await;
    println!("{}", json!({"accepted_per_s": rate as u64}));
    let started = Instant::now();
    deliver(&store).await;
    println!("{}", json!({"delivered_s": started.elapsed().as_secs_f64()}));
    println!("{}", json!({"indexed_s": follow(&store).await, "messages": count - backlog}));
    // Alternately with a search index that is a second behind, and without search.
    let stop = tokio_util::sync::CancellationToken::new();
    let mut ratios = Vec::new();
    for round in 0..5 {
        let part = backlog / 10;
        let first = count - backlog + 2 * round * part;
        let alone = accept(&store, &tenants, first..first + part).await;
        let stopped = stop.child_token();
        let indexer = tokio::spawn(pillarbox::maintenance::search_indexer::run(
            store.clone(),
            Clock::system(),
            stopped.clone(),
        ));
        let beside = accept(&store, &tenants, first + part..first + 2 * part).await;
        stopped.cancel();
        indexer.await.unwrap();
        follow(&store).await;
        ratios.push(beside / alone);
        println!(
            "{}",
            json!({"round": round, "alone_per_s": alone as u64, "beside_the_indexer_per_s": beside as u64})
        );
    }
    ratios.sort_by(f64::total_cmp);
    println!("{}", json!({"acceptance_beside_to_alone_median": ratios[ratios.len() / 2]}));
    follow(&store).await;
    store.checkpoint().await.unwrap();

    let mut cursors = Vec::new();
    let mut request = PageRequest { limit: 100, ..PageRequest::default() };
    while let Some(last) = store.list_messages(MessageFilter::default(), request.clone()).await.unwrap().next
    {
        cursors.push(last.into());
        request.after = Some(last.to_string());
    }
    let mut worst: f64 = 0.0;
    for (what, filter) in filters(&tenants) {
        worst = worst.max(measure_messages(&store, &cursors, what, filter).await);
    }
    for (what, filter) in event_filters(&tenants) {
        worst = worst.max(measure_events(&store, &cursors, what, filter).await);
    }
    println!("{}", json!({"worst_p99_ms": worst}));
    store.close().await;
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let dir = PathBuf::from(arguments.first().expect("the directory to fill"));
    let count = arguments.get(1).map_or(1_000_000, |count| count.parse().expect("a number"));
    std::fs::create_dir(&dir).expect("a directory that does not exist yet");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(run(dir, count));
}
