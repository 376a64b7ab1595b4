//! Decides whether a tenant may send. One function for each stage of the transaction.

use crate::mail::{Address, DomainName, Host, MailboxListError, ReversePath, Timestamp};
use crate::model::{DomainId, DomainStatus, Refusal, RefusalCode, Scope, SuppressionReason, TenantStatus};

/// The tenant and its key, as the decisions need them.
#[derive(Debug, Clone, Copy)]
pub struct Sender<'a> {
    /// The tenant's slug, for refusal texts.
    pub tenant_slug: &'a str,
    /// Whether the tenant may send.
    pub tenant_status: TenantStatus,
    /// The scopes of the key.
    pub scopes: &'a [Scope],
    /// Whether the key may use `allowed_domain_ids` only.
    pub restricted_to_domains: bool,
    /// The domains that the key is restricted to.
    pub allowed_domain_ids: &'a [DomainId],
}

/// A domain equal to or above a name: one of the tenant, or one that another tenant has verified.
#[derive(Debug, Clone)]
pub struct SendingDomain {
    /// The id, compared with the restriction of the key.
    pub id: DomainId,
    /// The domain name.
    pub name: DomainName,
    /// The status; only a verified domain may send.
    pub status: DomainStatus,
    /// Whether it covers its subdomains.
    pub subdomains: bool,
    /// Whether it belongs to another tenant.
    pub is_foreign: bool,
    /// Whether it is the sandbox domain, which every tenant may use.
    pub is_sandbox: bool,
    /// Its return host, if mail to that arrives here.
    pub return_host: Option<DomainName>,
}

/// The suppression of a recipient.
#[derive(Debug, Clone)]
pub struct SuppressionFacts {
    /// The reason.
    pub reason: SuppressionReason,
    /// The time of suppression.
    pub created_at: Timestamp,
    /// Whether the platform suppresses the address, which the tenant cannot change.
    pub is_platform: bool,
}

/// Whether the platform lets the tenant submit.
pub fn admit_status(sender: &Sender<'_>) -> Result<(), Refusal> {
    match sender.tenant_status {
        TenantStatus::Active => Ok(()),
        TenantStatus::Suspended => Err(Refusal::new(
            RefusalCode::TenantSuspended,
            format!("tenant {} is suspended", sender.tenant_slug),
            "ask the operator to resume it; queued mail waits until then",
        )),
        TenantStatus::Archived => Err(Refusal::new(
            RefusalCode::TenantArchived,
            format!("tenant {} is archived", sender.tenant_slug),
            "ask the operator to activate it; nothing is sent until then",
        )),
    }
}

/// Whether the tenant's key may submit with this scope.
pub fn admit_tenant(sender: &Sender<'_>, scope: Scope) -> Result<(), Refusal> {
    admit_status(sender)?;
    if !sender.scopes.contains(&scope) {
        return Err(Refusal::new(
            RefusalCode::InsufficientScope,
            format!("this key does not have the scope {scope}"),
            format!("use a key of tenant {} that has this scope", sender.tenant_slug),
        ));
    }
    Ok(())
}

/// The domain under which the tenant may send from a reverse path; `None` for the null path. `covering` are the
/// domains equal to or above the path's domain, the most specific first.
pub fn admit_sender<'d>(
    sender: &Sender<'_>,
    path: &ReversePath,
    covering: &'d [SendingDomain],
    allow_null_sender: bool,
) -> Result<Option<&'d SendingDomain>, Refusal> {
    match path {
        ReversePath::Null if allow_null_sender => Ok(None),
        ReversePath::Null => Err(Refusal::new(
            RefusalCode::NullSenderRefused,
            "the null sender MAIL FROM:<> is not accepted",
            "use an address of one of your domains in MAIL FROM",
        )),
        ReversePath::Mailbox(address) => admit_domain(sender, address, covering).map(Some),
    }
}

/// The domain under which the tenant may use a From address.
pub fn admit_from<'d>(
    sender: &Sender<'_>,
    address: &Address,
    covering: &'d [SendingDomain],
) -> Result<&'d SendingDomain, Refusal> {
    admit_domain(sender, address, covering)
}

