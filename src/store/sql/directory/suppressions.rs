//! Suppressed addresses: one row for an address, owner (a tenant or the platform), environment and list.

use std::collections::HashMap;

use serde::Serialize;

use super::{row_limits, tenants};
use crate::mail::{Address, Timestamp};
use crate::model::{
    Environment, EventKind, ListName, SuppressedMail, SuppressionId, SuppressionReason, TenantId,
};
use crate::store::database::{self, Connection, OptionalExtension, Row, params};
use crate::store::memory::Announcement;
use crate::store::sql::events::{self, Subject};
use crate::store::sql::keyset::List;
use crate::store::sql::sql_types::{time, time_if_any, us};
use crate::store::sql::suspicious_sites;
use crate::store::sql::unit_of_work::Tx;
use crate::store::{
    Limited, NewSuppression, PROVISIONAL_SUPPRESSION_LIFETIME, Page, PageRequest, Result, Suppression,
    SuppressionFilter, is_in_scope,
};

/// The data of events of suppressions.
#[derive(Serialize)]
struct SuppressionData<'a> {
    suppression_id: SuppressionId,
    address: &'a str,
    reason: SuppressionReason,
    /// Which mail, unless all is suppressed.
    #[serde(skip_serializing_if = "str::is_empty")]
    list: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    provisional: bool,
    /// Its end, if it is provisional.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
}

fn read_row(row: &Row<'_>) -> database::Result<Suppression> {
    Ok(Suppression {
        id: row.get("id")?,
        tenant_id: row.get("tenant_id")?,
        environment: row.get("environment")?,
        mail: row.get("list")?,
        address: row.get("address")?,
        reason: row.get("reason")?,
        evidence: row.get("evidence")?,
        report_id: row.get("report_id")?,
        message_id: row.get("message_id")?,
        created_at: time(row, "created_us")?,
        expires_at: time_if_any(row, "expires_us")?,
        provisional: row.get("provisional")?,
    })
}

/// Suppresses all of these addresses or none. Fails with
/// [`Conflict::LimitReached`](crate::store::Conflict::LimitReached), [`Conflict::NoTenant`](crate::store::Conflict::NoTenant).
pub(super) fn create(tx: &Tx<'_>, news: &[NewSuppression], now: Timestamp) -> Result<Vec<Suppression>> {
    let mut more = HashMap::<_, usize>::new();
    for new in news {
        *more.entry((new.tenant_id, new.environment)).or_default() += 1;
    }
    // Before anything is written: a job that fails half done costs the others of its transaction a repetition.
    for ((tenant, environment), more) in more {
        tenants::require(tx, tenant)?;
        row_limits::require(tx, Limited::Suppressions(environment), tenant, more)?;
    }
    news.iter().map(|new| suppress(tx, new, Subject::default(), now)).collect()
}

