//! One try of one batch: over an idle connection if there is one, else host by host until each recipient has an
//! ending that another host cannot better.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

use super::RelayContext;
use super::connection::{ConnectPlan, Connection, DeliveryError, OUT_OF_TIME, Peer, Reached, end_of_try};
use super::happy_eyeballs::{Race, is_our_fault, share_of};
use super::recipient_result::RecipientResult;
use super::route::Route;
use super::smart_host_login::Login;
use super::source::Source;
use super::target_hosts::{Destination, Obstacle};
use super::tls::Trust;
use super::tls_policy::{Need, Protection, waives_tls};
use super::transcript::Transcript;
use crate::config::Endpoint;
use crate::mail::{BodyType, Content, EnhancedStatus, Host};
use crate::model::{BounceClass, TlsFailure, TlsMinimum, TlsMode, TlsPolicyType};
use crate::policy::reply_verdict::Verdict;
use crate::policy::site_feedback::{SiteFeedback, SmtpResponse};
use crate::policy::tls::{
    DomainFacts, HostPolicy, NO_TLS, NOT_TRUSTED, ReportedPolicy, Requirement, StsLookup, TlsRefusal,
};
use crate::queue::{NextHop, QueueKey};
use crate::smtp::client::{Phase, Request, StartTls, Target};
use crate::store::{Batch, Delivery};

/// Addresses that are dialled in one try.
const ADDRESSES_MAX: usize = 5;
/// Servers that are offered the message in one try: a message that two hosts defer is not worth asking five.
const SESSIONS_MAX: usize = 2;

/// The try.
pub struct Attempt<'a> {
    core: &'a RelayContext,
    lane: &'a QueueKey,
    batch: &'a Batch,
    content: &'a Content,
    /// RFC 8689 §4.1: the header waives TLS, and REQUIRETLS, which goes before it, was not given.
    waives_tls: bool,
    endings: Vec<Option<RecipientResult>>,
    transcript: Transcript,
    sessions: usize,
    login: Login,
    /// Whether something else than the lack of TLS kept the message from a host.
    may_do_better: bool,
    deadline: Instant,
}

/// How to speak to a host, and where it is.
struct HostAttempt {
    dial: ConnectPlan,
    /// Those that were not dialled yet, in the order in which they are.
    addresses: Vec<SocketAddr>,
    /// How many of them may be.
    share: usize,
}

/// What was done at the hosts before.
struct DialState {
    /// An address that needs no second connection.
    used: Option<SocketAddr>,
    /// The last connection.
    last: Option<Connection>,
    /// Addresses that were dialled.
    dialled: usize,
}

/// What came of it.
pub struct AttemptResult {
    /// One for each delivery of the batch.
    pub endings: Vec<RecipientResult>,
    /// What was said.
    pub transcript: Arc<str>,
    /// Whether our account was taken.
    pub login: Login,
    /// A connection that can be used again.
    pub connection: Option<Connection>,
    /// Servers that were offered the message.
    pub sessions: usize,
}

impl AttemptResult {
    /// What it taught about the site: the best that it did for any recipient. `None` if no server was reached or dialled.
    pub fn lesson(&self) -> Option<SiteFeedback> {
        let mail_accepted = self.sessions > 0;
        let lesson = |ending: &RecipientResult| {
            // What stood in the way before anything was dialled, a policy of the domain or our own network, is not the
            // site's.
            if ending.peer.address.is_none() || ending.lacks_tls {
                return None;
            }
            let RecipientResult { peer, enhanced: status, text, .. } = ending;
            Some(match ending.code {
                Some(code) => {
                    let class = ending.verdict.class();
                    SmtpResponse { host: &peer.host, code, status: *status, text, class, mail_accepted }
                        .feedback()
                }
                // What the message or the way did to a dialogue is no proof against the site.
                None if mail_accepted => SiteFeedback::Deferred,
                None => SiteFeedback::Unreachable { host: peer.host.clone(), reason: text.clone() },
            })
        };
        self.endings.iter().filter_map(lesson).min_by_key(SiteFeedback::severity)
    }
}

