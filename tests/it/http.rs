//! A small HTTP/1.1 client that sends exactly what the test asks for: one request on one connection.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::wait::PATIENCE;

/// A response, read to the end of its connection.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    /// The first header with this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let pairs = self.head.lines().filter_map(|line| line.split_once(':'));
        pairs.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
    }

    /// The body, parsed as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self}"))
    }

    /// Panics unless the status is this one.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self}");
        self.json()
    }

    /// Panics unless it is an error with this status and code, in the documented format.
    #[track_caller]
    pub fn expect_error(self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{self}");
        let error = self.json()["error"].clone();
        assert_eq!(error["code"], code, "{error}");
        for field in ["type", "message", "hint", "request_id"] {
            assert!(error[field].as_str().is_some_and(|text| !text.is_empty()), "{field} in {error}");
        }
        assert_eq!(error["request_id"].as_str(), self.header("x-request-id"));
        error
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\n\n{}", self.head, String::from_utf8_lossy(&self.body))
    }
}

/// Sends a request with a key and a JSON body.
pub async fn request(
    address: SocketAddr,
    method: &str,
    target: &str,
    key: Option<&str>,
    body: Option<&Value>,
) -> Answer {
    request_with(address, method, target, key, body, &[]).await
}

/// Sends a request with additional headers.
pub async fn request_with(
    address: SocketAddr,
    method: &str,
    target: &str,
    key: Option<&str>,
    body: Option<&Value>,
    headers: &[(&str, &str)],
) -> Answer {
    let mut text = format!("{method} {target} HTTP/1.1\r\nHost: api\r\nConnection: close\r\n");
    if let Some(key) = key {
        text += &format!("Authorization: Bearer {key}\r\n");
    }
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    let body = body.map(Value::to_string);
    if let Some(body) = &body {
        text += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    }
    exchange(address, (text + "\r\n" + &body.unwrap_or_default()).as_bytes()).await
}

/// Sends octets and reads the response to its end.
pub async fn exchange(address: SocketAddr, bytes: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A server may refuse a request and close while the rest is still being sent.
    let _ = stream.write_all(bytes).await;
    read_answer(&mut stream).await
}

/// Reads the only response of a connection to its end.
pub async fn read_answer(stream: &mut TcpStream) -> Answer {
    let mut received = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match timeout(PATIENCE, stream.read(&mut chunk)).await.expect("an answer in time") {
            Ok(0) | Err(_) => break,
            Ok(count) => received.extend_from_slice(&chunk[..count]),
        }
    }
    let end = received.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole header");
    let head = String::from_utf8(received[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).and_then(|text| text.parse().ok()).expect("a status");
    Answer { status, head, body: received[end + 4..].to_vec() }
}
