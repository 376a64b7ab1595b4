use pillarbox::smtp::client::DotStuffer;
use pillarbox::smtp::{BareNewline, ContentError, DataLimits, DataProgress, Decoder, Framing};

/// Compares the decoder with a second implementation of RFC 5321 §4.5.2: the first `CRLF.CRLF` ends the data, however the
/// octets are split; the message has no lone CR or LF and no NUL; its wire form decodes to the same message.
pub fn data(octets: &[u8]) {
    let (choice, pieces) = super::split(octets);
    let content = octets.get(1..).unwrap_or_default();
    let limits = DataLimits {
        message_octets_max: if choice & 2 == 0 { 2000 } else { 100_000 },
        line_octets_max: 1000,
        bare_newline: if choice & 1 == 0 { BareNewline::Normalize } else { BareNewline::Reject },
        keep_octets_max: None,
    };
    let found = decode(limits, &pieces);
    assert_eq!(found, decode(limits, &[content]));

    let framed = [b"\r\n", content].concat();
    let end = framed.windows(5).position(|window| window == b"\r\n.\r\n");
    let Some((consumed, result)) = found else { return assert_eq!(end, None) };
    let end = end.expect("no end was there to be found");
    assert_eq!(consumed, end + 3);
    let wire = &framed[2..end + 2];
    let lone = has_lone_line_end(wire);
    match result {
        Ok(message) => {
            assert!(message.len() as u64 <= limits.message_octets_max);
            assert!(!has_lone_line_end(&message) && !message.contains(&0));
            assert!(!lone || limits.bare_newline == BareNewline::Normalize);
            if !lone {
                assert_eq!(message, unstuff(wire));
            }
            reads_back(&message);
        }
        Err(ContentError::TooLarge) => assert!(2 * wire.len() as u64 > limits.message_octets_max),
        Err(ContentError::Nul) => assert!(wire.contains(&0)),
        Err(ContentError::BareNewline) => assert!(lone && limits.bare_newline == BareNewline::Reject),
        Err(ContentError::LineTooLong) => assert!(wire.len() > limits.line_octets_max),
    }
}

fn decode(limits: DataLimits, pieces: &[&[u8]]) -> Option<(usize, Result<Vec<u8>, ContentError>)> {
    let mut decoder = Decoder::new(limits, Framing::Dots, 0);
    let mut before = 0;
    for piece in pieces {
        if let DataProgress::Complete { consumed } = decoder.decode(piece) {
            return Some((before + consumed, decoder.finish()));
        }
        before += piece.len();
    }
    None
}

fn has_lone_line_end(octets: &[u8]) -> bool {
    octets.iter().enumerate().any(|(at, octet)| match octet {
        b'\r' => octets.get(at + 1) != Some(&b'\n'),
        b'\n' => at == 0 || octets[at - 1] != b'\r',
        _ => false,
    })
}

fn unstuff(wire: &[u8]) -> Vec<u8> {
    let lines = wire.split_inclusive(|&octet| octet == b'\n');
    lines.flat_map(|line| line.strip_prefix(b".").unwrap_or(line)).copied().collect()
}

/// Dot-stuffing gives the same octets byte by byte and at once, and the decoder restores the input.
fn reads_back(message: &[u8]) {
    let (mut stuffing, mut at_once) = (DotStuffer::new(), Vec::new());
    stuffing.push(message, &mut at_once);
    stuffing.finish(&mut at_once);
    let (mut stuffing, mut one_by_one) = (DotStuffer::new(), Vec::new());
    message.chunks(1).for_each(|piece| stuffing.push(piece, &mut one_by_one));
    stuffing.finish(&mut one_by_one);
    assert_eq!(at_once, one_by_one);
    let limits = DataLimits {
        message_octets_max: u64::MAX,
        line_octets_max: usize::MAX,
        bare_newline: BareNewline::Reject,
        keep_octets_max: None,
    };
    assert_eq!(decode(limits, &[&at_once]), Some((at_once.len(), Ok(message.to_vec()))));
}
