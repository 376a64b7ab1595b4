//! The numbers and the charts of the overview.

use maud::{Markup, html};

use super::{Counts, Interval, Period, Queue, Stats};
use crate::mail::Timestamp;
use crate::ui::chart::{self, Axis, Series};
use crate::ui::components::{self, Number};
use crate::ui::format;
use crate::ui::request::PageRequest;

/// Percent of finished recipients above which the rate of bounces is shown as bad, and half as a warning.
const BOUNCES_MAX: f64 = 5.0;
const BOUNCES_WARN: f64 = 2.0;
/// The same of complaints, among delivered ones.
const COMPLAINTS_MAX: f64 = 0.3;
const COMPLAINTS_WARN: f64 = 0.1;

impl Counts {
    fn finished(&self) -> u64 {
        self.delivered + self.bounced + self.expired
    }

    /// Percent of finished recipients that bounced.
    fn bounce_rate(&self) -> f64 {
        percent(self.bounced, self.finished())
    }

    /// Percent of delivered recipients that complained.
    fn complaint_rate(&self) -> f64 {
        percent(self.complained, self.delivered)
    }
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 }
}

fn class(rate: f64, warn: f64, bad: f64) -> &'static str {
    match rate {
        rate if rate >= bad => "is-bad",
        rate if rate >= warn => "is-warn",
        _ => "",
    }
}

/// The numbers of the period.
pub fn numbers(request: &PageRequest, period: Period, stats: &Stats, queue: Option<&Queue>) -> Markup {
    let totals = &stats.totals;
    let accepted: Vec<f64> = stats.data.iter().map(|one| one.counts.accepted as f64).collect();
    let (bounce_rate, complaint_rate) = (totals.bounce_rate(), totals.complaint_rate());
    let number =
        |name, count: u64, text: Markup, class| Number { name, value: format::count(count), text, class };
    let bounces = format!(
        "{} of finished; limit {BOUNCES_MAX}\u{a0}%",
        format::share(totals.bounced, totals.finished())
    );
    let complaints = format!(
        "{} of delivered; limit {COMPLAINTS_MAX}\u{a0}%",
        format::share(totals.complained, totals.delivered)
    );
    let numbers = [
        number("Accepted", totals.accepted, chart::spark(&accepted), ""),
        number(
            "Delivered",
            totals.delivered,
            html! { (format::share(totals.delivered, totals.finished())) " of finished" },
            "",
        ),
        waiting(request, totals, queue),
        number("Bounced", totals.bounced, html! { (bounces) }, class(bounce_rate, BOUNCES_WARN, BOUNCES_MAX)),
        number(
            "Complaints",
            totals.complained,
            html! { (complaints) },
            class(complaint_rate, COMPLAINTS_WARN, COMPLAINTS_MAX),
        ),
        number("Refused", totals.rejected, html! { "submissions" }, ""),
    ];
    html! {
        (components::numbers(&numbers))
        @if let Some(since) = stats.since.filter(|since| period == Period::Hour && request.now.duration_since(*since).as_secs() < 3600) {
            p.soft.small { "Counted since the start at " (format::time(since)) "." }
        }
    }
}

/// What waits; for a tenant, how often mail was deferred.
fn waiting(request: &PageRequest, totals: &Counts, queue: Option<&Queue>) -> Number {
    let Some(queue) = queue else {
        return Number {
            name: "Deferred",
            value: format::count(totals.deferred),
            text: html! { "tried again by itself" },
            class: "",
        };
    };
    let oldest = queue.data.iter().map(|group| group.oldest_at).min();
    let oldest =
        oldest.map(|at| format!("oldest {}", format::duration_s(request.now.duration_since(at).as_secs())));
    let is_old = queue.data.iter().any(|group| request.now.duration_since(group.oldest_at).as_secs() > 3600);
    let text = match oldest {
        // Only the largest groups were read.
        Some(_) if queue.group_count > queue.data.len() as u64 => {
            format!("{} due, {} deferred", format::count(queue.due), format::count(queue.deferred))
        }
        Some(oldest) => oldest,
        None => "nothing waits".into(),
    };
    let class = if queue.open > 0 && is_old { "is-warn" } else { "" };
    Number { name: "Waiting", value: format::count(queue.open), text: html! { (text) }, class }
}

