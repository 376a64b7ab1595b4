//! The database in PostgreSQL.

use std::time::Duration;

use super::super::facts::{Facts, Seen};
use super::super::{Finding, Fix};
use super::{look, one};
use crate::store::{DatabaseSettings, DatabaseStatus};

/// A round trip that is longer delays every acceptance.
const ROUND_TRIP_MAX: Duration = Duration::from_millis(20);
/// With less, checkpoints come early, and each makes the log longer.
const WAL_OCTETS_MIN: u64 = 8 << 30;
const CHECKPOINT_TIMEOUT_MIN: Duration = Duration::from_secs(15 * 60);
/// Rows of the queue live for a second, so their remains must go soon.
const NAPTIME_MAX: Duration = Duration::from_secs(10);

pub fn database(facts: &Facts) -> Vec<Finding> {
    const ID: &str = "store.database";
    if let Seen::Failed(reason) = &facts.postgres {
        let fix = Fix::text("do what the text says; no mail is accepted or delivered without the database");
        return vec![Finding::error(ID, "", reason.as_str(), fix)];
    }
    let status = match look(ID, &"", &facts.postgres) {
        Ok(Some(status)) => status,
        Ok(None) => return vec![Finding::skipped(ID, "", "there is none")],
        Err(skipped) => return vec![skipped],
    };
    let mut findings = one(Ok(answer(ID, status)));
    findings.extend(settings(ID, &status.settings));
    findings
}

fn answer(id: &'static str, status: &DatabaseStatus) -> Finding {
    let DatabaseStatus { name, version, round_trip, .. } = status;
    let text = format!("PostgreSQL {version} answers within {:.1} ms", round_trip.as_secs_f64() * 1000.0);
    if *round_trip <= ROUND_TRIP_MAX {
        return Finding::ok(id, name.as_str(), text);
    }
    let fix = Fix::text("run Pillarbox near PostgreSQL: each acceptance waits for a round trip");
    Finding::warning(id, name.as_str(), text, fix)
}

/// A finding for each setting that slows the database down.
fn settings(id: &'static str, settings: &DatabaseSettings) -> Vec<Finding> {
    let DatabaseSettings { max_wal_octets, checkpoint_timeout, is_wal_compressed, autovacuum_naptime } =
        settings;
    let slow = [
        (
            *max_wal_octets < WAL_OCTETS_MIN,
            "max_wal_size",
            format!("max_wal_size is {} MB, so checkpoints come early and write more", max_wal_octets >> 20),
            "8GB",
        ),
        (
            *checkpoint_timeout < CHECKPOINT_TIMEOUT_MIN,
            "checkpoint_timeout",
            format!(
                "checkpoints come every {} s, and each makes the log longer",
                checkpoint_timeout.as_secs()
            ),
            "15min",
        ),
        (
            !is_wal_compressed,
            "wal_compression",
            "wal_compression is off, so the log is longer after each checkpoint".to_owned(),
            "on",
        ),
        (
            *autovacuum_naptime > NAPTIME_MAX,
            "autovacuum_naptime",
            format!(
                "autovacuum looks every {} s, so remains of the queue slow it down",
                autovacuum_naptime.as_secs()
            ),
            "10s",
        ),
    ];
    let warn = |(is_slow, name, text, advised): (bool, &'static str, String, &str)| {
        let fix = || {
            Fix::command(
                "set it as a superuser of PostgreSQL, then reload: SELECT pg_reload_conf()",
                format!("ALTER SYSTEM SET {name} TO '{advised}'"),
            )
        };
        is_slow.then(|| Finding::warning(id, name, text, fix()))
    };
    slow.into_iter().filter_map(warn).collect()
}
