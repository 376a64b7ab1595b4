//! The counts of limits that hold for all nodes together. A node takes blocks of them in one statement each, in a session of
//! its own: the rows are locked for no longer than that, and no commit waits for the disk.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_postgres::{Client, Statement};

use crate::store::database::PostgresServer;
use crate::store::{QuotaBlock, QuotaWish, Result, StoreError, UnusedQuota};

/// A statement without an answer for so long is given up, with its session.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// The maximum of a block beyond what is needed: a node that crashes takes it along until the end of the period.
const BLOCK_MAX: i64 = 256;
/// A node takes at most this share of what is left, divided by the nodes.
const BLOCK_SHARE: i64 = 8;
/// Blocks that are given back in one round trip.
const GIVEN_BACK_AT_ONCE: usize = 256;

const BEGIN: &str = "INSERT INTO quota (ends_us, subject, taken, granted) VALUES ($1, $2, $3, 0)
    ON CONFLICT (ends_us, subject) DO UPDATE SET taken = greatest(quota.taken, excluded.taken)";
/// The size of a block: what is needed or a share of what is left, or nothing.
macro_rules! block {
    () => {
        "(CASE WHEN $3::bigint = 0 OR taken + $3 > $4::bigint THEN 0
               ELSE greatest($3, least($5::bigint, ($4 - taken) / $6::bigint)) END)"
    };
}
const TAKE: &str = concat!(
    "UPDATE quota SET taken = taken + ",
    block!(),
    ", granted = ",
    block!(),
    " WHERE ends_us = $1 AND subject = $2 RETURNING taken, granted"
);
const GIVE_BACK: &str = "UPDATE quota SET taken = greatest(taken - $3::bigint, 0), granted = 0 WHERE ends_us = $1 AND subject = $2";
/// Rows of periods that ended an hour ago by the clock of the database.
pub(super) const PRUNE: &str =
    "DELETE FROM quota WHERE ends_us < (extract(epoch FROM clock_timestamp()) - 3600) * 1000000";

/// The table, in a database that several processes serve.
pub(in crate::store::sql) struct QuotaTable {
    server: Arc<PostgresServer>,
    session: Mutex<Option<Arc<Session>>>,
}

struct Session {
    client: Client,
    begin: Statement,
    take: Statement,
    give_back: Statement,
}

impl QuotaTable {
    pub(in crate::store::sql) fn new(server: Arc<PostgresServer>) -> Self {
        Self { server, session: Mutex::default() }
    }

    /// Takes what is needed and perhaps more, or nothing. `None` if the period is not in the table: then
    /// [`QuotaWish::used`] is necessary.
    pub(in crate::store::sql) async fn take(
        &self,
        wish: &QuotaWish,
        nodes: u32,
    ) -> Result<Option<QuotaBlock>> {
        self.run(async |session| {
            let ends_us = wish.ends_at.as_microsecond();
            if let Some(used) = wish.used {
                session.client.execute(&session.begin, &[&ends_us, &wish.subject, &number(used)]).await?;
            }
            let (needed, limit) = (number(wish.needed), number(wish.limit));
            let parts = BLOCK_SHARE * i64::from(nodes.max(1));
            let row = session
                .client
                .query_opt(&session.take, &[&ends_us, &wish.subject, &needed, &limit, &BLOCK_MAX, &parts])
                .await?;
            let count =
                |row: &tokio_postgres::Row, column| u64::try_from(row.get::<_, i64>(column)).unwrap_or(0);
            Ok(row.map(|row| QuotaBlock { taken: count(&row, 0), granted: count(&row, 1) }))
        })
        .await
    }

    /// Gives back what was not used. After an error it may be given back or not, so it must not be used any more.
    pub(in crate::store::sql) async fn give_back(&self, unused: &[UnusedQuota]) -> Result<()> {
        for unused in unused.chunks(GIVEN_BACK_AT_ONCE) {
            self.run(async |session| {
                let updates = unused.iter().map(async |unused| {
                    let (ends_us, count) = (unused.ends_at.as_microsecond(), number(unused.count));
                    session.client.execute(&session.give_back, &[&ends_us, &unused.subject, &count]).await
                });
                try_join_all(updates).await.map(drop)
            })
            .await?;
        }
        Ok(())
    }

    async fn run<T>(
        &self,
        statements: impl AsyncFnOnce(&Session) -> std::result::Result<T, tokio_postgres::Error>,
    ) -> Result<T> {
        let answer = timeout(ANSWER_TIMEOUT, async {
            let session = self.session().await?;
            statements(&session).await
        });
        match answer.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                *self.session.lock().await = None;
                Err(StoreError::Failed(format!("the quota of all nodes is not known: {error}")))
            }
            Err(_) => {
                *self.session.lock().await = None;
                Err(StoreError::Failed("the quota of all nodes is not known: no answer in time".to_owned()))
            }
        }
    }

    async fn session(&self) -> std::result::Result<Arc<Session>, tokio_postgres::Error> {
        let mut known = self.session.lock().await;
        if let Some(session) = known.as_ref().filter(|session| !session.client.is_closed()) {
            return Ok(Arc::clone(session));
        }
        let client = self.server.connect_noting(Arc::default()).await?;
        client.batch_execute("SET synchronous_commit = off").await?;
        let (begin, take) = (client.prepare(BEGIN).await?, client.prepare(TAKE).await?);
        let give_back = client.prepare(GIVE_BACK).await?;
        Ok(Arc::clone(known.insert(Arc::new(Session { client, begin, take, give_back }))))
    }
}

fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
