//! The API reference: the OpenAPI document as a single HTML page without scripts.

use minijinja::value::Value as Html;
use minijinja::{Environment, HtmlEscape, context};
use serde_json::{Map, Value, json};

use super::is_alias;
use crate::api::error::{ApiError, Result};
use crate::api::layers::auth::Access;
use crate::api::operation::{Operation, Resource, Route};
use crate::api::{RESOURCES, docs};

const PAGE: &str = include_str!("manual.html");

/// The page.
pub fn render(document: &Value) -> Result<String> {
    let mut environment = Environment::new();
    // minijinja escapes data in templates whose name ends in `.html`.
    environment.add_template("manual.html", PAGE).map_err(ApiError::internal)?;
    environment.add_filter("prose", prose);
    environment.add_filter("kind", |schema: Html| kind(&json!(schema)));
    let page = environment.get_template("manual.html").map_err(ApiError::internal)?;
    let parts: Vec<Value> = RESOURCES.iter().map(|resource| part(document, resource)).collect();
    let html = page.render(context! {
        info => document["info"],
        guide => docs::index(),
        parts => parts,
        schemas => schemas(document),
    });
    docs::frame(None, "API reference", html.map_err(ApiError::internal)?)
}

fn each(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

/// A resource with its operations.
fn part(document: &Value, resource: &Resource) -> Value {
    let all = resource.routes.iter().flat_map(|route| route.operations.iter().map(move |one| (route, one)));
    let operations: Vec<Value> = all
        .filter(|(route, operation)| !is_alias(route, operation))
        .map(|(route, operation)| show(resource, route, operation, entry(document, route, operation)))
        .collect();
    json!({ "name": resource.name, "description": resource.text, "operations": operations })
}

/// The entry of an operation in the document.
fn entry<'a>(document: &'a Value, route: &Route, operation: &Operation) -> &'a Value {
    &document["paths"][route.path][operation.method.as_str().to_ascii_lowercase()]
}

fn show(resource: &Resource, route: &Route, operation: &Operation, entry: &Value) -> Value {
    let responses: Vec<Value> = entry["responses"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(status, _)| *status != "default")
        .map(|(status, response)| json!({ "status": status, "response": response }))
        .collect();
    json!({
        "id": entry["operationId"],
        "method": operation.method.as_str(),
        "path": route.path,
        "aliases": aliases(resource, route, operation),
        "summary": entry["summary"],
        "text": entry["description"],
        "parameters": entry["parameters"],
        "body": entry["requestBody"]["content"]["application/json"]["schema"],
        "responses": responses,
        "example": example(route, operation),
    })
}

/// The aliases of an operation, like `GET /v1/api-keys`.
fn aliases(resource: &Resource, main: &Route, operation: &Operation) -> Vec<String> {
    // The conventions state that PUT is the same as PATCH.
    let aliases = resource.routes.iter().filter(|route| route.is_alias() && route.main_path == main.path);
    aliases.map(|alias| format!("{} {}", operation.method, alias.path)).collect()
}

/// An example command.
fn example(route: &Route, operation: &Operation) -> String {
    let mut lines = vec!["curl".to_owned()];
    if operation.method != hyper::Method::GET {
        lines[0].push_str(&format!(" -X {}", operation.method));
    }
    let path = route.path.replace("{tenant_id}", "$TENANT_ID").replace("{id}", "$ID");
    lines[0].push_str(&format!(" \"$PILLARBOX_URL{path}\""));
    if operation.access() != Access::Public {
        lines.push("-H \"Authorization: Bearer $PILLARBOX_KEY\"".into());
    }
    if let Some(body) = operation.body {
        lines.push("-H 'Content-Type: application/json'".into());
        lines.push(format!("-d '{}'", body.example));
    }
    lines.join(" \\\n  ")
}

/// The named schemas with their fields.
fn schemas(document: &Value) -> Vec<Value> {
    let all = document["components"]["schemas"].as_object();
    all.into_iter().flatten().map(|(name, schema)| show_schema(name, schema)).collect()
}

fn show_schema(name: &str, schema: &Value) -> Value {
    let empty = Map::new();
    let required: Vec<&str> = each(&schema["required"]).filter_map(Value::as_str).collect();
    let fields: Vec<Value> = schema["properties"]
        .as_object()
        .unwrap_or(&empty)
        .iter()
        .map(|(field, of)| {
            let is_required = required.contains(&field.as_str());
            json!({ "name": field, "schema": of, "is_required": is_required, "description": of["description"] })
        })
        .collect();
    json!({
        "name": name,
        "description": schema["description"],
        "fields": fields,
        "schema": if fields.is_empty() { schema } else { &Value::Null },
    })
}

