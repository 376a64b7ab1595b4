//! Answers requests. GET and HEAD change nothing, because scanners open links; a POST unsubscribes and never redirects
//! (RFC 8058 §3.1, §3.2). The path is in no log, because it has the link.

use std::net::IpAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName};
use hyper::{Method, Request, Response};

use super::form::{self, Form};
use super::page::{self, Notice, State};
use super::{PublicWeb, client_address};
use crate::limits::connection_limiter::ConnectionSlot;
use crate::model::{UnsubscribeLink, UnsubscribeVia};
use crate::store::StoreError;
use crate::telemetry::FLOOD;
use crate::unsubscribe::LINK_PATH;

/// Octets of the body of a POST.
const BODY_OCTETS_MAX: usize = 4 * 1024;
const ROBOTS_PATH: &str = "/robots.txt";
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

impl PublicWeb {
    /// The response to a request.
    pub(super) async fn respond(
        &self,
        peer: IpAddr,
        slot: &ConnectionSlot,
        request: Request<Incoming>,
    ) -> Response<Full<Bytes>> {
        let path = self.path_of(&request);
        let link = path.strip_prefix(LINK_PATH).and_then(|sealed| self.unsubscribe.open(sealed));
        let is_post = request.method() == Method::POST;
        let limiter = if is_post && link.is_some() { &self.unsubscribes } else { &self.visits };
        if !limiter.take(self.client(peer, request.headers()), self.clock.now()) {
            return page::notice(Notice::TooManyRequests);
        }
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        let response = match link {
            None if path == ROBOTS_PATH && is_read => Ok(page::robots()),
            None => Ok(page::notice(Notice::NotFound)),
            Some(link) if is_post => self.unsubscribe(slot, link, request).await,
            Some(_) if slot.set_logged_in().is_err() => Ok(page::notice(Notice::TooManyRequests)),
            Some(link) if is_read => self.ask(&link).await,
            Some(_) => Ok(page::notice(Notice::MethodNotAllowed)),
        };
        response.unwrap_or_else(|error| {
            tracing::error!(target: FLOOD, "the store failed: {error}");
            page::notice(Notice::Unavailable)
        })
    }

    /// The path below that of `public.url`, which a proxy may have removed.
    fn path_of<'r>(&self, request: &'r Request<Incoming>) -> &'r str {
        let path = request.uri().path();
        let base = self.settings.url.as_ref().map_or("", |url| url.path().trim_end_matches('/'));
        path.strip_prefix(base).filter(|rest| rest.starts_with('/')).unwrap_or(path)
    }

    fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        // The proxy may append to a value of the client, which can have any octets.
        let values = headers.get_all(FORWARDED_FOR).iter();
        let forwarded: Vec<_> = values.map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
        client_address::find(&self.settings.trusted_proxies, peer, forwarded.iter().map(AsRef::as_ref))
    }

    async fn ask(&self, link: &UnsubscribeLink) -> Result<Response<Full<Bytes>>, StoreError> {
        Ok(match self.unsubscribe.sender_name(link).await? {
            Some(sender) => page::of_link(State::Ask, link, &sender),
            None => page::notice(Notice::SenderGone),
        })
    }

    async fn unsubscribe(
        &self,
        slot: &ConnectionSlot,
        link: UnsubscribeLink,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, StoreError> {
        let content_type = request.headers().get(CONTENT_TYPE).cloned();
        let body = match Limited::new(request.into_body(), BODY_OCTETS_MAX).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => return Ok(page::notice(Notice::TooLarge)),
            Err(_) => return Ok(page::notice(Notice::BadRequest)),
        };
        // Not earlier, so that nobody keeps a slot by sending the body slowly.
        if slot.set_logged_in().is_err() {
            return Ok(page::notice(Notice::TooManyRequests));
        }
        let content_type = content_type.as_ref().map(|value| value.to_str().unwrap_or("invalid"));
        let Some(Form { is_from_page, every_list }) = form::read(content_type, &body) else {
            return Ok(page::notice(Notice::BadRequest));
        };
        let via = if is_from_page { UnsubscribeVia::Page } else { UnsubscribeVia::Link };
        // Before the change: after a failure nothing is changed.
        let sender = self.unsubscribe.sender_name(&link).await?;
        self.unsubscribe.leave(link.clone(), every_list, via).await?;
        let state = if every_list { State::LeftEvery } else { State::Left };
        Ok(match sender {
            Some(sender) => page::of_link(state, &link, &sender),
            None => page::notice(Notice::SenderGone),
        })
    }
}
