//! An SMTP server that records the exact octets it receives, and misbehaves as a script says.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_rustls::rustls::ServerConfig;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::wait::until;
use crate::wire::Wire;

#[path = "fake_mx/script.rs"]
mod script;

use script::Rule;
pub use script::{Fault, Phase};

pub struct FakeMx {
    pub address: SocketAddr,
    state: Arc<State>,
    _stop: DropGuard,
}

/// The extensions and accounts of the server.
#[derive(Clone)]
pub struct Offer {
    /// EHLO keywords in addition to STARTTLS and AUTH.
    pub extensions: Vec<&'static str>,
    /// The TLS configuration for STARTTLS; without it, STARTTLS is not offered.
    pub tls: Option<Arc<ServerConfig>>,
    /// Whether TLS is implicit, without STARTTLS.
    pub implicit_tls: bool,
    /// User and password for AUTH PLAIN and LOGIN, which MAIL then requires.
    pub account: Option<(&'static str, &'static str)>,
    /// A second account.
    pub second_account: Option<(&'static str, &'static str)>,
}

impl Default for Offer {
    fn default() -> Self {
        let extensions = vec!["PIPELINING", "SIZE 52428800", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES"];
        Self { extensions, tls: None, implicit_tls: false, account: None, second_account: None }
    }
}

/// A message as received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// The number of the connection, from 0.
    pub connection: usize,
    /// The address of the client.
    pub source: IpAddr,
    pub tls: bool,
    pub user: Option<String>,
    pub ehlo: String,
    /// The address of MAIL.
    pub reverse_path: String,
    pub mail_parameters: String,
    /// The accepted recipients.
    pub recipients: Vec<String>,
    /// All octets after the 354 reply, with the final dot and its CRLF.
    pub wire: Vec<u8>,
    /// The message, without dot stuffing and the final dot.
    pub content: Vec<u8>,
    /// What happened in place of the usual reply.
    pub fault: Option<Fault>,
    /// When it was taken.
    pub taken_at: Instant,
}

impl Transaction {
    /// The octets before the submitted message, which must follow unchanged.
    #[track_caller]
    pub fn prefix_before(&self, submitted: &[u8]) -> String {
        let Some(prefix) = self.content.strip_suffix(submitted) else {
            panic!("not the submitted bytes at the end of:\n{}", String::from_utf8_lossy(&self.content));
        };
        String::from_utf8(prefix.to_vec()).expect("our header fields are ASCII")
    }
}

#[derive(Default)]
struct State {
    offer: Offer,
    rules: Mutex<Vec<Rule>>,
    gates: Mutex<Vec<(Phase, CancellationToken)>>,
    transactions: Mutex<Vec<Transaction>>,
    connections: Mutex<Vec<Connection>>,
}

/// The record of a connection.
#[derive(Debug, Clone, Default)]
pub struct Connection {
    pub source: Option<IpAddr>,
    pub tls: bool,
    /// The server name in the TLS handshake.
    pub server_name: Option<String>,
    pub user: Option<String>,
    /// The command lines as received.
    pub commands: Vec<String>,
    pub closed: bool,
}

impl FakeMx {
    /// Starts a server at its own loopback address and a free port, with all extensions of a modern server except TLS.
    pub async fn start() -> Self {
        Self::with(Offer::default()).await
    }

    pub async fn with(offer: Offer) -> Self {
        Self::listen(SocketAddr::new(own_address(), 0), offer).await
    }

    /// Starts several servers at their own addresses and one port.
    pub async fn several(offers: Vec<Offer>) -> Vec<Self> {
        let mut servers: Vec<Self> = Vec::new();
        for offer in offers {
            let port = servers.first().map_or(0, |first| first.address.port());
            servers.push(Self::listen(SocketAddr::new(own_address(), port), offer).await);
        }
        servers
    }

    /// Starts a server at the port of another one and its own address.
    pub async fn beside(other: &Self) -> Self {
        Self::listen(SocketAddr::new(own_address(), other.address.port()), Offer::default()).await
    }

    /// Starts a server at this port and its own address.
    pub async fn with_at(port: u16, offer: Offer) -> Self {
        Self::listen(SocketAddr::new(own_address(), port), offer).await
    }

    /// Starts a server at this address; port 0 means a free one.
    pub async fn at(address: SocketAddr) -> Self {
        Self::listen(address, Offer::default()).await
    }

