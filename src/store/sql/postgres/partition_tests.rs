//! How partitions are made and dropped.

use tokio_postgres::Client;

use crate::mail::{SignedDuration, Timestamp};
use crate::model::{AttemptId, DeliveryState, EventId, MessageId, TenantId};
use crate::store::contract::postgres::PostgresHarness;
use crate::store::contract::{Harness, KEEP, TestBed, new_message, now, outcomes};
use crate::store::{
    Batch, Directory, EventFilter, Journal, MessageFilter, NewMessage, PageRequest, Pruned, RetentionPolicy,
    Spool, TenantPatch,
};

type Bed = TestBed<PostgresHarness>;

const WEEKLY: [&str; 5] = ["message", "delivery", "attempt", "event", "message_search"];
const POLICY: RetentionPolicy = RetentionPolicy { body_days: 3, row_days: 30, ..KEEP };
const HOUR: SignedDuration = SignedDuration::from_hours(1);

/// A store with partitions for the times of the tests.
struct Fixture {
    bed: Bed,
    client: Client,
    /// The end of the week in which everything happens.
    week_end: Timestamp,
}

impl Fixture {
    async fn new() -> Option<Self> {
        if !PostgresHarness::is_available() {
            return None;
        }
        let bed = Bed::without_hand_over().await;
        bed.store.extend_partitions(now()).await.unwrap();
        let client = bed.harness.connect().await;
        // A Monday.
        let week_end: Timestamp = "2027-01-18T00:00:00Z".parse().unwrap();
        Some(Self { bed, client, week_end })
    }

    fn after_week(&self, days: i64) -> Timestamp {
        self.week_end + SignedDuration::from_hours(24 * days) + HOUR
    }

    /// Delivers all messages but one; returns it.
    async fn deliver_all_but(&self, open: Option<&NewMessage>) -> Vec<Batch> {
        let batches = self.bed.claim(now() + HOUR).await.batches;
        let is_open = |batch: &Batch| open.is_some_and(|open| open.message.id == batch.message.id);
        let (open, closed): (Vec<_>, Vec<_>) = batches.into_iter().partition(is_open);
        self.record(&closed, DeliveryState::Delivered).await;
        open
    }

    async fn record(&self, batches: &[Batch], state: DeliveryState) {
        self.bed.store.record(outcomes(batches, state)).await.unwrap();
    }

    async fn prune(&self, at: Timestamp) -> Pruned {
        let mut sum = Pruned::default();
        loop {
            let pruned = self.bed.store.prune(POLICY, at, 100).await.unwrap();
            sum.messages += pruned.messages;
            sum.bodies += pruned.bodies;
            sum.events += pruned.events;
            if !pruned.truncated {
                return sum;
            }
        }
    }

    async fn partitions(&self, table: &str) -> Vec<String> {
        partitions(&self.client, table).await
    }

    async fn count(&self, sql: &str) -> i64 {
        self.client.query_one(sql, &[]).await.unwrap().get(0)
    }

    async fn is_served(&self, new: &NewMessage) -> bool {
        let (store, id) = (&self.bed.store, new.message.id);
        let is_found = store.message(None, id).await.unwrap().is_some();
        assert_eq!(store.deliveries(id).await.unwrap().len(), usize::from(is_found));
        assert_eq!(store.message_events(id, None, 10).await.unwrap().items.is_empty(), !is_found);
        is_found
    }

    async fn has_body(&self, new: &NewMessage) -> bool {
        let content = self.bed.store.content(new.message.id, now()).await.unwrap();
        assert!(content.as_ref().is_none_or(|content| *content == new.content));
        content.is_some()
    }

    async fn large_message(&self, tenant: TenantId) -> NewMessage {
        let new = new_message(tenant, &["large@one.example"], &"x".repeat(600_000));
        self.bed.store.enqueue(new.clone()).await.unwrap();
        new
    }
}

