//! Domains. Of several tenants with the same name, one has verified it. An address belongs to the closest verified name at
//! or above it.

use serde::Serialize;

use super::{dkim_keys, keys, row_limits, tenants};
use crate::mail::{DomainName, Timestamp};
use crate::model::{
    DkimKeyState, DomainId, DomainStatus, EventKind, ReturnPathStatus, TenantId, Verification,
};
use crate::store::database::{self, Connection, OptionalExtension, Row, params};
use crate::store::sql::events::Subject;
use crate::store::sql::keyset::List;
use crate::store::sql::sql_types::{json_if_any, sql_limit, time, time_if_any, to_json, us};
use crate::store::sql::unit_of_work::Tx;
use crate::store::{
    Conflict, Domain, DomainCheck, DomainFilter, DomainPatch, DomainReturnPath, Limited, NewDomain, Page,
    PageRequest, Result, StoreError, is_in_scope,
};

fn read_row(row: &Row<'_>) -> database::Result<Domain> {
    Ok(Domain {
        id: row.get("id")?,
        tenant_id: row.get("tenant_id")?,
        name: row.get("name")?,
        status: row.get("status")?,
        verification: row.get("verification")?,
        subdomains: row.get("subdomains")?,
        ownership_token: row.get("ownership_token")?,
        last_check: json_if_any(row, "last_check")?,
        failing_since: time_if_any(row, "failing_since_us")?,
        verified_at: time_if_any(row, "verified_us")?,
        return_path: DomainReturnPath {
            mode: row.get("return_path_mode")?,
            host: row.get("return_path_host")?,
            status: row.get("return_path_status")?,
        },
        created_at: time(row, "created_us")?,
    })
}

pub(super) fn create(tx: &Tx<'_>, new: &NewDomain, now: Timestamp) -> Result<Domain> {
    tenants::require(tx, new.tenant_id)?;
    if find_by_name(tx, new.tenant_id, new.name.as_str())?.is_some() {
        return Err(StoreError::Conflict(Conflict::DomainExists));
    }
    if is_taken(tx, new.tenant_id, &new.name)? {
        return Err(StoreError::Conflict(Conflict::DomainTaken));
    }
    row_limits::require(tx, Limited::Domains, new.tenant_id, 1)?;
    let is_verified = new.tenant_id.is_none() || new.verification == Verification::Manual;
    let domain = Domain {
        id: DomainId::generate(now),
        tenant_id: new.tenant_id,
        name: new.name.clone(),
        status: DomainStatus::Pending,
        verification: new.verification,
        subdomains: new.subdomains,
        ownership_token: new.ownership_token.clone(),
        last_check: None,
        failing_since: None,
        verified_at: None,
        return_path: DomainReturnPath::default(),
        created_at: now,
    };
    insert(tx, &domain)?;
    append_event(tx, EventKind::DomainCreated, &domain, now)?;
    note_change(tx, DomainStatus::Pending, &domain);
    for key in &new.dkim_keys {
        dkim_keys::add(tx, &domain, key, now)?;
    }
    if !is_verified {
        return Ok(domain);
    }
    let verified = Domain { status: DomainStatus::Verified, ..domain };
    let domain = change(tx, DomainStatus::Pending, verified, now)?;
    note_change(tx, DomainStatus::Pending, &domain);
    Ok(domain)
}

fn insert(tx: &Tx<'_>, domain: &Domain) -> Result<()> {
    let sql = "INSERT INTO domain (id, tenant_id, name, status, verification, subdomains, ownership_token, created_us)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    tx.prepare_cached(sql)?.execute(params![
        domain.id,
        domain.tenant_id,
        domain.name,
        domain.status,
        domain.verification,
        domain.subdomains,
        domain.ownership_token,
        us(domain.created_at),
    ])?;
    Ok(())
}

