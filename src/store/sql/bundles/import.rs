//! Imports objects of a bundle.

use serde_json::json;
use zeroize::Zeroizing;

use super::import_job::ImportJob;
use super::message_import::{MessageDecision, ParsedMessage};
use super::parts::PartTable;
use crate::mail::Timestamp;
use crate::model::{
    DisabledReason, DkimKeyState, DomainId, DomainStatus, EventKind, TenantId, TenantStatus, Verification,
    WebhookId, WebhookStatus,
};
use crate::store::database::{OptionalExtension, Value as Column, params, params_from_iter};
use crate::store::memory::{Announcement, DirectoryChange};
use crate::store::sql::directory::{dkim_keys, domains, row_limits};
use crate::store::sql::events::Subject;
use crate::store::sql::outbox::webhooks;
use crate::store::sql::secret_encryption::SealedColumn;
use crate::store::sql::sql_types::us;
use crate::store::sql::unit_of_work::Tx;
use crate::store::sql::usage;
use crate::store::{
    BundleObject, BundlePart, DKIM_KEYS_MAX, DkimKey, IMPORT_CONFLICTS_MAX, ImportConflict, ImportReport,
    ImportedSecret, Key, Limited, Result, StoreError, WebhookSecret, plain_secret,
};

const WEBHOOK_SECRET_OCTETS: usize = 32;
/// Why a bundle with open deliveries is refused.
const SENDING_TENANT: &str = "open deliveries are imported only if the tenant was suspended before the export, so that no mail is sent twice: suspend it on the other server, and export it again";

/// An import in progress.
pub(super) struct Importing<'a> {
    tx: &'a Tx<'a>,
    job: &'a ImportJob,
    tenant: TenantId,
    /// Name and slug, if it is new.
    new_tenant: Option<[Column; 2]>,
    new_domains: Vec<DomainId>,
    /// The tenant, if it is new and does not send.
    pub(super) stopped: Option<TenantId>,
    /// The places of new messages.
    pub(super) messages: Vec<usize>,
    pub(super) report: ImportReport,
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

