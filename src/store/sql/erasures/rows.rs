//! Rows that belong to a recipient as a whole, and are deleted: suppressions that are not kept, inboxes, the texts of reports.

use super::pages::{ErasedTable, NamingRows, Table};
use super::targets::{Hits, Targets};
use super::texts::PAGE_ROWS;
use crate::model::TenantId;
use crate::store::database::{self, Connection, Row, params};
use crate::store::sql::sql_types::sql_limit;
use crate::store::sql::unit_of_work::Tx;
use crate::store::{ErasureCounts, Result};

/// A table of such rows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum RowTable {
    Suppression,
    Inbox,
    /// The text of a report, which may be as large as the whole message.
    ReportText,
}

impl RowTable {
    pub(super) const ALL: [Self; 3] = [Self::Suppression, Self::Inbox, Self::ReportText];

    fn select(self) -> &'static str {
        match self {
            Self::Suppression => {
                "SELECT id, tenant_id, address FROM suppression WHERE id > ?1 ORDER BY id LIMIT ?2"
            }
            Self::Inbox => "SELECT id, tenant_id, folded FROM inbox WHERE id > ?1 ORDER BY id LIMIT ?2",
            Self::ReportText => {
                "SELECT report_id, (SELECT tenant_id FROM report WHERE id = report_id), octets FROM report_raw
                 WHERE report_id > ?1 ORDER BY report_id LIMIT ?2"
            }
        }
    }

    fn page_rows(self) -> usize {
        match self {
            Self::Suppression | Self::Inbox => PAGE_ROWS,
            Self::ReportText => PAGE_ROWS / 10,
        }
    }

    fn hits(self, row: &Row<'_>, targets: &Targets) -> database::Result<Hits> {
        let owner: Option<TenantId> = row.get_ref(1)?.as_str().ok().and_then(|text| text.parse().ok());
        let octets = row.get_ref(2)?.as_bytes().unwrap_or_default();
        let text = String::from_utf8_lossy(octets);
        let mut hits = Hits::new();
        match self {
            Self::Suppression | Self::Inbox => drop(targets.label_of(&text, owner, &mut hits)),
            Self::ReportText => drop(targets.replace_text(&text, owner, &mut hits)),
        }
        Ok(hits)
    }

    /// Whether a row stays: the suppression of an erased address goes on refusing it.
    fn spares(self, hits: &Hits, targets: &Targets) -> bool {
        self == Self::Suppression && targets.keep_suppression(hits)
    }
}

impl Table for RowTable {
    type Found = NamingRows;

    fn page(
        &self,
        connection: &Connection,
        after: &str,
        targets: &Targets,
    ) -> Result<(NamingRows, Option<String>)> {
        let mut statement = connection.prepare_cached(self.select())?;
        let mut rows = statement.query(params![after, sql_limit(self.page_rows())])?;
        let (mut found, mut last) = (Vec::new(), None);
        while let Some(row) = rows.next()? {
            let (id, hits) = (row.get::<_, String>(0)?, self.hits(&row, targets)?);
            last = Some(id.clone());
            if !hits.is_empty() && !self.spares(&hits, targets) {
                found.push((id, hits));
            }
        }
        Ok((found, last))
    }
}

impl ErasedTable for RowTable {
    fn erase(&self, tx: &Tx<'_>, (id, hits): &(String, Hits), _: &Targets) -> Result<Hits> {
        // Without an event, which would name the address.
        let sql = match self {
            Self::Suppression => "DELETE FROM suppression WHERE id = ?1",
            Self::Inbox => "DELETE FROM inbox WHERE id = ?1",
            Self::ReportText => "DELETE FROM report_raw WHERE report_id = ?1",
        };
        let deleted = tx.prepare_cached(sql)?.execute([id])?;
        Ok(if deleted == 0 { Hits::new() } else { hits.clone() })
    }

    fn count(&self, counts: &mut ErasureCounts) {
        match self {
            Self::Suppression => counts.suppressions += 1,
            Self::Inbox => counts.other += 1,
            // It is a part of a report.
            Self::ReportText => {}
        }
    }
}
