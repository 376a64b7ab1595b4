//! Finds and deletes objects whose retention has ended. Ids sort by creation, so the oldest rows come first.

use std::collections::HashMap;
use std::mem;
use std::ops::AddAssign;

use super::index;
use super::whole_periods::{PartitionWaits, Whole, WholePeriods, ranges_of_rows};
use crate::mail::{SignedDuration, Timestamp};
use crate::model::{
    AttemptId, AuditId, ErasureId, EventId, MessageId, ReportId, RequestId, SuppressionId, TenantId,
    WebhookDeliveryId,
};
use crate::store::database::{self, Connection, OptionalExtension, ToSql, params};
use crate::store::sql::blob_store::{self, BodyFiles};
use crate::store::sql::keyset::ulid_at;
use crate::store::sql::outbox::deliveries::IS_REMOVABLE;
use crate::store::sql::postgres::partitions::Span;
use crate::store::sql::sql_types::{sql_limit, us};
use crate::store::sql::unit_of_work::Tx;
use crate::store::sql::usage;
use crate::store::{ERASURE_DAYS, Result, RetentionPolicy};

/// Maximum of objects that one job of the writer deletes.
pub(super) const JOB_ROWS_MAX: usize = 50;

/// Where the next step continues: after these ids, or at the beginning.
#[derive(Default, Clone)]
pub(in crate::store::sql) struct PruneProgress {
    bodies: String,
    messages: HashMap<TenantId, String>,
    /// The next body directory.
    directory: String,
    /// Strays in the directories before it.
    strays: Strays,
    /// See `whole_periods`.
    pub(super) waits: PartitionWaits,
}

/// Body files without a message: a crash interrupted their submission, or they are newer than a restored database. The
/// latter are the only copies of mail and cannot be distinguished, so strays are counted and never deleted.
#[derive(Default, Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store::sql) struct Strays {
    pub(in crate::store::sql) files: u64,
    pub(in crate::store::sql) octets: u64,
}

/// Objects to delete.
#[derive(Default)]
pub(super) struct Due {
    pub(super) bodies: Vec<MessageId>,
    pub(super) messages: Vec<MessageId>,
    /// Attempts, the oldest first.
    pub(super) transcripts: Vec<AttemptId>,
    pub(super) events: Vec<String>,
    pub(super) rejections: Vec<String>,
    pub(super) audit_entries: Vec<String>,
    /// Tenants with usage past its retention, and whether they were deleted.
    pub(super) usage: Vec<(TenantId, bool)>,
    pub(super) webhook_deliveries: Vec<String>,
    /// Expired suppressions, and when they expired.
    pub(super) suppressions: Vec<(SuppressionId, i64)>,
    /// Reports whose text is past its retention.
    pub(super) report_texts: Vec<String>,
    /// Reports that belong to no message.
    pub(super) reports: Vec<String>,
    /// Erasures that were complete long ago.
    pub(super) erasures: Vec<String>,
    /// There may be more.
    pub(super) truncated: bool,
}

/// One step of retention.
pub(super) struct PruneStep {
    pub(super) policy: RetentionPolicy,
    pub(super) now: Timestamp,
    /// Maximum of objects of each kind.
    pub(super) limit: usize,
    /// Maximum of examined bodies, and of examined messages of each tenant.
    pub(super) rows_examined_max: usize,
}

