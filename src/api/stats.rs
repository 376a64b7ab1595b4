//! Statistics: mail by minute, hour or day, and why deliveries failed lately.

use std::collections::HashMap;

use jiff::SignedDuration;
use schemars::JsonSchema;
use serde::Serialize;

use crate::mail::Timestamp;
use crate::model::{
    BounceClass, DeliveryState, Environment, ReasonsWindow, Scope, StatsInterval, TenantId, UsageInterval,
};
use crate::store::{Ledger, UsageCounts};

use super::usage::read_date_or_time;
use super::{Access, ApiError, ApiResponse, List, Operation, RequestContext, Resource, Result};

/// Intervals in one response.
const INTERVALS_MAX: i64 = 24 * 60;
/// Days in one response.
const DAYS_MAX: i64 = 366;

/// The operations of statistics.
pub fn resource() -> Resource {
    let text = "Mail by time, and why deliveries fail.";
    Resource::new("Statistics", text, Access::Scope(Scope::UsageRead)).separates_environments().operations([
        Operation::get("/v1/stats", "get_stats", series)
            .describe("Get mail by minute, hour or day", "Minutes are kept in memory for 24 hours; `since` tells from when on they are complete. Hours are kept for 90 days.")
            .query::<StatsInterval>("interval", "Length of each interval. Default: `hour`.")
            .query::<String>("from", "Start: a date or a time. Default: an hour, a day or 30 days before the end.")
            .query::<String>("to", "End: a date or a time. Default: now.")
            .tenant_filter()
            .query::<Environment>("environment", "Only mail of this environment. Default: `live`; with a test key, `test`.")
            .returns::<StatsView>("The intervals, also those without mail."),
        Operation::get("/v1/stats/reasons", "list_failure_reasons", reasons)
            .needs(Access::Scope(Scope::EmailsRead))
            .describe("List why deliveries failed lately", "Deferrals, bounces and expiries of the last hour by site, class and outcome, in memory; the most frequent first.")
            .query::<ReasonsWindow>("window", "The time to look back. Default: `1h`.")
            .tenant_filter()
            .returns::<List<ReasonView>>("The reasons."),
    ])
}

/// Mail by time.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Stats")]
pub struct StatsView {
    /// Always `stats`.
    #[schemars(extend("const" = "stats"))]
    object: &'static str,
    /// Length of each interval.
    interval: StatsInterval,
    /// Start of the first interval.
    from: Timestamp,
    /// The end.
    to: Timestamp,
    /// From when on minutes are complete; `null` for hours and days.
    since: Option<Timestamp>,
    /// The tenant; `null` for all.
    tenant_id: Option<TenantId>,
    /// The environment.
    environment: Environment,
    /// The sums.
    totals: StatsCounts,
    /// The intervals in order.
    data: Vec<StatsPart>,
}

/// One interval.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "StatsPart")]
pub struct StatsPart {
    /// Its start.
    at: Timestamp,
    /// Its counts.
    #[serde(flatten)]
    counts: StatsCounts,
}

/// Counts of recipients.
#[derive(Debug, Clone, Copy, Default, Serialize, JsonSchema)]
#[schemars(rename = "StatsCounts")]
pub struct StatsCounts {
    /// Recipients of accepted messages.
    accepted: u64,
    /// Recipients whose server accepted the message.
    delivered: u64,
    /// Attempts that are repeated later.
    deferred: u64,
    /// Recipients whose server refused the message for good; without the expired ones.
    bounced: u64,
    /// Recipients for whom the time ran out.
    expired: u64,
    /// Recipients that were skipped or refused because they are suppressed.
    suppressed: u64,
    /// Refused submissions.
    rejected: u64,
    /// Recipients that reported the message as spam.
    complained: u64,
}

impl From<UsageCounts> for StatsCounts {
    fn from(counts: UsageCounts) -> Self {
        Self {
            accepted: counts.sent,
            delivered: counts.delivered,
            deferred: counts.deferred,
            bounced: counts.bounced.saturating_sub(counts.expired),
            expired: counts.expired,
            suppressed: counts.suppressed,
            rejected: counts.rejected,
            complained: counts.complained,
        }
    }
}

