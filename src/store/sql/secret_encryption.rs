//! Encryption of stored secrets: AES-256-GCM with a master key that is not in the database. The associated data names
//! table, column and row, so that a value that was moved elsewhere cannot be decrypted.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use aws_lc_rs::hmac;
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use zeroize::Zeroizing;

use super::OpenError;
use super::sqlite::leftovers;
use super::sqlite::open::DATABASE_FILE;
use crate::durable_file;
use crate::store::{Result, StoreError};

const KEY_OCTETS: usize = 32;

/// Encrypts and decrypts with one master key.
pub(in crate::store) struct Sealer {
    key: RandomizedNonceKey,
    /// A key derived from the master key.
    digest_key: hmac::Key,
    /// The source of derived keys (HKDF, RFC 5869).
    prk: Prk,
}

/// The length of a derived key.
struct DerivedKey;

impl KeyType for DerivedKey {
    fn len(&self) -> usize {
        KEY_OCTETS
    }
}

/// The location of an encrypted value.
#[derive(Clone, Copy)]
pub(super) struct SealedColumn<'a> {
    /// `table.column`.
    pub(super) column: &'static str,
    /// The row's id.
    pub(super) row: &'a str,
}

impl SealedColumn<'_> {
    fn associated_data(self) -> String {
        format!("{}.{}", self.column, self.row)
    }
}

impl Sealer {
    fn new(key: &[u8; KEY_OCTETS]) -> Result<Self> {
        let digest_key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), b"pillarbox digest");
        let digest_key = hmac::Key::new(hmac::HMAC_SHA256, digest_key.as_ref());
        let prk = Salt::new(HKDF_SHA256, b"pillarbox").extract(key);
        RandomizedNonceKey::new(&AES_256_GCM, key)
            .map(|key| Self { key, digest_key, prk })
            .map_err(|_| StoreError::Failed("the master key cannot be used".into()))
    }

    /// A MAC of a text: 32 octets that cannot be predicted without the master key. Texts of different purposes, of which none
    /// may begin like another, never have the same.
    pub(super) fn digest(&self, purpose: &'static str, text: &str) -> Vec<u8> {
        hmac::sign(&self.digest_key, format!("{purpose} {text}").as_bytes()).as_ref().to_vec()
    }

    /// Names the master key without revealing it: the same for the same key.
    pub(super) fn fingerprint(&self) -> String {
        HEXLOWER.encode(&self.digest("fingerprint", "master key")[..8])
    }

    /// A key for another purpose, which `info` names.
    pub(super) fn derive(&self, info: &[&[u8]]) -> Result<Zeroizing<[u8; KEY_OCTETS]>> {
        let mut key = Zeroizing::new([0; KEY_OCTETS]);
        let derived = self.prk.expand(info, DerivedKey).and_then(|okm| okm.fill(&mut *key));
        derived.map_err(|_| StoreError::Failed("a key could not be derived".into()))?;
        Ok(key)
    }

    /// Nonce, ciphertext and tag.
    pub(super) fn seal(&self, place: SealedColumn<'_>, secret: &[u8]) -> Result<Vec<u8>> {
        let mut text = secret.to_vec();
        let nonce = self
            .key
            .seal_in_place_append_tag(Aad::from(place.associated_data()), &mut text)
            .map_err(|_| StoreError::Failed("a secret could not be encrypted".into()))?;
        Ok([nonce.as_ref().as_slice(), &text].concat())
    }

    /// The secret; an error if it was encrypted with another key, for another location, or was modified.
    pub(super) fn open(&self, place: SealedColumn<'_>, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let fault =
            || StoreError::Failed(format!("the encrypted value of {} cannot be decrypted", place.column));
        let (nonce, text) = sealed.split_at_checked(NONCE_LEN).ok_or_else(fault)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| fault())?;
        let mut text = Zeroizing::new(text.to_vec());
        let length = self
            .key
            .open_in_place(nonce, Aad::from(place.associated_data()), &mut text)
            .map_err(|_| fault())?
            .len();
        text.truncate(length);
        Ok(text)
    }
}

/// The file with the master key: 64 hexadecimal digits and a newline.
pub(in crate::store) struct MasterKeyFile {
    path: PathBuf,
    /// Whether the operator named it: then it is never created.
    named: bool,
}

impl MasterKeyFile {
    pub(in crate::store) fn new(named: Option<PathBuf>, data_dir: &Path) -> Self {
        match named {
            Some(path) => Self { path, named: true },
            None => Self { path: data_dir.join("master.key"), named: false },
        }
    }

    /// The path, if the file is created together with the database.
    pub(super) fn made_here(&self) -> Option<&Path> {
        (!self.named).then_some(&self.path)
    }

    /// Checks that a file that the operator named exists. A new key cannot decrypt the secrets of an existing database.
    pub(super) fn require_named(&self, database_is_new: bool) -> std::result::Result<(), OpenError> {
        if !self.named || self.exists()? {
            return Ok(());
        }
        Err(if database_is_new {
            self.fault("the file does not exist; make it with: openssl rand -hex 32")
        } else {
            self.is_missing()
        })
    }

