//! Tenants.

use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::mail::Timestamp;
use crate::model::{EventKind, TenantId, TenantStatus};
use crate::store::database::{self, Connection, OptionalExtension, Row, params};
use crate::store::sql::events::Subject;
use crate::store::sql::keyset::List;
use crate::store::sql::secret_encryption::{SealedColumn, Sealer};
use crate::store::sql::sql_types::{self, json_if_any, time, time_if_any, to_json, us};
use crate::store::sql::unit_of_work::Tx;
use crate::store::{
    Conflict, DEFAULT_TENANT, NewSmartHost, NewTenant, Page, PageRequest, Result, StoreError, Tenant,
    TenantFilter, TenantPatch,
};

pub(in crate::store::sql) const PASSWORD_COLUMN: &str = "tenant.smart_host_password";

fn read_row(row: &Row<'_>) -> database::Result<Tenant> {
    Ok(Tenant {
        id: row.get("id")?,
        name: row.get("name")?,
        slug: row.get("slug")?,
        external_ref: row.get("external_ref")?,
        metadata: sql_types::json(row, "metadata")?,
        settings: sql_types::json(row, "settings")?,
        rate_limit: sql_types::json(row, "rate_limit")?,
        smart_host: json_if_any(row, "smart_host")?,
        source_pool: row.get("source_pool")?,
        retention_days: row.get("retention_days")?,
        body_retention_days: row.get("body_retention_days")?,
        weight: row.get("weight")?,
        status: row.get("status")?,
        archived_at: time_if_any(row, "archived_us")?,
        deletable_at: time_if_any(row, "deletable_us")?,
        created_at: time(row, "created_us")?,
        updated_at: time(row, "updated_us")?,
    })
}

pub(super) fn create(tx: &Tx<'_>, new: &NewTenant, now: Timestamp) -> Result<Tenant> {
    refuse_slug_in_use(tx, &new.slug, None)?;
    refuse_external_ref_in_use(tx, new.external_ref.as_deref(), None)?;
    let id = TenantId::generate(now);
    let tenant = Tenant {
        id,
        name: new.name.clone(),
        slug: new.slug.clone(),
        external_ref: new.external_ref.clone(),
        metadata: new.metadata.clone(),
        settings: new.settings.clone(),
        rate_limit: new.rate_limit,
        smart_host: new.smart_host.as_ref().map(|new| new.smart_host.clone()),
        source_pool: new.source_pool.clone(),
        retention_days: new.retention_days,
        body_retention_days: new.body_retention_days,
        weight: new.weight,
        status: TenantStatus::Active,
        archived_at: None,
        deletable_at: None,
        created_at: now,
        updated_at: now,
    };
    write(tx, &tenant)?;
    store_password(tx, id, new.smart_host.as_ref().and_then(|new| new.password.as_ref()))?;
    append_event(
        tx,
        EventKind::TenantCreated,
        id,
        &json!({ "name": tenant.name, "slug": tenant.slug }),
        now,
    )?;
    tx.note_change_of_owner(Some(id));
    Ok(tenant)
}

/// Whether [`ensure_default`] ran before.
pub(super) fn is_default_ensured(connection: &Connection) -> Result<bool> {
    Ok(connection.prepare_cached("SELECT 1 FROM default_tenant_ensured")?.exists([])?)
}

pub(super) fn ensure_default(tx: &Tx<'_>, now: Timestamp) -> Result<()> {
    if is_default_ensured(tx)? {
        return Ok(());
    }
    if find_by_slug(tx, DEFAULT_TENANT)?.is_none() {
        create(tx, &NewTenant::named("Default", DEFAULT_TENANT), now)?;
    }
    tx.execute("INSERT INTO default_tenant_ensured (at_us) VALUES (?1)", [us(now)])?;
    Ok(())
}

fn refuse_slug_in_use(tx: &Tx<'_>, slug: &str, except: Option<TenantId>) -> Result<()> {
    match find_by_slug(tx, slug)? {
        Some(other) if Some(other.id) != except => Err(StoreError::Conflict(Conflict::Slug)),
        _ => Ok(()),
    }
}

fn refuse_external_ref_in_use(
    tx: &Tx<'_>,
    external_ref: Option<&str>,
    except: Option<TenantId>,
) -> Result<()> {
    let sql = "SELECT 1 FROM tenant WHERE external_ref = ?1 AND id IS DISTINCT FROM ?2";
    match tx.prepare_cached(sql)?.exists(params![external_ref, except])? {
        true => Err(StoreError::Conflict(Conflict::ExternalRef)),
        false => Ok(()),
    }
}

