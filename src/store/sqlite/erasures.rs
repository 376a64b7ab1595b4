//! What is stored about one recipient, and its erasure.
//!
//! A row notes each erasure with a MAC of the address, so that it can be applied again to a restored database. To apply it, every
//! row that may name a recipient is read in one `pass`: `deliveries`, `notifications` and `rows` have what belongs to the recipient,
//! `texts` what only names it. A pass can be repeated: a row without the address is left as it is, so a crash only delays the rest.

mod deliveries;
mod notifications;
mod pass;
mod rows;
mod targets;
mod texts;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, params};

use self::deliveries::{FoundDeliveries, OpenPlace};
use self::notifications::FoundNotifications;
use self::pass::Pass;
use self::rows::RowTable;
use self::targets::{Target, Targets, digest};
use self::texts::{Found, TABLES, TextTable};
use super::SqliteStore;
use super::directory::row_limits;
use super::events::Subject;
use super::keyset::List;
use super::sql_types::{json, time, time_if_any, to_json, us};
use super::unit_of_work::Tx;
use crate::mail::Timestamp;
use crate::model::{DeliveryId, ErasureId, EventKind, MessageId, ReportId, TenantId};
use crate::store::traits::Erasures;
use crate::store::{
    Erasure, ErasureCounts, Limited, NewErasure, Page, PageRequest, RECIPIENT_ROWS_MAX, RecipientRows,
    Requester, Result,
};

impl Erasures for SqliteStore {
    async fn recipient_rows(&self, tenant: Option<TenantId>, folded: String) -> Result<RecipientRows> {
        let targets = self.one_target(tenant, &folded, true);
        let mut found = RecipientRows::default();
        let mut newest = VecDeque::new();
        let mut place = None;
        loop {
            let page = self.deliveries_page(place, &targets).await?;
            for (delivery, _) in page.to {
                newest.push_front((delivery.message_id, delivery.id));
            }
            found.truncated |= newest.len() > RECIPIENT_ROWS_MAX;
            newest.truncate(RECIPIENT_ROWS_MAX);
            if page.last.is_none() {
                break;
            }
            place = page.last;
        }
        found.deliveries = newest.into();
        for table in TABLES.iter().filter(|table| table.name() == texts::REPORT) {
            let mut after = String::new();
            loop {
                let Found { rows, last } = self.texts_page(table, after, &targets).await?;
                found.reports.extend(parsed::<ReportId>(rows));
                found.truncated |= found.reports.len() > RECIPIENT_ROWS_MAX;
                found.reports.truncate(RECIPIENT_ROWS_MAX);
                match last {
                    Some(last) => after = last,
                    None => break,
                }
            }
        }
        found.suppressions = parsed(self.all_rows(RowTable::Suppression, &targets).await?);
        found.inboxes = parsed(self.all_rows(RowTable::Inbox, &targets).await?);
        Ok(found)
    }

    async fn count_erasure(&self, new: NewErasure) -> Result<ErasureCounts> {
        let targets = self.one_target(new.tenant_id, &new.folded, new.keeps_suppression);
        let mut counts = ErasureCounts::default();
        let mut place = None;
        loop {
            let of_query = Arc::clone(&targets);
            let query = move |connection: &Connection| {
                let found = deliveries::page(connection, place, &of_query)?;
                let mut counts = ErasureCounts::default();
                for (delivery, _) in &found.to {
                    deliveries::count(connection, delivery, &of_query, &mut counts)?;
                }
                Ok((counts, found.last))
            };
            let (more, last) = self.scan(query).await?;
            counts += more;
            if last.is_none() {
                break;
            }
            place = last;
        }
        counts.other += self.notifications_about(&targets).await?.len() as u64;
        for table in TABLES {
            // A page at a time, because a tenant may have millions of events about a recipient.
            let mut after = String::new();
            loop {
                let Found { rows, last } = self.texts_page(table, after, &targets).await?;
                rows.iter().for_each(|_| table.count(&mut counts));
                match last {
                    Some(last) => after = last,
                    None => break,
                }
            }
        }
        for table in RowTable::ALL {
            for (_, hits) in self.all_rows(table, &targets).await? {
                if !table.spares(&hits, &targets) {
                    table.count(&mut counts);
                }
            }
        }
        Ok(counts)
    }

