//! The filters of messages: fields of the form, and what the API is asked for them.

use maud::{Markup, html};

use crate::mail::{SignedDuration, Timestamp};
use crate::ui::components::{self, Chips, Filters, search};
use crate::ui::request::{PageRequest, Tenants, target};

use super::PAGE;

/// Parameters that the API takes as they are.
const PASSED: [&str; 14] = [
    "status",
    "delivery_status",
    "recipient_domain",
    "from",
    "subject",
    "tag",
    "key_id",
    "list",
    "message_id",
    "kind",
    "environment",
    "tenant_id",
    "after",
    "before",
];
/// The second group of fields.
const MORE: [&str; 12] = [
    "subject",
    "tag",
    "message_id",
    "key_id",
    "list",
    "delivery_status",
    "metadata_name",
    "metadata_value",
    "kind",
    "until",
    "recipient_domain",
    "environment",
];
const STATUSES: [(&str, &str); 7] = [
    ("", "any"),
    ("queued", "queued"),
    ("deferred", "deferred"),
    ("delivered", "delivered"),
    ("bounced", "bounced"),
    ("expired", "expired"),
    ("cancelled", "cancelled"),
];

/// What the API is asked.
pub struct Search(Vec<(String, String)>);

impl Search {
    /// Of the query of a page.
    pub fn of(request: &PageRequest) -> Self {
        let mut search = Self(Vec::new());
        for name in PASSED {
            search.ask(name, request.parameter(name).unwrap_or_default());
        }
        if let Some(to) = request.parameter("to") {
            search.ask(if to.contains('@') { "to" } else { "recipient_domain" }, to);
        }
        for (field, name) in [("since", "created_after"), ("until", "created_before")] {
            let text = request.parameter(field).or_else(|| request.parameter(name));
            search.ask(name, &text.map(|text| moment(text, request.now)).unwrap_or_default());
        }
        for (name, value) in request.query.iter().filter(|(name, _)| name.starts_with("metadata[")) {
            search.ask(name, value);
        }
        if let Some(name) = request.parameter("metadata_name") {
            search.ask(&format!("metadata[{name}]"), request.parameter("metadata_value").unwrap_or_default());
        }
        search.ask("limit", "50");
        search
    }

    /// The later one of two filters with one name is meant.
    fn ask(&mut self, name: &str, value: &str) {
        if value.is_empty() {
            return;
        }
        match self.0.iter_mut().find(|(other, _)| other == name) {
            Some(pair) => pair.1 = value.to_owned(),
            None => self.0.push((name.to_owned(), value.to_owned())),
        }
    }

    /// The target of the API.
    pub fn target(&self) -> String {
        target("/v1/emails", self.0.iter().map(|(name, value)| (name.as_str(), value.as_str())))
    }
}

/// A time as people write it: `24h` or `7d` ago, a day, or a time of RFC 3339. The API says what is wrong with another one.
fn moment(text: &str, now: Timestamp) -> String {
    if let Some(ago) = duration(text) {
        return now.checked_sub(ago).unwrap_or(Timestamp::UNIX_EPOCH).to_string();
    }
    let is_day = text.len() == 10 && text.bytes().all(|octet| octet.is_ascii_digit() || octet == b'-');
    if is_day { format!("{text}T00:00:00Z") } else { text.to_owned() }
}

fn duration(text: &str) -> Option<SignedDuration> {
    let days = text.strip_suffix('d').and_then(|days| days.trim().parse::<u16>().ok());
    let days = days.map(|days| SignedDuration::from_hours(24 * i64::from(days)));
    days.or_else(|| text.parse().ok()).filter(|duration| duration.is_positive())
}

