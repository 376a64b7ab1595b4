//! One order: from the names to the chain.

use std::sync::atomic::Ordering;
use std::time::Duration;

use instant_acme::{
    Account, AuthorizationState, AuthorizationStatus, CertificateIdentifier, ChallengeType, Error,
    Identifier, NewOrder, Order, OrderStatus,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use zeroize::Zeroizing;

use super::Acme;
use super::challenge_listener::ChallengeListener;
use super::error::{AcmeError, kind_of, shown};
use super::nonce::again;
use super::persist::{self, PersistRecord};
use super::transport::TransportError;
use crate::config::AcmeChallenge;
use crate::mail::DomainName;

/// The time of a whole order.
const ORDER_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// The time in which the authority decides.
const DECISION_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// The first pause between two questions, and the longest one.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(8);

/// A certificate that the authority has issued.
pub(super) struct Issued {
    /// Its private key and its chain.
    pub pem: Zeroizing<String>,
    /// How the names were proved; `None` if the authority still knew.
    pub challenge: Option<&'static str>,
}

/// A way to prove a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    Http,
    DnsPersist,
}

impl Proof {
    const fn name(self) -> &'static str {
        match self {
            Self::Http => "http-01",
            Self::DnsPersist => persist::CHALLENGE_TYPE,
        }
    }

    fn challenge_type(self) -> ChallengeType {
        match self {
            Self::Http => ChallengeType::Http01,
            // The library has no name for it.
            Self::DnsPersist => ChallengeType::Unknown(persist::CHALLENGE_TYPE.to_owned()),
        }
    }
}

/// Orders a certificate for the names of the configuration.
pub(super) async fn run(
    acme: &Acme,
    account: &Account,
    replaced: Option<CertificateIdentifier<'static>>,
) -> Result<Issued, AcmeError> {
    tokio::select! {
        ended = complete(acme, account, replaced) => ended,
        () = acme.parts.clock.sleep(ORDER_TIMEOUT) => Err(AcmeError::Endless),
    }
}

async fn complete(
    acme: &Acme,
    account: &Account,
    replaced: Option<CertificateIdentifier<'static>>,
) -> Result<Issued, AcmeError> {
    let mut order = place(acme, account, replaced).await?;
    let challenge = prove(acme, account, &mut order).await?.map(Proof::name);
    let (key, request) = make_request(&acme.parts.names)?;
    again!(order.finalize_csr(&request).await)?;
    wait_until(acme, &mut order, |status: OrderStatus| status == OrderStatus::Valid).await?;
    let chain = again!(order.certificate().await)?;
    let chain = chain.ok_or_else(|| AcmeError::Authority("the authority has no certificate".into()))?;
    Ok(Issued { pem: Zeroizing::new(format!("{}\n{chain}", key.trim_end())), challenge })
}

/// Proves the names of the order, which is ready then. Returns how; `None` if the authority still knew.
async fn prove(acme: &Acme, account: &Account, order: &mut Order) -> Result<Option<Proof>, AcmeError> {
    let mut names = Names { acme, account, listener: None, proof: None };
    let is_proved = |status: OrderStatus| {
        matches!(status, OrderStatus::Ready | OrderStatus::Processing | OrderStatus::Valid)
    };
    let mut proved = names.answer(order).await;
    if proved.is_ok() {
        proved = wait_until(acme, order, is_proved).await;
    }
    let has_record_failed = proved.is_err() && names.proof == Some(Proof::DnsPersist);
    acme.record_failed.store(has_record_failed, Ordering::Relaxed);
    proved.map(|()| names.proof)
}

