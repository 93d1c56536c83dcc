//! A tree becomes canonical tar bytes, then a stored gzip layer.
//!
//! The same tree gives the same bytes on any machine: stretches (see `stretch`), each of
//!
//! 1. the folders that it needs and that stand in none before it, in byte order of their paths;
//! 2. the files and links of each of its owners (a distribution, or a layer of files), each one's entries in
//!    byte order of their paths;
//!
//! then hard links, in byte order of their paths, since what they name stands before them, and the tar's end.
//!
//! Headers are plain ustar without user names or sub-second times; PAX records say only what ustar
//! cannot. Nothing of the host comes in: no umask, clock, owner or locale.
//!
//! What an owner has lies in one piece, so it can be compressed once and used in every layer it is
//! part of: see `segment`. The layer is one gzip member like any other, and whoever reads it sees
//! nothing of that.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::sync::Arc;

use super::kept::Begin;
use super::path::ContainerPath;
use super::tree::{Entry, Known, Node, Tree};
use super::{Error, Layer};
use crate::oci::Digest;
use crate::store::Store;

mod blocks;
mod deflate;
mod entry;
mod gzip;
mod packing;
mod segment;
mod stretch;

use entry::append;
#[cfg(test)]
use entry::pad;
use gzip::Written;
pub(super) use gzip::finish;
use packing::Begun;
pub(super) use packing::Section;
pub use segment::{Part, Parts, Segment, read};
use stretch::Stretch;

/// Every entry's mtime: 1980-01-01T00:00:00Z, the earliest that a zip archive, and so a wheel
/// made from these files in the container, can express. It is a constant so that a layer depends on
/// its contents alone and is shared between images; `SOURCE_DATE_EPOCH` is for the image's
/// `created`.
pub const LAYER_MTIME: u64 = 315_532_800;

/// Two zero blocks.
const TAR_END: [u8; 1024] = [0; 1024];

/// The names of the owners that come last.
pub(super) type Late = BTreeSet<String>;

/// The tree's tar: what a layer of it is, uncompressed.
///
/// Parents that nobody described are 0755 and 0:0, apart from a few well-known ones. They replace
/// whatever the base has at their place, so a path must not lead through a link of the base: below
/// `/lib` of a base where that is a link to `usr/lib`, say `/usr/lib`.
///
/// # Errors
/// `out` cannot be written.
#[cfg(test)]
pub(super) fn write_tar<W: Write>(tree: &Tree, late: &Late, out: W) -> io::Result<W> {
    let mut out = out;
    let (known, parts) = (tree.known(), parts(tree));
    for Stretch { folders, owners } in stretch::all(&known, parts.keys().copied(), late)? {
        out.write_all(&folders)?;
        for (path, entry) in owners.iter().filter_map(|owner| parts.get(&**owner)).flat_map(files) {
            append(&mut out, path, entry)?;
            if let Node::File(content) = &entry.node {
                content.copy_to(&mut out)?;
                pad(&mut out, content.size())?;
            }
        }
    }
    out.write_all(&end(&known)?)?;
    Ok(out)
}

/// Makes a layer of the tree, on at most `parallel` threads; returned is what it is put together of, too.
///
/// # Errors
/// The store cannot be written.
pub fn write(
    tree: &Tree,
    created_by: &str,
    store: &Store,
    parallel: usize,
) -> Result<(Layer, Parts), Error> {
    let owners = parts(tree)
        .into_iter()
        .map(|(owner, part)| (owner.to_owned(), Section::Files(Arc::new(part))))
        .collect();
    let compressed = compress(&tree.known(), owners, &Late::new(), store, parallel)?;
    finish(compressed.0, created_by, store)
}

/// A layer's tar, compressed in pieces.
#[derive(Debug)]
pub struct Compressed {
    /// What it is put together of.
    pub parts: Parts,
    /// Over the tar.
    pub diff_id: Digest,
    /// The tar's bytes.
    pub uncompressed_size: u64,
    /// All of it but its end.
    written: Written,
}

