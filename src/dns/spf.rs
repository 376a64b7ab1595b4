//! Evaluation of SPF records (RFC 7208), with mail-auth over the same resolver.

use std::collections::VecDeque;
use std::net::IpAddr;

use mail_auth::spf::verify::SpfParameters;
use mail_auth::{MessageAuthenticator, SpfResult};
use tokio::time::timeout;

use super::{DnsError, LOOKUP_TIMEOUT, Resolver};
use crate::mail::DomainName;

/// Look-ups after which a record is not followed further: RFC 7208 §4.6.4 allows 10.
const COUNTED_MAX: u32 = 20;

/// The look-ups that the evaluation of an SPF record needs at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpfCost {
    /// Of terms, 20 at most (RFC 7208 §4.6.4).
    pub lookups: u32,
    /// Those without an answer.
    pub void_lookups: u32,
}

impl Resolver {
    /// What the SPF record of a domain costs an evaluation that no term ends. Names with macros are not looked up.
    ///
    /// # Errors
    /// [`DnsError::Temporary`] if a look-up failed.
    pub async fn spf_cost(&self, domain: &DomainName) -> Result<SpfCost, DnsError> {
        let mut cost = SpfCost::default();
        let mut names = VecDeque::from([domain.to_string()]);
        while let Some(name) = names.pop_front() {
            let texts = self.texts(&name).await;
            if is_void(&texts)? && name != domain.as_str() {
                cost.void_lookups += 1;
                continue;
            }
            let texts = texts.unwrap_or_default();
            let policy = texts.iter().find(|text| is_policy(text)).map(String::as_str).unwrap_or_default();
            for term in counted_terms(policy) {
                if cost.lookups == COUNTED_MAX {
                    return Ok(cost);
                }
                cost.lookups += 1;
                let target = term.target.unwrap_or(&name).trim_end_matches('.').to_owned();
                if target.contains('%') {
                    continue;
                }
                cost.void_lookups += match term.kind {
                    TermKind::Policy => {
                        names.push_back(target);
                        false
                    }
                    TermKind::Address => is_void(&self.addresses(&target).await)?,
                    TermKind::Mx => is_void(&self.mail_exchanges(&target).await)?,
                    TermKind::Ptr => false,
                } as u32;
            }
        }
        Ok(cost)
    }

    /// Whether the SPF record of a domain permits an address to send mail. A record that is wrong, or that needs more
    /// look-ups than §4.6.4 allows, permits nothing.
    ///
    /// # Errors
    /// [`DnsError::Temporary`] if a look-up failed.
    pub async fn spf_permits(
        &self,
        domain: &DomainName,
        address: IpAddr,
        ehlo_name: &DomainName,
    ) -> Result<bool, DnsError> {
        let (sender, ehlo_name) = (format!("postmaster@{domain}"), ehlo_name.as_str());
        let parameters = SpfParameters::verify_mail_from(address, ehlo_name, ehlo_name, &sender);
        let authenticator = MessageAuthenticator(self.current.clone());
        let evaluated = timeout(LOOKUP_TIMEOUT, authenticator.verify_spf(parameters)).await;
        match evaluated.map(|output| output.result()) {
            Ok(SpfResult::TempError) => Err(DnsError::Temporary("a look-up for SPF failed".into())),
            Ok(result) => Ok(result == SpfResult::Pass),
            Err(_) => Err(DnsError::Temporary("timeout".into())),
        }
    }
}

/// A term that needs a look-up.
#[derive(Debug, PartialEq, Eq)]
struct Term<'a> {
    kind: TermKind,
    /// The name that it looks up; `None` for that of the record.
    target: Option<&'a str>,
}

#[derive(Debug, PartialEq, Eq)]
enum TermKind {
    /// `include` and `redirect`: another record.
    Policy,
    /// `a` and `exists`.
    Address,
    Mx,
    Ptr,
}

/// The terms that count (RFC 7208 §4.6.4), up to `all`.
fn counted_terms(policy: &str) -> Vec<Term<'_>> {
    let (mut terms, mut redirect) = (Vec::new(), None);
    for term in policy.split_ascii_whitespace().skip(1) {
        let term = term.trim_start_matches(['+', '-', '~', '?']);
        let (name, target) = match term.find([':', '=', '/']) {
            Some(at) if !term[at..].starts_with('/') => (&term[..at], term[at + 1..].split('/').next()),
            Some(at) => (&term[..at], None),
            None => (term, None),
        };
        let kind = match name.to_ascii_lowercase().as_str() {
            // A redirect does not apply (§6.1).
            "all" => return terms,
            "redirect" => {
                redirect = Some(Term { kind: TermKind::Policy, target });
                continue;
            }
            "include" => TermKind::Policy,
            "a" | "exists" => TermKind::Address,
            "mx" => TermKind::Mx,
            "ptr" => TermKind::Ptr,
            _ => continue,
        };
        terms.push(Term { kind, target });
    }
    terms.extend(redirect);
    terms
}

fn is_policy(text: &str) -> bool {
    text.split([' ', '\t']).next().is_some_and(|word| word.eq_ignore_ascii_case("v=spf1"))
}

/// Whether an answer has nothing.
fn is_void<T>(answer: &Result<Vec<T>, DnsError>) -> Result<bool, DnsError> {
    match answer {
        Ok(_) => Ok(false),
        Err(DnsError::NoSuchDomain | DnsError::NoRecords) => Ok(true),
        Err(error) => Err(error.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_with_look_ups_are_counted_up_to_all() {
        let kinds = |policy| {
            let terms = counted_terms(policy);
            terms
                .iter()
                .map(|term| format!("{:?} {}", term.kind, term.target.unwrap_or("-")))
                .collect::<Vec<_>>()
        };
        for (policy, expected) in [
            ("v=spf1 ip4:192.0.2.1 ip6:2001:db8::1 -all", &[][..]),
            (
                "v=spf1 a mx/24 a:x.example/24 include:y.example -all",
                &["Address -", "Mx -", "Address x.example", "Policy y.example"],
            ),
            ("v=spf1 redirect=z.example mx", &["Mx -", "Policy z.example"]),
            ("v=spf1 redirect=z.example ~all", &[]),
            ("v=spf1 -all include:y.example", &[]),
            ("v=spf1 ?exists:%{i}.x.example exp=why.example ptr", &["Address %{i}.x.example", "Ptr -"]),
        ] {
            assert_eq!(kinds(policy), expected, "{policy}");
        }
    }
}
