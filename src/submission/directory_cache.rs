//! A cache of keys, domains and signers. A busy session needs the same ones for every message, and so does a client that
//! connects anew for each.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::config::ReturnPath;
use crate::dkim::{SignError, Signer};
use crate::limits::versioned_cache::VersionedCache;
use crate::mail::DomainName;
use crate::model::{DkimKeyState, DomainId, KeyId, SecretDigest, TenantId};
use crate::policy::admission::SendingDomain;
use crate::store::{DEFAULT_TENANT, Directory, Domain, Key, Store, StoreError, Tenant};

/// Another process can revoke keys (`pillarbox key revoke`), which only a new query detects.
const KEY_LIFETIME: Duration = Duration::from_secs(1);
/// Domains change through this process only, which invalidates the cache immediately.
const DOMAIN_LIFETIME: Duration = Duration::from_secs(60);
const ENTRIES_MAX: usize = 10_000;

/// A key and the tenant that it sends for.
pub type KeyAndTenant = (Arc<Key>, Arc<Tenant>);

/// A key with the secret of a login, and the tenant that owns it; `None` is the platform.
pub type KeyAndOwner = (Arc<Key>, Option<Arc<Tenant>>);

/// Cached queries of the directory.
pub struct DirectoryCache {
    store: Arc<Store>,
    /// The defaults of return paths; `None` if the server receives no reports.
    return_path: Option<ReturnPath>,
    keys: VersionedCache<(KeyId, Option<TenantId>), Option<KeyAndTenant>>,
    covering: VersionedCache<(TenantId, DomainName), Arc<Vec<SendingDomain>>>,
    secrets: VersionedCache<SecretDigest, KeyAndOwner>,
    signers: VersionedCache<DomainId, Arc<Vec<Signer>>>,
    /// The number of calls of [`DirectoryCache::key`].
    #[cfg(test)]
    pub key_lookups: std::sync::atomic::AtomicUsize,
}

/// Why signers are unavailable.
#[derive(Debug, thiserror::Error)]
pub enum SignersError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A stored key is unusable.
    #[error(transparent)]
    Sign(#[from] SignError),
}

impl DirectoryCache {
    /// An empty cache in front of `store`. `return_path` is absent if the server receives no reports.
    pub fn new(store: Arc<Store>, return_path: Option<ReturnPath>, clock: &Clock) -> Self {
        Self {
            store,
            return_path,
            keys: VersionedCache::new(clock.clone(), KEY_LIFETIME, ENTRIES_MAX),
            secrets: VersionedCache::new(clock.clone(), KEY_LIFETIME, ENTRIES_MAX),
            covering: VersionedCache::new(clock.clone(), DOMAIN_LIFETIME, ENTRIES_MAX),
            signers: VersionedCache::new(clock.clone(), DOMAIN_LIFETIME, ENTRIES_MAX),
            #[cfg(test)]
            key_lookups: Default::default(),
        }
    }

    /// The current key and the tenant that it sends for: its own. A platform key sends for `chosen`, else for the default
    /// tenant.
    pub async fn key(&self, id: KeyId, chosen: Option<TenantId>) -> Result<Option<KeyAndTenant>, StoreError> {
        #[cfg(test)]
        self.key_lookups.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let load = async {
            let Some(key) = self.store.key(None, id).await? else { return Ok(None) };
            let tenant = match key.tenant_id.or(chosen) {
                Some(tenant_id) => self.store.tenant(tenant_id).await?,
                None => self.store.tenant_by_slug(DEFAULT_TENANT).await?,
            };
            Ok(tenant.map(|tenant| (Arc::new(key), Arc::new(tenant))))
        };
        // Without a key, any change may concern it.
        let last_change = |found: &Option<KeyAndTenant>| match found {
            Some((key, tenant)) => {
                let of_key = self.store.version_of_owner(key.tenant_id);
                of_key.max(self.store.version_of_owner(Some(tenant.id)))
            }
            None => self.store.directory_version(),
        };
        self.keys.get((id, chosen), self.store.directory_version(), last_change, load).await
    }

    /// The key with this secret, and its owner. Unknown secrets are not cached: guesses would evict valid ones.
    pub async fn key_of_secret(&self, secret: SecretDigest) -> Result<Option<KeyAndOwner>, StoreError> {
        let load = async {
            let found = self.store.key_by_digest(secret).await.map_err(Some)?;
            if found.is_none() {
                self.secrets.remove(&secret);
            }
            let (key, owner) = found.ok_or(None)?;
            Ok((Arc::new(key), owner.map(Arc::new)))
        };
        let last_change = |found: &KeyAndOwner| self.store.version_of_owner(found.0.tenant_id);
        match self.secrets.get(secret, self.store.directory_version(), last_change, load).await {
            Ok(found) => Ok(Some(found)),
            Err(None) => Ok(None),
            Err(Some(error)) => Err(error),
        }
    }

    /// Whether a key had this secret when the secret was last looked up.
    pub fn knew_secret(&self, secret: SecretDigest) -> bool {
        self.secrets.contains(&secret)
    }