impl<'a> Attempt<'a> {
    /// A try that has not begun.
    pub fn new(core: &'a RelayContext, lane: &'a QueueKey, batch: &'a Batch, content: &'a Content) -> Self {
        let endings = vec![None; batch.deliveries.len()];
        Self {
            core,
            lane,
            batch,
            content,
            waives_tls: !batch.message.parameters.require_tls && waives_tls(content),
            endings,
            transcript: Transcript::default(),
            sessions: 0,
            login: Login::Untold,
            may_do_better: false,
            deadline: end_of_try(&core.dialler.timeouts, content.len() as u64),
        }
    }

    /// Tries until nothing is left to try.
    pub async fn run(mut self, mut idle: Option<Connection>) -> AttemptResult {
        if let Some(connection) = &mut idle
            && !self.may_use(connection).await
            && let Some(unfit) = idle.take()
        {
            self.core.tasks.spawn(unfit.quit());
        }
        let mut used = None;
        let mut reusable = None;
        if let Some(mut connection) = idle {
            self.transcript.remark(&format!(
                "connection to {} [{}], used for {} before",
                connection.peer.host, connection.address, connection.messages
            ));
            used = Some(connection.address);
            if self.send(&mut connection, true).await {
                reusable = Some(connection);
            } else {
                // It had died while it was idle: this was no try.
                used = None;
            }
        }
        if self.has_open() && self.sessions < SESSIONS_MAX {
            reusable = self.try_hosts(used, reusable).await;
        }
        if self.requires_tls() && !self.may_do_better {
            self.settle_untrusted();
        }
        let nowhere = DeliveryError::new(Phase::Connect, "no host could be reached");
        let nobody = Arc::new(Peer::default());
        let endings = self.endings.into_iter().map(|ending| match ending {
            Some(ending) => ending,
            None => RecipientResult::of_trouble(&nowhere, &nobody),
        });
        AttemptResult {
            endings: endings.collect(),
            transcript: self.transcript.into_text().into(),
            login: self.login,
            connection: reusable.filter(Connection::is_usable),
            sessions: self.sessions,
        }
    }

    /// RFC 8689 §4.2.1: over verified TLS to a server that promises the same, or not at all.
    fn requires_tls(&self) -> bool {
        self.batch.message.parameters.require_tls
    }

    /// Counts a session for the report to the domain.
    fn note_tls(&self, host: &str, reported: Option<ReportedPolicy>, failure: Option<TlsFailure>) {
        let (Some(results), Some(ReportedPolicy { policy, failure: known_failure })) =
            (&self.core.tls_results, reported)
        else {
            return;
        };
        // The header says not to ask for what would be reported on.
        if let Host::Domain(domain) = &self.batch.destination
            && !self.waives_tls
        {
            results.count(domain, host, policy, failure.or(known_failure));
        }
    }

    /// Counts that a domain's MTA-STS policy could not be had, whatever becomes of the sessions without it.
    fn note_lost_policy(&self, protection: &Protection) {
        if let Some(DomainFacts { sts: StsLookup::Unavailable(fault), .. }) = protection.facts()
            && fault.failure.is_some()
        {
            let reported = ReportedPolicy { policy: TlsPolicyType::Sts, failure: fault.failure };
            self.note_tls("", Some(reported), None);
        }
    }

    /// No host can keep the promise, and none would at another time. RFC 8689 §4.2.1: 5.7.10 where no TLS came about,
    /// else 5.7.30.
    fn settle_untrusted(&mut self) {
        for ending in self.endings.iter_mut().flatten().filter(|ending| ending.lacks_tls) {
            let was_dialled = ending.peer.address.is_some();
            let failed = was_dialled && matches!(ending.enhanced, Some(NO_TLS | NOT_TRUSTED));
            let status = EnhancedStatus::new(5, 7, if failed { 10 } else { 30 });
            let text = format!("REQUIRETLS is asked for: {}", ending.text);
            *ending = RecipientResult {
                peer: ending.peer.clone(),
                ..RecipientResult::unroutable(550, status, text)
            };
        }
    }

