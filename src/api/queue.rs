//! The queue: how deep it is for whom and where, why it waits and until when; pausing, resuming and flushing parts.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::mail::{Host, Timestamp};
use crate::model::{QueueFilter, RefusalCode, TenantId, TenantStatus, WaitReason};
use crate::queue::wait_reasons::{SiteStatus, WaitRecord};
use crate::store::{
    Directory, GroupPlace, Pause, Queue, QueueCounts, QueueGroup, QueueOverview, QueueRequest, Tenant,
};

use super::error::{ApiError, Result};
use super::json::Checks;
use super::page::List;
use super::request_context::RequestContext;
use super::response::ApiResponse;

const REASON_CHARS_MAX: usize = 200;

/// Which part of the queue; without any field all of it.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "QueueFilter")]
pub struct Part {
    /// Only this tenant's mail.
    tenant_id: Option<TenantId>,
    /// Only mail for this domain, or for this address literal.
    destination: Option<String>,
}

/// A part of the queue that is to be paused: a tenant, a destination or both have to be named.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "QueuePause")]
pub struct PauseRequest {
    /// Only this tenant's mail.
    tenant_id: Option<TenantId>,
    /// Only mail for this domain, or for this address literal.
    destination: Option<String>,
    /// Why, for people: one line of at most 200 characters.
    reason: Option<String>,
    /// When it ends by itself; without it, it has to be resumed.
    until: Option<Timestamp>,
}

/// A site, the same mail hosts under whatever domains, or a smart host: in use, waited for, or on hold.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Site")]
pub struct SiteView {
    /// Always `site`.
    #[schemars(extend("const" = "site"))]
    object: &'static str,
    /// The mail hosts, rolled up, or the smart host.
    name: String,
    /// Whose smart host it is, or whose sandbox; `null` for what all tenants share.
    tenant_id: Option<TenantId>,
    /// Domains that are known to be there; at most a hundred are named.
    domains: Vec<String>,
    /// Connections that it may have now: more while it goes well.
    connections_max: usize,
    /// Connections that it has.
    connections: usize,
    /// Deliveries that wait for one.
    waiting: usize,
    /// Nothing is sent there before this time.
    held_until: Option<Timestamp>,
    /// Why: the reply, or what happened.
    reason: Option<String>,
}

impl From<SiteStatus> for SiteView {
    fn from(status: SiteStatus) -> Self {
        let SiteStatus {
            name,
            tenant_id,
            domains,
            connections_max,
            connections,
            waiting,
            held_until,
            reason,
        } = status;
        Self {
            object: "site",
            name,
            tenant_id,
            domains,
            connections_max,
            connections,
            waiting,
            held_until,
            reason,
        }
    }
}

/// The queue, as it was counted a moment ago.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Queue")]
pub struct QueueView {
    /// `queue`.
    #[schemars(extend("const" = "queue"))]
    object: &'static str,
    /// When it was counted: a deep queue is not counted anew for each request.
    counted_at: Timestamp,
    /// All that was asked for.
    #[serde(flatten)]
    totals: CountsView,
    /// What is paused now.
    pauses: Vec<PauseView>,
    /// Groups of one tenant and one destination.
    group_count: u64,
    /// Whether there are more groups than are told apart; all deliveries are in the totals.
    truncated: bool,
    /// A page of the groups, the deepest first.
    data: Vec<GroupView>,
    /// Whether more follow.
    has_more: bool,
    /// The `after` of the next page.
    next_cursor: Option<String>,
}

/// Deliveries that are not finished.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "QueueCounts")]
pub struct CountsView {
    /// In all; the next four add up to it.
    open: u64,
    /// Being delivered.
    in_flight: u64,
    /// Due, and not being delivered yet.
    due: u64,
    /// Set aside without end, because their destination is paused.
    paused: u64,
    /// Due later.
    later: u64,
}

/// What is paused.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "PauseRequest")]
pub struct PauseView {
    /// `pause`.
    #[schemars(extend("const" = "pause"))]
    object: &'static str,
    /// Whose mail; `null` is everybody's.
    tenant_id: Option<TenantId>,
    /// Where to; `null` is everywhere.
    destination: Option<String>,
    /// Why, in the words of who paused it.
    reason: Option<String>,
    /// Since when.
    since: Timestamp,
    /// When it ends by itself; `null` until it is resumed.
    until: Option<Timestamp>,
}

/// A tenant's mail for one destination.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "QueueGroup")]
pub struct GroupView {
    /// `queue_group`.
    #[schemars(extend("const" = "queue_group"))]
    object: &'static str,
    /// Whose mail.
    tenant_id: TenantId,
    /// The tenant's slug, for people.
    tenant_slug: Option<String>,
    /// Where to.
    destination: String,
    /// How much.
    #[serde(flatten)]
    counts: CountsView,
    /// When the oldest delivery was accepted.
    oldest_at: Timestamp,
    /// When the next delivery is due, also if that is past; `null` if all are set aside.
    next_due_at: Option<Timestamp>,
    /// Why: at least one reason, what holds up most first.
    waiting: Vec<WaitView>,
}

