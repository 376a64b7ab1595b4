//! A connection that is read line by line and can start TLS, for the test client and the fake MX.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, Socket};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

pub struct Wire {
    stream: Box<dyn Duplex>,
    /// The TCP socket of the stream; `None` in a simulation.
    socket: Option<Socket>,
    /// Octets that were received and not read yet.
    buffer: Vec<u8>,
    /// The exported keying material of RFC 9266, for a client.
    exporter: Option<[u8; 32]>,
}

impl Wire {
    pub fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a fresh socket takes options");
        let socket = SockRef::from(&stream).try_clone().expect("there are file descriptors left");
        Self { socket: Some(socket), ..Self::of(stream) }
    }

    /// A connection that is not one of TCP.
    pub fn of(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self { stream: Box::new(stream), socket: None, buffer: Vec::new(), exporter: None }
    }

    /// Starts TLS as a server. Octets received before are discarded, as RFC 3207 §4.2 requires.
    /// Also returns the server name that the client requested (RFC 6066 §3).
    pub async fn accept_tls(self, config: Arc<ServerConfig>) -> io::Result<(Self, Option<String>)> {
        let stream = TlsAcceptor::from(config).accept(self.stream).await?;
        let name = stream.get_ref().1.server_name().map(str::to_owned);
        let stream = Box::new(stream);
        Ok((Self { stream, socket: self.socket, buffer: Vec::new(), exporter: None }, name))
    }

    /// Starts TLS as a client.
    pub async fn connect_tls(self, config: Arc<ClientConfig>, name: &str) -> io::Result<Self> {
        let name = ServerName::try_from(name.to_owned()).expect("tests use names that TLS can carry");
        let stream = TlsConnector::from(config).connect(name, self.stream).await?;
        let exported =
            stream.get_ref().1.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(b""));
        let exporter = exported.ok();
        Ok(Self { stream: Box::new(stream), socket: self.socket, buffer: Vec::new(), exporter })
    }

    pub fn exporter(&self) -> Option<[u8; 32]> {
        self.exporter
    }

    /// Makes the close a reset for the peer.
    pub fn reset_when_closed(&self) {
        let set = |socket: &Socket| socket.set_linger(Some(Duration::ZERO));
        self.socket.as_ref().map(set).transpose().expect("an open socket takes options");
    }

    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// The next line without its CRLF; `None` at the end of the stream.
    pub async fn read_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.read_through(b"\r\n").await?.map(|mut line| {
            line.truncate(line.len() - 2);
            line
        }))
    }

    /// Everything up to and including the first occurrence of `end`; `None` if the stream ends before it.
    pub async fn read_through(&mut self, end: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut searched = 0;
        loop {
            let at = self.buffer[searched..].windows(end.len()).position(|window| window == end);
            if let Some(at) = at {
                let rest = self.buffer.split_off(searched + at + end.len());
                return Ok(Some(std::mem::replace(&mut self.buffer, rest)));
            }
            searched = self.buffer.len().saturating_sub(end.len() - 1);
            if self.fill().await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Reads until the peer has closed. Returns the octets.
    pub async fn read_to_end(&mut self) -> Vec<u8> {
        while matches!(self.fill().await, Ok(octets) if octets > 0) {}
        std::mem::take(&mut self.buffer)
    }

    /// Receives more octets. Returns their number, 0 at the end of the stream.
    pub async fn fill(&mut self) -> io::Result<usize> {
        self.stream.read_buf(&mut self.buffer).await
    }

    /// The octets that were received and not read yet.
    pub fn waiting(&self) -> &[u8] {
        &self.buffer
    }
}
