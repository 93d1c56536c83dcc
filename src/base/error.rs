//! Why there is no base to stand on.

use crate::error::{Failure, Kind};
use crate::oci::Platform;
use crate::oci::digest;

/// The base cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The registry failed us.
    #[error(transparent)]
    Registry(#[from] crate::registry::Error),
    /// The cache failed us.
    #[error(transparent)]
    Store(#[from] crate::store::Error),
    /// Its files cannot be unpacked.
    #[error("base cannot be unpacked")]
    Rootfs(#[from] super::rootfs::Error),
    /// There is no such tag or digest.
    #[error("base `{reference}` does not exist")]
    Absent {
        /// As the recipe names it.
        reference: String,
    },
    /// There is no image for the platform.
    #[error("base `{reference}` has no image for `{platform}`; it has: {}", list(available))]
    NoSuchPlatform {
        /// As the recipe names it.
        reference: String,
        /// What was asked for.
        platform: Platform,
        /// What there is, sorted.
        available: Vec<Platform>,
    },
    /// A document of the base is not what the image specification says.
    #[error("base `{reference}` cannot be used: {reason}")]
    Malformed {
        /// As the recipe names it.
        reference: String,
        /// What is wrong, and in which document.
        reason: String,
    },
    /// A digest in a document is not one we can check.
    #[error("base `{reference}` cannot be checked")]
    Digest {
        /// As the recipe names it.
        reference: String,
        /// The digest.
        #[source]
        source: digest::ParseError,
    },
}

fn list(platforms: &[Platform]) -> String {
    let names: Vec<String> = platforms.iter().map(ToString::to_string).collect();
    if names.is_empty() {
        return "none".to_owned();
    }
    names.join(", ")
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Registry(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Rootfs(error) => error.kind(),
            Self::Absent { .. } => Kind::Remote,
            Self::NoSuchPlatform { .. } => Kind::Unsatisfiable,
            Self::Malformed { .. } | Self::Digest { .. } => Kind::Integrity,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Registry(error) => error.hint(),
            Self::Store(error) => error.hint(),
            Self::Rootfs(error) => error.hint(),
            Self::Absent { .. } => Some("check the base's name and tag in the matrix".into()),
            Self::NoSuchPlatform { .. } => {
                Some("choose one of these platforms, or another base".into())
            }
            _ => None,
        }
    }
}
