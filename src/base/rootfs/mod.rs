//! The base's root file system on disk, for running its Python (image-spec, *Image Layer Filesystem
//! Changeset*): layers applied bottom first, by confined extraction, once.
//!
//! Only what running needs is kept: contents, links, permission bits and times. Owners, set-user-ID
//! bits, devices, pipes and extended attributes are not, so this tree is no source for an image.

use std::collections::BTreeSet;
use std::io::{self, BufReader, Read};
use std::path::PathBuf;

use fs_err as fs;

use crate::error::{Failure, Kind};
use crate::oci::decompress::decompress;
use crate::oci::digest::DigestWriter;
use crate::oci::tar::Archive;
use crate::oci::{Descriptor, Digest, descriptor_digest};
use crate::sandbox::confine::{self, ConfinedFolder, EntryPath, Limits};
use crate::store::{self, Store};

/// More than any base in use, less than a disk.
const LIMITS: Limits = Limits { entries: 1_000_000, bytes: 16 << 30 };
/// What may follow a tar's end: padding to a block factor.
const MOST_PADDING: u64 = 1 << 20;
/// Changes when the same layers would be unpacked differently.
const FORMAT: &[u8] = b"rootfs 1";
/// The kind of tree in the store.
const KIND: &str = "rootfs";

/// Why the base's file system could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cache failed us.
    #[error("the base's files cannot be kept")]
    Store(#[from] store::Error),
    /// A layer was not fetched before, or its file in the cache was damaged and is gone now.
    #[error("the base's layer {0} is not in the cache")]
    Absent(Digest),
    /// The manifest's digest for a layer is none that we can check.
    #[error("the base's layer cannot be checked")]
    Digest(#[from] crate::oci::digest::ParseError),
    /// A layer's tar is not what the config promised.
    #[error(
        "the base's layer {layer} does not match its diff_id: expected {expected}, found {found}"
    )]
    DiffId {
        /// The layer's digest.
        layer: Digest,
        /// The config's.
        expected: Digest,
        /// Of the uncompressed bytes.
        found: Digest,
    },
    /// A layer cannot be read as an archive.
    #[error("the base's layer {layer} is damaged")]
    Damaged {
        /// The layer's digest.
        layer: Digest,
        /// What the reader said.
        #[source]
        source: io::Error,
    },
    /// A layer has an entry that is not unpacked.
    #[error("the base's layer {layer} cannot be unpacked")]
    Refused {
        /// The layer's digest.
        layer: Digest,
        /// The entry and the reason.
        #[source]
        source: confine::Error,
    },
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Store(error) => error.kind(),
            Self::Refused { source, .. } => source.kind(),
            Self::Absent(_) => Kind::Unexpected,
            Self::Digest(_) | Self::DiffId { .. } | Self::Damaged { .. } => Kind::Integrity,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Store(error) => error.hint(),
            Self::Absent(_) => Some("run the same command again: it is fetched anew".into()),
            _ => None,
        }
    }
}

/// The key of the tree that [`unpack`] makes of layers with these `diff_ids`, bottom first: what a
/// base *is*, for whatever is built with it.
pub fn key(diff_ids: &[Digest]) -> Digest {
    let mut parts: Vec<&[u8]> = vec![FORMAT];
    parts.extend(diff_ids.iter().map(|diff_id| &diff_id.as_bytes()[..]));
    store::key(&parts)
}

/// The folder that an earlier [`unpack`] made of layers with these `diff_ids`, if it is there and was
/// not changed since. It blocks, as it reads every file; call it off the async threads.
///
/// # Errors
/// The disk said no.
pub fn unpacked(diff_ids: &[Digest], store: &Store) -> Result<Option<PathBuf>, Error> {
    Ok(store.tree(KIND, &key(diff_ids))?)
}

/// The folder with all layers applied, bottom first. The layers' blobs are in the store; each is
/// verified by digest and, to its last byte, by `diff_id` before the tree gets its name. Unpacked
/// once: the second call finds it. It blocks; call it off the async threads.
///
/// # Errors
/// A blob is absent or damaged, an archive is hostile, or the disk said no. Nothing is left then.
pub fn unpack(layers: &[(Descriptor, Digest)], store: &Store) -> Result<PathBuf, Error> {
    unpack_within(layers, store, LIMITS)
}

fn unpack_within(
    layers: &[(Descriptor, Digest)],
    store: &Store,
    limits: Limits,
) -> Result<PathBuf, Error> {
    let diff_ids: Vec<Digest> = layers.iter().map(|(_, diff_id)| *diff_id).collect();
    let key = key(&diff_ids);
    if let Some(path) = store.tree(KIND, &key)? {
        return Ok(path);
    }
    let directory = fill(layers, store, limits)?;
    Ok(store.put_tree(KIND, &key, directory)?)
}

/// As [`unpack`], into a folder that is gone when it is dropped: for what is looked at once.
///
/// # Errors
/// As [`unpack`].
pub fn unpack_once(
    layers: &[(Descriptor, Digest)],
    store: &Store,
) -> Result<tempfile::TempDir, Error> {
    fill(layers, store, LIMITS)
}

