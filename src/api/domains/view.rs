//! Domains as the API shows them, with the DNS records to publish.

use schemars::JsonSchema;
use serde::Serialize;

use crate::api::{RequestContext, Result};
use crate::mail::{DomainName, Timestamp};
use crate::model::{
    DkimKeyState, DomainId, DomainStatus, ReturnPathMode, ReturnPathStatus, TenantId, Verification,
};
use crate::store::{Directory, DkimKey, Domain, NewDomain, RecordStatus};
use crate::verification::{
    DnsRecord, Purpose, RecordType, VerificationSettings, expected_records, return_path_hint,
};

const PUBLISHED_HINT: &str = "the name servers of the domain have it already; resolvers still remember the earlier answer, so check again later";

/// A sending domain.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Domain")]
pub struct DomainView {
    /// Its id.
    id: DomainId,
    /// Always `domain`.
    #[schemars(extend("const" = "domain"))]
    object: &'static str,
    /// Owner; `null` for the sandbox domain.
    tenant_id: Option<TenantId>,
    /// The domain.
    name: DomainName,
    /// Verification status.
    status: DomainStatus,
    /// Why the tenant cannot send from the domain; `null` if it can.
    status_reason: Option<&'static str>,
    /// What to do about `status_reason`.
    status_hint: Option<&'static str>,
    /// Verification method.
    verification: Verification,
    /// Whether senders may use subdomains.
    subdomains: bool,
    /// The reverse path of the domain's mail.
    return_path: ReturnPathView,
    /// DNS records to publish, with the result of the last check. The sandbox domain needs none; with those that it has, receivers
    /// accept trial mail.
    dns_records: Vec<RecordView>,
    /// Time of the last DNS check.
    last_checked_at: Option<Timestamp>,
    /// Time since which the DNS records of a verified domain fail the check.
    failing_since: Option<Timestamp>,
    /// Time of the verification.
    verified_at: Option<Timestamp>,
    /// Creation time.
    created_at: Timestamp,
}

/// The reverse path of a domain's mail.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ReturnPath")]
pub struct ReturnPathView {
    /// The mode of the domain; `null`: as the configuration says.
    mode: Option<ReturnPathMode>,
    /// The return host that the domain has or can have; `null` if the server receives no reports.
    host: Option<DomainName>,
    /// `active`: mail leaves with an address at `host`, and reports come to this server. Else why not: the record is `pending`
    /// (not checked, or the mode is not `auto`), `missing` or a `mismatch`, or its mail host is `unreachable`.
    status: ReturnPathStatus,
}

/// A DNS record that a domain should have.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "DnsRecord")]
pub struct RecordView {
    /// Purpose of the record.
    purpose: Purpose,
    /// Type of the record.
    #[serde(rename = "type")]
    kind: RecordType,
    /// The owner name, without a final dot.
    name: String,
    /// Recommended value; other values can also pass the check. After a check, an SPF record extends the one that was found.
    value: String,
    /// Records at the same name that together stand in place of this one.
    alternatives: Vec<AlternativeView>,
    /// Result of the comparison.
    status: RecordStatus,
    /// Values found by the last DNS check.
    found: Vec<String>,
    /// What to do about the result; `null` if nothing more is known.
    hint: Option<&'static str>,
    /// Whether verification requires this record.
    required: bool,
    /// State of the key of a DKIM record. Keep the record of a retiring key.
    dkim_key_state: Option<DkimKeyState>,
}

/// One of the DNS records that together stand in place of another one.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "DnsRecordAlternative")]
pub struct AlternativeView {
    /// Type of the record.
    #[serde(rename = "type")]
    kind: RecordType,
    /// Recommended value.
    value: String,
}

impl DomainView {
    pub fn new(domain: Domain, keys: &[DkimKey], settings: &VerificationSettings) -> Self {
        let records = expected_records(&domain, keys, settings);
        let return_path = settings.return_path.as_ref();
        let host = return_path.and_then(|return_path| domain.return_host(&return_path.hosts.defaults.label));
        let dns_records = records.into_iter().map(|record| RecordView::new(record, &domain, keys)).collect();
        Self {
            id: domain.id,
            object: "domain",
            tenant_id: domain.tenant_id,
            name: domain.name,
            status: domain.status,
            status_reason: domain.status.reason(),
            status_hint: domain.status.hint(),
            verification: domain.verification,
            subdomains: domain.subdomains,
            return_path: ReturnPathView {
                mode: domain.return_path.mode,
                host,
                status: domain.return_path.status,
            },
            dns_records,
            last_checked_at: domain.last_check.map(|check| check.checked_at),
            failing_since: domain.failing_since,
            verified_at: domain.verified_at,
            created_at: domain.created_at,
        }
    }
}

impl RecordView {
    fn new(record: DnsRecord, domain: &Domain, keys: &[DkimKey]) -> Self {
        let checked = domain.last_check.iter().flat_map(|check| &check.records);
        let result = checked.into_iter().find(|result| result.name == record.name);
        let hint = match result {
            Some(result) if result.is_published => Some(PUBLISHED_HINT),
            Some(result) if record.purpose == Purpose::ReturnPath => {
                return_path_hint(result.status, &result.found, domain.return_path.status)
            }
            _ => None,
        };
        let alternatives = record.alternatives.into_iter();
        Self {
            hint,
            alternatives: alternatives
                .map(|other| AlternativeView { kind: other.kind, value: other.value })
                .collect(),
            purpose: record.purpose,
            kind: record.kind,
            name: record.name,
            value: record.value,
            status: result.map_or(RecordStatus::Pending, |result| result.status),
            found: result.map(|result| result.found.clone()).unwrap_or_default(),
            required: record.required,
            dkim_key_state: keys.iter().find(|key| record.dkim_key == Some(key.id)).map(|key| key.state),
        }
    }
}

/// Shows a domain with its present keys.
pub async fn view(call: &RequestContext, domain: Domain) -> Result<DomainView> {
    let keys = call.store().dkim_keys(domain.id).await?;
    Ok(DomainView::new(domain, &keys, &call.api.verification.settings))
}

/// Shows a domain that is created with these keys.
pub fn view_of_new(
    call: &RequestContext,
    new: Option<&NewDomain>,
) -> impl Fn(&Domain) -> DomainView + Send + Sync + 'static {
    let dkim_keys = new.map(|new| new.dkim_keys.clone()).unwrap_or_default();
    let (settings, now) = (call.api.verification.settings.clone(), call.now);
    move |domain| {
        let keys = dkim_keys.iter().map(|key| DkimKey::new(key, domain.id, now)).collect::<Vec<_>>();
        DomainView::new(domain.clone(), &keys, &settings)
    }
}
