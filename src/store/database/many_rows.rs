//! Turns a statement for one row into one for many rows, which PostgreSQL executes once: each parameter becomes an array.

use tokio_postgres::types::Type;

use super::dialect::for_postgres;

/// The name of the rows in the statement.
const ROWS: &str = "posted";

/// The statement of PostgreSQL for many rows, whose parameters are arrays of these types. The forms are `INSERT … VALUES (…)`,
/// `INSERT … SELECT … WHERE`, `UPDATE … SET … WHERE` and `DELETE FROM … WHERE`; `None` for all others.
pub(super) fn for_many_rows(sql: &str, types: &[Type]) -> Option<String> {
    let rows = rows(types)?;
    let sql = for_postgres(sql.trim());
    if find_word(&sql, "RETURNING").is_some() {
        return None;
    }
    match sql.split_whitespace().next()? {
        "INSERT" => insert(&sql, &rows),
        "UPDATE" if find_word(&sql, "FROM").is_none() => join(&sql, &format!("FROM {rows}")),
        "DELETE" if find_word(&sql, "USING").is_none() => join(&sql, &format!("USING {rows}")),
        _ => None,
    }
}

/// The arrays as a table.
fn rows(types: &[Type]) -> Option<String> {
    let arrays: Option<Vec<_>> = types.iter().enumerate().map(|(at, ty)| array(at + 1, ty)).collect();
    let names: Vec<_> = (1..=types.len()).map(|number| format!("p{number}")).collect();
    let arrays = arrays.filter(|arrays| !arrays.is_empty())?;
    Some(format!("unnest({}) AS {ROWS} ({})", arrays.join(", "), names.join(", ")))
}

fn array(number: usize, ty: &Type) -> Option<String> {
    let element = match *ty {
        Type::BOOL => "boolean",
        Type::INT2 => "smallint",
        Type::INT4 => "integer",
        Type::INT8 => "bigint",
        Type::FLOAT8 => "double precision",
        Type::NUMERIC => "numeric",
        Type::TEXT => "text",
        Type::BYTEA => "bytea",
        _ => return None,
    };
    Some(format!("${number}::{element}[]"))
}

fn insert(sql: &str, rows: &str) -> Option<String> {
    let (statement, conflict) = match find_word(sql, "ON") {
        Some(at) => sql.split_at(at),
        None => (sql, ""),
    };
    // `ON CONFLICT` sees the table and the refused row, and no other values.
    if conflict.contains('$') {
        return None;
    }
    let (head, values, condition) = match find_word(statement, "VALUES") {
        Some(at) => {
            let (head, list) = statement.split_at(at);
            let list = list["VALUES".len()..].trim();
            let values = list.strip_prefix('(')?.strip_suffix(')')?;
            // `DEFAULT` is no expression, and another list is another row.
            if find_word(list, ",").is_some() || find_word(values, "DEFAULT").is_some() {
                return None;
            }
            (head, values, "")
        }
        None => {
            let (head, select) = statement.split_at(find_word(statement, "SELECT")?);
            let select = &select["SELECT".len()..];
            if find_word(select, "FROM").is_some() {
                return None;
            }
            let (values, condition) = select.split_at(find_word(select, "WHERE").unwrap_or(select.len()));
            (head, values, condition)
        }
    };
    let (values, condition) = (to_columns(values), to_columns(condition));
    let parts = [head, "SELECT", &values, "FROM", rows, &condition, conflict].map(str::trim);
    Some(parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" "))
}

/// Adds the rows before the condition.
fn join(sql: &str, rows: &str) -> Option<String> {
    let (head, condition) = sql.split_at(find_word(sql, "WHERE")?);
    Some(format!("{} {rows} {}", to_columns(head.trim()), to_columns(condition)))
}

/// `$1` becomes the column of the first array.
fn to_columns(sql: &str) -> String {
    let mut spelled = String::with_capacity(sql.len());
    let mut is_quoted = false;
    for letter in sql.chars() {
        is_quoted ^= letter == '\'';
        match letter {
            '$' if !is_quoted => spelled.push_str(&format!("{ROWS}.p")),
            letter => spelled.push(letter),
        }
    }
    spelled
}

