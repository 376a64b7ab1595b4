//! The terms of the RFCs: addresses, domains, envelopes, header blocks, status codes and message content.
//!
//! Pure values: no I/O, no clock, no imports from other modules.

mod address;
mod address_text;
mod content;
mod domain;
mod entity;
mod envelope;
mod field_writer;
mod header;
mod mailbox_list;
mod mime;
mod status;
mod timestamp;
mod tlsa;
mod token;
mod xtext;

pub use address::{Address, AddressError, Host, LocalPart, fold_address};
pub use address_text::replace_addresses;
pub use content::Content;
pub use domain::{DomainError, DomainName};
pub use entity::{body_start, line_end, parts_of, trim_line_end};
pub use envelope::{
    BodyType, Envelope, MailParameters, Notify, ParameterError, RcptParameters, Recipient, ReturnContent,
    ReversePath,
};
pub use field_writer::{folded_field, write_angle_address, write_display_name};
pub use header::{Field, HeaderBlock, HeaderError, is_message_id};
pub use jiff::SignedDuration;
pub use jiff::civil::Date;
pub use mailbox_list::{MailboxListError, UnquotedName, parse_mailbox_list, quote_display_name};
pub use status::EnhancedStatus;
pub use timestamp::{Timestamp, TimestampError};
pub use tlsa::Tlsa;
pub use token::{
    TOKEN_KEY_OCTETS, Token, TokenError, TokenKey, TokenKeys, TokenKind, TokenScope, TokenSubject,
    without_macs,
};
pub use xtext::{EnvelopeId, OriginalRecipient, XtextError, decode_xtext};
