//! Templates: change them, and see them rendered with data.

use hyper::StatusCode;
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::mail::Timestamp;
use crate::model::Scope;
use crate::ui::components::{self, Column, Filters, Question, copied, foreign, visible};
use crate::ui::form::{Field, Form};
use crate::ui::list::{self, Listed, relative};
use crate::ui::request::{PageRequest, segment};
use crate::ui::tenant_names::TenantNames;
use crate::ui::view::{Outcome, Problem, View};

const PATH: &str = "/ui/templates";
/// Octets of data in an address.
const DATA_OCTETS_MAX: usize = 4096;

#[derive(Deserialize)]
struct Summary {
    id: String,
    tenant_id: String,
    name: String,
    subject: String,
    updated_at: Timestamp,
}

#[derive(Deserialize)]
struct Template {
    id: String,
    tenant_id: String,
    name: String,
    subject: String,
    text: Option<String>,
    html: Option<String>,
    updated_at: Timestamp,
}

#[derive(Deserialize)]
struct Rendered {
    subject: String,
    text: Option<String>,
    html: Option<String>,
}

pub async fn list(request: PageRequest) -> Outcome {
    if request.parameter("new").is_some() {
        return new_form(&request, None).await;
    }
    let tenants = TenantNames::read(&request).await;
    let templates = Listed::<Summary>::read(&request, "/v1/templates", &["tenant_id", "name"]).await?;
    let create = html! {
        @if request.may(Scope::TemplatesManage) { a.button.primary href=(request.href("/ui/templates?new=template")) { "Create a template" } }
    };
    let filters = Filters {
        page: PATH,
        fields: html! { (components::search(&request, "Name", "name", "welcome")) (tenants.filter(&request)) },
        more: Markup::default(),
        more_names: &[],
    };
    let body = html! {
        (components::head(None, "Templates", &create))
        (filters.show(&request))
        @if templates.data.is_empty() {
            (list::empty(&request, PATH, &html! {
                h2 { "No template yet" }
                p { "A template has a subject and bodies with variables. A message names it and gives the data." }
                (components::block("pillarbox template create welcome --subject 'Welcome, {{ name }}' --text-file welcome.txt"))
                div.row { (create) }
            }))
        } @else {
            section.panel data-part=[request.parameter("after").is_none().then_some("list")] {
                (table(&request, &templates.data, &tenants))
                (templates.foot(&request, ("template", "templates")))
            }
        }
    };
    View::page("Templates", body)
}

fn table(request: &PageRequest, templates: &[Summary], tenants: &TenantNames) -> Markup {
    let mut columns = vec![
        Column("Name", "lead", None),
        Column("Subject", "grow", Some("Subject")),
        Column("Changed", "fit", Some("Changed")),
    ];
    if request.is_platform() {
        columns.insert(1, Column("Tenant", "", Some("Tenant")));
    }
    let row = |template: &Summary| {
        let mut cells = vec![
            html! { a href=(request.href(&format!("{PATH}/{}", segment(&template.id)))) { (foreign(&template.name)) } },
            html! { code title=(template.subject) { (foreign(&template.subject)) } },
            relative(template.updated_at, request.now),
        ];
        if request.is_platform() {
            cells.insert(1, tenants.link(request, Some(&template.tenant_id)));
        }
        cells
    };
    components::table(&columns, &templates.iter().map(row).collect::<Vec<_>>())
}

/// The fields of a template.
fn source_fields(form: &Form<'_>, template: Option<&Template>) -> Markup {
    let of = |part: fn(&Template) -> &str| template.map(part).unwrap_or_default();
    html! {
        (form.input(Field { label: "Name", name: "name", value: of(|template| &template.name), placeholder: "welcome", ..Field::default() }))
        (form.input(Field { label: "Subject", name: "subject", value: of(|template| &template.subject), placeholder: "Welcome, {{ name }}", ..Field::default() }))
        (form.area(Field { label: "Text", name: "text", value: of(|template| template.text.as_deref().unwrap_or_default()), ..Field::default() }))
        (form.area(Field { label: "HTML", name: "html", value: of(|template| template.html.as_deref().unwrap_or_default()), hint: "Data is escaped.", ..Field::default() }))
    }
}

async fn new_form(request: &PageRequest, problem: Option<&Problem>) -> Outcome {
    let tenants = TenantNames::read(request).await;
    let form = Form::new(request, "template", problem);
    let body = html! {
        (components::head(Some((&request.href(PATH), "Templates")), "Create a template", &Markup::default()))
        (form.problem())
        form.panel.pad.stack.measure method="post" action=(request.href(PATH)) {
            (request.token())
            @if request.is_platform() {
                (form.select(Field { label: "Of tenant", name: "tenant_id", ..Field::default() }, &tenants.options(("", "default"))))
            }
            (source_fields(&form, None))
            div.row { button.button.primary name="do" value="create" { "Create the template" } a.button href=(request.href(PATH)) { "Back" } }
        }
    };
    View::form("Create a template", problem, body)
}

/// The parts of a template as they were typed. A browser sends CR LF; an empty body is none.
fn typed(request: &PageRequest) -> Value {
    let body = |name| request.typed(name).map(|text| text.replace("\r\n", "\n"));
    json!({
        "name": request.field("name").unwrap_or_default(),
        "subject": request.field("subject").unwrap_or_default(),
        "text": body("text"),
        "html": body("html"),
    })
}

