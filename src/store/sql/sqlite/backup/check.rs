//! Checks the database of a backup: its pages, the bodies, the states of deliveries against their events, and with the master
//! key every encrypted value.

use std::fs::File;
use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension};

use super::{BackupError, fold};
use crate::mail::Content;
use crate::store::sql::blob_store::body_path;
use crate::store::sql::checksum::Checksum;
use crate::store::sql::secret_encryption::{SealedColumn, Sealer, load_master_key};
use crate::store::sql::sqlite::open::DATABASE_FILE;
use crate::store::sql::sqlite::schema;

/// Faults that are listed.
const FAULTS_MAX: usize = 100;

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct DatabaseReport {
    /// The table or the object, and what is wrong with it; at most 100.
    pub faults: Vec<(String, String)>,
    /// What was not looked at, and why.
    pub skipped: Vec<String>,
    /// Encrypted values that the key opens; `None` without a key.
    pub secrets_opened: Option<u64>,
    /// Deliveries whose state was compared with their events.
    pub folded: u64,
}

impl DatabaseReport {
    /// Notes a fault.
    pub(in crate::store::sql) fn fault(&mut self, place: impl Into<String>, text: impl Into<String>) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push((place.into(), text.into()));
        }
    }
}

/// Checks the database in a directory that nobody writes, with the files of bodies beside it.
///
/// # Errors
/// [`BackupError`] if it cannot be opened, or is newer than the program.
pub fn check_database(directory: &Path, master_key: Option<&Path>) -> Result<DatabaseReport, BackupError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(directory.join(DATABASE_FILE), flags)?;
    let mut report = DatabaseReport::default();
    let found: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let known = schema::known();
    if found > known {
        return Err(BackupError::Newer { found, known });
    }
    check_pages(&connection, &mut report)?;
    if !report.faults.is_empty() {
        report
            .skipped
            .push("bodies, events and secrets, because the pages of the database are damaged".into());
        return Ok(report);
    }
    if found < known {
        let text = format!(
            "bodies, events and secrets, because the database has schema {found} and this program {known}: \
             verify it with the program that made it, or restore it in a directory of its own"
        );
        report.skipped.push(text);
        return Ok(report);
    }
    check_bodies(&connection, directory, &mut report)?;
    fold::check_states(&connection, &mut report)?;
    check_secrets(&connection, master_key, &mut report)?;
    Ok(report)
}

fn check_pages(connection: &Connection, report: &mut DatabaseReport) -> Result<(), BackupError> {
    let mut statement = connection.prepare("PRAGMA integrity_check(100)")?;
    let mut rows = statement.query([])?;
    loop {
        match rows.next() {
            Ok(None) => return Ok(()),
            Ok(Some(row)) => {
                let line: String = row.get(0)?;
                if line != "ok" {
                    report.fault("pillarbox.db", line);
                }
            }
            // Pages that cannot be read at all.
            Err(error) => {
                report.fault("pillarbox.db", error.to_string());
                return Ok(());
            }
        }
    }
}

fn check_bodies(
    connection: &Connection,
    directory: &Path,
    report: &mut DatabaseReport,
) -> Result<(), BackupError> {
    let sql = "SELECT message_id, prefix, submitted, file_prefix_octets IS NOT NULL, octets, crc32 FROM body";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let id: String = row.get(0)?;
        let found = if row.get(3)? {
            let file = File::open(directory.join(body_path(&id)));
            match file.and_then(|file| Checksum::of_file(&file)) {
                Ok(found) => found,
                Err(error) => {
                    report.fault(id, format!("its body cannot be read: {error}"));
                    continue;
                }
            }
        } else {
            let (prefix, submitted): (Vec<u8>, Vec<u8>) = (row.get(1)?, row.get(2)?);
            Checksum::of(&Content { prefix: prefix.into(), submitted: submitted.into() })
        };
        // Bodies that an early version wrote have no checksum.
        let (octets, crc32): (Option<i64>, Option<u32>) = (row.get(4)?, row.get(5)?);
        let wanted =
            octets.zip(crc32).map(|(octets, crc32)| Checksum { octets: octets.unsigned_abs(), crc32 });
        if let Some(fault) = wanted.and_then(|wanted| wanted.fault_of(found)) {
            report.fault(id, format!("its body is damaged: {fault}"));
        }
    }
    let sql = "SELECT id FROM delivery WHERE next_attempt_us IS NOT NULL
                   AND NOT EXISTS (SELECT 1 FROM body WHERE body.message_id = delivery.message_id)";
    let mut statement = connection.prepare(sql)?;
    for id in statement.query_map([], |row| row.get::<_, String>(0))? {
        report.fault(id?, "it is open, but its message has no body");
    }
    Ok(())
}