fn fill(
    layers: &[(Descriptor, Digest)],
    store: &Store,
    limits: Limits,
) -> Result<tempfile::TempDir, Error> {
    let directory = store.temporary_directory()?;
    let disk = |source| store::Error::Disk { path: store.root().to_path_buf(), source };
    let mut folder = ConfinedFolder::open(directory.path(), limits).map_err(disk)?;
    for (descriptor, diff_id) in layers {
        let layer = descriptor_digest(descriptor)?;
        if !store.verify(&layer)? {
            return Err(Error::Absent(layer));
        }
        let blob = fs::File::open(store.blob_path(&layer)).map_err(disk)?;
        let damaged = |source| Error::Damaged { layer, source };
        let mut tar = Hashed::new(decompress(BufReader::new(blob)).map_err(damaged)?);
        apply(&mut tar, layer, &mut folder)?;
        // The diff_id covers the padding too.
        let padding =
            io::copy(&mut (&mut tar).take(MOST_PADDING + 1), &mut io::sink()).map_err(damaged)?;
        if padding > MOST_PADDING {
            return Err(damaged(io::Error::other("bytes after the archive's end")));
        }
        let found = tar.digest.finish().1;
        if found != *diff_id {
            return Err(Error::DiffId { layer, expected: *diff_id, found });
        }
    }
    Ok(directory)
}

/// Applies one layer's tar.
fn apply(tar: &mut dyn Read, layer: Digest, folder: &mut ConfinedFolder) -> Result<(), Error> {
    let damaged = |source| Error::Damaged { layer, source };
    let refused = |source| Error::Refused { layer, source };
    // Whiteouts are about the layers below: what this layer brings itself stays.
    let mut brought = BTreeSet::new();
    let mut archive = Archive::new(tar);
    for entry in archive.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let kind = entry.header().entry_type();
        if kind.is_pax_global_extensions() {
            continue;
        }
        let name = entry.path_bytes().into_owned();
        let path = EntryPath::parse(&name).map_err(refused)?;
        match whiteout(&path).map_err(refused)? {
            Some(Whiteout::Of(path)) => {
                folder.remove(&path, &brought).map_err(refused)?;
                continue;
            }
            Some(Whiteout::Opaque(path)) => {
                folder.clear(&path, &brought).map_err(refused)?;
                continue;
            }
            Some(Whiteout::Private) => continue,
            None => {}
        }
        let mode = entry.header().mode().map_err(damaged)?;
        let target = |entry: &tar::Entry<'_, _>| {
            entry
                .link_name_bytes()
                .map(std::borrow::Cow::into_owned)
                .ok_or_else(|| damaged(io::Error::other("a link without a target")))
        };
        if kind.is_dir() {
            folder.directory(&path, mode).map_err(refused)?;
        } else if kind.is_file() || kind.is_contiguous() {
            let modified = entry.header().mtime().ok();
            folder.file(&path, mode, modified, &mut entry).map_err(refused)?;
        } else if kind.is_symlink() {
            folder.symlink(&path, &target(&entry)?).map_err(refused)?;
        } else if kind.is_hard_link() {
            let target = EntryPath::parse(&target(&entry)?).map_err(refused)?;
            folder.hard_link(&path, &target).map_err(refused)?;
        // Sparse files are refused below: no layer's writer makes them, and half a kilobyte of archive
        // would become any number of gigabytes.
        } else if kind.is_character_special() || kind.is_block_special() || kind.is_fifo() {
            // Nothing that is run here needs them; the sandbox has devices of its own.
            continue;
        } else {
            return Err(refused(confine::Error::EntryKind {
                path: path.to_string(),
                entry_kind: format!("type `{}`", char::from(kind.as_byte())),
            }));
        }
        brought.insert(path);
    }
    Ok(())
}

/// What a name beginning with `.wh.` asks for (image-spec, *Whiteouts*).
#[derive(Debug, PartialEq, Eq)]
enum Whiteout {
    /// `.wh.<name>`: the path of what is gone.
    Of(EntryPath),
    /// `.wh..wh..opq`: the folder whose lower content is gone.
    Opaque(EntryPath),
    /// Other names beginning with `.wh..wh.` are AUFS's own and mean nothing here.
    Private,
}

fn whiteout(path: &EntryPath) -> Result<Option<Whiteout>, confine::Error> {
    let Some((parent, name)) = path.split() else {
        return Ok(None);
    };
    let Some(hidden) = name.as_encoded_bytes().strip_prefix(b".wh.") else {
        return Ok(None);
    };
    if hidden == b".wh..opq" {
        return Ok(Some(Whiteout::Opaque(parent)));
    }
    if hidden.starts_with(b".wh.") {
        return Ok(Some(Whiteout::Private));
    }
    let gone = EntryPath::parse(hidden)?;
    match gone.split() {
        Some((_, name)) => Ok(Some(Whiteout::Of(parent.child(name)))),
        // `.wh.` and `.wh..`: of nothing, or of the folder itself.
        None => Err(confine::Error::Path { path: path.to_string() }),
    }
}

/// Hashes what is read.
struct Hashed<R> {
    reader: R,
    digest: DigestWriter<io::Sink>,
}

impl<R> Hashed<R> {
    fn new(reader: R) -> Self {
        Self { reader, digest: DigestWriter::new(io::sink()) }
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        io::Write::write_all(&mut self.digest, &buffer[..read])?;
        Ok(read)
    }
}

#[cfg(test)]
mod tests;
