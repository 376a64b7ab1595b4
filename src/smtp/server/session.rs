//! The server side of one connection, as a state machine without I/O.
//!
//! [`Session`] keeps the state that outlives a transaction, [`Phase`] the rest: a [`MailTransaction`] exists from an
//! accepted MAIL to the end of the transaction. `command_order` decides whether a verb is allowed, `data_phase`
//! receives content, and `step` defines inputs and outputs.

mod command_order;
mod data_phase;
mod step;

use std::mem;
use std::sync::Arc;

use self::data_phase::{Receiving, ReceivingChunk};
pub use self::step::{Input, Next, Question, Step, Verdict};
use super::mail_transaction::{self, MailTransaction};
use super::settings::{Profile, SessionSettings};
use super::{extension, replies};
use crate::mail::{Address, Host, LocalPart, Recipient, Timestamp};
use crate::model::{Refusal, Stage};
use crate::smtp::Reply;
use crate::smtp::command::{self, Chunk, ForwardPath, Verb};
use crate::smtp::command_error::CommandError;
use crate::smtp::line::LineError;
use crate::smtp::sasl::{self, ChannelBinding, ClientFirst, Exchange, SaslError};

/// One connection.
#[derive(Debug)]
pub struct Session {
    settings: Arc<SessionSettings>,
    greeting: Option<ClientGreeting>,
    tls: bool,
    authenticated: bool,
    channel: Option<ChannelBinding>,
    errors: u32,
    /// The time given last by [`Session::set_time`].
    now: Option<Timestamp>,
    commands_without_message: u32,
    /// Rejected RCPT and DATA commands, and repeated recipients, since the last accepted message.
    rejected_since_message: usize,
    phase: Phase,
}

/// The client's EHLO or HELO.
#[derive(Debug)]
struct ClientGreeting {
    name: String,
    extended: bool,
}

#[derive(Debug)]
enum Phase {
    Connected,
    Ready,
    Sasl(Exchange),
    Transaction(Box<MailTransaction>),
    Data(Box<Receiving>),
    Chunk(Box<ReceivingChunk>),
    Waiting(Pending),
    TlsPending,
    Closed,
}

/// The question that was asked, with the state to continue from.
#[derive(Debug)]
enum Pending {
    Authenticate,
    User(ClientFirst),
    Proof,
    Sender(Box<MailTransaction>),
    Recipient(Box<MailTransaction>, Recipient),
    StartData(Box<MailTransaction>),
    StartChunks(Box<MailTransaction>, Chunk),
    Accept,
    /// Continues with this transaction, if the transaction is still open.
    Refuse(Option<Box<MailTransaction>>),
}

impl Session {
    /// A new connection; `tls` is true with implicit TLS.
    pub fn new(settings: Arc<SessionSettings>, tls: bool) -> Self {
        Self {
            settings,
            greeting: None,
            tls,
            authenticated: false,
            channel: None,
            errors: 0,
            now: None,
            commands_without_message: 0,
            rejected_since_message: 0,
            phase: Phase::Connected,
        }
    }

    /// Sets the time. Call it before each line: FUTURERELEASE (RFC 4865) needs the time, and is not offered without it.
    pub fn set_time(&mut self, now: Timestamp) {
        self.now = Some(now);
    }

    /// Sets the channel binding after a TLS 1.3 handshake: the exported keying material (RFC 9266).
    pub fn bind_channel(&mut self, channel: Option<ChannelBinding>) {
        self.channel = channel;
    }

    /// The name from EHLO or HELO, sanitized for a `Received` field; empty before EHLO.
    pub fn helo(&self) -> &str {
        self.greeting.as_ref().map_or("", |greeting| &greeting.name)
    }

    /// Whether content of a message is being received.
    pub fn is_receiving(&self) -> bool {
        match &self.phase {
            Phase::Data(_) | Phase::Chunk(_) => true,
            Phase::Transaction(transaction) => transaction.content.is_some(),
            _ => false,
        }
    }