/// The form.
pub fn form(request: &PageRequest, tenants: &Tenants) -> Markup {
    let chosen = |name| request.parameter(name).unwrap_or_default();
    let of_tenants: Vec<(&str, &str)> = [("", "all")]
        .into_iter()
        .chain(tenants.all.iter().map(|(id, slug)| (id.as_str(), slug.as_str())))
        .collect();
    let fields = html! {
        div.field {
            label for="f-to" { "Recipient" }
            input id="f-to" name="to" type="search" value=(chosen("to")) placeholder="address or domain" data-search;
        }
        (components::select("Status", "status", chosen("status"), &STATUSES))
        @if request.is_platform() { (components::select("Tenant", "tenant_id", chosen("tenant_id"), &of_tenants)) }
        (search(request, "From", "from", "sender"))
        (search(request, "Since", "since", "24h or 2026-11-28"))
        (hidden(request))
    };
    let more = html! {
        (search(request, "Subject", "subject", ""))
        (search(request, "Tag", "tag", "order"))
        (search(request, "Message-ID", "message_id", ""))
        (search(request, "Key", "key_id", "key_…"))
        (search(request, "List", "list", ""))
        (components::select("Some delivery is", "delivery_status", chosen("delivery_status"), &STATUSES))
        (search(request, "Domain of a recipient", "recipient_domain", "example.org"))
        (search(request, "Metadata field", "metadata_name", "order"))
        (search(request, "Metadata value", "metadata_value", "4711"))
        (search(request, "Until", "until", "2026-11-29"))
        (environment(request))
        (components::select("Kind", "kind", chosen("kind"), &[("", "message"), ("report", "report"), ("confirmation", "confirmation")]))
    };
    Filters { page: PAGE, fields, more, more_names: &MORE }.show(request)
}

/// The filters of a link that have no field of their own.
fn hidden(request: &PageRequest) -> Markup {
    let is_kept = |name: &str| match name {
        "created_after" => request.parameter("since").is_none(),
        "created_before" => request.parameter("until").is_none(),
        name => name.starts_with("metadata["),
    };
    html! {
        @for (name, value) in request.query.iter().filter(|(name, _)| is_kept(name)) {
            input type="hidden" name=(name) value=(value);
        }
    }
}

fn environment(request: &PageRequest) -> Markup {
    let chosen = request.parameter("environment").unwrap_or_default();
    let own = if request.is_platform() { "both" } else { "of the key" };
    components::select("Environment", "environment", chosen, &[("", own), ("live", "live"), ("test", "test")])
}

/// The filters that are set.
pub fn chips(request: &PageRequest) -> Markup {
    let names = [
        ("to", "recipient"),
        ("recipient_domain", "domain"),
        ("status", "status"),
        ("delivery_status", "some delivery"),
        ("tenant_id", "tenant"),
        ("from", "from"),
        ("since", "since"),
        ("until", "until"),
        ("created_after", "since"),
        ("created_before", "until"),
        ("environment", "environment"),
        ("subject", "subject"),
        ("tag", "tag"),
        ("message_id", "Message-ID"),
        ("key_id", "key"),
        ("list", "list"),
        ("metadata_name", "metadata"),
        ("metadata_value", "value"),
        ("kind", "kind"),
    ];
    let metadata = request.query.iter().filter(|(name, _)| name.starts_with("metadata["));
    let metadata = metadata.map(|(name, _)| (name.as_str(), name.as_str()));
    let names: Vec<_> = names.into_iter().chain(metadata).collect();
    Chips { page: PAGE, all: "All messages", names: &names }.show(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_taken_as_people_write_them() {
        let now: Timestamp = "2026-11-29T12:00:00Z".parse().unwrap();
        assert_eq!(moment("24h", now), "2026-11-28T12:00:00.000000Z");
        assert_eq!(moment("2026-11-01", now), "2026-11-01T00:00:00Z");
        assert_eq!(moment("2026-11-01T10:00:00Z", now), "2026-11-01T10:00:00Z");
        assert_eq!(moment("yesterday", now), "yesterday");
        assert_eq!(moment("2d", now), "2026-11-27T12:00:00.000000Z");
        assert_eq!(moment("1h 30m", now), "2026-11-29T10:30:00.000000Z");
        assert_eq!(moment("9999999h", now), "0886-02-11T21:00:00.000000Z");
    }
}
