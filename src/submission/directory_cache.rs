//! What the store knows about who sends, remembered for a moment: a busy session asks the same for every message.

use std::sync::Arc;
use std::time::Duration;

use crate::dkim::{SignError, Signer};
use crate::limits::versioned_cache::VersionedCache;
use crate::mail::DomainName;
use crate::model::{DkimKeyState, DomainId, Environment, KeyId, TenantId};
use crate::policy::submission::SendingDomain;
use crate::store::{Directory, Domain, Key, Store, StoreError, Tenant};

/// Keys can be revoked by another process (`pillarbox key revoke`), which is noticed only by asking again.
const KEY_LIFETIME: Duration = Duration::from_secs(1);
/// Domains change through this process only, and each change is noticed at once.
const DOMAIN_LIFETIME: Duration = Duration::from_secs(60);
const ENTRIES_MAX: usize = 10_000;

/// Questions about senders, with a memory.
pub struct DirectoryCache {
    store: Arc<Store>,
    keys: VersionedCache<KeyId, Option<Arc<(Key, Tenant)>>>,
    covering: VersionedCache<(TenantId, Environment, DomainName), Arc<Vec<SendingDomain>>>,
    signers: VersionedCache<DomainId, Arc<Vec<Signer>>>,
}

/// Why there are no signers.
#[derive(Debug, thiserror::Error)]
pub enum SignersError {
    /// The store could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A stored key cannot be used.
    #[error(transparent)]
    Sign(#[from] SignError),
}

impl DirectoryCache {
    /// A memory of what `store` answers.
    pub fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            keys: VersionedCache::new(KEY_LIFETIME, ENTRIES_MAX),
            covering: VersionedCache::new(DOMAIN_LIFETIME, ENTRIES_MAX),
            signers: VersionedCache::new(DOMAIN_LIFETIME, ENTRIES_MAX),
        }
    }

    /// The key and its tenant as they are now.
    pub async fn key(&self, id: KeyId) -> Result<Option<Arc<(Key, Tenant)>>, StoreError> {
        let load = async {
            let Some(key) = self.store.key(None, id).await? else { return Ok(None) };
            let Some(tenant_id) = key.tenant_id else { return Ok(None) };
            let tenant = self.store.tenant(tenant_id).await?;
            Ok(tenant.map(|tenant| Arc::new((key, tenant))))
        };
        self.keys.get(id, self.store.directory_version(), load).await
    }

    /// The tenant's domains at or above a name, the closest first.
    pub async fn covering(
        &self,
        tenant: TenantId,
        environment: Environment,
        name: &DomainName,
    ) -> Result<Arc<Vec<SendingDomain>>, StoreError> {
        let load = async {
            let domains = self.store.domains_covering(tenant, environment, name).await?;
            Ok(Arc::new(domains.into_iter().map(SendingDomain::from).collect()))
        };
        let question = (tenant, environment, name.clone());
        self.covering.get(question, self.store.directory_version(), load).await
    }

    /// Signers with the active keys of a domain.
    pub async fn signers(&self, domain: &SendingDomain) -> Result<Arc<Vec<Signer>>, SignersError> {
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
        self.signers.get(domain.id, self.store.directory_version(), load).await
    }
}

impl From<Domain> for SendingDomain {
    fn from(domain: Domain) -> Self {
        Self { id: domain.id, name: domain.name, status: domain.status, subdomains: domain.subdomains }
    }
}
