//! Layers become inventories: each tar entry is looked at once, on its way through, or each file on its way
//! into the tar.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read, Seek as _};
use std::sync::Arc;

use fs_err as fs;
use object::elf::ELFMAG;
use object::read::{ReadCache, ReadRef};

use super::elf;
use super::error::Error;
use super::inventory::{File, Layer, Node, parts};
use crate::layers::archive::{self, Part, Parts};
use crate::layers::tree::Node as Placed;
use crate::layers::{Content, Known, Outline, Segment, Tree};
use crate::oci::Digest;
use crate::oci::decompress::decompress;
use crate::oci::digest::DigestWriter;
use crate::python::record::Hash;
use crate::store::{self, Store};
use crate::world::side_by_side;

/// Records are kept under this name; changes when the same layer would be read differently.
const RECORDS: &str = "inventory-3";
/// As [`RECORDS`], of a distribution's part of a layer, under a key over its segments.
const PARTS: &str = "inventory-part-2";
/// Nothing larger is a file of a base or wheel.
const LARGEST_FILE: u64 = 2 << 30;
/// Documents that are kept; a RECORD of 100,000 files is smaller.
const LARGEST_DOCUMENT: u64 = 16 << 20;
/// Longer ELF files are not in memory: their tables are read from the disk.
const LARGE: u64 = 256 << 10;
/// What is kept of a first line.
const LONGEST_LINE: usize = 4096;

#[cfg(test)]
impl File {
    /// A file with these bytes, read as one of a layer is.
    pub(super) fn made(path: &str, bytes: &[u8], mode: u32) -> Self {
        file(path, bytes, mode)
    }
}

/// What a layer in the store holds: by its record, or read now.
pub(super) fn read_layer(layer: &Outline, store: &Store, parallel: usize) -> Result<Layer, Error> {
    if let Some(record) = store.record(RECORDS, &layer.diff_id)?
        && let Ok(known) = serde_json::from_slice(&record)
    {
        return Ok(known);
    }
    // Whatever is wrong with a part in the cache by now: the layer has its bytes too.
    if let Some(Ok(read)) = layer.parts.as_ref().map(|parts| read_parts(parts, store, parallel)) {
        return Ok(read);
    }
    // One that is not stored yet has parts only.
    let digest = layer.digest.ok_or(Error::Absent(layer.diff_id))?;
    if !store.verify(&digest)? {
        return Err(Error::Absent(digest));
    }
    let unreadable = |source| Error::Layer { layer: digest, source };
    let blob = fs::File::open(store.blob_path(&digest)).map_err(unreadable)?;
    let tar = decompress(BufReader::new(blob)).map_err(unreadable)?;
    let mut reader = Reader::new(store);
    reader.read(tar).map_err(unreadable)?;
    let record = serde_json::to_vec(&reader.layer).map_err(|error| unreadable(error.into()))?;
    store.put_record(RECORDS, &layer.diff_id, &record)?;
    Ok(reader.layer)
}

fn read_parts(parts: &Parts, store: &Store, parallel: usize) -> io::Result<Layer> {
    let parts = &parts.0;
    // What is new comes last in a layer, and takes longest.
    let mut owners =
        side_by_side(parts.len(), parallel, |number| match &parts[parts.len() - 1 - number] {
            Part::Owner { segments, files } => Some(read_owner(segments, files.as_deref(), store)),
            Part::Frame(_) => None,
        });
    let mut reader = Reader::new(store);
    for part in parts {
        match owners.pop().flatten() {
            Some(owner) => reader.layer.nodes.extend(owner?.nodes),
            // Its links name what stands before.
            None => reader.read(archive::read(part.segments(), store))?,
        }
    }
    Ok(reader.layer)
}

/// What one owner has, which has no whiteouts: by its record, or read now, where the files came from if
/// this run put them into the layer.
fn read_owner(segments: &[Segment], files: Option<&Tree>, store: &Store) -> io::Result<Layer> {
    let digests: Vec<_> = segments.iter().map(|segment| &segment.digest.as_bytes()[..]).collect();
    let key = store::key(&digests);
    let known = store.record(PARTS, &key).map_err(io::Error::other)?;
    if let Some(known) = known.and_then(|record| serde_json::from_slice(&record).ok()) {
        return Ok(known);
    }
    let layer = if let Some(files) = files {
        read_tree(files, store)?
    } else {
        let mut own = Reader::new(store);
        own.read(archive::read(segments, store))?;
        own.layer
    };
    let record = serde_json::to_vec(&layer)?;
    store.put_record(PARTS, &key, &record).map_err(io::Error::other)?;
    Ok(layer)
}