    /// Whether the message may go over a connection that another one was sent over.
    async fn may_use(&self, connection: &mut Connection) -> bool {
        if self.requires_tls() && !connection.keeps_tls() {
            return false;
        }
        let (NextHop::Mx(..), Host::Domain(domain)) = (&self.lane.way, &self.batch.destination) else {
            return true;
        };
        if self.waives_tls {
            return false;
        }
        let Ok(route) = self.core.router.route_of(&self.lane.way).await else { return false };
        let (host, port) = (connection.peer.host.clone(), connection.address.port());
        let need = Need { domain, host: &host, port, tls: route.tls, require_tls: self.requires_tls() };
        let allowed = self.core.tls_policies.allows(self.core, &need, connection);
        timeout_at(self.deadline, allowed).await.unwrap_or(false)
    }

    fn has_open(&self) -> bool {
        self.endings.iter().any(is_open)
    }

    /// Dials host after host, none while it has another connection: workers that all wait for a second place would
    /// wait for each other without end. Answers the last connection, which is `last` if there was nothing to dial.
    async fn try_hosts(&mut self, used: Option<SocketAddr>, last: Option<Connection>) -> Option<Connection> {
        let destination = match Destination::find(self.core, &self.lane.way, &self.batch.destination).await {
            Ok(destination) => destination,
            Err(obstacle) => {
                self.settle_obstacle(obstacle);
                return last;
            }
        };
        let protection = if self.waives_tls {
            Protection::waived(self.core, &destination)
        } else {
            let protection = Protection::of(self.core, &destination, self.requires_tls());
            let Ok(protection) = timeout_at(self.deadline, protection).await else { return last };
            protection
        };
        self.note_lost_policy(&protection);
        let mut round = DialState { used, last, dialled: 0 };
        for (place, endpoint) in destination.hosts.iter().enumerate() {
            if round.dialled == ADDRESSES_MAX || !self.goes_on() {
                break;
            }
            let host = &endpoint.host;
            let policy = match timeout_at(self.deadline, protection.of_host(self.core, endpoint)).await {
                Ok(Ok(policy)) => policy,
                Ok(Err(unmet)) => {
                    self.note_tls(host, unmet.reported, None);
                    self.settle_unmet(unmet, host);
                    continue;
                }
                Err(_) => break,
            };
            match self.approach(&destination, endpoint, &policy).await {
                Ok(approach) => {
                    let hosts_after = destination.hosts.len() - place - 1;
                    self.try_host(approach, hosts_after, &mut round).await;
                }
                Err(obstacle) => self.settle_obstacle(obstacle),
            }
        }
        round.last
    }

    /// Dials one host, as often as the hosts after it allow.
    async fn try_host(&mut self, mut approach: HostAttempt, hosts_after: usize, round: &mut DialState) {
        approach.addresses.retain(|address| Some(*address) != round.used);
        let share = share_of(&approach.addresses, ADDRESSES_MAX - round.dialled, hosts_after);
        approach.share = share;
        while approach.share > 0 && !approach.addresses.is_empty() && self.goes_on() {
            if let Some(previous) = round.last.take() {
                self.core.tasks.spawn(previous.quit());
            }
            let Some(reached) = self.reach(&mut approach).await else { continue };
            let Some(mut connection) = self.open(&approach.dial, reached).await else { continue };
            if self.requires_tls() && !connection.keeps_tls() {
                let text = format!("{} does not offer REQUIRETLS", approach.dial.host);
                let trouble = DeliveryError { lacks_tls: true, ..DeliveryError::new(Phase::StartTls, text) };
                self.settle_trouble(&trouble, &connection.peer.clone());
                self.core.tasks.spawn(connection.quit());
                continue;
            }
            self.send(&mut connection, false).await;
            round.last = Some(connection);
        }
        round.dialled += share - approach.share;
    }

