//! Imports objects of a bundle.

use rusqlite::types::Value as Column;
use rusqlite::{ErrorCode, OptionalExtension, params, params_from_iter};
use serde_json::json;
use zeroize::Zeroizing;

use super::fields::excluded;
use super::parts::PartTable;
use crate::mail::Timestamp;
use crate::model::{
    DisabledReason, DomainStatus, EventKind, TenantId, TenantStatus, Verification, WebhookId, WebhookStatus,
};
use crate::store::memory::DirectoryChange;
use crate::store::sqlite::directory::row_limits;
use crate::store::sqlite::events::Subject;
use crate::store::sqlite::outbox::webhooks;
use crate::store::sqlite::sql_types::us;
use crate::store::sqlite::unit_of_work::Tx;
use crate::store::{
    BundleObject, BundlePart, IMPORT_CONFLICTS_MAX, ImportConflict, ImportOptions, ImportReport, Key,
    Limited, Result, StoreError, WebhookSecret,
};

const WEBHOOK_SECRET_OCTETS: usize = 32;

/// Imports all of them; nothing after a conflict, and nothing in a dry run.
pub(super) fn run(
    tx: &Tx<'_>,
    objects: &[BundleObject],
    options: &ImportOptions,
    now: Timestamp,
) -> Result<ImportReport> {
    tx.execute_batch("SAVEPOINT bundle")?;
    let imported = import_all(tx, objects, options, now);
    let is_kept =
        !options.dry_run && imported.as_ref().is_ok_and(|importing| importing.report.conflicts.is_empty());
    if !is_kept {
        tx.execute_batch("ROLLBACK TO bundle")?;
    }
    tx.execute_batch("RELEASE bundle")?;
    let importing = imported?;
    if is_kept && importing.report.created > 0 {
        importing.note_changes()?;
    }
    Ok(importing.report)
}

struct Importing<'a> {
    tx: &'a Tx<'a>,
    options: &'a ImportOptions,
    now: Timestamp,
    tenant: TenantId,
    /// Name and slug, if it is new.
    new_tenant: Option<[Column; 2]>,
    report: ImportReport,
}

/// An object with the values of its columns, in the order of the fields of its table.
struct Parsed<'a> {
    table: &'static PartTable,
    object: &'a BundleObject,
    columns: Vec<Column>,
}

/// What becomes of an object.
enum Decision {
    Create,
    Unchanged,
    /// It is worth nothing without the secret that the bundle does not have.
    LeftOut,
    Conflict(&'static str),
}

use Decision::{Conflict, Create, LeftOut, Unchanged};

fn import_all<'a>(
    tx: &'a Tx<'a>,
    objects: &[BundleObject],
    options: &'a ImportOptions,
    now: Timestamp,
) -> Result<Importing<'a>> {
    let id = objects.first().and_then(|first| first.get("id")?.as_str()?.parse().ok());
    let mut importing = Importing {
        tx,
        options,
        now,
        // Without an id, the first object is a conflict.
        tenant: id.unwrap_or_else(|| TenantId::generate(now)),
        new_tenant: None,
        report: ImportReport { tenant_id: id, ..ImportReport::default() },
    };
    for (place, object) in objects.iter().enumerate() {
        if importing.report.conflicts.len() == IMPORT_CONFLICTS_MAX {
            break;
        }
        if let Err(reason) = importing.import(place, object)? {
            let text =
                |name: &str| object.get(name).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
            let (object, id) = (text("object"), text("id"));
            importing.report.conflicts.push(ImportConflict { place, object, id, reason });
            // Without the tenant, everything else is a conflict too.
            if place == 0 {
                break;
            }
        }
    }
    Ok(importing)
}

