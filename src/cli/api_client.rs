//! What the verbs for a running server share: which server, with which key, and its answers as JSON or as a failure
//! that says what to do.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method};
use ipnet::IpNet;
use serde_json::Value;
use url::{Host, Url};

use super::screen::{Audience, text};
use super::serve::runtime;
use crate::http_client::{Client, Limits, NameResolution, OverflowPolicy, Request, ResponseStream};

/// Above the options of all these verbs in their help.
const HEADING: &str = "The server";
const URL_DEFAULT: &str = "http://127.0.0.1:8587";
const URL_VARIABLE: &str = "PILLARBOX_URL";
const KEY_VARIABLE: &str = "PILLARBOX_KEY";
/// A flush of a deep queue takes its time.
const LIMITS: Limits = Limits {
    timeout: Duration::from_secs(300),
    body_octets_max: 64 * 1024 * 1024,
    overflow: OverflowPolicy::Refuse,
};
/// For a live tail to begin, or to say why it does not.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// Of what it says then.
const REFUSAL_OCTETS_MAX: usize = 64 * 1024;

/// Which server.
#[derive(Debug, clap::Args)]
pub(super) struct Server {
    /// The address of its API; $PILLARBOX_URL by default, else http://127.0.0.1:8587
    ///
    /// The key is taken from $PILLARBOX_KEY.
    #[arg(long, value_name = "URL", global = true, help_heading = HEADING)]
    url: Option<Url>,
    /// A file with the certificate (PEM) that the API's leads to, if the system does not trust it
    #[arg(long, value_name = "FILE", global = true, help_heading = HEADING)]
    ca_file: Option<PathBuf>,
    /// The server's answers as JSON, for programs
    #[arg(long, global = true, help_heading = HEADING)]
    json: bool,
}

/// A server to ask.
pub(super) struct ApiClient {
    base: Url,
    authorization: HeaderValue,
    http: Client,
    /// Whom answers are for.
    pub(super) audience: Audience,
}

/// The server has said no, in its own words; or it has not what was asked for.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(super) struct Refused {
    /// As the API has it; empty if it was not the server that said so.
    pub(super) code: String,
    text: String,
}

impl Refused {
    pub(super) fn new(text: String) -> Self {
        Self { code: String::new(), text }
    }
}

/// It did not come to an answer: the arguments are of no use, or the server is not to be reached.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(super) struct NotAsked(anyhow::Error);

impl Server {
    /// Does something with a running server.
    ///
    /// # Errors
    /// [`Refused`] if the server would not; all else is [`NotAsked`].
    pub(super) fn ask<F>(&self, verb: impl FnOnce(ApiClient) -> F) -> anyhow::Result<()>
    where
        F: Future<Output = anyhow::Result<()>>,
    {
        let done = self.client().and_then(|client| runtime()?.block_on(verb(client)));
        done.or_else(|error| match error {
            error if is_closed_pipe(&error) => Ok(()),
            error if error.is::<Refused>() => Err(error),
            error => Err(NotAsked(error).into()),
        })
    }

    /// Whom answers are for.
    pub(super) fn audience(&self) -> Audience {
        if self.json { Audience::Programs } else { Audience::People }
    }

    fn client(&self) -> anyhow::Result<ApiClient> {
        let base = match &self.url {
            Some(url) => url.clone(),
            None => {
                let text = std::env::var(URL_VARIABLE).unwrap_or_else(|_| URL_DEFAULT.to_owned());
                text.parse().with_context(|| format!("${URL_VARIABLE} is no URL: {text}"))?
            }
        };
        let key = std::env::var(KEY_VARIABLE).ok().filter(|key| !key.is_empty()).with_context(|| {
            format!(
                "${KEY_VARIABLE} has to hold a key; on the server itself, \
                 `pillarbox key create --local --name platform` makes a platform's"
            )
        })?;
        let mut authorization = HeaderValue::from_str(&format!("Bearer {}", key.trim()))
            .map_err(|_| anyhow!("${KEY_VARIABLE} holds something that is no key"))?;
        authorization.set_sensitive(true);
        if !is_private(&base) {
            eprintln!(
                "warning: the key goes to {base} in clear, for everybody on the way to read: use https"
            );
        }
        // Whoever types the URL decides where it leads.
        let everywhere: Vec<IpNet> =
            [IpNet::from(ipnet::Ipv4Net::default()), ipnet::Ipv6Net::default().into()].into();
        let http = Client::new(NameResolution::System, self.ca_file.as_deref(), &everywhere)?;
        Ok(ApiClient { base, authorization, http, audience: self.audience() })
    }
}

/// Whether nobody can read on the way what is sent there.
fn is_private(base: &Url) -> bool {
    let is_loopback = match base.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    };
    base.scheme() == "https" || is_loopback
}

/// Who read what is printed has heard enough, like `head`.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    kind == Some(std::io::ErrorKind::BrokenPipe)
}

