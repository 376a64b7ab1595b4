//! The server side of one connection, as a state machine without I/O.
//!
//! State that outlives a transaction is in [`Session`]; state of one step is in [`Phase`], so a draft exists only
//! between an accepted MAIL and the end of its transaction. `command_order` decides alone whether a verb is allowed;
//! `data_phase` receives content.

mod command_order;
mod data_phase;

use std::mem;
use std::sync::Arc;

use bytes::Bytes;

use self::data_phase::{Receiving, ReceivingChunk};
use super::mail_transaction::{self, Draft};
use super::{extension, replies};
use crate::mail::{Address, DomainName, Envelope, Host, LocalPart, Recipient, ReversePath, Timestamp};
use crate::model::{MessageId, Refusal, Stage};
use crate::smtp::Reply;
use crate::smtp::command::{self, Chunk, CommandError, ForwardPath, Verb};
use crate::smtp::data::DataLimits;
use crate::smtp::line::LineError;
use crate::smtp::sasl::{
    self, ChannelBinding, ClientFirst, Credentials, Exchange, Parameters, Proof, SaslError,
};

/// The settings of a server that its sessions need.
#[derive(Debug, Clone)]
pub struct SessionSettings {
    /// The host name in the greeting.
    pub hostname: DomainName,
    /// Limits of message content.
    pub data: DataLimits,
    /// Maximum of recipients of one message. The session is closed when more than twice as many RCPTs were rejected
    /// without an accepted message.
    pub recipients_max: usize,
    /// Errors before the session is closed.
    pub errors_max: u32,
    /// Commands without an accepted message before the session is closed. RCPT and DATA count only when rejected,
    /// under `recipients_max`.
    pub commands_without_message_max: u32,
    /// Whether to offer STARTTLS.
    pub starttls: bool,
}

/// An input to the session.
#[derive(Debug)]
pub enum Input<'a> {
    /// The connection is open; with implicit TLS, after the handshake.
    Start,
    /// A line, without its CRLF.
    Line(&'a [u8]),
    /// The input is not a line.
    LineError(LineError),
    /// Content octets after 354 or BDAT.
    Body(&'a [u8]),
    /// The buffer is full: the session reads the rest of the content and then sends this reply.
    BodyRefused(Reply),
    /// The verdict on the last question.
    Answer(Verdict),
    /// The handshake after [`Next::UpgradeTls`] succeeded.
    TlsDone,
    /// The client sent nothing for the idle timeout.
    Idle,
    /// The content arrives below the minimum rate.
    TooSlow,
    /// The server shuts down. A session that receives content ignores this; send it again after the content.
    ShuttingDown,
    /// The client closed the connection.
    Eof,
}

/// The output of the session: write the reply, then do `next`.
#[derive(Debug)]
pub struct Step {
    /// The reply to write.
    pub reply: Option<Reply>,
    /// Octets of [`Input::Body`] that were content; commands follow them.
    pub consumed: usize,
    /// What to do after that.
    pub next: Next,
}

/// What the session needs next.
#[derive(Debug)]
pub enum Next {
    /// A line.
    ReadLine,
    /// More content.
    ReadBody,
    /// The verdict on a question, before any other input.
    Ask(Question),
    /// A TLS handshake, after the reply is sent and all input received before is discarded (RFC 3207 §4.2).
    UpgradeTls,
    /// Close the connection after the reply is sent.
    Close,
}

/// A question that the session cannot answer itself.
#[derive(Debug)]
pub enum Question {
    /// Are these credentials valid?
    Authenticate(Credentials),
    /// The SCRAM parameters of a user, as [`Verdict::Scram`].
    FindUser(String),
    /// Is this proof valid for the user of the last [`Question::FindUser`]? Answered with [`Verdict::Proven`].
    CheckProof(Proof),
    /// Is this sender allowed?
    AdmitSender(ReversePath),
    /// Is this recipient allowed?
    AdmitRecipient {
        /// The recipient.
        address: Address,
        /// Whether MAIL had SMTPUTF8.
        smtputf8: bool,
        /// Recipients accepted so far in the transaction.
        earlier: usize,
    },
    /// Is there memory for a message?
    StartData {
        /// The size declared with MAIL or BDAT.
        octets_declared: Option<u64>,
    },
    /// Accept and store this message.
    Accept {
        /// The envelope, as accepted.
        envelope: Box<Envelope>,
        /// Content with CRLF line ends, without NUL, bare CR or bare LF.
        message: Bytes,
        /// The `with` keyword for `Received`, such as `ESMTPSA`.
        protocol: &'static str,
    },
    /// The protocol refuses: record the refusal and answer with [`Verdict::Refused`].
    Refuse {
        /// The stage of the transaction.
        stage: Stage,
        /// The reason.
        refusal: Refusal,
    },
}

/// The answer to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Yes.
    Granted,
    /// Yes; the message is stored under this id.
    Queued(MessageId),
    /// The SCRAM parameters of the user.
    Scram(Parameters),
    /// Yes; the server signature for the client.
    Proven(Vec<u8>),
    /// No, with this reply; 421 closes the session.
    Refused(Reply),
}

