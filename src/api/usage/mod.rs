//! Usage of a tenant in a month, and as a time series by hour or day; `sums` lists that of all tenants. All times are in UTC.

mod sums;

use std::collections::HashMap;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use schemars::{JsonSchema, Schema};
use serde::Serialize;

use crate::mail::{SignedDuration, Timestamp};
use crate::model::{Environment, Scope, TenantId, UsageFormat, UsageGroup, UsageInterval};
use crate::store::{Ledger, USAGE_HOURS_LIFETIME, Usage, UsageCounts};

use super::page::read_time;
use super::schema::Schemas;
use super::{Access, ApiError, ApiResponse, List, Operation, RequestContext, Resource, Result};

/// Hours in one series.
const HOURS_MAX: i64 = 31 * 24;
/// Days in one series.
const DAYS_MAX: i64 = 366;
/// Days in a series without `from`.
const DAYS_DEFAULT: i64 = 30;

/// The operations of usage.
pub fn resource() -> Resource {
    let text = "Usage of tenants in a month, or by hour or day.";
    Resource::new("Usage", text, Access::Scope(Scope::UsageRead)).operations([
        Operation::get("/v1/usage", "list_usage", sums::list)
            .describe("List the usage of all tenants in a month", "One entry for each tenant with usage, or for each of its keys, sending domains or days, ordered by tenant. A key of a tenant gets the usage of its own tenant. Deleted tenants are listed for 90 days. With `Accept: text/csv` or `format=csv`, the response is CSV (RFC 4180); a header `Link` with `rel=next` then names the rest, if there is any.")
            .tenant_filter()
            .query_as("period", "The month, such as `2026-01`. Default: the current month.", month_schema)
            .query::<Environment>("environment", "Only usage in this environment. Default: `live`.")
            .query::<UsageGroup>("group_by", "What each entry is about. Default: `tenant`. Usage by key and by domain is kept for 400 days.")
            .query::<UsageFormat>("format", "The format. Default: the one that `Accept` names, or `json`.")
            .query_as("limit", "Entries in the response.", sums::limit_schema)
            .query::<String>("after", "Continues after this cursor: the `next_cursor` of a response.")
            .returns::<List<sums::SumView>>("The usage.")
            .returns_octets("text/csv", "The usage."),
        Operation::get("/v1/tenants/{tenant_id}/usage", "get_usage", month)
            .summary("Get the usage of a tenant in a month")
            .query_as("period", "The month, such as `2026-01`. Default: the current month.", month_schema)
            .query::<Environment>(
                "environment",
                "Only usage in this environment. Default: `live`; with a test key, `test`.",
            )
            .returns::<UsageView>("The usage."),
        Operation::get("/v1/tenants/{tenant_id}/usage/timeseries", "get_usage_series", series)
            .summary("Get the usage of a tenant by hour or day")
            .query::<String>(
                "from",
                "Start: a date or a time. Default: 30 days before the end, or 24 hours with `interval=hour`.",
            )
            .query::<String>("to", "End: a date or a time. Default: now.")
            .query::<UsageInterval>("interval", "Length of each interval. Default: `day`.")
            .query::<Environment>(
                "environment",
                "Only usage in this environment. Default: `live`; with a test key, `test`.",
            )
            .returns::<SeriesView>("The usage."),
    ])
}

/// Usage of a tenant in a month.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Usage")]
pub struct UsageView {
    /// Always `usage`.
    #[schemars(extend("const" = "usage"))]
    object: &'static str,
    /// The tenant.
    tenant_id: TenantId,
    /// The month, like `2026-01`.
    period: String,
    /// Environment that the counts are for.
    environment: Environment,
    /// The counts.
    #[serde(flatten)]
    counts: Counts,
}

/// Usage of a tenant by hour or day.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "UsageSeries")]
pub struct SeriesView {
    /// Always `usage_timeseries`.
    #[schemars(extend("const" = "usage_timeseries"))]
    object: &'static str,
    /// The tenant.
    tenant_id: TenantId,
    /// Length of each interval.
    interval: UsageInterval,
    /// Start of the first interval.
    from: Timestamp,
    /// The end of the series.
    to: Timestamp,
    /// Environment that the counts are for.
    environment: Environment,
    /// The intervals in order, including those without usage.
    data: Vec<PartView>,
}

/// One hour or day.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "UsagePart")]
pub struct PartView {
    /// Start of the interval.
    date: Timestamp,
    /// The counts.
    #[serde(flatten)]
    counts: Counts,
}

