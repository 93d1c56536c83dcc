//! Chapter 4: a plan becomes bytes. Wheels and files become a [`tree::Tree`], a tree becomes a
//! canonical tar, a tar becomes a [`Layer`].

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::oci::{Descriptor, Digest};
use crate::store::Store;

pub mod archive;
pub mod build;
pub mod error;
pub mod files;
pub mod path;
pub mod prune;
pub mod scheme;
pub mod sdist;
pub mod tree;
pub mod wheel;

pub use archive::write;
pub use build::{Built, Made, build};
pub use error::Error;
pub use files::{Files, files};
pub use prune::{Prune, Pruned};
pub use scheme::Scheme;
pub use tree::Tree;
pub use wheel::{Installed, WheelFile};

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

/// Installs wheels from the store into one tree, at most `parallel` of them at once; the figures are
/// sorted by name and version.
///
/// Neither the order of `wheels` nor `parallel` changes the result, or which error is reported.
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
) -> Result<(Tree, Vec<Installed>), Error> {
    let mut wheels: Vec<&WheelFile> = wheels.iter().collect();
    wheels.sort_by_key(|wheel| (&wheel.name, &wheel.version, &wheel.file_name));
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let Some(position) = Some(next.fetch_add(1, Ordering::Relaxed))
            && let Some(wheel) = wheels.get(position)
        {
            done.push((position, install(wheel, scheme, prune, store)));
        }
        done
    };
    let mut done = thread::scope(|scope| {
        let workers: Vec<_> =
            (0..parallel.clamp(1, wheels.len().max(1))).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .collect::<Vec<_>>()
    });
    done.sort_by_key(|(position, _)| *position);

    let mut tree = Tree::default();
    let mut installed = Vec::with_capacity(done.len());
    for (_, result) in done {
        let (files, figures) = result?;
        tree.merge(files)?;
        installed.push(figures);
    }
    Ok((tree, installed))
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
