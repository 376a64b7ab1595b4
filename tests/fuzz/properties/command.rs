use pillarbox::mail::{Address, ReversePath};
use pillarbox::smtp::{Input, LINE_OCTETS_MAX, Next, Question, Reply};
use super::session::logged_in;

/// A line in an authenticated session, within a transaction or not, results in one reply or one question.
pub fn command(octets: &[u8]) {
    let line = octets.split(|&octet| octet == b'\n').next().unwrap_or_default();
    if line.len() > LINE_OCTETS_MAX - 2 {
        return;
    }
    for before in
        [&[][..], &[&b"MAIL FROM:<a@own.example>"[..]], &[b"MAIL FROM:<>", b"RCPT TO:<b@c.example>"]]
    {
        let mut session = logged_in(before);
        let step = session.step(Input::Line(line));
        assert_eq!(step.consumed, 0);
        match step.next {
            Next::Ask(question) => {
                assert!(step.reply.is_none());
                check_question(question);
            }
            // The session reads and drops a chunk at the wrong time; for other content it asks for memory first.
            Next::ReadBody => {
                assert!(step.reply.is_none() && line.to_ascii_uppercase().starts_with(b"BDAT"));
            }
            Next::ReadLine | Next::UpgradeTls | Next::Close => check_reply(&step.reply.expect("a reply")),
        }
    }
}

fn check_question(question: Question) {
    match question {
        Question::AdmitSender(path) => assert_eq!(ReversePath::parse(&path.to_string()), Ok(path)),
        Question::AdmitRecipient { address, .. } => {
            assert_eq!(Address::parse(&address.to_string()), Ok(address));
        }
        _ => {}
    }
}

/// RFC 5321 §4.5.3.1.5, §4.2: a reply has lines of printable ASCII within 512 octets, all with the same code.
pub fn check_reply(reply: &Reply) {
    let mut wire = Vec::new();
    reply.write_to(&mut wire);
    let text = String::from_utf8(wire).expect("replies are ASCII");
    let lines: Vec<&str> = text.split_inclusive("\r\n").collect();
    for (index, line) in lines.iter().enumerate() {
        assert!(line.len() <= 512 && line.starts_with(&reply.code.to_string()), "{line:?}");
        let inside = line.strip_suffix("\r\n").expect("a line ends with CRLF");
        assert!(inside.bytes().all(|octet| octet == b' ' || octet.is_ascii_graphic()), "{line:?}");
        assert_eq!(inside.as_bytes()[3] == b' ', index + 1 == lines.len(), "{text:?}");
    }
}
