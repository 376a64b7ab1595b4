//! The doctor: what is wrong with the server, and what to do.

use crate::doctor::{Diagnosis, Extra};

use super::{Access, ApiError, ApiResponse, Operation, RequestContext, Resource, Result};

/// The operations of the doctor.
pub fn resource() -> Resource {
    let text = "Checks of the server, each with what to do.";
    Resource::new("Doctor", text, Access::Platform).live_only().operations([
        Operation::get("/v1/doctor", "get_diagnosis", server)
            .describe("Check the server", "The checks run at most once an hour, or now with `refresh=true`. Each finding says what was looked at.")
            .query::<bool>("refresh", "Whether to run the checks now.")
            .query::<bool>("dnsbl", "Whether to run them now and ask public block lists too, if `doctor.dnsbls` names none.")
            .query::<bool>("deep", "Whether to run them now and read the whole database too.")
            .query::<bool>("send", "Whether to run them now and submit a message to the sandbox too, with a test key for a minute. Its tenant sees the message, the revoked key and their events, and the message counts in its usage.")
            .takes_long()
            .returns::<Diagnosis>("The findings, the worst first."),
    ])
}

async fn server(mut call: RequestContext) -> Result<ApiResponse> {
    let mut asks = |name: &str| call.query.value(name).unwrap_or(false);
    let refresh = asks("refresh");
    let extra = Extra { blocklists: asks("dnsbl"), deep: asks("deep"), send: asks("send") };
    call.query.finish()?;
    let diagnosis = call.api.doctor.diagnose(refresh, extra).await.map_err(ApiError::internal)?;
    let diagnosis = diagnosis.ok_or_else(ApiError::stopping)?;
    ApiResponse::ok(diagnosis.as_ref())
}