/// Why deliveries failed.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "FailureReason")]
pub struct ReasonView {
    /// Always `failure_reason`.
    #[schemars(extend("const" = "failure_reason"))]
    object: &'static str,
    /// The site, or the host of a smart host.
    site: String,
    /// `deferred`, `bounced` or `expired`.
    outcome: DeliveryState,
    /// The class of the replies.
    bounce_class: Option<BounceClass>,
    /// Deliveries in the window.
    count: u64,
    /// The last reply.
    last_reply: String,
    /// When it came.
    last_at: Timestamp,
}

async fn series(mut call: RequestContext) -> Result<ApiResponse> {
    let interval = call.query.value("interval").unwrap_or(StatsInterval::Hour);
    let to = call.query.value_by("to", read_date_or_time).unwrap_or(call.now);
    let from = call.query.value_by("from", read_date_or_time);
    let environment = call.query.value("environment").unwrap_or(Environment::Live);
    let tenant_id = call.listed_tenant().await?;
    let (step, default, most) = match interval {
        StatsInterval::Minute => (60, 3600, INTERVALS_MAX),
        StatsInterval::Hour => (3600, 24 * 3600, INTERVALS_MAX),
        StatsInterval::Day => (86_400, 30 * 86_400, DAYS_MAX),
    };
    let seconds = |time: Timestamp| time.as_second().div_euclid(step) * step;
    let first = seconds(
        from.unwrap_or_else(|| to.checked_sub(SignedDuration::from_secs(default)).unwrap_or(Timestamp::MIN)),
    );
    if first >= to.as_second() {
        return Err(ApiError::field("to", "invalid", "this must be later than from"));
    }
    if (to.as_second() - first + step - 1) / step > most {
        return Err(ApiError::field(
            "from",
            "invalid",
            format!("at most {most} intervals; choose a longer interval"),
        ));
    }
    let from = Timestamp::from_second(first).map_err(ApiError::internal)?;
    let (counted, since) = match interval {
        StatsInterval::Minute => {
            let (counted, since) = call.store().usage_by_minute(tenant_id, environment, from..to);
            (counted, Some(since))
        }
        other => {
            let interval =
                if other == StatsInterval::Hour { UsageInterval::Hour } else { UsageInterval::Day };
            let usages = match tenant_id {
                Some(tenant) => call.store().usage(tenant, interval, from, to).await?,
                None => call.store().usage_of_all(interval, from, to).await?,
            };
            let shown = usages.into_iter().filter(|usage| usage.environment == environment);
            (shown.map(|usage| (usage.start, usage.counts)).collect(), None)
        }
    };
    let mut by_start: HashMap<i64, UsageCounts> = HashMap::new();
    let mut totals = UsageCounts::default();
    for (at, counts) in counted {
        *by_start.entry(seconds(at)).or_default() += counts;
        totals += counts;
    }
    let starts = (first..to.as_second()).step_by(step as usize);
    let part = |start| {
        let at = Timestamp::from_second(start).unwrap_or(Timestamp::MAX);
        StatsPart { at, counts: by_start.get(&start).copied().unwrap_or_default().into() }
    };
    ApiResponse::ok(&StatsView {
        object: "stats",
        interval,
        from,
        to,
        since,
        tenant_id,
        environment,
        totals: totals.into(),
        data: starts.map(part).collect(),
    })
}

async fn reasons(mut call: RequestContext) -> Result<ApiResponse> {
    let minutes = match call.query.value("window").unwrap_or(ReasonsWindow::Hour) {
        ReasonsWindow::FiveMinutes => 5,
        ReasonsWindow::QuarterHour => 15,
        ReasonsWindow::Hour => 60,
    };
    let tenant_id = call.listed_tenant().await?;
    // Only live mail fails at sites.
    let reasons = match call.caller.sees(Environment::Live) {
        true => call.api.queue.failure_reasons().read(tenant_id, minutes, call.now),
        false => Vec::new(),
    };
    let view = |reason: crate::queue::FailureReason| ReasonView {
        object: "failure_reason",
        site: reason.key.site,
        outcome: reason.key.outcome,
        bounce_class: reason.key.class,
        count: reason.count,
        last_reply: reason.last_reply,
        last_at: reason.last_at,
    };
    ApiResponse::ok(&List::whole(reasons.into_iter().map(view).collect()))
}
