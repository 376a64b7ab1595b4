//! Validation of webhook URLs. Every attempt checks the resolved address again; this check reports errors early.

use std::net::IpAddr;

use url::{Host, Url};

use crate::config;
use crate::egress_guard::is_permitted;

const CHARS_MAX: usize = 2048;

/// The URL in normal form.
///
/// # Errors
/// The reason why the URL is not allowed, for people.
pub fn check(text: &str, settings: &config::Webhooks) -> Result<String, &'static str> {
    if text.len() > CHARS_MAX {
        return Err("this is longer than 2048 characters");
    }
    let url = Url::parse(text).map_err(|_| "this is not a URL like https://example.com/hook")?;
    match url.scheme() {
        "https" => {}
        "http" if settings.allows_plain_http(&url) => {}
        "http" => return Err("use https; http is allowed only for hosts that the operator lists"),
        _ => return Err("this must begin with https://"),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("remove user name and password; the signature authenticates the sender");
    }
    if url.fragment().is_some() {
        return Err("remove the fragment (after #); it is never sent");
    }
    let literal = match url.host() {
        Some(Host::Ipv4(ip)) => Some(IpAddr::V4(ip)),
        Some(Host::Ipv6(ip)) => Some(IpAddr::V6(ip)),
        _ => None,
    };
    if literal.is_some_and(|ip| !is_permitted(ip, &settings.allowed_private_networks)) {
        return Err(
            "this is a private, loopback or other special-purpose address; webhooks need a public address",
        );
    }
    Ok(url.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_permitted_urls_are_accepted() {
        let settings = config::Webhooks {
            plain_http_hosts: vec!["hooks.internal".into(), "127.0.0.1".into()],
            allowed_private_networks: vec!["127.0.0.0/8".parse().unwrap()],
            ..config::Webhooks::default()
        };
        for (text, expected) in [
            ("https://example.com", Some("https://example.com/")),
            ("HTTPS://Example.COM:8443/a?b=c", Some("https://example.com:8443/a?b=c")),
            ("http://hooks.internal/x", Some("http://hooks.internal/x")),
            ("http://127.0.0.1:80/x", Some("http://127.0.0.1/x")),
            ("https://8.8.8.8/", Some("https://8.8.8.8/")),
            ("http://example.com/", None),
            ("http://hooks.internal.example.com/", None),
            ("ftp://example.com/", None),
            ("https://user:secret@example.com/", None),
            ("https://example.com/#x", None),
            ("https://10.0.0.1/", None),
            ("https://0xa9fea9fe/", None),
            ("https://[::1]/", None),
            ("https://[::ffff:10.0.0.1]/", None),
            ("https://", None),
            ("/hook", None),
            ("", None),
        ] {
            assert_eq!(check(text, &settings).ok().as_deref(), expected, "{text}");
        }
        assert!(check(&format!("https://example.com/{}", "x".repeat(2048)), &settings).is_err());
    }
}
