//! One cell and the user's wishes for it, resolved to values (pure).

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use jiff::Timestamp;

use crate::oci::{Platform, Reference};
use crate::recipe::{Cell, Layer, Lock};

/// Everything a run of the story needs to know; what it needs to hold is in
/// [`World`](crate::world::World).
#[derive(Clone, Debug)]
pub struct Request {
    /// The cell: what its path says.
    pub cell: Cell,
    /// The stack, bottom first.
    pub layers: Vec<Layer>,
    /// The cell's lock, already found to match its inputs.
    pub lock: Lock,
    /// Which of the cell's platforms are made, sorted; at least one.
    pub platforms: Vec<Platform>,
    /// What is checked before the image is written, besides every ELF file.
    pub check: Check,
    /// `SOURCE_DATE_EPOCH`, if set: the image's `created`. Never changes a layer.
    pub created: Option<Timestamp>,
    /// Further annotations and labels from the command line.
    pub annotations: BTreeMap<String, String>,
    /// Where the image goes.
    pub destinations: Vec<Destination>,
}

/// A place an artifact is written to.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Destination {
    /// One tar that is an OCI layout and loadable by Docker.
    Archive(PathBuf),
    /// An OCI image layout directory.
    Layout(PathBuf),
    /// A registry, under every one of these names.
    Registry(Vec<Reference>),
    /// A registry, in the index behind every one of these names, beside other platforms.
    Index(Vec<Reference>),
}

impl Destination {
    /// Whether every blob must be on this machine before it can be written.
    pub fn is_on_disk(&self) -> bool {
        matches!(self, Self::Archive(_) | Self::Layout(_))
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Archive(path) => write!(f, "{} (archive)", path.display()),
            Self::Layout(path) => write!(f, "{} (layout)", path.display()),
            Self::Registry(references) => {
                let names: Vec<_> = references.iter().map(ToString::to_string).collect();
                write!(f, "{} (registry)", names.join(", "))
            }
            Self::Index(references) => {
                let names: Vec<_> = references.iter().map(ToString::to_string).collect();
                write!(f, "{} (index in a registry)", names.join(", "))
            }
        }
    }
}

/// How much is checked before an image is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Check {
    /// Nothing; a label of the image says so.
    Off,
    /// The files; and that it starts, if its base is on this machine anyway.
    #[default]
    Cheap,
    /// The files, and that it starts.
    Start,
}
