//! Runs a session without a socket: takes and returns octets, with verdicts from a fixed script.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::session::{Input, Next, Question, Session, Step, Verdict};
use super::settings::{Profile, SessionSettings};
use crate::mail::{DomainName, EnhancedStatus, Envelope, Timestamp};
use crate::model::{MessageId, RefusalCode, ReportId};
use crate::smtp::{BareNewline, DataLimits, LineReader, Reply, ScramParameters};

/// Drives a session, as the connection in `server` does.
pub struct Conversation {
    session: Session,
    lines: LineReader,
    input: Vec<u8>,
    next: Option<Next>,
    /// All reply octets.
    pub output: Vec<u8>,
    /// All replies.
    pub replies: Vec<Reply>,
    /// Accepted messages: envelope, content, protocol.
    pub accepted: Vec<(Envelope, Vec<u8>, &'static str)>,
    /// Codes of refusals decided by the protocol.
    pub refused: Vec<&'static str>,
    /// How many of them were cut.
    pub truncated: usize,
    pub closed: bool,
    profile: Profile,
}

pub fn settings() -> SessionSettings {
    SessionSettings {
        profile: Profile::Submission,
        hostname: DomainName::parse("mx.pillarbox.example").unwrap(),
        data: DataLimits {
            message_octets_max: 1000,
            line_octets_max: 200,
            bare_newline: BareNewline::Normalize,
            keep_octets_max: None,
        },
        recipients_max: 3,
        refused_recipients_max: 6,
        errors_max: 10,
        commands_without_message_max: 30,
        starttls: true,
    }
}

/// Octets that are kept of a report.
pub const KEPT_OCTETS: u64 = 64;

/// The settings of sessions with other servers.
pub fn inbound_settings() -> SessionSettings {
    SessionSettings {
        profile: Profile::Inbound,
        recipients_max: 1,
        refused_recipients_max: 20,
        errors_max: 5,
        ..settings()
    }
}

impl Conversation {
    pub fn new(settings: SessionSettings, tls: bool) -> Self {
        let mut new = Self {
            profile: settings.profile,
            session: Session::new(Arc::new(settings), tls),
            lines: LineReader::default(),
            input: Vec::new(),
            next: None,
            output: Vec::new(),
            replies: Vec::new(),
            accepted: Vec::new(),
            refused: Vec::new(),
            truncated: 0,
            closed: false,
        };
        new.session.set_time(Timestamp::UNIX_EPOCH);
        let step = new.session.step(Input::Start);
        new.apply(step);
        new.run();
        new
    }

    /// A session after EHLO and AUTH.
    pub fn logged_in() -> Self {
        let mut new = Self::new(settings(), true);
        new.say("EHLO client.example\r\nAUTH PLAIN AHVzZXIAcGFzcw==\r\n");
        new.replies.clear();
        new.output.clear();
        new
    }

    /// Feeds octets.
    pub fn feed(&mut self, bytes: &[u8]) {
        if !self.closed {
            self.input.extend_from_slice(bytes);
            self.run();
        }
    }

    /// Feeds a text and returns what the session replied to it.
    pub fn say(&mut self, text: &str) -> String {
        let from = self.output.len();
        self.feed(text.as_bytes());
        String::from_utf8(self.output[from..].to_vec()).unwrap()
    }

    pub fn input(&mut self, input: Input<'_>) {
        let step = self.session.step(input);
        self.apply(step);
    }

    pub fn session(&self) -> &Session {
        &self.session
    }

    pub fn codes(&self) -> Vec<u16> {
        self.replies.iter().map(|reply| reply.code).collect()
    }

    fn apply(&mut self, step: Step) {
        self.input.drain(..step.consumed);
        if let Some(reply) = step.reply {
            reply.write_to(&mut self.output);
            self.replies.push(reply);
        }
        self.next = Some(step.next);
    }

