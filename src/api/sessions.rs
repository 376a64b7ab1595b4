//! Links that sign a person in to the pages. A platform makes one for its customer and redirects them; each works once.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::header::HOST;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::mail::{SignedDuration, Timestamp};
use crate::model::{RefusalCode, Scope, SecretDigest, TenantId};
use crate::store::{SignIn, SignInLimits, SignIns};

use super::in_process::{SessionRights, SignedIn};
use super::json::Checks;
use super::keys::{ScopeName, list_scopes, read_scopes};
use super::{Access, Api, ApiError, ApiResponse, Operation, RequestContext, Resource, Result};

/// Lifetime of a link that was not opened.
const LINK_LIFETIME: SignedDuration = SignedDuration::from_mins(5);
/// The longest lifetime of a session, in seconds.
const SESSION_SECONDS_MAX: u32 = 12 * 60 * 60;
/// Links that were not opened: of one key for each tenant, and of all.
const LINK_LIMITS: SignInLimits = SignInLimits { of_owner: 50, total: 1000 };
const PATH_OCTETS_MAX: usize = 1024;

/// The operation.
pub fn resource() -> Resource {
    let text = "Links that sign a person in to the pages at `/ui`.";
    Resource::new("Sessions", text, Access::Key).separates_environments().operations([
        Operation::post("/v1/sessions", "create_session", create)
            .describe("Create a sign-in link", "Send the person to `url` within five minutes; it works once. The session sees what the calling key sees, or less: a platform key may name one tenant, and `scopes` leaves out rights. The secret of the key is not part of the link. Networks of the key (`allowed_cidrs`) bind this request, and the session only if it is that of the platform. Revoking the key ends the session within a second.")
            .may_take::<Create>(r#"{"tenant_id": "tnt_01JD8XQZ2V7M5N9T3R6W4Y8KAB", "path": "/ui/messages"}"#)
            .may_run_again()
            .logs_only()
            .conceals(&["url"])
            .creates::<SessionView>("The link."),
    ])
}

/// A sign-in link to create. All fields are optional.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "SessionCreate")]
pub struct Create {
    /// The tenant whose objects the session sees. Default: that of the key; for a platform key, the whole platform.
    tenant_id: Option<TenantId>,
    /// What the session may do. Default: what the key may do. A session of the platform has no scopes.
    scopes: Option<Vec<ScopeName>>,
    /// The page that opens: a path that begins with `/ui/`.
    path: Option<String>,
    /// Seconds until the session ends, at most 43200 (12 hours). Default: the option `ui.session_max`.
    expires_in: Option<u32>,
}

/// A sign-in link.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Session")]
pub struct SessionView {
    /// Always `session`.
    #[schemars(extend("const" = "session"))]
    object: &'static str,
    /// Where to send the person.
    url: String,
    /// The tenant that the session is for; `null` for the platform.
    tenant_id: Option<TenantId>,
    /// When the link ends if nobody opens it.
    expires_at: Timestamp,
    /// When the session ends.
    session_expires_at: Timestamp,
}

/// The secret of a link or a session: 256 random bits.
pub fn random_token() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}

