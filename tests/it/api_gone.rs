//! Clients that disconnect before they get the response, and clients that never disconnect.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use pillarbox::config;
use pillarbox::model::TenantStatus;
use pillarbox::store::Directory;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::api_stage::{ApiStage, text};
use crate::http::{Answer, exchange, read_answer, request, request_with};
use crate::wait::{PATIENCE, until};

/// Sends a request. The client disconnects when the returned connection is dropped.
async fn send(stage: &ApiStage, line: &str, head: &str, body: &str) -> TcpStream {
    let text = format!(
        "{line} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n{head}\r\n{body}",
        stage.platform,
        body.len()
    );
    let mut stream = TcpStream::connect(stage.address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn a_request_whose_client_disconnected_is_executed_once_and_its_repetition_gets_the_response() {
    let stage = ApiStage::start().await;
    let body = json!({"name": "once"});
    for number in 0..60 {
        let name = format!("request-{number}");
        let head = format!("Idempotency-Key: {name}\r\n");
        drop(send(&stage, "POST /v1/keys", &head, &body.to_string()).await);
        let repeated = until("the first is done", async || {
            let headers = [("Idempotency-Key", name.as_str())];
            let key = Some(stage.platform.as_str());
            let answer = request_with(stage.address, "POST", "/v1/keys", key, Some(&body), &headers).await;
            let is_running = answer.status == 409;
            assert_eq!(answer.header("retry-after"), is_running.then_some("1"), "{answer}");
            (!is_running).then_some(answer)
        });
        repeated.await.expect(201);
    }
    let mut made = 0;
    let mut path = "/v1/keys?limit=100".to_owned();
    loop {
        let page = stage.get(&stage.platform, &path).await.expect(200);
        made += page["data"].as_array().unwrap().iter().filter(|key| key["name"] == "once").count();
        if page["next_cursor"].is_null() {
            break;
        }
        path = format!("/v1/keys?limit=100&after={}", text(&page, "/next_cursor"));
    }
    assert_eq!(made, 60);
}

#[tokio::test]
async fn a_deletion_that_has_begun_is_completed_although_the_client_disconnects_and_the_server_stops() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    for part in 0..4 {
        let address = |number| json!({"address": format!("a{number}-{part}@x.example")});
        let all: Vec<Value> = (0..1000).map(address).collect();
        stage.post(&tenant.key, "/v1/suppressions/batch", json!({"suppressions": all})).await.expect(201);
    }
    let remover = send(&stage, &format!("DELETE /v1/tenants/{}", tenant.id), "", "").await;
    let find = async || stage.store.tenant(tenant.id).await.unwrap();
    until("the removal has begun", async || {
        find().await.is_none_or(|tenant| tenant.status == TenantStatus::Suspended).then_some(())
    })
    .await;
    drop(remover);
    stage.stop.cancel();
    stage.serving.await.unwrap();
    assert_eq!(stage.store.tenant(tenant.id).await.unwrap().map(|tenant| tenant.status), None);
}

/// A stage that allows one connection and closes it when it is idle.
async fn narrow_stage() -> ApiStage {
    let narrow = |api: &mut config::Api, _: &mut config::Domains| {
        api.connections_max = 1;
        api.idle_timeout = Duration::from_millis(200);
    };
    ApiStage::with(narrow).await
}

/// Waits until the only connection is in use, and then until it is free.
async fn expect_place_again(stage: &ApiStage) {
    let health = async || request(stage.address, "GET", "/healthz", None, None).await.status;
    until("it is accepted again", async || (health().await == 200).then_some(())).await;
}

#[tokio::test]
async fn pings_do_not_keep_an_idle_connection_open() {
    let stage = narrow_stage().await;
    let mut client = TcpStream::connect(stage.address).await.unwrap();
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let keep_pinging = async {
        // RFC 9113 §6.7.
        while client.write_all(b"\0\0\x08\x06\0\0\0\0\0pillarbo").await.is_ok() {
            let mut octets = [0; 1024];
            if let Ok(Ok(0) | Err(_)) = timeout(Duration::from_millis(20), client.read(&mut octets)).await {
                break;
            }
        }
    };
    timeout(PATIENCE, keep_pinging).await.expect("the connection is closed");
    expect_place_again(&stage).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_its_responses_is_disconnected() {
    let stage = narrow_stage().await;
    let mut client = TcpStream::connect(stage.address).await.unwrap();
    let asking = async {
        // More than the socket buffers of both ends hold.
        loop {
            client.write_all(b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n").await?;
        }
    };
    let ended: std::io::Result<()> = timeout(PATIENCE, asking).await.expect("the connection is cut");
    assert!(ended.is_err());
    expect_place_again(&stage).await;
}

#[tokio::test]
async fn a_response_that_is_read_slowly_is_sent_completely() {
    let stage = ApiStage::with(|api, _| api.idle_timeout = Duration::from_millis(200)).await;
    let tenant = stage.tenant("own").await;
    let id = stage.enqueue_body(tenant.id, vec![b'x'; 18_000_000].into()).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 * 1024).unwrap();
    let mut client = socket.connect(stage.address).await.unwrap();
    let request = format!(
        "GET /v1/emails/{id}/raw HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\r\n",
        tenant.key
    );
    client.write_all(request.as_bytes()).await.unwrap();
    let (mut octets, mut part) = (0, vec![0; 256 * 1024]);
    let began = Instant::now();
    loop {
        match client.read(&mut part).await.unwrap() {
            0 => break,
            more => octets += more,
        }
        // As on a slow line: from begin to end, this takes many times the limit.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(octets > 18_000_000, "{octets} after {:?}", began.elapsed());
}

#[tokio::test]
async fn the_number_of_connections_of_one_address_is_limited() {
    let stage = ApiStage::with(|api, _| api.connections_per_address_max = 1).await;
    let held = TcpStream::connect(stage.address).await.unwrap();
    let from = async |last| -> Answer {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0))).unwrap();
        let mut stream = socket.connect(stage.address).await.unwrap();
        let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        read_answer(&mut stream).await
    };
    let refused = until("the second connection is refused", async || {
        let answer = from(1).await;
        (answer.status == 503).then_some(answer)
    });
    let error = refused.await.expect_error(503, "overloaded");
    assert!(text(&error, "/hint").contains("api.connections_per_address_max"), "{error}");
    from(2).await.expect(200);
    drop(held);
    until("it is accepted again", async || (from(1).await.status == 200).then_some(())).await;
}

#[tokio::test]
async fn the_refusal_of_a_large_body_names_the_option_that_limits_it() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    for (path, octets, option) in [
        ("/v1/templates", 2 * 1024 * 1024, "api.body_max"),
        ("/v1/emails", 60 * 1024 * 1024, "api.send_body_max"),
    ] {
        let text_of_request = format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\
             Expect: 100-continue\r\nContent-Type: application/json\r\nContent-Length: {octets}\r\n\r\n",
            tenant.key
        );
        let answer = exchange(stage.address, text_of_request.as_bytes()).await;
        let error = answer.expect_error(413, "payload_too_large");
        assert!(text(&error, "/hint").ends_with(option), "{error}");
    }
}
