use std::sync::Arc;

use pillarbox::mail::{DomainName, EnhancedStatus};
use pillarbox::model::{MessageId, ReportId};
use pillarbox::smtp::{
    BareNewline, DataLimits, Input, LineReader, Next, Profile, Question, Reply, ScramParameters, Session,
    SessionSettings, Step, Verdict,
};
use super::command::check_reply;

/// Any split of the octets of a connection gives the same replies and messages, every reply is valid, and memory stays
/// within its limits.
pub fn session(octets: &[u8]) {
    let (choice, pieces) = super::split(octets);
    let whole = hold(choice, &[octets.get(1..).unwrap_or_default()]);
    let split = hold(choice, &pieces);
    // With a handshake, the split decides which octets came before it.
    if !whole.upgraded && !split.upgraded {
        assert_eq!(whole, split);
    }
}

/// The results of a connection.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Heard {
    replies: Vec<Reply>,
    /// Envelopes and messages.
    pub accepted: Vec<(String, Vec<u8>)>,
    pub closed: bool,
    upgraded: bool,
}

/// Answers the questions of a session.
pub type Answers = fn(Question, &mut Heard) -> Verdict;

fn hold(choice: u8, pieces: &[&[u8]]) -> Heard {
    let (tls, login) = (choice & 1 == 0, choice & 2 == 0);
    let (profile, answers): (_, Answers) =
        if choice & 8 == 0 { (Profile::Submission, answer) } else { (Profile::Inbound, answer_server) };
    let bare_newline = if choice & 4 == 0 { BareNewline::Normalize } else { BareNewline::Reject };
    let mut heard = Heard::default();
    let mut connection = Connection::new(settings(profile, bare_newline), tls, answers);
    if tls && login {
        connection.receive(LOGIN, &mut heard);
    }
    for piece in pieces {
        connection.receive(piece, &mut heard);
    }
    connection.end(&mut heard);
    heard
}

const REPORT: &str = "rpt_00000000000000000000000000";
const MESSAGE: &str = "msg_00000000000000000000000000";
const LOGIN: &[u8] = b"EHLO client.example\r\nAUTH PLAIN AHVzZXIAcGFzcw==\r\n";

/// An authenticated session that has read these lines.
pub fn logged_in(lines: &[&[u8]]) -> Session {
    let mut connection = Connection::new(settings(Profile::Submission, BareNewline::Normalize), true, answer);
    connection.receive(LOGIN, &mut Heard::default());
    for line in lines {
        connection.receive(&[line, &b"\r\n"[..]].concat(), &mut Heard::default());
    }
    connection.session
}

pub fn settings(profile: Profile, bare_newline: BareNewline) -> SessionSettings {
    SessionSettings {
        profile,
        hostname: DomainName::parse("mx.pillarbox.example").expect("a name"),
        data: DataLimits {
            message_octets_max: 1000,
            line_octets_max: 200,
            bare_newline,
            keep_octets_max: None,
        },
        recipients_max: if profile == Profile::Submission { 3 } else { 1 },
        refused_recipients_max: 6,
        errors_max: 10,
        commands_without_message_max: 100,
        starttls: true,
    }
}

/// A connection to a session, without I/O.
pub struct Connection {
    session: Session,
    answers: Answers,
    memory_octets_max: usize,
    lines: LineReader,
    received: Vec<u8>,
    next: Next,
}

impl Connection {
    pub fn new(settings: SessionSettings, tls: bool, answers: Answers) -> Self {
        // A buffer grows by doubling.
        let memory_octets_max = (2 * settings.data.message_octets_max as usize).max(4096);
        let mut session = Session::new(Arc::new(settings), tls);
        let step = session.step(Input::Start);
        let (lines, received) = (LineReader::default(), Vec::new());
        Self { session, answers, memory_octets_max, lines, received, next: step.next }
    }

    /// The client closes the connection.
    pub fn end(&mut self, heard: &mut Heard) {
        if !heard.closed {
            self.take(Input::Eof, heard);
            assert!(heard.closed);
        }
    }

    pub fn receive(&mut self, octets: &[u8], heard: &mut Heard) {
        if heard.closed {
            return;
        }
        self.received.extend_from_slice(octets);
        while self.advance(heard) {}
        let octets = self.session.body_memory_octets();
        assert!(octets <= self.memory_octets_max, "{octets}");
    }