pub async fn create(request: PageRequest) -> Outcome {
    let mut body = typed(&request);
    body["tenant_id"] = request.text_or_null("tenant_id");
    match request.post::<Template>("/v1/templates", &body).await {
        Ok(template) => View::redirect(
            format!("{PATH}/{}", segment(&template.id)),
            format!("Created: {}.", template.name),
        ),
        Err(problem) if problem.is_of_form() => new_form(&request, Some(&problem)).await,
        Err(problem) => Err(problem),
    }
}

pub async fn show(request: PageRequest) -> Outcome {
    show_page(&request, None).await
}

async fn show_page(request: &PageRequest, problem: Option<&Problem>) -> Outcome {
    let path = format!("/v1/templates/{}", segment(&request.id));
    let here = format!("{PATH}/{}", segment(&request.id));
    let template: Template = request.get(&path).await?;
    let tenants = TenantNames::read(request).await;
    let form = Form::new(request, "template", problem);
    let line = html! {
        "changed " (relative(template.updated_at, request.now))
        @if request.is_platform() { ", of " (tenants.link(request, Some(&template.tenant_id))) }
    };
    let delete = html! {
        @if request.may(Scope::TemplatesManage) {
            (components::confirm(
                request,
                &Question { action: &here, label: "Delete…", class: "danger", text: html! { "Messages that name it are refused from then on." } },
                &html! { button.button.danger.sure name="do" value="delete" { "Delete the template" } },
            ))
        }
    };
    let rendered = rendering(request, &path, &here).await;
    let body = html! {
        (components::head_with((&request.href(PATH), "Templates"), &template.name, &line, &delete))
        (form.problem())
        div.split {
            section.panel {
                header { h2 { "Source" } }
                form.pad.stack method="post" action=(request.href(&here)) {
                    (request.token())
                    (source_fields(&form, Some(&template)))
                    @if request.may(Scope::TemplatesManage) { div.row { button.button.primary name="do" value="save" { "Save" } } }
                    (copied(&template.id))
                }
            }
            section.panel { header { h2 { "Rendered" } } div.pad.stack { (rendered) } }
        }
    };
    View::form(template.name.clone(), problem, body)
}

/// The data of the address, and what the template makes of it.
async fn rendering(request: &PageRequest, path: &str, here: &str) -> Markup {
    let data = request.parameter("data").unwrap_or_default();
    let rendered = match data {
        "" => None,
        data => Some(render(request, path, data).await),
    };
    html! {
        form.stack method="get" action=(request.href(here)) {
            div.field {
                label for="render-data" { "Data to try it with" }
                textarea id="render-data" name="data" spellcheck="false" { "\n" (if data.is_empty() { "{}" } else { data }) }
            }
            div.row { button.button { "Render" } }
        }
        @match rendered {
            None => p.soft { "The template as it is saved is rendered with this data. Nothing is sent." },
            Some(Err(problem)) => (components::problem(&problem)),
            Some(Ok(rendered)) => (parts(request, here, data, &rendered)),
        }
    }
}

fn parts(request: &PageRequest, here: &str, data: &str, rendered: &Rendered) -> Markup {
    let preview = request.href(&request.with_query(&format!("{here}/preview"), &[("data", data)]));
    html! {
        (components::pairs(&[("Subject", foreign(&rendered.subject))]))
        @if let Some(text) = &rendered.text { div.block { pre.wrap tabindex="0" { (visible(text)) } } }
        @if rendered.html.is_some() { iframe sandbox="" src=(preview) title="The HTML as a mail program shows it" {} }
    }
}

/// Rendering sends and changes nothing.
async fn render(request: &PageRequest, path: &str, data: &str) -> Result<Rendered, Problem> {
    let parsed =
        serde_json::from_str::<Map<String, Value>>(data).ok().filter(|_| data.len() <= DATA_OCTETS_MAX);
    let Some(parsed) = parsed else {
        let message = "the data is no JSON object of at most 4 KiB";
        let hint = "write it like {\"name\": \"Ann\"}";
        return Err(Problem::new(StatusCode::BAD_REQUEST, "invalid", message, hint));
    };
    request.post(&format!("{path}/render"), &json!({ "data": parsed })).await
}

/// The HTML for the frame, which has no rights.
pub async fn preview(request: PageRequest) -> Outcome {
    let path = format!("/v1/templates/{}", segment(&request.id));
    let rendered = render(&request, &path, request.parameter("data").unwrap_or("{}")).await?;
    Ok(View::Foreign(rendered.html.unwrap_or_default()))
}

pub async fn act(request: PageRequest) -> Outcome {
    let id = segment(&request.id);
    let (path, here) = (format!("/v1/templates/{id}"), format!("{PATH}/{id}"));
    match request.field("do") {
        Some("save") => match request.patch::<Value>(&path, &typed(&request)).await {
            Ok(_) => View::redirect(here, "Saved."),
            Err(problem) if problem.is_of_form() => show_page(&request, Some(&problem)).await,
            Err(problem) => Err(problem),
        },
        Some("delete") => {
            let _: Value = request.delete(&path).await?;
            View::redirect(PATH, "Deleted.")
        }
        _ => Err(Problem::no_action()),
    }
}
