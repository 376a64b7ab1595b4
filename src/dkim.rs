//! DKIM (RFC 6376, RFC 8463): key pairs and signatures, based on mail-auth. Imports `mail` and `model`.

use std::{fmt, iter};

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mail_auth::common::crypto::{
    Algorithm, DkimKey, Ed25519Key, HashContext, HashImpl, HashOutput, RsaKey, Sha256, SigningKey,
};
use mail_auth::common::headers::{HeaderWriter, Writable, Writer};
use mail_auth::dkim::{Canonicalization, DkimSigner};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;
use zeroize::Zeroizing;

use crate::mail::{Content, DomainName, Field, HeaderBlock};
use crate::model::{DkimAlgorithm, DkimPolicy};

/// The fields that are signed if the message has them.
const SIGNED_FIELDS: &[&str] = &[
    "From",
    "Sender",
    "Reply-To",
    "Subject",
    "Date",
    "Message-ID",
    "To",
    "Cc",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "In-Reply-To",
    "References",
    "List-Id",
    "List-Help",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
    "List-Subscribe",
    "List-Post",
    "List-Owner",
    "List-Archive",
    // RFC 9477 §3.1.4: a complaint is proved by these.
    "CFBL-Address",
    "CFBL-Feedback-ID",
    "Feedback-ID",
];

/// RFC 8301 §3.2: verifiers may ignore smaller keys.
const RSA_BITS_MIN: usize = 2048;
/// Verifiers need not support larger keys (RFC 8301 §3.2), and a signature would take several milliseconds.
const RSA_BITS_MAX: usize = 4096;

/// Why there is no key or signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The text is not a private key in PEM.
    #[error("not a private key in PEM (PKCS#8 or PKCS#1)")]
    NotPem,
    /// A key type or size that DKIM or this server does not support.
    #[error("the key must be RSA of 2048 to 4096 bits, or Ed25519 in PKCS#8")]
    Unsuitable,
    /// The crypto library failed.
    #[error("signing failed: {0}")]
    Failed(String),
}

/// A DKIM key pair.
pub struct KeyPair {
    /// The signature algorithm.
    pub algorithm: DkimAlgorithm,
    /// The value of `p=` in the DNS record: base64.
    pub public_key: String,
    /// The private key as PKCS#8 DER.
    pub private_key: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

/// What generates key pairs: [`generate`], except in simulations, where RSA keys would take half of the CPU.
pub type GenerateKey = fn(DkimAlgorithm) -> Result<KeyPair, SignError>;

/// Generates a key pair. RSA takes about 80 ms of CPU.
pub fn generate(algorithm: DkimAlgorithm) -> Result<KeyPair, SignError> {
    match algorithm {
        DkimAlgorithm::Rsa => describe_rsa(&RsaKeyPair::generate(KeySize::Rsa2048).map_err(failed)?),
        DkimAlgorithm::Ed25519 => {
            let private_key = Ed25519Key::generate_pkcs8().map_err(failed)?;
            describe_ed25519(Zeroizing::new(private_key))
        }
    }
}

/// Parses a private key in PEM: RSA in PKCS#1 or PKCS#8, or Ed25519 in PKCS#8.
pub fn import_pem(text: &str) -> Result<KeyPair, SignError> {
    match PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| SignError::NotPem)? {
        PrivateKeyDer::Pkcs1(der) => {
            describe_rsa(&RsaKeyPair::from_der(der.secret_pkcs1_der()).map_err(|_| SignError::Unsuitable)?)
        }
        PrivateKeyDer::Pkcs8(der) => import_pkcs8(der.secret_pkcs8_der()),
        _ => Err(SignError::Unsuitable),
    }
}

/// Parses a private key in PKCS#8 DER: RSA or Ed25519.
pub fn import_pkcs8(der: &[u8]) -> Result<KeyPair, SignError> {
    match RsaKeyPair::from_pkcs8(der) {
        Ok(pair) => describe_rsa(&pair),
        Err(_) => describe_ed25519(Zeroizing::new(der.to_vec())),
    }
}