/// Recipients of each interval by what became of them.
pub fn volume(period: Period, stats: &Stats) -> Markup {
    let values = |of: fn(&Counts) -> u64| -> Vec<f64> {
        stats.data.iter().map(|one| of(&one.counts) as f64).collect()
    };
    let (delivered, deferred) = (values(|counts| counts.delivered), values(|counts| counts.deferred));
    let (bounced, suppressed) =
        (values(|counts| counts.bounced + counts.expired), values(|counts| counts.suppressed));
    let series = [
        Series { name: "delivered", color: "ok", values: &delivered },
        Series { name: "deferred", color: "warn", values: &deferred },
        Series { name: "bounced", color: "bad", values: &bounced },
        Series { name: "suppressed", color: "mute", values: &suppressed },
    ];
    let title = match period {
        Period::Hour => "Recipients by minute",
        Period::Day => "Recipients by hour",
        Period::Month => "Recipients by day",
    };
    let labels = labels(period, &stats.data);
    let text = summary(stats, &labels);
    chart::bars(&axis("volume", title, &text, &labels, "", None), &series)
}

fn summary(stats: &Stats, labels: &[String]) -> String {
    let most = stats.data.iter().zip(labels).max_by_key(|(one, _)| one.counts.delivered);
    let (Some(first), Some(last)) = (labels.first(), labels.last()) else { return "No time.".into() };
    match most.filter(|(one, _)| one.counts.delivered > 0) {
        Some((one, at)) => format!(
            "{} bars from {first} to {last}. Delivered {}, at most {} at {at}.",
            labels.len(),
            format::count(stats.totals.delivered),
            format::count(one.counts.delivered)
        ),
        None => format!("{} bars from {first} to {last}. Nothing was delivered.", labels.len()),
    }
}

/// The rate of bounces, with its limit.
pub fn bounces(period: Period, stats: &Stats) -> Markup {
    let values: Vec<f64> = stats.data.iter().map(|one| one.counts.bounce_rate()).collect();
    let labels = labels(period, &stats.data);
    let text = format!("The share of bounced among finished recipients, with its limit of {BOUNCES_MAX} %.");
    let series = [Series { name: "bounced of finished", color: "accent", values: &values }];
    chart::lines(&axis("bounces", "Bounce rate", &text, &labels, "\u{a0}%", Some(BOUNCES_MAX)), &series)
}

/// The rate of complaints, with its limit.
pub fn complaints(period: Period, stats: &Stats) -> Markup {
    let values: Vec<f64> = stats.data.iter().map(|one| one.counts.complaint_rate()).collect();
    let labels = labels(period, &stats.data);
    let text =
        format!("The share of complaints among delivered recipients, with its limit of {COMPLAINTS_MAX} %.");
    let series = [Series { name: "complaints of delivered", color: "accent", values: &values }];
    chart::lines(
        &axis("complaints", "Complaint rate", &text, &labels, "\u{a0}%", Some(COMPLAINTS_MAX)),
        &series,
    )
}

/// Six labels under the chart.
fn axis<'a>(
    id: &'a str,
    title: &'a str,
    text: &'a str,
    labels: &'a [String],
    unit: &'a str,
    limit: Option<f64>,
) -> Axis<'a> {
    Axis { id, title, text, labels, every: labels.len().div_ceil(6), unit, limit }
}

fn labels(period: Period, intervals: &[Interval]) -> Vec<String> {
    let form = if period == Period::Month { "%-d\u{a0}%b" } else { "%H:%M" };
    let label = |at: Timestamp| at.strftime(form).to_string();
    intervals.iter().map(|one| label(one.at)).collect()
}
