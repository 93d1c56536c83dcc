//! What can go wrong between us and a package index.

use std::io;
use std::path::PathBuf;

use super::{page, sdist, wheel_archive};
use crate::error::{Failure, Kind};
use crate::oci::Digest;
use crate::python::metadata;
use crate::store;

/// A package index refused, lied, or could not be reached. Addresses in it have no user, password,
/// query or fragment.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no client to ask with.
    #[error(transparent)]
    Http(#[from] crate::http::Error),
    /// No answer after all tries.
    #[error("GET {url}: no answer")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// What went wrong at the last try, without the address.
        #[source]
        source: reqwest::Error,
    },
    /// Nothing came for too long, at the last try too.
    #[error("GET {url}: nothing came for {seconds} s")]
    Stalled {
        /// What was asked for.
        url: String,
        /// How long was waited.
        seconds: u64,
    },
    /// An answer that is no success.
    #[error("GET {url}: {status}{message}")]
    Status {
        /// What was asked for.
        url: String,
        /// The status with its reason.
        status: reqwest::StatusCode,
        /// `: ` and the server's own words, or nothing.
        message: String,
    },
    /// More bytes than such a document has.
    #[error("GET {url}: the answer is larger than {limit} bytes")]
    TooLarge {
        /// What was asked for.
        url: String,
        /// The most that was accepted.
        limit: u64,
    },
    /// An answer whose content coding is broken.
    #[error("GET {url}: the answer is not the gzip stream that it says it is")]
    Encoding {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        #[source]
        source: io::Error,
    },
    /// An index's page that cannot be read.
    #[error("GET {url}: not a page of the Simple API")]
    Page {
        /// What was asked for.
        url: String,
        /// Why not.
        #[source]
        source: page::Error,
    },
    /// What is said to be the address of a file is none.
    #[error("`{file_name}` has no address")]
    Address {
        /// Its name.
        file_name: String,
    },
    /// The metadata of one file cannot be used: its version is out, others may do.
    #[error("`{file_name}` has unusable metadata")]
    Metadata {
        /// The file.
        file_name: String,
        /// Why not.
        #[source]
        source: metadata::Error,
    },
    /// The metadata in a file is that of something else.
    #[error("`{file_name}` says that it is `{found}`")]
    OtherMetadata {
        /// The file.
        file_name: String,
        /// Name and version in it.
        found: String,
    },
    /// A wheel that is no zip archive with a `.dist-info/METADATA`.
    #[error("`{file_name}` is not a wheel")]
    Wheel {
        /// The file.
        file_name: String,
        /// Why not.
        #[source]
        source: wheel_archive::Error,
    },
    /// An sdist that cannot be read.
    #[error("`{file_name}` is not a source distribution")]
    Sdist {
        /// The file.
        file_name: String,
        /// Why not.
        #[source]
        source: sdist::Error,
    },
    /// The index says another digest than the lock or itself before.
    #[error(
        "digest mismatch of `{file_name}`: expected {expected}, the package index says {found}"
    )]
    Digest {
        /// The file.
        file_name: String,
        /// The lock's digest.
        expected: Digest,
        /// The index's.
        found: Digest,
    },
    /// The bytes are not as many as was promised.
    #[error("size mismatch of `{file_name}`: expected {expected} bytes, found {found}")]
    Size {
        /// The file.
        file_name: String,
        /// The promised size.
        expected: u64,
        /// The size of what came.
        found: u64,
    },
    /// More bytes came than was promised; the rest was not read.
    #[error("size mismatch of `{file_name}`: expected {expected} bytes, more came")]
    Longer {
        /// The file.
        file_name: String,
        /// The promised size.
        expected: u64,
    },
    /// No index has the file.
    #[error("no package index has `{file_name}` of `{project}`")]
    NoSuchFile {
        /// The project.
        project: String,
        /// The file.
        file_name: String,
    },
    /// It is not in the cache, and nothing may be asked for.
    #[error("`{0}` is not in the cache and nothing is fetched offline")]
    Offline(String),
    /// A `--find-links` folder, or a file in it, cannot be read.
    #[error("local distributions cannot be read: {path}")]
    Local {
        /// The folder or file.
        path: PathBuf,
        /// What the disk said.
        #[source]
        source: io::Error,
    },
    /// The cache failed, or the bytes have another digest than was promised.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Error {
    /// Whether only this file is unusable, so that a resolver may go on to other versions. Where the
    /// index refuses or cannot be reached there is nothing to go on to.
    pub fn is_about_one_file(&self) -> bool {
        matches!(
            self,
            Self::Metadata { .. }
                | Self::OtherMetadata { .. }
                | Self::Wheel { .. }
                | Self::Sdist { .. }
        )
    }
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Unreachable { .. }
            | Self::Stalled { .. }
            | Self::Status { .. }
            | Self::TooLarge { .. }
            | Self::Encoding { .. }
            | Self::Page { .. }
            | Self::Address { .. }
            | Self::Metadata { .. }
            | Self::NoSuchFile { .. }
            | Self::Offline(_) => Kind::Remote,
            Self::OtherMetadata { .. }
            | Self::Wheel { .. }
            | Self::Sdist { .. }
            | Self::Digest { .. }
            | Self::Size { .. }
            | Self::Longer { .. } => Kind::Integrity,
            Self::Local { .. } => Kind::Usage,
            Self::Http(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Status { status, .. } if status.as_u16() == 401 || status.as_u16() == 403 => {
                Some("give the index's credentials in its address or in ~/.netrc".into())
            }
            Self::Page { .. } => Some("an index's address usually ends in `/simple/`".into()),
            Self::Digest { .. } | Self::Size { .. } | Self::Longer { .. } => Some(
                "the file was replaced after it was locked: find out why before locking again"
                    .into(),
            ),
            Self::NoSuchFile { .. } => {
                Some("name the index that has it with --extra-index-url, or lock again".into())
            }
            Self::Offline(_) => Some("run once without --offline".into()),
            Self::Http(error) => error.hint(),
            Self::Store(error) => error.hint(),
            _ => None,
        }
    }
}