/// Inserts a tenant or replaces everything except the password.
fn write(tx: &Tx<'_>, tenant: &Tenant) -> Result<()> {
    let sql = "INSERT INTO tenant (id, name, slug, external_ref, metadata, settings, rate_limit, smart_host,
                                   source_pool, retention_days, weight, status, created_us, updated_us,
                                   body_retention_days, archived_us, deletable_us)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)
               ON CONFLICT (id) DO UPDATE SET
                   name = excluded.name, slug = excluded.slug, external_ref = excluded.external_ref,
                   metadata = excluded.metadata, settings = excluded.settings,
                   rate_limit = excluded.rate_limit, smart_host = excluded.smart_host,
                   source_pool = excluded.source_pool, retention_days = excluded.retention_days,
                   weight = excluded.weight, status = excluded.status,
                   updated_us = excluded.updated_us, body_retention_days = excluded.body_retention_days,
                   archived_us = excluded.archived_us, deletable_us = excluded.deletable_us";
    tx.prepare_cached(sql)?.execute(params![
        tenant.id,
        tenant.name,
        tenant.slug,
        tenant.external_ref,
        to_json(&tenant.metadata)?,
        to_json(&tenant.settings)?,
        to_json(&tenant.rate_limit)?,
        tenant.smart_host.as_ref().map(to_json).transpose()?,
        tenant.source_pool,
        tenant.retention_days,
        tenant.weight,
        tenant.status,
        us(tenant.created_at),
        us(tenant.updated_at),
        tenant.body_retention_days,
        tenant.archived_at.map(us),
        tenant.deletable_at.map(us),
    ])?;
    Ok(())
}

fn store_password(tx: &Tx<'_>, id: TenantId, password: Option<&Zeroizing<String>>) -> Result<()> {
    let row = id.to_string();
    let place = SealedColumn { column: PASSWORD_COLUMN, row: &row };
    let sealed = password.map(|password| tx.sealer.seal(place, password.as_bytes())).transpose()?;
    tx.prepare_cached("UPDATE tenant SET smart_host_password = ?2 WHERE id = ?1")?
        .execute(params![id, sealed])?;
    Ok(())
}

pub(super) fn smart_host_password(
    connection: &Connection,
    sealer: &Sealer,
    id: TenantId,
) -> Result<Option<Zeroizing<String>>> {
    let mut statement = connection.prepare_cached("SELECT smart_host_password FROM tenant WHERE id = ?1")?;
    let sealed: Option<Vec<u8>> = statement.query_row([id], |row| row.get(0)).optional()?.flatten();
    let Some(sealed) = sealed else { return Ok(None) };
    let password = sealer.open(SealedColumn { column: PASSWORD_COLUMN, row: &id.to_string() }, &sealed)?;
    let text = std::str::from_utf8(&password)
        .map_err(|_| StoreError::Failed("a stored password is not text".into()))?;
    Ok(Some(Zeroizing::new(text.to_owned())))
}

pub(in crate::store::sql) fn find(connection: &Connection, id: TenantId) -> Result<Option<Tenant>> {
    let mut statement = connection.prepare_cached("SELECT * FROM tenant WHERE id = ?1")?;
    Ok(statement.query_row([id], read_row).optional()?)
}

/// Fails with [`Conflict::NoTenant`] if the tenant of an object does not exist. Objects of the platform have none.
pub(in crate::store::sql) fn require(connection: &Connection, tenant: Option<TenantId>) -> Result<()> {
    let Some(id) = tenant else { return Ok(()) };
    match connection.prepare_cached("SELECT 1 FROM tenant WHERE id = ?1")?.exists([id])? {
        true => Ok(()),
        false => Err(StoreError::Conflict(Conflict::NoTenant)),
    }
}

pub(super) fn find_by_slug(connection: &Connection, slug: &str) -> Result<Option<Tenant>> {
    let mut statement = connection.prepare_cached("SELECT * FROM tenant WHERE slug = ?1")?;
    Ok(statement.query_row([slug], read_row).optional()?)
}

pub(super) fn list(
    connection: &Connection,
    filter: &TenantFilter,
    page: &PageRequest,
) -> Result<Page<Tenant>> {
    let mut list = List::of("tenant", TenantId::PREFIX);
    list.only_if("slug = ?", &filter.slug)?;
    list.only_if("external_ref = ?", &filter.external_ref)?;
    list.only_if("status = ?", &filter.status)?;
    list.read(connection, page, read_row)
}