    /// Memory used by the message being received.
    pub fn body_memory_octets(&self) -> usize {
        match &self.phase {
            Phase::Data(receiving) => receiving.decoder.memory_octets(),
            Phase::Chunk(receiving) => receiving.memory_octets(),
            Phase::Transaction(transaction) => transaction.memory_octets(),
            _ => 0,
        }
    }

    /// Processes one input. An input other than the last step requested closes the session.
    pub fn step(&mut self, input: Input<'_>) -> Step {
        match (mem::replace(&mut self.phase, Phase::Closed), input) {
            (Phase::Closed, _) | (_, Input::Eof) => Step::silent(Next::Close),
            (phase @ (Phase::Data(_) | Phase::Chunk(_)), Input::ShuttingDown) => {
                self.phase = phase;
                Step::silent(Next::ReadBody)
            }
            (_, Input::ShuttingDown) => Step::reply(replies::shutting_down_421(), Next::Close),
            (_, Input::Idle) => Step::reply(replies::idle_421(), Next::Close),
            (_, Input::NoLogin) => Step::reply(self.no_login_reply(), Next::Close),
            (_, Input::Evicted) => Step::reply(replies::too_many_connections_421(), Next::Close),
            (_, Input::TooSlow) => Step::reply(replies::too_slow_421(), Next::Close),
            (Phase::Connected, Input::Start) => {
                self.ready(None, replies::greeting_220(&self.settings.hostname))
            }
            // A client that ends a line with a bare LF does so with every line, and none of them is a command.
            (
                Phase::Ready | Phase::Transaction(_) | Phase::Sasl(_),
                Input::LineError(LineError::BareLineFeed),
            ) => Step::reply(replies::bare_line_feed_500(), Next::Close),
            (Phase::Ready, Input::Line(line)) => self.run_command(None, line),
            (Phase::Transaction(transaction), Input::Line(line)) => self.run_command(Some(transaction), line),
            (Phase::Ready, Input::LineError(error)) => self.fail(None, replies::for_line(error)),
            (Phase::Transaction(transaction), Input::LineError(error)) => {
                self.fail(Some(transaction), replies::for_line(error))
            }
            (Phase::Sasl(exchange), Input::Line(line)) => self.advance_sasl(exchange.advance(line)),
            (Phase::Sasl(_), Input::LineError(LineError::TooLong)) => {
                self.fail(None, replies::response_too_long_500())
            }
            (Phase::Sasl(_), Input::LineError(error)) => self.fail(None, replies::for_line(error)),
            (Phase::Data(receiving), Input::Body(octets)) => self.receive(receiving, octets),
            (Phase::Data(receiving), Input::BodyRefused(reply)) => self.refuse_body(receiving, reply),
            (Phase::Chunk(receiving), Input::Body(octets)) => self.receive_chunk(receiving, octets),
            (Phase::Chunk(receiving), Input::BodyRefused(reply)) => self.refuse_chunk(receiving, reply),
            // The last octet of the chunk exceeded the memory budget.
            (Phase::Transaction(_), Input::BodyRefused(reply)) => self.ready(None, reply),
            (Phase::Waiting(pending), Input::Answer(verdict)) => self.handle_verdict(pending, verdict),
            (Phase::TlsPending, Input::TlsDone) => {
                self.tls = true;
                self.phase = Phase::Ready;
                Step::silent(Next::ReadLine)
            }
            _ => Step::silent(Next::Close),
        }
    }

    /// Sends the reply and waits for the next command. The transaction stays open if it is passed.
    fn ready(&mut self, transaction: Option<Box<MailTransaction>>, reply: Reply) -> Step {
        // RFC 5321 §3.8: after a 421 the connection is closed.
        if reply.code == 421 {
            return Step::reply(reply, Next::Close);
        }
        self.phase = transaction.map_or(Phase::Ready, Phase::Transaction);
        Step::reply(reply, Next::ReadLine)
    }

    /// Replies to an error of the client and counts it.
    fn fail(&mut self, transaction: Option<Box<MailTransaction>>, reply: Reply) -> Step {
        self.errors += 1;
        let within_limit = self.errors <= self.settings.errors_max;
        self.ready(transaction, if within_limit { reply } else { replies::too_many_errors_421() })
    }

