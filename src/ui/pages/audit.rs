//! What people changed: who, what, before and after.

use std::collections::BTreeMap;

use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use crate::mail::Timestamp;
use crate::ui::components::{self, Column, Filters, copied, foreign, visible};
use crate::ui::format;
use crate::ui::list::{self, Listed};
use crate::ui::request::{PageRequest, segment};
use crate::ui::tenant_names::TenantNames;
use crate::ui::view::{Outcome, View};

const PATH: &str = "/ui/audit";
/// Changed fields of an entry in its row.
const CHANGES_MAX: usize = 4;
/// Fields that tell nothing about a change.
const LEFT_OUT: [&str; 5] = ["object", "id", "tenant_id", "created_at", "updated_at"];
/// Types of objects and their pages.
const PAGES: [(&str, &str); 8] = [
    ("domain", "/ui/domains"),
    ("email", "/ui/messages"),
    ("key", "/ui/keys"),
    ("suppression", "/ui/suppressions"),
    ("template", "/ui/templates"),
    ("tenant", "/ui/tenants"),
    ("webhook", "/ui/webhooks"),
    ("webhook_delivery", "/ui/webhooks/deliveries"),
];

#[derive(Deserialize)]
struct Entry {
    id: String,
    tenant_id: Option<String>,
    actor: Actor,
    operation: String,
    object_type: Option<String>,
    object_id: Option<String>,
    before: Option<Value>,
    after: Option<Value>,
    error: Option<String>,
    request_id: Option<String>,
    created_at: Timestamp,
}

#[derive(Deserialize)]
struct Actor {
    #[serde(rename = "type")]
    kind: String,
    platform: bool,
    key_id: Option<String>,
    name: Option<String>,
    client_address: Option<String>,
}

/// A changed field: its name, the value before and the value afterwards.
type Change = (String, Option<String>, Option<String>);

pub async fn list(request: PageRequest) -> Outcome {
    let tenants = TenantNames::read(&request).await;
    let names = ["tenant_id", "key_id", "type", "object_id", "operation"];
    let entries = Listed::<Entry>::read(&request, "/v1/audit", &names).await?;
    let types = ["domain", "email", "inbox", "key", "suppression", "template", "tenant", "webhook"];
    let filters = Filters {
        page: PATH,
        fields: html! {
            (list::choice(&request, "Object", "type", &types))
            (components::search(&request, "Id of the object", "object_id", "dom_…"))
            (components::search(&request, "Key", "key_id", "key_…"))
            (tenants.filter(&request))
        },
        more: Markup::default(),
        more_names: &[],
    };
    let body = html! {
        (components::head(None, "Audit log", &Markup::default()))
        (filters.show(&request))
        @if entries.data.is_empty() {
            (list::empty(&request, PATH, &html! {
                h2 { "No change yet" }
                p { "Every change over the API, on these pages and on the command line is listed here, and stays when its tenant is deleted." }
                (components::block("pillarbox audit list"))
            }))
        } @else {
            section.panel data-part=[request.parameter("after").is_none().then_some("list")] {
                (table(&request, &entries.data, &tenants))
                (entries.foot(&request, ("change", "changes")))
            }
        }
    };
    View::page("Audit log", body)
}

fn table(request: &PageRequest, entries: &[Entry], tenants: &TenantNames) -> Markup {
    let mut columns = vec![
        Column("Time", "time", None),
        Column("Operation", "lead", None),
        Column("Who", "", Some("Who")),
        Column("Object", "", Some("Object")),
        Column("Change", "", Some("Change")),
    ];
    if request.is_platform() {
        columns.insert(3, Column("Tenant", "", Some("Tenant")));
    }
    let row = |entry: &Entry| {
        let href = request.href(&format!("{PATH}/{}", segment(&entry.id)));
        let mut cells = vec![
            format::moment(entry.created_at, request.now),
            html! { a href=(href) { code { (visible(&entry.operation)) } } },
            who(&entry.actor),
            object(request, entry),
            difference(entry.changes().into_iter().take(CHANGES_MAX)),
        ];
        if request.is_platform() {
            cells.insert(3, tenants.link(request, entry.tenant_id.as_deref()));
        }
        cells
    };
    components::table(&columns, &entries.iter().map(row).collect::<Vec<_>>())
}

fn who(actor: &Actor) -> Markup {
    html! {
        @match &actor.name {
            Some(name) => (foreign(name)),
            None => { @if actor.platform { "the platform" } @else { "–" } },
        }
        @if let Some(address) = &actor.client_address { span.sub { (visible(address)) } }
        @if actor.kind == "local" { span.sub { "on the machine" } }
    }
}

/// The object, with a link to its page unless it was deleted.
fn object(request: &PageRequest, entry: &Entry) -> Markup {
    let Some(id) = &entry.object_id else {
        return html! { @if let Some(kind) = &entry.object_type { (visible(kind)) } };
    };
    let kind = entry.object_type.as_deref().unwrap_or_default();
    let page = PAGES.iter().find(|(name, _)| *name == kind && entry.after.is_some());
    html! {
        @match page {
            Some((_, page)) => a href=(request.href(&format!("{page}/{}", segment(id)))) { code { (visible(id)) } },
            None => code { (visible(id)) },
        }
        @if !kind.is_empty() { span.sub { (visible(&kind.replace('_', " "))) } }
    }
}

