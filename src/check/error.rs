//! Why it is not known that an image starts.

use std::io;

use crate::error::{Failure, Kind};
use crate::sandbox::{self, Ending, Tier};

/// An image that does not start, or could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cache failed us.
    #[error(transparent)]
    Store(#[from] crate::store::Error),
    /// The image cannot be unpacked.
    #[error("the image cannot be unpacked")]
    Rootfs(#[from] crate::base::rootfs::Error),
    /// The image cannot be had.
    #[error(transparent)]
    Base(#[from] crate::base::Error),
    /// The image's file cannot be read.
    #[error(transparent)]
    Destination(#[from] crate::destination::Error),
    /// Its files are wrong.
    #[error(transparent)]
    Gate(#[from] crate::gate::Error),
    /// A digest is not one we can check.
    #[error("the image cannot be checked")]
    Digest(#[from] crate::oci::digest::ParseError),
    /// A document of the image is not what it should be.
    #[error("{document} of the image cannot be read: {problem}")]
    Document {
        /// `the config`
        document: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// The sandbox failed, or a limit was hit.
    #[error("`{command}` could not be run to its end")]
    Sandbox {
        /// The command.
        command: String,
        /// Why.
        #[source]
        source: Box<sandbox::Error>,
    },
    /// The command failed.
    #[error("the image does not start: `{command}` ended with {ending} (tier {tier}){tail}")]
    DoesNotStart {
        /// The command.
        command: String,
        /// How it ended.
        ending: Ending,
        /// Which way it ran.
        tier: Tier,
        /// The last lines it said, each on a line of its own.
        tail: String,
    },
    /// The disk said no.
    #[error("a folder for the check cannot be made")]
    Disk(#[source] io::Error),
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Store(error) => error.kind(),
            Self::Rootfs(error) => error.kind(),
            Self::Base(error) => error.kind(),
            Self::Destination(error) => error.kind(),
            Self::Gate(error) => error.kind(),
            Self::Digest(_) | Self::Document { .. } => Kind::Integrity,
            Self::Sandbox { source, .. } => source.kind(),
            Self::DoesNotStart { .. } => Kind::Unsatisfiable,
            Self::Disk(_) => Kind::Unexpected,
        }
    }

    fn heals(&self) -> bool {
        match self {
            Self::Rootfs(error) => matches!(error, crate::base::rootfs::Error::Absent(_)),
            Self::Base(error) => error.heals(),
            Self::Destination(error) => error.heals(),
            Self::Gate(error) => error.heals(),
            _ => false,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Store(error) => error.hint(),
            Self::Rootfs(error) => error.hint(),
            Self::Base(error) => error.hint(),
            Self::Destination(error) => error.hint(),
            Self::Gate(error) => error.hint(),
            Self::Sandbox { source, .. } => source.hint(),
            Self::DoesNotStart { .. } => {
                Some("--no-check writes the image nevertheless, and says so in a label".into())
            }
            _ => None,
        }
    }
}
