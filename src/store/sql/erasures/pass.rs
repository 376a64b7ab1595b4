//! One pass over everything that may name a recipient, for all erasures that are not complete.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::deliveries::{self, Deliveries, FoundDeliveries};
use super::notifications::{self, Notifications};
use super::pages::ErasedTable;
use super::rows::RowTable;
use super::targets::Targets;
use super::texts::TABLES;
use super::{Pending, add_counts};
use crate::model::{DeliveryId, ErasureId};
use crate::store::sql::Store;
use crate::store::sql::unit_of_work::Tx;
use crate::store::{ErasureCounts, Result};

/// Maximum of rows that one job changes, so that others can commit in between.
const JOB_ROWS_MAX: usize = 50;

/// What was changed, by the places of the erasures.
pub(super) type Counts = BTreeMap<usize, ErasureCounts>;

/// A pass, and what it has found so far.
pub(super) struct Pass<'a> {
    store: &'a Store,
    pending: Arc<[Pending]>,
    targets: Arc<Targets>,
    /// The erasures with an open delivery.
    open: BTreeSet<usize>,
}

impl<'a> Pass<'a> {
    pub(super) fn new(store: &'a Store, pending: Vec<Pending>) -> Self {
        let targets = store.targets_of(&pending);
        Self { store, pending: pending.into(), targets, open: BTreeSet::new() }
    }

    /// Changes all rows. Returns the erasures that are complete.
    pub(super) async fn run(mut self) -> Result<Vec<ErasureId>> {
        self.deliveries().await?;
        self.notifications().await?;
        for table in TABLES.iter().copied() {
            self.rows_of(table).await?;
        }
        for table in RowTable::ALL {
            self.rows_of(table).await?;
        }
        let complete = self.pending.iter().enumerate().filter(|(place, _)| !self.open.contains(place));
        Ok(complete.map(|(_, erasure)| erasure.id).collect())
    }

    async fn deliveries(&mut self) -> Result<()> {
        let mut pages = self.store.pages(Deliveries, &self.targets);
        while let Some(FoundDeliveries { to, naming }) = pages.next().await? {
            let to: Vec<_> = to.into_iter().map(|(delivery, _)| delivery.id).collect();
            for ids in to.chunks(JOB_ROWS_MAX) {
                self.erase_deliveries(ids.to_vec()).await?;
            }
            for ids in naming.chunks(JOB_ROWS_MAX) {
                let ids = ids.to_vec();
                let work = move |tx: &Tx<'_>, targets: &Targets, _: &mut Counts| {
                    ids.iter().try_for_each(|id| deliveries::rewrite_texts(tx, *id, targets))
                };
                self.change(work).await?;
            }
        }
        Ok(())
    }

    async fn erase_deliveries(&mut self, ids: Vec<DeliveryId>) -> Result<()> {
        let pending = Arc::clone(&self.pending);
        let work = move |tx: &Tx<'_>, targets: &Targets, counts: &mut Counts| {
            let mut open = BTreeSet::new();
            for id in &ids {
                let hits = deliveries::erase(tx, *id, targets, counts)?;
                // A sender that goes on sending must not keep the erasure from its end.
                let is_earlier = |place: &usize| id.created_at() <= pending[*place].id.created_at();
                open.extend(hits.into_iter().filter(is_earlier));
            }
            Ok(open)
        };
        let open = self.change(work).await?;
        self.open.extend(open);
        Ok(())
    }

    async fn notifications(&mut self) -> Result<()> {
        let mut pages = self.store.pages(Notifications::of(self.store), &self.targets);
        while let Some(about) = pages.next().await? {
            for (message, hits) in about {
                let work = move |tx: &Tx<'_>, _: &Targets, counts: &mut Counts| {
                    notifications::erase(tx, message, &hits, counts)
                };
                let open = self.change(work).await?;
                self.open.extend(open);
            }
        }
        Ok(())
    }

    /// Erases the rows of a table that name a recipient.
    async fn rows_of<T: ErasedTable + Sync>(&self, table: T) -> Result<()> {
        let mut pages = self.store.pages(table.clone(), &self.targets);
        while let Some(rows) = pages.next().await? {
            for rows in rows.chunks(JOB_ROWS_MAX) {
                let (table, rows) = (table.clone(), rows.to_vec());
                let work = move |tx: &Tx<'_>, targets: &Targets, counts: &mut Counts| {
                    for row in &rows {
                        for place in table.erase(tx, row, targets)? {
                            table.count(counts.entry(place).or_default());
                        }
                    }
                    Ok(())
                };
                self.change(work).await?;
            }
        }
        Ok(())
    }

    /// Changes rows, and adds what was changed to the counts of the erasures in the same transaction, so that a pass that ends
    /// early loses none.
    async fn change<T: Send + 'static>(
        &self,
        work: impl Fn(&Tx<'_>, &Targets, &mut Counts) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (pending, targets) = (Arc::clone(&self.pending), Arc::clone(&self.targets));
        // A round of the search index that has read the old texts ends before, or reads the new ones.
        let _guard = self.store.indexing.lock().await;
        let work = move |tx: &Tx<'_>| {
            let mut counts = Counts::new();
            let done = work(tx, &targets, &mut counts)?;
            for (place, counts) in counts {
                add_counts(tx, pending[place].id, counts)?;
            }
            Ok(done)
        };
        self.store.write(work).await
    }
}