pub(super) fn update(
    tx: &Tx<'_>,
    id: TenantId,
    patch: &TenantPatch,
    now: Timestamp,
) -> Result<Option<Tenant>> {
    let Some(before) = find(tx, id)? else { return Ok(None) };
    let mut tenant = before.clone();
    if let Some(slug) = &patch.slug {
        refuse_slug_in_use(tx, slug, Some(id))?;
    }
    refuse_external_ref_in_use(tx, patch.external_ref.as_ref().and_then(Option::as_deref), Some(id))?;
    let set_password = apply(&mut tenant, patch.clone());
    match tenant.status {
        TenantStatus::Archived => tenant.archived_at = before.archived_at.or(Some(now)),
        TenantStatus::Active | TenantStatus::Suspended => {
            (tenant.archived_at, tenant.deletable_at) = (None, None);
        }
    }
    let changed = changed_fields(&before, &tenant);
    if changed.is_empty() && tenant.status == before.status {
        return Ok(Some(before));
    }
    tenant.updated_at = now;
    if let Some(password) = set_password {
        store_password(tx, id, password.as_ref())?;
    }
    write(tx, &tenant)?;
    tx.note_change_of_owner(Some(id));
    if !changed.is_empty() {
        append_event(tx, EventKind::TenantUpdated, id, &json!({ "changed": changed }), now)?;
    }
    if tenant.status != before.status {
        if tenant.status.sends() {
            note_resumed(tx, id, now)?;
        }
        let (kind, data) = match tenant.status {
            TenantStatus::Active => (EventKind::TenantActivated, json!({})),
            TenantStatus::Suspended => (EventKind::TenantSuspended, json!({})),
            TenantStatus::Archived => {
                (EventKind::TenantArchived, json!({ "deletable_at": tenant.deletable_at }))
            }
        };
        append_event(tx, kind, id, &data, now)?;
    }
    Ok(Some(tenant))
}

/// The changed fields as the API names them, without the status, which has its own events. The event has no values:
/// settings and metadata may be confidential, and more keys read events than tenants.
fn changed_fields(before: &Tenant, after: &Tenant) -> Vec<&'static str> {
    let fields = [
        ("name", before.name != after.name),
        ("slug", before.slug != after.slug),
        ("external_ref", before.external_ref != after.external_ref),
        ("metadata", before.metadata != after.metadata),
        ("settings", before.settings != after.settings),
        ("rate_limit", before.rate_limit != after.rate_limit),
        ("smtp", before.smart_host != after.smart_host),
        ("source_pool", before.source_pool != after.source_pool),
        ("retention_days", before.retention_days != after.retention_days),
        ("body_retention_days", before.body_retention_days != after.body_retention_days),
        ("weight", before.weight != after.weight),
        // A change of the status sets and clears it too.
        ("deletable_at", before.status == after.status && before.deletable_at != after.deletable_at),
    ];
    fields.into_iter().filter(|(_, is_changed)| *is_changed).map(|(name, _)| name).collect()
}

fn append_event(tx: &Tx<'_>, kind: EventKind, id: TenantId, data: &Value, at: Timestamp) -> Result<()> {
    tx.append(kind, Subject { tenant_id: Some(id), ..Subject::default() }, data, at)
}

/// Deletes the row of a tenant whose objects are deleted. Its event stays for the platform.
pub(super) fn delete(tx: &Tx<'_>, id: TenantId, now: Timestamp) -> Result<()> {
    let Some(tenant) = find(tx, id)? else { return Ok(()) };
    tx.execute("DELETE FROM tenant WHERE id = ?1", [id])?;
    let Tenant { name, slug, external_ref, .. } = tenant;
    let data = json!({ "name": name, "slug": slug, "external_ref": external_ref });
    append_event(tx, EventKind::TenantDeleted, id, &data, now)
}

/// Records the end of a suspension or pause: deliveries that were due before could not be claimed.
pub(in crate::store::sql) fn note_resumed(tx: &Tx<'_>, id: TenantId, now: Timestamp) -> Result<()> {
    tx.prepare_cached("UPDATE tenant SET resumed_us = ?2 WHERE id = ?1")?.execute(params![id, us(now)])?;
    Ok(())
}

/// Records the end of a pause of all mail.
pub(in crate::store::sql) fn note_all_resumed(tx: &Tx<'_>, now: Timestamp) -> Result<()> {
    tx.prepare_cached("UPDATE tenant SET resumed_us = ?1")?.execute([us(now)])?;
    Ok(())
}

/// Applies a patch; returns the change of the password, if any.
fn apply(tenant: &mut Tenant, patch: TenantPatch) -> Option<Option<Zeroizing<String>>> {
    fn set<T>(field: &mut T, value: Option<T>) {
        if let Some(value) = value {
            *field = value;
        }
    }
    set(&mut tenant.name, patch.name);
    set(&mut tenant.slug, patch.slug);
    set(&mut tenant.external_ref, patch.external_ref);
    set(&mut tenant.metadata, patch.metadata);
    set(&mut tenant.settings, patch.settings);
    set(&mut tenant.rate_limit, patch.rate_limit);
    set(&mut tenant.source_pool, patch.source_pool);
    set(&mut tenant.retention_days, patch.retention_days);
    set(&mut tenant.body_retention_days, patch.body_retention_days);
    set(&mut tenant.weight, patch.weight);
    set(&mut tenant.status, patch.status);
    set(&mut tenant.deletable_at, patch.deletable_at);
    match patch.smart_host? {
        None => {
            tenant.smart_host = None;
            Some(None)
        }
        Some(NewSmartHost { mut smart_host, password }) => {
            smart_host.password_revision = match (&password, &tenant.smart_host) {
                (Some(_), _) => rand::random(),
                (None, Some(old)) => old.password_revision,
                (None, None) => 0,
            };
            tenant.smart_host = Some(smart_host);
            password.map(Some)
        }
    }
}
