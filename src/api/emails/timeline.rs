//! Timeline of a message: its events and attempts, and the reports without an event, in chronological order.

use std::collections::HashMap;
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::Serialize;

use crate::api::{ApiError, ApiResponse, List, RequestContext, Result};
use crate::mail::{Address, Timestamp};
use crate::model::{
    AttemptId, BounceClass, DeliveryId, DeliveryState, EventId, EventKind, ReportEffect, ReportId, ReportKind,
};
use crate::store::{Attempt, Event, Journal, Page, Report, Reports};

/// Maximum entries. `has_more` reports that there are more.
const ENTRIES_MAX: usize = 1000;

/// An entry. `object` shows whether it is an event, an attempt or a report.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "TimelineEntry")]
pub enum Entry {
    /// An event.
    Event(EventEntry),
    /// A delivery attempt.
    Attempt(AttemptEntry),
    /// A report from which nothing followed. Other reports have events.
    Report(ReportEntry),
}

/// An event of a message.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "TimelineEvent")]
pub struct EventEntry {
    /// The event.
    id: EventId,
    /// Always `event`.
    #[schemars(extend("const" = "event"))]
    object: &'static str,
    /// Time of the event.
    at: Timestamp,
    /// The event type.
    #[serde(rename = "type")]
    kind: EventKind,
    /// The delivery it is about.
    delivery_id: Option<DeliveryId>,
    /// The recipient, if it is about one.
    recipient: Option<Address>,
    /// Event data; its fields depend on the type.
    data: serde_json::Value,
}

/// A delivery attempt.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "TimelineAttempt")]
pub struct AttemptEntry {
    /// The attempt.
    id: AttemptId,
    /// Always `attempt`.
    #[schemars(extend("const" = "attempt"))]
    object: &'static str,
    /// Start time.
    at: Timestamp,
    /// The delivery it is about.
    delivery_id: DeliveryId,
    /// The recipient.
    recipient: Option<Address>,
    /// The host that was tried.
    host: String,
    /// Its address; `null` if none was reached.
    address: Option<IpAddr>,
    /// The address of this server that the host saw; `null` without a connection.
    source: Option<IpAddr>,
    /// TLS version and cipher suite; `null` without TLS.
    tls: Option<String>,
    /// TLS policy that applied to the host, and its source.
    tls_policy: Option<String>,
    /// The SMTP reply code.
    reply_code: Option<u16>,
    /// The enhanced status code (RFC 3463).
    enhanced_code: Option<String>,
    /// Reply of the host, or the local error.
    reply: String,
    /// The SMTP dialogue.
    transcript: String,
    /// Duration in milliseconds.
    duration_ms: u64,
    /// Delivery status after the attempt.
    outcome: DeliveryState,
    /// Why the attempt failed, as a stable code; `null` after success.
    bounce_class: Option<BounceClass>,
    /// Explains the time of the next attempt.
    reason: String,
}

/// A report of another server from which nothing followed, like an automatic reply.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "TimelineReport")]
pub struct ReportEntry {
    /// The report.
    id: ReportId,
    /// Always `report`.
    #[schemars(extend("const" = "report"))]
    object: &'static str,
    /// Time of the first one.
    at: Timestamp,
    /// The delivery it is about.
    delivery_id: Option<DeliveryId>,
    /// The recipient.
    recipient: Option<Address>,
    /// What it is.
    kind: ReportKind,
    /// Why nothing followed.
    effect: ReportEffect,
}

impl Entry {
    /// The sort key. At the same time, an attempt precedes the event that reports its result.
    fn sort_key(&self) -> (Timestamp, u8) {
        match self {
            Self::Attempt(attempt) => (attempt.at, 0),
            Self::Event(event) => (event.at, 1),
            Self::Report(report) => (report.at, 2),
        }
    }
}

pub async fn get(mut call: RequestContext) -> Result<ApiResponse> {
    let wanted = call.query.value::<DeliveryId>("delivery_id");
    call.query.finish()?;
    let message = super::find(&call).await?;
    let deliveries = call.store().deliveries(message.id).await?;
    if wanted.is_some_and(|id| deliveries.iter().all(|delivery| delivery.id != id)) {
        return Err(ApiError::not_found("delivery"));
    }
    let recipients = deliveries.into_iter().map(|delivery| (delivery.id, delivery.recipient)).collect();
    let events = call.store().message_events(message.id, wanted, ENTRIES_MAX).await?;
    let attempts = call.store().attempts(message.id, wanted, ENTRIES_MAX).await?;
    let reports = call.store().reports_without_event(message.id, wanted, ENTRIES_MAX).await?;
    let (entries, has_more) = merge(events, attempts, reports, &recipients);
    ApiResponse::ok(&List::without_cursor(entries, has_more))
}

