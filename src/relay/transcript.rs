//! The transcript of one attempt.

use crate::mail::without_macs;
use crate::smtp::Reply;
use crate::smtp::client::Phase;
use crate::store::Attempt;

/// Octets that are stored.
const OCTETS_MAX: usize = Attempt::TRANSCRIPT_OCTETS_MAX;
/// Octets kept from the start of a longer dialogue. The other octets are kept from its end, which has the decisive
/// reply.
const HEAD_OCTETS: usize = OCTETS_MAX / 2;
/// Octets of one line; a reply may have lines of 4 KiB.
const LINE_OCTETS_MAX: usize = 512;
/// Octets collected before the middle is omitted.
const COLLECTED_OCTETS_MAX: usize = 4 * OCTETS_MAX;

/// The end of the remark that replaces the omitted part.
const OMITTED: &str = " of the dialogue omitted";
/// Octets of that remark with its number.
const REMARK_OCTETS_MAX: usize = 64;
/// Replaces a secret.
const MASK: &str = "****";

/// Commands (`>`), replies (`<`) and remarks (`*`), one per line.
#[derive(Debug, Default)]
pub struct Transcript {
    text: String,
    /// Octets that were omitted from the middle.
    omitted: usize,
}

impl Transcript {
    /// Adds command lines as sent, which must not contain secrets.
    pub fn sent(&mut self, lines: &str) {
        lines.lines().for_each(|line| self.push("> ", line));
    }

    /// Adds a reply.
    pub fn received(&mut self, reply: &Reply) {
        let last = reply.lines.len().saturating_sub(1);
        for (index, line) in reply.lines.iter().enumerate() {
            let mark = if index == last { ' ' } else { '-' };
            let status = reply.enhanced.map(|status| format!("{status} ")).unwrap_or_default();
            self.push("< ", &format!("{}{mark}{status}{line}", reply.code));
        }
    }

    /// Adds a command of the handshake. AUTH is reduced to the verb and the mechanism.
    pub fn handshake_sent(&mut self, phase: Phase, line: &str) {
        if phase != Phase::Auth {
            return self.sent(line);
        }
        let mut words = line.split_ascii_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some("AUTH"), Some(mechanism), None) => self.sent(&format!("AUTH {mechanism}")),
            (Some("AUTH"), Some(mechanism), Some(_)) => self.sent(&format!("AUTH {mechanism} {MASK}")),
            _ => self.sent(MASK),
        }
    }

    /// Adds a reply of the handshake. A challenge in AUTH is masked, because it may contain part of a proof (RFC 5802
    /// §5).
    pub fn handshake_received(&mut self, phase: Phase, reply: &Reply) {
        match (phase, reply.code) {
            (Phase::Auth, 334) => self.push("< ", &format!("334 {MASK}")),
            _ => self.received(reply),
        }
    }

    /// Adds a remark.
    pub fn remark(&mut self, text: &str) {
        self.push("* ", text);
    }

    fn push(&mut self, mark: &str, line: &str) {
        let line = without_macs(line);
        self.text.push_str(mark);
        self.text.push_str(&line[..line.floor_char_boundary(LINE_OCTETS_MAX)]);
        self.text.push('\n');
        if self.text.len() > COLLECTED_OCTETS_MAX {
            self.text = self.cut_middle();
        }
    }

    /// The text, with its middle omitted if it is too long.
    pub fn into_text(mut self) -> String {
        if self.text.len() > OCTETS_MAX {
            self.text = self.cut_middle();
        }
        self.text
    }

    /// Keeps whole lines of the start and of the end, with a remark on how much is omitted between them.
    fn cut_middle(&mut self) -> String {
        let head = whole_lines(&self.text[..self.text.floor_char_boundary(HEAD_OCTETS)]);
        let tail_octets = OCTETS_MAX - HEAD_OCTETS - REMARK_OCTETS_MAX;
        let tail = &self.text[self.text.ceil_char_boundary(self.text.len() - tail_octets)..];
        let tail = &tail[tail.find('\n').map_or(tail.len(), |at| at + 1)..];
        // The remark of an earlier cut is at the end of the head or after it. It is dropped; the new remark includes
        // its count.
        let head = head.split_once(OMITTED).map_or(head, |(head, _)| whole_lines(head));
        self.omitted += self.text.len() - head.len() - tail.len();
        format!("{head}* {} octets{OMITTED}\n{tail}", self.omitted)
    }
}

/// The text up to its last line end.
fn whole_lines(text: &str) -> &str {
    &text[..text.rfind('\n').map_or(0, |at| at + 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_replies_are_marked() {
        let mut transcript = Transcript::default();
        transcript.remark("connected");
        transcript.sent("MAIL FROM:<>\r\nDATA\r\n");
        let status = Some("5.1.1".parse().unwrap());
        transcript.received(&Reply { code: 550, enhanced: status, lines: vec!["a".into(), "b".into()] });
        assert_eq!(
            transcript.into_text(),
            "* connected\n> MAIL FROM:<>\n> DATA\n< 550-5.1.1 a\n< 550 5.1.1 b\n"
        );
    }

    #[test]
    fn a_long_dialogue_keeps_its_start_and_its_end_and_counts_the_omitted_octets() {
        let mut transcript = Transcript::default();
        transcript.remark("first");
        let mut octets = "* first\n* last\n".len();
        for n in 0..9000 {
            let line = format!("RCPT TO:<é{n}@example.com>");
            octets += line.len() + 3;
            transcript.sent(&line);
        }
        transcript.remark("last");
        let text = transcript.into_text();
        assert!(text.len() <= OCTETS_MAX && text.len() > OCTETS_MAX - 256, "{}", text.len());
        assert!(text.starts_with("* first\n") && text.ends_with("* last\n"));
        assert_eq!(text.matches(OMITTED).count(), 1, "{text}");
        assert!(text.lines().all(|line| line.starts_with(['>', '*'])));
        let remark = text.lines().find(|line| line.ends_with(OMITTED)).unwrap();
        let omitted: usize = remark.split(' ').nth(1).unwrap().parse().unwrap();
        let kept = text.len() - remark.len() - 1;
        assert!(omitted.abs_diff(octets - kept) < 1024, "{omitted} of {octets}, {kept} kept");
    }

    #[test]
    fn the_transcript_masks_the_auth_exchange_of_every_mechanism() {
        let mut transcript = Transcript::default();
        let reply = |code, text: &str| Reply { code, enhanced: None, lines: vec![text.into()] };
        transcript.handshake_sent(Phase::Hello, "EHLO a.example");
        for line in [
            "AUTH PLAIN AHUAcA==",
            "AUTH LOGIN",
            "dXNlcg==",
            "AUTH SCRAM-SHA-256 biwsbj11c2Vy",
            "c=biws",
            "*",
        ] {
            transcript.handshake_sent(Phase::Auth, line);
        }
        transcript.handshake_received(Phase::Auth, &reply(334, "cj1ub25jZQ=="));
        transcript.handshake_received(Phase::Auth, &reply(535, "wrong"));
        assert_eq!(
            transcript.into_text(),
            "> EHLO a.example\n> AUTH PLAIN ****\n> AUTH LOGIN\n> ****\n> AUTH SCRAM-SHA-256 ****\n> ****\n> ****\n\
             < 334 ****\n< 535 wrong\n"
        );
    }
}
