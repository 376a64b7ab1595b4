//! Stored responses to requests with an `Idempotency-Key`.

use crate::mail::Timestamp;
use crate::model::{KeyId, LimitPeriod, TenantId};
use crate::store::database::{Connection, OptionalExtension, params};
use crate::store::sql::secret_encryption::{SealedColumn, Sealer};
use crate::store::sql::sql_types::{count, sql_limit, us};
use crate::store::sql::unit_of_work::Tx;
use crate::store::{
    Conflict, IDEMPOTENT_RESPONSE_LIFETIME, IdempotentResponse, ResponseRecorder, Result, StoreError,
};

/// The name of the column in earlier versions: stored bodies are encrypted for it.
const BODY_COLUMN: &str = "kept_answer.body";

/// Approximate octets of a stored response besides its body.
const ROW_OCTETS: usize = 512;

/// The row in the associated data of an encrypted body.
fn row_of(key: KeyId, name: &str) -> String {
    format!("{key}.{name}")
}

/// Stores the response to a change with this result, if there is one to store. Returns whether it is stored. Fails with
/// [`Conflict::Repeated`] if another process has carried the request out meanwhile. None is doing so: changes run alone, or
/// have waited for the one with the same submission key.
pub(in crate::store::sql) fn record<T: 'static>(
    tx: &Tx<'_>,
    recorder: &ResponseRecorder,
    result: &T,
) -> Result<bool> {
    let Some(response) = recorder.response(result) else { return Ok(false) };
    let request = recorder.request();
    if insert(tx, request.key(), request.name(), &response, request.now())? {
        return Ok(true);
    }
    let sql = "SELECT 1 FROM idempotent_response WHERE key_id = ?1 AND name = ?2";
    match tx.prepare_cached(sql)?.exists(params![request.key(), request.name()])? {
        true => Err(StoreError::Conflict(Conflict::Repeated)),
        false => Ok(false),
    }
}

/// Stores a response, unless there is an unexpired one. Returns whether it is stored.
pub(super) fn insert(
    tx: &Tx<'_>,
    key: KeyId,
    name: &str,
    response: &IdempotentResponse,
    now: Timestamp,
) -> Result<bool> {
    let row = row_of(key, name);
    let body = tx.sealer.seal(SealedColumn { column: BODY_COLUMN, row: &row }, &response.body)?;
    // The key may have been deleted; then the request cannot be repeated.
    let sql = "INSERT INTO idempotent_response (key_id, name, digest, status, body, created_us)
               SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE EXISTS (SELECT 1 FROM key WHERE id = ?1)
               ON CONFLICT (key_id, name) DO UPDATE SET
                   digest = excluded.digest, status = excluded.status, body = excluded.body,
                   created_us = excluded.created_us
               WHERE idempotent_response.created_us < ?7";
    let forgotten_us = forgotten_before_us(now);
    let changed = tx.prepare_cached(sql)?.execute(params![
        key,
        name,
        response.digest,
        response.status,
        body,
        us(now),
        forgotten_us
    ])?;
    if changed > 0 {
        count_octets(tx, key, response, now)?;
    }
    Ok(changed > 0)
}

/// Adds to the octets that the tenant of the key has stored on this day, in the row of the lane.
fn count_octets(tx: &Tx<'_>, key: KeyId, response: &IdempotentResponse, now: Timestamp) -> Result<()> {
    let sql = "INSERT INTO response_usage (tenant_id, slot, day_us, octets)
               SELECT tenant_id, ?2, ?3, ?4 FROM key WHERE id = ?1 AND tenant_id IS NOT NULL
               ON CONFLICT (tenant_id, slot) DO UPDATE SET day_us = excluded.day_us,
                   octets = CASE WHEN response_usage.day_us = excluded.day_us
                                 THEN response_usage.octets + excluded.octets ELSE excluded.octets END";
    let octets = i64::try_from(response.body.len() + ROW_OCTETS).unwrap_or(i64::MAX);
    tx.prepare_cached(sql)?.execute(params![key, tx.slot, day_us(now), octets])?;
    Ok(())
}

/// The octets that a tenant has stored on this day.
pub(super) fn octets_of_day(connection: &Connection, tenant: TenantId, now: Timestamp) -> Result<u64> {
    let sql = "SELECT CAST(coalesce(sum(octets), 0) AS BIGINT) FROM response_usage WHERE tenant_id = ?1 AND day_us = ?2";
    Ok(connection.query_row(sql, params![tenant, day_us(now)], |row| count(row, 0))?)
}

fn day_us(now: Timestamp) -> i64 {
    us(LimitPeriod::Day.start_of(now))
}

pub(super) fn find(
    connection: &Connection,
    sealer: &Sealer,
    key: KeyId,
    name: &str,
    now: Timestamp,
) -> Result<Option<IdempotentResponse>> {
    let sql = "SELECT digest, status, body FROM idempotent_response WHERE key_id = ?1 AND name = ?2 AND created_us >= ?3";
    let found: Option<([u8; 32], u16, Vec<u8>)> = connection
        .prepare_cached(sql)?
        .query_row(params![key, name, forgotten_before_us(now)], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .optional()?;
    let Some((digest, status, body)) = found else { return Ok(None) };
    let row = row_of(key, name);
    let body = sealer.open(SealedColumn { column: BODY_COLUMN, row: &row }, &body)?;
    Ok(Some(IdempotentResponse { digest, status, body }))
}

/// Deletes expired responses, at most `limit`.
pub(super) fn delete_expired(tx: &Tx<'_>, now: Timestamp, limit: usize) -> Result<u64> {
    let sql = "DELETE FROM idempotent_response WHERE (key_id, name) IN
                   (SELECT key_id, name FROM idempotent_response WHERE created_us < ?1 LIMIT ?2)";
    Ok(tx.prepare_cached(sql)?.execute(params![forgotten_before_us(now), sql_limit(limit)])? as u64)
}

fn forgotten_before_us(now: Timestamp) -> i64 {
    us(now.checked_sub(IDEMPOTENT_RESPONSE_LIFETIME).unwrap_or(Timestamp::MIN))
}
