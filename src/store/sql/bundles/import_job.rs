//! The import of objects as one job of the writer.

use super::import::{self, Importing};
use super::message_import::{self, ParsedMessages};
use crate::mail::Timestamp;
use crate::model::TenantId;
use crate::store::database::Connection;
use crate::store::memory::Announcement;
use crate::store::sql::blob_store::BodyFiles;
use crate::store::sql::unit_of_work::Tx;
use crate::store::{BundleObject, ImportOptions, ImportReport, Result, SpoolChange, SpoolFeed};

use std::sync::Arc;

/// Objects to import. Files of messages that are not imported are deleted when it is dropped.
pub(super) struct ImportJob {
    pub(super) objects: Vec<BundleObject>,
    pub(super) messages: ParsedMessages,
    pub(super) options: ImportOptions,
    pub(super) now: Timestamp,
}

/// What was done.
pub(super) struct Imported {
    report: ImportReport,
    /// The places of the messages that were imported.
    messages: Vec<usize>,
    /// The tenant, if it is new and does not send.
    stopped: Option<TenantId>,
}

impl ImportJob {
    /// Parses the messages, and writes large contents to files.
    pub(super) fn prepare(
        connection: &Connection,
        files: &Arc<BodyFiles>,
        (objects, options): (Vec<BundleObject>, ImportOptions),
        now: Timestamp,
    ) -> Result<Self> {
        let mut messages = message_import::parse_all(&objects, now);
        message_import::write_files(connection, files, &mut messages, &options)?;
        Ok(Self { objects, messages, options, now })
    }

    /// Imports all of them; nothing after a conflict, and nothing in a dry run.
    pub(super) fn run(&self, tx: &Tx<'_>) -> Result<Imported> {
        tx.execute("SAVEPOINT bundle", [])?;
        let imported = import::import_all(tx, self);
        let is_kept = !self.options.dry_run
            && imported.as_ref().is_ok_and(|importing| importing.report.conflicts.is_empty());
        if !is_kept {
            tx.execute("ROLLBACK TO bundle", [])?;
        }
        tx.execute("RELEASE bundle", [])?;
        let importing = imported?;
        if is_kept {
            importing.note_changes()?;
        }
        if let Some(tenant) = importing.stopped.filter(|_| is_kept) {
            tx.announce(&Announcement::Suspended(tenant))?;
        }
        let Importing { report, messages, stopped, .. } = importing;
        match is_kept {
            true => Ok(Imported { report, messages, stopped }),
            false => Ok(Imported { report, messages: Vec::new(), stopped: None }),
        }
    }

    /// After the commit.
    pub(super) fn conclude(mut self, imported: Imported, feed: &SpoolFeed) -> ImportReport {
        let Imported { report, messages, stopped } = imported;
        for place in &messages {
            if let Some(Ok(message)) = self.messages.remove(place) {
                message.keep_file();
            }
        }
        if let Some(tenant) = stopped {
            feed.send(SpoolChange::TenantSuspended(tenant));
        }
        if let Some(tenant_id) = report.tenant_id.filter(|_| !messages.is_empty()) {
            feed.send(SpoolChange::Due { tenant_id, at: self.now });
        }
        report
    }
}
