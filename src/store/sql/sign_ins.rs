//! Who is signed in to the pages. The table has as many rows as the limits of the callers allow, so it has no index.

use super::Store;
use super::sql_types::{json_if_any, time, to_json, us};
use super::unit_of_work::Tx;
use crate::mail::Timestamp;
use crate::model::{KeyId, SecretDigest};
use crate::store::database::{self, Connection, OptionalExtension, Row, params};
use crate::store::{Result, SessionChange, SignIn, SignInLimits, SignIns};

impl SignIns for Store {
    async fn add_sign_in(&self, new: SignIn, limits: SignInLimits) -> Result<()> {
        self.write(move |tx| add(tx, &new, limits)).await
    }

    async fn sign_in(&self, digest: [u8; 32], now: Timestamp) -> Result<Option<SignIn>> {
        self.read(move |connection| find(connection, digest, now)).await
    }

    async fn take_sign_in(&self, digest: [u8; 32], now: Timestamp) -> Result<Option<SignIn>> {
        self.write(move |tx| {
            let found = find(tx, digest, now)?;
            if found.is_some() {
                tx.prepare_cached("DELETE FROM sign_in WHERE digest = ?1")?.execute(params![digest])?;
            }
            Ok(found)
        })
        .await
    }

    async fn sessions_of(&self, secret: SecretDigest, now: Timestamp) -> Result<Vec<SignIn>> {
        self.read(move |connection| {
            let sql = "SELECT * FROM sign_in WHERE secret = ?1 AND path IS NULL AND ends_us > ?2
                       ORDER BY created_us DESC, digest";
            let mut statement = connection.prepare_cached(sql)?;
            let found = statement.query_map(params![secret, us(now)], read_row)?;
            Ok(found.collect::<database::Result<_>>()?)
        })
        .await
    }

    async fn change_session(&self, digest: [u8; 32], change: SessionChange) -> Result<()> {
        self.write(move |tx| {
            match &change {
                SessionChange::Seen { at, ends_at } => {
                    let sql =
                        "UPDATE sign_in SET seen_us = ?2, ends_us = ?3 WHERE digest = ?1 AND seen_us < ?2";
                    tx.prepare_cached(sql)?.execute(params![digest, us(*at), us(*ends_at)])?;
                }
                SessionChange::Theme(theme) => {
                    let sql = "UPDATE sign_in SET theme = ?2 WHERE digest = ?1";
                    tx.prepare_cached(sql)?.execute(params![digest, theme])?;
                }
                SessionChange::Note(note) => {
                    let sql = "UPDATE sign_in SET note = ?2 WHERE digest = ?1";
                    tx.prepare_cached(sql)?.execute(params![digest, note])?;
                }
            }
            Ok(())
        })
        .await
    }

    async fn end_sign_ins_of(&self, secret: SecretDigest) -> Result<()> {
        self.write(move |tx| {
            tx.prepare_cached("DELETE FROM sign_in WHERE secret = ?1")?.execute([secret])?;
            Ok(())
        })
        .await
    }
}

/// Ends the sessions and links of all secrets of a key.
pub(super) fn end_of_key(tx: &Tx<'_>, key: KeyId) -> Result<()> {
    let sql = "DELETE FROM sign_in WHERE secret IN
                   (SELECT digest FROM key WHERE id = ?1 UNION ALL SELECT digest FROM key_secret WHERE key_id = ?1)";
    tx.prepare_cached(sql)?.execute([key])?;
    Ok(())
}

/// Deletes those that have ended.
pub(super) fn delete_ended(tx: &Tx<'_>, now: Timestamp) -> Result<()> {
    tx.prepare_cached("DELETE FROM sign_in WHERE ends_us <= ?1")?.execute([us(now)])?;
    Ok(())
}

fn find(connection: &Connection, digest: [u8; 32], now: Timestamp) -> Result<Option<SignIn>> {
    let sql = "SELECT * FROM sign_in WHERE digest = ?1 AND ends_us > ?2";
    Ok(connection.prepare_cached(sql)?.query_row(params![digest, us(now)], read_row).optional()?)
}

fn read_row(row: &Row<'_>) -> database::Result<SignIn> {
    Ok(SignIn {
        digest: row.get("digest")?,
        secret: row.get("secret")?,
        tenant_id: row.get("tenant_id")?,
        scopes: json_if_any(row, "scopes")?,
        path: row.get("path")?,
        created_at: time(row, "created_us")?,
        seen_at: time(row, "seen_us")?,
        ends_at: time(row, "ends_us")?,
        expires_at: time(row, "expires_us")?,
        theme: row.get("theme")?,
        note: row.get("note")?,
    })
}

fn add(tx: &Tx<'_>, new: &SignIn, limits: SignInLimits) -> Result<()> {
    delete_ended(tx, new.created_at)?;
    make_room_of_owner(tx, new, limits.of_owner)?;
    make_room(tx, new.path.is_none(), limits.total)?;
    let sql = "INSERT INTO sign_in (digest, secret, tenant_id, scopes, path, created_us, seen_us, ends_us, expires_us)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    tx.prepare_cached(sql)?.execute(params![
        new.digest,
        new.secret,
        new.tenant_id,
        new.scopes.as_ref().map(to_json).transpose()?,
        new.path,
        us(new.created_at),
        us(new.seen_at),
        us(new.ends_at),
        us(new.expires_at),
    ])?;
    Ok(())
}

/// Leaves room for one more of the same owner.
fn make_room_of_owner(tx: &Tx<'_>, new: &SignIn, max: u32) -> Result<()> {
    let sql = "DELETE FROM sign_in WHERE digest IN (
                   SELECT digest FROM sign_in WHERE secret = ?1 AND tenant_id IS NOT DISTINCT FROM ?2
                       AND (scopes IS NULL) = ?3 AND (path IS NULL) = ?4
                   ORDER BY seen_us DESC, digest LIMIT ?6 OFFSET ?5)";
    tx.prepare_cached(sql)?.execute(params![
        new.secret,
        new.tenant_id,
        new.scopes.is_none(),
        new.path.is_none(),
        i64::from(max) - 1,
        i64::MAX,
    ])?;
    Ok(())
}

/// Leaves room for one more session, or one more link. The tenant with most of them gives way, so one does not sign out others.
fn make_room(tx: &Tx<'_>, is_session: bool, max: u32) -> Result<()> {
    let sql = "SELECT count(*) FROM sign_in WHERE (path IS NULL) = ?1";
    let count: i64 = tx.prepare_cached(sql)?.query_row([is_session], |row| row.get(0))?;
    let sql = "DELETE FROM sign_in WHERE digest = (
                   SELECT digest FROM sign_in WHERE (path IS NULL) = ?1 AND tenant_id IS NOT DISTINCT FROM (
                       SELECT tenant_id FROM sign_in WHERE (path IS NULL) = ?1
                       GROUP BY tenant_id ORDER BY count(*) DESC, min(seen_us) LIMIT 1)
                   ORDER BY seen_us, digest LIMIT 1)";
    for _ in i64::from(max)..=count {
        tx.prepare_cached(sql)?.execute([is_session])?;
    }
    Ok(())
}
