//! Connections of the API: protocols, TLS, limits of time and number, and the shutdown of the server.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::api_stage::ApiStage;
use crate::http::{read_answer, request};
use crate::identity::Identity;
use crate::wait::until;

/// The connection preface of HTTP/2 (RFC 9113 §3.4) and an empty SETTINGS frame.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The type of a SETTINGS frame (RFC 9113 §6.5), the fourth octet of its header.
const SETTINGS: u8 = 4;

#[tokio::test]
async fn a_client_that_begins_with_the_http_2_preface_gets_http_2() {
    let stage = ApiStage::start().await;
    let mut stream = TcpStream::connect(stage.address).await.unwrap();
    stream.write_all(HTTP2_PREFACE).await.unwrap();
    let mut header = [0; 9];
    stream.read_exact(&mut header).await.unwrap();
    assert_eq!(header[3], SETTINGS);
}

#[tokio::test]
async fn over_tls_the_client_chooses_between_http_2_and_http_1() {
    let identity = Identity::new(&["api.example"]);
    let shared = Arc::new(ArcSwap::new(identity.server_config()));
    let stage = ApiStage::open(Some(shared), |_, _| {}).await;
    for offer in [&["h2", "http/1.1"][..], &["http/1.1"], &[]] {
        let mut config = (*identity.client_config()).clone();
        config.alpn_protocols = offer.iter().map(|name| name.as_bytes().to_vec()).collect();
        let stream = TcpStream::connect(stage.address).await.unwrap();
        let name = ServerName::try_from("api.example").unwrap();
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        let chosen = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        assert_eq!(chosen.as_deref(), offer.first().map(|name| name.as_bytes()));
        let mut answer = [0; 12];
        if chosen.as_deref() == Some(b"h2") {
            stream.write_all(HTTP2_PREFACE).await.unwrap();
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(answer[3], SETTINGS);
        } else {
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"HTTP/1.1 200");
        }
    }
}

#[tokio::test]
async fn at_shutdown_a_running_request_finishes_and_no_other_is_accepted() {
    let stage = ApiStage::start().await;
    let body = json!({"name": "late"}).to_string();
    let head = format!(
        "POST /v1/tenants HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nExpect: 100-continue\r\n\r\n",
        stage.platform,
        body.len()
    );
    let mut running = TcpStream::connect(stage.address).await.unwrap();
    running.write_all(head.as_bytes()).await.unwrap();
    let mut interim = [0; 25];
    running.read_exact(&mut interim).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n", "the request runs");
    let mut idle = TcpStream::connect(stage.address).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut status = [0; 12];
    idle.read_exact(&mut status).await.unwrap();
    stage.stop.cancel();
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.unwrap();
    until("the port is closed", async || TcpStream::connect(stage.address).await.err()).await;
    running.write_all(body.as_bytes()).await.unwrap();
    assert_eq!(read_answer(&mut running).await.expect(201)["name"], "late");
    stage.serving.await.unwrap();
}

#[tokio::test]
async fn a_request_that_does_not_arrive_times_out() {
    let stage = ApiStage::with(|api, _| api.request_timeout = Duration::from_millis(50)).await;
    let mut stream = TcpStream::connect(stage.address).await.unwrap();
    let head = format!(
        "POST /v1/tenants HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nContent-Length: 10\r\n\r\n{{",
        stage.platform
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    read_answer(&mut stream).await.expect_error(408, "request_timeout");
}

/// A connection whose first request has a valid key.
async fn logged_in(stage: &ApiStage) -> TcpStream {
    let mut stream = TcpStream::connect(stage.address).await.unwrap();
    ask(stage, &mut stream).await;
    stream
}

async fn ask(stage: &ApiStage, stream: &mut TcpStream) {
    let request =
        format!("HEAD /v1/tenants HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n\r\n", stage.platform);
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 200"), "{}", head.escape_ascii());
}

#[tokio::test]
async fn a_connection_over_the_limit_gets_the_reason() {
    let stage = ApiStage::with(|api, _| api.connections_max = 1).await;
    let held = logged_in(&stage).await;
    let answer = request(stage.address, "GET", "/healthz", None, None).await;
    answer.expect_error(503, "overloaded");
    drop(held);
    until("it is accepted again", async || {
        (request(stage.address, "GET", "/healthz", None, None).await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn silent_connections_make_room_for_new_ones_and_those_with_a_key_stay() {
    let stage = ApiStage::with(|api, _| api.connections_max = 2).await;
    let mut held = logged_in(&stage).await;
    let mut silent = TcpStream::connect(stage.address).await.unwrap();
    let mut next = logged_in(&stage).await;
    let closed = tokio::time::timeout(Duration::from_secs(20), silent.read(&mut [0; 1])).await.unwrap();
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    ask(&stage, &mut held).await;
    ask(&stage, &mut next).await;
}

#[tokio::test]
async fn health_needs_no_key() {
    let stage = ApiStage::start().await;
    let health = async |path: &str| request(stage.address, "GET", path, None, None).await;
    assert_eq!(health("/healthz").await.expect(200), json!({"status": "ok"}));
    assert_eq!(health("/readyz").await.expect(200), json!({"status": "ready"}));
}

#[tokio::test]
async fn the_server_is_not_ready_when_the_store_is_closed() {
    let stage = ApiStage::start().await;
    stage.store.close().await;
    let answer = request(stage.address, "GET", "/readyz", None, None).await;
    answer.expect_error(503, "shutting_down");
    request(stage.address, "GET", "/healthz", None, None).await.expect(200);
}
