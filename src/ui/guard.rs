//! Who is asking: the cookie of a session, and whether another site made the browser ask.

use std::num::NonZeroU32;

use axum::response::Response;
use hyper::header::{COOKIE, HOST, HeaderValue, ORIGIN, RETRY_AFTER, SET_COOKIE};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, StatusCode};
use subtle::ConstantTimeEq;

use super::session::{PAGES_PER_MINUTE, Session, SessionHandle};
use super::view::Problem;
use super::{Ui, frame, headers, request};
use crate::api::ApiError;

/// The session of a request with its id, or the answer without one: the sign-in page.
pub async fn find_session(ui: &Ui, head: &Parts) -> Result<(Session, String), Box<Response>> {
    let now = ui.api.now();
    let found = current(ui, head).await;
    let found = found.map_err(|error| Box::new(frame::problem(ui, None, &Problem::from(error))))?;
    if let Some((session, id)) = found {
        // Windows that refresh themselves send no forms, and the API limits changes. The colours are part of a page.
        let is_counted = head.method != Method::POST && head.uri.path() != "/ui/brand.css";
        let taken = if is_counted { ui.sessions.take_page(&session, now) } else { Ok(()) };
        taken.map_err(|seconds| Box::new(too_many_pages(ui, seconds)))?;
        ui.sessions.note_use(&session, now).await;
        return Ok((session, id));
    }
    if head.method != Method::GET && head.method != Method::HEAD {
        let (message, hint) = ("nobody is signed in", "sign in, then repeat the change");
        let problem = Problem::new(StatusCode::FORBIDDEN, "signed_out", message, hint);
        return Err(Box::new(frame::problem(ui, None, &problem)));
    }
    // Strict cookies do not come with a link of another site: the page asks again by itself.
    if header(&head.headers, "sec-fetch-site") == Some("cross-site") {
        return Err(Box::new(frame::again(ui)));
    }
    let address = head.uri.path_and_query().map_or("/ui/", |address| address.as_str());
    let next: String = url::form_urlencoded::byte_serialize(address.as_bytes()).collect();
    Err(Box::new(headers::redirect(&format!("{}/ui/sign-in?next={next}", ui.prefix()))))
}

fn too_many_pages(ui: &Ui, seconds: NonZeroU32) -> Response {
    let message = format!("this session has shown {PAGES_PER_MINUTE} pages in this minute");
    let hint = format!("go on in {seconds} s; close other windows that refresh themselves");
    let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", message, hint);
    let mut response = frame::problem(ui, None, &problem);
    response.headers_mut().insert(RETRY_AFTER, seconds.get().into());
    response
}

/// The session of the cookie, which is its id.
pub async fn current(ui: &Ui, head: &Parts) -> Result<Option<(Session, String)>, ApiError> {
    let Some(id) = cookie(ui, &head.headers) else { return Ok(None) };
    Ok(ui.sessions.find(&id).await?.map(|session| (session, id)))
}

/// Whether this origin made the browser send the request.
pub fn check_origin(ui: &Ui, head: &Parts) -> Result<(), Problem> {
    let by_fetch = header(&head.headers, "sec-fetch-site").map(|site| site == "same-origin");
    // Because of `Referrer-Policy: no-referrer`, browsers send `Origin: null` with our forms, which proves nothing;
    // `Sec-Fetch-Site` decides then.
    let origin = head.headers.get(ORIGIN).and_then(|origin| origin.to_str().ok());
    let origin = origin.filter(|origin| *origin != "null");
    let by_origin = origin.map(|origin| own_origin(ui, &head.headers).as_deref() == Some(origin));
    // Every header that is present must match, and at least one must be present.
    let is_own = [by_fetch, by_origin].into_iter().flatten().all(|right| right)
        && (by_fetch.is_some() || by_origin.is_some());
    if is_own {
        return Ok(());
    }
    let hint =
        "open the page itself; behind a reverse proxy, set api.public_url to the address in the browser";
    Err(Problem::new(StatusCode::FORBIDDEN, "foreign_origin", "another site sent this form", hint))
}

/// Whether the form has the token of the session.
pub fn check_token(form: &[(String, String)], session: &SessionHandle) -> Result<(), Problem> {
    let token = request::find(form, "token").unwrap_or_default();
    if token.as_bytes().ct_eq(session.csrf.as_bytes()).into() {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::FORBIDDEN,
        "form_expired",
        "the form belongs to another session",
        "open the page again, then repeat the change",
    ))
}

/// The origin as the browser knows it.
pub fn own_origin(ui: &Ui, headers: &HeaderMap) -> Option<String> {
    if let Some(url) = &ui.public_url {
        return Some(url.origin().ascii_serialization());
    }
    let host = header(headers, HOST.as_str())?;
    Some(format!("{}://{host}", if ui.is_tls { "https" } else { "http" }))
}

/// The name of the cookie. With its prefix, a browser accepts it over TLS only, for this host and the whole of it.
fn cookie_name(ui: &Ui) -> &'static str {
    if ui.is_secure() { "__Host-pillarbox" } else { "pillarbox" }
}

fn cookie(ui: &Ui, headers: &HeaderMap) -> Option<String> {
    let pairs = headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(';'));
    let named = pairs.filter_map(|pair| pair.trim().split_once('='));
    named.filter(|(name, _)| *name == cookie_name(ui)).map(|(_, value)| value.to_owned()).next()
}

/// Lets the browser keep the id of a session until it is closed; `None` removes it.
pub fn set_cookie(ui: &Ui, response: &mut Response, id: Option<&str>) {
    let (name, secure) = (cookie_name(ui), if ui.is_secure() { "; Secure" } else { "" });
    let age = if id.is_some() { "" } else { "; Max-Age=0" };
    let text = format!("{name}={}; HttpOnly{secure}; SameSite=Strict; Path=/{age}", id.unwrap_or_default());
    if let Ok(value) = HeaderValue::from_str(&text) {
        response.headers_mut().append(SET_COOKIE, value);
    }
}

/// The sign-in page after a session; the browser forgets the cookie.
pub fn signed_out(ui: &Ui) -> Response {
    let mut response = headers::redirect(&format!("{}/ui/sign-in", ui.prefix()));
    set_cookie(ui, &mut response, None);
    response
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
