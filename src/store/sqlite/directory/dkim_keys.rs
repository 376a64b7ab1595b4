//! The rows of DKIM keys; private halves are sealed.

use rusqlite::{Connection, OptionalExtension, Row, params};
use zeroize::Zeroizing;

use crate::mail::{DkimKeyId, DkimKeyState, DomainId, Timestamp};
use crate::store::sqlite::rows::{time, us};
use crate::store::sqlite::seal::{Place, Sealer};
use crate::store::sqlite::writer::Tx;
use crate::store::{Conflict, DkimKey, NewDkimKey, Result, StoreError};

const PRIVATE_KEY_COLUMN: &str = "dkim_key.private_key";

fn read_row(row: &Row<'_>) -> rusqlite::Result<DkimKey> {
    Ok(DkimKey {
        id: row.get("id")?,
        domain_id: row.get("domain_id")?,
        selector: row.get("selector")?,
        algorithm: row.get("algorithm")?,
        state: row.get("state")?,
        public_key: row.get("public_key")?,
        created_at: time(row, "created_us")?,
    })
}

pub(super) fn add(tx: &Tx<'_>, domain: DomainId, new: &NewDkimKey, now: Timestamp) -> Result<DkimKey> {
    let is_used = tx
        .prepare_cached("SELECT 1 FROM dkim_key WHERE domain_id = ?1 AND selector = ?2")?
        .exists(params![domain, new.selector])?;
    if is_used {
        return Err(StoreError::Conflict(Conflict::Selector));
    }
    let id = DkimKeyId::generate(now);
    let key = DkimKey {
        id,
        domain_id: domain,
        selector: new.selector.clone(),
        algorithm: new.algorithm,
        state: new.state,
        public_key: new.public_key.clone(),
        created_at: now,
    };
    let place = Place { column: PRIVATE_KEY_COLUMN, row: &id.to_string() };
    let sealed = tx.sealer.seal(place, &new.private_key)?;
    let sql = "INSERT INTO dkim_key (id, domain_id, selector, algorithm, state, public_key, private_key, created_us)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    tx.prepare_cached(sql)?.execute(params![
        key.id,
        key.domain_id,
        key.selector,
        key.algorithm,
        key.state,
        key.public_key,
        sealed,
        us(key.created_at),
    ])?;
    if key.state == DkimKeyState::Active {
        retire_others(tx, &key)?;
    }
    Ok(key)
}

/// One key of an algorithm signs at a time.
fn retire_others(tx: &Tx<'_>, key: &DkimKey) -> Result<()> {
    let sql =
        "UPDATE dkim_key SET state = ?1 WHERE domain_id = ?2 AND algorithm = ?3 AND state = ?4 AND id <> ?5";
    let (retiring, active) = (DkimKeyState::Retiring, DkimKeyState::Active);
    tx.prepare_cached(sql)?.execute(params![retiring, key.domain_id, key.algorithm, active, key.id])?;
    Ok(())
}

pub(super) fn of_domain(connection: &Connection, domain: DomainId) -> Result<Vec<DkimKey>> {
    let mut statement =
        connection.prepare_cached("SELECT * FROM dkim_key WHERE domain_id = ?1 ORDER BY created_us, id")?;
    let keys = statement.query_map([domain], read_row)?;
    Ok(keys.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn private_key(
    connection: &Connection,
    sealer: &Sealer,
    id: DkimKeyId,
) -> Result<Option<Zeroizing<Vec<u8>>>> {
    let mut statement = connection.prepare_cached("SELECT private_key FROM dkim_key WHERE id = ?1")?;
    let sealed: Option<Vec<u8>> = statement.query_row([id], |row| row.get(0)).optional()?;
    let place = Place { column: PRIVATE_KEY_COLUMN, row: &id.to_string() };
    sealed.map(|sealed| sealer.open(place, &sealed)).transpose()
}

/// Keys whose record was seen sign from now on, unless a newer one of their algorithm does already.
pub(super) fn mark_seen(tx: &Tx<'_>, domain: DomainId, seen: &[DkimKeyId]) -> Result<()> {
    // Oldest first, so that the newest of several is the one that stays.
    for mut key in of_domain(tx, domain)? {
        if key.state != DkimKeyState::Pending || !seen.contains(&key.id) {
            continue;
        }
        let newer_signs = of_domain(tx, domain)?.iter().any(|other| {
            other.state == DkimKeyState::Active
                && other.algorithm == key.algorithm
                && (other.created_at, other.id) > (key.created_at, key.id)
        });
        key.state = if newer_signs { DkimKeyState::Retiring } else { DkimKeyState::Active };
        set_state(tx, &key)?;
        if key.state == DkimKeyState::Active {
            retire_others(tx, &key)?;
        }
    }
    Ok(())
}

/// Keys whose record is missing do not sign until it is seen.
pub(super) fn mark_unseen(tx: &Tx<'_>, domain: DomainId, unseen: &[DkimKeyId]) -> Result<()> {
    for mut key in of_domain(tx, domain)? {
        if key.state == DkimKeyState::Active && unseen.contains(&key.id) {
            key.state = DkimKeyState::Pending;
            set_state(tx, &key)?;
        }
    }
    Ok(())
}

fn set_state(tx: &Tx<'_>, key: &DkimKey) -> Result<()> {
    tx.prepare_cached("UPDATE dkim_key SET state = ?2 WHERE id = ?1")?.execute(params![key.id, key.state])?;
    Ok(())
}
