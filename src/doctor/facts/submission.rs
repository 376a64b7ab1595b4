//! A message that the doctor submits to its own server, with a test key, so that it ends in the sandbox.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio_rustls::TlsConnector;

use super::listeners::{self, PROXIED, expect};
use super::{Gatherer, NO_SERVER, Seen, Server, SubmissionFacts};
use crate::mail::{DomainName, SignedDuration};
use crate::model::{DomainStatus, Environment, KeyId, KeySecret, MessageId, Scope};
use crate::store::{Directory, Domain, DomainFilter, NewKey, PageRequest, Spool, Store};

const NOT_ASKED: &str = "not asked for; --send submits one message to the sandbox";
const NO_DOMAIN: &str = "no domain of a tenant is verified";
const NO_LISTENER: &str = "there is no listener of submission with STARTTLS";
/// The time for the dialogue.
const DIALOGUE_TIMEOUT: Duration = Duration::from_secs(20);
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
        Seen::Value(domain) => domain,
        other => return other.absent(),
    };
    let result = match submit(gatherer, store, &domain, *address, &connector).await {
        Ok(message) => Ok(verify(gatherer, store, &domain.name, message).await),
        Err(reason) => Err(reason),
    };
    Seen::Value(SubmissionFacts { domain: domain.name, result })
}

/// The newest verified domain of a tenant.
async fn verified_domain(store: &Store) -> Seen<Domain> {
    let filter = DomainFilter { status: Some(DomainStatus::Verified), ..DomainFilter::default() };
    match store.list_domains(filter, PageRequest { limit: 10, ..PageRequest::default() }).await {
        Ok(page) => {
            let of_tenant = page.items.into_iter().find(|domain| domain.tenant_id.is_some());
            of_tenant.map_or(Seen::NotAsked(NO_DOMAIN), Seen::Value)
        }
        Err(error) => Seen::Failed(error.to_string()),
    }
}

/// Submits a message with a key that works for a minute at most.
async fn submit(
    gatherer: &Gatherer<'_>,
    store: &Store,
    domain: &Domain,
    address: SocketAddr,
    connector: &TlsConnector,
) -> Result<MessageId, String> {
    let secret = KeySecret::generate(Environment::Test);
    let expires_at = gatherer.now.saturating_add(KEY_LIFETIME).ok();
    let new = NewKey {
        scopes: vec![Scope::SmtpSend],
        allowed_domain_ids: vec![domain.id],
        expires_at,
        ..NewKey::unrestricted(domain.tenant_id, "doctor", Environment::Test, &secret)
    };
    let key = store.create_key(new, gatherer.now).await.map_err(|error| error.to_string())?.id;
    let hostname = &gatherer.config.hostname;
    let dialogue = async {
        let (stream, _) = listeners::secure(address, hostname, connector, true).await?;
        send(BufReader::new(stream), hostname, &domain.name, key, &secret).await
    };
    let sent = tokio::time::timeout(DIALOGUE_TIMEOUT, dialogue).await;
    if let Err(error) = store.revoke_key(key, gatherer.now).await {
        tracing::warn!(%error, %key, "cannot revoke the key of the doctor, which expires within a minute");
    }
    sent.map_err(|_| "the server did not answer in time".to_owned())?.map_err(|error| error.to_string())
}

/// The dialogue after STARTTLS. Returns the id in the last reply.
async fn send(
    mut stream: BufReader<impl AsyncRead + AsyncWrite + Unpin>,
    hostname: &DomainName,
    domain: &DomainName,
    key: KeyId,
    secret: &KeySecret,
) -> io::Result<MessageId> {
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
async fn verify(gatherer: &Gatherer<'_>, store: &Store, domain: &DomainName, id: MessageId) -> Seen<bool> {
    let content = match store.content(id, gatherer.now).await {
        Ok(Some(content)) => content.to_vec(),
        Ok(None) => return Seen::Failed("the message was deleted meanwhile".to_owned()),
        Err(error) => return Seen::Failed(error.to_string()),
    };
    gatherer.lookups.verifies(&content, domain).await
}
