//! Which tables and columns are copied: all that both stores have, as their schemas say, but for the lists here.

use std::collections::{BTreeMap, BTreeSet};

use super::StoreCopyError;
use super::place::StorePlace;
use crate::store::database::{self, Connection, Engine};

/// Tables that are not copied: what follows from the others, what belongs to a place, and what belongs to one engine.
pub(super) const NOT_COPIED: &[&str] = &[
    // The search index is made anew from the journal.
    "message_search",
    "message_search_config",
    "message_search_content",
    "message_search_data",
    "message_search_docsize",
    "message_search_idx",
    "search_place",
    "search_progress",
    // Triggers of the destination count.
    "suppression_count",
    "unattributed_report_count",
    "webhook_backlog",
    "webhook_backlog_by_slot",
    // They follow from `delivery`.
    "queue",
    "trouble",
    // They are in the rows of the bodies, or in files.
    "body_piece",
    "released_body",
    // Of the place, and of the processes that serve it.
    "announcement",
    "node",
    "quota",
    "schema_version",
    "transaction_offset",
    "write_test",
    super::marks::INCOMPLETE,
    super::marks::MOVED,
];

/// What a copied row has in a column that is not copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fixed {
    Number(i64),
    /// The number of the row in the copy, from 1.
    RowNumber,
}

/// Columns that are not copied, with what the copy has there; `None` for the default.
const NOT_COPIED_COLUMNS: &[(&str, &str, Option<Fixed>)] = &[
    // Events keep their order, as if each were from a transaction of its own, before all later ones.
    ("event", "transaction_id", Some(Fixed::RowNumber)),
    ("event", "number", None),
    ("usage", "slot", Some(Fixed::Number(0))),
    ("usage_part", "slot", Some(Fixed::Number(0))),
];

/// Tables that PostgreSQL has in slots, one for each lane that writes. Views with these names sum them.
const IN_SLOTS: &[&str] = &["usage", "usage_part"];
const SLOTS_SUFFIX: &str = "_by_slot";

/// The name of the table whose rows are written for a table that is copied.
pub(super) fn stored_name(engine: Engine, name: &str) -> String {
    let is_view = engine == Engine::Postgres && IN_SLOTS.contains(&name);
    if is_view { format!("{name}{SLOTS_SUFFIX}") } else { name.to_owned() }
}

/// A table that is copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) name: String,
    /// The columns, by their names.
    pub(super) columns: Vec<String>,
    /// The columns of the primary key, in its order. Empty for tables of one row.
    pub(super) key: Vec<String>,
    /// Other columns of the destination.
    pub(super) fixed: Vec<(String, Fixed)>,
}

impl Table {
    /// The place of a column among the columns.
    pub(super) fn position(&self, column: &str) -> Option<usize> {
        self.columns.iter().position(|name| name == column)
    }
}

/// A table of one store.
#[derive(Debug, Default)]
struct Shape {
    columns: BTreeSet<String>,
    key: Vec<String>,
    fixed: Vec<(String, Fixed)>,
    references: BTreeSet<String>,
}

type Shapes = BTreeMap<String, Shape>;
/// The tables that rows of a table refer to.
type References = BTreeMap<String, BTreeSet<String>>;

/// The tables to copy. One that refers to others comes after them.
pub(super) fn common_tables(from: &StorePlace, to: &StorePlace) -> Result<Vec<Table>, StoreCopyError> {
    let mut source = shapes(&from.connection).map_err(|error| from.failed(error))?;
    let destination = shapes(&to.connection).map_err(|error| to.failed(error))?;
    let (mut tables, mut references) = (BTreeMap::new(), References::new());
    for (name, shape) in &destination {
        let Some(other) = source.remove(name) else { return Err(only_in_one(name)) };
        if let Some(column) = shape.columns.symmetric_difference(&other.columns).next() {
            return Err(only_in_one(&format!("{name}.{column}")));
        }
        // Triggers may refer to what only the other engine has a reference to.
        references.insert(name.clone(), shape.references.union(&other.references).cloned().collect());
        let columns = shape.columns.iter().cloned().collect();
        let (key, fixed) = (shape.key.clone(), shape.fixed.clone());
        tables.insert(name.clone(), Table { name: name.clone(), columns, key, fixed });
    }
    if let Some(name) = source.keys().next() {
        return Err(only_in_one(name));
    }
    in_order(tables, &references)
}

