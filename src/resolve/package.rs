//! What the solver decides about, in its library's terms.

use std::convert::Infallible;
use std::fmt;

use pep440_rs::Version;
use pep508_rs::{ExtraName, PackageName};
use pubgrub::{
    Dependencies, DependencyConstraints, DependencyProvider, PackageResolutionStatistics,
};

use super::candidates::Reason;
use super::priority::{Priorities, Priority};
use super::ranges::Range;

/// What the solver decides about. A number is the position of a target in the question.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Package {
    /// The question.
    Root,
    /// The version that a project has on every target that has it.
    Same(PackageName),
    /// A project on a target.
    On(PackageName, usize),
    /// An extra of a project on a target.
    Extra(PackageName, ExtraName, usize),
}

impl Package {
    pub(super) fn name(&self) -> Option<&PackageName> {
        match self {
            Self::Root => None,
            Self::Same(name) | Self::On(name, _) | Self::Extra(name, ..) => Some(name),
        }
    }
}

impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("the question"),
            Self::Same(name) | Self::On(name, _) => name.fmt(f),
            Self::Extra(name, extra, _) => write!(f, "{name}[{extra}]"),
        }
    }
}

/// Names the solver's types; the solver never calls it, since its loop is ours.
#[derive(Debug)]
pub(super) struct Types;

impl DependencyProvider for Types {
    type P = Package;
    type V = Version;
    type VS = Range;
    type Priority = Priority;
    type M = Reason;
    type Err = Infallible;

    fn prioritize(&self, p: &Package, _: &Range, _: &PackageResolutionStatistics) -> Priority {
        Priorities::default().get(p)
    }

    fn choose_version(&self, _: &Package, _: &Range) -> Result<Option<Version>, Infallible> {
        Ok(None)
    }

    fn get_dependencies(
        &self,
        _: &Package,
        _: &Version,
    ) -> Result<Dependencies<Package, Range, Reason>, Infallible> {
        Ok(Dependencies::Available(DependencyConstraints::default()))
    }
}
