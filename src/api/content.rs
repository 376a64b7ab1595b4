//! Response content in memory: static content with its gzip form, and bodies that are sent in frames.

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

/// Octets of a body frame. The next frame is produced once the connection has accepted the previous one.
pub const PIECE_OCTETS: usize = 64 * 1024;
/// The media type of most responses.
pub const JSON: &str = "application/json";
/// The media type of pages.
pub const HTML: &str = "text/html; charset=utf-8";
/// The media type of the style sheet of pages.
pub const CSS: &str = "text/css; charset=utf-8";

/// Static content, built once, plain and in gzip.
#[derive(Debug)]
pub struct StaticContent {
    pub content_type: &'static str,
    pub plain: Bytes,
    pub gzip: Bytes,
}

/// Content that may be compressed.
#[derive(Debug, Clone)]
pub enum Compressible {
    Static(&'static StaticContent),
    Plain(Bytes),
}

impl StaticContent {
    /// Compresses the content.
    pub fn new(content_type: &'static str, text: String) -> Result<Self> {
        let gzip = gzip(text.as_bytes()).map_err(ApiError::internal)?.into();
        Ok(Self { content_type, plain: text.into(), gzip })
    }
}

/// Compresses octets with gzip.
pub fn gzip(octets: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(octets.len() / 4), Compression::fast());
    encoder.write_all(octets)?;
    encoder.finish()
}

/// A body in memory, sent in frames so that the idle timeout sees its progress.
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