/// Fails if anybody has verified this name, so that a new tenant cannot have it.
pub(super) fn require_unverified(tx: &Tx<'_>, name: &DomainName) -> Result<()> {
    let sql = "SELECT 1 FROM domain WHERE name = ?1 AND status = ?2 LIMIT 1";
    match tx.prepare_cached(sql)?.exists(params![name, DomainStatus::Verified])? {
        true => Err(StoreError::Conflict(Conflict::DomainTaken)),
        false => Ok(()),
    }
}

/// Whether another tenant, or the platform for its sandbox, has verified this name.
fn is_taken(tx: &Tx<'_>, tenant: Option<TenantId>, name: &DomainName) -> Result<bool> {
    let Some(tenant) = tenant else { return Ok(false) };
    let sql =
        "SELECT 1 FROM domain WHERE name = ?1 AND status = ?2 AND tenant_id IS DISTINCT FROM ?3 LIMIT 1";
    Ok(tx.prepare_cached(sql)?.exists(params![name, DomainStatus::Verified, tenant])?)
}

/// Writes a changed domain. A change of status also sets the time of verification, appends the event, and changes the claims
/// of other tenants to the same name: `taken` once it is verified, `pending` once it is free again.
fn change(tx: &Tx<'_>, before: DomainStatus, mut domain: Domain, now: Timestamp) -> Result<Domain> {
    let becomes = |status| domain.status == status && before != status;
    let event = if becomes(DomainStatus::Verified) {
        take_claims(tx, &domain, now)?;
        domain.verified_at = Some(now);
        Some(EventKind::DomainVerified)
    } else if becomes(DomainStatus::Failing) {
        Some(EventKind::DomainFailing)
    } else if becomes(DomainStatus::Taken) {
        Some(EventKind::DomainTaken)
    } else {
        None
    };
    let sql = "UPDATE domain SET status = ?2, verification = ?3, subdomains = ?4, last_check = ?5,
                   checked_us = ?6, failing_since_us = ?7, verified_us = ?8, return_path_mode = ?9, return_path_host = ?10,
                   return_path_status = ?11 WHERE id = ?1";
    tx.prepare_cached(sql)?.execute(params![
        domain.id,
        domain.status,
        domain.verification,
        domain.subdomains,
        domain.last_check.as_ref().map(to_json).transpose()?,
        domain.last_check.as_ref().map(|check| us(check.checked_at)),
        domain.failing_since.map(us),
        domain.verified_at.map(us),
        domain.return_path.mode,
        domain.return_path.host,
        domain.return_path.status,
    ])?;
    if before == DomainStatus::Verified && domain.status != before {
        release_claims(tx, &domain.name)?;
    }
    event.map_or(Ok(()), |kind| append_event(tx, kind, &domain, now))?;
    Ok(domain)
}

/// Notes a change of what senders depend on. Who has verified a name matters to all tenants.
fn note_change(tx: &Tx<'_>, before: DomainStatus, domain: &Domain) {
    tx.note_change_of_owner(domain.tenant_id);
    if [before, domain.status].contains(&DomainStatus::Verified) {
        tx.note_change_of_name(&domain.name);
    }
}

#[derive(Serialize)]
struct DomainEvent<'a> {
    domain_id: DomainId,
    name: &'a DomainName,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    return_path_status: Option<ReturnPathStatus>,
}

fn append_event(tx: &Tx<'_>, kind: EventKind, domain: &Domain, at: Timestamp) -> Result<()> {
    let subject = Subject { tenant_id: domain.tenant_id, ..Subject::default() };
    let Domain { id, name, status, .. } = domain;
    let is_of_return_path =
        [EventKind::DomainReturnPathActive, EventKind::DomainReturnPathLost].contains(&kind);
    let stopped = [EventKind::DomainFailing, EventKind::DomainTaken].contains(&kind).then_some(*status);
    let data = DomainEvent {
        domain_id: *id,
        name,
        reason: stopped.and_then(DomainStatus::reason),
        hint: stopped.and_then(DomainStatus::hint),
        return_path_status: is_of_return_path.then_some(domain.return_path.status),
    };
    tx.append(kind, subject, &data, at)
}

