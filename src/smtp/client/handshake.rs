//! The start of a connection: greeting, EHLO or HELO, STARTTLS, AUTH.

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use zeroize::Zeroizing;

use super::login::Login;
use super::scram::{Binding, Scram, ScramError};
use super::{Capabilities, Phase};
use crate::smtp::{ChannelBinding, Reply};

/// RFC 4954 §4: a longer initial response must wait for a 334.
const AUTH_LINE_OCTETS_MAX: usize = 510;

/// Options of the handshake.
#[derive(Debug, Clone)]
pub struct HandshakeOptions {
    /// Our EHLO name.
    pub ehlo_name: String,
    /// Whether to use STARTTLS.
    pub starttls: StartTls,
    /// Whether the connection already uses TLS.
    pub secured: bool,
    /// Whether the server is on this machine. Only then may a password be sent without TLS.
    pub local: bool,
    /// The channel binding of the TLS connection, if any.
    pub channel: Option<ChannelBinding>,
    /// A new SCRAM nonce: printable ASCII without commas.
    pub nonce: String,
    /// User name and password, if the server requires authentication.
    pub login: Option<Login>,
}

/// Whether to use STARTTLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartTls {
    /// Never.
    Never,
    /// If the server offers it.
    IfOffered,
    /// Always; fail if the server does not offer it.
    Required,
}

/// A command to send. Its Display form hides secrets.
#[derive(Clone)]
pub struct Command {
    line: Zeroizing<String>,
    shown: Option<&'static str>,
}

impl Command {
    fn plain(line: String) -> Self {
        Self { line: Zeroizing::new(line), shown: None }
    }

    fn secret(line: String, shown: &'static str) -> Self {
        Self { line: Zeroizing::new(line), shown: Some(shown) }
    }

    /// The octets to send, with CRLF.
    pub fn wire(&self) -> &[u8] {
        self.line.as_bytes()
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.shown.unwrap_or(self.line.trim_end()))
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What the caller must do next.
#[derive(Debug)]
pub enum Step {
    /// Send the command, if any, then pass the reply to [`Handshake::reply`]. The phase decides the timeout.
    Exchange(Option<Command>, Phase),
    /// Perform the TLS handshake, then call [`Handshake::secured`].
    UpgradeTls,
    /// The connection is ready for transactions.
    Ready(Capabilities),
    /// The connection cannot be used.
    Failed(HandshakeError),
}

/// Why a connection cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The server refused a command.
    #[error("the server refused {}", .0.as_str())]
    Refused(Phase, Reply),
    /// TLS is required and the server does not offer STARTTLS.
    #[error("the server does not offer STARTTLS, which this route requires")]
    NoTls,
    /// The server sent octets after its STARTTLS reply (RFC 3207 §6).
    #[error("the server sent plain-text data after its STARTTLS reply")]
    Injection,
    /// The password would be sent without TLS to another machine.
    #[error("the password is sent over TLS only, and this connection has no TLS")]
    LoginInClear,
    /// No supported mechanism is offered.
    #[error("the server offers none of AUTH SCRAM-SHA-256, PLAIN and LOGIN")]
    NoMechanism,
    /// SCRAM failed.
    #[error("{0}")]
    Scram(#[from] ScramError),
}

/// The state machine of a handshake. Start with [`Handshake::begin`]; each reply advances it.
#[derive(Debug)]
pub struct Handshake {
    options: HandshakeOptions,
    capabilities: Capabilities,
    state: State,
    scram: Option<Scram>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Greeting,
    Ehlo,
    Helo,
    StartTls,
    /// PLAIN with an initial response.
    PlainInitial,
    /// PLAIN without an initial response: the response follows the 334.
    PlainResponse,
    /// Waits for the SCRAM challenge.
    ScramChallenge,
    /// Waits for the server signature.
    ScramSignature,
    LoginUser,
    LoginPassword,
    /// Waits for the result of AUTH: the last response was sent.
    AuthEnd,
}

impl Handshake {
    /// The state machine and its first step: wait for the greeting.
    pub fn begin(options: HandshakeOptions) -> (Self, Step) {
        let capabilities = Capabilities::default();
        let machine = Self { options, capabilities, state: State::Greeting, scram: None };
        (machine, Step::Exchange(None, Phase::Greeting))
    }

    /// Whether this reply is a SCRAM challenge. The response to it can take a tenth of a second of CPU.
    pub fn is_challenge(&self, reply: &Reply) -> bool {
        self.state == State::ScramChallenge && reply.code == 334
    }