/// Where a word or comma stands in a statement, outside of parentheses and quotes.
fn find_word(sql: &str, word: &str) -> Option<usize> {
    let (mut depth, mut is_quoted) = (0, false);
    let mut before = ' ';
    for (at, letter) in sql.char_indices() {
        is_quoted ^= letter == '\'';
        depth += match letter {
            '(' if !is_quoted => 1,
            ')' if !is_quoted => -1,
            _ => 0,
        };
        if depth == 0
            && !is_quoted
            && let Some(rest) = sql[at..].strip_prefix(word)
            && (word == "," || !is_in_word(before) && !rest.starts_with(is_in_word))
        {
            return Some(at);
        }
        before = letter;
    }
    None
}

fn is_in_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_for_one_row_becomes_one_for_many() {
        let unnest = "unnest($1::text[], $2::bigint[]) AS posted (p1, p2)";
        for (one, many) in [
            (
                "INSERT INTO t (a, b) VALUES (?1, ?2)",
                "INSERT INTO t (a, b) SELECT posted.p1, posted.p2 FROM ROWS",
            ),
            (
                "INSERT INTO t (a, b)\n VALUES (?1, coalesce(?2, 'ON $1'))",
                "INSERT INTO t (a, b) SELECT posted.p1, coalesce(posted.p2, 'ON $1') FROM ROWS",
            ),
            (
                "INSERT INTO t (a, b) VALUES (?1, (SELECT x FROM u WHERE y = ?2)) ON CONFLICT (a) DO UPDATE SET b = excluded.b WHERE t.b < 7",
                "INSERT INTO t (a, b) SELECT posted.p1, (SELECT x FROM u WHERE y = posted.p2) FROM ROWS ON CONFLICT (a) DO UPDATE SET b = excluded.b WHERE t.b < 7",
            ),
            (
                "INSERT INTO t (a, b) SELECT ?1, ?2 WHERE EXISTS (SELECT 1 FROM u WHERE id = ?1) ON CONFLICT DO NOTHING",
                "INSERT INTO t (a, b) SELECT posted.p1, posted.p2 FROM ROWS WHERE EXISTS (SELECT 1 FROM u WHERE id = posted.p1) ON CONFLICT DO NOTHING",
            ),
            (
                "UPDATE t SET b = b + ?2 WHERE a = ?1 AND b IS NOT NULL",
                "UPDATE t SET b = b + posted.p2 FROM ROWS WHERE a = posted.p1 AND b IS NOT NULL",
            ),
            (
                "DELETE FROM t AS d WHERE a = ?1 AND b IN (SELECT x FROM u WHERE y = ?2)",
                "DELETE FROM t AS d USING ROWS WHERE a = posted.p1 AND b IN (SELECT x FROM u WHERE y = posted.p2)",
            ),
        ] {
            let expected = many.replace("ROWS", unnest);
            assert_eq!(for_many_rows(one, &[Type::TEXT, Type::INT8]).as_deref(), Some(&*expected));
        }
    }

    #[test]
    fn a_statement_of_another_form_is_not_changed() {
        for sql in [
            "INSERT INTO t (a, b) VALUES (?1, 1), (?2, 2)",
            "INSERT INTO t (a, b) VALUES (?1, DEFAULT)",
            "INSERT INTO t (a, b) VALUES (?1, ?2) RETURNING a",
            "INSERT INTO t (a, b) VALUES (?1, ?2) ON CONFLICT (a) DO UPDATE SET b = ?2",
            "INSERT INTO t (a, b) SELECT x, ?2 FROM u WHERE x = ?1",
            "UPDATE t SET b = ?2 FROM u WHERE u.x = ?1",
            "UPDATE t SET b = ?2, a = ?1",
            "DELETE FROM t USING u WHERE u.a = ?1 AND t.b = ?2",
            "WITH x AS (SELECT ?1) INSERT INTO t (a, b) VALUES (?1, ?2)",
            "SELECT pg_advisory_xact_lock(?1)",
            "BEGIN IMMEDIATE",
        ] {
            assert_eq!(for_many_rows(sql, &[Type::TEXT, Type::INT8]), None, "{sql}");
        }
        assert_eq!(for_many_rows("INSERT INTO t (a) VALUES (now())", &[]), None, "no parameters");
        assert_eq!(for_many_rows("INSERT INTO t (a) VALUES (?1)", &[Type::INET]), None, "another type");
    }
}
