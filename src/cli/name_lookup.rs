//! Finds ids by the names that people use (slugs of tenants, names of domains and templates), and slugs by ids.

use std::collections::HashMap;

use anyhow::Context;
use serde_json::Value;

use super::api_client::{ApiClient, Query, Refusal};
use super::output::OutputFormat;

/// Tenants that a command looks up at most, to show their slugs; further ones are shown with their ids.
const SLUGS_MAX: usize = 200;

impl ApiClient {
    /// The id of a tenant, given by its id or slug.
    pub(super) async fn tenant_id(&self, name: &str) -> anyhow::Result<String> {
        if name.starts_with("tnt_") {
            return read_id("tenant", "tnt_", name);
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
            return read_id("domain", "dom_", name);
        }
        self.id_by_name("domain", "/v1/domains", Query::new(), name).await
    }

    /// The id of a template, given by its id or name.
    pub(super) async fn template_id(&self, tenant: Option<&str>, name: &str) -> anyhow::Result<String> {
        if name.starts_with("tpl_") {
            return read_id("template", "tpl_", name);
        }
        self.id_by_name("template", "/v1/templates", self.tenant_parameter(tenant).await?, name).await
    }

    async fn id_by_name(
        &self,
        noun: &str,
        path: &str,
        mut query: Query,
        name: &str,
    ) -> anyhow::Result<String> {
        query.push(("name", name.to_owned()));
        let list = self.get(path, &query).await?;
        let found = list["data"].as_array().map(Vec::as_slice).unwrap_or_default();
        let several = format!("several tenants have a {noun} {name}; use one of");
        only_id(found, format!("there is no {noun} {name}"), &several)
    }

    /// Adds to the objects of a response the slugs of their tenants, for [`tenant_of`]. Changes nothing if the response is
    /// printed as JSON.
    pub(super) async fn with_slugs(&self, mut response: Value) -> Value {
        if self.output == OutputFormat::Json {
            return response;
        }
        let mut slugs: HashMap<String, Value> = HashMap::new();
        for_each_object(&mut response, |object| {
            if let Some(id) = object["tenant_id"].as_str() {
                slugs.insert(id.to_owned(), Value::Null);
            }
        });
        for (id, slug) in slugs.iter_mut().take(SLUGS_MAX) {
            match self.get(&format!("/v1/tenants/{id}"), &Query::new()).await {
                Ok(tenant) => *slug = tenant["slug"].clone(),
                // A key of a tenant may not have the scope.
                Err(_) => break,
            }
        }
        for_each_object(&mut response, |object| {
            let slug =
                object["tenant_id"].as_str().and_then(|id| slugs.get(id)).filter(|slug| slug.is_string());
            if let Some(slug) = slug.cloned() {
                object["tenant"] = slug;
            }
        });
        response
    }
}

/// The id of the only object. An error says that there is none, or names the ids to choose from.
pub(super) fn only_id(found: &[Value], none: String, several: &str) -> anyhow::Result<String> {
    match found {
        [] => Err(Refusal::new(none).into()),
        [one] => id_of(Some(one)).context("the response has an object without an id"),
        all => {
            let ids = all.iter().filter_map(|one| id_of(Some(one))).collect::<Vec<_>>().join(", ");
            Err(Refusal::new(format!("{several} these ids: {ids}")).into())
        }
    }
}

/// The path of an object, given by its id.
pub(super) fn object_path(noun: &str, prefix: &str, collection: &str, id: &str) -> anyhow::Result<String> {
    Ok(format!("{collection}/{}", read_id(noun, prefix, id)?))
}

/// An id that may stand in a path. A text with another form may be a name, or another path.
pub(super) fn read_id(noun: &str, prefix: &str, id: &str) -> anyhow::Result<String> {
    if !id.starts_with(prefix) || !id.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        let command = noun.split(' ').next().unwrap_or(noun);
        anyhow::bail!("{id} is not the id of a {noun}, like {prefix}…; see `pillarbox {command} --help`");
    }
    Ok(id.to_owned())
}

/// The slug of an object's tenant, else its id; `-` without a tenant.
pub(super) fn tenant_of(object: &Value) -> String {
    let name = object["tenant"].as_str().or_else(|| object["tenant_id"].as_str());
    name.unwrap_or("-").to_owned()
}

/// The response itself, and the objects of its lists.
fn for_each_object(response: &mut Value, mut apply: impl FnMut(&mut Value)) {
    apply(response);
    for list in ["data", "pauses"] {
        let objects = response.get_mut(list).and_then(Value::as_array_mut);
        objects.into_iter().flatten().for_each(&mut apply);
    }
}

fn id_of(object: Option<&Value>) -> Option<String> {
    Some(object?["id"].as_str()?.to_owned())
}
