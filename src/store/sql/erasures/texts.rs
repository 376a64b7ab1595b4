//! Rows whose texts may name a recipient. The texts of a row are replaced, and the row stays.

use super::pages::{ErasedTable, NamingRows, Table};
use super::pass::Counts;
use super::targets::{Hits, Targets};
use crate::model::{MessageId, TenantId};
use crate::store::database::{
    self, Connection, Engine, OptionalExtension, Row, Value, params, params_from_iter,
};
use crate::store::sql::journal::index;
use crate::store::sql::sql_types::sql_limit;
use crate::store::sql::unit_of_work::Tx;
use crate::store::{ErasureCounts, Result};

/// Rows that one query reads.
pub(super) const PAGE_ROWS: usize = 300;

/// A table with such texts.
#[derive(Clone, Copy)]
pub(super) struct TextTable {
    table: &'static str,
    /// The tenant of a row.
    owner: &'static str,
    columns: &'static [(&'static str, Form)],
    count: fn(&mut ErasureCounts) -> &mut u64,
}

#[derive(Clone, Copy)]
enum Form {
    Text,
    Json,
    /// Has a limit of length, which a label might exceed: removed.
    Removed,
}

use Form::{Json, Removed, Text};

/// A message that is changed is indexed anew.
const MESSAGE: &str = "message";
const ATTEMPT: &str = "attempt";

/// Its deliveries count against the limit of a webhook in memory.
const WEBHOOK_DELIVERY: &str = "webhook_delivery";
pub(super) const REPORT: &str = "report";

const OWN: &str = "tenant_id";

/// All of them. What belongs to a delivery alone is in `deliveries`.
pub(super) const TABLES: &[TextTable] = &[
    TextTable {
        table: MESSAGE,
        owner: OWN,
        columns: &[
            ("subject", Text),
            ("tags", Json),
            ("metadata", Json),
            ("header_from", Text),
            ("envelope_id", Removed),
        ],
        count: |counts| &mut counts.other,
    },
    TextTable { table: "event", owner: OWN, columns: &[("data", Json)], count: |counts| &mut counts.events },
    TextTable {
        table: ATTEMPT,
        owner: "(SELECT tenant_id FROM message WHERE id = attempt.message_id)",
        columns: &[("text", Text), ("transcript", Text)],
        count: |counts| &mut counts.attempts,
    },
    TextTable {
        table: REPORT,
        owner: OWN,
        columns: &[("recipient", Text), ("reply", Text), ("reporter", Json)],
        count: |counts| &mut counts.reports,
    },
    TextTable {
        table: "rejection",
        owner: OWN,
        columns: &[("message", Text)],
        count: |counts| &mut counts.rejections,
    },
    TextTable {
        table: "audit",
        owner: OWN,
        columns: &[("object_id", Text), ("before", Json), ("after", Json)],
        count: |counts| &mut counts.other,
    },
    TextTable {
        table: "suppression",
        owner: OWN,
        columns: &[("evidence", Text)],
        count: |counts| &mut counts.other,
    },
    TextTable {
        table: WEBHOOK_DELIVERY,
        owner: OWN,
        columns: &[("data", Json), ("tags", Json), ("metadata", Json), ("last_attempt", Json)],
        count: |counts| &mut counts.other,
    },
];

