//! Accounts at certificate authorities by the URLs of their directories.

use super::Store;
use super::secret_encryption::SealedColumn;
use super::sql_types::us;
use crate::mail::Timestamp;
use crate::store::database::{OptionalExtension, params};
use crate::store::{AcmeAccount, AcmeAccounts, Result};

const CREDENTIALS_COLUMN: &str = "acme_account.credentials";

impl AcmeAccounts for Store {
    async fn acme_account(&self, directory: String) -> Result<Option<AcmeAccount>> {
        let sealer = self.sealer.clone();
        self.read(move |connection| {
            let sql = "SELECT account_url, credentials FROM acme_account WHERE directory = ?1";
            let row = connection
                .prepare_cached(sql)?
                .query_row([&directory], |row| Ok((row.get(0)?, row.get::<_, Vec<u8>>(1)?)));
            let Some((account_url, sealed)) = row.optional()? else { return Ok(None) };
            let credentials =
                sealer.open(SealedColumn { column: CREDENTIALS_COLUMN, row: &directory }, &sealed)?;
            Ok(Some(AcmeAccount { account_url, credentials, directory }))
        })
        .await
    }

    async fn store_acme_account(&self, account: AcmeAccount, now: Timestamp) -> Result<()> {
        self.write(move |tx| {
            let AcmeAccount { directory, account_url, credentials } = &account;
            let sealed = tx.sealer.seal(SealedColumn { column: CREDENTIALS_COLUMN, row: directory }, credentials)?;
            let sql = "INSERT INTO acme_account (directory, account_url, credentials, created_us)
                       VALUES (?1, ?2, ?3, ?4)
                       ON CONFLICT (directory) DO UPDATE SET account_url = ?2, credentials = ?3, created_us = ?4";
            tx.prepare_cached(sql)?.execute(params![directory, account_url, sealed, us(now)])?;
            Ok(())
        })
        .await
    }
}
