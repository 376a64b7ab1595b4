//! Certificates for servers in tests, and clients that trust exactly one of them.

use std::sync::Arc;

use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{
    ALL_VERSIONS, ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion,
};

pub struct Identity {
    pub certificate_pem: String,
    pub private_key_pem: String,
    certificate: CertificateDer<'static>,
    private_key: PrivateKeyDer<'static>,
}

impl Identity {
    pub fn new(names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).unwrap();
        Self {
            certificate_pem: cert.pem(),
            private_key_pem: KeyPair::serialize_pem(&signing_key),
            certificate: cert.der().clone(),
            private_key: PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap(),
        }
    }

    pub fn server_config(&self) -> Arc<ServerConfig> {
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], self.private_key.clone_key())
            .unwrap();
        Arc::new(config)
    }

    /// The certificate in a file, which exists as long as the returned value.
    pub fn certificate_file(&self) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &self.certificate_pem).unwrap();
        file
    }

    /// A client configuration that trusts only this certificate.
    pub fn client_config(&self) -> Arc<ClientConfig> {
        trust(self.certificate.clone(), ALL_VERSIONS)
    }
}

/// A client configuration that trusts only the first certificate in a PEM text.
pub fn trust_pem(pem: &str) -> Arc<ClientConfig> {
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    trust(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap(), ALL_VERSIONS)
}

/// A client configuration with these versions of TLS only.
pub fn trust_pem_with(pem: &str, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    trust(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap(), versions)
}

fn trust(
    certificate: CertificateDer<'static>,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}