    async fn listen(address: SocketAddr, offer: Offer) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State { offer, ..State::default() });
        let stop = CancellationToken::new();
        let accepting = accept(listener, state.clone(), stop.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(accepting));
        Self { address, state, _stop: stop.drop_guard() }
    }

    /// A server that is not reached over the network.
    pub fn offline(address: SocketAddr, offer: Offer) -> Self {
        let state = Arc::new(State { offer, ..State::default() });
        Self { address, state, _stop: CancellationToken::new().drop_guard() }
    }

    /// Notes a connection and serves it. Returns its number.
    pub fn open(&self, wire: Wire, client: IpAddr) -> (usize, impl Future<Output = ()> + Send + use<>) {
        let session = Session::new(self.state.clone(), client);
        (session.id, session.run(wire))
    }

    /// From now on, `times` times, `fault` happens when a line of `phase` contains `part`.
    pub fn script(&self, phase: Phase, part: &str, times: usize, fault: Fault) {
        self.state.rules.lock().unwrap().push(Rule { phase, part: part.to_owned(), times, fault });
    }

    /// The next session that reaches `phase` waits there until the answer is cancelled.
    pub fn wait_at(&self, phase: Phase) -> CancellationToken {
        let gate = CancellationToken::new();
        self.state.gates.lock().unwrap().push((phase, gate.clone()));
        gate
    }

    pub fn transactions(&self) -> Vec<Transaction> {
        self.state.transactions.lock().unwrap().clone()
    }

    /// The connections so far, in order.
    pub fn connections(&self) -> Vec<Connection> {
        self.state.connections.lock().unwrap().clone()
    }

    /// The command lines of all connections.
    pub fn commands(&self) -> Vec<String> {
        self.connections().into_iter().flat_map(|connection| connection.commands).collect()
    }

    /// Waits until this many messages have arrived.
    pub async fn wait_for(&self, count: usize) -> Vec<Transaction> {
        until(&format!("{count} messages at {}", self.address), async || {
            Some(self.transactions()).filter(|all| all.len() >= count)
        })
        .await
    }
}

/// An address in 127/8 that no other fake server of this process has, so that all can use one port.
pub fn own_address() -> IpAddr {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(127, 77, high, low))
}

async fn accept(listener: TcpListener, state: Arc<State>, stop: CancellationToken) {
    while let Ok((stream, peer)) = listener.accept().await {
        let session = Session::new(state.clone(), peer.ip());
        tokio::spawn(stop.clone().run_until_cancelled_owned(session.run(Wire::new(stream))));
    }
}

struct Session {
    id: usize,
    state: Arc<State>,
    ehlo: String,
    draft: Option<Draft>,
}

#[derive(Default)]
struct Draft {
    reverse_path: String,
    mail_parameters: String,
    recipients: Vec<String>,
}

/// The end of a session.
struct Over;

type Step<T> = Result<T, Over>;

impl Session {
    fn new(state: Arc<State>, client: IpAddr) -> Self {
        let mut connections = state.connections.lock().unwrap();
        let id = connections.len();
        connections.push(Connection { source: Some(client), ..Connection::default() });
        drop(connections);
        Self { id, state, ehlo: String::new(), draft: None }
    }

    async fn run(mut self, wire: Wire) {
        let _ = self.serve(wire).await;
        self.note(|connection| connection.closed = true);
    }

    async fn serve(&mut self, mut wire: Wire) -> Step<()> {
        if self.state.offer.implicit_tls {
            wire = self.start_tls(wire).await?;
        }
        self.reply(&mut wire, Phase::Greeting, "", "220 fake.test ESMTP").await?;
        loop {
            let line = wire.read_line().await.map_err(|_| Over)?.ok_or(Over)?;
            let line = String::from_utf8(line).expect("commands are UTF-8");
            self.note(|connection| connection.commands.push(line.clone()));
            let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
            match verb.to_ascii_uppercase().as_str() {
                "EHLO" => self.greet(&mut wire, rest).await?,
                "HELO" => drop(self.reply(&mut wire, Phase::Helo, rest, "250 fake.test").await?),
                "STARTTLS" => {
                    if self.reply(&mut wire, Phase::Starttls, &line, "220 go ahead").await? {
                        wire = self.start_tls(wire).await?;
                    }
                }
                "AUTH" => self.authenticate(&mut wire, rest).await?,
                "MAIL" => self.mail(&mut wire, &line).await?,
                "RCPT" => self.recipient(&mut wire, &line).await?,
                "DATA" => self.data(&mut wire, &line).await?,
                "RSET" => {
                    self.draft = None;
                    self.reply(&mut wire, Phase::Rset, &line, "250 2.0.0 flushed").await?;
                }
                "NOOP" => say(&mut wire, "250 2.0.0 ok").await?,
                "QUIT" => {
                    self.reply(&mut wire, Phase::Quit, &line, "221 2.0.0 bye").await?;
                    return Ok(());
                }
                _ => say(&mut wire, "500 5.5.1 what?").await?,
            }
        }
    }

