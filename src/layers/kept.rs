//! What earlier runs made of distributions and layers, found by everything that went into it.
//!
//! A key is over the inputs, the program's version and [`FORMAT`], so results of a program that makes
//! other bytes are not found. Records say what blobs there should be; the blobs themselves are
//! verified when their bytes are used.

use pep440_rs::Version;
use pep508_rs::PackageName;
use serde::{Deserialize, Serialize};

use super::archive::Segment;
use super::path::ContainerPath;
use super::tree::{Entry, Known, Node, Tree};
use super::{Error, Installed, Layer, Prune, Pruned, Scheme, WheelFile};
use crate::oci::{Descriptor, Digest, descriptor_digest};
use crate::store::{self, Store};

/// Raised whenever the same inputs would make other bytes: the golden tests of this room say when.
const FORMAT: &str = concat!(env!("CARGO_PKG_VERSION"), " layers 1");

const DISTRIBUTIONS: &str = "distributions";
const PARTS: &str = "parts";
const LAYERS: &str = "layers";

/// A distribution that an earlier run installed: what it puts where, and all of that compressed.
#[derive(Clone, Debug)]
pub(super) struct Distribution {
    pub(super) listing: Tree<Known>,
    pub(super) installed: Installed,
    pub(super) segments: Vec<Segment>,
}

/// Frames and collects what a key is over.
#[derive(Debug)]
struct Inputs(Vec<Vec<u8>>);

impl Inputs {
    fn new() -> Self {
        Self(vec![FORMAT.into()])
    }

    fn add(&mut self, part: impl Into<Vec<u8>>) {
        self.0.push(part.into());
    }

    /// Patterns are matched with separators, so the frame of the list has to be part of it.
    fn add_all<T: Into<Vec<u8>>>(&mut self, parts: impl ExactSizeIterator<Item = T>) {
        self.add(parts.len().to_le_bytes());
        parts.for_each(|part| self.add(part));
    }

    /// All that decides what an installed wheel looks like. Everything is named, so that a new field
    /// cannot be forgotten here.
    fn add_options(&mut self, scheme: &Scheme, prune: &[Prune]) {
        let Scheme { purelib, platlib, scripts, data, headers, interpreter } = scheme;
        for path in [purelib, platlib, scripts, data, headers, interpreter] {
            self.add(path.as_relative());
        }
        self.add(prune.len().to_le_bytes());
        for rule in prune {
            self.add_all(rule.patterns().iter().map(String::as_str));
        }
    }

    fn add_wheel(&mut self, wheel: &WheelFile) {
        let WheelFile { name, version, file_name, digest, requested } = wheel;
        self.add(name.to_string());
        self.add(version.to_string());
        self.add(file_name.as_str());
        self.add(digest.as_bytes());
        self.add([u8::from(*requested)]);
    }

    fn key(&self) -> Digest {
        store::key(&self.0.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }
}

/// The key of one installed wheel.
pub(super) fn distribution_key(wheel: &WheelFile, scheme: &Scheme, prune: &[Prune]) -> Digest {
    let mut inputs = Inputs::new();
    inputs.add_options(scheme, prune);
    inputs.add_wheel(wheel);
    inputs.key()
}

/// The key of a layer of wheels; their order does not matter.
pub(super) fn layer_key(wheels: &[WheelFile], scheme: &Scheme, prune: &[Prune]) -> Digest {
    let mut wheels: Vec<&WheelFile> = wheels.iter().collect();
    wheels.sort_by_key(|wheel| (&wheel.name, &wheel.version, &wheel.file_name));
    let mut inputs = Inputs::new();
    inputs.add_options(scheme, prune);
    for wheel in wheels {
        inputs.add_wheel(wheel);
    }
    inputs.key()
}

/// The key of a layer, or of one owner's part of it, by what lies where.
pub(super) fn tree_key(tree: &Tree<Known>) -> Digest {
    let mut inputs = Inputs::new();
    for line in tree.iter().map(|(path, entry)| Line::of(path, entry)) {
        let Line { path, mode, uid, gid, owner, size, sha256, link } = &line;
        inputs.add(path.as_str());
        inputs.add(owner.as_deref().unwrap_or_default());
        inputs.add(format!("{mode} {uid} {gid} {size:?} {sha256:?} {link:?}"));
    }
    inputs.key()
}

/// An entry of a tree, in a record.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    path: String,
    mode: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    uid: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    gid: u32,
    /// Absent in the record of a distribution, which owns all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sha256: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    link: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Line {
    fn of(path: &ContainerPath, entry: &Entry<Known>) -> Self {
        let Entry { node, mode, uid, gid, owner } = entry;
        let (size, sha256, link) = match node {
            Node::Directory => (None, None, None),
            Node::File(known) => (Some(known.size), Some(known.sha256), None),
            Node::Symlink(target) => (None, None, Some(target.clone())),
        };
        Self {
            path: path.to_string(),
            mode: *mode,
            uid: *uid,
            gid: *gid,
            owner: Some(owner.clone()),
            size,
            sha256,
            link,
        }
    }

