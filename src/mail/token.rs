//! Local parts that only this server can make: the address that a report about one delivery or message comes to.
//!
//! `bounce+d1`, 26 digits, 20 digits: kind, scope, generation of the key, id, and a MAC of 100 bits over all of these.
//! Digits are Crockford's base32, written in lower case and read in either case. Nothing else is forgiven, so an address
//! has one spelling. The caller decides how old an id may be.

use std::borrow::Cow;
use std::fmt;

use aws_lc_rs::hmac;
use subtle::ConstantTimeEq;
use ulid::Ulid;

use super::Timestamp;

const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const DIGIT_BITS: u32 = 5;
const ID_DIGITS: usize = 26;
const MAC_DIGITS: usize = 20;
const MAC_BITS: u32 = 100;
/// Digits of a token without its kind: scope, generation, id, MAC.
const BARE_DIGITS: usize = 2 + ID_DIGITS + MAC_DIGITS;
/// Stands for a MAC.
const MASK: &str = "****";
/// Octets of a key.
pub const TOKEN_KEY_OCTETS: usize = 32;

/// What may be sent to the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// Delivery status notifications and complaints: the reverse path of a transaction.
    Bounce,
    /// Complaints only: it stands in the header of messages, which recipients forward and archive.
    Feedback,
    /// A wish to unsubscribe.
    Unsubscribe,
}

/// What the id of a token identifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenScope {
    /// A delivery: a report can only be about its recipient.
    Delivery,
    /// A message: which of its recipients a report is about is not proved.
    Message,
    /// A domain, in a probe of our own verification.
    Probe,
}

/// What a token identifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenSubject {
    /// The kind of the id.
    pub scope: TokenScope,
    /// The id without its prefix.
    pub id: Ulid,
}

/// A token that may be forged: [`TokenKeys::verify`] proves it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token {
    /// What may be sent to it.
    pub kind: TokenKind,
    /// What it identifies.
    pub subject: TokenSubject,
    generation: u8,
    mac: u128,
}

/// Why a token proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The MAC is wrong.
    #[error("this server did not make the address")]
    Forged,
    /// The key of its generation is not accepted.
    #[error("the key of the address is no longer accepted")]
    Refused,
}

/// A key and the time from which it makes tokens.
pub struct TokenKey {
    generation: u8,
    since: Timestamp,
    refused_at: Option<Timestamp>,
    key: hmac::Key,
}

/// The keys of the accepted generations.
pub struct TokenKeys {
    /// The newest last; at least one.
    keys: Vec<TokenKey>,
}

impl TokenKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Bounce, Self::Feedback, Self::Unsubscribe];

    /// The text before the `+`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bounce => "bounce",
            Self::Feedback => "fbl",
            Self::Unsubscribe => "unsub",
        }
    }
}

impl TokenScope {
    const ALL: [Self; 3] = [Self::Delivery, Self::Message, Self::Probe];

    const fn letter(self) -> u8 {
        match self {
            Self::Delivery => b'd',
            Self::Message => b'm',
            Self::Probe => b'p',
        }
    }
}

impl Token {
    /// Reads the local part of an address.
    pub fn parse(local: &str) -> Option<Self> {
        let (kind, bare) = local.split_once('+')?;
        let kind = TokenKind::ALL.into_iter().find(|known| known.as_str().eq_ignore_ascii_case(kind))?;
        Self::parse_bare(kind, bare)
    }

    /// Reads a token without its kind, as in the field CFBL-Feedback-ID.
    pub fn parse_bare(kind: TokenKind, text: &str) -> Option<Self> {
        let octets = text.as_bytes();
        let (&scope, rest) = octets.split_first()?;
        let (generation, rest) = rest.split_at_checked(1)?;
        let (id, mac) = rest.split_at_checked(ID_DIGITS)?;
        let scope = TokenScope::ALL.into_iter().find(|known| known.letter() == scope.to_ascii_lowercase())?;
        // 26 digits have 130 bits, an id 128.
        if mac.len() != MAC_DIGITS || value_of(*id.first()?)? > 7 {
            return None;
        }
        let generation = u8::try_from(decode(generation)?).ok()?;
        let subject = TokenSubject { scope, id: Ulid::from(decode(id)?) };
        Some(Self { kind, subject, generation, mac: decode(mac)? })
    }

