//! Credentials. Of a secret only the digest and the encrypted SCRAM verifier are stored.

use super::{row_limits, tenants};
use crate::mail::Timestamp;
use crate::model::{DomainId, EventKind, KeyId, KeyStatus, TenantId};
use crate::store::database::{self, Connection, OptionalExtension, Row, params};
use crate::store::sql::events::Subject;
use crate::store::sql::keyset::List;
use crate::store::sql::secret_encryption::SealedColumn;
use crate::store::sql::sign_ins;
use crate::store::sql::sql_types::{json, sql_limit, time, time_if_any, to_json, us};
use crate::store::sql::unit_of_work::Tx;
use crate::store::{
    Conflict, Key, KeyFilter, KeyPatch, Limited, NewKey, Page, PageRequest, Result, StoreError, is_in_scope,
};

pub(super) const SCRAM_COLUMN: &str = "key.scram";

/// The columns of [`read_row`].
pub(super) const COLUMNS: &str =
    "*, (SELECT max(expires_us) FROM key_secret WHERE key_id = key.id) AS previous_until_us";

pub(super) fn read_row(row: &Row<'_>) -> database::Result<Key> {
    Ok(Key {
        id: row.get("id")?,
        tenant_id: row.get("tenant_id")?,
        name: row.get("name")?,
        environment: row.get("environment")?,
        scopes: json(row, "scopes")?,
        allowed_domain_ids: json(row, "allowed_domain_ids")?,
        restricted_to_domains: row.get("restricted_to_domains")?,
        allowed_cidrs: json(row, "allowed_cidrs")?,
        last_four: row.get("last_four")?,
        created_at: time(row, "created_us")?,
        expires_at: time_if_any(row, "expires_us")?,
        last_used_at: time_if_any(row, "last_used_us")?,
        revoked_at: time_if_any(row, "revoked_us")?,
        rotated_at: time_if_any(row, "rotated_us")?,
        previous_secret_until: time_if_any(row, "previous_until_us")?,
        secret_expires_at: None,
    })
}

pub(super) fn create(tx: &Tx<'_>, new: &NewKey, now: Timestamp) -> Result<Key> {
    tenants::require(tx, new.tenant_id)?;
    free_slot(tx, new.tenant_id)?;
    let key = Key {
        id: KeyId::generate(now),
        tenant_id: new.tenant_id,
        name: new.name.clone(),
        environment: new.environment,
        scopes: new.scopes.clone(),
        allowed_domain_ids: new.allowed_domain_ids.clone(),
        restricted_to_domains: !new.allowed_domain_ids.is_empty(),
        allowed_cidrs: new.allowed_cidrs.clone(),
        last_four: new.stored_secret.last_four.clone(),
        created_at: now,
        expires_at: new.expires_at,
        last_used_at: None,
        revoked_at: None,
        rotated_at: None,
        previous_secret_until: None,
        secret_expires_at: None,
    };
    let place = SealedColumn { column: SCRAM_COLUMN, row: &key.id.to_string() };
    let scram = tx.sealer.seal(place, &new.stored_secret.scram.to_bytes())?;
    let sql = "INSERT INTO key (id, tenant_id, name, environment, scopes, allowed_domain_ids, allowed_cidrs,
                                digest, last_four, created_us, expires_us, scram, restricted_to_domains,
                                next_notice_us)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)";
    tx.prepare_cached(sql)?.execute(params![
        key.id,
        key.tenant_id,
        key.name,
        key.environment,
        to_json(&key.scopes)?,
        to_json(&key.allowed_domain_ids)?,
        to_json(&key.allowed_cidrs)?,
        new.stored_secret.digest,
        key.last_four,
        us(key.created_at),
        key.expires_at.map(us),
        scram,
        key.restricted_to_domains,
        next_notice_us(&key, now),
    ])?;
    append_event(tx, EventKind::KeyCreated, &key, now)?;
    tx.note_change_of_owner(key.tenant_id);
    Ok(key)
}

