//! The pages, without a script and without anything from elsewhere. Pure.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY,
    RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Response, StatusCode};
use minijinja::value::Value as Html;
use minijinja::{Environment, context};
use sha2::{Digest, Sha256};

use crate::mail::{Address, Host};
use crate::model::UnsubscribeLink;

const TEMPLATE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const NAME: &str = "page.html";
/// Seconds after which a client may try again.
const RETRY_AFTER_S: HeaderValue = HeaderValue::from_static("60");
const ROBOTS: &str = "User-agent: *\nDisallow: /\n";

/// minijinja escapes data in templates whose name ends in `.html`.
static TEMPLATES: LazyLock<Result<Environment<'static>, minijinja::Error>> = LazyLock::new(|| {
    let mut environment = Environment::new();
    environment.add_template(NAME, TEMPLATE)?;
    Ok(environment)
});

/// Nothing is loaded; the only style is that of the page, by its hash; forms go to the page itself; no frame shows it.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = STANDARD.encode(Sha256::digest(STYLE));
    format!(
        "default-src 'none'; style-src 'sha256-{hash}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
});

/// A page about a valid link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing has happened yet.
    Ask,
    /// The recipient has left the list.
    Left,
    /// The recipient has left every list.
    LeftEvery,
}

/// A page without buttons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Notice {
    /// The sender is deleted, so there is no list.
    SenderGone,
    /// No such page: also a link that this server did not make, or no longer accepts.
    NotFound,
    /// The body of a POST does not ask to unsubscribe.
    BadRequest,
    /// The body of a POST is too large.
    TooLarge,
    /// The method is not supported.
    MethodNotAllowed,
    /// The network has made too many requests.
    TooManyRequests,
    /// The store failed.
    Unavailable,
}

impl State {
    fn describe(self) -> (&'static str, &'static str) {
        match self {
            Self::Ask => ("ask", "Unsubscribe"),
            Self::Left => ("left", "You are unsubscribed"),
            Self::LeftEvery => ("left_every", "You are unsubscribed"),
        }
    }
}

