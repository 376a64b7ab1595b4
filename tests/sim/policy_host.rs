//! The web server of a domain's MTA-STS policy (RFC 8461), which fails now and then.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use crate::chance::Chance;
use crate::pipe::End;

/// Of a policy, in seconds: shorter than a simulated day.
const MAX_AGE: u32 = 2 * 3600;

pub struct PolicyHost {
    pub address: SocketAddr,
    tls: TlsAcceptor,
    policy: String,
    chance: Chance,
}

impl PolicyHost {
    /// For a domain with these mail hosts.
    pub fn new(address: SocketAddr, tls: Arc<ServerConfig>, hosts: &[String], chance: Chance) -> Self {
        let hosts: String = hosts.iter().map(|host| format!("mx: {host}\r\n")).collect();
        let policy = format!("version: STSv1\r\nmode: enforce\r\n{hosts}max_age: {MAX_AGE}\r\n");
        Self { address, tls: tls.into(), policy, chance }
    }

    pub async fn serve(self: Arc<Self>, stream: End, fails: bool) {
        if fails && self.chance.percent(10.0) {
            return;
        }
        // The connection may break.
        let Ok(stream) = self.tls.accept(stream).await else { return };
        let service = service_fn(|_: Request<Incoming>| {
            let mut response = Response::new(Full::new(Bytes::from(self.policy.clone())));
            response.headers_mut().insert("content-type", "text/plain".parse().unwrap());
            if fails && self.chance.percent(10.0) {
                *response.status_mut() = hyper::StatusCode::SERVICE_UNAVAILABLE;
            }
            async move { Ok::<_, Infallible>(response) }
        });
        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }
}
