//! Signing in: with a pasted key, or with a link of `POST /v1/sessions`, whose token stands behind `#`, so that it is in no
//! log; the script posts it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::any;
use hyper::header::ACCEPT;
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use url::{Host, Url};

use super::request::{find, pairs};
use super::session::{Me, Session};
use super::view::Problem;
use super::{Ui, frame, guard, headers, request};
use crate::api::{ApiError, Ask, Origin, SignedIn, no_such_path};
use crate::limits::auth_limiter::AuthDecision;
use crate::mail::{SignedDuration, Timestamp};
use crate::model::KeySecret;

const FORM_OCTETS_MAX: usize = 8 * 1024;
/// The delay after a failure behind a proxy, where all clients have one address.
const PROXIED_DELAY: Duration = Duration::from_millis(500);
/// The age of what the API said about a session.
const ME_AGE_MAX: SignedDuration = SignedDuration::from_mins(1);

/// Adds `/`, `/ui` and `/ui/sign-in`.
pub fn add_routes(router: Router, ui: &Arc<Ui>) -> Router {
    let to_pages = |ui: &Arc<Ui>| {
        let to = format!("{}/ui/", ui.prefix());
        move || {
            let to = to.clone();
            async move { headers::redirect(&to) }
        }
    };
    let at_root = {
        let ui = Arc::clone(ui);
        move |request: Request| {
            let ui = Arc::clone(&ui);
            async move { front(&ui, &request) }
        }
    };
    let sign_in = {
        let ui = Arc::clone(ui);
        move |request: Request| {
            let ui = Arc::clone(&ui);
            async move { serve(&ui, request).await }
        }
    };
    router.route("/", any(at_root)).route("/ui", any(to_pages(ui))).route("/ui/sign-in", any(sign_in))
}

/// People come to the pages; programs get the 404 of the API.
fn front(ui: &Ui, request: &Request) -> Response {
    let accepts_html = request
        .headers()
        .get_all(ACCEPT)
        .iter()
        .any(|value| value.to_str().is_ok_and(|text| text.contains("text/html")));
    let is_read = [Method::GET, Method::HEAD].contains(request.method());
    match is_read && accepts_html {
        true => headers::redirect(&format!("{}/ui/", ui.prefix())),
        false => no_such_path(),
    }
}

async fn serve(ui: &Arc<Ui>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let Some(origin) = head.extensions.get::<Origin>().cloned() else {
        return headers::bare(StatusCode::INTERNAL_SERVER_ERROR);
    };
    let query = pairs(head.uri.query().unwrap_or_default().as_bytes());
    let next = find(&query, "next").unwrap_or_default().to_owned();
    if head.method != Method::POST {
        return frame::sign_in(ui, &next, None);
    }
    let form = match read_form(ui, &origin, &head, body).await {
        Ok(form) => form,
        Err(problem) => return frame::sign_in(ui, &next, Some(&problem)),
    };
    let next = find(&form, "next").map_or(next, str::to_owned);
    let begun = match find(&form, "link") {
        None => {
            let key = find(&form, "key").unwrap_or_default();
            with_key(ui, &origin, key).await.map(|id| (id, next.clone()))
        }
        Some(token) => match is_of_another_tenant(ui, &head, token).await {
            Ok(true) if find(&form, "confirm").is_none() => return frame::confirm_link(ui, token),
            Ok(_) => with_link(ui, &origin, token).await,
            Err(error) => Err(error.into()),
        },
    };
    let begun = match begun {
        Ok(begun) => end_replaced(ui, &head).await.map(|()| begun).map_err(Problem::from),
        Err(problem) => Err(problem),
    };
    match begun {
        Ok((id, path)) => {
            let mut response = headers::redirect(&format!("{}{}", ui.prefix(), own_path(&path)));
            guard::set_cookie(ui, &mut response, Some(&id));
            response
        }
        Err(problem) => frame::sign_in(ui, &next, Some(&problem)),
    }
}

/// Ends the session of the cookie: the browser no longer has it afterwards, so nobody could sign it out.
async fn end_replaced(ui: &Ui, head: &Parts) -> Result<(), ApiError> {
    match guard::current(ui, head).await? {
        Some((replaced, _)) => ui.sessions.end(replaced.digest).await,
        None => Ok(()),
    }
}

async fn read_form(
    ui: &Ui,
    origin: &Origin,
    head: &Parts,
    body: Body,
) -> Result<Vec<(String, String)>, Problem> {
    guard::check_origin(ui, head)?;
    let address = guard::own_origin(ui, &head.headers);
    check_confidential(ui.is_secure(), origin.client, address.as_deref())?;
    request::read_form(body, FORM_OCTETS_MAX, request::FORM_TIMEOUT).await
}

