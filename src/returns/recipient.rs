//! Decides at RCPT whether a message may come back to an address. An address without a proof is refused before any row is
//! read.

use super::{AdmittedToken, Mailbox, ReturnsService, storage_refusal};
use crate::mail::{Address, DomainName, SignedDuration, Timestamp, Token, TokenScope, TokenSubject};
use crate::model::{DeliveryId, Refusal, RefusalCode};
use crate::store::{self, Directory, REPORTS_OF_DAY_MAX, REPORTS_TOTAL_MAX, ReportTarget, Reports};

/// RFC 5321 §4.5.1 and RFC 2142 §4: mailboxes of people.
const PEOPLE: [&str; 2] = ["postmaster", "abuse"];
/// Nothing is accepted about an older delivery: our lifetime of 10 days, HOLDFOR of 30 and the queue of another server.
const AGE_MAX: SignedDuration = SignedDuration::from_hours(120 * 24);
/// Nothing is accepted so long after the last change of a delivery.
const UNCHANGED_MAX: SignedDuration = SignedDuration::from_hours(45 * 24);

impl ReturnsService {
    /// Whether a message may come back to this address.
    ///
    /// # Errors
    /// The refusal.
    pub async fn admit_recipient(&self, address: &Address) -> Result<Mailbox, Refusal> {
        let admitted = self.find_mailbox(address).await;
        if let Err(refusal) = &admitted {
            self.counters.count_refusal(refusal.code);
        }
        admitted
    }

    /// As [`Self::admit_recipient`], without counting the refusal.
    pub(super) async fn find_mailbox(&self, address: &Address) -> Result<Mailbox, Refusal> {
        let local = address.local().as_str().to_ascii_lowercase();
        let Some(host) = address.domain() else { return Err(relay_denied()) };
        let is_platform = self.is_platform_host(host);
        if is_platform && PEOPLE.contains(&local.as_str()) {
            return Ok(Mailbox::Postmaster);
        }
        if is_platform && self.settings.feedback_names.contains(&local) {
            return Ok(Mailbox::Feedback);
        }
        match Token::parse(&local) {
            Some(token) => self.admit_token(&token, host).await,
            None => Err(self.refusal_of_stranger(host).await),
        }
    }

    async fn admit_token(&self, token: &Token, host: &DomainName) -> Result<Mailbox, Refusal> {
        let now = self.clock.now();
        self.store.token_keys().verify(token, now).map_err(|_| address_unknown())?;
        if token.subject.scope == TokenScope::Probe {
            return Ok(Mailbox::Probe);
        }
        if !is_recent(token.subject, now) {
            return Err(address_expired());
        }
        self.counters.count_lookup();
        let target = self.store.report_target(token.subject, now).await.map_err(storage_refusal)?;
        let target = target.ok_or_else(address_expired)?;
        self.admit_host(&target, host)?;
        admit_age(&target, now)?;
        admit_count(&target)?;
        if let Some(delivery) = &target.delivery
            && self.queue.is_in_flight(delivery.id)
        {
            return Err(too_early());
        }
        Ok(Mailbox::Target(Box::new(AdmittedToken { kind: token.kind, target })))
    }

    /// Sendmail and old qmail replace an alias in MAIL by its target, so a report may come to the platform's host.
    fn admit_host(&self, target: &ReportTarget, host: &DomainName) -> Result<(), Refusal> {
        let is_own = target.message.dkim_domain.as_ref().is_some_and(|domain| host.is_at_or_under(domain));
        if self.is_platform_host(host) || is_own { Ok(()) } else { Err(address_unknown()) }
    }

    fn is_platform_host(&self, host: &DomainName) -> bool {
        *host == self.settings.host || *host == self.settings.hostname
    }

    /// Why an address without a token is refused.
    async fn refusal_of_stranger(&self, host: &DomainName) -> Refusal {
        if self.is_platform_host(host) {
            return mailbox_unknown();
        }
        match self.is_return_host(host).await {
            Ok(true) => mailbox_unknown(),
            Ok(false) => relay_denied(),
            Err(error) => storage_refusal(error),
        }
    }

    async fn is_return_host(&self, host: &DomainName) -> store::Result<bool> {
        let load = self.store.is_return_host(host, &self.settings.label);
        self.hosts
            .get(host.clone(), self.store.directory_version(), |_| self.store.version_of_name(host), load)
            .await
    }
}

pub(super) fn is_recent(subject: TokenSubject, now: Timestamp) -> bool {
    // The time of an id does not depend on its kind.
    let age = now.duration_since(DeliveryId::from(subject.id).created_at());
    age <= AGE_MAX
}

pub(super) fn admit_age(target: &ReportTarget, now: Timestamp) -> Result<(), Refusal> {
    let changed_at = target.recipient().map_or(target.message.created_at, |delivery| delivery.updated_at);
    if now.duration_since(changed_at) <= UNCHANGED_MAX { Ok(()) } else { Err(address_expired()) }
}

fn admit_count(target: &ReportTarget) -> Result<(), Refusal> {
    if target.reports_total >= REPORTS_TOTAL_MAX {
        return Err(Refusal::new(
            RefusalCode::ReportsExhausted,
            "too many reports came about this message",
            "send no more reports about it",
        ));
    }
    if target.reports_of_day >= REPORTS_OF_DAY_MAX {
        return Err(too_many_today());
    }
    Ok(())
}

pub(super) fn too_many_today() -> Refusal {
    Refusal::new(
        RefusalCode::TooManyReports,
        "too many reports came about this message today",
        "try again tomorrow",
    )
}

fn address_unknown() -> Refusal {
    Refusal::new(
        RefusalCode::ReportAddressUnknown,
        "this server did not make this address, or accepts it no longer",
        "send reports to the address in the message",
    )
}

pub(super) fn address_expired() -> Refusal {
    Refusal::new(
        RefusalCode::ReportAddressExpired,
        "reports about this message are not accepted any more",
        "nothing is to be done",
    )
}

fn too_early() -> Refusal {
    Refusal::new(
        RefusalCode::ReportEarly,
        "the delivery of this message is still being recorded",
        "try again in a minute",
    )
}

fn mailbox_unknown() -> Refusal {
    Refusal::new(
        RefusalCode::MailboxUnknown,
        "there is no such mailbox here",
        "this server receives reports about its own mail only",
    )
}

fn relay_denied() -> Refusal {
    Refusal::new(
        RefusalCode::RelayDenied,
        "this server receives no mail for that domain",
        "to submit mail, use port 587 or 465",
    )
}
