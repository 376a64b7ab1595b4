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
    let mut rows = query.query([])?;
    let mut faults = Vec::new();
    loop {
        match rows.next() {
            Ok(Some(row)) => faults.extend(faults_of(&row.get::<_, String>(0)?)),
            // Damage that ends the look comes after what was found before it.
            Err(error) if faults.is_empty() => return Err(error),
            Ok(None) | Err(_) => break,
        }
    }
    Ok(faults)
}

/// The faults of a row: the name of the database, and then one in each line.
fn faults_of(row: &str) -> Vec<String> {
    let lines = row.lines().filter(|line| *line != "ok" && !line.starts_with("***"));
    lines.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use tempfile::TempDir;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const PAGE: u64 = 4096;

    /// A data directory with a database of many pages, of which the last are those of an index, and its file.
    fn database() -> (TempDir, File) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(DATABASE_FILE);
        let connection = Connection::open(&file).unwrap();
        let statements = "CREATE TABLE t (a TEXT);
            WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < 50000)
                INSERT INTO t SELECT printf('%0100d', n) FROM number;
            CREATE UNIQUE INDEX i ON t (a);";
        connection.execute_batch(statements).unwrap();
        (dir, std::fs::OpenOptions::new().write(true).open(&file).unwrap())
    }

    #[test]
    fn damage_of_a_database_is_found_and_a_whole_one_has_none() {
        let (dir, file) = database();
        let damage = |from: u64, octets: usize| file.write_all_at(&vec![0xff; octets], from).unwrap();
        let check = || quick_check(dir.path(), MINUTE).unwrap();
        assert_eq!(check(), Vec::<String>::new());
        let last = file.metadata().unwrap().len() / PAGE - 1;
        let name_page = |faults: &[String], number: u64| {
            let name = format!("page {number}");
            assert!(faults[0].contains(&name), "{name}: {faults:?}");
        };
        damage(last * PAGE, 4096);
        name_page(&check(), last + 1);
        // SQLite also reads the rows of a table, and ends there.
        damage(5 * PAGE, 4096);
        name_page(&check(), 6);
        damage((last - 50) * PAGE, 50 * 4096);
        assert_eq!(check().len(), FAULTS_MAX);
        // The list of tables, and then the header of the file.
        damage(100, 100);
        assert_eq!(check(), ["database disk image is malformed"]);
        damage(0, 100);
        assert_eq!(check(), ["file is not a database"]);
    }

    #[test]
    fn a_database_that_cannot_be_read_or_not_in_time_is_not_whole() {
        let (dir, _file) = database();
        let late = "reading it takes more than 0 seconds".to_owned();
        assert_eq!(quick_check(dir.path(), Duration::ZERO), Err(late));
        assert!(quick_check(&dir.path().join("absent"), MINUTE).is_err());
    }
}
