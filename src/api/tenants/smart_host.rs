//! The smart host of a tenant in a request: merges it into the current smart host and validates the result.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::api::json::{Checks, nullable};
use crate::mail::DomainName;
use crate::model::{DestinationPattern, DkimPolicy, TlsMode};
use crate::store::{NewSmartHost, SmartHost};

/// RFC 4954 has no limit, but the maximum length of a command line allows about this many.
const CREDENTIAL_CHARS_MAX: usize = 255;
/// Destinations of a smart host.
const DESTINATIONS_MAX: usize = 1000;

/// The field `smtp` of a tenant. `pass` can be written and never read.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "SmartHostUpdate")]
pub struct SmartHostBody {
    /// Host name or IP address. Required for a new smart host.
    host: Option<String>,
    /// Port. Default: 587, or 465 with implicit TLS.
    port: Option<u16>,
    /// SMTP AUTH user; `null` for no authentication.
    #[serde(default, deserialize_with = "nullable")]
    user: Option<Option<String>>,
    /// Password of `user`; write-only.
    pass: Option<String>,
    /// TLS mode.
    tls: Option<TlsMode>,
    /// Recipient domains that use the smart host: a domain, `.example.com` for its subdomains, or `*`. Empty means all.
    destinations: Option<Vec<DestinationPattern>>,
    /// Who adds the DKIM signatures.
    dkim: Option<DkimPolicy>,
}

/// Merges the request into the current smart host. Adds errors to `checks`; `None` if the host is missing.
pub fn resolve(
    body: SmartHostBody,
    current: Option<&SmartHost>,
    checks: &mut Checks,
) -> Option<NewSmartHost> {
    let password = body.pass.map(Zeroizing::new);
    let Some(host) = body.host.or_else(|| current.map(|c| c.host.clone())) else {
        checks.require(false, "smtp.host", "required", "this field is required");
        return None;
    };
    let given_port = body.port.or(current.map(|c| c.port));
    let tls = body.tls.or(current.map(|c| c.tls)).unwrap_or_else(|| TlsMode::of_port(given_port));
    let user = body.user.unwrap_or_else(|| current.and_then(|c| c.user.clone()));
    let destinations = body.destinations.or_else(|| current.map(|c| c.destinations.clone()));
    let smart_host = SmartHost {
        host,
        port: given_port.unwrap_or_else(|| tls.port()),
        user,
        tls,
        destinations: destinations.unwrap_or_default(),
        dkim: body.dkim.or(current.map(|c| c.dkim)).unwrap_or_default(),
        password_revision: current.map_or(0, |c| c.password_revision),
    };
    check_limits(&smart_host, "smtp", checks);
    check_password(&smart_host, password.as_ref().map(|p| p.as_str()), current, checks);
    Some(NewSmartHost { smart_host, password })
}

/// Checks what a smart host has without its password, in the field `path`.
pub(super) fn check_limits(smart_host: &SmartHost, path: &str, checks: &mut Checks) {
    let SmartHost { host, port, user, destinations, .. } = smart_host;
    let is_host = host.parse::<IpAddr>().is_ok() || DomainName::parse(host).is_ok();
    let message = "this must be a host name or an IP address";
    checks.require(is_host, &format!("{path}.host"), "invalid", message);
    checks.require(*port != 0, &format!("{path}.port"), "invalid", "this must be from 1 to 65535");
    checks.length(destinations.len(), &format!("{path}.destinations"), DESTINATIONS_MAX, "entries");
    if let Some(user) = user {
        checks.line(user, &format!("{path}.user"), CREDENTIAL_CHARS_MAX);
    }
}

