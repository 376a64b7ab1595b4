//! `pillarbox template`: subjects and bodies with variables.

use clap::Subcommand;
use serde_json::{Value, json};

use super::api_client::{ApiClient, Query, ServerArguments};
use super::input::{read_json, read_text};
use super::name_lookup::tenant_of;
use super::output::{confirm, object_text, text, when};
use super::pagination::PageArguments;
use super::table::Table;

const PATH: &str = "/v1/templates";
/// The fields of a template that are shown first.
const LEADING: &[&str] = &["id", "name", "tenant", "tenant_id", "subject"];

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    /// The tenant (slug or id), with a platform key
    #[arg(long, value_name = "TENANT", global = true)]
    tenant: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists templates, the newest first
    List(PageArguments),
    /// Shows a template with its bodies
    Show {
        /// Its name or id
        template: String,
    },
    /// Creates a template; at least one body is needed
    Create {
        /// Its name, unique within the tenant
        name: String,
        #[command(flatten)]
        parts: Parts,
    },
    /// Changes a template; what is not given stays
    Update {
        /// Its name or id
        template: String,
        /// The new name
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        parts: Parts,
    },
    /// Shows what a template makes of data; sends nothing
    Render {
        /// Its name or id
        template: String,
        /// The data, a JSON object
        #[arg(long, value_name = "JSON", default_value = "{}", value_parser = read_json)]
        data: Value,
    },
    /// Deletes a template
    Delete {
        /// Its name or id
        template: String,
        /// Deletes without asking
        #[arg(long)]
        yes: bool,
    },
}

/// Subject and bodies.
#[derive(Debug, clap::Args)]
struct Parts {
    /// The subject, for example 'Your order {{ number }}'
    #[arg(long)]
    subject: Option<String>,
    /// A file with the body as plain text; - is the standard input
    #[arg(long, value_name = "FILE")]
    text_file: Option<String>,
    /// A file with the body as HTML; - is the standard input
    #[arg(long, value_name = "FILE")]
    html_file: Option<String>,
}

impl Parts {
    fn body(&self, name: Option<String>) -> anyhow::Result<Value> {
        let read = |file: &Option<String>| file.as_deref().map(read_text).transpose();
        let (text, html) = (read(&self.text_file)?, read(&self.html_file)?);
        let fields = [("name", name), ("subject", self.subject.clone()), ("text", text), ("html", html)];
        let given =
            fields.into_iter().filter_map(|(field, value)| Some((field.to_owned(), Value::String(value?))));
        Ok(Value::Object(given.collect()))
    }
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { server, tenant, command } = arguments;
    server.run(async |client| {
        let tenant = tenant.as_deref();
        let path = async |template: &str| {
            anyhow::Ok(format!("{PATH}/{}", client.template_id(tenant, template).await?))
        };
        match command {
            Command::List(page) => list(&client, &page, client.tenant_parameter(tenant).await?).await,
            Command::Show { template } => {
                print(&client, client.get(&path(&template).await?, &Query::new()).await?).await
            }
            Command::Create { name, parts } => {
                let mut body = parts.body(Some(name))?;
                for (field, value) in client.tenant_parameter(tenant).await? {
                    body[field] = value.into();
                }
                print(&client, client.post(PATH, &body).await?).await
            }
            Command::Update { template, name, parts } => {
                let body = parts.body(name)?;
                if body == json!({}) {
                    anyhow::bail!("nothing to change: use --name, --subject, --text-file or --html-file");
                }
                print(&client, client.patch(&path(&template).await?, &body).await?).await
            }
            Command::Render { template, data } => {
                let path = format!("{}/render", path(&template).await?);
                let rendered = client.post(&path, &json!({"data": data})).await?;
                client.print(&rendered, template_text)
            }
            Command::Delete { template, yes } => {
                let path = path(&template).await?;
                if !yes {
                    confirm(&format!("Delete the template {template}"))?;
                }
                let deleted = client.delete(&path, &Query::new()).await?;
                client.print(&deleted, |_| format!("{template} is deleted\n"))
            }
        }
    })
}

async fn list(client: &ApiClient, page: &PageArguments, query: Query) -> anyhow::Result<()> {
    let table = Table::new(["NAME", "TENANT", "CHANGED", "ID", "SUBJECT"]);
    let row = |template: &Value| {
        let [name, id, subject] = ["name", "id", "subject"].map(|field| text(template, field));
        [name, tenant_of(template), when(template, "updated_at"), id, subject]
    };
    page.print(client, PATH, query, table, row).await
}

async fn print(client: &ApiClient, template: Value) -> anyhow::Result<()> {
    client.print(&client.with_slugs(template).await, template_text)
}

/// The fields, then the bodies with their lines.
fn template_text(template: &Value) -> String {
    let mut fields = template.clone();
    let mut bodies = String::new();
    for part in ["text", "html"] {
        if let Some(Value::String(body)) = fields.as_object_mut().and_then(|fields| fields.remove(part)) {
            bodies += &format!("\n{part}:\n{}\n", body.trim_end_matches('\n'));
        }
    }
    object_text(&fields, LEADING) + &bodies
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_printed_with_its_bodies_below_its_fields() {
        let template =
            json!({"object": "template", "name": "hello", "subject": "Hi", "text": "a\nb\n", "html": null});
        assert_eq!(template_text(&template), "name     hello\nsubject  Hi\n\ntext:\na\nb\n");
    }
}
