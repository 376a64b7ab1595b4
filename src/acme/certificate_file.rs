//! The file with the private key and the chain: one file, because two cannot be replaced at once.

use std::path::{Path, PathBuf};

use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::error::AcmeError;
use super::renewal::Life;
use crate::config::Config;
use crate::durable_file;
use crate::mail::{DomainName, Timestamp};
use crate::tls::{self, Leaf, TlsError};

const DIRECTORY: &str = "acme";
const FILE: &str = "certificate.pem";
/// The first line of the file names the directory of the authority. Text before a PEM block has no other meaning
/// (RFC 7468 §2).
const ISSUED_BY: &str = "Issued by ";

/// A certificate for all names.
pub(super) struct Held {
    pub life: Life,
    /// The certificate without its chain.
    pub leaf: CertificateDer<'static>,
}

/// The file of a certificate for some names, from the authority with this directory.
#[derive(Clone)]
pub(super) struct CertificateFile {
    pub path: PathBuf,
    pub names: Vec<DomainName>,
    pub directory: String,
}

/// The file with the certificate; it may not exist yet.
pub fn certificate_file(data_dir: &Path) -> PathBuf {
    data_dir.join(DIRECTORY).join(FILE)
}

/// The file, if the configuration uses ACME and there is a certificate.
pub fn present_file(config: &Config) -> Option<PathBuf> {
    let file = certificate_file(&config.data_dir);
    (config.acme.enabled && file.exists()).then_some(file)
}

impl CertificateFile {
    /// The certificate in the file.
    ///
    /// # Errors
    /// It cannot be read or used, it is not for each name, or another authority has issued it.
    pub fn read(&self) -> Result<Held, TlsError> {
        let pem =
            std::fs::read(&self.path).map_err(|source| TlsError::Read { path: self.path.clone(), source })?;
        let line = pem.split(|&octet| octet == b'\n').next().unwrap_or_default();
        match line.strip_prefix(ISSUED_BY.as_bytes()) {
            Some(directory) if directory != self.directory.as_bytes() => {
                Err(self.content("another authority has issued it"))
            }
            _ => self.inspect(&pem),
        }
    }

    /// Puts a certificate that can be used now in place of the present one.
    pub fn replace(&self, pem: &str, now: Timestamp) -> Result<(), AcmeError> {
        let held = self.inspect(pem.as_bytes()).map_err(AcmeError::Certificate)?;
        if held.life.not_after <= now {
            return Err(AcmeError::Certificate(self.content("it has expired")));
        }
        let text = Zeroizing::new(format!("{ISSUED_BY}{}\n{pem}", self.directory));
        let folder = self.path.parent().unwrap_or(&self.path);
        durable_file::create_directory(folder, 0o700)
            .and_then(|()| durable_file::replace(&self.path, 0o600, text.as_bytes()))
            .map_err(|source| AcmeError::Write { path: self.path.clone(), source })
    }

    fn inspect(&self, pem: &[u8]) -> Result<Held, TlsError> {
        let certificate = tls::parse_with_key(&self.path, pem)?.swap_remove(0);
        let leaf = Leaf::parse(&certificate).map_err(|error| self.content(error))?;
        if let Some(name) = self.names.iter().find(|name| !leaf.is_for(name)) {
            return Err(self.content(format!("it is not for {name}")));
        }
        let (not_before, not_after) = leaf.validity();
        Ok(Held { life: Life { not_before, not_after }, leaf: certificate })
    }

    fn content(&self, message: impl ToString) -> TlsError {
        TlsError::Content { path: self.path.clone(), message: message.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn issued(names: &[&str], year: i32) -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut parameters = rcgen::CertificateParams::new(names).unwrap();
        parameters.not_after = rcgen::date_time_ymd(year, 1, 1);
        key.serialize_pem() + &parameters.self_signed(&key).unwrap().pem()
    }

    #[test]
    fn only_a_certificate_for_each_name_that_has_not_expired_replaces_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = certificate_file(dir.path());
        let names = ["a.example", "b.example"].map(|name| DomainName::parse(name).unwrap()).to_vec();
        let file = CertificateFile { path: path.clone(), names, directory: "https://ca.example/dir".into() };
        let now = "2030-06-01T00:00:00Z".parse().unwrap();
        let replace = |pem: &str| file.replace(pem, now).map_err(|error| error.to_string());
        let good = issued(&["a.example", "b.example"], 2031);
        replace(&good).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        let written = format!("Issued by https://ca.example/dir\n{good}");
        let other = issued(&["a.example", "b.example"], 2031);
        let mixed = format!(
            "{}{}",
            other.split_inclusive("-----END PRIVATE KEY-----\n").next().unwrap(),
            &good[good.find("-----BEGIN CERTIFICATE").unwrap()..]
        );
        for (pem, part) in [
            (issued(&["a.example"], 2031), "not for b.example"),
            (issued(&["a.example", "b.example"], 2030), "expired"),
            (mixed, "does not go with"),
            (String::new(), "no certificate"),
        ] {
            let error = replace(&pem).unwrap_err();
            assert!(error.contains(part), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), written);
        }
        assert_eq!(file.read().unwrap().life.not_after, "2031-01-01T00:00:00Z".parse().unwrap());
        let of_others = [
            CertificateFile { names: vec![DomainName::parse("c.example").unwrap()], ..file.clone() },
            CertificateFile { directory: "https://ca.example/di".into(), ..file.clone() },
        ];
        assert!(of_others.iter().all(|file| file.read().is_err()));
        // A file of an earlier version does not say who has issued it.
        std::fs::write(&path, good).unwrap();
        assert!(file.read().is_ok());
    }
}
