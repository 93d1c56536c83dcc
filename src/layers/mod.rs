//! Chapter 4: a plan becomes bytes. Wheels and files become a [`tree::Tree`], a tree becomes a
//! canonical tar, a tar becomes a [`Layer`]. What earlier runs made is found in three steps: the whole
//! layer by all that goes into it, a distribution's compressed part by its wheel and the options that
//! apply, and the wheel.

use std::collections::BTreeMap;

use crate::oci::{Descriptor, Digest};
use crate::store::Store;

pub mod archive;
pub mod build;
pub mod error;
pub mod files;
mod kept;
pub mod path;
pub mod prune;
pub mod scheme;
pub mod sdist;
pub mod tree;
pub mod wheel;

pub use archive::{Segment, write};
pub use build::{Built, Made, build};
pub use error::Error;
pub use files::{Files, files};
pub use prune::{Prune, Pruned};
pub use scheme::Scheme;
pub use tree::{Known, Tree};
pub use wheel::{Installed, WheelFile};

use kept::Distribution;

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

/// What is known of a layer of wheels before its bytes are put together.
#[derive(Clone, Debug)]
pub struct Python {
    /// What lies where, and whose it is.
    pub tree: Tree<Known>,
    /// All of it, compressed: each distribution's own, by name.
    pub segments: Vec<Segment>,
    /// Figures, sorted by name and version.
    pub installed: Vec<Installed>,
}

impl Python {
    /// Puts the layer together.
    ///
    /// # Errors
    /// The store cannot be written, or a part is not there any more.
    pub fn layer(&self, created_by: &str, store: &Store) -> Result<Layer, Error> {
        archive::join(&self.tree, &self.segments, created_by, store)
    }
}

/// Installs wheels from the store, and compresses what they bring, on at most `parallel` threads.
/// What an earlier run did is not done again.
///
/// Neither the order of `wheels` nor `parallel` nor the cache changes the result, or which error is
/// reported.
///
/// # Errors
/// A wheel is absent from the store, hostile or broken, or two distributions want different things at
/// one place.
pub fn python(
    wheels: &[WheelFile],
    scheme: &Scheme,
    prune: &[Prune],
    store: &Store,
    parallel: usize,
) -> Result<Python, Error> {
    let mut wheels: Vec<&WheelFile> = wheels.iter().collect();
    wheels.sort_by_key(|wheel| (&wheel.name, &wheel.version, &wheel.file_name));
    let mut made = Vec::with_capacity(wheels.len());
    for wheel in &wheels {
        let key = kept::distribution_key(wheel, scheme, prune);
        made.push((key, kept::distribution(&key, wheel, store)?));
    }
    let mut missing: Vec<usize> = (0..wheels.len()).filter(|n| made[*n].1.is_none()).collect();
    // The largest first: nobody waits for a large one that was begun last.
    missing.sort_by_key(|number| std::cmp::Reverse(stored_size(wheels[*number], store)));
    let results = archive::compress(missing.len(), parallel, store, |position| {
        let (tree, installed) = install(wheels[missing[position]], scheme, prune, store)?;
        let listing = tree.known();
        Ok((tree, (listing, installed)))
    });
    let mut results: BTreeMap<usize, _> = missing.into_iter().zip(results).collect();

    let mut tree = Tree::default();
    let mut parts = Vec::with_capacity(wheels.len());
    for (number, (key, kept)) in made.into_iter().enumerate() {
        let distribution = match (kept, results.remove(&number)) {
            (None, Some(result)) => {
                let (segments, (listing, installed)) = result?;
                let distribution = Distribution { listing, installed, segments };
                kept::keep_distribution(&key, &distribution, store)?;
                distribution
            }
            (Some(distribution), _) => distribution,
            (None, None) => return Err(Error::Cancelled),
        };
        let Distribution { listing, installed, segments } = distribution;
        tree.merge(listing.clone())?;
        parts.push((listing, segments, installed));
    }

    // Where several bring the same file, it is the first one's, and once in the layer.
    for (number, (listing, segments, installed)) in parts.iter_mut().enumerate() {
        let owner: &str = installed.name.as_ref();
        let is_own = |path: &_| tree.get(path).is_some_and(|entry| entry.owner == owner);
        if listing.iter().all(|(path, _)| is_own(path)) {
            continue;
        }
        listing.retain(is_own);
        let key = kept::tree_key(listing);
        if let Some(kept) = kept::part(&key, store)? {
            *segments = kept;
            continue;
        }
        let again = archive::compress(1, parallel, store, |_| {
            let (mut tree, _) = install(wheels[number], scheme, prune, store)?;
            tree.retain(is_own);
            Ok((tree, ()))
        });
        for result in again {
            *segments = result?.0;
            kept::keep_part(&key, segments, store)?;
        }
    }
    let mut python = Python { tree, segments: Vec::new(), installed: Vec::new() };
    for (_, segments, installed) in parts {
        python.segments.extend(segments);
        python.installed.push(installed);
    }
    Ok(python)
}

/// Compressed bytes; 0 if it is absent, which installing it will find.
fn stored_size(wheel: &WheelFile, store: &Store) -> u64 {
    fs_err::metadata(store.blob_path(&wheel.digest)).map_or(0, |meta| meta.len())
}

fn install(
    wheel: &WheelFile,
    scheme: &Scheme,
    prune: &[Prune],
    store: &Store,
) -> Result<(Tree, Installed), Error> {
    let bytes = store.read(&wheel.digest)?.ok_or_else(|| Error::Absent {
        file_name: wheel.file_name.clone(),
        digest: wheel.digest,
    })?;
    wheel::install(&bytes, wheel, scheme, prune)
}

#[cfg(test)]
mod tests;
