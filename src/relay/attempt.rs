//! One try of one batch: over an idle connection if there is one, else host by host until each recipient has an
//! ending that another host cannot better.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

use super::Core;
use super::connection::{Connection, Dial, OUT_OF_TIME, Peer, Trouble, end_of_try};
use super::destination::{Destination, Obstacle};
use super::ending::Ending;
use super::route::Lane;
use super::tls::Trust;
use super::transcript::Transcript;
use crate::mail::{BodyType, Content, EnhancedStatus, TlsMode};
use crate::policy::outcome::Verdict;
use crate::smtp::client::{Phase, Request, StartTls, Target};
use crate::store::{Batch, Delivery};

/// Addresses that are dialled in one try.
const ADDRESSES_MAX: usize = 5;
/// Servers that are offered the message in one try: a message that two hosts defer is not worth asking five.
const SESSIONS_MAX: usize = 2;

/// The try.
pub struct Attempt<'a> {
    core: &'a Core,
    lane: &'a Lane,
    batch: &'a Batch,
    content: &'a Content,
    endings: Vec<Option<Ending>>,
    transcript: Transcript,
    sessions: usize,
    /// Whether something else than the lack of TLS kept the message from a host.
    may_do_better: bool,
    deadline: Instant,
}

/// What came of it.
pub struct Tried {
    /// One for each delivery of the batch.
    pub endings: Vec<Ending>,
    /// What was said.
    pub transcript: String,
    /// A connection that can be used again.
    pub connection: Option<Connection>,
}

impl<'a> Attempt<'a> {
    /// A try that has not begun.
    pub fn new(core: &'a Core, lane: &'a Lane, batch: &'a Batch, content: &'a Content) -> Self {
        let endings = vec![None; batch.deliveries.len()];
        Self {
            core,
            lane,
            batch,
            content,
            endings,
            transcript: Transcript::default(),
            sessions: 0,
            may_do_better: false,
            deadline: end_of_try(&core.dialler.timeouts, content.len() as u64),
        }
    }

