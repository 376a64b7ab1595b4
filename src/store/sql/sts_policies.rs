//! Cached MTA-STS policies by domain.

use super::Store;
use super::sql_types::{sql_limit, time, us};
use crate::mail::{DomainName, Timestamp};
use crate::store::database::{self, OptionalExtension, Row, params};
use crate::store::{Result, STS_POLICIES_MAX, StoreError, StsPolicies, StsRecord};

impl StsPolicies for Store {
    async fn sts_policy(&self, domain: &DomainName, now: Timestamp) -> Result<Option<StsRecord>> {
        let domain = domain.clone();
        self.read(move |connection| {
            let sql = "SELECT * FROM sts_policy WHERE domain = ?1 AND expires_us > ?2";
            let mut statement = connection.prepare_cached(sql)?;
            Ok(statement.query_row(params![domain.as_str(), us(now)], record).optional()?)
        })
        .await
    }

    async fn store_sts_policy(&self, new: StsRecord) -> Result<()> {
        self.write(move |tx| {
            let sql = "INSERT INTO sts_policy (domain, policy_id, policy, fetched_us, expires_us)
                       VALUES (?1, ?2, ?3, ?4, ?5)
                       ON CONFLICT (domain)
                       DO UPDATE SET policy_id = ?2, policy = ?3, fetched_us = ?4, expires_us = ?5";
            let (fetched_us, expires_us) = (us(new.fetched_at), us(new.expires_at));
            let row = params![new.domain.as_str(), new.policy_id, new.policy, fetched_us, expires_us];
            tx.prepare_cached(sql)?.execute(row)?;
            tx.prepare_cached("DELETE FROM sts_policy WHERE expires_us <= ?1")?.execute([fetched_us])?;
            let count: i64 =
                tx.prepare_cached("SELECT count(*) FROM sts_policy")?.query_row([], |row| row.get(0))?;
            let excess = count - sql_limit(STS_POLICIES_MAX);
            if excess > 0 {
                let sql = "DELETE FROM sts_policy WHERE domain IN
                               (SELECT domain FROM sts_policy ORDER BY expires_us, domain DESC LIMIT ?1)";
                tx.prepare_cached(sql)?.execute([excess])?;
            }
            Ok(())
        })
        .await
    }

    async fn stale_sts_policies(
        &self,
        before: Timestamp,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<StsRecord>> {
        self.read_slow(move |connection| {
            let sql = "SELECT * FROM sts_policy
                       WHERE (fetched_us < ?1 OR (fetched_us + expires_us) / 2 < ?2) AND expires_us > ?2
                       ORDER BY fetched_us, domain LIMIT ?3";
            let mut statement = connection.prepare_cached(sql)?;
            let found = statement.query_map(params![us(before), us(now), sql_limit(limit)], record)?;
            found.collect::<database::Result<_>>().map_err(StoreError::from)
        })
        .await
    }
}

fn record(row: &Row<'_>) -> database::Result<StsRecord> {
    Ok(StsRecord {
        domain: row.get("domain")?,
        policy_id: row.get("policy_id")?,
        policy: row.get("policy")?,
        fetched_at: time(row, "fetched_us")?,
        expires_at: time(row, "expires_us")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::contract::{later, name, now};
    use crate::store::sql::tests::Bed;
    use crate::store::sql::unit_of_work::Tx;

    #[tokio::test]
    async fn of_too_many_policies_the_one_that_expires_first_goes() {
        let bed = Bed::new().await;
        let fill = |tx: &Tx<'_>| {
            let sql = "WITH RECURSIVE numbers (number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < ?1)
                       INSERT INTO sts_policy (domain, policy_id, policy, fetched_us, expires_us)
                       SELECT 'd' || number || '.test', '1', '', 0, ?2 + number FROM numbers";
            Ok(tx.execute(sql, params![sql_limit(STS_POLICIES_MAX), us(later(1000))])?)
        };
        bed.engine().write(fill).await.unwrap();
        let (domain, expires_at) = (name("new.test"), later(2000));
        let new =
            StsRecord { domain, policy_id: "1".into(), policy: "".into(), fetched_at: now(), expires_at };
        bed.store.store_sts_policy(new).await.unwrap();
        let is_there = async |domain| bed.store.sts_policy(&name(domain), now()).await.unwrap().is_some();
        assert_eq!((is_there("d1.test").await, is_there("d2.test").await), (false, true));
        assert!(is_there("new.test").await);
    }
}