fn admit_domain<'d>(
    sender: &Sender<'_>,
    address: &Address,
    covering: &'d [SendingDomain],
) -> Result<&'d SendingDomain, Refusal> {
    if sender.restricted_to_domains && sender.allowed_domain_ids.is_empty() {
        return Err(Refusal::new(
            RefusalCode::DomainNotAllowedForKey,
            "this key may send from no domain: the domains in its allowed_domain_ids were deleted",
            "set allowed_domain_ids of this key, or use another key",
        ));
    }
    let Host::Domain(name) = address.host() else {
        return Err(Refusal::new(
            RefusalCode::DomainNotAllowedForKey,
            format!("{} is an address literal, not a domain", address.host()),
            "use an address of one of your verified domains",
        ));
    };
    // The tenant with the longest verified name that covers the address owns it.
    let closer = covering.iter().take_while(|d| !d.is_foreign);
    let owned: Vec<_> = closer
        .filter(|d| d.status != DomainStatus::Taken && (d.name == *name || d.subdomains))
        .filter(|d| name.is_at_or_under(&d.name))
        .collect();
    let Some(closest) = owned.first() else {
        return Err(refuse_not_owned(sender, name, covering));
    };
    let mut verified = owned.iter().filter(|d| d.status == DomainStatus::Verified).peekable();
    if verified.peek().is_none() {
        return Err(refuse_unusable(RefusalCode::SenderDomainNotVerified, sender, closest));
    }
    let is_allowed =
        |d: &&&'d SendingDomain| !sender.restricted_to_domains || sender.allowed_domain_ids.contains(&d.id);
    verified.find(is_allowed).copied().ok_or_else(|| {
        Refusal::new(
            RefusalCode::DomainNotAllowedForKey,
            format!("this key is restricted to other domains than {name}"),
            "use a key for this domain, or one without a domain restriction",
        )
    })
}

/// The tenant learns of a domain of another tenant only if it has one at or above the name itself.
fn refuse_not_owned(sender: &Sender<'_>, name: &DomainName, covering: &[SendingDomain]) -> Refusal {
    let code = RefusalCode::DomainNotAllowedForKey;
    let tenant = sender.tenant_slug;
    if let Some(taken) = covering.iter().find(|d| !d.is_foreign && d.status == DomainStatus::Taken) {
        return refuse_unusable(code, sender, taken);
    }
    let has_claim = covering.iter().any(|d| !d.is_foreign && !d.is_sandbox);
    match covering.iter().find(|d| d.is_foreign).filter(|_| has_claim) {
        Some(foreign) => Refusal::new(
            code,
            format!(
                "{name} is not a domain of tenant {tenant}: another tenant has verified {}",
                foreign.name
            ),
            "send from one of your domains; if this one is yours, ask the operator",
        ),
        None => Refusal::new(
            code,
            format!("{name} is not a domain of tenant {tenant}"),
            "add and verify the domain, or send from one of your domains",
        ),
    }
}

/// The refusal of a domain of the tenant that is not verified.
fn refuse_unusable(code: RefusalCode, sender: &Sender<'_>, domain: &SendingDomain) -> Refusal {
    let SendingDomain { name, status, .. } = domain;
    let reason = status.reason().unwrap_or_default();
    Refusal::new(
        code,
        format!("domain {name} of tenant {} is {status}: {reason}", sender.tenant_slug),
        status.hint().unwrap_or_default(),
    )
}

