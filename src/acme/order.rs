//! One order: from the names to the chain.

use std::time::Duration;

use instant_acme::{
    Account, AuthorizationState, AuthorizationStatus, CertificateIdentifier, ChallengeType, Error,
    Identifier, NewOrder, Order, OrderStatus,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use zeroize::Zeroizing;

use super::Acme;
use super::challenge_listener::ChallengeListener;
use super::error::{AcmeError, shown};
use super::nonce::again;
use super::persist::{self, PersistRecord};
use crate::config::AcmeChallenge;
use crate::mail::DomainName;

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
    let mut order = place(acme, account, replaced).await?;
    let mut names = Names { acme, account, listener: None, proof: None };
    names.prove(&mut order).await?;
    let is_proved = |status: OrderStatus| {
        matches!(status, OrderStatus::Ready | OrderStatus::Processing | OrderStatus::Valid)
    };
    wait_until(acme, &mut order, is_proved).await?;
    let challenge = names.proof.map(Proof::name);
    drop(names);
    let (key, request) = make_request(&acme.parts.names)?;
    again!(order.finalize_csr(&request).await)?;
    wait_until(acme, &mut order, |status: OrderStatus| status == OrderStatus::Valid).await?;
    let chain = again!(order.certificate().await)?;
    let chain = chain.ok_or_else(|| AcmeError::Authority("the authority has no certificate".into()))?;
    Ok(Issued { pem: Zeroizing::new(format!("{}\n{chain}", key.trim_end())), challenge })
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
            // RFC 9773 §5: it is a hint, which the authority may not know, or not for this certificate.
            Err(error) => tracing::debug!(%error, "the order does not say which certificate it replaces"),
        }
    }
    Ok(again!(account.new_order(&new(None)).await)?)
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
            return Err(explain(order).await);
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
async fn explain(order: &mut Order) -> AcmeError {
    let own = order.state().error.clone();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if again!(authorization.refresh().await.map(|_| ())).is_err() {
            continue;
        }
        let failed = authorization.challenges.iter().find_map(|challenge| challenge.error.as_ref());
        if let Some(problem) = failed {
            return AcmeError::refused(problem, Some(&authorization.identifier().to_string()));
        }
    }
    match own {
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
    async fn prove(&mut self, order: &mut Order) -> Result<(), AcmeError> {
        // The order keeps what was fetched, so a refused nonce costs one request.
        for index in 0..order.state().authorizations.len() {
            again!(fetch(order, index).await)?;
        }
        self.note_records(order).await?;
        let mut authorizations = order.authorizations();
        while let Some(found) = authorizations.next().await {
            let mut authorization = found?;
            let name = authorization.identifier().to_string();
            match authorization.status {
                AuthorizationStatus::Valid => continue,
                AuthorizationStatus::Pending => {}
                other => {
                    return Err(AcmeError::Authority(shown(&format!(
                        "the authorization of {name} is {other:?}"
                    ))));
                }
            }
            let proof = self.choose(&authorization, &name).await?;
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
            state.challenge_listener = Some(opened.as_ref().map(|_| ()).map_err(ToString::to_string));
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
            if wanted != AcmeChallenge::Http && !self.can_use_http(&authorization) {
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

    /// `dns-persist-01` only if its record is there, so that a published half never keeps a certificate from being issued.
    async fn choose(&self, authorization: &AuthorizationState, name: &str) -> Result<Proof, AcmeError> {
        let wanted = self.acme.parts.settings.challenge;
        let can_use_http = self.can_use_http(authorization);
        if wanted != AcmeChallenge::Http
            && let Some(record) = self.record_of(authorization)
        {
            if self.is_published(&record).await {
                return Ok(Proof::DnsPersist);
            }
            if !can_use_http {
                return Err(AcmeError::Record { value: record.value(), name: record.name });
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
                AcmeChallenge::Auto => "auto",
                AcmeChallenge::Http => Proof::Http.name(),
                AcmeChallenge::DnsPersist => Proof::DnsPersist.name(),
            },
        })
    }

    fn can_use_http(&self, authorization: &AuthorizationState) -> bool {
        let settings = &self.acme.parts.settings;
        settings.challenge != AcmeChallenge::DnsPersist
            && !settings.http_listen.is_empty()
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

    async fn is_published(&self, record: &PersistRecord) -> bool {
        let parts = &self.acme.parts;
        record.is_published(&parts.resolver.without_cache(), parts.clock.now()).await
    }
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