fn difference(changes: impl Iterator<Item = Change>) -> Markup {
    html! {
        ul.diff {
            @for (name, before, after) in changes {
                li {
                    span { (visible(&name)) }
                    @if let Some(before) = &before { " " del { (visible(before)) } }
                    @if let Some(after) = &after { " " ins { (visible(after)) } }
                }
            }
        }
    }
}

pub async fn show(request: PageRequest) -> Outcome {
    let entry: Entry = request.get(&format!("/v1/audit/{}", segment(&request.id))).await?;
    let tenants = TenantNames::read(&request).await;
    let mut facts = vec![("Who", who(&entry.actor)), ("Object", object(&request, &entry))];
    if let Some(key) = &entry.actor.key_id {
        facts.push(("Key", html! { a href=(request.href(&format!("/ui/keys/{}", segment(key)))) { code { (visible(key)) } } }));
    }
    if request.is_platform() {
        facts.push(("Tenant", tenants.link(&request, entry.tenant_id.as_deref())));
    }
    if let Some(error) = &entry.error {
        facts.push(("Failed", html! { code { (visible(error)) } }));
    }
    if let Some(id) = &entry.request_id {
        facts.push(("Request", copied(id)));
    }
    let line = html! { "changed " (format::time(entry.created_at)) };
    let changes = entry.changes();
    let body = html! {
        (components::head_with((&request.href(PATH), "Audit log"), &entry.operation, &line, &Markup::default()))
        section.panel { div.pad { (components::pairs(&facts)) } }
        section.panel {
            header { h2 { "Before and after" } }
            div.pad {
                @if changes.is_empty() { p.soft { "No field of the object changed." } }
                (difference(changes.into_iter()))
            }
        }
    };
    View::page(entry.operation.clone(), body)
}

impl Entry {
    /// The fields that differ. A response about something else than the object, such as its new DKIM key, is all new.
    fn changes(&self) -> Vec<Change> {
        let kind = |value: &Option<Value>| value.as_ref().map(|value| value["object"].clone());
        let is_same = kind(&self.before) == kind(&self.after) || self.after.is_none();
        let before = flat(self.before.as_ref().filter(|_| is_same));
        let after = flat(self.after.as_ref());
        let mut names: Vec<_> = before.keys().chain(after.keys()).collect();
        names.sort_unstable();
        names.dedup();
        let changed = names.into_iter().filter(|name| before.get(*name) != after.get(*name));
        changed.map(|name| (name.clone(), before.get(name).cloned(), after.get(name).cloned())).collect()
    }
}

/// The fields of an object with the path of each; those without a value and lists of objects are left out.
fn flat(object: Option<&Value>) -> BTreeMap<String, String> {
    fn add(fields: &mut BTreeMap<String, String>, name: &str, value: &Value) {
        let text = match value {
            Value::Null => return,
            Value::Array(items) if items.iter().any(Value::is_object) => return,
            Value::Object(members) => {
                for (member, value) in members {
                    let path = if name.is_empty() { member.clone() } else { format!("{name}.{member}") };
                    add(fields, &path, value);
                }
                return;
            }
            Value::String(text) => text.clone(),
            Value::Array(items) if items.iter().all(Value::is_string) => {
                items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
            }
            other => other.to_string(),
        };
        if !text.is_empty() && !LEFT_OUT.contains(&name) {
            fields.insert(name.to_owned(), text);
        }
    }
    let mut fields = BTreeMap::new();
    if let Some(object) = object {
        add(&mut fields, "", object);
    }
    fields
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn changes(before: Value, after: Value) -> Vec<Change> {
        let some = |value: Value| (!value.is_null()).then_some(value);
        let entry = json!({"id": "aud_1", "actor": {"type": "key", "platform": false}, "operation": "x", "created_at": "2026-01-01T00:00:00Z"});
        let entry: Entry = serde_json::from_value(entry).unwrap();
        Entry { before: some(before), after: some(after), ..entry }.changes()
    }

    #[test]
    fn changed_fields_have_the_value_before_and_afterwards() {
        let text = |text: &str| Some(text.to_owned());
        let before = json!({"object": "key", "id": "1", "name": "a", "scopes": ["x", "y"], "s": {"n": 1, "gone": true}, "updated_at": "1"});
        let after = json!({"object": "key", "id": "1", "name": "b", "scopes": ["x", "y"], "s": {"n": 1, "gone": null}, "updated_at": "2"});
        let expected = [("name".into(), text("a"), text("b")), ("s.gone".into(), text("true"), None)];
        assert_eq!(changes(before.clone(), after), expected);
        assert_eq!(
            changes(json!({"object": "key", "name": "a"}), Value::Null),
            [("name".into(), text("a"), None)]
        );
        let other = json!({"object": "dkim_key", "selector": "s"});
        assert_eq!(changes(before, other), [("selector".into(), None, text("s"))]);
    }
}
