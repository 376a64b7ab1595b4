//! Requests to the API over simulated connections.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::time::timeout;

use crate::gates::Gates;
use crate::world::World;

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(20, 3, 1, 1));
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Clone)]
pub struct Call {
    method: Method,
    target: String,
    body: Option<Value>,
    key: String,
    idempotency_key: Option<String>,
}

impl Call {
    pub fn post(target: &str, body: Value) -> Self {
        Self { method: Method::POST, body: Some(body), ..Self::get(target) }
    }

    pub fn patch(target: &str, body: Value) -> Self {
        Self { method: Method::PATCH, ..Self::post(target, body) }
    }

    pub fn delete(target: &str) -> Self {
        Self { method: Method::DELETE, ..Self::get(target) }
    }

    pub fn get(target: &str) -> Self {
        Self {
            method: Method::GET,
            target: target.to_owned(),
            body: None,
            key: String::new(),
            idempotency_key: None,
        }
    }

    pub fn with_key(self, secret: &str) -> Self {
        Self { key: secret.to_owned(), ..self }
    }

    pub fn repeatable(self, key: &str) -> Self {
        Self { idempotency_key: Some(key.to_owned()), ..self }
    }
}

/// The status and body of the answer; `None` if there was none.
pub async fn ask(world: &World, gates: &Gates, call: Call) -> Option<(u16, Value)> {
    let (near, far) = world.network.connect_client(CLIENT);
    gates.call(far, CLIENT);
    timeout(PATIENCE, exchange(near, call)).await.ok()?
}

async fn exchange(stream: crate::pipe::End, call: Call) -> Option<(u16, Value)> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    let mut request = Request::builder()
        .method(call.method)
        .uri(&call.target)
        .header("host", "relay.example")
        .header("authorization", format!("Bearer {}", call.key));
    if let Some(key) = &call.idempotency_key {
        request = request.header("idempotency-key", key);
    }
    if call.body.is_some() {
        request = request.header("content-type", "application/json");
    }
    let body = call.body.map(|body| body.to_string()).unwrap_or_default();
    let request = request.body(Full::new(Bytes::from(body))).unwrap();
    let exchange = async {
        let answer = sender.send_request(request).await.ok()?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.ok()?.to_bytes();
        Some((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
    };
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        _ = connection => exchange.await,
    }
}
