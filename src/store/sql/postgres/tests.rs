//! What is PostgreSQL's own: how a database is opened, and sessions that the server ends.

mod nodes;

use std::sync::Arc;

use crate::model::{Environment, WebhookStatus};
use crate::store::contract::postgres::PostgresHarness;
use crate::store::contract::{
    Harness, TestBed, later, new_message, new_suppression, new_tenant, new_webhook, now,
};
use crate::store::database::{
    self, Connection, PostgresConnection, PostgresServer, Row, SessionRole, TransactionState, WriterLock,
    params,
};
use crate::store::{Conflict, Directory, OpenError, Outbox, Spool, Store, StoreError, WebhookPatch};

type Bed = TestBed<PostgresHarness>;

/// Ends the sessions of the store and waits until they have ended.
const END_SESSIONS: &str = "DO $$ BEGIN
    WHILE (SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
           WHERE datname = current_database() AND pid <> pg_backend_pid()) > 0 LOOP
        PERFORM pg_sleep(0.01);
        PERFORM pg_stat_clear_snapshot();
    END LOOP;
END $$";

/// The server and an empty database, unless PostgreSQL is not installed.
async fn harness() -> Option<PostgresHarness> {
    if PostgresHarness::is_available() { Some(PostgresHarness::new().await) } else { None }
}

#[tokio::test]
async fn a_database_of_a_newer_program_is_refused() {
    let Some(harness) = harness().await else { return };
    harness.open(0).await.close().await;
    harness.execute("INSERT INTO schema_version (version) VALUES (99)").await;
    let refused = Store::open(harness.options()).await.err();
    assert!(matches!(refused, Some(OpenError::Newer { found: 99, .. })), "{refused:?}");
}

/// Nodes of a newer version do so while this one serves.
#[tokio::test]
async fn statements_go_on_after_a_column_was_added() {
    let Some(harness) = harness().await else { return };
    let store = harness.open(0).await;
    let bed = Bed::of(harness, store);
    let tenant = bed.tenant("a").await.id;
    let suppress = async || {
        bed.store.suppress(new_suppression(Some(tenant), "no@one.example"), now()).await.unwrap();
        let found = bed.store.suppression_of(tenant, Environment::Live, "no@one.example", now()).await;
        assert!(found.unwrap().is_some());
    };
    // Every session has prepared its statements.
    for _ in 0..8 {
        suppress().await;
    }
    bed.harness.execute("ALTER TABLE suppression ADD COLUMN of_a_later_version TEXT").await;
    for _ in 0..8 {
        suppress().await;
    }
}