impl TextTable {
    pub(super) fn name(&self) -> &'static str {
        self.table
    }

    /// Replaces the texts of a row as it is now. Returns the erasures.
    fn rewrite(&self, tx: &Tx<'_>, id: &str, targets: &Targets) -> Result<Hits> {
        let sql = format!("{} WHERE id = ?1", self.select());
        let replaced =
            tx.prepare_cached(&sql)?.query_row([id], |row| self.replaced(row, targets)).optional()?.flatten();
        let Some((texts, hits)) = replaced else { return Ok(Hits::new()) };
        let octets_before = self.backlog_octets(tx, id)?;
        let places = self.columns.iter().enumerate();
        let set: Vec<_> = places.map(|(place, (column, _))| format!("{column} = ?{}", place + 2)).collect();
        let sql = format!("UPDATE {} SET {} WHERE id = ?1", self.table, set.join(", "));
        let values = [Value::from(id.to_owned())].into_iter().chain(texts);
        tx.prepare_cached(&sql)?.execute(params_from_iter(values))?;
        if let (Some(before), Some(after)) = (octets_before, self.backlog_octets(tx, id)?) {
            let sql = "UPDATE webhook_backlog SET octets = octets + ?2
                       WHERE webhook_id = (SELECT webhook_id FROM webhook_delivery WHERE id = ?1)";
            tx.prepare_cached(sql)?.execute(params![id, after - before])?;
        }
        if let (MESSAGE, Ok(message)) = (self.table, id.parse::<MessageId>()) {
            index::renew(tx, message)?;
        }
        Ok(hits)
    }

    fn select(&self) -> String {
        let columns: Vec<_> = self.columns.iter().map(|(column, _)| *column).collect();
        format!("SELECT id, {}, {} FROM {}", self.owner, columns.join(", "), self.table)
    }

    /// The values of all columns if one of them names a recipient. Damaged values stay as they are.
    fn replaced(&self, row: &Row<'_>, targets: &Targets) -> database::Result<Option<(Vec<Value>, Hits)>> {
        let owner: Option<TenantId> = match row.get_ref(1)?.as_str() {
            Ok(text) => text.parse().ok(),
            Err(_) => None,
        };
        let (mut values, mut hits) = (Vec::new(), Hits::new());
        for (place, (_, form)) in self.columns.iter().enumerate() {
            let value: Value = row.get(place + 2)?;
            let replaced = match (&value, form) {
                (Value::Text(text), Text | Removed) => targets.replace_text(text, owner, &mut hits),
                (Value::Text(text), Json) => targets.replace_json(text, owner, &mut hits),
                _ => None,
            };
            values.push(match (replaced, form) {
                (Some(_), Removed) => Value::Null,
                (replaced, _) => replaced.map_or(value, Value::from),
            });
        }
        Ok((!hits.is_empty()).then_some((values, hits)))
    }

    /// What a pending webhook delivery counts in the backlog of its webhook, which a trigger does not see change.
    fn backlog_octets(&self, tx: &Tx<'_>, id: &str) -> Result<Option<i64>> {
        // Triggers of PostgreSQL count each change.
        if self.table != WEBHOOK_DELIVERY || tx.engine() == Engine::Postgres {
            return Ok(None);
        }
        let sql = "SELECT octets FROM webhook_delivery WHERE id = ?1 AND next_attempt_us IS NOT NULL";
        Ok(tx.prepare_cached(sql)?.query_row([id], |row| row.get(0)).optional()?)
    }
}

impl Table for TextTable {
    type Found = NamingRows;

    fn page(
        &self,
        connection: &Connection,
        after: &str,
        targets: &Targets,
    ) -> Result<(NamingRows, Option<String>)> {
        let sql = format!("{} WHERE id > ?1 ORDER BY id LIMIT ?2", self.select());
        let mut statement = connection.prepare_cached(&sql)?;
        let mut rows = statement.query(params![after, sql_limit(PAGE_ROWS)])?;
        let (mut found, mut last) = (Vec::new(), None);
        while let Some(row) = rows.next()? {
            let (id, replaced) = (row.get::<_, String>(0)?, self.replaced(&row, targets)?);
            last = Some(id.clone());
            found.extend(replaced.map(|(_, hits)| (id, hits)));
        }
        Ok((found, last))
    }
}

impl ErasedTable for TextTable {
    fn erase(&self, tx: &Tx<'_>, (id, _): &(String, Hits), targets: &Targets) -> Result<Hits> {
        self.rewrite(tx, id, targets)
    }

    fn count(&self, counts: &mut ErasureCounts) {
        *(self.count)(counts) += 1;
    }
}

/// Replaces and counts the texts of a message and its attempts, before some of them are removed.
pub(super) fn rewrite_message(
    tx: &Tx<'_>,
    message: MessageId,
    targets: &Targets,
    counts: &mut Counts,
) -> Result<()> {
    let sql = "SELECT id FROM attempt WHERE message_id = ?1";
    let attempts = tx
        .prepare_cached(sql)?
        .query_map([message], |row| row.get(0))?
        .collect::<database::Result<Vec<String>>>()?;
    for table in TABLES {
        let ids = match table.table {
            MESSAGE => &[message.to_string()][..],
            ATTEMPT => &attempts,
            _ => continue,
        };
        for id in ids {
            for place in table.rewrite(tx, id, targets)? {
                table.count(counts.entry(place).or_default());
            }
        }
    }
    Ok(())
}
