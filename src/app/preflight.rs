//! What a start needs beside the store: `check-config` checks it, and a new process before the old one stops.

use super::{StartError, open_files};
use crate::config::{Config, comes_with_the_service};
use crate::dns::Resolver;
use crate::rng::Rng;
use crate::store::{Access, StoreOptions, check_master_key};
use crate::tls::{Certificate, TlsError, trusted_roots};
use crate::{relay, returns, tls_report};

/// Checks the limits and the files that a configuration names, without changing anything. Leaves out the credentials of a
/// service that does not run.
///
/// # Errors
/// [`StartError`], with the option that is wrong.
pub fn check(config: &Config) -> Result<(), StartError> {
    open_files::fit(config, open_files::raise())?;
    check_certificate(config)?;
    let key_file = config.master_key_file.as_deref();
    if !key_file.is_some_and(comes_with_the_service) {
        check_master_key(key_file, &config.data_dir).map_err(StartError::MasterKey)?;
    }
    let has_password = config.store.password_file.as_deref().is_none_or(|file| !comes_with_the_service(file));
    if has_password {
        StoreOptions::new(config, Access::Manage)?;
    }
    Resolver::new(&config.relay.name_servers, Rng::system())?;
    relay::check(&config.relay)?;
    let ca_file = config.acme.ca_file.as_deref().filter(|_| config.acme.enabled);
    trusted_roots(ca_file).map_err(StartError::Acme)?;
    trusted_roots(config.webhooks.ca_file.as_deref()).map_err(StartError::Webhooks)?;
    tls_report::check(&config.tls_report).map_err(StartError::TlsReport)?;
    let forward = config.inbound.forward.as_ref().filter(|_| config.inbound.is_enabled());
    forward.map(returns::check_forward).transpose().map_err(StartError::Forward)?;
    Ok(())
}

/// A certificate by ACME that cannot be read is ordered anew, and a self-signed one is made.
fn check_certificate(config: &Config) -> Result<(), TlsError> {
    match (&config.tls.certificate, &config.tls.private_key) {
        (Some(certificate), Some(private_key)) if !comes_with_the_service(certificate) => {
            Certificate::load(certificate, private_key).map(drop)
        }
        _ => Ok(()),
    }
}
