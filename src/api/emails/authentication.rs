//! Whether receivers find a message authentic: its signatures, the address that it left from, and DMARC, looked up now.

use schemars::JsonSchema;
use serde::Serialize;
use tokio::runtime::Handle;

use crate::api::{ApiError, ApiResponse, RequestContext, Result};
use crate::dns::{Departure, DmarcReport, SignatureReport, SpfReport};
use crate::mail::Timestamp;
use crate::model::{DeliveryState, MessageId};
use crate::store::{Attempt, Journal, Message};
use crate::verification::SpfSources;

use super::{parts, raw};

/// Attempts among which one with a connection is looked for.
const ATTEMPTS_MAX: usize = 1000;

/// What receivers find.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Authentication")]
pub struct AuthenticationView {
    /// Always `authentication`.
    #[schemars(extend("const" = "authentication"))]
    object: &'static str,
    /// The message.
    message_id: MessageId,
    /// The domain of From; `null` if it has none, or several.
    from_domain: Option<String>,
    /// The first 8 signatures.
    dkim: Vec<SignatureReport>,
    /// SPF of the address that the message left from; `null` until it has left.
    spf: Option<SpfReport>,
    /// DMARC.
    dmarc: DmarcReport,
    /// Time of the check.
    checked_at: Timestamp,
}

/// `GET /v1/emails/{id}/authentication`
pub async fn check(call: RequestContext) -> Result<ApiResponse> {
    let message = super::find(&call).await?;
    let octets = raw::find_content(&call, &message).await?.octets();
    if octets > parts::MESSAGE_OCTETS_MAX {
        return Err(parts::too_large());
    }
    // The permit comes before the memory, so that a request holds no memory while it waits for a permit.
    let permit = call.api.lookups.acquire(call.scope()).await.map_err(ApiError::internal)?;
    let (octets, reservation) = raw::load(&call, message.id, octets, 2).await?;
    let attempts = call.store().attempts(message.id, None, ATTEMPTS_MAX).await?;
    let departure = departure_of(&message, attempts.items, &call.api.verification.settings.sources);
    // A key that was published a minute ago must be seen.
    let resolver = call.api.verification.resolver.without_cache();
    let runtime = Handle::current();
    // mail-auth hashes the message between its look-ups, which would block a thread of the runtime.
    let checked = tokio::task::spawn_blocking(move || {
        let _held = (permit, reservation);
        runtime.block_on(resolver.authenticate(&octets, departure.as_ref()))
    });
    let found = checked.await.map_err(ApiError::internal)?;
    ApiResponse::ok(&AuthenticationView {
        object: "authentication",
        message_id: message.id,
        from_domain: found.from_domain,
        dkim: found.signatures,
        spf: found.spf,
        dmarc: found.dmarc,
        checked_at: call.now,
    })
}

/// How the message left last, if possible in an attempt that delivered it.
fn departure_of(message: &Message, mut attempts: Vec<Attempt>, sources: &SpfSources) -> Option<Departure> {
    attempts.retain(|attempt| attempt.source.is_some());
    attempts.sort_by_key(|attempt| (attempt.outcome == DeliveryState::Delivered, attempt.started_at));
    let attempt = attempts.pop()?;
    let address = attempt.source?;
    let after = |command: &str| {
        let lines = attempt.transcript.lines().rev();
        lines.filter_map(|line| line.strip_prefix("> ")?.strip_prefix(command)).next().map(str::to_owned)
    };
    let given = message.reverse_path.mailbox().map(ToString::to_string);
    // The path of the transaction may be that of a return host.
    let path = after("MAIL FROM:<").map(|rest| rest.split('>').next().unwrap_or_default().to_owned());
    let path = path.or(given).unwrap_or_default();
    let domain = path.rsplit_once('@').map(|(_, domain)| domain.to_owned());
    // The transcript of a further message over a connection has none.
    let ehlo_name = after("EHLO ").or_else(|| after("HELO "));
    let ehlo_name = ehlo_name.unwrap_or_else(|| sources.ehlo_name(address).to_string());
    Some(Departure { address, ehlo_name, domain })
}