/// Finds the objects to delete.
pub(super) fn find_due(
    connection: &Connection,
    step: &PruneStep,
    progress: &mut PruneProgress,
) -> Result<Due> {
    let PruneStep { policy, now, limit, .. } = *step;
    let whole = WholePeriods::read(connection, policy, now)?;
    let mut due = Due { bodies: old_bodies(connection, step, whole.bodies, progress)?, ..Due::default() };
    due.transcripts = old_transcripts(connection, days_before(now, policy.transcript_days), limit)?;
    let mut tenants = connection.prepare_cached("SELECT id, retention_days FROM tenant")?;
    let mut rows = tenants.query([])?;
    // Rows of deleted tenants have no retention.
    let mut places = mem::take(&mut progress.messages);
    while let Some(row) = rows.next()? {
        let tenant: TenantId = row.get(0)?;
        progress.messages.extend(places.remove_entry(&tenant));
        let days = row.get::<_, Option<u32>>(1)?.unwrap_or(policy.row_days);
        let end = days_before(now, days);
        let waiting = Whole::span_for(whole.rows, days);
        let rest = PruneStep { limit: limit - due.messages.len(), ..*step };
        let owner = MessageOwner { tenant, end, waiting };
        due.messages.extend(old_messages(connection, &owner, &rest, progress)?);
        let sql = "SELECT id FROM event WHERE tenant_id = ?1 AND message_id IS NULL AND id >= ?2 AND id < ?3
                   LIMIT ?4";
        for (low, high) in ranges_of_rows(first_id(EventId::PREFIX, end), EventId::PREFIX, waiting) {
            collect(connection, sql, params![tenant, low, high], limit, &mut due.events)?;
        }
        let rejection_end = first_id(RequestId::PREFIX, end);
        let sql = "SELECT id FROM rejection WHERE tenant_id = ?1 AND id < ?2 LIMIT ?3";
        collect(connection, sql, params![tenant, rejection_end], limit, &mut due.rejections)?;
        if due.usage.len() < limit && usage::has_expired(connection, tenant, false, now)? {
            due.usage.push((tenant, false));
        }
    }
    for tenant in usage::deleted_tenants(connection)? {
        if due.usage.len() < limit && usage::has_expired(connection, tenant, true, now)? {
            due.usage.push((tenant, true));
        }
    }
    let event_end = first_id(EventId::PREFIX, days_before(now, policy.row_days));
    let waiting = Whole::span_for(whole.rows, policy.row_days);
    let sql = "SELECT id FROM event WHERE tenant_id IS NULL AND message_id IS NULL AND id >= ?1 AND id < ?2
               LIMIT ?3";
    for (low, high) in ranges_of_rows(event_end, EventId::PREFIX, waiting) {
        collect(connection, sql, params![low, high], limit, &mut due.events)?;
        collect(connection, OF_DELETED_TENANTS, params![low, high], limit, &mut due.events)?;
    }
    let end = first_id(WebhookDeliveryId::PREFIX, days_before(now, policy.webhook_days));
    let sql =
        format!("SELECT id FROM webhook_delivery d WHERE id < ?1 AND {IS_REMOVABLE} ORDER BY id LIMIT ?2");
    collect(connection, &sql, params![end], limit, &mut due.webhook_deliveries)?;
    let end = first_id(AuditId::PREFIX, days_before(now, policy.audit_days));
    let sql = "SELECT id FROM audit WHERE id < ?1 LIMIT ?2";
    collect(connection, sql, params![end], limit, &mut due.audit_entries)?;
    due.suppressions = expired_suppressions(connection, now, limit)?;
    let end = first_id(ReportId::PREFIX, days_before(now, policy.report_days));
    let sql = "SELECT report_id FROM report_raw WHERE report_id < ?1 ORDER BY report_id LIMIT ?2";
    collect(connection, sql, params![end], limit, &mut due.report_texts)?;
    let sql = "SELECT id FROM report WHERE tenant_id IS NULL AND id < ?1 ORDER BY id LIMIT ?2";
    collect(connection, sql, params![end], limit, &mut due.reports)?;
    let end = days_before(now, ERASURE_DAYS);
    let sql = "SELECT id FROM erasure WHERE id < ?1 AND applied_us < ?2 ORDER BY id LIMIT ?3";
    let bounds = params![first_id(ErasureId::PREFIX, end), us(end)];
    collect(connection, sql, bounds, limit, &mut due.erasures)?;
    let most = [
        due.bodies.len(),
        due.messages.len(),
        due.transcripts.len(),
        due.events.len(),
        due.rejections.len(),
        due.audit_entries.len(),
        due.usage.len(),
        due.webhook_deliveries.len(),
        due.suppressions.len(),
        due.report_texts.len(),
        due.reports.len(),
        due.erasures.len(),
    ];
    due.truncated = most.contains(&limit) || !progress.bodies.is_empty() || !progress.messages.is_empty();
    Ok(due)
}

