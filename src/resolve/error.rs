//! Why there is no resolution.

use crate::error::{Failure, Kind};
use crate::package_index;
use crate::python::target;

/// There is no resolution, or the question could not be put.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The requirements contradict each other or what the package index has for the target.
    #[error("no set of versions fits {target}:\n{report}")]
    NoSolution {
        /// What it was tried for: `python 3.13.1 (cp313/musllinux_1_2_x86_64)`.
        target: String,
        /// The facts that cannot all hold, one a line: the chain of requirements from the question
        /// down, and why each candidate at its end is out.
        report: String,
        /// What can be done about the reasons met.
        hint: Option<String>,
    },
    /// A requirement of the question names an address instead of a version.
    #[error("requirement names an address, which a lock cannot hold: `{requirement}`")]
    Url {
        /// The requirement, without the address's credentials.
        requirement: String,
    },
    /// The question names no target at all.
    #[error("nothing to resolve for: the cell has no platform")]
    NoTarget,
    /// The cell's Python, OS or platform is not one we know how to decide for.
    #[error("{cell} is for something nobody can resolve for")]
    Target {
        /// The cell's path.
        cell: String,
        /// Which part, and why.
        #[source]
        source: target::Error,
    },
    /// The recipe's requirements do not fit the cell.
    #[error("the requirements of {cell} cannot be told: {problem}")]
    Recipe {
        /// The cell's path.
        cell: String,
        /// What is wrong.
        problem: String,
    },
    /// A requirement is not PEP 508.
    #[error("`{text}` is not a requirement: {problem}")]
    Requirement {
        /// What was written.
        text: String,
        /// Why not.
        problem: String,
    },
    /// The lock was made from other inputs than the recipe has now.
    #[error("the lock of {cell} was made from other inputs:\n{}", differences.join("\n"))]
    Drift {
        /// The cell's path.
        cell: String,
        /// Which inputs, one a line.
        differences: Vec<String>,
    },
    /// The package index could not answer.
    #[error("{what} is not to be had")]
    Index {
        /// What was asked for: `gevent`, or a file's name, in backticks.
        what: String,
        /// What the index said.
        #[source]
        source: package_index::Error,
    },
    /// The wheels that an sdist's build needs cannot be resolved.
    #[error("`{file}` has to be built, and what its build needs does not fit")]
    Build {
        /// The sdist's file name.
        file: String,
        /// Why not.
        #[source]
        source: Box<Error>,
    },
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::NoSolution { .. } => Kind::Unsatisfiable,
            Self::Url { .. } | Self::NoTarget | Self::Recipe { .. } | Self::Requirement { .. } => {
                Kind::Usage
            }
            Self::Target { source, .. } => source.kind(),
            Self::Drift { .. } => Kind::Drift,
            Self::Index { source, .. } => source.kind(),
            Self::Build { source, .. } => source.kind(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NoSolution { hint, .. } => hint.clone(),
            Self::Url { .. } => {
                Some("require a version of it, and put the file in a --find-links folder".into())
            }
            Self::Target { source, .. } => source.hint(),
            Self::Drift { cell, .. } => Some(format!("run `assemble lock {cell}`")),
            Self::NoTarget | Self::Recipe { .. } | Self::Requirement { .. } => None,
            Self::Index { source, .. } => source.hint(),
            Self::Build { source, .. } => source.hint(),
        }
    }
}
