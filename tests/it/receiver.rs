//! A web server that records its requests and answers with the octets that the test sets.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use crate::wait::until;

const NO_CONTENT: &str = "HTTP/1.1 204 No Content\r\n\r\n";

pub struct Receiver {
    pub address: SocketAddr,
    book: Arc<Mutex<Book>>,
    _serving: JoinSet<()>,
}

#[derive(Default)]
struct Book {
    requests: Vec<Received>,
    /// Without a scripted reply, `204`.
    answers: VecDeque<Reaction>,
}

/// The reaction to a request.
pub enum Reaction {
    /// Writes these octets and closes.
    Write(Vec<u8>),
    /// Writes these octets and keeps the connection open.
    WriteAndHang(Vec<u8>),
}

impl Default for Reaction {
    fn default() -> Self {
        Self::Write(NO_CONTENT.into())
    }
}

#[derive(Debug, Clone)]
pub struct Received {
    /// The request line and the headers.
    pub head: String,
    pub body: Vec<u8>,
}

impl Received {
    /// The only header with this name.
    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        let pairs = self.head.lines().filter_map(|line| line.split_once(':'));
        let mut named =
            pairs.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim());
        let first = named.next().unwrap_or_else(|| panic!("no {name} in {}", self.head));
        assert_eq!(named.next(), None, "{name} twice in {}", self.head);
        first
    }
}

impl Receiver {
    pub async fn start() -> Self {
        Self::with(None).await
    }

    pub async fn with(tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let book = Arc::new(Mutex::new(Book::default()));
        let mut serving = JoinSet::new();
        serving.spawn(accept(listener, tls, book.clone()));
        Self { address, book, _serving: serving }
    }

    /// Sets the reactions to the next requests, in order.
    pub fn script(&self, reactions: impl IntoIterator<Item = Reaction>) {
        self.book.lock().unwrap().answers.extend(reactions);
    }

    pub fn requests(&self) -> Vec<Received> {
        self.book.lock().unwrap().requests.clone()
    }

    /// Waits until there were this many requests.
    pub async fn wait_for(&self, count: usize) -> Vec<Received> {
        until(&format!("{count} requests came"), async || {
            Some(self.requests()).filter(|requests| requests.len() >= count)
        })
        .await
    }
}

async fn accept(listener: TcpListener, tls: Option<Arc<ServerConfig>>, book: Arc<Mutex<Book>>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (tls, book) = (tls.clone(), book.clone());
        connections.spawn(async move {
            match tls {
                None => serve(stream, book).await,
                Some(config) => match TlsAcceptor::from(config).accept(stream).await {
                    Ok(stream) => serve(stream, book).await,
                    Err(_) => None,
                },
            }
        });
    }
}

/// Reads one request of a connection. `None` if the client has closed it.
async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, book: Arc<Mutex<Book>>) -> Option<()> {
    let received = read_request(&mut stream).await?;
    let reaction = {
        let mut book = book.lock().unwrap();
        book.requests.push(received);
        book.answers.pop_front().unwrap_or_default()
    };
    match reaction {
        Reaction::Write(octets) => stream.write_all(&octets).await.ok()?,
        Reaction::WriteAndHang(octets) => {
            stream.write_all(&octets).await.ok()?;
            stream.flush().await.ok()?;
            let _ = stream.read(&mut [0]).await;
        }
    }
    stream.shutdown().await.ok()
}

async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<Received> {
    let mut octets = Vec::new();
    let end = loop {
        if let Some(end) = octets.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        let is_tls_on_plain_port = octets.first() == Some(&0x16);
        if is_tls_on_plain_port || stream.read_buf(&mut octets).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(octets[..end].to_vec()).unwrap();
    let mut body = octets.split_off(end + 4);
    let mut headers = head.lines().filter_map(|line| line.split_once(':'));
    let length = headers.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length: usize = length.map_or(0, |(_, value)| value.trim().parse().unwrap());
    while body.len() < length {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    Some(Received { head, body })
}
