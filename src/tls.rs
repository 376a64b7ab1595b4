//! The server's certificate: loads it, generates a self-signed one if none exists, and reloads it. Also the certificate
//! authorities that verify other servers.

mod inspection;
mod leaf;
mod pinned;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::crypto::CryptoProvider;
use rustls::{CipherSuite, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use webpki::EndEntityCert;

use crate::durable_file;
use crate::mail::{DomainName, Timestamp};

pub use self::inspection::{Inspection, inspect};
pub use self::leaf::Leaf;
pub use self::pinned::pinned_client;

/// The TLS configuration of the listeners. They read it at each handshake, so that a reload takes effect.
pub type SharedServerConfig = Arc<ArcSwap<ServerConfig>>;

/// Why a certificate or the certificate authorities cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The content of a file is not usable.
    #[error("{path}: {message}")]
    Content {
        /// The file.
        path: PathBuf,
        /// The reason.
        message: String,
    },
    /// The TLS library rejects its configuration.
    #[error("TLS: {0}")]
    Library(rustls::Error),
}

impl TlsError {
    /// Whether a new certificate solves the problem: the content of a file is not usable, or a file is missing. An
    /// error of the operating system remains.
    fn is_solved_by_new_files(&self) -> bool {
        match self {
            Self::Content { .. } => true,
            Self::Read { source, .. } => source.kind() == io::ErrorKind::NotFound,
            Self::Write { .. } | Self::Library(_) => false,
        }
    }
}

/// Why the TLS connection of a client failed.
pub fn explain_client_error(error: &io::Error) -> String {
    use rustls::AlertDescription as Alert;
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return "the client closed the connection".to_owned();
    }
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(rustls::Error::InvalidMessage(_)) => "the client sent something other than TLS".to_owned(),
        Some(rustls::Error::PeerIncompatible(_)) => {
            "the client supports no TLS version, cipher suite or signature algorithm of the server".to_owned()
        }
        Some(rustls::Error::AlertReceived(alert)) => match alert {
            Alert::UnknownCA => "the client does not trust the issuer of the certificate".to_owned(),
            Alert::CertificateExpired => "the client refuses the certificate: it has expired".to_owned(),
            Alert::BadCertificate | Alert::UnsupportedCertificate | Alert::CertificateUnknown => {
                "the client refuses the certificate".to_owned()
            }
            // RFC 8446 §6 and IANA number them.
            other => format!("the client ended the connection with TLS alert {}", u8::from(*other)),
        },
        _ => error.to_string(),
    }
}

/// A certificate with its private key: the files, and the TLS configuration loaded from them.
pub struct Certificate {
    files: Mutex<Files>,
    shared: SharedServerConfig,
    /// See [`Certificate::expires_at`].
    expires_at: Mutex<Option<Timestamp>>,
}

/// The files in use. They may be one file.
#[derive(Clone)]
struct Files {
    certificate: PathBuf,
    private_key: PathBuf,
}

/// What the two files hold.
struct Loaded {
    config: ServerConfig,
    expires_at: Option<Timestamp>,
}

impl Certificate {
    /// Loads a certificate chain and its private key, both in PEM.
    ///
    /// # Errors
    /// [`TlsError`] if a file cannot be read or used, or the key does not match the certificate.
    pub fn load(certificate: &Path, private_key: &Path) -> Result<Self, TlsError> {
        let Loaded { config, expires_at } = load(certificate, private_key)?;
        Ok(Self {
            files: Mutex::new(Files::new(certificate, private_key)),
            shared: Arc::new(ArcSwap::from_pointee(config)),
            expires_at: Mutex::new(expires_at),
        })
    }

    /// Loads the self-signed certificate in a directory. A missing or unusable one is generated: the server owns these
    /// files, and the clients of an unusable certificate must trust a new one in any case.
    ///
    /// # Errors
    /// [`TlsError`] if the operating system cannot read or write a file.
    pub fn load_or_generate(directory: &Path, hostname: &DomainName) -> Result<Self, TlsError> {
        let certificate = directory.join("self-signed.crt");
        let private_key = directory.join("self-signed.key");
        match check_self_signed(&certificate, &private_key) {
            Ok(()) => {}
            Err(TlsError::Read { path, source })
                if source.kind() == io::ErrorKind::NotFound && path == certificate =>
            {
                generate_self_signed(&certificate, &private_key, hostname)?;
            }
            Err(error) if error.is_solved_by_new_files() => {
                tracing::warn!(%error, "the self-signed certificate cannot be used; generating a new one");
                generate_self_signed(&certificate, &private_key, hostname)?;
            }
            Err(error) => return Err(error),
        }
        Self::load(&certificate, &private_key)
    }

