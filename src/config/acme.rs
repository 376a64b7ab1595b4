//! The table `[acme]`.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use serde::Deserialize;
use url::Url;

use super::Tls;
use super::error::InvalidOption;
use crate::mail::{Address, DomainName};

const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// Names that one certificate may have; authorities allow 100.
const NAMES_MAX: usize = 100;

/// `[acme]`: certificates from an authority (RFC 8555).
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Acme {
    /// Whether the server gets its certificate itself.
    pub enabled: bool,
    /// The mail address that the authority may write to.
    pub contact: Option<String>,
    /// The directory of the authority.
    pub directory: Url,
    /// How the server proves that the names are its own.
    pub challenge: AcmeChallenge,
    /// Listeners for http-01; none if it must not be used.
    pub http_listen: Vec<SocketAddr>,
    /// The names of the certificate; `hostname` if empty.
    pub names: Vec<DomainName>,
    /// A profile of the authority.
    pub profile: Option<String>,
    /// External account binding (RFC 8555 §7.3.4): the id of the key, and the file with the key in base64url.
    pub eab_key_id: Option<String>,
    /// See `eab_key_id`.
    pub eab_key_file: Option<PathBuf>,
    /// PEM file of certificate authorities for the directory, besides the system's.
    pub ca_file: Option<PathBuf>,
}

/// How the server proves that a name is its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum AcmeChallenge {
    /// `dns-persist-01` if the authority offers it and its record is in the DNS, else `http-01`.
    #[serde(rename = "auto")]
    Auto,
    /// A file that the authority gets from port 80.
    #[serde(rename = "http-01")]
    Http,
    /// A record that is set once.
    #[serde(rename = "dns-persist-01")]
    DnsPersist,
}

impl Default for Acme {
    fn default() -> Self {
        Self {
            enabled: false,
            contact: None,
            directory: Url::parse(LETS_ENCRYPT).unwrap_or_else(|_| unreachable!("it is a URL")),
            challenge: AcmeChallenge::Auto,
            http_listen: vec![SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 80)],
            names: Vec::new(),
            profile: None,
            eab_key_id: None,
            eab_key_file: None,
            ca_file: None,
        }
    }
}

impl Acme {
    /// The names of the certificate.
    pub fn names(&self, hostname: &DomainName) -> Vec<DomainName> {
        if self.names.is_empty() { vec![hostname.clone()] } else { self.names.clone() }
    }

    /// The listeners for http-01 that an order may open.
    pub fn challenge_listeners(&self) -> &[SocketAddr] {
        match self.challenge {
            AcmeChallenge::Auto | AcmeChallenge::Http if self.enabled => &self.http_listen,
            _ => &[],
        }
    }

    pub(super) fn find_invalid(&self, tls: &Tls, hostname: &DomainName) -> Option<InvalidOption> {
        let of = |key, message: &'static str| Some(InvalidOption::new(key, message));
        if self.enabled && tls.certificate.is_some() {
            return of("acme.enabled", "must be false while tls.certificate names a certificate");
        }
        if self.enabled && !self.names(hostname).iter().all(DomainName::is_fully_qualified) {
            return of("acme.names", "must be fully qualified names; without them, hostname must be one");
        }
        if self.enabled && !self.names.is_empty() && !self.names.contains(hostname) {
            return of(
                "acme.names",
                "must have the hostname too, because mail clients refuse a certificate without it",
            );
        }
        if self.names.len() > NAMES_MAX {
            return of("acme.names", "must have at most 100 names");
        }
        let has_user = !self.directory.username().is_empty() || self.directory.password().is_some();
        if self.directory.scheme() != "https" || has_user {
            return of("acme.directory", "must be an https URL without user and password");
        }
        if !self.contact.as_deref().is_none_or(is_contact) {
            return of("acme.contact", "must be a mail address");
        }
        if self.eab_key_id.is_some() != self.eab_key_file.is_some() {
            return of("acme.eab_key_file", "must be set together with acme.eab_key_id");
        }
        if self.challenge == AcmeChallenge::Http && self.http_listen.is_empty() {
            return of("acme.http_listen", "must have an address, because http-01 needs one");
        }
        None
    }
}

/// Whether an authority may take it as a contact (RFC 8555 §7.3): a mail address in ASCII at a domain.
fn is_contact(text: &str) -> bool {
    Address::parse(text).is_ok_and(|address| !address.needs_smtputf8() && address.domain().is_some())
}
