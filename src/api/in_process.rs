//! Requests that the pages make inside of the process. They pass the same router, layers and handlers as requests of a
//! connection: the same scopes, limits, revocations and log.

use std::sync::Arc;

use axum::Router;
use axum::body::{self, Body, Bytes};
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper::{HeaderMap, Method, Request, StatusCode};
use serde_json::Value;
use tower::ServiceExt;

use crate::limits::auth_limiter::Ban;
use crate::mail::Timestamp;
use crate::model::{Scope, SecretDigest, TenantId};
use crate::store::{SessionChange, SignIn, SignInLimits, SignIns};

use super::content::JSON;
use super::request_context::Origin;
use super::{Api, Result, router};

/// Octets of a response that a page reads. Lists have at most 2 MiB of rows.
const RESPONSE_OCTETS_MAX: usize = 16 * 1024 * 1024;

/// Who is signed in: a key by its digest. The pages never have its secret.
///
/// It takes the place of `Authorization` as an extension of the request, which no network client can set.
#[derive(Debug, Clone)]
pub struct SignedIn {
    /// The digest of the secret.
    pub digest: SecretDigest,
    /// Fewer rights than those of the key.
    pub rights: Option<Arc<SessionRights>>,
}

impl SignedIn {
    /// The tenant of a link; `None` if a key signed in by itself, or the link is one of the platform.
    pub fn tenant_of_link(&self) -> Option<TenantId> {
        self.rights.as_ref().map(|rights| rights.tenant_id)
    }
}

impl From<&SignIn> for SignedIn {
    fn from(sign_in: &SignIn) -> Self {
        let rights = sign_in.tenant_id.zip(sign_in.scopes.clone());
        let rights = rights.map(|(tenant_id, scopes)| Arc::new(SessionRights { tenant_id, scopes }));
        Self { digest: sign_in.secret, rights }
    }
}

/// The rights of a session that are fewer than those of its key. The networks of the key bind who made the link, not who
/// opens it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRights {
    /// The tenant whose objects the session sees.
    pub tenant_id: TenantId,
    /// What it may do there.
    pub scopes: Vec<Scope>,
}

/// A request of a page.
pub struct Ask<'a> {
    /// Its method.
    pub method: Method,
    /// Path and query, like `/v1/emails?limit=50`.
    pub target: &'a str,
    /// The JSON body.
    pub body: Option<&'a Value>,
    /// `Accept`, for other formats than JSON.
    pub accept: Option<&'static str>,
    /// Who is signed in.
    pub signed_in: &'a SignedIn,
    /// The connection that the page came over.
    pub origin: &'a Origin,
}

/// A response that has been read.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// The API for callers in this process.
#[derive(Clone)]
pub struct InProcess {
    api: Arc<Api>,
    router: Router,
}

impl InProcess {
    /// Of the running API. The clone of the router belongs to this value, so the API does not own itself.
    pub fn new(api: &Arc<Api>) -> Self {
        Self { api: Arc::clone(api), router: router::build(api) }
    }

    /// The time of the API.
    pub fn now(&self) -> Timestamp {
        self.api.now()
    }

    /// Stores a session.
    pub async fn add_session(&self, new: SignIn, limits: SignInLimits) -> Result<()> {
        Ok(self.api.store.add_sign_in(new, limits).await?)
    }

    /// A session, or a link that nobody has opened, by the digest of its token.
    pub async fn find_sign_in(&self, digest: [u8; 32]) -> Result<Option<SignIn>> {
        Ok(self.api.store.sign_in(digest, self.now()).await?)
    }

    /// Takes a link of `POST /v1/sessions`, which works once, or ends a session.
    pub async fn take_sign_in(&self, digest: [u8; 32]) -> Result<Option<SignIn>> {
        Ok(self.api.store.take_sign_in(digest, self.now()).await?)
    }

    /// The sessions of a secret, the newest first.
    pub async fn sessions_of(&self, secret: SecretDigest) -> Result<Vec<SignIn>> {
        Ok(self.api.store.sessions_of(secret, self.now()).await?)
    }

    /// Changes a session.
    pub async fn change_session(&self, digest: [u8; 32], change: SessionChange) -> Result<()> {
        Ok(self.api.store.change_session(digest, change).await?)
    }

    /// Ends all sessions of a secret, and links that nobody has opened.
    pub async fn end_sign_ins_of(&self, secret: SecretDigest) -> Result<()> {
        Ok(self.api.store.end_sign_ins_of(secret).await?)
    }

    /// Records the event of a ban, as for logins over SMTP.
    pub async fn record_ban(&self, ban: &Ban) {
        self.api.submission.record_ban(ban).await;
    }

    /// The response as it is, for streams and files.
    pub async fn open(&self, ask: Ask<'_>) -> axum::response::Response {
        let Ask { method, target, body, accept, signed_in, origin } = ask;
        // `POST /v1/sessions` needs a host; the pages use only the path of its link.
        let mut request = Request::builder().method(method).uri(target).header(HOST, "localhost");
        if let Some(accept) = accept {
            request = request.header(ACCEPT, accept);
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, JSON);
        }
        let octets = body.map(|body| body.to_string()).unwrap_or_default();
        // A target that is not a URI is that of a path which does not exist.
        let mut request = match request.body(Body::from(octets)) {
            Ok(request) => request,
            Err(_) => Request::new(Body::empty()),
        };
        request.extensions_mut().insert(origin.clone());
        request.extensions_mut().insert(signed_in.clone());
        match self.router.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }

    /// The whole response.
    pub async fn ask(&self, ask: Ask<'_>) -> Answer {
        let (head, body) = self.open(ask).await.into_parts();
        match body::to_bytes(body, RESPONSE_OCTETS_MAX).await {
            Ok(body) => Answer { status: head.status, headers: head.headers, body },
            Err(error) => {
                tracing::warn!(%error, "a response for a page could not be read");
                Answer { status: StatusCode::BAD_GATEWAY, headers: HeaderMap::new(), body: Bytes::new() }
            }
        }
    }
}