    /// The TLS configuration for listeners; [`Certificate::reload`] and [`Certificate::adopt`] update it.
    pub fn shared(&self) -> SharedServerConfig {
        self.shared.clone()
    }

    /// The certificate file.
    pub fn path(&self) -> PathBuf {
        self.files.lock().certificate.clone()
    }

    /// Reads the files again. If this fails, the old certificate stays in use.
    ///
    /// # Errors
    /// As [`Certificate::load`].
    pub fn reload(&self) -> Result<(), TlsError> {
        let mut files = self.files.lock();
        let same = files.clone();
        self.load_into(&mut files, same)
    }

    /// Uses other files from now on. If they cannot be used, those in use stay.
    ///
    /// # Errors
    /// As [`Certificate::load`].
    pub fn adopt(&self, certificate: &Path, private_key: &Path) -> Result<(), TlsError> {
        self.load_into(&mut self.files.lock(), Files::new(certificate, private_key))
    }

    /// The lock is held meanwhile, so that a slow reading of old files cannot replace newer ones.
    fn load_into(&self, files: &mut Files, new: Files) -> Result<(), TlsError> {
        let Loaded { config, expires_at } = load(&new.certificate, &new.private_key)?;
        *files = new;
        self.shared.store(Arc::new(config));
        *self.expires_at.lock() = expires_at;
        Ok(())
    }

    /// When the certificate in use expires, if that can be read in it.
    pub fn expires_at(&self) -> Option<Timestamp> {
        *self.expires_at.lock()
    }

    /// A value that changes when a file does: their times of modification and sizes.
    pub fn fingerprint(&self) -> Vec<Option<(std::time::SystemTime, u64)>> {
        let Files { certificate, private_key } = self.files.lock().clone();
        [certificate, private_key]
            .iter()
            .map(|path| std::fs::metadata(path).ok().and_then(|m| Some((m.modified().ok()?, m.len()))))
            .collect()
    }
}

impl Files {
    fn new(certificate: &Path, private_key: &Path) -> Self {
        Self { certificate: certificate.to_owned(), private_key: private_key.to_owned() }
    }
}

fn load(certificate: &Path, private_key: &Path) -> Result<Loaded, TlsError> {
    let chain = parse_chain(certificate, &read(certificate)?)?;
    let expires_at = chain.first().and_then(|leaf| Some(Leaf::parse(leaf).ok()?.validity().1));
    let config = pair((certificate, chain), (private_key, &read(private_key)?))?;
    Ok(Loaded { config, expires_at })
}

/// The certificate and its chain in a PEM text with its private key, if the two go together. `file` is where the text is.
///
/// # Errors
/// [`TlsError::Content`].
pub fn parse_with_key(file: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain = parse_chain(file, pem)?;
    pair((file, chain.clone()), (file, pem))?;
    Ok(chain)
}

fn parse_chain(file: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let content = |message: String| TlsError::Content { path: file.to_owned(), message };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| content(format!("not a certificate in PEM: {error}")))?;
    if chain.is_empty() {
        return Err(content("contains no certificate in PEM".into()));
    }
    Ok(chain)
}

/// The configuration of a certificate, and the private key in a PEM text, each with its file.
fn pair(
    (certificate, chain): (&Path, Vec<CertificateDer<'static>>),
    (private_key, pem): (&Path, &[u8]),
) -> Result<ServerConfig, TlsError> {
    let content = |path: &Path, message: String| TlsError::Content { path: path.to_owned(), message };
    let key = PrivateKeyDer::from_pem_slice(pem)
        .map_err(|error| content(private_key, format!("not a private key in PEM: {error}")))?;
    // TLS 1.2 and 1.3 are all that rustls has, as RFC 8996 and RFC 9325 want.
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| {
            content(certificate, format!("does not go with {}: {error}", private_key.display()))
        })?;
    // Most clients order their cipher suites by habit.
    config.ignore_client_order = true;
    // A client that resumes needs one ticket at a time: it gets a new one with each session.
    config.send_tls13_tickets = 1;
    Ok(config)
}

/// The crypto provider of all TLS connections. It prefers AES-128 with SHA-256: processors have instructions for SHA-256, and few
/// for the SHA-384 that goes with AES-256, of which a handshake computes dozens.
pub fn provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| !is_aes_128(suite.suite()));
    Arc::new(provider)
}

fn is_aes_128(suite: CipherSuite) -> bool {
    matches!(
        suite,
        CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
    )
}

/// The certificate authorities that verify other servers: the system's and those in `ca_file` (PEM).
///
/// # Errors
/// [`TlsError`] if the file cannot be read or contains no certificate.
pub fn trusted_roots(ca_file: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::warn!(%error, "cannot read some of the system's certificate authorities");
    }
    roots.add_parsable_certificates(system.certs);
    if let Some(path) = ca_file {
        add_roots(&mut roots, path)?;
    }
    Ok(roots)
}

