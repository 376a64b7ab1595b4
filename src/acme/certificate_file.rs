//! The file with the private key and the chain: one file, because two cannot be replaced at once.

use std::path::{Path, PathBuf};

use rustls_pki_types::{CertificateDer, ServerName};
use webpki::EndEntityCert;

use super::error::AcmeError;
use super::renewal::Life;
use crate::config::Config;
use crate::durable_file;
use crate::mail::{DomainName, Timestamp};
use crate::tls::{self, TlsError};

const DIRECTORY: &str = "acme";
const FILE: &str = "certificate.pem";

/// A certificate for all names.
pub(super) struct Held {
    pub life: Life,
    /// The certificate without its chain.
    pub leaf: CertificateDer<'static>,
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

/// The certificate in the file.
///
/// # Errors
/// It cannot be read or used, or it is not for each name.
pub(super) fn read(data_dir: &Path, names: &[DomainName]) -> Result<Held, TlsError> {
    let file = certificate_file(data_dir);
    let pem = std::fs::read(&file).map_err(|source| TlsError::Read { path: file.clone(), source })?;
    inspect(&file, &pem, names)
}

/// Puts a certificate that can be used now in place of the present one.
pub(super) fn replace(
    data_dir: &Path,
    names: &[DomainName],
    pem: &str,
    now: Timestamp,
) -> Result<(), AcmeError> {
    let file = certificate_file(data_dir);
    let held = inspect(&file, pem.as_bytes(), names).map_err(AcmeError::Certificate)?;
    if held.life.not_after <= now {
        return Err(AcmeError::Certificate(content(&file, "it has expired")));
    }
    durable_file::create_directory(&data_dir.join(DIRECTORY), 0o700)
        .and_then(|()| durable_file::replace(&file, 0o600, pem.as_bytes()))
        .map_err(|source| AcmeError::Write { path: file, source })
}

fn inspect(file: &Path, pem: &[u8], names: &[DomainName]) -> Result<Held, TlsError> {
    let leaf = tls::parse_with_key(file, pem)?.swap_remove(0);
    let parsed = EndEntityCert::try_from(&leaf).map_err(|error| content(file, error))?;
    for name in names {
        let server = ServerName::try_from(name.as_str()).map_err(|error| content(file, error))?;
        if parsed.verify_is_valid_for_subject_name(&server).is_err() {
            return Err(content(file, format!("it is not for {name}")));
        }
    }
    let (_, parsed) = x509_parser::parse_x509_certificate(&leaf).map_err(|error| content(file, error))?;
    let at = |seconds| Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX);
    let validity = parsed.validity();
    let life = Life {
        not_before: at(validity.not_before.timestamp()),
        not_after: at(validity.not_after.timestamp()),
    };
    Ok(Held { life, leaf })
}

fn content(file: &Path, message: impl ToString) -> TlsError {
    TlsError::Content { path: file.to_owned(), message: message.to_string() }
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
        let names = ["a.example", "b.example"].map(|name| DomainName::parse(name).unwrap());
        let now = "2030-06-01T00:00:00Z".parse().unwrap();
        let replace = |pem: &str| replace(dir.path(), &names, pem, now).map_err(|error| error.to_string());
        let good = issued(&["a.example", "b.example"], 2031);
        let file = certificate_file(dir.path());
        replace(&good).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
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
            assert_eq!(std::fs::read_to_string(&file).unwrap(), good);
        }
        let held = read(dir.path(), &names).unwrap();
        assert_eq!(held.life.not_after, "2031-01-01T00:00:00Z".parse().unwrap());
        assert!(read(dir.path(), &[DomainName::parse("c.example").unwrap()]).is_err());
    }
}
