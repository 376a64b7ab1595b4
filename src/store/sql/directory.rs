//! Tenants, domains, keys, suppressions and templates.

pub(super) mod dkim_keys;
pub(super) mod domains;
pub(super) mod keys;
mod removal;
pub(super) mod row_limits;
mod secrets;
pub(super) mod suppressed_addresses;
pub(super) mod suppressions;
mod templates;
pub(super) mod tenants;

pub(super) use self::suppressions::suppress;
pub(super) use self::tenants::{note_all_resumed, note_resumed, require as require_tenant};

use std::sync::Arc;

use zeroize::Zeroizing;

use super::Store;
use super::journal::index;
use super::unit_of_work::Tx;
use crate::mail::{DomainName, Timestamp};
use crate::model::{
    DkimKeyId, DomainId, Environment, KeyId, ListName, QueueFilter, SecretDigest, SuppressionId, TemplateId,
    TenantId,
};
use crate::store::database::Connection;
use crate::store::memory::Announcement;
use crate::store::{
    Directory, DkimKey, Domain, DomainCheck, DomainFilter, DomainPatch, Key, KeyFilter, KeyPatch, NewDkimKey,
    NewDomain, NewKey, NewSuppression, NewTemplate, NewTenant, Page, PageRequest, Queue, Result,
    ScramCredential, SecretRotation, SpoolChange, StoreError, Suppression, SuppressionFilter, Template,
    TemplateFilter, TemplatePatch, TemplateSummary, Tenant, TenantCounts, TenantFilter, TenantPatch,
};

/// Maximum of expiring keys that one job appends events of, so that others can commit in between.
const NOTICES_AT_ONCE_MAX: usize = 100;
/// Maximum of DKIM keys that one job deletes.
const REMOVED_AT_ONCE_MAX: usize = 50;

impl Store {
    pub(super) async fn begin_removal(&self, id: TenantId, now: Timestamp) -> Result<bool> {
        let feed = Arc::clone(&self.feed);
        let after = move |is_there: bool| {
            if is_there {
                feed.send(SpoolChange::TenantSuspended(id));
            }
            is_there
        };
        let work = move |tx: &Tx<'_>| {
            let is_there = removal::begin(tx, id, now)?;
            if is_there {
                tx.announce(&Announcement::Suspended(id))?;
            }
            Ok(is_there)
        };
        self.write_then(work, after).await
    }

    pub(super) async fn continue_removal(&self, id: TenantId) -> Result<removal::Step> {
        self.write(move |tx| removal::continue_removal(tx, id)).await
    }

    async fn finish_removal(&self, id: TenantId, now: Timestamp) -> Result<removal::Step> {
        let feed = Arc::clone(&self.feed);
        let after = move |step: removal::Step| {
            if step.is_last {
                feed.send(SpoolChange::TenantRemoved(id));
            }
            step
        };
        let work = move |tx: &Tx<'_>| {
            let step = removal::finish(tx, id, now)?;
            if step.is_last {
                tx.announce(&Announcement::Removed(id))?;
            }
            Ok(step)
        };
        self.write_then(work, after).await
    }

    /// Rewrites the search index without deleted messages, in steps between which others commit.
    pub(super) async fn rewrite_index(&self) -> Result<()> {
        let mut is_first = true;
        while self.write(move |tx| index::rewrite(tx, is_first)).await? {
            is_first = false;
        }
        Ok(())
    }
}

impl Directory for Store {
    fn directory_version(&self) -> u64 {
        self.directory_versions.current()
    }

    fn version_of_owner(&self, owner: Option<TenantId>) -> u64 {
        self.directory_versions.of_owner(owner)
    }

    fn version_of_name(&self, name: &DomainName) -> u64 {
        self.directory_versions.of_name(name)
    }

    fn may_have_suppressed_since(&self, tenant: TenantId, accepted_at: Timestamp) -> bool {
        self.suppression_times.may_concern(tenant, accepted_at)
    }

    async fn create_tenant(&self, new: NewTenant, now: Timestamp) -> Result<Tenant> {
        self.write(move |tx| tenants::create(tx, &new, now)).await
    }

    async fn ensure_default_tenant(&self, now: Timestamp) -> Result<()> {
        if self.read(tenants::is_default_ensured).await? {
            return Ok(());
        }
        self.write(move |tx| tenants::ensure_default(tx, now)).await
    }