/// Whether a link leads somebody who is signed in to the pages of another tenant. A link of a stranger must not do that
/// without a question: the person would type secrets into the pages of the stranger.
async fn is_of_another_tenant(ui: &Ui, head: &Parts, token: &str) -> Result<bool, ApiError> {
    Ok(match (guard::current(ui, head).await?, ui.sessions.find_link(token).await?) {
        (Some((session, _)), Some(link)) => session.tenant_id != link.tenant_id,
        _ => false,
    })
}

/// A key must not be sent in clear over a network. Behind a proxy on this machine, every client has a loopback address, so
/// the host in the browser must be this machine, too.
fn check_confidential(is_secure: bool, client: IpAddr, address: Option<&str>) -> Result<(), Problem> {
    let is_local = |url: Url| match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => IpAddr::from(ip).to_canonical().is_loopback(),
        None => false,
    };
    let names_this_machine = address.and_then(|address| Url::parse(address).ok()).is_some_and(is_local);
    if is_secure || (client.to_canonical().is_loopback() && names_this_machine) {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::FORBIDDEN,
        "sign_in_not_encrypted",
        "this connection is not encrypted, so a key would be readable on the way",
        "set api.tls = true, or api.public_url = \"https://…\" behind a proxy with TLS; on the machine itself, use http://127.0.0.1",
    ))
}

async fn with_key(ui: &Ui, origin: &Origin, text: &str) -> Result<String, Problem> {
    let now = ui.api.now();
    check_ban(ui, origin, now)?;
    let Ok(secret) = KeySecret::parse(text) else {
        fail(ui, origin, Failure { reason: "malformed key", name: "" }, now).await;
        return Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "invalid_api_key",
            "this is not a key",
            "paste the whole secret: pb_live_ or pb_test_, then 49 letters and digits",
        ));
    };
    let signed_in = SignedIn { digest: secret.digest(), rights: None };
    match me_of(ui, origin, &signed_in).await {
        Ok(me) => {
            // Behind a proxy, failures are not counted.
            if let (None, Ok(id)) = (&ui.public_url, me.key.id.parse()) {
                ui.bans.record_success(origin.client, id);
            }
            Ok(ui.sessions.begin(signed_in, me, None, now).await?)
        }
        Err(problem) => {
            if problem.status == StatusCode::UNAUTHORIZED {
                let digest = format!("{:x?}", secret.digest().as_bytes());
                fail(ui, origin, Failure { reason: &problem.code, name: &digest }, now).await;
            }
            Err(problem)
        }
    }
}

async fn with_link(ui: &Ui, origin: &Origin, token: &str) -> Result<(String, String), Problem> {
    let now = ui.api.now();
    check_ban(ui, origin, now)?;
    let found = match ui.sessions.find_link(token).await? {
        // The link stays while the server or a rate limit refuses it.
        Some(link) => Some((me_of(ui, origin, &SignedIn::from(&link)).await?, link.digest)),
        None => None,
    };
    // Meanwhile somebody else may have opened it, or ended all links of its key.
    let opened = match found {
        Some((me, digest)) => ui.api.take_sign_in(digest).await?.map(|link| (me, link)),
        None => None,
    };
    let Some((me, link)) = opened else {
        fail(ui, origin, Failure { reason: "used link", name: "link" }, now).await;
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "link_used",
            "this link was used already, or is older than five minutes",
            "ask for a new link, or paste a key",
        ));
    };
    let id = ui.sessions.begin(SignedIn::from(&link), me, Some(link.expires_at), now).await?;
    Ok((id, link.path.unwrap_or_default()))
}

/// Who is signed in as the API says it now, asked again each minute. `None` if the key is no longer valid.
pub async fn renew(ui: &Ui, origin: &Origin, session: &Session) -> Result<Option<Arc<Me>>, Problem> {
    let now = ui.api.now();
    let remembered = ui.sessions.remembered_me(session);
    if let Some((me, read_at)) = &remembered
        && now.duration_since(*read_at) < ME_AGE_MAX
    {
        return Ok(Some(Arc::clone(me)));
    }
    match me_of(ui, origin, &session.signed_in).await {
        Ok(me) => {
            let me = Arc::new(me);
            ui.sessions.remember_me(session.digest, Arc::clone(&me), now);
            Ok(Some(me))
        }
        Err(problem) if problem.status == StatusCode::UNAUTHORIZED => {
            ui.sessions.end(session.digest).await?;
            Ok(None)
        }
        // The pages say themselves that the API does not answer now.
        Err(problem) => remembered.map(|(me, _)| Some(me)).ok_or(problem),
    }
}

