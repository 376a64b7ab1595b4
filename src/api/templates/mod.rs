//! The templates of a tenant: create, list, change, delete, render. `language` checks and compiles a source, `renderer`
//! renders the parts of a template, and `stack` runs them on a thread with a known stack size.

pub mod language;
mod renderer;
pub mod stack;

use std::cell::LazyCell;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::mail::Timestamp;
use crate::model::{Scope, TemplateId, TenantId};
use crate::store::{self, Directory, NewTemplate, Template, TemplateFilter, TemplatePatch};

pub use self::renderer::Renderer;
use super::json::{Checks, nullable};
use super::{Access, ApiError, ApiResponse, Deleted, List, Operation, RequestContext, Resource, Result};

const NAME_CHARS_MAX: usize = 200;
const SUBJECT_CHARS_MAX: usize = 2000;
const SOURCE_OCTETS_MAX: usize = 256 * 1024;
/// Octets of the data, as JSON.
const DATA_OCTETS_MAX: usize = 256 * 1024;

/// The operations of templates.
pub fn resource() -> Resource {
    let text = "Subjects and bodies with variables, in a subset of Jinja.";
    Resource::new("Templates", text, Access::Scope(Scope::TemplatesManage))
        .id::<TemplateId>("The template.")
        .operations([
            Operation::get("/v1/templates", "list_templates", list)
                .describe("List templates", "The list omits the bodies; get a single template to see them.")
                .tenant_filter()
                .query::<String>("name", "Only objects with this name.")
                .pages::<TemplateId, TemplateSummary>("Templates."),
            Operation::post("/v1/templates", "create_template", create)
                .summary("Create a template")
                .takes::<CreateTemplate>(r#"{"name": "order", "subject": "Your order {{ number }}", "text": "Hello {{ name }}, it is on its way."}"#)
                .creates::<TemplateView>("The template.")
                .response_octets(1, 16 * 1024),
            Operation::get("/v1/templates/{id}", "get_template", get)
                .summary("Get a template")
                .returns::<TemplateView>("The template."),
            Operation::patch("/v1/templates/{id}", "update_template", update)
                .summary("Change a template")
                .takes::<UpdateTemplate>(r#"{"subject": "Order {{ number }}", "html": null}"#)
                .returns::<TemplateView>("The updated template.")
                // Two bodies of 256 KiB; JSON may escape each octet with six.
                .response_octets(0, 4096 * 1024),
            Operation::delete("/v1/templates/{id}", "delete_template", delete)
                .summary("Delete a template")
                .returns::<Deleted>("Deleted."),
            Operation::post("/v1/templates/{id}/render", "render_template", render)
                .describe("Render a template", "Renders with the given data. Sends nothing.")
                .takes::<RenderTemplate>(r#"{"data": {"name": "Ann", "number": 4711}}"#)
                .returns::<Rendered>("Subject and bodies.")
                .changes_nothing(),
        ])
}

/// A template to create. Subject and bodies are in a subset of Jinja. The data of each message must contain all their
/// variables.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "TemplateCreate")]
pub struct CreateTemplate {
    /// Unique within the tenant.
    name: String,
    /// Owner. Default with a platform key: the tenant `default`.
    tenant_id: Option<TenantId>,
    /// The subject.
    subject: String,
    /// The body as plain text.
    text: Option<String>,
    /// The body as HTML. Data is escaped.
    html: Option<String>,
}

/// Changes to a template. Absent fields stay unchanged.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "TemplateUpdate")]
pub struct UpdateTemplate {
    /// Unique within the tenant.
    name: Option<String>,
    /// The subject.
    subject: Option<String>,
    /// The body as plain text; `null` removes it.
    #[serde(default, deserialize_with = "nullable")]
    text: Option<Option<String>>,
    /// The body as HTML; `null` removes it.
    #[serde(default, deserialize_with = "nullable")]
    html: Option<Option<String>>,
}

/// The variables of a template, by name.
pub type Data = serde_json::Map<String, serde_json::Value>;

/// Data to render a template with.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "TemplateRender")]
pub struct RenderTemplate {
    /// The template variables as an object; at most 256 KiB.
    #[serde(default)]
    data: Data,
}

/// A template.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Template")]
pub struct TemplateView {
    /// Its id.
    id: TemplateId,
    /// Always `template`.
    #[schemars(extend("const" = "template"))]
    object: &'static str,
    /// The tenant.
    tenant_id: TenantId,
    /// Unique within the tenant.
    name: String,
    /// The subject.
    subject: String,
    /// The body as plain text.
    text: Option<String>,
    /// The body as HTML.
    html: Option<String>,
    /// Creation time.
    created_at: Timestamp,
    /// Time of the last change.
    updated_at: Timestamp,
}

/// A template in a list, without its bodies. `GET /v1/templates/{id}` returns them.
#[derive(Serialize, JsonSchema)]
pub struct TemplateSummary {
    /// Its id.
    id: TemplateId,
    /// Always `template`.
    #[schemars(extend("const" = "template"))]
    object: &'static str,
    /// The tenant.
    tenant_id: TenantId,
    /// Unique within the tenant.
    name: String,
    /// The subject.
    subject: String,
    /// Creation time.
    created_at: Timestamp,
    /// Time of the last change.
    updated_at: Timestamp,
}

/// A rendered template.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "RenderedTemplate")]
pub struct Rendered {
    /// Always `rendered_template`.
    #[schemars(extend("const" = "rendered_template"))]
    object: &'static str,
    /// The subject: one line.
    pub subject: String,
    /// The body as plain text.
    pub text: Option<String>,
    /// The body as HTML.
    pub html: Option<String>,
}

impl From<Template> for TemplateView {
    fn from(template: Template) -> Self {
        Self {
            id: template.id,
            object: "template",
            tenant_id: template.tenant_id,
            name: template.name,
            subject: template.subject,
            text: template.text,
            html: template.html,
            created_at: template.created_at,
            updated_at: template.updated_at,
        }
    }
}

impl From<store::TemplateSummary> for TemplateSummary {
    fn from(template: store::TemplateSummary) -> Self {
        Self {
            id: template.id,
            object: "template",
            tenant_id: template.tenant_id,
            name: template.name,
            subject: template.subject,
            created_at: template.created_at,
            updated_at: template.updated_at,
        }
    }
}

/// The parts of a template.
#[derive(Deserialize)]
pub struct Parts<'a> {
    name: &'a str,
    subject: &'a str,
    text: Option<&'a str>,
    html: Option<&'a str>,
}

impl Parts<'_> {
    /// Compiles the sources, so it runs on a [`stack`].
    pub fn check(&self, checks: &mut Checks) {
        checks.line(self.name, "name", NAME_CHARS_MAX);
        check_sources([Some(self.subject), self.text, self.html], checks);
        check_bodies(self.text.is_some() || self.html.is_some(), checks);
    }
}

/// Checks the size of the data.
pub fn check_data(data: &Data, path: &str, checks: &mut Checks) {
    let octets = serde_json::to_vec(data).map_or(usize::MAX, |text| text.len());
    checks.length(octets, path, DATA_OCTETS_MAX, "octets");
}

/// The template with this id, if the caller may see it.
pub async fn find(call: &RequestContext, id: TemplateId) -> Result<Template> {
    let found = call.store().template(call.scope(), id).await?;
    found.ok_or_else(|| ApiError::not_found("template"))
}

async fn create(call: RequestContext) -> Result<ApiResponse> {
    let body = checked(&call, call.json()?, check_new).await?;
    let tenant_id = call.owning_tenant(body.tenant_id, "template").await?.id;
    let CreateTemplate { name, subject, text, html, .. } = body;
    let new = NewTemplate { tenant_id, name, subject, text, html };
    let respond = |template: &Template| ApiResponse::created(&TemplateView::from(template.clone()));
    call.change(respond, async |store| Ok(store.create_template(new, call.now).await?)).await
}

fn check_new(body: &CreateTemplate) -> Checks {
    let CreateTemplate { name, subject, text, html, .. } = body;
    let mut checks = Checks::default();
    Parts { name, subject, text: text.as_deref(), html: html.as_deref() }.check(&mut checks);
    checks
}

/// Returns the body if it passes `check`. The check compiles the sources, so it runs on a blocking thread.
async fn checked<T: Send + Sync + 'static>(
    call: &RequestContext,
    body: T,
    check: impl FnOnce(&T) -> Checks + Send + 'static,
) -> Result<T> {
    let work = move || {
        stack::run(|| check(&body)).map_err(ApiError::internal)?.finish()?;
        Ok(body)
    };
    call.work(work).await
}