    /// Tries until nothing is left to try.
    pub async fn run(mut self, mut idle: Option<Connection>) -> Tried {
        if let Some(unfit) = idle.take_if(|idle| self.requires_tls() && !idle.keeps_tls()) {
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
        let nowhere = Trouble::new(Phase::Connect, "no host could be reached");
        let nobody = Arc::new(Peer::default());
        let endings = self.endings.into_iter().map(|ending| match ending {
            Some(ending) => ending,
            None => Ending::of_trouble(&nowhere, &nobody),
        });
        Tried {
            endings: endings.collect(),
            transcript: self.transcript.into_text(),
            connection: reusable.filter(Connection::is_usable),
        }
    }

    /// RFC 8689 §4.2.1: over verified TLS to a server that promises the same, or not at all.
    fn requires_tls(&self) -> bool {
        self.batch.message.parameters.require_tls
    }

    /// No host can keep the promise, and none would at another time: RFC 8689 §5 gives the code.
    fn settle_untrusted(&mut self) {
        for ending in self.endings.iter_mut().flatten().filter(|ending| ending.lacks_tls) {
            let status = EnhancedStatus::new(5, 7, 30);
            let text = format!("REQUIRETLS is asked for: {}", ending.text);
            *ending = Ending { peer: ending.peer.clone(), ..Ending::unroutable(550, status, text) };
        }
    }

    fn has_open(&self) -> bool {
        self.endings.iter().any(is_open)
    }

    /// Dials host after host, none while it has another connection: workers that all wait for a second place would
    /// wait for each other without end. Answers the last connection, which is `last` if there was nothing to dial.
    async fn try_hosts(
        &mut self,
        used: Option<SocketAddr>,
        mut last: Option<Connection>,
    ) -> Option<Connection> {
        let destination = match Destination::find(self.core, self.lane, &self.batch.destination).await {
            Ok(destination) => destination,
            Err(obstacle) => {
                self.settle_obstacle(obstacle);
                return last;
            }
        };
        let mut dialled = 0;
        for host in &destination.hosts {
            if Instant::now() >= self.deadline {
                return last;
            }
            let addresses = match destination.addresses_of(self.core, host).await {
                Ok(addresses) => addresses,
                Err(obstacle) => {
                    self.settle_obstacle(obstacle);
                    continue;
                }
            };
            for address in addresses {
                if Some(address) == used {
                    continue;
                }
                if dialled == ADDRESSES_MAX || self.sessions == SESSIONS_MAX || !self.has_open() {
                    return last;
                }
                dialled += 1;
                if let Some(previous) = last.take() {
                    self.core.tasks.spawn(previous.quit());
                }
                let Some(mut connection) = self.open(host, address, &destination).await else { continue };
                if self.requires_tls() && !connection.keeps_tls() {
                    let trouble = Trouble {
                        lacks_tls: true,
                        ..Trouble::new(Phase::Hello, format!("{host} does not offer REQUIRETLS"))
                    };
                    self.settle_trouble(&trouble, &connection.peer.clone());
                    self.core.tasks.spawn(connection.quit());
                    continue;
                }
                self.send(&mut connection, false).await;
                last = Some(connection);
            }
        }
        last
    }

    fn settle_obstacle(&mut self, obstacle: Obstacle) {
        match obstacle {
            Obstacle::Final(ending) => self.settle_open(&ending),
            Obstacle::Passing(text) => {
                self.settle_trouble(&Trouble::new(Phase::Connect, text), &Arc::new(Peer::default()));
            }
        }
    }

    async fn open(
        &mut self,
        host: &str,
        address: SocketAddr,
        destination: &Destination,
    ) -> Option<Connection> {
        let mut dial = match self.plan(host, address, destination) {
            Ok(dial) => dial,
            Err(text) => {
                self.settle_obstacle(Obstacle::Passing(text.to_owned()));
                return None;
            }
        };
        loop {
            let Ok(permit) = timeout_at(self.deadline, self.permit()).await else { return None };
            let opening = self.core.dialler.open(&dial, permit?, &mut self.transcript);
            let trouble = match timeout_at(self.deadline, opening).await {
                Ok(Ok(connection)) => return Some(connection),
                Ok(Err(trouble)) => trouble,
                Err(_) => Trouble::new(Phase::Connect, OUT_OF_TIME),
            };
            // Where TLS is a bonus, a server whose TLS is broken gets the mail in clear (RFC 7435).
            if trouble.in_handshake && dial.starttls == StartTls::IfOffered {
                self.transcript.remark(&trouble.text);
                self.transcript.remark("again, without TLS");
                dial.starttls = StartTls::Never;
                continue;
            }
            let peer = Peer { host: host.to_owned(), address: Some(address.ip()), ..Peer::default() };
            self.settle_trouble(&trouble, &Arc::new(peer));
            return None;
        }
    }

    fn settle_trouble(&mut self, trouble: &Trouble, peer: &Arc<Peer>) {
        self.transcript.remark(&trouble.text);
        self.may_do_better |= !trouble.lacks_tls;
        self.settle_open(&Ending::of_trouble(trouble, peer));
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

    fn plan(&self, host: &str, address: SocketAddr, destination: &Destination) -> Result<Dial, &'static str> {
        let route = destination.route.as_ref();
        let mode = route.map_or(TlsMode::Opportunistic, |route| route.tls);
        let login = route.and_then(|route| route.login.clone());
        let checked = matches!(mode, TlsMode::Implicit | TlsMode::Starttls) || self.requires_tls();
        let local = mode == TlsMode::None && address.ip().is_loopback();
        if login.is_some() && !checked && !local {
            return Err(
                "the password of a smart host is sent over verified TLS only: set its tls to starttls or implicit",
            );
        }
        Ok(Dial {
            host: host.to_owned(),
            address,
            source: self.core.settings.source_address,
            implicit_tls: mode == TlsMode::Implicit,
            starttls: match mode {
                TlsMode::Opportunistic | TlsMode::None if self.requires_tls() => StartTls::Required,
                TlsMode::Starttls => StartTls::Required,
                TlsMode::Opportunistic => StartTls::IfOffered,
                TlsMode::Implicit | TlsMode::None => StartTls::Never,
            },
            trust: if checked { Trust::Verified } else { Trust::Any },
            hello_name: self.core.settings.hello_name.clone(),
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
                (Some(outcome), _) => Ending::of_outcome(outcome, alone, &peer),
                (None, Some(trouble)) => {
                    let mut ending = Ending::of_trouble(trouble, &peer);
                    // The server may have taken it: to ask another at once would be asking for a duplicate.
                    ending.conclusive = sent.in_doubt;
                    ending
                }
                (None, None) => Ending::of_trouble(&Trouble::new(Phase::Content, "no reply"), &peer),
            };
            self.endings[place] = Some(ending);
        }
        true
    }

    /// Gives an ending to all who have none that is better: a reply says more than a lost connection.
    fn settle_open(&mut self, ending: &Ending) {
        for slot in self.endings.iter_mut().filter(|slot| is_open(slot)) {
            let replied = slot.as_ref().is_some_and(|old| old.code.is_some());
            if !replied || ending.code.is_some() {
                *slot = Some(ending.clone());
            }
        }
    }
}

/// Whether another host may do better.
fn is_open(ending: &Option<Ending>) -> bool {
    ending
        .as_ref()
        .is_none_or(|ending| !ending.conclusive && matches!(ending.verdict, Verdict::Deferred { .. }))
}

fn is_ascii(content: &Content) -> bool {
    content.submitted.is_ascii() && content.prefix.is_ascii()
}

fn has_ascii_header(content: &Content) -> bool {
    let end = memchr::memmem::find(&content.submitted, b"\r\n\r\n").unwrap_or(content.submitted.len());
    content.prefix.is_ascii() && content.submitted[..end].is_ascii()
}
