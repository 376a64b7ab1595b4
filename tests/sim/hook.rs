//! The endpoint of a tenant's webhook: it notes events, and fails now and then.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;

use crate::chance::Chance;
use crate::pipe::End;

pub struct Hook {
    pub address: SocketAddr,
    chance: Chance,
    /// Ids of the events.
    received: Mutex<BTreeSet<String>>,
    /// The bodies.
    bodies: Mutex<Vec<String>>,
}

impl Hook {
    pub fn new(address: SocketAddr, chance: Chance) -> Self {
        Self { address, chance, received: Mutex::default(), bodies: Mutex::default() }
    }

    pub fn has(&self, event_id: &str) -> bool {
        self.received.lock().unwrap().contains(event_id)
    }

    /// The bodies since the last call.
    pub fn take_bodies(&self) -> Vec<String> {
        std::mem::take(&mut self.bodies.lock().unwrap())
    }

    pub async fn serve(self: Arc<Self>, stream: End, fails: bool) {
        let service = service_fn(|request: Request<Incoming>| {
            let hook = Arc::clone(&self);
            async move { Ok::<_, Infallible>(hook.answer(request, fails).await) }
        });
        // The connection may break.
        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }

    async fn answer(&self, request: Request<Incoming>, fails: bool) -> Response<Full<Bytes>> {
        let answer = |status| {
            let mut response = Response::new(Full::default());
            *response.status_mut() = status;
            response
        };
        let Ok(body) = request.into_body().collect().await else { return answer(StatusCode::BAD_REQUEST) };
        let body = body.to_bytes();
        match self.chance.below(20) {
            0 if fails => return answer(StatusCode::INTERNAL_SERVER_ERROR),
            1 if fails => std::future::pending().await,
            _ => {}
        }
        let event: Value = serde_json::from_slice(&body).unwrap_or_default();
        self.received.lock().unwrap().insert(event["id"].as_str().unwrap_or_default().to_owned());
        self.bodies.lock().unwrap().push(String::from_utf8_lossy(&body).into_owned());
        answer(StatusCode::OK)
    }
}
