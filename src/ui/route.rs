//! Every page, and how a request reaches it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts, RawPathParams, Request};
use axum::response::Response;
use axum::routing::any;
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};

use super::counts::{self, Counts};
use super::pages;
use super::request::{FORM_TIMEOUT, PageRequest};
use super::view::{Outcome, Problem, View};
use super::{Ui, assets, frame, guard, headers, request, sign_in};
use crate::api::Origin;

/// Octets of a form.
const FORM_OCTETS_MAX: usize = 64 * 1024;

/// The function of a page.
pub type Serve = fn(PageRequest) -> Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// Who sees a page. The API decides about its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Everybody who is signed in.
    Everybody,
    /// The platform.
    Platform,
}

/// One page.
pub struct Page {
    /// Like `/ui/messages/{id}`.
    pub path: &'static str,
    /// The group and the name in the navigation, if it is there.
    pub navigation: Option<(&'static str, &'static str)>,
    /// Who sees it.
    pub audience: Audience,
    /// Shows it.
    pub(super) get: Serve,
    /// Changes something by a form of it.
    pub(super) post: Option<Serve>,
}

/// `page!("/ui/queue", Some(("", "Queue")), Platform, queue::show, queue::act)`
macro_rules! page {
    ($path:literal, $navigation:expr, $audience:ident, $get:path $(, $post:path)?) => {
        Page {
            path: $path,
            navigation: $navigation,
            audience: Audience::$audience,
            get: page!(@serve $get),
            post: page!(@post $($post)?),
        }
    };
    (@post) => { None };
    (@post $post:path) => { Some(page!(@serve $post)) };
    (@serve $function:path) => {{
        fn serve(request: PageRequest) -> Pin<Box<dyn Future<Output = Outcome> + Send>> {
            Box::pin($function(request))
        }
        serve as Serve
    }};
}

/// Every page, in the order of the navigation.
pub static PAGES: &[Page] = &[
    page!("/ui/", Some(("", "Overview")), Everybody, pages::overview::show),
    page!(
        "/ui/messages",
        Some(("", "Messages")),
        Everybody,
        pages::messages::list,
        pages::messages::acts::selected
    ),
    page!("/ui/messages/live", None, Everybody, pages::messages::live),
    page!("/ui/messages/{id}", None, Everybody, pages::message::show, pages::message::act),
    page!("/ui/messages/{id}/preview", None, Everybody, pages::message::preview),
    page!("/ui/messages/{id}/raw", None, Everybody, pages::message::raw),
    page!("/ui/messages/{id}/parts/{part}", None, Everybody, pages::message::part),
    page!("/ui/queue", Some(("", "Queue")), Platform, pages::queue::show, pages::queue::act),
    page!("/ui/sandbox", Some(("", "Sandbox inbox")), Everybody, pages::sandbox::show),
    page!(
        "/ui/tenants",
        Some(("Sending", "Tenants")),
        Platform,
        pages::tenants::list,
        pages::tenants::create
    ),
    page!("/ui/tenants/{id}", None, Everybody, pages::tenants::show, pages::tenants::act),
    page!("/ui/tenants/{id}/export", None, Platform, pages::tenants::export),
    page!(
        "/ui/domains",
        Some(("Sending", "Domains")),
        Everybody,
        pages::domains::list,
        pages::domains::create
    ),
    page!("/ui/domains/{id}", None, Everybody, pages::domains::show, pages::domains::act),
    page!("/ui/keys", Some(("Sending", "Keys")), Everybody, pages::keys::list, pages::keys::create),
    page!("/ui/keys/{id}", None, Everybody, pages::keys::show, pages::keys::act),
    page!(
        "/ui/templates",
        Some(("Sending", "Templates")),
        Everybody,
        pages::templates::list,
        pages::templates::create
    ),
    page!("/ui/templates/{id}", None, Everybody, pages::templates::show, pages::templates::act),
    page!("/ui/templates/{id}/preview", None, Everybody, pages::templates::preview),
    page!(
        "/ui/webhooks",
        Some(("Sending", "Webhooks")),
        Everybody,
        pages::webhooks::list,
        pages::webhooks::create
    ),
    page!("/ui/webhooks/{id}", None, Everybody, pages::webhooks::show, pages::webhooks::act),
    page!(
        "/ui/webhooks/deliveries/{id}",
        None,
        Everybody,
        pages::webhooks::delivery,
        pages::webhooks::replay
    ),
    page!(
        "/ui/suppressions",
        Some(("Sending", "Suppressions")),
        Everybody,
        pages::suppressions::list,
        pages::suppressions::change
    ),
    page!("/ui/suppressions/{id}", None, Everybody, pages::suppressions::show, pages::suppressions::act),
    page!("/ui/reports", Some(("What happened", "Reports")), Everybody, pages::reports::list),
    page!("/ui/reports/{id}", None, Everybody, pages::reports::show),
    page!("/ui/rejections", Some(("What happened", "Rejections")), Everybody, pages::rejections::list),
    page!("/ui/rejections/{id}", None, Everybody, pages::rejections::show),
    page!("/ui/events", Some(("What happened", "Events")), Everybody, pages::events::list),
    page!("/ui/bans", Some(("What happened", "Bans")), Platform, pages::bans::list, pages::bans::lift),
    page!("/ui/audit", Some(("What happened", "Audit log")), Everybody, pages::audit::list),
    page!("/ui/audit/{id}", None, Everybody, pages::audit::show),
    page!("/ui/doctor", Some(("Server", "Doctor")), Platform, pages::doctor::show, pages::doctor::run),
    page!(
        "/ui/settings",
        Some(("Server", "Sessions")),
        Everybody,
        pages::settings::show,
        pages::settings::act
    ),
    page!("/ui/brand.css", None, Everybody, pages::settings::brand),
];

