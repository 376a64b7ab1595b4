//! Routing: a message goes to the tenant's smart host, else by the most specific route of the configuration, else to
//! the platform's smart host, else to the MX.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use zeroize::Zeroizing;

use super::RelayError;
use super::smart_host_backoff::SmartHostAccount;
use super::source::Sources;
use crate::config::{self, Endpoint};
use crate::mail::Host;
use crate::model::{DestinationPattern, DkimPolicy, Environment, TenantId, TenantStatus, TlsMode, Weight};
use crate::queue::{MxRoute, NextHop, QueueKey, RouteDecision, RouteId, Routed, SourcePoolId};
use crate::smtp::client::Login;
use crate::store::{Batch, Directory, SmartHost, Store, StoreError, Tenant};

/// Maximum of tenants in the cache; a full cache is cleared. A miss costs one read of the store.
const TENANTS_MAX: usize = 10_000;

/// How the hosts of a destination are found and connected to.
#[derive(Debug, Clone)]
pub struct Route {
    /// The hosts by preference; if empty, the hosts of the MX records of the destination.
    pub hosts: Vec<Endpoint>,
    /// The TLS mode of connections.
    pub tls: TlsMode,
    /// The account for AUTH.
    pub login: Option<Login>,
    /// The DKIM signatures of this server that the message keeps.
    pub dkim: DkimPolicy,
    /// The name in EHLO; overrides the source's.
    pub ehlo_name: Option<String>,
    /// Whether the hosts may be in a private network: true only for hosts of the configuration.
    pub trusted: bool,
    /// Whether mail to the hosts may have a reverse path of this server.
    pub return_path: bool,
}

/// A route of the configuration and its destinations.
struct ConfiguredRoute {
    destinations: Vec<DestinationPattern>,
    sources: Option<SourcePoolId>,
    route: Arc<Route>,
}

/// Finds routes.
pub struct Router {
    store: Arc<Store>,
    /// The last route matches every destination.
    configured: Vec<ConfiguredRoute>,
    sources: Arc<Sources>,
    tenants: Mutex<HashMap<TenantId, TenantEntry>>,
}

/// The settings of one tenant that routing needs.
#[derive(Clone)]
struct TenantEntry {
    routing: TenantRouting,
    weight: Weight,
    /// The version of the directory before it was read.
    directory_version: u64,
}

/// How the mail of one tenant is routed.
#[derive(Clone)]
enum TenantRouting {
    /// Through its smart host if that covers the destination, else by the routes of the configuration.
    Active { smart_host: Option<Arc<SmartHost>>, sources: Option<SourcePoolId> },
    /// Not at all: the tenant is suspended.
    Suspended,
}

impl Router {
    /// Reads the passwords that the configuration names.
    ///
    /// # Errors
    /// [`RelayError::PasswordFile`].
    pub fn new(store: Arc<Store>, config: &config::Relay, sources: Arc<Sources>) -> Result<Self, RelayError> {
        let mut configured = Vec::new();
        for route in &config.routes {
            configured.push(ConfiguredRoute {
                destinations: route.destinations.clone(),
                sources: route.source_pool.as_deref().and_then(|name| sources.pool(Some(name))),
                route: Arc::new(read_route(route)?),
            });
        }
        let last = config.smart_host.as_ref().map(|host| read_route(&host.route())).transpose()?;
        configured.push(ConfiguredRoute {
            destinations: vec![DestinationPattern::Any],
            sources: None,
            route: Arc::new(last.unwrap_or_else(Route::to_mx)),
        });
        Ok(Self { store, configured, sources, tenants: Mutex::default() })
    }

    /// Routes a batch; `None` if its tenant is deleted or suspended.
    ///
    /// # Errors
    /// The store's.
    pub async fn route_batch(&self, batch: &Batch) -> Result<Option<Routed>, StoreError> {
        let tenant = batch.message.tenant_id;
        let Some(entry) = self.find_entry(tenant).await? else { return Ok(None) };
        Ok(self
            .decide(tenant, &batch.destination, batch.message.environment, &entry)
            .map(|decision| Routed { decision, weight: entry.weight }))
    }

    /// The routing decision for a tenant's live mail; `None` if the tenant is deleted or suspended.
    ///
    /// # Errors
    /// The store's.
    pub async fn route(
        &self,
        tenant: TenantId,
        destination: &Host,
    ) -> Result<Option<RouteDecision>, StoreError> {
        let Some(entry) = self.find_entry(tenant).await? else { return Ok(None) };
        Ok(self.decide(tenant, destination, Environment::Live, &entry))
    }

