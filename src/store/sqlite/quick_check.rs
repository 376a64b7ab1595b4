//! Reads the whole database to find damage.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::open::DATABASE_FILE;

/// Faults that are reported.
const FAULTS_MAX: usize = 10;
/// Steps of SQLite between two looks at the time.
const STEPS: i32 = 100_000;

/// What is wrong with the database of a data directory, which a server may be using; nothing if it is whole.
///
/// # Errors
/// It cannot be read, or not within the time.
pub fn quick_check(data_dir: &Path, within: Duration) -> Result<Vec<String>, String> {
    match find_faults(&data_dir.join(DATABASE_FILE), Instant::now() + within) {
        Ok(faults) => Ok(faults),
        Err(error) => match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Ok(vec![error.to_string()]),
            Some(ErrorCode::OperationInterrupted) => {
                Err(format!("reading it takes more than {} seconds", within.as_secs()))
            }
            _ => Err(error.to_string()),
        },
    }
}

fn find_faults(database: &Path, end: Instant) -> rusqlite::Result<Vec<String>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(database, flags)?;
    connection.progress_handler(STEPS, Some(move || Instant::now() > end))?;
    let mut query = connection.prepare(&format!("PRAGMA quick_check({FAULTS_MAX})"))?;
    let mut lines =
        query.query_map([], |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()?;
    lines.retain(|line| line != "ok");
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn damage_of_a_database_is_found_and_a_whole_one_has_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(DATABASE_FILE);
        let connection = Connection::open(&file).unwrap();
        connection.execute_batch("CREATE TABLE t (a TEXT UNIQUE)").unwrap();
        for n in 0..1000 {
            connection.execute("INSERT INTO t VALUES (?1)", [format!("{n:0100}")]).unwrap();
        }
        drop(connection);
        let check = || quick_check(dir.path(), Duration::from_secs(60));
        assert_eq!(check(), Ok(Vec::new()));
        let raw = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
        raw.write_all_at(&[0xff; 4096], 5 * 4096).unwrap();
        assert!(!check().unwrap().is_empty());
        assert!(quick_check(&dir.path().join("absent"), Duration::from_secs(60)).is_err());
    }
}
