use std::sync::LazyLock;

use pillarbox::mail::{Address, EnhancedStatus, Timestamp, Token, TokenKey, TokenKeys};
use pillarbox::model::ReportId;
use pillarbox::smtp::{BareNewline, DataLimits, Profile, Question, Reply, SessionSettings, Verdict};

use super::session::{Connection, Heard, settings};

const MESSAGE_OCTETS_MAX: u64 = 32 * 1024;
const KEPT_OCTETS: u64 = 8 * 1024;
const REPORT: &str = "rpt_00000000000000000000000000";

/// The keys of the addresses that reports come to.
pub static KEYS: LazyLock<TokenKeys> =
    LazyLock::new(|| TokenKeys::new(vec![TokenKey::new(1, Timestamp::UNIX_EPOCH, &[7; 32])]));

/// Whatever another server sends, a message is accepted only for one address with a valid token, within the limits, and what is
/// read from it keeps the promises of the reader of reports.
pub fn inbound(octets: &[u8]) {
    let (choice, pieces) = super::split(octets);
    let bare_newline = if choice & 1 == 0 { BareNewline::Normalize } else { BareNewline::Reject };
    let settings = SessionSettings {
        data: DataLimits {
            message_octets_max: MESSAGE_OCTETS_MAX,
            line_octets_max: 1000,
            bare_newline,
            keep_octets_max: None,
        },
        ..settings(Profile::Inbound, bare_newline)
    };
    let (mut connection, mut heard) = (Connection::new(settings, choice & 2 == 0, answer), Heard::default());
    for piece in pieces {
        connection.receive(piece, &mut heard);
    }
    connection.end(&mut heard);
}

/// Accepts what has a valid token, as the server does.
fn answer(question: Question, heard: &mut Heard) -> Verdict {
    match question {
        Question::Authenticate(_) | Question::FindUser(_) | Question::CheckProof(_) => {
            unreachable!("a server that sends reports cannot log in")
        }
        Question::AdmitRecipient { address, .. } if token_of(&address).is_none() => refuse(550, "No"),
        Question::StartData { .. } => Verdict::GrantedKeeping(KEPT_OCTETS),
        Question::Accept { envelope, message, is_truncated, .. } => {
            let [recipient] = &envelope.recipients[..] else { panic!("{:?}", envelope.recipients) };
            assert!(token_of(&recipient.address).is_some(), "{recipient:?}");
            let octets = message.len() as u64;
            assert!(octets <= KEPT_OCTETS && (octets == KEPT_OCTETS || !is_truncated));
            super::feedback::check(&message, &envelope.reverse_path);
            heard.accepted.push((format!("{envelope:?}"), message.to_vec()));
            Verdict::Recorded(REPORT.parse::<ReportId>().expect("an id"))
        }
        Question::Refuse { refusal, .. } => refuse(550, &refusal.to_string()),
        _ => Verdict::Granted,
    }
}

/// The token of an address, if this server made it.
fn token_of(address: &Address) -> Option<Token> {
    let token = Token::parse(address.local().as_str())?;
    KEYS.verify(&token, Timestamp::UNIX_EPOCH).ok()?;
    Some(token)
}

fn refuse(code: u16, text: &str) -> Verdict {
    Verdict::Refused(Reply::new(code, Some(EnhancedStatus::new(5, 1, 1)), text))
}