/// Another tenant's claim to a verified name is `taken`.
pub(in crate::store::sql) fn take_claims(tx: &Tx<'_>, verified: &Domain, now: Timestamp) -> Result<()> {
    let Some(tenant) = verified.tenant_id else { return Ok(()) };
    let sql = "SELECT * FROM domain WHERE name = ?1 AND tenant_id <> ?2 AND status NOT IN (?3, ?4)";
    let mut statement = tx.prepare_cached(sql)?;
    let found = params![verified.name, tenant, DomainStatus::Verified, DomainStatus::Taken];
    let claims: Vec<Domain> = statement.query_map(found, read_row)?.collect::<database::Result<_>>()?;
    for claim in claims {
        change(tx, claim.status, Domain { status: DomainStatus::Taken, ..claim }, now)?;
    }
    Ok(())
}

/// The claims to a name that nobody has verified any more can be verified again.
fn release_claims(tx: &Tx<'_>, name: &DomainName) -> Result<()> {
    let sql = "UPDATE domain SET status = ?2 WHERE name = ?1 AND status = ?3";
    tx.prepare_cached(sql)?.execute(params![name, DomainStatus::Pending, DomainStatus::Taken])?;
    Ok(())
}

/// As [`release_claims`] for all names, after the domains of a tenant were deleted.
pub(super) fn release_all_claims(tx: &Tx<'_>) -> Result<()> {
    let sql = "UPDATE domain SET status = ?1 WHERE status = ?2 AND NOT EXISTS
                   (SELECT 1 FROM domain owned WHERE owned.name = domain.name AND owned.status = ?3)";
    let row = params![DomainStatus::Pending, DomainStatus::Taken, DomainStatus::Verified];
    tx.prepare_cached(sql)?.execute(row)?;
    Ok(())
}

pub(super) fn ensure_sandbox(tx: &Tx<'_>, new: &NewDomain, now: Timestamp) -> Result<Domain> {
    match find_by_name(tx, None, new.name.as_str())? {
        Some(domain) => Ok(domain),
        None => create(tx, &NewDomain { tenant_id: None, ..new.clone() }, now),
    }
}

pub(super) fn find_sandbox(connection: &Connection, name: &DomainName) -> Result<Option<Domain>> {
    find_by_name(connection, None, name.as_str())
}

pub(in crate::store::sql) fn find(connection: &Connection, id: DomainId) -> Result<Option<Domain>> {
    let mut statement = connection.prepare_cached("SELECT * FROM domain WHERE id = ?1")?;
    Ok(statement.query_row([id], read_row).optional()?)
}

pub(super) fn find_in_scope(
    connection: &Connection,
    scope: Option<TenantId>,
    id: DomainId,
) -> Result<Option<Domain>> {
    Ok(find(connection, id)?.filter(|domain| is_in_scope(scope, domain.tenant_id)))
}

fn find_by_name(connection: &Connection, tenant: Option<TenantId>, name: &str) -> Result<Option<Domain>> {
    let found = match tenant {
        Some(tenant) => connection
            .prepare_cached("SELECT * FROM domain WHERE tenant_id = ?1 AND name = ?2")?
            .query_row(params![tenant, name], read_row),
        None => connection
            .prepare_cached("SELECT * FROM domain WHERE tenant_id IS NULL AND name = ?1")?
            .query_row([name], read_row),
    };
    Ok(found.optional()?)
}

pub(super) fn list(
    connection: &Connection,
    filter: &DomainFilter,
    page: &PageRequest,
) -> Result<Page<Domain>> {
    let mut list = List::of("domain", DomainId::PREFIX);
    list.only_owned_by(filter.tenant_id, filter.of_platform)?;
    list.only_if("name = ?", &filter.name)?;
    list.only_if("status = ?", &filter.status)?;
    list.only_if("verification = ?", &filter.verification)?;
    list.read(connection, page, read_row)
}

