//! How connections of people reach the server of the present life.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use pillarbox::api::Connections;
use pillarbox::app::Running;
use pillarbox::net::Stream;
use pillarbox::server::{Security, Server};
use tokio_rustls::rustls::ClientConfig;
use tokio_util::sync::CancellationToken;

use crate::identity::trust_pem;

pub struct Gates {
    submission: Arc<Server>,
    inbound: Arc<Server>,
    api: Connections,
    tls: Arc<ClientConfig>,
    stop: CancellationToken,
}

impl Gates {
    pub fn of(running: &Running, data_dir: &Path) -> Self {
        let stop = CancellationToken::new();
        let certificate = std::fs::read_to_string(data_dir.join("self-signed.crt")).unwrap();
        Self {
            submission: running.submission().clone(),
            inbound: running.inbound().clone(),
            api: Connections::new(running.api().clone(), None, stop.clone()),
            tls: trust_pem(&certificate),
            stop,
        }
    }

    pub fn tls(&self) -> Arc<ClientConfig> {
        self.tls.clone()
    }

    pub fn submit(&self, stream: Stream, client: IpAddr) {
        self.serve(&self.submission, stream, client, Security::Implicit);
    }

    /// To the listener for reports.
    pub fn report(&self, stream: Stream, server: IpAddr) {
        self.serve(&self.inbound, stream, server, Security::Starttls);
    }

    fn serve(&self, server: &Arc<Server>, stream: Stream, client: IpAddr, security: Security) {
        let peer = SocketAddr::new(client, 40_000);
        if let Some(task) = server.clone().accept(stream, peer, security, self.stop.clone()) {
            tokio::spawn(task);
        }
    }

    pub fn call(&self, stream: Stream, client: IpAddr) {
        self.api.accept(stream, SocketAddr::new(client, 40_001));
    }

    /// The server stops: idle connections end.
    pub fn close(&self) {
        self.stop.cancel();
    }
}