#[tokio::test]
async fn a_database_with_another_master_key_is_refused() {
    let Some(harness) = harness().await else { return };
    harness.open(0).await.close().await;
    let key = harness.dir.path().join("master.key");
    std::fs::write(&key, format!("{}\n", "a".repeat(64))).unwrap();
    let refused = Store::open(harness.options()).await.err();
    assert!(matches!(refused, Some(OpenError::MasterKey { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_server_that_is_away_is_named_and_its_password_is_not() {
    let Some(harness) = harness().await else { return };
    let mut options = harness.options();
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(1).user("pillarbox").password("secret-word").dbname("x");
    options.config = config;
    assert!(!format!("{options:?}").contains("secret-word"));
    let refused = Store::open(options).await.err().unwrap().to_string();
    assert!(
        refused.starts_with("cannot open the database in PostgreSQL: ") && !refused.contains("secret-word")
    );
}

#[tokio::test]
async fn a_session_that_the_server_ended_is_replaced() {
    let Some(harness) = harness().await else { return };
    let store = harness.open(0).await;
    let tenant = store.create_tenant(new_tenant("a"), now()).await.unwrap();
    for slug in ["b", "c"] {
        harness.execute(END_SESSIONS).await;
        assert_eq!(store.tenant(tenant.id).await.unwrap().unwrap().slug, "a");
        store.create_tenant(new_tenant(slug), now()).await.unwrap();
    }
}

#[tokio::test]
async fn jobs_of_one_transaction_fail_alone() {
    let Some(harness) = harness().await else { return };
    let store = std::sync::Arc::new(harness.open(0).await);
    let bed = Bed::of(harness, store.as_ref().clone());
    let tenant = bed.tenant("a").await.id;
    let absent = new_tenant_id();
    let mut jobs = tokio::task::JoinSet::new();
    for number in 0..20 {
        let store = std::sync::Arc::clone(&store);
        let owner = if number % 5 == 3 { absent } else { tenant };
        jobs.spawn(
            async move { (owner, store.enqueue(new_message(owner, &["x@example.net"], "body")).await) },
        );
    }
    while let Some(job) = jobs.join_next().await {
        let (owner, enqueued) = job.unwrap();
        if owner == absent {
            assert!(matches!(enqueued, Err(StoreError::Conflict(Conflict::NoTenant))), "{enqueued:?}");
        } else {
            enqueued.unwrap();
        }
    }
    assert_eq!(store.count_open().await.unwrap(), 16);
}

fn new_tenant_id() -> crate::model::TenantId {
    crate::model::TenantId::generate(now())
}

#[tokio::test]
async fn two_processes_see_what_each_other_writes() {
    let Some(harness) = harness().await else { return };
    let (one, other) = (harness.open(0).await, Store::open(harness.options_of_node("other")).await.unwrap());
    let (a, b) =
        tokio::join!(one.create_tenant(new_tenant("a"), now()), other.create_tenant(new_tenant("a"), now()));
    let refused = [a.as_ref().err(), b.as_ref().err()].into_iter().flatten().count();
    assert_eq!(refused, 1, "the slug is used once: {a:?} {b:?}");
    let created = a.or(b).unwrap();
    for store in [one, other] {
        assert_eq!(store.tenant(created.id).await.unwrap().unwrap().slug, "a");
    }
}

#[tokio::test]
async fn each_webhook_is_served_by_one_node_wherever_its_events_come_from() {
    let Some(harness) = harness().await else { return };
    let one = harness.open(0).await;
    let other = Store::open(harness.options_of_node("other")).await.unwrap();
    let tenant = one.create_tenant(new_tenant("a"), now()).await.unwrap().id;
    let mut webhooks = Vec::new();
    for _ in 0..20 {
        webhooks.push(one.create_webhook(new_webhook(Some(tenant)), now()).await.unwrap().id);
    }
    one.suppress(new_suppression(Some(tenant), "x@one.example"), now()).await.unwrap();
    let disabled = WebhookPatch { status: Some(WebhookStatus::Disabled), ..WebhookPatch::default() };
    one.update_webhook(webhooks.remove(3), disabled, now()).await.unwrap();
    webhooks.sort();
    // The nodes know each other after a heartbeat.
    let are_shared = async {
        loop {
            let mut found = Vec::new();
            for store in [&one, &other] {
                store.find_webhook_work().await.unwrap();
                found.push(store.take_due_webhooks(later(0)).0);
            }
            let mut all = found.concat();
            all.sort();
            if all == webhooks && found.iter().all(|of_node| !of_node.is_empty()) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), are_shared).await.expect("they are shared");
}

#[tokio::test]
async fn the_queue_and_the_list_of_troubles_follow_many_deliveries_at_once() {
    let Some(harness) = harness().await else { return };
    harness.open(0).await.close().await;
    let session = harness.session("test").await;
    let insert = "INSERT INTO delivery (id, message_id, tenant_id, position, recipient, destination, state, attempts,
                                        next_attempt_us, updated_us)
                  SELECT 'd' || n, 'm' || n, 't' || n % 3, 0, 'x@y', 'y', 'queued', 0, n, 0 FROM generate_series(1, 300) n;
                  INSERT INTO queue (id, tenant_id, destination, next_attempt_us, owner)
                  SELECT id, tenant_id, destination, next_attempt_us, 7 FROM delivery";
    session.batch_execute(insert).await.unwrap();
    let states = "CASE position / 100 WHEN 0 THEN 'delivered' WHEN 1 THEN 'deferred' ELSE 'bounced' END";
    for change in [
        "state = 'deferred', next_attempt_us = next_attempt_us + 5",
        "position = next_attempt_us, attempts = 1",
        &format!(
            "state = {states}, next_attempt_us = CASE {states} WHEN 'deferred' THEN next_attempt_us END"
        ),
        "state = 'bounced', next_attempt_us = NULL",
    ] {
        session.batch_execute(&format!("UPDATE delivery SET {change}")).await.unwrap();
        let differences = "SELECT count(*) FROM
            (SELECT id, next_attempt_us FROM delivery WHERE next_attempt_us IS NOT NULL) d
            FULL JOIN queue q ON q.id = d.id WHERE q.next_attempt_us IS DISTINCT FROM d.next_attempt_us
            UNION ALL SELECT count(*) FROM
            (SELECT * FROM delivery WHERE state NOT IN ('queued', 'delivered')) d
            FULL JOIN trouble t ON (t.id, t.message_id, t.tenant_id) = (d.id, d.message_id, d.tenant_id)
            WHERE t.state IS DISTINCT FROM d.state";
        let rows = session.query(differences, &[]).await.unwrap();
        let counts: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
        assert_eq!(counts, [0, 0], "{change}");
    }
    session.batch_execute("DELETE FROM delivery WHERE position < 150").await.unwrap();
    let left = "SELECT (SELECT count(*) FROM trouble) - (SELECT count(*) FROM delivery)";
    assert_eq!(session.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
}

/// Runs a test with two connections to a database that has a table, on a thread that may block.
async fn with_connections(test: impl FnOnce(&Connection, &Connection) + Send + 'static) {
    let Some(harness) = harness().await else { return };
    let server = Arc::new(PostgresServer::new(harness.options().config, None));
    let connect = move || {
        Connection::Postgres(PostgresConnection::open(Arc::clone(&server), SessionRole::Reader).unwrap())
    };
    let run = move || {
        let (connection, other) = (connect(), connect());
        connection.execute_batch("CREATE TABLE t (x BIGINT PRIMARY KEY)").unwrap();
        test(&connection, &other);
    };
    tokio::task::spawn_blocking(run).await.unwrap();
}

fn insert(connection: &Connection, number: i64) -> database::Result<()> {
    connection.prepare_cached("INSERT INTO t (x) VALUES (?1)")?.post([number])
}

fn count(connection: &Connection) -> i64 {
    connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn a_transaction_with_a_failed_statement_is_not_committed() {
    with_connections(|connection, other| {
        for pipelines in [false, true] {
            connection.set_pipelining(pipelines);
            connection.begin(WriterLock::Exclusive).unwrap();
            insert(connection, 1).unwrap();
            // The caller goes on, as if the statement had not failed.
            assert!(connection.execute("INSERT INTO t (x) VALUES (1)", []).is_err());
            assert!(connection.commit().is_err());
            assert_eq!(connection.transaction_state(), TransactionState::Failed);
            connection.roll_back().unwrap();
            assert_eq!(count(other), 0);
        }
    })
    .await;
}

#[tokio::test]
async fn the_error_of_a_posted_statement_is_that_of_the_next_query() {
    with_connections(|connection, other| {
        connection.set_pipelining(true);
        connection.begin(WriterLock::Exclusive).unwrap();
        insert(connection, 1).unwrap();
        insert(connection, 1).unwrap();
        let error = connection.query_row("SELECT x FROM t", [], |_| Ok(())).unwrap_err();
        assert!(error.is_constraint(), "{error}");
        connection.roll_back().unwrap();
        connection.begin(WriterLock::Exclusive).unwrap();
        insert(connection, 1).unwrap();
        connection.commit().unwrap();
        assert_eq!(count(other), 1);
    })
    .await;
}

#[tokio::test]
async fn a_transaction_ends_with_its_session_and_the_next_one_has_another() {
    with_connections(|connection, other| {
        connection.set_pipelining(true);
        connection.begin(WriterLock::Exclusive).unwrap();
        insert(connection, 1).unwrap();
        other.execute_batch(END_SESSIONS).unwrap();
        assert!(connection.execute("INSERT INTO t (x) VALUES (2)", []).is_err());
        assert_eq!(connection.transaction_state(), TransactionState::None);
        connection.roll_back().unwrap();
        connection.begin(WriterLock::Exclusive).unwrap();
        insert(connection, 3).unwrap();
        connection.commit().unwrap();
        assert_eq!(count(other), 1);
    })
    .await;
}

#[tokio::test]
async fn a_transaction_goes_on_after_an_attempt_that_failed() {
    with_connections(|connection, other| {
        for (pipelines, number) in [(false, 1), (true, 3)] {
            connection.set_pipelining(pipelines);
            connection.begin(WriterLock::Exclusive).unwrap();
            insert(connection, number).unwrap();
            let twice = || insert(connection, number + 1).and_then(|()| insert(connection, number + 1));
            let error = connection.attempt(twice).unwrap_err();
            assert!(error.is_constraint(), "{error}");
            connection.attempt(|| insert(connection, number + 1)).unwrap();
            connection.commit().unwrap();
        }
        assert_eq!(count(other), 4);
    })
    .await;
}

/// A row of the table `v` below.
type Values = (i64, Option<String>, Option<Vec<u8>>, bool, Option<f64>);

const CREATE_VALUES: &str =
    "CREATE TABLE v (id BIGINT PRIMARY KEY, text TEXT, octets BYTEA, flag BOOLEAN, number DOUBLE PRECISION)";

fn values(connection: &Connection) -> Vec<Values> {
    let mut statement = connection.prepare_cached("SELECT * FROM v ORDER BY id").unwrap();
    let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?));
    statement.query_map([], read).unwrap().map(Result::unwrap).collect()
}

#[tokio::test]
async fn values_of_rows_that_are_sent_together_survive() {
    with_connections(|connection, other| {
        connection.execute_batch(CREATE_VALUES).unwrap();
        let rows: Vec<Values> = vec![
            (i64::MIN, None, None, false, None),
            (-7, Some(String::new()), Some(Vec::new()), true, Some(-0.5)),
            (0, Some("{NULL,\"ü\\ 😀'$1".into()), Some((0..=255).collect()), true, Some(1e300)),
            (i64::MAX, Some("NULL".into()), None, false, Some(2.0)),
        ];
        connection.set_pipelining(true);
        connection.begin(WriterLock::Exclusive).unwrap();
        for (id, text, octets, flag, number) in &rows {
            let sql = "INSERT INTO v (id, text, octets, flag, number) VALUES (?1, ?2, ?3, ?4, ?5)";
            connection.prepare_cached(sql).unwrap().post(params![id, text, octets, flag, number]).unwrap();
        }
        assert_eq!(values(connection), rows, "a later query of the transaction sees them");
        connection.commit().unwrap();
        assert_eq!(values(other), rows);
    })
    .await;
}

#[tokio::test]
async fn posted_updates_and_deletions_change_their_rows_only() {
    with_connections(|connection, other| {
        connection.set_pipelining(true);
        connection.begin(WriterLock::Exclusive).unwrap();
        (1..=6).for_each(|number| insert(connection, number).unwrap());
        for number in 1..=3_i64 {
            let sql = "UPDATE t SET x = x + ?2 WHERE x = ?1";
            connection.prepare_cached(sql).unwrap().post([number, number * 100]).unwrap();
        }
        for number in [5_i64, 6] {
            connection.prepare_cached("DELETE FROM t WHERE x = ?1").unwrap().post([number]).unwrap();
        }
        connection.commit().unwrap();
        let mut statement = other.prepare_cached("SELECT x FROM t ORDER BY x").unwrap();
        let left: Vec<i64> = statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        assert_eq!(left, [4, 101, 202, 303]);
    })
    .await;
}

#[tokio::test]
async fn rows_are_sent_in_the_order_in_which_their_statements_were_posted_first() {
    with_connections(|connection, other| {
        connection.execute_batch("CREATE TABLE u (x BIGINT REFERENCES t (x))").unwrap();
        connection.set_pipelining(true);
        connection.begin(WriterLock::Exclusive).unwrap();
        // More rows than are collected.
        for number in 1..=2_000_i64 {
            insert(connection, number).unwrap();
            connection.prepare_cached("INSERT INTO u (x) VALUES (?1)").unwrap().post([number]).unwrap();
        }
        connection.commit().unwrap();
        assert_eq!(count(other), 2_000);
    })
    .await;
}

#[tokio::test]
async fn a_row_that_is_posted_last_sees_rows_of_statements_that_were_posted_after_its_own() {
    with_connections(|connection, other| {
        connection.execute_batch("CREATE TABLE u (x BIGINT NOT NULL)").unwrap();
        insert(connection, 1).unwrap();
        connection.set_pipelining(true);
        connection.begin(WriterLock::Exclusive).unwrap();
        let dependent = "INSERT INTO u (x) VALUES ((SELECT x FROM t WHERE x = ?1))";
        connection.prepare_cached(dependent).unwrap().post_last([1_i64]).unwrap();
        insert(connection, 2).unwrap();
        connection.prepare_cached(dependent).unwrap().post_last([2_i64]).unwrap();
        connection.commit().unwrap();
        assert_eq!(count(other), 2);
    })
    .await;
}

#[tokio::test]
async fn collected_rows_are_rolled_back_with_their_transaction() {
    with_connections(|connection, other| {
        connection.set_pipelining(true);
        connection.begin(WriterLock::Exclusive).unwrap();
        insert(connection, 1).unwrap();
        connection.roll_back().unwrap();
        connection.begin(WriterLock::Exclusive).unwrap();
        insert(connection, 2).unwrap();
        insert(connection, 3).unwrap();
        connection.commit().unwrap();
        assert_eq!(count(other), 2);
    })
    .await;
}

#[tokio::test]
async fn a_database_with_an_encoding_that_cannot_store_all_texts_is_refused() {
    let Some(harness) = harness().await else { return };
    harness.execute("CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0").await;
    let mut options = harness.options();
    options.config.dbname("ascii");
    let refused = Store::open(options).await.err().unwrap().to_string();
    assert!(refused.contains("UTF8"), "{refused}");
}