pub(super) fn covering(connection: &Connection, tenant: TenantId, name: &DomainName) -> Result<Vec<Domain>> {
    let mut found = Vec::new();
    let sql = "SELECT * FROM domain WHERE name = ?1 AND status = ?2 AND tenant_id <> ?3 LIMIT 1";
    let mut foreign = connection.prepare_cached(sql)?;
    for ancestor in name.ancestors() {
        found.extend(find_by_name(connection, Some(tenant), ancestor)?);
        let verified = params![ancestor, DomainStatus::Verified, tenant];
        found.extend(foreign.query_row(verified, read_row).optional()?);
        found.extend(find_by_name(connection, None, ancestor)?);
    }
    Ok(found)
}

pub(super) fn update(
    tx: &Tx<'_>,
    id: DomainId,
    patch: &DomainPatch,
    now: Timestamp,
) -> Result<Option<Domain>> {
    let Some(old) = find(tx, id)? else { return Ok(None) };
    let (mut domain, before) = (old.clone(), old.status);
    let becomes_manual =
        patch.verification == Some(Verification::Manual) && domain.verification != Verification::Manual;
    domain.subdomains = patch.subdomains.unwrap_or(domain.subdomains);
    change_return_path(&mut domain.return_path, patch);
    domain.verification = patch.verification.unwrap_or(domain.verification);
    if patch.verification == Some(Verification::Manual) && before != DomainStatus::Verified {
        if is_taken(tx, domain.tenant_id, &domain.name)? {
            return Err(StoreError::Conflict(Conflict::DomainTaken));
        }
        domain.status = DomainStatus::Verified;
        domain.failing_since = None;
    }
    if becomes_manual {
        let keys = dkim_keys::of_domain(tx, id)?;
        let pending: Vec<_> =
            keys.iter().filter(|key| key.state == DkimKeyState::Pending).map(|key| key.id).collect();
        dkim_keys::follow_dns(tx, id, &pending, &[], now)?;
    }
    if domain == old {
        return Ok(Some(domain));
    }
    note_change(tx, before, &domain);
    change(tx, before, domain, now).map(Some)
}

/// Another return host, or a mode that used none before, is checked first.
fn change_return_path(current: &mut DomainReturnPath, patch: &DomainPatch) {
    let before = current.clone();
    current.mode = patch.return_path_mode.unwrap_or(current.mode);
    current.host = patch.return_path_host.clone().unwrap_or(current.host.take());
    if *current != before {
        current.status = ReturnPathStatus::Pending;
    }
}

/// Nearly all checks find nothing that matters to senders: the same status, the same states of the keys and the same return
/// path.
pub(super) fn record_check(tx: &Tx<'_>, id: DomainId, check: &DomainCheck) -> Result<Option<Domain>> {
    let Some(mut domain) = find(tx, id)? else { return Ok(None) };
    let before = domain.status;
    domain.last_check = Some(check.clone());
    // The platform may have verified the domain manually during the check.
    if domain.verification == Verification::Dns {
        domain.failing_since = check.failing_since;
        // The name may have become taken or free during the check.
        let is_claimed = |status| matches!(status, DomainStatus::Verified | DomainStatus::Taken);
        let taken = [check.status, before].into_iter().any(is_claimed)
            && is_taken(tx, domain.tenant_id, &domain.name)?;
        domain.status = match check.status {
            _ if taken => DomainStatus::Taken,
            DomainStatus::Taken => DomainStatus::Pending,
            status => status,
        };
    }
    let changes_before = tx.total_changes();
    dkim_keys::follow_dns(tx, id, &check.dkim_seen, &check.dkim_unseen, check.checked_at)?;
    let keys_changed = tx.total_changes() != changes_before;
    let return_path_changed = record_return_path(tx, &mut domain, check)?;
    if keys_changed || return_path_changed || domain.status != before {
        note_change(tx, before, &domain);
    }
    change(tx, before, domain, check.checked_at).map(Some)
}

