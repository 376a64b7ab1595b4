//! Finds the id of a tenant by its slug and of a domain by its name.

use anyhow::Context;
use serde_json::Value;

use super::api_client::{ApiClient, Query, Refusal};

impl ApiClient {
    /// The id of a tenant, given by its id or slug.
    pub(super) async fn tenant_id(&self, name: &str) -> anyhow::Result<String> {
        if name.starts_with("tnt_") {
            return Ok(name.to_owned());
        }
        let list = self.get("/v1/tenants", &vec![("slug", name.to_owned())]).await;
        let list = list.map_err(|error| match error.downcast_ref::<Refusal>() {
            Some(refusal) if refusal.code == "insufficient_scope" => Refusal::new(format!(
                "this key may not look up tenants: leave the tenant out (a key of a tenant acts for that tenant), or \
                 name it by its id\n  {refusal}"
            ))
            .into(),
            _ => error,
        })?;
        // With a key of a tenant, the API returns that tenant whatever the slug is.
        let tenant = list["data"].as_array().and_then(|all| all.iter().find(|tenant| tenant["slug"] == name));
        id_of(tenant).ok_or_else(|| Refusal::new(format!("there is no tenant {name}")).into())
    }

    /// The query parameter `tenant_id`, if a tenant is given.
    pub(super) async fn tenant_parameter(&self, name: Option<&str>) -> anyhow::Result<Query> {
        Ok(match name {
            Some(name) => vec![("tenant_id", self.tenant_id(name).await?)],
            None => Query::new(),
        })
    }

    /// The id of a domain, given by its id or name.
    pub(super) async fn domain_id(&self, name: &str) -> anyhow::Result<String> {
        if name.starts_with("dom_") {
            return Ok(name.to_owned());
        }
        let list = self.get("/v1/domains", &vec![("name", name.to_owned())]).await?;
        match list["data"].as_array().map(Vec::as_slice).unwrap_or_default() {
            [] => Err(Refusal::new(format!("there is no domain {name}")).into()),
            [one] => id_of(Some(one)).context("the response has a domain without an id"),
            several => {
                let ids = several.iter().filter_map(|one| id_of(Some(one))).collect::<Vec<_>>().join(", ");
                Err(Refusal::new(format!("several tenants claim {name}; use one of these ids: {ids}")).into())
            }
        }
    }
}

fn id_of(object: Option<&Value>) -> Option<String> {
    Some(object?["id"].as_str()?.to_owned())
}
