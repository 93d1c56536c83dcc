//! Chapter 2: which distributions, decided for the target and written to the lock.
//!
//! What comes in is a [`Question`]; what goes out is the lock's distributions: one set of versions for
//! all targets of a cell, for each target the best file, and for each sdist the wheels its build
//! needs. Nothing is built or installed here.
//!
//! - A version counts on a target if it has a wheel for it, or an sdist. It does not if it was
//!   uploaded after the limit, if its Requires-Python, upper bounds included, leaves out the target's
//!   Python, or if it is yanked (PEP 592), unless the question itself pins it with `==` or the old
//!   lock has it.
//! - The newest version is tried first. Pre-releases count where a requirement of the question names
//!   one, else only where no final release is left.
//! - A project that is required on one of the targets only needs a file for that one only.
//! - An sdist's requirements are those of its own metadata if it vouches for them (PEP 643), else
//!   those of a wheel of the same version for another platform, else what a build says
//!   ([`SdistMetadata`]), else what its old metadata says, with a notice.
//! - What a build needs are wheels, within the date limit where there are such, for the target the
//!   sdist is built for.
//! - Addresses (`name @ https://…`) are refused: a lock holds none.

use std::collections::BTreeMap;

use jiff::Timestamp;
use pep440_rs::Version;
use pep508_rs::{PackageName, Requirement};

use crate::python::Target;
use crate::recipe::lock::Distribution;
use crate::world::{Progress, World};

mod answer;
mod candidates;
mod compiler;
pub mod error;
mod facts;
mod fetcher;
mod package;
mod priority;
mod question;
mod ranges;
mod report;
mod requirements;
mod solver;
mod source;
#[cfg(test)]
mod tests;

pub use compiler::compiler;
pub use error::Error;
pub use question::{inputs, targets};
pub use source::{CandidateSource, NoBuild, SdistMetadata};

/// What is to be resolved, for every platform of one cell.
#[derive(Clone, Debug)]
pub struct Question {
    /// Direct requirements.
    pub requirements: Vec<Requirement>,
    /// Bounds on projects, wherever they come up.
    pub constraints: Vec<Requirement>,
    /// What replaces every requirement on a project; `None` drops the project.
    pub overrides: BTreeMap<PackageName, Option<Requirement>>,
    /// One target per platform.
    pub targets: Vec<Target>,
    /// Files uploaded after this moment do not exist.
    pub exclude_newer: Option<Timestamp>,
    /// Versions of an older lock, kept while they fit.
    pub prefer: BTreeMap<PackageName, Version>,
}

/// Resolves the question: one set of versions for all targets, and for each target the best file.
/// The build requirements of every sdist are resolved too. Sorted by name.
///
/// The same question and the same index give the same answer, in whatever order pages arrive.
///
/// # Errors
/// Nothing fits, the package index is out of reach, or the question names an address.
pub async fn resolve(question: &Question, world: &World) -> Result<Vec<Distribution>, Error> {
    let progress = world.progress.as_ref();
    resolve_from(question, &world.package_index, &NoBuild, progress).await
}

/// As [`resolve`], with candidates from `source`, and with `hook` to ask where an sdist does not tell
/// its requirements.
///
/// # Errors
/// As [`resolve`].
pub async fn resolve_from<S: CandidateSource, H: SdistMetadata>(
    question: &Question,
    source: &S,
    hook: &H,
    progress: &dyn Progress,
) -> Result<Vec<Distribution>, Error> {
    let policy = candidates::Policy::new(question)?;
    let answering = answer::Answering { source, hook, progress };
    answering.answer(&policy).await
}