    async fn start_tls(&mut self, mut wire: Wire) -> Step<Wire> {
        if let Some(fault) = self.fault(Phase::Handshake, "") {
            // The reply to the ClientHello.
            wire.fill().await.map_err(|_| Over)?;
            fault.commit(&mut wire).await?;
            return Err(Over);
        }
        assert_eq!(wire.waiting(), b"", "nothing may follow STARTTLS before the handshake");
        let config = self.state.offer.tls.clone().expect("a fake with TLS has a certificate");
        let (wire, server_name) = wire.accept_tls(config).await.map_err(|_| Over)?;
        self.note(|connection| (connection.tls, connection.server_name) = (true, server_name));
        Ok(wire)
    }

    async fn greet(&mut self, wire: &mut Wire, name: &str) -> Step<()> {
        self.ehlo = name.to_owned();
        self.draft = None;
        let offer = &self.state.offer;
        let mut keywords: Vec<&str> = offer.extensions.clone();
        let tls = self.connection().tls;
        if offer.tls.is_some() && !tls {
            keywords.push("STARTTLS");
        }
        if offer.account.is_some() && (tls || offer.tls.is_none()) {
            keywords.push("AUTH PLAIN LOGIN");
        }
        let mut lines = vec!["fake.test greets you"];
        lines.extend(keywords);
        let last = lines.len() - 1;
        let numbered = lines.iter().enumerate();
        let numbered = numbered.map(|(at, line)| format!("250{}{line}", if at == last { ' ' } else { '-' }));
        let usual = numbered.collect::<Vec<_>>().join("\r\n");
        self.reply(wire, Phase::Ehlo, name, &usual).await.map(drop)
    }

    async fn authenticate(&mut self, wire: &mut Wire, rest: &str) -> Step<()> {
        let (mechanism, initial) = rest.split_once(' ').unwrap_or((rest, ""));
        let given = if mechanism.eq_ignore_ascii_case("PLAIN") {
            let response = if initial.is_empty() { ask(wire, "").await? } else { decode(initial) };
            let mut parts = response.split('\0').skip(1).map(str::to_owned);
            parts.next().zip(parts.next())
        } else {
            let user = if initial.is_empty() { ask(wire, "Username:").await? } else { decode(initial) };
            Some((user, ask(wire, "Password:").await?))
        };
        let offer = &self.state.offer;
        let accounts = [offer.account, offer.second_account];
        let right =
            given.is_some() && accounts.contains(&given.as_ref().map(|(u, p)| (u.as_str(), p.as_str())));
        let usual = if right { "235 2.7.0 welcome" } else { "535 5.7.8 no" };
        if self.reply(wire, Phase::Auth, rest, usual).await? {
            self.note(|connection| connection.user = given.map(|(user, _)| user));
        }
        Ok(())
    }

    async fn mail(&mut self, wire: &mut Wire, line: &str) -> Step<()> {
        let known = self.connection().user.is_some();
        let usual = match self.state.offer.account {
            Some(_) if !known => "530 5.7.0 authenticate first",
            _ => "250 2.1.0 ok",
        };
        if self.reply(wire, Phase::Mail, line, usual).await? {
            let (reverse_path, mail_parameters) = split_path(line);
            self.draft = Some(Draft { reverse_path, mail_parameters, recipients: Vec::new() });
        }
        Ok(())
    }

    async fn recipient(&mut self, wire: &mut Wire, line: &str) -> Step<()> {
        let usual = if self.draft.is_some() { "250 2.1.5 ok" } else { "503 5.5.1 MAIL first" };
        if self.reply(wire, Phase::Rcpt, line, usual).await?
            && let Some(draft) = &mut self.draft
        {
            draft.recipients.push(split_path(line).0);
        }
        Ok(())
    }

    async fn data(&mut self, wire: &mut Wire, line: &str) -> Step<()> {
        let draft = self.draft.take().unwrap_or_default();
        let usual = if draft.recipients.is_empty() { "554 5.5.1 nobody" } else { "354 go" };
        if !self.reply(wire, Phase::Data, line, usual).await? {
            return Ok(());
        }
        if let Some(fault) = self.fault(Phase::Body, "") {
            wire.fill().await.map_err(|_| Over)?;
            fault.commit(wire).await?;
            return Err(Over);
        }
        // `CRLF.CRLF` ends the data, and `.CRLF` at its start: the CRLF of DATA itself counts (RFC 5321 §4.1.1.4).
        let mut received = wire.read_through(b".\r\n").await.map_err(|_| Over)?.ok_or(Over)?;
        while received != b".\r\n" && !received.ends_with(b"\r\n.\r\n") {
            let more = wire.read_through(b".\r\n").await.map_err(|_| Over)?.ok_or(Over)?;
            received.extend_from_slice(&more);
        }
        let mut transaction = self.transaction(draft, received);
        // The message is recorded before the reply is sent, so that a client that has its reply finds it.
        let position = self.state.clone();
        let reverse_path = transaction.reverse_path.clone();
        self.reply_then(wire, Phase::Dot, &reverse_path, "250 2.0.0 taken", |fault| {
            transaction.fault = fault.cloned();
            position.transactions.lock().unwrap().push(transaction);
        })
        .await
        .map(drop)
    }

