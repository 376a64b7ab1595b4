//! The secrets of keys: the present one in the row of the key, earlier ones until their end in rows of their own.

use super::keys;
use crate::mail::Timestamp;
use crate::model::{EventKind, KeyId, KeyStatus, ScramVerifier, SecretDigest};
use crate::store::database::{self, Connection, OptionalExtension, params};
use crate::store::sql::secret_encryption::{SealedColumn, Sealer};
use crate::store::sql::sql_types::{time_if_any, us};
use crate::store::sql::unit_of_work::Tx;
use crate::store::{Conflict, Key, Result, ScramCredential, ScramSecret, SecretRotation, StoreError};

/// Earlier secrets that a key has at most. Those that ended stay, so that their owner learns the reason.
const EARLIER_MAX: u32 = 10;

/// The key with this secret.
pub(super) fn find_key(connection: &Connection, digest: SecretDigest) -> Result<Option<Key>> {
    let sql = format!("SELECT {} FROM key WHERE digest = ?1", keys::COLUMNS);
    let key = connection.prepare_cached(&sql)?.query_row([digest], keys::read_row).optional()?;
    if key.is_some() {
        return Ok(key);
    }
    let sql = "SELECT key_id, expires_us FROM key_secret WHERE digest = ?1";
    let row =
        connection.prepare_cached(sql)?.query_row([digest], |row| Ok((row.get(0)?, time_if_any(row, 1)?)));
    let Some((id, secret_expires_at)) = row.optional()? else { return Ok(None) };
    Ok(keys::find(connection, id)?.map(|key| Key { secret_expires_at, ..key }))
}

/// Replaces the secret of a key.
pub(super) fn rotate(
    tx: &Tx<'_>,
    id: KeyId,
    rotation: &SecretRotation,
    now: Timestamp,
) -> Result<Option<Key>> {
    let Some(key) = keys::find(tx, id)? else { return Ok(None) };
    if key.status(now) != KeyStatus::Active {
        return Err(StoreError::Conflict(Conflict::KeyNotActive));
    }
    let SecretRotation { secret, previous_until } = rotation;
    let until_us = us(*previous_until);
    tx.prepare_cached("UPDATE key_secret SET expires_us = min(expires_us, ?2) WHERE key_id = ?1")?
        .execute(params![id, until_us])?;
    let sql = "INSERT INTO key_secret (digest, key_id, scram, expires_us) SELECT digest, id, scram, ?2 FROM key WHERE id = ?1";
    tx.prepare_cached(sql)?.execute(params![id, until_us])?;
    let sql = "DELETE FROM key_secret WHERE digest IN (
                   SELECT digest FROM key_secret WHERE key_id = ?1 ORDER BY expires_us DESC LIMIT ?3 OFFSET ?2)";
    tx.prepare_cached(sql)?.execute(params![id, EARLIER_MAX, i64::MAX])?;
    let place = SealedColumn { column: keys::SCRAM_COLUMN, row: &id.to_string() };
    let scram = tx.sealer.seal(place, &secret.scram.to_bytes())?;
    let sql = "UPDATE key SET digest = ?2, scram = ?3, last_four = ?4, rotated_us = ?5 WHERE id = ?1";
    tx.prepare_cached(sql)?.execute(params![id, secret.digest, scram, secret.last_four, us(now)])?;
    let rotated = keys::find(tx, id)?;
    if let Some(key) = &rotated {
        keys::append_event(tx, EventKind::KeyRotated, key, now)?;
        tx.note_change_of_owner(key.tenant_id);
    }
    Ok(rotated)
}

/// The key with this id, or the only usable key of the tenant with this slug, because the salt is sent before the key is
/// known. An unknown name gets a decoy.
pub(super) fn scram_credential(
    connection: &Connection,
    sealer: &Sealer,
    username: &str,
    now: Timestamp,
) -> Result<ScramCredential> {
    let mut salt = [0; 16];
    salt.copy_from_slice(&sealer.digest("scram decoy", username)[..16]);
    let decoy = ScramCredential { verifier: ScramVerifier::fake(salt), secrets: Vec::new(), key_id: None };
    let Some((id, Some(sealed), digest)) = present_secret(connection, username, now)? else {
        return Ok(decoy);
    };
    let verifier = open_verifier(sealer, id, &sealed)?;
    let mut secrets = vec![ScramSecret { verifier: verifier.clone(), digest, expires_at: None }];
    secrets.extend(
        earlier(connection, sealer, id)?.into_iter().filter(|one| one.verifier.shares_parameters(&verifier)),
    );
    Ok(ScramCredential { verifier, secrets, key_id: Some(id) })
}

/// A key, its encrypted verifier and the digest of its secret.
type PresentSecret = (KeyId, Option<Vec<u8>>, SecretDigest);

/// The present secret of the key that a user name stands for. If a tenant has no active key, its only expired one, so that
/// the login is refused with the reason.
fn present_secret(connection: &Connection, username: &str, now: Timestamp) -> Result<Option<PresentSecret>> {
    let sql = match username.parse::<KeyId>() {
        Ok(_) => {
            "SELECT id, scram, digest, FALSE AS is_expired FROM key WHERE id = ?1 AND CAST(?2 AS BIGINT) IS NOT NULL"
        }
        Err(_) => {
            "SELECT id, scram, digest, coalesce(expires_us <= ?2, FALSE) AS is_expired FROM key
             WHERE revoked_us IS NULL AND tenant_id = (SELECT id FROM tenant WHERE slug = ?1)
             ORDER BY is_expired LIMIT 2"
        }
    };
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map(params![username, us(now)], |row| {
        Ok(((row.get(0)?, row.get(1)?, row.get(2)?), row.get(3)?))
    })?;
    let rows: Vec<(PresentSecret, bool)> = rows.collect::<database::Result<_>>()?;
    let is_only = match rows[..] {
        [] => false,
        [_] => true,
        [(_, first_is_expired), (_, second_is_expired), ..] => !first_is_expired && second_is_expired,
    };
    Ok(rows.into_iter().next().filter(|_| is_only).map(|(secret, _)| secret))
}

fn open_verifier(sealer: &Sealer, id: KeyId, sealed: &[u8]) -> Result<ScramVerifier> {
    let bytes = sealer.open(SealedColumn { column: keys::SCRAM_COLUMN, row: &id.to_string() }, sealed)?;
    ScramVerifier::from_bytes(&bytes)
        .ok_or_else(|| StoreError::Failed(format!("the SCRAM verifier of {id} cannot be read")))
}

fn earlier(connection: &Connection, sealer: &Sealer, id: KeyId) -> Result<Vec<ScramSecret>> {
    let sql = "SELECT scram, digest, expires_us FROM key_secret WHERE key_id = ?1 AND scram IS NOT NULL";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([id])?;
    let mut secrets = Vec::new();
    while let Some(row) = rows.next()? {
        let sealed: Vec<u8> = row.get(0)?;
        let verifier = open_verifier(sealer, id, &sealed)?;
        secrets.push(ScramSecret { verifier, digest: row.get(1)?, expires_at: time_if_any(&row, 2)? });
    }
    Ok(secrets)
}
