//! The tenants that a page of the platform names and filters by.

use std::sync::Arc;

use maud::{Markup, html};

use super::components::{slug, visible};
use super::request::{PageRequest, Tenants, segment};

/// Tenants by id. A session of a tenant has its own only.
pub struct TenantNames(Arc<Tenants>);

impl TenantNames {
    /// The newest tenants. Others are shown by their ids.
    pub async fn read(request: &PageRequest) -> Self {
        Self(request.tenants().await)
    }

    /// The name of the owner of an object, with a link.
    pub fn link(&self, request: &PageRequest, id: Option<&str>) -> Markup {
        html! {
            @match id {
                Some(id) => a href=(request.href(&format!("/ui/tenants/{}", segment(id)))) { (slug(self.name(id))) },
                None => span.soft { "platform" },
            }
        }
    }

    /// The slug of a tenant, or its id.
    pub fn name<'a>(&'a self, id: &'a str) -> &'a str {
        self.0.slug(id)
    }

    /// The choices of a field that names a tenant.
    pub fn options<'a>(&'a self, without: (&'a str, &'a str)) -> Vec<(&'a str, &'a str)> {
        let tenants = self.0.all.iter().map(|(id, slug)| (id.as_str(), slug.as_str()));
        std::iter::once(without).chain(tenants).collect()
    }

    /// The filter of a list by its owner; nothing for a session of a tenant.
    pub fn filter(&self, request: &PageRequest) -> Markup {
        let chosen = request.parameter("tenant_id").unwrap_or_default();
        html! {
            @if request.is_platform() {
                div.field {
                    label for="f-tenant_id" { "Tenant" }
                    select id="f-tenant_id" name="tenant_id" {
                        option value="" { "all" }
                        // A tenant beyond the first hundred is chosen by a link.
                        @if !chosen.is_empty() && !self.0.all.iter().any(|(id, _)| id == chosen) {
                            option value=(chosen) selected { (visible(chosen)) }
                        }
                        @for (id, slug) in &self.0.all {
                            option value=(id) selected[id == chosen] { (visible(slug)) }
                        }
                    }
                }
            }
        }
    }
}
