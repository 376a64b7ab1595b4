//! The DKIM keys of a domain: generate, import, list. Private keys are write-only.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::api::json::Checks;
use crate::api::{ApiError, ApiResponse, List, RequestContext, Result};
use crate::blocking;
use crate::dkim::{self, KeyPair, SignError};
use crate::mail::Timestamp;
use crate::model::{DkimAlgorithm, DkimKeyId, DkimKeyState};
use crate::store::{Directory, DkimKey, Domain, NewDkimKey};
use crate::verification::dkim_record_name;

use super::selector::selector_of;

/// RFC 1035 §2.3.4, without the final dot.
pub(super) const RECORD_NAME_OCTETS_MAX: usize = 253;

/// A DKIM key to import.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "DkimKeyCreate")]
pub struct Add {
    /// The selector: labels of lower-case letters, digits and inner hyphens, separated by dots.
    selector: String,
    /// The private key in PEM: RSA of at least 2048 bits, or Ed25519; write-only.
    private_key: String,
}

/// A DKIM key of a domain, without its private key.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "DkimKey")]
pub struct DkimKeyView {
    /// Its id.
    id: DkimKeyId,
    /// Always `dkim_key`.
    #[schemars(extend("const" = "dkim_key"))]
    object: &'static str,
    /// Its selector.
    selector: String,
    /// The algorithm.
    algorithm: DkimAlgorithm,
    /// The status.
    state: DkimKeyState,
    /// Name of its DNS record.
    record_name: String,
    /// Value of its DNS record.
    record_value: String,
    /// Start of the retirement. Keep the DNS record until the key disappears from this list.
    retiring_since: Option<Timestamp>,
    /// Creation time.
    created_at: Timestamp,
}

impl DkimKeyView {
    pub(super) fn new(key: DkimKey, domain: &Domain) -> Self {
        Self {
            id: key.id,
            object: "dkim_key",
            record_name: dkim_record_name(&key.selector, &domain.name),
            record_value: dkim::public_record(key.algorithm, &key.public_key),
            selector: key.selector,
            algorithm: key.algorithm,
            state: key.state,
            retiring_since: key.retiring_since,
            created_at: key.created_at,
        }
    }
}

/// Generates a key for each algorithm. The selectors contain the current time.
pub async fn generate(
    call: &RequestContext,
    algorithms: &[DkimAlgorithm],
    state: DkimKeyState,
) -> Result<Vec<NewDkimKey>> {
    let mut keys = Vec::with_capacity(algorithms.len());
    for &algorithm in algorithms {
        keys.push(generate_one(call, algorithm, selector_of(algorithm, call.now), state).await?);
    }
    Ok(keys)
}

/// Generates a key.
pub(super) async fn generate_one(
    call: &RequestContext,
    algorithm: DkimAlgorithm,
    selector: String,
    state: DkimKeyState,
) -> Result<NewDkimKey> {
    let generate_key = call.api.generate_key;
    let pair = run_limited(call, move || generate_key(algorithm)).await?;
    Ok(new_key(pair.map_err(ApiError::internal)?, selector, state))
}

fn new_key(pair: KeyPair, selector: String, state: DkimKeyState) -> NewDkimKey {
    let KeyPair { algorithm, public_key, private_key } = pair;
    NewDkimKey { selector, algorithm, state, public_key, private_key }
}

/// Runs CPU-bound work on a blocking thread, with a permit, so that no tenant can use all cores. The work holds the permit
/// until it ends, even if the caller is dropped.
async fn run_limited<T: Send + 'static>(
    call: &RequestContext,
    work: impl FnOnce() -> std::result::Result<T, SignError> + Send + 'static,
) -> Result<std::result::Result<T, SignError>> {
    let permit = call.api.key_generations.acquire(call.scope()).await.map_err(ApiError::internal)?;
    let work = move || {
        let _permit = permit;
        work()
    };
    blocking::run(work).await.map_err(ApiError::internal)
}

/// `POST /v1/domains/{id}/dkim`: imports a key. It signs once its DNS record is found.
pub async fn add(call: RequestContext) -> Result<ApiResponse> {
    let domain = super::find_changeable(&call).await?;
    let body: Add = call.json()?;
    let private_key = Zeroizing::new(body.private_key);
    let mut checks = Checks::default();
    check_selector(&body.selector, &mut checks);
    let name_octets = dkim_record_name(&body.selector, &domain.name).len();
    checks.length(name_octets, "selector", RECORD_NAME_OCTETS_MAX, "octets with the domain");
    checks.finish()?;
    let pair = run_limited(&call, move || dkim::import_pem(&private_key)).await?;
    let pair = pair.map_err(|error| ApiError::field("private_key", "invalid", error.to_string()))?;
    let state = super::first_key_state(domain.verification);
    let new = new_key(pair, body.selector, state);
    let id = domain.id;
    let respond = move |key: &Option<DkimKey>| {
        let key = key.clone().ok_or_else(|| ApiError::not_found("domain"))?;
        ApiResponse::created(&DkimKeyView::new(key, &domain))
    };
    call.change(respond, async |store| Ok(store.add_dkim_key(id, new, call.now).await?)).await
}

pub async fn list(call: RequestContext) -> Result<ApiResponse> {
    let domain = super::find(&call).await?;
    let keys = call.store().dkim_keys(domain.id).await?;
    ApiResponse::ok(&List::whole(keys.into_iter().map(|key| DkimKeyView::new(key, &domain)).collect()))
}

/// RFC 6376 §3.1: a selector consists of labels, separated by dots. Case is insignificant, so only lower case is accepted.
pub(in crate::api) fn check_selector(selector: &str, checks: &mut Checks) {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let message = "a selector is one or more labels separated by dots; a label has 1 to 63 lower-case letters, digits and inner hyphens";
    checks.require(selector.split('.').all(is_label), "selector", "invalid", message);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_consists_of_labels() {
        let is_right = |selector: &str| {
            let mut checks = Checks::default();
            check_selector(selector, &mut checks);
            checks.finish().is_ok()
        };
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(selector_of(DkimAlgorithm::Rsa, now), "pb19700101-000000");
        for right in ["pb1", "a.b-c.d2", &"a".repeat(63), &selector_of(DkimAlgorithm::Ed25519, now)] {
            assert!(is_right(right), "{right}");
        }
        for wrong in ["", ".", "a.", "A", "a_b", "a b", "-a", "a-", "é", "a;p=x", &"a".repeat(64)] {
            assert!(!is_right(wrong), "{wrong}");
        }
    }
}