    async fn note_erasure(&self, new: NewErasure, now: Timestamp) -> Result<Erasure> {
        let NewErasure { id, tenant_id, folded, keeps_suppression } = new;
        let digest = digest(&self.sealer, &folded);
        let erasure = Erasure {
            id,
            tenant_id,
            digest: digest.clone(),
            keeps_suppression,
            requested_at: now,
            applied_at: None,
            counts: ErasureCounts::default(),
        };
        let work = move |tx: &Tx<'_>| {
            row_limits::require(tx, Limited::Erasures, tenant_id, 1)?;
            let sql = "INSERT INTO erasure (id, tenant_id, digest, keeps_suppression, created_us)
                       VALUES (?1, ?2, ?3, ?4, ?5)";
            tx.prepare_cached(sql)?.execute(params![id, tenant_id, digest, keeps_suppression, us(now)])?;
            Ok(())
        };
        self.write(work).await?;
        Ok(erasure)
    }

    async fn deliveries_to_cancel(&self) -> Result<Vec<(MessageId, Vec<DeliveryId>)>> {
        let background = self.of_background();
        let pending = background.read(pending).await?;
        let mut open: BTreeMap<MessageId, Vec<DeliveryId>> = BTreeMap::new();
        if pending.is_empty() {
            return Ok(Vec::new());
        }
        let targets = background.targets_of(&pending);
        for (message, _) in background.notifications_about(&targets).await? {
            let waiting = background
                .read(move |connection| notifications::open_deliveries(connection, message))
                .await?;
            if !waiting.is_empty() {
                open.insert(message, waiting);
            }
        }
        let mut place = OpenPlace::default();
        loop {
            let targets = Arc::clone(&targets);
            let query = move |connection: &Connection| deliveries::open_page(connection, &place, &targets);
            let (found, last) = background.scan(query).await?;
            for delivery in found {
                open.entry(delivery.message_id).or_default().push(delivery.id);
            }
            match last {
                Some(last) => place = last,
                None => return Ok(open.into_iter().collect()),
            }
        }
    }

    async fn apply_erasures(&self, now: Timestamp) -> Result<usize> {
        // Two passes at once would count the same rows twice.
        let _guard = self.erasing.lock().await;
        let background = self.of_background();
        let pending = background.read(pending).await?;
        if pending.is_empty() {
            return Ok(0);
        }
        let mut pass = Pass::new(&background, &pending);
        pass.deliveries().await?;
        pass.notifications().await?;
        pass.texts().await?;
        pass.rows().await?;
        background.remove_released_files().await?;
        background.rewrite_index().await?;
        let Pass { counts, open, .. } = pass;
        for (place, (erasure, counts)) in pending.iter().zip(counts).enumerate() {
            let (id, is_complete) = (erasure.id, !open.contains(&place));
            background.write(move |tx| note_progress(tx, id, counts, is_complete.then_some(now))).await?;
        }
        // What was overwritten in the database is still in its log.
        background.writer.checkpoint().await?;
        Ok(pending.len() - open.len())
    }

    async fn erasure(&self, id: ErasureId) -> Result<Option<Erasure>> {
        self.read(move |connection| {
            let sql = "SELECT * FROM erasure WHERE id = ?1";
            Ok(connection.prepare_cached(sql)?.query_row([id], read_erasure).optional()?)
        })
        .await
    }

    async fn list_erasures(&self, page: PageRequest) -> Result<Page<Erasure>> {
        self.read_slow(move |connection| {
            List::of("erasure", ErasureId::PREFIX).read(connection, &page, read_erasure)
        })
        .await
    }
}

impl SqliteStore {
    /// Erasures of a tenant must not take the connections that the server has for itself.
    fn of_background(&self) -> Self {
        self.of_server().for_requester(Requester::Platform)
    }