/// The TXT record that publishes a key (RFC 6376 §3.6.1).
pub fn public_record(algorithm: DkimAlgorithm, public_key: &str) -> String {
    let kind = match algorithm {
        DkimAlgorithm::Rsa => "rsa",
        DkimAlgorithm::Ed25519 => "ed25519",
    };
    format!("v=DKIM1; k={kind}; p={public_key}")
}

/// The length of an RSA key by the value of `p=` in its record, in bits; `None` if it is none.
pub fn rsa_bits(public_key: &str) -> Option<usize> {
    let der = STANDARD.decode(public_key).ok()?;
    let (_, info) = SubjectPublicKeyInfo::from_der(&der).ok()?;
    match info.parsed().ok()? {
        PublicKey::RSA(key) => Some(key.key_size()),
        _ => None,
    }
}

fn describe_rsa(pair: &RsaKeyPair) -> Result<KeyPair, SignError> {
    let bits = pair.public_modulus_len() * 8;
    if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
        return Err(SignError::Unsuitable);
    }
    let private: Pkcs8V1Der<'_> = pair.as_der().map_err(failed)?;
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(failed)?;
    Ok(KeyPair {
        algorithm: DkimAlgorithm::Rsa,
        public_key: STANDARD.encode(public.as_ref()),
        private_key: Zeroizing::new(private.as_ref().to_vec()),
    })
}

fn describe_ed25519(private_key: Zeroizing<Vec<u8>>) -> Result<KeyPair, SignError> {
    let key = Ed25519Key::from_pkcs8_maybe_unchecked_der(&private_key).map_err(|_| SignError::Unsuitable)?;
    // RFC 8463 §4.2: the raw 32 octets.
    Ok(KeyPair {
        algorithm: DkimAlgorithm::Ed25519,
        public_key: STANDARD.encode(key.public_key()),
        private_key,
    })
}

fn failed(error: impl fmt::Display) -> SignError {
    SignError::Failed(error.to_string())
}

/// Signs messages of one domain with one key.
pub struct Signer {
    key: BlankLineKey,
    domain: String,
    selector: String,
    is_quick: bool,
}

impl Signer {
    /// A signer with the private key of a [`KeyPair`].
    pub fn new(
        algorithm: DkimAlgorithm,
        private_key: &[u8],
        domain: &DomainName,
        selector: &str,
    ) -> Result<Self, SignError> {
        let mut is_quick = true;
        let key = match algorithm {
            DkimAlgorithm::Rsa => {
                let pair = RsaKeyPair::from_pkcs8(private_key).map_err(failed)?;
                is_quick = pair.public_modulus_len() * 8 <= RSA_BITS_MIN;
                let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(private_key));
                DkimKey::from(RsaKey::<Sha256>::from_key_der(der).map_err(failed)?)
            }
            DkimAlgorithm::Ed25519 => {
                DkimKey::from(Ed25519Key::from_pkcs8_maybe_unchecked_der(private_key).map_err(failed)?)
            }
        };
        Ok(Self {
            key: BlankLineKey(key),
            domain: domain.to_string(),
            selector: selector.to_owned(),
            is_quick,
        })
    }

    /// Whether a signature of a small message takes well below a millisecond.
    pub fn is_quick(&self) -> bool {
        self.is_quick
    }

    /// Returns the `DKIM-Signature` field of a message, with CRLF. Takes about 0.3 ms of CPU with RSA-2048. `oversigned` fields
    /// are listed once more than they are present, like From.
    pub fn sign(&self, content: &Content, oversigned: &[&'static str]) -> Result<String, SignError> {
        let signer = DkimSigner::from_key(&self.key)
            .domain(&self.domain)
            .selector(&self.selector)
            .headers(signed_fields(content, oversigned)?)
            .header_canonicalization(Canonicalization::Relaxed)
            .body_canonicalization(Canonicalization::Relaxed);
        // mail-auth takes an empty first piece as the end of the header.
        let pieces = [&content.prefix[..], &content.submitted[..]];
        let pieces = pieces.into_iter().filter(|piece| !piece.is_empty());
        Ok(signer.sign_chained(pieces).map_err(failed)?.to_header())
    }
}

