//! In which order projects are decided, and how conflicts change it.
//!
//! As pip and uv do: projects pinned to one version first, then in the order in which they were met.
//! A project that is rejected again and again is moved to the front, one that causes the rejections
//! to behind it, and its decision is taken back: the solver then meets the conflict early, instead of
//! trying all versions of something in between.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use pep508_rs::PackageName;

use super::package::Package;

/// How many conflicts a project has before its place in the order changes.
const THRESHOLD: u32 = 5;

/// Greater is decided earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Priority(Class, Reverse<usize>, Reverse<usize>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Unspecified,
    /// Its versions made others impossible.
    Culprit,
    /// Its versions were made impossible by others.
    Affected,
    Pinned,
    /// Follows from a decision already taken.
    First,
}

#[derive(Debug, Default)]
pub(super) struct Priorities {
    /// Class and order of discovery.
    projects: BTreeMap<PackageName, (Class, usize)>,
    /// Order of discovery.
    packages: BTreeMap<Package, usize>,
}

impl Priorities {
    /// Notes a requirement on the package.
    pub(super) fn meet(&mut self, package: &Package, is_pinned: bool) {
        let order = self.packages.len();
        self.packages.entry(package.clone()).or_insert(order);
        let Some(name) = package.name() else {
            return;
        };
        let order = self.projects.len();
        let (class, _) = self.projects.entry(name.clone()).or_insert((Class::Unspecified, order));
        if is_pinned {
            *class = Class::Pinned;
        }
    }

    pub(super) fn get(&self, package: &Package) -> Priority {
        let latest = usize::MAX;
        let place = self.packages.get(package).copied().unwrap_or(latest);
        let (class, order) = match package {
            Package::Root | Package::Same(_) => (Class::First, 0),
            Package::On(name, _) | Package::Extra(name, ..) => {
                self.projects.get(name).copied().unwrap_or((Class::Unspecified, latest))
            }
        };
        Priority(class, Reverse(order), Reverse(place))
    }

    fn mark(&mut self, name: &PackageName, class: Class, but_not: &[Class]) -> bool {
        let order = self.projects.len();
        let (known, _) = self.projects.entry(name.clone()).or_insert((Class::Unspecified, order));
        if but_not.contains(known) {
            return false;
        }
        *known = class;
        true
    }
}

/// Counts conflicts by package.
#[derive(Debug, Default)]
pub(super) struct Conflicts {
    affected: BTreeMap<Package, u32>,
    culprit: BTreeMap<Package, u32>,
    move_up: Vec<Package>,
    take_back: Vec<Package>,
}

impl Conflicts {
    /// Notes that a conflict between `packages` hit `affected` while `current` was being decided.
    pub(super) fn record<'p>(
        &mut self,
        affected: &Package,
        packages: impl Iterator<Item = &'p Package>,
        current: &Package,
    ) {
        let mut is_real = false;
        for package in packages {
            // A package and its own shadows agree by construction.
            if package == affected || package.name() == affected.name() {
                continue;
            }
            is_real = true;
            let count = self.culprit.entry(package.clone()).or_default();
            *count += 1;
            if *count == THRESHOLD {
                self.take_back.push(package.clone());
            }
        }
        if is_real {
            let count = self.affected.entry(current.clone()).or_default();
            *count += 1;
            if *count == THRESHOLD {
                self.move_up.push(current.clone());
            }
        }
    }

    /// Applies what was recorded; returns the packages whose decisions are to be taken back, in order.
    pub(super) fn reprioritise(&mut self, priorities: &mut Priorities) -> Vec<Package> {
        for package in self.move_up.drain(..) {
            if let Some(name) = package.name() {
                priorities.mark(name, Class::Affected, &[Class::Affected]);
            }
        }
        self.take_back
            .drain(..)
            .filter(|package| {
                package.name().is_some_and(|name| {
                    priorities.mark(name, Class::Culprit, &[Class::Culprit, Class::Affected])
                })
            })
            .collect()
    }
}
