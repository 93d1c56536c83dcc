//! A finished layer, read back from the store: its files, and whose they are by the RECORDs in it.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read, Write};

use flate2::Compression;
use flate2::write::DeflateEncoder;
use fs_err as fs;

use super::Error;
use super::kind::Kind;
use crate::oci::Digest;
use crate::oci::decompress::decompress;
use crate::python::record::Record;
use crate::store::Store;

/// A longer RECORD is not believed.
const LARGEST_RECORD: u64 = 64 << 20;

/// A file of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    /// Without the leading slash: `usr/local/bin/x`.
    pub(super) path: String,
    /// Its bytes.
    pub(super) unpacked: u64,
    /// What header and bytes come to when they are deflated alone: a weight, not a size.
    pub(super) deflated: u64,
    /// What it is.
    pub(super) kind: Kind,
    /// The distribution whose RECORD lists it, with its version.
    pub(super) owner: Option<(String, String)>,
}

/// The files of the layer `digest`, in the archive's order; links and folders weigh nothing.
///
/// # Errors
/// The blob is absent from the store or no layer.
pub(super) fn files(digest: &Digest, store: &Store) -> Result<Vec<File>, Error> {
    let damaged = |source| Error::Read { layer: *digest, source };
    let mut files = Vec::new();
    let mut owners: BTreeMap<String, (String, String)> = BTreeMap::new();
    // One for all: what each would take lies between what stays, and adds up.
    let mut deflated = DeflateEncoder::new(Counter(0), Compression::new(6));
    each_file(digest, store, |path, size, reader| {
        deflated.write_all(&[0; 60])?;
        deflated.write_all(path.as_bytes())?;
        let mut start = Vec::new();
        let is_record = path.ends_with(".dist-info/RECORD") && size <= LARGEST_RECORD;
        let kept = if is_record { size } else { 4 };
        Read::take(&mut *reader, kept).read_to_end(&mut start)?;
        deflated.write_all(&start)?;
        io::copy(reader, &mut deflated)?;
        let Counter(deflated) = deflated.reset(Counter(0))?;
        let kind = Kind::of(&path, start.starts_with(&object::elf::ELFMAG));
        if is_record {
            note_owners(&path, &start, &mut owners);
        }
        files.push(File { path, unpacked: size, deflated, kind, owner: None });
        Ok(())
    })
    .map_err(damaged)?;
    for file in &mut files {
        file.owner = owners.get(&file.path).cloned();
    }
    Ok(files)
}

/// Files and their bytes in the layer `digest`, as its archive has them: a file that a layer above
/// replaces or hides counts here too.
///
/// # Errors
/// As [`files`].
pub(super) fn sums(digest: &Digest, store: &Store) -> Result<(u64, u64), Error> {
    let mut sums = (0, 0);
    each_file(digest, store, |_, size, _| {
        sums = (sums.0 + 1, sums.1 + size);
        Ok(())
    })
    .map_err(|source| Error::Read { layer: *digest, source })?;
    Ok(sums)
}

fn each_file(
    digest: &Digest,
    store: &Store,
    mut with: impl FnMut(String, u64, &mut dyn Read) -> io::Result<()>,
) -> io::Result<()> {
    let blob = fs::File::open(store.blob_path(digest))?;
    let mut archive = crate::oci::tar::Archive::new(decompress(BufReader::new(blob))?);
    for entry in archive.entries()? {
        let mut entry = entry?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let path = path.trim_start_matches("./").trim_start_matches('/').to_owned();
        let size = entry.size();
        with(path, size, &mut entry)?;
    }
    Ok(())
}

/// Whose the files are that a RECORD lists; who comes first by path keeps a shared one, as in a tree.
fn note_owners(path: &str, bytes: &[u8], owners: &mut BTreeMap<String, (String, String)>) {
    let Ok(record) = Record::parse(bytes) else { return };
    let Some((folder, _)) = path.rsplit_once('/') else { return };
    let (site, info) = folder.rsplit_once('/').unwrap_or(("", folder));
    let Some((name, version)) = info.trim_end_matches(".dist-info").split_once('-') else { return };
    for row in record.rows.keys() {
        let mut parts: Vec<&str> = site.split_terminator('/').collect();
        for part in row.split('/') {
            match part {
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        let owner = (name.to_owned(), version.to_owned());
        owners.entry(parts.join("/")).or_insert(owner);
    }
}

/// Counts what is written to it.
struct Counter(u64);

impl Write for Counter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.0 += buffer.len() as u64;
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
