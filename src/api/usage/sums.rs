//! Usage of all tenants in a month in one response, by tenant, key, sending domain or day, in JSON or CSV (RFC 4180).

use std::str::FromStr;

use hyper::header::ACCEPT;
use schemars::{JsonSchema, Schema};
use serde::Serialize;

use crate::mail::Timestamp;
use crate::model::{Environment, KeyId, TenantId, UsageFormat, UsageGroup};
use crate::store::{Ledger, UsageCursor, UsageFilter, UsageSum};

use super::super::page::List;
use super::super::schema::Schemas;
use super::super::{ApiError, ApiResponse, RequestContext, Result};
use super::{Counts, first_of_month, midnight, read_month};

/// Sums in one response.
const SUMS_MAX: usize = 5_000;

/// Usage of a tenant, or of a part of it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "UsageSum")]
pub struct SumView {
    /// Always `usage`.
    #[schemars(extend("const" = "usage"))]
    object: &'static str,
    /// The tenant.
    tenant_id: TenantId,
    /// Its slug.
    tenant_slug: String,
    /// Its name.
    tenant_name: String,
    /// Its id in the systems of the platform.
    external_ref: Option<String>,
    /// Whether the tenant was deleted. Its usage is listed for 90 days.
    is_deleted: bool,
    /// The month, like `2026-01`.
    period: String,
    /// Environment that the counts are for.
    environment: Environment,
    /// With `group_by=key`: the key; `null` for usage without a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id: Option<Option<KeyId>>,
    /// With `group_by=domain`: the verified domain that covers the author; `null` for refusals and requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    domain: Option<Option<String>>,
    /// With `group_by=day`: the start of the day (UTC).
    #[serde(skip_serializing_if = "Option::is_none")]
    date: Option<Timestamp>,
    /// The counts.
    #[serde(flatten)]
    counts: Counts,
}

/// `GET /v1/usage`.
pub(super) async fn list(mut call: RequestContext) -> Result<ApiResponse> {
    let now = call.now;
    let tenant_id = call.listed_tenant().await?;
    let query = &mut call.query;
    let first = query.value_by("period", read_month).unwrap_or_else(|| first_of_month(now));
    let environment = query.value("environment").unwrap_or(Environment::Live);
    let group: UsageGroup = query.value("group_by").unwrap_or_default();
    let limit = query.value_by("limit", read_limit).unwrap_or(SUMS_MAX);
    let after = query.value_by("after", read_cursor);
    let format = query.value("format");
    query.finish()?;
    let next = first.last_of_month().tomorrow().map_err(ApiError::internal)?;
    let (from, to) = (midnight(first)?, midnight(next)?);
    // Sums also have what is counted for both environments.
    let only = Some(Environment::Test).filter(|_| !call.caller.sees(Environment::Live));
    let filter = UsageFilter { tenant_id, from, to, environment, only, group, after, limit };
    let page = call.store().usage_sums(filter).await?;
    let next = page.items.last().filter(|_| page.has_more).map(cursor_after);
    let period = first.strftime("%Y-%m").to_string();
    let view = |sum| view(sum, group, environment, &period);
    let sums = page.items.into_iter().map(view).collect::<Result<Vec<_>>>()?;
    match format.unwrap_or_else(|| accepted_format(&call)) {
        UsageFormat::Json => ApiResponse::ok(&List::resumed(sums, next)),
        UsageFormat::Csv => {
            Ok(ApiResponse::csv(write_csv(&sums, group)?, next.map(|next| next_path(&call, &next))))
        }
    }
}

