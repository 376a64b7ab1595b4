//! One attempt of one batch: over an idle connection if there is one, then host by host, until no other host could
//! improve the result of any recipient.

mod host;
mod result;
mod session;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use self::host::{HostAttempt, HostPreparation};
pub use self::result::AttemptResult;
use self::session::ConnectionFate;
use super::RelayContext;
use super::connection::Connection;
use super::delivery_error::{ATTEMPT_TIMED_OUT, DeliveryError};
use super::peer::Peer;
use super::recipient_result::RecipientResult;
use super::return_path::is_shared;
use super::smart_host_login::LoginResult;
use super::target_hosts::TargetError;
use super::tls::policy::{TlsNeed, TlsRules, waives_tls};
use super::transcript::Transcript;
use crate::clock::Deadline;
use crate::config::Timeouts;
use crate::mail::{Content, DomainName, EnhancedStatus, Host};
use crate::model::{BounceClass, TlsFailure, TlsPolicyType};
use crate::policy::reply_verdict::Verdict;
use crate::policy::tls::{DomainFacts, NO_TLS, NOT_TRUSTED, ReportedPolicy, StsLookup, TlsRefusal};
use crate::queue::{NextHop, QueueKey};
use crate::smtp::client::Phase;
use crate::store::Batch;

/// Maximum of addresses that are dialled in one attempt.
const ADDRESSES_MAX: usize = 5;
/// Maximum of servers that get the message in one attempt. If two hosts defer it, a third is unlikely to accept it.
const SESSIONS_MAX: usize = 2;
/// The minimum rate at which a server reads a message: connections are scarce.
const OCTETS_PER_SECOND_MIN: u64 = 16 * 1024;
/// The most by which further transactions extend the deadline.
const FURTHER_TRANSACTIONS_MAX: Duration = Duration::from_secs(30 * 60);

/// The deadline of an attempt that begins now, for all hosts and recipients together. Each step of one dialogue may use
/// its full timeout once (RFC 5321 §4.5.3.2; 24 minutes by default), and a large message extends the deadline, as does
/// each transaction after the first. Without it, a server that replies to each of a hundred recipients just in time
/// would occupy a connection for hours.
fn attempt_deadline(timeouts: &Timeouts, message_octets: u64, transactions: u32) -> Deadline {
    let Timeouts { connect, greeting, starttls, command, data, .. } = timeouts;
    let dialogue = *connect + *greeting + *starttls + 3 * *command + *data;
    let transfer = Duration::from_secs(message_octets / OCTETS_PER_SECOND_MIN);
    let further = (3 * *command + *data / 4 + transfer).saturating_mul(transactions.saturating_sub(1));
    Deadline::after(dialogue + transfer + further.min(FURTHER_TRANSACTIONS_MAX))
}

/// One attempt.
pub struct Attempt<'a> {
    context: &'a RelayContext,
    queue: &'a QueueKey,
    batch: &'a Batch,
    content: &'a Content,
    /// The host of the reverse path, if that is not the sender's.
    return_host: Option<DomainName>,
    /// Whether the header has `TLS-Required: No` and the envelope has no REQUIRETLS, which overrides it (RFC 8689
    /// §4.1).
    waives_tls: bool,
    results: Vec<Option<RecipientResult>>,
    transcript: Transcript,
    sessions: usize,
    /// How many of the sessions ended by a limit of the server or of this one, so that another connection to the same
    /// server continued them.
    continued_sessions: usize,
    /// Where the last of them was.
    continued_at: Option<SocketAddr>,
    /// Transactions that the servers were offered.
    transactions: u32,
    login: LoginResult,
    /// Whether a host failed for another reason than a lack of TLS.
    has_other_failure: bool,
    deadline: Deadline,
}

/// The addresses and connections of the attempt so far.
struct DialState {
    /// Where sessions of this attempt were. Another name of such a server does not get it dialled again.
    tried: Vec<SocketAddr>,
    /// The last connection.
    last: Option<Connection>,
    /// How many addresses were dialled.
    dialled: usize,
}

impl<'a> Attempt<'a> {
    /// An attempt that has not begun.
    pub fn new(
        context: &'a RelayContext,
        queue: &'a QueueKey,
        batch: &'a Batch,
        content: &'a Content,
    ) -> Self {
        Self {
            context,
            queue,
            batch,
            content,
            return_host: None,
            waives_tls: !batch.message.parameters.require_tls && waives_tls(content),
            results: vec![None; batch.deliveries.len()],
            transcript: Transcript::default(),
            sessions: 0,
            continued_sessions: 0,
            continued_at: None,
            transactions: 0,
            login: LoginResult::NotAttempted,
            has_other_failure: false,
            deadline: attempt_deadline(&context.outbound.dialer.timeouts, content.len() as u64, 1),
        }
    }

