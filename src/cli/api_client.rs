//! The client of the API that the commands for a running server share.

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

use super::output::{OutputFormat, printable_lines, text};
use super::serve::runtime;
use crate::http_client::{Client, Limits, NameResolution, OverflowPolicy, Request, ResponseStream};

/// The heading of the shared options in the help.
const HEADING: &str = "The server";
const URL_DEFAULT: &str = "http://127.0.0.1:8587";
const URL_VARIABLE: &str = "PILLARBOX_URL";
const KEY_VARIABLE: &str = "PILLARBOX_KEY";
/// Long enough to flush a deep queue.
const LIMITS: Limits = Limits {
    timeout: Duration::from_secs(300),
    body_octets_max: 64 * 1024 * 1024,
    overflow: OverflowPolicy::Refuse,
};
/// Timeout for the response headers of an event stream, and for the body of a refusal.
const STREAM_OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// Octets that are read of a refusal.
const REFUSAL_OCTETS_MAX: usize = 64 * 1024;

/// The server and the output format.
#[derive(Debug, clap::Args)]
pub(super) struct ServerArguments {
    /// The URL of the API; default: $PILLARBOX_URL, else http://127.0.0.1:8587
    ///
    /// The key comes from $PILLARBOX_KEY.
    #[arg(long, value_name = "URL", global = true, help_heading = HEADING)]
    url: Option<Url>,
    /// A PEM file with the certificate authority of the API, if the system does not trust it
    #[arg(long, value_name = "FILE", global = true, help_heading = HEADING)]
    ca_file: Option<PathBuf>,
    /// Prints the response of the server as JSON
    #[arg(long, global = true, help_heading = HEADING)]
    json: bool,
}

/// A server with the key for it.
pub(super) struct ApiClient {
    base: Url,
    authorization: HeaderValue,
    http: Client,
    pub(super) output: OutputFormat,
}

/// The server refused the request, or an object that the command names does not exist.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(super) struct Refusal {
    /// The error code of the API; empty if the command itself found the error.
    pub(super) code: String,
    text: String,
}

impl Refusal {
    pub(super) fn new(text: String) -> Self {
        Self { code: String::new(), text: printable_lines(&text) }
    }
}

/// The command failed before the server decided: the arguments are invalid, or the server was not reached.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(super) struct NoDecision(anyhow::Error);

impl ServerArguments {
    /// Runs a command against the server.
    ///
    /// # Errors
    /// [`Refusal`] if the server refused; otherwise [`NoDecision`].
    pub(super) fn run<F>(&self, command: impl FnOnce(ApiClient) -> F) -> anyhow::Result<()>
    where
        F: Future<Output = anyhow::Result<()>>,
    {
        let done = self.client().and_then(|client| runtime()?.block_on(command(client)));
        done.or_else(|error| match error {
            error if is_closed_pipe(&error) => Ok(()),
            error if error.is::<Refusal>() => Err(error),
            error => Err(NoDecision(error).into()),
        })
    }

    pub(super) fn output(&self) -> OutputFormat {
        if self.json { OutputFormat::Json } else { OutputFormat::Text }
    }

    fn client(&self) -> anyhow::Result<ApiClient> {
        let base = match &self.url {
            Some(url) => url.clone(),
            None => {
                let text = std::env::var(URL_VARIABLE).unwrap_or_else(|_| URL_DEFAULT.to_owned());
                text.parse().with_context(|| format!("${URL_VARIABLE} is not a URL: {text}"))?
            }
        };
        let key = std::env::var(KEY_VARIABLE).ok().filter(|key| !key.is_empty()).with_context(|| {
            format!(
                "${KEY_VARIABLE} is not set: set it to the secret of a key; on the server itself, \
                 `pillarbox key create --local --name platform` creates a platform key"
            )
        })?;
        let mut authorization = HeaderValue::from_str(&format!("Bearer {}", key.trim()))
            .map_err(|_| anyhow!("${KEY_VARIABLE} does not contain a key"))?;
        authorization.set_sensitive(true);
        if !is_confidential(&base) {
            eprintln!("warning: the key is sent to {base} without encryption; use https");
        }
        // The user chooses the URL, so private addresses are allowed.
        let everywhere: Vec<IpNet> =
            [IpNet::from(ipnet::Ipv4Net::default()), ipnet::Ipv6Net::default().into()].into();
        let http = Client::new(NameResolution::System, self.ca_file.as_deref(), &everywhere)?;
        Ok(ApiClient { base, authorization, http, output: self.output() })
    }
}

/// Whether nobody on the network can read what is sent to this URL.
fn is_confidential(base: &Url) -> bool {
    let is_loopback = match base.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    };
    base.scheme() == "https" || is_loopback
}

/// Whether the reader of the output ended, like `head`.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    kind == Some(std::io::ErrorKind::BrokenPipe)
}

/// A query parameter with a value like `key=value`, which is sent as `metadata[key]=value`.
pub(super) const METADATA: &str = "metadata";

