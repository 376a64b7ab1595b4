//! The versions of the directory.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::watch;

use crate::mail::DomainName;
use crate::model::TenantId;

/// Maximum of owners and names with a version of their own. Beyond it, all share one.
const ENTRIES_MAX: usize = 10_000;

/// See [`Directory::directory_version`](crate::store::Directory::directory_version). Clones share the versions.
#[derive(Debug, Clone, Default)]
pub(in crate::store) struct DirectoryVersions {
    versions: Arc<RwLock<Versions>>,
    current: Arc<watch::Sender<u64>>,
}

#[derive(Debug, Default)]
struct Versions {
    /// The number of changes.
    count: u64,
    /// The last change of everything.
    everything: u64,
    owners: HashMap<Option<TenantId>, u64>,
    names: HashMap<String, u64>,
}

/// A change in the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) enum DirectoryChange {
    /// The settings, keys, domains or DKIM keys of a tenant, or of the platform.
    Owner(Option<TenantId>),
    /// Who has verified a domain, or what that covers: other tenants may not send from it.
    Name(DomainName),
    /// Anything.
    Everything,
}

impl DirectoryVersions {
    pub(in crate::store) fn current(&self) -> u64 {
        self.read(|versions| versions.count)
    }

    pub(in crate::store) fn of_owner(&self, owner: Option<TenantId>) -> u64 {
        self.read(|versions| versions.everything.max(versions.owners.get(&owner).copied().unwrap_or(0)))
    }

    pub(in crate::store) fn of_name(&self, name: &DomainName) -> u64 {
        self.read(|versions| {
            let of_names = name.ancestors().filter_map(|ancestor| versions.names.get(ancestor).copied());
            of_names.fold(versions.everything, u64::max)
        })
    }

    /// The current version, for tasks that have nothing to do while it stays.
    pub(in crate::store) fn watch(&self) -> watch::Receiver<u64> {
        self.current.subscribe()
    }

    fn read<T>(&self, read: impl FnOnce(&Versions) -> T) -> T {
        read(&self.versions.read())
    }

    /// Counts committed changes. Called before their callers return, so that a caller that knows of a change sees the new
    /// version.
    pub(in crate::store) fn note(&self, changes: Vec<DirectoryChange>) {
        if changes.is_empty() {
            return;
        }
        let mut locked = self.versions.write();
        let versions = &mut *locked;
        for change in changes {
            versions.count += 1;
            let count = versions.count;
            match change {
                DirectoryChange::Owner(owner) => drop(versions.owners.insert(owner, count)),
                DirectoryChange::Name(name) => drop(versions.names.insert(name.to_string(), count)),
                DirectoryChange::Everything => versions.everything = count,
            }
            if versions.everything == count || versions.owners.len() + versions.names.len() > ENTRIES_MAX {
                *versions = Versions { count, everything: count, ..Versions::default() };
            }
        }
        let count = versions.count;
        drop(locked);
        self.current.send_replace(count);
    }
}

/// Changes in the directory by the jobs of one transaction.
#[derive(Default)]
pub(in crate::store) struct DirectoryChanges(RefCell<Vec<DirectoryChange>>);

impl DirectoryChanges {
    pub(in crate::store) fn push(&self, change: DirectoryChange) {
        self.0.borrow_mut().push(change);
    }

    pub(in crate::store) fn len(&self) -> usize {
        self.0.borrow().len()
    }

    /// Removes the changes of a failed job.
    pub(in crate::store) fn truncate(&self, len: usize) {
        self.0.borrow_mut().truncate(len);
    }

    pub(in crate::store) fn cloned(&self) -> Vec<DirectoryChange> {
        self.0.borrow().clone()
    }

    pub(in crate::store) fn take(&self) -> Vec<DirectoryChange> {
        self.0.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Timestamp;

    fn name(text: &str) -> DomainName {
        DomainName::parse(text).unwrap()
    }

    #[test]
    fn a_change_advances_the_version_of_its_owner_or_name_only() {
        let versions = DirectoryVersions::default();
        let [a, b] = [(); 2].map(|()| Some(TenantId::generate(Timestamp::UNIX_EPOCH)));
        versions.note(vec![DirectoryChange::Owner(a)]);
        assert_eq!((versions.of_owner(a), versions.of_owner(b), versions.of_owner(None)), (1, 0, 0));
        versions.note(vec![DirectoryChange::Name(name("b.example"))]);
        assert_eq!(versions.of_name(&name("x.b.example")), 2, "below it");
        assert_eq!((versions.of_name(&name("example")), versions.of_name(&name("c.example"))), (0, 0));
        versions.note(vec![DirectoryChange::Everything]);
        assert_eq!((versions.of_owner(b), versions.of_name(&name("c.example"))), (3, 3));
        assert_eq!(versions.current(), 3);
    }

    #[test]
    fn versions_are_bounded_and_never_decrease() {
        let versions = DirectoryVersions::default();
        let first = Some(TenantId::generate(Timestamp::UNIX_EPOCH));
        versions.note(vec![DirectoryChange::Owner(first)]);
        for number in 0..ENTRIES_MAX {
            versions.note(vec![DirectoryChange::Name(name(&format!("d{number}.example")))]);
        }
        let is_within = |versions: &Versions| versions.owners.len() + versions.names.len() <= ENTRIES_MAX;
        assert!(versions.read(is_within));
        assert_eq!(versions.of_owner(first), versions.current());
    }
}