fn next_notice_us(key: &Key, now: Timestamp) -> Option<i64> {
    key.expires_at.and_then(|at| Key::next_expiry_notice(at, now)).map(us)
}

/// Appends an event of a key, without anything of its secrets.
pub(super) fn append_event(tx: &Tx<'_>, kind: EventKind, key: &Key, at: Timestamp) -> Result<()> {
    let (tenant_id, environment) = (key.tenant_id, Some(key.environment));
    let subject = Subject { tenant_id, environment, ..Subject::default() };
    let Key { id, name, environment, expires_at, .. } = key;
    let data = serde_json::json!({
        "key_id": id, "name": name, "environment": environment, "expires_at": expires_at,
    });
    tx.append(kind, subject, &data, at)
}

/// Deletes the oldest revoked key at the limit, which regular rotation of keys reaches.
fn free_slot(tx: &Tx<'_>, tenant: Option<TenantId>) -> Result<()> {
    let required = row_limits::require(tx, Limited::Keys, tenant, 1);
    if let Err(StoreError::Conflict(Conflict::LimitReached(_))) = &required {
        let sql =
            "DELETE FROM key WHERE id = (SELECT id FROM key WHERE tenant_id = ?1 AND revoked_us IS NOT NULL
                                               ORDER BY id LIMIT 1)";
        if tx.prepare_cached(sql)?.execute([tenant])? > 0 {
            return Ok(());
        }
    }
    required
}

pub(super) fn find(connection: &Connection, id: KeyId) -> Result<Option<Key>> {
    let mut statement = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM key WHERE id = ?1"))?;
    Ok(statement.query_row([id], read_row).optional()?)
}

pub(super) fn find_in_scope(
    connection: &Connection,
    scope: Option<TenantId>,
    id: KeyId,
) -> Result<Option<Key>> {
    Ok(find(connection, id)?.filter(|key| is_in_scope(scope, key.tenant_id)))
}

pub(super) fn list(connection: &Connection, filter: &KeyFilter, page: &PageRequest) -> Result<Page<Key>> {
    let mut list = List::of("key", KeyId::PREFIX).columns(COLUMNS);
    list.only_owned_by(filter.tenant_id, filter.of_platform)?;
    list.only_if("environment = ?", &filter.environment)?;
    if let Some((status, now)) = filter.status {
        let condition = match status {
            KeyStatus::Active => "revoked_us IS NULL AND (expires_us IS NULL OR expires_us > ?)",
            KeyStatus::Revoked => "revoked_us IS NOT NULL AND ? IS NOT NULL",
            KeyStatus::Expired => "revoked_us IS NULL AND expires_us <= ?",
        };
        list.only(condition, &us(now))?;
    }
    list.read(connection, page, read_row)
}

pub(super) fn update(tx: &Tx<'_>, id: KeyId, patch: &KeyPatch, now: Timestamp) -> Result<Option<Key>> {
    let Some(before) = find(tx, id)? else { return Ok(None) };
    let (mut key, patch) = (before.clone(), patch.clone());
    key.name = patch.name.unwrap_or(key.name);
    key.scopes = patch.scopes.unwrap_or(key.scopes);
    if let Some(ids) = patch.allowed_domain_ids {
        key.restricted_to_domains = !ids.is_empty();
        key.allowed_domain_ids = ids;
    }
    key.allowed_cidrs = patch.allowed_cidrs.unwrap_or(key.allowed_cidrs);
    key.expires_at = patch.expires_at.unwrap_or(key.expires_at);
    if key == before {
        return Ok(Some(key));
    }
    let sql =
        "UPDATE key SET name = ?2, scopes = ?3, allowed_domain_ids = ?4, allowed_cidrs = ?5, expires_us = ?6,
             restricted_to_domains = ?7 WHERE id = ?1";
    tx.prepare_cached(sql)?.execute(params![
        id,
        key.name,
        to_json(&key.scopes)?,
        to_json(&key.allowed_domain_ids)?,
        to_json(&key.allowed_cidrs)?,
        key.expires_at.map(us),
        key.restricted_to_domains,
    ])?;
    if key.expires_at != before.expires_at {
        tx.prepare_cached(SET_NOTICE)?.execute(params![id, next_notice_us(&key, now)])?;
    }
    tx.note_change_of_owner(key.tenant_id);
    Ok(Some(key))
}

