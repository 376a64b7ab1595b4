//! Inboxes, and the counts of trial mail.

use super::Store;
use super::directory::{require_tenant, row_limits};
use super::keyset::List;
use super::sql_types::{time, time_if_any, us};
use super::unit_of_work::Tx;
use crate::mail::Timestamp;
use crate::model::{InboxId, LimitPeriod, TenantId};
use crate::store::database::{self, Connection, OptionalExtension, Row, params};
use crate::store::{
    CONFIRMATION_MAILS_PER_DAY_MAX, Conflict, INBOX_CODE_ATTEMPTS_MAX, INBOX_CODE_LIFETIME, Inbox,
    InboxConfirmation, InboxFilter, Inboxes, Limited, NewInbox, Page, PageRequest, Result, StoreError,
    TRIAL_MESSAGES_PER_DAY_MAX, is_in_scope,
};

impl Inboxes for Store {
    async fn add_inbox(&self, new: NewInbox, now: Timestamp) -> Result<Inbox> {
        self.write(move |tx| add(tx, &new, now)).await
    }

    async fn inbox(&self, scope: Option<TenantId>, id: InboxId) -> Result<Option<Inbox>> {
        self.read(move |connection| find(connection, scope, id)).await
    }

    async fn list_inboxes(&self, filter: InboxFilter, page: PageRequest) -> Result<Page<Inbox>> {
        self.read_slow(move |connection| {
            let mut list = List::of("inbox", InboxId::PREFIX);
            list.only_if("tenant_id = ?", &filter.tenant_id)?;
            list.only_if("folded = ?", &filter.folded)?;
            list.read(connection, &page, read_row)
        })
        .await
    }

    async fn confirm_inbox(
        &self,
        scope: Option<TenantId>,
        id: InboxId,
        code: String,
        now: Timestamp,
    ) -> Result<Option<InboxConfirmation>> {
        self.write(move |tx| confirm(tx, scope, id, &code, now)).await
    }

    async fn delete_inbox(&self, scope: Option<TenantId>, id: InboxId) -> Result<bool> {
        self.write(move |tx| {
            let sql = "DELETE FROM inbox WHERE id = ?1 AND (tenant_id = ?2 OR ?2 IS NULL)";
            Ok(tx.prepare_cached(sql)?.execute(params![id, scope])? > 0)
        })
        .await
    }

    async fn confirmed_inboxes(&self, tenant: TenantId) -> Result<Vec<String>> {
        self.read(move |connection| {
            let sql = "SELECT folded FROM inbox WHERE tenant_id = ?1 AND confirmed_us IS NOT NULL";
            let mut statement = connection.prepare_cached(sql)?;
            let found = statement.query_map([tenant], |row| row.get(0))?;
            Ok(found.collect::<database::Result<_>>()?)
        })
        .await
    }

    async fn take_trial_message(&self, tenant: TenantId, now: Timestamp) -> Result<bool> {
        self.write(move |tx| take(tx, tenant, "messages", TRIAL_MESSAGES_PER_DAY_MAX, now)).await
    }
}

fn read_row(row: &Row<'_>) -> database::Result<Inbox> {
    Ok(Inbox {
        id: row.get("id")?,
        tenant_id: row.get("tenant_id")?,
        address: row.get("address")?,
        created_at: time(row, "created_us")?,
        confirmed_at: time_if_any(row, "confirmed_us")?,
        code_expires_at: time_if_any(row, "code_expires_us")?,
    })
}

fn find(connection: &Connection, scope: Option<TenantId>, id: InboxId) -> Result<Option<Inbox>> {
    let mut statement = connection.prepare_cached("SELECT * FROM inbox WHERE id = ?1")?;
    let found = statement.query_row([id], read_row).optional()?;
    Ok(found.filter(|inbox| is_in_scope(scope, Some(inbox.tenant_id))))
}

fn add(tx: &Tx<'_>, new: &NewInbox, now: Timestamp) -> Result<Inbox> {
    let folded = new.address.folded();
    let known = tx
        .prepare_cached("SELECT * FROM inbox WHERE tenant_id = ?1 AND folded = ?2")?
        .query_row(params![new.tenant_id, folded], read_row)
        .optional()?;
    match &known {
        Some(confirmed) if confirmed.confirmed_at.is_some() => return Ok(confirmed.clone()),
        Some(_) => {}
        None => require_new(tx, new.tenant_id)?,
    }
    // At its maximum it writes nothing, and what follows does not fail: a job that fails after a change costs the others of
    // its transaction a repetition.
    if !take(tx, new.tenant_id, "confirmations", CONFIRMATION_MAILS_PER_DAY_MAX, now)? {
        return Err(StoreError::Conflict(Conflict::ConfirmationMails));
    }
    let inbox = known.map_or_else(|| insert(tx, new, &folded, now), Ok)?;
    let expires_at = now.checked_add(INBOX_CODE_LIFETIME).unwrap_or(Timestamp::MAX);
    tx.prepare_cached("UPDATE inbox SET code_digest = ?2, code_expires_us = ?3, attempts = 0 WHERE id = ?1")?
        .execute(params![inbox.id, digest(tx, inbox.id, &new.code), us(expires_at)])?;
    Ok(Inbox { code_expires_at: Some(expires_at), ..inbox })
}

