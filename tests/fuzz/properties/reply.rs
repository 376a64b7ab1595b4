use pillarbox::mail::{Address, MailParameters, RcptParameters, ReversePath};
use pillarbox::smtp::Reply;
use pillarbox::smtp::client::{Capabilities, Next, ReplyError, ReplyReader, Request, Target, Transaction};

/// No server can make the client hang, panic or exceed its memory limit. Any split of the octets gives the same replies. A
/// transaction with them ends with a result for each recipient, or with a connection that is not reused.
pub fn reply(octets: &[u8]) {
    let (choice, pieces) = super::split(octets);
    let (replies, error) = read(&pieces);
    assert_eq!((replies.clone(), error), read(&[octets.get(1..).unwrap_or_default()]));
    for reply in &replies {
        super::command::check_reply(&Reply { lines: vec![String::new()], ..reply.clone() });
        assert!((200..600).contains(&reply.code) && !reply.lines.is_empty());
        assert!(reply.lines.iter().all(|line| line.bytes().all(|b| b == b' ' || b.is_ascii_graphic())));
    }
    let mut replies = replies.into_iter();
    let capabilities = match choice & 1 {
        0 => Capabilities::default(),
        _ => replies.next().map_or_else(Capabilities::default, |hello| Capabilities::read(&hello)),
    };
    transact(capabilities, choice, replies);
}

pub fn read(pieces: &[&[u8]]) -> (Vec<Reply>, Option<ReplyError>) {
    let (mut reader, mut replies) = (ReplyReader::new(), Vec::new());
    for piece in pieces {
        reader.buffer().extend_from_slice(piece);
        loop {
            match reader.next_reply() {
                Ok(Some(reply)) => replies.push(reply),
                Ok(None) => break,
                Err(error) => return (replies, Some(error)),
            }
        }
        // At most one line and the last piece.
        assert!(reader.buffer().len() <= 4096 + 1);
    }
    (replies, None)
}

fn transact(capabilities: Capabilities, choice: u8, mut replies: impl Iterator<Item = Reply>) {
    let recipients = ["b@c.example", "d@e.example", "\"a > b\"@f.example"];
    let recipients: Vec<Address> =
        recipients.iter().map(|text| Address::parse(text).expect("an address")).collect();
    let (parameters, plain) = (MailParameters::default(), RcptParameters::default());
    let recipients: Vec<Target<'_>> =
        recipients.iter().map(|address| Target { address, parameters: &plain }).collect();
    let request = Request {
        reverse_path: &ReversePath::Null,
        parameters: &parameters,
        recipients: &recipients,
        size_octets: 1000,
        eight_bit: choice & 2 != 0,
        utf8_header: choice & 4 != 0,
        reset: choice & 8 != 0,
    };
    let mut transaction = Transaction::new(&capabilities, &request);
    let mut sent = Vec::new();
    // RSET, MAIL, the recipients, DATA, the content and its reply.
    for _ in 0..12 {
        match transaction.advance(&mut sent) {
            Next::Done => {
                assert!(transaction.into_outcomes().iter().all(Option::is_some), "done without an outcome");
                return;
            }
            Next::Content => {
                sent.extend_from_slice(b".\r\n");
                transaction.content_sent();
            }
            Next::Reply(_) => match replies.next() {
                Some(reply) => transaction.reply(reply),
                None => return assert!(transaction.is_unusable()),
            },
        }
    }
    panic!("the transaction does not end");
}
