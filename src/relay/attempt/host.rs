//! Delivery to one host: plans the connection, dials the addresses, opens the connection and sends the message.

use std::net::SocketAddr;
use std::sync::Arc;

use super::session::ConnectionFate;
use super::{ADDRESSES_MAX, Attempt, DialState};
use crate::config::Endpoint;
use crate::model::{BounceClass, TlsFailure, TlsMinimum, TlsMode};
use crate::policy::tls::{HostPolicy, Requirement};
use crate::queue::SourcePoolId;
use crate::relay::connection::Connection;
use crate::relay::delivery_error::{ATTEMPT_TIMED_OUT, DeliveryError};
use crate::relay::dialer::{ConnectPlan, TcpConnected};
use crate::relay::happy_eyeballs::{RaceResult, address_quota, is_local_network_error};
use crate::relay::peer::Peer;
use crate::relay::recipient_result::RecipientResult;
use crate::relay::route::Route;
use crate::relay::smart_host_login::LoginResult;
use crate::relay::source::{Source, Sources};
use crate::relay::target_hosts::{TargetError, TargetFinder, TargetHosts};
use crate::relay::tls::client::Trust;
use crate::smtp::client::{Phase, StartTls};

const PASSWORD_NEEDS_TLS: &str =
    "the password of a smart host is sent over verified TLS only: set its tls to starttls or implicit";

/// The connection plan and the addresses of one host.
pub struct HostAttempt {
    /// How to connect.
    pub plan: ConnectPlan,
    /// The addresses that were not dialled yet, in the order of dialling.
    pub addresses: Vec<SocketAddr>,
    /// How many of them may still be dialled.
    quota: usize,
}

/// What connections to the hosts of one destination are planned with.
pub struct HostPreparation<'a> {
    /// Finds addresses.
    pub finder: &'a TargetFinder,
    /// The source addresses.
    pub sources: &'a Sources,
    /// The pool of them; as in [`crate::queue::QueueKey`].
    pub pool: Option<SourcePoolId>,
    /// The hosts.
    pub targets: &'a TargetHosts,
}

impl HostPreparation<'_> {
    /// Plans the connection to a host and looks up its addresses.
    ///
    /// # Errors
    /// No source reaches the host, it has no address that may be dialled, or its password would be sent in clear.
    pub async fn prepare(
        &self,
        endpoint: &Endpoint,
        policy: &HostPolicy,
    ) -> Result<HostAttempt, TargetError> {
        let Some(pool) = self.pool else {
            let text = "the tenant's source_pool is not one of relay.pools in the configuration";
            return Err(TargetError::Temporary(BounceClass::Temporary, text.into()));
        };
        let (host, route) = (&endpoint.host, &self.targets.route);
        let mut addresses = self.finder.addresses_of(self.targets, endpoint).await?;
        let source = self.sources.choose(pool, &addresses).ok_or_else(|| {
            let text = format!("{host} has no address in the family of the source address");
            TargetError::Temporary(BounceClass::Network, text)
        })?;
        addresses.retain(|address| source.reaches(address.ip()));
        let is_local = addresses.iter().all(|address| address.ip().is_loopback());
        let plan = plan(host, route, policy, source);
        let is_local_plain = route.tls == TlsMode::None && is_local;
        if plan.login.is_some() && plan.trust == Trust::Any && !is_local_plain {
            return Err(TargetError::Temporary(BounceClass::Tls, PASSWORD_NEEDS_TLS.to_owned()));
        }
        Ok(HostAttempt { plan, addresses, quota: 0 })
    }
}