/// The first entries of the timeline, and whether there are more. If the store cut the events or the attempts, entries
/// after the last one read of that kind are left out, so that none is missing in between.
fn merge(
    events: Page<Event>,
    attempts: Page<Attempt>,
    reports: Page<Report>,
    recipients: &HashMap<DeliveryId, Address>,
) -> (Vec<Entry>, bool) {
    let truncated = events.has_more || attempts.has_more || reports.has_more;
    let last_event = events.items.last().filter(|_| events.has_more).map(|event| (event.created_at, 1));
    let last_attempt =
        attempts.items.last().filter(|_| attempts.has_more).map(|attempt| (attempt.started_at, 0));
    let last_report = reports.items.last().filter(|_| reports.has_more).map(|report| (report.created_at, 2));
    let end = [last_event, last_attempt, last_report].into_iter().flatten().min();
    let events = events.items.into_iter().map(|event| {
        Entry::Event(EventEntry {
            id: event.id,
            object: "event",
            at: event.created_at,
            kind: event.kind,
            delivery_id: event.delivery_id,
            recipient: event.delivery_id.and_then(|id| recipients.get(&id).cloned()),
            data: event.data,
        })
    });
    let attempts = attempts.items.into_iter().map(|attempt| {
        Entry::Attempt(AttemptEntry {
            id: attempt.id,
            object: "attempt",
            at: attempt.started_at,
            delivery_id: attempt.delivery_id,
            recipient: recipients.get(&attempt.delivery_id).cloned(),
            host: attempt.host,
            address: attempt.address,
            source: attempt.source,
            tls: attempt.tls,
            tls_policy: attempt.tls_policy,
            reply_code: attempt.code,
            enhanced_code: attempt.enhanced.map(|status| status.to_string()),
            reply: attempt.text,
            transcript: attempt.transcript.to_string(),
            duration_ms: attempt.duration_ms,
            outcome: attempt.outcome,
            bounce_class: attempt.bounce_class,
            reason: attempt.reason,
        })
    });
    let reports = reports.items.into_iter().map(|report| {
        Entry::Report(ReportEntry {
            id: report.id,
            object: "report",
            at: report.created_at,
            delivery_id: report.delivery_id,
            recipient: report.delivery_id.and_then(|id| recipients.get(&id).cloned()),
            kind: report.kind,
            effect: report.effect,
        })
    });
    let mut entries: Vec<_> = events.chain(attempts).chain(reports).collect();
    entries.sort_by_key(Entry::sort_key);
    entries.retain(|entry| end.is_none_or(|end| entry.sort_key() <= end));
    let has_more = truncated || entries.len() > ENTRIES_MAX;
    entries.truncate(ENTRIES_MAX);
    (entries, has_more)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::MessageId;

    #[test]
    fn events_and_attempts_are_in_chronological_order() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let (message_id, delivery_id) = (MessageId::generate(at(0)), DeliveryId::generate(at(0)));
        let event = |kind, second, delivery_id| Event {
            id: EventId::generate(at(second)),
            kind,
            tenant_id: None,
            environment: None,
            message_id: Some(message_id),
            delivery_id,
            external_ref: None,
            annotations: Default::default(),
            data: serde_json::Value::Null,
            created_at: at(second),
        };
        let attempt = |second, outcome| Attempt {
            id: AttemptId::generate(at(second)),
            message_id,
            delivery_id,
            started_at: at(second),
            duration_ms: 0,
            host: "mx.example".into(),
            address: None,
            tls: None,
            source: None,
            tls_policy: None,
            code: Some(250),
            enhanced: "2.0.0".parse().ok(),
            text: "ok".into(),
            transcript: "".into(),
            outcome,
            bounce_class: None,
            reason: String::new(),
        };
        let recipients = HashMap::from([(delivery_id, Address::parse("a@b.example").unwrap())]);
        let merged = |events_cut, attempts_cut| {
            let events = vec![
                event(EventKind::MessageAccepted, 1, None),
                event(EventKind::MessageDeferred, 3, Some(delivery_id)),
                event(EventKind::MessageDelivered, 5, Some(delivery_id)),
            ];
            let attempts = vec![attempt(2, DeliveryState::Deferred), attempt(5, DeliveryState::Delivered)];
            let events = Page { items: events, has_more: events_cut };
            let (entries, has_more) = merge(
                events,
                Page { items: attempts, has_more: attempts_cut },
                Page { items: Vec::new(), has_more: false },
                &recipients,
            );
            let shown = entries.iter().map(|entry| {
                let value = serde_json::to_value(entry).unwrap();
                let kind = value.get("type").or(value.get("outcome")).unwrap().as_str().unwrap().to_owned();
                let recipient = value["recipient"].as_str().unwrap_or("-");
                format!("{} {kind} {recipient}", value["object"].as_str().unwrap())
            });
            (shown.collect::<Vec<String>>(), has_more)
        };
        let (shown, has_more) = merged(false, false);
        assert!(!has_more);
        assert_eq!(merged(true, false), (shown.clone(), true));
        assert_eq!(
            merged(false, true),
            (shown[..4].to_vec(), true),
            "an event may have an attempt before it"
        );
        assert_eq!(
            shown,
            [
                "event message.accepted -",
                "attempt deferred a@b.example",
                "event message.deferred a@b.example",
                "attempt delivered a@b.example",
                "event message.delivered a@b.example",
            ]
        );
    }
}