/// What the tar of these files holds.
fn read_tree(files: &Tree, store: &Store) -> io::Result<Layer> {
    let mut layer = Layer::default();
    for (path, entry) in files.iter() {
        let path = path.as_relative();
        let node = match &entry.node {
            Placed::File(content) => {
                Node::File(Arc::new(read_content(path, content, entry.mode, store)?))
            }
            Placed::Symlink(target) => Node::Link(target.clone()),
            // They stand in the frame.
            Placed::Directory | Placed::HardLink(_) => continue,
        };
        layer.nodes.push((path.to_owned(), node));
    }
    Ok(layer)
}

/// Reads the pieces of one layer's tar.
struct Reader<'a> {
    store: &'a Store,
    layer: Layer,
    /// Where each of the first `placed` nodes stands, once a hard link was met.
    places: BTreeMap<String, usize>,
    placed: usize,
}

impl<'a> Reader<'a> {
    fn new(store: &'a Store) -> Self {
        Self { store, layer: Layer::default(), places: BTreeMap::new(), placed: 0 }
    }

    /// What stands at `path`.
    fn find(&mut self, path: &str) -> Option<&Node> {
        for (place, (path, _)) in self.layer.nodes.iter().enumerate().skip(self.placed) {
            self.places.insert(path.clone(), place);
        }
        self.placed = self.layer.nodes.len();
        self.places.get(path).map(|place| &self.layer.nodes[*place].1)
    }

    fn read(&mut self, tar: impl Read) -> io::Result<()> {
        let mut archive = crate::oci::tar::Archive::new(tar);
        for entry in archive.entries()? {
            let mut entry = entry?;
            let kind = entry.header().entry_type();
            if kind.is_pax_global_extensions() {
                continue;
            }
            let path = normalised(&entry.path_bytes());
            if path.is_empty() {
                continue;
            }
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
            if name == ".wh..wh..opq" {
                self.layer.emptied.push(parent.to_owned());
                continue;
            }
            if let Some(hidden) = name.strip_prefix(".wh.") {
                let gone = if parent.is_empty() { String::new() } else { format!("{parent}/") };
                self.layer.removed.push(gone + hidden);
                continue;
            }
            let target = entry.link_name_bytes().map(std::borrow::Cow::into_owned);
            let node = if kind.is_dir() {
                Node::Directory
            } else if kind.is_symlink() {
                Node::Link(String::from_utf8_lossy(&target.unwrap_or_default()).into_owned())
            } else if kind.is_hard_link() {
                let target = normalised(&target.unwrap_or_default());
                match self.find(&target) {
                    Some(node) => node.clone(),
                    // It is in a layer below; what it is there, the link says.
                    None => Node::Link(format!("/{target}")),
                }
            } else if kind.is_file() || kind.is_contiguous() || kind.is_gnu_sparse() {
                let mode = entry.header().mode()?;
                let size = entry.size();
                Node::File(Arc::new(read_file(&path, &mut entry, (size, mode), self.store)?))
            } else {
                Node::Other
            };
            self.layer.nodes.push((path, node));
        }
        Ok(())
    }
}

fn normalised(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    parts(&name).filter(|part| *part != ".").collect::<Vec<_>>().join("/")
}

/// The next file of a tar, which says its size and mode. Only documents and small ELF files are in memory
/// as a whole.
fn read_file(
    path: &str,
    from: &mut impl Read,
    (size, mode): (u64, u32),
    store: &Store,
) -> io::Result<File> {
    check_size(path, size)?;
    let mut head = head_of(from)?;
    let is_elf = head.starts_with(&ELFMAG);
    if is_document(path) || (is_elf && size <= LARGE) {
        from.read_to_end(&mut head)?;
        return Ok(file(path, &head, mode));
    }
    let all = &mut head.as_slice().chain(from);
    if is_elf {
        let aside = store.temporary_file().map_err(io::Error::other)?;
        let mut hashed = DigestWriter::new(aside);
        io::copy(all, &mut hashed)?;
        let (aside, sha256, size) = hashed.finish();
        return Ok(File::read((size, sha256), mode, &ReadCache::new(aside)));
    }
    let mut hashed = DigestWriter::new(io::sink());
    io::copy(all, &mut hashed)?;
    let (_, sha256, size) = hashed.finish();
    let interpreter = interpreter(&head);
    Ok(File { interpreter, ..File::read((size, sha256), mode, &b""[..]) })
}

/// A file on its way into a layer, which is known by its digest: of most nothing is read.
fn read_content(path: &str, content: &Content, mode: u32, store: &Store) -> io::Result<File> {
    let Known { size, sha256 } = content.known();
    check_size(path, size)?;
    let (known, is_elf) = ((size, sha256), content.starts_with(&ELFMAG));
    if !is_elf && !content.starts_with(b"#!") && !is_document(path) {
        return Ok(File::read(known, mode, &b""[..]));
    }
    if let (true, false, Some(part)) = (is_elf, is_document(path), content.part()) {
        return Ok(File::read(known, mode, &ReadCache::new(part)));
    }
    if is_document(path) || size <= LARGE {
        return Ok(known_file(path, &content.read()?, known, mode));
    }
    let mut aside = store.temporary_file().map_err(io::Error::other)?;
    content.copy_to(&mut aside)?;
    if is_elf {
        return Ok(File::read(known, mode, &ReadCache::new(aside)));
    }
    aside.rewind()?;
    let interpreter = interpreter(&head_of(&mut aside)?);
    Ok(File { interpreter, ..File::read(known, mode, &b""[..]) })
}