    /// The routing decision for a tenant without a smart host and a source pool.
    pub fn route_of_platform(&self, destination: &Host) -> RouteDecision {
        self.decide_by_configuration(destination, self.sources.pool(None))
    }

    async fn find_entry(&self, tenant: TenantId) -> Result<Option<TenantEntry>, StoreError> {
        // Read before the tenant, so that a concurrent change invalidates the entry.
        let version = self.store.directory_version();
        if let Some(entry) = self.cached(tenant) {
            return Ok(Some(entry));
        }
        let found = self.store.tenant(tenant).await?;
        Ok(found.map(|found| self.cache(tenant, self.entry_of(found, version))))
    }

    /// The routing decision for a tenant's live mail, if the tenant is cached.
    pub fn cached_decision(&self, tenant: TenantId, destination: &Host) -> Option<RouteDecision> {
        let entry = self.cached(tenant)?;
        self.decide(tenant, destination, Environment::Live, &entry)
    }

    fn decide(
        &self,
        tenant: TenantId,
        destination: &Host,
        environment: Environment,
        entry: &TenantEntry,
    ) -> Option<RouteDecision> {
        let TenantRouting::Active { smart_host, sources } = &entry.routing else { return None };
        if environment == Environment::Test {
            return Some(RouteDecision::Known(QueueKey {
                next_hop: NextHop::Sandbox(tenant),
                sources: None,
            }));
        }
        if let Some(smart_host) = smart_host.as_ref().filter(|host| host.takes(destination)) {
            let next_hop = NextHop::TenantSmartHost(tenant, smart_host.clone());
            return Some(RouteDecision::Known(QueueKey { next_hop, sources: *sources }));
        }
        Some(self.decide_by_configuration(destination, *sources))
    }

    fn decide_by_configuration(&self, destination: &Host, sources: Option<SourcePoolId>) -> RouteDecision {
        let id = self.route_to(destination);
        let ConfiguredRoute { sources: own, route, .. } = &self.configured[id.0];
        let sources = own.or(sources);
        if route.hosts.is_empty() {
            RouteDecision::Mx(MxRoute { route: id, sources })
        } else {
            RouteDecision::Known(QueueKey { next_hop: NextHop::Hosts(id), sources })
        }
    }

    /// The kind of a next hop, and why mail goes there.
    pub fn describe(&self, next_hop: &NextHop) -> (&'static str, String) {
        let id = match next_hop {
            NextHop::Sandbox(_) => return ("sandbox", "it is mail of the test environment".to_owned()),
            NextHop::TenantSmartHost(..) => {
                return ("smart_host", "the smart host of the tenant takes mail for the domain".to_owned());
            }
            NextHop::Mx(_, id) | NextHop::Hosts(id) => id,
        };
        let is_last = id.0 + 1 == self.configured.len();
        match (is_last, self.configured[id.0].route.hosts.is_empty()) {
            (true, true) => ("mx", "no route and no smart host takes mail for the domain".to_owned()),
            (true, false) => {
                ("smart_host", "the smart host of the configuration takes all other mail".to_owned())
            }
            (false, true) => ("mx", format!("{id} leads mail for the domain to its MX records")),
            (false, false) => ("route", format!("{id} takes mail for the domain")),
        }
    }

    fn entry_of(&self, tenant: Tenant, directory_version: u64) -> TenantEntry {
        let routing = match tenant.status {
            TenantStatus::Suspended | TenantStatus::Archived => TenantRouting::Suspended,
            TenantStatus::Active => TenantRouting::Active {
                smart_host: tenant.smart_host.map(Arc::new),
                sources: self.sources.pool(tenant.source_pool.as_deref()),
            },
        };
        TenantEntry { routing, weight: tenant.weight, directory_version }
    }

    fn cached(&self, tenant: TenantId) -> Option<TenantEntry> {
        let tenants = self.tenants.lock();
        let entry = tenants.get(&tenant)?;
        (self.store.version_of_owner(Some(tenant)) <= entry.directory_version).then(|| entry.clone())
    }

    fn cache(&self, tenant: TenantId, entry: TenantEntry) -> TenantEntry {
        let mut tenants = self.tenants.lock();
        if tenants.len() >= TENANTS_MAX {
            tenants.clear();
        }
        tenants.insert(tenant, entry.clone());
        entry
    }

    /// The most specific route. Only routes for `*` can be equally specific; of these the first is used.
    fn route_to(&self, destination: &Host) -> RouteId {
        let specificity = |configured: &ConfiguredRoute| {
            let patterns = configured.destinations.iter();
            patterns.filter_map(|pattern| pattern.specificity(destination)).max()
        };
        let fitting = self.configured.iter().enumerate().rev();
        let fitting = fitting.filter_map(|(at, configured)| Some((specificity(configured)?, at)));
        RouteId(fitting.max_by_key(|(specificity, _)| *specificity).map_or(0, |(_, at)| at))
    }

