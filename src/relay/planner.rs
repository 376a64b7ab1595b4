//! How mail to a domain would be sent now, decided by the code that sends it. It sends no mail: a probe ends before MAIL.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::DropGuard;

use super::attempt::{HostAttempt, HostPreparation};
use super::dialer::{ConnectPlan, Dialer, TcpConnected};
use super::happy_eyeballs::RaceResult;
use super::route::Router;
use super::source::Sources;
use super::target_hosts::{TargetError, TargetFinder};
use super::tasks::Tasks;
use super::tls::policy::{TlsPolicies, TlsRules};
use super::transcript::Transcript;
use crate::config::Endpoint;
use crate::mail::{DomainName, Host, Timestamp};
use crate::model::TenantId;
use crate::policy::mta_sts::StsMode;
use crate::policy::tls::{DomainFacts, MxProof, Requirement, StsLookup};
use crate::queue::{QueueKey, QueueManager, RouteDecision};
use crate::smtp::client::StartTls;
use crate::store::StoreError;

/// Hosts that are looked at.
const HOSTS_MAX: usize = 10;
/// Addresses of each that a probe dials.
const ADDRESSES_MAX: usize = 3;
/// The time for the probe of one host.
const PROBE_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections of probes at one time: as many as four requests need, so that none waits for another within its time.
const PROBES_MAX: usize = 4 * HOSTS_MAX;

/// Explains destinations.
pub struct Planner {
    router: Arc<Router>,
    targets: Arc<TargetFinder>,
    tls_policies: Arc<TlsPolicies>,
    sources: Arc<Sources>,
    dialer: Arc<Dialer>,
    queue: Arc<QueueManager>,
    probes: Arc<Semaphore>,
    tasks: Tasks,
    _abort: DropGuard,
}

/// How mail to a domain would be sent.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Destination {
    /// Always `destination`.
    #[schemars(extend("const" = "destination"))]
    pub object: String,
    /// The domain.
    pub domain: DomainName,
    /// Where its mail goes: `mx`, `route` or `smart_host`.
    pub route: String,
    /// Why.
    pub route_reason: String,
    /// The addresses that the mail may leave from; empty if the system chooses, `null` if the source pool of the tenant is
    /// not in the configuration, so that its mail waits.
    pub sources: Option<Vec<IpAddr>>,
    /// The hosts as one site, with the limits that apply to it; `null` if the hosts are not those of MX records.
    pub site: Option<SitePlan>,
    /// Whether DNSSEC proves the MX records: `secure`, `insecure`, `off` or `failed`; `null` without MX records.
    pub dnssec: Option<String>,
    /// The MTA-STS policy of the domain, if it has one.
    pub mta_sts: Option<StsPlan>,
    /// Why no host can be found.
    pub error: Option<String>,
    /// The hosts by preference, the first 10.
    pub hosts: Vec<HostPlan>,
    /// The time.
    pub at: Timestamp,
}

/// A site.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct SitePlan {
    /// Its name.
    pub name: String,
    /// Connections that are allowed at most.
    pub connections_max: usize,
    /// Connections that are open.
    pub connections: usize,
    /// Until when it is not tried.
    pub backoff_until: Option<Timestamp>,
    /// Why.
    pub reason: Option<String>,
}

/// An MTA-STS policy.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct StsPlan {
    /// `enforce` or `testing`; `null` if it could not be fetched.
    pub mode: Option<String>,
    /// How long it is valid, in seconds.
    pub max_age_s: Option<u64>,
    /// The names of mail hosts.
    pub mx: Vec<String>,
    /// Why it could not be fetched.
    pub error: Option<String>,
}

/// A host.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct HostPlan {
    /// Its name.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Its addresses in the order of dialling, as far as one source reaches them. The source is chosen at random, by weight, so
    /// two answers may differ.
    pub addresses: Vec<IpAddr>,
    /// The TLS that it must offer: `none`, `tested`, `encrypted`, `verified` or `dane`; `null` if it gets no mail.
    pub tls: Option<String>,
    /// The rule that decides about TLS.
    pub tls_reason: Option<String>,
    /// Why it gets no mail now.
    pub error: Option<String>,
    /// What a connection found, if one was asked for.
    pub probe: Option<Probe>,
}