    /// The text without the kind.
    pub fn bare(&self) -> String {
        let mut text = signed_text(self.subject, self.generation);
        encode(self.mac, MAC_DIGITS, &mut text);
        text
    }
}

/// The text with the MAC of each token masked. Other servers quote our addresses, and a reader of their replies must not be
/// able to send reports.
pub fn without_macs(text: &str) -> Cow<'_, str> {
    let octets = text.as_bytes();
    let (mut masked, mut copied, mut start) = (String::new(), 0, 0);
    while start < octets.len() {
        let word = octets[start..].iter().take_while(|octet| octet.is_ascii_alphanumeric()).count();
        let end = start + word;
        // The word may begin before the token, as in `=2B` of an encoded address.
        if word >= BARE_DIGITS
            && Token::parse_bare(TokenKind::Bounce, &text[end - BARE_DIGITS..end]).is_some()
        {
            masked.push_str(&text[copied..end - MAC_DIGITS]);
            masked.push_str(MASK);
            copied = end;
        }
        start = end + 1;
    }
    if copied == 0 {
        return text.into();
    }
    masked.push_str(&text[copied..]);
    masked.into()
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.kind.as_str(), self.bare())
    }
}

impl fmt::Debug for Token {
    /// Leaves out the MAC, which is the secret part: with it, anybody can send reports.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("kind", &self.kind)
            .field("subject", &self.subject)
            .finish_non_exhaustive()
    }
}

impl TokenKey {
    /// The key of a generation, of which the last five bits stand in its tokens.
    pub fn new(generation: u32, since: Timestamp, key: &[u8; TOKEN_KEY_OCTETS]) -> Self {
        let generation = (generation % 32) as u8;
        Self { generation, since, refused_at: None, key: hmac::Key::new(hmac::HMAC_SHA256, key) }
    }

    /// The key, whose tokens are refused from this time on.
    #[must_use]
    pub fn refused_at(self, time: Option<Timestamp>) -> Self {
        Self { refused_at: time, ..self }
    }
}

impl TokenKeys {
    /// The accepted generations, the newest last. No two may have the same last five bits.
    pub fn new(keys: Vec<TokenKey>) -> Self {
        Self { keys }
    }

    /// The token of a subject. It is made with the key that was the newest when the id was made, so that a retry after a
    /// rotation has the same one: greylisting compares senders. `None` without a key.
    pub fn issue(&self, kind: TokenKind, subject: TokenSubject) -> Option<Token> {
        let made_ms = i64::try_from(subject.id.timestamp_ms()).unwrap_or(i64::MAX);
        let was_newest = self.keys.iter().rev().find(|key| key.since.as_millisecond() <= made_ms);
        let key = was_newest.or(self.keys.first())?;
        let mac = mac_of(&key.key, kind, subject, key.generation);
        Some(Token { kind, subject, generation: key.generation, mac })
    }

    /// Whether this server made the token. Compares in constant time.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn verify(&self, token: &Token, now: Timestamp) -> Result<(), TokenError> {
        let is_accepted = |key: &&TokenKey| {
            key.generation == token.generation && key.refused_at.is_none_or(|refused_at| now < refused_at)
        };
        let known = self.keys.iter().find(is_accepted);
        let key = known.ok_or(TokenError::Refused)?;
        let mac = mac_of(&key.key, token.kind, token.subject, token.generation);
        let is_right: bool = mac.to_be_bytes().ct_eq(&token.mac.to_be_bytes()).into();
        if is_right { Ok(()) } else { Err(TokenError::Forged) }
    }
}

impl fmt::Debug for TokenKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| key.generation)).finish()
    }
}