    /// Replies to a RCPT or DATA that adds nothing to the message, and counts it. The transaction stays open. Such a
    /// command is not a protocol error, but many of them without a message are address probing (RFC 5321 §7.8).
    fn reject(&mut self, transaction: Box<MailTransaction>, reply: Reply) -> Step {
        self.rejected_since_message += 1;
        let within_limit = self.rejected_since_message <= self.settings.refused_recipients_max;
        self.ready(Some(transaction), if within_limit { reply } else { replies::too_many_refused_421() })
    }

    fn ask(&mut self, pending: Pending, question: Question) -> Step {
        self.phase = Phase::Waiting(pending);
        Step::silent(Next::Ask(question))
    }

    fn refuse(&mut self, transaction: Option<Box<MailTransaction>>, stage: Stage, refusal: Refusal) -> Step {
        self.ask(Pending::Refuse(transaction), Question::Refuse { stage, refusal })
    }

    fn run_command(&mut self, transaction: Option<Box<MailTransaction>>, line: &[u8]) -> Step {
        let (verb, arguments) = match command::split(line) {
            Ok(split) => split,
            Err(error) => return self.fail(transaction, replies::for_command(&error)),
        };
        if verb == Verb::Bdat {
            return self.begin_chunk(transaction, arguments);
        }
        if let Some(refusal) = self.check_order(verb, arguments, transaction.as_deref()) {
            return match transaction {
                // A client that pipelines does not know yet that every recipient was refused (RFC 2920 §3.1).
                Some(transaction) if verb == Verb::Data && transaction.recipients.is_empty() => {
                    self.reject(transaction, refusal)
                }
                transaction => self.fail(transaction, refusal),
            };
        }
        if counts_against_limit(verb) && !self.count_command() {
            return Step::reply(replies::too_many_commands_421(), Next::Close);
        }
        match (verb, transaction) {
            (Verb::Ehlo | Verb::Helo, _) => self.greet(verb, arguments),
            (Verb::StartTls, _) => self.start_tls(),
            (Verb::Auth, _) => match command::parse_auth(arguments) {
                Ok((mechanism, initial)) => self.advance_sasl(sasl::start(mechanism, initial, self.channel)),
                Err(error) => self.fail(None, replies::for_command(&error)),
            },
            (Verb::Mail, _) => self.mail(arguments),
            (Verb::Rcpt, Some(transaction)) => self.rcpt(transaction, arguments),
            (Verb::Data, Some(transaction)) => {
                let octets_declared = transaction.options.octets;
                self.ask(Pending::StartData(transaction), Question::StartData { octets_declared })
            }
            (Verb::Rcpt | Verb::Data | Verb::Bdat, _) => self.fail(None, replies::mail_first_503()),
            // RFC 5321 §4.1.1.5: RSET ends the transaction and keeps EHLO.
            (Verb::Rset, _) => self.ready(None, replies::ok_250()),
            (Verb::Noop, transaction) => self.ready(transaction, replies::ok_250()),
            (Verb::Help, transaction) => self.ready(transaction, self.help_reply()),
            (Verb::Vrfy, transaction) => self.ready(transaction, replies::cannot_verify_252()),
            (Verb::Quit, _) => Step::reply(replies::bye_221(), Next::Close),
        }
    }

    fn help_reply(&self) -> Reply {
        match self.settings.profile {
            Profile::Submission => replies::help_214(),
            Profile::Inbound => replies::inbound_help_214(),
        }
    }

    fn no_login_reply(&self) -> Reply {
        match self.settings.profile {
            Profile::Submission => replies::no_login_421(),
            Profile::Inbound => replies::no_recipient_421(),
        }
    }

    /// Counts a command without a message. Returns whether the session may continue.
    fn count_command(&mut self) -> bool {
        self.commands_without_message += 1;
        self.commands_without_message <= self.settings.commands_without_message_max
    }

    /// RFC 5321 §4.1.4: a second EHLO ends the transaction.
    fn greet(&mut self, verb: Verb, name: &str) -> Step {
        let extended = verb == Verb::Ehlo;
        self.greeting = Some(ClientGreeting { name: sanitize_ehlo_name(name), extended });
        let lines = if extended {
            let channel = self.channel.as_ref();
            let state = extension::SessionState {
                tls: self.tls,
                authenticated: self.authenticated,
                channel,
                now: self.now,
            };
            extension::ehlo_lines(&self.settings, &state)
        } else {
            vec![self.settings.hostname.to_string()]
        };
        self.ready(None, replies::hello_250(lines))
    }