fn view(sum: UsageSum, group: UsageGroup, environment: Environment, period: &str) -> Result<SumView> {
    let named = (!sum.group.is_empty()).then_some(sum.group);
    let (mut key_id, mut domain, mut date) = (None, None, None);
    match group {
        UsageGroup::Tenant => {}
        UsageGroup::Key => key_id = Some(named.map(|id| id.parse()).transpose().map_err(ApiError::internal)?),
        UsageGroup::Domain => domain = Some(named),
        UsageGroup::Day => {
            let start_us = named.unwrap_or_default().parse().map_err(ApiError::internal)?;
            date = Some(Timestamp::from_microsecond(start_us).map_err(ApiError::internal)?);
        }
    }
    Ok(SumView {
        object: "usage",
        tenant_id: sum.tenant_id,
        tenant_slug: sum.tenant_slug,
        tenant_name: sum.tenant_name,
        external_ref: sum.external_ref,
        is_deleted: sum.is_deleted,
        period: period.to_owned(),
        environment,
        key_id,
        domain,
        date,
        counts: Counts::of(sum.counts, sum.test_sent),
    })
}

/// A heading, then a line for each sum. The columns are the fields of the JSON without `object`.
fn write_csv(sums: &[SumView], group: UsageGroup) -> Result<Vec<u8>> {
    let part = match group {
        UsageGroup::Tenant => None,
        UsageGroup::Key => Some("key_id"),
        UsageGroup::Domain => Some("domain"),
        UsageGroup::Day => Some("date"),
    };
    let of_tenant =
        ["tenant_id", "tenant_slug", "tenant_name", "external_ref", "is_deleted", "period", "environment"];
    let columns: Vec<&str> = of_tenant.into_iter().chain(part).chain(Counts::NAMES).collect();
    let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    writer.write_record(&columns).map_err(ApiError::internal)?;
    for sum in sums {
        let fields = serde_json::to_value(sum).map_err(ApiError::internal)?;
        let cells = columns.iter().map(|column| match &fields[column] {
            serde_json::Value::Null => String::new(),
            serde_json::Value::String(text) => without_formula(text),
            other => other.to_string(),
        });
        writer.write_record(cells).map_err(ApiError::internal)?;
    }
    writer.into_inner().map_err(ApiError::internal)
}

/// A spreadsheet would calculate what begins like a formula, and tenants choose their names.
fn without_formula(text: &str) -> String {
    match text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        true => format!("'{text}"),
        false => text.to_owned(),
    }
}

fn cursor_after(sum: &UsageSum) -> String {
    format!("{}.{}", sum.tenant_id, sum.group)
}

/// The target of the `Link` header: the same request, continued.
fn next_path(call: &RequestContext, cursor: &str) -> String {
    let kept = ["tenant_id", "period", "environment", "group_by", "limit", "format"];
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for name in kept {
        if let Some(value) = call.query.text(name) {
            query.append_pair(name, value);
        }
    }
    format!("/v1/usage?{}", query.append_pair("after", cursor).finish())
}

fn accepted_format(call: &RequestContext) -> UsageFormat {
    let accepted = call.headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut types = accepted.flat_map(|value| value.split(',')).filter_map(|one| one.split(';').next());
    match types.any(|media| media.trim().eq_ignore_ascii_case("text/csv")) {
        true => UsageFormat::Csv,
        false => UsageFormat::Json,
    }
}

fn read_limit(text: &str) -> std::result::Result<usize, String> {
    match text.parse() {
        Ok(limit @ 1..=SUMS_MAX) => Ok(limit),
        _ => Err(format!("this must be a number from 1 to {SUMS_MAX}")),
    }
}

fn read_cursor(text: &str) -> std::result::Result<UsageCursor, &'static str> {
    let wrong = "this must be the next_cursor of a response";
    let (tenant, group) = text.split_once('.').ok_or(wrong)?;
    let tenant_id = TenantId::from_str(tenant).map_err(|_| wrong)?;
    Ok(UsageCursor { tenant_id, group: group.to_owned() })
}

pub(super) fn limit_schema(_: &mut Schemas) -> Schema {
    schemars::json_schema!({ "type": "integer", "minimum": 1, "maximum": SUMS_MAX, "default": SUMS_MAX })
}
