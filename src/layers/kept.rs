//! What earlier runs made of distributions and layers, found by everything that went into it.
//!
//! A key is over the inputs, the program's version and [`FORMAT`], so results of a program that makes
//! other bytes are not found. Records say what blobs there should be; the blobs themselves are
//! verified when their bytes are used.

use serde::{Deserialize, Serialize};

use super::archive::Segment;
use super::bytecode::Compiler;
use super::path::ContainerPath;
use super::tree::{Entry, Known, Node, Tree};
use super::{Error, Installed, Layer, Options, Scheme, Treatment, WheelFile};
use crate::oci::{Descriptor, Digest, descriptor_digest};
use crate::recipe::python::{Launcher, Replacement};
use crate::store::{self, Store};

/// Raised whenever the same inputs would make other bytes: the golden tests of this room say when.
const FORMAT: &str = concat!(env!("CARGO_PKG_VERSION"), " layers 5");

const DISTRIBUTIONS: &str = "distributions";
const PARTS: &str = "parts";
const LAYERS: &str = "layers";
const BEGINS: &str = "begins";
const BYTES: &str = "bytes";

/// A distribution that an earlier run installed: what it puts where, and all of that compressed.
#[derive(Clone, Debug)]
pub(super) struct Distribution {
    pub(super) listing: Tree<Known>,
    pub(super) installed: Installed,
    /// `None` if it was only needed without what others bring too.
    pub(super) segments: Option<Vec<Segment>>,
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
    fn add_options(&mut self, options: &Options) {
        let Options { scheme, treatment, compiler } = options;
        let Scheme { purelib, platlib, scripts, data, headers, interpreter } = scheme;
        for path in [purelib, platlib, scripts, data, headers, interpreter] {
            self.add(path.as_relative());
        }
        // Duplicates are the whole layer's affair: see `layer_key`.
        let Treatment { prune, launchers, replacements, strip, smallest_duplicate: _, bytecode } =
            treatment;
        self.add(prune.len().to_le_bytes());
        for rule in prune {
            self.add_all(rule.patterns().iter().map(String::as_str));
        }
        self.add(launchers.len().to_le_bytes());
        for Launcher { script, before, when: _, reason: _ } in launchers {
            self.add(script.as_str());
            self.add_all(before.iter().map(String::as_str));
        }
        self.add(replacements.len().to_le_bytes());
        for Replacement { path, from, to, count, when: _, reason: _ } in replacements {
            for text in [path, from, to] {
                self.add(text.as_str());
            }
            self.add(count.to_le_bytes());
        }
        self.add([u8::from(*strip), u8::from(bytecode.is_some())]);
        if let (Some(rule), Some(compiler)) = (bytecode, compiler) {
            self.add_all(rule.patterns().iter().map(String::as_str));
            let Compiler { python: (major, minor), rootfs_key } = compiler;
            self.add([*major, *minor]);
            self.add(rootfs_key.as_bytes());
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
pub(super) fn distribution_key(wheel: &WheelFile, options: &Options) -> Digest {
    let mut inputs = Inputs::new();
    inputs.add_options(options);
    inputs.add_wheel(wheel);
    inputs.key()
}

/// The key of a layer of wheels; their order does not matter.
pub(super) fn layer_key(wheels: &[WheelFile], options: &Options) -> Digest {
    let mut wheels: Vec<&WheelFile> = wheels.iter().collect();
    wheels.sort_by_key(|wheel| (&wheel.name, &wheel.version, &wheel.file_name));
    let mut inputs = Inputs::new();
    inputs.add_options(options);
    inputs.add(format!("{:?}", options.treatment.smallest_duplicate));
    for wheel in wheels {
        inputs.add_wheel(wheel);
    }
    inputs.key()
}

/// The key of a layer, or of one owner's part of it, by what lies where.
pub(super) fn tree_key(tree: &Tree<Known>) -> Digest {
    let mut inputs = Inputs::new();
    for line in tree.iter().map(|(path, entry)| Line::of(path, entry)) {
        let Line { path, mode, uid, gid, owner, size, sha256, link, hard_link } = &line;
        inputs.add(path.as_str());
        inputs.add(owner.as_deref().unwrap_or_default());
        inputs.add(format!("{mode} {uid} {gid} {size:?} {sha256:?} {link:?} {hard_link:?}"));
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
    /// Never in the record of a distribution: links are made between distributions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hard_link: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Line {
    fn of(path: &ContainerPath, entry: &Entry<Known>) -> Self {
        let Entry { node, mode, uid, gid, owner } = entry;
        let mut hard_link = None;
        let (size, sha256, link) = match node {
            Node::Directory => (None, None, None),
            Node::File(known) => (Some(known.size), Some(known.sha256), None),
            Node::Symlink(target) => (None, None, Some(target.clone())),
            Node::HardLink(target) => {
                hard_link = Some(target.to_string());
                (None, None, None)
            }
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
            hard_link,
        }
    }

    fn into_entry(self, owner: &str) -> Option<(ContainerPath, Entry<Known>)> {
        let Self { path, mode, uid, gid, owner: _, size, sha256, link, hard_link } = self;
        if hard_link.is_some() {
            return None;
        }
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

/// A record of [`DISTRIBUTIONS`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DistributionRecord {
    segments: Option<Vec<Segment>>,
    installed: Installed,
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
    if !record.segments.iter().flatten().all(|segment| segment.is_stored(store)) {
        return Ok(None);
    }
    let owner = wheel.name.as_ref();
    let mut listing = Tree::default();
    for line in record.listing {
        let Some((path, entry)) = line.into_entry(owner) else { return Ok(None) };
        listing.put(path, entry);
    }
    Ok(Some(Distribution { listing, installed: record.installed, segments: record.segments }))
}

pub(super) fn keep_distribution(
    key: &Digest,
    (listing, installed): (&Tree<Known>, &Installed),
    segments: Option<&[Segment]>,
    store: &Store,
) -> Result<(), Error> {
    let lines = listing.iter().map(|(path, entry)| Line { owner: None, ..Line::of(path, entry) });
    let record = DistributionRecord {
        segments: segments.map(<[Segment]>::to_vec),
        installed: installed.clone(),
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

/// The segments of nothing but these bytes: of a large file, wherever it lies, or of a layer's folders.
pub(super) fn bytes(known: &Known, store: &Store) -> Result<Option<Vec<Segment>>, Error> {
    let segments = read::<Vec<Segment>>(BYTES, &bytes_key(known), store)?;
    Ok(segments.filter(|segments| segments.iter().all(|segment| segment.is_stored(store))))
}

pub(super) fn keep_bytes(known: &Known, segments: &[Segment], store: &Store) -> Result<(), Error> {
    write(BYTES, &bytes_key(known), &segments, store)
}

fn bytes_key(Known { size, sha256 }: &Known) -> Digest {
    let mut inputs = Inputs::new();
    inputs.add(size.to_le_bytes());
    inputs.add(sha256.as_bytes());
    inputs.key()
}

/// What layers begin with that differ only in what comes late: hashed once, gone on with by all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begin(Digest);

impl Begin {
    /// Of the layers that begin with these segments.
    pub(super) fn of(segments: &[Segment]) -> Self {
        let mut inputs = Inputs::new();
        for Segment { digest, size, crc32, uncompressed } in segments {
            inputs.add(digest.as_bytes());
            inputs.add(format!("{size} {crc32} {uncompressed}"));
        }
        Self(inputs.key())
    }

    /// What is known behind the begin, if an earlier run was there.
    pub(super) fn states(&self, store: &Store) -> Result<Option<States>, Error> {
        read(BEGINS, &self.0, store)
    }

    pub(super) fn keep(&self, states: &States, store: &Store) -> Result<(), Error> {
        write(BEGINS, &self.0, states, store)
    }

    pub(super) fn forget(&self, store: &Store) -> Result<(), Error> {
        Ok(store.put_record(BEGINS, &self.0, &[])?)
    }
}

/// The states of a layer's hashes somewhere in it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct States {
    /// Over the tar.
    pub(super) tar: Vec<u8>,
    /// Over the gzip member.
    pub(super) member: Vec<u8>,
}

/// A record of [`LAYERS`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LayerRecord {
    descriptor: Descriptor,
    diff_id: Digest,
    uncompressed_size: u64,
    installed: Vec<Installed>,
}

/// The layer that an earlier run made of the same, and its figures, if the store seems to
/// have its bytes: whoever copies them verifies them.
pub(super) fn layer(
    key: &Digest,
    created_by: &str,
    store: &Store,
) -> Result<Option<(Layer, Vec<Installed>)>, Error> {
    let Some(record) = read::<LayerRecord>(LAYERS, key, store)? else { return Ok(None) };
    let LayerRecord { descriptor, diff_id, uncompressed_size, installed } = record;
    let Ok(digest) = descriptor_digest(&descriptor) else { return Ok(None) };
    if !store.seems_to_have(&digest, descriptor.size()) {
        return Ok(None);
    }
    let created_by = created_by.to_owned();
    let layer = Layer { descriptor, diff_id, uncompressed_size, created_by };
    Ok(Some((layer, installed)))
}

pub(super) fn keep_layer(
    key: &Digest,
    layer: &Layer,
    installed: &[Installed],
    store: &Store,
) -> Result<(), Error> {
    let record = LayerRecord {
        descriptor: layer.descriptor.clone(),
        diff_id: layer.diff_id,
        uncompressed_size: layer.uncompressed_size,
        installed: installed.to_vec(),
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
