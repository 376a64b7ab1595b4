//! The pool of read-only connections. Queries run on threads of their own, at most one for each connection. Tenants and the
//! platform share the connections fairly.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use r2d2::ManageConnection;
use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::OpenFlags;

use crate::limits::tenant_semaphore::{TenantPermit, TenantSemaphore};
use crate::store::database::query_threads::QueryThreads;
use crate::store::database::time_limit::{self, TimeLimit};
use crate::store::database::{
    self, Connection, DatabaseError, PostgresConnection, PostgresServer, SessionRole, TransactionState,
};
use crate::store::memory::{LeaseState, NodeLease};
use crate::store::{Requester, Result, StoreError};

/// How long a query waits for a connection.
const PERMIT_TIMEOUT: Duration = Duration::from_secs(10);
/// A slow query that takes more processor time continues at a lower priority. A page of a list takes less.
const PRIORITY_TIME: Duration = Duration::from_millis(2);
/// The processor time that a slow query of a tenant may take.
const TENANT_QUERY_TIME_MAX: Duration = Duration::from_secs(2);
/// Slow queries of the server itself that run at the same time. They have connections of their own: others wait for the
/// search index, for retention and for brakes, which must not wait for queries of tenants.
const SERVER_QUERIES_MAX: u32 = 2;

/// Opens connections for queries.
pub(in crate::store) enum ReaderManager {
    Sqlite(Box<SqliteConnectionManager>),
    Postgres(Arc<PostgresServer>),
}

impl ReaderManager {
    pub(super) fn of_sqlite(database: &Path) -> Self {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let manager = SqliteConnectionManager::file(database).with_flags(flags).with_init(|connection| {
            connection.set_prepared_statement_cache_capacity(128);
            connection.execute_batch(
                "PRAGMA query_only = ON; PRAGMA busy_timeout = 5000; PRAGMA temp_store = MEMORY;
                 PRAGMA cache_size = -8192;",
            )?;
            time_limit::watch(connection)
        });
        Self::Sqlite(Box::new(manager))
    }
}

impl ManageConnection for ReaderManager {
    type Connection = Connection;
    type Error = DatabaseError;

    fn connect(&self) -> database::Result<Connection> {
        match self {
            Self::Sqlite(manager) => Ok(manager.connect()?.into()),
            Self::Postgres(server) => {
                Ok(Connection::Postgres(PostgresConnection::open(Arc::clone(server), SessionRole::Reader)?))
            }
        }
    }

    fn is_valid(&self, _connection: &mut Connection) -> database::Result<()> {
        Ok(())
    }

    /// Whether a transaction could not be rolled back, in which PostgreSQL would refuse all further queries.
    fn has_broken(&self, connection: &mut Connection) -> bool {
        connection.transaction_state() != TransactionState::None
    }
}

pub(super) struct Readers {
    pool: r2d2::Pool<ReaderManager>,
    /// One permit for each connection.
    connections: TenantSemaphore,
    /// The part of the connections for slow queries of tenants and the platform.
    slow_queries: TenantSemaphore,
    /// One permit for each connection that only slow queries of the server use.
    server_queries: TenantSemaphore,
    threads: QueryThreads,
    permit_timeout: Duration,
    lease: NodeLease,
}

impl Readers {
    pub(super) fn open(
        manager: ReaderManager,
        connections: u32,
        lease: NodeLease,
    ) -> std::result::Result<Self, r2d2::Error> {
        let pool = r2d2::Pool::builder()
            .max_size(connections.saturating_add(SERVER_QUERIES_MAX))
            .test_on_check_out(false)
            .idle_timeout(None)
            .max_lifetime(None)
            .connection_timeout(PERMIT_TIMEOUT)
            .build(manager)?;
        let half = (connections / 2).max(1);
        Ok(Self {
            pool,
            connections: TenantSemaphore::new(connections, half),
            slow_queries: TenantSemaphore::new(half, half).with_contended_max(1),
            server_queries: TenantSemaphore::new(SERVER_QUERIES_MAX, SERVER_QUERIES_MAX),
            threads: QueryThreads::default(),
            permit_timeout: PERMIT_TIMEOUT,
            lease,
        })
    }

