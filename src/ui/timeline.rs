//! The life of a message, from the entries of its timeline: a picture, and a list that says the same in words. Pure.

mod list;
mod picture;

use serde::Deserialize;
use serde_json::Value;

use crate::mail::Timestamp;

pub use self::list::list;
pub use self::picture::picture;

/// An entry of `GET /v1/emails/{id}/timeline`.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "object", rename_all = "lowercase")]
pub enum Entry {
    /// Something that happened to the message.
    Event(Event),
    /// An attempt to deliver it to one recipient.
    Attempt(Box<Attempt>),
    /// A report of another server that changed nothing.
    Report(Report),
}

/// An event.
#[derive(Debug, Clone, Deserialize)]
pub struct Event {
    /// When it happened.
    pub at: Timestamp,
    /// Its type, like `message.bounced`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The delivery that it is about.
    pub delivery_id: Option<String>,
    /// The recipient that it is about.
    pub recipient: Option<String>,
    /// Its fields.
    pub data: Value,
}

/// An attempt.
#[derive(Debug, Clone, Deserialize)]
pub struct Attempt {
    /// When it began.
    pub at: Timestamp,
    /// The delivery.
    pub delivery_id: String,
    /// The recipient.
    pub recipient: Option<String>,
    /// The host that was tried.
    pub host: String,
    /// Its address.
    pub address: Option<String>,
    /// The address that the connection left from.
    #[serde(default)]
    pub source: Option<String>,
    /// TLS version and cipher suite.
    pub tls: Option<String>,
    /// The policy for TLS and its ground.
    pub tls_policy: Option<String>,
    /// The code of the reply.
    pub reply_code: Option<u16>,
    /// The enhanced code of the reply.
    pub enhanced_code: Option<String>,
    /// The text of the reply, or the local error.
    pub reply: String,
    /// The dialogue.
    pub transcript: String,
    /// How long it took.
    pub duration_ms: u64,
    /// The state of the delivery afterwards.
    pub outcome: String,
    /// The class of the failure.
    pub bounce_class: Option<String>,
    /// Why the next attempt is when it is.
    pub reason: String,
}

/// A report from which nothing followed.
#[derive(Debug, Clone, Deserialize)]
pub struct Report {
    /// Its id.
    pub id: String,
    /// When the first one came.
    pub at: Timestamp,
    /// The recipient.
    pub recipient: Option<String>,
    /// What it is.
    pub kind: String,
    /// Why nothing followed.
    pub effect: String,
}

/// A message and its deliveries, as far as its life shows them.
#[derive(Debug, Clone, Deserialize)]
pub struct Email {
    /// The key that sent it.
    pub key_id: Option<String>,
    /// Its size in octets.
    pub size: u64,
    /// The number of recipients.
    pub recipient_count: u64,
    /// The domain that signs it.
    pub dkim_domain: Option<String>,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When it is sent, if it is scheduled.
    pub send_at: Option<Timestamp>,
    /// Its deliveries.
    #[serde(default)]
    pub deliveries: Vec<Delivery>,
}

/// A delivery to one recipient.
#[derive(Debug, Clone, Deserialize)]
pub struct Delivery {
    /// Its id.
    pub id: String,
    /// The recipient.
    pub recipient: String,
    /// Its state.
    pub status: String,
    /// How often it was tried.
    pub attempts: u32,
    /// When it is tried again.
    pub next_attempt_at: Option<Timestamp>,
    /// The last reply.
    pub last_reply: Option<String>,
    /// The class of the last failure.
    pub bounce_class: Option<String>,
}

impl Delivery {
    /// Whether it still waits.
    pub fn is_open(&self) -> bool {
        matches!(self.status.as_str(), "queued" | "deferred")
    }
}

/// The attempts of a timeline.
fn attempts(entries: &[Entry]) -> impl Iterator<Item = &Attempt> {
    entries.iter().filter_map(|entry| match entry {
        Entry::Attempt(attempt) => Some(attempt.as_ref()),
        _ => None,
    })
}

#[cfg(test)]
mod tests_support {
    //! Entries and deliveries for the tests.

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    pub fn delivery(number: usize, status: &str, next: Option<&str>) -> Delivery {
        Delivery {
            id: format!("dlv_{number}"),
            recipient: format!("r{number}@example.org"),
            status: status.to_owned(),
            attempts: 1,
            next_attempt_at: next.map(at),
            last_reply: None,
            bounce_class: None,
        }
    }

    pub fn email(recipients: usize) -> Email {
        Email {
            key_id: None,
            size: 100,
            recipient_count: recipients as u64,
            dkim_domain: Some("acme.example".into()),
            created_at: at("2026-11-29T04:07:54Z"),
            send_at: None,
            deliveries: (0..recipients).map(|number| delivery(number, "delivered", None)).collect(),
        }
    }

    pub fn attempt(number: usize, time: &str, outcome: &str) -> Entry {
        Entry::Attempt(Box::new(Attempt {
            at: at(time),
            delivery_id: format!("dlv_{number}"),
            recipient: Some(format!("r{number}@example.org")),
            host: "mx.example.org".into(),
            address: None,
            source: None,
            tls: None,
            tls_policy: None,
            reply_code: Some(250),
            enhanced_code: None,
            reply: "ok".into(),
            transcript: String::new(),
            duration_ms: 10,
            outcome: outcome.to_owned(),
            bounce_class: None,
            reason: String::new(),
        }))
    }

    pub fn event(number: usize, kind: &str, data: Value) -> Entry {
        Entry::Event(Event {
            at: at("2026-11-29T04:07:56Z"),
            kind: kind.to_owned(),
            delivery_id: Some(format!("dlv_{number}")),
            recipient: None,
            data,
        })
    }
}
