//! Renders the templates of one request. This can use much CPU time and stack: call it in `RequestContext::work`, on the
//! thread of `stack`.

use std::cell::LazyCell;

use super::language::{self, Engine, Form, Part, RenderError};
use super::{Data, Rendered};
use crate::api::{ApiError, Result};
use crate::model::{RefusalCode, TemplateId};
use crate::store::Template;

/// Renders templates. It compiles a template once for consecutive messages, and keeps one only, because compiled templates
/// use memory.
pub struct Renderer<'e> {
    engine: &'e LazyCell<Engine>,
    compiled: Option<CompiledTemplate<'e>>,
}

struct CompiledTemplate<'e> {
    id: TemplateId,
    subject: Part<'e>,
    text: Option<Part<'e>>,
    html: Option<Part<'e>>,
}

impl<'e> Renderer<'e> {
    pub fn new(engine: &'e LazyCell<Engine>) -> Self {
        Self { engine, compiled: None }
    }

    /// Renders all parts of a template.
    pub fn render(&mut self, template: &'e Template, data: Data) -> Result<Rendered> {
        let compiled = match self.compiled.take().filter(|compiled| compiled.id == template.id) {
            Some(compiled) => compiled,
            None => CompiledTemplate::new(self.engine, template)?,
        };
        let compiled = self.compiled.insert(compiled);
        self.engine.restore_budget();
        compiled.render(data)
    }
}

impl<'e> CompiledTemplate<'e> {
    fn new(engine: &'e Engine, template: &'e Template) -> Result<Self> {
        let id = template.id;
        let compile = |name: &str, source: &'e str, form| {
            engine.compile(source, form).map_err(|error| refuse(id, name, &error))
        };
        Ok(Self {
            id,
            subject: compile("subject", &template.subject, Form::Text)?,
            text: template.text.as_deref().map(|source| compile("text", source, Form::Text)).transpose()?,
            html: template.html.as_deref().map(|source| compile("html", source, Form::Html)).transpose()?,
        })
    }

    fn render(&self, data: Data) -> Result<Rendered> {
        let data = language::from_object(data);
        let render =
            |name, part: &Part<'_>| part.render(&data).map_err(|error| refuse(self.id, name, &error));
        let subject = render("subject", &self.subject)?;
        Ok(Rendered {
            object: "rendered_template",
            subject: subject.split_whitespace().collect::<Vec<_>>().join(" "),
            text: self.text.as_ref().map(|part| render("text", part)).transpose()?,
            html: self.html.as_ref().map(|part| render("html", part)).transpose()?,
        })
    }
}

fn refuse(template: TemplateId, part: &str, error: &RenderError) -> ApiError {
    ApiError::new(
        RefusalCode::TemplateFailed,
        format!("rendering the {part} of template {template} failed: {error}"),
        "correct the template or its data: each variable needs a value or the filter `default`; \
         POST /v1/templates/{id}/render renders the template without sending",
    )
}