/// Checks subject, text and HTML, as far as they are given.
fn check_sources(sources: [Option<&str>; 3], checks: &mut Checks) {
    let limits = [("subject", SUBJECT_CHARS_MAX), ("text", SOURCE_OCTETS_MAX), ("html", SOURCE_OCTETS_MAX)];
    for (source, (path, octets_max)) in sources.into_iter().zip(limits) {
        let Some(source) = source else { continue };
        checks.length(source.len(), path, octets_max, "octets");
        if source.len() <= octets_max {
            checks.read(language::check(source), path);
        }
    }
}

fn check_bodies(has_any: bool, checks: &mut Checks) {
    checks.require(has_any, "text", "required", "a template needs text, html or both");
}

async fn list(mut call: RequestContext) -> Result<ApiResponse> {
    let tenant_id = call.listed_tenant().await?;
    let request = call.query.page::<TemplateId>();
    let filter = TemplateFilter { tenant_id, name: call.query.value("name") };
    call.query.finish()?;
    let page = call.store().list_templates(filter, request.clone()).await?;
    ApiResponse::ok(&List::page(page, &request, |template| template.id.to_string(), TemplateSummary::from))
}

async fn get(call: RequestContext) -> Result<ApiResponse> {
    ApiResponse::ok(&TemplateView::from(find(&call, call.id("template")?).await?))
}

