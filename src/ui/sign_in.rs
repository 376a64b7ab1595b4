//! Signing in: with a pasted key, or with a link of `POST /v1/sessions`, whose token stands behind `#`, so that it is in no
//! log; the script posts it.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::body;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::any;
use hyper::header::ACCEPT;
use hyper::{Method, StatusCode};

use super::session::{Me, SessionHandle};
use super::view::Problem;
use super::{Ui, frame, guard, headers};
use crate::api::{Ask, Origin, SignedIn, no_such_path};
use crate::limits::auth_limiter::AuthDecision;
use crate::mail::{SignedDuration, Timestamp};
use crate::model::KeySecret;

const FORM_OCTETS_MAX: usize = 8 * 1024;
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
    let query: Vec<(String, String)> =
        url::form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    let next = field(&query, "next").to_owned();
    if head.method != Method::POST {
        return frame::sign_in(ui, &next, None);
    }
    if let Err(problem) =
        guard::check_origin(ui, &head).and_then(|()| check_confidential(ui.is_secure(), origin.client))
    {
        return frame::sign_in(ui, &next, Some(&problem));
    }
    let Ok(octets) = body::to_bytes(body, FORM_OCTETS_MAX).await else {
        return headers::bare(StatusCode::PAYLOAD_TOO_LARGE);
    };
    let form: Vec<(String, String)> = url::form_urlencoded::parse(&octets).into_owned().collect();
    let next = match field(&form, "next") {
        "" => next,
        next => next.to_owned(),
    };
    let begun = match field(&form, "link") {
        "" => with_key(ui, &origin, field(&form, "key")).await.map(|id| (id, next.clone())),
        token => with_link(ui, &origin, token).await,
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

/// A key must not be sent in clear over a network.
fn check_confidential(is_secure: bool, client: IpAddr) -> Result<(), Problem> {
    if is_secure || client.to_canonical().is_loopback() {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::FORBIDDEN,
        "tls_required",
        "this connection is not encrypted, so a key would be readable on the way",
        "set api.tls = true, or api.public_url = \"https://…\" behind a proxy with TLS; on the machine itself, use http://127.0.0.1",
    ))
}

async fn with_key(ui: &Ui, origin: &Origin, text: &str) -> Result<String, Problem> {
    let now = ui.api.now();
    check_ban(ui, origin, now)?;
    let Ok(secret) = KeySecret::parse(text.trim()) else {
        fail(ui, origin, "malformed", now).await;
        return Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "invalid_api_key",
            "this is not a key",
            "paste the whole secret: pb_live_ or pb_test_, then 49 letters and digits",
        ));
    };
    let signed_in = SignedIn { digest: secret.digest(), rights: None };
    match me_of(ui, origin, &signed_in).await {
        Ok(me) => Ok(ui.sessions.begin(signed_in, me, None, now)),
        Err(problem) => {
            if problem.status == StatusCode::UNAUTHORIZED {
                // The name is no user name; it only tells several wrong keys from one that is tried again.
                fail(ui, origin, &format!("{:x?}", secret.digest().as_bytes()), now).await;
            }
            Err(problem)
        }
    }
}

async fn with_link(ui: &Ui, origin: &Origin, token: &str) -> Result<(String, String), Problem> {
    let now = ui.api.now();
    check_ban(ui, origin, now)?;
    let Some(link) = ui.api.open_link(token) else {
        fail(ui, origin, "link", now).await;
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "link_used",
            "this link was used already, or is older than five minutes",
            "ask for a new link, or paste a key",
        ));
    };
    let me = me_of(ui, origin, &link.signed_in).await?;
    Ok((ui.sessions.begin(link.signed_in, me, Some(link.session_expires_at), now), link.path))
}

/// The session with who is signed in as the API says it now, asked again each minute. `None` if the key is no longer valid.
pub async fn renew(ui: &Ui, origin: &Origin, session: SessionHandle) -> Option<SessionHandle> {
    let now = ui.api.now();
    if now.duration_since(session.me_read_at) < ME_AGE_MAX {
        return Some(session);
    }
    match me_of(ui, origin, &session.signed_in).await {
        Ok(me) => {
            let me = Arc::new(me);
            ui.sessions.set_me(&session, Arc::clone(&me), now);
            Some(SessionHandle { me, me_read_at: now, ..session })
        }
        Err(problem) if problem.status == StatusCode::UNAUTHORIZED => {
            ui.sessions.end(&session);
            None
        }
        // The pages say themselves that the API does not answer now.
        Err(_) => Some(session),
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
            StatusCode::BAD_GATEWAY,
            "internal_error",
            "the answer cannot be read",
            "look into the log",
        )
    })?;
    // Whoever opens a link does not hold its key, which may be one of the platform.
    if signed_in.rights.is_some() {
        me.key.name = "of a link".to_owned();
    }
    Ok(me)
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

async fn fail(ui: &Ui, origin: &Origin, name: &str, now: Timestamp) {
    let delay = match ui.public_url {
        Some(_) => std::time::Duration::from_millis(500),
        None => match ui.bans.record_failure(origin.client, name, now).decision {
            AuthDecision::Delay(delay) => delay,
            // The next key is refused before it is looked at.
            AuthDecision::Ban(_) => return,
        },
    };
    tokio::time::sleep(delay).await;
}

/// A path of the pages; anything else leads to the overview.
fn own_path(path: &str) -> &str {
    let is_own =
        path.starts_with("/ui/") && !path.contains(['\\', '\r', '\n']) && !path.starts_with("/ui/sign-in");
    if is_own { path } else { "/ui/" }
}

fn field<'a>(pairs: &'a [(String, String)], name: &str) -> &'a str {
    pairs.iter().find(|(other, _)| other == name).map_or("", |(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signing_in_over_clear_http_from_elsewhere_is_refused() {
        let check = |is_secure, client: &str| check_confidential(is_secure, client.parse().unwrap());
        let refused = check(false, "192.0.2.1").unwrap_err();
        assert_eq!((refused.status.as_u16(), refused.code.as_str()), (403, "tls_required"));
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
}