/// One connection.
#[derive(Debug)]
pub struct Session {
    settings: Arc<SessionSettings>,
    hello: Option<Hello>,
    tls: bool,
    authenticated: bool,
    channel: Option<ChannelBinding>,
    errors: u32,
    /// The time given last by [`Session::set_time`].
    now: Option<Timestamp>,
    commands_without_message: u32,
    /// RCPTs and DATAs rejected since the last accepted message.
    in_vain: usize,
    phase: Phase,
}

/// The client's EHLO or HELO.
#[derive(Debug)]
struct Hello {
    name: String,
    extended: bool,
}

#[derive(Debug)]
enum Phase {
    Opening,
    Ready,
    Sasl(Exchange),
    Transaction(Box<Draft>),
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
    Sender(Box<Draft>),
    Recipient(Box<Draft>, Recipient),
    StartData(Box<Draft>),
    StartChunks(Box<Draft>, Chunk),
    Accept,
    /// Continues with this draft, if the transaction is still open.
    Refuse(Option<Box<Draft>>),
}

impl Step {
    fn reply(reply: Reply, next: Next) -> Self {
        Self { reply: Some(reply), consumed: 0, next }
    }

    fn silent(next: Next) -> Self {
        Self { reply: None, consumed: 0, next }
    }
}

impl Session {
    /// A new connection; `tls` is true with implicit TLS.
    pub fn new(settings: Arc<SessionSettings>, tls: bool) -> Self {
        Self {
            settings,
            hello: None,
            tls,
            authenticated: false,
            channel: None,
            errors: 0,
            now: None,
            commands_without_message: 0,
            in_vain: 0,
            phase: Phase::Opening,
        }
    }

    /// Sets the time, before each line. Without a time the session does not offer FUTURERELEASE (RFC 4865).
    pub fn tell_time(&mut self, now: Timestamp) {
        self.now = Some(now);
    }

    /// Sets the channel binding after a TLS 1.3 handshake: the exported keying material (RFC 9266).
    pub fn bind_channel(&mut self, channel: Option<ChannelBinding>) {
        self.channel = channel;
    }

    /// The name from EHLO or HELO, sanitized for a `Received` field; empty before EHLO.
    pub fn helo(&self) -> &str {
        self.hello.as_ref().map_or("", |hello| &hello.name)
    }

    /// Whether content of a message is being received.
    pub fn is_receiving(&self) -> bool {
        match &self.phase {
            Phase::Data(_) | Phase::Chunk(_) => true,
            Phase::Transaction(draft) => draft.content.is_some(),
            _ => false,
        }
    }