/// Whether mail may be sent to a recipient, by the form of the address and by suppressions.
pub fn admit_recipient(
    recipient: &Address,
    smtputf8: bool,
    suppression: Option<&SuppressionFacts>,
) -> Result<(), Refusal> {
    if recipient.needs_smtputf8() && !smtputf8 {
        return Err(Refusal::new(
            RefusalCode::RecipientNeedsSmtputf8,
            "the local part of the recipient address is not ASCII",
            "use the SMTPUTF8 parameter of MAIL",
        ));
    }
    if recipient.domain().is_some_and(|domain| !domain.is_fully_qualified()) {
        return Err(Refusal::new(
            RefusalCode::RecipientNotQualified,
            format!("the domain {} is not fully qualified", recipient.host()),
            "use the full domain name",
        ));
    }
    let Some(suppression) = suppression else { return Ok(()) };
    let (whose, hint) = if suppression.is_platform {
        (" by the platform", "ask the operator to remove the suppression if the recipient wants mail again")
    } else {
        ("", "remove the suppression if the recipient wants your mail again")
    };
    let day = suppression.created_at.strftime("%Y-%m-%d");
    let reason = suppression.reason;
    let message = format!("{recipient} is suppressed{whose} since {day} (reason: {reason})");
    Err(Refusal::new(RefusalCode::RecipientSuppressed, message, hint))
}

/// Whether live mail from the sandbox domain may go to these recipients: only to confirmed inboxes of the tenant, which are
/// given as [`Address::folded`].
pub fn admit_trial<'r>(
    tenant_slug: &str,
    mut recipients: impl Iterator<Item = &'r Address>,
    inboxes: &[String],
) -> Result<(), Refusal> {
    match recipients.find(|recipient| !inboxes.contains(&recipient.folded())) {
        None => Ok(()),
        Some(recipient) => Err(Refusal::new(
            RefusalCode::RecipientNotConfirmed,
            format!(
                "{recipient} is not a confirmed inbox of tenant {tenant_slug}; live mail from the sandbox domain goes \
                 to those only"
            ),
            "add the address with POST /v1/inboxes and confirm it, or send from a verified domain of yours",
        )),
    }
}

/// The refusal of trial mail over its limit.
pub fn refuse_trial_limit(messages_max: u32) -> Refusal {
    Refusal::new(
        RefusalCode::DailySendLimitExceeded,
        format!("limit reached: {messages_max} live messages a day from the sandbox domain"),
        "add and verify a domain of yours, or continue tomorrow (UTC)",
    )
}

/// The refusal of an author or sender field that cannot be interpreted in exactly one way.
pub fn refuse_from(field: &str, error: MailboxListError) -> Refusal {
    Refusal::new(
        RefusalCode::FromHeaderAmbiguous,
        format!("the {field} field is not valid: {error}"),
        format!("write it as {field}: \"Name\" <address>"),
    )
}