    /// Processes a reply. `leftover` is whether more octets have arrived after it.
    pub fn reply(&mut self, reply: Reply, leftover: bool) -> Step {
        match (self.state, reply.code) {
            (State::Greeting, 220) => self.send_ehlo(State::Ehlo),
            (State::Ehlo, 250) => {
                self.capabilities = Capabilities::read(&reply);
                self.after_ehlo()
            }
            // RFC 5321 §3.2: the server may support HELO only.
            (State::Ehlo, 500..=599) => self.send_ehlo(State::Helo),
            (State::Helo, 250) => {
                self.capabilities = Capabilities::default();
                self.after_ehlo()
            }
            (State::StartTls, 220) if leftover => Step::Failed(HandshakeError::Injection),
            (State::StartTls, 220) => Step::UpgradeTls,
            (State::StartTls, code) if self.options.starttls == StartTls::IfOffered && code != 421 => {
                self.authenticate()
            }
            (State::ScramChallenge, 334) => self.answer_challenge(&reply),
            (State::ScramSignature, 334) => match self.check_signature(&reply) {
                Ok(()) => self.respond(State::AuthEnd, |_| String::new()),
                Err(error) => Step::Failed(error.into()),
            },
            // A server that accepts the login without proving that it knows the password may be an impostor.
            (State::ScramChallenge | State::ScramSignature, 235) => {
                Step::Failed(ScramError::ServerUnproven.into())
            }
            // A server may offer SCRAM without having a verifier of this user; RFC 4954 §4 then allows another
            // mechanism. After a refused proof the password would be wrong too, so it is not sent.
            (State::ScramChallenge, 500..=599)
                if self.capabilities.auth_plain || self.capabilities.auth_login =>
            {
                self.capabilities.auth_scram = false;
                self.capabilities.auth_scram_plus = false;
                self.authenticate()
            }
            (State::PlainResponse, 334) => self.respond(State::AuthEnd, plain_response),
            (State::LoginUser, 334) => self.respond(State::LoginPassword, |login| BASE64.encode(&login.user)),
            (State::LoginPassword, 334) => {
                self.respond(State::AuthEnd, |login| BASE64.encode(login.password.as_str()))
            }
            (State::PlainInitial | State::AuthEnd, 235) => Step::Ready(self.capabilities),
            (state, _) => Step::Failed(HandshakeError::Refused(state.phase(), reply)),
        }
    }

    /// Continues after the TLS handshake. `channel` is the channel binding of the TLS connection.
    pub fn secured(&mut self, channel: Option<ChannelBinding>) -> Step {
        self.options.secured = true;
        self.options.channel = channel;
        // RFC 3207 §4.2: forget everything received before TLS.
        self.capabilities = Capabilities::default();
        self.send_ehlo(State::Ehlo)
    }

    fn send_ehlo(&mut self, state: State) -> Step {
        self.state = state;
        let verb = if state == State::Ehlo { "EHLO" } else { "HELO" };
        let line = format!("{verb} {}\r\n", self.options.ehlo_name);
        Step::Exchange(Some(Command::plain(line)), Phase::Hello)
    }

    fn after_ehlo(&mut self) -> Step {
        if self.options.secured || self.options.starttls == StartTls::Never {
            return self.authenticate();
        }
        if self.capabilities.starttls {
            self.state = State::StartTls;
            return Step::Exchange(Some(Command::plain("STARTTLS\r\n".into())), Phase::StartTls);
        }
        match self.options.starttls {
            StartTls::Required => Step::Failed(HandshakeError::NoTls),
            StartTls::IfOffered | StartTls::Never => self.authenticate(),
        }
    }