impl Importing<'_> {
    /// Imports an object. The inner error is the reason of a conflict.
    fn import(&mut self, place: usize, object: &BundleObject) -> Result<std::result::Result<(), String>> {
        let kind = object.get("object").and_then(|kind| kind.as_str()).unwrap_or_default();
        let Some(table) = PartTable::named(kind) else {
            return Ok(Err("this type of object is unknown here".into()));
        };
        if (place == 0) != (table.part == BundlePart::Tenant) {
            return Ok(Err("the first object, and no other one, must be the tenant".into()));
        }
        let columns = table.fields.iter().map(|field| match object.get(field.name) {
            Some(value) => field.parse(value),
            None => Ok(Column::Null),
        });
        let columns = match columns.collect::<std::result::Result<Vec<_>, String>>() {
            Ok(columns) => columns,
            Err(reason) => return Ok(Err(reason)),
        };
        let mut parsed = Parsed { table, object, columns };
        match self.decide(&mut parsed)? {
            Create => self.create(&parsed),
            Unchanged => {
                self.report.unchanged += 1;
                Ok(Ok(()))
            }
            LeftOut => {
                self.report.excluded += 1;
                Ok(Ok(()))
            }
            Conflict(reason) => Ok(Err(reason.to_owned())),
        }
    }

    fn decide(&mut self, parsed: &mut Parsed<'_>) -> Result<Decision> {
        if let Some(is_same) = self.find(parsed)? {
            return Ok(if is_same { Unchanged } else { Conflict("this id belongs to something else here") });
        }
        match parsed.table.part {
            BundlePart::Tenant => self.decide_tenant(parsed),
            BundlePart::Domains => self.decide_domain(parsed),
            BundlePart::DkimKeys => Ok(LeftOut),
            BundlePart::Messages => Ok(Conflict("messages are not imported")),
            BundlePart::Keys => {
                let sql = "SELECT 1 FROM key WHERE digest = ?1 UNION ALL SELECT 1 FROM key_secret WHERE digest = ?1";
                let is_known = self.tx.prepare_cached(sql)?.exists([parsed.column("digest")])?;
                Ok(if is_known { Conflict("another key has the same secret") } else { Create })
            }
            BundlePart::Suppressions => {
                let sql = "SELECT 1 FROM suppression
                           WHERE tenant_id = ?1 AND address = ?2 AND environment = ?3 AND list = ?4";
                let [address, environment, list] =
                    ["address", "environment", "list"].map(|name| parsed.column(name));
                let same = params![self.tenant, address, environment, list];
                Ok(if self.tx.prepare_cached(sql)?.exists(same)? { Unchanged } else { Create })
            }
            BundlePart::Templates => {
                let sql = "SELECT 1 FROM template WHERE tenant_id = ?1 AND name = ?2";
                let is_used =
                    self.tx.prepare_cached(sql)?.exists(params![self.tenant, parsed.column("name")])?;
                Ok(if is_used { Conflict("the tenant has another template with this name") } else { Create })
            }
            BundlePart::Webhooks => {
                // The owner of its URL must get the new secret first.
                parsed.set("status", WebhookStatus::Disabled.as_str().to_owned());
                let id = parsed.id().parse().unwrap_or_else(|_| WebhookId::generate(self.now));
                let secret = rand::random::<[u8; WEBHOOK_SECRET_OCTETS]>().to_vec();
                let sealed = webhooks::seal(self.tx.sealer, id, &WebhookSecret(Zeroizing::new(secret)))?;
                parsed.set("secret", sealed);
                self.report.excluded += 1;
                Ok(Create)
            }
            BundlePart::Inboxes => {
                let sql = "SELECT 1 FROM inbox WHERE tenant_id = ?1 AND folded = ?2";
                let same = params![self.tenant, parsed.column("folded")];
                Ok(if self.tx.prepare_cached(sql)?.exists(same)? { Unchanged } else { Create })
            }
        }
    }

    /// Whether an object with this id is the same one; `None` if there is none.
    fn find(&self, parsed: &Parsed<'_>) -> Result<Option<bool>> {
        let PartTable { table, condition, .. } = parsed.table;
        let sql = format!("SELECT ({condition}), {} FROM {table} WHERE id = ?2", parsed.table.columns());
        let found = self.tx.prepare_cached(&sql)?.query_row(params![self.tenant, parsed.id()], |row| {
            let mut is_same = row.get::<_, Option<bool>>(0)?.unwrap_or(false);
            for (place, field) in parsed.table.fields.iter().enumerate() {
                if field.is_compared {
                    is_same &= row.get::<_, Column>(place + 1)? == parsed.columns[place];
                }
            }
            Ok(is_same)
        });
        Ok(found.optional()?)
    }

    fn decide_tenant(&mut self, parsed: &mut Parsed<'_>) -> Result<Decision> {
        if let Some(slug) = &self.options.slug {
            parsed.set("slug", slug.clone());
        }
        let sql = "SELECT 1 FROM tenant WHERE slug = ?1";
        if self.tx.prepare_cached(sql)?.exists([parsed.column("slug")])? {
            return Ok(Conflict("another tenant has this slug; import it with another one"));
        }
        let sql = "SELECT 1 FROM tenant WHERE external_ref = ?1";
        if self.tx.prepare_cached(sql)?.exists([parsed.column("external_ref")])? {
            return Ok(Conflict("another tenant has this external_ref"));
        }
        if parsed.object.get("smart_host_password") == Some(&excluded()) {
            parsed.set("smart_host", Column::Null);
            self.report.excluded += 1;
        }
        // Only an archived tenant has a date of its deletion; another one could not be deleted before it either.
        if *parsed.column("status") != Column::from(TenantStatus::Archived.as_str().to_owned()) {
            parsed.set("archived_at", Column::Null);
            parsed.set("deletable_at", Column::Null);
        }
        Ok(Create)
    }

    fn decide_domain(&mut self, parsed: &mut Parsed<'_>) -> Result<Decision> {
        let sql = "SELECT 1 FROM domain WHERE name = ?1 AND status = ?2 AND tenant_id IS NOT ?3";
        let taken = params![parsed.column("name"), DomainStatus::Verified, self.tenant];
        if self.tx.prepare_cached(sql)?.exists(taken)? {
            return Ok(Conflict("another tenant has verified this domain"));
        }
        if !self.options.trusts_domains {
            parsed.set("status", DomainStatus::Pending.as_str().to_owned());
            parsed.set("verification", Verification::Dns.as_str().to_owned());
            parsed.set("verified_at", Column::Null);
        }
        Ok(Create)
    }

    fn create(&mut self, parsed: &Parsed<'_>) -> Result<std::result::Result<(), String>> {
        let PartTable { table, part, .. } = parsed.table;
        if let Some(what) = parsed.limited() {
            match row_limits::require(self.tx, what, Some(self.tenant), 1) {
                Err(StoreError::Conflict(_)) => {
                    return Ok(Err(format!("the tenant has the maximum number of {}", what.plural())));
                }
                is_below => is_below?,
            }
        }
        let mut columns = parsed.table.columns();
        let mut values = parsed.columns.clone();
        if parsed.table.has_tenant() {
            columns += ", tenant_id";
            values.push(self.tenant.to_string().into());
        }
        if *part == BundlePart::Webhooks {
            columns += ", disabled_reason";
            values.push(DisabledReason::Manual.as_str().to_owned().into());
        }
        let places: Vec<_> = (1..=values.len()).map(|place| format!("?{place}")).collect();
        let sql = format!("INSERT INTO {table} ({columns}) VALUES ({})", places.join(", "));
        match self.tx.prepare_cached(&sql)?.execute(params_from_iter(values)) {
            Ok(_) => {}
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                return Ok(Err(format!("it cannot be stored: {error}")));
            }
            Err(error) => return Err(error.into()),
        }
        match part {
            BundlePart::Tenant => {
                self.new_tenant = Some(["name", "slug"].map(|name| parsed.column(name).clone()));
            }
            BundlePart::Keys => self.schedule_expiry_notice(parsed)?,
            _ => {}
        }
        self.report.created += 1;
        Ok(Ok(()))
    }

    fn schedule_expiry_notice(&self, parsed: &Parsed<'_>) -> Result<()> {
        let Column::Integer(expires_us) = parsed.column("expires_at") else { return Ok(()) };
        let expires_at = Timestamp::from_microsecond(*expires_us).unwrap_or(Timestamp::MAX);
        let next = Key::next_expiry_notice(expires_at, self.now).map(us);
        let sql = "UPDATE key SET next_notice_us = ?2 WHERE id = ?1";
        self.tx.prepare_cached(sql)?.execute(params![parsed.id(), next])?;
        Ok(())
    }

    /// Makes the store read again what it keeps in memory about the tenant. Appends `tenant.created` for a new tenant.
    fn note_changes(&self) -> Result<()> {
        self.tx.directory_changes.push(DirectoryChange::Everything);
        self.tx.subscriptions.clear();
        self.tx.suppression_times.note(Some(self.tenant), self.now);
        let Some([Column::Text(name), Column::Text(slug)]) = &self.new_tenant else { return Ok(()) };
        let subject = Subject { tenant_id: Some(self.tenant), ..Subject::default() };
        self.tx.append(EventKind::TenantCreated, subject, &json!({ "name": name, "slug": slug }), self.now)
    }
}

impl Parsed<'_> {
    fn id(&self) -> &str {
        self.object.get("id").and_then(|id| id.as_str()).unwrap_or_default()
    }

    /// The limit that it counts against.
    fn limited(&self) -> Option<Limited> {
        match self.table.part {
            BundlePart::Domains => Some(Limited::Domains),
            BundlePart::Keys => Some(Limited::Keys),
            BundlePart::Suppressions => {
                let environment = self.object.get("environment")?.as_str()?.parse().ok()?;
                Some(Limited::Suppressions(environment))
            }
            BundlePart::Templates => Some(Limited::Templates),
            BundlePart::Webhooks => Some(Limited::Webhooks),
            BundlePart::Inboxes => Some(Limited::Inboxes),
            BundlePart::Tenant | BundlePart::DkimKeys | BundlePart::Messages => None,
        }
    }

    fn place(&self, name: &str) -> usize {
        self.table.fields.iter().position(|field| field.name == name).unwrap_or_default()
    }

    fn column(&self, name: &str) -> &Column {
        &self.columns[self.place(name)]
    }

    fn set(&mut self, name: &str, value: impl Into<Column>) {
        let place = self.place(name);
        self.columns[place] = value.into();
    }
}
