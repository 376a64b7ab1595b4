//! The secrets of a bundle, each encrypted to age recipients (<https://age-encryption.org/v1>), so that only the holder of an
//! identity can import them.

use std::io::{self, BufRead, Read, Write};
use std::str::FromStr;

use age::x25519::Recipient;
use age::{DecryptError, Decryptor, Encryptor, Identity, IdentityFile};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::store::{BundleObject, plain_secret, plain_value, secret_field};

/// The server computes one key agreement for each secret and recipient.
const RECIPIENTS_MAX: usize = 16;

/// Why the secret of an object is not encrypted or decrypted.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file with the identities cannot be read.
    #[error("the identity cannot be read: {0}")]
    Identity(#[from] io::Error),
    /// The file has comments only.
    #[error("the file has no identity, which is a line that begins with AGE-SECRET-KEY-1")]
    NoIdentity,
    /// The secret was encrypted to others.
    #[error(
        "the secrets of the bundle are not encrypted to this identity; import it with the identity of a recipient that the export named"
    )]
    OtherIdentity,
    /// The value is not what an export makes.
    #[error("the secret of {0} is damaged: {1}")]
    Damaged(String, String),
    /// The secret was not encrypted.
    #[error("a secret could not be encrypted: {0}")]
    NotEncrypted(String),
}

/// Who can decrypt the secrets of an export.
#[derive(Debug)]
pub struct SecretRecipients(Vec<Recipient>);

impl FromStr for SecretRecipients {
    type Err = String;

    /// Parses recipients that are separated by commas.
    fn from_str(text: &str) -> Result<Self, String> {
        let recipients = text.split(',').map(|recipient| recipient.trim().parse());
        match recipients.collect::<Result<Vec<_>, _>>() {
            Ok(recipients) if recipients.len() <= RECIPIENTS_MAX => Ok(Self(recipients)),
            _ => Err(format!(
                "this must be at most {RECIPIENTS_MAX} public keys of age, such as age1…, separated by commas"
            )),
        }
    }
}

impl SecretRecipients {
    /// Encrypts the plain secret of an object, if it has one.
    ///
    /// # Errors
    /// [`SecretError::NotEncrypted`].
    pub fn encrypt(&self, object: &mut BundleObject) -> Result<(), SecretError> {
        let Some(value) = secret_field(object).and_then(|field| object.get_mut(field)) else { return Ok(()) };
        let Some(secret) = plain_secret(value) else { return Ok(()) };
        let encrypted = self.encrypt_octets(&secret);
        let encrypted = encrypted.map_err(|error| SecretError::NotEncrypted(error.to_string()))?;
        *value = json!({ "age": BASE64_STANDARD.encode(encrypted) });
        Ok(())
    }

    fn encrypt_octets(&self, secret: &[u8]) -> io::Result<Vec<u8>> {
        let recipients = self.0.iter().map(|recipient| recipient as &dyn age::Recipient);
        let encryptor = Encryptor::with_recipients(recipients).map_err(io::Error::other)?;
        let mut encrypted = Vec::new();
        let mut writer = encryptor.wrap_output(&mut encrypted)?;
        writer.write_all(secret)?;
        writer.finish()?;
        Ok(encrypted)
    }
}

/// The private keys that decrypt the secrets of a bundle.
pub struct SecretIdentity(Vec<Box<dyn Identity + Send + Sync>>);

impl SecretIdentity {
    /// Reads a file as `age-keygen` writes it.
    ///
    /// # Errors
    /// [`SecretError`]; it never has a part of the file.
    pub fn read(file: impl BufRead) -> Result<Self, SecretError> {
        let identities = IdentityFile::from_buffer(file)?.into_identities().map_err(io::Error::other)?;
        if identities.is_empty() { Err(SecretError::NoIdentity) } else { Ok(Self(identities)) }
    }