/// Checks the password that is given with a smart host.
pub fn check_password(
    wanted: &SmartHost,
    password: Option<&str>,
    current: Option<&SmartHost>,
    checks: &mut Checks,
) {
    if let Some(password) = password {
        checks.line(password, "smtp.pass", CREDENTIAL_CHARS_MAX);
        checks.require(wanted.user.is_some(), "smtp.user", "required", "a password needs a user");
    }
    if wanted.user.is_some() {
        // The server sends a stored password only to the host, port and user for which it was given.
        let is_kept =
            current.is_some_and(|c| c.user == wanted.user && c.host == wanted.host && c.port == wanted.port);
        let message =
            "give the password: a stored password is kept only while host, port and user stay the same";
        checks.require(password.is_some() || is_kept, "smtp.pass", "required", message);
        let is_loopback = wanted.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let message = "use starttls or implicit: passwords are sent only over verified TLS";
        checks.require(wanted.tls.protects_password(is_loopback), "smtp.tls", "invalid", message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str, current: Option<&SmartHost>) -> (Option<NewSmartHost>, Vec<String>) {
        let mut checks = Checks::default();
        let resolved = resolve(serde_json::from_str(text).unwrap(), current, &mut checks);
        let faults = checks.finish().err().map(|e| e.fields).unwrap_or_default();
        (resolved, faults.into_iter().map(|f| f.path).collect())
    }

    fn current() -> SmartHost {
        SmartHost {
            host: "mx.example".into(),
            port: 587,
            user: Some("u".into()),
            tls: TlsMode::Starttls,
            destinations: vec!["b.example".parse().unwrap()],
            dkim: DkimPolicy::Rsa,
            password_revision: 1,
        }
    }

    #[test]
    fn port_and_tls_have_defaults_that_fit_together() {
        for (text, port, tls) in [
            (r#"{"host":"a.b"}"#, 587, TlsMode::Starttls),
            (r#"{"host":"a.b","port":465}"#, 465, TlsMode::Implicit),
            (r#"{"host":"a.b","tls":"implicit"}"#, 465, TlsMode::Implicit),
            (r#"{"host":"::1","port":2525,"tls":"none"}"#, 2525, TlsMode::None),
        ] {
            let (resolved, faults) = run(text, None);
            let host = resolved.unwrap().smart_host;
            assert_eq!((host.port, host.tls, faults.len()), (port, tls, 0), "{text}");
        }
    }

    #[test]
    fn an_invalid_field_of_a_smart_host_is_reported() {
        for (text, fault) in [
            (r#"{}"#, "smtp.host"),
            (r#"{"host":"a b"}"#, "smtp.host"),
            (r#"{"host":"a.b","port":0}"#, "smtp.port"),
            (r#"{"host":"a.b","user":"u"}"#, "smtp.pass"),
            (r#"{"host":"a.b","pass":"p"}"#, "smtp.user"),
            (r#"{"host":"a.b","user":"u","pass":"p\u0000"}"#, "smtp.pass"),
            (r#"{"host":"a.b","user":"u","pass":"p","tls":"opportunistic"}"#, "smtp.tls"),
            (r#"{"host":"a.b","user":"u","pass":"p","tls":"none"}"#, "smtp.tls"),
        ] {
            assert_eq!(run(text, None).1, [fault], "{text}");
        }
        assert_eq!(run(r#"{"host":"127.0.0.1","user":"u","pass":"p","tls":"none"}"#, None).1, [""; 0]);
    }

    #[test]
    fn an_update_without_destinations_and_dkim_policy_keeps_them() {
        let of = |text: &str, current: Option<&SmartHost>| {
            let host = run(text, current).0.unwrap().smart_host;
            (host.destinations.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "), host.dkim)
        };
        assert_eq!(of(r#"{"host":"a.b"}"#, None), ("".into(), DkimPolicy::All));
        assert_eq!(of(r#"{"tls":"implicit"}"#, Some(&current())), ("b.example".into(), DkimPolicy::Rsa));
        let given = r#"{"destinations":["a.b",".c.d"],"dkim":"none"}"#;
        assert_eq!(of(given, Some(&current())), ("a.b .c.d".into(), DkimPolicy::None));
        let many = format!(r#"{{"host":"a.b","destinations":[{}"*"]}}"#, r#""*","#.repeat(DESTINATIONS_MAX));
        assert_eq!(run(&many, None).1, ["smtp.destinations"]);
    }

    #[test]
    fn a_stored_password_is_never_sent_to_another_host() {
        let (resolved, faults) = run(r#"{"tls":"implicit"}"#, Some(&current()));
        assert!(faults.is_empty() && resolved.unwrap().password.is_none());
        for text in [r#"{"host":"evil.example"}"#, r#"{"port":25}"#, r#"{"user":"v"}"#] {
            assert_eq!(run(text, Some(&current())).1, ["smtp.pass"], "{text}");
        }
        assert_eq!(run(r#"{"user":null,"host":"other.example"}"#, Some(&current())).1, [""; 0]);
        assert_eq!(run(r#"{"tls":"opportunistic"}"#, Some(&current())).1, ["smtp.tls"]);
    }
}
