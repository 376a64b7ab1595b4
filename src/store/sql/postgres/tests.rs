//! What is PostgreSQL's own: how a database is opened, and sessions that the server ends.

use std::sync::Arc;

use crate::store::contract::postgres::PostgresHarness;
use crate::store::contract::{Harness, TestBed, new_message, new_tenant, now};
use crate::store::database::{self, Connection, PostgresConnection, PostgresServer, TransactionState};
use crate::store::{Conflict, Directory, OpenError, Spool, Store, StoreError};

type Bed = TestBed<PostgresHarness>;

/// Ends the sessions of the store and waits until they have ended.
const END_SESSIONS: &str = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()";

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
    let (one, other) = (harness.open(0).await, harness.open(0).await);
    let (a, b) =
        tokio::join!(one.create_tenant(new_tenant("a"), now()), other.create_tenant(new_tenant("a"), now()));
    let refused = [a.as_ref().err(), b.as_ref().err()].into_iter().flatten().count();
    assert_eq!(refused, 1, "the slug is used once: {a:?} {b:?}");
    let created = a.or(b).unwrap();
    for store in [one, other] {
        assert_eq!(store.tenant(created.id).await.unwrap().unwrap().slug, "a");
    }
}

/// Runs a test with two connections to a database that has a table, on a thread that may block.
async fn with_connections(test: impl FnOnce(&Connection, &Connection) + Send + 'static) {
    let Some(harness) = harness().await else { return };
    let server = Arc::new(PostgresServer::new(harness.options().config, None));
    let connect = move || Connection::Postgres(PostgresConnection::open(Arc::clone(&server)).unwrap());
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
            connection.begin().unwrap();
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
async fn the_error_of_a_posted_statement_is_that_of_the_next_one_also_of_one_that_is_not_prepared() {
    with_connections(|connection, other| {
        connection.set_pipelining(true);
        connection.begin().unwrap();
        insert(connection, 1).unwrap();
        insert(connection, 1).unwrap();
        let error = connection.prepare_cached("SELECT x + 1 FROM t").err().expect("the transaction failed");
        assert!(error.is_constraint(), "{error}");
        connection.roll_back().unwrap();
        connection.begin().unwrap();
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
        connection.begin().unwrap();
        insert(connection, 1).unwrap();
        other.query_row(END_SESSIONS, [], |_| Ok(())).unwrap();
        assert!(connection.execute("INSERT INTO t (x) VALUES (2)", []).is_err());
        assert_eq!(connection.transaction_state(), TransactionState::None);
        connection.roll_back().unwrap();
        connection.begin().unwrap();
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
            connection.begin().unwrap();
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

#[tokio::test]
async fn a_database_with_an_encoding_that_cannot_store_all_texts_is_refused() {
    let Some(harness) = harness().await else { return };
    harness.execute("CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0").await;
    let mut options = harness.options();
    options.config.dbname("ascii");
    let refused = Store::open(options).await.err().unwrap().to_string();
    assert!(refused.contains("UTF8"), "{refused}");
}
