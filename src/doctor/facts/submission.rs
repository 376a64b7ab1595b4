//! A message that the doctor submits to its own server, with a test key, so that it ends in the sandbox.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio_rustls::TlsConnector;

use super::listeners::{self, PROXIED, expect};
use super::{Gatherer, NO_SERVER, Seen, Server, SubmissionFacts};
use crate::mail::SignedDuration;
use crate::model::{
    DomainStatus, Environment, KeyId, KeySecret, MessageId, RefusalCode, Scope, TenantStatus,
};
use crate::store::{
    self, DEFAULT_TENANT, Directory, Domain, DomainFilter, NewKey, PageRequest, Spool, Store,
};

const NOT_ASKED: &str = "not asked for; --send submits one message to the sandbox";
const NO_DOMAIN: &str = "no domain of an active tenant is verified";
const NO_LISTENER: &str = "there is no listener of submission with STARTTLS";
/// The time for the dialogue.
const DIALOGUE_TIMEOUT: Duration = Duration::from_secs(20);
/// Domains whose tenants are looked at.
const DOMAINS_MAX: usize = 10;
/// Refusals that a tenant can cause.
const OF_TENANT: &[RefusalCode] = &[
    RefusalCode::TenantSuspended,
    RefusalCode::SendLimitExceeded,
    RefusalCode::RecipientSuppressed,
    RefusalCode::RecipientUnsubscribed,
];
const KEY_LIFETIME: SignedDuration = SignedDuration::from_secs(60);

pub async fn gather(gatherer: &Gatherer<'_>, certificate: &Path) -> Seen<SubmissionFacts> {
    if !gatherer.extra.send {
        return Seen::NotAsked(NOT_ASKED);
    }
    let (Some(Server { store, .. }), Some(listening)) = (&gatherer.server, gatherer.listening) else {
        return Seen::NotAsked(NO_SERVER);
    };
    let Some(address) = listening.submission.first() else { return Seen::NotAsked(NO_LISTENER) };
    if listeners::is_proxied(gatherer.config, address) {
        return Seen::NotAsked(PROXIED);
    }
    let connector = match listeners::connector(certificate).await {
        Seen::Value(connector) => connector,
        other => return other.absent(),
    };
    let domain = match verified_domain(store).await {
        Ok(Some(domain)) => domain,
        Ok(None) => return Seen::NotAsked(NO_DOMAIN),
        Err(error) => return Seen::Failed(error.to_string()),
    };
    let trial = Trial { gatherer, store, domain: &domain, address: *address, connector: &connector };
    let secret = KeySecret::generate(Environment::Test);
    let key = match trial.create_key(&secret).await {
        Ok(key) => key,
        Err(error) => return Seen::Failed(format!("no key of {} was made: {error}", domain.name)),
    };
    let sent = tokio::time::timeout(DIALOGUE_TIMEOUT, trial.submit(key, &secret)).await;
    if let Err(error) = store.revoke_key(key, gatherer.now).await {
        tracing::warn!(%error, %key, "cannot revoke the key of the doctor, which expires within a minute");
    }
    let result = match sent {
        Ok(Ok(message)) => Ok(trial.verify(message).await),
        Ok(Err(error)) if is_of_tenant(&error) => return Seen::Failed(format!("{}: {error}", domain.name)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the server did not answer in time".to_owned()),
    };
    Seen::Value(SubmissionFacts { domain: domain.name, result })
}

/// A verified domain of an active tenant: of the default tenant, or the newest one.
async fn verified_domain(store: &Store) -> store::Result<Option<Domain>> {
    let default = store.tenant_by_slug(DEFAULT_TENANT).await?.map(|tenant| tenant.id);
    for tenant_id in default.map(Some).into_iter().chain([None]) {
        let filter =
            DomainFilter { tenant_id, status: Some(DomainStatus::Verified), ..DomainFilter::default() };
        let page = PageRequest { limit: DOMAINS_MAX, ..PageRequest::default() };
        for domain in store.list_domains(filter, page).await?.items {
            let Some(owner) = domain.tenant_id else { continue };
            if store.tenant(owner).await?.is_some_and(|tenant| tenant.status == TenantStatus::Active) {
                return Ok(Some(domain));
            }
        }
    }
    Ok(None)
}

/// Whether the tenant caused the refusal, so that it says nothing about the server.
fn is_of_tenant(error: &io::Error) -> bool {
    let reply = error.to_string();
    OF_TENANT.iter().any(|code| reply.contains(&format!("[{code}]")))
}

/// The submission of one message.
struct Trial<'a> {
    gatherer: &'a Gatherer<'a>,
    store: &'a Store,
    domain: &'a Domain,
    address: SocketAddr,
    connector: &'a TlsConnector,
}

impl Trial<'_> {
    /// A key that works for a minute at most.
    async fn create_key(&self, secret: &KeySecret) -> store::Result<KeyId> {
        let Self { gatherer, store, domain, .. } = self;
        let expires_at = gatherer.now.saturating_add(KEY_LIFETIME).ok();
        let new = NewKey {
            scopes: vec![Scope::SmtpSend],
            allowed_domain_ids: vec![domain.id],
            expires_at,
            ..NewKey::unrestricted(domain.tenant_id, "doctor", Environment::Test, secret)
        };
        Ok(store.create_key(new, gatherer.now).await?.id)
    }

    /// Returns the id in the last reply.
    async fn submit(&self, key: KeyId, secret: &KeySecret) -> io::Result<MessageId> {
        let (hostname, domain) = (&self.gatherer.config.hostname, &self.domain.name);
        let (stream, _) = listeners::secure(self.address, hostname, self.connector, true).await?;
        let mut stream = BufReader::new(stream);
        let login = BASE64_STANDARD.encode(format!("\0{key}\0{}", secret.expose()));
        let message = format!(
            "From: doctor@{domain}\r\nTo: doctor@{domain}\r\nSubject: doctor\r\n\r\nThe doctor of {hostname} submits this.\r\n."
        );
        for (line, code) in [
            (format!("EHLO {hostname}"), "250"),
            (format!("AUTH PLAIN {login}"), "235"),
            (format!("MAIL FROM:<doctor@{domain}>"), "250"),
            (format!("RCPT TO:<doctor@{domain}>"), "250"),
            ("DATA".to_owned(), "354"),
        ] {
            stream.write_all(format!("{line}\r\n").as_bytes()).await?;
            expect(&mut stream, code).await?;
        }
        stream.write_all(format!("{message}\r\n").as_bytes()).await?;
        let accepted = expect(&mut stream, "250").await?;
        // What follows is a courtesy.
        let _ = stream.write_all(b"QUIT\r\n").await;
        let id = accepted.first().and_then(|line| line.rsplit(' ').next()?.parse().ok());
        id.ok_or_else(|| io::Error::other("the reply to the message has no id"))
    }

    /// Whether receivers find the signature of the message valid.
    async fn verify(&self, id: MessageId) -> Seen<bool> {
        let content = match self.store.content(id, self.gatherer.now).await {
            Ok(Some(content)) => content.to_vec(),
            Ok(None) => return Seen::Failed("the message was deleted meanwhile".to_owned()),
            Err(error) => return Seen::Failed(error.to_string()),
        };
        self.gatherer.lookups.verifies(&content, &self.domain.name).await
    }
}
