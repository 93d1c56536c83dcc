//! Layers become inventories: each tar entry is looked at once, on its way through.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read};
use std::sync::Arc;

use fs_err as fs;

use super::elf;
use super::error::Error;
use super::inventory::{File, Layer, Node, parts};
use crate::layers::archive::{self, Part, Parts};
use crate::layers::{Outline, Segment};
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
/// What a header that says a size is believed at most.
const MOST_RESERVED: u64 = 64 << 20;
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
    let mut reader = Reader::default();
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
            Part::Owner(segments) => Some(read_owner(segments, store)),
            Part::Frame(_) => None,
        });
    let mut reader = Reader::default();
    for part in parts {
        match owners.pop().flatten() {
            Some(owner) => reader.layer.nodes.extend(owner?.nodes),
            // Its links name what stands before.
            None => reader.read(archive::read(part.segments(), store))?,
        }
    }
    Ok(reader.layer)
}

/// What one owner has, which has no whiteouts: by its record, or read now.
fn read_owner(segments: &[Segment], store: &Store) -> io::Result<Layer> {
    let digests: Vec<_> = segments.iter().map(|segment| &segment.digest.as_bytes()[..]).collect();
    let key = store::key(&digests);
    let known = store.record(PARTS, &key).map_err(io::Error::other)?;
    if let Some(known) = known.and_then(|record| serde_json::from_slice(&record).ok()) {
        return Ok(known);
    }
    let mut own = Reader::default();
    own.read(archive::read(segments, store))?;
    let record = serde_json::to_vec(&own.layer)?;
    store.put_record(PARTS, &key, &record).map_err(io::Error::other)?;
    Ok(own.layer)
}

/// Reads the pieces of one layer's tar.
#[derive(Default)]
struct Reader {
    layer: Layer,
    /// Where each of the first `placed` nodes stands, once a hard link was met.
    places: BTreeMap<String, usize>,
    placed: usize,
}

impl Reader {
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
                if entry.size() > LARGEST_FILE {
                    return Err(io::Error::other(format!("`{path}` has {} bytes", entry.size())));
                }
                let size = entry.size();
                Node::File(Arc::new(read_file(&path, &mut entry, size, mode)?))
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

/// The next file of a tar. Only documents and ELF files are in memory as a whole.
fn read_file(path: &str, from: &mut impl Read, size: u64, mode: u32) -> io::Result<File> {
    let mut head = Vec::new();
    // The two bytes `#!` are not of the line.
    from.take(LONGEST_LINE as u64 + 2).read_to_end(&mut head)?;
    if is_document(path) || head.starts_with(b"\x7fELF") {
        // Growing would take twice as much.
        head.reserve_exact(usize::try_from(size.min(MOST_RESERVED)).unwrap_or_default());
        from.read_to_end(&mut head)?;
        return Ok(file(path, &head, mode));
    }
    let mut hashed = DigestWriter::new(io::sink());
    io::copy(&mut head.as_slice().chain(from), &mut hashed)?;
    let (_, sha256, size) = hashed.finish();
    let hash = Hash::of_digest(&sha256).to_string();
    Ok(File { size, hash, ..file(path, &head, mode) })
}

fn file(path: &str, bytes: &[u8], mode: u32) -> File {
    let (elf, damage) = match elf::read(bytes) {
        Ok(facts) => (facts, None),
        Err(damage) => (None, Some(damage.to_string())),
    };
    let text = (is_document(path) && bytes.len() as u64 <= LARGEST_DOCUMENT)
        .then(|| read_part(path, &String::from_utf8_lossy(bytes)).to_owned());
    File {
        mode: mode & 0o7777,
        size: bytes.len() as u64,
        hash: Hash::of(bytes).to_string(),
        elf,
        damage,
        interpreter: interpreter(bytes),
        text,
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

    #[test]
    fn what_is_read_in_pieces_is_what_is_read_at_once() {
        let mut script = b"#! /bin/sh -e\nexit\n".to_vec();
        script.resize(3 << 20, b'#');
        let long = [&b"#!"[..], &[b'x'; 9000]].concat();
        let elf = [&b"\x7fELF"[..], &[0; 9000]].concat();
        for bytes in [script, long, elf, b"#!".to_vec(), Vec::new()] {
            for path in ["a/b", "a.dist-info/RECORD"] {
                let expected = file(path, &bytes, 0o755);
                assert_eq!(
                    read_file(path, &mut &bytes[..], bytes.len() as u64, 0o755).unwrap(),
                    expected
                );
            }
        }
    }
}