/// The routes of the pages, the assets and the sign-in.
pub fn router(ui: &Arc<Ui>) -> Router {
    let mut router = Router::new();
    for page in PAGES {
        let ui = Arc::clone(ui);
        let serve = move |request: Request| {
            let ui = Arc::clone(&ui);
            async move { serve(ui, page, request).await }
        };
        router = router.route(page.path, any(serve));
    }
    let unknown = {
        let ui = Arc::clone(ui);
        move || {
            let ui = Arc::clone(&ui);
            async move { frame::problem(&ui, None, &Problem::not_found()) }
        }
    };
    sign_in::add_routes(assets::add_routes(router), ui).route("/ui/{*path}", any(unknown))
}

async fn serve(ui: Arc<Ui>, page: &'static Page, request: Request) -> Response {
    let (mut head, body) = request.into_parts();
    // A layer of the listener sets it.
    let Some(origin) = head.extensions.get::<Origin>().cloned() else {
        return headers::bare(StatusCode::INTERNAL_SERVER_ERROR);
    };
    let (found, session_id) = match guard::find_session(&ui, &head).await {
        Ok(found) => found,
        Err(response) => return *response,
    };
    let me = match sign_in::renew(&ui, &origin, &found).await {
        Ok(Some(me)) => me,
        Ok(None) => return guard::signed_out(&ui),
        Err(problem) => return frame::problem(&ui, None, &problem),
    };
    let session = ui.sessions.open(&found, &session_id, me, ui.api.now());
    let note = if head.method == Method::GET { found.note } else { None };
    if note.is_some()
        && let Err(error) = ui.sessions.set_note(session.digest, None).await
    {
        tracing::warn!(error = %error.refusal.message, "a note will be shown again");
    }
    let (id, part) = path_of(&mut head).await;
    let request = PageRequest {
        ui: Arc::clone(&ui),
        page,
        session: session.clone(),
        origin: origin.clone(),
        id,
        part,
        address: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        query: request::pairs(head.uri.query().unwrap_or_default().as_bytes()),
        form: Vec::new(),
        note,
        now: ui.api.now(),
        asks: request::asks(),
    };
    let mut framing = frame::Framing::of(&request);
    let answer = match answer(request, &head, body).await {
        // An error of the API is a page, and no file with its text.
        Ok(View::Passed(response)) if !response.status().is_success() => Err(Problem::read(response).await),
        answer => answer,
    };
    match answer {
        Ok(view) => {
            match &view {
                View::Redirect { note, .. } => {
                    let stored = match note {
                        Some(note) => ui.sessions.set_note(session.digest, Some(note)).await,
                        None => Ok(()),
                    };
                    if let Err(error) = stored {
                        tracing::warn!(error = %error.refusal.message, "a note will not be shown");
                    }
                    // Something has changed.
                    ui.sessions.change_counts(&session, Counts::expire);
                }
                View::Page { .. } | View::Refused { .. } => {
                    framing.counts = counts::renew(&ui, &origin, &session).await;
                }
                _ => {}
            }
            frame::respond(&ui, &framing, view)
        }
        Err(problem) if problem.status == StatusCode::UNAUTHORIZED => {
            // The key was revoked or has expired.
            match ui.sessions.end(session.digest).await {
                Ok(()) => guard::signed_out(&ui),
                Err(error) => frame::problem(&ui, Some(&framing), &Problem::from(error)),
            }
        }
        Err(problem) => frame::problem(&ui, Some(&framing), &problem),
    }
}

async fn answer(mut request: PageRequest, head: &Parts, body: Body) -> Outcome {
    let page = request.page;
    if page.audience == Audience::Platform && !request.is_platform() {
        return Err(Problem::not_found());
    }
    match (&head.method, page.post) {
        (&Method::GET | &Method::HEAD, _) => (page.get)(request).await,
        (&Method::POST, Some(post)) => {
            request.form = read_form(&request, head, body).await?;
            post(request).await
        }
        _ => {
            let message = format!("this page does not accept {}", head.method);
            let hint = "open the page with GET";
            Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message, hint))
        }
    }
}

async fn path_of(head: &mut Parts) -> (String, String) {
    let Ok(found) = RawPathParams::from_request_parts(head, &()).await else { return Default::default() };
    let find = |wanted| found.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.to_owned());
    (find("id").unwrap_or_default(), find("part").unwrap_or_default())
}

/// The fields of a form of this session.
async fn read_form(asked: &PageRequest, head: &Parts, body: Body) -> Result<Vec<(String, String)>, Problem> {
    guard::check_origin(&asked.ui, head)?;
    let mut form = request::read_form(body, FORM_OCTETS_MAX, FORM_TIMEOUT).await?;
    guard::check_token(&form, &asked.session)?;
    form.retain(|(name, _)| name != "token");
    Ok(form)
}