    /// Whether another address may be dialled.
    fn goes_on(&self) -> bool {
        self.has_open() && self.sessions < SESSIONS_MAX && Instant::now() < self.deadline
    }

    fn settle_obstacle(&mut self, obstacle: Obstacle) {
        match obstacle {
            Obstacle::Final(ending) => self.settle_open(&ending),
            Obstacle::Passing(class, text) => {
                let trouble = DeliveryError::new(Phase::Connect, text).of(class);
                self.settle_trouble(&trouble, &Arc::new(Peer::default()));
            }
        }
    }

    /// The host gets no mail now, whatever it offers.
    fn settle_unmet(&mut self, unmet: TlsRefusal, host: &str) {
        let TlsRefusal { text, status, lasting, ground, reported: _ } = unmet;
        let trouble = DeliveryError::new(Phase::Connect, text).of(BounceClass::Tls);
        let trouble = DeliveryError { lacks_tls: lasting, status: Some(status), ..trouble };
        let peer = Peer { host: host.to_owned(), tls_policy: Some(ground), ..Peer::default() };
        self.settle_trouble(&trouble, &Arc::new(peer));
    }

    /// How to speak to a host, and where it is.
    async fn approach(
        &self,
        destination: &Destination,
        endpoint: &Endpoint,
        policy: &HostPolicy,
    ) -> Result<HostAttempt, Obstacle> {
        let Some(pool) = self.lane.sources else {
            let text = "the tenant's source_pool is not one of relay.pools in the configuration";
            return Err(Obstacle::Passing(BounceClass::Temporary, text.into()));
        };
        let host = &endpoint.host;
        let mut addresses = destination.addresses_of(self.core, endpoint).await?;
        let source = self.core.sources.choose(pool, &addresses).ok_or_else(|| {
            let text = format!("{host} has no address of the family of our source address");
            Obstacle::Passing(BounceClass::Network, text)
        })?;
        addresses.retain(|address| source.reaches(address.ip()));
        let is_local = addresses.iter().all(|address| address.ip().is_loopback());
        let dial = self.plan(host, is_local, &destination.route, policy, source);
        let dial = dial.map_err(|text| Obstacle::Passing(BounceClass::Tls, text.to_owned()))?;
        Ok(HostAttempt { dial, addresses, share: 0 })
    }

    /// Connects to one of the addresses; takes it out, and those that failed. `None` also where the time is over.
    async fn reach(&mut self, HostAttempt { dial, addresses, share }: &mut HostAttempt) -> Option<Reached> {
        let permit = timeout_at(self.deadline, self.permit()).await.ok()??;
        let race = self.core.dialler.reach(&addresses[..addresses.len().min(*share)], &dial.source);
        let Race { won, mut failed } = match timeout_at(self.deadline, race).await {
            Ok(race) => race,
            Err(_) => {
                let trouble = DeliveryError::new(Phase::Connect, OUT_OF_TIME);
                self.settle_trouble(&trouble, &dial.peer(None));
                return None;
            }
        };
        if won.is_some() {
            self.core.queue.begin_connection(self.lane);
        }
        let won_at = won.as_ref().map(|(address, _)| *address);
        addresses.retain(|at| Some(*at) != won_at && failed.iter().all(|(address, _)| address != at));
        let dialled = failed.iter().filter(|(_, error)| !is_our_fault(error)).count();
        *share = share.saturating_sub(dialled + usize::from(won.is_some()));
        // What the host did says more than what our own network could not do, so it comes last.
        failed.sort_by_key(|(_, error)| !is_our_fault(error));
        for (address, error) in failed {
            let text = format!("cannot connect to {} [{address}]: {error}", dial.host);
            let peer = dial.peer((!is_our_fault(&error)).then(|| address.ip()));
            self.settle_trouble(&DeliveryError::new(Phase::Connect, text), &peer);
        }
        won.map(|(address, stream)| Reached { address, stream, permit })
    }

