//! The enumerations of what comes back: reports, complaints, return hosts.

use super::enumeration::enumerations;

enumerations! {
    /// What came back.
    ReportKind("report kind") {
        /// A delivery status notification (RFC 3464).
        Dsn = "dsn",
        /// A failure described in prose.
        Prose = "prose",
        /// A complaint (RFC 5965).
        Complaint = "complaint",
        /// A request to unsubscribe by mail.
        Unsubscribe = "unsubscribe",
        /// An automatic reply.
        AutoReply = "auto_reply",
        /// A disposition notification (RFC 8098).
        Receipt = "receipt",
        /// Anything else.
        Other = "other",
    }

    /// What followed from a report.
    ReportEffect("effect of a report") {
        /// The delivery is bounced.
        Bounced = "bounced",
        /// The recipient complained.
        Complained = "complained",
        /// The recipient unsubscribed.
        Unsubscribed = "unsubscribed",
        /// An event only: a delay, a success, or a failure of a delivery that is not delivered.
        Reported = "reported",
        /// An event only: the failure concerns another address than the recipient.
        Indirect = "indirect",
        /// An event only: several recipients have the same token.
        Shared = "shared",
        /// None: the complaint has no valid signature that is aligned with its sender.
        Unverified = "unverified",
        /// None: nothing proves which message it is about.
        Unattributed = "unattributed",
        /// None: a report of this kind changes nothing.
        None = "none",
    }

    /// What a DSN says happened (RFC 3464 §2.3.3).
    ReportAction("action of a report") {
        /// The recipient was permanently refused.
        Failed = "failed",
        /// The delivery is delayed.
        Delayed = "delayed",
        /// The message is in the mailbox.
        Delivered = "delivered",
        /// The message went to a server that sends no DSN.
        Relayed = "relayed",
        /// The message went to several addresses.
        Expanded = "expanded",
    }

    /// The type of a complaint (RFC 5965 §7.3, RFC 6591; `opt-out` is in use without a registration).
    FeedbackType("type of a complaint", default Unknown) {
        /// Unwanted mail.
        Abuse = "abuse",
        /// Fraud.
        Fraud = "fraud",
        /// A virus.
        Virus = "virus",
        /// The recipient asks to be removed.
        OptOut = "opt-out",
        /// Sender authentication failed.
        AuthFailure = "auth-failure",
        /// The recipient says that the message is wanted.
        NotSpam = "not-spam",
        /// Another reason.
        Other = "other",
        /// A type that is not registered.
        Unknown = "unknown",
    }

    /// How a recipient unsubscribed.
    UnsubscribeVia("way to unsubscribe") {
        /// By the one-click request of a mail program (RFC 8058).
        Link = "link",
        /// By the button of the page.
        Page = "page",
        /// By mail.
        Mail = "mail",
    }

    /// Which reverse path mail of a domain leaves with.
    ReturnPathMode("return path mode", default Auto) {
        /// Under the domain's return host once its DNS records work, else as given by the sender.
        Auto = "auto",
        /// Under the platform's return host.
        Platform = "platform",
        /// As given by the sender.
        Off = "off",
    }

    /// Whether the return host of a domain works.
    ReturnPathStatus("return path status", default Pending) {
        /// Not checked, or the mode is not `auto`.
        Pending = "pending",
        /// Its records lead to this server, which accepts mail.
        Active = "active",
        /// There are no records.
        Missing = "missing",
        /// Its records lead elsewhere, or SPF does not name this server.
        Mismatch = "mismatch",
        /// Its records are right, but the server did not accept the probe.
        Unreachable = "unreachable",
    }
}

impl FeedbackType {
    /// Whether it says that the recipient does not want the mail.
    pub const fn is_complaint(self) -> bool {
        !matches!(self, Self::AuthFailure | Self::NotSpam)
    }
}
