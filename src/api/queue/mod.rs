//! The queue: counts and wait reasons by tenant and destination; pause, resume, flush.

mod sites;

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::mail::{Host, Timestamp};
use crate::model::{QueueFilter, RefusalCode, TenantId, TenantStatus, WaitReason};
use crate::queue::wait_reasons::WaitRecord;
use crate::store::{
    Directory, GroupPlace, Pause, Queue, QueueCounts, QueueGroup, QueueOverview, QueueRequest, ReleaseMode,
    Restoration, Tenant,
};

use super::json::Checks;
use super::page;
use super::{Access, ApiError, ApiResponse, List, Operation, RequestContext, Resource, Result};

const REASON_CHARS_MAX: usize = 200;

/// The operations of the queue.
pub fn resource() -> Resource {
    let text = "Deliveries that wait, with the reasons. Pauses, resumes and flushes delivery.";
    Resource::new("Queue", text, Access::Platform)
        .live_only()
        .operations([
            Operation::get("/v1/queue", "show_queue", show)
                .describe("Show the queue", "Counts of deliveries by tenant and destination, largest group first. Each group has the reasons why its deliveries wait, and until when.")
                .tenant_filter()
                .query::<String>("destination", "Only mail for this domain, or for this address literal.")
                .query_as("limit", "Objects per page.", page::limit_schema)
                .query::<String>("after", "`next_cursor` of the previous page.")
                .returns::<QueueView>("The queue."),
            Operation::get("/v1/queue/sites", "list_sites", sites::list)
                .describe("List the destination sites", "A site is a set of mail hosts that serves one or more domains, or a smart host. Lists sites that are in use, have waiting deliveries or are in back-off.")
                .returns::<List<sites::SiteView>>("All sites."),
            Operation::post("/v1/queue/pause", "pause_queue", pause)
                .describe("Pause delivery", "Pauses the mail of a tenant, for a destination, or both; without fields, all mail. The server still accepts mail and queues it.")
                .may_take::<PauseRequest>(r#"{"destination": "example.org", "reason": "they asked us to wait"}"#)
                .may_run_again()
                // The tenant sees the entry, and the reason is that of the operator.
                .conceals(&["reason"])
                .returns::<PauseView>("The pause."),
            Operation::post("/v1/queue/resume", "resume_queue", resume)
                .describe("Resume delivery", "Ends the pause with exactly this tenant and destination; without fields, the pause of all mail. Other pauses stay. With `restored`, releases deliveries of a restored backup instead.")
                .may_take::<ResumeRequest>(r#"{"destination": "example.org"}"#)
                .may_run_again()
                .returns::<ResumeView>("The pause that ended, or what was released."),
            Operation::post("/v1/queue/flush", "flush_queue", flush)
                .describe("Flush the queue", "Makes deferred deliveries due now: those of the given tenant and destination, or all.")
                .may_take::<QueuePart>(r#"{"destination": "example.org"}"#)
                .may_run_again()
                .returns::<FlushView>("How many deliveries are due now."),
        ])
}

/// Selects a part of the queue. Without fields it selects all.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "QueueFilter")]
pub struct QueuePart {
    /// Only this tenant's mail.
    tenant_id: Option<TenantId>,
    /// Only mail for this domain, or for this address literal.
    destination: Option<String>,
}

/// Selects a pause, or deliveries of a restored backup.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "QueueResumption")]
pub struct ResumeRequest {
    /// Only this tenant's mail.
    tenant_id: Option<TenantId>,
    /// Only mail for this domain, or for this address literal.
    destination: Option<String>,
    /// Whether to release deliveries that wait because the server was restored from a backup. They may have been sent since the
    /// backup, so recipients may get them a second time.
    #[serde(default)]
    restored: bool,
}

/// A pause to create. Without a tenant and a destination, it pauses all mail.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "QueuePause")]
pub struct PauseRequest {
    /// Only this tenant's mail.
    tenant_id: Option<TenantId>,
    /// Only mail for this domain, or for this address literal.
    destination: Option<String>,
    /// Reason: one line of at most 200 characters.
    reason: Option<String>,
    /// Automatic end. Default: none; the pause lasts until resumed.
    until: Option<Timestamp>,
}

/// The queue.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Queue")]
pub struct QueueView {
    /// Always `queue`.
    #[schemars(extend("const" = "queue"))]
    object: &'static str,
    /// Time of the count. The server caches the counts of a deep queue.
    counted_at: Timestamp,
    /// Counts of all matching deliveries.
    #[serde(flatten)]
    totals: CountsView,
    /// Current pauses.
    pauses: Vec<PauseView>,
    /// The backup that the server was restored from, while its deliveries wait.
    restoration: Option<RestorationView>,
    /// Number of groups. A group is the mail of one tenant for one destination.
    group_count: u64,
    /// Whether groups are omitted because there are too many. The totals include all deliveries.
    truncated: bool,
    /// A page of the groups, largest first.
    data: Vec<GroupView>,
    /// Whether more objects follow.
    has_more: bool,
    /// The `after` of the next page.
    next_cursor: Option<String>,
}

/// Deliveries that are not finished.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "QueueCounts")]
pub struct CountsView {
    /// All open deliveries: the sum of the next four.
    open: u64,
    /// An attempt is in progress.
    in_flight: u64,
    /// Due, and waiting for an attempt.
    due: u64,
    /// Waiting for the end of a pause or of the suspension of its tenant, or for the release after a restore.
    paused: u64,
    /// Due later: waiting for a retry, or scheduled. `reasons` shows which.
    deferred: u64,
}

/// A pause.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Pause")]
pub struct PauseView {
    /// Always `pause`.
    #[schemars(extend("const" = "pause"))]
    object: &'static str,
    /// Tenant; `null` means all tenants.
    tenant_id: Option<TenantId>,
    /// Destination; `null` means all destinations.
    destination: Option<String>,
    /// Reason given by the operator.
    reason: Option<String>,
    /// Start time.
    since: Timestamp,
    /// Automatic end; `null` if the pause lasts until resumed.
    until: Option<Timestamp>,
}

/// A restored backup whose deliveries wait.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Restoration")]
pub struct RestorationView {
    /// The time of its contents: mail that was accepted later is not in the database.
    taken_at: Timestamp,
    /// When it was restored.
    restored_at: Timestamp,
    /// Deliveries that were open at its time.
    deliveries: u64,
}

/// A tenant's mail for one destination.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "QueueGroup")]
pub struct GroupView {
    /// Always `queue_group`.
    #[schemars(extend("const" = "queue_group"))]
    object: &'static str,
    /// The tenant.
    tenant_id: TenantId,
    /// The tenant's slug, for people.
    tenant_slug: Option<String>,
    /// The destination.
    destination: String,
    /// The counts.
    #[serde(flatten)]
    counts: CountsView,
    /// Acceptance time of the oldest delivery.
    oldest_at: Timestamp,
    /// When the next delivery is due, possibly in the past; `null` if all are paused.
    next_due_at: Option<Timestamp>,
    /// Why the deliveries wait: at least one reason, the most restrictive first.
    reasons: Vec<WaitView>,
}

/// A reason why deliveries wait.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "QueueWait")]
pub struct WaitView {
    /// For programs: `tenant_suspended`, `paused`, `site_backoff`, `site_throttled`, `smart_host_auth_failed`, `in_flight`,
    /// `due`, `deferred` or `scheduled`.
    reason: WaitReason,
    /// Number of deliveries, if known.
    count: Option<u64>,
    /// End of the wait; `null` if unknown.
    until: Option<Timestamp>,
    /// Details for people, such as the SMTP reply or the reason of the pause.
    detail: Option<String>,
}

/// A pause that ended, or deliveries of a restored backup that were released.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "QueueResume")]
pub struct ResumeView {
    /// Always `pause`.
    #[schemars(extend("const" = "pause"))]
    object: &'static str,
    /// Tenant; `null` means all tenants.
    tenant_id: Option<TenantId>,
    /// Destination; `null` means all destinations.
    destination: Option<String>,
    /// Always true.
    resumed: bool,
    /// Deliveries of a restored backup that were released, 0 if none of this part waits; `null` without `restored`.
    released: Option<u64>,
}

/// Result of a flush.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "QueueFlush")]
pub struct FlushView {
    /// Always `queue_flush`.
    #[schemars(extend("const" = "queue_flush"))]
    object: &'static str,
    /// Tenant; `null` means all tenants.
    tenant_id: Option<TenantId>,
    /// Destination; `null` means all destinations.
    destination: Option<String>,
    /// Deferred deliveries that are due now.
    flushed: u64,
}

impl From<QueueCounts> for CountsView {
    fn from(counts: QueueCounts) -> Self {
        let QueueCounts { open, in_flight, due, paused, deferred } = counts;
        Self { open, in_flight, due, paused, deferred }
    }
}

impl From<Pause> for PauseView {
    fn from(pause: Pause) -> Self {
        Self {
            object: "pause",
            tenant_id: pause.part.tenant_id,
            destination: pause.part.destination.as_ref().map(Host::to_string),
            reason: pause.reason,
            since: pause.since,
            until: pause.until,
        }
    }
}

impl From<Restoration> for RestorationView {
    fn from(restored: Restoration) -> Self {
        let Restoration { taken_at, restored_at, deliveries } = restored;
        Self { taken_at, restored_at, deliveries }
    }
}

/// A cursor: the place of a group in the list, by number of open deliveries, tenant and destination.
struct Cursor(GroupPlace);

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0.open, self.0.tenant_id, self.0.destination)
    }
}