    fn run(&mut self) {
        while let Some(next) = self.next.take() {
            let in_body = matches!(next, Next::ReadBody);
            let step = match next {
                Next::ReadLine => {
                    let input = std::mem::take(&mut self.input);
                    let (consumed, line) = self.lines.next(&input);
                    let step = match line {
                        Some(Ok(line)) => Some(self.session.step(Input::Line(line))),
                        Some(Err(error)) => Some(self.session.step(Input::LineError(error))),
                        None => None,
                    };
                    self.input = input[consumed..].to_vec();
                    step
                }
                Next::ReadBody if self.input.is_empty() => None,
                Next::ReadBody => {
                    let input = std::mem::take(&mut self.input);
                    let step = self.session.step(Input::Body(&input));
                    self.input = input;
                    Some(step)
                }
                Next::Ask(question) => {
                    let verdict = self.answer(question);
                    Some(self.session.step(Input::Answer(verdict)))
                }
                Next::UpgradeTls => {
                    self.input.clear();
                    self.lines.reset();
                    Some(self.session.step(Input::TlsDone))
                }
                Next::Close => {
                    self.closed = true;
                    return;
                }
            };
            match step {
                Some(step) => self.apply(step),
                None => {
                    self.next = Some(if in_body { Next::ReadBody } else { Next::ReadLine });
                    return;
                }
            }
        }
    }

    fn answer(&mut self, question: Question) -> Verdict {
        let refuse = |code, subject, detail, text: &str| {
            let class = if code < 500 { 4 } else { 5 };
            Verdict::Refused(Reply::new(code, Some(EnhancedStatus::new(class, subject, detail)), text))
        };
        match question {
            Question::Authenticate(c) if c.username == "down" => refuse(454, 7, 0, "Store down"),
            Question::Authenticate(c) if c.password.as_str() != "pass" => refuse(535, 7, 8, "No"),
            Question::FindUser(username) if username == "down" => refuse(454, 7, 0, "Store down"),
            // RFC 7677 §3: the exchange of the example.
            Question::FindUser(_) => Verdict::Scram(ScramParameters {
                salt: STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap(),
                iterations: 4096,
                nonce: "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0".into(),
            }),
            Question::CheckProof(proof)
                if STANDARD.encode(&proof.octets) == "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=" =>
            {
                Verdict::Proven(STANDARD.decode("6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=").unwrap())
            }
            Question::CheckProof(_) => refuse(535, 7, 8, "No"),
            Question::AdmitSender(path) if path.to_string().ends_with("foreign.example") => {
                refuse(550, 7, 1, "[domain_not_allowed_for_key] No")
            }
            Question::AdmitRecipient { address, .. } if address.to_string().starts_with("suppressed@") => {
                refuse(550, 7, 1, "[recipient_suppressed] No")
            }
            Question::AdmitRecipient { address, .. } if address.to_string().starts_with("stranger@") => {
                refuse(550, 1, 1, "[mailbox_unknown] No")
            }
            Question::AdmitRecipient { address, .. }
                if address.to_string().ends_with("@elsewhere.example") =>
            {
                refuse(550, 7, 1, "[relay_denied] No")
            }
            Question::StartData { octets_declared: Some(777) } => refuse(451, 3, 2, "[overloaded] No"),
            Question::Accept { message, .. } if message.starts_with(b"Stop") => refuse(421, 3, 2, "Stopping"),
            Question::Accept { message, .. } if message.starts_with(b"Refuse") => refuse(550, 7, 1, "No"),
            Question::StartData { .. } if self.profile == Profile::Inbound => {
                Verdict::GrantedKeeping(KEPT_OCTETS)
            }
            Question::Accept { envelope, message, protocol, is_truncated } => {
                self.accepted.push((*envelope, message.to_vec(), protocol));
                self.truncated += usize::from(is_truncated);
                if self.profile == Profile::Inbound {
                    return Verdict::Recorded(ReportId::generate(Timestamp::UNIX_EPOCH));
                }
                Verdict::Queued(MessageId::generate(Timestamp::UNIX_EPOCH))
            }
            Question::AdmitRecipient { address, smtputf8, .. } if address.needs_smtputf8() && !smtputf8 => {
                refuse(553, 6, 7, "[recipient_needs_smtputf8] No")
            }
            Question::Refuse { refusal, .. } => {
                self.refused.push(refusal.code.as_str());
                let (code, subject, detail) = match refusal.code {
                    RefusalCode::MessageTooLarge => (552, 3, 4),
                    RefusalCode::RecipientInvalid => (553, 1, 3),
                    RefusalCode::TooManyRecipients => (452, 5, 3),
                    RefusalCode::ConversionRequired => (554, 6, 1),
                    _ => (554, 6, 0),
                };
                refuse(code, subject, detail, &refusal.to_string())
            }
            _ => Verdict::Granted,
        }
    }
}