/// The refusal of a message without exactly one From field.
pub fn refuse_from_count(count: usize) -> Refusal {
    if count == 0 {
        return Refusal::new(
            RefusalCode::FromHeaderMissing,
            "the message has no From field",
            "add a From field with an address of one of your domains",
        );
    }
    Refusal::new(
        RefusalCode::FromHeaderAmbiguous,
        format!("the message has {count} From fields"),
        "send exactly one From field",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(name: &str, status: DomainStatus, subdomains: bool) -> SendingDomain {
        let id = DomainId::generate(Timestamp::UNIX_EPOCH);
        let name = DomainName::parse(name).unwrap();
        SendingDomain {
            id,
            name,
            status,
            subdomains,
            is_foreign: false,
            is_sandbox: false,
            return_host: None,
        }
    }

    fn sender(allowed: &[DomainId]) -> Sender<'_> {
        Sender {
            tenant_slug: "acme",
            tenant_status: TenantStatus::Active,
            scopes: &[Scope::SmtpSend],
            restricted_to_domains: !allowed.is_empty(),
            allowed_domain_ids: allowed,
        }
    }

    fn ask(address: &str, domains: &[SendingDomain], allowed: &[DomainId]) -> Result<String, RefusalCode> {
        let path = ReversePath::parse(address).unwrap();
        admit_sender(&sender(allowed), &path, domains, true)
            .map(|d| d.map(|d| d.name.to_string()).unwrap_or_default())
            .map_err(|refusal| refusal.code)
    }

    #[test]
    fn the_refusal_of_a_suppressed_address_repeats_the_address_unchanged() {
        let recipient = Address::parse("\"a  b\"@example.com").unwrap();
        let suppression = SuppressionFacts {
            reason: SuppressionReason::Bounce,
            created_at: Timestamp::UNIX_EPOCH,
            is_platform: false,
        };
        let refusal = admit_recipient(&recipient, false, Some(&suppression)).unwrap_err();
        assert_eq!(refusal.message, format!("{recipient} is suppressed since 1970-01-01 (reason: bounce)"));
    }

    #[test]
    fn a_sender_needs_a_verified_domain_of_its_own_on_whole_labels() {
        use DomainStatus::{Failing, Pending, Taken, Verified};
        use RefusalCode::{DomainNotAllowedForKey as NotOwned, SenderDomainNotVerified as NotVerified};
        let own = domain("acme.com", Verified, true);
        for (address, domains, answer) in [
            ("a@acme.com", vec![own.clone()], Ok("acme.com")),
            ("a@x.acme.com", vec![own.clone()], Ok("acme.com")),
            ("a@evilacme.com", vec![own.clone()], Err(NotOwned)),
            ("a@com", vec![own.clone()], Err(NotOwned)),
            ("a@[127.0.0.1]", vec![own.clone()], Err(NotOwned)),
            ("a@acme.com", vec![], Err(NotOwned)),
            ("a@acme.com", vec![domain("acme.com", Taken, true)], Err(NotOwned)),
            ("a@acme.com", vec![domain("acme.com", Pending, true)], Err(NotVerified)),
            ("a@acme.com", vec![domain("acme.com", Failing, true)], Err(NotVerified)),
            ("a@x.acme.com", vec![domain("acme.com", Verified, false)], Err(NotOwned)),
            ("a@acme.com", vec![domain("acme.com", Verified, false)], Ok("acme.com")),
            ("a@x.acme.com", vec![domain("x.acme.com", Pending, true), own.clone()], Ok("acme.com")),
            ("", vec![], Ok("")),
        ] {
            assert_eq!(ask(address, &domains, &[]), answer.map(String::from), "{address}");
        }
    }

    #[test]
    fn an_address_belongs_to_the_closest_verified_name_whoever_has_verified_it() {
        use DomainStatus::{Failing, Pending, Taken, Verified};
        use RefusalCode::{DomainNotAllowedForKey as NotOwned, SenderDomainNotVerified as NotVerified};
        let own = |name, status| domain(name, status, true);
        let foreign = |name| SendingDomain { is_foreign: true, ..domain(name, Verified, true) };
        for (address, domains, answer) in [
            ("a@acme.com", vec![own("acme.com", Verified)], Ok("acme.com")),
            ("a@x.acme.com", vec![foreign("x.acme.com"), own("acme.com", Verified)], Err(NotOwned)),
            ("a@y.x.acme.com", vec![foreign("x.acme.com"), own("acme.com", Verified)], Err(NotOwned)),
            ("a@x.acme.com", vec![own("x.acme.com", Verified), foreign("acme.com")], Ok("x.acme.com")),
            ("a@x.acme.com", vec![own("x.acme.com", Pending), foreign("acme.com")], Err(NotVerified)),
            ("a@x.acme.com", vec![own("x.acme.com", Failing), foreign("acme.com")], Err(NotVerified)),
            ("a@acme.com", vec![own("acme.com", Taken), foreign("acme.com")], Err(NotOwned)),
            (
                "a@y.x.acme.com",
                vec![own("y.x.acme.com", Pending), foreign("x.acme.com"), own("acme.com", Verified)],
                Err(NotVerified),
            ),
        ] {
            assert_eq!(ask(address, &domains, &[]), answer.map(String::from), "{address} {domains:?}");
        }
        let message = |domains: &[SendingDomain]| {
            let path = ReversePath::parse("a@x.acme.com").unwrap();
            admit_sender(&sender(&[]), &path, domains, true).unwrap_err().message
        };
        let parent = own("acme.com", Verified);
        assert_eq!(
            message(&[foreign("x.acme.com"), parent]),
            "x.acme.com is not a domain of tenant acme: another tenant has verified x.acme.com"
        );
        assert_eq!(message(&[foreign("acme.com")]), "x.acme.com is not a domain of tenant acme");
        assert_eq!(
            message(&[own("acme.com", Taken), foreign("acme.com")]),
            "domain acme.com of tenant acme is taken: another tenant has verified the same domain"
        );
    }

    #[test]
    fn a_key_can_be_restricted_to_domains() {
        let (one, two) = (
            domain("one.com", DomainStatus::Verified, true),
            domain("two.com", DomainStatus::Verified, true),
        );
        let allowed = [one.id];
        assert_eq!(ask("a@one.com", std::slice::from_ref(&one), &allowed), Ok("one.com".into()));
        assert_eq!(ask("a@two.com", &[two], &allowed), Err(RefusalCode::DomainNotAllowedForKey));
        let emptied = Sender { restricted_to_domains: true, ..sender(&[]) };
        let refusal = admit_from(&emptied, &Address::parse("a@one.com").unwrap(), &[one]).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::DomainNotAllowedForKey);
        assert!(refusal.message.contains("were deleted"), "{refusal}");
    }

    #[test]
    fn trial_mail_goes_to_confirmed_inboxes_only() {
        let addresses = |texts: &[&str]| texts.iter().map(|a| Address::parse(a).unwrap()).collect::<Vec<_>>();
        let inboxes = ["a@b.c", "d@e.f"].map(str::to_owned);
        for (recipients, is_admitted) in
            [(&["A@b.c"][..], true), (&["a@b.c", "d@e.f"], true), (&["a@b.c", "x@b.c"], false)]
        {
            let recipients = addresses(recipients);
            let admitted = admit_trial("acme", recipients.iter(), &inboxes);
            assert_eq!(admitted.is_ok(), is_admitted, "{recipients:?}");
            let code = admitted.err().map(|refusal| refusal.code);
            assert!(code.is_none_or(|code| code == RefusalCode::RecipientNotConfirmed));
        }
    }

    #[test]
    fn the_null_path_can_be_disabled() {
        let refusal = admit_sender(&sender(&[]), &ReversePath::Null, &[], false).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::NullSenderRefused);
    }

    #[test]
    fn suspension_is_checked_before_the_scope() {
        let mut from = sender(&[]);
        assert_eq!(admit_tenant(&from, Scope::EmailsSend).unwrap_err().code, RefusalCode::InsufficientScope);
        assert_eq!(admit_tenant(&from, Scope::SmtpSend), Ok(()));
        from.tenant_status = TenantStatus::Suspended;
        assert_eq!(admit_tenant(&from, Scope::EmailsSend).unwrap_err().code, RefusalCode::TenantSuspended);
        from.tenant_status = TenantStatus::Archived;
        assert_eq!(admit_tenant(&from, Scope::SmtpSend).unwrap_err().code, RefusalCode::TenantArchived);
    }

    #[test]
    fn a_recipient_is_refused_for_its_form_or_its_suppression() {
        let ask = |address: &str, utf8, facts: Option<&SuppressionFacts>| {
            admit_recipient(&Address::parse(address).unwrap(), utf8, facts)
        };
        assert_eq!(ask("a@b.c", false, None), Ok(()));
        assert_eq!(ask("é@b.c", true, None), Ok(()));
        assert_eq!(ask("é@b.c", false, None).unwrap_err().code, RefusalCode::RecipientNeedsSmtputf8);
        assert_eq!(ask("a@localhost", false, None).unwrap_err().code, RefusalCode::RecipientNotQualified);
        let facts = SuppressionFacts {
            reason: SuppressionReason::Bounce,
            created_at: Timestamp::UNIX_EPOCH,
            is_platform: false,
        };
        let refusal = ask("a@b.c", false, Some(&facts)).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::RecipientSuppressed);
        assert_eq!(refusal.message, "a@b.c is suppressed since 1970-01-01 (reason: bounce)");
    }
}