/// Renders text with `code`, **strong** text and paragraphs.
fn prose(text: &str) -> Html {
    let escaped = HtmlEscape(text).to_string();
    let paragraphs = escaped.trim().split("\n\n").map(|paragraph| {
        let code = pair(paragraph, "`", "code");
        pair(&code, "**", "strong")
    });
    Html::from_safe_string(paragraphs.collect::<Vec<_>>().join("<br><br>"))
}

/// Replaces pairs of marks with an element.
fn pair(text: &str, mark: &str, element: &str) -> String {
    let mut html = String::new();
    for (index, piece) in text.split(mark).enumerate() {
        match index % 2 {
            0 => html.push_str(piece),
            _ => html.push_str(&format!("<{element}>{piece}</{element}>")),
        }
    }
    html
}

/// The type of a schema as text, with links to named schemas.
fn kind(schema: &Value) -> Html {
    Html::from_safe_string(name_type(schema))
}

fn name_type(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|reference| reference.rsplit('/').next()) {
        let name = HtmlEscape(name);
        return format!("<a href=\"#schema-{name}\">{name}</a>");
    }
    if let Some(value) = schema.get("const") {
        return format!("<code>{}</code>", HtmlEscape(value.as_str().unwrap_or_default()));
    }
    if let Some(values) = schema["enum"].as_array() {
        let values = values.iter().filter_map(Value::as_str);
        return values
            .map(|value| format!("<code>{}</code>", HtmlEscape(value)))
            .collect::<Vec<_>>()
            .join(" ");
    }
    for several in ["anyOf", "oneOf", "allOf"] {
        if schema[several].is_array() {
            return each(&schema[several]).map(name_type).collect::<Vec<_>>().join(" or ");
        }
    }
    let named = |name: &str| match name {
        "array" => format!("list of {}", name_type(&schema["items"])),
        "string" if schema["format"] == "date-time" => "time".to_owned(),
        "object" if schema["additionalProperties"]["type"] == "string" => "object of strings".to_owned(),
        other => HtmlEscape(other).to_string(),
    };
    match &schema["type"] {
        Value::String(name) => named(name),
        Value::Array(names) => {
            names.iter().filter_map(Value::as_str).map(named).collect::<Vec<_>>().join(" or ")
        }
        _ => "anything".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> String {
        super::render(&super::super::DOCUMENT).unwrap()
    }

    #[test]
    fn the_page_contains_every_operation_and_every_schema() {
        let page = page();
        for route in crate::api::ROUTES.iter() {
            for operation in &route.operations {
                let path = HtmlEscape(route.path).to_string();
                assert!(page.contains(&path), "{} {}", operation.method, route.path);
            }
        }
        for name in super::super::DOCUMENT["components"]["schemas"].as_object().unwrap().keys() {
            assert!(page.contains(&format!("id=\"schema-{name}\"")), "{name}");
        }
    }

    #[test]
    fn the_page_loads_its_style_only_and_its_links_lead_somewhere() {
        let page = page();
        for loading in ["<script", "<img", "<style", "@import", "url(", "src=\"", "http://", "https://"] {
            let inside = page.matches(loading).count();
            assert_eq!(inside, 0, "{loading}");
        }
        assert_eq!(page.matches("<link").count(), 1);
        assert!(page.contains("<link rel=\"stylesheet\" href=\"docs/page.css\">"));
        for link in page.split("href=\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
            let is_there = match (link.strip_prefix('#'), link.strip_prefix("docs/")) {
                (Some(id), _) => page.contains(&format!("id=\"{id}\"")),
                (_, Some(name)) => name == "page.css" || docs::find(name).is_ok(),
                _ => ["docs", "openapi.json"].contains(&link),
            };
            assert!(is_there, "{link}");
        }
    }

    #[test]
    fn text_is_escaped_before_it_is_formatted() {
        assert_eq!(
            prose("a `<b>` **c**\n\nd").to_string(),
            "a <code>&lt;b&gt;</code> <strong>c</strong><br><br>d"
        );
        assert_eq!(kind(&json!({ "enum": ["<x>"] })).to_string(), "<code>&lt;x&gt;</code>");
    }
}
