//! Connections to and from other machines, and who they are with. A [`Network`] is a value, so that a simulation can take the
//! place of the network and of the DNS. Imports nothing.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A boxed future.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Where connections and look-ups go.
#[derive(Clone, Default)]
pub struct Network(Option<Arc<dyn SimulatedNetwork>>);

/// What takes the place of the network.
pub trait SimulatedNetwork: Send + Sync {
    /// Connects to an address.
    fn connect(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn SimulatedStream>>>;

    /// Looks up the records of a name. An empty answer is a name without such records.
    fn look_up(&self, name: Name, kind: RecordType) -> BoxFuture<'static, SimulatedAnswer>;
}

/// The answer of a simulated name server.
pub enum SimulatedAnswer {
    /// These records.
    Records {
        /// Of the type that was asked for.
        records: Vec<RData>,
        /// Whether the zone is signed (DNSSEC) and the signatures are valid.
        is_signed: bool,
    },
    /// NXDOMAIN.
    NoSuchDomain,
    /// SERVFAIL, or none.
    Failed,
}

/// A connection of a [`SimulatedNetwork`].
pub trait SimulatedStream: AsyncRead + AsyncWrite + Send + Sync + Unpin {
    /// The own address.
    fn local_addr(&self) -> SocketAddr;
}

impl Network {
    /// The network of the machine.
    pub const fn system() -> Self {
        Self(None)
    }

    /// Another one.
    pub fn simulated(network: Arc<dyn SimulatedNetwork>) -> Self {
        Self(Some(network))
    }

    /// What takes the place of the network, if something does.
    pub(crate) fn simulation(&self) -> Option<&Arc<dyn SimulatedNetwork>> {
        self.0.as_ref()
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "simulated" } else { "system" })
    }
}

/// A connection.
pub enum Stream {
    /// Of the machine.
    Tcp(TcpStream),
    /// Of a simulation.
    Simulated(Box<dyn SimulatedStream>),
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self::Tcp(stream)
    }
}

impl Stream {
    /// The own address.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.local_addr(),
            Self::Simulated(stream) => Ok(stream.local_addr()),
        }
    }

    /// Sends octets on a connection that nothing was sent on, if it takes them without waiting.
    ///
    /// # Errors
    /// It does not.
    pub fn send_now(&self, octets: &[u8]) -> io::Result<usize> {
        match self {
            // A new socket has buffer space for a line. The runtime does not know yet that it can be written.
            Self::Tcp(stream) => socket2::SockRef::from(stream).send(octets),
            Self::Simulated(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Simulated(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, octets),
            Self::Simulated(stream) => Pin::new(stream).poll_write(context, octets),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
            Self::Simulated(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Simulated(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Self::Simulated(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Simulated(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