    fn authenticate(&mut self) -> Step {
        let Some(login) = &self.options.login else {
            return Step::Ready(self.capabilities);
        };
        if !self.options.secured && !self.options.local {
            return Step::Failed(HandshakeError::LoginInClear);
        }
        let offered = self.capabilities;
        if (offered.auth_scram || offered.auth_scram_plus) && Scram::supports(login) {
            let (name, binding) = match self.options.channel {
                Some(channel) if offered.auth_scram_plus => {
                    ("SCRAM-SHA-256-PLUS", Some(Binding::Bound(channel)))
                }
                Some(_) => ("SCRAM-SHA-256", Some(Binding::NotOffered)),
                None => ("SCRAM-SHA-256", offered.auth_scram.then_some(Binding::None)),
            };
            if let Some(binding) = binding {
                let scram = Scram::new(&login.user, &self.options.nonce, binding);
                let line = format!("AUTH {name} {}\r\n", scram.first());
                self.scram = Some(scram);
                self.state = State::ScramChallenge;
                return Step::Exchange(Some(Command::plain(line)), Phase::Auth);
            }
        }
        if self.capabilities.auth_plain {
            let line = Zeroizing::new(format!("AUTH PLAIN {}", plain_response(login)));
            if line.len() <= AUTH_LINE_OCTETS_MAX {
                self.state = State::PlainInitial;
                let command = Command::secret(format!("{}\r\n", *line), "AUTH PLAIN ****");
                return Step::Exchange(Some(command), Phase::Auth);
            }
            self.state = State::PlainResponse;
            return Step::Exchange(Some(Command::plain("AUTH PLAIN\r\n".into())), Phase::Auth);
        }
        if self.capabilities.auth_login {
            self.state = State::LoginUser;
            return Step::Exchange(Some(Command::plain("AUTH LOGIN\r\n".into())), Phase::Auth);
        }
        Step::Failed(HandshakeError::NoMechanism)
    }

    fn answer_challenge(&mut self, reply: &Reply) -> Step {
        let (Some(scram), Some(login)) = (&mut self.scram, &self.options.login) else {
            return Step::Failed(HandshakeError::NoMechanism);
        };
        match scram.answer(&reply.lines.concat(), &login.password) {
            Ok(answer) => self.respond(State::ScramSignature, |_| answer.clone()),
            Err(error) => Step::Failed(error.into()),
        }
    }

    fn check_signature(&self, reply: &Reply) -> Result<(), ScramError> {
        let scram = self.scram.as_ref().ok_or(ScramError::ServerUnproven)?;
        scram.check(&reply.lines.concat())
    }

    fn respond(&mut self, next: State, response: impl Fn(&Login) -> String) -> Step {
        self.state = next;
        let text = self.options.login.as_ref().map(response).unwrap_or_default();
        Step::Exchange(Some(Command::secret(format!("{text}\r\n"), "****")), Phase::Auth)
    }
}

impl State {
    fn phase(self) -> Phase {
        match self {
            Self::Greeting => Phase::Greeting,
            Self::Ehlo | Self::Helo => Phase::Hello,
            Self::StartTls => Phase::StartTls,
            Self::ScramChallenge
            | Self::ScramSignature
            | Self::PlainInitial
            | Self::PlainResponse
            | Self::LoginUser
            | Self::LoginPassword
            | Self::AuthEnd => Phase::Auth,
        }
    }
}

/// RFC 4616 §2: empty authorization identity, user name, password.
fn plain_response(login: &Login) -> String {
    BASE64.encode(Zeroizing::new(format!("\0{}\0{}", login.user, login.password.as_str())).as_bytes())
}

impl HandshakeError {
    /// The phase in which the handshake failed.
    pub fn phase(&self) -> Phase {
        match self {
            Self::Refused(phase, _) => *phase,
            Self::NoTls | Self::Injection => Phase::StartTls,
            Self::LoginInClear | Self::NoMechanism | Self::Scram(_) => Phase::Auth,
        }
    }

