//! Links that sign a person in to the pages. A platform makes one for its customer and redirects them; each works once.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::header::HOST;
use parking_lot::{Mutex, MutexGuard};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::limits::eviction::{drop_oldest, drop_oldest_of_largest_owner};
use crate::mail::{SignedDuration, Timestamp};
use crate::model::{RefusalCode, Scope, SecretDigest, TenantId};

use super::in_process::{SessionRights, SignedIn};
use super::json::Checks;
use super::keys::{ScopeName, list_scopes, read_scopes};
use super::{Access, Api, ApiError, ApiResponse, Operation, RequestContext, Resource, Result};

/// Lifetime of a link that was not opened.
const LINK_LIFETIME: SignedDuration = SignedDuration::from_mins(5);
/// The longest lifetime of a session, in seconds.
const SESSION_SECONDS_MAX: u32 = 12 * 60 * 60;
/// Links that were not opened; beyond it, the oldest of the tenant with most links is dropped.
const LINKS_MAX: usize = 1000;
/// Links of one key that were not opened, for each tenant.
const LINKS_OF_KEY_MAX: usize = 50;
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

/// A link that was opened.
#[derive(Debug, Clone)]
pub struct Link {
    /// Who is signed in by it.
    pub signed_in: SignedIn,
    /// The page to show.
    pub path: String,
    /// When the session ends.
    pub session_expires_at: Timestamp,
    expires_at: Timestamp,
    made_at: Timestamp,
}

/// Links that wait for a person, by the digest of their token.
#[derive(Debug, Default)]
pub struct SessionLinks(Mutex<HashMap<[u8; 32], Link>>);

impl SessionLinks {
    /// Adds a link and returns its token.
    pub fn add(
        &self,
        signed_in: SignedIn,
        path: String,
        session_expires_at: Timestamp,
        now: Timestamp,
    ) -> String {
        let token = random_token();
        let expires_at = now.checked_add(LINK_LIFETIME).unwrap_or(Timestamp::MAX);
        let link = Link { signed_in, path, session_expires_at, expires_at, made_at: now };
        let mut links = self.lock();
        links.retain(|_, link| link.expires_at > now);
        let (owner, age) = (link.signed_in.owner(), |link: &Link| link.made_at);
        drop_oldest(&mut links, LINKS_OF_KEY_MAX, age, |other| other.signed_in.owner() == owner);
        let tenant = |link: &Link| link.signed_in.tenant_of_link();
        drop_oldest_of_largest_owner(&mut links, LINKS_MAX, age, tenant);
        links.insert(digest(&token), link);
        token
    }

    /// Takes the link of a token out, if it has not ended.
    pub fn take(&self, token: &str, now: Timestamp) -> Option<Link> {
        self.lock().remove(&digest(token)).filter(|link| link.expires_at > now)
    }

    /// Removes all links of a key.
    pub fn drop_all_of_key(&self, key: SecretDigest) {
        self.lock().retain(|_, link| link.signed_in.digest != key);
    }

    /// The link of a token, if it has not ended. It stays.
    pub fn find(&self, token: &str, now: Timestamp) -> Option<Link> {
        self.lock().get(&digest(token)).filter(|link| link.expires_at > now).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Link>> {
        self.0.lock()
    }
}

/// The secret of a link or a session: 256 random bits.
pub fn random_token() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

impl Api {
    /// A link that signs in a key and opens a page, for `quickstart`.
    pub fn sign_in_link(&self, digest: SecretDigest, path: &str, base: &str) -> String {
        let now = self.now();
        let until = now.checked_add(self.session_max).unwrap_or(Timestamp::MAX);
        let token = self.links.add(SignedIn { digest, rights: None }, path.to_owned(), until, now);
        format!("{base}/ui/sign-in#{token}")
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
    let token = call.api.links.add(signed_in, path, session_expires_at, call.now);
    ApiResponse::created(&SessionView {
        object: "session",
        url: format!("{base}/ui/sign-in#{token}"),
        tenant_id,
        expires_at: call.now.checked_add(LINK_LIFETIME).unwrap_or(Timestamp::MAX),
        session_expires_at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Environment, KeySecret};

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn tenant() -> TenantId {
        TenantId::generate(NOW)
    }

    fn key() -> SecretDigest {
        KeySecret::generate(Environment::Live).digest()
    }

    fn add(links: &SessionLinks, digest: SecretDigest, tenant_id: Option<TenantId>) -> String {
        let rights = tenant_id.map(|tenant_id| Arc::new(SessionRights { tenant_id, scopes: Vec::new() }));
        // The others are older.
        let now = NOW + SignedDuration::from_millis(links.lock().len() as i64);
        links.add(SignedIn { digest, rights }, "/ui/".into(), NOW, now)
    }

    #[test]
    fn the_links_of_one_tenant_of_a_platform_key_do_not_remove_those_of_another() {
        let (links, key, busy) = (SessionLinks::default(), key(), tenant());
        let other = add(&links, key, Some(tenant()));
        let first = add(&links, key, Some(busy));
        (0..LINKS_OF_KEY_MAX).for_each(|_| drop(add(&links, key, Some(busy))));
        assert!(links.take(&other, NOW).is_some());
        assert_eq!(links.lock().len(), LINKS_OF_KEY_MAX, "{first} or another one of the tenant was dropped");
    }

    #[test]
    fn the_links_of_all_keys_of_a_tenant_do_not_remove_those_of_others() {
        let (links, busy) = (SessionLinks::default(), tenant());
        let others = [add(&links, key(), None), add(&links, key(), Some(tenant()))];
        for _ in 0..LINKS_MAX / LINKS_OF_KEY_MAX + 1 {
            let key = key();
            (0..LINKS_OF_KEY_MAX).for_each(|_| drop(add(&links, key, Some(busy))));
        }
        assert_eq!(links.lock().len(), LINKS_MAX);
        for other in others {
            assert!(links.take(&other, NOW).is_some());
        }
    }
}
