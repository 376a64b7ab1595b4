//! The enumerations of the product: states, kinds, scopes. Each value has one text form, used in SQL, JSON and logs.

use super::enumeration::enumerations;

enumerations! {
    /// Whether mail sent with a key is delivered.
    Environment("environment") {
        /// Mail is delivered.
        Live = "live",
        /// Mail is captured in the sandbox.
        Test = "test",
    }

    /// Who composed a message.
    MessageKind("message kind", default Message) {
        /// Mail that a client submitted.
        Message = "message",
        /// A delivery status notification that the server generated (RFC 3464). It counts nowhere and raises no events.
        Report = "report",
        /// The mail that asks for the confirmation of an inbox. It counts nowhere, raises no events and cannot be read.
        Confirmation = "confirmation",
    }

    /// What each sum of usage is about, besides its tenant.
    UsageGroup("group of usage", default Tenant) {
        /// All usage of the tenant.
        Tenant = "tenant",
        /// The usage of each key.
        Key = "key",
        /// The usage of each sending domain.
        Domain = "domain",
        /// The usage of each day (UTC).
        Day = "day",
    }

    /// A permission of a key.
    Scope("scope") {
        /// Submit over SMTP.
        SmtpSend = "smtp:send",
        /// Submit over HTTP.
        EmailsSend = "emails:send",
        /// Read messages.
        EmailsRead = "emails:read",
        /// Read domains.
        DomainsRead = "domains:read",
        /// Read and manage domains.
        DomainsManage = "domains:manage",
        /// Read keys, without their secrets.
        KeysRead = "keys:read",
        /// Read and manage keys.
        KeysManage = "keys:manage",
        /// Read webhooks.
        WebhooksRead = "webhooks:read",
        /// Read and manage webhooks.
        WebhooksManage = "webhooks:manage",
        /// Read suppressions.
        SuppressionsRead = "suppressions:read",
        /// Read and manage suppressions.
        SuppressionsManage = "suppressions:manage",
        /// Read and render templates.
        TemplatesRead = "templates:read",
        /// Read and manage templates.
        TemplatesManage = "templates:manage",
        /// Read usage.
        UsageRead = "usage:read",
        /// Read the tenant itself.
        TenantRead = "tenant:read",
        /// Read and change the tenant itself.
        TenantManage = "tenant:manage",
        /// Read the audit log.
        AuditRead = "audit:read",
    }

    /// Who made a change.
    AuditActor("actor") {
        /// Somebody with a key, over the API; the pages and the command line are clients of it.
        Key = "key",
        /// Somebody with access to the data directory, on the machine itself.
        Local = "local",
    }

    /// The length of each interval of statistics.
    StatsInterval("interval of statistics") {
        /// A minute; of the last 24 hours at most.
        Minute = "minute",
        /// An hour.
        Hour = "hour",
        /// A day (UTC).
        Day = "day",
    }

    /// How far the reasons of failures look back.
    ReasonsWindow("window") {
        /// Five minutes.
        FiveMinutes = "5m",
        /// A quarter of an hour.
        QuarterHour = "15m",
        /// An hour.
        Hour = "1h",
    }

    /// The format of a list of usage.
    UsageFormat("format") {
        /// JSON.
        Json = "json",
        /// Comma-separated values, with a header line.
        Csv = "csv",
    }

    /// What a check of the doctor says, in the order of severity.
    FindingStatus("status of a finding") {
        /// Nothing was looked at.
        Skipped = "skipped",
        /// It is right.
        Ok = "ok",
        /// Worth knowing.
        Info = "info",
        /// It will not work for long, or not everywhere.
        Warning = "warning",
        /// It does not work.
        Error = "error",
    }

    /// Whether a key can be used.
    KeyStatus("key status") {
        /// It can be used.
        Active = "active",
        /// It was revoked.
        Revoked = "revoked",
        /// Its time is over.
        Expired = "expired",
    }

    /// Whether a tenant may send.
    TenantStatus("tenant status") {
        /// The tenant may send.
        Active = "active",
        /// Its keys are refused and its queued mail waits.
        Suspended = "suspended",
        /// Its keys may only read and its queued mail waits; the platform may delete it after a date.
        Archived = "archived",
    }

    /// The verification status of a domain.
    DomainStatus("domain status") {
        /// Not verified yet.
        Pending = "pending",
        /// Verified; the tenant may send from it.
        Verified = "verified",
        /// Was verified; its DNS records have been wrong for longer than the grace period.
        Failing = "failing",
        /// Another tenant has verified it first.
        Taken = "taken",
    }

    /// How a domain is verified.
    Verification("verification") {
        /// By DNS records.
        Dns = "dns",
        /// By the platform, without DNS.
        Manual = "manual",
    }

    /// The signature algorithm of a DKIM key.
    DkimAlgorithm("DKIM algorithm") {
        /// RSA with SHA-256 (RFC 6376).
        Rsa = "rsa-sha256",
        /// Ed25519 with SHA-256 (RFC 8463).
        Ed25519 = "ed25519-sha256",
    }

    /// Which of our DKIM signatures the message carries on a route.
    DkimPolicy("DKIM policy", default All) {
        /// All signatures.
        All = "all",
        /// RSA only, for receivers that fail on a second signature.
        Rsa = "rsa",
        /// None; the smart host signs.
        None = "none",
    }

    /// The state of a DKIM key.
    DkimKeyState("DKIM key state") {
        /// Its DNS record has not been found yet.
        Pending = "pending",
        /// It signs messages.
        Active = "active",
        /// Replaced. Its record must stay published while queued mail may carry its signature.
        Retiring = "retiring",
    }

    /// Why an address is suppressed.
    SuppressionReason("suppression reason") {
        /// A receiver reported that the address does not exist.
        Bounce = "bounce",
        /// The recipient complained.
        Complaint = "complaint",
        /// The recipient unsubscribed.
        Unsubscribe = "unsubscribe",
        /// Added by a user.
        Manual = "manual",
    }

    /// The state of one delivery.
    DeliveryState("delivery state") {
        /// Waits for its first attempt.
        Queued = "queued",
        /// Attempted; will be retried.
        Deferred = "deferred",
        /// A receiving server accepted it.
        Delivered = "delivered",
        /// Permanently refused.
        Bounced = "bounced",
        /// Not delivered within its lifetime.
        Expired = "expired",
        /// Cancelled by the tenant.
        Cancelled = "cancelled",
    }

    /// Why queued mail waits.
    WaitReason("reason to wait") {
        /// Due; waits for a free connection.
        Due = "due",
        /// Being delivered now.
        InFlight = "in_flight",
        /// Waits for a retry.
        Deferred = "deferred",
        /// Scheduled by the sender for later.
        Scheduled = "scheduled",
        /// Paused by the platform.
        Paused = "paused",
        /// The tenant is suspended or archived.
        TenantSuspended = "tenant_suspended",
        /// The receiving site backs off.
        SiteBackoff = "site_backoff",
        /// The receiving site is at its limit of connections or rate.
        SiteThrottled = "site_throttled",
        /// The smart host rejects the tenant's credentials.
        SmartHostAuthFailed = "smart_host_auth_failed",
    }

    /// The TLS mode of a smart host.
    TlsMode("TLS mode") {
        /// TLS from the first octet, certificate verified.
        Implicit = "implicit",
        /// STARTTLS required, certificate verified.
        Starttls = "starttls",
        /// STARTTLS if offered, certificate not verified. Never with a password.
        Opportunistic = "opportunistic",
        /// No TLS. Never with a password, except to a loopback address.
        None = "none",
    }

    /// The minimum TLS of connections to a destination; each level includes those before it.
    TlsMinimum("TLS minimum") {
        /// TLS if offered, certificate not verified.
        Opportunistic = "opportunistic",
        /// TLS with any certificate.
        Encrypted = "encrypted",
        /// TLS with a valid certificate for the host name, or one that matches DANE.
        Verified = "verified",
        /// TLS with a certificate that matches DANE.
        Dane = "dane",
    }

    /// The stage at which a submission was refused.
    Stage("stage") {
        /// At MAIL.
        Mail = "mail",
        /// At RCPT.
        Rcpt = "rcpt",
        /// After the message data.
        Data = "data",
        /// In an API request.
        Api = "api",
    }

    /// The intervals of usage counters, in UTC.
    UsageInterval("interval") {
        /// One hour.
        Hour = "hour",
        /// One day.
        Day = "day",
    }

    /// The period of a limit; it starts for all tenants at the same time, in UTC.
    LimitPeriod("period of a limit") {
        /// One minute.
        Minute = "minute",
        /// One hour.
        Hour = "hour",
        /// One day.
        Day = "day",
    }

    /// What happens when a rate of the brakes is exceeded.
    BrakeAction("action of brakes", default Pause) {
        /// The queued mail of the tenant waits until its queue is resumed, and there is an event.
        Pause = "pause",
        /// There is an event only.
        Notify = "notify",
    }

    /// A rate that brakes compare.
    BrakeMetric("rate of brakes") {
        /// Bounces.
        BounceRate = "bounce_rate",
        /// Complaints.
        ComplaintRate = "complaint_rate",
    }

    /// Whether a webhook receives events.
    WebhookStatus("webhook status") {
        /// It receives events.
        Enabled = "enabled",
        /// It receives no events until it is enabled again.
        Disabled = "disabled",
    }

    /// Why a webhook is disabled.
    DisabledReason("reason of a disabled webhook") {
        /// By a user.
        Manual = "manual",
        /// It responded with 410.
        Gone = "gone",
        /// It failed for days.
        Failing = "failing",
        /// Its backlog exceeded the limit.
        BacklogFull = "backlog_full",
    }

    /// The state of a webhook delivery.
    WebhookDeliveryState("webhook delivery state") {
        /// Pending its first attempt or a retry.
        Pending = "pending",
        /// The endpoint accepted it.
        Delivered = "delivered",
        /// Given up after the last retry.
        Failed = "failed",
    }

    /// How a tenant is informed about the delivery of its mail, besides events.
    DeliveryReports("way of reporting", default Mail) {
        /// DSNs are sent to the reverse path (RFC 3461).
        Mail = "mail",
        /// Events only.
        Event = "event",
    }

    /// The class of a failed attempt.
    BounceClass("outcome class") {
        /// The mailbox does not exist, or its domain accepts no mail.
        RecipientUnknown = "recipient_unknown",
        /// The mailbox exists no longer or is disabled.
        RecipientInactive = "recipient_inactive",
        /// The mailbox is full.
        MailboxFull = "mailbox_full",
        /// A policy of the receiver: relaying, sender authentication, access.
        Policy = "policy",
        /// The reputation of our address or the sender's domain.
        Reputation = "reputation",
        /// The message itself: spam, virus, size, format.
        Content = "content",
        /// A rate or connection limit of the receiver.
        RateLimited = "rate_limited",
        /// A temporary condition of the receiver, greylisting included.
        Temporary = "temporary",
        /// The server is unreachable, or the connection was lost.
        Network = "network",
        /// Required TLS is missing or invalid.
        Tls = "tls",
        /// The domain does not exist, or its records are unusable.
        Dns = "dns",
        /// The smart host rejects our credentials.
        Authentication = "authentication",
        /// An SMTP protocol error.
        Protocol = "protocol",
        /// The lifetime ended without another failure.
        Expired = "expired",
        /// A refusal without a recognizable reason.
        Unclassified = "unclassified",
    }

    /// The policy type of a TLS session, for TLS reports (RFC 8460 §4.2).
    TlsPolicyType("TLS policy type") {
        /// Validated TLSA records.
        Tlsa = "tlsa",
        /// An MTA-STS policy.
        Sts = "sts",
        /// No policy.
        NoPolicyFound = "no-policy-found",
    }

    /// The failure of a TLS session, for TLS reports (RFC 8460 §4.3).
    TlsFailure("TLS failure") {
        /// The host does not offer STARTTLS.
        StarttlsNotSupported = "starttls-not-supported",
        /// The certificate is for other names.
        CertificateHostMismatch = "certificate-host-mismatch",
        /// The certificate has expired or is not valid yet.
        CertificateExpired = "certificate-expired",
        /// The certificate is not issued by a trusted authority.
        CertificateNotTrusted = "certificate-not-trusted",
        /// Any other failure.
        ValidationFailure = "validation-failure",
        /// No TLSA record is usable.
        TlsaInvalid = "tlsa-invalid",
        /// The DNS answer could not be validated.
        DnssecInvalid = "dnssec-invalid",
        /// DANE is required here and the host has no TLSA records.
        DaneRequired = "dane-required",
        /// The MTA-STS policy could not be fetched.
        StsPolicyFetchError = "sts-policy-fetch-error",
        /// The fetched MTA-STS policy is invalid.
        StsPolicyInvalid = "sts-policy-invalid",
        /// The certificate of the MTA-STS policy host is invalid.
        StsWebpkiInvalid = "sts-webpki-invalid",
    }
}

