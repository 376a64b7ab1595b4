//! DKIM keys; private keys are encrypted.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use zeroize::Zeroizing;

use crate::mail::{SignedDuration, Timestamp};
use crate::model::{DeliveryId, DkimAlgorithm, DkimKeyId, DkimKeyState, DomainId, TenantId};
use crate::store::database::{self, Connection, OptionalExtension, Row, params};
use crate::store::sql::secret_encryption::{SealedColumn, Sealer};
use crate::store::sql::sql_types::{time, time_if_any, us};
use crate::store::sql::unit_of_work::Tx;
use crate::store::{Conflict, DKIM_KEYS_MAX, DkimKey, Domain, NewDkimKey, Result, StoreError};

pub(in crate::store::sql) const PRIVATE_KEY_COLUMN: &str = "dkim_key.private_key";
/// Maximum between the acceptance time of a message and its signature, and between the DNS check that replaces a key and
/// the last signature with it.
const SIGNING_TIME_MAX: SignedDuration = SignedDuration::from_mins(5);

fn read_row(row: &Row<'_>) -> database::Result<DkimKey> {
    Ok(DkimKey {
        id: row.get("id")?,
        domain_id: row.get("domain_id")?,
        selector: row.get("selector")?,
        algorithm: row.get("algorithm")?,
        state: row.get("state")?,
        public_key: row.get("public_key")?,
        has_signed: row.get("has_signed")?,
        retiring_since: time_if_any(row, "retiring_since_us")?,
        created_at: time(row, "created_us")?,
    })
}

pub(super) fn add(tx: &Tx<'_>, domain: &Domain, new: &NewDkimKey, now: Timestamp) -> Result<DkimKey> {
    let others = of_domain(tx, domain.id)?;
    if others.iter().any(|other| other.selector == new.selector) {
        return Err(StoreError::Conflict(Conflict::Selector));
    }
    if others.len() >= DKIM_KEYS_MAX {
        return Err(StoreError::Conflict(Conflict::TooManyDkimKeys));
    }
    let key = DkimKey::new(new, domain.id, now);
    let place = SealedColumn { column: PRIVATE_KEY_COLUMN, row: &key.id.to_string() };
    let sealed = tx.sealer.seal(place, &new.private_key)?;
    let sql = "INSERT INTO dkim_key (id, domain_id, selector, algorithm, state, public_key, private_key, has_signed,
                                     created_us)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    tx.prepare_cached(sql)?.execute(params![
        key.id,
        key.domain_id,
        key.selector,
        key.algorithm,
        key.state,
        key.public_key,
        sealed,
        key.has_signed,
        us(key.created_at),
    ])?;
    if key.state == DkimKeyState::Active {
        retire_others(tx, &key, now)?;
    }
    tx.note_change_of_owner(domain.tenant_id);
    Ok(key)
}

/// The key of the same algorithm that waits for its first record, else this one.
pub(super) fn ensure_pending(
    tx: &Tx<'_>,
    domain: &Domain,
    new: &NewDkimKey,
    now: Timestamp,
) -> Result<DkimKey> {
    let waits = |key: &DkimKey| key.algorithm == new.algorithm && key.waits_for_first_record();
    match of_domain(tx, domain.id)?.into_iter().rfind(waits) {
        Some(waiting) => Ok(waiting),
        None => add(tx, domain, new, now),
    }
}

/// One key of an algorithm signs at a time.
fn retire_others(tx: &Tx<'_>, key: &DkimKey, now: Timestamp) -> Result<()> {
    let is_replaced = |other: &DkimKey| {
        other.id != key.id && other.algorithm == key.algorithm && other.state == DkimKeyState::Active
    };
    for other in of_domain(tx, key.domain_id)?.iter().filter(|other| is_replaced(other)) {
        set_state(tx, other, DkimKeyState::Retiring, now)?;
    }
    Ok(())
}

pub(in crate::store::sql) fn of_domain(connection: &Connection, domain: DomainId) -> Result<Vec<DkimKey>> {
    let mut statement =
        connection.prepare_cached("SELECT * FROM dkim_key WHERE domain_id = ?1 ORDER BY created_us, id")?;
    let keys = statement.query_map([domain], read_row)?;
    Ok(keys.collect::<database::Result<_>>()?)
}

