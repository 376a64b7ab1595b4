//! The stream of a connection, before and after TLS.

use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::net;
use crate::smtp::ChannelBinding;

/// A plain or TLS stream.
pub enum Stream {
    /// Plain text.
    Plain(net::Stream),
    /// TLS; boxed, because its state is large and most connections are idle.
    Tls(Box<TlsStream<net::Stream>>),
    /// A failed handshake consumed the stream.
    Gone,
}

/// The result of a TLS handshake.
pub struct Secured {
    /// Version and cipher suite, for `Received`.
    pub description: String,
    /// The channel binding.
    pub channel: Option<ChannelBinding>,
}

impl Stream {
    /// Appends available octets to the buffer; 0 at the end of the stream. Safe to cancel.
    pub async fn read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read_buf(buffer).await,
            Self::Tls(stream) => stream.read_buf(buffer).await,
            Self::Gone => Ok(0),
        }
    }

    /// Sends all octets.
    pub async fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(octets).await,
            Self::Tls(stream) => {
                stream.write_all(octets).await?;
                stream.flush().await
            }
            Self::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Closes the sending direction.
    pub async fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.shutdown().await,
            Self::Tls(stream) => stream.shutdown().await,
            Self::Gone => Ok(()),
        }
    }

    /// Performs the TLS handshake as server.
    pub async fn secure(&mut self, config: Arc<rustls::ServerConfig>) -> io::Result<Secured> {
        let Self::Plain(plain) = std::mem::replace(self, Self::Gone) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let stream = TlsAcceptor::from(config).accept(plain).await?;
        let tls = stream.get_ref().1;
        let secured = Secured { description: describe(tls), channel: export(tls) };
        *self = Self::Tls(Box::new(stream));
        Ok(secured)
    }
}

/// RFC 9266 §3: TLS 1.3 only; under TLS 1.2 the exporter is unique only with an extension that few clients have.
fn export(tls: &rustls::ServerConnection) -> Option<ChannelBinding> {
    if tls.protocol_version() != Some(rustls::ProtocolVersion::TLSv1_3) {
        return None;
    }
    tls.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(b"")).ok()
}

fn describe(tls: &rustls::ServerConnection) -> String {
    let version = match tls.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
        _ => "TLS",
    };
    match tls.negotiated_cipher_suite() {
        Some(suite) => format!("{version} with cipher {:?}", suite.suite()),
        None => version.to_owned(),
    }
}