/// Who it is, by the API; the key may be revoked, expired, or not allowed from here.
async fn me_of(ui: &Ui, origin: &Origin, signed_in: &SignedIn) -> Result<Me, Problem> {
    let answer = ui
        .api
        .ask(Ask { method: Method::GET, target: "/v1/me", body: None, accept: None, signed_in, origin })
        .await;
    if !answer.status.is_success() {
        return Err(Problem::of(answer.status, &answer.body));
    }
    let mut me: Me = serde_json::from_slice(&answer.body).map_err(|error| {
        tracing::error!(%error, "the pages do not know the form of /v1/me");
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal_error",
            "the answer cannot be read",
            "look into the log",
        )
    })?;
    // The person who opens a link does not have its key, so the pages do not name it. It may be a key of the platform.
    if signed_in.rights.is_some() {
        me.key.name = "of a link".to_owned();
    }
    Ok(me.with_scopes_of_its_status())
}

fn check_ban(ui: &Ui, origin: &Origin, now: Timestamp) -> Result<(), Problem> {
    // Behind a proxy, everybody has its address.
    let banned = ui.bans.banned_until(origin.client, now).filter(|_| ui.public_url.is_none());
    let Some(until) = banned else { return Ok(()) };
    Err(Problem::new(
        StatusCode::TOO_MANY_REQUESTS,
        "rate_limited",
        format!("too many wrong keys from this address until {until}"),
        "wait, or let the operator lift the ban: pillarbox ban lift",
    ))
}

/// Why signing in failed.
struct Failure<'a> {
    reason: &'a str,
    /// Tells several wrong keys from one that is tried again. It is not logged.
    name: &'a str,
}

/// Counts a failure and delays the answer.
async fn fail(ui: &Ui, origin: &Origin, Failure { reason, name }: Failure<'_>, now: Timestamp) {
    tracing::warn!(client = %origin.client, reason, "sign-in failed");
    if ui.public_url.is_some() {
        return tokio::time::sleep(PROXIED_DELAY).await;
    }
    let failure = ui.bans.record_failure(origin.client, name, now);
    for ban in &failure.new_bans {
        ui.api.record_ban(ban).await;
    }
    match failure.decision {
        AuthDecision::Delay(delay) => tokio::time::sleep(delay).await,
        // The next key is refused before it is looked at.
        AuthDecision::Ban(_) => {}
    }
}

/// A path of the pages; anything else leads to the overview.
pub fn own_path(path: &str) -> &str {
    let is_plain = path.bytes().all(|octet| octet.is_ascii_graphic() && octet != b'\\');
    let is_own = is_plain && path.starts_with("/ui/") && !path.starts_with("/ui/sign-in");
    if is_own { path } else { "/ui/" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signing_in_over_clear_http_from_elsewhere_is_refused() {
        let check = |is_secure, client: &str| {
            check_confidential(is_secure, client.parse().unwrap(), Some("http://127.0.0.1:8587"))
        };
        let refused = check(false, "192.0.2.1").unwrap_err();
        assert_eq!((refused.status.as_u16(), refused.code.as_str()), (403, "sign_in_not_encrypted"));
        assert!(
            refused.hint.contains("api.tls") && refused.hint.contains("api.public_url"),
            "{}",
            refused.hint
        );
        assert!(check(false, "2001:db8::1").is_err());
        for client in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert!(check(false, client).is_ok(), "{client}");
        }
        assert!(check(true, "192.0.2.1").is_ok());
    }

    #[test]
    fn a_proxy_without_tls_on_the_same_machine_does_not_make_clients_local() {
        let check = |address: &str| {
            check_confidential(false, "127.0.0.1".parse().unwrap(), Some(address)).map_err(|p| p.code)
        };
        for address in ["http://mail.example.com", "http://192.0.2.1", "http://[2001:db8::1]:8587", "http://"]
        {
            assert_eq!(check(address), Err("sign_in_not_encrypted".into()), "{address}");
        }
        for address in
            ["http://localhost:8587", "http://127.0.0.2", "http://[::1]:8587", "http://[::ffff:127.0.0.1]"]
        {
            assert_eq!(check(address), Ok(()), "{address}");
        }
        assert!(check_confidential(false, "127.0.0.1".parse().unwrap(), None).is_err());
    }
}
