//! The types of events.

use super::enumeration::enumerations;

enumerations! {
    /// The type of an event.
    EventKind("event type") {
        /// A message was accepted.
        MessageAccepted = "message.accepted",
        /// The recipient's server accepted the message.
        MessageDelivered = "message.delivered",
        /// An attempt failed and will be retried.
        MessageDeferred = "message.deferred",
        /// A recipient was permanently refused.
        MessageBounced = "message.bounced",
        /// A recipient complained.
        MessageComplained = "message.complained",
        /// A report came back that changed no state.
        MessageReported = "message.reported",
        /// A recipient left a list.
        MessageUnsubscribed = "message.unsubscribed",
        /// A recipient was left out because it is suppressed.
        MessageSuppressed = "message.suppressed",
        /// A submission was refused.
        MessageRejected = "message.rejected",
        /// The lifetime of a delivery ended.
        MessageExpired = "message.expired",
        /// The stored content or a row of a message is damaged; its open deliveries wait until the operator restores it.
        MessageContentDamaged = "message.content_damaged",
        /// A delivery was cancelled.
        MessageCancelled = "message.cancelled",
        /// A domain was added.
        DomainCreated = "domain.created",
        /// A domain was verified.
        DomainVerified = "domain.verified",
        /// The DNS records of a domain have been wrong for longer than the grace period.
        DomainFailing = "domain.failing",
        /// Another tenant has verified the same domain.
        DomainTaken = "domain.taken",
        /// Mail of a domain leaves with its return host from now on.
        DomainReturnPathActive = "domain.return_path_active",
        /// The records of the return host of a domain are gone or lead elsewhere.
        DomainReturnPathLost = "domain.return_path_lost",
        /// A domain was deleted.
        DomainDeleted = "domain.deleted",
        /// A key was created.
        KeyCreated = "key.created",
        /// A key has a new secret.
        KeyRotated = "key.rotated",
        /// A key expires in 14 or 3 days.
        KeyExpiring = "key.expiring",
        /// A key was revoked.
        KeyRevoked = "key.revoked",
        /// An address was suppressed.
        SuppressionCreated = "suppression.created",
        /// A suppression became provisional.
        SuppressionUpdated = "suppression.updated",
        /// A suppression was removed.
        SuppressionDeleted = "suppression.deleted",
        /// The data of a recipient were erased.
        RecipientErased = "recipient.erased",
        /// A tenant was created.
        TenantCreated = "tenant.created",
        /// A tenant was changed.
        TenantUpdated = "tenant.updated",
        /// A tenant was deleted with everything that it had.
        TenantDeleted = "tenant.deleted",
        /// A tenant was suspended.
        TenantSuspended = "tenant.suspended",
        /// A tenant was resumed.
        TenantActivated = "tenant.activated",
        /// A tenant was archived.
        TenantArchived = "tenant.archived",
        /// A tenant has used 80 % of a send limit.
        SendLimitApproaching = "send_limit.approaching",
        /// A tenant has used up a send limit.
        SendLimitExceeded = "send_limit.exceeded",
        /// The bounces or complaints of a tenant exceed a rate of its brakes.
        BrakeApplied = "brake.applied",
        /// A site says of many addresses that they are gone which took mail a short time ago.
        SiteBouncesSuspicious = "site.bounces_suspicious",
        /// A smart host rejected our login; its mail waits.
        SmartHostLoginFailed = "smart_host.login_failed",
        /// The smart host accepts our login again, or was changed: its mail continues.
        SmartHostResumed = "smart_host.resumed",
        /// A key or an address was banned after failed logins.
        LoginBanned = "login.banned",
        /// A check of the doctor has another status than before.
        DoctorChanged = "doctor.changed",
        /// The server has a new certificate by ACME.
        CertificateRenewed = "certificate.renewed",
        /// No certificate was issued by ACME; the present one stays in use.
        CertificateFailing = "certificate.failing",
        /// The database was restored from a backup.
        StoreRestored = "store.restored",
        /// A webhook was disabled.
        WebhookDisabled = "webhook.disabled",
        /// A test event of a webhook; not in the journal and not subscribable.
        WebhookTest = "webhook.test",
    }
}

impl EventKind {
    /// Whether webhooks can subscribe to this type.
    pub fn is_subscribable(self) -> bool {
        self != Self::WebhookTest
    }

    /// Whether events of this type can name a message. A refused submission has none; a suppression names what caused it.
    pub fn names_message(self) -> bool {
        let starts_with = |start| self.as_str().starts_with(start);
        self != Self::MessageRejected && (starts_with("message.") || starts_with("suppression."))
    }
}
