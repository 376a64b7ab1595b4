//! Refuses servers that lack what the store relies on.

use crate::store::OpenError;
use crate::store::database::{self, Connection, PostgresConnection, Row};

/// The oldest version that has all that is used: 13.
const SERVER_VERSION_MIN: i64 = 130_000;

/// What a server is and how it is set up, as far as it decides whether data is safe there.
struct ServerFacts {
    number: i64,
    version: String,
    encoding: String,
    is_fsync_on: bool,
    is_full_page_writes_on: bool,
    is_standby: bool,
    is_read_only: bool,
}

const FACTS: &str = "SELECT CAST(current_setting('server_version_num') AS BIGINT), version(),
    current_setting('server_encoding'), current_setting('fsync') = 'on', current_setting('full_page_writes') = 'on',
    pg_is_in_recovery(), current_setting('default_transaction_read_only') = 'on'";

impl ServerFacts {
    fn read(row: &Row<'_>) -> database::Result<Self> {
        Ok(Self {
            number: row.get(0)?,
            version: row.get(1)?,
            encoding: row.get(2)?,
            is_fsync_on: row.get(3)?,
            is_full_page_writes_on: row.get(4)?,
            is_standby: row.get(5)?,
            is_read_only: row.get(6)?,
        })
    }

    /// Why the server cannot be used, and what to do.
    fn find_fault(&self, is_unsafe_allowed: bool) -> Option<String> {
        let Self { version, encoding, .. } = self;
        // Those have the protocol of PostgreSQL, but not its locks and notifications.
        if !version.starts_with("PostgreSQL") || version.contains("YB") {
            return Some(format!("the server must be PostgreSQL, not {version}"));
        }
        if self.number < SERVER_VERSION_MIN {
            return Some(format!("PostgreSQL 13 or later is necessary, not {version}"));
        }
        if encoding != "UTF8" {
            return Some(format!(
                "the encoding of the database must be UTF8, not {encoding}; create it with ENCODING 'UTF8' TEMPLATE template0"
            ));
        }
        if self.is_standby {
            return Some(
                "the server is a standby, which cannot be written to; name the primary in store.url, or all hosts with commas"
                    .into(),
            );
        }
        if self.is_read_only {
            return Some(
                "default_transaction_read_only is on; turn it off for the user or the database with ALTER ROLE or ALTER DATABASE"
                    .into(),
            );
        }
        let unsafe_setting = match (self.is_fsync_on, self.is_full_page_writes_on) {
            (false, _) => "fsync",
            (_, false) => "full_page_writes",
            _ => return None,
        };
        (!is_unsafe_allowed).then(|| {
            format!(
                "{unsafe_setting} is off, so a crash of the machine may damage the database; set {unsafe_setting} = on in \
                 postgresql.conf, or for tests store.unsafe_database = true"
            )
        })
    }
}

/// Refuses a server that lacks what the store relies on.
///
/// # Errors
/// [`OpenError::Database`], with what to do.
pub(super) fn require_usable(connection: &Connection, is_unsafe_allowed: bool) -> Result<(), OpenError> {
    let facts = connection.query_row(FACTS, [], ServerFacts::read).map_err(super::refused)?;
    match facts.find_fault(is_unsafe_allowed) {
        Some(fault) => Err(OpenError::Database(fault)),
        None => Ok(()),
    }
}

const GET_MARK: &str = "SELECT current_setting('pillarbox.session', TRUE)";

/// Refuses a pooler that gives each transaction any session of the server: prepared statements and notifications belong to a
/// session. `one` marks its session. While `other` has a session in a transaction, either it has the mark, or `one` has
/// another session without it.
///
/// # Errors
/// [`OpenError::Database`].
pub(super) fn require_own_sessions(
    one: &PostgresConnection,
    other: &PostgresConnection,
) -> Result<(), OpenError> {
    match have_own_sessions(one, other).map_err(super::refused)? {
        true => Ok(()),
        false => Err(OpenError::Database(
            "a pooler in transaction mode is between Pillarbox and PostgreSQL; connect to PostgreSQL itself, or set \
             pool_mode = session for this database"
                .into(),
        )),
    }
}

/// Prepares no statement, which would fail behind such a pooler in other words.
fn have_own_sessions(one: &PostgresConnection, other: &PostgresConnection) -> database::Result<bool> {
    let mark = format!("{:032x}", rand::random::<u128>());
    one.query_unprepared(&format!("SELECT set_config('pillarbox.session', '{mark}', FALSE)"))?;
    let of_other = other.query_unprepared(&format!("BEGIN; {GET_MARK}"))?;
    // With the mark, `other` may have the only session, for which `one` would wait.
    let has_mark = |found: Option<String>| found.as_ref() == Some(&mark);
    let have_own = !has_mark(of_other) && has_mark(one.query_unprepared(GET_MARK)?);
    other.query_unprepared("ROLLBACK")?;
    Ok(have_own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usable() -> ServerFacts {
        ServerFacts {
            number: 150_018,
            version: "PostgreSQL 15.18 on x86_64".into(),
            encoding: "UTF8".into(),
            is_fsync_on: true,
            is_full_page_writes_on: true,
            is_standby: false,
            is_read_only: false,
        }
    }

    #[test]
    fn a_server_that_lacks_something_is_refused_with_what_to_do() {
        assert_eq!(usable().find_fault(false), None);
        type Change = fn(&mut ServerFacts);
        let cases: [(Change, &str); 8] = [
            (|facts| facts.version = "CockroachDB CCL v25.1".into(), "must be PostgreSQL"),
            (|facts| facts.version = "PostgreSQL 15.2-YB-2025.2".into(), "must be PostgreSQL"),
            (|facts| facts.number = 120_022, "13 or later"),
            (|facts| facts.encoding = "LATIN1".into(), "UTF8"),
            (|facts| facts.is_standby = true, "standby"),
            (|facts| facts.is_read_only = true, "default_transaction_read_only"),
            (|facts| facts.is_fsync_on = false, "fsync = on"),
            (|facts| facts.is_full_page_writes_on = false, "full_page_writes = on"),
        ];
        for (change, said) in cases {
            let mut facts = usable();
            change(&mut facts);
            let fault = facts.find_fault(false).expect(said);
            assert!(fault.contains(said), "{fault}");
            assert_eq!(facts.find_fault(true).is_none(), said.ends_with("= on"), "{said}");
        }
    }
}
