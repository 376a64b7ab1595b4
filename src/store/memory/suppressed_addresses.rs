//! Which addresses are certainly not suppressed, so that most recipients are accepted without a query. Where several processes
//! write to the database, this is never known.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arc_swap::ArcSwapOption;
use fastbloom::AtomicBloomFilter;
use tokio::sync::Notify;

/// Two octets for each address: about one of 2,000 other addresses is asked for in the database.
const BITS_PER_ADDRESS: usize = 16;
/// The least number of addresses that a filter has space for.
const ADDRESSES_MIN: usize = 8 * 1024;

/// The addresses of all suppressions, of every tenant, environment and list. Clones share them.
#[derive(Debug, Clone, Default)]
pub(in crate::store) struct SuppressedAddresses(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// `None` if the addresses have to be read.
    filter: ArcSwapOption<AddressFilter>,
    /// Notified when they have to be read.
    unknown: Notify,
}

/// The addresses that are known.
#[derive(Debug)]
pub(in crate::store) struct AddressFilter {
    bloom: AtomicBloomFilter,
    addresses: AtomicUsize,
    addresses_max: usize,
    /// Whether all addresses in the database were added.
    is_complete: AtomicBool,
}

impl AddressFilter {
    /// Adds an address.
    pub(in crate::store) fn add(&self, folded: &str) {
        let was_known = self.bloom.insert(folded);
        self.addresses.fetch_add(usize::from(!was_known), Ordering::Relaxed);
    }

    /// All addresses in the database were added.
    pub(in crate::store) fn complete(&self) {
        self.is_complete.store(true, Ordering::Release);
    }

    fn is_full(&self) -> bool {
        self.addresses.load(Ordering::Relaxed) > self.addresses_max
    }
}

impl SuppressedAddresses {
    /// Whether the address may be suppressed. False is certain.
    pub(in crate::store) fn may_contain(&self, folded: &str) -> bool {
        let filter = self.0.filter.load();
        let Some(filter) = filter.as_deref() else { return true };
        !filter.is_complete.load(Ordering::Acquire) || filter.bloom.contains(folded)
    }

    /// An address is being suppressed. Called before the commit.
    pub(in crate::store) fn note(&self, folded: &str) {
        let filter = self.0.filter.load();
        let Some(filter) = filter.as_deref() else { return };
        filter.add(folded);
        if filter.is_full() {
            self.forget();
        }
    }

    /// Any addresses may have been suppressed: they have to be read.
    pub(in crate::store) fn forget(&self) {
        self.0.filter.store(None);
        self.0.unknown.notify_one();
    }

    /// Waits until the addresses have to be read.
    pub(in crate::store) async fn unknown(&self) {
        while self.0.filter.load().is_some() {
            self.0.unknown.notified().await;
        }
    }

    /// Begins to read the addresses, of which there are about so many. The caller adds all that are in the database after this
    /// call; others are noted in the same filter. So no transaction that notes one may be in progress.
    pub(in crate::store) fn begin(&self, count: usize) -> Arc<AddressFilter> {
        // Space to grow, so that the addresses are rarely read again.
        let addresses_max = count.saturating_mul(2).max(ADDRESSES_MIN);
        let bits = addresses_max.saturating_mul(BITS_PER_ADDRESS);
        let filter = Arc::new(AddressFilter {
            bloom: AtomicBloomFilter::with_num_bits(bits).expected_items(addresses_max),
            addresses: AtomicUsize::new(0),
            addresses_max,
            is_complete: AtomicBool::new(false),
        });
        self.0.filter.store(Some(Arc::clone(&filter)));
        filter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_not_suppressed_only_if_all_are_known_and_it_is_none_of_them() {
        let known = SuppressedAddresses::default();
        assert!(known.may_contain("a@b.example"));
        let filter = known.begin(2);
        filter.add("read@b.example");
        known.note("noted@b.example");
        assert!(known.may_contain("a@b.example"));
        filter.complete();
        assert!(!known.may_contain("a@b.example"));
        assert!(known.may_contain("read@b.example") && known.may_contain("noted@b.example"));
        known.forget();
        assert!(known.may_contain("a@b.example"));
    }

    #[test]
    fn few_other_addresses_are_asked_for() {
        let known = SuppressedAddresses::default();
        let filter = known.begin(50_000);
        (0..100_000).for_each(|number| filter.add(&format!("{number}@suppressed.example")));
        filter.complete();
        let asked = (0..100_000).filter(|number| known.may_contain(&format!("{number}@b.example"))).count();
        assert!(asked < 200, "{asked}");
    }

    #[tokio::test]
    async fn the_addresses_are_read_again_when_there_are_many_more() {
        let known = SuppressedAddresses::default();
        known.unknown().await;
        known.begin(1).complete();
        // Some are taken for known ones.
        for number in 0..ADDRESSES_MIN + ADDRESSES_MIN / 8 {
            known.note(&format!("{number}@b.example"));
        }
        known.unknown().await;
        assert!(known.may_contain("a@b.example"));
    }
}