async fn place(
    acme: &Acme,
    account: &Account,
    replaced: Option<CertificateIdentifier<'static>>,
) -> Result<Order, AcmeError> {
    let names: Vec<_> = acme.parts.names.iter().map(|name| Identifier::Dns(name.to_string())).collect();
    let new = |replaced: Option<CertificateIdentifier<'static>>| {
        let mut new = NewOrder::new(&names);
        if let Some(profile) = &acme.parts.settings.profile {
            new = new.profile(profile);
        }
        if let Some(replaced) = replaced {
            new = new.replaces(replaced);
        }
        new
    };
    if replaced.is_some() {
        match again!(account.new_order(&new(replaced.clone())).await) {
            Ok(order) => return Ok(order),
            Err(error) if is_about_replacing(&error) => {
                tracing::debug!(%error, "the order does not say which certificate it replaces");
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(again!(account.new_order(&new(None)).await)?)
}

/// Whether an order failed because of the certificate that it replaces. That is a hint (RFC 9773 §5), which the authority may
/// not know, or not for this certificate, or not from this account.
fn is_about_replacing(error: &Error) -> bool {
    const KINDS: [&str; 4] = ["alreadyReplaced", "malformed", "unauthorized", ""];
    match error {
        Error::Api(problem) => KINDS.contains(&kind_of(problem)),
        // The library refuses an order that does not repeat the hint.
        Error::Other(error) => !error.is::<TransportError>(),
        Error::Unsupported(_) => true,
        _ => false,
    }
}

/// The private key in PEM and the request for these names. The key exists nowhere else until the certificate is there.
fn make_request(names: &[DomainName]) -> Result<(Zeroizing<String>, Vec<u8>), AcmeError> {
    let key = KeyPair::generate().map_err(AcmeError::Key)?;
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut parameters = CertificateParams::new(names).map_err(AcmeError::Key)?;
    parameters.distinguished_name = DistinguishedName::new();
    let request = parameters.serialize_request(&key).map_err(AcmeError::Key)?;
    Ok((Zeroizing::new(key.serialize_pem()), request.der().to_vec()))
}

/// Asks until the order has such a status.
async fn wait_until(
    acme: &Acme,
    order: &mut Order,
    is_reached: impl Fn(OrderStatus) -> bool,
) -> Result<(), AcmeError> {
    let clock = &acme.parts.clock;
    let end = clock.instant() + DECISION_TIMEOUT;
    let mut pause = PAUSE_MIN;
    loop {
        let status = again!(order.refresh().await.map(|state| state.status))?;
        if status == OrderStatus::Invalid {
            return Err(explain(acme, order).await);
        }
        if is_reached(status) {
            return Ok(());
        }
        if clock.instant() >= end {
            return Err(AcmeError::Timeout);
        }
        clock.sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Why the authority did not accept an order: what it says about the first challenge that failed.
async fn explain(acme: &Acme, order: &mut Order) -> AcmeError {
    // The library has forgotten the authorizations when it asked for the order.
    if fetch_all(acme, order).await.is_ok() {
        let mut authorizations = order.authorizations();
        while let Some(Ok(authorization)) = authorizations.next().await {
            let failed = authorization.challenges.iter().find_map(|challenge| challenge.error.as_ref());
            if let Some(problem) = failed {
                return AcmeError::refused(problem, Some(&authorization.identifier().to_string()));
            }
        }
    }
    match order.state().error.clone() {
        Some(problem) => AcmeError::refused(&problem, None),
        None => AcmeError::Authority("the authority did not accept the order and does not say why".into()),
    }
}

/// Proves the names of an order.
struct Names<'a> {
    acme: &'a Acme,
    account: &'a Account,
    listener: Option<ChallengeListener>,
    /// The last proof.
    proof: Option<Proof>,
}

impl Names<'_> {
    /// Answers a challenge for each name that the authority does not know yet.
    async fn answer(&mut self, order: &mut Order) -> Result<(), AcmeError> {
        fetch_all(self.acme, order).await?;
        self.note_records(order).await?;
        let proofs = self.choose_all(order).await?;
        let mut authorizations = order.authorizations();
        for proof in proofs {
            let Some(found) = authorizations.next().await else { break };
            let (mut authorization, Some(proof)) = (found?, proof) else { continue };
            let name = authorization.identifier().to_string();
            if proof == Proof::Http {
                self.open_listener().await?;
            }
            let Some(mut challenge) = authorization.challenge(proof.challenge_type()) else { continue };
            if let Some(listener) = self.listener.as_ref().filter(|_| proof == Proof::Http) {
                listener.answer(&challenge.token, challenge.key_authorization().as_str());
            }
            self.proof = Some(proof);
            again!(challenge.set_ready().await).map_err(|error| match error {
                Error::Api(problem) => AcmeError::refused(&problem, Some(&name)),
                other => other.into(),
            })?;
        }
        Ok(())
    }

    async fn open_listener(&mut self) -> Result<(), AcmeError> {
        if self.listener.is_some() {
            return Ok(());
        }
        let parts = &self.acme.parts;
        let opened = ChallengeListener::open(&parts.settings.http_listen, parts.public_url.clone()).await;
        self.acme.change(|state| {
            state.challenge_listener = Some(opened.as_ref().map(|_| ()).map_err(Clone::clone));
        });
        self.listener = Some(opened?);
        Ok(())
    }

    /// Publishes in the state which records dns-persist-01 needs, as the authority says in its challenges, and those of them
    /// without which there is no other way.
    async fn note_records(&self, order: &mut Order) -> Result<(), AcmeError> {
        let wanted = self.acme.parts.settings.challenge;
        let (mut records, mut needed) = (Vec::new(), Vec::new());
        let mut authorizations = order.authorizations();
        while let Some(found) = authorizations.next().await {
            let authorization = found?;
            let Some(record) = self.record_of(&authorization) else { continue };
            records.push((record.name.clone(), record.value()));
            // What the authority still knows needs none.
            let is_open = authorization.status == AuthorizationStatus::Pending;
            if is_open && wanted != AcmeChallenge::Http && !self.can_use_http(&authorization) {
                needed.push(record);
            }
        }
        self.acme.change(|state| {
            state.needed_records = needed;
            state.challenge_listener = None;
            if !records.is_empty() {
                state.records = records;
            }
        });
        Ok(())
    }

    /// The proof of each name; `None` for one that the authority still knows. All names that lack a record are named together.
    async fn choose_all(&self, order: &mut Order) -> Result<Vec<Option<Proof>>, AcmeError> {
        let (mut proofs, mut missing) = (Vec::new(), Vec::new());
        let mut authorizations = order.authorizations();
        while let Some(found) = authorizations.next().await {
            let authorization = found?;
            let name = authorization.identifier().to_string();
            match authorization.status {
                AuthorizationStatus::Valid => proofs.push(None),
                AuthorizationStatus::Pending => match self.choose(&authorization, &name).await {
                    Err(AcmeError::Records(records)) => missing.extend(records),
                    chosen => proofs.push(Some(chosen?)),
                },
                other => {
                    let text = format!("the authorization of {name} is {other:?}");
                    return Err(AcmeError::Authority(shown(&text)));
                }
            }
        }
        if missing.is_empty() { Ok(proofs) } else { Err(AcmeError::Records(missing)) }
    }

    /// `dns-persist-01` only if its record is there, so that a published half never keeps a certificate from being issued.
    /// Nor does a record that we see and the authority does not: after it has failed, `http-01` comes first once.
    async fn choose(&self, authorization: &AuthorizationState, name: &str) -> Result<Proof, AcmeError> {
        let wanted = self.acme.parts.settings.challenge;
        let can_use_http = self.can_use_http(authorization);
        if can_use_http && self.acme.record_failed.load(Ordering::Relaxed) {
            return Ok(Proof::Http);
        }
        if wanted != AcmeChallenge::Http
            && let Some(record) = self.record_of(authorization)
        {
            if self.acme.is_published(&record).await {
                return Ok(Proof::DnsPersist);
            }
            if !can_use_http {
                return Err(AcmeError::Records(vec![record]));
            }
        }
        if can_use_http {
            return Ok(Proof::Http);
        }
        let offered: Vec<String> =
            authorization.challenges.iter().map(|one| type_name(&one.r#type)).collect();
        Err(AcmeError::NoChallenge {
            name: name.to_owned(),
            offered: shown(&offered.join(", ")),
            wanted: match wanted {
                AcmeChallenge::Auto if self.acme.parts.settings.http_listen.is_empty() => {
                    "auto, without an address in acme.http_listen"
                }
                AcmeChallenge::Auto => "auto",
                AcmeChallenge::Http => Proof::Http.name(),
                AcmeChallenge::DnsPersist => Proof::DnsPersist.name(),
            },
        })
    }

    fn can_use_http(&self, authorization: &AuthorizationState) -> bool {
        !self.acme.parts.settings.challenge_listeners().is_empty()
            && authorization.challenges.iter().any(|one| one.r#type == ChallengeType::Http01)
    }

    /// The record for dns-persist-01, if the authority offers that and says who it is.
    fn record_of(&self, authorization: &AuthorizationState) -> Option<PersistRecord> {
        let wanted = Proof::DnsPersist.challenge_type();
        let offered = authorization.challenges.iter().find(|one| one.r#type == wanted)?;
        let offered = self.acme.transport.persist_challenge(&offered.url)?;
        let issuers = match offered.issuers.is_empty() {
            true => self.acme.transport.identities(),
            false => offered.issuers,
        };
        let account_url = offered.account_url.as_deref().unwrap_or(self.account.id());
        PersistRecord::new(&authorization.identifier().to_string(), issuers, account_url)
    }
}

/// Fetches the authorizations of the order. It keeps what was fetched, so a refused nonce costs one request.
async fn fetch_all(acme: &Acme, order: &mut Order) -> Result<(), AcmeError> {
    let count = order.state().authorizations.len();
    if count > acme.parts.names.len() {
        return Err(AcmeError::Authority("the order has more authorizations than names".into()));
    }
    for index in 0..count {
        again!(fetch(order, index).await)?;
    }
    Ok(())
}

/// Fetches the authorization at a place of the order.
async fn fetch(order: &mut Order, index: usize) -> Result<(), Error> {
    let mut authorizations = order.authorizations();
    for _ in 0..=index {
        if let Some(found) = authorizations.next().await {
            found?;
        }
    }
    Ok(())
}

fn type_name(kind: &ChallengeType) -> String {
    match kind {
        ChallengeType::Http01 => "http-01".to_owned(),
        ChallengeType::Dns01 => "dns-01".to_owned(),
        ChallengeType::TlsAlpn01 => "tls-alpn-01".to_owned(),
        ChallengeType::Unknown(name) => name.clone(),
        other => format!("{other:?}"),
    }
}
