//! How a message reaches its destination: the tenant's smart host, else the platform's, else the MX.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use zeroize::Zeroizing;

use super::RelayError;
use super::site::Site;
use crate::config;
use crate::mail::{Environment, TenantId, TenantStatus, TlsMode, Weight};
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
    /// The hosts that take mail for some domains.
    Mx(Arc<Site>),
    /// The smart host of the configuration.
    PlatformSmartHost,
    /// A tenant's own smart host with its account.
    TenantSmartHost(TenantId, Arc<SmartHost>),
}

/// Where a batch goes.
#[derive(Debug, Clone)]
pub struct Placed {
    /// How.
    pub way: Way,
    /// Its tenant's weight among others.
    pub weight: Weight,
}

/// How a batch gets to its destination.
#[derive(Debug, Clone)]
pub enum Way {
    /// Over this lane, wherever it goes.
    Lane(Lane),
    /// By the lane of its destination's site.
    Site,
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
    standings: HashMap<TenantId, Standing>,
}

/// What the relay knows of one tenant.
#[derive(Clone)]
struct Standing {
    direction: Direction,
    weight: Weight,
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

impl From<Tenant> for Standing {
    fn from(tenant: Tenant) -> Self {
        let direction = match (tenant.status, tenant.smart_host) {
            (TenantStatus::Suspended, _) => Direction::Held,
            (TenantStatus::Active, Some(smart_host)) => Direction::SmartHost(Arc::new(smart_host)),
            (TenantStatus::Active, None) => Direction::Default,
        };
        Self { direction, weight: tenant.weight }
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

    /// Where a batch goes; `None` if its tenant is gone or suspended.
    ///
    /// # Errors
    /// The store's.
    pub async fn place(&self, batch: &Batch) -> Result<Option<Placed>, StoreError> {
        let tenant = batch.message.tenant_id;
        // Read before the tenant, so that what changes meanwhile is not remembered as new.
        let version = self.store.directory_version();
        let standing = match self.remembered(tenant, version) {
            Some(standing) => standing,
            None => match self.store.tenant(tenant).await? {
                Some(found) => self.remember(tenant, found.into(), version),
                None => return Ok(None),
            },
        };
        let weight = standing.weight;
        if batch.message.environment == Environment::Test && !matches!(standing.direction, Direction::Held) {
            return Ok(Some(Placed { way: Way::Lane(Lane::Sandbox(tenant)), weight }));
        }
        Ok(self.way_of(tenant, standing.direction).map(|way| Placed { way, weight }))
    }

    /// The way of a tenant's live mail as far as it is known without asking the store.
    pub fn known_way(&self, tenant: TenantId) -> Option<Way> {
        let standing = self.remembered(tenant, self.store.directory_version());
        let direction = standing.map_or(Direction::Default, |standing| standing.direction);
        self.way_of(tenant, direction)
    }

    fn way_of(&self, tenant: TenantId, direction: Direction) -> Option<Way> {
        match (direction, &self.platform) {
            (Direction::Held, _) => None,
            (Direction::SmartHost(smart_host), _) => {
                Some(Way::Lane(Lane::TenantSmartHost(tenant, smart_host)))
            }
            (Direction::Default, Some(_)) => Some(Way::Lane(Lane::PlatformSmartHost)),
            (Direction::Default, None) => Some(Way::Site),
        }
    }

    fn remembered(&self, tenant: TenantId, version: u64) -> Option<Standing> {
        let tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        (tenants.version == version).then(|| tenants.standings.get(&tenant).cloned()).flatten()
    }

    fn remember(&self, tenant: TenantId, standing: Standing, version: u64) -> Standing {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if tenants.version != version || tenants.standings.len() >= TENANTS_MAX {
            *tenants = Tenants { version, standings: HashMap::new() };
        }
        tenants.standings.insert(tenant, standing.clone());
        standing
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
