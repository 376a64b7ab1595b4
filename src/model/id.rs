//! Identifiers: a prefix for the kind of object and a ULID, so that ids sort by creation time.

use std::fmt;
use std::str::FromStr;

use ulid::Ulid;

use crate::mail::Timestamp;

/// The text is not an id of the expected kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id: expected {prefix} followed by 26 characters")]
pub struct IdError {
    prefix: &'static str,
}

fn generate_at(now: Timestamp) -> Ulid {
    // A ULID counts milliseconds since 1970 in 48 bits; an earlier time counts as 1970.
    let milliseconds = u64::try_from(now.as_millisecond()).unwrap_or(0);
    Ulid::from_parts(milliseconds, rand::random::<u128>())
}

fn time_of(ulid: Ulid) -> Timestamp {
    i64::try_from(ulid.timestamp_ms())
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .unwrap_or(Timestamp::MAX)
}

fn parse(text: &str, prefix: &'static str) -> Result<Ulid, IdError> {
    text.strip_prefix(prefix)
        .filter(|rest| rest.len() == ulid::ULID_LEN)
        .and_then(|rest| Ulid::from_string(rest).ok())
        .ok_or(IdError { prefix })
}

macro_rules! ids {
    ($($(#[doc = $doc:literal])* $name:ident = $prefix:literal;)*) => {$(
        $(#[doc = $doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Ulid);

        impl $name {
            /// The prefix of every id of this kind.
            pub const PREFIX: &'static str = $prefix;

            /// A new id that sorts after ids of earlier milliseconds.
            pub fn generate(now: Timestamp) -> Self {
                Self(generate_at(now))
            }

            /// The creation time, in whole milliseconds.
            pub fn created_at(self) -> Timestamp {
                time_of(self.0)
            }
        }

        impl From<Ulid> for $name {
            fn from(ulid: Ulid) -> Self {
                Self(ulid)
            }
        }

        impl From<$name> for Ulid {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}{}", $prefix, self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                parse(text, $prefix).map(Self)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "type": "string",
                    "description": concat!($($doc),*).trim(),
                    "pattern": concat!("^", $prefix, "[0-7][0-9A-HJKMNP-TV-Z]{25}$"),
                    "examples": [concat!($prefix, "01JD8XQZ2V7M5N9T3R6W4Y8KAB")],
                })
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

ids! {
    /// An entry of the audit log.
    AuditId = "aud_";
    /// A tenant of the platform.
    TenantId = "tnt_";
    /// A sending domain of one tenant.
    DomainId = "dom_";
    /// An API key or SMTP credential.
    KeyId = "key_";
    /// A DKIM key pair of a domain.
    DkimKeyId = "dkm_";
    /// An accepted message.
    MessageId = "msg_";
    /// The delivery of a message to one recipient.
    DeliveryId = "dlv_";
    /// One attempt of a delivery.
    AttemptId = "att_";
    /// An event in the journal.
    EventId = "evt_";
    /// A suppressed address.
    SuppressionId = "sup_";
    /// An address for trial mail.
    InboxId = "inb_";
    /// A message template.
    TemplateId = "tpl_";
    /// A webhook endpoint.
    WebhookId = "whk_";
    /// The delivery of an event to a webhook.
    WebhookDeliveryId = "whd_";
    /// An API request or a refused SMTP command.
    RequestId = "req_";
    /// A report that came back about a message.
    ReportId = "rpt_";
    /// The erasure of a recipient.
    ErasureId = "ers_";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_parses_as_its_own_kind_only() {
        let id = MessageId::generate(Timestamp::UNIX_EPOCH);
        assert_eq!(id.to_string().parse::<MessageId>(), Ok(id));
        assert!(id.to_string().parse::<TenantId>().is_err());
        assert!("msg_".parse::<MessageId>().is_err());
        assert!("msg_é0000000000000000000000000".parse::<MessageId>().is_err());
    }

    #[test]
    fn ids_sort_by_time() {
        let early = EventId::generate(Timestamp::from_second(1).unwrap());
        let late = EventId::generate(Timestamp::from_second(2).unwrap());
        assert!(early < late && early.to_string() < late.to_string());
        assert_eq!(late.created_at(), Timestamp::from_second(2).unwrap());
        assert_eq!(EventId::from(Ulid::from_parts(u64::MAX, 0)).created_at(), Timestamp::MAX);
    }
}