/// A connection to a host, up to where mail could be sent.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Probe {
    /// Whether mail could be sent.
    pub ready: bool,
    /// The version of TLS and the cipher suite; `null` without TLS.
    pub tls: Option<String>,
    /// The dialogue: `>` commands, `<` replies, `*` remarks.
    pub dialogue: String,
    /// Why no mail could be sent.
    pub error: Option<String>,
}

impl Planner {
    /// Shares the parts of a relay.
    pub(super) fn new(context: &super::RelayContext) -> Self {
        let tasks = Tasks::default();
        Self {
            router: context.router.clone(),
            targets: context.targets.clone(),
            tls_policies: context.tls_policies.clone(),
            sources: context.outbound.sources.clone(),
            dialer: context.outbound.dialer.clone(),
            queue: context.queue.clone(),
            probes: Arc::new(Semaphore::new(PROBES_MAX)),
            _abort: tasks.abort_on_drop(),
            tasks,
        }
    }

    /// How live mail to a domain would be sent, of a tenant or of one without settings. `None` if the tenant is deleted or
    /// suspended. With `probe`, each host is connected to.
    ///
    /// # Errors
    /// The store's.
    pub async fn explain(
        &self,
        tenant: Option<TenantId>,
        domain: &DomainName,
        probe: bool,
    ) -> Result<Option<Destination>, StoreError> {
        let destination = Host::Domain(domain.clone());
        let decision = match tenant {
            Some(tenant) => self.router.route(tenant, &destination).await?,
            None => Some(self.router.route_of_platform(&destination)),
        };
        let Some(decision) = decision else { return Ok(None) };
        let key = self.key_of(decision, domain).await;
        let found = self.targets.hosts_of(&key.next_hop, &destination).await;
        let (kind, reason) = self.router.describe(&key.next_hop);
        let mut plan = Destination {
            object: "destination".to_owned(),
            domain: domain.clone(),
            route: kind.to_owned(),
            route_reason: reason,
            sources: key.sources.map(|pool| self.sources.addresses(pool)),
            site: self.site_of(&key),
            dnssec: None,
            mta_sts: None,
            error: None,
            hosts: Vec::new(),
            at: self.queue.clock().now(),
        };
        match found {
            Ok(targets) => {
                let rules = self.tls_policies.rules_for(&self.tasks, &targets, false).await;
                plan.dnssec = rules.facts().map(|facts| state_of(&facts.mx).to_owned());
                plan.mta_sts = rules.facts().and_then(sts_of);
                let preparation = HostPreparation {
                    finder: &self.targets,
                    sources: &self.sources,
                    pool: key.sources,
                    targets: &targets,
                };
                let hosts = targets.hosts.iter().take(HOSTS_MAX);
                let hosts = hosts.map(|endpoint| self.host(&preparation, &rules, endpoint, probe));
                plan.hosts = join_all(hosts).await;
            }
            Err(error) => plan.error = Some(text_of(&error)),
        }
        Ok(Some(plan))
    }

    /// The destination queue of a decision. The site is found as for mail.
    async fn key_of(&self, decision: RouteDecision, domain: &DomainName) -> QueueKey {
        let mx_route = match decision {
            RouteDecision::Known(key) => return key,
            RouteDecision::Mx(mx_route) => mx_route,
        };
        let sites = self.queue.sites();
        let site = match sites.find(&Host::Domain(domain.clone())) {
            Some(site) => site,
            None => sites.learn(domain, self.targets.known_hosts(domain).await),
        };
        mx_route.queue_to(site)
    }

    fn site_of(&self, key: &QueueKey) -> Option<SitePlan> {
        let site = key.site()?;
        let known = self.queue.snapshot(self.queue.clock().now()).sites;
        let known = known.into_iter().find(|known| known.name == site.name && known.tenant_id.is_none());
        Some(SitePlan {
            name: site.name.clone(),
            connections_max: known.as_ref().map_or(site.rule.connections_max, |known| known.connections_max),
            connections: known.as_ref().map_or(0, |known| known.connections),
            backoff_until: known.as_ref().and_then(|known| known.backoff_until),
            reason: known.and_then(|known| known.reason),
        })
    }

