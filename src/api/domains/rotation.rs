//! Rotation of DKIM keys: the server generates a key, the tenant publishes its DNS record, and the key signs once the record
//! is found.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::api::{ApiError, ApiResponse, List, RequestContext, Result};
use crate::model::{DkimAlgorithm, DkimKeyState};
use crate::store::{Conflict, DKIM_KEYS_MAX, Directory, DkimKey};

use super::dkim::{self, DkimKeyView};
use super::selector::free_selector;

/// The keys to replace.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rotate {
    /// The only algorithm to replace. Default: each algorithm that the domain has a key for.
    algorithm: Option<DkimAlgorithm>,
}

/// `POST /v1/domains/{id}/dkim/rotate`: generates keys that sign once their DNS records are found. If a key of an earlier
/// request still waits for its record, the response contains that key, so that the request can be repeated. For a domain
/// that the platform verifies manually, `verify` confirms the records.
pub async fn rotate(call: RequestContext) -> Result<ApiResponse> {
    let domain = super::find_changeable(&call).await?;
    let body: Rotate = if call.body.is_empty() { Rotate::default() } else { call.json()? };
    let keys = call.store().dkim_keys(domain.id).await?;
    let wanted: Vec<_> =
        DkimAlgorithm::ALL.iter().copied().filter(|&algorithm| is_wanted(algorithm, &body, &keys)).collect();
    let mut pending: Vec<_> = wanted.iter().filter_map(|&algorithm| pending_key(algorithm, &keys)).collect();
    let missing: Vec<_> = wanted
        .into_iter()
        .filter(|&algorithm| pending.iter().all(|key| key.algorithm != algorithm))
        .collect();
    // Before any key is generated, so that a rotation does not end half-way.
    if keys.len() + missing.len() > DKIM_KEYS_MAX {
        return Err(Conflict::TooManyDkimKeys.into());
    }
    for algorithm in missing {
        let selector = free_selector(algorithm, &keys, call.now);
        let new = dkim::generate_one(&call, algorithm, selector, DkimKeyState::Pending).await?;
        // A concurrent rotation may have added a key: one per algorithm waits.
        let key = call.store().ensure_pending_dkim_key(domain.id, new, call.now).await?;
        pending.push(key.ok_or_else(|| ApiError::not_found("domain"))?);
    }
    let views = List::whole(pending.into_iter().map(|key| DkimKeyView::new(key, &domain)).collect());
    ApiResponse::created(&views)
}

fn is_wanted(algorithm: DkimAlgorithm, body: &Rotate, keys: &[DkimKey]) -> bool {
    match body.algorithm {
        Some(only) => only == algorithm,
        None => keys.iter().any(|key| key.algorithm == algorithm),
    }
}

fn pending_key(algorithm: DkimAlgorithm, keys: &[DkimKey]) -> Option<DkimKey> {
    keys.iter().rfind(|key| key.algorithm == algorithm && key.waits_for_first_record()).cloned()
}
