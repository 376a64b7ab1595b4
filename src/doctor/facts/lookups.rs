//! Look-ups in the DNS, and blocking work, each with its end.

use std::future::Future;
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::Seen;
use crate::dns::{DnsError, Resolver, SignatureCheck};
use crate::mail::DomainName;

/// The time for one fact.
pub const FACT_TIMEOUT: Duration = Duration::from_secs(5);
/// The time for all look-ups of a run, of which some follow one another.
const LOOKUPS_TIMEOUT: Duration = Duration::from_secs(20);
/// Look-ups at once.
const LOOKUPS_MAX: usize = 16;
const LATE: &str = "the DNS did not answer in time";

/// Look-ups in the DNS, past the cache, a few at once, until a deadline.
pub struct Lookups {
    pub resolver: Resolver,
    permits: Semaphore,
    deadline: tokio::time::Instant,
}

impl Lookups {
    pub fn new(resolver: &Resolver) -> Self {
        Self {
            resolver: resolver.without_cache(),
            permits: Semaphore::new(LOOKUPS_MAX),
            deadline: tokio::time::Instant::now() + LOOKUPS_TIMEOUT,
        }
    }

    pub async fn addresses(&self, name: &str) -> Seen<Vec<IpAddr>> {
        self.ask(self.resolver.addresses(name)).await
    }

    pub async fn texts(&self, name: &str) -> Seen<Vec<String>> {
        self.ask(self.resolver.texts(name)).await
    }

    /// Whether an aligned signature of a message is valid.
    pub async fn verifies(&self, message: &[u8], from: &DomainName) -> Seen<bool> {
        match self.ask(async { Ok(self.resolver.verify_signature(message, from).await) }).await {
            Seen::Value(SignatureCheck::Aligned(_)) => Seen::Value(true),
            Seen::Value(SignatureCheck::NotAligned) => Seen::Value(false),
            Seen::Value(SignatureCheck::Temporary) => Seen::Failed(LATE.to_owned()),
            other => other.absent(),
        }
    }

    pub async fn ask<T>(&self, lookup: impl Future<Output = Result<T, DnsError>>) -> Seen<T> {
        let asked = async {
            let Ok(_permit) = self.permits.acquire().await else {
                return Seen::NotAsked("the doctor has ended");
            };
            match tokio::time::timeout(FACT_TIMEOUT, lookup).await {
                Ok(Ok(found)) => Seen::Value(found),
                Ok(Err(DnsError::NoSuchDomain | DnsError::NoRecords)) => Seen::Nothing,
                Ok(Err(error @ DnsError::Temporary(_))) => Seen::Failed(error.to_string()),
                Err(_) => Seen::Failed(LATE.to_owned()),
            }
        };
        tokio::time::timeout_at(self.deadline, asked).await.unwrap_or_else(|_| Seen::Failed(LATE.to_owned()))
    }
}

/// Runs blocking work within the time for a fact.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Seen<T> + Send + 'static) -> Seen<T> {
    match tokio::time::timeout(FACT_TIMEOUT, unlimited(work)).await {
        Ok(seen) => seen,
        Err(_) => Seen::Failed("it took more than 5 seconds".to_owned()),
    }
}

/// Runs blocking work that has its own end.
pub async fn unlimited<T: Send + 'static>(work: impl FnOnce() -> Seen<T> + Send + 'static) -> Seen<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Seen::Failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_look_up_lasts_beyond_the_deadline_of_the_run() {
        let resolver = Resolver::new(&["127.0.0.1:9".parse().unwrap()], crate::rng::Rng::system()).unwrap();
        let deadline = tokio::time::Instant::now() + Duration::from_millis(20);
        let lookups = Lookups { deadline, ..Lookups::new(&resolver) };
        let ask = || lookups.ask(std::future::pending::<Result<(), DnsError>>());
        let all = futures_util::future::join_all((0..2 * LOOKUPS_MAX).map(|_| ask()));
        let found = tokio::time::timeout(FACT_TIMEOUT, all).await.expect("they end");
        assert!(found.iter().all(|seen| *seen == Seen::Failed(LATE.to_owned())));
    }
}