    /// With reverse paths at this host.
    pub fn returning_to(mut self, host: Option<DomainName>) -> Self {
        let octets = self.content.len() as u64;
        if host.is_some() && !is_shared(self.batch, octets) {
            let transactions = u32::try_from(self.results.len()).unwrap_or(u32::MAX);
            let timeouts = &self.context.outbound.dialer.timeouts;
            self.deadline = attempt_deadline(timeouts, octets, transactions);
        }
        self.return_host = host;
        self
    }

    /// Sends the message over the idle connection, then to host after host.
    pub async fn run(mut self, mut idle: Option<Connection>) -> AttemptResult {
        if let Some(connection) = &mut idle
            && !self.may_use(connection).await
            && let Some(unfit) = idle.take()
        {
            self.context.tasks.spawn(unfit.quit());
        }
        let mut used = None;
        let mut reusable = None;
        if let Some(mut connection) = idle {
            self.transcript.remark(&format!(
                "reused connection to {} [{}], messages before: {}",
                connection.peer.host, connection.address, connection.messages
            ));
            match self.send(&mut connection, true).await {
                ConnectionFate::Kept => {
                    used = Some(connection.address);
                    reusable = Some(connection);
                }
                ConnectionFate::ClosedWhileIdle => {}
                ConnectionFate::UsedUp => self.context.tasks.spawn(connection.quit()),
            }
        }
        if self.is_incomplete() && self.may_begin_session() {
            reusable = self.try_hosts(used, reusable).await;
        }
        if self.requires_tls() && !self.has_other_failure {
            self.fail_require_tls();
        }
        if !self.is_cut_short() {
            let has_time = !self.deadline.has_passed();
            let text = if has_time { "no host could be reached" } else { ATTEMPT_TIMED_OUT };
            let error = DeliveryError::new(Phase::Connect, text);
            let result = RecipientResult::from_error(&error, &Arc::default());
            self.results
                .iter_mut()
                .filter(|slot| slot.is_none())
                .for_each(|slot| *slot = Some(result.clone()));
        }
        AttemptResult {
            results: self.results,
            transcript: self.transcript.into_text().into(),
            login: self.login,
            connection: reusable.filter(Connection::is_usable),
            sessions: self.sessions,
        }
    }

    /// Whether the message is sent only over verified TLS to a server that offers REQUIRETLS (RFC 8689 §4.2.1).
    fn requires_tls(&self) -> bool {
        self.batch.message.parameters.require_tls
    }

    /// Counts a session for the TLS report to the domain.
    fn count_tls(&self, host: &str, reported: Option<ReportedPolicy>, failure: Option<TlsFailure>) {
        let (Some(counts), Some(ReportedPolicy { policy, failure: known_failure })) =
            (&self.context.tls_results, reported)
        else {
            return;
        };
        // A message with `TLS-Required: No` ignores the policy that the report is about.
        if let Host::Domain(domain) = &self.batch.destination
            && !self.waives_tls
        {
            counts.count(domain, host, policy, failure.or(known_failure));
        }
    }

    /// Counts a failure to fetch the MTA-STS policy of the domain, in addition to the sessions without the policy.
    fn count_policy_failure(&self, rules: &TlsRules) {
        if let Some(DomainFacts { sts: StsLookup::Unavailable(fault), .. }) = rules.facts()
            && fault.failure.is_some()
        {
            let reported = ReportedPolicy { policy: TlsPolicyType::Sts, failure: fault.failure };
            self.count_tls("", Some(reported), None);
        }
    }

    /// Bounces the recipients: no host meets REQUIRETLS, and a retry would not help. RFC 8689 §4.2.1: 5.7.10 if TLS
    /// could not be established, else 5.7.30.
    fn fail_require_tls(&mut self) {
        for result in self.results.iter_mut().flatten().filter(|result| result.lacks_tls) {
            let was_dialled = result.peer.address.is_some();
            let tls_failed = was_dialled && matches!(result.enhanced, Some(NO_TLS | NOT_TRUSTED));
            let status = EnhancedStatus::new(5, 7, if tls_failed { 10 } else { 30 });
            let text = format!("REQUIRETLS cannot be met: {}", result.text);
            *result = RecipientResult {
                peer: result.peer.clone(),
                ..RecipientResult::unroutable(550, status, text)
            };
        }
    }

    /// Whether the message may be sent over a connection that was opened for another one.
    async fn may_use(&self, connection: &mut Connection) -> bool {
        if self.requires_tls() && !connection.supports_require_tls() {
            return false;
        }
        let (NextHop::Mx(..), Host::Domain(domain)) = (&self.queue.next_hop, &self.batch.destination) else {
            return true;
        };
        if self.waives_tls {
            return false;
        }
        let Ok(route) = self.context.router.route_of(&self.queue.next_hop).await else { return false };
        let (host, port) = (connection.peer.host.clone(), connection.address.port());
        let need = TlsNeed { domain, host: &host, port, tls: route.tls, require_tls: self.requires_tls() };
        let allowed = self.context.tls_policies.allows(&self.context.tasks, &need, connection);
        self.deadline.limit(allowed).await.unwrap_or(false)
    }

