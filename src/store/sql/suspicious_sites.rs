//! Sites that say of many addresses that they are gone which took mail a short time ago. What they suppress is provisional.

use serde::Serialize;

use super::directory::suppressions;
use super::events::Subject;
use super::sql_types::{sql_limit, us};
use super::unit_of_work::Tx;
use crate::mail::Timestamp;
use crate::model::{Environment, EventKind};
use crate::store::database::{self, params};
use crate::store::{PROVISIONAL_SUPPRESSION_LIFETIME, Result, SuspiciousSite};

/// Suppressions that one job changes.
pub(super) const JOB_ROWS_MAX: usize = 500;

/// The data of the event. It names no tenant and no address.
#[derive(Serialize)]
struct SuspiciousData<'a> {
    site: &'a str,
    gone: u64,
    results: u64,
    since: Timestamp,
    until: Timestamp,
}

/// Whether what a site says now is provisional.
pub(super) fn is_suspicious(tx: &Tx<'_>, site: &str, now: Timestamp) -> Result<bool> {
    let sql = "SELECT 1 FROM suspicious_site WHERE site = ?1 AND until_us > ?2";
    Ok(tx.prepare_cached(sql)?.exists(params![site, us(now)])?)
}

/// Begins or renews the suspicion, and limits suppressions as [`limit_suppressions`] does.
pub(super) fn suspect(tx: &Tx<'_>, suspicious: &SuspiciousSite) -> Result<usize> {
    let SuspiciousSite { site, name, gone, results, since, until, at } = suspicious;
    if !is_suspicious(tx, site, *at)? {
        let data =
            SuspiciousData { site: name, gone: *gone, results: *results, since: *since, until: *until };
        let subject = Subject { environment: Some(Environment::Live), ..Subject::default() };
        tx.append(EventKind::SiteBouncesSuspicious, subject, &data, *at)?;
        tx.prepare_cached("DELETE FROM suspicious_site WHERE until_us <= ?1")?.execute([us(*at)])?;
    }
    let sql = "INSERT INTO suspicious_site (site, until_us) VALUES (?1, ?2)
               ON CONFLICT (site) DO UPDATE SET until_us = max(suspicious_site.until_us, excluded.until_us)";
    tx.prepare_cached(sql)?.execute(params![site, us(*until)])?;
    limit_suppressions(tx, suspicious)
}

/// Makes suppressions provisional that the site caused since it is suspicious: at most [`JOB_ROWS_MAX`], whose number it
/// returns.
pub(super) fn limit_suppressions(tx: &Tx<'_>, suspicious: &SuspiciousSite) -> Result<usize> {
    let ids: Vec<String> = tx
        .prepare_cached(SINCE)?
        .query_map(params![suspicious.site, us(suspicious.since), sql_limit(JOB_ROWS_MAX)], |row| row.get(0))?
        .collect::<database::Result<_>>()?;
    let lifetime_us = PROVISIONAL_SUPPRESSION_LIFETIME.as_micros() as i64;
    for id in &ids {
        suppressions::make_provisional(tx, id, lifetime_us, suspicious.at)?;
    }
    Ok(ids.len())
}

pub(super) const SINCE: &str = "SELECT id FROM suppression INDEXED BY suppression_at_site
    WHERE site = ?1 AND refused_us >= ?2 AND provisional = 0 AND site IS NOT NULL LIMIT ?3";
