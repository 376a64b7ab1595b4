//! How a message reaches its destination: the tenant's smart host, else the closest route of the configuration, else
//! the platform's smart host, else the MX.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use zeroize::Zeroizing;

use super::RelayError;
use super::smart_host_backoff::SmartHostAccount;
use super::source::Sources;
use crate::config::{self, Endpoint};
use crate::mail::Host;
use crate::model::{DestinationPattern, DkimPolicy, Environment, TenantId, TenantStatus, TlsMode, Weight};
use crate::queue::{MxRoute, NextHop, PoolId, QueueKey, RouteDecision, RouteId, Routed};
use crate::smtp::client::Login;
use crate::store::{Batch, Directory, SmartHost, Store, StoreError, Tenant};

/// Above it the cache starts anew; each entry costs one look-up.
const TENANTS_MAX: usize = 10_000;

/// How hosts are found and spoken to.
#[derive(Debug, Clone)]
pub struct Route {
    /// In the order in which they are tried; the destination's MX if empty.
    pub hosts: Vec<Endpoint>,
    /// How the connection is secured.
    pub tls: TlsMode,
    /// The account.
    pub login: Option<Login>,
    /// Which of our signatures go along.
    pub dkim: DkimPolicy,
    /// The name in EHLO, before that of the source.
    pub ehlo_name: Option<String>,
    /// Whether the hosts may be in a private network: only the configuration says so.
    pub trusted: bool,
}

/// A route of the configuration with what it is for.
struct Configured {
    destinations: Vec<DestinationPattern>,
    sources: Option<PoolId>,
    route: Arc<Route>,
}

/// Finds routes.
pub struct Router {
    store: Arc<Store>,
    /// The last one is for everything.
    configured: Vec<Configured>,
    sources: Arc<Sources>,
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
    /// To its own smart host, if it has one that takes the destination.
    Out { smart_host: Option<Arc<SmartHost>>, sources: Option<PoolId> },
    /// Nowhere, while the tenant is suspended.
    Held,
}

impl Router {
    /// Reads the passwords that the configuration names.
    ///
    /// # Errors
    /// [`RelayError::PasswordFile`].
    pub fn new(store: Arc<Store>, config: &config::Relay, sources: Arc<Sources>) -> Result<Self, RelayError> {
        let mut configured = Vec::new();
        for route in &config.routes {
            configured.push(Configured {
                destinations: route.destinations.clone(),
                sources: route.source_pool.as_deref().and_then(|name| sources.pool(Some(name))),
                route: Arc::new(read_route(route)?),
            });
        }
        let last = config.smart_host.as_ref().map(|host| read_route(&host.route())).transpose()?;
        configured.push(Configured {
            destinations: vec![DestinationPattern::Any],
            sources: None,
            route: Arc::new(last.unwrap_or_else(Route::to_mx)),
        });
        Ok(Self { store, configured, sources, tenants: Mutex::default() })
    }

    /// Where a batch goes; `None` if its tenant is gone or suspended.
    ///
    /// # Errors
    /// The store's.
    pub async fn place(&self, batch: &Batch) -> Result<Option<Routed>, StoreError> {
        let tenant = batch.message.tenant_id;
        // Read before the tenant, so that what changes meanwhile is not remembered as new.
        let version = self.store.directory_version();
        let standing = match self.remembered(tenant, version) {
            Some(standing) => standing,
            None => match self.store.tenant(tenant).await? {
                Some(found) => self.remember(tenant, self.standing_of(found), version),
                None => return Ok(None),
            },
        };
        Ok(self
            .course_of(tenant, &batch.destination, batch.message.environment, &standing)
            .map(|course| Routed { course, weight: standing.weight }))
    }

    /// The course of a tenant's live mail as far as it is known without asking the store.
    pub fn known_course(&self, tenant: TenantId, destination: &Host) -> Option<RouteDecision> {
        let standing = self.remembered(tenant, self.store.directory_version())?;
        self.course_of(tenant, destination, Environment::Live, &standing)
    }

    fn course_of(
        &self,
        tenant: TenantId,
        destination: &Host,
        environment: Environment,
        standing: &Standing,
    ) -> Option<RouteDecision> {
        let Direction::Out { smart_host, sources } = &standing.direction else { return None };
        if environment == Environment::Test {
            return Some(RouteDecision::Known(QueueKey { way: NextHop::Sandbox(tenant), sources: None }));
        }
        if let Some(smart_host) = smart_host.as_ref().filter(|host| host.takes(destination)) {
            let way = NextHop::TenantSmartHost(tenant, smart_host.clone());
            return Some(RouteDecision::Known(QueueKey { way, sources: *sources }));
        }
        let id = self.route_to(destination);
        let Configured { sources: own, route, .. } = &self.configured[id.0];
        let sources = own.or(*sources);
        Some(if route.hosts.is_empty() {
            RouteDecision::Mx(MxRoute { route: id, sources })
        } else {
            RouteDecision::Known(QueueKey { way: NextHop::Hosts(id), sources })
        })
    }

