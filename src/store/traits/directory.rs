use crate::mail::{DomainName, Timestamp};
use crate::model::{
    DkimKeyId, DomainId, Environment, KeyId, SecretDigest, SuppressionId, TemplateId, TenantId,
};
use crate::store::dispatch::store_trait;
use crate::store::{
    DkimKey, Domain, DomainCheck, DomainFilter, DomainPatch, Key, KeyFilter, KeyPatch, NewDkimKey, NewDomain,
    NewKey, NewSuppression, NewTemplate, NewTenant, Page, PageRequest, Result, ScramCredential, Suppression,
    SuppressionFilter, Template, TemplateFilter, TemplatePatch, TemplateSummary, Tenant, TenantCounts,
    TenantFilter, TenantPatch,
};

store_trait! {
    /// Tenants, domains, keys and suppressions. A `tenant` argument of `Option<TenantId>` is the scope of the
    /// caller: `None` is the platform and sees all; a foreign object is as absent as one that never was.
    pub trait Directory {
        /// A number that changes whenever a tenant, a domain or a key changes through this store.
        fn directory_version(&self) -> u64;

        /// Adds a tenant. [`Conflict::Slug`](crate::store::Conflict::Slug).
        async fn create_tenant(&self, new: NewTenant, now: Timestamp) -> Result<Tenant>;
        /// One tenant.
        async fn tenant(&self, id: TenantId) -> Result<Option<Tenant>>;
        /// One tenant by its slug.
        async fn tenant_by_slug(&self, slug: &str) -> Result<Option<Tenant>>;
        /// A page of tenants, newest first.
        async fn list_tenants(&self, filter: TenantFilter, page: PageRequest) -> Result<Page<Tenant>>;
        /// Changes what the patch names; a change of status appends its event and wakes the relay. Where its mail goes to
        /// or comes from changes, what waits for another try is due ([`Queue::flush`](super::Queue::flush)).
        async fn update_tenant(
            &self,
            id: TenantId,
            patch: TenantPatch,
            now: Timestamp,
        ) -> Result<Option<Tenant>>;
        /// The smart host's password in clear, for the relay.
        async fn smart_host_password(&self, id: TenantId) -> Result<Option<String>>;
        /// Counts everything of a tenant. With `delete` suspends it and removes it, step by step so that the commits of
        /// others come between, and counts what was removed. Broken off, it leaves a suspended tenant: ask again.
        async fn remove_tenant(&self, id: TenantId, delete: bool) -> Result<Option<TenantCounts>>;

        /// Claims a domain for a tenant together with its first DKIM keys.
        /// [`Conflict::DomainExists`](crate::store::Conflict::DomainExists), [`Conflict::DomainTaken`](crate::store::Conflict::DomainTaken), [`Conflict::LimitReached`](crate::store::Conflict::LimitReached), [`Conflict::NoTenant`](crate::store::Conflict::NoTenant).
        async fn create_domain(&self, new: NewDomain, now: Timestamp) -> Result<Domain>;
        /// One domain.
        async fn domain(&self, scope: Option<TenantId>, id: DomainId) -> Result<Option<Domain>>;
        /// A page of domains, newest first.
        async fn list_domains(&self, filter: DomainFilter, page: PageRequest) -> Result<Page<Domain>>;
        /// The tenant's domains at or above a name, and for the test environment the platform's sandbox domain
        /// if the name is at or under it; the closest first.
        async fn domains_covering(
            &self,
            tenant: TenantId,
            environment: Environment,
            name: &DomainName,
        ) -> Result<Vec<Domain>>;
        /// Changes what the patch names. Turning to manual verification verifies the domain and lets its pending DKIM keys
        /// sign: [`Conflict::DomainTaken`](crate::store::Conflict::DomainTaken); the claims of others on it turn `taken`.
        async fn update_domain(
            &self,
            id: DomainId,
            patch: DomainPatch,
            now: Timestamp,
        ) -> Result<Option<Domain>>;
        /// Writes what a look at the DNS found, the status that follows from it and its event. Where the status
        /// becomes verified but another tenant was faster, the domain turns `taken` instead.
        async fn record_domain_check(&self, id: DomainId, check: DomainCheck) -> Result<Option<Domain>>;
        /// The tenants that have domains for [`Directory::domains_to_check`].
        async fn tenants_to_check(&self, before: Timestamp) -> Result<Vec<TenantId>>;
        /// A tenant's DNS-verified, pending and failing domains whose last check is older than `before`, the longest
        /// unchecked first.
        async fn domains_to_check(
            &self,
            tenant: TenantId,
            before: Timestamp,
            limit: usize,
        ) -> Result<Vec<Domain>>;
        /// Removes a domain and its keys. False if it was not there.
        async fn delete_domain(&self, id: DomainId) -> Result<bool>;
        /// The platform's domain for test senders, if it was made.
        async fn sandbox_domain(&self, name: &DomainName) -> Result<Option<Domain>>;
        /// The platform's domain for test senders; made with these keys if there is none of that name.
        async fn ensure_sandbox_domain(&self, new: NewDomain, now: Timestamp) -> Result<Domain>;

        /// Adds a DKIM key in state `state`. With `Active`, active ones of its algorithm start retiring.
        /// [`Conflict::Selector`](crate::store::Conflict::Selector).
        async fn add_dkim_key(&self, domain: DomainId, new: NewDkimKey, now: Timestamp) -> Result<DkimKey>;
        /// Removes DKIM keys that were replaced before a time, but those that sign what still waits; counts them.
        async fn remove_served_dkim_keys(&self, before: Timestamp) -> Result<u64>;
        /// The DKIM keys of a domain without their private halves, oldest first.
        async fn dkim_keys(&self, domain: DomainId) -> Result<Vec<DkimKey>>;
        /// The PKCS#8 form of a key's private half.
        async fn dkim_private_key(&self, id: DkimKeyId) -> Result<Option<zeroize::Zeroizing<Vec<u8>>>>;

        /// Adds a key; its secret is the caller's. Of a tenant that has as many as it may, the oldest revoked one makes
        /// room. [`Conflict::LimitReached`](crate::store::Conflict::LimitReached), [`Conflict::NoTenant`](crate::store::Conflict::NoTenant).
        async fn create_key(&self, new: NewKey, now: Timestamp) -> Result<Key>;
        /// One key.
        async fn key(&self, scope: Option<TenantId>, id: KeyId) -> Result<Option<Key>>;
        /// The key with this secret, and its tenant unless it is a platform key.
        async fn key_by_digest(&self, digest: SecretDigest) -> Result<Option<(Key, Option<Tenant>)>>;
        /// What a proof of the password of this user, a key's id or a tenant's slug, is held against. A user that is not
        /// there has something as well, with the same salt each time, so that the two cannot be told apart.
        async fn scram_credential(&self, username: &str) -> Result<ScramCredential>;
        /// A page of keys, newest first.
        async fn list_keys(&self, filter: KeyFilter, page: PageRequest) -> Result<Page<Key>>;
        /// Changes what the patch names.
        async fn update_key(&self, id: KeyId, patch: KeyPatch) -> Result<Option<Key>>;
        /// Revokes a key. False if it was not there; a second time changes nothing.
        async fn revoke_key(&self, id: KeyId, now: Timestamp) -> Result<bool>;
        /// Notes that a key was used; callers do so at most once a minute for a key.
        async fn touch_key(&self, id: KeyId, now: Timestamp) -> Result<()>;

        /// Suppresses an address, with its event; an existing suppression of the same scope is replaced and its id kept.
        /// [`Conflict::LimitReached`](crate::store::Conflict::LimitReached), which several callers at once may pass by a few.
        async fn suppress(&self, new: NewSuppression, now: Timestamp) -> Result<Suppression>;
        /// Suppresses many addresses as [`Directory::suppress`] does each: all of them in one transaction, or none.
        async fn suppress_all(&self, news: Vec<NewSuppression>, now: Timestamp) -> Result<Vec<Suppression>>;
        /// The suppression that stops this tenant from sending to an address ([`crate::mail::Address::folded`]):
        /// its own, else the platform's; an expired one stops nothing.
        async fn suppression_of(
            &self,
            tenant: TenantId,
            folded: &str,
            now: Timestamp,
        ) -> Result<Option<Suppression>>;
        /// A page of suppressions, newest first. A tenant's scope shows its own only.
        async fn list_suppressions(
            &self,
            filter: SuppressionFilter,
            page: PageRequest,
        ) -> Result<Page<Suppression>>;
        /// One suppression.
        async fn suppression(
            &self,
            scope: Option<TenantId>,
            id: SuppressionId,
        ) -> Result<Option<Suppression>>;
        /// Lifts a suppression, with its event. False if it was not there.
        async fn lift_suppression(
            &self,
            scope: Option<TenantId>,
            id: SuppressionId,
            now: Timestamp,
        ) -> Result<bool>;

        /// Adds a template. [`Conflict::TemplateName`](crate::store::Conflict::TemplateName), [`Conflict::LimitReached`](crate::store::Conflict::LimitReached), [`Conflict::NoTenant`](crate::store::Conflict::NoTenant).
        async fn create_template(&self, new: NewTemplate, now: Timestamp) -> Result<Template>;
        /// One template.
        async fn template(&self, scope: Option<TenantId>, id: TemplateId) -> Result<Option<Template>>;
        /// A page of templates without their bodies, newest first.
        async fn list_templates(&self, filter: TemplateFilter, page: PageRequest) -> Result<Page<TemplateSummary>>;
        /// Changes what the patch names. [`Conflict::TemplateName`](crate::store::Conflict::TemplateName).
        async fn update_template(
            &self,
            id: TemplateId,
            patch: TemplatePatch,
            now: Timestamp,
        ) -> Result<Option<Template>>;
        /// Removes a template. False if it was not there.
        async fn delete_template(&self, scope: Option<TenantId>, id: TemplateId) -> Result<bool>;
    }
}
