//! A tree becomes canonical tar bytes, then a stored gzip layer.
//!
//! The same tree gives the same bytes on any machine:
//!
//! 1. the folders that any of the early owners needs, each once, in byte order of their paths;
//! 2. the files and links of each early owner (a distribution, or a layer of files), owners in byte order
//!    of their names, and each one's entries in byte order of their paths;
//! 3. the other folders, and what the late owners have, in the same way;
//! 4. hard links, in byte order of their paths: what they name stands before them;
//! 5. the tar's end.
//!
//! Late is what changes most often: the distributions that the recipe asks for by name. So another
//! version of one leaves all before it as it is, and what is known of that stays true.
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
use super::tree::{Entry, Node, Tree};
use super::{Error, Layer};
use crate::oci::Digest;
use crate::store::Store;

mod blocks;
mod deflate;
mod entry;
mod gzip;
mod segment;

use entry::append;
#[cfg(test)]
use entry::pad;
use gzip::Member;
pub(super) use gzip::finish;
pub(super) use segment::Section;
use segment::{Begun, Hashed};
pub use segment::{Part, Parts, Segment, read};

/// Every entry's mtime: 1980-01-01T00:00:00Z, the earliest that a zip archive, and so a wheel
/// made from these files in the container, can express. It is a constant so that a layer depends on
/// its contents alone and is shared between images; `SOURCE_DATE_EPOCH` is for the image's
/// `created`.
pub const LAYER_MTIME: u64 = 315_532_800;

/// Folders whose mode is not 0755 in any Linux base. An entry for a folder of the base replaces its
/// mode (image-spec, *Changeset over existing files*), so a file below `/tmp` must not close it.
const WELL_KNOWN_MODES: [(&str, u32); 3] = [("root", 0o700), ("tmp", 0o1777), ("var/tmp", 0o1777)];

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
    let frame = Frame::of(tree, late)?;
    let (late, early): (Vec<_>, Vec<_>) =
        parts(tree).into_iter().partition(|(owner, _)| late.contains(*owner));
    let mut out = out;
    for (folders, parts) in [(frame.early, early), (frame.late, late)] {
        out.write_all(&folders)?;
        for (_, part) in parts {
            for (path, entry) in files(&part) {
                append(&mut out, path, entry)?;
                if let Node::File(content) = &entry.node {
                    content.copy_to(&mut out)?;
                    pad(&mut out, content.size())?;
                }
            }
        }
    }
    out.write_all(&frame.end)?;
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
    let compressed = compress(tree, owners, &Late::new(), store, parallel)?;
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
    member: Member,
}

/// Compresses what is not yet, and hashes the tar, on at most `parallel` threads. `owners` has what
/// each owner in the tree has, in any order; returned are its segments, too.
///
/// # Errors
/// The store cannot be written, what is to be made fails, or a segment is gone or damaged: then it is
/// removed.
pub(super) fn compress<F>(
    tree: &Tree<F>,
    owners: BTreeMap<String, Section<'_>>,
    late: &Late,
    store: &Store,
    parallel: usize,
) -> Result<(Compressed, BTreeMap<String, Vec<Segment>>), Error> {
    let failed = |source| Error::Write { path: store.root().to_owned(), source };
    let frame = Frame::of(tree, late).map_err(failed)?;
    let mut sections = Vec::new();
    let mut names = Vec::new();
    let (lates, earlies): (Vec<_>, Vec<_>) =
        owners.into_iter().partition(|(owner, _)| late.contains(owner));
    // Without late owners there is nothing that another layer would begin alike.
    let marked = if lates.is_empty() { 0 } else { earlies.len() + 1 };
    for (folders, owners) in [(frame.early, earlies), (frame.late, lates)] {
        sections.push(Section::entries(folders, store)?);
        names.push(None);
        for (owner, section) in owners {
            let files = match &section {
                Section::Files(files) => Some(files.clone()),
                Section::Kept(_) | Section::Entries(_) | Section::Later(_) => None,
            };
            sections.push(section);
            names.push(Some((owner, files)));
        }
    }
    sections.push(Section::entries(frame.end, store)?);
    names.push(None);
    let begun = begin_of(&sections[..marked], store)?;
    let packed = segment::compress(sections, begun, marked, parallel, store)?;
    if let Some(states) = &packed.marked {
        Begin::of(&packed.segments[..marked].concat()).keep(states, store)?;
    }
    let (_, diff_id, uncompressed_size) = packed.tar.finish();
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
    Ok((Compressed { parts, diff_id, uncompressed_size, member: packed.member }, of_owners))
}