/// Old events of deletions: their tenants have no retention.
pub(in crate::store::sql) const OF_DELETED_TENANTS: &str =
    "SELECT id FROM event WHERE kind = 'tenant.deleted' AND id >= ?1 AND id < ?2 LIMIT ?3";

pub(in crate::store::sql) const EXPIRED_SUPPRESSIONS: &str =
    "SELECT id, expires_us FROM suppression WHERE expires_us <= ?1 LIMIT ?2";

fn expired_suppressions(
    connection: &Connection,
    now: Timestamp,
    limit: usize,
) -> Result<Vec<(SuppressionId, i64)>> {
    let mut statement = connection.prepare_cached(EXPIRED_SUPPRESSIONS)?;
    let rows =
        statement.query_map(params![us(now), sql_limit(limit)], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<database::Result<_>>()?)
}

/// Counts strays in the next directories; returns the total after the last one.
pub(super) fn count_strays(
    connection: &Connection,
    files: &BodyFiles,
    progress: &mut PruneProgress,
    directories_max: usize,
) -> Result<Option<Strays>> {
    let mut directories = files.directories()?;
    directories.sort_unstable();
    let mut rest = directories.into_iter().skip_while(|directory| *directory < progress.directory);
    for directory in rest.by_ref().take(directories_max) {
        for (id, octets) in files.old_files(&directory)? {
            if !blob_store::is_known(connection, id)? {
                progress.strays.files += 1;
                progress.strays.octets += octets;
            }
        }
    }
    let next = rest.next();
    let found = next.is_none().then(|| mem::take(&mut progress.strays));
    progress.directory = next.unwrap_or_default();
    Ok(found)
}

pub(super) fn days_before(now: Timestamp, days: u32) -> Timestamp {
    now.checked_sub(SignedDuration::from_hours(24 * i64::from(days))).unwrap_or(Timestamp::MIN)
}

/// Sorts before all ids created at `time` or later.
fn first_id(prefix: &str, time: Timestamp) -> String {
    format!("{prefix}{}", ulid_at(time, 0))
}

/// Bodies past their retention.
fn old_bodies(
    connection: &Connection,
    step: &PruneStep,
    whole: Option<Whole>,
    progress: &mut PruneProgress,
) -> Result<Vec<MessageId>> {
    let PruneStep { policy, now, limit, rows_examined_max } = *step;
    let sql = "SELECT id, body_retention_days FROM tenant WHERE body_retention_days IS NOT NULL";
    let mut statement = connection.prepare_cached(sql)?;
    let own = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let own: HashMap<TenantId, u32> = own.collect::<database::Result<_>>()?;
    let days = || own.values().copied().chain([policy.body_days]);
    let end = first_id(MessageId::PREFIX, days_before(now, days().min().unwrap_or(policy.body_days)));
    // Among bodies that wait, those of tenants with a shorter retention are looked for.
    let waiting = whole.filter(|whole| days().all(|days| Whole::span_for(Some(*whole), days).is_some()));
    let waiting = waiting.and_then(|whole| Whole::span_for(Some(whole), policy.body_days));
    let sql = "SELECT b.message_id, m.tenant_id FROM body b JOIN message m ON m.id = b.message_id
               WHERE b.message_id > ?1 AND b.message_id < ?2 ORDER BY b.message_id LIMIT ?3";
    let mut statement = connection.prepare_cached(sql)?;
    let from = std::mem::take(&mut progress.bodies);
    let (mut due, mut examined) = (Vec::new(), 0);
    for (low, high) in ranges_of_rows(end, MessageId::PREFIX, waiting) {
        let rest = sql_limit(rows_examined_max - examined);
        let mut rows = statement.query(params![from.clone().max(low), high, rest])?;
        while let Some(row) = rows.next()? {
            let (id, tenant) = (row.get(0)?, row.get(1)?);
            examined += 1;
            let days = own.get(&tenant).copied().unwrap_or(policy.body_days);
            if !Whole::waits(whole, days, id) && is_finished(connection, id, days_before(now, days))? {
                due.push(id);
            }
            if due.len() == limit || examined == rows_examined_max {
                progress.bodies = id.to_string();
                return Ok(due);
            }
        }
    }
    Ok(due)
}

