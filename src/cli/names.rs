//! Objects by the names that people call them: a tenant by its slug, a domain by its name.

use anyhow::Context;
use serde_json::Value;

use super::api_client::{ApiClient, Query, Refused};

impl ApiClient {
    /// The id of a tenant that is named by its id or its slug.
    pub(super) async fn tenant_id(&self, name: &str) -> anyhow::Result<String> {
        if name.starts_with("tnt_") {
            return Ok(name.to_owned());
        }
        let found = self.get("/v1/tenants", &vec![("slug", name.to_owned())]).await;
        let found = found.map_err(|error| match error.downcast_ref::<Refused>() {
            Some(refused) if refused.code == "insufficient_scope" => Refused::new(format!(
                "this key may not look up tenants: leave the tenant out (a key of a tenant acts for that tenant), or \
                 name it by its id\n  {refused}"
            ))
            .into(),
            _ => error,
        })?;
        // A tenant's key is shown its own tenant, whatever it looks for.
        let found = found["data"].as_array().and_then(|all| all.iter().find(|tenant| tenant["slug"] == name));
        id_of(found).ok_or_else(|| Refused::new(format!("there is no tenant {name}")).into())
    }

    /// The same as a parameter of a list or a field of a body, if one is named.
    pub(super) async fn tenant_parameter(&self, name: Option<&str>) -> anyhow::Result<Query> {
        Ok(match name {
            Some(name) => vec![("tenant_id", self.tenant_id(name).await?)],
            None => Query::new(),
        })
    }

    /// The id of a domain that is named by its id or its name.
    pub(super) async fn domain_id(&self, name: &str) -> anyhow::Result<String> {
        if name.starts_with("dom_") {
            return Ok(name.to_owned());
        }
        let found = self.get("/v1/domains", &vec![("name", name.to_owned())]).await?;
        match found["data"].as_array().map(Vec::as_slice).unwrap_or_default() {
            [] => Err(Refused::new(format!("there is no domain {name}")).into()),
            [one] => id_of(Some(one)).context("a domain without an id"),
            several => {
                let claims = several.iter().filter_map(|one| id_of(Some(one))).collect::<Vec<_>>();
                let claims = claims.join(", ");
                Err(Refused::new(format!("several tenants claim {name}; use one of these ids: {claims}"))
                    .into())
            }
        }
    }
}

fn id_of(object: Option<&Value>) -> Option<String> {
    Some(object?["id"].as_str()?.to_owned())
}