    /// The text to show: the server's reply, or the error message.
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Refused(_, reply) => Cow::Owned(reply.lines.join(" ")),
            other => Cow::Owned(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(starttls: StartTls, login: bool) -> HandshakeOptions {
        let login = login.then(|| Login { user: "user".into(), password: Zeroizing::new("pa ss".into()) });
        HandshakeOptions {
            ehlo_name: "relay.example".into(),
            starttls,
            secured: false,
            local: true,
            channel: None,
            nonce: "fresh".into(),
            login,
        }
    }

    fn reply(text: &str) -> Reply {
        let mut reader = super::super::ReplyReader::new();
        reader.buffer().extend_from_slice(text.replace('|', "\r\n").as_bytes());
        reader.buffer().extend_from_slice(b"\r\n");
        reader.next_reply().unwrap().unwrap()
    }

    /// Feeds replies to the state machine (`TLS` is a TLS handshake) and records its steps.
    fn play(options: HandshakeOptions, replies: &[&str]) -> Vec<String> {
        let (mut machine, mut step) = Handshake::begin(options);
        let mut seen = Vec::new();
        let mut replies = replies.iter();
        loop {
            match step {
                Step::Exchange(command, phase) => {
                    if let Some(command) = command {
                        seen.push(String::from_utf8(command.wire().to_vec()).unwrap().trim_end().to_owned());
                    }
                    let Some(text) = replies.next() else {
                        seen.push(format!("waits for {}", phase.as_str()));
                        return seen;
                    };
                    step = machine.reply(reply(text), false);
                }
                Step::UpgradeTls => {
                    seen.push("TLS".into());
                    step = machine.secured(None);
                }
                Step::Ready(capabilities) => {
                    seen.push(format!("ready pipelining={}", capabilities.pipelining));
                    return seen;
                }
                Step::Failed(error) => {
                    seen.push(error.to_string());
                    return seen;
                }
            }
        }
    }

    #[test]
    fn a_server_without_tls_supports_ehlo_or_only_helo() {
        let none = options(StartTls::IfOffered, false);
        assert_eq!(
            play(none.clone(), &["220 hi", "250-mx|250 PIPELINING"]),
            ["EHLO relay.example", "ready pipelining=true"]
        );
        assert_eq!(
            play(none.clone(), &["220 hi", "502 what", "250 mx"]),
            ["EHLO relay.example", "HELO relay.example", "ready pipelining=false"]
        );
        assert_eq!(play(none.clone(), &["554 no"]), ["the server refused the greeting"]);
        assert_eq!(
            play(none.clone(), &["220 hi", "421 no"]),
            ["EHLO relay.example", "the server refused EHLO"]
        );
        assert_eq!(play(none, &[]), ["waits for the greeting"]);
    }

    #[test]
    fn starttls_is_used_when_offered_and_ehlo_repeated() {
        let dialogue = ["220 hi", "250-mx|250-PIPELINING|250 STARTTLS", "220 go", "250 mx"];
        for starttls in [StartTls::IfOffered, StartTls::Required] {
            assert_eq!(
                play(options(starttls, false), &dialogue),
                ["EHLO relay.example", "STARTTLS", "TLS", "EHLO relay.example", "ready pipelining=false"]
            );
        }
        assert_eq!(
            play(options(StartTls::Never, false), &dialogue),
            ["EHLO relay.example", "ready pipelining=true"]
        );
    }

    #[test]
    fn without_required_tls_the_handshake_fails() {
        let required = options(StartTls::Required, true);
        assert_eq!(
            play(required.clone(), &["220 hi", "250-mx|250 AUTH PLAIN"])[1],
            HandshakeError::NoTls.to_string()
        );
        assert_eq!(
            play(required, &["220 hi", "250-mx|250-STARTTLS|250 AUTH PLAIN", "454 later"])[2],
            "the server refused STARTTLS"
        );
        assert_eq!(
            play(options(StartTls::IfOffered, false), &["220 hi", "250-mx|250 STARTTLS", "454 later"])[2],
            "ready pipelining=false"
        );
    }

    #[test]
    fn octets_after_the_starttls_reply_end_the_connection() {
        let (mut machine, _) = Handshake::begin(options(StartTls::IfOffered, false));
        machine.reply(reply("220 hi"), false);
        machine.reply(reply("250-mx|250 STARTTLS"), false);
        let step = machine.reply(reply("220 go"), true);
        assert!(matches!(step, Step::Failed(HandshakeError::Injection)), "{step:?}");
    }

    #[test]
    fn plain_and_login_send_user_name_and_password() {
        let login = options(StartTls::Never, true);
        assert_eq!(
            play(login.clone(), &["220 hi", "250-mx|250 AUTH LOGIN PLAIN", "235 in"])[1..],
            ["AUTH PLAIN AHVzZXIAcGEgc3M=", "ready pipelining=false"]
        );
        assert_eq!(
            play(login.clone(), &["220 hi", "250-mx|250 AUTH LOGIN", "334 VXNlcg==", "334 x", "235 in"])[1..],
            ["AUTH LOGIN", "dXNlcg==", "cGEgc3M=", "ready pipelining=false"]
        );
        assert_eq!(
            play(login.clone(), &["220 hi", "250-mx|250 AUTH PLAIN", "535 no"])[2],
            "the server refused AUTH"
        );
        assert_eq!(
            play(login.clone(), &["220 hi", "250-mx|250 AUTH GSSAPI"])[1],
            HandshakeError::NoMechanism.to_string()
        );
        let mut long = login;
        long.login = Some(Login { user: "u".repeat(600), password: Zeroizing::new("p".into()) });
        assert_eq!(play(long, &["220 hi", "250-mx|250 AUTH PLAIN", "334 "])[1], "AUTH PLAIN");
    }

    #[test]
    fn a_password_is_sent_without_tls_to_this_machine_only() {
        for starttls in [StartTls::Never, StartTls::IfOffered] {
            let remote = HandshakeOptions { local: false, ..options(starttls, true) };
            for offer in ["250-mx|250 AUTH PLAIN LOGIN SCRAM-SHA-256", "502 what", "250 mx"] {
                let said = play(remote.clone(), &["220 hi", offer, "250 mx"]);
                assert_eq!(said.last().unwrap(), &HandshakeError::LoginInClear.to_string(), "{offer}");
            }
            let refused = play(remote, &["220 hi", "250-mx|250-STARTTLS|250 AUTH PLAIN", "454 later"]);
            assert_eq!(refused.last().unwrap(), &HandshakeError::LoginInClear.to_string());
        }
    }

    #[test]
    fn the_strongest_mechanism_that_is_offered_is_used() {
        let login = options(StartTls::Never, true);
        let bound = HandshakeOptions { channel: Some([1; 32]), ..login.clone() };
        for (options, offer, begins) in [
            (
                &bound,
                "LOGIN PLAIN SCRAM-SHA-256 SCRAM-SHA-256-PLUS",
                "AUTH SCRAM-SHA-256-PLUS cD10bHMtZXhwb3J0ZXIs",
            ),
            (&bound, "PLAIN SCRAM-SHA-256", "AUTH SCRAM-SHA-256 eSws"),
            (&login, "PLAIN SCRAM-SHA-256-PLUS SCRAM-SHA-256", "AUTH SCRAM-SHA-256 biws"),
            (&login, "LOGIN PLAIN SCRAM-SHA-256-PLUS", "AUTH PLAIN "),
            (&login, "LOGIN CRAM-MD5", "AUTH LOGIN"),
        ] {
            let said = play(options.clone(), &["220 hi", &format!("250-mx|250 AUTH {offer}")]);
            assert!(said[1].starts_with(begins), "{offer}: {said:?}");
        }
        let foreign = HandshakeOptions {
            login: Some(Login { user: "ü".into(), password: Zeroizing::new("p".into()) }),
            ..bound
        };
        let said = play(foreign, &["220 hi", "250-mx|250 AUTH SCRAM-SHA-256 PLAIN"]);
        assert!(said[1].starts_with("AUTH PLAIN"), "SASLprep might change the user name: {said:?}");
    }

    #[test]
    fn plain_follows_a_refused_scram_start_and_never_a_refused_proof() {
        let login = options(StartTls::Never, true);
        let offer = "250-mx|250 AUTH PLAIN SCRAM-SHA-256";
        let said = play(login.clone(), &["220 hi", offer, "535 no verifier", "235 in"]);
        assert_eq!(said[2..], ["AUTH PLAIN AHVzZXIAcGEgc3M=", "ready pipelining=false"]);
        let said = play(login.clone(), &["220 hi", offer, "235 come in"]);
        assert_eq!(said[2], ScramError::ServerUnproven.to_string());
        let challenge = BASE64.encode("r=fresher,s=AAAA,i=4096");
        let said = play(login.clone(), &["220 hi", offer, &format!("334 {challenge}"), "334 dj1BQUFB"]);
        assert_eq!(said[3], ScramError::ServerUnproven.to_string());
        let challenged = format!("334 {challenge}");
        let said = play(login.clone(), &["220 hi", offer, &challenged, "535 wrong"]);
        assert_eq!(said[3], "the server refused AUTH", "the password is not sent after a refused proof");
        let said = play(login, &["220 hi", "250-mx|250 AUTH SCRAM-SHA-256", "535 no"]);
        assert_eq!(said[2], "the server refused AUTH");
    }

    #[test]
    fn no_secret_is_shown() {
        let (mut machine, _) = Handshake::begin(options(StartTls::Never, true));
        machine.reply(reply("220 hi"), false);
        let shown = format!("{:?} {machine:?}", machine.reply(reply("250-mx|250 AUTH PLAIN"), false));
        assert!(
            shown.contains("AUTH PLAIN ****") && !shown.contains("pa ss") && !shown.contains("AHVz"),
            "{shown}"
        );
    }
}
