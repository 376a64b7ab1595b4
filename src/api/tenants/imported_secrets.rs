//! Checks the secrets of an import, as the operations that create such objects do.

use serde_json::Value;

use super::smart_host;
use crate::api::json::Checks;
use crate::api::webhooks::SECRET_OCTETS;
use crate::dkim;
use crate::store::{BundleObject, SmartHost, plain_secret, secret_field};

/// Checks the plain secrets of these objects. A DKIM key takes up to a millisecond.
pub fn check(objects: &[BundleObject], checks: &mut Checks) {
    for (place, object) in objects.iter().enumerate() {
        let Some(field) = secret_field(object) else { continue };
        let Some(value) = object.get(field).filter(|value| value.get("plain").is_some()) else { continue };
        let path = format!("objects[{place}].{field}");
        let Some(secret) = plain_secret(value) else {
            checks.require(false, &path, "invalid", "plain must be base64");
            continue;
        };
        match field {
            "private_key" => check_private_key(object, &secret, &path, checks),
            "secret" => {
                let message = format!("this must have {SECRET_OCTETS} octets");
                checks.require(secret.len() == SECRET_OCTETS, &path, "invalid", &message);
            }
            _ => check_password(object, &secret, &path, checks),
        }
    }
}

/// A signature with the key of another record would not be valid.
fn check_private_key(object: &BundleObject, secret: &[u8], path: &str, checks: &mut Checks) {
    let Some(pair) = checks.read(dkim::import_pkcs8(secret), path) else { return };
    let text = |name: &str| object.get(name).and_then(Value::as_str);
    let is_pair =
        text("public_key") == Some(&pair.public_key) && text("algorithm") == Some(pair.algorithm.as_str());
    checks.require(is_pair, path, "invalid", "this is not the private key of public_key");
}

fn check_password(object: &BundleObject, secret: &[u8], path: &str, checks: &mut Checks) {
    let smart_host = object.get("smart_host").cloned().unwrap_or_default();
    let Ok(smart_host) = serde_json::from_value::<SmartHost>(smart_host) else {
        return checks.require(false, path, "invalid", "a password needs a smart_host");
    };
    match std::str::from_utf8(secret) {
        Ok(password) => smart_host::check_password(&smart_host, Some(password), None, checks),
        Err(_) => checks.require(false, path, "invalid", "this must be UTF-8"),
    }
}