    async fn open(&mut self, dial: &ConnectPlan, reached: Reached) -> Option<Connection> {
        let address = reached.address;
        let trouble = match self.converse(dial, reached).await {
            Ok(connection) => return Some(connection),
            Err(trouble) => trouble,
        };
        // Where TLS is a bonus, a server whose TLS is broken gets the mail in clear (RFC 7435).
        if trouble.in_handshake && dial.starttls == StartTls::IfOffered {
            self.transcript.remark(&trouble.text);
            let lesser = if dial.trust == Trust::Any {
                self.transcript.remark("again, without TLS");
                ConnectPlan { starttls: StartTls::Never, reported: None, ..dial.clone() }
            } else {
                tracing::info!(host = %dial.host, domain = %self.batch.destination, reason = %trouble.text,
                    "fails an MTA-STS policy that is being tested");
                self.transcript.remark("again, with any certificate: the policy is only being tested");
                ConnectPlan { trust: Trust::Any, reported: None, ..dial.clone() }
            };
            let mut again = HostAttempt { dial: lesser, addresses: vec![address], share: 1 };
            let reached = self.reach(&mut again).await?;
            let lesser = again.dial;
            return Box::pin(self.open(&lesser, reached)).await;
        }
        if trouble.is_login && self.sessions > 0 {
            // What was said of the message says more than what another host says of our account.
            self.transcript.remark(&trouble.text);
        } else {
            self.settle_trouble(&trouble, &dial.peer(Some(address.ip())));
        }
        None
    }

    async fn converse(&mut self, dial: &ConnectPlan, reached: Reached) -> Result<Connection, DeliveryError> {
        let opening = self.core.dialler.open(dial, reached, &mut self.transcript);
        let opened = timeout_at(self.deadline, opening).await;
        let opened = opened.unwrap_or_else(|_| Err(DeliveryError::new(Phase::Connect, OUT_OF_TIME)));
        match &opened {
            Ok(connection) => {
                let is_clear = connection.peer.tls.is_none();
                let failure = is_clear.then_some(TlsFailure::StarttlsNotSupported);
                self.note_tls(&dial.host, dial.reported, failure);
            }
            Err(DeliveryError { tls_failure: Some(failure), .. }) => {
                self.note_tls(&dial.host, dial.reported, Some(*failure));
            }
            // It did not come to TLS, or got past it.
            Err(_) => {}
        }
        match &opened {
            Ok(_) if dial.login.is_some() => self.login = Login::Accepted,
            // A host that took the message proves that the account is good.
            Err(trouble) if trouble.is_login && self.login != Login::Accepted && self.sessions == 0 => {
                let ending = RecipientResult::of_trouble(trouble, &Arc::default());
                self.login = Login::Refused(ending.to_reply_text());
            }
            _ => {}
        }
        opened
    }

    fn settle_trouble(&mut self, trouble: &DeliveryError, peer: &Arc<Peer>) {
        self.transcript.remark(&trouble.text);
        self.may_do_better |= !trouble.lacks_tls;
        self.settle_open(&RecipientResult::of_trouble(trouble, peer));
    }