/// Usage counts.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "UsageCounts")]
pub struct Counts {
    /// Recipients of accepted messages.
    emails_sent: u64,
    /// Recipients whose server accepted the message.
    emails_delivered: u64,
    /// Recipients that bounced or expired.
    emails_bounced: u64,
    /// Delivered recipients whose failure was reported later; `emails_delivered` counts them too.
    emails_bounced_late: u64,
    /// Recipients that reported the message as spam.
    emails_complained: u64,
    /// Recipients that left a list.
    emails_unsubscribed: u64,
    /// Recipients that were skipped or refused because they are suppressed.
    emails_suppressed: u64,
    /// Refused submissions that `/v1/rejections` lists, except those for suppressed recipients.
    emails_rejected: u64,
    /// Recipients of messages sent with test keys, regardless of `environment`.
    email_test: u64,
    /// API requests with keys of both environments; for a test key, with test keys.
    api_requests: u64,
}

impl Counts {
    /// The names of the fields, in order.
    const NAMES: [&'static str; 10] = [
        "emails_sent",
        "emails_delivered",
        "emails_bounced",
        "emails_bounced_late",
        "emails_complained",
        "emails_unsubscribed",
        "emails_suppressed",
        "emails_rejected",
        "email_test",
        "api_requests",
    ];

    /// The counts of one environment, with the API requests of both.
    fn of(counts: UsageCounts, test_sent: u64) -> Self {
        Self {
            emails_sent: counts.sent,
            emails_delivered: counts.delivered,
            emails_bounced: counts.bounced,
            emails_bounced_late: counts.bounced_late,
            emails_complained: counts.complained,
            emails_unsubscribed: counts.unsubscribed,
            emails_suppressed: counts.suppressed,
            emails_rejected: counts.rejected,
            email_test: test_sent,
            api_requests: counts.api_requests,
        }
    }
}

/// Usage of both environments, summed for one of them.
#[derive(Default)]
struct Total {
    /// Those of the shown environment, with the API requests of both.
    counts: UsageCounts,
    /// Recipients of test mail.
    test_sent: u64,
}

impl Total {
    fn add(&mut self, shown: Environment, usage: &Usage) {
        match usage.environment == shown {
            true => self.counts += usage.counts,
            false => self.counts.api_requests += usage.counts.api_requests,
        }
        if usage.environment == Environment::Test {
            self.test_sent += usage.counts.sent;
        }
    }

    fn view(self) -> Counts {
        Counts::of(self.counts, self.test_sent)
    }
}

async fn month(mut call: RequestContext) -> Result<ApiResponse> {
    let now = call.now;
    let first = call.query.value_by("period", read_month).unwrap_or_else(|| first_of_month(now));
    let environment = call.query.value("environment").unwrap_or(Environment::Live);
    call.query.finish()?;
    let tenant_id = call.path_tenant().await?.id;
    let next = first.last_of_month().tomorrow().map_err(ApiError::internal)?;
    let (from, to) = (midnight(first)?, midnight(next)?);
    let mut total = Total::default();
    let days = call.store().usage(tenant_id, UsageInterval::Day, from, to).await?;
    for day in days.iter().filter(|day| call.caller.sees(day.environment)) {
        total.add(environment, day);
    }
    let period = first.strftime("%Y-%m").to_string();
    let counts = total.view();
    ApiResponse::ok(&UsageView { object: "usage", tenant_id, period, environment, counts })
}

async fn series(mut call: RequestContext) -> Result<ApiResponse> {
    let now = call.now;
    let interval = call.query.value("interval").unwrap_or(UsageInterval::Day);
    let to = call.query.value_by("to", read_date_or_time).unwrap_or(now);
    let from = call.query.value_by("from", read_date_or_time);
    let environment = call.query.value("environment").unwrap_or(Environment::Live);
    call.query.finish()?;
    let from = from.unwrap_or_else(|| match interval {
        UsageInterval::Hour => before(to, SignedDuration::from_hours(24)),
        UsageInterval::Day => before(to, SignedDuration::from_hours(24 * DAYS_DEFAULT)),
    });
    let from = interval.start_of(from);
    check_range(interval, from, to, now)?;
    let tenant_id = call.path_tenant().await?.id;
    let mut parts: HashMap<Timestamp, Total> = HashMap::new();
    let usages = call.store().usage(tenant_id, interval, from, to).await?;
    for usage in usages.iter().filter(|usage| call.caller.sees(usage.environment)) {
        parts.entry(usage.start).or_default().add(environment, usage);
    }
    let step = SignedDuration::from_secs(interval.seconds());
    let dates = std::iter::successors(Some(from), |date| date.checked_add(step).ok());
    let data = dates.take_while(|date| *date < to);
    let data =
        data.map(|date| PartView { date, counts: parts.remove(&date).unwrap_or_default().view() }).collect();
    let object = "usage_timeseries";
    ApiResponse::ok(&SeriesView { object, tenant_id, interval, from, to, environment, data })
}

