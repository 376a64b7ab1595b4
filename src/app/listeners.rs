//! The TCP listeners of the configuration.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use axum::Router;
use tokio::net::{TcpListener, TcpSocket};

use super::StartError;
use super::handover::{self, HeldListener};
use super::task_group::TaskGroup;
use crate::api::Api;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::server::{Security, Server};
use crate::web::PublicWeb;

/// Connections that wait in the kernel: those of a busy server while a new process takes over. The system may allow fewer.
const BACKLOG: u32 = 4096;

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
    /// Another handle of each, for a process that takes over.
    pub held: Vec<HeldListener>,
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
    /// Binds the listeners that the configuration names, except those that are taken over. Others of `inherited` are closed.
    pub fn bind(config: &Config, inherited: Vec<HeldListener>) -> Result<Self, StartError> {
        let mut binder = Binder { inherited, held: Vec::new() };
        Ok(Self {
            submission: binder.listen("smtp.submission", &config.smtp.submission)?,
            submissions: binder.listen("smtp.submissions", &config.smtp.submissions)?,
            api: binder.listen("api.listen", &config.api.listen)?,
            metrics: binder.listen("api.metrics_listen", &config.api.metrics_listen)?,
            inbound: binder.listen("inbound.listen", &config.inbound.listen)?,
            public: binder.listen("public.listen", &config.public.listen)?,
            held: binder.held,
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

/// Binds or takes over one listener after the other.
struct Binder {
    inherited: Vec<HeldListener>,
    held: Vec<HeldListener>,
}

impl Binder {
    fn listen(
        &mut self,
        option: &'static str,
        wanted: &[SocketAddr],
    ) -> Result<Vec<TcpListener>, StartError> {
        wanted.iter().map(|&address| self.listen_on(option, address)).collect()
    }

    fn listen_on(&mut self, option: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
        let listener = match handover::take(&mut self.inherited, option, address) {
            Some(socket) => adopt(socket),
            None => bind(address),
        };
        let held = listener.and_then(|listener| Ok((listener.as_fd().try_clone_to_owned()?, listener)));
        let (socket, listener) =
            held.map_err(|source| StartError::Listen { option, address, hint: hint_for(&source), source })?;
        self.held.push(HeldListener { option: option.to_owned(), address, socket });
        Ok(listener)
    }
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Connections of an earlier process may still be closing.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn adopt(socket: OwnedFd) -> std::io::Result<TcpListener> {
    let listener = std::net::TcpListener::from(socket);
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
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