impl Notice {
    fn status(self) -> StatusCode {
        match self {
            Self::SenderGone => StatusCode::OK,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The title and the text.
    fn describe(self) -> (&'static str, &'static str) {
        match self {
            Self::SenderGone => {
                ("You are unsubscribed", "The sender of this message no longer sends mail from here.")
            }
            Self::NotFound => (
                "This link does not work",
                "It may be incomplete. Open it from the message again, or copy all of it.",
            ),
            Self::BadRequest | Self::TooLarge | Self::MethodNotAllowed => (
                "Nothing was changed",
                "To unsubscribe, open the link from the message and press the button.",
            ),
            Self::TooManyRequests => ("Too many requests", "Nothing was changed. Try again in a minute."),
            Self::Unavailable => ("Try again in a minute", "The server has a problem. Nothing was changed."),
        }
    }
}

/// The page about a link of this sender.
pub(super) fn of_link(state: State, link: &UnsubscribeLink, sender: &str) -> Response<Full<Bytes>> {
    let (state, title) = state.describe();
    let (list, address) = (link.list.as_str(), mask(&link.address));
    render(StatusCode::OK, context! { state, title, sender, list, address, style => style() })
}

/// A page without buttons.
pub(super) fn notice(notice: Notice) -> Response<Full<Bytes>> {
    let (title, text) = notice.describe();
    let mut response = render(notice.status(), context! { title, text, style => style() });
    match notice {
        Notice::TooManyRequests | Notice::Unavailable => {
            response.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_S);
        }
        Notice::MethodNotAllowed => {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
        }
        _ => {}
    }
    response
}

/// Robots must not index links.
pub(super) fn robots() -> Response<Full<Bytes>> {
    respond(StatusCode::OK, "text/plain; charset=utf-8", ROBOTS.into())
}

fn style() -> Html {
    Html::from_safe_string(STYLE.to_owned())
}

fn render(status: StatusCode, values: Html) -> Response<Full<Bytes>> {
    let template = TEMPLATES.as_ref().map_err(ToString::to_string);
    let rendered = template.and_then(|templates| {
        let template = templates.get_template(NAME).map_err(|error| error.to_string())?;
        template.render(values).map_err(|error| error.to_string())
    });
    match rendered {
        Ok(html) => respond(status, "text/html; charset=utf-8", html),
        Err(error) => {
            tracing::error!(%error, "a public page cannot be rendered");
            respond(status, "text/plain; charset=utf-8", format!("{status}\n"))
        }
    }
}

fn respond(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    let policy = HeaderValue::from_str(&POLICY).unwrap_or(HeaderValue::from_static("default-src 'none'"));
    let fields: [(HeaderName, HeaderValue); 6] = [
        (CONTENT_TYPE, HeaderValue::from_static(kind)),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (CONTENT_SECURITY_POLICY, policy),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (HeaderName::from_static("x-robots-tag"), HeaderValue::from_static("noindex")),
    ];
    response.headers_mut().extend(fields);
    response
}

/// The address without most of its local part: the link may have been forwarded.
fn mask(address: &Address) -> String {
    let mut local = address.local().as_str().chars();
    let first = local.next().filter(|_| local.next().is_some());
    let host = match address.host() {
        Host::Domain(name) => name.to_unicode(),
        literal => literal.to_string(),
    };
    format!("{}…@{host}", first.map_or_else(String::new, String::from))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Timestamp;
    use crate::model::{Environment, MessageId, TenantId};
    use http_body_util::BodyExt;

    fn link(address: &str) -> UnsubscribeLink {
        UnsubscribeLink {
            tenant_id: TenantId::generate(Timestamp::UNIX_EPOCH),
            environment: Environment::Live,
            message_id: MessageId::generate(Timestamp::UNIX_EPOCH),
            list: "news".parse().unwrap(),
            address: Address::parse(address).unwrap(),
        }
    }

    async fn text(response: Response<Full<Bytes>>) -> String {
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_page_names_list_and_sender_escapes_both_and_masks_the_address() {
        let html = text(of_link(State::Ask, &link("jürgen@xn--mller-kva.example"), "<Acme> & Co")).await;
        assert!(html.contains("j…@müller.example") && !html.contains("jürgen"), "{html}");
        assert!(html.contains("&lt;Acme&gt; &amp; Co") && !html.contains("<Acme>"), "{html}");
        assert_eq!(html.matches("<button").count(), 2, "{html}");
        assert!(!html.contains("<script") && !html.contains("src=") && !html.contains("href="), "{html}");
        assert_eq!(mask(&Address::parse("a@b.example").unwrap()), "…@b.example");
    }

    #[tokio::test]
    async fn every_page_is_rendered_and_a_notice_has_no_button() {
        for state in [State::Ask, State::Left, State::LeftEvery] {
            let html = text(of_link(state, &link("ab@b.example"), "Acme")).await;
            assert!(html.contains("password resets") && html.ends_with("</html>"), "{html}");
        }
        for (one, status, sentence) in [
            (Notice::SenderGone, 200, "no longer sends mail from here"),
            (Notice::NotFound, 404, "Open it from the message again"),
            (Notice::BadRequest, 400, "open the link from the message and press the button"),
            (Notice::TooLarge, 413, "open the link from the message and press the button"),
            (Notice::MethodNotAllowed, 405, "open the link from the message and press the button"),
            (Notice::TooManyRequests, 429, "Nothing was changed. Try again in a minute."),
            (Notice::Unavailable, 503, "The server has a problem. Nothing was changed."),
        ] {
            let response = notice(one);
            assert_eq!(response.status().as_u16(), status);
            let html = text(response).await;
            assert!(html.contains(sentence) && !html.contains("<button"), "{html}");
            assert!(!html.contains("password resets"), "{html}");
        }
    }

    #[tokio::test]
    async fn the_policy_permits_exactly_the_style_of_the_page() {
        let response = of_link(State::Ask, &link("ab@b.example"), "Acme");
        let policy = response.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
        let html = text(response).await;
        let style = html.split("<style>").nth(1).unwrap().split("</style>").next().unwrap();
        assert!(policy.contains(&STANDARD.encode(Sha256::digest(style))), "{policy}");
        assert!(!html.contains("style=\""), "{html}");
    }
}
