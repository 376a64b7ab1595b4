//! Webhooks.

use crate::mail::Timestamp;
use crate::model::{DisabledReason, Environment, EventKind, WebhookId, WebhookStatus};
use crate::store::database::{self, Connection, OptionalExtension, Row, params};
use crate::store::memory::Announcement;
use crate::store::sql::directory::{require_tenant, row_limits};
use crate::store::sql::events::Subject;
use crate::store::sql::keyset::List;
use crate::store::sql::secret_encryption::{SealedColumn, Sealer};
use crate::store::sql::sql_types::{json, sql_limit, time, time_if_any, to_json, us};
use crate::store::sql::unit_of_work::Tx;
use crate::store::{
    Limited, NewWebhook, Page, PageRequest, Result, Webhook, WebhookFilter, WebhookPatch, WebhookSecret,
};

pub(in crate::store::sql) const SECRET_COLUMN: &str = "webhook.secret";
/// Maximum of earlier secrets that also sign.
const EARLIER_SECRETS_MAX: u32 = 10;

const COLUMNS: &str =
    "*, (SELECT max(expires_us) FROM webhook_secret WHERE webhook_id = webhook.id) AS previous_until_us";

fn read_row(row: &Row<'_>) -> database::Result<Webhook> {
    Ok(Webhook {
        id: row.get("id")?,
        tenant_id: row.get("tenant_id")?,
        url: row.get("url")?,
        kinds: json(row, "kinds")?,
        environments: json(row, "environments")?,
        status: row.get("status")?,
        disabled_reason: row.get("disabled_reason")?,
        failing_since: time_if_any(row, "failing_since_us")?,
        previous_secret_until: time_if_any(row, "previous_until_us")?,
        created_at: time(row, "created_us")?,
        updated_at: time(row, "updated_us")?,
    })
}

pub(super) fn create(tx: &Tx<'_>, new: &NewWebhook, now: Timestamp) -> Result<Webhook> {
    require_tenant(tx, new.tenant_id)?;
    row_limits::require(tx, Limited::Webhooks, new.tenant_id, 1)?;
    let webhook = Webhook {
        id: WebhookId::generate(now),
        tenant_id: new.tenant_id,
        url: new.url.clone(),
        kinds: new.kinds.clone(),
        environments: new.environments.clone(),
        status: WebhookStatus::Enabled,
        disabled_reason: None,
        failing_since: None,
        previous_secret_until: None,
        created_at: now,
        updated_at: now,
    };
    let sql = "INSERT INTO webhook (id, tenant_id, url, kinds, status, secret, created_us, updated_us,
                                    environments)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7, ?8)";
    tx.prepare_cached(sql)?.execute(params![
        webhook.id,
        webhook.tenant_id,
        webhook.url,
        to_json(&webhook.kinds)?,
        webhook.status,
        seal(tx.sealer, webhook.id, &new.secret)?,
        us(now),
        to_json(&webhook.environments)?,
    ])?;
    tx.subscriptions.put(&webhook);
    tx.announce(&Announcement::Webhooks)?;
    Ok(webhook)
}

pub(super) fn find(connection: &Connection, id: WebhookId) -> Result<Option<Webhook>> {
    let mut statement = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM webhook WHERE id = ?1"))?;
    Ok(statement.query_row([id], read_row).optional()?)
}

pub(super) fn enabled(connection: &Connection) -> Result<Vec<Webhook>> {
    let sql = format!("SELECT {COLUMNS} FROM webhook WHERE status = ?1");
    let mut statement = connection.prepare_cached(&sql)?;
    let found = statement.query_map([WebhookStatus::Enabled], read_row)?;
    Ok(found.collect::<database::Result<_>>()?)
}

pub(super) fn list(
    connection: &Connection,
    filter: &WebhookFilter,
    page: &PageRequest,
) -> Result<Page<Webhook>> {
    let mut list = List::of("webhook", WebhookId::PREFIX).columns(COLUMNS);
    list.only_owned_by(filter.tenant_id, filter.of_platform)?;
    list.only_if("status = ?", &filter.status)?;
    list.only_if("url = ?", &filter.url)?;
    // The column contains JSON.
    let quoted = |environment: Environment| format!("\"{environment}\"");
    list.only_if("instr(environments, ?) > 0", &filter.environment.map(quoted))?;
    let belongs = match filter.belongs_to {
        Some(Environment::Test) => "instr(environments, ?) = 0",
        _ => "instr(environments, ?) > 0",
    };
    list.only_if(belongs, &filter.belongs_to.map(|_| quoted(Environment::Live)))?;
    list.read(connection, page, read_row)
}

