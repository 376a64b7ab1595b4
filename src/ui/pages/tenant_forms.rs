//! The forms with which a tenant is changed, made from the fields of `PATCH /v1/tenants/{tenant_id}`.

use maud::{Markup, html};
use serde_json::{Value, json};

use crate::model::{BrakeAction, DeliveryReports, DkimPolicy, TlsMode};
use crate::ui::components;
use crate::ui::form::{Field, Form};
use crate::ui::request::PageRequest;
use crate::ui::view::Problem;

/// The values of a field.
enum Kind {
    /// A text that must be there.
    Required,
    /// A text; empty is `null`.
    Text,
    Number,
    /// A number with decimals.
    Decimal,
    /// `true` or `false`.
    Switch,
    /// One of these values.
    Choice(Vec<&'static str>),
    /// A text that is sent only if something was typed, and never shown.
    Secret,
    /// Words separated by spaces.
    Words,
}

/// A field: its path in the API, which is its name in the form, its label, its values, and a hint.
struct Entry(&'static str, &'static str, Kind, &'static str);

/// A form that changes some fields.
pub struct Group {
    /// The value of `do` that saves it.
    pub action: &'static str,
    title: &'static str,
    /// Whether it is in the left one of two columns.
    pub is_left: bool,
    /// Whether only the platform may change them.
    is_of_platform: bool,
    /// What is removed as a whole if all of these fields are empty.
    whole: Option<(&'static str, &'static [&'static str])>,
    entries: Vec<Entry>,
}

/// Every form.
pub fn groups() -> Vec<Group> {
    let (mail, limits) = (groups_of_mail(), groups_of_limits());
    mail.into_iter().chain(limits).collect()
}

fn groups_of_mail() -> Vec<Group> {
    use Kind::{Choice, Number, Required, Secret, Switch, Text, Words};
    let reports = DeliveryReports::ALL.iter().map(|value| value.as_str()).collect();
    let tls = TlsMode::ALL.iter().map(|value| value.as_str()).collect();
    let dkim = DkimPolicy::ALL.iter().map(|value| value.as_str()).collect();
    vec![
        Group {
            action: "save_mail",
            title: "Mail",
            is_left: true,
            is_of_platform: false,
            whole: None,
            entries: vec![
                Entry("name", "Name", Required, ""),
                Entry("settings.from", "Sender of mail over HTTP", Text, "Used if a message names none."),
                Entry("settings.from_name", "Display name", Text, "Of a sender without one."),
                Entry("settings.reply_to", "Reply-To", Text, "Of messages without one."),
                Entry("settings.apply_to_smtp", "Also over SMTP", Switch, "Display name and Reply-To."),
                Entry(
                    "settings.delivery_reports",
                    "Reports of failures",
                    Choice(reports),
                    "As mail to the sender, or as events only.",
                ),
                Entry(
                    "settings.message_lifetime_hours",
                    "Hours to try",
                    Number,
                    "Empty: as the server does.",
                ),
            ],
        },
        Group {
            action: "save_brand",
            title: "Look of its pages",
            is_left: true,
            is_of_platform: false,
            whole: Some(("settings.brand", &["settings.brand.name", "settings.brand.color"])),
            entries: vec![
                Entry("settings.brand.name", "Name in place of Pillarbox", Text, ""),
                Entry("settings.brand.color", "Colour", Text, "Like #0b57a4."),
            ],
        },
        Group {
            action: "save_platform",
            title: "Administration",
            is_left: false,
            is_of_platform: true,
            whole: None,
            entries: vec![
                Entry("slug", "Slug", Required, ""),
                Entry("external_ref", "External reference", Text, ""),
                Entry(
                    "weight",
                    "Weight",
                    Number,
                    "Its share when tenants compete, 1 to 100. Empty: as before.",
                ),
                Entry("source_pool", "Source pool", Text, ""),
                Entry("retention_days", "Days to keep messages", Number, ""),
                Entry("body_retention_days", "Days to keep content", Number, ""),
            ],
        },
        Group {
            action: "save_smart_host",
            title: "Smart host",
            is_left: false,
            is_of_platform: true,
            whole: Some(("smtp", &["smtp.host"])),
            entries: vec![
                Entry("smtp.host", "Host", Text, "Empty: the smart host and its password are removed."),
                Entry("smtp.port", "Port", Number, "Empty: as before."),
                Entry("smtp.tls", "TLS", Choice(tls), ""),
                Entry("smtp.user", "User", Text, ""),
                Entry("smtp.pass", "Password", Secret, "Empty: as before."),
                Entry("smtp.destinations", "For these domains", Words, "Empty: for all."),
                Entry("smtp.dkim", "Signatures added here", Choice(dkim), ""),
            ],
        },
    ]
}

fn groups_of_limits() -> Vec<Group> {
    use Kind::{Choice, Decimal, Number, Text};
    let brakes = BrakeAction::ALL.iter().map(|value| value.as_str()).collect();
    vec![
        Group {
            action: "save_soft_bounces",
            title: "Addresses that nothing reaches",
            is_left: true,
            is_of_platform: false,
            whole: Some((
                "settings.soft_bounces",
                &["settings.soft_bounces.messages", "settings.soft_bounces.days"],
            )),
            entries: vec![
                Entry(
                    "settings.soft_bounces.messages",
                    "Suppress after messages",
                    Number,
                    "That fail one after another, 2 to 50. Both empty: never.",
                ),
                Entry("settings.soft_bounces.days", "Over days", Number, "Since the first of them, 1 to 90."),
            ],
        },
        Group {
            action: "save_brakes",
            title: "Brakes",
            is_left: true,
            is_of_platform: true,
            whole: Some((
                "settings.brakes",
                &["settings.brakes.bounce_rate", "settings.brakes.complaint_rate"],
            )),
            entries: vec![
                Entry(
                    "settings.brakes.bounce_rate",
                    "Largest share of bounces",
                    Decimal,
                    "Such as 0.05. Both shares empty: no brakes.",
                ),
                Entry("settings.brakes.complaint_rate", "Of complaints", Decimal, "Such as 0.003."),
                Entry("settings.brakes.window", "Over", Text, "1h to 720h. Empty: 24h."),
                Entry(
                    "settings.brakes.min_recipients",
                    "From recipients on",
                    Number,
                    "Fewer have no share. Empty: 100.",
                ),
                Entry(
                    "settings.brakes.action",
                    "Above a share",
                    Choice(brakes),
                    "Pause its queue with an event, or the event only.",
                ),
            ],
        },
        Group {
            action: "save_limits",
            title: "Limits",
            is_left: false,
            is_of_platform: true,
            whole: None,
            entries: vec![
                Entry("rate_limit.emails_per_minute", "Recipients a minute", Number, ""),
                Entry("rate_limit.emails_per_hour", "Recipients an hour", Number, ""),
                Entry("rate_limit.emails_per_day", "Recipients a day", Number, ""),
                Entry("rate_limit.requests_per_minute", "API requests a minute", Number, "Empty: no limit."),
            ],
        },
        Group {
            action: "save_ramp",
            title: "Warm-up",
            is_left: false,
            is_of_platform: true,
            whole: Some((
                "rate_limit.ramp",
                &["rate_limit.ramp.start", "rate_limit.ramp.factor", "rate_limit.ramp.until"],
            )),
            entries: vec![
                Entry(
                    "rate_limit.ramp.start",
                    "Recipients on the first day",
                    Number,
                    "All empty: no warm-up.",
                ),
                Entry("rate_limit.ramp.factor", "Times each day", Decimal, "Such as 1.5, at most 10."),
                Entry("rate_limit.ramp.until", "Ends at recipients a day", Number, ""),
            ],
        },
    ]
}

impl Group {
    /// The form, with the present values of the tenant, or with what was typed if it was refused.
    pub fn show(
        &self,
        request: &PageRequest,
        action: &str,
        tenant: &Value,
        problem: Option<&Problem>,
    ) -> Markup {
        let problem = problem.filter(|_| request.field("do") == Some(self.action));
        let form = Form::new(request, self.action, problem);
        let body = html! {
            form.pad.stack method="post" action=(request.href(action)) {
                (request.token())
                div.fields { @for entry in &self.entries { (entry.input(&form, tenant)) } }
                div.row { button.button name="do" value=(self.action) { "Save" } }
            }
        };
        components::panel(self.title, None, &body)
    }

    /// Whether a session may use it.
    pub fn is_for(&self, request: &PageRequest) -> bool {
        !self.is_of_platform || request.is_platform()
    }

    /// The body of the change.
    pub fn body(&self, request: &PageRequest) -> Value {
        let mut body = json!({});
        if let Some((path, names)) = self.whole
            && names.iter().all(|name| request.field(name).is_none())
        {
            set(&mut body, path, Value::Null);
            return body;
        }
        for entry in &self.entries {
            if let Some(value) = entry.value(request) {
                set(&mut body, entry.0, value);
            }
        }
        body
    }
}

impl Entry {
    fn input(&self, form: &Form<'_>, tenant: &Value) -> Markup {
        let Self(name, label, kind, hint) = self;
        let present = match name.split('.').try_fold(tenant, |value, part| value.get(part)) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(words)) => words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
            Some(other) => other.to_string(),
        };
        let field = Field { label, name, value: &present, hint, ..Field::default() };
        match kind {
            Kind::Choice(values) => {
                let options: Vec<_> = values.iter().map(|value| (*value, *value)).collect();
                form.select(field, &options)
            }
            Kind::Switch => form.select(field, &[("true", "yes"), ("false", "no")]),
            Kind::Secret => form.input(Field { kind: "password", value: "", ..field }),
            Kind::Number => form.input(Field { kind: "number", ..field }),
            Kind::Required | Kind::Text | Kind::Decimal | Kind::Words => form.input(field),
        }
    }

    /// What the API gets; `None` leaves the field as it is.
    fn value(&self, request: &PageRequest) -> Option<Value> {
        let Self(name, _, kind, _) = self;
        Some(match kind {
            Kind::Required => request.field(name).unwrap_or_default().into(),
            Kind::Text => request.text_or_null(name),
            // The smart host has a port of its own unless one is named; a weight is no text.
            Kind::Number if ["smtp.port", "weight"].contains(name) && request.field(name).is_none() => {
                return None;
            }
            Kind::Number | Kind::Decimal => request.number_or_null(name),
            Kind::Switch => (request.field(name) == Some("true")).into(),
            Kind::Choice(_) | Kind::Secret => request.field(name)?.into(),
            Kind::Words => json!(request.words(name)),
        })
    }
}

/// Sets a value at a path like `settings.brand.name`.
fn set(body: &mut Value, path: &str, value: Value) {
    let place = path.split('.').fold(body, |place, part| &mut place[part]);
    *place = value;
}
