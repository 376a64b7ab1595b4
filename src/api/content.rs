//! The content of responses: in memory, sent in pieces, and in gzip where that form is made once.

use std::convert::Infallible;
use std::io::{self, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::body::{Frame, SizeHint};

use super::error::{ApiError, Result};

/// Octets of a body frame. The next frame is produced when the client has taken the previous one.
pub const PIECE_OCTETS: usize = 64 * 1024;
/// The media type of most responses.
pub const JSON: &str = "application/json";
/// The media type of pages.
pub const HTML: &str = "text/html; charset=utf-8";

/// Static content, built once, plain and in gzip.
#[derive(Debug)]
pub struct StaticContent {
    pub content_type: &'static str,
    pub plain: Bytes,
    pub gzip: Bytes,
}

/// What a response may be compressed from.
#[derive(Debug, Clone)]
pub enum Compressible {
    Static(&'static StaticContent),
    Plain(Bytes),
}

impl StaticContent {
    /// Content in both forms.
    pub fn new(content_type: &'static str, text: String) -> Result<Self> {
        let gzip = gzip(text.as_bytes()).map_err(ApiError::internal)?.into();
        Ok(Self { content_type, plain: text.into(), gzip })
    }
}

/// Octets in gzip.
pub fn gzip(octets: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(octets.len() / 4), Compression::fast());
    encoder.write_all(octets)?;
    encoder.finish()
}

/// A body in memory, sent in frames, so that the idle timeout sees whether the client takes them.
pub fn pieces(octets: Bytes) -> Body {
    Body::new(Pieces(octets))
}

struct Pieces(Bytes);

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Infallible>>> {
        let octets = self.0.len().min(PIECE_OCTETS);
        Poll::Ready((octets > 0).then(|| Ok(Frame::data(self.0.split_to(octets)))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.len() as u64)
    }
}