    /// Runs a query that may be slow. Slow queries get half of the connections, so that lists do not delay acceptance and
    /// delivery. While tenants compete, a tenant runs one at a time.
    pub(super) async fn run_slow<T: Send + 'static>(
        &self,
        requester: Requester,
        query: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.run_slow_for(requester, PRIORITY_TIME, query).await
    }

    /// Continues a query of which a part has run.
    pub(super) async fn continue_slow<T: Send + 'static>(
        &self,
        requester: Requester,
        query: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.run_slow_for(requester, Duration::ZERO, query).await
    }

    async fn run_slow_for<T: Send + 'static>(
        &self,
        requester: Requester,
        priority_time: Duration,
        query: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let permits = async {
            Ok(match requester {
                Requester::Server => (self.permit(&self.server_queries, requester).await?, None),
                Requester::Platform | Requester::Tenant(_) => {
                    let slow = self.permit(&self.slow_queries, requester).await?;
                    (slow, Some(self.permit(&self.connections, Requester::Server).await?))
                }
            })
        };
        self.run_with(permits, move |connection| {
            let lower_priority_after = (requester != Requester::Server).then_some(priority_time);
            let end_after = matches!(requester, Requester::Tenant(_)).then_some(TENANT_QUERY_TIME_MAX);
            let _limit = TimeLimit::begin(lower_priority_after, end_after);
            query(connection)
        })
        .await
    }

    /// Runs a query on one of the connections.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        requester: Requester,
        query: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.run_with(self.permit(&self.connections, requester), query).await
    }

    /// Runs a query once it has its permits, unless the database does not answer.
    async fn run_with<T: Send + 'static, P: Send + 'static>(
        &self,
        permits: impl Future<Output = Result<P>>,
        query: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let pool = self.pool.clone();
        let answer = async {
            let permits = permits.await?;
            let query = move || {
                let connection = pool.get().map_err(|error| StoreError::Failed(error.to_string()))?;
                let answer = query(&connection);
                drop(connection);
                drop(permits);
                answer
            };
            self.threads.run(query).await
        };
        self.lease.before(LeaseState::Stale, answer).await.unwrap_or(Err(StoreError::NoLease))
    }

    /// Accepts no more queries.
    pub(super) fn close(&self) {
        self.connections.close();
        self.slow_queries.close();
        self.server_queries.close();
    }

    /// Queries of the server itself wait only for the total, because they serve all tenants.
    async fn permit(&self, permits: &TenantSemaphore, requester: Requester) -> Result<TenantPermit> {
        let permit = async {
            match requester {
                Requester::Server => permits.acquire_for_server().await,
                Requester::Platform => permits.acquire(None).await,
                Requester::Tenant(tenant) => permits.acquire(Some(tenant)).await,
            }
        };
        let permit = tokio::time::timeout(self.permit_timeout, permit).await;
        permit.map_err(|_| StoreError::Busy)?.map_err(|_| StoreError::Closed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use parking_lot::Mutex;
    use tokio::task::{JoinHandle, yield_now};

    use super::*;
    use crate::mail::Timestamp;
    use crate::model::TenantId;

    struct Fixture {
        readers: Arc<Readers>,
        _dir: tempfile::TempDir,
    }

    /// A query that runs until its end is sent.
    struct LongQuery {
        end: mpsc::Sender<()>,
        task: JoinHandle<Result<bool>>,
    }

    impl Fixture {
        fn new(connections: u32) -> Self {
            Self::with_timeout(connections, PERMIT_TIMEOUT)
        }

        fn with_timeout(connections: u32, permit_timeout: Duration) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let database = dir.path().join("x.db");
            rusqlite::Connection::open(&database).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
            let readers = Readers {
                permit_timeout,
                ..Readers::open(ReaderManager::of_sqlite(&database), connections, NodeLease::unshared())
                    .unwrap()
            };
            Self { readers: Arc::new(readers), _dir: dir }
        }

        /// Starts a long query; returns once it runs or waits.
        async fn long_query(&self, requester: Requester, running: &Arc<Mutex<usize>>) -> LongQuery {
            let (end, ended) = mpsc::channel::<()>();
            let (readers, running) = (self.readers.clone(), running.clone());
            let task = tokio::spawn(async move {
                let query = move |_: &Connection| {
                    *running.lock() += 1;
                    Ok(ended.recv().is_ok())
                };
                readers.run_slow(requester, query).await
            });
            yield_now().await;
            LongQuery { end, task }
        }
    }

    async fn wait_for(running: &Arc<Mutex<usize>>, count: usize) {
        let counted = async {
            while *running.lock() < count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), counted).await.unwrap();
    }

    fn tenants(count: i64) -> Vec<Requester> {
        let tenant = |number| TenantId::generate(Timestamp::from_second(number).unwrap());
        (0..count).map(|number| Requester::Tenant(tenant(number))).collect()
    }

    #[tokio::test]
    async fn long_queries_leave_connections_to_the_others() {
        let fixture = Fixture::new(2);
        let running = Arc::default();
        let mut long = Vec::new();
        for requester in tenants(3) {
            long.push(fixture.long_query(requester, &running).await);
        }
        wait_for(&running, 1).await;
        let quick = fixture.readers.run(Requester::Server, |_| Ok(7));
        let quick = tokio::time::timeout(Duration::from_secs(5), quick).await;
        // Also if the assertion fails, because a runtime waits for its blocking tasks.
        long.iter().for_each(|query| query.end.send(()).unwrap());
        assert_eq!(quick.unwrap().unwrap(), 7);
        for query in long {
            assert!(query.task.await.unwrap().unwrap());
        }
    }

    #[tokio::test]
    async fn slow_queries_of_the_server_and_of_tenants_do_not_wait_for_each_other() {
        let fixture = Fixture::new(2);
        let [first, second] = tenants(2)[..] else { unreachable!() };
        for (long, quick) in [(first, Requester::Server), (Requester::Server, second)] {
            let running = Arc::default();
            let long = [
                fixture.long_query(long, &running).await,
                fixture.long_query(long, &running).await,
                fixture.long_query(long, &running).await,
            ];
            wait_for(&running, 1).await;
            let quick = fixture.readers.run_slow(quick, |_| Ok(7));
            let quick = tokio::time::timeout(Duration::from_secs(5), quick).await;
            long.iter().for_each(|query| query.end.send(()).unwrap());
            assert_eq!(quick.unwrap().unwrap(), 7);
            for query in long {
                assert!(query.task.await.unwrap().unwrap());
            }
        }
    }

    #[tokio::test]
    async fn a_query_that_gets_no_connection_in_time_is_told_that_the_server_is_busy() {
        let fixture = Fixture::with_timeout(2, Duration::from_millis(1));
        let running = Arc::default();
        let tenant = tenants(1)[0];
        let long = fixture.long_query(tenant, &running).await;
        wait_for(&running, 1).await;
        let waited = fixture.readers.run_slow(tenant, |_| Ok(7)).await;
        long.end.send(()).unwrap();
        assert!(matches!(waited, Err(StoreError::Busy)), "{waited:?}");
        assert!(long.task.await.unwrap().unwrap());
    }

    #[tokio::test]
    async fn slow_queries_of_one_tenant_leave_a_connection_to_each_other_one() {
        let fixture = Fixture::new(4);
        let running = Arc::default();
        let [busy, calm] = tenants(2)[..] else { unreachable!() };
        // Both have asked before.
        for requester in [busy, calm, Requester::Platform] {
            fixture.readers.run_slow(requester, |_| Ok(())).await.unwrap();
        }
        let mut long = Vec::new();
        for _ in 0..8 {
            long.push(fixture.long_query(busy, &running).await);
        }
        wait_for(&running, 1).await;
        for requester in [calm, Requester::Platform] {
            let quick = fixture.readers.run_slow(requester, |_| Ok(7));
            let quick = tokio::time::timeout(Duration::from_secs(5), quick).await;
            if quick.is_err() {
                // A runtime waits for its blocking tasks.
                long.clear();
            }
            assert_eq!(quick.unwrap().unwrap(), 7, "{requester:?}");
        }
        assert_eq!(*running.lock(), 1);
        long.iter().for_each(|query| query.end.send(()).unwrap());
        for query in long {
            assert!(query.task.await.unwrap().unwrap());
        }
    }

    #[tokio::test]
    async fn a_query_of_a_tenant_that_runs_too_long_is_ended() {
        let fixture = Fixture::new(2);
        let endless =
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
        let query = |connection: &Connection| {
            let _limit = TimeLimit::end_after(Duration::from_millis(20));
            Ok(connection.query_row(endless, [], |row| row.get::<_, i64>(0))?)
        };
        let ended = fixture.readers.run(Requester::Server, query).await;
        assert!(matches!(ended, Err(StoreError::TooSlow)), "{ended:?}");
        // The limit ends with its query.
        let finite = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 500000) SELECT count(*) FROM n";
        let query =
            |connection: &Connection| Ok(connection.query_row(finite, [], |row| row.get::<_, i64>(0))?);
        for _ in 0..2 {
            assert_eq!(fixture.readers.run(Requester::Server, query).await.unwrap(), 500_000);
        }
    }

    #[tokio::test]
    async fn the_limits_of_a_query_end_with_it() {
        let fixture = Fixture::new(2);
        let tenant = tenants(1)[0];
        let priority = || rustix::process::getpriority_process(None).unwrap();
        let normal = priority();
        let finite = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 200000) SELECT count(*) FROM n";
        // Threads are used again once they are idle.
        for _ in 0..5 {
            fixture.readers.run_slow(tenant, |_| Ok(())).await.unwrap();
            let query = move |connection: &Connection| {
                connection.query_row(finite, [], |row| row.get::<_, i64>(0))?;
                Ok(priority())
            };
            let priority_of_server = fixture.readers.run(Requester::Server, query).await.unwrap();
            assert_eq!(priority_of_server, normal);
        }
    }

    /// On a busy machine, a query waits for the processor.
    #[tokio::test]
    async fn only_processor_time_counts() {
        let fixture = Fixture::new(2);
        let finite = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 5000) SELECT count(*) FROM n";
        let query = |connection: &Connection| {
            let limit = Duration::from_millis(50);
            let _limit = TimeLimit::end_after(limit);
            std::thread::sleep(2 * limit);
            Ok(connection.query_row(finite, [], |row| row.get::<_, i64>(0))?)
        };
        assert_eq!(fixture.readers.run(Requester::Server, query).await.unwrap(), 5000);
    }
}