impl FromStr for Cursor {
    type Err = &'static str;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        let mut parts = text.splitn(3, '.');
        let mut next = || parts.next().ok_or("invalid cursor; use next_cursor of the previous page");
        let (open, tenant, destination) = (next()?, next()?, next()?);
        let place = open.parse().ok().zip(tenant.parse().ok()).zip(Host::parse(destination).ok());
        let ((open, tenant_id), destination) = place.ok_or("this cursor belongs to another list")?;
        Ok(Self(GroupPlace { open, tenant_id, destination }))
    }
}

/// State outside of a group that can make it wait: tenants, pauses, sites.
struct WaitContext {
    tenants: HashMap<TenantId, Tenant>,
    pauses: Vec<Pause>,
    restoration: Option<Restoration>,
    records: Vec<(QueueFilter, WaitRecord)>,
}

impl WaitContext {
    async fn read(call: &RequestContext, groups: &[QueueGroup]) -> Result<Self> {
        let mut tenants = HashMap::new();
        for group in groups {
            if !tenants.contains_key(&group.tenant_id)
                && let Some(tenant) = call.store().tenant(group.tenant_id).await?
            {
                tenants.insert(group.tenant_id, tenant);
            }
        }
        let pauses = call.store().pauses(call.now).await?;
        let restoration = call.store().restoration().await?;
        Ok(Self { tenants, pauses, restoration, records: call.api.queue.snapshot(call.now).reasons })
    }

