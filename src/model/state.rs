//! The small closed vocabularies of the product: states, kinds, scopes. Each has one text form,
//! which is the same in SQL, in JSON and in logs.

use std::fmt;
use std::str::FromStr;

/// The text names no member of the vocabulary.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what}: expected one of {expected}")]
pub struct UnknownName {
    what: &'static str,
    expected: String,
}

macro_rules! vocabulary {
    ($($(#[doc = $doc:literal])* $name:ident($what:literal $(, default $default:ident)?) { $($(#[doc = $vdoc:literal])* $variant:ident = $text:literal,)* })*) => {$(
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[doc = $vdoc])* $variant,)*
        }

        impl $name {
            /// Every member.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The text form.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }

        $(impl Default for $name {
            fn default() -> Self {
                Self::$default
            }
        })?

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = UnknownName;
            fn from_str(text: &str) -> Result<Self, UnknownName> {
                match text {
                    $($text => Ok(Self::$variant),)*
                    _ => Err(UnknownName { what: $what, expected: [$($text),*].join(", ") }),
                }
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(self.as_str())
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let members = [$(concat!("`", $text, "`:", $($vdoc),*)),*];
                schemars::json_schema!({
                    "type": "string",
                    "description": format!("{} {}", concat!($($doc),*).trim(), members.join(" ")),
                    "enum": [$($text),*],
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

vocabulary! {
    /// Whether mail of a key leaves the machine.
    Environment("environment") {
        /// Mail is relayed.
        Live = "live",
        /// Mail goes to the sandbox.
        Test = "test",
    }

    /// What a key may do.
    Scope("scope") {
        /// Submit over SMTP.
        SmtpSend = "smtp:send",
        /// Submit over HTTP.
        EmailsSend = "emails:send",
        /// Read messages.
        EmailsRead = "emails:read",
        /// Manage domains.
        DomainsManage = "domains:manage",
        /// Manage keys.
        KeysManage = "keys:manage",
        /// Manage webhooks.
        WebhooksManage = "webhooks:manage",
        /// Manage suppressions.
        SuppressionsManage = "suppressions:manage",
        /// Manage templates.
        TemplatesManage = "templates:manage",
        /// Read usage.
        UsageRead = "usage:read",
        /// Read and change the tenant itself.
        TenantManage = "tenant:manage",
    }

    /// Whether a tenant may send.
    TenantStatus("tenant status") {
        /// It may.
        Active = "active",
        /// Its keys are refused and its queued mail is held.
        Suspended = "suspended",
    }

    /// How far the proof of a domain is.
    DomainStatus("domain status") {
        /// Claimed, not yet proved.
        Pending = "pending",
        /// Proved; senders may use it.
        Verified = "verified",
        /// Was proved; its records have been wrong for 72 hours.
        Failing = "failing",
        /// Another tenant proved it first.
        Taken = "taken",
    }

    /// How a domain is proved.
    Verification("verification") {
        /// By DNS records.
        Dns = "dns",
        /// The platform vouches for it.
        Manual = "manual",
    }

    /// The signature algorithm of a DKIM key.
    DkimAlgorithm("DKIM algorithm") {
        /// RSA with SHA-256 (RFC 6376).
        Rsa = "rsa-sha256",
        /// Ed25519 with SHA-256 (RFC 8463).
        Ed25519 = "ed25519-sha256",
    }

    /// Which of our DKIM signatures go over a route.
    DkimPolicy("DKIM policy") {
        /// All of them.
        Dual = "dual",
        /// Those by RSA: for receivers that make mistakes over a second one.
        Rsa = "rsa",
        /// None: the smart host signs.
        None = "none",
    }

    /// Whether a DKIM key signs.
    DkimKeyState("DKIM key state") {
        /// Its record has not been seen yet.
        Pending = "pending",
        /// It signs.
        Active = "active",
        /// Replaced; its record must stay while queued mail may carry its signature.
        Retiring = "retiring",
    }

    /// Why an address is suppressed.
    SuppressionReason("suppression reason") {
        /// A receiver said that the address does not exist.
        Bounce = "bounce",
        /// The recipient complained.
        Complaint = "complaint",
        /// The recipient unsubscribed.
        Unsubscribe = "unsubscribe",
        /// Someone entered it.
        Manual = "manual",
    }

    /// How far one recipient's mail is.
    DeliveryState("delivery state") {
        /// Waiting for its first attempt.
        Queued = "queued",
        /// Tried, and to be tried again.
        Deferred = "deferred",
        /// A receiver took it.
        Delivered = "delivered",
        /// Refused for good.
        Bounced = "bounced",
        /// Not delivered within its lifetime.
        Expired = "expired",
        /// Taken back by the tenant.
        Cancelled = "cancelled",
    }

    /// Why mail in the queue waits.
    WaitReason("reason to wait") {
        /// Due, and waits for its turn.
        Due = "due",
        /// Being delivered now.
        InFlight = "in_flight",
        /// Tried, and to be tried again.
        Deferred = "deferred",
        /// The sender wants it to leave later.
        Scheduled = "scheduled",
        /// The platform paused it.
        Paused = "paused",
        /// The platform suspended its tenant.
        TenantSuspended = "tenant_suspended",
        /// The receiving site asked for a rest.
        SiteBackoff = "site_backoff",
        /// The receiving site has as many connections or messages as it gets.
        SiteThrottled = "site_throttled",
        /// A smart host refuses the tenant's account.
        SmartHostAuthFailed = "smart_host_auth_failed",
    }

    /// How a connection to a smart host is secured.
    TlsMode("TLS mode") {
        /// TLS from the first octet, certificate checked.
        Implicit = "implicit",
        /// STARTTLS required, certificate checked.
        Starttls = "starttls",
        /// STARTTLS if offered, certificate not checked. Never with a password.
        Opportunistic = "opportunistic",
        /// No TLS. Never with a password, except to a loopback address.
        None = "none",
    }

    /// The least that connections to a destination must have; each includes those before it.
    TlsMinimum("TLS minimum") {
        /// Nothing: TLS if it is offered, certificate not checked.
        Opportunistic = "opportunistic",
        /// TLS with anybody.
        Encrypted = "encrypted",
        /// TLS with a certificate for the host's name, or one that DANE vouches for.
        Verified = "verified",
        /// TLS with a certificate that DANE vouches for.
        Dane = "dane",
    }

    /// Where a submission was refused.
    Stage("stage") {
        /// At MAIL.
        Mail = "mail",
        /// At RCPT.
        Rcpt = "rcpt",
        /// At the end of the data.
        Data = "data",
        /// In a request of the API.
        Api = "api",
    }

    /// The steps in which usage is counted, in UTC.
    UsageInterval("interval") {
        /// From the full hour.
        Hour = "hour",
        /// From midnight.
        Day = "day",
    }

    /// A time for which a limit holds; it begins for everybody at once, in UTC.
    LimitPeriod("period of a limit") {
        /// From the full minute.
        Minute = "minute",
        /// From midnight.
        Day = "day",
    }

    /// Whether a webhook is told of events.
    WebhookStatus("webhook status") {
        /// It is.
        Enabled = "enabled",
        /// It is not, until somebody enables it again.
        Disabled = "disabled",
    }

    /// Why a webhook is not told of events.
    DisabledReason("reason of a disabled webhook") {
        /// Somebody disabled it.
        Manual = "manual",
        /// It answered 410.
        Gone = "gone",
        /// It failed for days.
        Failing = "failing",
        /// It took events more slowly than they came, until too many waited.
        BacklogFull = "backlog_full",
    }

    /// How far the telling of an event is.
    WebhookDeliveryState("webhook delivery state") {
        /// To be tried, or tried again.
        Pending = "pending",
        /// The endpoint took it.
        Delivered = "delivered",
        /// Given up.
        Failed = "failed",
    }

    /// How a tenant hears what became of its mail, beside the events of the journal.
    DeliveryReports("way of reporting", default Mail) {
        /// Reports go to the reverse path, as RFC 3461 has it.
        Mail = "mail",
        /// Nothing but the events.
        Event = "event",
    }

    /// Why a try did not deliver, as far as what was said tells.
    BounceClass("outcome class") {
        /// There is no such mailbox, or its domain takes no mail.
        RecipientUnknown = "recipient_unknown",
        /// There was such a mailbox; it is closed.
        RecipientInactive = "recipient_inactive",
        /// The mailbox has no room.
        MailboxFull = "mailbox_full",
        /// A rule of the receiver's: relaying, proof of the sender, who may write to whom.
        Policy = "policy",
        /// What the receiver thinks of our address or of the sender's domain.
        Reputation = "reputation",
        /// The message itself: spam, a virus, its size, its form.
        Content = "content",
        /// Too much, too fast, or too many at one time.
        Rate = "rate_limited",
        /// Trouble at the receiver's that passes, greylisting among it.
        Temporary = "temporary",
        /// The server cannot be reached, or the connection was lost.
        Network = "network",
        /// No TLS where it is needed, or none that holds.
        Tls = "tls",
        /// The domain does not exist, or its records lead nowhere.
        Dns = "dns",
        /// The smart host does not take our credentials.
        Authentication = "authentication",
        /// One side does not understand the other.
        Protocol = "protocol",
        /// The lifetime ended before anything else was in the way.
        Expired = "expired",
        /// A refusal that says nothing.
        Unclassified = "unclassified",
    }

    /// What an event says.
    EventKind("event type") {
        /// A message was accepted.
        MessageAccepted = "message.accepted",
        /// A recipient's server took the message.
        MessageDelivered = "message.delivered",
        /// An attempt failed and another will follow.
        MessageDeferred = "message.deferred",
        /// A recipient was refused for good.
        MessageBounced = "message.bounced",
        /// A recipient complained.
        MessageComplained = "message.complained",
        /// A recipient was left out because it is suppressed.
        MessageSuppressed = "message.suppressed",
        /// A submission was refused.
        MessageRejected = "message.rejected",
        /// A recipient's lifetime ended.
        MessageExpired = "message.expired",
        /// The stored content of a message is damaged; what is open of it waits for the operator to restore it.
        MessageContentDamaged = "message.content_damaged",
        /// A recipient was taken back.
        MessageCancelled = "message.cancelled",
        /// A domain's proof was found.
        DomainVerified = "domain.verified",
        /// A domain's proof has been missing for 72 hours.
        DomainFailing = "domain.failing",
        /// An address was suppressed.
        SuppressionCreated = "suppression.created",
        /// A suppression was lifted.
        SuppressionDeleted = "suppression.deleted",
        /// A tenant was suspended.
        TenantSuspended = "tenant.suspended",
        /// A tenant was resumed.
        TenantActivated = "tenant.activated",
        /// A tenant has sent 80 % of what it may in a minute or a day.
        SendLimitApproaching = "send_limit.approaching",
        /// A tenant has sent all that it may in a minute or a day.
        SendLimitExceeded = "send_limit.exceeded",
        /// A smart host refused our login; what goes there is on hold.
        SmartHostLoginFailed = "smart_host.login_failed",
        /// It takes our login again, or was changed: what was on hold goes on.
        SmartHostResumed = "smart_host.resumed",
        /// A webhook is not served any more.
        WebhookDisabled = "webhook.disabled",
        /// Somebody asked for a try of a webhook; in no journal, and nothing to subscribe to.
        WebhookTest = "webhook.test",
    }

    /// Under which policy a TLS session stood, for reports on TLS (RFC 8460 §4.2).
    TlsPolicyType("TLS policy type") {
        /// Validated TLSA records.
        Tlsa = "tlsa",
        /// An MTA-STS policy.
        Sts = "sts",
        /// Neither.
        NoPolicyFound = "no-policy-found",
    }

    /// What was wrong with a TLS session, for reports on TLS (RFC 8460 §4.3).
    TlsFailure("TLS failure") {
        /// The host does not offer STARTTLS.
        StarttlsNotSupported = "starttls-not-supported",
        /// The certificate is for other names.
        CertificateHostMismatch = "certificate-host-mismatch",
        /// The certificate has expired, or is not valid yet.
        CertificateExpired = "certificate-expired",
        /// The certificate leads to nobody who is trusted.
        CertificateNotTrusted = "certificate-not-trusted",
        /// Anything else.
        ValidationFailure = "validation-failure",
        /// No TLSA record is usable.
        TlsaInvalid = "tlsa-invalid",
        /// The answer of the DNS could not be validated.
        DnssecInvalid = "dnssec-invalid",
        /// DANE is demanded here and the host has none.
        DaneRequired = "dane-required",
        /// The MTA-STS policy could not be fetched.
        StsPolicyFetchError = "sts-policy-fetch-error",
        /// What was fetched is no MTA-STS policy.
        StsPolicyInvalid = "sts-policy-invalid",
        /// The certificate of the MTA-STS policy's server is not right.
        StsWebpkiInvalid = "sts-webpki-invalid",
    }
}

impl EventKind {
    /// Whether a webhook can ask for events of this kind.
    pub fn is_subscribable(self) -> bool {
        self != Self::WebhookTest
    }
}

impl BounceClass {
    /// Whether mail to this address cannot arrive at any time.
    pub fn is_address_gone(self) -> bool {
        matches!(self, Self::RecipientUnknown | Self::RecipientInactive)
    }
}

/// With STARTTLS (RFC 6409), and with TLS from the first octet (RFC 8314 §7.3).
const SUBMISSION_PORT: u16 = 587;
const SUBMISSIONS_PORT: u16 = 465;

impl TlsMode {
    /// The mode of a smart host for which none is given.
    pub fn of_port(port: Option<u16>) -> Self {
        if port == Some(SUBMISSIONS_PORT) { Self::Implicit } else { Self::Starttls }
    }

    /// The port of a smart host for which none is given.
    pub fn port(self) -> u16 {
        if self == Self::Implicit { SUBMISSIONS_PORT } else { SUBMISSION_PORT }
    }

    /// Whether a password may be sent to such a host: nobody between reads it, and the certificate was checked.
    pub fn guards_password(self, is_loopback: bool) -> bool {
        match self {
            Self::Implicit | Self::Starttls => true,
            Self::Opportunistic => false,
            Self::None => is_loopback,
        }
    }
}

impl DeliveryState {
    /// Whether more will happen.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Queued | Self::Deferred)
    }
}
