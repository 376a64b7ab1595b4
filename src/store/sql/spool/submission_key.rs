//! Submission keys, so that a repeated submission is not sent twice.

use crate::mail::Timestamp;
use crate::model::{Environment, MessageId, TenantId};
use crate::store::database::{Connection, OptionalExtension, params};
use crate::store::sql::sql_types::{sql_limit, tenant_may_be_missing, us};
use crate::store::sql::unit_of_work::Tx;
use crate::store::{Conflict, Message, Result, SUBMISSION_KEY_LIFETIME, StoreError, SubmissionKey};

/// The message of a submission key.
pub(super) fn find(
    connection: &Connection,
    owner: (TenantId, Environment),
    key: &SubmissionKey,
    now: Timestamp,
) -> Result<Option<MessageId>> {
    let sql = "SELECT message_id, digest FROM submission_key
               WHERE tenant_id = ?1 AND environment = ?2 AND name = ?3 AND created_us >= ?4";
    let bounds = params![owner.0, owner.1, key.name, forgotten_before_us(now)];
    let found: Option<(MessageId, [u8; 32])> =
        connection.prepare_cached(sql)?.query_row(bounds, |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    match found {
        Some((_, digest)) if digest != key.digest => Err(StoreError::Conflict(Conflict::SubmissionKey)),
        found => Ok(found.map(|(message, _)| message)),
    }
}

/// Assigns the key to this message, or returns the message that it is assigned to. If another lane is assigning the key, waits
/// for its commit.
pub(super) fn take(tx: &Tx<'_>, key: &SubmissionKey, message: &Message) -> Result<Option<MessageId>> {
    let sql = "INSERT INTO submission_key (tenant_id, environment, name, digest, message_id, created_us)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6)
               ON CONFLICT (tenant_id, environment, name) DO UPDATE
               SET digest = excluded.digest, message_id = excluded.message_id, created_us = excluded.created_us
               WHERE submission_key.created_us < ?7";
    let row = params![
        message.tenant_id,
        message.environment,
        key.name,
        key.digest,
        message.id,
        us(message.created_at),
        forgotten_before_us(message.created_at),
    ];
    if tx.prepare_cached(sql)?.execute(row).map_err(tenant_may_be_missing)? > 0 {
        return Ok(None);
    }
    find(tx, (message.tenant_id, message.environment), key, message.created_at)
}

/// Deletes expired keys, at most `limit`.
pub(in crate::store::sql) fn delete_expired(tx: &Tx<'_>, now: Timestamp, limit: usize) -> Result<u64> {
    let sql = "DELETE FROM submission_key WHERE (tenant_id, environment, name) IN
                   (SELECT tenant_id, environment, name FROM submission_key WHERE created_us < ?1 LIMIT ?2)";
    Ok(tx.prepare_cached(sql)?.execute(params![forgotten_before_us(now), sql_limit(limit)])? as u64)
}

fn forgotten_before_us(now: Timestamp) -> i64 {
    us(now.checked_sub(SUBMISSION_KEY_LIFETIME).unwrap_or(Timestamp::MIN))
}