/// The certificate authorities in a file (PEM), and no others.
///
/// # Errors
/// [`TlsError`] if the file cannot be read or contains no certificate.
pub fn roots_in(ca_file: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    add_roots(&mut roots, ca_file)?;
    Ok(roots)
}

fn add_roots(roots: &mut RootCertStore, path: &Path) -> Result<(), TlsError> {
    let fault = |message: String| TlsError::Content { path: path.to_owned(), message };
    let before = roots.len();
    for certificate in CertificateDer::pem_slice_iter(&read(path)?) {
        let certificate = certificate.map_err(|error| fault(error.to_string()))?;
        roots.add(certificate).map_err(|error| fault(error.to_string()))?;
    }
    if roots.len() == before {
        return Err(fault("contains no certificate in PEM".into()));
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

fn generate_self_signed(
    certificate: &Path,
    private_key: &Path,
    hostname: &DomainName,
) -> Result<(), TlsError> {
    let names = [hostname.as_str(), "localhost", "127.0.0.1", "::1"].map(String::from);
    let generated = rcgen::generate_simple_self_signed(names).map_err(|error| TlsError::Content {
        path: certificate.to_owned(),
        message: format!("cannot generate a certificate for {hostname}: {error}"),
    })?;
    write(private_key, 0o600, generated.signing_key.serialize_pem().as_bytes())?;
    write(certificate, 0o644, generated.cert.pem().as_bytes())
}

fn write(path: &Path, mode: u32, octets: &[u8]) -> Result<(), TlsError> {
    durable_file::replace(path, mode, octets)
        .map_err(|source| TlsError::Write { path: path.to_owned(), source })
}

/// Checks that the two files can be read, that they match, and that the certificate has not expired. A certificate that
/// is not valid yet passes: the clock of the machine may be behind.
fn check_self_signed(certificate: &Path, private_key: &Path) -> Result<(), TlsError> {
    load(certificate, private_key)?;
    let fault = |message: String| TlsError::Content { path: certificate.to_owned(), message };
    let der =
        CertificateDer::from_pem_slice(&read(certificate)?).map_err(|error| fault(error.to_string()))?;
    let parsed = EndEntityCert::try_from(&der).map_err(|error| fault(error.to_string()))?;
    let anchors = [webpki::anchor_from_trusted_cert(&der).map_err(|error| fault(error.to_string()))?];
    let verified = parsed.verify_for_usage(
        provider().signature_verification_algorithms.all,
        &anchors,
        &[],
        UnixTime::now(),
        webpki::KeyUsage::server_auth(),
        None,
        None,
    );
    match verified {
        Err(webpki::Error::CertExpired { .. }) => Err(fault("the certificate has expired".into())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use rustls::version::{TLS12, TLS13};

    use super::*;

    fn made() -> (tempfile::TempDir, Certificate) {
        let dir = tempfile::tempdir().unwrap();
        let made = Certificate::load_or_generate(dir.path(), &DomainName::parse("mail.example.com").unwrap())
            .unwrap();
        (dir, made)
    }

    #[test]
    fn a_failed_connection_of_a_client_is_explained_in_words() {
        let of =
            |error: rustls::Error| explain_client_error(&io::Error::new(io::ErrorKind::InvalidData, error));
        let alert = |alert| of(rustls::Error::AlertReceived(alert));
        for (text, expected) in [
            (explain_client_error(&io::ErrorKind::UnexpectedEof.into()), "the client closed the connection"),
            (
                of(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)),
                "the client sent something other than TLS",
            ),
            (
                of(rustls::Error::PeerIncompatible(rustls::PeerIncompatible::NoKxGroupsInCommon)),
                "the client supports no TLS version, cipher suite or signature algorithm of the server",
            ),
            (
                alert(rustls::AlertDescription::UnknownCA),
                "the client does not trust the issuer of the certificate",
            ),
            (
                alert(rustls::AlertDescription::HandshakeFailure),
                "the client ended the connection with TLS alert 40",
            ),
        ] {
            assert_eq!(text, expected);
        }
    }

    #[test]
    fn a_generated_certificate_is_kept_and_its_key_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let (dir, first) = made();
        let before = std::fs::read(first.path()).unwrap();
        Certificate::load_or_generate(dir.path(), &DomainName::parse("other.example").unwrap()).unwrap();
        assert_eq!(std::fs::read(first.path()).unwrap(), before);
        let mode = std::fs::metadata(dir.path().join("self-signed.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn an_unusable_self_signed_certificate_is_replaced() {
        let (dir, first) = made();
        let hostname = DomainName::parse("mail.example.com").unwrap();
        let private_key = dir.path().join("self-signed.key");
        let (good_certificate, good_key) =
            (std::fs::read(first.path()).unwrap(), std::fs::read(&private_key).unwrap());
        let other = rcgen::generate_simple_self_signed(["mail.example.com".into()]).unwrap();
        let half = &good_certificate[..good_certificate.len() / 2];
        let (expired, expired_key) = expired();
        for (what, certificate, key) in [
            ("empty", &b""[..], &b""[..]),
            ("no certificate", b"", &good_key),
            ("half a certificate", half, &good_key),
            ("half a key", &good_certificate, &good_key[..good_key.len() / 2]),
            ("the key of another", &good_certificate, other.signing_key.serialize_pem().as_bytes()),
            ("expired", expired.as_bytes(), expired_key.as_bytes()),
        ] {
            std::fs::write(first.path(), certificate).unwrap();
            std::fs::write(&private_key, key).unwrap();
            Certificate::load_or_generate(dir.path(), &hostname)
                .unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_ne!(std::fs::read(first.path()).unwrap(), certificate, "{what}");
        }
        std::fs::remove_file(&private_key).unwrap();
        Certificate::load_or_generate(dir.path(), &hostname).unwrap();
        assert!(private_key.exists());
    }

    #[test]
    fn a_self_signed_certificate_that_the_system_cannot_read_is_kept() {
        let (dir, first) = made();
        let private_key = dir.path().join("self-signed.key");
        std::fs::remove_file(&private_key).unwrap();
        std::fs::create_dir(&private_key).unwrap();
        let before = std::fs::read(first.path()).unwrap();
        let hostname = DomainName::parse("mail.example.com").unwrap();
        let opened = Certificate::load_or_generate(dir.path(), &hostname);
        assert!(matches!(opened.err(), Some(TlsError::Read { path, .. }) if path == private_key));
        assert_eq!(std::fs::read(first.path()).unwrap(), before);
    }

    fn expired() -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(["mail.example.com".into()]).unwrap();
        parameters.not_after = rcgen::date_time_ymd(2001, 1, 1);
        (parameters.self_signed(&key).unwrap().pem(), key.serialize_pem())
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

    #[test]
    fn the_expiry_is_that_of_the_certificate_in_use() {
        let (dir, certificate) = made();
        assert!(certificate.expires_at().unwrap() > Timestamp::now());
        let (expired, expired_key) = expired();
        std::fs::write(certificate.path(), expired).unwrap();
        std::fs::write(dir.path().join("self-signed.key"), expired_key).unwrap();
        certificate.reload().unwrap();
        assert_eq!(certificate.expires_at(), "2001-01-01T00:00:00Z".parse().ok());
    }

    /// The cipher suite of a handshake with a client that offers these, in its order.
    fn negotiate(server: &Certificate, offered: &[CipherSuite]) -> CipherSuite {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        let place = |suite: CipherSuite| offered.iter().position(|other| *other == suite);
        provider.cipher_suites.retain(|suite| place(suite.suite()).is_some());
        provider.cipher_suites.sort_by_key(|suite| place(suite.suite()));
        let version =
            if offered[0].as_str().is_some_and(|name| name.starts_with("TLS13")) { &TLS13 } else { &TLS12 };
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(server.path()).unwrap()).unwrap();
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = "mail.example.com".try_into().unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut server = rustls::ServerConnection::new(server.shared().load_full()).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            let mut octets = Vec::new();
            client.write_tls(&mut octets).unwrap();
            server.read_tls(&mut octets.as_slice()).unwrap();
            server.process_new_packets().unwrap();
            octets.clear();
            server.write_tls(&mut octets).unwrap();
            client.read_tls(&mut octets.as_slice()).unwrap();
            client.process_new_packets().unwrap();
        }
        client.negotiated_cipher_suite().unwrap().suite()
    }

    #[test]
    fn aes_128_is_chosen_whatever_the_client_prefers_and_another_suite_only_if_it_must() {
        use CipherSuite::{
            TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 as AES_128_1_2,
            TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 as AES_256_1_2, TLS13_AES_128_GCM_SHA256 as AES_128,
            TLS13_AES_256_GCM_SHA384 as AES_256, TLS13_CHACHA20_POLY1305_SHA256 as CHACHA20,
        };
        let (_dir, server) = made();
        for (offered, expected) in [
            (&[AES_256, CHACHA20, AES_128][..], AES_128),
            (&[AES_256_1_2, AES_128_1_2], AES_128_1_2),
            (&[AES_256], AES_256),
            (&[CHACHA20], CHACHA20),
        ] {
            assert_eq!(negotiate(&server, offered), expected, "{offered:?}");
        }
    }
}
