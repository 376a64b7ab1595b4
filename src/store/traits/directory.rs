use std::future::Future;

use crate::mail::{DomainName, Timestamp};
use crate::model::{
    DkimKeyId, DomainId, Environment, KeyId, SecretDigest, SuppressionId, TemplateId, TenantId,
};
use crate::store::{
    DkimKey, Domain, DomainCheck, DomainFilter, DomainPatch, Key, KeyFilter, KeyPatch, NewDkimKey, NewDomain,
    NewKey, NewSuppression, NewTemplate, NewTenant, Page, PageRequest, Result, ScramCredential, Suppression,
    SuppressionFilter, Template, TemplateFilter, TemplatePatch, Tenant, TenantCounts, TenantFilter,
    TenantPatch,
};

/// Tenants, domains, keys and suppressions. A `tenant` argument of `Option<TenantId>` is the scope of the
/// caller: `None` is the platform and sees all; a foreign object is as absent as one that never was.
pub trait Directory {
    /// A number that changes whenever a tenant, a domain or a key changes through this store.
    fn directory_version(&self) -> u64;

    /// Adds a tenant. [`Conflict::Slug`](crate::store::Conflict::Slug).
    fn create_tenant(&self, new: NewTenant, now: Timestamp) -> impl Future<Output = Result<Tenant>> + Send;
    /// One tenant.
    fn tenant(&self, id: TenantId) -> impl Future<Output = Result<Option<Tenant>>> + Send;
    /// One tenant by its slug.
    fn tenant_by_slug(&self, slug: &str) -> impl Future<Output = Result<Option<Tenant>>> + Send;
    /// A page of tenants, newest first.
    fn list_tenants(
        &self,
        filter: TenantFilter,
        page: PageRequest,
    ) -> impl Future<Output = Result<Page<Tenant>>> + Send;
    /// Changes what the patch names; a change of status appends its event and wakes the relay. Where its mail goes to
    /// or comes from changes, what waits for another try is due ([`Queue::flush`](super::Queue::flush)).
    fn update_tenant(
        &self,
        id: TenantId,
        patch: TenantPatch,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<Tenant>>> + Send;
    /// The smart host's password in clear, for the relay.
    fn smart_host_password(&self, id: TenantId) -> impl Future<Output = Result<Option<String>>> + Send;
    /// Counts everything of a tenant. With `delete` suspends it and removes it, step by step so that the commits of
    /// others come between, and counts what was removed. Broken off, it leaves a suspended tenant: ask again.
    fn remove_tenant(
        &self,
        id: TenantId,
        delete: bool,
    ) -> impl Future<Output = Result<Option<TenantCounts>>> + Send;

    /// Claims a domain for a tenant together with its first DKIM keys.
    /// [`Conflict::DomainExists`](crate::store::Conflict::DomainExists), [`Conflict::DomainTaken`](crate::store::Conflict::DomainTaken), [`Conflict::LimitReached`](crate::store::Conflict::LimitReached), [`Conflict::NoTenant`](crate::store::Conflict::NoTenant).
    fn create_domain(&self, new: NewDomain, now: Timestamp) -> impl Future<Output = Result<Domain>> + Send;
    /// One domain.
    fn domain(
        &self,
        scope: Option<TenantId>,
        id: DomainId,
    ) -> impl Future<Output = Result<Option<Domain>>> + Send;
    /// A page of domains, newest first.
    fn list_domains(
        &self,
        filter: DomainFilter,
        page: PageRequest,
    ) -> impl Future<Output = Result<Page<Domain>>> + Send;
    /// The tenant's domains at or above a name, and for the test environment the platform's sandbox domain
    /// if the name is at or under it; the closest first.
    fn domains_covering(
        &self,
        tenant: TenantId,
        environment: Environment,
        name: &DomainName,
    ) -> impl Future<Output = Result<Vec<Domain>>> + Send;
    /// Changes what the patch names. Turning to manual verification verifies the domain and lets its pending DKIM keys
    /// sign: [`Conflict::DomainTaken`](crate::store::Conflict::DomainTaken); the claims of others on it turn `taken`.
    fn update_domain(
        &self,
        id: DomainId,
        patch: DomainPatch,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<Domain>>> + Send;
    /// Writes what a look at the DNS found, the status that follows from it and its event. Where the status
    /// becomes verified but another tenant was faster, the domain turns `taken` instead.
    fn record_domain_check(
        &self,
        id: DomainId,
        check: DomainCheck,
    ) -> impl Future<Output = Result<Option<Domain>>> + Send;
    /// The tenants that have domains for [`Directory::domains_to_check`].
    fn tenants_to_check(&self, before: Timestamp) -> impl Future<Output = Result<Vec<TenantId>>> + Send;
    /// A tenant's DNS-verified, pending and failing domains whose last check is older than `before`, the longest
    /// unchecked first.
    fn domains_to_check(
        &self,
        tenant: TenantId,
        before: Timestamp,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Domain>>> + Send;
    /// Removes a domain and its keys. False if it was not there.
    fn delete_domain(&self, id: DomainId) -> impl Future<Output = Result<bool>> + Send;
    /// The platform's domain for test senders, if it was made.
    fn sandbox_domain(&self, name: &DomainName) -> impl Future<Output = Result<Option<Domain>>> + Send;
    /// The platform's domain for test senders; made with these keys if there is none of that name.
    fn ensure_sandbox_domain(
        &self,
        new: NewDomain,
        now: Timestamp,
    ) -> impl Future<Output = Result<Domain>> + Send;

    /// Adds a DKIM key in state `state`. With `Active`, active ones of its algorithm start retiring.
    /// [`Conflict::Selector`](crate::store::Conflict::Selector).
    fn add_dkim_key(
        &self,
        domain: DomainId,
        new: NewDkimKey,
        now: Timestamp,
    ) -> impl Future<Output = Result<DkimKey>> + Send;
    /// Removes DKIM keys that were replaced before a time, but those that sign what still waits; counts them.
    fn remove_served_dkim_keys(&self, before: Timestamp) -> impl Future<Output = Result<u64>> + Send;
    /// The DKIM keys of a domain without their private halves, oldest first.
    fn dkim_keys(&self, domain: DomainId) -> impl Future<Output = Result<Vec<DkimKey>>> + Send;
    /// The PKCS#8 form of a key's private half.
    fn dkim_private_key(
        &self,
        id: DkimKeyId,
    ) -> impl Future<Output = Result<Option<zeroize::Zeroizing<Vec<u8>>>>> + Send;

    /// Adds a key; its secret is the caller's. Of a tenant that has as many as it may, the oldest revoked one makes
    /// room. [`Conflict::LimitReached`](crate::store::Conflict::LimitReached), [`Conflict::NoTenant`](crate::store::Conflict::NoTenant).
    fn create_key(&self, new: NewKey, now: Timestamp) -> impl Future<Output = Result<Key>> + Send;
    /// One key.
    fn key(&self, scope: Option<TenantId>, id: KeyId) -> impl Future<Output = Result<Option<Key>>> + Send;
    /// The key with this secret, and its tenant unless it is a platform key.
    fn key_by_digest(
        &self,
        digest: SecretDigest,
    ) -> impl Future<Output = Result<Option<(Key, Option<Tenant>)>>> + Send;
    /// What a proof of the password of this user, a key's id or a tenant's slug, is held against. A user that is not
    /// there has something as well, with the same salt each time, so that the two cannot be told apart.
    fn scram_credential(&self, username: &str) -> impl Future<Output = Result<ScramCredential>> + Send;
    /// A page of keys, newest first.
    fn list_keys(
        &self,
        filter: KeyFilter,
        page: PageRequest,
    ) -> impl Future<Output = Result<Page<Key>>> + Send;
    /// Changes what the patch names.
    fn update_key(&self, id: KeyId, patch: KeyPatch) -> impl Future<Output = Result<Option<Key>>> + Send;
    /// Revokes a key. False if it was not there; a second time changes nothing.
    fn revoke_key(&self, id: KeyId, now: Timestamp) -> impl Future<Output = Result<bool>> + Send;
    /// Notes that a key was used; callers do so at most once a minute for a key.
    fn touch_key(&self, id: KeyId, now: Timestamp) -> impl Future<Output = Result<()>> + Send;

    /// Suppresses an address, with its event; an existing suppression of the same scope is replaced and its id kept.
    /// [`Conflict::LimitReached`](crate::store::Conflict::LimitReached), which several callers at once may pass by a few.
    fn suppress(
        &self,
        new: NewSuppression,
        now: Timestamp,
    ) -> impl Future<Output = Result<Suppression>> + Send;
    /// Suppresses many addresses as [`Directory::suppress`] does each: all of them in one transaction, or none.
    fn suppress_all(
        &self,
        news: Vec<NewSuppression>,
        now: Timestamp,
    ) -> impl Future<Output = Result<Vec<Suppression>>> + Send;
    /// The suppression that stops this tenant from sending to an address ([`crate::mail::Address::folded`]):
    /// its own, else the platform's; an expired one stops nothing.
    fn suppression_of(
        &self,
        tenant: TenantId,
        folded: &str,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<Suppression>>> + Send;
    /// A page of suppressions, newest first. A tenant's scope shows its own only.
    fn list_suppressions(
        &self,
        filter: SuppressionFilter,
        page: PageRequest,
    ) -> impl Future<Output = Result<Page<Suppression>>> + Send;
    /// One suppression.
    fn suppression(
        &self,
        scope: Option<TenantId>,
        id: SuppressionId,
    ) -> impl Future<Output = Result<Option<Suppression>>> + Send;
    /// Lifts a suppression, with its event. False if it was not there.
    fn lift_suppression(
        &self,
        scope: Option<TenantId>,
        id: SuppressionId,
        now: Timestamp,
    ) -> impl Future<Output = Result<bool>> + Send;

    /// Adds a template. [`Conflict::TemplateName`](crate::store::Conflict::TemplateName), [`Conflict::LimitReached`](crate::store::Conflict::LimitReached), [`Conflict::NoTenant`](crate::store::Conflict::NoTenant).
    fn create_template(
        &self,
        new: NewTemplate,
        now: Timestamp,
    ) -> impl Future<Output = Result<Template>> + Send;
    /// One template.
    fn template(
        &self,
        scope: Option<TenantId>,
        id: TemplateId,
    ) -> impl Future<Output = Result<Option<Template>>> + Send;
    /// A page of templates, newest first.
    fn list_templates(
        &self,
        filter: TemplateFilter,
        page: PageRequest,
    ) -> impl Future<Output = Result<Page<Template>>> + Send;
    /// Changes what the patch names. [`Conflict::TemplateName`](crate::store::Conflict::TemplateName).
    fn update_template(
        &self,
        id: TemplateId,
        patch: TemplatePatch,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<Template>>> + Send;
    /// Removes a template. False if it was not there.
    fn delete_template(
        &self,
        scope: Option<TenantId>,
        id: TemplateId,
    ) -> impl Future<Output = Result<bool>> + Send;
}
