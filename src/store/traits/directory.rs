use zeroize::Zeroizing;

use crate::mail::{DomainName, Timestamp};
use crate::model::{
    DkimKeyId, DomainId, Environment, KeyId, ListName, SecretDigest, SuppressionId, TemplateId, TenantId,
};
use crate::store::traits::store_trait;
use crate::store::{
    DkimKey, Domain, DomainCheck, DomainFilter, DomainPatch, Key, KeyFilter, KeyPatch, NewDkimKey, NewDomain,
    NewKey, NewSuppression, NewTemplate, NewTenant, Page, PageRequest, Result, ScramCredential,
    SecretRotation, Suppression, SuppressionFilter, Template, TemplateFilter, TemplatePatch, TemplateSummary,
    Tenant, TenantCounts, TenantFilter, TenantPatch,
};

store_trait! {
    /// Tenants, domains, keys, suppressions and templates. A `scope` is that of the caller: `None` is the platform and sees
    /// all objects; an object of another tenant looks like one that does not exist.
    pub trait Directory {
        /// The number of changes of tenants, domains and keys through this store. What was read after version `v` is current
        /// as long as [`Directory::version_of_owner`] is at most `v`, for domains also [`Directory::version_of_name`].
        fn directory_version(&self) -> u64;
        /// The version after the last change of a tenant, its keys, domains or DKIM keys, or of those of the platform.
        fn version_of_owner(&self, owner: Option<TenantId>) -> u64;
        /// The version after the last change of who has verified the domain or one above it.
        fn version_of_name(&self, name: &DomainName) -> u64;
        /// Whether an address may have been suppressed since a message of the tenant was accepted, for the tenant or for all.
        /// If not, nobody has to be asked about its recipients.
        fn may_have_suppressed_since(&self, tenant: TenantId, accepted_at: Timestamp) -> bool;

        /// Creates a tenant. Fails with [`Conflict::Slug`](crate::store::Conflict::Slug), [`Conflict::ExternalRef`](crate::store::Conflict::ExternalRef).
        async fn create_tenant(&self, new: NewTenant, now: Timestamp) -> Result<Tenant>;
        /// Creates the tenant with the slug [`DEFAULT_TENANT`](crate::store::DEFAULT_TENANT) at the first call for this store,
        /// unless the slug is in use. Later calls change nothing, also if that tenant was renamed or deleted.
        async fn ensure_default_tenant(&self, now: Timestamp) -> Result<()>;
        /// Creates a tenant with its first domain, or neither. Fails like [`Directory::create_tenant`] and
        /// [`Directory::create_domain`].
        async fn create_tenant_with_domain(
            &self,
            new: NewTenant,
            domain: Option<NewDomain>,
            now: Timestamp,
        ) -> Result<(Tenant, Option<Domain>)>;
        /// One tenant.
        async fn tenant(&self, id: TenantId) -> Result<Option<Tenant>>;
        /// One tenant by its slug.
        async fn tenant_by_slug(&self, slug: &str) -> Result<Option<Tenant>>;
        /// A page of tenants, newest first.
        async fn list_tenants(&self, filter: TenantFilter, page: PageRequest) -> Result<Page<Tenant>>;
        /// Applies a patch. A change of status appends an event and wakes the relay. If the smart host or the source pool
        /// changes, deferred mail of the tenant becomes due ([`Queue::flush`](super::Queue::flush)).
        async fn update_tenant(
            &self,
            id: TenantId,
            patch: TenantPatch,
            now: Timestamp,
        ) -> Result<Option<Tenant>>;
        /// The decrypted password of the smart host.
        async fn smart_host_password(&self, id: TenantId) -> Result<Option<Zeroizing<String>>>;
        /// Counts the objects of a tenant.
        async fn count_tenant_objects(&self, id: TenantId) -> Result<Option<TenantCounts>>;
        /// Suspends a tenant and deletes it with its objects in steps between which others commit. The event of the deletion
        /// stays. An interrupted deletion leaves a suspended tenant; call again to finish it. Fails with
        /// [`Conflict::NotDeletable`](crate::store::Conflict::NotDeletable).
        async fn remove_tenant(&self, id: TenantId, now: Timestamp) -> Result<Option<TenantCounts>>;

        /// Creates a domain with its first DKIM keys. Fails with
        /// [`Conflict::DomainExists`](crate::store::Conflict::DomainExists), [`Conflict::DomainTaken`](crate::store::Conflict::DomainTaken), [`Conflict::LimitReached`](crate::store::Conflict::LimitReached), [`Conflict::NoTenant`](crate::store::Conflict::NoTenant).
        async fn create_domain(&self, new: NewDomain, now: Timestamp) -> Result<Domain>;
        /// One domain.
        async fn domain(&self, scope: Option<TenantId>, id: DomainId) -> Result<Option<Domain>>;
        /// A page of domains, newest first.
        async fn list_domains(&self, filter: DomainFilter, page: PageRequest) -> Result<Page<Domain>>;
        /// The domains at or above a name that decide whether a tenant may send from it, the closest first: its own, those that
        /// other tenants have verified, and the sandbox domain of the platform.
        async fn domains_covering(
            &self,
            tenant: TenantId,
            name: &DomainName,
        ) -> Result<Vec<Domain>>;
        /// Applies a patch. Manual verification verifies the domain, activates its pending DKIM keys and sets the same domain
        /// of other tenants to `taken`. Fails with [`Conflict::DomainTaken`](crate::store::Conflict::DomainTaken).
        async fn update_domain(
            &self,
            id: DomainId,
            patch: DomainPatch,
            now: Timestamp,
        ) -> Result<Option<Domain>>;
        /// Writes the result of a DNS check with the new status and its event. If another tenant verified the domain first,
        /// the status is `taken`.
        async fn record_domain_check(&self, id: DomainId, check: DomainCheck) -> Result<Option<Domain>>;
        /// The tenants with domains for [`Directory::domains_to_check`].
        async fn tenants_to_check(&self, before: Timestamp) -> Result<Vec<TenantId>>;
        /// When the domain of [`Directory::tenants_to_check`] whose last check is the oldest was checked; `None` if there is no
        /// such domain that was checked.
        async fn oldest_domain_check(&self) -> Result<Option<Timestamp>>;
        /// A tenant's domains with DNS verification that were last checked before a time, the oldest check first.
        async fn domains_to_check(
            &self,
            tenant: TenantId,
            before: Timestamp,
            limit: usize,
        ) -> Result<Vec<Domain>>;
        /// Deletes a domain and its DKIM keys, with an event, and removes it from `allowed_domain_ids` of keys, which stay restricted. False if
        /// it did not exist.
        async fn delete_domain(&self, id: DomainId, now: Timestamp) -> Result<bool>;
        /// The sandbox domain of the platform.
        async fn sandbox_domain(&self, name: &DomainName) -> Result<Option<Domain>>;
        /// The sandbox domain of the platform; created with these keys if it does not exist.
        async fn ensure_sandbox_domain(&self, new: NewDomain, now: Timestamp) -> Result<Domain>;

        /// Adds a DKIM key in its state. An active key retires the active keys of the same algorithm. `None` if the domain does
        /// not exist. Fails with [`Conflict::Selector`](crate::store::Conflict::Selector), [`Conflict::TooManyDkimKeys`](crate::store::Conflict::TooManyDkimKeys).
        async fn add_dkim_key(
            &self,
            domain: DomainId,
            new: NewDkimKey,
            now: Timestamp,
        ) -> Result<Option<DkimKey>>;
        /// The DKIM key of the same algorithm that still waits for its first record; without one, adds this key as
        /// [`Directory::add_dkim_key`] does.
        async fn ensure_pending_dkim_key(
            &self,
            domain: DomainId,
            new: NewDkimKey,
            now: Timestamp,
        ) -> Result<Option<DkimKey>>;
        /// Deletes DKIM keys that were retired before a time, except those that signed mail that still waits. Returns their
        /// number.
        async fn delete_retired_dkim_keys(&self, before: Timestamp) -> Result<u64>;
        /// The public parts of the DKIM keys of a domain, oldest first.
        async fn dkim_keys(&self, domain: DomainId) -> Result<Vec<DkimKey>>;
        /// The same for each of several domains.
        async fn dkim_keys_of(&self, domains: Vec<DomainId>) -> Result<Vec<Vec<DkimKey>>>;
        /// The private key in PKCS#8.
        async fn dkim_private_key(&self, id: DkimKeyId) -> Result<Option<zeroize::Zeroizing<Vec<u8>>>>;

        /// Creates a key. At the limit, the oldest revoked key of the tenant is deleted. Fails with
        /// [`Conflict::LimitReached`](crate::store::Conflict::LimitReached), [`Conflict::NoTenant`](crate::store::Conflict::NoTenant).
        async fn create_key(&self, new: NewKey, now: Timestamp) -> Result<Key>;
        /// One key.
        async fn key(&self, scope: Option<TenantId>, id: KeyId) -> Result<Option<Key>>;
        /// The key with this secret, and its tenant unless it is a platform key.
        async fn key_by_digest(&self, digest: SecretDigest) -> Result<Option<(Key, Option<Tenant>)>>;
        /// The SCRAM verifier of a user name: the id of a key, or the slug of a tenant with one usable key. An unknown user gets
        /// a verifier too, with the same salt each time, so that clients cannot find out which users exist.
        async fn scram_credential(&self, username: &str, now: Timestamp) -> Result<ScramCredential>;
        /// A page of keys, newest first.
        async fn list_keys(&self, filter: KeyFilter, page: PageRequest) -> Result<Page<Key>>;
        /// Applies a patch.
        async fn update_key(&self, id: KeyId, patch: KeyPatch, now: Timestamp) -> Result<Option<Key>>;
        /// Gives a key a new secret. The present one works on for a time, and so do earlier ones, at most as long. Appends
        /// an event. Fails with [`Conflict::KeyNotActive`](crate::store::Conflict::KeyNotActive).
        async fn rotate_key(&self, id: KeyId, rotation: SecretRotation, now: Timestamp) -> Result<Option<Key>>;
        /// Appends the events of keys that expire soon, each once. Returns their number.
        async fn append_key_expiries(&self, now: Timestamp) -> Result<u64>;
        /// Revokes a key. False if it does not exist; repeated calls change nothing.
        async fn revoke_key(&self, id: KeyId, now: Timestamp) -> Result<bool>;
        /// Records the use of a key, at most once a minute for each key. Never waits for the disk: it is dropped if too many writes
        /// are pending.
        fn touch_key(&self, id: KeyId, now: Timestamp);

        /// Suppresses an address and appends the event. A suppression of the same address, scope and environment is replaced and keeps its
        /// id. Fails with [`Conflict::LimitReached`](crate::store::Conflict::LimitReached); concurrent callers may exceed the limit by a few.
        async fn suppress(&self, new: NewSuppression, now: Timestamp) -> Result<Suppression>;
        /// Suppresses many addresses in one transaction, each as [`Directory::suppress`] does.
        async fn suppress_all(&self, news: Vec<NewSuppression>, now: Timestamp) -> Result<Vec<Suppression>>;
        /// The suppression that forbids a tenant to send to an address ([`crate::mail::Address::folded`]) in an environment:
        /// its own, else the platform's. Expired ones are ignored.
        async fn suppression_of(
            &self,
            tenant: TenantId,
            environment: Environment,
            folded: &str,
            now: Timestamp,
        ) -> Result<Option<Suppression>>;
        /// The suppression that stops mail of a list: of every list or of this one. Expired ones are ignored.
        async fn list_suppression_of(
            &self,
            tenant: TenantId,
            environment: Environment,
            folded: &str,
            list: &ListName,
            now: Timestamp,
        ) -> Result<Option<Suppression>>;
        /// As [`Directory::suppression_of`], for several addresses of one message, in their order.
        async fn suppressions_of(
            &self,
            tenant: TenantId,
            environment: Environment,
            folded: Vec<String>,
            now: Timestamp,
        ) -> Result<Vec<Option<Suppression>>>;
        /// A page of suppressions, newest first. A tenant sees only its own.
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
        /// Deletes a suppression and appends the event. False if it did not exist.
        async fn lift_suppression(
            &self,
            scope: Option<TenantId>,
            id: SuppressionId,
            now: Timestamp,
        ) -> Result<bool>;

        /// Creates a template. Fails with [`Conflict::TemplateName`](crate::store::Conflict::TemplateName), [`Conflict::LimitReached`](crate::store::Conflict::LimitReached), [`Conflict::NoTenant`](crate::store::Conflict::NoTenant).
        async fn create_template(&self, new: NewTemplate, now: Timestamp) -> Result<Template>;
        /// One template.
        async fn template(&self, scope: Option<TenantId>, id: TemplateId) -> Result<Option<Template>>;
        /// A page of templates without their bodies, newest first.
        async fn list_templates(&self, filter: TemplateFilter, page: PageRequest) -> Result<Page<TemplateSummary>>;
        /// Applies a patch. Fails with [`Conflict::TemplateName`](crate::store::Conflict::TemplateName).
        async fn update_template(
            &self,
            id: TemplateId,
            patch: TemplatePatch,
            now: Timestamp,
        ) -> Result<Option<Template>>;
        /// Deletes a template. False if it did not exist.
        async fn delete_template(&self, scope: Option<TenantId>, id: TemplateId) -> Result<bool>;
    }
}