fn check_size(path: &str, size: u64) -> io::Result<()> {
    if size > LARGEST_FILE {
        return Err(io::Error::other(format!("`{path}` has {size} bytes")));
    }
    Ok(())
}

/// What of a file may be its first line.
fn head_of(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    // The two bytes `#!` are not of the line.
    from.take(LONGEST_LINE as u64 + 2).read_to_end(&mut head)?;
    Ok(head)
}

fn file(path: &str, bytes: &[u8], mode: u32) -> File {
    known_file(path, bytes, (bytes.len() as u64, Digest::of(bytes)), mode)
}

fn known_file(path: &str, bytes: &[u8], known: (u64, Digest), mode: u32) -> File {
    let text = (is_document(path) && bytes.len() as u64 <= LARGEST_DOCUMENT)
        .then(|| read_part(path, &String::from_utf8_lossy(bytes)).to_owned());
    File { interpreter: interpreter(bytes), text, ..File::read(known, mode, bytes) }
}

impl File {
    /// What every file has, and the facts of an ELF file.
    fn read<'a>((size, sha256): (u64, Digest), mode: u32, bytes: impl ReadRef<'a>) -> Self {
        let (elf, damage) = match elf::read(bytes) {
            Ok(facts) => (facts, None),
            Err(damage) => (None, Some(damage.to_string())),
        };
        let hash = Hash::of_digest(&sha256).to_string();
        let mode = mode & 0o7777;
        Self { mode, size, hash, elf, damage, interpreter: None, text: None }
    }
}

/// The rest of the first line, if that begins with `#!`.
fn interpreter(bytes: &[u8]) -> Option<String> {
    let rest = bytes.strip_prefix(b"#!")?;
    let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Some(String::from_utf8_lossy(&line[..line.len().min(LONGEST_LINE)]).trim().to_owned())
}

/// What the checks read of a document: METADATA's description they do not.
fn read_part<'a>(path: &str, text: &'a str) -> &'a str {
    let ends = ["\n\n", "\n\r\n"].iter().filter_map(|end| text.find(end));
    match ends.min() {
        Some(end) if path.ends_with("/METADATA") => &text[..=end],
        _ => text,
    }
}

/// Whether the checks read its text.
fn is_document(path: &str) -> bool {
    path.ends_with(".dist-info/RECORD")
        || path.ends_with(".dist-info/entry_points.txt")
        || path.ends_with(".dist-info/METADATA")
        || matches!(path, "etc/os-release" | "usr/lib/os-release")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::fixture::Object;

    #[test]
    fn a_file_that_is_too_large_is_not_read() {
        check_size("a", LARGEST_FILE).unwrap();
        let error = check_size("a", LARGEST_FILE + 1).unwrap_err().to_string();
        assert_eq!(error, "`a` has 2147483649 bytes");
    }

    #[test]
    fn what_is_read_in_pieces_is_what_is_read_at_once() {
        let mut script = b"#! /bin/sh -e\nexit\n".to_vec();
        script.resize(3 << 20, b'#');
        let long = [&b"#!"[..], &[b'x'; 9000]].concat();
        let elf = [&ELFMAG[..], &[0; 9000]].concat();
        let mut large = Object::of("x86_64").needs("libc.so").uses("a").exports("b").to_bytes();
        large.resize(usize::try_from(LARGE).unwrap() + 1, 0);
        let facts = file("a/b", &large, 0).elf.unwrap();
        assert!(facts.needed == ["libc.so"] && facts.exports.is_some());
        let store = tempfile::TempDir::new().unwrap();
        let store = Store::open(store.path()).unwrap();
        for bytes in [script, long, elf, large, b"#!".to_vec(), Vec::new()] {
            for path in ["a/b", "a.dist-info/RECORD"] {
                let expected = file(path, &bytes, 0o755);
                assert_eq!(
                    read_file(path, &mut &bytes[..], (bytes.len() as u64, 0o755), &store).unwrap(),
                    expected
                );
                let on_disk = store.root().join("file");
                fs::write(&on_disk, &bytes).unwrap();
                for content in [bytes.clone().into(), Content::of_file(on_disk).unwrap()] {
                    assert_eq!(read_content(path, &content, 0o755, &store).unwrap(), expected);
                }
            }
        }
    }
}