    /// The reasons why a group waits, the most restrictive first.
    fn explain(&self, group: &QueueGroup) -> Vec<WaitView> {
        let covers = |part: &QueueFilter| part.covers(group.tenant_id, &group.destination);
        let mut waits = Vec::new();
        let tenant = self.tenants.get(&group.tenant_id);
        let why = tenant.and_then(|tenant| match tenant.status {
            TenantStatus::Active => None,
            TenantStatus::Suspended => Some("the platform suspended the tenant"),
            TenantStatus::Archived => Some("the tenant is archived"),
        });
        if let Some(why) = why {
            waits.push(WaitView::of(WaitReason::TenantSuspended).detail(Some(why.to_owned())));
        }
        for pause in self.pauses.iter().filter(|pause| covers(&pause.part)) {
            waits.push(WaitView::of(WaitReason::Paused).until(pause.until).detail(pause.reason.clone()));
        }
        if let Some(restored) = self.restoration.filter(|_| group.restored > 0) {
            let detail =
                format!("restored from the backup of {}", restored.taken_at.strftime("%Y-%m-%d %H:%M UTC"));
            waits.push(WaitView::of(WaitReason::Paused).detail(Some(detail)));
        }
        for (_, record) in self.records.iter().filter(|(part, _)| covers(part)) {
            let detail = Some(record.detail.clone());
            waits.push(WaitView::of(record.reason).until(record.until).detail(detail));
        }
        waits.extend(reasons_of_state(group));
        if waits.is_empty() {
            // A pause has just ended, or the deliveries changed during the count.
            let detail = Some("deferred deliveries are being made due".to_owned());
            waits.push(WaitView::of(WaitReason::Due).count(group.counts.open).detail(detail));
        }
        waits
    }
}

