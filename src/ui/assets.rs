//! The script, the style and the icon. Their paths contain their digest, so a browser keeps them until they change.

use std::io::Write;
use std::sync::LazyLock;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use data_encoding::HEXLOWER;
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::StatusCode;
use hyper::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, VARY, X_CONTENT_TYPE_OPTIONS,
};
use sha2::{Digest, Sha256};

use super::headers;

/// A file of the pages.
pub struct Asset {
    media_type: &'static str,
    plain: &'static [u8],
    gzip: LazyLock<Option<Bytes>>,
    path: LazyLock<String>,
}

/// The script of every page.
pub static SCRIPT: Asset = Asset::new(
    "text/javascript; charset=utf-8",
    include_bytes!("assets/page.js"),
    || gzip(include_bytes!("assets/page.js")),
    || path("page.js", include_bytes!("assets/page.js")),
);
/// The style of every page.
pub static STYLE: Asset = Asset::new(
    "text/css; charset=utf-8",
    include_bytes!("assets/page.css"),
    || gzip(include_bytes!("assets/page.css")),
    || path("page.css", include_bytes!("assets/page.css")),
);
/// The icon.
pub static ICON: Asset = Asset::new(
    "image/svg+xml",
    include_bytes!("assets/icon.svg"),
    || gzip(include_bytes!("assets/icon.svg")),
    || path("icon.svg", include_bytes!("assets/icon.svg")),
);

impl Asset {
    const fn new(
        media_type: &'static str,
        plain: &'static [u8],
        gzip: fn() -> Option<Bytes>,
        path: fn() -> String,
    ) -> Self {
        Self { media_type, plain, gzip: LazyLock::new(gzip), path: LazyLock::new(path) }
    }

    /// Its path, like `/ui/assets/0123456789ab/page.js`.
    pub fn path(&self) -> &str {
        &self.path
    }

    fn respond(&self, request: &Request) -> Response {
        let takes_gzip = request
            .headers()
            .get(ACCEPT_ENCODING)
            .is_some_and(|value| value.to_str().is_ok_and(|text| text.contains("gzip")));
        let compressed = self.gzip.as_ref().filter(|_| takes_gzip);
        let body = compressed.cloned().unwrap_or(Bytes::from_static(self.plain));
        let mut response = Response::new(Body::from(body));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.media_type));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
        if compressed.is_some() {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response
    }
}

fn gzip(plain: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(plain).ok()?;
    encoder.finish().ok().map(Bytes::from)
}

fn path(name: &str, plain: &[u8]) -> String {
    let digest = HEXLOWER.encode(&Sha256::digest(plain)[..6]);
    format!("/ui/assets/{digest}/{name}")
}

/// Adds the assets. They need no session.
pub fn add_routes(mut router: Router) -> Router {
    for asset in [&SCRIPT, &STYLE, &ICON] {
        router =
            router.route(asset.path(), get(move |request: Request| async move { asset.respond(&request) }));
    }
    let of_older = |_: Request| async { headers::bare(StatusCode::NOT_FOUND) };
    router.route("/ui/assets/{*path}", get(of_older))
}