/// Fails unless the tenant exists and may have another inbox.
fn require_new(tx: &Tx<'_>, tenant: TenantId) -> Result<()> {
    require_tenant(tx, Some(tenant))?;
    row_limits::require(tx, Limited::Inboxes, Some(tenant), 1)
}

fn insert(tx: &Tx<'_>, new: &NewInbox, folded: &str, now: Timestamp) -> Result<Inbox> {
    let inbox = Inbox {
        id: InboxId::generate(now),
        tenant_id: new.tenant_id,
        address: new.address.clone(),
        created_at: now,
        confirmed_at: None,
        code_expires_at: None,
    };
    let sql = "INSERT INTO inbox (id, tenant_id, address, folded, created_us) VALUES (?1, ?2, ?3, ?4, ?5)";
    let row = params![inbox.id, inbox.tenant_id, inbox.address, folded, us(now)];
    tx.prepare_cached(sql)?.execute(row)?;
    Ok(inbox)
}

/// Codes are short, so their digest depends on the master key, and on the inbox.
fn digest(tx: &Tx<'_>, id: InboxId, code: &str) -> Vec<u8> {
    tx.sealer.digest("inbox code", &format!("{id} {code}"))
}

fn confirm(
    tx: &Tx<'_>,
    scope: Option<TenantId>,
    id: InboxId,
    code: &str,
    now: Timestamp,
) -> Result<Option<InboxConfirmation>> {
    let Some(inbox) = find(tx, scope, id)? else { return Ok(None) };
    if inbox.confirmed_at.is_some() {
        return Ok(Some(InboxConfirmation::Confirmed(inbox)));
    }
    let (expected, attempts): (Option<Vec<u8>>, u32) = tx
        .prepare_cached("SELECT code_digest, attempts FROM inbox WHERE id = ?1")?
        .query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let is_valid = inbox.code_expires_at.is_some_and(|at| at > now) && attempts < INBOX_CODE_ATTEMPTS_MAX;
    let Some(expected) = expected.filter(|_| is_valid) else { return Ok(Some(InboxConfirmation::NoCode)) };
    if digest(tx, id, code) != expected {
        tx.prepare_cached("UPDATE inbox SET attempts = attempts + 1 WHERE id = ?1")?.execute([id])?;
        let attempts_left = INBOX_CODE_ATTEMPTS_MAX - attempts - 1;
        return Ok(Some(InboxConfirmation::WrongCode { attempts_left }));
    }
    let sql = "UPDATE inbox SET confirmed_us = ?2, code_digest = NULL, code_expires_us = NULL WHERE id = ?1";
    tx.prepare_cached(sql)?.execute(params![id, us(now)])?;
    Ok(Some(InboxConfirmation::Confirmed(Inbox { confirmed_at: Some(now), code_expires_at: None, ..inbox })))
}

/// Adds one to a count of the tenant for this day, unless it is at its maximum.
fn take(tx: &Tx<'_>, tenant: TenantId, column: &str, max: u32, now: Timestamp) -> Result<bool> {
    let day = us(LimitPeriod::Day.start_of(now));
    let sql = "INSERT INTO trial_usage (tenant_id, day_us, messages, confirmations) VALUES (?1, ?2, 0, 0)
               ON CONFLICT (tenant_id) DO UPDATE SET day_us = ?2, messages = 0, confirmations = 0
               WHERE trial_usage.day_us <> ?2";
    tx.prepare_cached(sql)?.execute(params![tenant, day])?;
    let sql =
        format!("UPDATE trial_usage SET {column} = {column} + 1 WHERE tenant_id = ?1 AND {column} < ?2");
    Ok(tx.prepare_cached(&sql)?.execute(params![tenant, max])? > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ScramVerifier;
    use crate::store::contract::{address, now};
    use crate::store::sql::tests::Bed;
    use crate::store::{Directory, Inboxes};

    #[tokio::test]
    async fn no_login_name_shows_a_part_of_the_digest_of_a_code() {
        let bed = Bed::new().await;
        let tenant_id = bed.tenant("a").await.id;
        let new = NewInbox { tenant_id, address: address("x@one.example"), code: "1234".into() };
        let id = bed.store.add_inbox(new, now()).await.unwrap().id;
        let read = move |connection: &Connection| {
            let sql = "SELECT code_digest FROM inbox WHERE id = ?1";
            Ok(connection.query_row(sql, [id], |row| row.get::<_, Vec<u8>>(0))?)
        };
        let digest = bed.engine().read(read).await.unwrap();
        let of_digest = ScramVerifier::fake(digest[..16].try_into().unwrap());
        let shown = bed.store.scram_credential(&format!("inbox code {id} 1234"), now()).await.unwrap();
        assert!(!shown.verifier.shares_parameters(&of_digest), "the salt is half of the digest");
    }
}