/// Scope, generation and id, as in the address.
fn signed_text(subject: TokenSubject, generation: u8) -> String {
    let mut text = String::with_capacity(2 + ID_DIGITS + MAC_DIGITS);
    text.push(char::from(subject.scope.letter()));
    encode(generation.into(), 1, &mut text);
    encode(u128::from(subject.id), ID_DIGITS, &mut text);
    text
}

fn mac_of(key: &hmac::Key, kind: TokenKind, subject: TokenSubject, generation: u8) -> u128 {
    let text = format!("pillarbox.report.1|{}|{}", kind.as_str(), signed_text(subject, generation));
    let tag = hmac::sign(key, text.as_bytes());
    let first = tag.as_ref().iter().take(16).fold(0u128, |bits, octet| (bits << 8) | u128::from(*octet));
    first >> (128 - MAC_BITS)
}

fn encode(number: u128, digits: usize, text: &mut String) {
    for place in (0..digits as u32).rev() {
        let digit = (number >> (place * DIGIT_BITS)) & 31;
        text.push(char::from(DIGITS[digit as usize]));
    }
}

fn decode(digits: &[u8]) -> Option<u128> {
    digits
        .iter()
        .try_fold(0u128, |number, digit| Some((number << DIGIT_BITS) | u128::from(value_of(*digit)?)))
}

