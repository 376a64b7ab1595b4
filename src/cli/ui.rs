//! `pillarbox ui`: a link that signs in to the pages, opened in the browser if there is one.

use std::process::{Command, Stdio};

use serde_json::json;

use super::api_client::{ApiClient, ServerArguments};
use super::output::text;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    /// Shows what this tenant sees, by its id or slug
    #[arg(long)]
    tenant: Option<String>,
    /// The page that opens
    #[arg(long, value_name = "PATH", default_value = "/ui/")]
    path: String,
    /// Prints the link and opens no browser
    #[arg(long)]
    no_open: bool,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { server, tenant, path, no_open } = arguments;
    server.run(async |client| sign_in(&client, tenant.as_deref(), &path, !no_open).await)
}

async fn sign_in(client: &ApiClient, tenant: Option<&str>, path: &str, opens: bool) -> anyhow::Result<()> {
    let mut body = json!({ "path": path });
    if let Some(name) = tenant {
        body["tenant_id"] = client.tenant_id(name).await?.into();
    }
    let session = client.post("/v1/sessions", &body).await?;
    if opens && has_display() {
        open(&text(&session, "url"));
    }
    client.print(&session, |session| format!("{}\n", text(session, "url")))
}

/// Whether somebody sits at this machine.
fn has_display() -> bool {
    ["DISPLAY", "WAYLAND_DISPLAY"]
        .iter()
        .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

/// The link is on the screen too, so a browser that does not open is no error.
fn open(url: &str) {
    let opened = Command::new("xdg-open")
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    drop(opened);
}
