use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use pillarbox::smtp::Reply;
use pillarbox::smtp::client::{Handshake, HandshakeOptions, Login, StartTls, Step};

const USER: &str = "user@example.com";
const PASSWORD: &str = "correct horse";
/// Greeting, EHLO, HELO, STARTTLS, EHLO, HELO, SCRAM, and three steps of another mechanism.
const STEPS_MAX: usize = 20;
/// The work of SCRAM that a run waits for.
const ITERATIONS_MAX: u32 = 5000;

/// Whatever a server replies, the start of a connection ends, sends the password over TLS only, or to this machine, and shows it
/// nowhere. It is ready only with the TLS and the login that the route requires.
pub fn handshake(octets: &[u8]) {
    let (choice, pieces) = super::split(octets);
    let (replies, _) = super::reply::read(&pieces);
    let mut replies = replies.into_iter().peekable();
    let starttls = [StartTls::Never, StartTls::IfOffered, StartTls::Required][usize::from(choice & 3) % 3];
    let (is_local, has_login, mut is_secured) = (choice & 4 != 0, choice & 8 != 0, choice & 16 != 0);
    let login = Login { user: USER.into(), password: PASSWORD.to_owned().into() };
    let (mut machine, mut step) = Handshake::begin(HandshakeOptions {
        ehlo_name: "mx.pillarbox.example".into(),
        starttls,
        secured: is_secured,
        local: is_local,
        channel: None,
        nonce: "rOprNGfwEbeRWgbNEkqO".into(),
        login: has_login.then_some(login),
    });
    let mut last_code = 0;
    for _ in 0..STEPS_MAX {
        step = match step {
            Step::Exchange(command, _) => {
                if let Some(command) = command {
                    check_command(command.wire(), &command.to_string(), is_secured || is_local);
                }
                let Some(reply) = replies.next() else { return };
                if machine.is_challenge(&reply) && iterations_of(&reply) > ITERATIONS_MAX {
                    return;
                }
                last_code = reply.code;
                machine.reply(reply, replies.peek().is_some() && choice & 32 != 0)
            }
            Step::UpgradeTls => {
                assert!(starttls != StartTls::Never && !is_secured);
                is_secured = true;
                machine.secured(None)
            }
            Step::Ready(_) => {
                assert!(starttls != StartTls::Required || is_secured);
                assert!(!has_login || last_code == 235, "{last_code}");
                return;
            }
            Step::Failed(error) => return assert!(!error.to_string().is_empty()),
        };
    }
    panic!("the handshake does not end");
}

/// A command is one line, and the password in it is not shown.
fn check_command(wire: &[u8], shown: &str, may_log_in: bool) {
    let line = wire.strip_suffix(b"\r\n").expect("a command ends with CRLF");
    assert!(line.len() <= 4096 && line.iter().all(|octet| (b' '..=b'~').contains(octet)), "{}", wire.escape_ascii());
    let secrets = [BASE64.encode(PASSWORD), BASE64.encode(format!("\0{USER}\0{PASSWORD}"))];
    let sends_secret = secrets.iter().any(|secret| line.ends_with(secret.as_bytes()));
    assert!(!sends_secret || may_log_in);
    assert!(secrets.iter().all(|secret| !shown.contains(secret)) && !shown.contains(PASSWORD), "{shown}");
}

/// The iterations that a challenge of SCRAM asks for.
fn iterations_of(challenge: &Reply) -> u32 {
    let text = BASE64.decode(challenge.lines.concat()).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let iterations = text.split(',').find_map(|pair| pair.strip_prefix("i="));
    iterations.and_then(|number| number.parse().ok()).unwrap_or(0)
}