    /// The domains equal to or above a name that decide whether the tenant may send from it, the most specific first.
    pub async fn covering(
        &self,
        tenant: TenantId,
        name: &DomainName,
    ) -> Result<Arc<Vec<SendingDomain>>, StoreError> {
        let load = async {
            let domains = self.store.domains_covering(tenant, name).await?;
            Ok(Arc::new(domains.into_iter().map(|domain| self.describe(domain, tenant)).collect()))
        };
        let last_change =
            |_: &_| self.store.version_of_owner(Some(tenant)).max(self.store.version_of_name(name));
        let cache_key = (tenant, name.clone());
        self.covering.get(cache_key, self.store.directory_version(), last_change, load).await
    }

    /// Signers for the active keys of a domain of the tenant, or of the sandbox domain.
    pub async fn signers(
        &self,
        tenant: TenantId,
        domain: &SendingDomain,
    ) -> Result<Arc<Vec<Signer>>, SignersError> {
        let load = async {
            let mut signers = Vec::new();
            for key in self.store.dkim_keys(domain.id).await? {
                if key.state != DkimKeyState::Active {
                    continue;
                }
                let Some(private) = self.store.dkim_private_key(key.id).await? else { continue };
                signers.push(Signer::new(key.algorithm, &private, &domain.name, &key.selector)?);
            }
            Ok(Arc::new(signers))
        };
        let owner = (!domain.is_sandbox).then_some(tenant);
        let last_change = |_: &_| self.store.version_of_owner(owner);
        self.signers.get(domain.id, self.store.directory_version(), last_change, load).await
    }

    fn describe(&self, domain: Domain, tenant: TenantId) -> SendingDomain {
        let return_path = self.return_path.as_ref();
        SendingDomain {
            return_host: return_path.and_then(|path| domain.active_return_host(path.mode, &path.label)),
            id: domain.id,
            name: domain.name,
            status: domain.status,
            subdomains: domain.subdomains,
            is_foreign: domain.tenant_id.is_some_and(|owner| owner != tenant),
            is_sandbox: domain.tenant_id.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Timestamp;
    use crate::model::{Environment, KeySecret};
    use crate::store::{NewKey, NewTenant, SqliteOptions};

    struct Fixture {
        _dir: tempfile::TempDir,
        store: Arc<Store>,
        clock: Clock,
        cache: DirectoryCache,
        tenant: TenantId,
        key: KeyId,
        secret: SecretDigest,
    }

    impl Fixture {
        async fn make() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store = Arc::new(Store::open(SqliteOptions::at(dir.path())).await.unwrap());
            let tenant =
                store.create_tenant(NewTenant::named("acme", "acme"), Timestamp::now()).await.unwrap().id;
            let secret = KeySecret::generate(Environment::Live);
            let new = NewKey {
                tenant_id: Some(tenant),
                name: "app".into(),
                environment: Environment::Live,
                scopes: Vec::new(),
                allowed_domain_ids: Vec::new(),
                allowed_cidrs: Vec::new(),
                expires_at: None,
                stored_secret: secret.stored_secret(),
            };
            let key = store.create_key(new, Timestamp::now()).await.unwrap().id;
            let clock = Clock::adjustable();
            let cache = DirectoryCache::new(store.clone(), None, &clock);
            Self { _dir: dir, store, clock, cache, tenant, key, secret: secret.digest() }
        }

        async fn log_in(&self) -> Arc<Key> {
            self.cache.key_of_secret(self.secret).await.unwrap().unwrap().0
        }
    }

    #[tokio::test]
    async fn the_key_of_a_secret_is_queried_once_a_second_and_after_a_change() {
        let fixture = Fixture::make().await;
        let mut first = fixture.log_in().await;
        // On a busy machine a second can pass in between.
        for _ in 0..50 {
            let next = fixture.log_in().await;
            if Arc::ptr_eq(&first, &next) {
                fixture.clock.advance(KEY_LIFETIME);
                assert!(!Arc::ptr_eq(&next, &fixture.log_in().await));
                assert!(fixture.store.revoke_key(fixture.key, Timestamp::now()).await.unwrap());
                assert!(fixture.log_in().await.revoked_at.is_some());
                return;
            }
            first = next;
        }
        panic!("each login queried the key");
    }

    #[tokio::test]
    async fn only_the_secrets_of_keys_are_known() {
        let fixture = Fixture::make().await;
        let unknown = KeySecret::generate(Environment::Live).digest();
        assert!(!fixture.cache.knew_secret(fixture.secret));
        assert!(fixture.cache.key_of_secret(unknown).await.unwrap().is_none());
        assert!(!fixture.cache.knew_secret(unknown));
        fixture.log_in().await;
        assert!(fixture.cache.knew_secret(fixture.secret));
        fixture.store.remove_tenant(fixture.tenant, Timestamp::now()).await.unwrap().unwrap();
        assert!(fixture.cache.key_of_secret(fixture.secret).await.unwrap().is_none());
        assert!(!fixture.cache.knew_secret(fixture.secret));
    }
}
