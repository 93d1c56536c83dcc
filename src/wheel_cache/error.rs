//! What is wrong with a shared wheel cache.

use crate::error::{Failure, Kind};
use crate::oci::{Reference, reference};
use crate::{registry, store};

/// A cache that cannot be believed, or a disk that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk said no.
    #[error("a wheel of the shared cache cannot be kept")]
    Store(#[from] store::Error),
    /// An entry is none, is another build's, or holds what it must not.
    #[error("the shared wheel cache is wrong: `{entry}` {problem}")]
    Wrong {
        /// Registry, repository and tag.
        entry: String,
        /// What is wrong: `is no wheel of assemble`.
        problem: String,
        /// Why, if somebody else found out.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// Other bytes came than the entry says.
    #[error("the shared wheel cache is wrong: `{entry}` is damaged")]
    Damaged {
        /// Registry, repository and tag.
        entry: String,
        /// What was expected, and what came.
        #[source]
        source: Box<registry::Error>,
    },
    /// The entry cannot be named.
    #[error("the shared wheel cache has no such name")]
    Name(#[source] reference::ParseError),
    /// The entry cannot be described.
    #[error("a wheel cannot be described")]
    Describe(#[from] serde_json::Error),
}

impl Error {
    /// An entry with that problem, which reads on after its name: `is no wheel of assemble`.
    pub fn wrong(entry: &Reference, problem: String) -> Self {
        Self::Wrong { entry: entry.to_string(), problem, source: None }
    }
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Store(error) => error.kind(),
            Self::Wrong { .. } | Self::Damaged { .. } => Kind::Integrity,
            Self::Name(_) | Self::Describe(_) => Kind::Unexpected,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Store(error) => error.hint(),
            Self::Wrong { .. } | Self::Damaged { .. } => Some(
                "nothing of it was used: remove that tag and look who may write there, or build it \
                 here with `--wheel-cache none`"
                    .into(),
            ),
            Self::Name(_) | Self::Describe(_) => None,
        }
    }
}
