//! Recomputes everything an image says about itself: digests, sizes, `diff_id`s, history, media types
//! of one family, platforms. What comes in is a way to read blobs; what goes out is what was checked,
//! or everything that is wrong (not just the first thing).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

use super::Error;
use crate::oci::{Descriptor, Digest, Platform};

mod bytes;
mod documents;
#[cfg(test)]
mod tests;

/// Where an image's blobs can be read.
pub trait Blobs {
    /// The blob's bytes from their start. The reader need not verify them.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if there is no such blob, or reading failed.
    fn open(&self, digest: &Digest) -> io::Result<Box<dyn Read + '_>>;
}

impl Blobs for BTreeMap<Digest, Vec<u8>> {
    fn open(&self, digest: &Digest) -> io::Result<Box<dyn Read + '_>> {
        match self.get(digest) {
            Some(bytes) => Ok(Box::new(bytes.as_slice())),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// What was checked and found right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Valid {
    /// Every image reached, in the order of the documents.
    pub images: Vec<ValidImage>,
    /// How many different blobs were read, documents included.
    pub blobs: usize,
    /// Their bytes, as stored.
    pub bytes: u64,
}

/// An image whose manifest, config and layers agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidImage {
    /// What its config says it runs on.
    pub platform: Platform,
    /// Of the manifest.
    pub digest: Digest,
    /// Of the config: the image ID.
    pub config_digest: Digest,
    /// Of the layers as stored, bottom first.
    pub layers: Vec<Digest>,
    /// Of the uncompressed layers, bottom first.
    pub diff_ids: Vec<Digest>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A blob that is named is not there.
    #[error("{what} is missing")]
    Absent {
        /// `layer sha256:…`
        what: String,
    },
    /// A blob cannot be read or decompressed.
    #[error("{what} cannot be read: {reason}")]
    Unreadable {
        /// `layer sha256:…`
        what: String,
        /// What the reader said.
        reason: String,
    },
    /// A blob has another length than its descriptor says.
    #[error("size mismatch of {what}: expected {expected}, found {found}")]
    Size {
        /// `layer sha256:…`
        what: String,
        /// Of the descriptor, in bytes.
        expected: u64,
        /// Bytes that came; reading stops at the first too many.
        found: u64,
    },
    /// A blob's bytes are not those its descriptor promises.
    #[error("digest mismatch of {what}: found {found}")]
    Digest {
        /// `layer sha256:…`
        what: String,
        /// Of the bytes that came.
        found: Digest,
    },
    /// A layer unpacks to something else than the config says.
    #[error("diff_id mismatch of {what}: expected {expected}, found {found}")]
    DiffId {
        /// `layer sha256:…`
        what: String,
        /// As the config has it.
        expected: String,
        /// Of the bytes that came.
        found: Digest,
    },
    /// A document contradicts itself, another one, or the specification.
    #[error("{what}: {reason}")]
    Document {
        /// `manifest sha256:…`
        what: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Checks all images that `roots` (manifests or indexes) lead to; `what` names the whole in the error.
///
/// # Errors
/// [`Error::Invalid`] with everything that is wrong.
pub fn validate(what: &str, roots: &[Descriptor], blobs: &dyn Blobs) -> Result<Valid, Error> {
    let (valid, problems) = examine(roots, blobs);
    conclude(what, valid, problems)
}

/// [`Valid`] if there are no problems.
///
/// # Errors
/// [`Error::Invalid`] with `problems`.
pub fn conclude(what: &str, valid: Valid, problems: Vec<Problem>) -> Result<Valid, Error> {
    if problems.is_empty() {
        Ok(valid)
    } else {
        Err(Error::Invalid { what: what.to_owned(), problems })
    }
}

/// As [`validate`], for callers who have problems of their own to add.
pub fn examine(roots: &[Descriptor], blobs: &dyn Blobs) -> (Valid, Vec<Problem>) {
    let mut examination = Examination {
        blobs,
        valid: Valid::default(),
        problems: Vec::new(),
        read: BTreeSet::new(),
        diff_ids: BTreeMap::new(),
        documents: 0,
    };
    for root in roots {
        examination.documents = 0;
        examination.document(root, 0);
    }
    (examination.valid, examination.problems)
}

/// What was found so far; [`documents`] and [`bytes`] add to it.
struct Examination<'a> {
    blobs: &'a dyn Blobs,
    valid: Valid,
    problems: Vec<Problem>,
    /// Blobs counted so far.
    read: BTreeSet<Digest>,
    /// What layers unpack to; `None` if they do not.
    diff_ids: BTreeMap<(Digest, &'static str), Option<Digest>>,
    /// Documents that the root led to so far.
    documents: usize,
}