impl Attempt<'_> {
    /// Dials the addresses of one host within its quota, until a session leaves no result that another host could
    /// improve.
    pub(super) async fn try_host(
        &mut self,
        mut host: HostAttempt,
        hosts_after: usize,
        state: &mut DialState,
    ) {
        host.addresses.retain(|address| !state.tried.contains(address));
        let quota = address_quota(&host.addresses, ADDRESSES_MAX - state.dialled, hosts_after);
        host.quota = quota;
        while host.quota > 0 && !host.addresses.is_empty() && self.may_dial() {
            if let Some(previous) = state.last.take() {
                self.context.tasks.spawn(previous.quit());
            }
            let Some(connected) = self.connect(&mut host).await else { continue };
            let Some(mut connection) = self.open(&host.plan, connected).await else { continue };
            if self.requires_tls() && !connection.supports_require_tls() {
                let text = format!("{} does not offer REQUIRETLS", host.plan.host);
                let error = DeliveryError { lacks_tls: true, ..DeliveryError::new(Phase::StartTls, text) };
                self.record_error(&error, &connection.peer.clone());
                self.context.tasks.spawn(connection.quit());
                continue;
            }
            state.tried.push(connection.address);
            match self.send(&mut connection, false).await {
                ConnectionFate::Kept | ConnectionFate::ClosedWhileIdle => state.last = Some(connection),
                ConnectionFate::UsedUp => {
                    host.addresses.insert(0, connection.address);
                    host.quota += 1;
                    self.context.tasks.spawn(connection.quit());
                }
            }
        }
        state.dialled += quota - host.quota;
    }

    /// Connects to one of the addresses, and removes it and the addresses that failed. `None` if all failed or the
    /// deadline passed.
    async fn connect(&mut self, host: &mut HostAttempt) -> Option<TcpConnected> {
        let HostAttempt { plan, addresses, quota } = host;
        let permit = self.deadline.limit(self.context.outbound.permit(&self.context.tasks)).await.ok()??;
        let race =
            self.context.outbound.dialer.connect(&addresses[..addresses.len().min(*quota)], &plan.source);
        let RaceResult { connected, mut failed } = match self.deadline.limit(race).await {
            Ok(result) => result,
            Err(_) => {
                let error = DeliveryError::new(Phase::Connect, ATTEMPT_TIMED_OUT);
                self.record_error(&error, &plan.peer(None, None));
                return None;
            }
        };
        if connected.is_some() {
            self.context.queue.begin_connection(self.queue);
        }
        let connected_to = connected.as_ref().map(|(address, _)| *address);
        addresses.retain(|at| Some(*at) != connected_to && failed.iter().all(|(address, _)| address != at));
        let dialled = failed.iter().filter(|(_, error)| !is_local_network_error(error)).count();
        *quota = quota.saturating_sub(dialled + usize::from(connected.is_some()));
        // The last error is kept, so errors of the host come after errors of the network of this server.
        failed.sort_by_key(|(_, error)| !is_local_network_error(error));
        for (address, error) in failed {
            let text = format!("cannot connect to {} [{address}]: {error}", plan.host);
            let peer = plan.peer((!is_local_network_error(&error)).then(|| address.ip()), None);
            self.record_error(&DeliveryError::new(Phase::Connect, text), &peer);
        }
        connected.map(|(address, stream)| TcpConnected { address, stream, permit })
    }

    async fn open(&mut self, plan: &ConnectPlan, connected: TcpConnected) -> Option<Connection> {
        let (address, source) = (connected.address, connected.source());
        let error = match self.open_once(plan, connected).await {
            Ok(connection) => return Some(connection),
            Err(error) => error,
        };
        // RFC 7435: with opportunistic TLS, a server whose TLS is broken gets the mail without TLS.
        if error.in_handshake && plan.starttls == StartTls::IfOffered {
            self.transcript.remark(&error.text);
            let weaker = self.weaken(plan, &error);
            let mut again = HostAttempt { plan: weaker, addresses: vec![address], quota: 1 };
            let connected = self.connect(&mut again).await?;
            return Box::pin(self.open(&again.plan, connected)).await;
        }
        if error.is_login && self.sessions > 0 {
            // A reply to the message takes priority over the refusal of the account by another host.
            self.transcript.remark(&error.text);
        } else {
            self.record_error(&error, &plan.peer(Some(address.ip()), source));
        }
        None
    }

    /// The plan after a failed TLS handshake: first with any certificate, then without TLS.
    fn weaken(&mut self, plan: &ConnectPlan, error: &DeliveryError) -> ConnectPlan {
        if plan.trust == Trust::Any {
            self.transcript.remark("again, without TLS");
        } else {
            tracing::info!(host = %plan.host, reason = %error.text,
                "the host does not meet the MTA-STS policy of the domain, which is in testing mode");
            self.transcript.remark("again, with any certificate: the MTA-STS policy is in testing mode");
        }
        plan.weaker()
    }

    async fn open_once(
        &mut self,
        plan: &ConnectPlan,
        connected: TcpConnected,
    ) -> Result<Connection, DeliveryError> {
        let opening = self.context.outbound.dialer.open(plan, connected, &mut self.transcript);
        let opened = self.deadline.limit(opening).await;
        let opened = opened.unwrap_or_else(|_| Err(DeliveryError::new(Phase::Connect, ATTEMPT_TIMED_OUT)));
        match &opened {
            Ok(connection) => {
                let is_clear = connection.peer.tls.is_none();
                let failure = is_clear.then_some(TlsFailure::StarttlsNotSupported);
                self.count_tls(&plan.host, plan.reported, failure);
            }
            Err(DeliveryError { tls_failure: Some(failure), .. }) => {
                self.count_tls(&plan.host, plan.reported, Some(*failure));
            }
            // It failed before TLS or after it.
            Err(_) => {}
        }
        match &opened {
            Ok(_) if plan.login.is_some() => self.login = LoginResult::Accepted,
            // A host that accepted the message proves that the account is good.
            Err(error) if error.is_login && self.login != LoginResult::Accepted && self.sessions == 0 => {
                let result = RecipientResult::from_error(error, &Arc::<Peer>::default());
                self.login = LoginResult::Refused(result.to_reply_text());
            }
            _ => {}
        }
        opened
    }
}

fn plan(host: &str, route: &Route, policy: &HostPolicy, source: Arc<Source>) -> ConnectPlan {
    ConnectPlan {
        host: host.to_owned(),
        implicit_tls: route.tls == TlsMode::Implicit,
        starttls: match route.tls {
            TlsMode::Implicit => StartTls::Never,
            _ if policy.requirement.strength() > TlsMinimum::Opportunistic => StartTls::Required,
            TlsMode::None => StartTls::Never,
            TlsMode::Opportunistic | TlsMode::Starttls => StartTls::IfOffered,
        },
        trust: match &policy.requirement {
            Requirement::Opportunistic | Requirement::Encrypted => Trust::Any,
            Requirement::Verified | Requirement::Tested => Trust::Verified,
            Requirement::Dane(set) => Trust::Dane(set.clone()),
        },
        tls_policy: policy.basis.clone(),
        reported: policy.reported,
        ehlo_name: route.ehlo_name.clone().unwrap_or_else(|| source.ehlo_name.clone()),
        source,
        login: route.login.clone(),
    }
}
