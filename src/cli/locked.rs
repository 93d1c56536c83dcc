//! What locking a cell came to, as `--json` prints it.

use std::collections::BTreeMap;

use pep440_rs::Version;
use pep508_rs::PackageName;
use serde::Serialize;

use super::cells::Failed;
use crate::oci::Digest;
use crate::recipe::{Cell, Lock};

/// What `--json` prints for `lock` and `new`.
#[derive(Serialize)]
pub(super) struct Locks<'a> {
    /// In the matrix's order.
    pub locks: &'a [Locked],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<Failed>,
}

/// A lock, and how it differs from the one there was.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Locked {
    /// The cell's path.
    cell: String,
    /// Whether there was a lock.
    existed: bool,
    /// Whether the lock differs from it.
    changed: bool,
    distributions: usize,
    /// How many files of them are sdists.
    from_source: usize,
    /// Distributions that were not in it; all of them where there was none.
    added: Vec<Distribution>,
    /// Distributions that are no longer in it.
    removed: Vec<Distribution>,
    /// Distributions of another version.
    moved: Vec<Moved>,
    /// The digest that the base is pinned to, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    base: Option<Digest>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Distribution {
    name: PackageName,
    version: Version,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Moved {
    name: PackageName,
    from: Version,
    to: Version,
}

impl Locked {
    /// Compares a lock with the one there was.
    pub(super) fn of(cell: &Cell, older: Option<&Lock>, lock: &Lock) -> Self {
        let versions = |lock: Option<&Lock>| -> BTreeMap<PackageName, Version> {
            let all = lock.into_iter().flat_map(|lock| &lock.distributions);
            all.map(|one| (one.name.clone(), one.version.clone())).collect()
        };
        let (before, now) = (versions(older), versions(Some(lock)));
        let without = |these: &BTreeMap<PackageName, Version>, those: &BTreeMap<_, _>| {
            let left = these.iter().filter(|(name, _)| !those.contains_key(*name));
            left.map(|(name, version)| Distribution {
                name: name.clone(),
                version: version.clone(),
            })
            .collect()
        };
        let moved = now.iter().filter_map(|(name, to)| {
            let from = before.get(name).filter(|from| *from != to)?;
            Some(Moved { name: name.clone(), from: from.clone(), to: to.clone() })
        });
        let files = lock.distributions.iter().flat_map(|one| &one.files);
        Self {
            cell: cell.path.clone(),
            existed: older.is_some(),
            changed: older != Some(lock),
            distributions: lock.distributions.len(),
            from_source: files.filter(|file| !file.is_wheel()).count(),
            added: without(&now, &before),
            removed: without(&before, &now),
            moved: moved.collect(),
            base: lock.base.as_ref().map(|pin| pin.digest),
        }
    }
}
