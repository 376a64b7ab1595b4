//! The server's certificate: loading, making one where there is none, and following changes; and the authorities that
//! other servers' certificates must lead to. A leaf.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::mail::DomainName;

/// What listeners take their TLS settings from, for each handshake anew.
pub type SharedServerConfig = Arc<ArcSwap<ServerConfig>>;

/// Why there is no usable certificate.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{path}: {message}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The TLS library refuses its own defaults.
    #[error("TLS: {0}")]
    Library(rustls::Error),
}

/// The files of a certificate, and the settings made from them.
pub struct Certificate {
    certificate: PathBuf,
    private_key: PathBuf,
    shared: SharedServerConfig,
}

impl Certificate {
    /// Loads a certificate chain and its key, both in PEM.
    pub fn load(certificate: &Path, private_key: &Path) -> Result<Self, TlsError> {
        let config = read_config(certificate, private_key)?;
        Ok(Self {
            certificate: certificate.to_owned(),
            private_key: private_key.to_owned(),
            shared: Arc::new(ArcSwap::from_pointee(config)),
        })
    }

    /// Loads the self-signed certificate of a directory, and makes it first if it is not there.
    pub fn load_or_make(directory: &Path, hostname: &DomainName) -> Result<Self, TlsError> {
        let certificate = directory.join("self-signed.crt");
        let private_key = directory.join("self-signed.key");
        if !certificate.exists() || !private_key.exists() {
            make_self_signed(&certificate, &private_key, hostname)?;
        }
        Self::load(&certificate, &private_key)
    }

    /// What listeners take.
    pub fn shared(&self) -> SharedServerConfig {
        self.shared.clone()
    }

    /// The certificate's file.
    pub fn path(&self) -> &Path {
        &self.certificate
    }

    /// Reads the files again. On an error the old certificate stays in use.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.shared.store(Arc::new(read_config(&self.certificate, &self.private_key)?));
        Ok(())
    }

    /// A value that changes when a file does: their times of modification and sizes.
    pub fn fingerprint(&self) -> Vec<Option<(std::time::SystemTime, u64)>> {
        [&self.certificate, &self.private_key]
            .into_iter()
            .map(|path| std::fs::metadata(path).ok().and_then(|m| Some((m.modified().ok()?, m.len()))))
            .collect()
    }
}

fn read_config(certificate: &Path, private_key: &Path) -> Result<ServerConfig, TlsError> {
    let content = |path: &Path, message: String| TlsError::Content { path: path.to_owned(), message };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&read(certificate)?)
        .collect::<Result<_, _>>()
        .map_err(|error| content(certificate, format!("not a certificate in PEM: {error}")))?;
    if chain.is_empty() {
        return Err(content(certificate, "holds no certificate in PEM".into()));
    }
    let key = PrivateKeyDer::from_pem_slice(&read(private_key)?)
        .map_err(|error| content(private_key, format!("not a private key in PEM: {error}")))?;
    // TLS 1.2 and 1.3 are all that rustls has, as RFC 8996 and RFC 9325 want.
    ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| content(certificate, format!("does not go with {}: {error}", private_key.display())))
}

/// The only crypto provider of the program.
pub fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The authorities that other servers' certificates must lead to: the system's and those in `ca_file` (PEM).
///
/// # Errors
/// [`TlsError`] if the file cannot be read or holds none.
pub fn trusted_roots(ca_file: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::warn!(%error, "cannot read some of the system's certificate authorities");
    }
    roots.add_parsable_certificates(system.certs);
    if let Some(path) = ca_file {
        let fault = |message: String| TlsError::Content { path: path.to_owned(), message };
        let before = roots.len();
        for certificate in CertificateDer::pem_slice_iter(&read(path)?) {
            let certificate = certificate.map_err(|error| fault(error.to_string()))?;
            roots.add(certificate).map_err(|error| fault(error.to_string()))?;
        }
        if roots.len() == before {
            return Err(fault("there is no certificate in it".into()));
        }
    }
    Ok(roots)
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

fn make_self_signed(certificate: &Path, private_key: &Path, hostname: &DomainName) -> Result<(), TlsError> {
    let names = [hostname.as_str(), "localhost", "127.0.0.1", "::1"].map(String::from);
    let made = rcgen::generate_simple_self_signed(names).map_err(|error| TlsError::Content {
        path: certificate.to_owned(),
        message: format!("cannot make a certificate for {hostname}: {error}"),
    })?;
    write_private(private_key, made.signing_key.serialize_pem().as_bytes())?;
    std::fs::write(certificate, made.cert.pem())
        .map_err(|source| TlsError::Write { path: certificate.to_owned(), source })
}

/// Writes a file that only its owner may read.
fn write_private(path: &Path, octets: &[u8]) -> Result<(), TlsError> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(octets))
        .map_err(|source| TlsError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> (tempfile::TempDir, Certificate) {
        let dir = tempfile::tempdir().unwrap();
        let made =
            Certificate::load_or_make(dir.path(), &DomainName::parse("mail.example.com").unwrap()).unwrap();
        (dir, made)
    }

    #[test]
    fn a_made_certificate_is_kept_and_its_key_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let (dir, first) = made();
        let before = std::fs::read(first.path()).unwrap();
        Certificate::load_or_make(dir.path(), &DomainName::parse("other.example").unwrap()).unwrap();
        assert_eq!(std::fs::read(first.path()).unwrap(), before);
        let mode = std::fs::metadata(dir.path().join("self-signed.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_bad_file_is_named_and_leaves_the_old_certificate_in_use() {
        let (_dir, certificate) = made();
        let before = certificate.shared().load_full();
        std::fs::write(certificate.path(), "nonsense").unwrap();
        let error = certificate.reload().unwrap_err().to_string();
        assert!(error.contains("self-signed.crt") && error.contains("no certificate"), "{error}");
        assert!(Arc::ptr_eq(&before, &certificate.shared().load_full()));
    }
}
