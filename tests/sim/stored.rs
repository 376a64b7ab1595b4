//! What the server has stored, read from its database.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use pillarbox::mail::Timestamp;
use rusqlite::{Connection, OpenFlags, Result, Row};

pub struct Delivery {
    pub id: String,
    pub message_id: String,
    pub recipient: String,
    pub state: String,
    pub next_attempt_us: Option<i64>,
}

impl Delivery {
    pub fn is_open(&self) -> bool {
        self.next_attempt_us.is_some()
    }
}

pub struct Event {
    pub id: String,
    pub kind: String,
    pub tenant: String,
    pub message_id: String,
    pub delivery_id: String,
    pub data: String,
}

pub struct Stored {
    /// What SQLite says of the file.
    pub integrity: String,
    /// Without those of reports to senders.
    pub deliveries: Vec<Delivery>,
    /// In the order of their ids.
    pub events: Vec<Event>,
    /// Of each tenant: delivered, bounced, deferred, expired.
    pub usage: BTreeMap<String, [i64; 4]>,
    /// Events that a webhook still waits for.
    pub unposted: BTreeSet<String>,
}

impl Stored {
    pub fn read(data_dir: &Path) -> Result<Self> {
        let connection = open(data_dir)?;
        let deliveries = "SELECT d.id, message_id, recipient, state, next_attempt_us
                          FROM delivery AS d JOIN message AS m ON m.id = d.message_id WHERE reverse_path <> ''";
        let events = "SELECT id, kind, coalesce(tenant_id, ''), coalesce(message_id, ''), coalesce(delivery_id, ''), data
                      FROM event ORDER BY id";
        let usage = "SELECT tenant_id, sum(delivered), sum(bounced), sum(deferred), sum(expired) FROM usage
                     WHERE span = 'day' GROUP BY tenant_id";
        let unposted = "SELECT event_id FROM webhook_delivery WHERE state = 'pending'";
        Ok(Self {
            integrity: connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?,
            deliveries: rows(&connection, deliveries, |row| {
                Ok(Delivery {
                    id: row.get(0)?,
                    message_id: row.get(1)?,
                    recipient: row.get(2)?,
                    state: row.get(3)?,
                    next_attempt_us: row.get(4)?,
                })
            })?,
            events: rows(&connection, events, |row| {
                Ok(Event {
                    id: row.get(0)?,
                    kind: row.get(1)?,
                    tenant: row.get(2)?,
                    message_id: row.get(3)?,
                    delivery_id: row.get(4)?,
                    data: row.get(5)?,
                })
            })?,
            usage: rows(&connection, usage, |row| {
                Ok((row.get(0)?, [row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?]))
            })?,
            unposted: rows(&connection, unposted, |row| row.get(0))?,
        })
    }
}

fn open(data_dir: &Path) -> Result<Connection> {
    // It must not create an empty database.
    Connection::open_with_flags(data_dir.join("pillarbox.db"), OpenFlags::SQLITE_OPEN_READ_WRITE)
}

fn rows<T, C: FromIterator<T>>(
    connection: &Connection,
    sql: &str,
    read: impl FnMut(&Row<'_>) -> Result<T>,
) -> Result<C> {
    connection.prepare(sql)?.query_map([], read)?.collect()
}

/// The attempts of a message as they are stored.
pub fn attempts_of(data_dir: &Path, id: &str) -> String {
    let read = || {
        let connection = open(data_dir)?;
        let sql = "SELECT started_us, duration_ms, host, address, outcome, text, transcript FROM attempt
                   WHERE message_id = ?1 ORDER BY id";
        let mut statement = connection.prepare(sql)?;
        let attempts = statement.query_map([id], |row| {
            let started = Timestamp::from_microsecond(row.get(0)?).unwrap_or(Timestamp::MIN);
            let (ms, host, address): (i64, String, Option<String>) = (row.get(1)?, row.get(2)?, row.get(3)?);
            let (outcome, text, transcript): (String, String, String) =
                (row.get(4)?, row.get(5)?, row.get(6)?);
            Ok(format!("\n{started} +{ms} ms {host} {address:?} {outcome}: {text}\n{transcript}"))
        })?;
        attempts.collect::<Result<String>>()
    };
    read().unwrap_or_else(|error| error.to_string())
}