/// Suppresses an address. Only a new suppression appends an event, which refers to the delivery in `cause`, if any. What a
/// server replied or reported does not shorten a suppression in force.
pub(in crate::store::sql) fn suppress(
    tx: &Tx<'_>,
    new: &NewSuppression,
    cause: Subject,
    now: Timestamp,
) -> Result<Suppression> {
    // Not before any committed message: the clock may have gone back, or the job may have waited.
    let noted_at = now.max(events::time_behind(tx.clock));
    tx.suppression_times.note(new.tenant_id, noted_at);
    tx.announce(&Announcement::Suppressed { owner: new.tenant_id, at: noted_at })?;
    let address = new.address.folded();
    tx.suppressed_addresses.note(&address);
    let before = find_by_address(tx, (new.tenant_id, new.environment), &address, &new.mail)?;
    let was_in_force = before.as_ref().is_some_and(|old| is_in_force(old, now));
    let provisional_end = provisional_end(tx, new, now)?;
    let expires_at = provisional_end.into_iter().chain(new.expires_at).min();
    // Nobody asked for what follows from a message.
    let is_automatic = cause.message_id.is_some();
    let is_kept = |old: &&Suppression| was_in_force && is_automatic && is_kept(old, new, expires_at);
    if let Some(old) = before.as_ref().filter(is_kept) {
        return Ok(old.clone());
    }
    // A site that turns out to be suspicious limits what it caused, and not what was in force before.
    let keeps_site = was_in_force && is_automatic && new.reason == SuppressionReason::Bounce;
    let suppression = Suppression {
        id: before.as_ref().map_or_else(|| SuppressionId::generate(now), |old| old.id),
        tenant_id: new.tenant_id,
        environment: new.environment,
        mail: new.mail.clone(),
        address,
        reason: new.reason,
        evidence: new.evidence.clone(),
        report_id: new.report_id,
        message_id: new.message_id,
        created_at: before.map_or(now, |old| old.created_at),
        expires_at,
        provisional: provisional_end.is_some(),
    };
    let sql = "INSERT INTO suppression (id, tenant_id, address, reason, evidence, created_us, expires_us, environment, list,
                                        report_id, message_id, provisional, site, refused_us)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)
               ON CONFLICT (id) DO UPDATE SET
                   reason = excluded.reason, evidence = excluded.evidence, expires_us = excluded.expires_us,
                   report_id = excluded.report_id, message_id = excluded.message_id,
                   provisional = excluded.provisional,
                   site = CASE WHEN ?15 THEN suppression.site ELSE excluded.site END,
                   refused_us = CASE WHEN ?15 THEN suppression.refused_us ELSE excluded.refused_us END";
    tx.prepare_cached(sql)?.execute(params![
        suppression.id,
        suppression.tenant_id,
        suppression.address,
        suppression.reason,
        suppression.evidence,
        us(suppression.created_at),
        suppression.expires_at.map(us),
        suppression.environment,
        suppression.mail,
        suppression.report_id,
        suppression.message_id,
        suppression.provisional,
        new.site,
        new.site.as_ref().map(|_| us(now)),
        keeps_site,
    ])?;
    if !was_in_force {
        append_event(tx, EventKind::SuppressionCreated, &suppression, cause, now)?;
    }
    Ok(suppression)
}

fn append_event(
    tx: &Tx<'_>,
    kind: EventKind,
    suppression: &Suppression,
    cause: Subject,
    now: Timestamp,
) -> Result<()> {
    let environment = Some(suppression.environment);
    let subject = Subject { tenant_id: suppression.tenant_id, environment, ..cause };
    let Suppression { id, address, reason, mail, provisional, .. } = suppression;
    let data = SuppressionData {
        suppression_id: *id,
        address,
        reason: *reason,
        list: mail.as_str(),
        provisional: *provisional,
        expires_at: suppression.expires_at.filter(|_| *provisional),
    };
    tx.append(kind, subject, &data, now)
}

/// The end that a suppression has because the site that caused it is suspicious.
fn provisional_end(tx: &Tx<'_>, new: &NewSuppression, now: Timestamp) -> Result<Option<Timestamp>> {
    Ok(match &new.site {
        Some(site) if suspicious_sites::is_suspicious(tx, site, now)? => {
            Some(now.checked_add(PROVISIONAL_SUPPRESSION_LIFETIME).unwrap_or(Timestamp::MAX))
        }
        _ => None,
    })
}

/// Whether a suppression in force stays as it is, because nobody asked for the new one: it ends later, or it is provisional
/// and another reply of the same bad day came later.
fn is_kept(old: &Suppression, new: &NewSuppression, expires_at: Option<Timestamp>) -> bool {
    let is_bounce = new.reason == SuppressionReason::Bounce;
    let outlives = || expires_at.is_some_and(|end| old.expires_at.is_none_or(|old_end| old_end > end));
    (is_bounce && old.provisional) || outlives()
}

/// Makes a suppression end after a lifetime since the site caused it, and appends the event.
pub(in crate::store::sql) fn make_provisional(
    tx: &Tx<'_>,
    id: &str,
    lifetime_us: i64,
    now: Timestamp,
) -> Result<()> {
    let sql = "UPDATE suppression SET provisional = 1,
                      expires_us = min(coalesce(expires_us, refused_us + ?2), refused_us + ?2)
               WHERE id = ?1 RETURNING *";
    let changed = tx.prepare_cached(sql)?.query_row(params![id, lifetime_us], read_row)?;
    append_event(tx, EventKind::SuppressionUpdated, &changed, Subject::default(), now)
}

fn is_in_force(suppression: &Suppression, now: Timestamp) -> bool {
    suppression.expires_at.is_none_or(|expires_at| expires_at > now)
}