fn check_range(interval: UsageInterval, from: Timestamp, to: Timestamp, now: Timestamp) -> Result<()> {
    if from >= to {
        return Err(ApiError::field("to", "invalid", "this must be later than from"));
    }
    let (parts_max, unit) = match interval {
        UsageInterval::Hour => (HOURS_MAX, "hours"),
        UsageInterval::Day => (DAYS_MAX, "days"),
    };
    if to.duration_since(from).as_secs() > parts_max * interval.seconds() {
        return Err(ApiError::field("from", "invalid", format!("a series has at most {parts_max} {unit}")));
    }
    let available_since = UsageInterval::Day.start_of(before(now, USAGE_HOURS_LIFETIME));
    if interval == UsageInterval::Hour && from < available_since {
        return Err(ApiError::field(
            "from",
            "invalid",
            format!("hourly usage is available since {available_since}; use interval=day for earlier times"),
        ));
    }
    Ok(())
}

fn before(time: Timestamp, span: SignedDuration) -> Timestamp {
    time.checked_sub(span).unwrap_or(Timestamp::MIN)
}

fn first_of_month(time: Timestamp) -> Date {
    time.to_zoned(TimeZone::UTC).date().first_of_month()
}

fn midnight(date: Date) -> Result<Timestamp> {
    let zoned = date.to_zoned(TimeZone::UTC).map_err(ApiError::internal)?;
    Ok(zoned.timestamp().into())
}

fn read_month(text: &str) -> std::result::Result<Date, &'static str> {
    let expected = "this must be a month like 2026-01";
    let is_formed = text.len() == 7
        && text.bytes().enumerate().all(|(at, octet)| match at {
            4 => octet == b'-',
            _ => octet.is_ascii_digit(),
        });
    if !is_formed {
        return Err(expected);
    }
    let date: Date = format!("{text}-01").parse().map_err(|_| expected)?;
    // No month follows the last month of the calendar.
    date.last_of_month().tomorrow().and(Ok(date)).map_err(|_| expected)
}

fn month_schema(_: &mut Schemas) -> Schema {
    schemars::json_schema!({ "type": "string", "pattern": "^[0-9]{4}-(0[1-9]|1[0-2])$" })
}

pub(super) fn read_date_or_time(text: &str) -> std::result::Result<Timestamp, &'static str> {
    let expected =
        "this must be a date like 2026-01-31, or a time in RFC 3339 format, like 2026-01-31T12:00:00Z";
    match text.len() {
        10 => text.parse().ok().and_then(|date| midnight(date).ok()).ok_or(expected),
        _ => read_time(text).map_err(|_| expected),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_and_dates_have_one_format() {
        for (text, first) in [("2026-01", Some("2026-01-01")), ("2024-02", Some("2024-02-01"))] {
            assert_eq!(read_month(text).ok().map(|date| date.to_string()).as_deref(), first);
        }
        for text in
            ["2026-13", "2026-00", "2026-1", "26-01", "2026-01-01", "-026-01", "9999-12", "", "2026+01"]
        {
            assert!(read_month(text).is_err(), "{text}");
        }
        let time = |text| read_date_or_time(text).map(|time| format!("{time:.0}"));
        assert_eq!(time("2026-01-31").as_deref(), Ok("2026-01-31T00:00:00Z"));
        assert_eq!(time("2026-01-31T12:00:00+02:00").as_deref(), Ok("2026-01-31T10:00:00Z"));
        for text in ["2026-02-30", "2026-01-31T12:00", "yesterday", ""] {
            assert!(time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_series_is_bounded_and_refuses_hours_that_are_no_longer_stored() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let now = at("2026-06-30T12:00:00Z");
        let check = |interval, from, to| check_range(interval, at(from), at(to), now).is_ok();
        let (hour, day) = (UsageInterval::Hour, UsageInterval::Day);
        assert!(check(hour, "2026-06-01T00:00:00Z", "2026-07-02T00:00:00Z"));
        assert!(!check(hour, "2026-06-01T00:00:00Z", "2026-07-02T00:00:01Z"));
        assert!(check(hour, "2026-04-01T00:00:00Z", "2026-04-02T00:00:00Z"), "ninety days ago");
        assert!(!check(hour, "2026-03-31T23:00:00Z", "2026-04-02T00:00:00Z"));
        assert!(check(day, "2025-06-29T00:00:00Z", "2026-06-30T00:00:00Z"));
        assert!(!check(day, "2025-06-29T00:00:00Z", "2026-07-01T00:00:00Z"));
        assert!(!check(day, "2026-06-29T00:00:00Z", "2026-06-29T00:00:00Z"));
    }
}
