//! SPF policies (RFC 7208): whether one permits this server, and how it has to be changed for that.

use std::net::IpAddr;
use std::sync::Arc;

use super::sources::{Sender, ehlo_name, is_public, public_sources};
use crate::config::Config;
use crate::dns::{DnsError, Resolver};
use crate::mail::DomainName;

/// The addresses from which the server sends.
#[derive(Debug, Clone)]
pub struct SpfSources {
    /// `None`: the system chooses the address.
    config: Option<Arc<Config>>,
    /// The host name of the server.
    hostname: DomainName,
}

impl SpfSources {
    /// Of a server whose system chooses the addresses.
    pub fn of_system(hostname: &DomainName) -> Self {
        Self { config: None, hostname: hostname.clone() }
    }

    /// Adds the addresses of a configuration.
    pub fn and_of(self, config: Arc<Config>) -> Self {
        Self { config: Some(config), ..self }
    }

    /// The name in EHLO of a connection from this address.
    pub fn ehlo_name(&self, address: IpAddr) -> &DomainName {
        self.config.as_ref().map_or(&self.hostname, |config| ehlo_name(config, address))
    }

    /// Whether the SPF record of a domain permits every address that mail of its tenant leaves from. `pool` is the source pool
    /// of the tenant, if it has its own. `None` if that depends on an address that this server does not know.
    ///
    /// # Errors
    /// A look-up failed.
    pub(super) async fn are_permitted_by(
        &self,
        domain: &DomainName,
        pool: Option<&str>,
        resolver: &Resolver,
    ) -> Result<Option<bool>, DnsError> {
        let configured = self.config.as_ref().map(|config| public_sources(config, Sender::Tenant(pool)));
        if let Some(configured) = configured.filter(|configured| !configured.is_empty()) {
            return self.all_permitted(&configured, domain, resolver).await.map(Some);
        }
        // Most servers send from the address of their name, but not those behind a translator of addresses.
        let own = resolver.addresses(self.hostname.as_str()).await.unwrap_or_default();
        let own: Vec<IpAddr> = own.into_iter().filter(is_public).collect();
        let permitted = !own.is_empty() && self.all_permitted(&own, domain, resolver).await?;
        Ok(permitted.then_some(true))
    }

    async fn all_permitted(
        &self,
        addresses: &[IpAddr],
        domain: &DomainName,
        resolver: &Resolver,
    ) -> Result<bool, DnsError> {
        for address in addresses {
            if !resolver.spf_permits(domain, *address, &self.hostname).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Whether a policy permits all addresses that the record of the host permits. Without evaluation, so only what the policy
/// itself says counts.
pub fn refers_to(policy: &str, host: &str) -> bool {
    let policy = policy.to_ascii_lowercase();
    let mut redirects = false;
    for term in policy.split_ascii_whitespace().skip(1) {
        let passing = term.strip_prefix('+').unwrap_or(term);
        if passing.trim_start_matches(['-', '~', '?']) == "all" {
            // What follows is never evaluated, and a redirect does not apply (§6.1).
            return passing == "all";
        }
        let names_host = |kind: &str| {
            let target = passing.strip_prefix(kind).and_then(|target| target.split('/').next());
            target.is_some_and(|target| target.trim_end_matches('.') == host)
        };
        if ["include:", "a:", "mx:"].into_iter().any(names_host) {
            return true;
        }
        redirects |= names_host("redirect=");
    }
    redirects
}

/// The policy to publish in place of the policies that are there: there must be one only (§3.2).
pub fn merged(found: &[String], host: &DomainName) -> String {
    let own = format!("include:{host}");
    if found.is_empty() {
        return format!("v=spf1 {own} ~all");
    }
    let (mut mechanisms, mut modifiers) = (Vec::new(), Vec::new());
    let (mut all, mut redirect) = (None, None);
    for policy in found {
        let mut ended = false;
        for term in policy.split_ascii_whitespace().skip(1) {
            let bare = term.trim_start_matches(['+', '-', '~', '?']).to_ascii_lowercase();
            let is_modifier = bare.split([':', '/']).next().is_some_and(|name| name.contains('='));
            if bare == "all" {
                all.get_or_insert(term);
                ended = true;
            } else if bare.starts_with("redirect=") {
                redirect.get_or_insert(term);
            } else if is_modifier {
                modifiers.push(term);
            } else if !ended && bare != own && !mechanisms.contains(&term) {
                // What follows `all` is never evaluated.
                mechanisms.push(term);
            }
        }
    }
    mechanisms.push(&own);
    // §6.1: a redirect applies only without `all`.
    mechanisms.extend(all.or(redirect));
    mechanisms.extend(modifiers);
    format!("v=spf1 {}", mechanisms.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_refers_to_a_host_only_if_it_passes_its_addresses() {
        for (policy, expected) in [
            ("v=spf1 include:mail.host.example ~all", true),
            ("V=SPF1 ip4:192.0.2.1 +include:MAIL.host.example. -all", true),
            ("v=spf1 redirect=mail.host.example", true),
            ("v=spf1 a:mail.host.example/24 -all", true),
            ("v=spf1 +all", true),
            ("v=spf1 -include:mail.host.example ~all", false),
            ("v=spf1 ?include:mail.host.example ~all", false),
            ("v=spf1 -all include:mail.host.example", false),
            ("v=spf1 redirect=mail.host.example -all", false),
            ("v=spf1 include:evilmail.host.example -all", false),
            ("v=spf1 exp=mail.host.example -all", false),
            ("v=spf1 -all", false),
        ] {
            assert_eq!(refers_to(policy, "mail.host.example"), expected, "{policy}");
        }
    }

    #[test]
    fn the_proposed_policy_extends_the_ones_that_are_there() {
        let host = DomainName::parse("mail.host.example").unwrap();
        for (found, expected) in [
            (&[][..], "v=spf1 include:mail.host.example ~all"),
            (&["v=spf1 mx -all"], "v=spf1 mx include:mail.host.example -all"),
            (&["v=spf1 ip4:192.0.2.1"], "v=spf1 ip4:192.0.2.1 include:mail.host.example"),
            (&["v=spf1 -include:mail.host.example ~all"], "v=spf1 include:mail.host.example ~all"),
            (&["v=spf1 mx -all include:mail.host.example"], "v=spf1 mx include:mail.host.example -all"),
            (
                &["v=spf1 a redirect=_spf.x.example"],
                "v=spf1 a include:mail.host.example redirect=_spf.x.example",
            ),
            (
                &["v=spf1 a exp=why.x.example ?all"],
                "v=spf1 a include:mail.host.example ?all exp=why.x.example",
            ),
            (
                &["v=spf1 mx a ~all", "v=spf1 a ip4:192.0.2.1 -all"],
                "v=spf1 mx a ip4:192.0.2.1 include:mail.host.example ~all",
            ),
        ] {
            let found: Vec<String> = found.iter().map(|&policy: &&str| policy.to_owned()).collect();
            assert_eq!(merged(&found, &host), expected, "{found:?}");
        }
    }
}
