//! How a message reaches its destination: the tenant's smart host, else the platform's, else the MX.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use zeroize::Zeroizing;

use super::RelayError;
use crate::config;
use crate::mail::{Environment, Host, TenantId, TenantStatus, TlsMode};
use crate::smtp::client::Login;
use crate::store::{Batch, Directory, SmartHost, Store, StoreError, Tenant};

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

/// Where the mail of tenants goes, as it was in one version of the directory.
#[derive(Default)]
struct Tenants {
    version: u64,
    directions: HashMap<TenantId, Direction>,
}

/// Where the mail of one tenant goes.
#[derive(Clone)]
enum Direction {
    /// To its own smart host.
    SmartHost(Arc<SmartHost>),
    /// Where everybody's goes.
    Default,
    /// Nowhere, while the tenant is suspended.
    Held,
}

impl From<Tenant> for Direction {
    fn from(tenant: Tenant) -> Self {
        match (tenant.status, tenant.smart_host) {
            (TenantStatus::Suspended, _) => Self::Held,
            (TenantStatus::Active, Some(smart_host)) => Self::SmartHost(Arc::new(smart_host)),
            (TenantStatus::Active, None) => Self::Default,
        }
    }
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

    /// The lane of a batch; `None` if its tenant is gone or suspended.
    ///
    /// # Errors
    /// The store's.
    pub async fn lane_of(&self, batch: &Batch) -> Result<Option<Lane>, StoreError> {
        let tenant = batch.message.tenant_id;
        // Read before the tenant, so that what changes meanwhile is not remembered as new.
        let version = self.store.directory_version();
        let direction = match self.remembered(tenant, version) {
            Some(direction) => direction,
            None => match self.store.tenant(tenant).await? {
                Some(found) => self.remember(tenant, found.into(), version),
                None => return Ok(None),
            },
        };
        Ok(match (direction, &self.platform) {
            (Direction::Held, _) => None,
            _ if batch.message.environment == Environment::Test => Some(Lane::Sandbox(tenant)),
            (Direction::SmartHost(smart_host), _) => Some(Lane::TenantSmartHost(tenant, smart_host)),
            (Direction::Default, Some(_)) => Some(Lane::PlatformSmartHost),
            (Direction::Default, None) => Some(Lane::Mx(batch.destination.clone())),
        })
    }

    fn remembered(&self, tenant: TenantId, version: u64) -> Option<Direction> {
        let tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        (tenants.version == version).then(|| tenants.directions.get(&tenant).cloned()).flatten()
    }

    fn remember(&self, tenant: TenantId, direction: Direction, version: u64) -> Direction {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if tenants.version != version || tenants.directions.len() >= TENANTS_MAX {
            *tenants = Tenants { version, directions: HashMap::new() };
        }
        tenants.directions.insert(tenant, direction.clone());
        direction
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
