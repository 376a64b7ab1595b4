//! A small SMTP client that sends exactly what the test asks for, and returns the replies.

use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::rustls::ClientConfig;

use crate::wait::PATIENCE;
use crate::wire::Wire;

pub struct Client {
    wire: Wire,
    name: String,
}

/// A reply with all its lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub code: u16,
    pub lines: Vec<String>,
}

impl Reply {
    pub fn text(&self) -> String {
        self.lines.join("\n")
    }

    /// Panics unless the reply has this code.
    #[track_caller]
    pub fn expect_code(self, code: u16) -> Self {
        assert_eq!(self.code, code, "{}", self.text());
        self
    }

    /// Panics unless the reply has this code and contains this text.
    #[track_caller]
    pub fn expect_saying(self, code: u16, part: &str) -> Self {
        assert!(self.code == code && self.text().contains(part), "wanted {code} {part}, got {}", self.text());
        self
    }
}

impl Client {
    /// Connects and reads the greeting, which must be 220. `name` is the expected name in the server's certificate.
    pub async fn connect(address: SocketAddr, name: &str) -> Self {
        let mut client = Self::open(address, name).await;
        client.read_reply().await.expect_code(220);
        client
    }

    /// Connects without reading the greeting.
    pub async fn open(address: SocketAddr, name: &str) -> Self {
        let stream = timeout(PATIENCE, TcpStream::connect(address)).await.unwrap().unwrap();
        Self { wire: Wire::new(stream), name: name.to_owned() }
    }

    /// Connects with implicit TLS and reads the greeting.
    pub async fn connect_implicit(address: SocketAddr, name: &str, trust: Arc<ClientConfig>) -> Self {
        let Self { wire, name } = Self::open(address, name).await;
        let wire = timeout(PATIENCE, wire.connect_tls(trust, &name)).await.unwrap().unwrap();
        let mut client = Self { wire, name };
        client.read_reply().await.expect_code(220);
        client
    }

    pub async fn ehlo(&mut self) -> Reply {
        self.command("EHLO client.test").await.expect_code(250)
    }

    /// STARTTLS, then EHLO again.
    pub async fn starttls(self, trust: Arc<ClientConfig>) -> Self {
        let mut client = self.try_starttls(trust).await.expect("the server's certificate is trusted");
        client.ehlo().await;
        client
    }

    /// STARTTLS; `None` if the handshake fails.
    pub async fn try_starttls(mut self, trust: Arc<ClientConfig>) -> Option<Self> {
        self.command("STARTTLS").await.expect_code(220);
        self.into_tls(trust).await
    }

    /// Performs the TLS handshake; `None` if it fails.
    pub async fn into_tls(self, trust: Arc<ClientConfig>) -> Option<Self> {
        let Self { wire, name } = self;
        let wire =
            timeout(PATIENCE, wire.connect_tls(trust, &name)).await.expect("a handshake in time").ok()?;
        Some(Self { wire, name })
    }

    pub async fn auth_plain(&mut self, user: &str, password: &str) -> Reply {
        let response = BASE64_STANDARD.encode(format!("\0{user}\0{password}"));
        self.command(&format!("AUTH PLAIN {response}")).await
    }

    /// The channel binding of RFC 9266.
    pub fn exporter(&self) -> Option<[u8; 32]> {
        self.wire.exporter()
    }

    /// Sends a message without pipelining. All commands before the message must succeed. Returns the reply to the
    /// message.
    pub async fn send(&mut self, from: &str, recipients: &[&str], message: &[u8]) -> Reply {
        self.command(&format!("MAIL FROM:<{from}> BODY=8BITMIME")).await.expect_code(250);
        for recipient in recipients {
            self.command(&format!("RCPT TO:<{recipient}>")).await.expect_code(250);
        }
        self.data(message).await
    }

    /// Sends DATA, the message and the final dot.
    pub async fn data(&mut self, message: &[u8]) -> Reply {
        self.command("DATA").await.expect_code(354);
        let mut stuffed = stuff(message);
        stuffed.extend_from_slice(b".\r\n");
        self.write(&stuffed).await;
        self.read_reply().await
    }

    pub async fn command(&mut self, line: &str) -> Reply {
        self.write(format!("{line}\r\n").as_bytes()).await;
        self.read_reply().await
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        timeout(PATIENCE, self.wire.write(bytes)).await.unwrap().unwrap();
    }

    /// The next reply. Panics if the connection is closed before it.
    pub async fn read_reply(&mut self) -> Reply {
        self.try_read_reply().await.expect("a reply before the connection closes")
    }

    /// The next reply; `None` if the connection is closed before it.
    pub async fn try_read_reply(&mut self) -> Option<Reply> {
        let mut lines = Vec::new();
        loop {
            let line = timeout(PATIENCE, self.wire.read_line()).await.expect("a reply in time").ok()??;
            let line = String::from_utf8(line).expect("replies are ASCII");
            assert!(line.len() <= 510 && line.len() >= 3, "RFC 5321 §4.5.3.1.5: {line}");
            let last = line.as_bytes().get(3) != Some(&b'-');
            lines.push(line);
            if last {
                let code = lines[0][..3].parse().expect("a reply starts with three digits");
                return Some(Reply { code, lines });
            }
        }
    }

    /// Waits until the server has closed.
    pub async fn expect_close(mut self) {
        let rest = timeout(PATIENCE, self.wire.read_to_end()).await.expect("the server closes in time");
        assert!(rest.is_empty(), "{}", rest.escape_ascii());
    }
}

/// Stuffs the dots of a message that ends with CRLF (RFC 5321 §4.5.2).
pub fn stuff(message: &[u8]) -> Vec<u8> {
    let mut stuffed = Vec::with_capacity(message.len() + 3);
    let mut at_line_start = true;
    for &octet in message {
        if at_line_start && octet == b'.' {
            stuffed.push(b'.');
        }
        stuffed.push(octet);
        at_line_start = octet == b'\n' && stuffed.ends_with(b"\r\n");
    }
    stuffed
}