    /// Reads a page of a whole table, at a low priority.
    async fn scan<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.readers.continue_slow(self.requester, query).await
    }

    fn one_target(&self, tenant_id: Option<TenantId>, folded: &str, keeps_suppression: bool) -> Arc<Targets> {
        let digest = digest(&self.sealer, folded);
        let target = Target { tenant_id, digest, keeps_suppression };
        Arc::new(Targets::new(Arc::clone(&self.sealer), vec![target]))
    }

    fn targets_of(&self, pending: &[Pending]) -> Arc<Targets> {
        let targets = pending.iter().map(|erasure| erasure.target.clone()).collect();
        Arc::new(Targets::new(Arc::clone(&self.sealer), targets))
    }

    async fn deliveries_page(
        &self,
        after: Option<DeliveryId>,
        targets: &Arc<Targets>,
    ) -> Result<FoundDeliveries> {
        let targets = Arc::clone(targets);
        self.scan(move |connection| deliveries::page(connection, after, &targets)).await
    }

    async fn notifications_about(&self, targets: &Arc<Targets>) -> Result<Vec<(MessageId, targets::Hits)>> {
        let (mut all, mut place) = (Vec::new(), None);
        loop {
            let (files, targets) = (Arc::clone(&self.bodies), Arc::clone(targets));
            let query =
                move |connection: &Connection| notifications::page(connection, &files, place, &targets);
            let FoundNotifications { about, last } = self.scan(query).await?;
            all.extend(about);
            if last.is_none() {
                return Ok(all);
            }
            place = last;
        }
    }

    async fn texts_page(
        &self,
        table: &'static TextTable,
        after: String,
        targets: &Arc<Targets>,
    ) -> Result<Found> {
        let targets = Arc::clone(targets);
        self.scan(move |connection| table.page(connection, &after, &targets)).await
    }

    async fn rows_page(&self, table: RowTable, after: String, targets: &Arc<Targets>) -> Result<Found> {
        let targets = Arc::clone(targets);
        self.scan(move |connection| table.page(connection, &after, &targets)).await
    }

    async fn all_rows(
        &self,
        table: RowTable,
        targets: &Arc<Targets>,
    ) -> Result<Vec<(String, targets::Hits)>> {
        let (mut all, mut after) = (Vec::new(), String::new());
        loop {
            let Found { rows, last } = self.rows_page(table, after, targets).await?;
            all.extend(rows);
            match last {
                Some(last) => after = last,
                None => return Ok(all),
            }
        }
    }
}

/// An erasure that is not complete.
struct Pending {
    id: ErasureId,
    target: Target,
}

/// Whether an erasure is not complete: one that is about a tenant, or any.
pub(super) fn is_any_pending(connection: &Connection, tenant: Option<TenantId>) -> Result<bool> {
    let sql = "SELECT 1 FROM erasure WHERE applied_us IS NULL
               AND (?1 IS NULL OR tenant_id IS NULL OR tenant_id = ?1)";
    Ok(connection.prepare_cached(sql)?.exists([tenant])?)
}

fn pending(connection: &Connection) -> Result<Vec<Pending>> {
    let sql = "SELECT * FROM erasure WHERE applied_us IS NULL ORDER BY id";
    let mut statement = connection.prepare_cached(sql)?;
    let pending = statement.query_map([], |row| {
        let target = Target {
            tenant_id: row.get("tenant_id")?,
            digest: row.get("digest")?,
            keeps_suppression: row.get("keeps_suppression")?,
        };
        Ok(Pending { id: row.get("id")?, target })
    })?;
    Ok(pending.collect::<rusqlite::Result<_>>()?)
}

fn read_erasure(row: &Row<'_>) -> rusqlite::Result<Erasure> {
    Ok(Erasure {
        id: row.get("id")?,
        tenant_id: row.get("tenant_id")?,
        digest: row.get("digest")?,
        keeps_suppression: row.get("keeps_suppression")?,
        requested_at: time(row, "created_us")?,
        applied_at: time_if_any(row, "applied_us")?,
        counts: json(row, "counts")?,
    })
}

/// Adds what a pass has changed. With a time, the erasure is complete.
fn note_progress(
    tx: &Tx<'_>,
    id: ErasureId,
    counts: ErasureCounts,
    applied_at: Option<Timestamp>,
) -> Result<()> {
    let sql = "SELECT * FROM erasure WHERE id = ?1";
    let Erasure { tenant_id, counts: mut all, .. } = tx.prepare_cached(sql)?.query_row([id], read_erasure)?;
    all += counts;
    let sql = "UPDATE erasure SET counts = ?2, applied_us = ?3 WHERE id = ?1";
    tx.prepare_cached(sql)?.execute(params![id, to_json(&all)?, applied_at.map(us)])?;
    let Some(now) = applied_at else { return Ok(()) };
    let subject = Subject { tenant_id, ..Subject::default() };
    tx.append(
        EventKind::RecipientErased,
        subject,
        &serde_json::json!({ "erasure_id": id, "counts": all }),
        now,
    )
}

/// The ids of rows. A damaged one is left out.
fn parsed<Id: std::str::FromStr>(rows: Vec<(String, targets::Hits)>) -> Vec<Id> {
    rows.into_iter().filter_map(|(id, _)| id.parse().ok()).collect()
}