    /// The account at a next hop.
    pub fn account_of(&self, next_hop: &NextHop) -> Option<SmartHostAccount> {
        match next_hop {
            NextHop::Sandbox(_) | NextHop::Mx(..) => None,
            NextHop::Hosts(id) => {
                let route = &self.configured[id.0].route;
                let hosts = route.hosts.iter().map(ToString::to_string).collect::<Vec<_>>();
                let user = route.login.as_ref()?.user.clone();
                Some(SmartHostAccount { tenant: None, host: hosts.join(", "), user, password_revision: 0 })
            }
            NextHop::TenantSmartHost(tenant, smart_host) => tenant_account(*tenant, smart_host),
        }
    }

    /// The account of a tenant's own smart host, if it has one; `None` if the tenant is not cached.
    pub fn cached_account(&self, tenant: TenantId) -> Option<Option<SmartHostAccount>> {
        match self.cached(tenant)?.routing {
            TenantRouting::Active { smart_host, .. } => {
                Some(smart_host.and_then(|smart_host| tenant_account(tenant, &smart_host)))
            }
            TenantRouting::Suspended => None,
        }
    }

    /// The DKIM signatures of this server that messages keep on the way to a next hop.
    pub fn dkim_policy(&self, next_hop: &NextHop) -> DkimPolicy {
        match next_hop {
            NextHop::Sandbox(_) => DkimPolicy::All,
            NextHop::Mx(_, id) | NextHop::Hosts(id) => self.configured[id.0].route.dkim,
            NextHop::TenantSmartHost(_, smart_host) => smart_host.dkim,
        }
    }

    /// Whether mail to a next hop may have a reverse path of this server. Many smart hosts accept only senders that they know.
    pub fn uses_return_path(&self, next_hop: &NextHop) -> bool {
        match next_hop {
            NextHop::Sandbox(_) | NextHop::TenantSmartHost(..) => false,
            NextHop::Mx(_, id) | NextHop::Hosts(id) => self.configured[id.0].route.return_path,
        }
    }

    /// The connection settings of a next hop, with the password.
    ///
    /// # Errors
    /// The store's, if the password cannot be read.
    pub async fn route_of(&self, next_hop: &NextHop) -> Result<Arc<Route>, StoreError> {
        let (tenant, smart_host) = match next_hop {
            NextHop::Sandbox(_) => return Ok(Arc::new(Route::to_mx())),
            NextHop::Mx(_, id) | NextHop::Hosts(id) => return Ok(self.configured[id.0].route.clone()),
            NextHop::TenantSmartHost(tenant, smart_host) => (*tenant, smart_host),
        };
        let login = match &smart_host.user {
            None => None,
            Some(user) => {
                let password = self.store.smart_host_password(tenant).await?;
                // The smart host would refuse an empty password, and might ban the account.
                let password = password.ok_or_else(|| {
                    StoreError::Failed(format!("the smart host of {tenant} has no password"))
                })?;
                Some(Login { user: user.clone(), password })
            }
        };
        Ok(Arc::new(Route {
            hosts: vec![Endpoint { host: smart_host.host.clone(), port: smart_host.port }],
            tls: smart_host.tls,
            login,
            dkim: smart_host.dkim,
            ehlo_name: None,
            trusted: false,
            return_path: false,
        }))
    }
}

fn tenant_account(tenant: TenantId, smart_host: &SmartHost) -> Option<SmartHostAccount> {
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
    /// The settings without any configured route.
    fn to_mx() -> Self {
        Self {
            hosts: Vec::new(),
            tls: TlsMode::Opportunistic,
            login: None,
            dkim: DkimPolicy::All,
            ehlo_name: None,
            trusted: false,
            return_path: true,
        }
    }
}

/// Checks that the password files of a configuration can be read.
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
        return_path: route.hosts.is_empty() || route.return_path,
    })
}

fn read_login(user: Option<&String>, file: Option<&PathBuf>) -> Result<Option<Login>, RelayError> {
    let (Some(user), Some(path)) = (user, file) else { return Ok(None) };
    let text = std::fs::read_to_string(path)
        .map_err(|source| RelayError::PasswordFile { path: path.clone(), source })?;
    let password = Zeroizing::new(Zeroizing::new(text).trim_end_matches(['\r', '\n']).to_owned());
    Ok(Some(Login { user: user.clone(), password }))
}
