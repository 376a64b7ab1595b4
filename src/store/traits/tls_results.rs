use std::future::Future;

use crate::mail::{Date, DomainName};
use crate::store::{Result, TlsResult};

/// How TLS sessions with the hosts of domains went, counted by day (UTC), until it is reported to them (RFC 8460).
pub trait TlsResults {
    /// Adds to what is counted. Of more than [`TLS_RESULTS_MAX`](crate::store::TLS_RESULTS_MAX) kinds the new ones are passed over.
    fn add_tls_results(&self, results: Vec<TlsResult>) -> impl Future<Output = Result<()>> + Send;
    /// Days before `today` of which there is something to report, with the domain: at most `limit`, in the order of day
    /// and domain, behind `after`.
    fn unreported_tls_days(
        &self,
        today: Date,
        after: Option<(Date, DomainName)>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<(Date, DomainName)>>> + Send;
    /// What was counted for a domain on a day, in the order of policy, host and failure.
    fn tls_results(
        &self,
        day: Date,
        domain: &DomainName,
    ) -> impl Future<Output = Result<Vec<TlsResult>>> + Send;
    /// Forgets what was counted for a domain on a day.
    fn forget_tls_results(&self, day: Date, domain: &DomainName) -> impl Future<Output = Result<()>> + Send;
    /// Forgets all days before one.
    fn forget_tls_results_before(&self, day: Date) -> impl Future<Output = Result<()>> + Send;
}