pub(in crate::store::sql) const OF_TENANT: &str =
    "SELECT * FROM suppression WHERE tenant_id = ?1 AND address = ?2 AND environment = ?3 AND list = ?4";
pub(in crate::store::sql) const OF_PLATFORM: &str =
    "SELECT * FROM suppression WHERE tenant_id IS NULL AND address = ?1 AND environment = ?2 AND list = ?3";

fn find_by_address(
    connection: &Connection,
    (tenant, environment): (Option<TenantId>, Environment),
    folded: &str,
    mail: &SuppressedMail,
) -> Result<Option<Suppression>> {
    let found = match tenant {
        Some(tenant) => connection
            .prepare_cached(OF_TENANT)?
            .query_row(params![tenant, folded, environment, mail], read_row),
        None => {
            connection.prepare_cached(OF_PLATFORM)?.query_row(params![folded, environment, mail], read_row)
        }
    };
    Ok(found.optional()?)
}

pub(super) fn that_stops(
    connection: &Connection,
    sender: (TenantId, Environment),
    folded: &str,
    now: Timestamp,
) -> Result<Option<Suppression>> {
    first_in_force(connection, sender, folded, &[SuppressedMail::All], now)
}

/// The suppression that stops mail of a list: of every list or of this one, for the tenant or for all tenants.
pub(super) fn that_stops_list(
    connection: &Connection,
    sender: (TenantId, Environment),
    folded: &str,
    list: &ListName,
    now: Timestamp,
) -> Result<Option<Suppression>> {
    let mails = [SuppressedMail::EveryList, SuppressedMail::List(list.clone())];
    first_in_force(connection, sender, folded, &mails, now)
}

/// The first suppression in force of any of these mails, for the tenant or for all tenants.
fn first_in_force(
    connection: &Connection,
    (tenant, environment): (TenantId, Environment),
    folded: &str,
    mails: &[SuppressedMail],
    now: Timestamp,
) -> Result<Option<Suppression>> {
    for mail in mails {
        for owner in [Some(tenant), None] {
            let found = find_by_address(connection, (owner, environment), folded, mail)?;
            if let Some(suppression) = found.filter(|suppression| is_in_force(suppression, now)) {
                return Ok(Some(suppression));
            }
        }
    }
    Ok(None)
}

/// Whether this mail to an address is suppressed without an end.
pub(in crate::store::sql) fn is_suppressed_for_ever(
    connection: &Connection,
    (tenant, environment): (TenantId, Environment),
    address: &Address,
    mail: &SuppressedMail,
) -> Result<bool> {
    let found = find_by_address(connection, (Some(tenant), environment), &address.folded(), mail)?;
    Ok(found.is_some_and(|suppression| suppression.expires_at.is_none()))
}

pub(super) fn list(
    connection: &Connection,
    filter: &SuppressionFilter,
    page: &PageRequest,
) -> Result<Page<Suppression>> {
    let mut list = List::of("suppression", SuppressionId::PREFIX);
    list.only_owned_by(filter.tenant_id, filter.of_platform)?;
    list.only_if("environment = ?", &filter.environment)?;
    list.only_if("address = ?", &filter.address)?;
    list.only_if("reason = ?", &filter.reason)?;
    list.only_if("list = ?", &filter.mail)?;
    list.read(connection, page, read_row)
}

pub(super) fn find_in_scope(
    connection: &Connection,
    scope: Option<TenantId>,
    id: SuppressionId,
) -> Result<Option<Suppression>> {
    let mut statement = connection.prepare_cached("SELECT * FROM suppression WHERE id = ?1")?;
    let found = statement.query_row([id], read_row).optional()?;
    Ok(found.filter(|suppression| is_in_scope(scope, suppression.tenant_id)))
}

pub(super) fn lift(tx: &Tx<'_>, scope: Option<TenantId>, id: SuppressionId, now: Timestamp) -> Result<bool> {
    let Some(suppression) = find_in_scope(tx, scope, id)? else { return Ok(false) };
    tx.prepare_cached("DELETE FROM suppression WHERE id = ?1")?.execute([id])?;
    append_event(tx, EventKind::SuppressionDeleted, &suppression, Subject::default(), now)?;
    Ok(true)
}