    /// Reads the key. Creates the file if `may_create`, it is absent and the operator did not name it.
    pub(super) fn load(&self, may_create: bool) -> std::result::Result<Sealer, OpenError> {
        if !self.exists()? {
            if self.named || !may_create {
                return Err(self.is_missing());
            }
            self.create().map_err(|error| self.fault(error))?;
        }
        self.check_mode()?;
        let text = std::fs::read_to_string(&self.path).map(Zeroizing::new);
        let text = text.map_err(|error| self.fault(error))?;
        let key = parse_key(text.trim_end())
            .ok_or_else(|| self.fault("expected 64 hexadecimal digits in one line"))?;
        Sealer::new(&key).map_err(|error| self.fault(error))
    }

    fn exists(&self) -> std::result::Result<bool, OpenError> {
        self.path.try_exists().map_err(|error| self.fault(error))
    }

    fn is_missing(&self) -> OpenError {
        self.fault(
            "the file is missing, and only it decrypts the secrets in the database; restore it from its backup, or name \
             its place with master_key_file in the file of --config",
        )
    }

    /// The error for a key that does not match the database.
    pub(super) fn is_another(&self) -> OpenError {
        self.fault("this is not the key of the database; restore the right one")
    }

    fn fault(&self, message: impl ToString) -> OpenError {
        OpenError::MasterKey { path: self.path.clone(), message: message.to_string() }
    }

    /// Creates the file. Of two processes that start at the same time, both use the key of the first one.
    fn create(&self) -> std::io::Result<()> {
        let key: Zeroizing<[u8; KEY_OCTETS]> = Zeroizing::new(rand::random());
        let digits = Zeroizing::new(HEXLOWER.encode(&*key));
        match durable_file::create(&self.path, 0o600, &[digits.as_bytes(), b"\n"]) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            created => created,
        }
    }

    fn check_mode(&self) -> std::result::Result<(), OpenError> {
        match durable_file::find_exposure(&self.path).map_err(|error| self.fault(error))? {
            Some(exposure) => Err(self.fault(exposure)),
            None => Ok(()),
        }
    }
}

/// Checks the file with the master key of a data directory: the one that the operator named, or the one that was created
/// with the database.
///
/// # Errors
/// [`OpenError::MasterKey`].
pub fn check_master_key(named: Option<&Path>, data_dir: &Path) -> std::result::Result<(), OpenError> {
    let key_file = MasterKeyFile::new(named.map(Path::to_owned), data_dir);
    let database = data_dir.join(DATABASE_FILE);
    let is_new = leftovers::is_missing(&database)
        .map_err(|error| key_file.fault(format!("cannot look for {}: {error}", database.display())))?;
    key_file.require_named(is_new)?;
    if is_new && !key_file.named {
        return Ok(());
    }
    key_file.load(false).map(drop)
}

/// The fingerprint of the master key in a file, to compare with the one that a backup names.
///
/// # Errors
/// [`OpenError::MasterKey`].
pub fn master_key_fingerprint(file: &Path) -> std::result::Result<String, OpenError> {
    Ok(load_master_key(file)?.fingerprint())
}

/// Reads the master key in a file.
pub(super) fn load_master_key(file: &Path) -> std::result::Result<Sealer, OpenError> {
    MasterKeyFile { path: file.to_owned(), named: true }.load(false)
}

fn parse_key(digits: &str) -> Option<Zeroizing<[u8; KEY_OCTETS]>> {
    let octets = Zeroizing::new(HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok()?);
    <[u8; KEY_OCTETS]>::try_from(octets.as_slice()).ok().map(Zeroizing::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_value_opens_only_under_its_key_and_in_its_place() {
        let sealer = Sealer::new(&[7; 32]).unwrap();
        let place = SealedColumn { column: "tenant.smart_host_password", row: "tnt_1" };
        let sealed = sealer.seal(place, b"secret").unwrap();
        assert_eq!(&sealer.open(place, &sealed).unwrap()[..], b"secret");
        assert_ne!(sealed, sealer.seal(place, b"secret").unwrap());
        assert!(sealer.open(SealedColumn { row: "tnt_2", ..place }, &sealed).is_err());
        assert!(sealer.open(SealedColumn { column: "dkim_key.private_key", ..place }, &sealed).is_err());
        assert!(Sealer::new(&[8; 32]).unwrap().open(place, &sealed).is_err());
        assert!(sealer.open(place, &sealed[..11]).is_err());
        let mut changed = sealed;
        changed[13] ^= 1;
        assert!(sealer.open(place, &changed).is_err());
    }

    #[test]
    fn a_key_is_64_hexadecimal_digits_and_nothing_else() {
        let key: [u8; KEY_OCTETS] = std::array::from_fn(|i| (i * 9) as u8);
        let digits = HEXLOWER.encode(&key);
        assert_eq!(*parse_key(&digits).unwrap(), key);
        assert_eq!(*parse_key(&digits.to_uppercase()).unwrap(), key);
        for other in [String::new(), digits[2..].to_owned(), digits + "00", "g".repeat(64), "é".repeat(32)] {
            assert!(parse_key(&other).is_none(), "{other}");
        }
    }
}
