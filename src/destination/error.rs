//! Why an artifact could not be written, or what was written cannot be read.

use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Failure, Kind};
use crate::image;
use crate::oci::{Digest, Reference};

/// A destination failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk said no.
    #[error("`{path}` cannot be written")]
    Write {
        /// The layout or archive.
        path: PathBuf,
        /// What the disk said.
        #[source]
        source: io::Error,
    },
    /// The disk said no.
    #[error("`{path}` cannot be read")]
    Read {
        /// The layout or archive, or a blob in the cache.
        path: PathBuf,
        /// What the disk said.
        #[source]
        source: io::Error,
    },
    /// A blob of the image is not in the cache.
    #[error("the cache does not hold {0} of the image")]
    Absent(Digest),
    /// A blob in the cache is not what its name says.
    #[error(
        "digest mismatch of a blob in the cache: expected {expected} with {expected_size} bytes, \
         found {found} with {found_size} bytes"
    )]
    Damaged {
        /// Its name.
        expected: Digest,
        /// Of its descriptor, in bytes.
        expected_size: u64,
        /// Of what was read.
        found: Digest,
        /// Bytes that were read.
        found_size: u64,
    },
    /// The cache failed us.
    #[error("the cache cannot be read")]
    Store(#[from] crate::store::Error),
    /// Something else lies where a layout should be written.
    #[error("`{0}` exists and is not an OCI image layout")]
    NotALayout(PathBuf),
    /// A name without a tag cannot be found again in a layout or archive.
    #[error("`{0}` has no tag")]
    Untagged(Reference),
    /// A file or directory is not what we, or anybody, would write.
    #[error("`{path}` is malformed: {reason}")]
    Malformed {
        /// The layout or archive.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// What lies there is not a valid image.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// An archive for Docker holds one platform.
    #[error("an archive holds one platform, but this image has {}", .0.join(", "))]
    Platforms(Vec<String>),
    /// A push failed.
    #[error(transparent)]
    Registry(#[from] super::registry::Error),
    /// A JSON document could not be written.
    #[error("an index cannot be written")]
    Json(#[from] serde_json::Error),
}

impl Error {
    pub(super) fn write(path: &Path, source: io::Error) -> Self {
        Self::Write { path: path.to_owned(), source }
    }

    pub(super) fn read(path: &Path, source: io::Error) -> Self {
        Self::Read { path: path.to_owned(), source }
    }

    pub(super) fn malformed(path: &Path, reason: impl std::fmt::Display) -> Self {
        Self::Malformed { path: path.to_owned(), reason: reason.to_string() }
    }
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Write { .. } | Self::Read { .. } | Self::Absent(_) | Self::Json(_) => {
                Kind::Unexpected
            }
            Self::Damaged { .. } | Self::Malformed { .. } => Kind::Integrity,
            Self::NotALayout(_) | Self::Untagged(_) | Self::Platforms(_) => Kind::Usage,
            Self::Registry(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Image(error) => error.kind(),
        }
    }

    fn heals(&self) -> bool {
        match self {
            Self::Absent(_) | Self::Damaged { .. } => true,
            Self::Registry(error) => error.heals(),
            _ => false,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Write { .. } => Some("free space or choose another place to write to".into()),
            Self::Damaged { .. } => Some("it was removed: run the same command again".into()),
            Self::NotALayout(_) => Some("name a folder that does not exist yet".into()),
            Self::Platforms(_) => {
                Some("choose one with --platform, or write a layout with --format oci".into())
            }
            Self::Registry(error) => error.hint(),
            Self::Store(error) => error.hint(),
            Self::Image(error) => error.hint(),
            _ => None,
        }
    }
}