    /// A place among all connections; an idle one of another lane makes room if there is none.
    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = self.core.connections.clone().try_acquire_owned() {
            return Some(permit);
        }
        if let Some(oldest) = self.core.pool.take_oldest() {
            self.core.tasks.spawn(oldest.quit());
        }
        self.core.connections.clone().acquire_owned().await.ok()
    }

    fn plan(
        &self,
        host: &str,
        is_local: bool,
        route: &Route,
        policy: &HostPolicy,
        source: Arc<Source>,
    ) -> Result<ConnectPlan, &'static str> {
        let mode = route.tls;
        let login = route.login.clone();
        let trust = match &policy.requirement {
            Requirement::Opportunistic | Requirement::Encrypted => Trust::Any,
            Requirement::Verified | Requirement::Tested => Trust::Verified,
            Requirement::Dane(set) => Trust::Dane(set.clone()),
        };
        let checked = trust != Trust::Any;
        let local = mode == TlsMode::None && is_local;
        if login.is_some() && !checked && !local {
            return Err(
                "the password of a smart host is sent over verified TLS only: set its tls to starttls or implicit",
            );
        }
        Ok(ConnectPlan {
            host: host.to_owned(),
            implicit_tls: mode == TlsMode::Implicit,
            starttls: match mode {
                TlsMode::Implicit => StartTls::Never,
                _ if policy.requirement.strength() > TlsMinimum::Opportunistic => StartTls::Required,
                TlsMode::None => StartTls::Never,
                TlsMode::Opportunistic | TlsMode::Starttls => StartTls::IfOffered,
            },
            trust,
            tls_policy: policy.ground.clone(),
            reported: policy.reported,
            ehlo_name: route.ehlo_name.clone().unwrap_or_else(|| source.ehlo_name.clone()),
            source,
            login,
        })
    }

    /// Sends the message to those who have no conclusive ending yet. False if the connection proves to have been dead
    /// before, which only one that was idle can.
    async fn send(&mut self, connection: &mut Connection, was_idle: bool) -> bool {
        let open: Vec<usize> = (0..self.endings.len()).filter(|&n| is_open(&self.endings[n])).collect();
        let target = |delivery: &'a Delivery| Target {
            address: &delivery.recipient,
            parameters: &delivery.parameters,
        };
        let recipients: Vec<Target<'_>> = open.iter().map(|&n| target(&self.batch.deliveries[n])).collect();
        let message = &self.batch.message;
        let request = Request {
            reverse_path: &message.reverse_path,
            parameters: &message.parameters,
            recipients: &recipients,
            size_octets: self.content.len() as u64,
            eight_bit: message.body == BodyType::EightBitMime || !is_ascii(self.content),
            utf8_header: message.smtputf8 && !has_ascii_header(self.content),
            reset: false,
        };
        connection.set_deadline(self.deadline);
        let sent = connection.send(&request, self.content, &mut self.transcript).await;
        if was_idle && !sent.progressed && !connection.is_usable() {
            self.transcript.remark("the connection was closed while it was idle");
            return false;
        }
        self.sessions += 1;
        let peer = connection.peer.clone();
        let alone = open.len() == 1;
        if let Some(trouble) = &sent.trouble {
            self.transcript.remark(&trouble.text);
        }
        for (place, outcome) in open.into_iter().zip(sent.outcomes) {
            let ending = match (outcome, &sent.trouble) {
                (Some(outcome), _) => RecipientResult::of_outcome(outcome, alone, &peer),
                (None, Some(trouble)) => {
                    let mut ending = RecipientResult::of_trouble(trouble, &peer);
                    // The server may have taken it: to ask another at once would be asking for a duplicate.
                    ending.conclusive = sent.in_doubt;
                    ending
                }
                (None, None) => {
                    RecipientResult::of_trouble(&DeliveryError::new(Phase::Content, "no reply"), &peer)
                }
            };
            self.endings[place] = Some(ending);
        }
        true
    }

    /// Gives an ending to all who have none that is better: a reply says more than a lost connection.
    fn settle_open(&mut self, ending: &RecipientResult) {
        for slot in self.endings.iter_mut().filter(|slot| is_open(slot)) {
            let replied = slot.as_ref().is_some_and(|old| old.code.is_some());
            if !replied || ending.code.is_some() {
                *slot = Some(ending.clone());
            }
        }
    }
}

/// Whether another host may do better.
fn is_open(ending: &Option<RecipientResult>) -> bool {
    ending
        .as_ref()
        .is_none_or(|ending| !ending.conclusive && matches!(ending.verdict, Verdict::Deferred { .. }))
}

fn is_ascii(content: &Content) -> bool {
    content.submitted.is_ascii() && content.prefix.is_ascii()
}

fn has_ascii_header(content: &Content) -> bool {
    content.prefix.is_ascii() && content.header().is_ascii()
}
