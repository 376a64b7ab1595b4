//! How a message reaches its destination: the tenant's smart host, else the platform's, else the MX.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use zeroize::Zeroizing;

use super::RelayError;
use crate::config;
use crate::mail::{Environment, Host, TenantId, TlsMode};
use crate::smtp::client::Login;
use crate::store::{Batch, Directory, SmartHost, Store, StoreError};

/// Above it the cache starts anew; each entry costs one look-up.
const TENANTS_MAX: usize = 10_000;

/// What connections, limits and idle connections belong to: mail of two lanes never shares a connection, so no
/// tenant's account ever carries another's mail.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Mail of the test environment, which stays here.
    Sandbox(TenantId),
    /// The hosts that take mail for a domain.
    Mx(Host),
    /// The smart host of the configuration.
    PlatformSmartHost,
    /// A tenant's own smart host with its account.
    TenantSmartHost(TenantId, Arc<SmartHost>),
}

/// A smart host, and how to log in there.
#[derive(Debug, Clone)]
pub struct SmartHostRoute {
    /// A host name or an IP address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is secured.
    pub tls: TlsMode,
    /// The account.
    pub login: Option<Login>,
    /// Whether it may be in a private network: only the configuration says so.
    pub trusted: bool,
}

/// Finds routes.
pub struct Router {
    store: Arc<Store>,
    platform: Option<SmartHostRoute>,
    tenants: Mutex<Tenants>,
}

/// The smart hosts of tenants, as they were in one version of the directory.
#[derive(Default)]
struct Tenants {
    version: u64,
    smart_hosts: HashMap<TenantId, Option<Arc<SmartHost>>>,
}

impl Router {
    /// Reads the password of the platform's smart host.
    ///
    /// # Errors
    /// [`RelayError::PasswordFile`].
    pub fn new(
        store: Arc<Store>,
        smart_host: Option<&config::PlatformSmartHost>,
    ) -> Result<Self, RelayError> {
        let platform = smart_host.map(read_platform_route).transpose()?;
        Ok(Self { store, platform, tenants: Mutex::default() })
    }

    /// The lane of a batch; `None` if its tenant is gone.
    ///
    /// # Errors
    /// The store's.
    pub async fn lane_of(&self, batch: &Batch) -> Result<Option<Lane>, StoreError> {
        let tenant = batch.message.tenant_id;
        if batch.message.environment == Environment::Test {
            return Ok(Some(Lane::Sandbox(tenant)));
        }
        // Read before the tenant, so that what changes meanwhile is not remembered as new.
        let version = self.store.directory_version();
        let own = match self.remembered(tenant, version) {
            Some(own) => own,
            None => match self.store.tenant(tenant).await? {
                Some(tenant) => self.remember(tenant.id, tenant.smart_host, version),
                None => return Ok(None),
            },
        };
        Ok(Some(match (own, &self.platform) {
            (Some(smart_host), _) => Lane::TenantSmartHost(tenant, smart_host),
            (None, Some(_)) => Lane::PlatformSmartHost,
            (None, None) => Lane::Mx(batch.destination.clone()),
        }))
    }

    fn remembered(&self, tenant: TenantId, version: u64) -> Option<Option<Arc<SmartHost>>> {
        let tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        (tenants.version == version).then(|| tenants.smart_hosts.get(&tenant).cloned()).flatten()
    }

    fn remember(
        &self,
        tenant: TenantId,
        smart_host: Option<SmartHost>,
        version: u64,
    ) -> Option<Arc<SmartHost>> {
        let smart_host = smart_host.map(Arc::new);
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if tenants.version != version || tenants.smart_hosts.len() >= TENANTS_MAX {
            *tenants = Tenants { version, smart_hosts: HashMap::new() };
        }
        tenants.smart_hosts.insert(tenant, smart_host.clone());
        smart_host
    }

    /// The smart host of a lane that has one, with its password.
    ///
    /// # Errors
    /// The store's, if the password cannot be read.
    pub async fn smart_host(&self, lane: &Lane) -> Result<Option<SmartHostRoute>, StoreError> {
        let (tenant, smart_host) = match lane {
            Lane::Sandbox(_) | Lane::Mx(_) => return Ok(None),
            Lane::PlatformSmartHost => return Ok(self.platform.clone()),
            Lane::TenantSmartHost(tenant, smart_host) => (*tenant, smart_host),
        };
        let login = match &smart_host.user {
            None => None,
            Some(user) => {
                let password = self.store.smart_host_password(tenant).await?.unwrap_or_default();
                Some(Login { user: user.clone(), password: Zeroizing::new(password) })
            }
        };
        Ok(Some(SmartHostRoute {
            host: smart_host.host.clone(),
            port: smart_host.port,
            tls: smart_host.tls,
            login,
            trusted: false,
        }))
    }
}

pub fn read_platform_route(smart_host: &config::PlatformSmartHost) -> Result<SmartHostRoute, RelayError> {
    let login = match (&smart_host.user, &smart_host.password_file) {
        (Some(user), Some(path)) => {
            let text = std::fs::read_to_string(path)
                .map_err(|source| RelayError::PasswordFile { path: path.clone(), source })?;
            let password = Zeroizing::new(Zeroizing::new(text).trim_end_matches(['\r', '\n']).to_owned());
            Some(Login { user: user.clone(), password })
        }
        _ => None,
    };
    Ok(SmartHostRoute {
        host: smart_host.host.clone(),
        port: smart_host.port,
        tls: smart_host.tls,
        login,
        trusted: true,
    })
}