/// Compresses what is not yet, and hashes the tar, on at most `parallel` threads. `owners` has what
/// each owner in the tree has, in any order; returned are its segments, too.
///
/// # Errors
/// The store cannot be written, what is to be made fails, or a segment is gone or damaged: then it is
/// removed.
pub(super) fn compress(
    tree: &Tree<Known>,
    owners: BTreeMap<String, Section<'_>>,
    late: &Late,
    store: &Store,
    parallel: usize,
) -> Result<(Compressed, BTreeMap<String, Vec<Segment>>), Error> {
    let failed = |source| Error::Write { path: store.root().to_owned(), source };
    let mut owners = owners;
    let stretches = stretch::all(tree, owners.keys().map(String::as_str), late).map_err(failed)?;
    let (mut sections, mut names, mut marks) = (Vec::new(), Vec::new(), Vec::new());
    for Stretch { folders, owners: those } in stretches {
        // Another layer may have the same before this one.
        marks.push(sections.len());
        if !folders.is_empty() {
            sections.push(Section::entries(folders, store)?);
            names.push(None);
        }
        for owner in those {
            // Who has only folders or hard links has no part.
            let Some(section) = owners.remove(&owner) else { continue };
            let files = match &section {
                Section::Files(files) => Some(files.clone()),
                Section::Kept(_) | Section::Entries(_) | Section::Later(_) => None,
            };
            sections.push(section);
            names.push(Some((owner, files)));
        }
    }
    sections.push(Section::entries(end(tree).map_err(failed)?, store)?);
    names.push(None);
    marks.retain(|sections| *sections > 0);
    let begun = begin_of(&sections, &marks, store)?;
    let packed = packing::compress(sections, begun, &marks, parallel, store)?;
    for (count, states) in &packed.marked {
        Begin::of(&packed.segments[..*count].concat()).keep(states, store)?;
    }
    let (diff_id, uncompressed_size) = packed.written.tar();
    let (mut parts, mut of_owners) = (Vec::new(), BTreeMap::new());
    for (name, segments) in names.into_iter().zip(packed.segments) {
        parts.push(match name {
            Some((name, files)) => {
                of_owners.insert(name, segments.clone());
                Part::Owner { segments, files }
            }
            None => Part::Frame(segments),
        });
    }
    let parts = Parts(parts);
    Ok((Compressed { parts, diff_id, uncompressed_size, written: packed.written }, of_owners))
}

/// What an earlier run hashed of a layer that begins so: of as much as possible.
fn begin_of(
    sections: &[Section<'_>],
    marks: &[usize],
    store: &Store,
) -> Result<Option<Begun>, Error> {
    let kept = sections.iter().map_while(|section| match section {
        Section::Kept(segments) => Some(segments.as_slice()),
        Section::Entries(_) | Section::Files(_) | Section::Later(_) => None,
    });
    let kept: Vec<&[Segment]> = kept.collect();
    for count in marks.iter().rev().filter(|count| **count <= kept.len()) {
        let segments = kept[..*count].concat();
        // Owners may have nothing.
        if segments.is_empty() {
            continue;
        }
        if let Some(states) = Begin::of(&segments).states(store)? {
            return Ok(Some(Begun { sections: *count, segments, states }));
        }
    }
    Ok(None)
}

/// The hard links, and the tar's end.
fn end(tree: &Tree<Known>) -> io::Result<Vec<u8>> {
    let mut tar = append_links(tree, Vec::new())?;
    tar.extend_from_slice(&TAR_END);
    Ok(tar)
}

/// What each owner has in the tree, folders and hard links aside.
fn parts(tree: &Tree) -> BTreeMap<&str, Tree> {
    let mut parts: BTreeMap<&str, Tree> = BTreeMap::new();
    for (path, entry) in tree.iter().filter(|(_, entry)| is_own(&entry.node)) {
        parts.entry(&entry.owner).or_default().put(path.clone(), entry.clone());
    }
    parts
}

/// Whether it belongs to one owner's part: folders and hard links are the whole layer's.
fn is_own<F>(node: &Node<F>) -> bool {
    match node {
        Node::File(_) | Node::Symlink(_) => true,
        Node::Directory | Node::HardLink(_) => false,
    }
}

/// Files and symbolic links.
fn files(tree: &Tree) -> impl Iterator<Item = (&ContainerPath, &Entry)> {
    tree.iter().filter(|(_, entry)| is_own(&entry.node))
}

/// Hard links.
fn append_links<W: Write>(tree: &Tree<Known>, out: W) -> io::Result<W> {
    let mut out = out;
    for (path, entry) in tree.iter() {
        if let Node::HardLink(target) = &entry.node {
            let Entry { mode, uid, gid, .. } = *entry;
            let node = Node::HardLink(target.clone());
            append(&mut out, path, &Entry { node, mode, uid, gid, owner: String::new() })?;
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
