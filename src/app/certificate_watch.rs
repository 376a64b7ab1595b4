//! Loads the certificate of the server at the start, and again when its files change.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::acme;
use crate::config::Config;
use crate::mail::Timestamp;
use crate::tls::{self, Certificate, TlsError};

/// How often the certificate's files are checked for changes.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// Loads the configured certificate, or the self-signed one in the data directory.
pub fn load(config: &Config) -> Result<Certificate, TlsError> {
    match (&config.tls.certificate, &config.tls.private_key) {
        (Some(path), Some(private_key)) => {
            let certificate = Certificate::load(path, private_key)?;
            let now = Timestamp::now();
            // A certificate that cannot be looked into may work all the same.
            let found = tls::inspect(path, private_key, &config.hostname, now);
            for fault in found.iter().flat_map(|found| found.find_faults(&config.hostname, now)) {
                tracing::warn!("{} {fault}, so mail clients refuse it", path.display());
            }
            Ok(certificate)
        }
        _ if config.acme.enabled => load_acme(config),
        _ => {
            tracing::warn!(
                "tls.certificate is not set: using a self-signed certificate, which mail clients refuse"
            );
            Certificate::load_or_generate(&config.data_dir, &config.hostname)
        }
    }
}

/// Loads the certificate that came by ACME. Until there is a usable one, the server has a self-signed one: the next order
/// replaces a damaged file, so it must not keep the server from starting.
fn load_acme(config: &Config) -> Result<Certificate, TlsError> {
    let Some(file) = acme::present_file(config) else {
        tracing::info!("no certificate by ACME yet: using a self-signed one until the first order succeeds");
        return Certificate::load_or_generate(&config.data_dir, &config.hostname);
    };
    Certificate::load(&file, &file).or_else(|error| {
        tracing::error!(%error, "the certificate by ACME cannot be used: using a self-signed one until it is ordered anew");
        Certificate::load_or_generate(&config.data_dir, &config.hostname)
    })
}

/// Reloads the certificate when its files have changed, until `stop`.
pub async fn run(certificate: Arc<Certificate>, stop: CancellationToken) {
    let mut seen = certificate.fingerprint();
    let mut checks = tokio::time::interval(CHECK_INTERVAL);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = checks.tick() => {}
        }
        let found = certificate.fingerprint();
        if found == seen {
            continue;
        }
        seen = found;
        match certificate.reload() {
            Ok(()) => tracing::info!(path = %certificate.path().display(), "certificate reloaded"),
            Err(error) => tracing::error!(%error, "cannot reload the certificate; the old one stays in use"),
        }
    }
}
