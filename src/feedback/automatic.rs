//! What marks automatic replies, receipts and challenges, which change nothing.

use super::fields::Fields;

/// How sure it is that a message is an automatic reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// Only replies of people's programs have it.
    Reply(&'static str),
    /// Failures told in prose have it too.
    Automatic(&'static str),
}

/// A wish to unsubscribe by mail has it.
pub(super) const APPLE_UNSUBSCRIBE: &str = "X-Apple-Unsubscribe";

/// Fields that programs add to automatic replies.
const REPLY_FIELDS: [(&str, &str); 9] = [
    ("X-Autoreply", "x-autoreply"),
    ("X-Autorespond", "x-autorespond"),
    ("X-Autoresponder", "x-autorespond"),
    ("X-Autoreply-From", "x-autoreply"),
    ("X-Auto-Reply", "x-autoreply"),
    ("X-Mail-Autoreply", "x-autoreply"),
    ("X-Vacation", "vacation"),
    ("X-TMDA-Fingerprint", "challenge"),
    ("X-Boxtrapper", "challenge"),
];

/// Beginnings of subjects, in lower case.
const REPLY_SUBJECTS: &[&str] = &[
    "abwesenheit",
    "automatische antwort",
    "automatic reply",
    "automaattinen vastaus",
    "automatisch antwoord",
    "automatiskt svar",
    "auto reply",
    "auto-reply",
    "auto response",
    "auto-response",
    "autoreply",
    "autoresponse",
    "autosvar",
    "away from my mail",
    "out of office",
    "out of the office",
    "on vacation",
    "vacation:",
    "i am away",
    "réponse automatique",
    "absence du bureau",
    "absent du bureau",
    "respuesta automática",
    "fuera de la oficina",
    "fuera de oficina",
    "resposta automática",
    "risposta automatica",
    "fuori ufficio",
    "afwezig",
    "automatická odpověď",
    "odpowiedź automatyczna",
    "автоматический ответ",
    "автоответ",
    "自動返信",
    "自動応答",
    "不在通知",
    "自动回复",
    "자동 회신",
];

/// Words in the subject of a challenge, in lower case.
const CHALLENGE_SUBJECTS: &[&str] = &[
    "please confirm your message",
    "confirm your email to",
    "requires verification",
    "spam arrest",
    "boxtrapper",
    "choicemail",
    "verify your email address to",
    "challenge/response",
];

/// What marks the header. `subject` is decoded.
pub(super) fn mark_of(header: &Fields<'_>, subject: &str) -> Option<Mark> {
    // Apple Mail marks what a person's press of a button sends.
    if header.has(APPLE_UNSUBSCRIBE) {
        return None;
    }
    let field = REPLY_FIELDS.iter().find(|(name, _)| header.has(name)).map(|(_, rule)| *rule);
    let precedence = header.all("Precedence").any(|value| value.eq_ignore_ascii_case("auto_reply"));
    let subject = subject.to_lowercase();
    let begins = REPLY_SUBJECTS.iter().any(|words| subject.starts_with(words));
    let is_challenge = CHALLENGE_SUBJECTS.iter().any(|words| subject.contains(words));
    let reply = field
        .or(precedence.then_some("precedence"))
        .or(begins.then_some("subject"))
        .or(is_challenge.then_some("challenge"));
    // RFC 3834 §5: the first word of the field; `no` is a person.
    let automatic = || {
        let submitted = header.get("Auto-Submitted")?.to_ascii_lowercase();
        let word = submitted.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).next()?;
        (!word.is_empty() && word != "no").then_some("auto-submitted")
    };
    // X-Auto-Response-Suppress is no mark: it asks for no automatic reply, and mail of people has it too.
    reply.map(Mark::Reply).or_else(|| automatic().map(Mark::Automatic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_words_of_a_subject_can_decide() {
        let is_among = |words: &str, list: &[&str], has: fn(&str, &str) -> bool| {
            list.iter().any(|other| *other != words && has(words, other))
        };
        for words in REPLY_SUBJECTS {
            assert!(!is_among(words, REPLY_SUBJECTS, |words, other| words.starts_with(other)), "{words}");
        }
        for words in CHALLENGE_SUBJECTS {
            assert!(!is_among(words, CHALLENGE_SUBJECTS, |words, other| words.contains(other)), "{words}");
        }
    }

    #[test]
    fn each_mark_counts_and_people_have_none() {
        for (header, subject, mark) in [
            ("Auto-Submitted: auto-replied; x=y", "Re: hi", Some(Mark::Automatic("auto-submitted"))),
            ("Auto-Submitted: no", "hi", None),
            ("Auto-Submitted:", "hi", None),
            ("X-Autoreply: yes", "hi", Some(Mark::Reply("x-autoreply"))),
            ("Precedence: Auto_Reply", "hi", Some(Mark::Reply("precedence"))),
            ("Precedence: bulk", "hi", None),
            ("X-Auto-Response-Suppress: All", "hi", None),
            ("A: b", "Out of Office: hi", Some(Mark::Reply("subject"))),
            ("A: b", "R\u{c9}PONSE automatique\u{a0}: hi", Some(Mark::Reply("subject"))),
            ("A: b", "Please confirm your message", Some(Mark::Reply("challenge"))),
            ("A: b", "Re: your offer", None),
            ("Auto-Submitted: auto-replied\r\nX-Apple-Unsubscribe: true", "unsubscribe", None),
        ] {
            assert_eq!(mark_of(&Fields::of_header(header.as_bytes()), subject), mark, "{header} {subject}");
        }
    }
}
