//! A request for a page, and how it asks the API.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{self, Body};
use axum::response::Response;
use hyper::{Method, StatusCode};
use maud::{Markup, html};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::Ui;
use super::route::Page;
use super::session::{Me, SessionHandle};
use super::view::Problem;
use crate::api::{Answer, Ask, Origin};
use crate::mail::{SignedDuration, Timestamp};
use crate::model::{Scope, TenantStatus};

/// Characters of a value in a query: all but letters, digits and these.
const VALUE: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'@').remove(b':');

/// Time for a form to arrive.
pub const FORM_TIMEOUT: Duration = Duration::from_secs(30);
/// Requests of one page to the API at the same time. A page with many parts must not take the permits of other readers.
const ASKS_MAX: usize = 4;
/// The age of the names of tenants on the pages of the platform.
const TENANTS_AGE_MAX: SignedDuration = SignedDuration::from_mins(1);

/// A list of the API.
#[derive(Deserialize)]
pub struct Listed<T> {
    /// Its objects.
    pub data: Vec<T>,
    /// Where the next page begins; `None` at the end.
    pub next_cursor: Option<String>,
}

/// The names of the newest tenants, for the pages of the platform.
#[derive(Debug, Default)]
pub struct Tenants {
    /// Id and slug, sorted by slug, to choose one. A session of a tenant has no choice.
    pub all: Vec<(String, String)>,
    slugs: HashMap<String, String>,
    archived: HashSet<String>,
}

impl Tenants {
    /// Whether a tenant is archived; false for others than the newest hundred.
    pub fn is_archived(&self, id: &str) -> bool {
        self.archived.contains(id)
    }

    /// The slug of a tenant; of others than the newest hundred, the id.
    pub fn slug<'a>(&'a self, id: &'a str) -> &'a str {
        self.slugs.get(id).map_or(id, String::as_str)
    }
}

/// Limits how many requests of a page ask the API at the same time.
pub fn asks() -> Semaphore {
    Semaphore::new(ASKS_MAX)
}

/// The fields of a form.
pub async fn read_form(
    body: Body,
    octets_max: usize,
    time: Duration,
) -> Result<Vec<(String, String)>, Problem> {
    match tokio::time::timeout(time, body::to_bytes(body, octets_max)).await {
        Ok(Ok(octets)) => Ok(pairs(&octets)),
        _ => {
            let hint = format!("send at most {} KiB within {} seconds", octets_max / 1024, time.as_secs());
            let message = "the form is too large or too slow";
            Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", message, hint))
        }
    }
}

/// The pairs of a form or a query, at most 200.
pub fn pairs(text: &[u8]) -> Vec<(String, String)> {
    url::form_urlencoded::parse(text).into_owned().take(200).collect()
}

/// A request of somebody who is signed in.
#[allow(missing_docs)]
pub struct PageRequest {
    pub ui: Arc<Ui>,
    pub page: &'static Page,
    pub session: SessionHandle,
    pub origin: Origin,
    /// `{id}` of the path; empty if there is none.
    pub id: String,
    /// `{part}` of the path; empty if there is none.
    pub part: String,
    /// Path and query, for a link that comes back.
    pub address: String,
    /// The query, in order.
    pub query: Vec<(String, String)>,
    /// The fields of a POST, in order, without the token.
    pub form: Vec<(String, String)>,
    /// The note of the last change.
    pub note: Option<String>,
    pub now: Timestamp,
    /// Permits of requests to the API; [`asks`].
    pub asks: Semaphore,
}

impl PageRequest {
    /// Who is signed in.
    pub fn me(&self) -> &Me {
        &self.session.me
    }

    /// Whether the session is that of the platform.
    pub fn is_platform(&self) -> bool {
        self.me().tenant.is_none()
    }

    /// Whether to show something that needs this scope. The API decides again.
    pub fn may(&self, scope: Scope) -> bool {
        self.is_platform() || self.me().scopes.iter().any(|own| own.includes(scope))
    }

    /// A link to a page: a path that begins with `/ui`.
    pub fn href(&self, path: &str) -> String {
        format!("{}{path}", self.ui.prefix())
    }

