//! Chapter 4: a plan becomes bytes. Wheels and files become a [`tree::Tree`], a tree becomes a
//! canonical tar, a tar becomes a [`Layer`]. What earlier runs made is found in three steps: the whole
//! layer by all that goes into it, a distribution's compressed part by its wheel and the options that
//! apply, and the wheel.

use std::collections::BTreeMap;

use pep508_rs::PackageName;

use crate::oci::{Descriptor, Digest};
use crate::store::Store;

pub mod archive;
pub mod build;
mod built;
pub mod bytecode;
pub mod content;
pub mod error;
pub mod files;
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
pub use prune::{Prune, Pruned};
pub use scheme::Scheme;
pub use treatment::Treatment;
pub use tree::{Known, Tree};
pub use wheel::{Installed, LaidOut, WheelFile};

use bytecode::Compiler;
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
    /// What this run put it together of; `None` if an earlier one did.
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

/// What is known of a layer of wheels before its bytes are put together.
#[derive(Clone, Debug)]
pub struct Python {
    /// What lies where, and whose it is.
    pub tree: Tree<Known>,
    /// All of it, compressed: each distribution's own, by name.
    pub segments: Vec<Vec<Segment>>,
    /// Figures, sorted by name and version.
    pub installed: Vec<Installed>,
}

impl Python {
    /// Puts the layer together.
    ///
    /// # Errors
    /// The store cannot be written, or a part is not there any more.
    pub fn layer(self, created_by: &str, store: &Store) -> Result<Layer, Error> {
        archive::join(&self.tree, self.segments, created_by, store)
    }
}

/// The wheels of which no earlier run kept what they become: only these have to be looked at.
///
/// # Errors
/// The store cannot be read.
pub fn missing<'a>(
    wheels: &'a [WheelFile],
    options: &Options,
    store: &Store,
) -> Result<Vec<&'a WheelFile>, Error> {
    let mut missing = Vec::new();
    for wheel in wheels {
        let key = kept::distribution_key(wheel, options);
        if kept::distribution(&key, wheel, store)?.is_none() {
            missing.push(wheel);
        }
    }
    Ok(missing)
}

/// Installs wheels from the store, and compresses what they bring, on at most `parallel` threads.
/// What an earlier run did is not done again. `bytecode` has compiled modules of this run's; those of
/// earlier runs are found.
///
/// Neither the order of `wheels` nor `parallel` nor the cache changes the result, or which error is
/// reported.
///
/// # Errors
/// A wheel is absent from the store, hostile or broken, or two distributions want different things at
/// one place; a part of the treatment applies to none. [`Error::Uncompiled`] if nothing else is wrong
/// and the options want bytecode that is not there: all else is done then.
pub fn python(
    wheels: &[WheelFile],
    options: &Options,
    bytecode: &BTreeMap<PackageName, Modules>,
    store: &Store,
    parallel: usize,
) -> Result<Python, Error> {
    let mut wheels: Vec<&WheelFile> = wheels.iter().collect();
    wheels.sort_by_key(|wheel| (&wheel.name, &wheel.version, &wheel.file_name));
    let parts = install_all(&wheels, options, bytecode, store, parallel)?;
    let mut tree = Tree::default();
    for part in &parts {
        tree.merge(part.listing.clone())?;
    }
    let linked = options.treatment.smallest_duplicate.map(|size| tree.link_duplicates(size));
    let mut python = Python { tree, segments: Vec::new(), installed: Vec::new() };
    for (wheel, part) in wheels.iter().zip(parts) {
        let mut installed = part.installed.clone();
        let segments = own_segments(
            &python.tree,
            part,
            |tree| {
                let (mut whole, _) = install(wheel, options, bytecode, store)?;
                whole.retain(|path| tree.get(path).is_some());
                archive::compress(1, parallel, store, |_| Ok((whole.clone(), ())))
                    .into_iter()
                    .map(|made| made.map(|(segments, ())| segments))
                    .collect::<Result<Vec<_>, _>>()
                    .map(|made| made.concat())
            },
            store,
        )?;
        for (path, size) in linked.iter().flatten() {
            let owner = python.tree.get(path).map(|entry| entry.owner.as_str());
            if owner == Some(installed.name.as_ref()) {
                installed.linked += size;
                installed.bytes_installed -= size;
            }
        }
        python.segments.push(segments);
        python.installed.push(installed);
    }
    check_applied(&python.installed, &options.treatment)?;
    Ok(python)
}

