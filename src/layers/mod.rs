//! Chapter 4: a plan becomes bytes. Wheels and files become a [`tree::Tree`], a tree becomes a
//! canonical tar, a tar becomes a [`Layer`]. What earlier runs made is found in three steps: the whole
//! layer by all that goes into it, a distribution's compressed part by its wheel and the options that
//! apply, and the wheel.

use crate::oci::{Descriptor, Digest};

pub mod archive;
pub mod build;
mod built;
pub mod bytecode;
pub mod content;
pub mod error;
pub mod files;
mod installing;
mod kept;
pub mod path;
pub mod prune;
pub mod scheme;
pub mod sdist;
mod strip;
pub mod treatment;
pub mod tree;
pub mod wheel;

pub use archive::{Segment, write};
pub use build::{Made, build};
pub use built::Built;
pub use bytecode::Modules;
pub use content::Content;
pub use error::Error;
pub use files::{Files, files};
pub use installing::{Found, Python, find, python};
pub use prune::{Prune, Pruned};
pub use scheme::Scheme;
pub use treatment::Treatment;
pub use tree::{Known, Tree};
pub use wheel::{Installed, LaidOut, WheelFile};

use bytecode::Compiler;

/// A layer whose bytes are hashed and stored: there is no other way to get one.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Media type, digest and size of the compressed bytes in the store.
    pub descriptor: Descriptor,
    /// The digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Bytes of the uncompressed tar.
    pub uncompressed_size: u64,
    /// What the image's history says made it.
    pub created_by: String,
}

/// What is known of a layer before its bytes are stored.
#[derive(Clone, Debug)]
pub struct Outline {
    /// Over the compressed bytes, if an earlier run stored them.
    pub digest: Option<Digest>,
    /// The digest of the uncompressed tar.
    pub diff_id: Digest,
    /// What this run compressed for it.
    pub parts: Option<archive::Parts>,
}

/// How distributions are installed, and what is done to them on their way into a layer.
#[derive(Clone, Debug)]
pub struct Options {
    /// What goes where.
    pub scheme: Scheme,
    /// What is changed.
    pub treatment: Treatment,
    /// What compiles modules, if the treatment wants it.
    pub compiler: Option<Compiler>,
}

#[cfg(test)]
mod tests;
