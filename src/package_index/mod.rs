//! The door to package indexes: Simple API servers (PEP 503, 691, 592, 629, 658/714, 700) and local
//! folders of wheels.
//!
//! What comes in is a project's name, what goes out are its files, their metadata, and verified blobs
//! in the store. Which file is right for whom is decided elsewhere.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use pep440_rs::{Version, VersionSpecifiers};
use url::Url;

use crate::oci::Digest;
use crate::python::WheelTags;

mod cached_page;
pub mod client;
pub mod config;
pub mod error;
mod local;
mod memo;
pub mod netrc;
pub mod page;
mod requires_txt;
pub mod sdist;
mod transfer;
pub mod wheel_archive;

pub use client::Client;
pub use config::{Config, Sources};
pub use error::Error;
pub use sdist::SdistSource;

/// All files of a project on all configured indexes.
#[derive(Clone, Debug, Default)]
pub struct Project {
    /// Files by version. Within a version wheels and sdists are in file-name order.
    pub versions: BTreeMap<Version, Vec<File>>,
}

/// One file of a project.
#[derive(Clone, Debug)]
pub struct File {
    /// `gevent-26.9.0-cp313-cp313-musllinux_1_2_x86_64.whl`
    pub file_name: String,
    /// Wheel or sdist.
    pub kind: FileKind,
    /// Where it lies.
    pub location: Location,
    /// Bytes, where the index says so (PEP 700).
    pub size: Option<u64>,
    /// Over the file's bytes, where the index says so.
    pub sha256: Option<Digest>,
    /// Which Pythons it is for; `None` where it does not say.
    pub requires_python: Option<Arc<VersionSpecifiers>>,
    /// When it was uploaded (PEP 700), UTC.
    pub upload_time: Option<jiff::Timestamp>,
    /// PEP 592: `Some(reason)` if yanked, the reason may be empty.
    pub yanked: Option<String>,
    /// PEP 658/714: the index serves `<file>.metadata`, maybe with this digest.
    pub core_metadata: Option<Option<Digest>>,
}

/// What kind of distribution a file is.
#[derive(Clone, Debug)]
pub enum FileKind {
    /// A wheel. Many of a page have the same tags: they are in memory once.
    Wheel(Arc<WheelTags>),
    /// A `.tar.gz` or `.zip` source distribution.
    Sdist,
}

/// Where a file lies.
#[derive(Clone, Debug)]
pub enum Location {
    /// On an index. Never printed with credentials and never written to a lock.
    Remote(Address),
    /// In a `--find-links` folder.
    Local(PathBuf),
}

/// An address as text: of the thousands on a page few are asked, and a [`Url`] is six times as large
/// beside its text. Nor is the file's name in it, if it ends with that: then it ends with a slash. Its
/// `Debug` shows no credentials and no query.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(Box<str>);

impl Address {
    /// Where a file of that name lies.
    pub fn new(url: &Url, file_name: &str) -> Self {
        let text = url.as_str();
        Self(match text.strip_suffix(file_name) {
            Some(folder) if folder.ends_with('/') => folder.into(),
            // No server sees what is behind it.
            _ if text.ends_with('/') => format!("{text}#").into(),
            _ => text.into(),
        })
    }

    /// The address of the file that it was made for; `None` never, since it was one.
    pub fn url(&self, file_name: &str) -> Option<Url> {
        Url::parse(&self.text(file_name)).ok()
    }

    fn text(&self, file_name: &str) -> String {
        let name = if self.0.ends_with('/') { file_name } else { "" };
        format!("{}{name}", self.0)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.url("").map(|url| transfer::redact(&url));
        fmt::Debug::fmt(&shown.unwrap_or_default(), f)
    }
}