    fn into_entry(self, owner: &str) -> Option<(ContainerPath, Entry<Known>)> {
        let Self { path, mode, uid, gid, owner: _, size, sha256, link } = self;
        let node = match (size, sha256, link) {
            (Some(size), Some(sha256), None) => Node::File(Known { size, sha256 }),
            (None, None, Some(target)) => Node::Symlink(target),
            (None, None, None) => Node::Directory,
            _ => return None,
        };
        let path = ContainerPath::parse(&path).ok()?;
        Some((path, Entry { node, mode, uid, gid, owner: owner.to_owned() }))
    }
}

/// A record of [`DISTRIBUTIONS`]. Name and version are those of the key.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DistributionRecord {
    segments: Vec<Segment>,
    files: u64,
    bytes_installed: u64,
    pruned: Vec<(u64, u64)>,
    has_native: bool,
    tags: Vec<String>,
    notices: Vec<String>,
    listing: Vec<Line>,
}

/// What an earlier run made of the wheel, if all of it seems to be there.
pub(super) fn distribution(
    key: &Digest,
    wheel: &WheelFile,
    store: &Store,
) -> Result<Option<Distribution>, Error> {
    let Some(record) = read::<DistributionRecord>(DISTRIBUTIONS, key, store)? else {
        return Ok(None);
    };
    if !record.segments.iter().all(|segment| segment.is_stored(store)) {
        return Ok(None);
    }
    let owner = wheel.name.as_ref();
    let mut listing = Tree::default();
    for line in record.listing {
        let Some((path, entry)) = line.into_entry(owner) else { return Ok(None) };
        listing.put(path, entry);
    }
    let pruned = record.pruned.into_iter().map(|(files, bytes)| Pruned { files, bytes }).collect();
    let installed = Installed {
        name: PackageName::clone(&wheel.name),
        version: Version::clone(&wheel.version),
        files: record.files,
        bytes_installed: record.bytes_installed,
        pruned,
        has_native: record.has_native,
        tags: record.tags,
        notices: record.notices,
    };
    Ok(Some(Distribution { listing, installed, segments: record.segments }))
}

pub(super) fn keep_distribution(
    key: &Digest,
    made: &Distribution,
    store: &Store,
) -> Result<(), Error> {
    let Distribution { listing, installed, segments } = made;
    let Installed {
        name: _,
        version: _,
        files,
        bytes_installed,
        pruned,
        has_native,
        tags,
        notices,
    } = installed;
    let lines = listing.iter().map(|(path, entry)| Line { owner: None, ..Line::of(path, entry) });
    let record = DistributionRecord {
        segments: segments.clone(),
        files: *files,
        bytes_installed: *bytes_installed,
        pruned: pruned.iter().map(|Pruned { files, bytes }| (*files, *bytes)).collect(),
        has_native: *has_native,
        tags: tags.clone(),
        notices: notices.clone(),
        listing: lines.collect(),
    };
    write(DISTRIBUTIONS, key, &record, store)
}

/// The segments of a part that lacks what other distributions bring too.
pub(super) fn part(key: &Digest, store: &Store) -> Result<Option<Vec<Segment>>, Error> {
    let segments = read::<Vec<Segment>>(PARTS, key, store)?;
    Ok(segments.filter(|segments| segments.iter().all(|segment| segment.is_stored(store))))
}

pub(super) fn keep_part(key: &Digest, segments: &[Segment], store: &Store) -> Result<(), Error> {
    write(PARTS, key, &segments, store)
}

/// A record of [`LAYERS`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LayerRecord {
    descriptor: Descriptor,
    diff_id: Digest,
    uncompressed_size: u64,
    notices: Vec<String>,
}

/// The layer that an earlier run made of the same, and what it had to say, if the store seems to
/// have its bytes: whoever copies them verifies them.
pub(super) fn layer(
    key: &Digest,
    created_by: &str,
    store: &Store,
) -> Result<Option<(Layer, Vec<String>)>, Error> {
    let Some(record) = read::<LayerRecord>(LAYERS, key, store)? else { return Ok(None) };
    let LayerRecord { descriptor, diff_id, uncompressed_size, notices } = record;
    let Ok(digest) = descriptor_digest(&descriptor) else { return Ok(None) };
    let found = fs_err::metadata(store.blob_path(&digest));
    if !found.is_ok_and(|found| found.len() == descriptor.size()) {
        return Ok(None);
    }
    let created_by = created_by.to_owned();
    Ok(Some((Layer { descriptor, diff_id, uncompressed_size, created_by }, notices)))
}

pub(super) fn keep_layer(
    key: &Digest,
    layer: &Layer,
    notices: &[String],
    store: &Store,
) -> Result<(), Error> {
    let record = LayerRecord {
        descriptor: layer.descriptor.clone(),
        diff_id: layer.diff_id,
        uncompressed_size: layer.uncompressed_size,
        notices: notices.to_vec(),
    };
    write(LAYERS, key, &record, store)
}

/// A record of another shape is none.
fn read<T: for<'de> Deserialize<'de>>(
    kind: &str,
    key: &Digest,
    store: &Store,
) -> Result<Option<T>, Error> {
    let record = store.record(kind, key)?;
    Ok(record.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

fn write<T: Serialize>(kind: &str, key: &Digest, value: &T, store: &Store) -> Result<(), Error> {
    let bytes = serde_json::to_vec(value)
        .map_err(|error| Error::Write { path: store.root().to_owned(), source: error.into() })?;
    Ok(store.put_record(kind, key, &bytes)?)
}