impl TenantStatus {
    /// Whether the tenant may send.
    pub const fn sends(self) -> bool {
        matches!(self, Self::Active)
    }
}

impl BounceClass {
    /// Whether the address permanently cannot receive mail.
    pub fn is_address_gone(self) -> bool {
        matches!(self, Self::RecipientUnknown | Self::RecipientInactive)
    }
}

/// Ports of submission with STARTTLS (RFC 6409) and with implicit TLS (RFC 8314 §7.3).
const SUBMISSION_PORT: u16 = 587;
const SUBMISSIONS_PORT: u16 = 465;

impl TlsMode {
    /// The default mode of a smart host on a port.
    pub fn of_port(port: Option<u16>) -> Self {
        if port == Some(SUBMISSIONS_PORT) { Self::Implicit } else { Self::Starttls }
    }

    /// The default port of a smart host.
    pub fn port(self) -> u16 {
        if self == Self::Implicit { SUBMISSIONS_PORT } else { SUBMISSION_PORT }
    }

    /// Whether a password may be sent: encrypted and with a verified certificate, or to loopback.
    pub fn protects_password(self, is_loopback: bool) -> bool {
        match self {
            Self::Implicit | Self::Starttls => true,
            Self::Opportunistic => false,
            Self::None => is_loopback,
        }
    }
}

impl DeliveryState {
    /// Whether the delivery is unfinished.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Queued | Self::Deferred)
    }

    /// The status of a message with deliveries in these states: an open state while a delivery is open, then the worst
    /// final state.
    pub fn combine(states: &[Self]) -> Self {
        let order = [Self::Queued, Self::Deferred, Self::Bounced, Self::Expired, Self::Cancelled];
        order.into_iter().find(|state| states.contains(state)).unwrap_or(Self::Delivered)
    }
}

#[cfg(test)]
mod tests {
    use super::DeliveryState::{self, Bounced, Cancelled, Deferred, Delivered, Expired, Queued};

    #[test]
    fn the_status_of_a_message_combines_the_states_of_its_deliveries() {
        for (states, expected) in [
            (&[Delivered, Delivered][..], Delivered),
            (&[Delivered, Queued, Bounced], Queued),
            (&[Delivered, Deferred, Bounced], Deferred),
            (&[Delivered, Bounced, Expired], Bounced),
            (&[Delivered, Expired], Expired),
            (&[Delivered, Cancelled], Cancelled),
        ] {
            assert_eq!(DeliveryState::combine(states), expected, "{states:?}");
        }
    }
}
