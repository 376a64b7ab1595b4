//! The configuration.

use super::super::facts::{Facts, PortFacts, PortState};
use super::super::{Finding, Fix};
use super::look;

pub const VALID: &str = "config.valid";

pub fn valid(facts: &Facts) -> Vec<Finding> {
    let (subject, text) = match &facts.config.file {
        Some(file) => (file.clone(), format!("{file} is valid")),
        None => (String::new(), "the server runs with a valid configuration".to_owned()),
    };
    vec![Finding::ok(VALID, subject, text)]
}

/// The file cannot be read. The error names the option.
pub fn invalid(file: &str, error: &str) -> Finding {
    let fix = Fix::command(
        format!("correct {file}; this shows whether it is right"),
        format!("pillarbox check-config --config {file}"),
    );
    Finding::error(VALID, file, error, fix)
}

pub fn hostname(facts: &Facts) -> Vec<Finding> {
    const ID: &str = "config.hostname";
    let name = &facts.hostname;
    if name.is_fully_qualified() && !name.as_str().ends_with(".localhost") {
        return vec![Finding::ok(ID, name.as_str(), format!("the host name {name} is fully qualified"))];
    }
    let fix = Fix::command(
        "set hostname to the name that the address of this server has in DNS",
        "hostname = \"mail.example.com\"",
    );
    let text = format!("the host name {name} is not fully qualified; receivers distrust it");
    vec![Finding::error(ID, name.as_str(), text, fix)]
}

pub fn api_exposed(facts: &Facts) -> Vec<Finding> {
    const ID: &str = "config.api_exposed";
    let config = &facts.config;
    let exposed: Vec<_> = config.api_listen.iter().filter(|address| !address.ip().is_loopback()).collect();
    if config.is_api_tls || exposed.is_empty() {
        let how = if config.is_api_tls { "is encrypted" } else { "is reachable on this machine only" };
        return vec![Finding::ok(ID, "", format!("the API {how}"))];
    }
    let of_address = |address: &&std::net::SocketAddr| {
        let subject = address.to_string();
        if config.is_public_url_https {
            let fix =
                Fix::command("let only the proxy reach the API", "[api]\nlisten = [\"127.0.0.1:8587\"]");
            let text = format!("the API at {subject} is reachable in clear, around the proxy");
            return Finding::warning(ID, subject, text, fix);
        }
        let fix = Fix::command(
            "encrypt the API, or listen on 127.0.0.1 behind a proxy with TLS",
            "[api]\ntls = true",
        );
        let text = format!("the API at {subject} is in clear and reachable beyond this machine");
        Finding::error(ID, subject, text, fix)
    };
    exposed.iter().map(of_address).collect()
}

pub fn ports(facts: &Facts) -> Vec<Finding> {
    const ID: &str = "config.ports";
    let ports = match look(ID, &"", &facts.config.ports) {
        Ok(ports) => ports.map(Vec::as_slice).unwrap_or_default(),
        Err(skipped) => return vec![skipped],
    };
    let wrong: Vec<Finding> = ports.iter().filter_map(|port| find_unusable(ID, port)).collect();
    if !wrong.is_empty() {
        return wrong;
    }
    let is_running = ports.iter().any(|port| port.state == PortState::Ours);
    let text = if is_running { "this server is running and has its ports" } else { "all ports are free" };
    vec![Finding::ok(ID, "", text)]
}

fn find_unusable(id: &'static str, port: &PortFacts) -> Option<Finding> {
    let PortFacts { option, address, state } = port;
    let (text, fix) = match state {
        PortState::Free | PortState::Ours => return None,
        PortState::Taken => (
            format!("{option}: another program, or a running Pillarbox, has {address}"),
            Fix::command(
                format!("see which program has the port; if it is another one, stop it or change {option}"),
                format!("ss -ltnp 'sport = :{}'", address.port()),
            ),
        ),
        PortState::Forbidden => (
            format!("{option}: this user may not listen on {address}"),
            Fix::command(
                "start the server with the capability that the systemd unit grants; `doctor --local` cannot see more without it",
                "AmbientCapabilities=CAP_NET_BIND_SERVICE",
            ),
        ),
        PortState::Unusable(reason) => (
            format!("{option}: cannot listen on {address}: {reason}"),
            Fix::text(format!("set {option} to an address that this machine has")),
        ),
    };
    Some(Finding::error(id, address.to_string(), text, fix))
}
