//! Verification of DKIM signatures (RFC 6376), with mail-auth over the same resolver.

use std::borrow::Cow;
use std::time::Duration;

use mail_auth::dkim::Canonicalization;
use mail_auth::{AuthenticatedMessage, DkimResult, MessageAuthenticator};
use memchr::memmem;
use tokio::time::timeout;

use super::Resolver;
use crate::mail::{DomainName, Field, HeaderBlock};

/// Signatures that are looked at; each may need a lookup and a hash of the message.
const SIGNATURES_MAX: usize = 3;
/// Octets of the header of a message that is verified.
const HEADER_OCTETS_MAX: usize = 256 * 1024;
/// The time for all lookups.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(5);

/// Who signed a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignatureCheck {
    /// A valid signature of this domain, which is aligned with From.
    Aligned(DomainName),
    /// No valid signature is aligned with From.
    NotAligned,
    /// A lookup failed: a later one may succeed.
    Temporary,
}

impl Resolver {
    /// Looks for a valid signature of the domain in From, or of a domain above or under it. Signatures of other domains
    /// are not looked up. Signatures with `l=` are ignored: mail-auth is strict.
    pub async fn verify_signature(&self, message: &[u8], from: &DomainName) -> SignatureCheck {
        let Some(message) = keep_aligned(message, from) else { return SignatureCheck::NotAligned };
        let verified = timeout(VERIFY_TIMEOUT, self.verify_with_blank_lines(&message, from)).await;
        verified.unwrap_or(SignatureCheck::Temporary)
    }

    /// Relaxed canonicalization turns a last line of white space into an empty line. RFC 6376 §3.4.4 ignores all empty
    /// lines at the end, but mail-auth 0.13 hashes them: such a message is verified again without these lines.
    async fn verify_with_blank_lines(&self, message: &[u8], from: &DomainName) -> SignatureCheck {
        let checked = self.verify(message, from, |_| true).await;
        let trimmed = without_blank_lines(message);
        if checked != SignatureCheck::NotAligned || trimmed.len() == message.len() {
            return checked;
        }
        self.verify(trimmed, from, |body| body == Canonicalization::Relaxed).await
    }

    async fn verify(
        &self,
        message: &[u8],
        from: &DomainName,
        is_usable: impl Fn(Canonicalization) -> bool,
    ) -> SignatureCheck {
        let Some(message) = AuthenticatedMessage::parse(message) else { return SignatureCheck::NotAligned };
        let outputs = MessageAuthenticator(self.current.clone()).verify_dkim(&message).await;
        let mut checked = SignatureCheck::NotAligned;
        for output in &outputs {
            let Some(signature) = output.signature().filter(|signature| is_usable(signature.cb)) else {
                continue;
            };
            // RFC 6376 §5.4: From must be signed.
            let covers_from = signature.h.iter().any(|name| name.eq_ignore_ascii_case("From"));
            match (output.result(), DomainName::parse(&signature.d)) {
                // `keep_aligned` may have read the field differently from mail-auth.
                (DkimResult::Pass, Ok(domain)) if covers_from && is_aligned(&domain, from) => {
                    return SignatureCheck::Aligned(domain);
                }
                (DkimResult::TempError(_), _) => checked = SignatureCheck::Temporary,
                _ => {}
            }
        }
        checked
    }
}

/// The message with those of its first signatures that are aligned; `None` if there are none.
fn keep_aligned<'a>(message: &'a [u8], from: &DomainName) -> Option<Cow<'a, [u8]>> {
    let header = HeaderBlock::scan(message, HEADER_OCTETS_MAX).ok()?;
    let signatures: Vec<&Field> = header.named("DKIM-Signature").collect();
    let is_kept = |&(position, field): &(usize, &&Field)| {
        let domain = domain_of(&message[field.value.clone()]);
        position < SIGNATURES_MAX && domain.is_some_and(|domain| is_aligned(&domain, from))
    };
    let (kept, dropped): (Vec<_>, Vec<_>) = signatures.iter().enumerate().partition(is_kept);
    if kept.is_empty() {
        return None;
    }
    if dropped.is_empty() {
        return Some(message.into());
    }
    let mut rest = Vec::with_capacity(message.len());
    let mut start = 0;
    for (_, field) in dropped {
        rest.extend_from_slice(&message[start..field.span.start]);
        start = field.span.end;
    }
    rest.extend_from_slice(&message[start..]);
    Some(rest.into())
}