/// Names and values of a query string.
pub(super) type Query = Vec<(&'static str, String)>;

impl ApiClient {
    /// Shows an answer: as it is, or as `tell` puts it for people.
    pub(super) fn show(&self, answer: &Value, tell: impl FnOnce(&Value) -> String) -> anyhow::Result<()> {
        self.audience.show(answer, tell)
    }

    pub(super) async fn get(&self, path: &str, query: &Query) -> anyhow::Result<Value> {
        self.call(Method::GET, path, query, None).await
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.call(Method::POST, path, &Vec::new(), Some(body)).await
    }

    pub(super) async fn patch(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.call(Method::PATCH, path, &Vec::new(), Some(body)).await
    }

    pub(super) async fn delete(&self, path: &str, query: &Query) -> anyhow::Result<Value> {
        self.call(Method::DELETE, path, query, None).await
    }

    /// An answer that is no JSON.
    pub(super) async fn get_octets(&self, path: &str) -> anyhow::Result<Bytes> {
        self.send(self.request(Method::GET, path, &Vec::new(), None)).await
    }

    /// The live tail of the events, behind the one with this id.
    pub(super) async fn follow_events(
        &self,
        query: &Query,
        after: Option<&str>,
    ) -> anyhow::Result<ResponseStream> {
        let mut request = self.request(Method::GET, "/v1/events", query, None);
        request.headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        if let Some(id) = after {
            let id = HeaderValue::from_str(id).map_err(|_| anyhow!("{id:?} is no id of an event"))?;
            request.headers.insert(HeaderName::from_static("last-event-id"), id);
        }
        let opened = self.http.open(request, OPEN_TIMEOUT).await;
        let mut flow = opened.with_context(|| format!("cannot ask {}", self.base))?;
        if flow.status.is_success() {
            return Ok(flow);
        }
        Err(self.refusal(flow.status, &read_refusal(&mut flow).await?))
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        query: &Query,
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        let answer = self.send(self.request(method, path, query, body)).await?;
        serde_json::from_slice(&answer).with_context(|| self.is_stranger("without JSON"))
    }

    fn request(&self, method: Method, path: &str, query: &Query, body: Option<&Value>) -> Request {
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
        Request { method, url, headers, body }
    }

    async fn send(&self, request: Request) -> anyhow::Result<Bytes> {
        let sent = self.http.send(request, LIMITS).await;
        let response = sent.with_context(|| format!("cannot ask {}", self.base))?;
        if response.status.is_success() {
            Ok(response.body)
        } else {
            Err(self.refusal(response.status, &response.body))
        }
    }

    fn is_stranger(&self, what: impl fmt::Display) -> String {
        format!("{} answered {what}: is it Pillarbox?", self.base)
    }

    /// What the server says when it does not do what it was asked.
    fn refusal(&self, status: hyper::StatusCode, body: &[u8]) -> anyhow::Error {
        let answer: Value = serde_json::from_slice(body).unwrap_or_default();
        match &answer["error"] {
            Value::Object(_) => {
                let error = &answer["error"];
                Refused { code: text(error, "code"), text: describe(error) }.into()
            }
            _ => anyhow!(self.is_stranger(status)),
        }
    }
}

/// As much of an answer as a refusal may have, in the time that it may take.
async fn read_refusal(flow: &mut ResponseStream) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    let reading = async {
        while body.len() < REFUSAL_OCTETS_MAX
            && let Some(piece) = flow.next().await?
        {
            body.extend_from_slice(&piece);
        }
        Ok(())
    };
    tokio::time::timeout(OPEN_TIMEOUT, reading).await.unwrap_or(Ok(())).map(|()| body)
}

/// The refusal in the words of the server: what, which code, which fields, and what to do.
fn describe(error: &Value) -> String {
    let words = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let message = words(&error["message"]);
    let mut lines = vec![format!("{message} [{}]", words(&error["code"]))];
    let faults = error["errors"].as_array().into_iter().flatten();
    let faults = faults.map(|fault| format!("{}: {}", words(&fault["path"]), words(&fault["message"])));
    // A single one is the message itself.
    lines.extend(faults.filter(|fault| *fault != message));
    lines.push(words(&error["hint"]));
    lines.retain(|line| !line.is_empty());
    lines.join("\n  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_goes_unseen_over_tls_or_within_this_machine() {
        for url in
            ["https://a.b", "http://127.0.0.2:1", "http://[::1]", "http://localhost", "http://a.localhost"]
        {
            assert!(is_private(&url.parse().unwrap()), "{url}");
        }
        for url in ["http://a.b", "http://192.0.2.1", "http://[2001:db8::1]", "http://localhost.example"] {
            assert!(!is_private(&url.parse().unwrap()), "{url}");
        }
    }

    #[test]
    fn a_refusal_is_told_with_its_code_its_fields_and_what_to_do() {
        let error = serde_json::json!({
            "code": "not_found", "message": "there is no such pause", "hint": "look",
            "errors": [{"path": "slug", "code": "invalid", "message": "too short"}],
        });
        assert_eq!(describe(&error), "there is no such pause [not_found]\n  slug: too short\n  look");
    }
}