/// What an earlier run hashed of a layer that begins so.
fn begin_of(sections: &[Section<'_>], store: &Store) -> Result<Option<Begun>, Error> {
    let mut segments = Vec::new();
    for section in sections {
        match section {
            Section::Kept(kept) => segments.extend_from_slice(kept),
            Section::Entries(_) | Section::Files(_) | Section::Later(_) => return Ok(None),
        }
    }
    if segments.is_empty() {
        return Ok(None);
    }
    let states = Begin::of(&segments).states(store)?;
    let mut tar = Hashed::new(io::sink());
    let known = states.filter(|states| tar.set_state(&states.tar));
    Ok(known.map(|states| Begun { sections: sections.len(), segments, tar, state: states.member }))
}

/// What is in a tar besides the owners' files and symbolic links, as tar entries.
struct Frame {
    /// Folders that an early owner needs.
    early: Vec<u8>,
    /// All others.
    late: Vec<u8>,
    /// Hard links and the tar's end.
    end: Vec<u8>,
}

impl Frame {
    fn of<F>(tree: &Tree<F>, late: &Late) -> io::Result<Self> {
        let needed = needed_early(tree, late);
        let mut frame = Self { early: Vec::new(), late: Vec::new(), end: Vec::new() };
        for (path, entry) in &folders(tree) {
            let out = if needed.contains(path) { &mut frame.early } else { &mut frame.late };
            append(out, path, entry)?;
        }
        frame.end = append_links(tree, frame.end)?;
        frame.end.extend_from_slice(&TAR_END);
        Ok(frame)
    }
}

/// The folders of early owners, and those that something of theirs lies in.
fn needed_early<F>(tree: &Tree<F>, late: &Late) -> BTreeSet<ContainerPath> {
    let mut needed = BTreeSet::new();
    for (path, entry) in tree.iter().filter(|(_, entry)| !late.contains(&entry.owner)) {
        let is_folder = matches!(entry.node, Node::Directory);
        let mut folder = if is_folder { Some(path.clone()) } else { path.parent() };
        while let Some(path) = folder {
            folder = path.parent();
            // Whoever needed it first needed all above it.
            if !needed.insert(path) {
                break;
            }
        }
    }
    needed
}

/// What each owner has in the tree, folders and hard links aside.
fn parts(tree: &Tree) -> BTreeMap<&str, Tree> {
    let mut parts: BTreeMap<&str, Tree> = BTreeMap::new();
    for (path, entry) in tree.iter().filter(|(_, entry)| is_own(&entry.node)) {
        parts.entry(&entry.owner).or_default().put(path.clone(), entry.clone());
    }
    parts
}

/// All folders: those of the tree, and those that something lies in.
fn folders<F>(tree: &Tree<F>) -> BTreeMap<ContainerPath, Entry> {
    let mut folders = implicit_parents(tree);
    for (path, entry) in tree.iter() {
        if let Node::Directory = entry.node {
            let Entry { mode, uid, gid, .. } = *entry;
            let folder = Entry { node: Node::Directory, mode, uid, gid, owner: String::new() };
            folders.insert(path.clone(), folder);
        }
    }
    folders
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
fn append_links<F, W: Write>(tree: &Tree<F>, out: W) -> io::Result<W> {
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

/// Folders that entries lie in and that have no entry themselves. The root has none in a tar.
fn implicit_parents<F>(tree: &Tree<F>) -> BTreeMap<ContainerPath, Entry> {
    let mut parents = BTreeMap::new();
    for (path, _) in tree.iter() {
        let mut ancestor = path.parent();
        while let Some(folder) = ancestor {
            ancestor = folder.parent();
            if parents.contains_key(&folder) {
                break;
            }
            if ancestor.is_none() || tree.get(&folder).is_some() {
                continue;
            }
            let mode = WELL_KNOWN_MODES
                .iter()
                .find(|(known, _)| *known == folder.as_relative())
                .map_or(0o755, |(_, mode)| *mode);
            let entry = Entry { node: Node::Directory, ..Entry::file("", mode, "") };
            parents.insert(folder, entry);
        }
    }
    parents
}

#[cfg(test)]
mod tests;
