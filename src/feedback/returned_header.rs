//! What identifies our message in the header of a returned message.

use crate::mail::{Token, TokenKind};
use crate::model::MessageId;

use super::ReturnedHeader;
use super::fields::Fields;
use super::mime_parts::Message;
use super::prose::returned_message;

/// Tokens and ids that are kept.
const FOUND_MAX: usize = 8;

impl ReturnedHeader {
    /// Adds what the header of the returned message says: a part, or in a text.
    pub(super) fn add_from(&mut self, message: &Message<'_>) {
        if let Some(part) = message.returned_part() {
            self.add(&Fields::of_header(&part.content()));
            return;
        }
        let found = message.parts.iter().find_map(|part| {
            let content = part.content();
            returned_message(&content).map(|returned| content[returned.header..].to_vec())
        });
        if let Some(header) = found {
            self.add(&Fields::of_header(&header));
        }
    }

    /// Adds what a header says.
    pub(super) fn add(&mut self, header: &Fields<'_>) {
        for value in header.all("CFBL-Feedback-ID") {
            self.add_token(Token::parse_bare(TokenKind::Feedback, value.trim()));
        }
        for name in ["CFBL-Address", "Return-Path"] {
            header.all(name).for_each(|value| self.add_address(&value));
        }
        for value in header.all("Received") {
            self.add_ids(&value);
        }
        if self.header_message_id.is_none() {
            let value = header.get("Message-ID");
            self.header_message_id = value.and_then(|value| without_brackets(&value).map(str::to_owned));
        }
    }

    /// Adds the token of an address that may have angle brackets and parameters.
    pub(super) fn add_address(&mut self, value: &str) {
        let address = value.split(';').next().unwrap_or_default().trim().trim_matches(['<', '>']);
        let local = address.split_once('@').map(|(local, _)| local);
        self.add_token(local.and_then(Token::parse));
    }

    fn add_token(&mut self, token: Option<Token>) {
        let Some(token) = token else { return };
        if self.tokens.len() < FOUND_MAX && !self.tokens.contains(&token) {
            self.tokens.push(token);
        }
    }

    fn add_ids(&mut self, received: &str) {
        let words = received.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        for id in words.filter_map(|word| word.parse::<MessageId>().ok()) {
            if self.message_ids.len() < FOUND_MAX && !self.message_ids.contains(&id) {
                self.message_ids.push(id);
            }
        }
    }
}

fn without_brackets(value: &str) -> Option<&str> {
    let value = value.trim();
    let inner =
        value.strip_prefix('<').and_then(|rest| rest.split_once('>')).map_or(value, |(inner, _)| inner);
    (!inner.is_empty()).then_some(inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::{Timestamp, TokenKey, TokenKeys, TokenScope, TokenSubject};

    #[test]
    fn tokens_ids_and_the_message_id_are_found() {
        let keys = TokenKeys::new(vec![TokenKey::new(1, Timestamp::UNIX_EPOCH, &[7; 32])]);
        let subject = TokenSubject { scope: TokenScope::Delivery, id: ulid::Ulid::from_parts(1, 1) };
        let feedback = keys.issue(TokenKind::Feedback, subject).unwrap();
        let bounce = keys.issue(TokenKind::Bounce, subject).unwrap();
        let id = MessageId::from(ulid::Ulid::from_parts(1, 2));
        let header = format!(
            "Return-Path: <{bounce}@bounces.acme.example>\r\nCFBL-Address: {feedback}@bounces.acme.example; report=arf\r\n\
            CFBL-Feedback-ID: {}\r\nReceived: by mx.example with ESMTPSA\r\n (TLSv1.3 X)\r\n id {id};\r\n now\r\n\
            Message-ID: <x@acme.example>\r\n",
            feedback.bare().to_ascii_uppercase()
        );
        let mut returned = ReturnedHeader::default();
        returned.add(&Fields::of_header(header.as_bytes()));
        assert_eq!(returned.tokens, [feedback, bounce]);
        assert_eq!(returned.message_ids, [id]);
        assert_eq!(returned.header_message_id.as_deref(), Some("x@acme.example"));
        let mut nothing = ReturnedHeader::default();
        nothing.add(&Fields::of_header(b"Return-Path: <a@b.c>\r\nCFBL-Feedback-ID: 1\r\nReceived: by x\r\n"));
        assert_eq!(nothing, ReturnedHeader::default());
    }
}