pub(super) fn private_key(
    connection: &Connection,
    sealer: &Sealer,
    id: DkimKeyId,
) -> Result<Option<Zeroizing<Vec<u8>>>> {
    let mut statement = connection.prepare_cached("SELECT private_key FROM dkim_key WHERE id = ?1")?;
    let sealed: Option<Vec<u8>> = statement.query_row([id], |row| row.get(0)).optional()?;
    let place = SealedColumn { column: PRIVATE_KEY_COLUMN, row: &id.to_string() };
    sealed.map(|sealed| sealer.open(place, &sealed)).transpose()
}

/// Updates key states after a DNS check: of each algorithm, the newest key with a published record signs and older ones
/// retire. A retired key signs again if the record of its successor is missing.
pub(super) fn follow_dns(
    tx: &Tx<'_>,
    domain: DomainId,
    seen: &[DkimKeyId],
    unseen: &[DkimKeyId],
    now: Timestamp,
) -> Result<()> {
    let stands = |key: &DkimKey| {
        seen.contains(&key.id) || (key.state == DkimKeyState::Active && !unseen.contains(&key.id))
    };
    let keys = of_domain(tx, domain)?;
    for &algorithm in DkimAlgorithm::ALL {
        let keys: Vec<_> = keys.iter().filter(|key| key.algorithm == algorithm).collect();
        let signer = keys.iter().rposition(|key| stands(key));
        for (index, key) in keys.into_iter().enumerate() {
            let state = match signer {
                Some(signer) if index == signer => DkimKeyState::Active,
                Some(signer) if index < signer => DkimKeyState::Retiring,
                _ if key.state == DkimKeyState::Active => DkimKeyState::Pending,
                _ => key.state,
            };
            if state != key.state {
                set_state(tx, key, state, now)?;
            }
        }
    }
    Ok(())
}

fn set_state(tx: &Tx<'_>, key: &DkimKey, state: DkimKeyState, now: Timestamp) -> Result<()> {
    let has_signed = key.has_signed || state == DkimKeyState::Active;
    let retiring_since = (state == DkimKeyState::Retiring).then(|| us(now));
    let sql = "UPDATE dkim_key SET state = ?2, has_signed = ?3, retiring_since_us = ?4 WHERE id = ?1";
    tx.prepare_cached(sql)?.execute(params![key.id, state, has_signed, retiring_since])?;
    Ok(())
}

/// Keys that were retired before a time and that signed no queued message.
pub(super) fn unused_retired(connection: &Connection, before: Timestamp) -> Result<Vec<DkimKeyId>> {
    let sql =
        "SELECT k.id, k.retiring_since_us, d.tenant_id FROM dkim_key k JOIN domain d ON d.id = k.domain_id
               WHERE k.retiring_since_us < ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([us(before)])?;
    let mut oldest_waiting = HashMap::new();
    let mut unused_retired = Vec::new();
    while let Some(row) = rows.next()? {
        // The sandbox domain signs only mail that is never sent.
        let oldest = match row.get::<_, Option<TenantId>>("tenant_id")? {
            Some(tenant) => match oldest_waiting.entry(tenant) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(unknown) => *unknown.insert(oldest_open_delivery(connection, tenant)?),
            },
            None => None,
        };
        let last_signed = time(&row, "retiring_since_us")? + SIGNING_TIME_MAX;
        if oldest.is_none_or(|oldest: DeliveryId| oldest.created_at() > last_signed) {
            unused_retired.push(row.get("id")?);
        }
    }
    Ok(unused_retired)
}

fn oldest_open_delivery(connection: &Connection, tenant: TenantId) -> Result<Option<DeliveryId>> {
    let sql = "SELECT MIN(id) FROM queue WHERE tenant_id = ?1";
    Ok(connection.prepare_cached(sql)?.query_row([tenant], |row| row.get(0))?)
}

/// Deletes keys unless they sign again.
pub(super) fn remove_served(tx: &Tx<'_>, ids: &[DkimKeyId]) -> Result<u64> {
    let mut delete = tx.prepare_cached("DELETE FROM dkim_key WHERE id = ?1 AND state = ?2")?;
    let mut removed = 0;
    for id in ids {
        removed += delete.execute(params![id, DkimKeyState::Retiring])? as u64;
    }
    Ok(removed)
}
