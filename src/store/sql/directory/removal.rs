//! Deletes a tenant with all its objects. There may be millions of rows, and others must be able to commit meanwhile: the
//! tenant is suspended first and deleted in steps, its own row last. A crash leaves a suspended tenant, whose deletion can
//! be repeated. Deleted rows are overwritten (`secure_delete`). The search index only marks deleted messages, so it is
//! rewritten before the tenant itself is deleted.

use super::{domains, tenants};
use crate::mail::Timestamp;
use crate::model::{MessageId, TenantId, TenantStatus};
use crate::store::database::{self, Connection, params};
use crate::store::memory::{Announcement, DirectoryChange};
use crate::store::sql::journal::retention::{self, MessageRows};
use crate::store::sql::sql_types;
use crate::store::sql::unit_of_work::Tx;
use crate::store::sql::usage;
use crate::store::{Conflict, Result, StoreError, TenantCounts};

/// Maximum of messages that one step deletes.
const STEP_MESSAGES_MAX: usize = 200;
/// A step ends after this many rows; one message may have a thousand recipients.
const STEP_ROWS_MAX: usize = 2000;

/// The result of one step.
#[derive(Default)]
pub(in crate::store::sql) struct Step {
    pub(in crate::store::sql) counts: TenantCounts,
    /// Whether no row of the tenant remains besides its own.
    pub(in crate::store::sql) is_last: bool,
}

pub(super) fn count(connection: &Connection, id: TenantId) -> Result<Option<TenantCounts>> {
    if tenants::find(connection, id)?.is_none() {
        return Ok(None);
    }
    let count = |of: &str| -> Result<u64> {
        let sql = format!("SELECT count(*) FROM {of}");
        Ok(connection.prepare_cached(&sql)?.query_row([id], |row| sql_types::count(row, 0))?)
    };
    let own = |table: &str| count(&format!("{table} WHERE tenant_id = ?1"));
    let of_messages = |table: &str| {
        count(&format!("message m JOIN {table} t ON t.message_id = m.id WHERE m.tenant_id = ?1"))
    };
    Ok(Some(TenantCounts {
        domains: own("domain")?,
        keys: own("key")?,
        suppressions: own("suppression")?,
        templates: own("template")?,
        webhooks: own("webhook")?,
        messages: own("message")?,
        deliveries: of_messages("delivery")?,
        events: of_messages("event")? + count("event WHERE tenant_id = ?1 AND message_id IS NULL")?,
    }))
}

/// Suspends the tenant without an event, because its events are deleted too. False if it does not exist. Fails with
/// [`Conflict::NotDeletable`] before the date of an archived tenant.
pub(super) fn begin(tx: &Tx<'_>, id: TenantId, now: Timestamp) -> Result<bool> {
    let Some(tenant) = tenants::find(tx, id)? else { return Ok(false) };
    if let Some(at) = tenant.deletable_at.filter(|at| *at > now) {
        return Err(StoreError::Conflict(Conflict::NotDeletable(at)));
    }
    let sql = "UPDATE tenant SET status = ?2, archived_us = NULL, deletable_us = NULL WHERE id = ?1";
    tx.note_change_of_owner(Some(id));
    Ok(tx.prepare_cached(sql)?.execute(params![id, TenantStatus::Suspended])? > 0)
}

/// Deletes some of the remaining rows.
pub(super) fn continue_removal(tx: &Tx<'_>, id: TenantId) -> Result<Step> {
    let step = remove_messages(tx, id)?;
    if step.counts.messages > 0 {
        return Ok(step);
    }
    remove_rows(tx, id)
}

/// Deletes rows that were added meanwhile, and the tenant if none remain.
pub(super) fn finish(tx: &Tx<'_>, id: TenantId, now: Timestamp) -> Result<Step> {
    let step = continue_removal(tx, id)?;
    if step.is_last {
        usage::note_deleted_tenant(tx, id)?;
        tenants::delete(tx, id, now)?;
        domains::release_all_claims(tx)?;
        tx.directory_changes.push(DirectoryChange::Everything);
    }
    Ok(step)
}

fn remove_messages(tx: &Tx<'_>, id: TenantId) -> Result<Step> {
    let mut statement =
        tx.prepare_cached("SELECT id FROM message WHERE tenant_id = ?1 ORDER BY id LIMIT ?2")?;
    let found =
        statement.query_map(params![id, sql_types::sql_limit(STEP_MESSAGES_MAX)], |row| row.get(0))?;
    let found: Vec<MessageId> = found.collect::<database::Result<_>>()?;
    let mut step = Step::default();
    let changes_before = tx.total_changes();
    for message in found {
        if tx.total_changes() - changes_before >= STEP_ROWS_MAX as u64 {
            break;
        }
        let MessageRows { messages, deliveries, events } = retention::remove_message(tx, message)?;
        step.counts += TenantCounts { messages, deliveries, events, ..TenantCounts::default() };
    }
    Ok(step)
}

/// Deletes rows that belong to no message; DKIM keys before their domains.
fn remove_rows(tx: &Tx<'_>, id: TenantId) -> Result<Step> {
    let mut left = STEP_ROWS_MAX;
    let mut remove = |table: &str, key: &str, condition: &str| -> Result<u64> {
        let columns = key.trim_matches(['(', ')']);
        let sql = format!(
            "DELETE FROM {table} WHERE {key} IN (SELECT {columns} FROM {table} WHERE {condition} ORDER BY {columns} LIMIT ?2)"
        );
        let removed = tx.prepare_cached(&sql)?.execute(params![id, sql_types::sql_limit(left)])?;
        // On PostgreSQL, the rows of several lanes may have one key here.
        left = left.saturating_sub(removed);
        Ok(removed as u64)
    };
    let own = "tenant_id = ?1";
    let events = remove("event", "id", "tenant_id = ?1 AND message_id IS NULL")?;
    remove("rejection", "id", own)?;
    remove("report", "id", own)?;
    remove("pause", "(tenant_id, destination)", own)?;
    remove("ended_pause", "(tenant_id, destination, until_us)", own)?;
    // The days stay for the last bill; retention deletes them.
    let hours = usage::table_of(tx.engine(), "usage");
    remove(&hours, "(tenant_id, span, start_us, environment)", "tenant_id = ?1 AND span = 'hour'")?;
    remove("brake", "tenant_id", own)?;
    remove("limit_warning", "(tenant_id, environment, period, kind)", own)?;
    remove("submission_key", "(tenant_id, environment, name)", own)?;
    // Also those of the platform's webhooks, because they contain the tenant's events.
    remove("webhook_delivery", "id", own)?;
    remove("sign_in", "digest", own)?;
    remove("response_usage", "(tenant_id, slot)", own)?;
    let webhooks = remove("webhook", "id", own)?;
    let suppressions = remove("suppression", "id", own)?;
    let templates = remove("template", "id", own)?;
    remove("idempotent_response", "(key_id, name)", "key_id IN (SELECT id FROM key WHERE tenant_id = ?1)")?;
    let keys = remove("key", "id", own)?;
    remove("dkim_key", "id", "domain_id IN (SELECT id FROM domain WHERE tenant_id = ?1)")?;
    // Domains are deleted after their keys.
    let domains = remove("domain", "id", own)?;
    tx.subscriptions.clear();
    tx.announce(&Announcement::Webhooks)?;
    Ok(Step {
        counts: TenantCounts {
            events,
            webhooks,
            suppressions,
            templates,
            keys,
            domains,
            ..TenantCounts::default()
        },
        is_last: left > 0,
    })
}