/// The names of the fields to sign. An absent field is not signed, because a mailing list may add it. Only From is
/// listed once more than it is present, which prevents a second one (RFC 6376 §8.15), and so are the `oversigned` fields.
fn signed_fields(content: &Content, oversigned: &[&'static str]) -> Result<Vec<&'static str>, SignError> {
    let ours = HeaderBlock::scan(&content.prefix, usize::MAX).map_err(failed)?;
    let submitted = HeaderBlock::scan(&content.submitted, usize::MAX).map_err(failed)?;
    let is_present = |name: &&'static str| ours.named(name).chain(submitted.named(name)).next().is_some();
    let once_more = iter::once("From").chain(oversigned.iter().copied());
    Ok(once_more.chain(SIGNED_FIELDS.iter().copied().filter(is_present)).collect())
}

/// A key whose body hash ignores trailing blank lines. Relaxed canonicalization turns a last line of white space into
/// an empty line. RFC 6376 §3.4.4 ignores all empty lines at the end, but mail-auth 0.13 hashes them.
struct BlankLineKey(DkimKey);

impl SigningKey for &BlankLineKey {
    type Hasher = Sha256;

    fn sign(&self, input: impl Writable) -> mail_auth::Result<Vec<u8>> {
        self.0.sign(input)
    }

    fn hash(&self, body: impl Writable) -> HashOutput {
        let mut trimmed = TrimBlankLines { inner: Sha256::hasher(), held: 0, has_text: false };
        body.write(&mut trimmed);
        trimmed.finish()
    }

    fn algorithm(&self) -> Algorithm {
        self.0.algorithm()
    }
}

/// Writes a canonical body to `inner`. Line ends are written only when text follows them.
struct TrimBlankLines<W> {
    inner: W,
    /// Octets of the line ends that are not written yet.
    held: usize,
    has_text: bool,
}

impl<W: Writer> Writer for TrimBlankLines<W> {
    fn write(&mut self, octets: &[u8]) {
        let text_end = octets.iter().rposition(|b| !matches!(b, b'\r' | b'\n')).map_or(0, |at| at + 1);
        if text_end > 0 {
            self.release();
            self.inner.write(&octets[..text_end]);
            self.has_text = true;
        }
        self.held += octets.len() - text_end;
    }
}

impl<W: Writer> TrimBlankLines<W> {
    fn release(&mut self) {
        for _ in 0..self.held / 2 {
            self.inner.write(b"\r\n");
        }
        self.held = 0;
    }
}

impl<W: HashContext> TrimBlankLines<W> {
    fn finish(mut self) -> HashOutput {
        // RFC 6376 §3.4.4: a body with text ends with one CRLF; an empty body is hashed as no octets.
        if self.has_text {
            self.inner.write(b"\r\n");
        }
        self.inner.complete()
    }
}

/// Removes our signatures that the route's policy excludes, and keeps the client's. The remaining signatures stay
/// valid, because no signature covers another: `DKIM-Signature` is not a signed field (RFC 6376 §5.4).
pub fn filter_signatures(content: &Content, policy: DkimPolicy) -> Content {
    let keeps_rsa = match policy {
        DkimPolicy::All => return content.clone(),
        DkimPolicy::Rsa => true,
        DkimPolicy::None => false,
    };
    let is_dropped = |field: &Field| {
        let is_rsa = || has_algorithm(&content.prefix[field.value.clone()], DkimAlgorithm::Rsa);
        field.name.eq_ignore_ascii_case("DKIM-Signature") && !(keeps_rsa && is_rsa())
    };
    // The server wrote the prefix, so it is well formed.
    let block = HeaderBlock::scan(&content.prefix, usize::MAX);
    let fields = block.map(|block| block.fields).unwrap_or_default();
    if !fields.iter().any(is_dropped) {
        return content.clone();
    }
    let kept = fields.iter().filter(|field| !is_dropped(field));
    let prefix = kept.flat_map(|field| &content.prefix[field.span.clone()]).copied().collect::<Vec<u8>>();
    Content { prefix: prefix.into(), submitted: content.submitted.clone() }
}

/// Whether the tag `a=` of a signature names this algorithm (RFC 6376 §3.5).
fn has_algorithm(tags: &[u8], algorithm: DkimAlgorithm) -> bool {
    let tags = String::from_utf8_lossy(tags);
    let mut tags = tags.split(';').filter_map(|tag| tag.split_once('='));
    tags.any(|(name, value)| name.trim() == "a" && value.trim() == algorithm.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sha2::Digest;
    use std::sync::LazyLock;

    static KEY: LazyLock<KeyPair> = LazyLock::new(|| generate(DkimAlgorithm::Ed25519).unwrap());

    fn signer(pair: &KeyPair) -> Signer {
        let domain = DomainName::parse("example.com").unwrap();
        Signer::new(pair.algorithm, &pair.private_key, &domain, "s1").unwrap()
    }

    fn content(prefix: &str, submitted: &[u8]) -> Content {
        Content { prefix: prefix.to_owned().into(), submitted: submitted.to_vec().into() }
    }

    /// A literal implementation of RFC 6376 §3.4.4.
    fn relaxed_body(body: &[u8]) -> Vec<u8> {
        let mut lines: Vec<Vec<u8>> = body
            .strip_suffix(b"\r\n")
            .unwrap_or(body)
            .split(|&b| b == b'\n')
            .map(|line| {
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                let mut out: Vec<u8> = Vec::new();
                for &b in line {
                    match b {
                        b' ' | b'\t' if out.last() == Some(&b' ') => {}
                        b' ' | b'\t' => out.push(b' '),
                        _ => out.push(b),
                    }
                }
                if out.last() == Some(&b' ') {
                    out.pop();
                }
                out
            })
            .collect();
        while lines.last().is_some_and(Vec::is_empty) {
            lines.pop();
        }
        lines.iter().flat_map(|line| [line.as_slice(), b"\r\n"].concat()).collect()
    }

    fn body_hash(field: &str) -> String {
        let text: String = field.split_whitespace().collect();
        text.split("bh=").nth(1).unwrap().split(';').next().unwrap().to_owned()
    }

    proptest! {
        #[test]
        fn the_body_hash_follows_the_rfc_for_every_body(
            pieces in proptest::collection::vec(
                prop_oneof![Just("\r\n"), Just(" \r\n"), Just("\t"), Just(" "), Just("a"), Just("word more \r\n"), Just("."), Just("\u{c}"), Just("\u{b}"), Just("\u{1}")],
                0..20,
            )
        ) {
            let body = pieces.concat();
            let message = format!("From: a@example.com\r\n\r\n{body}");
            let field = signer(&KEY).sign(&content("", message.as_bytes()), &[]).unwrap();
            prop_assert_eq!(body_hash(&field), STANDARD.encode(sha2::Sha256::digest(relaxed_body(body.as_bytes()))));
        }
    }

    /// A literal implementation of RFC 6376 §3.4.2 for the value of a field.
    fn relaxed_value(value: &str) -> String {
        let unfolded = value.replace("\r\n", "");
        unfolded.split([' ', '\t']).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ") + "\r\n"
    }

    /// mail-auth takes other octets for white space than the RFC does. All that it would canonicalize wrongly are refused.
    #[test]
    fn every_accepted_octet_of_a_field_is_canonicalized_as_in_the_rfc() {
        let octets = (1..=0x7f).filter(|octet| !matches!(octet, b'\r' | b'\n'));
        for octet in octets.map(char::from) {
            let value = format!(" a{octet}b {octet} c\t{octet}\r\n {octet}d{octet}\r\n");
            if HeaderBlock::scan(format!("Subject:{value}").as_bytes(), usize::MAX).is_err() {
                continue;
            }
            let mut canonical = Collected::default();
            let fields = iter::once((&b"Subject"[..], value.as_bytes()));
            Canonicalization::Relaxed.canonicalize_headers(fields, &mut canonical);
            let expected = format!("subject:{}", relaxed_value(&value));
            assert_eq!(String::from_utf8_lossy(&canonical.0), expected, "{octet:?}");
        }
    }

    #[derive(Default)]
    struct Collected(Vec<u8>);

    impl Writer for Collected {
        fn write(&mut self, octets: &[u8]) {
            self.0.extend_from_slice(octets);
        }
    }

    #[test]
    fn the_fields_that_exist_are_signed_and_from_once_more() {
        let signed = content(
            "Date: x\r\nMessage-ID: <a@b>\r\n",
            b"From: a@example.com\r\nTo: b@c\r\nX-Other: y\r\nTO: d@c\r\n\r\nCc: x\r\n",
        );
        let field = signer(&KEY).sign(&signed, &[]).unwrap();
        let text: String = field.split_whitespace().collect();
        let names = text.split("h=").nth(1).unwrap().split(';').next().unwrap().to_lowercase();
        let mut names: Vec<&str> = names.split(':').collect();
        names.sort_unstable();
        assert_eq!(names, ["date", "from", "from", "message-id", "to", "to"]);
        let more = signer(&KEY).sign(&signed, &["To", "List-Unsubscribe"]).unwrap();
        let more: String = more.split_whitespace().collect();
        let names = more.split("h=").nth(1).unwrap().split(';').next().unwrap().to_lowercase();
        let count = |name: &str| names.split(':').filter(|signed| *signed == name).count();
        assert_eq!((count("to"), count("list-unsubscribe"), count("from")), (3, 1, 2), "{names}");
        assert!(!text.contains(";l=") && text.contains("c=relaxed/relaxed"), "{text}");
        assert!(field.ends_with("\r\n"));
    }

    #[test]
    fn a_stored_key_can_be_imported_and_other_key_types_are_refused() {
        let pair = generate(DkimAlgorithm::Rsa).unwrap();
        signer(&pair).sign(&content("", b"From: a@example.com\r\n\r\n"), &[]).unwrap();
        let pem = format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            STANDARD.encode(&*pair.private_key)
        );
        let read = import_pem(&pem).unwrap();
        assert_eq!((read.algorithm, read.public_key), (DkimAlgorithm::Rsa, pair.public_key));
        assert_eq!(import_pem("no key").unwrap_err(), SignError::NotPem);
        let ec = rcgen::KeyPair::generate().unwrap().serialize_pem();
        assert_eq!(import_pem(&ec).unwrap_err(), SignError::Unsuitable);
    }

    #[test]
    fn only_our_own_signatures_are_removed() {
        let ed = "DKIM-Signature: v=1; a=ed25519-sha256; d=a.b;\r\n\tb=AAAA\r\n";
        let rsa = "DKIM-Signature: v=1;\r\n a=rsa-sha256; d=a.b; b=BBBB;\r\n c=relaxed\r\n";
        let rest = "Received: by us\r\n\tfor DKIM-Signature: a=x\r\nDate: now\r\n";
        let submitted = "DKIM-Signature: a=ed25519-sha256; b=theirs\r\n\r\nbody\r\n";
        let content = Content { prefix: format!("{ed}{rsa}{rest}").into(), submitted: submitted.into() };
        for (policy, prefix) in [
            (DkimPolicy::All, format!("{ed}{rsa}{rest}")),
            (DkimPolicy::Rsa, format!("{rsa}{rest}")),
            (DkimPolicy::None, rest.to_owned()),
        ] {
            let filtered = filter_signatures(&content, policy);
            assert_eq!(filtered.to_vec(), format!("{prefix}{submitted}").into_bytes(), "{policy}");
        }
        assert_eq!(filter_signatures(&Content::default(), DkimPolicy::None), Content::default());
    }
}
