use pillarbox::mail::{Timestamp, Token, TokenKind, TokenScope, TokenSubject, without_macs};
use ulid::Ulid;

use super::inbound::KEYS;

/// Digits of the secret part of a token.
const MAC_DIGITS: usize = 20;

/// A token has one spelling but for case, only the server can make it, and neither its Debug form nor a text that was masked shows
/// its secret part.
pub fn token(octets: &[u8]) {
    let Ok(text) = std::str::from_utf8(octets) else { return };
    for word in text.split([' ', '\r', '\n']) {
        let Some(token) = Token::parse(word) else { continue };
        let spelled = token.to_string();
        assert!(spelled.eq_ignore_ascii_case(word), "{spelled} {word}");
        assert_eq!(Token::parse(&spelled), Some(token));
        assert_eq!(Token::parse_bare(token.kind, &token.bare()), Some(token));
        let is_own = KEYS.issue(token.kind, token.subject) == Some(token);
        assert_eq!(KEYS.verify(&token, Timestamp::UNIX_EPOCH).is_ok(), is_own, "{spelled}");
        let open = &word[..word.len() - MAC_DIGITS];
        assert_eq!(without_macs(word), format!("{open}****"));
        let forged = Token::parse(&format!("{open}{}", "0".repeat(MAC_DIGITS))).expect("a token");
        assert_eq!(format!("{token:?}"), format!("{forged:?}"));
    }
    hide(text, octets.first().copied().unwrap_or_default());
}

/// Masks a token in the middle of a text.
fn hide(text: &str, choice: u8) {
    let subject = TokenSubject { scope: TokenScope::Delivery, id: Ulid::from(u128::from(choice) << 120 >> 3) };
    let token = KEYS.issue(TokenKind::ALL[usize::from(choice) % 3], subject).expect("a key").to_string();
    let token = if choice & 8 == 0 { token } else { token.to_ascii_uppercase() };
    let (before, after) = text.split_at(text.floor_char_boundary(text.len() / 2));
    let masked = without_macs(&format!("{before}{token}@{after}")).into_owned();
    assert!(masked.contains(&format!("{}****@", &token[..token.len() - MAC_DIGITS])), "{masked}");
}