/// Sets the status of the return host, with its event. Returns whether it changed.
fn record_return_path(tx: &Tx<'_>, domain: &mut Domain, check: &DomainCheck) -> Result<bool> {
    let before = domain.return_path.status;
    let DomainReturnPath { mode, host, status: _ } = &check.return_path_of;
    // It may have been changed during the check.
    let is_current = (&domain.return_path.mode, &domain.return_path.host) == (mode, host);
    let after = check.return_path.filter(|_| is_current).unwrap_or(before);
    domain.return_path.status = after;
    let event = match (before, after) {
        (ReturnPathStatus::Active, ReturnPathStatus::Active | ReturnPathStatus::Pending) => None,
        (ReturnPathStatus::Active, _) => Some(EventKind::DomainReturnPathLost),
        (_, ReturnPathStatus::Active) => Some(EventKind::DomainReturnPathActive),
        _ => None,
    };
    event.map_or(Ok(()), |kind| append_event(tx, kind, domain, check.checked_at))?;
    Ok(after != before)
}

/// Selects domains that may send, also those that the platform verified: their return hosts are checked.
const IS_TO_CHECK: &str = "status <> ?1 AND (checked_us IS NULL OR checked_us < ?2)";

/// The tenants with domains to check. Archived tenants send nothing, so theirs stay as they are.
pub(super) fn tenants_to_check(connection: &Connection, before: Timestamp) -> Result<Vec<TenantId>> {
    let sql = format!(
        "SELECT DISTINCT tenant_id FROM domain WHERE tenant_id IS NOT NULL AND {IS_TO_CHECK}
             AND tenant_id NOT IN (SELECT id FROM tenant WHERE status = 'archived')
         ORDER BY tenant_id"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let row = params![DomainStatus::Taken, us(before)];
    let tenants = statement.query_map(row, |row| row.get(0))?;
    Ok(tenants.collect::<database::Result<_>>()?)
}

/// The oldest check of a domain that is checked regularly.
pub(super) fn oldest_check(connection: &Connection) -> Result<Option<Timestamp>> {
    let sql = "SELECT min(checked_us) AS checked_us FROM domain WHERE tenant_id IS NOT NULL AND status <> ?1
                   AND tenant_id NOT IN (SELECT id FROM tenant WHERE status = 'archived')";
    let mut statement = connection.prepare_cached(sql)?;
    Ok(statement.query_row([DomainStatus::Taken], |row| time_if_any(row, "checked_us"))?)
}

pub(super) fn to_check(
    connection: &Connection,
    tenant: TenantId,
    before: Timestamp,
    limit: usize,
) -> Result<Vec<Domain>> {
    let sql = format!(
        "SELECT * FROM domain WHERE tenant_id = ?3 AND {IS_TO_CHECK} ORDER BY checked_us NULLS FIRST, id LIMIT ?4"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let row = params![DomainStatus::Taken, us(before), tenant, sql_limit(limit)];
    let domains = statement.query_map(row, read_row)?;
    Ok(domains.collect::<database::Result<_>>()?)
}

pub(super) fn delete(tx: &Tx<'_>, id: DomainId, now: Timestamp) -> Result<bool> {
    let Some(domain) = find(tx, id)? else { return Ok(false) };
    tx.prepare_cached("DELETE FROM dkim_key WHERE domain_id = ?1")?.execute([id])?;
    tx.prepare_cached("DELETE FROM domain WHERE id = ?1")?.execute([id])?;
    domain.tenant_id.map_or(Ok(()), |tenant| keys::forget_domain(tx, tenant, id))?;
    if domain.status == DomainStatus::Verified {
        release_claims(tx, &domain.name)?;
    }
    append_event(tx, EventKind::DomainDeleted, &domain, now)?;
    note_change(tx, domain.status, &domain);
    Ok(true)
}