fn only_in_one(what: &str) -> StoreCopyError {
    StoreCopyError::Schema(format!(
        "{what} exists in one of the two stores only, so this program cannot copy them"
    ))
}

/// Sorts the tables so that each comes after those that it refers to.
fn in_order(
    mut tables: BTreeMap<String, Table>,
    references: &References,
) -> Result<Vec<Table>, StoreCopyError> {
    let mut sorted = Vec::with_capacity(tables.len());
    while !tables.is_empty() {
        let is_ready = |name: &&String| {
            let mut others = references.get(*name).into_iter().flatten().filter(|other| other != name);
            !others.any(|other| tables.contains_key(other))
        };
        let ready: Vec<String> = tables.keys().filter(is_ready).cloned().collect();
        if ready.is_empty() {
            return Err(StoreCopyError::Schema("the tables refer to one another in a circle".into()));
        }
        sorted.extend(ready.iter().filter_map(|name| tables.remove(name)));
    }
    Ok(sorted)
}

/// The tables of a store that are copied.
fn shapes(connection: &Connection) -> database::Result<Shapes> {
    let mut shapes = Shapes::new();
    let engine = connection.engine();
    for stored in names(connection)?.into_iter().filter(|name| !NOT_COPIED.contains(&name.as_str())) {
        let in_slots = stored.strip_suffix(SLOTS_SUFFIX).filter(|name| IN_SLOTS.contains(name));
        let name = in_slots.unwrap_or(&stored).to_owned();
        let mut shape = Shape {
            key: texts(connection, key_of(engine), &stored)?,
            references: texts(connection, references_of(engine), &stored)?.into_iter().collect(),
            ..Shape::default()
        };
        for column in texts(connection, columns_of(engine), &stored)? {
            match NOT_COPIED_COLUMNS.iter().find(|(table, other, _)| *table == name && *other == column) {
                None => drop(shape.columns.insert(column)),
                Some((.., value)) => {
                    shape.key.retain(|part| *part != column);
                    shape.fixed.extend(value.map(|value| (column, value)));
                }
            }
        }
        shapes.insert(name, shape);
    }
    Ok(shapes)
}

/// The names of all tables, without partitions, and without copies that are to replace one.
pub(super) fn names(connection: &Connection) -> database::Result<Vec<String>> {
    let sql = match connection.engine() {
        Engine::Sqlite => {
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
        }
        Engine::Postgres => {
            "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p') AND NOT c.relispartition
                 AND c.relname !~ '_[0-9]{8}_kept$'
             ORDER BY c.relname"
        }
    };
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_map([], |row| row.get(0))?.collect()
}

fn texts(connection: &Connection, sql: &str, table: &str) -> database::Result<Vec<String>> {
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_map([table], |row| row.get(0))?.collect()
}

/// Without those that the engine computes.
fn columns_of(engine: Engine) -> &'static str {
    match engine {
        Engine::Sqlite => "SELECT name FROM pragma_table_xinfo(?1) WHERE hidden = 0",
        Engine::Postgres => {
            "SELECT attname FROM pg_attribute
             WHERE attrelid = to_regclass(?1) AND attnum > 0 AND NOT attisdropped AND attgenerated = ''"
        }
    }
}

fn key_of(engine: Engine) -> &'static str {
    match engine {
        Engine::Sqlite => "SELECT name FROM pragma_table_xinfo(?1) WHERE pk > 0 ORDER BY pk",
        Engine::Postgres => {
            "SELECT a.attname FROM pg_index i, unnest(i.indkey) WITH ORDINALITY AS k (number, place), pg_attribute a
             WHERE i.indrelid = to_regclass(?1) AND i.indisprimary AND a.attrelid = i.indrelid AND a.attnum = k.number
             ORDER BY k.place"
        }
    }
}

fn references_of(engine: Engine) -> &'static str {
    match engine {
        Engine::Sqlite => "SELECT DISTINCT \"table\" FROM pragma_foreign_key_list(?1)",
        Engine::Postgres => {
            "SELECT DISTINCT c.relname FROM pg_constraint k JOIN pg_class c ON c.oid = k.confrelid
             WHERE k.conrelid = to_regclass(?1) AND k.contype = 'f'"
        }
    }
}
