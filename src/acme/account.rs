//! The account at the authority. It is stored before anything is ordered: with dns-persist-01 it is the right to certificates.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use instant_acme::{Account, AccountBuilder, AccountCredentials, ExternalAccountKey, NewAccount};
use zeroize::Zeroizing;

use super::error::AcmeError;
use super::nonce::again;
use super::transport::Transport;
use super::{AcmeDependencies, blocking};
use crate::config;
use crate::store::{AcmeAccount, AcmeAccounts};

/// The stored account, or a new one.
pub(super) async fn open(parts: &AcmeDependencies, transport: &Transport) -> Result<Account, AcmeError> {
    match restore(parts, transport).await? {
        Some(account) => Ok(account),
        None => create(parts, transport).await,
    }
}

/// The stored account.
pub(super) async fn restore(
    parts: &AcmeDependencies,
    transport: &Transport,
) -> Result<Option<Account>, AcmeError> {
    let Some(stored) = parts.store.acme_account(parts.settings.directory.to_string()).await? else {
        return Ok(None);
    };
    let Ok(credentials) = serde_json::from_slice::<AccountCredentials>(&stored.credentials) else {
        tracing::warn!(account = %stored.account_url, "the ACME account cannot be read; making a new one");
        return Ok(None);
    };
    Ok(Some(builder(transport).from_credentials(credentials).await?))
}

/// A new account in place of the stored one.
pub(super) async fn create(parts: &AcmeDependencies, transport: &Transport) -> Result<Account, AcmeError> {
    let contact = parts.settings.contact.as_ref().map(|contact| format!("mailto:{contact}"));
    let contact: Vec<&str> = contact.as_deref().into_iter().collect();
    let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let settings = parts.settings.clone();
    let binding = blocking(move || external_account(&settings)).await?;
    let directory = parts.settings.directory.to_string();
    let made = again!(builder(transport).create(&new, directory.clone(), binding.as_ref()).await);
    let (account, credentials) = made?;
    let credentials = serde_json::to_vec(&credentials).map(Zeroizing::new);
    let credentials = credentials.map_err(|error| AcmeError::Authority(error.to_string()))?;
    let account_url = account.id().to_owned();
    tracing::info!(account = %account_url, %directory, "made an ACME account");
    let stored = AcmeAccount { directory, account_url, credentials };
    parts.store.store_acme_account(stored, parts.clock.now()).await?;
    Ok(account)
}

fn builder(transport: &Transport) -> AccountBuilder {
    Account::builder_with_http(Box::new(transport.clone()))
}

/// The key that binds the account to one outside of ACME (RFC 8555 §7.3.4).
///
/// # Errors
/// [`AcmeError::BindingKey`].
pub(super) fn external_account(settings: &config::Acme) -> Result<Option<ExternalAccountKey>, AcmeError> {
    let (Some(id), Some(path)) = (&settings.eab_key_id, &settings.eab_key_file) else { return Ok(None) };
    let fault = |reason: String| AcmeError::BindingKey { path: path.clone(), reason };
    let text = std::fs::read_to_string(path).map(Zeroizing::new).map_err(|error| fault(error.to_string()))?;
    let key = BASE64_URL_SAFE_NO_PAD.decode(text.trim().trim_end_matches('='));
    let key = key.map(Zeroizing::new).map_err(|_| fault("the key must be in base64url".into()))?;
    Ok(Some(ExternalAccountKey::new(id.clone(), &key)))
}