    /// Runs one step. Returns false if the session needs more octets or has ended.
    fn advance(&mut self, heard: &mut Heard) -> bool {
        match std::mem::replace(&mut self.next, Next::Close) {
            Next::ReadLine => {
                let received = std::mem::take(&mut self.received);
                let (consumed, line) = self.lines.next(&received);
                let step = line.map(|line| match line {
                    Ok(line) => self.session.step(Input::Line(line)),
                    Err(error) => self.session.step(Input::LineError(error)),
                });
                self.received = received[consumed..].to_vec();
                match step {
                    Some(step) => self.note(step, heard),
                    None => {
                        self.next = Next::ReadLine;
                        return false;
                    }
                }
            }
            Next::ReadBody if self.received.is_empty() => {
                self.next = Next::ReadBody;
                return false;
            }
            Next::ReadBody => {
                let received = std::mem::take(&mut self.received);
                let step = self.session.step(Input::Body(&received));
                assert!(step.consumed > 0, "no progress");
                self.received = received[step.consumed..].to_vec();
                self.note(step, heard);
            }
            Next::Ask(question) => {
                let verdict = (self.answers)(question, heard);
                self.take(Input::Answer(verdict), heard);
            }
            Next::UpgradeTls => {
                self.received.clear();
                self.lines.reset();
                heard.upgraded = true;
                self.take(Input::TlsDone, heard);
                assert_eq!(self.session.helo(), "");
            }
            Next::Close => return false,
        }
        true
    }

    fn take(&mut self, input: Input<'_>, heard: &mut Heard) {
        let step = self.session.step(input);
        self.note(step, heard);
    }

    fn note(&mut self, step: Step, heard: &mut Heard) {
        if let Some(mut reply) = step.reply {
            check_reply(&reply);
            // A challenge contains a nonce (RFC 5802 §5.1).
            if reply.code == 334 {
                reply.lines.clear();
            }
            heard.replies.push(reply);
        }
        heard.closed |= matches!(step.next, Next::Close);
        self.next = step.next;
    }
}

/// Octets that are kept of a report.
const KEPT_OCTETS: u64 = 100;

/// The answers to another server: it never logs in, and its message has one recipient.
fn answer_server(question: Question, heard: &mut Heard) -> Verdict {
    match question {
        Question::Authenticate(_) | Question::FindUser(_) | Question::CheckProof(_) => {
            unreachable!("a server that sends reports cannot log in")
        }
        Question::StartData { .. } => Verdict::GrantedKeeping(KEPT_OCTETS),
        Question::Accept { envelope, message, is_truncated, .. } => {
            let octets = message.len() as u64;
            assert!(octets <= KEPT_OCTETS && (octets == KEPT_OCTETS || !is_truncated));
            assert_eq!(envelope.recipients.len(), 1);
            let parameters = &envelope.parameters;
            assert!(
                !parameters.require_tls
                    && parameters.release_at.is_none()
                    && parameters.envelope_id.is_none()
            );
            heard.accepted.push((format!("{envelope:?}"), message.to_vec()));
            Verdict::Recorded(REPORT.parse::<ReportId>().expect("an id"))
        }
        question => answer(question, heard),
    }
}

/// Refuses addresses that contain `foreign` or `suppressed`, and accepts all others.
fn answer(question: Question, heard: &mut Heard) -> Verdict {
    let refused = |code, text| Verdict::Refused(Reply::new(code, Some(EnhancedStatus::new(5, 7, 1)), text));
    match question {
        Question::AdmitSender(path) if path.to_string().contains("foreign") => refused(550, "No"),
        Question::AdmitRecipient { address, .. } if address.to_string().contains("suppressed") => {
            refused(550, "No")
        }
        Question::Accept { envelope, message, .. } => {
            assert!(message.len() <= 1000 && (1..=3).contains(&envelope.recipients.len()));
            heard.accepted.push((format!("{envelope:?}"), message.to_vec()));
            Verdict::Queued(MESSAGE.parse::<MessageId>().expect("an id"))
        }
        Question::FindUser(_) => {
            Verdict::Scram(ScramParameters { salt: vec![1; 16], iterations: 4096, nonce: "y".into() })
        }
        Question::CheckProof(proof) => Verdict::Proven(proof.octets),
        Question::Refuse { refusal, .. } => refused(550, &refusal.to_string()),
        _ => Verdict::Granted,
    }
}