/// An encrypted column: its place ([`SealedColumn`]), and how a query gets the value and the row.
struct Sealed {
    place: &'static str,
    table: &'static str,
    value: &'static str,
    row: &'static str,
}

/// Every encrypted column. A test compares it with the code.
const SEALED: &[Sealed] = &[
    Sealed { place: "seal_check.sealed", table: "seal_check", value: "sealed", row: "CAST(id AS TEXT)" },
    Sealed { place: "tenant.smart_host_password", table: "tenant", value: "smart_host_password", row: "id" },
    Sealed { place: "dkim_key.private_key", table: "dkim_key", value: "private_key", row: "id" },
    Sealed { place: "key.scram", table: "key", value: "scram", row: "id" },
    Sealed { place: "key.scram", table: "key_secret", value: "scram", row: "key_id" },
    Sealed { place: "webhook.secret", table: "webhook", value: "secret", row: "id" },
    Sealed { place: "webhook.secret", table: "webhook_secret", value: "secret", row: "webhook_id" },
    Sealed {
        place: "kept_answer.body",
        table: "idempotent_response",
        value: "body",
        row: "key_id || '.' || name",
    },
    Sealed {
        place: "acme_account.credentials",
        table: "acme_account",
        value: "credentials",
        row: "directory",
    },
];

fn check_secrets(
    connection: &Connection,
    master_key: Option<&Path>,
    report: &mut DatabaseReport,
) -> Result<(), BackupError> {
    let Some(file) = master_key else {
        let mut secrets = 0;
        for Sealed { table, value, .. } in SEALED {
            let sql = format!("SELECT count({value}) FROM {table}");
            secrets += connection.query_row(&sql, [], |row| row.get::<_, i64>(0))?;
        }
        report.skipped.push(format!("{secrets} secrets, because --master-key is not given"));
        return Ok(());
    };
    let sealer = load_master_key(file).map_err(|error| BackupError::Failed(error.to_string()))?;
    let sql = "SELECT fingerprint FROM seal_check WHERE id = 1";
    let wanted: Option<String> = connection.query_row(sql, [], |row| row.get(0)).optional()?.flatten();
    if let Some(wanted) = wanted.filter(|wanted| *wanted != sealer.fingerprint()) {
        let (file, found) = (file.display(), sealer.fingerprint());
        report.fault(
            "master key",
            format!("{file} has the fingerprint {found}, and the backup needs {wanted}"),
        );
        return Ok(());
    }
    let mut opened = 0;
    for sealed in SEALED {
        opened += open_all(connection, sealed, &sealer, report)?;
    }
    report.secrets_opened = Some(opened);
    Ok(())
}

/// Returns the number of values that open.
fn open_all(
    connection: &Connection,
    sealed: &Sealed,
    sealer: &Sealer,
    report: &mut DatabaseReport,
) -> Result<u64, BackupError> {
    let Sealed { place, table, value, row } = sealed;
    let sql = format!("SELECT {row}, {value} FROM {table} WHERE {value} IS NOT NULL");
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query([])?;
    let mut opened = 0;
    while let Some(found) = rows.next()? {
        let (id, octets): (String, Vec<u8>) = (found.get(0)?, found.get(1)?);
        match sealer.open(SealedColumn { column: place, row: &id }, &octets) {
            Ok(_) => opened += 1,
            Err(_) => report.fault(format!("{table}.{value} of {id}"), "the master key does not open it"),
        }
    }
    Ok(opened)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::PathBuf;

    use super::*;

    fn sources(folder: &Path, texts: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, texts);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                texts.push(text.split("#[cfg(test)]").next().unwrap().to_owned());
            }
        }
    }

    #[test]
    fn every_encrypted_column_of_the_code_is_checked() {
        let mut texts = Vec::new();
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store"), &mut texts);
        let literal = |rest: &str| rest.split('"').next().unwrap().to_owned();
        let mut places = BTreeSet::new();
        for text in &texts {
            places.extend(text.split("_COLUMN: &str = \"").skip(1).map(literal));
            places.extend(text.split("SealedColumn { column: \"").skip(1).map(literal));
        }
        let known: BTreeSet<String> = SEALED.iter().map(|sealed| sealed.place.to_owned()).collect();
        assert_eq!(places, known, "encrypted columns are named by a constant `…_COLUMN` or in place");
    }
}
