//! Counts of TLS sessions by day and domain.

use super::Store;
use super::sql_types::{self, count, sql_limit};
use crate::mail::{Date, DomainName};
use crate::model::TlsFailure;
use crate::store::database::{self, Row, params};
use crate::store::{Result, StoreError, TLS_RESULTS_MAX, TlsResult, TlsResults};

impl TlsResults for Store {
    async fn add_tls_results(&self, results: Vec<TlsResult>) -> Result<()> {
        self.write(move |tx| {
            let mut statement = tx.prepare_cached("SELECT count(*) FROM tls_result")?;
            let stored = statement.query_row([], |row| count(row, 0))?;
            let mut capacity = TLS_RESULTS_MAX.saturating_sub(usize::try_from(stored).unwrap_or(usize::MAX));
            let sql = "UPDATE tls_result SET sessions = sessions + ?6
                       WHERE day = ?1 AND domain = ?2 AND policy_type = ?3 AND mx_host = ?4 AND failure = ?5";
            let mut add = tx.prepare_cached(sql)?;
            let sql = "INSERT INTO tls_result (day, domain, policy_type, mx_host, failure, sessions)
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
            let mut insert = tx.prepare_cached(sql)?;
            for result in &results {
                let TlsResult { day, domain, policy, mx_host, failure, sessions } = result;
                let failure = failure.map_or("", TlsFailure::as_str);
                let row =
                    params![day.to_string(), domain.as_str(), policy.as_str(), mx_host, failure, sessions];
                if add.execute(row)? == 0 && capacity > 0 {
                    insert.execute(row)?;
                    capacity -= 1;
                }
            }
            Ok(())
        })
        .await
    }

    async fn unreported_tls_days(
        &self,
        today: Date,
        after: Option<(Date, DomainName)>,
        limit: usize,
    ) -> Result<Vec<(Date, DomainName)>> {
        self.read_slow(move |connection| {
            let sql = "SELECT DISTINCT day, domain FROM tls_result
                       WHERE day < ?1 AND (day, domain) > (?2, ?3) ORDER BY day, domain LIMIT ?4";
            let mut statement = connection.prepare_cached(sql)?;
            let (day, domain) = match &after {
                Some((day, domain)) => (day.to_string(), domain.as_str()),
                None => (String::new(), ""),
            };
            let found = statement
                .query_map(params![today.to_string(), day, domain, sql_limit(limit)], |row| {
                    Ok((sql_types::day(row, "day")?, row.get("domain")?))
                })?;
            found.collect::<database::Result<_>>().map_err(StoreError::from)
        })
        .await
    }

    async fn tls_results(&self, day: Date, domain: &DomainName) -> Result<Vec<TlsResult>> {
        let domain = domain.clone();
        self.read_slow(move |connection| {
            let sql = "SELECT * FROM tls_result WHERE day = ?1 AND domain = ?2
                       ORDER BY policy_type, mx_host, failure";
            let mut statement = connection.prepare_cached(sql)?;
            let found = statement.query_map(params![day.to_string(), domain.as_str()], result)?;
            found.collect::<database::Result<_>>().map_err(StoreError::from)
        })
        .await
    }

    async fn delete_tls_results(&self, day: Date, domain: &DomainName) -> Result<()> {
        let domain = domain.clone();
        self.write(move |tx| {
            let sql = "DELETE FROM tls_result WHERE day = ?1 AND domain = ?2";
            tx.prepare_cached(sql)?.execute(params![day.to_string(), domain.as_str()])?;
            Ok(())
        })
        .await
    }

    async fn delete_tls_results_before(&self, day: Date) -> Result<()> {
        self.write(move |tx| {
            tx.prepare_cached("DELETE FROM tls_result WHERE day < ?1")?.execute([day.to_string()])?;
            Ok(())
        })
        .await
    }
}

fn result(row: &Row<'_>) -> database::Result<TlsResult> {
    let failure: String = row.get("failure")?;
    Ok(TlsResult {
        day: sql_types::day(row, "day")?,
        domain: row.get("domain")?,
        policy: row.get("policy_type")?,
        mx_host: row.get("mx_host")?,
        failure: if failure.is_empty() { None } else { row.get("failure")? },
        sessions: row.get("sessions")?,
    })
}
