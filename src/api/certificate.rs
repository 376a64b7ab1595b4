//! The certificate of the listeners, and how it is renewed.

use schemars::JsonSchema;
use serde::Serialize;

use super::{Access, ApiError, ApiResponse, Operation, RequestContext, Resource, Result};
use crate::acme::AcmeState;
use crate::mail::Timestamp;
use crate::model::RefusalCode;

/// The operations.
pub fn resource() -> Resource {
    let text = "The certificate of the listeners.";
    Resource::new("Certificate", text, Access::Platform).live_only().operations([
        Operation::get("/v1/certificate", "show_certificate", show)
            .describe(
                "Show the certificate",
                "Where it comes from, when it ends, and with ACME when it is renewed, what went wrong last, and the record that `dns-persist-01` needs.",
            )
            .returns::<CertificateView>("The certificate."),
        Operation::post("/v1/certificate/renew", "renew_certificate", renew)
            .describe(
                "Renew the certificate",
                "Starts an order now; it goes on when the response is sent. Needs `acme.enabled`.",
            )
            .may_run_again()
            .accepts::<CertificateView>("The certificate in use."),
    ])
}

/// The certificate of the listeners.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Certificate")]
pub struct CertificateView {
    /// Always `certificate`.
    #[schemars(extend("const" = "certificate"))]
    object: &'static str,
    /// `acme`, `files` or `self_signed`.
    source: &'static str,
    /// When it ends.
    expires_at: Option<Timestamp>,
    /// With ACME, how it is renewed.
    acme: Option<AcmeView>,
}

/// How the certificate is renewed.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "CertificateRenewal")]
pub struct AcmeView {
    /// The directory of the authority.
    directory: String,
    /// The account, once there is one.
    account: Option<String>,
    /// The names of the certificate.
    names: Vec<String>,
    /// `http-01` or `dns-persist-01`: the challenge of the last order since the start.
    challenge: Option<&'static str>,
    /// Whether an order runs.
    running: bool,
    /// When the certificate is renewed, or tried again.
    next_at: Option<Timestamp>,
    /// When the last order since the start succeeded.
    renewed_at: Option<Timestamp>,
    /// Since when orders fail.
    failing_since: Option<Timestamp>,
    /// Why the last order failed.
    error: Option<String>,
    /// The record to set once for `dns-persist-01`, for each name.
    records: Vec<PersistRecordView>,
}

/// A record that `dns-persist-01` needs.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "CertificateRecord")]
pub struct PersistRecordView {
    /// Always `TXT`.
    #[serde(rename = "type")]
    #[schemars(extend("const" = "TXT"))]
    kind: &'static str,
    /// Its name.
    name: String,
    /// Its value.
    value: String,
}

fn view(call: &RequestContext) -> CertificateView {
    let api = &call.api;
    let source = match &api.acme {
        Some(acme) if acme.is_in_use() => "acme",
        _ if api.has_certificate_files => "files",
        _ => "self_signed",
    };
    CertificateView {
        object: "certificate",
        source,
        expires_at: api.certificate.expires_at(),
        acme: api.acme.as_ref().map(|acme| acme.state().into()),
    }
}

impl From<AcmeState> for AcmeView {
    fn from(state: AcmeState) -> Self {
        let record = |(name, value)| PersistRecordView { kind: "TXT", name, value };
        Self {
            directory: state.directory,
            account: state.account,
            names: state.names,
            challenge: state.challenge,
            running: state.is_running,
            next_at: state.next_at,
            renewed_at: state.renewed_at,
            failing_since: state.failing_since,
            error: state.error,
            records: state.records.into_iter().map(record).collect(),
        }
    }
}

async fn show(call: RequestContext) -> Result<ApiResponse> {
    ApiResponse::ok(&view(&call))
}

async fn renew(call: RequestContext) -> Result<ApiResponse> {
    let Some(acme) = &call.api.acme else {
        return Err(ApiError::new(
            RefusalCode::ValidationFailed,
            "the server does not use ACME",
            "set acme.enabled in the configuration, or install a new certificate in the files of [tls]",
        ));
    };
    acme.renew_now();
    ApiResponse::accepted(&view(&call))
}
