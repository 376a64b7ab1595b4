//! Statements are written as SQLite reads them. This module spells them for PostgreSQL.

/// A statement sees what others committed while its transaction waited for the lock of writers, whatever the default of the
/// database is.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";

/// The same statement for PostgreSQL: `?1` becomes `$1`, and hints to the planner of SQLite (`INDEXED BY`, `CROSS JOIN` for
/// the order of tables) are left out.
pub(super) fn for_postgres(sql: &str) -> String {
    let mut spelled = String::with_capacity(sql.len());
    let mut rest = sql;
    while let Some(found) = rest.find(['?', '\'', '"', 'I', 'C', 'B']) {
        let (before, at) = rest.split_at(found);
        spelled.push_str(before);
        let is_word = !before.ends_with(|before: char| before.is_alphanumeric() || before == '_');
        let (text, skipped) = match &at[..1] {
            "?" => ("$", 1),
            quote @ ("'" | "\"") => {
                let end = at[1..].find(quote).map_or(at.len(), |end| end + 2);
                (&at[..end], end)
            }
            _ if is_word && at.starts_with("INDEXED BY ") => ("", "INDEXED BY ".len() + word_octets(at, 2)),
            _ if is_word && at.starts_with("CROSS JOIN ") => ("JOIN ", "CROSS JOIN ".len()),
            _ if is_word && at.starts_with("BEGIN IMMEDIATE") => (BEGIN, "BEGIN IMMEDIATE".len()),
            _ => (&at[..1], 1),
        };
        spelled.push_str(text);
        rest = &at[skipped..];
    }
    spelled.push_str(rest);
    spelled
}

/// The octets of a word of a statement, by its number from 0.
fn word_octets(sql: &str, number: usize) -> usize {
    let word = sql.split(' ').nth(number).unwrap_or_default();
    word.find(|octet: char| !(octet.is_alphanumeric() || octet == '_')).unwrap_or(word.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_spelled_for_postgresql() {
        for (sqlite, postgres) in [
            ("SELECT a FROM t WHERE b = ?1 AND c = ?12", "SELECT a FROM t WHERE b = $1 AND c = $12"),
            ("SELECT '?1 INDEXED BY x', \"?\" FROM t", "SELECT '?1 INDEXED BY x', \"?\" FROM t"),
            ("SELECT 1 FROM t INDEXED BY t_by_x WHERE x = ?1", "SELECT 1 FROM t  WHERE x = $1"),
            ("SELECT 1 FROM t INDEXED BY t_by_x\n WHERE TRUE", "SELECT 1 FROM t \n WHERE TRUE"),
            ("SELECT 1 FROM t CROSS JOIN u ON TRUE", "SELECT 1 FROM t JOIN u ON TRUE"),
            ("SELECT IC, ID, CI FROM ICB", "SELECT IC, ID, CI FROM ICB"),
            ("SELECT 'it''s ?1', ?1", "SELECT 'it''s ?1', $1"),
            ("BEGIN IMMEDIATE", "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"),
        ] {
            assert_eq!(for_postgres(sqlite), postgres);
        }
    }
}