pub(super) fn import_all<'a>(tx: &'a Tx<'a>, job: &'a ImportJob) -> Result<Importing<'a>> {
    let id = job.objects.first().and_then(|first| first.get("id")?.as_str()?.parse().ok());
    let mut importing = Importing {
        tx,
        job,
        // Without an id, the first object is a conflict.
        tenant: id.unwrap_or_else(|| TenantId::generate(job.now)),
        new_tenant: None,
        new_domains: Vec::new(),
        stopped: None,
        messages: Vec::new(),
        report: ImportReport { tenant_id: id, ..ImportReport::default() },
    };
    for (place, object) in job.objects.iter().enumerate() {
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
        if let Some(message) = self.job.messages.get(&place).filter(|_| place > 0) {
            return match message {
                Ok(message) => self.import_message(place, message),
                Err(reason) => Ok(Err(reason.clone())),
            };
        }
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
        if table.part == BundlePart::Tenant && self.job.options.has_open && parsed.sends() {
            return Ok(Err(SENDING_TENANT.to_owned()));
        }
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

    fn import_message(
        &mut self,
        place: usize,
        message: &ParsedMessage,
    ) -> Result<std::result::Result<(), String>> {
        match message.import(self.tx, self.tenant, &self.job.options, self.job.now)? {
            MessageDecision::Created { open_deliveries } => {
                self.messages.push(place);
                self.report.created += 1;
                self.report.open_deliveries += open_deliveries;
            }
            MessageDecision::Unchanged => self.report.unchanged += 1,
            MessageDecision::LeftOut => self.report.left_open += 1,
            MessageDecision::Conflict(reason) => return Ok(Err(reason)),
        }
        Ok(Ok(()))
    }

    fn decide(&mut self, parsed: &mut Parsed<'_>) -> Result<Decision> {
        if let Some(is_same) = self.find(parsed)? {
            return Ok(if is_same { Unchanged } else { Conflict("this id belongs to something else here") });
        }
        match parsed.table.part {
            BundlePart::Tenant => self.decide_tenant(parsed),
            BundlePart::Domains => self.decide_domain(parsed),
            BundlePart::DkimKeys => self.decide_dkim_key(parsed),
            // They have no table of this kind.
            BundlePart::Messages => Ok(Unchanged),
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
            BundlePart::Webhooks => self.decide_webhook(parsed),
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
        if let Some(slug) = &self.job.options.slug {
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
        let has_password = parsed.object.get("smart_host_password").is_some_and(|value| !value.is_null());
        if has_password && !self.seal_secret(parsed)? {
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
        let sql = "SELECT 1 FROM domain WHERE name = ?1 AND status = ?2 AND tenant_id IS DISTINCT FROM ?3";
        let taken = params![parsed.column("name"), DomainStatus::Verified, self.tenant];
        if self.tx.prepare_cached(sql)?.exists(taken)? {
            return Ok(Conflict("another tenant has verified this domain"));
        }
        if !self.job.options.trusts_domains {
            parsed.set("status", DomainStatus::Pending.as_str().to_owned());
            parsed.set("verification", Verification::Dns.as_str().to_owned());
            parsed.set("verified_at", Column::Null);
        }
        Ok(Create)
    }

    fn decide_dkim_key(&mut self, parsed: &mut Parsed<'_>) -> Result<Decision> {
        if !self.seal_secret(parsed)? {
            return Ok(LeftOut);
        }
        let text = |name: &str| parsed.object.get(name).and_then(|value| value.as_str()).unwrap_or_default();
        let Ok(domain) = text("domain_id").parse::<DomainId>() else {
            return Ok(Conflict("it has no domain"));
        };
        let sql = "SELECT 1 FROM domain WHERE id = ?1 AND tenant_id = ?2";
        if !self.tx.prepare_cached(sql)?.exists(params![domain, self.tenant])? {
            return Ok(Conflict("its domain is not a domain of this tenant"));
        }
        let others = dkim_keys::of_domain(self.tx, domain)?;
        if others.len() >= DKIM_KEYS_MAX {
            return Ok(Conflict("its domain has the maximum number of DKIM keys"));
        }
        if others.iter().any(|other| other.selector == text("selector")) {
            return Ok(Conflict("its domain has another DKIM key with this selector"));
        }
        // One key of an algorithm signs at a time; a check of the records may replace it.
        let signs =
            |key: &DkimKey| key.state == DkimKeyState::Active && key.algorithm.as_str() == text("algorithm");
        if text("state") == DkimKeyState::Active.as_str() && others.iter().any(signs) {
            parsed.set("state", DkimKeyState::Pending.as_str().to_owned());
        }
        Ok(Create)
    }

    fn decide_webhook(&mut self, parsed: &mut Parsed<'_>) -> Result<Decision> {
        if self.seal_secret(parsed)? {
            return Ok(Create);
        }
        // The owner of its URL must get the new secret first.
        parsed.set("status", WebhookStatus::Disabled.as_str().to_owned());
        let id = parsed.id().parse().unwrap_or_else(|_| WebhookId::generate(self.job.now));
        let secret = rand::random::<[u8; WEBHOOK_SECRET_OCTETS]>().to_vec();
        let sealed = webhooks::seal(self.tx.sealer, id, &WebhookSecret(Zeroizing::new(secret)))?;
        parsed.set("secret", sealed);
        self.report.excluded += 1;
        Ok(Create)
    }

    /// Encrypts the secret of an object for this server; false if the bundle does not have it.
    fn seal_secret(&mut self, parsed: &mut Parsed<'_>) -> Result<bool> {
        let Some((field, column)) = parsed.table.secret() else { return Ok(false) };
        let Some(secret) = parsed.object.get(field.name).and_then(plain_secret) else { return Ok(false) };
        let sealed = self.tx.sealer.seal(SealedColumn { column, row: parsed.id() }, &secret)?;
        parsed.set(field.name, sealed);
        let (object, id) = (parsed.table.object.to_owned(), parsed.id().to_owned());
        self.report.secrets.push(ImportedSecret { object, id });
        Ok(true)
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
        for (column, value) in self.other_columns(parsed) {
            columns = format!("{columns}, {column}");
            values.push(value);
        }
        let places: Vec<_> = (1..=values.len()).map(|place| format!("?{place}")).collect();
        let sql = format!("INSERT INTO {table} ({columns}) VALUES ({})", places.join(", "));
        let insert = || self.tx.prepare_cached(&sql)?.execute(params_from_iter(values));
        match self.tx.attempt(insert) {
            Ok(_) => {}
            Err(error) if error.is_constraint() => {
                return Ok(Err(format!("it cannot be stored: {error}")));
            }
            Err(error) => return Err(error.into()),
        }
        match part {
            BundlePart::Tenant => {
                self.new_tenant = Some(["name", "slug"].map(|name| parsed.column(name).clone()));
                self.stopped = (!parsed.sends()).then_some(self.tenant);
                usage::forget_deletion(self.tx, self.tenant)?;
            }
            BundlePart::Domains => self.new_domains.extend(parsed.id().parse::<DomainId>()),
            BundlePart::Keys => self.schedule_expiry_notice(parsed)?,
            _ => {}
        }
        self.report.created += 1;
        Ok(Ok(()))
    }

    /// The columns that follow from the tenant and the object, and their values.
    fn other_columns(&self, parsed: &Parsed<'_>) -> Vec<(&'static str, Column)> {
        let mut others = Vec::new();
        if parsed.table.has_tenant() {
            others.push(("tenant_id", self.tenant.to_string().into()));
        }
        let is = |name: &str, value: &str| *parsed.column(name) == Column::from(value.to_owned());
        match parsed.table.part {
            BundlePart::Webhooks if is("status", WebhookStatus::Disabled.as_str()) => {
                others.push(("disabled_reason", DisabledReason::Manual.as_str().to_owned().into()));
            }
            BundlePart::DkimKeys => {
                let is_retiring = is("state", DkimKeyState::Retiring.as_str());
                others.push(("has_signed", (!is("state", DkimKeyState::Pending.as_str())).into()));
                others.push(("retiring_since_us", is_retiring.then(|| us(self.job.now)).into()));
            }
            _ => {}
        }
        others
    }

    fn schedule_expiry_notice(&self, parsed: &Parsed<'_>) -> Result<()> {
        let Column::Integer(expires_us) = parsed.column("expires_at") else { return Ok(()) };
        let expires_at = Timestamp::from_microsecond(*expires_us).unwrap_or(Timestamp::MAX);
        let next = Key::next_expiry_notice(expires_at, self.job.now).map(us);
        let sql = "UPDATE key SET next_notice_us = ?2 WHERE id = ?1";
        self.tx.prepare_cached(sql)?.execute(params![parsed.id(), next])?;
        Ok(())
    }

    /// Makes the store read again what it keeps in memory about the tenant. Appends `tenant.created` for a new tenant, and
    /// changes the claims of other tenants to its verified domains as a verification does.
    pub(super) fn note_changes(&self) -> Result<()> {
        if self.report.created == self.messages.len() as u64 {
            return Ok(());
        }
        let now = self.job.now;
        self.tx.directory_changes.push(DirectoryChange::Everything);
        self.tx.subscriptions.clear();
        self.tx.suppression_times.note(Some(self.tenant), now);
        self.tx.suppressed_addresses.forget();
        self.tx.announce(&Announcement::Suppressed { owner: Some(self.tenant), at: now })?;
        self.tx.announce(&Announcement::Webhooks)?;
        if let Some([Column::Text(name), Column::Text(slug)]) = &self.new_tenant {
            let subject = Subject { tenant_id: Some(self.tenant), ..Subject::default() };
            let data = json!({ "name": name, "slug": slug });
            self.tx.append(EventKind::TenantCreated, subject, &data, now)?;
        }
        for id in &self.new_domains {
            let domain = domains::find(self.tx, *id)?;
            if let Some(verified) = domain.filter(|domain| domain.status == DomainStatus::Verified) {
                domains::take_claims(self.tx, &verified, now)?;
            }
        }
        Ok(())
    }
}

impl Parsed<'_> {
    fn id(&self) -> &str {
        self.object.get("id").and_then(|id| id.as_str()).unwrap_or_default()
    }

    /// Whether it is a tenant that delivers mail.
    fn sends(&self) -> bool {
        let status = self.object.get("status").and_then(|status| status.as_str()).unwrap_or_default();
        status.parse().is_ok_and(TenantStatus::sends)
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