pub(super) fn update(
    tx: &Tx<'_>,
    id: WebhookId,
    patch: &WebhookPatch,
    now: Timestamp,
) -> Result<Option<Webhook>> {
    let Some(mut webhook) = find(tx, id)? else { return Ok(None) };
    if let Some(url) = &patch.url {
        webhook.url = url.clone();
    }
    if let Some(kinds) = &patch.kinds {
        webhook.kinds = kinds.clone();
    }
    if let Some(environments) = &patch.environments {
        webhook.environments = environments.clone();
    }
    match patch.status {
        Some(WebhookStatus::Enabled) => {
            (webhook.status, webhook.disabled_reason) = (WebhookStatus::Enabled, None);
            webhook.failing_since = None;
        }
        Some(WebhookStatus::Disabled) if webhook.status == WebhookStatus::Enabled => {
            webhook.status = WebhookStatus::Disabled;
            webhook.disabled_reason = Some(DisabledReason::Manual);
        }
        _ => {}
    }
    webhook.updated_at = now;
    write(tx, &webhook)?;
    match webhook.status {
        WebhookStatus::Enabled => {
            tx.subscriptions.put(&webhook);
            tx.touched_webhooks.touch(id, us(now));
        }
        WebhookStatus::Disabled => tx.subscriptions.remove(id),
    }
    tx.announce(&Announcement::Webhooks)?;
    Ok(Some(webhook))
}

fn write(tx: &Tx<'_>, webhook: &Webhook) -> Result<()> {
    let sql =
        "UPDATE webhook SET url = ?2, kinds = ?3, status = ?4, disabled_reason = ?5, failing_since_us = ?6,
                      updated_us = ?7, environments = ?8
               WHERE id = ?1";
    tx.prepare_cached(sql)?.execute(params![
        webhook.id,
        webhook.url,
        to_json(&webhook.kinds)?,
        webhook.status,
        webhook.disabled_reason,
        webhook.failing_since.map(us),
        us(webhook.updated_at),
        to_json(&webhook.environments)?,
    ])?;
    Ok(())
}

/// Disables a webhook and appends the event for the other webhooks.
pub(in crate::store::sql) fn disable(
    tx: &Tx<'_>,
    id: WebhookId,
    reason: DisabledReason,
    at: Timestamp,
) -> Result<()> {
    let sql =
        "UPDATE webhook SET status = ?2, disabled_reason = ?3, updated_us = ?4 WHERE id = ?1 AND status = ?5";
    let row = params![id, WebhookStatus::Disabled, reason, us(at), WebhookStatus::Enabled];
    // Another lane may have been faster.
    if tx.prepare_cached(sql)?.execute(row)? == 0 {
        tx.subscriptions.remove(id);
        return Ok(());
    }
    let Some(webhook) = find(tx, id)? else { return Ok(()) };
    // Before the event, so that the webhook does not get it.
    tx.subscriptions.remove(id);
    tx.announce(&Announcement::Webhooks)?;
    let subject = subject_of(&webhook);
    // Without the URL: it may contain a secret, and more keys may read events than webhooks.
    let data = serde_json::json!({ "webhook_id": id, "reason": reason });
    tx.append(EventKind::WebhookDisabled, subject, &data, at)
}

/// The subject of an event about a webhook.
pub(super) fn subject_of(webhook: &Webhook) -> Subject {
    let (tenant_id, environment) = (webhook.tenant_id, Some(webhook.environment()));
    Subject { tenant_id, environment, ..Subject::default() }
}

/// Records the success or failure of an attempt; returns since when attempts have failed.
pub(super) fn note_health(
    tx: &Tx<'_>,
    id: WebhookId,
    failed_at: Option<Timestamp>,
) -> Result<Option<Timestamp>> {
    let sql = match failed_at {
        Some(_) => {
            "UPDATE webhook SET failing_since_us = coalesce(failing_since_us, ?2) WHERE id = ?1
                    RETURNING failing_since_us"
        }
        // Nearly always unchanged.
        None => {
            "UPDATE webhook SET failing_since_us = ?2 WHERE id = ?1 AND failing_since_us IS NOT NULL
                 RETURNING failing_since_us"
        }
    };
    let mut statement = tx.prepare_cached(sql)?;
    let since = statement.query_row(params![id, failed_at.map(us)], |row| time_if_any(row, 0)).optional()?;
    Ok(since.flatten())
}

