//! Reports of other servers about messages: bounces, complaints, automatic replies.

use schemars::JsonSchema;
use serde::Serialize;

use crate::mail::Timestamp;
use crate::model::{
    BounceClass, DeliveryId, Environment, FeedbackType, MessageId, ReportAction, ReportEffect, ReportId,
    ReportKind, Scope, TenantId,
};
use crate::store::{Report, ReportFilter, Reporter, Reports};

use super::body::memory_exhausted;
use super::{Access, ApiError, ApiResponse, List, ListedOwner, Operation, RequestContext, Resource, Result};

/// The operations of reports.
pub fn resource() -> Resource {
    let text = "What other servers sent back about messages: bounces, complaints, automatic replies.";
    Resource::new("Reports", text, Access::Scope(Scope::EmailsRead)).id::<ReportId>("The report.").operations([
        Operation::get("/v1/reports", "list_reports", list)
            .describe(
                "List reports",
                "With a platform key, `tenant_id=null` selects the reports that belong to no message.",
            )
            .owner_filter()
            .environment_filter()
            .query::<MessageId>("message_id", "Only reports about this message.")
            .query::<ReportKind>("kind", "Only reports of this kind.")
            .query::<ReportEffect>("effect", "Only reports with this effect.")
            .pages::<ReportId, ReportView>("Reports."),
        Operation::get("/v1/reports/{id}", "get_report", get)
            .summary("Get a report")
            .returns::<ReportView>("The report."),
        Operation::get("/v1/reports/{id}/raw", "get_report_raw", get_raw)
            .describe(
                "Get the text of a report",
                "Without the body of the returned message, at most 64 KiB. Available for `retention.report_days`.",
            )
            .returns_octets("message/rfc822", "The report in RFC 5322 format."),
    ])
}

/// What another server sent back about a message.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Report")]
pub struct ReportView {
    /// Its id.
    id: ReportId,
    /// Always `report`.
    #[schemars(extend("const" = "report"))]
    object: &'static str,
    /// The tenant of the message; `null` if nothing proves which message it is about.
    tenant_id: Option<TenantId>,
    /// Environment of the message: `live` or `test`.
    environment: Option<Environment>,
    /// The message.
    message_id: Option<MessageId>,
    /// The delivery; `null` if several recipients have the address that the report came to.
    delivery_id: Option<DeliveryId>,
    /// What it is.
    kind: ReportKind,
    /// What followed from it.
    effect: ReportEffect,
    /// What a delivery status notification says happened (RFC 3464).
    action: Option<ReportAction>,
    /// The enhanced status code (RFC 3463).
    status: Option<String>,
    /// Why the delivery failed, as a stable code.
    bounce_class: Option<BounceClass>,
    /// The type of a complaint (RFC 5965).
    feedback_type: Option<FeedbackType>,
    /// The recipient that the report names; it proves nothing.
    recipient: Option<String>,
    /// The reply that it quotes.
    reply: Option<String>,
    /// Who sent it.
    reporter: Reporter,
    /// The rule that decided its kind.
    rule: String,
    /// How often it came.
    times: u64,
    /// Whether its text is still there.
    has_raw: bool,
    /// Time of the first one.
    created_at: Timestamp,
    /// Time of the last one.
    last_received_at: Timestamp,
}

impl From<Report> for ReportView {
    fn from(report: Report) -> Self {
        Self {
            id: report.id,
            object: "report",
            tenant_id: report.tenant_id,
            environment: report.environment,
            message_id: report.message_id,
            delivery_id: report.delivery_id,
            kind: report.kind,
            effect: report.effect,
            action: report.action,
            status: report.status.map(|status| status.to_string()),
            bounce_class: report.bounce_class,
            feedback_type: report.feedback_type,
            recipient: report.recipient,
            reply: report.reply,
            reporter: report.reporter,
            rule: report.rule,
            times: report.times,
            has_raw: report.has_raw,
            created_at: report.created_at,
            last_received_at: report.last_at,
        }
    }
}

async fn list(mut call: RequestContext) -> Result<ApiResponse> {
    let ListedOwner { tenant_id, of_platform } = call.listed_owner().await?;
    let filter = ReportFilter {
        tenant_id,
        unattributed: of_platform,
        environment: call.listed_environment(),
        message_id: call.query.value("message_id"),
        kind: call.query.value("kind"),
        effect: call.query.value("effect"),
    };
    let request = call.query.page::<ReportId>();
    call.query.finish()?;
    let page = call.store().list_reports(filter, request.clone()).await?;
    ApiResponse::ok(&List::page(page, &request, |report| report.id.to_string(), ReportView::from))
}

/// One without an environment belongs to no tenant, so only a platform key finds it.
async fn find(call: &RequestContext) -> Result<Report> {
    let found = call.store().report(call.scope(), call.id("report")?).await?;
    let is_seen = |report: &Report| call.caller.sees(report.environment.unwrap_or(Environment::Live));
    found.filter(is_seen).ok_or_else(|| ApiError::not_found("report"))
}

async fn get(call: RequestContext) -> Result<ApiResponse> {
    ApiResponse::ok(&ReportView::from(find(&call).await?))
}

async fn get_raw(call: RequestContext) -> Result<ApiResponse> {
    let id = find(&call).await?.id;
    let mut reservation = call.reservation.beside();
    if !reservation.grow_to(2 * crate::store::REPORT_RAW_OCTETS_MAX as u64) {
        return Err(memory_exhausted());
    }
    let raw = call.store().report_raw(call.scope(), id).await?;
    let raw = raw.ok_or_else(|| ApiError::not_found("text of the report"))?;
    ApiResponse::message(raw).reserve(reservation)
}