/// Names without that of the table, in order.
async fn partitions(client: &Client, table: &str) -> Vec<String> {
    let sql =
        "SELECT substr(c.relname, length($1) + 2) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
               WHERE i.inhparent = to_regclass($1) ORDER BY 1";
    client.query(sql, &[&table]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn partitions_are_made_ahead_also_of_rows_that_came_before_them() {
    let Some(fixture) = Fixture::new().await else { return };
    let Fixture { bed, week_end, .. } = &fixture;
    for table in WEEKLY {
        let weeks = ["20270111", "20270118", "20270125", "future", "past"];
        assert_eq!(fixture.partitions(table).await, weeks, "{table}");
    }
    for table in ["body", "body_piece"] {
        let days = ["20270115", "20270116", "20270117", "future", "past"];
        assert_eq!(fixture.partitions(table).await, days, "{table}");
    }
    let tenant = bed.tenant("a").await.id;
    let at = |weeks: i64| *week_end + SignedDuration::from_hours(24 * 7 * weeks) + HOUR;
    let mut messages = Vec::new();
    // Of a wrong clock, and of nodes that could not make partitions.
    for weeks in [-400, 0, 8, 9, 400] {
        let mut new = new_message(tenant, &["x@one.example"], "body");
        new.message.id = MessageId::generate(at(weeks));
        new.recipients[0].0 = crate::model::DeliveryId::generate(at(weeks));
        bed.store.enqueue(new.clone()).await.unwrap();
        messages.push(new);
    }
    assert_eq!(fixture.count("SELECT count(*) FROM message_future").await, 3);
    bed.store.extend_partitions(at(8)).await.unwrap();
    let weeks = ["20270111", "20270118", "20270125", "20270201", "future", "past"];
    assert_eq!(fixture.partitions("delivery").await, weeks);
    let days = ["20270115", "20270116", "20270117", "20270118", "20270316", "20270317", "future", "past"];
    assert_eq!(fixture.partitions("body_piece").await, days);
    assert_eq!(fixture.count("SELECT count(*) FROM message_past").await, 1);
    assert_eq!(fixture.count("SELECT count(*) FROM message_20270201").await, 2);
    assert_eq!(fixture.count("SELECT count(*) FROM body_future").await, 2);
    assert_eq!(fixture.count("SELECT count(*) FROM message_future").await, 1);
    for new in &messages {
        assert!(fixture.is_served(new).await && fixture.has_body(new).await);
    }
    let list = MessageFilter { tenant_id: Some(tenant), ..MessageFilter::default() };
    let page = PageRequest { limit: 10, ..PageRequest::default() };
    let listed = bed.store.list_messages(list, page).await.unwrap().items;
    let ids: Vec<_> = messages.iter().rev().map(|new| new.message.id).collect();
    assert_eq!(listed.iter().map(|item| item.message.id).collect::<Vec<_>>(), ids);
    // Nothing is left to do.
    let before = fixture.partitions("event").await;
    bed.store.extend_partitions(at(8)).await.unwrap();
    assert_eq!(fixture.partitions("event").await, before);
}

#[tokio::test]
async fn partitions_wait_for_statements_of_others_and_mail_does_not() {
    let Some(fixture) = Fixture::new().await else { return };
    let Fixture { bed, client, week_end } = &fixture;
    let tenant = bed.tenant("a").await.id;
    client.batch_execute("BEGIN; SELECT count(*) FROM message").await.unwrap();
    let before = fixture.partitions("message").await;
    bed.store.extend_partitions(*week_end + HOUR).await.unwrap();
    assert_eq!(fixture.partitions("message").await, before);
    assert!(fixture.is_served(&bed.enqueue(tenant, &["x@one.example"]).await).await);
    client.batch_execute("COMMIT").await.unwrap();
    bed.store.extend_partitions(*week_end + HOUR).await.unwrap();
    assert_eq!(fixture.partitions("message").await.len(), before.len() + 1);
}

#[tokio::test]
async fn a_drop_that_met_statements_of_others_is_tried_again_after_a_minute() {
    let Some(fixture) = Fixture::new().await else { return };
    let (client, at) = (&fixture.client, fixture.after_week(30));
    let is_dropped = async || !fixture.partitions("message").await.contains(&"20270111".to_owned());
    client.batch_execute("BEGIN; SELECT count(*) FROM message").await.unwrap();
    fixture.prune(at).await;
    client.batch_execute("COMMIT").await.unwrap();
    assert!(!is_dropped().await);
    // Each step of retention would stop mail once more.
    fixture.prune(at).await;
    assert!(!is_dropped().await);
    fixture.prune(at + SignedDuration::from_mins(1)).await;
    assert!(is_dropped().await);
}

#[tokio::test]
async fn a_week_past_its_retention_is_dropped_as_a_whole() {
    let Some(fixture) = Fixture::new().await else { return };
    let Fixture { bed, client, .. } = &fixture;
    let tenant = bed.tenant("a").await.id;
    let mut messages = vec![fixture.large_message(tenant).await];
    for _ in 0..20 {
        messages.push(bed.enqueue(tenant, &["x@one.example"]).await);
    }
    let refused = bed.enqueue(tenant, &["refused@one.example"]).await;
    let batches = fixture.deliver_all_but(Some(&refused)).await;
    fixture.record(&batches, DeliveryState::Bounced).await;
    while bed.store.index_messages().await.unwrap() {}
    assert_eq!(fixture.count("SELECT count(*) FROM message_search_20270111").await, 22);
    assert_eq!(fixture.count("SELECT count(*) FROM trouble").await, 1);
    refuse_deletions(client).await;

    let pruned = fixture.prune(fixture.after_week(0)).await;
    assert_eq!(pruned, Pruned::default());
    assert!(fixture.has_body(&messages[0]).await, "its day has not been over for three days");
    let pruned = fixture.prune(fixture.after_week(1)).await;
    assert_eq!(pruned, Pruned::default(), "not one by one");
    assert!(!fixture.has_body(&messages[0]).await && !fixture.has_body(&refused).await);
    assert!(!fixture.partitions("body").await.contains(&"20270115".to_owned()));
    assert_eq!(fixture.count("SELECT count(*) FROM body").await, 0);
    assert!(fixture.is_served(&messages[0]).await);
    let pruned = fixture.prune(fixture.after_week(29)).await;
    assert_eq!(pruned, Pruned::default());
    assert!(fixture.is_served(&messages[0]).await);

    let pruned = fixture.prune(fixture.after_week(30)).await;
    assert_eq!(pruned, Pruned::default(), "not one by one");
    for table in WEEKLY {
        let found = fixture.partitions(table).await;
        assert_eq!(found, ["20270118", "20270125", "future", "past"], "{table}");
        let sql = format!("SELECT count(*) FROM {table} WHERE {} LIKE '%'", key_of(table));
        assert_eq!(fixture.count(&sql).await, 0, "{table}");
    }
    let left = "SELECT (SELECT count(*) FROM trouble) + (SELECT count(*) FROM queue)";
    assert_eq!(fixture.count(left).await, 0);
    for new in messages.iter().chain([&refused]) {
        assert!(!fixture.is_served(new).await);
    }
    // What is older than all partitions has a place again.
    assert!(fixture.is_served(&bed.enqueue(tenant, &["x@one.example"]).await).await);
    assert_eq!(fixture.count("SELECT count(*) FROM message_past").await, 1);
}

/// Lets deletions of rows fail.
async fn refuse_deletions(client: &Client) {
    let refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                      RAISE EXCEPTION 'a row of % is deleted alone', TG_TABLE_NAME;
                  END $$";
    client.batch_execute(refuse).await.unwrap();
    for table in WEEKLY.into_iter().chain(["body", "body_piece"]) {
        let trigger =
            format!("CREATE TRIGGER refuse BEFORE DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION refuse()");
        client.batch_execute(&trigger).await.unwrap();
    }
}

fn key_of(table: &str) -> &'static str {
    if table == "message_search" { "message_id" } else { "id" }
}

#[tokio::test]
async fn a_week_with_an_open_delivery_stays() {
    let Some(fixture) = Fixture::new().await else { return };
    let bed = &fixture.bed;
    let tenant = bed.tenant("a").await.id;
    let (done, open) = (bed.enqueue(tenant, &["x@one.example"]).await, fixture.large_message(tenant).await);
    let batches = fixture.deliver_all_but(Some(&open)).await;
    let pruned = fixture.prune(fixture.after_week(30)).await;
    assert_eq!((pruned.messages, pruned.bodies), (0, 0));
    assert!(fixture.partitions("message").await.contains(&"20270111".to_owned()));
    assert!(fixture.is_served(&done).await && fixture.is_served(&open).await);
    // Only what is open has its body still.
    assert!(!fixture.has_body(&done).await && fixture.has_body(&open).await);
    assert!(fixture.partitions("body").await.contains(&"20270115_kept".to_owned()));
    assert_eq!(fixture.count("SELECT count(*) FROM body_20270115_kept").await, 1);
    assert_eq!(fixture.count("SELECT count(*) FROM body_piece").await, 3);

    // Others do not wait for ever.
    let pruned = fixture.prune(fixture.after_week(38)).await;
    assert_eq!(pruned.messages, 1);
    assert!(
        !fixture.is_served(&done).await && fixture.is_served(&open).await && fixture.has_body(&open).await
    );
    fixture.record(&batches, DeliveryState::Delivered).await;
    fixture.prune(fixture.after_week(40)).await;
    assert!(!fixture.is_served(&open).await && !fixture.has_body(&open).await);
    assert!(!fixture.partitions("message").await.contains(&"20270111".to_owned()));
    fixture.prune(fixture.after_week(41)).await;
    assert!(!fixture.partitions("body").await.iter().any(|name| name.ends_with("_kept")));
}

#[tokio::test]
async fn an_open_delivery_with_an_id_of_another_week_than_its_message_is_kept() {
    // In days from the end of the week: the clock jumped between the two.
    for (message, delivery) in [(-1, 3), (1, -1)] {
        let Some(fixture) = Fixture::new().await else { return };
        let Fixture { bed, week_end, .. } = &fixture;
        let at = |days: i64| *week_end + SignedDuration::from_hours(24 * days);
        let mut new = new_message(bed.tenant("a").await.id, &["x@one.example"], "body");
        new.message.id = MessageId::generate(at(message));
        new.recipients[0].0 = crate::model::DeliveryId::generate(at(delivery));
        bed.store.enqueue(new.clone()).await.unwrap();
        fixture.prune(fixture.after_week(30)).await;
        assert!(fixture.partitions("delivery").await.contains(&"20270111".to_owned()));
        assert!(fixture.is_served(&new).await && fixture.has_body(&new).await);
        let batches = bed.claim(now() + HOUR).await.batches;
        assert_eq!(batches.len(), 1);
        fixture.record(&batches, DeliveryState::Delivered).await;
        fixture.prune(fixture.after_week(40)).await;
        assert!(!fixture.partitions("delivery").await.contains(&"20270111".to_owned()));
    }
}

#[tokio::test]
async fn what_ended_late_keeps_its_week_and_its_events_go_with_it() {
    let Some(fixture) = Fixture::new().await else { return };
    let Fixture { bed, client, .. } = &fixture;
    let tenant = bed.tenant("a").await.id;
    let new = bed.enqueue(tenant, &["x@one.example"]).await;
    fixture.deliver_all_but(None).await;
    let id = new.message.id;
    // A report and an attempt of a later week.
    let later = fixture.after_week(2);
    let sql = format!(
        "UPDATE delivery SET updated_us = {};
         INSERT INTO event (id, kind, tenant_id, message_id, data, created_us)
         VALUES ('{}', 'message.reported', '{tenant}', '{id}', '{{}}', 0);
         INSERT INTO attempt (id, message_id, delivery_id, started_us, duration_ms, host, text, transcript, outcome, reason)
         VALUES ('{}', '{id}', '{}', 0, 0, 'mx.one.example', '', '', 'delivered', 'reply');
         INSERT INTO report (id, tenant_id, message_id, kind, rule, effect, reporter, digest, times, created_us, last_us)
         VALUES ('rpt_1', '{tenant}', '{id}', 'other', 'other', 'none', '{{}}', decode('00', 'hex'), 1, 0, 0);
         INSERT INTO report_count VALUES ('{id}', '{id}', 0, 1, 1)",
        later.as_microsecond(),
        EventId::generate(later),
        AttemptId::generate(later),
        new.recipients[0].0
    );
    client.batch_execute(&sql).await.unwrap();
    fixture.prune(fixture.after_week(31)).await;
    assert!(fixture.is_served(&new).await);
    fixture.prune(later + SignedDuration::from_hours(24 * 30) + HOUR).await;
    assert!(!fixture.is_served(&new).await);
    for table in ["event", "attempt", "delivery", "report", "report_count"] {
        let left = format!("SELECT count(*) FROM {table} WHERE message_id IS NOT NULL");
        assert_eq!(fixture.count(&left).await, 0, "{table}");
    }
    assert!(!fixture.partitions("event").await.contains(&"20270111".to_owned()));
}

#[tokio::test]
async fn a_tenant_with_longer_retention_keeps_the_week() {
    let Some(fixture) = Fixture::new().await else { return };
    let bed = &fixture.bed;
    let (a, long) = (bed.tenant("a").await.id, bed.tenant("long").await.id);
    let patch = TenantPatch {
        retention_days: Some(Some(90)),
        body_retention_days: Some(Some(90)),
        ..TenantPatch::default()
    };
    bed.store.update_tenant(long, patch, now()).await.unwrap();
    let (short_lived, kept) =
        (bed.enqueue(a, &["x@one.example"]).await, bed.enqueue(long, &["x@one.example"]).await);
    fixture.deliver_all_but(None).await;
    let pruned = fixture.prune(fixture.after_week(1)).await;
    assert_eq!((pruned.bodies, pruned.messages), (1, 0));
    let pruned = fixture.prune(fixture.after_week(30)).await;
    assert_eq!(pruned.messages, 1);
    assert!(!fixture.is_served(&short_lived).await);
    assert!(fixture.is_served(&kept).await && fixture.has_body(&kept).await);
    let events = EventFilter { tenant_id: Some(long), ..EventFilter::default() };
    let page = PageRequest { limit: 10, ..PageRequest::default() };
    assert!(!bed.store.list_events(events, page).await.unwrap().items.is_empty());
    let pruned = fixture.prune(fixture.after_week(90)).await;
    assert_eq!(pruned.messages, 0);
    assert!(!fixture.is_served(&kept).await && !fixture.has_body(&kept).await);
    assert!(!fixture.partitions("message").await.contains(&"20270111".to_owned()));
}

#[tokio::test]
async fn the_rows_of_an_older_database_stay_where_they_are() {
    let Some(harness) = harness().await else { return };
    let client = harness.connect().await;
    for migration in [include_str!("migrations/0001_initial.sql"), include_str!("migrations/0002_quota.sql")]
    {
        client.batch_execute(migration).await.unwrap();
    }
    let (at, tenant) = (Timestamp::now() - SignedDuration::from_hours(24 * 20), TenantId::generate(now()));
    let (message, delivery) = (MessageId::generate(at), crate::model::DeliveryId::generate(at));
    let at_us = at.as_microsecond();
    let rows = format!(
        "CREATE TABLE schema_version (version BIGINT PRIMARY KEY);
         INSERT INTO schema_version VALUES (1), (2);
         INSERT INTO tenant (id, name, slug, metadata, settings, rate_limit, status, created_us, updated_us)
         VALUES ('{tenant}', 'A', 'a', '{{}}', '{{}}', '{{}}', 'active', 0, 0);
         INSERT INTO message (id, tenant_id, environment, reverse_path, body, smtputf8, size, created_us, expires_us)
         VALUES ('{message}', '{tenant}', 'live', 'a@b.example', '8bitmime', FALSE, 7, {at_us}, {at_us});
         INSERT INTO delivery (id, message_id, tenant_id, position, recipient, destination, state, attempts,
                               next_attempt_us, updated_us)
         VALUES ('{delivery}', '{message}', '{tenant}', 0, 'x@one.example', 'one.example', 'queued', 0, 0, {at_us});
         INSERT INTO queue VALUES ('{delivery}', '{tenant}', 'one.example', 0, 0);
         INSERT INTO body (message_id, prefix, submitted) VALUES ('{message}', 'abc', 'defg');
         INSERT INTO event (id, kind, tenant_id, message_id, data, created_us)
         VALUES ('{}', 'message.accepted', '{tenant}', '{message}', '{{}}', {at_us})",
        EventId::generate(at)
    );
    client.batch_execute(&rows).await.unwrap();
    let files = "SELECT string_agg(pg_relation_filepath(CAST(name AS regclass)), ',' ORDER BY name) FROM unnest($1::text[]) AS name";
    let tables = ["message", "delivery", "event", "message_search"];
    let names = |suffix: &str| tables.map(|table| format!("{table}{suffix}")).to_vec();
    let before: String = client.query_one(files, &[&names("")]).await.unwrap().get(0);

    let store = harness.open(0).await;
    assert_eq!(partitions(&client, "message").await, ["future"]);
    store.extend_partitions(Timestamp::now()).await.unwrap();
    let found = partitions(&client, "message").await;
    assert_eq!(found.len(), 5, "{found:?}");
    let first = format!("_{}", found[0]);
    let after: String = client.query_one(files, &[&names(&first)]).await.unwrap().get(0);
    assert_eq!(after, before);
    let bed = Bed::of(harness, store);
    assert!(bed.store.message(None, message).await.unwrap().is_some());
    assert_eq!(bed.store.content(message, now()).await.unwrap().unwrap().len(), 7);
    let batches = bed.claim(now()).await.batches;
    bed.store.record(outcomes(&batches, DeliveryState::Bounced)).await.unwrap();
    assert_eq!(bed.store.count_open().await.unwrap(), 0);
    let ordered =
        "SELECT array_agg(kind ORDER BY transaction_id, number) FROM event WHERE kind LIKE 'message.%'";
    let kinds: Vec<String> = client.query_one(ordered, &[]).await.unwrap().get(0);
    assert_eq!(kinds, ["message.accepted", "message.bounced"]);
    let later = Timestamp::now() + SignedDuration::from_hours(24 * 60);
    bed.store.prune(POLICY, later, 100).await.unwrap();
    assert!(bed.store.content(message, now()).await.unwrap().is_none());
}

async fn harness() -> Option<PostgresHarness> {
    if PostgresHarness::is_available() { Some(PostgresHarness::new().await) } else { None }
}
