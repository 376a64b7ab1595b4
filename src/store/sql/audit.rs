//! The audit log.

use super::Store;
use super::keyset::List;
use super::sql_types::{json_if_any, parsed_if_any, time, to_json, us};
use super::unit_of_work::Tx;
use crate::model::{AuditId, TenantId};
use crate::store::database::{self, Connection, OptionalExtension, Row, params};
use crate::store::traits::Audit;
use crate::store::{
    AuditEntry, AuditFilter, Conflict, ObjectVersion, Page, PageRequest, Result, StoreError, is_in_scope,
};

/// The newest entries of an object that its version counts. Those of transactions in progress are among them.
const VERSION_ENTRIES: i64 = 1000;

/// Stores an entry, or completes the one with its id; what the completion does not know stays.
pub(super) fn write(tx: &Tx<'_>, entry: &AuditEntry) -> Result<()> {
    let number = next_number(tx, entry.tenant_id)?;
    let sql = "INSERT INTO audit (id, tenant_id, number, actor, key_id, actor_name, by_platform, client_address,
                                  request_id, operation, object, object_id, before, after, error, created_us)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)
               ON CONFLICT (id) DO UPDATE SET tenant_id = coalesce(excluded.tenant_id, audit.tenant_id),
                   number = CASE WHEN audit.tenant_id IS NOT DISTINCT FROM excluded.tenant_id
                                      OR excluded.tenant_id IS NULL
                                 THEN audit.number ELSE excluded.number END,
                   object = coalesce(excluded.object, audit.object),
                   object_id = coalesce(excluded.object_id, audit.object_id),
                   before = coalesce(excluded.before, audit.before), after = coalesce(excluded.after, audit.after),
                   error = coalesce(excluded.error, audit.error)";
    tx.prepare_cached(sql)?.execute(params![
        entry.id,
        entry.tenant_id,
        number,
        entry.actor,
        entry.key_id,
        entry.actor_name,
        entry.by_platform,
        entry.client_address.map(|address| address.to_string()),
        entry.request_id,
        entry.operation,
        entry.object,
        entry.object_id,
        entry.before.as_ref().map(to_json).transpose()?,
        entry.after.as_ref().map(to_json).transpose()?,
        entry.error,
        us(entry.created_at),
    ])?;
    if entry.tenant_id.is_some() {
        let sql = "DELETE FROM audit WHERE tenant_id = ?1 AND number <= ?2";
        tx.prepare_cached(sql)?.execute(params![entry.tenant_id, number - tx.bounds.audit_entries_max])?;
    }
    Ok(())
}

/// Fails with [`Conflict::Changed`] if a request with another entry has changed the object since it had this version. Changes
/// run alone, so none is in progress.
pub(super) fn require_unchanged(tx: &Tx<'_>, expected: &ObjectVersion, own: Option<AuditId>) -> Result<()> {
    match read_version(tx, &expected.object_id, own)? == *expected {
        true => Ok(()),
        false => Err(StoreError::Conflict(Conflict::Changed)),
    }
}

/// The version by all entries but that of the request itself.
fn read_version(connection: &Connection, object_id: &str, own: Option<AuditId>) -> Result<ObjectVersion> {
    // Numbers are in the order of commits, but one of the platform may become one of a tenant; so entries are counted too.
    let sql = "SELECT count(*), coalesce(max(number), 0) FROM
                   (SELECT number FROM audit WHERE object_id = ?1 AND id <> ?2 ORDER BY id DESC LIMIT ?3) AS newest";
    let own = own.map(|id| id.to_string()).unwrap_or_default();
    let (entries, last_number) = connection
        .prepare_cached(sql)?
        .query_row(params![object_id, own, VERSION_ENTRIES], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(ObjectVersion { object_id: object_id.to_owned(), entries, last_number })
}

fn next_number(tx: &Tx<'_>, tenant: Option<TenantId>) -> Result<i64> {
    // PostgreSQL looks for `IS NOT DISTINCT FROM` in no index.
    Ok(match tenant {
        Some(tenant) => {
            let sql = "SELECT coalesce(max(number), 0) + 1 FROM audit WHERE tenant_id = ?1";
            tx.prepare_cached(sql)?.query_row([tenant], |row| row.get(0))?
        }
        None => {
            let sql = "SELECT coalesce(max(number), 0) + 1 FROM audit WHERE tenant_id IS NULL";
            tx.prepare_cached(sql)?.query_row([], |row| row.get(0))?
        }
    })
}

fn read_row(row: &Row<'_>) -> database::Result<AuditEntry> {
    Ok(AuditEntry {
        id: row.get("id")?,
        tenant_id: row.get("tenant_id")?,
        actor: row.get("actor")?,
        key_id: row.get("key_id")?,
        actor_name: row.get("actor_name")?,
        by_platform: row.get("by_platform")?,
        client_address: parsed_if_any(row, "client_address")?,
        request_id: row.get("request_id")?,
        operation: row.get("operation")?,
        object: row.get("object")?,
        object_id: row.get("object_id")?,
        before: json_if_any(row, "before")?,
        after: json_if_any(row, "after")?,
        error: row.get("error")?,
        created_at: time(row, "created_us")?,
    })
}

fn list(connection: &Connection, filter: &AuditFilter, page: &PageRequest) -> Result<Page<AuditEntry>> {
    let mut list = List::of("audit", AuditId::PREFIX);
    list.only_owned_by(filter.tenant_id, filter.of_platform)?;
    let of_key = if filter.of_own_keys { "key_id = ? AND NOT by_platform" } else { "key_id = ?" };
    list.only_if(of_key, &filter.key_id)?;
    list.only_if("operation = ?", &filter.operation)?;
    list.only_if("object = ?", &filter.object)?;
    list.only_if("object_id = ?", &filter.object_id)?;
    list.read(connection, page, read_row)
}

impl Audit for Store {
    async fn object_version(&self, object_id: String) -> Result<ObjectVersion> {
        self.read(move |connection| read_version(connection, &object_id, None)).await
    }

    async fn complete_audit(&self, entry: AuditEntry) -> Result<()> {
        // The handle of the request may require a version of the object, which the change itself has ended.
        self.of_server().write(move |tx| write(tx, &entry)).await
    }

    async fn list_audit(&self, filter: AuditFilter, page: PageRequest) -> Result<Page<AuditEntry>> {
        self.read_slow(move |connection| list(connection, &filter, &page)).await
    }

    async fn audit_entry(&self, scope: Option<TenantId>, id: AuditId) -> Result<Option<AuditEntry>> {
        let found = self
            .read(move |connection| {
                let sql = "SELECT * FROM audit WHERE id = ?1";
                Ok(connection.prepare_cached(sql)?.query_row([id], read_row).optional()?)
            })
            .await?;
        Ok(found.filter(|entry| is_in_scope(scope, entry.tenant_id)))
    }
}