/// Removes a deleted domain from the keys that are restricted to it. They stay restricted.
pub(super) fn forget_domain(tx: &Tx<'_>, tenant: TenantId, domain: DomainId) -> Result<()> {
    let quoted = format!("\"{domain}\"");
    let sql = "SELECT id, tenant_id, allowed_domain_ids FROM key
               WHERE (tenant_id = ?1 OR tenant_id IS NULL) AND instr(allowed_domain_ids, ?2) > 0";
    let mut statement = tx.prepare_cached(sql)?;
    let restricted = statement.query_map(params![tenant, quoted], |row| {
        Ok((row.get::<_, KeyId>(0)?, row.get(1)?, json::<Vec<DomainId>>(row, 2)?))
    })?;
    for key in restricted.collect::<database::Result<Vec<_>>>()? {
        let (id, owner, mut allowed) = key;
        allowed.retain(|other| *other != domain);
        let sql = "UPDATE key SET allowed_domain_ids = ?2 WHERE id = ?1";
        tx.prepare_cached(sql)?.execute(params![id, to_json(&allowed)?])?;
        tx.note_change_of_owner(owner);
    }
    Ok(())
}

pub(super) fn revoke(tx: &Tx<'_>, id: KeyId, now: Timestamp) -> Result<bool> {
    let Some(key) = find(tx, id)? else { return Ok(false) };
    if key.revoked_at.is_none() {
        tx.prepare_cached("UPDATE key SET revoked_us = ?2 WHERE id = ?1")?.execute(params![id, us(now)])?;
        append_event(tx, EventKind::KeyRevoked, &key, now)?;
        sign_ins::end_of_key(tx, id)?;
        tx.note_change_of_owner(key.tenant_id);
    }
    Ok(true)
}

pub(super) fn touch(tx: &Tx<'_>, id: KeyId, now: Timestamp) -> Result<()> {
    let sql =
        "UPDATE key SET last_used_us = ?2 WHERE id = ?1 AND (last_used_us IS NULL OR last_used_us < ?2)";
    tx.prepare_cached(sql)?.execute(params![id, us(now)])?;
    Ok(())
}

const SET_NOTICE: &str = "UPDATE key SET next_notice_us = ?2 WHERE id = ?1";

/// Keys whose event is due, found with a partial index.
pub(in crate::store::sql) const DUE_NOTICES: &str =
    "SELECT id FROM key WHERE next_notice_us <= ?1 ORDER BY next_notice_us LIMIT ?2";

/// What one job did for keys that expire soon.
pub(super) struct ExpiriesAppended {
    pub(super) events: u64,
    /// More keys may be due.
    pub(super) truncated: bool,
}

/// Appends the events of at most `limit` keys that expire soon. An event that was due while the server was down is appended
/// late, two of a key as one.
pub(super) fn append_expiries(tx: &Tx<'_>, now: Timestamp, limit: usize) -> Result<ExpiriesAppended> {
    let mut statement = tx.prepare_cached(DUE_NOTICES)?;
    let ids = statement.query_map(params![us(now), sql_limit(limit)], |row| row.get(0))?;
    let ids: Vec<KeyId> = ids.collect::<database::Result<_>>()?;
    let truncated = ids.len() == limit;
    let mut events = 0;
    for id in ids {
        let Some(key) = find(tx, id)? else { continue };
        if key.status(now) == KeyStatus::Active {
            append_event(tx, EventKind::KeyExpiring, &key, now)?;
            events += 1;
        }
        tx.prepare_cached(SET_NOTICE)?.execute(params![id, next_notice_us(&key, now)])?;
    }
    Ok(ExpiriesAppended { events, truncated })
}
