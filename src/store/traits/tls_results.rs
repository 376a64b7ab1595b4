use crate::mail::{Date, DomainName};
use crate::store::traits::store_trait;
use crate::store::{Result, TlsResult};

store_trait! {
    /// Counts of TLS sessions by domain and day (UTC) until they are reported (RFC 8460).
    pub trait TlsResults {
        /// Adds counts. Beyond [`TLS_RESULTS_MAX`](crate::store::TLS_RESULTS_MAX) rows, new kinds are ignored.
        async fn add_tls_results(&self, results: Vec<TlsResult>) -> Result<()>;
        /// Days before `today` with results, and their domain: at most `limit` after `after`, ordered by day and domain.
        async fn unreported_tls_days(
            &self,
            today: Date,
            after: Option<(Date, DomainName)>,
            limit: usize,
        ) -> Result<Vec<(Date, DomainName)>>;
        /// The results of a domain on a day, ordered by policy, host and failure.
        async fn tls_results(&self, day: Date, domain: &DomainName) -> Result<Vec<TlsResult>>;
        /// Deletes the results of a domain on a day.
        async fn delete_tls_results(&self, day: Date, domain: &DomainName) -> Result<()>;
        /// Deletes the results of all days before one.
        async fn delete_tls_results_before(&self, day: Date) -> Result<()>;
    }
}
