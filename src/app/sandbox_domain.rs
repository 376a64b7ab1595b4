//! The sandbox domain: keys may send from it without DNS records of their own, live keys to confirmed inboxes only.

use super::StartError;
use crate::blocking;
use crate::clock::Clock;
use crate::dkim::GenerateKey;
use crate::mail::DomainName;
use crate::model::{DkimAlgorithm, DkimKeyState, Verification};
use crate::store::{Directory, NewDkimKey, NewDomain, Store, StoreError};
use crate::submission::SANDBOX_LABEL;

/// Creates the domain if it does not exist.
pub async fn ensure(
    store: &Store,
    hostname: &DomainName,
    clock: &Clock,
    generate_key: GenerateKey,
) -> Result<(), StartError> {
    let fail = |error: &dyn std::fmt::Display| StartError::Sandbox(error.to_string());
    let name = DomainName::parse(&format!("{SANDBOX_LABEL}.{hostname}")).map_err(|error| fail(&error))?;
    let known: Result<_, StoreError> = store.sandbox_domain(&name).await;
    if known.map_err(|error| fail(&error))?.is_some() {
        return Ok(());
    }
    let pair = blocking::run(move || generate_key(DkimAlgorithm::Rsa))
        .await
        .map_err(|error| fail(&error))?
        .map_err(|error| fail(&error))?;
    let new = NewDomain {
        tenant_id: None,
        name,
        verification: Verification::Manual,
        subdomains: false,
        ownership_token: format!("{:032x}", rand::random::<u128>()),
        dkim_keys: vec![NewDkimKey {
            selector: "sandbox".into(),
            algorithm: pair.algorithm,
            state: DkimKeyState::Active,
            public_key: pair.public_key,
            private_key: pair.private_key,
        }],
    };
    store.ensure_sandbox_domain(new, clock.now()).await.map_err(|error| fail(&error))?;
    Ok(())
}