pub(super) fn rotate(
    tx: &Tx<'_>,
    id: WebhookId,
    secret: &WebhookSecret,
    previous_until: Timestamp,
    now: Timestamp,
) -> Result<Option<Webhook>> {
    let sql = "INSERT INTO webhook_secret (webhook_id, secret, expires_us) SELECT id, secret, ?2 FROM webhook WHERE id = ?1";
    tx.prepare_cached(sql)?.execute(params![id, us(previous_until)])?;
    let sql = "DELETE FROM webhook_secret WHERE webhook_id = ?1 AND (expires_us <= ?2 OR id NOT IN
                   (SELECT id FROM webhook_secret WHERE webhook_id = ?1 ORDER BY id DESC LIMIT ?3))";
    tx.prepare_cached(sql)?.execute(params![id, us(now), EARLIER_SECRETS_MAX])?;
    let sql = "UPDATE webhook SET secret = ?2, updated_us = ?3 WHERE id = ?1";
    tx.prepare_cached(sql)?.execute(params![id, seal(tx.sealer, id, secret)?, us(now)])?;
    find(tx, id)
}

/// The current secret, then the earlier ones that still sign, the latest first.
pub(super) fn secrets(
    connection: &Connection,
    sealer: &Sealer,
    id: WebhookId,
    now: Timestamp,
) -> Result<Vec<WebhookSecret>> {
    let current = "SELECT secret FROM webhook WHERE id = ?1";
    let current: Vec<u8> = connection.prepare_cached(current)?.query_row([id], |row| row.get(0))?;
    let sql = "SELECT secret FROM webhook_secret WHERE webhook_id = ?1 AND expires_us > ?2 ORDER BY id DESC";
    let mut statement = connection.prepare_cached(sql)?;
    let earlier = statement.query_map(params![id, us(now)], |row| row.get(0))?;
    let row = id.to_string();
    let open = |sealed: database::Result<Vec<u8>>| {
        sealer.open(SealedColumn { column: SECRET_COLUMN, row: &row }, &sealed?).map(WebhookSecret)
    };
    [Ok(current)].into_iter().chain(earlier).map(open).collect()
}

pub(in crate::store::sql) fn seal(sealer: &Sealer, id: WebhookId, secret: &WebhookSecret) -> Result<Vec<u8>> {
    sealer.seal(SealedColumn { column: SECRET_COLUMN, row: &id.to_string() }, &secret.0)
}

/// Disables a webhook before its deletion. False if it does not exist.
pub(super) fn begin_removal(tx: &Tx<'_>, id: WebhookId) -> Result<bool> {
    tx.subscriptions.remove(id);
    let sql = "UPDATE webhook SET status = ?2, disabled_reason = ?3 WHERE id = ?1";
    let row = params![id, WebhookStatus::Disabled, DisabledReason::Manual];
    let is_there = tx.prepare_cached(sql)?.execute(row)? > 0;
    if is_there {
        tx.announce(&Announcement::Webhooks)?;
    }
    Ok(is_there)
}

/// Deletes at most `limit` deliveries, and the webhook after the last one. True if it was deleted.
pub(super) fn continue_removal(tx: &Tx<'_>, id: WebhookId, limit: usize) -> Result<bool> {
    let sql = "DELETE FROM webhook_delivery WHERE id IN
                   (SELECT id FROM webhook_delivery WHERE webhook_id = ?1 ORDER BY id LIMIT ?2)";
    let is_last = tx.prepare_cached(sql)?.execute(params![id, sql_limit(limit)])? < limit;
    if is_last {
        // It may have been enabled meanwhile.
        tx.subscriptions.remove(id);
        tx.prepare_cached("DELETE FROM webhook WHERE id = ?1")?.execute([id])?;
    }
    Ok(is_last)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::store::contract::{new_suppression, new_webhook, now};
    use crate::store::sql::tests::Bed;
    use crate::store::{Directory, Outbox};

    #[tokio::test]
    async fn one_that_is_enabled_while_it_is_removed_is_told_nothing_afterwards() {
        let bed = Bed::new().await;
        let tenant = bed.tenant("a").await.id;
        let id = bed.store.create_webhook(new_webhook(Some(tenant)), now()).await.unwrap().id;
        bed.store.suppress(new_suppression(Some(tenant), "x@one.example"), now()).await.unwrap();
        assert!(bed.engine().write(move |tx| begin_removal(tx, id)).await.unwrap());
        let patch = WebhookPatch { status: Some(WebhookStatus::Enabled), ..WebhookPatch::default() };
        bed.store.update_webhook(id, patch, now()).await.unwrap().unwrap();
        while !bed.engine().write(move |tx| continue_removal(tx, id, 1)).await.unwrap() {}
        // A delivery for a deleted webhook would fail the transaction.
        let runs = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&runs);
        let work = move |tx: &Tx<'_>| {
            counted.fetch_add(1, Ordering::Relaxed);
            let subject = Subject { tenant_id: Some(tenant), ..Subject::default() };
            tx.append(EventKind::SuppressionDeleted, subject, &(), now())
        };
        bed.engine().write(work).await.unwrap();
        assert_eq!(runs.load(Ordering::Relaxed), 1);
    }
}