    /// Memory used by the message being received.
    pub fn body_memory_octets(&self) -> usize {
        match &self.phase {
            Phase::Data(receiving) => receiving.decoder.memory_octets(),
            Phase::Chunk(receiving) => receiving.memory_octets(),
            Phase::Transaction(draft) => draft.memory_octets(),
            _ => 0,
        }
    }

    /// Processes one input. An input that the last step did not ask for closes the session.
    pub fn step(&mut self, input: Input<'_>) -> Step {
        match (mem::replace(&mut self.phase, Phase::Closed), input) {
            (Phase::Closed, _) | (_, Input::Eof) => Step::silent(Next::Close),
            (phase @ (Phase::Data(_) | Phase::Chunk(_)), Input::ShuttingDown) => {
                self.phase = phase;
                Step::silent(Next::ReadBody)
            }
            (_, Input::ShuttingDown) => Step::reply(replies::shutting_down_421(), Next::Close),
            (_, Input::Idle) => Step::reply(replies::idle_421(), Next::Close),
            (_, Input::TooSlow) => Step::reply(replies::too_slow_421(), Next::Close),
            (Phase::Opening, Input::Start) => {
                self.ready(None, replies::greeting_220(&self.settings.hostname))
            }
            (Phase::Ready, Input::Line(line)) => self.run_command(None, line),
            (Phase::Transaction(draft), Input::Line(line)) => self.run_command(Some(draft), line),
            (Phase::Ready, Input::LineError(error)) => self.fail(None, replies::for_line(error)),
            (Phase::Transaction(draft), Input::LineError(error)) => {
                self.fail(Some(draft), replies::for_line(error))
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
            (Phase::Waiting(pending), Input::Answer(verdict)) => self.take_answer(pending, verdict),
            (Phase::TlsPending, Input::TlsDone) => {
                self.tls = true;
                self.phase = Phase::Ready;
                Step::silent(Next::ReadLine)
            }
            _ => Step::silent(Next::Close),
        }
    }

    /// Sends the reply and waits for the next command, in the transaction if it is still open.
    fn ready(&mut self, draft: Option<Box<Draft>>, reply: Reply) -> Step {
        // RFC 5321 §3.8: after a 421 the connection is closed.
        if reply.code == 421 {
            return Step::reply(reply, Next::Close);
        }
        self.phase = draft.map_or(Phase::Ready, Phase::Transaction);
        Step::reply(reply, Next::ReadLine)
    }

    /// Replies to an error of the client, and counts it.
    fn fail(&mut self, draft: Option<Box<Draft>>, reply: Reply) -> Step {
        self.errors += 1;
        let patience = self.errors <= self.settings.errors_max;
        self.ready(draft, if patience { reply } else { replies::too_many_errors_421() })
    }

    /// Rejects a RCPT or DATA and leaves the transaction open. Rejected recipients are no errors of the protocol, but
    /// many of them without a message are probing (RFC 5321 §7.8).
    fn resign(&mut self, draft: Box<Draft>, reply: Reply) -> Step {
        self.in_vain += 1;
        let patience = self.in_vain <= self.settings.recipients_max.saturating_mul(2);
        self.ready(Some(draft), if patience { reply } else { replies::too_many_refused_421() })
    }

    fn ask(&mut self, pending: Pending, question: Question) -> Step {
        self.phase = Phase::Waiting(pending);
        Step::silent(Next::Ask(question))
    }

    fn refuse(&mut self, draft: Option<Box<Draft>>, stage: Stage, refusal: Refusal) -> Step {
        self.ask(Pending::Refuse(draft), Question::Refuse { stage, refusal })
    }

    fn run_command(&mut self, draft: Option<Box<Draft>>, line: &[u8]) -> Step {
        let (verb, arguments) = match command::split(line) {
            Ok(split) => split,
            Err(error) => return self.fail(draft, replies::for_command(&error)),
        };
        if verb == Verb::Bdat {
            return self.begin_chunk(draft, arguments);
        }
        if let Some(obstacle) = self.find_obstacle(verb, arguments, draft.as_deref()) {
            return match draft {
                // RFC 2920 §3.1: in a pipelined group the client cannot know yet that every recipient was refused.
                Some(draft) if verb == Verb::Data && draft.recipients.is_empty() => {
                    self.resign(draft, obstacle)
                }
                draft => self.fail(draft, obstacle),
            };
        }
        if brings_no_message(verb) && !self.has_patience() {
            return Step::reply(replies::too_many_commands_421(), Next::Close);
        }
        match (verb, draft) {
            (Verb::Ehlo | Verb::Helo, _) => self.greet(verb, arguments),
            (Verb::StartTls, _) => self.start_tls(),
            (Verb::Auth, _) => match command::parse_auth(arguments) {
                Ok((mechanism, initial)) => self.advance_sasl(sasl::start(mechanism, initial, self.channel)),
                Err(error) => self.fail(None, replies::for_command(&error)),
            },
            (Verb::Mail, _) => self.mail(arguments),
            (Verb::Rcpt, Some(draft)) => self.rcpt(draft, arguments),
            (Verb::Data, Some(draft)) => {
                let octets_declared = draft.options.octets;
                self.ask(Pending::StartData(draft), Question::StartData { octets_declared })
            }
            (Verb::Rcpt | Verb::Data | Verb::Bdat, _) => self.fail(None, replies::mail_first_503()),
            // RFC 5321 §4.1.1.5: RSET ends the transaction and keeps EHLO.
            (Verb::Rset, _) => self.ready(None, replies::ok_250()),
            (Verb::Noop, draft) => self.ready(draft, replies::ok_250()),
            (Verb::Help, draft) => self.ready(draft, replies::help_214()),
            (Verb::Vrfy, draft) => self.ready(draft, replies::cannot_verify_252()),
            (Verb::Quit, _) => Step::reply(replies::bye_221(), Next::Close),
        }
    }

    /// Counts a command without a message; whether the session may continue.
    fn has_patience(&mut self) -> bool {
        self.commands_without_message += 1;
        self.commands_without_message <= self.settings.commands_without_message_max
    }

    /// RFC 5321 §4.1.4: a second EHLO ends the transaction.
    fn greet(&mut self, verb: Verb, name: &str) -> Step {
        let extended = verb == Verb::Ehlo;
        self.hello = Some(Hello { name: fit_for_trace(name), extended });
        let lines = if extended {
            let channel = self.channel.as_ref();
            let state =
                extension::State { tls: self.tls, authenticated: self.authenticated, channel, now: self.now };
            extension::offer(&self.settings, &state)
        } else {
            vec![self.settings.hostname.to_string()]
        };
        self.ready(None, replies::hello_250(lines))
    }

    /// RFC 3207 §4.2: STARTTLS discards all earlier state, the EHLO name included.
    fn start_tls(&mut self) -> Step {
        self.hello = None;
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
        let mail = command::parse_mail(arguments).and_then(|mut mail| {
            let hold = mail.options.hold.zip(self.now);
            mail.options.parameters.held_for_s = hold.and_then(|(hold, _)| hold.seconds());
            mail.options.parameters.release_at = hold.map(|(hold, now)| hold.release_at(now)).transpose()?;
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
        self.ask(Pending::Sender(Box::new(Draft::new(mail))), Question::AdmitSender(path))
    }

    fn rcpt(&mut self, draft: Box<Draft>, arguments: &str) -> Step {
        let (address, parameters) = match command::parse_rcpt(arguments) {
            Ok((ForwardPath::Mailbox(address), parameters)) => (address, parameters),
            Ok((ForwardPath::Postmaster, parameters)) => match LocalPart::parse("postmaster") {
                Ok(local) => (Address::new(local, Host::Domain(self.settings.hostname.clone())), parameters),
                Err(error) => {
                    return self.refuse(Some(draft), Stage::Rcpt, mail_transaction::invalid_recipient(error));
                }
            },
            Err(CommandError::Address(error)) => {
                return self.refuse(Some(draft), Stage::Rcpt, mail_transaction::invalid_recipient(error));
            }
            Err(error) => return self.fail(Some(draft), replies::for_command(&error)),
        };
        // A recipient given twice is accepted, and gets one copy.
        if draft.recipients.iter().any(|earlier| earlier.address == address) {
            return self.resign(draft, replies::recipient_ok_250());
        }
        let recipients_max = self.settings.recipients_max;
        if draft.recipients.len() >= recipients_max {
            return self.refuse(
                Some(draft),
                Stage::Rcpt,
                mail_transaction::too_many_recipients(recipients_max),
            );
        }
        let question = Question::AdmitRecipient {
            address: address.clone(),
            smtputf8: draft.options.smtputf8,
            earlier: draft.recipients.len(),
        };
        self.ask(Pending::Recipient(draft, Recipient { address, parameters }), question)
    }

    fn take_answer(&mut self, pending: Pending, verdict: Verdict) -> Step {
        let refusal = match verdict {
            Verdict::Refused(reply) => reply,
            granted => return self.take_consent(pending, granted),
        };
        match pending {
            Pending::Authenticate | Pending::User(_) | Pending::Proof => self.fail(None, refusal),
            Pending::Sender(_) | Pending::Accept => self.ready(None, refusal),
            Pending::Recipient(draft, _) | Pending::StartData(draft) => self.resign(draft, refusal),
            Pending::StartChunks(_, chunk) => self.refuse_chunks(chunk, refusal),
            // After a refusal by the protocol, only RCPT leaves the transaction open.
            Pending::Refuse(Some(draft)) => self.resign(draft, refusal),
            Pending::Refuse(None) => self.ready(None, refusal),
        }
    }

    fn take_consent(&mut self, pending: Pending, verdict: Verdict) -> Step {
        match (pending, verdict) {
            (Pending::Authenticate, _) => {
                self.authenticated = true;
                self.ready(None, replies::authenticated_235())
            }
            (Pending::User(first), Verdict::Scram(parameters)) => {
                self.advance_sasl(Ok(sasl::challenge(first, &parameters)))
            }
            (Pending::Proof, Verdict::Proven(signature)) => self.advance_sasl(Ok(sasl::answer(&signature))),
            (Pending::Sender(draft), _) => self.ready(Some(draft), replies::sender_ok_250()),
            (Pending::Recipient(mut draft, recipient), _) => {
                draft.recipients.push(recipient);
                self.ready(Some(draft), replies::recipient_ok_250())
            }
            (Pending::StartData(draft), _) => self.start_data(draft),
            (Pending::StartChunks(draft, chunk), _) => self.start_chunks(draft, chunk),
            (Pending::Accept, Verdict::Queued(id)) => {
                self.commands_without_message = 0;
                self.in_vain = 0;
                self.ready(None, replies::queued_250(id))
            }
            // These questions need their own kind of verdict: a message without an id was not stored, a proof without
            // a signature not checked.
            (Pending::Accept | Pending::User(_) | Pending::Proof, _) => {
                self.ready(None, replies::local_error_451())
            }
            (Pending::Refuse(draft), _) => self.ready(draft, replies::local_error_451()),
        }
    }
}

/// Whether the command counts towards `commands_without_message_max`.
fn brings_no_message(verb: Verb) -> bool {
    match verb {
        Verb::Ehlo | Verb::Helo | Verb::StartTls | Verb::Auth | Verb::Mail => true,
        Verb::Rset | Verb::Noop | Verb::Help | Verb::Vrfy => true,
        Verb::Rcpt | Verb::Data | Verb::Bdat | Verb::Quit => false,
    }
}

/// The EHLO name comes from the client; what goes into a header is bounded and has safe characters only (RFC 5321
/// §4.5.3.1.2).
fn fit_for_trace(name: &str) -> String {
    let inert = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    name.chars().take(255).map(|c| if inert(c) { c } else { '?' }).collect()
}