    async fn create_tenant_with_domain(
        &self,
        new: NewTenant,
        domain: Option<NewDomain>,
        now: Timestamp,
    ) -> Result<(Tenant, Option<Domain>)> {
        let work = move |tx: &Tx<'_>| {
            // Before anything is written: a job that fails after a change costs the others of its transaction a repetition.
            domain.as_ref().map_or(Ok(()), |domain| domains::require_unverified(tx, &domain.name))?;
            let tenant = tenants::create(tx, &new, now)?;
            let owned = domain.clone().map(|domain| NewDomain { tenant_id: Some(tenant.id), ..domain });
            let domain = owned.map(|domain| domains::create(tx, &domain, now)).transpose()?;
            Ok((tenant, domain))
        };
        self.write(work).await
    }

    async fn tenant(&self, id: TenantId) -> Result<Option<Tenant>> {
        self.read(move |connection| tenants::find(connection, id)).await
    }

    async fn tenant_by_slug(&self, slug: &str) -> Result<Option<Tenant>> {
        let slug = slug.to_owned();
        self.read(move |connection| tenants::find_by_slug(connection, &slug)).await
    }

    async fn list_tenants(&self, filter: TenantFilter, page: PageRequest) -> Result<Page<Tenant>> {
        self.read_slow(move |connection| tenants::list(connection, &filter, &page)).await
    }

    async fn update_tenant(
        &self,
        id: TenantId,
        patch: TenantPatch,
        now: Timestamp,
    ) -> Result<Option<Tenant>> {
        let status = patch.status;
        let moves = patch.smart_host.is_some() || patch.source_pool.is_some();
        let feed = Arc::clone(&self.feed);
        let after = move |tenant: Option<Tenant>| {
            match (&tenant, status) {
                (Some(_), Some(status)) if status.sends() => {
                    feed.send(SpoolChange::TenantResumed { tenant_id: id, at: now });
                }
                (Some(_), Some(_)) => feed.send(SpoolChange::TenantSuspended(id)),
                _ => {}
            }
            tenant
        };
        let work = move |tx: &Tx<'_>| {
            let tenant = tenants::update(tx, id, &patch, now)?;
            match status.filter(|_| tenant.is_some()) {
                Some(status) if status.sends() => {
                    tx.announce(&Announcement::Resumed { tenant_id: id, at: now })?;
                }
                Some(_) => tx.announce(&Announcement::Suspended(id))?,
                None => {}
            }
            Ok(tenant)
        };
        let tenant = self.write_then(work, after).await?;
        if tenant.is_some() && moves {
            self.flush(QueueFilter::tenant(id), now).await?;
        }
        Ok(tenant)
    }

    async fn smart_host_password(&self, id: TenantId) -> Result<Option<Zeroizing<String>>> {
        let sealer = Arc::clone(&self.sealer);
        self.read(move |connection| tenants::smart_host_password(connection, &sealer, id)).await
    }

    async fn count_tenant_objects(&self, id: TenantId) -> Result<Option<TenantCounts>> {
        self.read_slow(move |connection| removal::count(connection, id)).await
    }

    async fn remove_tenant(&self, id: TenantId, now: Timestamp) -> Result<Option<TenantCounts>> {
        if !self.begin_removal(id, now).await? {
            return Ok(None);
        }
        let mut counts = TenantCounts::default();
        let mut is_empty = false;
        while !is_empty {
            let step = self.continue_removal(id).await?;
            counts += step.counts;
            is_empty = step.is_last;
            self.remove_released_files().await?;
        }
        self.rewrite_index().await?;
        let mut is_gone = false;
        while !is_gone {
            let step = self.finish_removal(id, now).await?;
            counts += step.counts;
            is_gone = step.is_last;
            self.remove_released_files().await?;
        }
        Ok(Some(counts))
    }

    async fn create_domain(&self, new: NewDomain, now: Timestamp) -> Result<Domain> {
        self.write(move |tx| domains::create(tx, &new, now)).await
    }

    async fn domain(&self, scope: Option<TenantId>, id: DomainId) -> Result<Option<Domain>> {
        self.read(move |connection| domains::find_in_scope(connection, scope, id)).await
    }

    async fn list_domains(&self, filter: DomainFilter, page: PageRequest) -> Result<Page<Domain>> {
        self.read_slow(move |connection| domains::list(connection, &filter, &page)).await
    }

    async fn domains_covering(&self, tenant: TenantId, name: &DomainName) -> Result<Vec<Domain>> {
        let name = name.clone();
        self.read(move |connection| domains::covering(connection, tenant, &name)).await
    }

    async fn update_domain(
        &self,
        id: DomainId,
        patch: DomainPatch,
        now: Timestamp,
    ) -> Result<Option<Domain>> {
        self.write(move |tx| domains::update(tx, id, &patch, now)).await
    }

    async fn record_domain_check(&self, id: DomainId, check: DomainCheck) -> Result<Option<Domain>> {
        self.write(move |tx| domains::record_check(tx, id, &check)).await
    }

    async fn tenants_to_check(&self, before: Timestamp) -> Result<Vec<TenantId>> {
        self.read_slow(move |connection| domains::tenants_to_check(connection, before)).await
    }

    async fn oldest_domain_check(&self) -> Result<Option<Timestamp>> {
        self.read_slow(domains::oldest_check).await
    }

    async fn domains_to_check(
        &self,
        tenant: TenantId,
        before: Timestamp,
        limit: usize,
    ) -> Result<Vec<Domain>> {
        self.read_slow(move |connection| domains::to_check(connection, tenant, before, limit)).await
    }

    async fn delete_domain(&self, id: DomainId, now: Timestamp) -> Result<bool> {
        self.write(move |tx| domains::delete(tx, id, now)).await
    }

    async fn sandbox_domain(&self, name: &DomainName) -> Result<Option<Domain>> {
        let name = name.clone();
        self.read(move |connection| domains::find_sandbox(connection, &name)).await
    }

    async fn ensure_sandbox_domain(&self, new: NewDomain, now: Timestamp) -> Result<Domain> {
        self.write(move |tx| domains::ensure_sandbox(tx, &new, now)).await
    }

    async fn add_dkim_key(
        &self,
        domain: DomainId,
        new: NewDkimKey,
        now: Timestamp,
    ) -> Result<Option<DkimKey>> {
        self.write(move |tx| match domains::find(tx, domain)? {
            Some(domain) => dkim_keys::add(tx, &domain, &new, now).map(Some),
            None => Ok(None),
        })
        .await
    }

    async fn ensure_pending_dkim_key(
        &self,
        domain: DomainId,
        new: NewDkimKey,
        now: Timestamp,
    ) -> Result<Option<DkimKey>> {
        self.write(move |tx| match domains::find(tx, domain)? {
            Some(domain) => dkim_keys::ensure_pending(tx, &domain, &new, now).map(Some),
            None => Ok(None),
        })
        .await
    }

    async fn delete_retired_dkim_keys(&self, before: Timestamp) -> Result<u64> {
        let unused = self.read_slow(move |connection| dkim_keys::unused_retired(connection, before)).await?;
        let mut removed = 0;
        // Small jobs, so that other commits do not wait for a long deletion.
        for ids in unused.chunks(REMOVED_AT_ONCE_MAX) {
            let ids = ids.to_vec();
            removed += self.write(move |tx| dkim_keys::remove_served(tx, &ids)).await?;
        }
        Ok(removed)
    }

    async fn dkim_keys(&self, domain: DomainId) -> Result<Vec<DkimKey>> {
        self.read(move |connection| dkim_keys::of_domain(connection, domain)).await
    }

    async fn dkim_keys_of(&self, domains: Vec<DomainId>) -> Result<Vec<Vec<DkimKey>>> {
        self.read_slow(move |connection| {
            domains.iter().map(|domain| dkim_keys::of_domain(connection, *domain)).collect()
        })
        .await
    }

    async fn dkim_private_key(&self, id: DkimKeyId) -> Result<Option<Zeroizing<Vec<u8>>>> {
        let sealer = Arc::clone(&self.sealer);
        self.read(move |connection| dkim_keys::private_key(connection, &sealer, id)).await
    }

    async fn create_key(&self, new: NewKey, now: Timestamp) -> Result<Key> {
        self.write(move |tx| keys::create(tx, &new, now)).await
    }

    async fn key(&self, scope: Option<TenantId>, id: KeyId) -> Result<Option<Key>> {
        self.read(move |connection| keys::find_in_scope(connection, scope, id)).await
    }

    async fn key_by_digest(&self, digest: SecretDigest) -> Result<Option<(Key, Option<Tenant>)>> {
        self.read(move |connection| {
            let Some(key) = secrets::find_key(connection, digest)? else { return Ok(None) };
            let tenant = key.tenant_id.map(|id| tenants::find(connection, id)).transpose()?.flatten();
            Ok(Some((key, tenant)))
        })
        .await
    }

    async fn scram_credential(&self, username: &str, now: Timestamp) -> Result<ScramCredential> {
        let sealer = Arc::clone(&self.sealer);
        let username = username.to_owned();
        self.read(move |connection| secrets::scram_credential(connection, &sealer, &username, now)).await
    }

    async fn list_keys(&self, filter: KeyFilter, page: PageRequest) -> Result<Page<Key>> {
        self.read_slow(move |connection| keys::list(connection, &filter, &page)).await
    }

    async fn update_key(&self, id: KeyId, patch: KeyPatch, now: Timestamp) -> Result<Option<Key>> {
        self.write(move |tx| keys::update(tx, id, &patch, now)).await
    }

    async fn rotate_key(&self, id: KeyId, rotation: SecretRotation, now: Timestamp) -> Result<Option<Key>> {
        self.write(move |tx| secrets::rotate(tx, id, &rotation, now)).await
    }

    async fn append_key_expiries(&self, now: Timestamp) -> Result<u64> {
        let mut events = 0;
        loop {
            let job = self.write(move |tx| keys::append_expiries(tx, now, NOTICES_AT_ONCE_MAX)).await?;
            events += job.events;
            if !job.truncated {
                return Ok(events);
            }
        }
    }

    async fn revoke_key(&self, id: KeyId, now: Timestamp) -> Result<bool> {
        self.write(move |tx| keys::revoke(tx, id, now)).await
    }

    fn touch_key(&self, id: KeyId, now: Timestamp) {
        if self.key_uses.note(id, now) && !self.writer.leave(move |tx| keys::touch(tx, id, now)) {
            tracing::warn!(target: "pillarbox::flood", key = %id, "the use of a key was not recorded: too many writes are pending");
        }
    }

    async fn suppress(&self, new: NewSuppression, now: Timestamp) -> Result<Suppression> {
        let created = self.suppress_all(vec![new], now).await?;
        let nothing = || StoreError::Failed("the suppression was not created".into());
        created.into_iter().next().ok_or_else(nothing)
    }

    async fn suppress_all(&self, news: Vec<NewSuppression>, now: Timestamp) -> Result<Vec<Suppression>> {
        self.write(move |tx| suppressions::create(tx, &news, now)).await
    }

    async fn suppression_of(
        &self,
        tenant: TenantId,
        environment: Environment,
        folded: &str,
        now: Timestamp,
    ) -> Result<Option<Suppression>> {
        if !self.suppressed_addresses.may_contain(folded) {
            return Ok(None);
        }
        let folded = folded.to_owned();
        let sender = (tenant, environment);
        self.read(move |connection| suppressions::that_stops(connection, sender, &folded, now)).await
    }

    async fn list_suppression_of(
        &self,
        tenant: TenantId,
        environment: Environment,
        folded: &str,
        list: &ListName,
        now: Timestamp,
    ) -> Result<Option<Suppression>> {
        if !self.suppressed_addresses.may_contain(folded) {
            return Ok(None);
        }
        let (folded, list, sender) = (folded.to_owned(), list.clone(), (tenant, environment));
        let find = move |connection: &Connection| {
            suppressions::that_stops_list(connection, sender, &folded, &list, now)
        };
        self.read(find).await
    }

    async fn suppressions_of(
        &self,
        tenant: TenantId,
        environment: Environment,
        folded: Vec<String>,
        now: Timestamp,
    ) -> Result<Vec<Option<Suppression>>> {
        if !folded.iter().any(|address| self.suppressed_addresses.may_contain(address)) {
            return Ok(vec![None; folded.len()]);
        }
        let sender = (tenant, environment);
        self.read(move |connection| {
            let find = |folded: &String| suppressions::that_stops(connection, sender, folded, now);
            folded.iter().map(find).collect()
        })
        .await
    }

    async fn list_suppressions(
        &self,
        filter: SuppressionFilter,
        page: PageRequest,
    ) -> Result<Page<Suppression>> {
        self.read_slow(move |connection| suppressions::list(connection, &filter, &page)).await
    }

    async fn suppression(&self, scope: Option<TenantId>, id: SuppressionId) -> Result<Option<Suppression>> {
        self.read(move |connection| suppressions::find_in_scope(connection, scope, id)).await
    }

    async fn lift_suppression(
        &self,
        scope: Option<TenantId>,
        id: SuppressionId,
        now: Timestamp,
    ) -> Result<bool> {
        self.write(move |tx| suppressions::lift(tx, scope, id, now)).await
    }

    async fn create_template(&self, new: NewTemplate, now: Timestamp) -> Result<Template> {
        self.write(move |tx| templates::create(tx, &new, now)).await
    }

    async fn template(&self, scope: Option<TenantId>, id: TemplateId) -> Result<Option<Template>> {
        self.read(move |connection| templates::find_in_scope(connection, scope, id)).await
    }

    async fn list_templates(
        &self,
        filter: TemplateFilter,
        page: PageRequest,
    ) -> Result<Page<TemplateSummary>> {
        self.read_slow(move |connection| templates::list(connection, &filter, &page)).await
    }

    async fn update_template(
        &self,
        id: TemplateId,
        patch: TemplatePatch,
        now: Timestamp,
    ) -> Result<Option<Template>> {
        self.write(move |tx| templates::update(tx, id, &patch, now)).await
    }

    async fn delete_template(&self, scope: Option<TenantId>, id: TemplateId) -> Result<bool> {
        self.write(move |tx| templates::delete(tx, scope, id)).await
    }
}