/// Every wheel's own part, from the cache or made now, in the order of `wheels`.
fn install_all(
    wheels: &[&WheelFile],
    options: &Options,
    bytecode: &BTreeMap<PackageName, Modules>,
    store: &Store,
    parallel: usize,
) -> Result<Vec<Distribution>, Error> {
    let keys: Vec<Digest> =
        wheels.iter().map(|wheel| kept::distribution_key(wheel, options)).collect();
    let mut made = Vec::with_capacity(wheels.len());
    for (wheel, key) in wheels.iter().zip(&keys) {
        made.push(kept::distribution(key, wheel, store)?);
    }
    let mut missing: Vec<usize> = (0..wheels.len()).filter(|n| made[*n].is_none()).collect();
    // The largest first: nobody waits for a large one that was begun last.
    missing.sort_by_key(|number| std::cmp::Reverse(stored_size(wheels[*number], store)));
    let results = archive::compress(missing.len(), parallel, store, |position| {
        let (tree, installed) = install(wheels[missing[position]], options, bytecode, store)?;
        let listing = tree.known();
        Ok((tree, (listing, installed)))
    });
    let mut uncompiled = Vec::new();
    for (number, result) in missing.into_iter().zip(results) {
        let (segments, (listing, installed)) = match result {
            Err(Error::Uncompiled { wheels }) => {
                uncompiled.extend(wheels);
                continue;
            }
            result => result?,
        };
        let distribution = Distribution { listing, installed, segments };
        kept::keep_distribution(&keys[number], &distribution, store)?;
        made[number] = Some(distribution);
    }
    if !uncompiled.is_empty() {
        uncompiled.sort();
        return Err(Error::Uncompiled { wheels: uncompiled });
    }
    // All are there now.
    Ok(made.into_iter().flatten().collect())
}

/// The segments of a part without what is another's in the whole tree, or a hard link there: where
/// several bring the same file, it is the first one's, and once in the layer. `compress` makes those
/// of what is left.
fn own_segments(
    whole: &Tree<Known>,
    part: Distribution,
    compress: impl FnOnce(&Tree<Known>) -> Result<Vec<Segment>, Error>,
    store: &Store,
) -> Result<Vec<Segment>, Error> {
    let Distribution { mut listing, installed, segments } = part;
    let owner: &str = installed.name.as_ref();
    let is_own = |path: &_| {
        whole.get(path).is_some_and(|entry| {
            entry.owner == owner && !matches!(entry.node, tree::Node::HardLink(_))
        })
    };
    if listing.iter().all(|(path, _)| is_own(path)) {
        return Ok(segments);
    }
    listing.retain(is_own);
    let key = kept::tree_key(&listing);
    if let Some(kept) = kept::part(&key, store)? {
        return Ok(kept);
    }
    let segments = compress(&listing)?;
    kept::keep_part(&key, &segments, store)?;
    Ok(segments)
}

/// Compressed bytes; 0 if it is absent, which installing it will find.
fn stored_size(wheel: &WheelFile, store: &Store) -> u64 {
    fs_err::metadata(store.blob_path(&wheel.digest)).map_or(0, |meta| meta.len())
}

/// Lays out one wheel of the store.
fn lay_out(wheel: &WheelFile, options: &Options, store: &Store) -> Result<LaidOut, Error> {
    let file = store.open_verified(&wheel.digest)?.ok_or_else(|| Error::Absent {
        file_name: wheel.file_name.clone(),
        digest: wheel.digest,
    })?;
    wheel::lay_out(file, wheel, &options.scheme, &options.treatment)
}

/// Installs one wheel of the store, with its compiled modules: those of this run, or of an earlier
/// one.
fn install(
    wheel: &WheelFile,
    options: &Options,
    bytecode: &BTreeMap<PackageName, Modules>,
    store: &Store,
) -> Result<(Tree, Installed), Error> {
    let laid_out = lay_out(wheel, options, store)?;
    let (Some(rule), Some(compiler)) = (&options.treatment.bytecode, &options.compiler) else {
        return laid_out.finish(&Modules::new(), store);
    };
    if let Some(ours) = bytecode.get(&wheel.name) {
        return laid_out.finish(ours, store);
    }
    let modules = laid_out.modules(rule);
    if modules.is_empty() {
        return laid_out.finish(&modules, store);
    }
    match compiler.cached(&modules, store)? {
        Some(kept) => laid_out.finish(&kept, store),
        None => Err(Error::Uncompiled { wheels: vec![wheel.name.clone()] }),
    }
}

/// A repair that repairs nothing is a mistake, not a wish.
fn check_applied(installed: &[Installed], treatment: &Treatment) -> Result<(), Error> {
    for launcher in &treatment.launchers {
        if !installed.iter().any(|one| one.launchers.contains(&launcher.script)) {
            return Err(Error::Unapplied { what: format!("command `{}`", launcher.script) });
        }
    }
    for replacement in &treatment.replacements {
        if !installed.iter().any(|one| one.replaced.contains(&replacement.path)) {
            return Err(Error::Unapplied { what: format!("file `{}`", replacement.path) });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
