use crate::mail::{Date, DomainName};
use crate::store::dispatch::store_trait;
use crate::store::{Result, TlsResult};

store_trait! {
    /// How TLS sessions with the hosts of domains went, counted by day (UTC), until it is reported to them (RFC 8460).
    pub trait TlsResults {
        /// Adds to what is counted. Of more than [`TLS_RESULTS_MAX`](crate::store::TLS_RESULTS_MAX) kinds the new ones are passed over.
        async fn add_tls_results(&self, results: Vec<TlsResult>) -> Result<()>;
        /// Days before `today` of which there is something to report, with the domain: at most `limit`, in the order of day
        /// and domain, behind `after`.
        async fn unreported_tls_days(
            &self,
            today: Date,
            after: Option<(Date, DomainName)>,
            limit: usize,
        ) -> Result<Vec<(Date, DomainName)>>;
        /// What was counted for a domain on a day, in the order of policy, host and failure.
        async fn tls_results(&self, day: Date, domain: &DomainName) -> Result<Vec<TlsResult>>;
        /// Forgets what was counted for a domain on a day.
        async fn delete_tls_results(&self, day: Date, domain: &DomainName) -> Result<()>;
        /// Forgets all days before one.
        async fn delete_tls_results_before(&self, day: Date) -> Result<()>;
    }
}
