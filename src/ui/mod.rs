//! The pages at `/ui`: what the API shows, for people. They are clients of the API inside of the process
//! ([`InProcess`](crate::api::InProcess)), so the API decides who may see and do what.
//!
//! * `route` has every page and serves it, `request` asks the API for it, `view` is what it answers,
//! * `session` remembers who is signed in, `sign_in` begins sessions, `guard` keeps other sites out,
//! * `frame` is around every page, `counts` are in its navigation, `components` are in pages, `form` keeps what was typed,
//!   `bulk` changes the ticked rows of a list, `findings` are those of the doctor, `format` writes values,
//! * `pages` has one file for each page, `assets` the script and the style.

mod assets;
mod bulk;
pub mod chart;
mod components;
mod counts;
mod findings;
pub mod form;
pub mod format;
mod frame;
mod guard;
mod headers;
pub mod list;
mod pages;
pub mod request;
mod route;
mod session;
mod sign_in;
pub mod snippets;
mod tenant_names;
pub mod timeline;
pub mod view;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use parking_lot::Mutex;
use url::Url;

use crate::api::InProcess;
use crate::config;
use crate::limits::auth_limiter::AuthLimiter;
use crate::mail::{DomainName, Timestamp};

use self::request::Tenants;
use self::session::Sessions;

pub use self::route::{Audience, PAGES, Page};

/// The port of submission (RFC 6409 §3.1), if the configuration has no listener for it.
const SUBMISSION_PORT: u16 = 587;

/// What the pages need.
pub struct UiDependencies {
    /// `[ui]` of the configuration.
    pub settings: config::Ui,
    /// `api.public_url` of the configuration.
    pub public_url: Option<Url>,
    /// Whether the listener of the API uses TLS.
    pub is_tls: bool,
    /// The API.
    pub api: InProcess,
    /// Counts failed sign-ins.
    pub bans: Arc<AuthLimiter>,
    /// The host name, for settings of mail clients.
    pub hostname: DomainName,
    /// The listeners of submission with STARTTLS.
    pub submission: Vec<SocketAddr>,
    /// The listeners of submission with implicit TLS.
    pub submissions: Vec<SocketAddr>,
}

/// The pages.
pub struct Ui {
    public_url: Option<Url>,
    is_tls: bool,
    api: InProcess,
    bans: Arc<AuthLimiter>,
    sessions: Sessions,
    /// The names of tenants, and the time when they were read.
    tenants: Mutex<Option<(Timestamp, Arc<Tenants>)>>,
    /// The host name, for settings of mail clients.
    pub hostname: DomainName,
    /// The listeners of submission with STARTTLS.
    pub submission: Vec<SocketAddr>,
    /// The listeners of submission with implicit TLS.
    pub submissions: Vec<SocketAddr>,
}

impl Ui {
    /// The pages.
    pub fn new(parts: UiDependencies) -> Arc<Self> {
        let sessions = Sessions::new(&parts.settings, parts.api.clone());
        Arc::new(Self {
            public_url: parts.public_url,
            is_tls: parts.is_tls,
            api: parts.api,
            bans: parts.bans,
            sessions,
            tenants: Mutex::default(),
            hostname: parts.hostname,
            submission: parts.submission,
            submissions: parts.submissions,
        })
    }

    /// The routes, for the listener of the API.
    pub fn router(self: &Arc<Self>) -> Router {
        route::router(self)
    }

    /// The names of tenants, if they were read after a moment.
    fn tenants_since(&self, earliest: Timestamp) -> Option<Arc<Tenants>> {
        let known = self.tenants.lock();
        known.as_ref().filter(|(at, _)| *at > earliest).map(|(_, tenants)| Arc::clone(tenants))
    }

    fn remember_tenants(&self, tenants: &Arc<Tenants>, now: Timestamp) {
        *self.tenants.lock() = Some((now, Arc::clone(tenants)));
    }

    /// The port of submission with STARTTLS, for settings of mail clients.
    pub fn submission_port(&self) -> u16 {
        self.submission.first().map_or(SUBMISSION_PORT, SocketAddr::port)
    }

    /// The path before `/ui` if a reverse proxy adds one.
    fn prefix(&self) -> &str {
        self.public_url.as_ref().map_or("", |url| url.path().trim_end_matches('/'))
    }

    /// Whether browsers reach the pages over TLS.
    fn is_secure(&self) -> bool {
        self.public_url.as_ref().map_or(self.is_tls, |url| url.scheme() == "https")
    }
}