/// A tenant whose messages created before `end` are due, but for those that wait.
struct MessageOwner {
    tenant: TenantId,
    end: Timestamp,
    waiting: Option<Span>,
}

/// Messages of a tenant past their retention.
fn old_messages(
    connection: &Connection,
    owner: &MessageOwner,
    step: &PruneStep,
    progress: &mut PruneProgress,
) -> Result<Vec<MessageId>> {
    let PruneStep { limit, rows_examined_max, .. } = *step;
    let MessageOwner { tenant, end, waiting } = *owner;
    let (mut due, mut examined) = (Vec::new(), 0);
    if limit == 0 {
        return Ok(due);
    }
    let sql = "SELECT id FROM message WHERE tenant_id = ?1 AND id > ?2 AND id < ?3 ORDER BY id LIMIT ?4";
    let mut statement = connection.prepare_cached(sql)?;
    let from = progress.messages.remove(&tenant).unwrap_or_default();
    for (low, high) in ranges_of_rows(first_id(MessageId::PREFIX, end), MessageId::PREFIX, waiting) {
        let rest = sql_limit(rows_examined_max - examined);
        let mut rows = statement.query(params![tenant, from.clone().max(low), high, rest])?;
        while let Some(row) = rows.next()? {
            let id: MessageId = row.get(0)?;
            examined += 1;
            if is_finished(connection, id, end)? {
                due.push(id);
            }
            if due.len() == limit || examined == rows_examined_max {
                progress.messages.insert(tenant, id.to_string());
                return Ok(due);
            }
        }
    }
    Ok(due)
}

/// Whether a message and all its deliveries were finished before `end`.
fn is_finished(connection: &Connection, id: MessageId, end: Timestamp) -> Result<bool> {
    if id.to_string() >= first_id(MessageId::PREFIX, end) {
        return Ok(false);
    }
    let sql =
        "SELECT 1 FROM delivery WHERE message_id = ?1 AND (next_attempt_us IS NOT NULL OR updated_us >= ?2)";
    Ok(!connection.prepare_cached(sql)?.exists(params![id, us(end)])?)
}

/// Attempts before `end` whose transcripts were not deleted.
fn old_transcripts(connection: &Connection, end: Timestamp, limit: usize) -> Result<Vec<AttemptId>> {
    let progress = "SELECT up_to FROM transcript_removal WHERE id = 1";
    let up_to: Option<String> =
        connection.prepare_cached(progress)?.query_row([], |row| row.get(0)).optional()?;
    let sql = "SELECT id FROM attempt WHERE id > ?1 AND id < ?2 ORDER BY id LIMIT ?3";
    let mut statement = connection.prepare_cached(sql)?;
    let bounds = params![up_to.unwrap_or_default(), first_id(AttemptId::PREFIX, end), sql_limit(limit)];
    let ids = statement.query_map(bounds, |row| row.get(0))?;
    Ok(ids.collect::<database::Result<_>>()?)
}

/// Deletes the transcripts of consecutive attempts.
pub(super) fn remove_transcripts(tx: &Tx<'_>, ids: &[AttemptId]) -> Result<u64> {
    let (Some(first), Some(last)) = (ids.first(), ids.last()) else { return Ok(0) };
    let sql = "UPDATE attempt SET transcript = '' WHERE id >= ?1 AND id <= ?2";
    let removed = tx.prepare_cached(sql)?.execute([first, last])?;
    let sql = "INSERT INTO transcript_removal (id, up_to) VALUES (1, ?1)
               ON CONFLICT (id) DO UPDATE SET up_to = excluded.up_to";
    tx.prepare_cached(sql)?.execute([last])?;
    Ok(removed as u64)
}

