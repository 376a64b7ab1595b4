//! The recipients to erase, known by the MACs of their addresses.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use data_encoding::HEXLOWER;
use serde_json::Value;

use crate::mail::{fold_address, replace_addresses};
use crate::model::TenantId;
use crate::store::sql::secret_encryption::Sealer;

/// The domain of the labels that replace addresses (RFC 2606).
pub(super) const LABEL_DOMAIN: &str = "erased.invalid";
const PURPOSE: &str = "erasure";
const LABEL_OCTETS: usize = 4;

/// Which erasures a text is about, by their places in the list.
pub(super) type Hits = BTreeSet<usize>;

/// One recipient to erase.
#[derive(Clone)]
pub(super) struct Target {
    /// `None`: of every tenant, and of the platform.
    pub(super) tenant_id: Option<TenantId>,
    pub(super) digest: Vec<u8>,
    pub(super) keeps_suppression: bool,
}

/// Several recipients to erase.
pub(super) struct Targets {
    sealer: Arc<Sealer>,
    all: Vec<Target>,
    by_digest: HashMap<Vec<u8>, Vec<usize>>,
}

/// The MAC of a folded address.
pub(super) fn digest(sealer: &Sealer, folded: &str) -> Vec<u8> {
    sealer.digest(PURPOSE, folded)
}

impl Targets {
    pub(super) fn new(sealer: Arc<Sealer>, all: Vec<Target>) -> Self {
        let mut by_digest: HashMap<_, Vec<_>> = HashMap::new();
        for (place, target) in all.iter().enumerate() {
            by_digest.entry(target.digest.clone()).or_default().push(place);
        }
        Self { sealer, all, by_digest }
    }

    /// Whether all of these erasures keep the suppression.
    pub(super) fn keep_suppression(&self, hits: &Hits) -> bool {
        hits.iter().all(|place| self.all[*place].keeps_suppression)
    }

    /// What replaces a folded address in a row of `owner`, if it is erased there.
    pub(super) fn label(&self, folded: &str, owner: Option<TenantId>, hits: &mut Hits) -> Option<String> {
        let digest = digest(&self.sealer, folded);
        let places = self.by_digest.get(&digest)?;
        let is_meant =
            |place: &&usize| self.all[**place].tenant_id.is_none_or(|tenant| owner == Some(tenant));
        let meant: Vec<_> = places.iter().filter(is_meant).copied().collect();
        hits.extend(&meant);
        let digits = HEXLOWER.encode(&digest[..LABEL_OCTETS]);
        (!meant.is_empty()).then(|| format!("erased-{digits}@{LABEL_DOMAIN}"))
    }

    /// A text without the erased addresses; `None` if it has none.
    pub(super) fn replace_text(
        &self,
        text: &str,
        owner: Option<TenantId>,
        hits: &mut Hits,
    ) -> Option<String> {
        replace_addresses(text, |address| self.label(&address.folded(), owner, hits))
    }

    /// JSON without the erased addresses in its strings; `None` if it has none.
    pub(super) fn replace_json(
        &self,
        json: &str,
        owner: Option<TenantId>,
        hits: &mut Hits,
    ) -> Option<String> {
        // Most have no address at all.
        if !json.contains(['@', '%']) {
            return None;
        }
        let Ok(mut value) = serde_json::from_str(json) else { return self.replace_text(json, owner, hits) };
        let mut found = Hits::new();
        self.replace_in_value(&mut value, owner, &mut found);
        let is_changed = !found.is_empty();
        hits.extend(found);
        is_changed.then(|| value.to_string())
    }

    fn replace_in_value(&self, value: &mut Value, owner: Option<TenantId>, hits: &mut Hits) {
        match value {
            Value::String(text) => {
                if let Some(replaced) = self.replace_text(text, owner, hits) {
                    *text = replaced;
                }
            }
            Value::Array(items) => {
                items.iter_mut().for_each(|item| self.replace_in_value(item, owner, hits));
            }
            Value::Object(members) => {
                members.values_mut().for_each(|item| self.replace_in_value(item, owner, hits));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// What replaces an address as it is stored.
    pub(super) fn label_of(&self, address: &str, owner: Option<TenantId>, hits: &mut Hits) -> Option<String> {
        self.label(&fold_address(address), owner, hits)
    }
}