/// The reasons that follow from the counts of the group.
fn reasons_of_state(group: &QueueGroup) -> Vec<WaitView> {
    let QueueCounts { in_flight, due, deferred, .. } = group.counts;
    let mut waits = Vec::new();
    if in_flight > 0 {
        waits.push(WaitView::of(WaitReason::InFlight).count(in_flight));
    }
    if due > 0 {
        waits.push(WaitView::of(WaitReason::Due).count(due));
    }
    let causes = &group.deferral_causes;
    // The count of one cause is known only if all deferred deliveries have that cause.
    let count = |other: bool| (deferred > 0 && !other).then_some(deferred);
    if causes.deferred {
        let wait =
            WaitView::of(WaitReason::Deferred).until(group.deferred_until).detail(causes.last_reply.clone());
        waits.push(WaitView { count: count(causes.scheduled), ..wait });
    }
    if causes.scheduled {
        let wait = WaitView::of(WaitReason::Scheduled).until(group.deferred_until);
        waits.push(WaitView { count: count(causes.deferred), ..wait });
    }
    waits
}

impl WaitView {
    fn of(reason: WaitReason) -> Self {
        Self { reason, count: None, until: None, detail: None }
    }

    fn count(self, count: u64) -> Self {
        Self { count: Some(count), ..self }
    }

    fn until(self, until: Option<Timestamp>) -> Self {
        Self { until, ..self }
    }

    fn detail(self, detail: Option<String>) -> Self {
        Self { detail, ..self }
    }
}

async fn show(mut call: RequestContext) -> Result<ApiResponse> {
    let query = &mut call.query;
    let part = QueueFilter {
        tenant_id: query.value("tenant_id"),
        destination: query.value_by("destination", Host::parse),
    };
    let after = query.value::<Cursor>("after").map(|cursor| cursor.0);
    let request = QueueRequest { part, limit: query.limit(), after };
    query.finish()?;
    let overview = call.api.queue.overview(request, call.now).await?;
    let context = WaitContext::read(&call, &overview.groups).await?;
    ApiResponse::ok(&view(overview, context))
}

fn view(overview: QueueOverview, context: WaitContext) -> QueueView {
    let place = |group: &QueueGroup| GroupPlace {
        open: group.counts.open,
        tenant_id: group.tenant_id,
        destination: group.destination.clone(),
    };
    let last = overview.groups.last().filter(|_| overview.has_more).map(place);
    let group_view = |group: QueueGroup| GroupView {
        object: "queue_group",
        tenant_id: group.tenant_id,
        tenant_slug: context.tenants.get(&group.tenant_id).map(|tenant| tenant.slug.clone()),
        destination: group.destination.to_string(),
        counts: group.counts.into(),
        oldest_at: group.oldest_at,
        next_due_at: group.next_due_at,
        reasons: context.explain(&group),
    };
    QueueView {
        object: "queue",
        counted_at: overview.counted_at,
        totals: overview.totals.into(),
        group_count: overview.group_count,
        truncated: overview.truncated,
        data: overview.groups.into_iter().map(group_view).collect(),
        has_more: overview.has_more,
        next_cursor: last.map(|place| Cursor(place).to_string()),
        pauses: context.pauses.into_iter().map(PauseView::from).collect(),
        restoration: context.restoration.map(RestorationView::from),
    }
}

