//! The keys of the addresses that reports come to, and of unsubscribe links.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::mail::Timestamp;
use crate::store::{Reports, TokenGeneration};

use super::{Access, ApiResponse, List, Operation, RequestContext, Resource, Result};

/// The operations of tokens.
pub fn resource() -> Resource {
    let text = "The keys of the addresses that reports come to and of unsubscribe links, in generations.";
    Resource::new("Tokens", text, Access::Platform).live_only().operations([
        Operation::get("/v1/tokens", "list_tokens", list)
            .summary("List the generations of keys")
            .returns::<List<GenerationView>>("All generations, the newest first."),
        Operation::post("/v1/tokens/rotate", "rotate_tokens", rotate)
            .describe(
                "Open the next generation of keys",
                "Addresses that were made with the earlier generations work for 60 days more, unsubscribe links for ever; with `at_once`, neither works any longer.",
            )
            .may_take::<Rotate>(r#"{"at_once": false}"#)
            .returns::<GenerationView>("The new generation."),
    ])
}

/// How to rotate.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "TokenRotation")]
pub struct Rotate {
    /// Whether earlier generations are refused now: reports about mail that was sent before are lost, and its unsubscribe
    /// links do not work. Default: false.
    at_once: bool,
}

/// A generation of keys.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "TokenGeneration")]
pub struct GenerationView {
    /// Always `token_generation`.
    #[schemars(extend("const" = "token_generation"))]
    object: &'static str,
    /// Its number.
    generation: u32,
    /// Since when it is used; `null` for the first one.
    created_at: Option<Timestamp>,
    /// Until when its addresses are accepted; `null` for the newest one.
    accepted_until: Option<Timestamp>,
}

impl From<TokenGeneration> for GenerationView {
    fn from(one: TokenGeneration) -> Self {
        Self {
            object: "token_generation",
            generation: one.generation,
            created_at: Some(one.since).filter(|since| *since > Timestamp::UNIX_EPOCH),
            accepted_until: one.refused_at,
        }
    }
}

async fn list(call: RequestContext) -> Result<ApiResponse> {
    let generations = call.store().token_generations().await?;
    ApiResponse::ok(&List::whole(generations.into_iter().map(GenerationView::from).collect()))
}

/// `POST /v1/tokens/rotate`.
async fn rotate(call: RequestContext) -> Result<ApiResponse> {
    let Rotate { at_once } = if call.body.is_empty() { Rotate::default() } else { call.json()? };
    let respond = |rotated: &TokenGeneration| ApiResponse::ok(&GenerationView::from(*rotated));
    let rotate = async |store: crate::store::Store| Ok(store.rotate_tokens(at_once, call.now).await?);
    call.change(respond, rotate).await
}