    async fn host(
        &self,
        preparation: &HostPreparation<'_>,
        rules: &TlsRules,
        endpoint: &Endpoint,
        probe: bool,
    ) -> HostPlan {
        let mut plan = HostPlan {
            host: endpoint.host.clone(),
            port: endpoint.port,
            addresses: Vec::new(),
            tls: None,
            tls_reason: None,
            error: None,
            probe: None,
        };
        let policy = match rules.for_host(&self.tls_policies, endpoint).await {
            Ok(policy) => policy,
            Err(refusal) => {
                (plan.tls_reason, plan.error) = (Some(refusal.basis), Some(refusal.text));
                return plan;
            }
        };
        plan.tls = Some(name_of(&policy.requirement).to_owned());
        plan.tls_reason = Some(policy.basis.clone());
        match preparation.prepare(endpoint, &policy).await {
            Ok(HostAttempt { plan: connect, addresses, .. }) => {
                plan.addresses = addresses.iter().map(SocketAddr::ip).collect();
                if probe {
                    plan.probe = Some(self.probe(connect, &addresses).await);
                }
            }
            Err(error) => plan.error = Some(text_of(&error)),
        }
        plan
    }

    /// Connects as a delivery does, but without the account.
    async fn probe(&self, plan: ConnectPlan, addresses: &[SocketAddr]) -> Probe {
        let mut transcript = Transcript::default();
        let addresses = &addresses[..addresses.len().min(ADDRESSES_MAX)];
        let connecting = self.connect(ConnectPlan { login: None, ..plan }, addresses, &mut transcript);
        let connected = timeout(PROBE_TIMEOUT, connecting).await;
        let connected =
            connected.unwrap_or_else(|_| Err("the time limit of the probe was reached".to_owned()));
        let (tls, error) = match connected {
            Ok(tls) => (tls, None),
            Err(error) => (None, Some(error)),
        };
        Probe { ready: error.is_none(), tls, dialogue: transcript.into_text(), error }
    }

    /// Connects, and describes TLS. With opportunistic TLS, weaker TLS is tried after a failed handshake (RFC 7435).
    async fn connect(
        &self,
        mut plan: ConnectPlan,
        addresses: &[SocketAddr],
        transcript: &mut Transcript,
    ) -> Result<Option<String>, String> {
        loop {
            let permit = self.probes.clone().acquire_owned().await.map_err(|error| error.to_string())?;
            let RaceResult { connected, failed } = self.dialer.connect(addresses, &plan.source).await;
            let Some((address, stream)) = connected else {
                let failures = failed.iter().map(|(address, error)| format!("{address}: {error}"));
                return Err(failures.collect::<Vec<_>>().join("; "));
            };
            let connected = TcpConnected { address, stream, permit };
            match self.dialer.open(&plan, connected, transcript).await {
                Ok(connection) => {
                    let tls = connection.peer.tls.clone();
                    connection.quit().await;
                    return Ok(tls);
                }
                Err(error) if error.in_handshake && plan.starttls == StartTls::IfOffered => {
                    transcript.remark(&error.text);
                    plan = plan.weaker();
                }
                Err(error) => return Err(error.text),
            }
        }
    }
}

fn text_of(error: &TargetError) -> String {
    match error {
        TargetError::Permanent(result) => result.to_reply_text(),
        TargetError::Unroutable(_, text) | TargetError::Temporary(_, text) => text.clone(),
    }
}

fn state_of(mx: &MxProof) -> &'static str {
    match mx {
        MxProof::Off => "off",
        MxProof::Insecure => "insecure",
        MxProof::Secure(_) => "secure",
        MxProof::Failed(_) => "failed",
    }
}

fn sts_of(facts: &DomainFacts) -> Option<StsPlan> {
    let failed = |reason: &str| StsPlan {
        mode: None,
        max_age_s: None,
        mx: Vec::new(),
        error: Some(reason.to_owned()),
    };
    match &facts.sts {
        StsLookup::Absent => None,
        StsLookup::Unavailable(error) => Some(failed(&error.reason)),
        StsLookup::Unknown(reason) => Some(failed(reason)),
        StsLookup::Policy(policy) => Some(StsPlan {
            mode: Some(
                match policy.mode {
                    StsMode::Enforce => "enforce",
                    StsMode::Testing => "testing",
                    StsMode::None => "none",
                }
                .to_owned(),
            ),
            max_age_s: Some(policy.max_age_s),
            mx: policy.mx().to_vec(),
            error: None,
        }),
    }
}

fn name_of(requirement: &Requirement) -> &'static str {
    match requirement {
        Requirement::Opportunistic => "none",
        Requirement::Tested => "tested",
        Requirement::Encrypted => "encrypted",
        Requirement::Verified => "verified",
        Requirement::Dane(_) => "dane",
    }
}