    /// A parameter of the query, if it is not empty.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        find(&self.query, name)
    }

    /// A field of the form, if it is not empty.
    pub fn field(&self, name: &str) -> Option<&str> {
        find(&self.form, name)
    }

    /// A field as it was typed, with its spaces, if it is not empty.
    pub fn typed(&self, name: &str) -> Option<&str> {
        let found = self.form.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.trim().is_empty())
    }

    /// The hidden field that every form has.
    pub fn token(&self) -> Markup {
        html! { input type="hidden" name="token" value=(&*self.session.csrf); }
    }

    /// The path of this page with these parameters, leaving out empty ones.
    pub fn with_query(&self, path: &str, parameters: &[(&str, &str)]) -> String {
        target(path, parameters.iter().copied())
    }

    /// Those parameters of the query that the API's operation takes, with others.
    pub fn api_target(&self, path: &str, passed: &[&str], fixed: &[(&str, &str)]) -> String {
        let of_query = self.query.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let of_query = of_query.filter(|(name, _)| passed.contains(name) || name.starts_with("metadata["));
        target(path, of_query.chain(fixed.iter().copied()))
    }

    /// An object or a list of the API.
    pub async fn get<T: DeserializeOwned>(&self, target: &str) -> Result<T, Problem> {
        read(self.ask(Method::GET, target, None).await)
    }

    /// The same; `None` if this session may not see it or it does not exist.
    pub async fn get_if_any<T: DeserializeOwned>(&self, target: &str) -> Result<Option<T>, Problem> {
        match self.get(target).await {
            Ok(found) => Ok(Some(found)),
            Err(problem) if [StatusCode::NOT_FOUND, StatusCode::FORBIDDEN].contains(&problem.status) => {
                Ok(None)
            }
            Err(problem) => Err(problem),
        }
    }

    /// A change.
    pub async fn post<T: DeserializeOwned>(&self, target: &str, body: &Value) -> Result<T, Problem> {
        read(self.ask(Method::POST, target, Some(body)).await)
    }

    /// A change of an object.
    pub async fn patch<T: DeserializeOwned>(&self, target: &str, body: &Value) -> Result<T, Problem> {
        read(self.ask(Method::PATCH, target, Some(body)).await)
    }

    /// A deletion.
    pub async fn delete<T: DeserializeOwned>(&self, target: &str) -> Result<T, Problem> {
        read(self.ask(Method::DELETE, target, None).await)
    }

    /// The names of tenants: its own for a session of a tenant; none if they cannot be read now.
    pub async fn tenants(&self) -> Arc<Tenants> {
        if let Some(own) = &self.me().tenant {
            let slugs = HashMap::from([(own.id.clone(), own.slug.clone())]);
            return Arc::new(Tenants { slugs, ..Tenants::default() });
        }
        if let Some(known) = self.ui.tenants_since(self.now - TENANTS_AGE_MAX) {
            return known;
        }
        #[derive(Deserialize)]
        struct Tenant {
            id: String,
            slug: String,
            status: TenantStatus,
        }
        let Ok(found) = self.get::<Listed<Tenant>>("/v1/tenants?limit=100").await else {
            return Arc::default();
        };
        let archived = found.data.iter().filter(|tenant| tenant.status == TenantStatus::Archived);
        let archived = archived.map(|tenant| tenant.id.clone()).collect();
        let mut all: Vec<_> = found.data.into_iter().map(|tenant| (tenant.id, tenant.slug)).collect();
        all.sort_by(|one, other| one.1.cmp(&other.1));
        let tenants = Arc::new(Tenants { slugs: all.iter().cloned().collect(), all, archived });
        self.ui.remember_tenants(&tenants, self.now);
        tenants
    }

    /// A response as it is, for files and streams.
    pub async fn open(&self, target: &str, accept: Option<&'static str>) -> Response {
        let ask = Ask {
            method: Method::GET,
            target,
            body: None,
            accept,
            signed_in: &self.session.signed_in,
            origin: &self.origin,
        };
        self.ui.api.open(ask).await
    }

    async fn ask(&self, method: Method, target: &str, body: Option<&Value>) -> Answer {
        // The semaphore is never closed.
        let _permit = self.asks.acquire().await;
        let ask = Ask {
            method,
            target,
            body,
            accept: None,
            signed_in: &self.session.signed_in,
            origin: &self.origin,
        };
        self.ui.api.ask(ask).await
    }
}

fn read<T: DeserializeOwned>(answer: Answer) -> Result<T, Problem> {
    if !answer.status.is_success() {
        return Err(Problem::of(answer.status, &answer.body));
    }
    serde_json::from_slice(&answer.body).map_err(|error| {
        tracing::error!(%error, "a page does not know the form of an answer");
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal_error",
            "the answer cannot be read",
            "look into the log",
        )
    })
}

/// The value of a name, if it is not empty.
pub fn find<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let found = pairs.iter().find(|(other, _)| other == name);
    found.map(|(_, value)| value.trim()).filter(|value| !value.is_empty())
}

/// Path and query; a part of a path must be encoded by [`segment`].
pub fn target<'a>(path: &str, parameters: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut target = path.to_owned();
    for (name, value) in parameters.filter(|(_, value)| !value.is_empty()) {
        target.push(if target.contains('?') { '&' } else { '?' });
        target.extend(utf8_percent_encode(name, VALUE));
        target.push('=');
        target.extend(utf8_percent_encode(value, VALUE));
    }
    target
}

/// A value as one segment of a path.
pub fn segment(value: &str) -> String {
    utf8_percent_encode(value, NON_ALPHANUMERIC)
        .to_string()
        .replace("%5F", "_")
        .replace("%2D", "-")
        .replace("%2E", ".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_form_that_does_not_arrive_is_refused_in_time() {
        let body = Body::from_stream(futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>());
        let read = read_form(body, 1024, Duration::from_millis(1));
        let refused = tokio::time::timeout(Duration::from_secs(10), read).await.unwrap().unwrap_err();
        assert_eq!((refused.status.as_u16(), refused.code.as_str()), (413, "payload_too_large"));
    }
}
