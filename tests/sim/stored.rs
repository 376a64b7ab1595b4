//! What the server has stored, read from its database.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use pillarbox::mail::Timestamp;
use pillarbox::store::body_path;
use rusqlite::{Connection, OpenFlags, Result, Row};

use crate::sites::{STRICT_SITE, site};

/// Tables that keep rows of deleted tenants: the last bill, who did what, and what to erase again after a restore.
const KEPT: [&str; 5] = ["usage", "usage_part", "audit", "deleted_tenant", "erasure"];

pub struct Delivery {
    pub id: String,
    pub message_id: String,
    pub tenant_id: String,
    pub recipient: String,
    pub state: String,
    pub next_attempt_us: Option<i64>,
    /// Of the message.
    pub subject: String,
    /// Whether the message is a report to a sender.
    pub is_report: bool,
}

impl Delivery {
    pub fn is_open(&self) -> bool {
        self.next_attempt_us.is_some()
    }

    /// Whether the data of the recipient are erased.
    pub fn is_erased(&self) -> bool {
        self.recipient.ends_with("@erased.invalid")
    }

    pub fn key(&self) -> (String, String) {
        (self.message_id.clone(), self.recipient.clone())
    }

    /// Whether another server has the message, although it may have reported a failure later.
    pub fn was_delivered(&self, events: &[Event]) -> bool {
        let is_of_it = |event: &&Event| event.delivery_id == self.id && event.kind == "message.delivered";
        self.state == "delivered" || events.iter().any(|event| is_of_it(&event))
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

/// An address that a tenant may not send to.
pub struct Suppression {
    pub tenant_id: String,
    pub address: String,
    pub reason: String,
    /// Whether a report of another server has caused it.
    pub has_report: bool,
}

/// A domain of a tenant.
pub struct Domain {
    pub name: String,
    pub status: String,
    /// When its records were last checked.
    pub checked_us: Option<i64>,
}

pub struct Stored {
    /// What SQLite says of the file.
    pub integrity: String,
    pub deliveries: Vec<Delivery>,
    /// In the order of their ids.
    pub events: Vec<Event>,
    /// Of each tenant: delivered, bounced, deferred, expired, bounced after the delivery.
    pub usage: BTreeMap<String, [i64; 5]>,
    /// Events that a webhook still waits for.
    pub unposted: BTreeSet<String>,
    pub suppressions: Vec<Suppression>,
    /// The failures that reports to senders are about: subject of the message, recipient.
    pub reported: BTreeSet<(String, String)>,
    /// Tables and the tenants that have rows in them, but for what stays of a deleted one.
    pub owners: BTreeSet<(String, String)>,
    /// When the policy of the strict site ends.
    pub policy_until: Option<Timestamp>,
    /// The tenants' domains.
    pub domains: Vec<Domain>,
}

impl Stored {
    pub fn read(data_dir: &Path) -> Result<Self> {
        let connection = open(data_dir)?;
        let deliveries =
            "SELECT d.id, message_id, d.tenant_id, recipient, state, next_attempt_us, coalesce(subject, ''),
                                 kind = 'report'
                          FROM delivery AS d JOIN message AS m ON m.id = d.message_id";
        let events = "SELECT id, kind, coalesce(tenant_id, ''), coalesce(message_id, ''), coalesce(delivery_id, ''), data
                      FROM event ORDER BY id";
        let usage = "SELECT tenant_id, sum(delivered), sum(bounced), sum(deferred), sum(expired), sum(bounced_late) FROM usage
                     WHERE span = 'day' GROUP BY tenant_id";
        let suppressions =
            "SELECT coalesce(tenant_id, ''), address, reason, report_id IS NOT NULL FROM suppression";
        let domains = "SELECT name, status, checked_us FROM domain WHERE tenant_id IS NOT NULL";
        let unposted = "SELECT event_id FROM webhook_delivery WHERE state = 'pending'";
        Ok(Self {
            integrity: connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?,
            deliveries: rows(&connection, deliveries, |row| {
                Ok(Delivery {
                    id: row.get(0)?,
                    message_id: row.get(1)?,
                    tenant_id: row.get(2)?,
                    recipient: row.get(3)?,
                    state: row.get(4)?,
                    next_attempt_us: row.get(5)?,
                    subject: row.get(6)?,
                    is_report: row.get(7)?,
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
                Ok((row.get(0)?, [row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?]))
            })?,
            unposted: rows(&connection, unposted, |row| row.get(0))?,
            suppressions: rows(&connection, suppressions, |row| {
                Ok(Suppression {
                    tenant_id: row.get(0)?,
                    address: row.get(1)?,
                    reason: row.get(2)?,
                    has_report: row.get(3)?,
                })
            })?,
            reported: reported(&connection, data_dir)?,
            owners: owners(&connection)?,
            policy_until: policy_until(&connection)?,
            domains: rows(&connection, domains, |row| {
                Ok(Domain { name: row.get(0)?, status: row.get(1)?, checked_us: row.get(2)? })
            })?,
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

/// Reads the reports to senders.
fn reported(connection: &Connection, data_dir: &Path) -> Result<BTreeSet<(String, String)>> {
    let sql = "SELECT m.id, b.prefix, b.submitted FROM message AS m JOIN body AS b ON b.message_id = m.id
               WHERE m.kind = 'report'";
    let texts: Vec<String> = rows(connection, sql, |row| {
        let (id, prefix, rest): (String, Option<Vec<u8>>, Option<Vec<u8>>) =
            (row.get(0)?, row.get(1)?, row.get(2)?);
        let octets = match prefix.zip(rest) {
            Some((prefix, rest)) => [prefix, rest].concat(),
            None => std::fs::read(data_dir.join(body_path(&id))).unwrap_or_default(),
        };
        Ok(String::from_utf8_lossy(&octets).into_owned())
    })?;
    let after = |text: &str, name: &str| -> Vec<String> {
        text.lines().filter_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned()).collect()
    };
    let of_text = |text: &String| {
        // The first subject is that of the report.
        let subject = after(text, "Subject:").pop().unwrap_or_default();
        let recipients = after(text, "Final-Recipient: rfc822;");
        recipients.into_iter().map(move |recipient| (subject.clone(), recipient)).collect::<Vec<_>>()
    };
    Ok(texts.iter().flat_map(of_text).collect())
}

fn policy_until(connection: &Connection) -> Result<Option<Timestamp>> {
    let sql = "SELECT max(expires_us) FROM sts_policy WHERE domain = ?1";
    let until: Option<i64> = connection.query_row(sql, [site(STRICT_SITE)], |row| row.get(0))?;
    Ok(until.and_then(|us| Timestamp::from_microsecond(us).ok()))
}

/// Finds the tables by their columns, so that a new one is not forgotten.
fn owners(connection: &Connection) -> Result<BTreeSet<(String, String)>> {
    let sql = "SELECT t.name FROM sqlite_schema AS t JOIN pragma_table_info(t.name) AS c
               WHERE t.type = 'table' AND c.name = 'tenant_id'";
    let tables: Vec<String> = rows(connection, sql, |row| row.get(0))?;
    let mut owners = BTreeSet::new();
    for table in tables.iter().filter(|table| !KEPT.contains(&table.as_str())) {
        let others = if table == "event" { "kind <> 'tenant.deleted'" } else { "true" };
        let sql = format!("SELECT DISTINCT tenant_id FROM {table} WHERE tenant_id IS NOT NULL AND {others}");
        let tenants: Vec<String> = rows(connection, &sql, |row| row.get(0))?;
        owners.extend(tenants.into_iter().map(|tenant| (table.clone(), tenant)));
    }
    Ok(owners)
}

/// The tables with a text in a row. Left out are those that keep what is said about a recipient after an erasure: its suppression,
/// and the content of messages to others, too.
pub fn tables_with(data_dir: &Path, text: &str) -> Result<Vec<String>> {
    let connection = open(data_dir)?;
    let sql = "SELECT t.name, c.name FROM sqlite_schema AS t JOIN pragma_table_info(t.name) AS c
               WHERE t.type = 'table' AND t.name NOT IN ('suppression', 'body')";
    let columns: Vec<(String, String)> = rows(&connection, sql, |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut tables = Vec::new();
    for (table, column) in columns {
        let sql = format!("SELECT count(*) FROM \"{table}\" WHERE instr(CAST(\"{column}\" AS TEXT), ?1) > 0");
        let count: i64 = connection.query_row(&sql, [text], |row| row.get(0))?;
        if count > 0 {
            tables.push(format!("{table}.{column}"));
        }
    }
    Ok(tables)
}

/// The deliveries, events and attempts of a message.
pub fn describe(data_dir: &Path, id: &str) -> String {
    let read = || {
        let connection = open(data_dir)?;
        let deliveries =
            "SELECT id || ' to ' || recipient || ' is ' || state FROM delivery WHERE message_id = ?1";
        let events = "SELECT id || ' ' || kind || ' ' || data FROM event WHERE message_id = ?1 ORDER BY id";
        let mut lines = Vec::new();
        for sql in [deliveries, events] {
            let mut statement = connection.prepare(sql)?;
            let found = statement.query_map([id], |row| row.get::<_, String>(0))?;
            lines.extend(found.collect::<Result<Vec<_>>>()?);
        }
        Ok::<_, rusqlite::Error>(lines.iter().map(|line| format!("  {line}\n")).collect::<String>())
    };
    read().unwrap_or_else(|error| format!("  {error}\n")) + &attempts_of(data_dir, id)
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
