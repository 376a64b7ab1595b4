//! One pass over everything that may name a recipient, for all erasures that are not complete.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Pending;
use super::deliveries::{self, FoundDeliveries, Outcome};
use super::notifications;
use super::rows::RowTable;
use super::targets::Targets;
use super::texts::{Found, TABLES, TextTable};
use crate::mail::Timestamp;
use crate::model::DeliveryId;
use crate::store::sqlite::SqliteStore;
use crate::store::sqlite::unit_of_work::Tx;
use crate::store::{ErasureCounts, Result};

/// Maximum of rows that one job changes, so that others can commit in between.
const JOB_ROWS_MAX: usize = 50;

/// A pass, and what it has found so far.
pub(super) struct Pass<'a> {
    store: &'a SqliteStore,
    targets: Arc<Targets>,
    /// What each erasure has changed.
    pub(super) counts: Vec<ErasureCounts>,
    /// The erasures with an open delivery.
    pub(super) open: BTreeSet<usize>,
    /// When each erasure was requested.
    requested: Arc<[Timestamp]>,
}

impl<'a> Pass<'a> {
    pub(super) fn new(store: &'a SqliteStore, pending: &[Pending]) -> Self {
        let targets = store.targets_of(pending);
        let counts = vec![ErasureCounts::default(); targets.len()];
        let requested = pending.iter().map(|erasure| erasure.id.created_at()).collect();
        Self { store, targets, counts, open: BTreeSet::new(), requested }
    }

    pub(super) async fn deliveries(&mut self) -> Result<()> {
        let mut place = None;
        loop {
            let FoundDeliveries { to, naming, last } =
                self.store.deliveries_page(place, &self.targets).await?;
            let to: Vec<_> = to.into_iter().map(|(delivery, _)| delivery.id).collect();
            for ids in to.chunks(JOB_ROWS_MAX) {
                self.erase_deliveries(ids.to_vec()).await?;
            }
            for ids in naming.chunks(JOB_ROWS_MAX) {
                let (ids, targets) = (ids.to_vec(), Arc::clone(&self.targets));
                let work = move |tx: &Tx<'_>| {
                    ids.iter().try_for_each(|id| deliveries::rewrite_texts(tx, *id, &targets))
                };
                self.store.write(work).await?;
            }
            if last.is_none() {
                return Ok(());
            }
            place = last;
        }
    }

    async fn erase_deliveries(&mut self, ids: Vec<DeliveryId>) -> Result<()> {
        let (targets, requested) = (Arc::clone(&self.targets), Arc::clone(&self.requested));
        let work = move |tx: &Tx<'_>| {
            let mut counts = vec![ErasureCounts::default(); targets.len()];
            let mut open = BTreeSet::new();
            for id in &ids {
                if let Outcome::Open(hits) = deliveries::erase(tx, *id, &targets, &mut counts)? {
                    // A sender that goes on sending must not keep the erasure from its end.
                    open.extend(hits.into_iter().filter(|place| id.created_at() <= requested[*place]));
                }
            }
            Ok((counts, open))
        };
        // A round of the search index that has read the old recipients ends before, or reads the new ones.
        let _guard = self.store.indexing.lock().await;
        let (counts, open) = self.store.write(work).await?;
        self.add(counts);
        self.open.extend(open);
        Ok(())
    }

    pub(super) async fn notifications(&mut self) -> Result<()> {
        for (message, hits) in self.store.notifications_about(&self.targets).await? {
            let work = move |tx: &Tx<'_>| notifications::erase(tx, message, hits.clone());
            match self.store.write(work).await? {
                Outcome::Nothing => {}
                Outcome::Open(hits) => self.open.extend(hits),
                Outcome::Erased(hits) => hits.into_iter().for_each(|place| self.counts[place].other += 1),
            }
        }
        Ok(())
    }

    pub(super) async fn texts(&mut self) -> Result<()> {
        for table in TABLES {
            let mut after = String::new();
            loop {
                let Found { rows, last } = self.store.texts_page(table, after, &self.targets).await?;
                let ids: Vec<_> = rows.into_iter().map(|(id, _)| id).collect();
                for ids in ids.chunks(JOB_ROWS_MAX) {
                    self.rewrite_texts(table, ids.to_vec()).await?;
                }
                match last {
                    Some(last) => after = last,
                    None => break,
                }
            }
        }
        Ok(())
    }

    async fn rewrite_texts(&mut self, table: &'static TextTable, ids: Vec<String>) -> Result<()> {
        let targets = Arc::clone(&self.targets);
        let work = move |tx: &Tx<'_>| {
            let mut counts = vec![ErasureCounts::default(); targets.len()];
            for id in &ids {
                for place in table.rewrite(tx, id, &targets)? {
                    table.count(&mut counts[place]);
                }
            }
            Ok(counts)
        };
        let counts = self.store.write(work).await?;
        self.add(counts);
        Ok(())
    }

    pub(super) async fn rows(&mut self) -> Result<()> {
        for table in RowTable::ALL {
            let mut after = String::new();
            loop {
                let Found { rows, last } = self.store.rows_page(table, after, &self.targets).await?;
                let doomed: Vec<_> =
                    rows.into_iter().filter(|(_, hits)| !table.spares(hits, &self.targets)).collect();
                for chunk in doomed.chunks(JOB_ROWS_MAX) {
                    let ids: Vec<_> = chunk.iter().map(|(id, _)| id.clone()).collect();
                    let work = move |tx: &Tx<'_>| ids.iter().try_for_each(|id| table.delete(tx, id));
                    self.store.write(work).await?;
                }
                for place in doomed.iter().flat_map(|(_, hits)| hits) {
                    table.count(&mut self.counts[*place]);
                }
                match last {
                    Some(last) => after = last,
                    None => break,
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, more: Vec<ErasureCounts>) {
        for (counts, more) in self.counts.iter_mut().zip(more) {
            *counts += more;
        }
    }
}
