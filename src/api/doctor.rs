//! The doctor: what is wrong with the server, and what to do.

use crate::doctor::Diagnosis;

use super::{Access, ApiResponse, Operation, RequestContext, Resource, Result};

/// The operations of the doctor.
pub fn resource() -> Resource {
    let text = "Checks of the server, each with what to do.";
    Resource::new("Doctor", text, Access::Platform).live_only().operations([
        Operation::get("/v1/doctor", "get_diagnosis", server)
            .describe("Check the server", "The checks run at most once an hour, or now with `refresh=true`. Each finding says what was looked at.")
            .query::<bool>("refresh", "Whether to run the checks now.")
            .returns::<Diagnosis>("The findings, the worst first."),
    ])
}

async fn server(mut call: RequestContext) -> Result<ApiResponse> {
    let refresh = call.query.value("refresh").unwrap_or(false);
    call.query.finish()?;
    let diagnosis = call.api.doctor.diagnose(refresh).await;
    ApiResponse::ok(diagnosis.as_ref())
}
