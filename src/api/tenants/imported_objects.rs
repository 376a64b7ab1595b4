//! Checks the objects of a bundle by the limits of the operations that create such objects.

use serde::Deserialize;
use serde_json::Value;

use super::validation::ImportedTenant;
use crate::api::json::Checks;
use crate::api::webhooks::endpoint;
use crate::api::{FieldError, domains, keys, templates};
use crate::config;
use crate::mail::DomainName;
use crate::store::{BundleObject, IMPORT_CONFLICTS_MAX};

/// What the configuration of this server allows.
pub(super) struct Allowed<'a> {
    pub(super) message_lifetime_hours_max: u32,
    pub(super) source_pools: &'a [String],
    pub(super) webhooks: &'a config::Webhooks,
}

/// The faults of the objects, at most as many as an import lists conflicts. Compiles templates, so it runs on their
/// [`stack`](templates::stack).
pub(super) fn faults(objects: &[BundleObject], allowed: &Allowed<'_>) -> Vec<FieldError> {
    let faults = objects.iter().enumerate().flat_map(|(place, object)| {
        let mut checks = Checks::default();
        check(object, allowed, &mut checks);
        let faults = checks.into_result().err().unwrap_or_default().into_iter();
        faults.map(move |fault| FieldError { path: format!("objects[{place}].{}", fault.path), ..fault })
    });
    faults.take(IMPORT_CONFLICTS_MAX).collect()
}

/// Fields of another form are conflicts of the import.
fn check(object: &BundleObject, allowed: &Allowed<'_>, checks: &mut Checks) {
    let text = |field: &str| object.get(field).and_then(Value::as_str);
    match text("object") {
        Some("tenant") => {
            if let Ok(tenant) = ImportedTenant::deserialize(object) {
                tenant.check(allowed.message_lifetime_hours_max, allowed.source_pools, checks);
            }
        }
        Some("domain") => {
            if let Some(name) = text("name").filter(|name| DomainName::parse(name).is_ok()) {
                domains::check_name(name, "name", checks);
            }
        }
        Some("dkim_key") => {
            text("selector").iter().for_each(|selector| domains::check_selector(selector, checks));
        }
        Some("key") => {
            text("name").iter().for_each(|name| checks.line(name, "name", keys::NAME_CHARS_MAX));
            for field in ["scopes", "allowed_domain_ids", "allowed_cidrs"] {
                let entries = object.get(field).and_then(Value::as_array).map_or(0, Vec::len);
                checks.length(entries, field, keys::RESTRICTIONS_MAX, "entries");
            }
        }
        Some("template") => {
            if let Ok(template) = templates::Parts::deserialize(object) {
                template.check(checks);
            }
        }
        Some("webhook") => {
            if let Some(url) = text("url") {
                checks.read(endpoint::check(url, allowed.webhooks), "url");
            }
        }
        _ => {}
    }
}