fn value_of(digit: u8) -> Option<u8> {
    let lower = digit.to_ascii_lowercase();
    DIGITS.iter().position(|known| *known == lower).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::SignedDuration;

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn keys(generations: &[(u32, i64)]) -> TokenKeys {
        let key = |&(generation, since): &(u32, i64)| {
            TokenKey::new(generation, Timestamp::from_second(since).unwrap(), &[generation as u8; 32])
        };
        TokenKeys::new(generations.iter().map(key).collect())
    }

    fn subject(second: u64, rest: u128) -> TokenSubject {
        TokenSubject { scope: TokenScope::Delivery, id: Ulid::from_parts(second * 1000, rest) }
    }

    #[test]
    fn a_token_is_read_in_either_case_and_fits_a_local_part() {
        let keys = keys(&[(1, 0)]);
        for kind in TokenKind::ALL {
            let token = keys.issue(kind, subject(1_800_000_000, u128::MAX)).unwrap();
            let text = token.to_string();
            assert!(text.len() <= 55, "{text}");
            for written in [text.clone(), text.to_ascii_uppercase()] {
                assert_eq!(Token::parse(&written), Some(token), "{written}");
            }
            assert_eq!(Token::parse_bare(kind, &token.bare()), Some(token));
            assert_eq!(keys.verify(&token, now()), Ok(()));
        }
    }

    #[test]
    fn no_changed_digit_and_no_look_alike_is_accepted() {
        let keys = keys(&[(1, 0)]);
        let text = keys.issue(TokenKind::Bounce, subject(1_800_000_000, 7)).unwrap().to_string();
        for at in 0..text.len() {
            for other in (0x21..0x7f).map(char::from) {
                if text[at..].starts_with(other.to_ascii_lowercase()) {
                    continue;
                }
                let changed = format!("{}{other}{}", &text[..at], &text[at + 1..]);
                let accepted = Token::parse(&changed).is_some_and(|token| keys.verify(&token, now()).is_ok());
                assert!(!accepted, "{changed}");
            }
        }
        let other_kind = text.replacen("bounce", "fbl", 1);
        assert_eq!(keys.verify(&Token::parse(&other_kind).unwrap(), now()), Err(TokenError::Forged));
        for wrong in ["", "bounce", "bounce+", "bounce+d1", &format!("{text}0"), &text[1..]] {
            assert_eq!(Token::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_rotation_changes_new_tokens_only_and_a_refused_generation_proves_nothing() {
        let (before, after) = (subject(99, 1), subject(101, 1));
        let (old, both) = (keys(&[(1, 0)]), keys(&[(1, 0), (2, 100)]));
        let issue = |keys: &TokenKeys, subject| keys.issue(TokenKind::Bounce, subject).unwrap();
        assert_eq!(issue(&old, before), issue(&both, before));
        assert_ne!(issue(&old, after), issue(&both, after));
        let only_new = keys(&[(2, 100)]);
        assert_eq!(only_new.verify(&issue(&old, before), now()), Err(TokenError::Refused));
        assert_eq!(only_new.verify(&issue(&only_new, before), now()), Ok(()));
        let ends = |at| TokenKeys::new(vec![TokenKey::new(1, now(), &[1; 32]).refused_at(Some(at))]);
        let (second, token) = (SignedDuration::from_secs(1), issue(&old, before));
        assert_eq!(ends(now() + second).verify(&token, now()), Ok(()));
        assert_eq!(ends(now()).verify(&token, now()), Err(TokenError::Refused));
    }

    /// A small random number generator, so that a failure can be repeated.
    struct Chance(u64);

    impl Chance {
        fn below(&mut self, limit: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 % limit as u64) as usize
        }

        /// Changes one to four digits, or exchanges, removes, adds or moves some.
        fn mutate(&mut self, text: &str) -> String {
            let mut octets = text.as_bytes().to_vec();
            for _ in 0..=self.below(4) {
                let (at, other) = (self.below(octets.len()), self.below(octets.len()));
                match self.below(16) {
                    0 => octets.swap(at, other),
                    1 => drop(octets.remove(at)),
                    2 => octets.insert(at, DIGITS[self.below(DIGITS.len())]),
                    3 => octets.rotate_left(at),
                    4 => octets[at] = 0x21 + self.below(0x5e) as u8,
                    _ => octets[at] = DIGITS[self.below(DIGITS.len())],
                }
            }
            String::from_utf8(octets).unwrap()
        }
    }

    /// A million of them in a release build.
    #[test]
    fn no_random_mutation_of_a_token_proves_anything() {
        let mutations = if cfg!(debug_assertions) { 50_000 } else { 1_000_000 };
        let keys = keys(&[(1, 0), (2, 1_700_000_000), (33, 1_800_000_000)]);
        let mut chance = Chance(0x9E37_79B9_7F4A_7C15);
        let (mut tried, mut well_formed) = (0, 0);
        while tried < mutations {
            let kind = TokenKind::ALL[chance.below(TokenKind::ALL.len())];
            let seconds = 1_600_000_000 + chance.below(400_000_000) as u64;
            let token = keys.issue(kind, subject(seconds, chance.below(usize::MAX) as u128)).unwrap();
            let text = token.to_string();
            for _ in 0..100 {
                let mutated = chance.mutate(&text);
                if mutated.eq_ignore_ascii_case(&text) {
                    continue;
                }
                tried += 1;
                if let Some(mutated) = Token::parse(&mutated) {
                    well_formed += 1;
                    assert!(keys.verify(&mutated, now()).is_err(), "{mutated} of {text}");
                }
            }
        }
        assert!(well_formed > mutations / 3, "only {well_formed} of {tried} had the form of a token");
    }

    #[test]
    fn the_mac_is_masked_in_every_form_in_which_servers_quote_an_address() {
        let keys = keys(&[(1, 1_600_000_000)]);
        let token = keys.issue(TokenKind::Bounce, subject(1_700_000_000, 7)).unwrap();
        let (bare, known) = (token.bare(), &token.bare()[..BARE_DIGITS - MAC_DIGITS]);
        for (before, after) in [
            ("550 5.1.8 <bounce+", "@bounces.acme.com>: Sender address rejected: é"),
            ("é fbl=2B", ""),
            ("", " unsubscribes"),
        ] {
            for written in [bare.clone(), bare.to_uppercase()] {
                let masked = without_macs(&format!("{before}{written}{after}")).to_string();
                assert!(masked.eq_ignore_ascii_case(&format!("{before}{known}****{after}")), "{masked}");
            }
        }
        let twice = without_macs(&format!("{bare} {bare}")).to_string();
        assert_eq!(twice, format!("{known}**** {known}****"));
        for text in ["", "é", "250 2.0.0 ok", &bare[1..], "bounce+d1"] {
            assert!(matches!(without_macs(text), Cow::Borrowed(same) if same == text), "{text}");
        }
    }
}
