//! The listeners for http-01 (RFC 8555 §8.3). They are open only while an order needs them.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue, LOCATION};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::error::ListenFault;
use crate::accept_loop;

const PATH: &str = "/.well-known/acme-challenge/";
/// Connections at once; others are closed.
const CONNECTIONS_MAX: usize = 64;
/// Timeout of a connection.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Header fields, and octets of a request head.
const HEADERS_MAX: usize = 64;
const HEADER_OCTETS_MAX: usize = 16 * 1024;

/// Listeners that answer the authority. They are closed when this is dropped.
pub(super) struct ChallengeListener {
    site: Arc<Site>,
    _stop: DropGuard,
}

/// What the listeners answer.
struct Site {
    /// Key authorizations by their tokens.
    answers: Mutex<HashMap<String, String>>,
    /// The beginning of the address to which everybody else is led.
    public_url: Option<String>,
    permits: Arc<Semaphore>,
}

impl ChallengeListener {
    /// Binds each address. Must be called in a runtime.
    pub async fn open(addresses: &[SocketAddr], public_url: Option<String>) -> Result<Self, ListenFault> {
        let stop = CancellationToken::new();
        let site = Arc::new(Site {
            answers: Mutex::default(),
            public_url,
            permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        });
        let mut listeners = Vec::new();
        for &address in addresses {
            let bound = TcpListener::bind(address).await;
            let fault = |error: std::io::Error| ListenFault {
                address,
                kind: error.kind(),
                reason: error.to_string(),
            };
            listeners.push(bound.map_err(fault)?);
        }
        for listener in listeners {
            tokio::spawn(serve(site.clone(), listener, stop.clone()));
        }
        Ok(Self { site, _stop: stop.drop_guard() })
    }

    /// Answers a token from now on.
    pub fn answer(&self, token: &str, key_authorization: &str) {
        self.site.answers.lock().insert(token.to_owned(), key_authorization.to_owned());
    }
}

async fn serve(site: Arc<Site>, listener: TcpListener, stop: CancellationToken) {
    accept_loop::accept_until(&stop, listener, |stream, _| {
        let Ok(permit) = site.permits.clone().try_acquire_owned() else { return };
        let (site, stop) = (site.clone(), stop.clone());
        tokio::spawn(async move {
            let exchange = tokio::time::timeout(EXCHANGE_TIMEOUT, speak(&site, stream));
            let _ended = stop.run_until_cancelled(exchange).await;
            drop(permit);
        });
    })
    .await;
}

async fn speak(site: &Site, stream: TcpStream) {
    let service = service_fn(async |request: Request<Incoming>| Ok::<_, Infallible>(site.respond(&request)));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(EXCHANGE_TIMEOUT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEADER_OCTETS_MAX)
        .keep_alive(false);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "connection to the listener for http-01 ended early");
    }
}

impl Site {
    fn respond<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::default());
        let answer = match request.uri().path().strip_prefix(PATH) {
            Some(token) => self.answers.lock().get(token).cloned(),
            None => {
                if let Some(target) = self.redirect(request) {
                    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
                    response.headers_mut().insert(LOCATION, target);
                    return response;
                }
                None
            }
        };
        match answer {
            Some(answer) => {
                *response.body_mut() = Full::new(answer.into());
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            }
            None => *response.status_mut() = StatusCode::NOT_FOUND,
        }
        response
    }

    fn redirect<B>(&self, request: &Request<B>) -> Option<HeaderValue> {
        let base = self.public_url.as_ref()?;
        let path = request.uri().path_and_query()?.as_str();
        path.starts_with('/').then(|| HeaderValue::try_from(format!("{base}{path}")).ok())?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_is_answered_and_everything_else_is_led_to_the_public_address() {
        let site = |public_url: Option<&str>| Site {
            answers: Mutex::new(HashMap::from([("abc".to_owned(), "abc.thumb".to_owned())])),
            public_url: public_url.map(str::to_owned),
            permits: Arc::new(Semaphore::new(1)),
        };
        for (public_url, target, status, location) in [
            (Some("https://mail.example.com"), "/.well-known/acme-challenge/abc", 200, None),
            (None, "/.well-known/acme-challenge/abc?x=1", 200, None),
            (Some("https://mail.example.com"), "/.well-known/acme-challenge/abd", 404, None),
            (Some("https://mail.example.com"), "/u/x?y=1", 308, Some("https://mail.example.com/u/x?y=1")),
            (Some("https://mail.example.com"), "*", 404, None),
            (None, "/", 404, None),
        ] {
            let request = Request::builder().uri(target).body(()).unwrap();
            let response = site(public_url).respond(&request);
            assert_eq!(response.status(), status, "{target}");
            let found = response.headers().get(LOCATION).map(|value| value.to_str().unwrap());
            assert_eq!(found, location, "{target}");
        }
    }
}