    /// Dials host after host. The previous connection is closed first: workers that wait for a second permit while they
    /// have one would deadlock. Returns the last connection, or `last` if no host was dialled.
    async fn try_hosts(&mut self, used: Option<SocketAddr>, last: Option<Connection>) -> Option<Connection> {
        let found = self.context.targets.hosts_of(&self.queue.next_hop, &self.batch.destination).await;
        let targets = match found {
            Ok(targets) => targets,
            Err(error) => {
                self.record_target_error(error);
                return last;
            }
        };
        let rules = if self.waives_tls {
            self.context.tls_policies.waived_rules(&targets)
        } else {
            let rules =
                self.context.tls_policies.rules_for(&self.context.tasks, &targets, self.requires_tls());
            let Ok(rules) = self.deadline.limit(rules).await else { return last };
            rules
        };
        self.count_policy_failure(&rules);
        let mut state = DialState { tried: used.into_iter().collect(), last, dialled: 0 };
        let preparation = HostPreparation {
            finder: &self.context.targets,
            sources: &self.context.outbound.sources,
            pool: self.queue.sources,
            targets: &targets,
        };
        let mut unroutable = 0;
        for (index, endpoint) in targets.hosts.iter().enumerate() {
            if state.dialled == ADDRESSES_MAX || !self.may_dial() {
                break;
            }
            let policy = rules.for_host(&self.context.tls_policies, endpoint);
            let policy = match self.deadline.limit(policy).await {
                Ok(Ok(policy)) => policy,
                Ok(Err(unmet)) => {
                    self.count_tls(&endpoint.host, unmet.reported, None);
                    self.record_unmet_policy(unmet, &endpoint.host);
                    continue;
                }
                Err(_) => break,
            };
            match preparation.prepare(endpoint, &policy).await {
                Ok(host) => {
                    let hosts_after = targets.hosts.len() - index - 1;
                    self.try_host(host, hosts_after, &mut state).await;
                }
                Err(error) => {
                    unroutable += usize::from(matches!(error, TargetError::Unroutable(..)));
                    self.record_target_error(error);
                }
            }
        }
        if unroutable == targets.hosts.len() {
            self.results.iter_mut().flatten().for_each(RecipientResult::set_unroutable);
        }
        state.last
    }

    /// Whether another host could improve the result of any recipient.
    fn is_incomplete(&self) -> bool {
        self.results.iter().any(is_open)
    }

    /// Whether another address may be dialled.
    fn may_dial(&self) -> bool {
        self.is_incomplete() && self.may_begin_session() && !self.deadline.has_passed()
    }

    fn may_begin_session(&self) -> bool {
        !self.is_cut_short() && self.sessions - self.continued_sessions < SESSIONS_MAX
    }

    /// Whether this server stops after the first session has begun. Recipients without a result are then not attempted.
    fn is_cut_short(&self) -> bool {
        self.sessions > 0 && self.context.tasks.stop.is_cancelled()
    }

    fn record_target_error(&mut self, error: TargetError) {
        match error {
            TargetError::Permanent(result) => self.record(&result),
            TargetError::Temporary(class, text) | TargetError::Unroutable(class, text) => {
                let error = DeliveryError::new(Phase::Connect, text).with_class(class);
                self.record_error(&error, &Arc::new(Peer::default()));
            }
        }
    }

    /// Records that the TLS policy excludes a host before it is dialled.
    fn record_unmet_policy(&mut self, unmet: TlsRefusal, host: &str) {
        let TlsRefusal { text, status, is_permanent, basis, reported: _ } = unmet;
        let error = DeliveryError::new(Phase::Connect, text).with_class(BounceClass::Tls);
        let error = DeliveryError { lacks_tls: is_permanent, status: Some(status), ..error };
        let peer = Peer { host: host.to_owned(), tls_policy: Some(basis), ..Peer::default() };
        self.record_error(&error, &Arc::new(peer));
    }

    fn record_error(&mut self, error: &DeliveryError, peer: &Arc<Peer>) {
        self.transcript.remark(&error.text);
        self.has_other_failure |= !error.lacks_tls;
        self.record(&RecipientResult::from_error(error, peer));
    }

    /// Sets the result of the recipients whose result may still improve.
    fn record(&mut self, result: &RecipientResult) {
        self.record_for(0..self.results.len(), result);
    }

    /// As [`Self::record`], for some recipients. A lost connection does not replace a reply.
    fn record_for(&mut self, recipients: impl Iterator<Item = usize>, result: &RecipientResult) {
        for at in recipients {
            let slot = &mut self.results[at];
            if is_open(slot) && (!has_reply(slot) || result.code.is_some()) {
                *slot = Some(result.clone());
            }
        }
    }
}

/// Whether a server replied.
fn has_reply(result: &Option<RecipientResult>) -> bool {
    result.as_ref().is_some_and(|result| result.code.is_some())
}

/// Whether another host could improve the result.
fn is_open(result: &Option<RecipientResult>) -> bool {
    result
        .as_ref()
        .is_none_or(|result| !result.conclusive && matches!(result.verdict, Verdict::Deferred { .. }))
}