    fn standing_of(&self, tenant: Tenant) -> Standing {
        let direction = match tenant.status {
            TenantStatus::Suspended => Direction::Held,
            TenantStatus::Active => Direction::Out {
                smart_host: tenant.smart_host.map(Arc::new),
                sources: self.sources.pool(tenant.source_pool.as_deref()),
            },
        };
        Standing { direction, weight: tenant.weight }
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

    /// The closest route; the first of equal ones, which is only the case with `*`.
    fn route_to(&self, destination: &Host) -> RouteId {
        let closeness = |configured: &Configured| {
            let patterns = configured.destinations.iter();
            patterns.filter_map(|pattern| pattern.specificity(destination)).max()
        };
        let fitting = self.configured.iter().enumerate().rev();
        let fitting = fitting.filter_map(|(at, configured)| Some((closeness(configured)?, at)));
        RouteId(fitting.max_by_key(|(closeness, _)| *closeness).map_or(0, |(_, at)| at))
    }

    /// The account that a way logs in with.
    pub fn account_of(&self, way: &NextHop) -> Option<SmartHostAccount> {
        match way {
            NextHop::Sandbox(_) | NextHop::Mx(..) => None,
            NextHop::Hosts(id) => {
                let route = &self.configured[id.0].route;
                let hosts = route.hosts.iter().map(ToString::to_string).collect::<Vec<_>>();
                let user = route.login.as_ref()?.user.clone();
                Some(SmartHostAccount { tenant: None, host: hosts.join(", "), user, password_revision: 0 })
            }
            NextHop::TenantSmartHost(tenant, smart_host) => account_at(*tenant, smart_host),
        }
    }

    /// The account of a tenant's own smart host if it has one; `None` if that is not remembered.
    pub fn known_account(&self, tenant: TenantId) -> Option<Option<SmartHostAccount>> {
        match self.remembered(tenant, self.store.directory_version())?.direction {
            Direction::Out { smart_host, .. } => {
                Some(smart_host.and_then(|smart_host| account_at(tenant, &smart_host)))
            }
            Direction::Held => None,
        }
    }

    /// Which of our signatures go over a way.
    pub fn dkim_policy(&self, way: &NextHop) -> DkimPolicy {
        match way {
            NextHop::Sandbox(_) => DkimPolicy::All,
            NextHop::Mx(_, id) | NextHop::Hosts(id) => self.configured[id.0].route.dkim,
            NextHop::TenantSmartHost(_, smart_host) => smart_host.dkim,
        }
    }

    /// The route of a way, with its password.
    ///
    /// # Errors
    /// The store's, if the password cannot be read.
    pub async fn route_of(&self, way: &NextHop) -> Result<Arc<Route>, StoreError> {
        let (tenant, smart_host) = match way {
            NextHop::Sandbox(_) => return Ok(Arc::new(Route::to_mx())),
            NextHop::Mx(_, id) | NextHop::Hosts(id) => return Ok(self.configured[id.0].route.clone()),
            NextHop::TenantSmartHost(tenant, smart_host) => (*tenant, smart_host),
        };
        let login = match &smart_host.user {
            None => None,
            Some(user) => {
                let password = self.store.smart_host_password(tenant).await?;
                // An empty password would have the smart host refuse, or ban, an account that is in order.
                let password = password.ok_or_else(|| {
                    StoreError::Failed(format!("the smart host of {tenant} has no password"))
                })?;
                Some(Login { user: user.clone(), password: Zeroizing::new(password) })
            }
        };
        Ok(Arc::new(Route {
            hosts: vec![Endpoint { host: smart_host.host.clone(), port: smart_host.port }],
            tls: smart_host.tls,
            login,
            dkim: smart_host.dkim,
            ehlo_name: None,
            trusted: false,
        }))
    }
}

fn account_at(tenant: TenantId, smart_host: &SmartHost) -> Option<SmartHostAccount> {
    let SmartHost { host, port, user, password_revision, .. } = smart_host;
    let endpoint = Endpoint { host: host.clone(), port: *port };
    Some(SmartHostAccount {
        tenant: Some(tenant),
        host: endpoint.to_string(),
        user: user.clone()?,
        password_revision: *password_revision,
    })
}

impl Route {
    /// What holds where nothing is configured.
    fn to_mx() -> Self {
        Self {
            hosts: Vec::new(),
            tls: TlsMode::Opportunistic,
            login: None,
            dkim: DkimPolicy::All,
            ehlo_name: None,
            trusted: false,
        }
    }
}

/// Whether the password files of a configuration can be read.
///
/// # Errors
/// [`RelayError::PasswordFile`].
pub fn check(config: &config::Relay) -> Result<(), RelayError> {
    config.smart_host.as_ref().map(|host| read_route(&host.route())).transpose()?;
    config.routes.iter().try_for_each(|route| read_route(route).map(drop))
}

fn read_route(route: &config::Route) -> Result<Route, RelayError> {
    Ok(Route {
        hosts: route.endpoints(),
        tls: route.tls(),
        login: read_login(route.user.as_ref(), route.password_file.as_ref())?,
        dkim: route.dkim,
        ehlo_name: route.ehlo_name.as_ref().map(ToString::to_string),
        trusted: !route.hosts.is_empty(),
    })
}

fn read_login(user: Option<&String>, file: Option<&PathBuf>) -> Result<Option<Login>, RelayError> {
    let (Some(user), Some(path)) = (user, file) else { return Ok(None) };
    let text = std::fs::read_to_string(path)
        .map_err(|source| RelayError::PasswordFile { path: path.clone(), source })?;
    let password = Zeroizing::new(Zeroizing::new(text).trim_end_matches(['\r', '\n']).to_owned());
    Ok(Some(Login { user: user.clone(), password }))
}