fn read_destination(text: Option<&str>, checks: &mut Checks) -> Option<Host> {
    text.and_then(|text| checks.read(Host::parse(text), "destination"))
}

/// The part of the queue that the body selects.
async fn read_part(call: &RequestContext) -> Result<QueueFilter> {
    let body = if call.body.is_empty() { QueuePart::default() } else { call.json()? };
    check_part(call, body).await
}

async fn check_part(call: &RequestContext, part: QueuePart) -> Result<QueueFilter> {
    let mut checks = Checks::default();
    let destination = read_destination(part.destination.as_deref(), &mut checks);
    checks.finish()?;
    Ok(QueueFilter { tenant_id: call.owner(part.tenant_id).await?, destination })
}

async fn pause(call: RequestContext) -> Result<ApiResponse> {
    let body: PauseRequest = if call.body.is_empty() { PauseRequest::default() } else { call.json()? };
    let mut checks = Checks::default();
    let destination = read_destination(body.destination.as_deref(), &mut checks);
    if let Some(reason) = &body.reason {
        checks.line(reason, "reason", REASON_CHARS_MAX);
    }
    let is_to_come = body.until.is_none_or(|until| until > call.now);
    checks.require(is_to_come, "until", "invalid", "this must be in the future");
    checks.finish()?;
    let part = QueueFilter { tenant_id: body.tenant_id, destination };
    let pause = Pause { part, reason: body.reason, since: call.now, until: body.until };
    ApiResponse::ok(&PauseView::from(call.store().pause(pause).await?))
}

/// `POST /v1/queue/resume`: ends the pause of exactly this part, or releases what a restored backup has of it.
async fn resume(call: RequestContext) -> Result<ApiResponse> {
    let body: ResumeRequest = if call.body.is_empty() { ResumeRequest::default() } else { call.json()? };
    let ResumeRequest { tenant_id, destination, restored } = body;
    let part = check_part(&call, QueuePart { tenant_id, destination }).await?;
    let released = if restored {
        Some(release_restored(&call, part.clone()).await?)
    } else {
        end_pause(&call, part.clone()).await?;
        None
    };
    ApiResponse::ok(&ResumeView {
        object: "pause",
        tenant_id: part.tenant_id,
        destination: part.destination.as_ref().map(Host::to_string),
        resumed: true,
        released,
    })
}

async fn end_pause(call: &RequestContext, part: QueueFilter) -> Result<()> {
    if call.store().resume(part, call.now).await? {
        return Ok(());
    }
    Err(ApiError::new(
        RefusalCode::NotFound,
        "no pause has exactly this tenant_id and destination",
        "GET /v1/queue lists the pauses; to resume a suspended tenant, set its status to active",
    ))
}

async fn release_restored(call: &RequestContext, part: QueueFilter) -> Result<u64> {
    if call.store().restoration().await?.is_none() {
        return Err(ApiError::new(
            RefusalCode::NotFound,
            "no delivery of a restored backup waits",
            "GET /v1/queue shows what waits, and why",
        ));
    }
    Ok(call.store().release_restored(part, ReleaseMode::Send, call.now).await?)
}

async fn flush(call: RequestContext) -> Result<ApiResponse> {
    let part = read_part(&call).await?;
    let flushed = call.store().flush(part.clone(), call.now).await?;
    call.api.queue.end_backoffs(&part);
    ApiResponse::ok(&FlushView {
        object: "queue_flush",
        tenant_id: part.tenant_id,
        destination: part.destination.as_ref().map(Host::to_string),
        flushed,
    })
}