/// The tag `d=` of a signature (RFC 6376 §3.5).
fn domain_of(tags: &[u8]) -> Option<DomainName> {
    let tags = String::from_utf8_lossy(tags);
    let mut tags = tags.split(';').filter_map(|tag| tag.split_once('='));
    let (_, domain) = tags.find(|(name, _)| name.trim() == "d")?;
    DomainName::parse(domain.trim()).ok()
}

/// One of the domains is at or under the other, and both have more than one label. A subdomain may sign for
/// From: the result names the domain that signed, and trust is in that name.
pub(super) fn is_aligned(signing: &DomainName, from: &DomainName) -> bool {
    let is_related = signing.is_at_or_under(from) || from.is_at_or_under(signing);
    is_related && [signing, from].iter().all(|domain| domain.as_str().contains('.'))
}

/// The message without the lines of white space at its end.
pub(super) fn without_blank_lines(message: &[u8]) -> &[u8] {
    let body = memmem::find(message, b"\r\n\r\n").map_or(message.len(), |at| at + 4);
    let is_text = |octet: &u8| !matches!(octet, b' ' | b'\t' | b'\r' | b'\n');
    let text_end = message[body..].iter().rposition(is_text).map_or(body, |at| body + at + 1);
    let line_end = message[text_end..].windows(2).position(|two| two == b"\r\n");
    match line_end {
        // The white space behind the last text is a part of its line.
        Some(line_end) if text_end > body => &message[..text_end + line_end + 2],
        _ => &message[..text_end],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(name: &str) -> DomainName {
        DomainName::parse(name).unwrap()
    }

    #[test]
    fn a_signature_is_aligned_with_a_domain_above_or_under_its_own() {
        for (signing, from, aligned) in [
            ("b.test", "b.test", true),
            ("b.test", "mail.b.test", true),
            ("mail.b.test", "b.test", true),
            ("xb.test", "b.test", false),
            ("a.b.test", "c.b.test", false),
            ("test", "b.test", false),
        ] {
            assert_eq!(is_aligned(&domain(signing), &domain(from)), aligned, "{signing} {from}");
        }
    }

    #[test]
    fn only_aligned_signatures_among_the_first_three_are_kept() {
        let signature = |domain: &str| format!("DKIM-Signature: v=1; d={domain};\r\n s=x\r\n");
        let message = |domains: &[&str]| {
            let signatures: String = domains.iter().map(|domain| signature(domain)).collect();
            format!("A: b\r\n{signatures}From: a@b.test\r\n\r\nd=b.test\r\n")
        };
        let kept = |domains: &[&str]| {
            let message = message(domains);
            let kept = keep_aligned(message.as_bytes(), &domain("b.test"));
            kept.map(|kept| String::from_utf8(kept.into_owned()).unwrap())
        };
        assert_eq!(kept(&["c.test", "b.test", "d.test"]), Some(message(&["b.test"])));
        assert_eq!(kept(&["b.test"]), Some(message(&["b.test"])));
        assert_eq!(kept(&["c.test", "c.test", "c.test", "b.test"]), None);
        assert_eq!(kept(&[]), None);
    }

    #[test]
    fn lines_of_white_space_at_the_end_are_cut_and_the_header_stays() {
        for (message, trimmed) in [
            ("A: b\r\n\r\ntext \r\n \r\n\t\r\n", "A: b\r\n\r\ntext \r\n"),
            ("A: b\r\n\r\n \r\n\r\n", "A: b\r\n\r\n"),
            ("A: b\r\n\r\ntext", "A: b\r\n\r\ntext"),
            ("A: b\r\n", "A: b\r\n"),
            // RFC 6376 §3.4.4: a form feed is text.
            ("A: b\r\n\r\ntext\r\n\x0c\r\n", "A: b\r\n\r\ntext\r\n\x0c\r\n"),
        ] {
            assert_eq!(without_blank_lines(message.as_bytes()), trimmed.as_bytes(), "{message:?}");
        }
    }
}
