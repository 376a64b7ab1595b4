//! What the verbs for a running server share: which server, with which key, and its answers as JSON or as a failure
//! that says what to do.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{HeaderMap, Method};
use ipnet::IpNet;
use serde_json::Value;
use url::Url;

use crate::dns::Resolver;
use crate::https::{Client, Excess, Limits, Request};

const URL_DEFAULT: &str = "http://127.0.0.1:8587";
const URL_VARIABLE: &str = "PILLARBOX_URL";
const KEY_VARIABLE: &str = "PILLARBOX_KEY";
/// A flush of a deep queue takes its time.
const LIMITS: Limits =
    Limits { timeout: Duration::from_secs(300), body_octets_max: 64 * 1024 * 1024, excess: Excess::Refuse };
/// Of tenants, when one is looked for by its slug.
const PAGE_OBJECTS: &str = "100";

/// Which server.
#[derive(Debug, clap::Args)]
pub(super) struct Server {
    /// The address of its API; $PILLARBOX_URL by default, else http://127.0.0.1:8587
    ///
    /// The key is taken from $PILLARBOX_KEY.
    #[arg(long, value_name = "URL", global = true)]
    url: Option<Url>,
    /// A file with the certificate (PEM) that the API's leads to, if the system does not trust it
    #[arg(long, value_name = "FILE", global = true)]
    ca_file: Option<PathBuf>,
}

/// A server to ask.
pub(super) struct ApiClient {
    base: Url,
    authorization: HeaderValue,
    http: Client,
}

impl Server {
    pub(super) fn client(&self) -> anyhow::Result<ApiClient> {
        let base = match &self.url {
            Some(url) => url.clone(),
            None => {
                let text = std::env::var(URL_VARIABLE).unwrap_or_else(|_| URL_DEFAULT.to_owned());
                text.parse().with_context(|| format!("${URL_VARIABLE} is no URL: {text}"))?
            }
        };
        let key = std::env::var(KEY_VARIABLE).ok().filter(|key| !key.is_empty()).with_context(|| {
            format!("${KEY_VARIABLE} has to hold a key; `pillarbox key create` makes a platform's")
        })?;
        let mut authorization = HeaderValue::from_str(&format!("Bearer {}", key.trim()))
            .map_err(|_| anyhow!("${KEY_VARIABLE} holds something that is no key"))?;
        authorization.set_sensitive(true);
        // Whoever types the URL decides where it leads.
        let everywhere: Vec<IpNet> =
            [IpNet::from(ipnet::Ipv4Net::default()), ipnet::Ipv6Net::default().into()].into();
        let http = Client::new(Resolver::new(&[])?, self.ca_file.as_deref(), &everywhere)?;
        Ok(ApiClient { base, authorization, http })
    }
}

impl ApiClient {
    pub(super) async fn get(&self, path: &str, query: &[(&str, String)]) -> anyhow::Result<Value> {
        self.call(Method::GET, path, query, None).await
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.call(Method::POST, path, &[], Some(body)).await
    }

    /// The id of a tenant that is named by its id or its slug.
    pub(super) async fn tenant_id(&self, name: &str) -> anyhow::Result<String> {
        if name.starts_with("tnt_") {
            return Ok(name.to_owned());
        }
        let mut query = vec![("limit", PAGE_OBJECTS.to_owned())];
        loop {
            let page = self.get("/v1/tenants", &query).await?;
            let tenants = page["data"].as_array().map(Vec::as_slice).unwrap_or_default();
            if let Some(found) = tenants.iter().find(|tenant| tenant["slug"] == name) {
                return Ok(found["id"].as_str().unwrap_or_default().to_owned());
            }
            match page["next_cursor"].as_str() {
                Some(cursor) => {
                    query = vec![("limit", PAGE_OBJECTS.to_owned()), ("after", cursor.to_owned())]
                }
                None => bail!("there is no tenant {name}"),
            }
        }
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path().trim_end_matches('/')));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut headers = HeaderMap::from_iter([(AUTHORIZATION, self.authorization.clone())]);
        if body.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let sent = self.http.send(Request { method, url, headers, body }, LIMITS).await;
        let response = sent.with_context(|| format!("cannot ask {}", self.base))?;
        let answer: Value = serde_json::from_slice(&response.body).with_context(|| {
            format!("{} answered {} without JSON: is it Pillarbox?", self.base, response.status)
        })?;
        if response.status.is_success() { Ok(answer) } else { Err(failure(&answer["error"])) }
    }
}

/// The refusal in the words of the server.
fn failure(error: &Value) -> anyhow::Error {
    let text = |name: &str| error[name].as_str().unwrap_or_default();
    anyhow!("{} [{}]\n  {}", text("message"), text("code"), text("hint"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_with_its_code_and_what_to_do() {
        let error =
            serde_json::json!({"code": "not_found", "message": "there is no such pause", "hint": "look"});
        assert_eq!(failure(&error).to_string(), "there is no such pause [not_found]\n  look");
    }
}