    fn transaction(&self, draft: Draft, wire: Vec<u8>) -> Transaction {
        let connection = self.connection();
        Transaction {
            connection: self.id,
            source: connection.source.expect("an accepted connection has a peer"),
            tls: connection.tls,
            user: connection.user,
            ehlo: self.ehlo.clone(),
            reverse_path: draft.reverse_path,
            mail_parameters: draft.mail_parameters,
            recipients: draft.recipients,
            content: unstuff(&wire),
            wire,
            fault: None,
            taken_at: Instant::now(),
        }
    }

    /// Sends the reply of the script, or else the usual one. Returns whether the client may continue.
    async fn reply(&mut self, wire: &mut Wire, phase: Phase, line: &str, usual: &str) -> Step<bool> {
        self.reply_then(wire, phase, line, usual, |_| ()).await
    }

    async fn reply_then(
        &mut self,
        wire: &mut Wire,
        phase: Phase,
        line: &str,
        usual: &str,
        on_success: impl FnOnce(Option<&Fault>),
    ) -> Step<bool> {
        if let Some(gate) = self.gate(phase) {
            gate.cancelled().await;
        }
        let fault = self.fault(phase, line);
        let success = match &fault {
            None => phase.succeeds(usual.as_bytes()),
            Some(fault) => fault.succeeds(phase),
        };
        if success {
            on_success(fault.as_ref());
        }
        match fault {
            Some(fault) => fault.commit(wire).await?,
            None => say(wire, usual).await?,
        }
        Ok(success)
    }

    /// Removes the first rule that matches.
    fn fault(&self, phase: Phase, line: &str) -> Option<Fault> {
        let mut rules = self.state.rules.lock().unwrap();
        let rule = rules.iter_mut().find(|rule| rule.fits(phase, line))?;
        rule.times = rule.times.saturating_sub(1);
        Some(rule.fault.clone())
    }

    fn gate(&self, phase: Phase) -> Option<CancellationToken> {
        let mut gates = self.state.gates.lock().unwrap();
        let at = gates.iter().position(|(gated, _)| *gated == phase)?;
        Some(gates.remove(at).1)
    }

    fn connection(&self) -> Connection {
        self.state.connections.lock().unwrap()[self.id].clone()
    }

    fn note(&self, change: impl FnOnce(&mut Connection)) {
        change(&mut self.state.connections.lock().unwrap()[self.id]);
    }
}

async fn say(wire: &mut Wire, reply: &str) -> Step<()> {
    wire.write(format!("{reply}\r\n").as_bytes()).await.map_err(|_| Over)
}

async fn ask(wire: &mut Wire, challenge: &str) -> Step<String> {
    say(wire, &format!("334 {}", BASE64_STANDARD.encode(challenge))).await?;
    let line = wire.read_line().await.map_err(|_| Over)?.ok_or(Over)?;
    Ok(decode(&String::from_utf8_lossy(&line)))
}

fn decode(base64: &str) -> String {
    String::from_utf8(BASE64_STANDARD.decode(base64).expect("AUTH carries base64")).expect("UTF-8")
}

/// The path between the angle brackets, and the text after it.
fn split_path(line: &str) -> (String, String) {
    let (_, rest) = line.split_once('<').expect("paths stand in angle brackets");
    let (path, parameters) = rest.rsplit_once('>').expect("paths stand in angle brackets");
    (path.to_owned(), parameters.trim().to_owned())
}

/// Removes dot stuffing (RFC 5321 §4.5.2) and the final dot.
fn unstuff(wire: &[u8]) -> Vec<u8> {
    let body = &wire[..wire.len() - b".\r\n".len()];
    let mut content = Vec::with_capacity(body.len());
    for (at, &octet) in body.iter().enumerate() {
        let at_line_start = at == 0 || body[..at].ends_with(b"\r\n");
        if !(at_line_start && octet == b'.') {
            content.push(octet);
        }
    }
    content
}