/// One reason to wait.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "QueueWait")]
pub struct WaitView {
    /// For programs: `tenant_suspended`, `paused`, `site_backoff`, `site_throttled`, `smart_host_auth_failed`, `in_flight`,
    /// `due`, `deferred` or `scheduled`.
    reason: WaitReason,
    /// How many deliveries, where that is known.
    count: Option<u64>,
    /// Until when; `null` if nobody knows.
    until: Option<Timestamp>,
    /// For people: the reply that put it off, or who paused it and why.
    detail: Option<String>,
}

/// A pause that is over.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "QueueResume")]
pub struct ResumeView {
    /// `pause`.
    #[schemars(extend("const" = "pause"))]
    object: &'static str,
    /// Whose mail; `null` is everybody's.
    tenant_id: Option<TenantId>,
    /// Where to; `null` is everywhere.
    destination: Option<String>,
    /// True: what was paused is due.
    resumed: bool,
}

/// What a flush did.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "QueueFlush")]
pub struct FlushView {
    /// `queue_flush`.
    #[schemars(extend("const" = "queue_flush"))]
    object: &'static str,
    /// Deliveries that waited for their next try and are due now.
    flushed: u64,
}

impl From<QueueCounts> for CountsView {
    fn from(counts: QueueCounts) -> Self {
        let QueueCounts { open, in_flight, due, parked, later } = counts;
        Self { open, in_flight, due, paused: parked, later }
    }
}

impl From<Pause> for PauseView {
    fn from(hold: Pause) -> Self {
        Self {
            object: "pause",
            tenant_id: hold.part.tenant_id,
            destination: hold.part.destination.as_ref().map(Host::to_string),
            reason: hold.reason,
            since: hold.since,
            until: hold.until,
        }
    }
}

/// The place of a group as a cursor says it: depth, tenant and destination.
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
        let mut next = || parts.next().ok_or("this is not a cursor; take next_cursor of the page before");
        let (open, tenant, destination) = (next()?, next()?, next()?);
        let place = open.parse().ok().zip(tenant.parse().ok()).zip(Host::parse(destination).ok());
        let ((open, tenant_id), destination) = place.ok_or("this is not a cursor of this list")?;
        Ok(Self(GroupPlace { open, tenant_id, destination }))
    }
}

/// What may hold a group up beside its own state.
struct Circumstances {
    tenants: HashMap<TenantId, Tenant>,
    holds: Vec<Pause>,
    notices: Vec<(QueueFilter, WaitRecord)>,
}

impl Circumstances {
    async fn read(call: &RequestContext<'_>, groups: &[QueueGroup]) -> Result<Self> {
        let mut tenants = HashMap::new();
        for group in groups {
            if !tenants.contains_key(&group.tenant_id)
                && let Some(tenant) = call.store().tenant(group.tenant_id).await?
            {
                tenants.insert(group.tenant_id, tenant);
            }
        }
        let holds = call.store().holds(call.now).await?;
        Ok(Self { tenants, holds, notices: call.api.queue.snapshot(call.now).reasons })
    }

    /// Why a group waits, what holds up most first.
    fn explain(&self, group: &QueueGroup) -> Vec<WaitView> {
        let covers = |part: &QueueFilter| part.covers(group.tenant_id, &group.destination);
        let mut waits = Vec::new();
        let tenant = self.tenants.get(&group.tenant_id);
        if tenant.is_some_and(|tenant| tenant.status == TenantStatus::Suspended) {
            let detail = "the platform suspended the tenant".to_owned();
            waits.push(WaitView::of(WaitReason::TenantSuspended).because(Some(detail)));
        }
        for hold in self.holds.iter().filter(|hold| covers(&hold.part)) {
            waits.push(WaitView::of(WaitReason::Paused).until(hold.until).because(hold.reason.clone()));
        }
        for (_, notice) in self.notices.iter().filter(|(part, _)| covers(part)) {
            let detail = Some(notice.detail.clone());
            waits.push(WaitView::of(notice.reason).until(notice.until).because(detail));
        }
        waits.extend(waits_of_state(group));
        if waits.is_empty() {
            // A pause that was just lifted, or what left while it was being counted.
            let detail = Some("what was put off is being made due".to_owned());
            waits.push(WaitView::of(WaitReason::Due).count(group.counts.open).because(detail));
        }
        waits
    }
}

