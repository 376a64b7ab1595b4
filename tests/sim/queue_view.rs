//! What the queue's answer says about mail that waits: each group has a reason, and each reason an end.

use pillarbox::mail::Timestamp;
use serde_json::Value;

use crate::gates::Gates;
use crate::http::{self, Call};
use crate::world::{LIFETIME, World};

/// How long an end may be in the past: the counts of an answer may be some seconds old.
const OVERDUE_SECONDS: i64 = 60;
/// For how long mail may be due without a reason besides.
const DUE_SECONDS_MAX: i64 = 3600;

pub async fn look(world: &World, gates: &Gates) {
    let call = Call::get("/v1/queue?limit=100").with_key(&world.platform_secret);
    let Some((200, queue)) = http::ask(world, gates, call).await else { return };
    world.note(format!("operator: the queue has {} deliveries", queue["open"]));
    for group in queue["data"].as_array().into_iter().flatten() {
        if let Some(wrong) = unexplained(world.now(), group) {
            world.violate(format!("{wrong}: {group}"));
        }
    }
}

/// What is missing in the explanation of a group.
fn unexplained(now: Timestamp, group: &Value) -> Option<String> {
    let reasons = group["reasons"].as_array().filter(|reasons| !reasons.is_empty());
    let Some(reasons) = reasons else { return Some("mail waits without a reason".to_owned()) };
    for reason in reasons {
        let name = reason["reason"].as_str().unwrap_or_default();
        let until = time(&reason["until"]);
        // An operator, an attempt or the queue manager ends these.
        let is_ended_by_somebody =
            ["tenant_suspended", "paused", "in_flight", "due", "site_throttled"].contains(&name);
        match until {
            None if !is_ended_by_somebody => return Some(format!("{name} has no end")),
            Some(until) if now.duration_since(until).as_secs() > OVERDUE_SECONDS => {
                return Some(format!("{name} has ended at {until}"));
            }
            Some(until) if until.duration_since(now).unsigned_abs() > LIFETIME => {
                return Some(format!("{name} lasts until {until}"));
            }
            _ => {}
        }
    }
    let is_only_due = reasons.iter().all(|reason| reason["reason"] == "due");
    let overdue = time(&group["next_due_at"]).map(|due| now.duration_since(due).as_secs());
    (is_only_due && overdue.is_some_and(|seconds| seconds > DUE_SECONDS_MAX))
        .then(|| "mail is due and nothing happens".to_owned())
}

fn time(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}
