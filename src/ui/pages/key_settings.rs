//! The settings of mail clients for a key, ready to paste.

use maud::{Markup, html};
use serde::Deserialize;

use super::keys::Key;
use crate::model::Environment;
use crate::ui::components::{block, copied, pairs};
use crate::ui::list::Listed;
use crate::ui::request::PageRequest;
use crate::ui::snippets::{self, Account};

/// Stands for a secret that only its holder knows.
const PLACEHOLDER: &str = "SECRET_OF_THE_KEY";

#[derive(Deserialize)]
struct Domain {
    id: String,
    name: String,
}

/// Host, port, user and password, and the settings of each client. Without a secret, a placeholder stands for it.
pub async fn show(request: &PageRequest, key: &Key, secret: Option<&str>) -> Markup {
    let sender = sender(request, key).await;
    let ui = &request.ui;
    let host = ui.hostname.as_str();
    let port = ui.submission_port();
    let tls_port = ui.submissions.first().map(|address| address.port());
    let account =
        Account { host, port, user: &key.id, secret: secret.unwrap_or(PLACEHOLDER), sender: &sender };
    let mut settings = vec![
        ("Host", copied(host)),
        ("Port", html! { (copied(&port.to_string())) span.sub { "with STARTTLS" } }),
    ];
    settings.extend(tls_port.map(|port| {
        ("Port", html! { (copied(&port.to_string())) span.sub { "with TLS from the first octet" } })
    }));
    settings.push(("User name", copied(&key.id)));
    settings.push((
        "Password",
        match secret {
            Some(secret) => copied(secret),
            None => html! { "the secret of the key, which was shown when it was made" },
        },
    ));
    settings.push(("From", copied(&sender)));
    html! {
        section.panel { header { h2 { "SMTP settings" } } div.pad { (pairs(&settings)) } }
        section.panel {
            header { h2 { "Ready to paste" } span.soft.small { "the same from " code { "pillarbox key create --snippet NAME" } } }
            div.pad {
                div.snippets {
                    @for snippet in snippets::all(&account) {
                        details.snippet name="snippet" open[snippet.name == "python"] {
                            summary { (snippet.title) }
                            div.field { p.hint { "For " (snippet.place) } (block(&snippet.text)) }
                        }
                    }
                }
            }
        }
    }
}

/// An address that the key may send from: of its first verified domain, or of the sandbox domain for a test key. A failure must
/// not hide a secret that is shown once: its rotation may just have ended this session.
async fn sender(request: &PageRequest, key: &Key) -> String {
    let own = [
        ("status", "verified"),
        ("limit", "50"),
        // A key of the platform sends from the domain of the sandbox, which belongs to no tenant.
        ("tenant_id", key.tenant_id.as_deref().unwrap_or("null")),
    ];
    let target = request.with_query("/v1/domains", &own[..if request.is_platform() { 3 } else { 2 }]);
    let domains = request.get::<Listed<Domain>>(&target).await.map(|listed| listed.data).unwrap_or_default();
    let is_allowed =
        |domain: &&Domain| !key.restricted_to_domains || key.allowed_domain_ids.contains(&domain.id);
    match domains.iter().find(is_allowed) {
        Some(domain) => format!("hello@{}", domain.name),
        None if key.environment == Environment::Test => format!("hello@sandbox.{}", request.ui.hostname),
        None => "hello@your-domain.example".to_owned(),
    }
}
