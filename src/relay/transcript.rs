//! What was said in one try, for people to read later.

use crate::smtp::Reply;

/// Octets that are kept.
const OCTETS_MAX: usize = 4096;
/// Octets kept from the start if there is more; the end is kept too, where the decisive reply stands.
const HEAD_OCTETS: usize = 2560;
/// Octets of one line; a reply may have lines of 4 KiB.
const LINE_OCTETS_MAX: usize = 512;
/// Octets collected before the middle is cut out.
const COLLECTED_OCTETS_MAX: usize = 4 * OCTETS_MAX;

/// Commands (`>`), replies (`<`) and remarks (`*`), one line each.
#[derive(Debug, Default)]
pub struct Transcript {
    text: String,
}

impl Transcript {
    /// Lines of commands, as sent. Secrets must not be among them.
    pub fn sent(&mut self, lines: &str) {
        lines.lines().for_each(|line| self.push("> ", line));
    }

    /// A reply.
    pub fn received(&mut self, reply: &Reply) {
        let last = reply.lines.len().saturating_sub(1);
        for (index, line) in reply.lines.iter().enumerate() {
            let mark = if index == last { ' ' } else { '-' };
            let status = reply.enhanced.map(|status| format!("{status} ")).unwrap_or_default();
            self.push("< ", &format!("{}{mark}{status}{line}", reply.code));
        }
    }

    /// A remark of ours.
    pub fn remark(&mut self, text: &str) {
        self.push("* ", text);
    }

    fn push(&mut self, mark: &str, line: &str) {
        self.text.push_str(mark);
        self.text.push_str(&line[..line.floor_char_boundary(LINE_OCTETS_MAX)]);
        self.text.push('\n');
        if self.text.len() > COLLECTED_OCTETS_MAX {
            self.text = cut_middle(&self.text);
        }
    }

    /// The text, shortened.
    pub fn into_text(self) -> String {
        if self.text.len() > OCTETS_MAX { cut_middle(&self.text) } else { self.text }
    }
}

fn cut_middle(text: &str) -> String {
    const MARK: &str = "* …\n";
    let head = &text[..text.floor_char_boundary(HEAD_OCTETS)];
    let head = &head[..head.rfind('\n').map_or(0, |at| at + 1)];
    let tail = &text[text.ceil_char_boundary(text.len() - (OCTETS_MAX - HEAD_OCTETS - MARK.len()))..];
    let tail = &tail[tail.find('\n').map_or(tail.len(), |at| at + 1)..];
    let head = head.strip_suffix(MARK).unwrap_or(head);
    [head, MARK, tail].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_replies_are_told_apart() {
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
    fn a_long_dialogue_keeps_its_start_and_its_end() {
        let mut transcript = Transcript::default();
        transcript.remark("first");
        for n in 0..2000 {
            transcript.sent(&format!("RCPT TO:<é{n}@example.com>"));
        }
        transcript.remark("last");
        let text = transcript.into_text();
        assert!(text.len() <= OCTETS_MAX, "{}", text.len());
        assert!(text.starts_with("* first\n") && text.ends_with("* last\n"));
        assert_eq!(text.matches("* …").count(), 1, "{text}");
        assert!(text.lines().all(|line| line.starts_with(['>', '*'])));
    }
}