/// Adds ids up to `limit`; the last parameter of the query is the remaining number.
fn collect(
    connection: &Connection,
    sql: &str,
    bounds: &[&dyn ToSql],
    limit: usize,
    ids: &mut Vec<String>,
) -> Result<()> {
    let left = sql_limit(limit.saturating_sub(ids.len()));
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([bounds, &[&left]].concat().as_slice())?;
    while let Some(row) = rows.next()? {
        ids.push(row.get(0)?);
    }
    Ok(())
}

pub(super) fn remove_bodies(tx: &Tx<'_>, ids: &[MessageId]) -> Result<u64> {
    let mut removed = 0;
    for id in ids {
        removed += blob_store::release(tx, *id)?;
    }
    Ok(removed)
}

pub(super) fn remove_events(tx: &Tx<'_>, ids: &[String]) -> Result<u64> {
    remove_each(tx, "DELETE FROM event WHERE id = ?1", ids)
}

pub(super) fn remove_audit_entries(tx: &Tx<'_>, ids: &[String]) -> Result<u64> {
    remove_each(tx, "DELETE FROM audit WHERE id = ?1", ids)
}

pub(super) fn remove_erasures(tx: &Tx<'_>, ids: &[String]) -> Result<u64> {
    remove_each(tx, "DELETE FROM erasure WHERE id = ?1", ids)
}

pub(super) fn remove_rejections(tx: &Tx<'_>, ids: &[String]) -> Result<u64> {
    remove_each(tx, "DELETE FROM rejection WHERE id = ?1", ids)
}

/// Deletes expired suppressions, unless they have another end meanwhile. They stopped no mail any more, so there is no event.
pub(super) fn remove_suppressions(tx: &Tx<'_>, expired: &[(SuppressionId, i64)]) -> Result<u64> {
    let mut delete = tx.prepare_cached("DELETE FROM suppression WHERE id = ?1 AND expires_us = ?2")?;
    let mut removed = 0;
    for (id, expires_us) in expired {
        removed += delete.execute(params![id, expires_us])? as u64;
    }
    Ok(removed)
}

pub(super) fn remove_report_texts(tx: &Tx<'_>, ids: &[String]) -> Result<u64> {
    remove_each(tx, "DELETE FROM report_raw WHERE report_id = ?1", ids)
}

pub(super) fn remove_reports(tx: &Tx<'_>, ids: &[String]) -> Result<u64> {
    remove_each(tx, "DELETE FROM report WHERE id = ?1", ids)
}

fn remove_each(tx: &Tx<'_>, sql: &str, ids: &[impl ToSql]) -> Result<u64> {
    let mut delete = tx.prepare_cached(sql)?;
    let mut removed = 0;
    for id in ids {
        removed += delete.execute([id])? as u64;
    }
    Ok(removed)
}

/// Numbers of deleted messages and events.
#[derive(Default)]
pub(in crate::store::sql) struct MessageRows {
    pub(in crate::store::sql) messages: u64,
    pub(in crate::store::sql) deliveries: u64,
    pub(in crate::store::sql) events: u64,
}

impl AddAssign for MessageRows {
    fn add_assign(&mut self, more: Self) {
        self.messages += more.messages;
        self.deliveries += more.deliveries;
        self.events += more.events;
    }
}

pub(super) fn remove_messages(tx: &Tx<'_>, ids: &[MessageId]) -> Result<MessageRows> {
    let mut removed = MessageRows::default();
    for id in ids {
        removed += remove_message(tx, *id)?;
    }
    Ok(removed)
}

/// Deletes a message and its dependent rows.
pub(in crate::store::sql) fn remove_message(tx: &Tx<'_>, id: MessageId) -> Result<MessageRows> {
    let remove = |table: &str| -> Result<u64> {
        let sql = format!("DELETE FROM {table} WHERE message_id = ?1");
        Ok(tx.prepare_cached(&sql)?.execute([id])? as u64)
    };
    index::remove(tx, id)?;
    remove("attempt")?;
    remove("report_count")?;
    remove("report")?;
    blob_store::release(tx, id)?;
    let (deliveries, events) = (remove("delivery")?, remove("event")?);
    let messages = tx.prepare_cached("DELETE FROM message WHERE id = ?1")?.execute([id])? as u64;
    Ok(MessageRows { messages, deliveries, events })
}