async fn update(call: RequestContext) -> Result<ApiResponse> {
    let template = find(&call, call.id("template")?).await?;
    let (has_text, has_html) = (template.text.is_some(), template.html.is_some());
    let check = move |body: &UpdateTemplate| check_changes(body, has_text, has_html);
    let body = checked(&call, call.json()?, check).await?;
    let UpdateTemplate { name, subject, text, html } = body;
    let patch = TemplatePatch { name, subject, text, html };
    let updated = call.store().update_template(template.id, patch, call.now).await?;
    ApiResponse::ok(&TemplateView::from(updated.ok_or_else(|| ApiError::not_found("template"))?))
}

fn check_changes(body: &UpdateTemplate, has_text: bool, has_html: bool) -> Checks {
    let UpdateTemplate { name, subject, text, html } = body;
    let mut checks = Checks::default();
    name.iter().for_each(|name| checks.line(name, "name", NAME_CHARS_MAX));
    let bodies = [text, html].map(|body| body.as_ref().and_then(Option::as_deref));
    check_sources([subject.as_deref(), bodies[0], bodies[1]], &mut checks);
    let has_text = text.as_ref().map_or(has_text, Option::is_some);
    let has_html = html.as_ref().map_or(has_html, Option::is_some);
    check_bodies(has_text || has_html, &mut checks);
    checks
}

async fn delete(call: RequestContext) -> Result<ApiResponse> {
    let id: TemplateId = call.id("template")?;
    if !call.store().delete_template(call.scope(), id).await? {
        return Err(ApiError::not_found("template"));
    }
    ApiResponse::deleted("template", id)
}

async fn render(call: RequestContext) -> Result<ApiResponse> {
    let template = find(&call, call.id("template")?).await?;
    let RenderTemplate { data } = call.json()?;
    let mut checks = Checks::default();
    check_data(&data, "data", &mut checks);
    checks.finish()?;
    let render = move || {
        let rendered = stack::run(|| Renderer::new(&LazyCell::default()).render(&template, data));
        rendered.map_err(ApiError::internal)?
    };
    ApiResponse::ok(&call.work(render).await?)
}