    /// Decrypts the secret of an object; false if it has no encrypted one.
    ///
    /// # Errors
    /// [`SecretError::OtherIdentity`], [`SecretError::Damaged`].
    pub fn decrypt(&self, object: &mut BundleObject) -> Result<bool, SecretError> {
        let id = object.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
        let Some(value) = encrypted_secret(object) else { return Ok(false) };
        let damaged = |reason: &dyn ToString| SecretError::Damaged(id.clone(), reason.to_string());
        let encrypted = BASE64_STANDARD.decode(value).map_err(|error| damaged(&error))?;
        let decryptor = Decryptor::new_buffered(encrypted.as_slice()).map_err(|error| damaged(&error))?;
        let identities = self.0.iter().map(|identity| &**identity as &dyn Identity);
        let mut reader = decryptor.decrypt(identities).map_err(|error| match error {
            DecryptError::NoMatchingKeys => SecretError::OtherIdentity,
            error => damaged(&error),
        })?;
        let mut secret = Zeroizing::new(Vec::new());
        reader.read_to_end(&mut secret).map_err(|error| damaged(&error))?;
        if let Some(field) = secret_field(object) {
            object.insert(field.to_owned(), plain_value(&secret));
        }
        Ok(true)
    }
}

/// The encrypted secret of an object, in base64.
pub fn encrypted_secret(object: &BundleObject) -> Option<&str> {
    object.get(secret_field(object)?)?.get("age")?.as_str()
}

#[cfg(test)]
mod tests {
    use age::secrecy::ExposeSecret;
    use age::x25519;

    use super::*;

    fn webhook(secret: Value) -> BundleObject {
        let object =
            json!({"object": "webhook", "id": "whk_1", "url": "https://a.example/", "secret": secret});
        object.as_object().cloned().unwrap()
    }

    fn identity_file(identity: &x25519::Identity) -> String {
        format!("# created by a test\n{}\n", identity.to_string().expose_secret())
    }

    fn read(identity: &x25519::Identity) -> SecretIdentity {
        SecretIdentity::read(identity_file(identity).as_bytes()).ok().unwrap()
    }

    #[test]
    fn a_secret_is_read_by_each_recipient_and_by_nobody_else() {
        let [one, two, other] = [(); 3].map(|()| x25519::Identity::generate());
        let recipients: SecretRecipients =
            format!("{}, {}", one.to_public(), two.to_public()).parse().unwrap();
        let plain = webhook(plain_value(b"a secret"));
        let mut encrypted = plain.clone();
        recipients.encrypt(&mut encrypted).unwrap();
        assert!(encrypted_secret(&encrypted).is_some() && !format!("{encrypted:?}").contains("plain"));
        for identity in [&one, &two] {
            let mut decrypted = encrypted.clone();
            assert!(read(identity).decrypt(&mut decrypted).unwrap());
            assert_eq!(decrypted, plain);
        }
        let refused = read(&other).decrypt(&mut encrypted.clone());
        assert!(matches!(refused, Err(SecretError::OtherIdentity)));
        encrypted.insert("secret".into(), json!({"age": BASE64_STANDARD.encode("age-encryption.org/v1\n")}));
        assert!(matches!(read(&one).decrypt(&mut encrypted), Err(SecretError::Damaged(..))));
    }

    #[test]
    fn only_the_fields_of_secrets_are_encrypted_and_decrypted() {
        let identity = x25519::Identity::generate();
        let recipients: SecretRecipients = identity.to_public().to_string().parse().unwrap();
        let metadata = json!({"object": "tenant", "metadata": {"plain": "YQ==", "age": "YQ=="}});
        for object in [webhook(json!({"excluded": true})), metadata.as_object().cloned().unwrap()] {
            let mut same = object.clone();
            recipients.encrypt(&mut same).unwrap();
            assert!(!read(&identity).decrypt(&mut same).unwrap());
            assert_eq!(same, object);
        }
    }

    #[test]
    fn an_unreadable_identity_or_recipient_is_refused_without_its_text() {
        let fault = |text: &str| SecretIdentity::read(text.as_bytes()).err().unwrap().to_string();
        assert!(fault("# nothing\n").contains("AGE-SECRET-KEY-1"));
        let wrong = fault("# fine\nAGE-SECRET-KEY-1WRONG\n");
        assert!(wrong.contains("line 2") && !wrong.contains("WRONG"), "{wrong}");
        let key = x25519::Identity::generate().to_public().to_string();
        assert!("age1wrong".parse::<SecretRecipients>().is_err());
        assert!(vec![key.clone(); RECIPIENTS_MAX].join(",").parse::<SecretRecipients>().is_ok());
        assert!(vec![key; RECIPIENTS_MAX + 1].join(",").parse::<SecretRecipients>().is_err());
    }
}
