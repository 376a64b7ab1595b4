//! What a phase costs: write-ahead log, processor time of the server, statements and transactions.

use std::future::Future;
use std::time::Instant;

use serde_json::json;
use tokio_postgres::Client;

use super::server::MeasuredServer;

/// What a phase is measured by.
pub struct Meter<'a> {
    pub server: &'a MeasuredServer,
    pub client: &'a Client,
}

/// Readings of the meter.
struct Reading {
    at: Instant,
    log_octets: f64,
    processor_s: f64,
    statements: f64,
    commits: f64,
}

impl Meter<'_> {
    async fn read(&self) -> Reading {
        let sql = "SELECT (pg_current_wal_insert_lsn() - '0/0')::float8,
                          (SELECT coalesce(sum(calls), 0)::float8 FROM pg_stat_statements WHERE query NOT LIKE '%pg_stat%'),
                          (SELECT coalesce(sum(calls), 0)::float8 FROM pg_stat_statements WHERE query LIKE '%pg_advisory_xact_lock_shared%')";
        let row = self.client.query_one(sql, &[]).await.unwrap();
        Reading {
            at: Instant::now(),
            log_octets: row.get(0),
            processor_s: self.server.processor_seconds(),
            statements: row.get(1),
            commits: row.get(2),
        }
    }

    /// Forgets the statements so far.
    pub async fn begin(&self) {
        self.client.query("SELECT pg_stat_statements_reset()", &[]).await.unwrap();
    }

    pub async fn measure(&self, phase: &str, count: usize, work: impl Future<Output = ()>) {
        let before = self.read().await;
        work.await;
        let after = self.read().await;
        let messages = count as f64;
        let commits = (after.commits - before.commits).max(1.0);
        let round = |number: f64| (number * 1000.0).round() / 1000.0;
        let figures = json!({
            "phase": phase,
            "log_octets_per_message": round((after.log_octets - before.log_octets) / messages),
            "processor_s_per_1000": round((after.processor_s - before.processor_s) / messages * 1000.0),
            "messages_per_transaction": round(messages / commits),
            "statements_per_transaction": round((after.statements - before.statements) / commits),
            "messages_per_s": round(messages / (after.at - before.at).as_secs_f64()),
        });
        println!("{figures}");
    }

    /// Statements by their number, the most frequent first.
    pub async fn print_statements(&self) {
        let sql = "SELECT calls, rows, round(total_exec_time::numeric, 1)::float8, wal_bytes::float8, left(query, 110)
                   FROM pg_stat_statements WHERE query NOT LIKE '%pg_stat%' ORDER BY calls DESC LIMIT 40";
        for row in self.client.query(sql, &[]).await.unwrap() {
            let (calls, rows, ms, octets, text): (i64, i64, f64, f64, String) =
                (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4));
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            eprintln!("{calls:>7} × {rows:>7} rows {ms:>9} ms {octets:>11} octets  {text}");
        }
        self.begin().await;
    }

    pub async fn print_tables(&self) {
        let sql = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
        let deadlocks: i64 = self.client.query_one(sql, &[]).await.unwrap().get(0);
        println!("{}", json!({ "deadlocks": deadlocks }));
        // Partitions count for their tables.
        let sql = r"SELECT regexp_replace(relname, '_(past|future|\d{8}(_kept)?)$', '') AS name,
                          sum(n_tup_upd)::int8, sum(n_tup_hot_upd)::int8, sum(n_dead_tup)::int8
                    FROM pg_stat_user_tables GROUP BY name HAVING sum(n_tup_upd + n_dead_tup) > 0 ORDER BY name";
        for row in self.client.query(sql, &[]).await.unwrap() {
            let (table, updated, hot, dead): (String, i64, i64, i64) =
                (row.get(0), row.get(1), row.get(2), row.get(3));
            let hot = (updated > 0).then(|| (hot as f64 / updated as f64 * 1000.0).round() / 10.0);
            println!(
                "{}",
                json!({ "table": table, "updates": updated, "hot_percent": hot, "dead_rows": dead })
            );
        }
    }
}