/// What the deliveries themselves say.
fn waits_of_state(group: &QueueGroup) -> Vec<WaitView> {
    let QueueCounts { in_flight, due, later, .. } = group.counts;
    let mut waits = Vec::new();
    if in_flight > 0 {
        waits.push(WaitView::of(WaitReason::InFlight).count(in_flight));
    }
    if due > 0 {
        waits.push(WaitView::of(WaitReason::Due).count(due));
    }
    let because = &group.later_because;
    // How many are of which kind is known only where all are of one.
    let count = |other: bool| (later > 0 && !other).then_some(later);
    if because.deferred {
        let wait =
            WaitView::of(WaitReason::Deferred).until(group.later_at).because(because.last_reply.clone());
        waits.push(WaitView { count: count(because.scheduled), ..wait });
    }
    if because.scheduled {
        let wait = WaitView::of(WaitReason::Scheduled).until(group.later_at);
        waits.push(WaitView { count: count(because.deferred), ..wait });
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

    fn because(self, detail: Option<String>) -> Self {
        Self { detail, ..self }
    }
}

/// `GET /v1/queue`
pub async fn show(mut call: RequestContext<'_>) -> Result<ApiResponse> {
    let query = &mut call.query;
    let part = QueueFilter {
        tenant_id: query.value("tenant_id"),
        destination: query.value_by("destination", Host::parse),
    };
    let after = query.value::<Cursor>("after").map(|cursor| cursor.0);
    let request = QueueRequest { part, limit: query.limit(), after };
    query.finish()?;
    let overview = call.api.queue.overview(request, call.now).await?;
    let circumstances = Circumstances::read(&call, &overview.groups).await?;
    ApiResponse::ok(&view(overview, circumstances))
}

fn view(overview: QueueOverview, circumstances: Circumstances) -> QueueView {
    let place = |group: &QueueGroup| GroupPlace {
        open: group.counts.open,
        tenant_id: group.tenant_id,
        destination: group.destination.clone(),
    };
    let last = overview.groups.last().filter(|_| overview.has_more).map(place);
    let group_view = |group: QueueGroup| GroupView {
        object: "queue_group",
        tenant_id: group.tenant_id,
        tenant_slug: circumstances.tenants.get(&group.tenant_id).map(|tenant| tenant.slug.clone()),
        destination: group.destination.to_string(),
        counts: group.counts.into(),
        oldest_at: group.oldest_at,
        next_due_at: group.next_due_at,
        waiting: circumstances.explain(&group),
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
        pauses: circumstances.holds.into_iter().map(PauseView::from).collect(),
    }
}

fn read_destination(text: Option<&str>, checks: &mut Checks) -> Option<Host> {
    text.and_then(|text| checks.read(Host::parse(text), "destination"))
}

/// The part that a body names.
async fn read_part(call: &RequestContext<'_>) -> Result<QueueFilter> {
    let body: Part = if call.body.is_empty() { Part::default() } else { call.json()? };
    let mut checks = Checks::default();
    let destination = read_destination(body.destination.as_deref(), &mut checks);
    checks.finish()?;
    Ok(QueueFilter { tenant_id: call.owner(body.tenant_id).await?, destination })
}

/// `POST /v1/queue/pause`
pub async fn pause(call: RequestContext<'_>) -> Result<ApiResponse> {
    let body: PauseRequest = call.json()?;
    let mut checks = Checks::default();
    let is_named = body.tenant_id.is_some() || body.destination.is_some();
    checks.require(is_named, "", "required", "name a tenant_id, a destination or both");
    let destination = read_destination(body.destination.as_deref(), &mut checks);
    if let Some(reason) = &body.reason {
        checks.line(reason, "reason", REASON_CHARS_MAX);
    }
    let is_to_come = body.until.is_none_or(|until| until > call.now);
    checks.require(is_to_come, "until", "invalid", "this must be in the future");
    checks.finish()?;
    let part = QueueFilter { tenant_id: body.tenant_id, destination };
    let hold = Pause { part, reason: body.reason, since: call.now, until: body.until };
    let hold = call.store().pause(hold).await?;
    tracing::info!(part = ?hold.part, until = ?hold.until, by = %call.caller.key.id, "a part of the queue is paused");
    ApiResponse::ok(&PauseView::from(hold))
}

/// `POST /v1/queue/resume`: exactly the part that was paused.
pub async fn resume(call: RequestContext<'_>) -> Result<ApiResponse> {
    let part = read_part(&call).await?;
    if !call.store().resume(part.clone(), call.now).await? {
        return Err(ApiError::new(
            RefusalCode::NotFound,
            "there is no pause of exactly this part of the queue",
            "GET /v1/queue lists what is paused; a suspended tenant resumes when its status is active",
        ));
    }
    tracing::info!(?part, by = %call.caller.key.id, "a part of the queue is resumed");
    ApiResponse::ok(&ResumeView {
        object: "pause",
        tenant_id: part.tenant_id,
        destination: part.destination.as_ref().map(Host::to_string),
        resumed: true,
    })
}

/// `GET /v1/queue/sites`
pub fn list_sites(call: &RequestContext<'_>) -> Result<ApiResponse> {
    let sites = call.api.queue.snapshot(call.now).sites;
    ApiResponse::ok(&List::whole(sites.into_iter().map(SiteView::from).collect()))
}

/// `POST /v1/queue/flush`
pub async fn flush(call: RequestContext<'_>) -> Result<ApiResponse> {
    let part = read_part(&call).await?;
    let flushed = call.store().flush(part.clone(), call.now).await?;
    call.api.queue.end_backoffs(&part);
    tracing::info!(?part, flushed, by = %call.caller.key.id, "a part of the queue is due now");
    ApiResponse::ok(&FlushView { object: "queue_flush", flushed })
}
