//! Recognises a repeated submission: its key, and a digest of the envelope that was submitted under it. Pure.

use sha2::{Digest, Sha256};

use super::{Submission, header_rewrite::CheckedHeader};
use crate::mail::{Envelope, MailParameters, Recipient};
use crate::store::SubmissionKey;

/// The key that the caller gave, or that the message has in its header.
pub(super) fn submission_key(submission: &Submission, header: &CheckedHeader) -> Option<SubmissionKey> {
    let Submission { envelope, extras, .. } = submission;
    let own_key = || {
        let name = format!("smtp {}", header.idempotency_key.as_ref()?);
        Some(SubmissionKey { name, digest: digest_of(envelope) })
    };
    extras.submission_key.clone().or_else(own_key)
}

/// A digest of the envelope. The content does not count: libraries give each submission a new Date, Message-ID and MIME
/// boundary. Lengths separate the parts unambiguously.
fn digest_of(envelope: &Envelope) -> [u8; 32] {
    let Envelope { reverse_path, recipients, parameters, .. } = envelope;
    let mut recipients: Vec<String> = recipients.iter().map(describe_recipient).collect();
    recipients.sort_unstable();
    let described = [reverse_path.to_string(), describe_parameters(parameters)];
    let mut digest = Sha256::new();
    for part in recipients.iter().chain(&described).map(String::as_bytes) {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

fn describe_recipient(recipient: &Recipient) -> String {
    let Recipient { address, parameters } = recipient;
    let notify = parameters.notify.map(|notify| notify.to_string());
    let original = parameters.original_recipient.as_ref().map(ToString::to_string);
    format!("{address} {notify:?} {original:?}")
}

/// The parameters as given by the client: a release time computed from `HOLDFOR` differs at each attempt.
fn describe_parameters(parameters: &MailParameters) -> String {
    let MailParameters { return_content, envelope_id, require_tls, release_at, hold_for_s, deliver_by } =
        parameters;
    let return_content = return_content.map(|content| content.as_str());
    let envelope_id = envelope_id.as_ref().map(ToString::to_string);
    let held_until = release_at.filter(|_| hold_for_s.is_none());
    format!("{return_content:?} {envelope_id:?} {require_tls} {held_until:?} {hold_for_s:?} {deliver_by:?}")
}
