//! What is stored about one recipient, and its erasure.
//!
//! A row notes each erasure with a MAC of the address, so that it can be applied again to a restored database. To apply it, every
//! row that may name a recipient is read in one `pass`, in `pages`: `deliveries`, `notifications` and `rows` have what belongs to
//! the recipient, `texts` what only names it. A pass can be repeated: a row without the address is left as it is, so a crash only
//! delays the rest.

mod deliveries;
mod notifications;
mod pages;
mod pass;
mod rows;
mod targets;
mod texts;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use self::deliveries::{Deliveries, OpenPlace};
use self::notifications::Notifications;
use self::pages::{ErasedTable, NamingRows};
use self::pass::Pass;
use self::rows::RowTable;
use self::targets::{Target, Targets, digest};
use self::texts::TABLES;
use super::Store;
use super::directory::row_limits;
use super::events::Subject;
use super::keyset::List;
use super::sql_types::{json, time, time_if_any, to_json, us};
use super::unit_of_work::Tx;
use crate::mail::Timestamp;
use crate::model::{DeliveryId, ErasureId, EventKind, MessageId, ReportId, TenantId};
use crate::store::database::{self, Connection, OptionalExtension, Row, params};
use crate::store::traits::Erasures;
use crate::store::{
    Erasure, ErasureCounts, Limited, NewErasure, Page, PageRequest, RECIPIENT_ROWS_MAX, RecipientRows,
    Requester, Result,
};

impl Erasures for Store {
    async fn recipient_rows(&self, tenant: Option<TenantId>, folded: String) -> Result<RecipientRows> {
        let targets = self.one_target(tenant, &folded, false);
        let mut found = RecipientRows::default();
        let mut newest = VecDeque::new();
        let mut pages = self.pages(Deliveries, &targets);
        while let Some(page) = pages.next().await? {
            for (delivery, _) in page.to {
                newest.push_front((delivery.message_id, delivery.id));
            }
            found.truncated |= newest.len() > RECIPIENT_ROWS_MAX;
            newest.truncate(RECIPIENT_ROWS_MAX);
        }
        found.deliveries = newest.into();
        for table in TABLES.iter().copied().filter(|table| table.name() == texts::REPORT) {
            let mut pages = self.pages(table, &targets);
            while let Some(rows) = pages.next().await? {
                found.reports.extend(parsed::<ReportId>(rows));
                found.truncated |= found.reports.len() > RECIPIENT_ROWS_MAX;
                found.reports.truncate(RECIPIENT_ROWS_MAX);
            }
        }
        found.suppressions = parsed(self.all_rows(RowTable::Suppression, &targets).await?);
        found.inboxes = parsed(self.all_rows(RowTable::Inbox, &targets).await?);
        Ok(found)
    }

    async fn count_erasure(&self, new: NewErasure) -> Result<ErasureCounts> {
        let targets = self.one_target(new.tenant_id, &new.folded, new.keeps_suppression);
        let mut counts = ErasureCounts::default();
        let mut pages = self.pages(Deliveries, &targets);
        while let Some(page) = pages.next().await? {
            let targets = Arc::clone(&targets);
            let query = move |connection: &Connection| {
                let mut counts = ErasureCounts::default();
                for (delivery, _) in &page.to {
                    deliveries::count(connection, delivery, &targets, &mut counts)?;
                }
                Ok(counts)
            };
            counts += self.scan(query).await?;
        }
        let mut pages = self.pages(Notifications::of(self), &targets);
        while let Some(about) = pages.next().await? {
            counts.other += about.len() as u64;
        }
        for table in TABLES.iter().copied() {
            self.count_rows(table, &targets, &mut counts).await?;
        }
        for table in RowTable::ALL {
            self.count_rows(table, &targets, &mut counts).await?;
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
        let mut pages = background.pages(Notifications::of(&background), &targets);
        while let Some(about) = pages.next().await? {
            for (message, _) in about {
                let query =
                    move |connection: &Connection| notifications::open_deliveries(connection, message);
                let waiting = background.read(query).await?;
                if !waiting.is_empty() {
                    open.insert(message, waiting);
                }
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
        let complete = Pass::new(&background, pending).run().await?;
        background.remove_released_files().await?;
        let ids = complete.clone();
        if background.read(move |connection| has_changes(connection, &ids)).await? {
            background.rewrite_index().await?;
        }
        for id in complete.iter().copied() {
            background.write(move |tx| self::complete(tx, id, now)).await?;
        }
        // What was overwritten in the database is still in its log.
        background.writer.checkpoint().await?;
        Ok(complete.len())
    }

    async fn erasure(&self, id: ErasureId) -> Result<Option<Erasure>> {
        self.read(move |connection| find(connection, id)).await
    }

    async fn list_erasures(&self, page: PageRequest) -> Result<Page<Erasure>> {
        self.read_slow(move |connection| {
            List::of("erasure", ErasureId::PREFIX).read(connection, &page, read_erasure)
        })
        .await
    }
}

impl Store {
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

    /// Counts the rows of a table that name a recipient.
    async fn count_rows<T: ErasedTable + Sync>(
        &self,
        table: T,
        targets: &Arc<Targets>,
        counts: &mut ErasureCounts,
    ) -> Result<()> {
        let mut pages = self.pages(table.clone(), targets);
        while let Some(rows) = pages.next().await? {
            rows.iter().for_each(|_| table.count(counts));
        }
        Ok(())
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
               AND (tenant_id IS NULL OR tenant_id = ?1 OR ?1 IS NULL)";
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
    Ok(pending.collect::<database::Result<_>>()?)
}

fn find(connection: &Connection, id: ErasureId) -> Result<Option<Erasure>> {
    let mut statement = connection.prepare_cached("SELECT * FROM erasure WHERE id = ?1")?;
    Ok(statement.query_row([id], read_erasure).optional()?)
}

fn read_erasure(row: &Row<'_>) -> database::Result<Erasure> {
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

/// Adds to what an erasure has changed.
fn add_counts(tx: &Tx<'_>, id: ErasureId, more: ErasureCounts) -> Result<()> {
    let mut counts = find(tx, id)?.map(|erasure| erasure.counts).unwrap_or_default();
    counts += more;
    let sql = "UPDATE erasure SET counts = ?2 WHERE id = ?1";
    tx.prepare_cached(sql)?.execute(params![id, to_json(&counts)?])?;
    Ok(())
}

/// Whether one of these erasures has changed anything, in this pass or in one that ended early.
fn has_changes(connection: &Connection, ids: &[ErasureId]) -> Result<bool> {
    for id in ids {
        if find(connection, *id)?.is_some_and(|erasure| erasure.counts != ErasureCounts::default()) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn complete(tx: &Tx<'_>, id: ErasureId, now: Timestamp) -> Result<()> {
    // Another node may have completed it meanwhile.
    let erasure = find(tx, id)?.filter(|erasure| erasure.applied_at.is_none());
    let Some(Erasure { tenant_id, counts, .. }) = erasure else { return Ok(()) };
    tx.prepare_cached("UPDATE erasure SET applied_us = ?2 WHERE id = ?1")?.execute(params![id, us(now)])?;
    let subject = Subject { tenant_id, ..Subject::default() };
    let data = serde_json::json!({ "erasure_id": id, "counts": counts });
    tx.append(EventKind::RecipientErased, subject, &data, now)
}

/// The ids of rows. A damaged one is left out.
fn parsed<Id: std::str::FromStr>(rows: NamingRows) -> Vec<Id> {
    rows.into_iter().filter_map(|(id, _)| id.parse().ok()).collect()
}