/// By which a link or a session is stored.
pub fn digest_of_token(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// A link to make.
struct NewLink {
    signed_in: SignedIn,
    path: String,
    session_expires_at: Timestamp,
}

impl Api {
    /// A link that signs in a platform key and opens a page, for `quickstart`.
    pub async fn sign_in_link(&self, digest: SecretDigest, path: &str, base: &str) -> Result<String> {
        let now = self.now();
        let session_expires_at = now.checked_add(self.session_max).unwrap_or(Timestamp::MAX);
        let signed_in = SignedIn { digest, rights: None };
        let token =
            self.add_link(NewLink { signed_in, path: path.to_owned(), session_expires_at }, now).await?;
        Ok(format!("{base}/ui/sign-in#{token}"))
    }

    /// Stores a link and returns its token.
    async fn add_link(&self, new: NewLink, now: Timestamp) -> Result<String> {
        let NewLink { signed_in, path, session_expires_at } = new;
        let token = random_token();
        let link = SignIn {
            digest: digest_of_token(&token),
            secret: signed_in.digest,
            tenant_id: signed_in.tenant_of_link(),
            scopes: signed_in.rights.as_ref().map(|rights| rights.scopes.clone()),
            path: Some(path),
            created_at: now,
            seen_at: now,
            ends_at: now.checked_add(LINK_LIFETIME).unwrap_or(Timestamp::MAX),
            expires_at: session_expires_at,
            theme: None,
            note: None,
        };
        self.store.add_sign_in(link, LINK_LIMITS).await?;
        Ok(token)
    }

    /// The beginning of links: `api.public_url`, else the address that the client of this request used.
    fn link_base(&self, headers: &hyper::HeaderMap) -> Option<String> {
        if let Some(url) = &self.settings.public_url {
            return Some(url.as_str().trim_end_matches('/').to_owned());
        }
        let host = headers.get(HOST)?.to_str().ok()?;
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        Some(format!("{scheme}://{host}"))
    }
}

async fn create(call: RequestContext) -> Result<ApiResponse> {
    if !call.api.has_pages {
        let hint = "let the operator set ui.enabled = true";
        return Err(ApiError::new(RefusalCode::NotFound, "this server has no pages to sign in to", hint));
    }
    let body: Create = if call.body.is_empty() { Create::default() } else { call.json()? };
    let tenant_id = call.owner(body.tenant_id).await?;
    let key = &call.caller.key;
    let mut checks = Checks::default();
    let scopes = body.scopes.as_deref().map(|names| read_scopes(names, &mut checks));
    let path = body.path.unwrap_or_else(|| "/ui/".to_owned());
    let is_page = path.starts_with("/ui/")
        && path.len() <= PATH_OCTETS_MAX
        && path.bytes().all(|octet| octet.is_ascii_graphic() && !br"\#".contains(&octet));
    checks.require(is_page, "path", "invalid", "this must be a path that begins with /ui/");
    let seconds = body.expires_in.unwrap_or(u32::MAX);
    let is_allowed = body.expires_in.is_none_or(|s| (1..=SESSION_SECONDS_MAX).contains(&s));
    checks.require(is_allowed, "expires_in", "invalid", "this must be from 1 to 43200");
    let wants_scopes = scopes.is_some();
    checks.require(
        !wants_scopes || tenant_id.is_some(),
        "scopes",
        "invalid",
        "omit this: a session of the platform has all scopes",
    );
    checks.finish().map_err(list_scopes)?;
    let own = if call.scope().is_some() { key.scopes.clone() } else { Scope::ALL.to_vec() };
    let scopes = scopes.flatten().unwrap_or_else(|| own.clone());
    if let Some(missing) = scopes.iter().find(|scope| !own.iter().any(|own| own.includes(**scope))) {
        return Err(ApiError::new(
            RefusalCode::InsufficientScope,
            format!("the API key lacks the scope {missing}"),
            "request only rights that the calling key has, or use a platform key",
        ));
    }
    let rights = tenant_id.map(|tenant_id| Arc::new(SessionRights { tenant_id, scopes }));
    let base = call.api.link_base(&call.headers).ok_or_else(|| {
        ApiError::field("Host", "required", "send a Host header, or let the operator set api.public_url")
    })?;
    let lifetime = SignedDuration::from_secs(seconds.into()).min(call.api.session_max);
    let session_expires_at = call.now.checked_add(lifetime).unwrap_or(Timestamp::MAX);
    let signed_in = SignedIn { digest: call.signed_in.digest, rights };
    let token = call.api.add_link(NewLink { signed_in, path, session_expires_at }, call.now).await?;
    ApiResponse::created(&SessionView {
        object: "session",
        url: format!("{base}/ui/sign-in#{token}"),
        tenant_id,
        expires_at: call.now.checked_add(LINK_LIFETIME).unwrap_or(Timestamp::MAX),
        session_expires_at,
    })
}