/// Names and values of a query string.
pub(super) type Query = Vec<(&'static str, String)>;

impl ApiClient {
    /// The host of the API, on which the submission server usually is too.
    pub(super) fn host(&self) -> Option<String> {
        self.base.host_str().map(str::to_owned)
    }

    /// Prints a response as JSON, or as the text that `to_text` makes of it.
    pub(super) fn print(
        &self,
        response: &Value,
        to_text: impl FnOnce(&Value) -> String,
    ) -> anyhow::Result<()> {
        self.output.print(response, to_text)
    }

    pub(super) async fn get(&self, path: &str, query: &Query) -> anyhow::Result<Value> {
        self.call(Method::GET, path, query, None).await
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.call(Method::POST, path, &Vec::new(), Some(body)).await
    }

    pub(super) async fn post_with(&self, path: &str, query: &Query, body: &Value) -> anyhow::Result<Value> {
        self.call(Method::POST, path, query, Some(body)).await
    }

    pub(super) async fn patch(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.call(Method::PATCH, path, &Vec::new(), Some(body)).await
    }

    pub(super) async fn delete(&self, path: &str, query: &Query) -> anyhow::Result<Value> {
        self.call(Method::DELETE, path, query, None).await
    }

    /// A response that is not JSON.
    pub(super) async fn get_octets(&self, path: &str) -> anyhow::Result<Bytes> {
        self.send(self.request(Method::GET, path, &Vec::new(), None)).await
    }

    /// The stream of the events after the one with this id.
    pub(super) async fn follow_events(
        &self,
        query: &Query,
        after: Option<&str>,
    ) -> anyhow::Result<ResponseStream> {
        let mut request = self.request(Method::GET, "/v1/events", query, None);
        request.headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        if let Some(id) = after {
            let id = HeaderValue::from_str(id).map_err(|_| anyhow!("{id:?} is not the id of an event"))?;
            request.headers.insert(HeaderName::from_static("last-event-id"), id);
        }
        self.open(request).await
    }

    /// A response that is read as it arrives.
    pub(super) async fn stream(&self, path: &str, query: &Query) -> anyhow::Result<ResponseStream> {
        self.open(self.request(Method::GET, path, query, None)).await
    }

    async fn open(&self, request: Request) -> anyhow::Result<ResponseStream> {
        let opened = self.http.open(request, STREAM_OPEN_TIMEOUT).await;
        let mut stream = opened.with_context(|| format!("cannot reach {}", self.base))?;
        if stream.status.is_success() {
            return Ok(stream);
        }
        Err(self.refusal(stream.status, &read_refusal(&mut stream).await?))
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        query: &Query,
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        let body = self.send(self.request(method, path, query, body)).await?;
        serde_json::from_slice(&body).with_context(|| self.unexpected("a body that is not JSON"))
    }

    fn request(&self, method: Method, path: &str, query: &Query, body: Option<&Value>) -> Request {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path().trim_end_matches('/')));
        if !query.is_empty() {
            let pairs = query.iter().map(|(name, value)| match value.split_once('=') {
                Some((key, value)) if *name == METADATA => (format!("{name}[{key}]"), value),
                _ => ((*name).to_owned(), value.as_str()),
            });
            url.query_pairs_mut().extend_pairs(pairs);
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
        let response = sent.with_context(|| format!("cannot reach {}", self.base))?;
        if response.status.is_success() {
            Ok(response.body)
        } else {
            Err(self.refusal(response.status, &response.body))
        }
    }

    fn unexpected(&self, response: impl fmt::Display) -> String {
        format!("{} replied with {response}; is it the API of a Pillarbox server?", self.base)
    }

    fn refusal(&self, status: hyper::StatusCode, body: &[u8]) -> anyhow::Error {
        let response: Value = serde_json::from_slice(body).unwrap_or_default();
        match &response["error"] {
            error @ Value::Object(_) => {
                Refusal { code: text(error, "code"), text: refusal_text(error) }.into()
            }
            _ => anyhow!(self.unexpected(status)),
        }
    }
}

/// The beginning of a refusal, as much as arrives in time.
async fn read_refusal(stream: &mut ResponseStream) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    let reading = async {
        while body.len() < REFUSAL_OCTETS_MAX
            && let Some(chunk) = stream.next().await?
        {
            body.extend_from_slice(&chunk);
        }
        Ok(())
    };
    tokio::time::timeout(STREAM_OPEN_TIMEOUT, reading).await.unwrap_or(Ok(())).map(|()| body)
}

/// The refusal as lines: message and code, the invalid fields, the hint.
fn refusal_text(error: &Value) -> String {
    let text_of = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let message = text_of(&error["message"]);
    let mut lines = vec![format!("{message} [{}]", text_of(&error["code"]))];
    let fields = error["errors"].as_array().into_iter().flatten();
    let fields = fields.map(|field| format!("{}: {}", text_of(&field["path"]), text_of(&field["message"])));
    // With a single invalid field, the message is the same text.
    lines.extend(fields.filter(|field| *field != message));
    lines.push(text_of(&error["hint"]));
    lines.retain(|line| !line.is_empty());
    printable_lines(&lines.join("\n  "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_confidential_with_tls_or_on_loopback() {
        for url in
            ["https://a.b", "http://127.0.0.2:1", "http://[::1]", "http://localhost", "http://a.localhost"]
        {
            assert!(is_confidential(&url.parse().unwrap()), "{url}");
        }
        for url in ["http://a.b", "http://192.0.2.1", "http://[2001:db8::1]", "http://localhost.example"] {
            assert!(!is_confidential(&url.parse().unwrap()), "{url}");
        }
    }

    #[test]
    fn a_refusal_is_printed_with_its_code_its_fields_and_its_hint() {
        let error = serde_json::json!({
            "code": "not_found", "message": "there is no such pause\u{9b}", "hint": "look",
            "errors": [{"path": "slug", "code": "invalid", "message": "too short"}],
        });
        assert_eq!(refusal_text(&error), "there is no such pause  [not_found]\n  slug: too short\n  look");
    }
}