    /// RFC 3207 §4.2: STARTTLS discards all earlier state, the EHLO name included.
    fn start_tls(&mut self) -> Step {
        self.greeting = None;
        self.channel = None;
        self.phase = Phase::TlsPending;
        Step::reply(replies::ready_for_tls_220(), Next::UpgradeTls)
    }

    fn advance_sasl(&mut self, progress: Result<sasl::SaslProgress, SaslError>) -> Step {
        match progress {
            Ok(sasl::SaslProgress::Challenge(challenge, exchange)) => {
                self.phase = Phase::Sasl(exchange);
                Step::reply(replies::challenge_334(&challenge), Next::ReadLine)
            }
            Ok(sasl::SaslProgress::Done(credentials)) => {
                self.ask(Pending::Authenticate, Question::Authenticate(credentials))
            }
            Ok(sasl::SaslProgress::Find(first)) => {
                let username = first.username.clone();
                self.ask(Pending::User(first), Question::FindUser(username))
            }
            Ok(sasl::SaslProgress::Prove(proof)) => self.ask(Pending::Proof, Question::CheckProof(proof)),
            Ok(sasl::SaslProgress::Proven) => {
                self.authenticated = true;
                self.ready(None, replies::authenticated_235())
            }
            Err(error) => self.fail(None, replies::for_sasl(error)),
        }
    }

    fn mail(&mut self, arguments: &str) -> Step {
        let offered = extension::offered_parameters(self.settings.profile);
        let mail = command::parse_mail(arguments, offered).and_then(|mut mail| {
            let release = mail.options.future_release.zip(self.now);
            mail.options.parameters.hold_for_s = release.and_then(|(release, _)| release.seconds());
            mail.options.parameters.release_at =
                release.map(|(release, now)| release.release_at(now)).transpose()?;
            Ok(mail)
        });
        let mail = match mail {
            Ok(mail) => mail,
            Err(error) => return self.fail(None, replies::for_command(&error)),
        };
        let utf8_path = mail.path.mailbox().is_some_and(Address::needs_smtputf8);
        if utf8_path && !mail.options.smtputf8 {
            return self.fail(None, replies::sender_needs_utf8_553());
        }
        let octets_max = self.settings.data.message_octets_max;
        if mail.options.octets.is_some_and(|octets| octets > octets_max) {
            return self.refuse(None, Stage::Mail, mail_transaction::too_large(octets_max));
        }
        let path = mail.path.clone();
        self.ask(Pending::Sender(Box::new(MailTransaction::new(mail))), Question::AdmitSender(path))
    }

    fn rcpt(&mut self, transaction: Box<MailTransaction>, arguments: &str) -> Step {
        let offered = extension::offered_parameters(self.settings.profile);
        let (address, parameters) = match command::parse_rcpt(arguments, offered) {
            Ok((ForwardPath::Mailbox(address), parameters)) => (address, parameters),
            Ok((ForwardPath::Postmaster, parameters)) => match LocalPart::parse("postmaster") {
                Ok(local) => (Address::new(local, Host::Domain(self.settings.hostname.clone())), parameters),
                Err(error) => {
                    return self.refuse(
                        Some(transaction),
                        Stage::Rcpt,
                        mail_transaction::invalid_recipient(error),
                    );
                }
            },
            Err(CommandError::Address(error)) => {
                return self.refuse(
                    Some(transaction),
                    Stage::Rcpt,
                    mail_transaction::invalid_recipient(error),
                );
            }
            Err(error) => return self.fail(Some(transaction), replies::for_command(&error)),
        };
        // A recipient given twice is accepted, and gets one copy.
        if transaction.has(&address) {
            return self.reject(transaction, replies::recipient_ok_250());
        }
        let recipients_max = self.settings.recipients_max;
        if transaction.recipients.len() >= recipients_max {
            return self.refuse(
                Some(transaction),
                Stage::Rcpt,
                mail_transaction::too_many_recipients(recipients_max),
            );
        }
        let question = Question::AdmitRecipient {
            address: address.clone(),
            smtputf8: transaction.options.smtputf8,
            earlier: transaction.recipients.len(),
        };
        self.ask(Pending::Recipient(transaction, Recipient { address, parameters }), question)
    }

