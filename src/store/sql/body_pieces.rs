//! Large bodies on PostgreSQL: rows of their own, written before the transaction that refers to them, so that no transaction
//! carries megabytes and other commits do not wait for them. Pieces that nothing refers to are deleted later.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::keyset::ulid_at;
use super::sql_types::sql_limit;
use super::unit_of_work::Tx;
use crate::mail::{Content, SignedDuration, Timestamp};
use crate::model::MessageId;
use crate::store::database::{self, Connection, ToSql, params};
use crate::store::memory::{LeaseState, NodeLease};
use crate::store::{Result, StoreError};

/// Octets of a piece. Smaller bodies are in the row of the body.
const PIECE_OCTETS: usize = 256 * 1024;
/// Younger pieces may belong to a message that is being committed.
const ROW_DELAY_MAX: SignedDuration = SignedDuration::from_hours(1);

/// Writes pieces on a connection of their own.
#[derive(Clone)]
pub(super) struct BodyPieces {
    connection: Arc<Mutex<Connection>>,
    lease: NodeLease,
}

impl BodyPieces {
    pub(super) fn new(connection: Connection, lease: NodeLease) -> Self {
        Self { connection: Arc::new(Mutex::new(connection)), lease }
    }

    /// Whether a body is stored in pieces.
    pub(super) fn is_large(content: &Content) -> bool {
        content.len() > PIECE_OCTETS
    }

    /// Writes the pieces of a body. A later commit makes them durable, if they are still there: see [`require`].
    pub(super) async fn write(&self, id: MessageId, content: Content) -> Result<()> {
        let connection = Arc::clone(&self.connection);
        // Nothing is accepted without a fresh lease, so that there is no use in waiting.
        let written = self.lease.before(LeaseState::Stale, async move {
            tokio::task::spawn_blocking(move || insert(&connection.lock(), id, &content)).await
        });
        let written = written.await.ok_or(StoreError::NoLease)?;
        Ok(written.map_err(|error| StoreError::Failed(error.to_string()))??)
    }
}

pub(super) fn insert(connection: &Connection, id: MessageId, content: &Content) -> database::Result<()> {
    let Content { prefix, submitted } = content;
    for (number, start) in (0..content.len()).step_by(PIECE_OCTETS).enumerate() {
        let end = (start + PIECE_OCTETS).min(content.len());
        let of_prefix = &prefix[start.min(prefix.len())..end.min(prefix.len())];
        let of_submitted = &submitted[start.saturating_sub(prefix.len())..end.saturating_sub(prefix.len())];
        let piece = [of_prefix, of_submitted].concat();
        // A submission that is repeated after an error writes the same pieces.
        let sql =
            "INSERT INTO body_piece (message_id, number, octets) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
        connection.prepare_cached(sql)?.execute(params![id, number as i64, piece])?;
    }
    Ok(())
}

/// Requires in the transaction of a message that all pieces of its body are there. Their commit was not waited for, so a crash
/// of the server or a failover can lose them, after which the transaction runs again.
pub(super) fn require(tx: &Tx<'_>, id: MessageId, content: &Content) -> Result<()> {
    let sql = "SELECT count(*) FROM body_piece WHERE message_id = ?1";
    let found: i64 = tx.prepare_cached(sql)?.query_row([id], |row| row.get(0))?;
    match usize::try_from(found) {
        Ok(found) if found == content.len().div_ceil(PIECE_OCTETS) => Ok(()),
        _ => Err(StoreError::Failed("the database has lost the content of the message in a crash".into())),
    }
}

/// Joins the pieces of a body. What is missing shows in its checksum.
pub(super) fn read(
    connection: &Connection,
    id: impl ToSql,
    prefix_octets: usize,
) -> database::Result<Content> {
    let sql = "SELECT octets FROM body_piece WHERE message_id = ?1 ORDER BY number";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([id])?;
    let mut whole = Vec::new();
    while let Some(row) = rows.next()? {
        whole.extend(row.get::<_, Vec<u8>>(0)?);
    }
    let whole = Bytes::from(whole);
    let prefix_octets = prefix_octets.min(whole.len());
    Ok(Content { prefix: whole.slice(..prefix_octets), submitted: whole.slice(prefix_octets..) })
}

/// Deletes the pieces of a body.
pub(super) fn delete(tx: &Tx<'_>, id: MessageId) -> database::Result<()> {
    tx.prepare_cached("DELETE FROM body_piece WHERE message_id = ?1")?.execute([id]).map(drop)
}

/// Deletes pieces of messages that were not committed, at most `limit`.
pub(super) fn delete_orphans(tx: &Tx<'_>, now: Timestamp, limit: usize) -> Result<()> {
    if tx.engine() == database::Engine::Sqlite {
        return Ok(());
    }
    let old = now.checked_sub(ROW_DELAY_MAX).unwrap_or(Timestamp::MIN);
    let sql = "DELETE FROM body_piece WHERE (message_id, number) IN
                   (SELECT message_id, number FROM body_piece p WHERE message_id < ?1
                        AND NOT EXISTS (SELECT 1 FROM body b WHERE b.message_id = p.message_id) LIMIT ?2)";
    tx.prepare_cached(sql)?.execute(params![MessageId::from(ulid_at(old, 0)), sql_limit(limit)])?;
    Ok(())
}
