//! The TCP listeners of the configuration.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use tokio::net::TcpListener;

use super::StartError;
use super::task_group::TaskGroup;
use crate::api::Api;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::server::{Security, Server};
use crate::web::PublicWeb;

/// All bound listeners.
pub struct Listeners {
    /// The listeners of submission with STARTTLS.
    pub submission: Vec<TcpListener>,
    /// The listeners of submission with implicit TLS.
    pub submissions: Vec<TcpListener>,
    /// The listeners of the API.
    pub api: Vec<TcpListener>,
    /// The listeners of metrics.
    pub metrics: Vec<TcpListener>,
    /// The listeners for reports.
    pub inbound: Vec<TcpListener>,
    /// The listeners of the public pages.
    pub public: Vec<TcpListener>,
}

/// The servers of the listeners.
pub struct Servers<'a> {
    /// Takes mail of clients.
    pub submission: &'a Arc<Server>,
    /// Takes reports of other servers.
    pub inbound: &'a Arc<Server>,
    /// The control plane.
    pub api: &'a Arc<Api>,
    /// The pages for people, on the listeners of the control plane.
    pub pages: &'a Option<Router>,
    /// Metrics.
    pub metrics: &'a Arc<Metrics>,
    /// The public pages.
    pub web: &'a Arc<PublicWeb>,
}

impl Listeners {
    /// Binds the listeners that the configuration names.
    pub async fn bind(config: &Config) -> Result<Self, StartError> {
        Ok(Self {
            submission: listen("smtp.submission", &config.smtp.submission).await?,
            submissions: listen("smtp.submissions", &config.smtp.submissions).await?,
            api: listen("api.listen", &config.api.listen).await?,
            metrics: listen("api.metrics_listen", &config.api.metrics_listen).await?,
            inbound: listen("inbound.listen", &config.inbound.listen).await?,
            public: listen("public.listen", &config.public.listen).await?,
        })
    }

    /// Starts a task for each listener.
    pub fn serve(self, tasks: &mut TaskGroup, servers: &Servers<'_>) {
        let Servers { submission, inbound, api, pages, metrics, web } = *servers;
        for (listeners, server, security) in [
            (self.submission, submission, Security::Starttls),
            (self.submissions, submission, Security::Implicit),
            (self.inbound, inbound, Security::Starttls),
        ] {
            for listener in listeners {
                tasks.spawn("SMTP listener", server.clone().serve(listener, security, tasks.stop.clone()));
            }
        }
        for listener in self.api {
            tasks.spawn("API listener", api.clone().serve(listener, pages.clone(), tasks.stop.clone()));
        }
        for listener in self.metrics {
            tasks.spawn("metrics listener", metrics.clone().serve(listener, tasks.stop.clone()));
        }
        for listener in self.public {
            tasks.spawn("listener of the public pages", web.clone().serve(listener, tasks.stop.clone()));
        }
    }
}

async fn listen(option: &'static str, wanted: &[SocketAddr]) -> Result<Vec<TcpListener>, StartError> {
    let mut listeners = Vec::new();
    for &address in wanted {
        let listener = TcpListener::bind(address).await.map_err(|source| StartError::Listen {
            option,
            address,
            hint: hint_for(&source),
            source,
        })?;
        listeners.push(listener);
    }
    Ok(listeners)
}

fn hint_for(error: &std::io::Error) -> &'static str {
    if error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()) {
        return "; this machine has no IPv6: write 0.0.0.0 instead of [::]";
    }
    match error.kind() {
        std::io::ErrorKind::AddrInUse => "; stop the program that has the port, or choose another one",
        std::io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need CAP_NET_BIND_SERVICE, which the systemd unit grants"
        }
        std::io::ErrorKind::AddrNotAvailable => "; this machine does not have that address",
        _ => "",
    }
}

/// The addresses of listeners, with the ports that the system chose.
pub fn addresses(listeners: &[TcpListener]) -> Vec<SocketAddr> {
    listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
}