    fn handle_verdict(&mut self, pending: Pending, verdict: Verdict) -> Step {
        let refusal = match verdict {
            Verdict::Refused(reply) => reply,
            granted => return self.handle_granted(pending, granted),
        };
        match pending {
            Pending::Authenticate | Pending::User(_) | Pending::Proof => self.fail(None, refusal),
            Pending::Sender(_) | Pending::Accept => self.ready(None, refusal),
            Pending::Recipient(transaction, _) | Pending::StartData(transaction) => {
                self.reject(transaction, refusal)
            }
            Pending::StartChunks(_, chunk) => self.refuse_chunks(chunk, refusal),
            // Of the commands that the session refuses itself, only RCPT leaves the transaction open.
            Pending::Refuse(Some(transaction)) => self.reject(transaction, refusal),
            Pending::Refuse(None) => self.ready(None, refusal),
        }
    }

    /// Replies to an accepted message.
    fn complete(&mut self, reply: Reply) -> Step {
        self.commands_without_message = 0;
        self.rejected_since_message = 0;
        self.ready(None, reply)
    }

    fn handle_granted(&mut self, pending: Pending, verdict: Verdict) -> Step {
        match (pending, verdict) {
            (Pending::Authenticate, _) => {
                self.authenticated = true;
                self.ready(None, replies::authenticated_235())
            }
            (Pending::User(first), Verdict::Scram(parameters)) => {
                self.advance_sasl(Ok(sasl::challenge(first, &parameters)))
            }
            (Pending::Proof, Verdict::Proven(signature)) => {
                self.advance_sasl(Ok(sasl::server_final(&signature)))
            }
            (Pending::Sender(transaction), _) => self.ready(Some(transaction), replies::sender_ok_250()),
            (Pending::Recipient(mut transaction, recipient), _) => {
                transaction.add(recipient);
                self.ready(Some(transaction), replies::recipient_ok_250())
            }
            (Pending::StartData(transaction), verdict) => self.start_data(transaction, kept_by(&verdict)),
            (Pending::StartChunks(transaction, chunk), verdict) => {
                self.start_chunks(transaction, chunk, kept_by(&verdict))
            }
            (Pending::Accept, Verdict::Queued(id)) => self.complete(replies::queued_250(id)),
            (Pending::Accept, Verdict::Recorded(id)) => self.complete(replies::recorded_250(id)),
            // These questions need their own kind of verdict: without an id the message was not stored, without a
            // signature the proof was not verified.
            (Pending::Accept | Pending::User(_) | Pending::Proof, _) => {
                self.ready(None, replies::local_error_451())
            }
            (Pending::Refuse(transaction), _) => self.ready(transaction, replies::local_error_451()),
        }
    }
}

/// How much of a message is kept; `None` is all of it.
fn kept_by(verdict: &Verdict) -> Option<u64> {
    match verdict {
        Verdict::GrantedKeeping(octets) => Some(*octets),
        _ => None,
    }
}

/// Whether the command counts towards `commands_without_message_max`.
fn counts_against_limit(verb: Verb) -> bool {
    match verb {
        Verb::Ehlo | Verb::Helo | Verb::StartTls | Verb::Auth | Verb::Mail => true,
        Verb::Rset | Verb::Noop | Verb::Help | Verb::Vrfy => true,
        Verb::Rcpt | Verb::Data | Verb::Bdat | Verb::Quit => false,
    }
}

/// The EHLO name for a header: at most 255 characters (RFC 5321 §4.5.3.1.2), and `?` for characters that have a meaning
/// in header fields. The client may send any text.
fn sanitize_ehlo_name(name: &str) -> String {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    name.chars().take(255).map(|c| if is_safe(c) { c } else { '?' }).collect()
}
