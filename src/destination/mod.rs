//! Chapter 6: where an artifact goes: a layout, an archive, a registry.
//!
//! Files are written beside their place and renamed, so that nobody finds half of one. Every blob is
//! hashed while it is copied, several at once: a damaged cache cannot reach a destination. The base's
//! layers must be in the store before a layout or archive is written; whoever calls fetches them.
//! Nothing waits for the disk: what a power failure damages is written again. What lies at a destination
//! already, and is right, is not written again.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use fs_err as fs;
use serde_json::{Value, json};

use crate::image::validate::Valid;
use crate::image::{Artifact, Image};
use crate::oci::digest::DigestWriter;
use crate::oci::{Descriptor, Digest, Reference, descriptor_digest, media_type};
use crate::request::Destination;
use crate::store::Store;
use crate::world::{Work, World, on_thread, side_by_side};

pub mod archive;
pub mod error;
mod frame;
pub mod import;
pub mod join;
pub mod layout;
pub mod registry;
mod writers;

pub use error::Error;
pub use import::import;

use writers::Writers;

/// Archives that are whole and lie beside their places, by these. Dropping them leaves nothing behind.
#[derive(Debug, Default)]
#[must_use = "an archive is in its place only when it is written"]
pub struct Prepared(BTreeMap<PathBuf, archive::Prepared>);

/// Writes what can be written of the only image of an artifact while it is being checked: every
/// destination stays as it is.
///
/// # Errors
/// A blob is missing or damaged in the store, or the disk said no.
pub async fn prepare(
    image: &Image,
    names: &[Reference],
    destinations: &[Destination],
    world: &World,
) -> Result<Prepared, Error> {
    let mut prepared = BTreeMap::new();
    for destination in destinations {
        let Destination::Archive(path) = destination else { continue };
        world.progress.step(&format!("writing {}", path.display()));
        let (image, names, path) = (image.clone(), names.to_vec(), path.clone());
        let (store, parallel, to) = (world.store.clone(), world.parallel, path.clone());
        let preparing = on_thread(move || archive::prepare(&image, &names, &store, &to, parallel));
        prepared.insert(path, Work::Write.time(&*world.progress, preparing).await?);
    }
    Ok(Prepared(prepared))
}

/// Writes an artifact to every destination, in order; returns one line for each: where it is and what
/// it took. `names` are what the image is called on disk. What is `prepared` is of the same artifact
/// and names.
///
/// # Errors
/// A destination failed; those before it are written.
pub async fn write(
    artifact: &Artifact,
    names: &[Reference],
    destinations: &[Destination],
    prepared: Prepared,
    world: &World,
) -> Result<Vec<String>, Error> {
    let Prepared(mut prepared) = prepared;
    let mut written = Vec::new();
    for destination in destinations {
        match destination {
            Destination::Registry(references) => {
                world.progress.step(&format!("pushing {destination}"));
                let push = registry::push(artifact, references, world);
                let report = Work::Push.time(&*world.progress, push).await?;
                written.extend(report.lines());
            }
            Destination::Index(references) => {
                world.progress.step(&format!("pushing {destination}"));
                let join = join::join(artifact, references, world);
                let report = Work::Push.time(&*world.progress, join).await?;
                written.extend(report.lines());
            }
            Destination::Archive(path) | Destination::Layout(path) => {
                let prepared = prepared.remove(path);
                if prepared.is_none() {
                    world.progress.step(&format!("writing {}", path.display()));
                }
                let (artifact, names) = (artifact.clone(), names.to_vec());
                let (store, path) = (world.store.clone(), path.clone());
                let is_archive = matches!(destination, Destination::Archive(_));
                let parallel = world.parallel;
                if let (true, Some(image)) = (is_archive, archive::host_image(&artifact)) {
                    world.progress.notice(&format!(
                        "an archive holds one platform: {} in {} (--platform selects another, \
                         --format oci writes all)",
                        image.platform,
                        path.display()
                    ));
                }
                let writing = on_thread(move || {
                    if let Some(prepared) = prepared {
                        prepared.publish()
                    } else if is_archive {
                        let image = archive::only_image(&artifact)?;
                        archive::prepare(image, &names, &store, &path, parallel)?.publish()
                    } else {
                        layout::write(&artifact, &names, &store, &path, parallel)
                    }
                });
                let done = Work::Write.time(&*world.progress, writing).await?;
                written.push(match done.bytes {
                    0 => format!("{} (as it was)", done.path.display()),
                    bytes => format!("{} ({bytes} bytes)", done.path.display()),
                });
            }
        }
    }
    Ok(written)
}

/// What was written to disk.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Written {
    /// The layout's directory or the archive's file.
    pub path: PathBuf,
    /// Of the manifest or index that the names stand for.
    pub digest: Digest,
    /// Bytes that were written; blobs that a layout had already are not, nor is an archive that was there.
    pub bytes: u64,
}

/// Reads a layout (a directory) or an archive (a file) and recomputes everything in it.
///
/// # Errors
/// It cannot be read, is neither, or holds anything that is wrong: [`crate::image::Error::Invalid`].
pub fn validate(path: &Path) -> Result<Valid, Error> {
    let metadata = fs::metadata(path).map_err(|e| Error::read(path, e))?;
    if metadata.is_dir() { layout::validate(path) } else { archive::validate(path) }
}

/// Content of the file `oci-layout`, to the byte: some readers compare it.
const OCI_LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// A blob of an artifact: in memory or in the store.
#[derive(Clone, Copy, Debug)]
enum Blob<'a> {
    Document(&'a [u8]),
    Stored { size: u64 },
}

impl Blob<'_> {
    fn size(&self) -> u64 {
        match self {
            Self::Document(bytes) => bytes.len() as u64,
            Self::Stored { size } => *size,
        }
    }

    /// Reads the blob and gives it to `put` in pieces, each of which is given back to be filled again;
    /// returns only after its last byte proved to be right. It goes to `path`, there from `place` on.
    ///
    /// # Errors
    /// It is not in the store, or damaged there (then it is removed), or `put` fails.
    fn copy(
        &self,
        digest: &Digest,
        store: &Store,
        (path, place): (&Path, u64),
        mut put: impl FnMut(u64, Vec<u8>) -> io::Result<Vec<u8>>,
    ) -> Result<(), Error> {
        let size = match self {
            Self::Document(bytes) => {
                put(place, bytes.to_vec()).map_err(|e| Error::write(path, e))?;
                return Ok(());
            }
            Self::Stored { size } => *size,
        };
        let blob_path = store.blob_path(digest);
        let file = match fs::File::open(&blob_path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(Error::Absent(*digest)),
            Err(e) => return Err(Error::read(&blob_path, e)),
        };
        // Never more than was promised: a tar's header already says how much comes.
        let mut file = file.take(size);
        let mut verifier = store.verifier(digest, size)?;
        let (mut piece, mut place) = (Vec::new(), place);
        loop {
            // As much as ends where the file system's own large pieces do.
            let behind = usize::try_from(place % PIECE as u64).unwrap_or_default();
            piece.resize(PIECE - behind, 0);
            let read = match file.read(&mut piece) {
                Ok(0) => break,
                Ok(read) => read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(Error::read(&blob_path, e)),
            };
            piece.truncate(read);
            let put =
                verifier.write_all(&piece).and_then(|()| put(place, std::mem::take(&mut piece)));
            piece = put.map_err(|e| Error::write(path, e))?;
            place += read as u64;
        }
        if verifier.finish()? {
            return Ok(());
        }
        let mut found = DigestWriter::new(io::sink());
        fs::File::open(&blob_path)
            .and_then(|mut file| io::copy(&mut file, &mut found))
            .map_err(|e| Error::read(&blob_path, e))?;
        let (_, found, found_size) = found.finish();
        // Removes it, so that the next run fetches or builds it again.
        store.verify(digest)?;
        Err(Error::Damaged { expected: *digest, expected_size: size, found, found_size })
    }

    /// Whether the blob's bytes are those of the file from `place` on, whatever is behind them.
    ///
    /// # Errors
    /// The file, which is at `path`, or the store cannot be read.
    fn lies_at(
        &self,
        digest: &Digest,
        store: &Store,
        (file, path, place): (&File, &Path, u64),
    ) -> Result<bool, Error> {
        let (mut place, end) = (place, place + self.size());
        let mut verifier = store.verifier(digest, self.size())?;
        let mut piece = vec![0; PIECE];
        while place < end {
            let rest = usize::try_from(end - place).unwrap_or(PIECE);
            let piece = &mut piece[..rest.min(PIECE)];
            match file.read_exact_at(piece, place).and_then(|()| verifier.write_all(piece)) {
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                read => read.map_err(|e| Error::read(path, e))?,
            }
            place += piece.len() as u64;
        }
        Ok(verifier.finish()?)
    }
}

/// Bytes of a blob that are read at once: no more than a processor's cache holds, since each piece is
/// hashed and written from there. Pieces end at multiples of it in the file they go to: Linux keeps each
/// as one folio then, which saves a third of the time of writing them and of replacing the file later.
const PIECE: usize = 256 << 10;

/// Does `work` for all blobs, at most `parallel` at once, the largest first; returns the sum of what
/// each one returned. Who has no more blobs helps `writers`.
///
/// # Errors
/// The error of the first blob that has one, in the order of their digests.
fn for_each_blob(
    blobs: &BTreeMap<Digest, Blob<'_>>,
    parallel: usize,
    writers: Option<&Writers<'_>>,
    work: impl Fn(&Digest, &Blob<'_>) -> Result<u64, Error> + Sync,
) -> Result<u64, Error> {
    let mut queue: Vec<_> = blobs.iter().collect();
    queue.sort_by_key(|(_, blob)| std::cmp::Reverse(blob.size()));
    let threads = parallel.min(queue.len());
    let helps = if writers.is_some() { threads } else { 0 };
    let done = side_by_side(queue.len() + helps, threads, |number| {
        if let Some((digest, blob)) = queue.get(number) {
            let _reader = writers.map(Writers::reader);
            return Some((**digest, work(digest, blob)));
        }
        if let Some(writers) = writers {
            writers.help();
        }
        None
    });
    let mut done: Vec<_> = done.into_iter().flatten().collect();
    done.sort_by_key(|(digest, _)| *digest);
    done.into_iter().map(|(_, result)| result).sum()
}

/// All blobs of these images and of the index over them, each once, in the order of their digests.
fn blobs<'a>(
    images: &'a [Image],
    index: Option<&'a (Vec<u8>, Descriptor)>,
) -> Result<BTreeMap<Digest, Blob<'a>>, Error> {
    let mut blobs = BTreeMap::new();
    for image in images {
        for layer in &image.layers {
            let digest = descriptor_digest(&layer.descriptor).map_err(crate::image::Error::from)?;
            let size = layer.descriptor.size();
            blobs.insert(digest, Blob::Stored { size });
        }
        blobs.insert(image.config_digest, Blob::Document(&image.config));
        blobs.insert(Digest::of(&image.manifest), Blob::Document(&image.manifest));
    }
    if let Some((bytes, _)) = index {
        blobs.insert(Digest::of(bytes), Blob::Document(bytes));
    }
    Ok(blobs)
}

/// An `index.json` entry for each name, or one without a name: containerd takes the full name from
/// one annotation, all others the tag from the other (image-spec, *Image Layout*).
fn entries(descriptor: &Descriptor, names: &[Reference]) -> Result<Vec<Value>, Error> {
    let descriptor = serde_json::to_value(descriptor)?;
    if names.is_empty() {
        return Ok(vec![descriptor]);
    }
    names
        .iter()
        .map(|name| {
            let mut entry = descriptor.clone();
            entry["annotations"] = json!({
                (media_type::CONTAINERD_NAME): name.without_digest().to_string(),
                (media_type::REF_NAME): name.tag().ok_or_else(|| Error::Untagged(name.clone()))?,
            });
            Ok(entry)
        })
        .collect()
}

/// `index.json` with these entries.
fn index_json(entries: &[Value]) -> Result<Vec<u8>, Error> {
    Ok(crate::oci::json::to_canonical_vec(&json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_INDEX,
        "manifests": entries,
    }))?)
}

/// Reads the entries of an `index.json`.
fn parse_index_json(bytes: &[u8], path: &Path) -> Result<Vec<Value>, Error> {
    let mut index: Value = serde_json::from_slice(bytes)
        .map_err(|e| Error::malformed(path, format!("index.json: {e}")))?;
    match index["manifests"].take() {
        Value::Array(entries) => Ok(entries),
        _ => Err(Error::malformed(path, "index.json has no `manifests`")),
    }
}

/// The entries as descriptors.
fn descriptors(entries: Vec<Value>, path: &Path) -> Result<Vec<Descriptor>, Error> {
    serde_json::from_value(Value::Array(entries))
        .map_err(|e| Error::malformed(path, format!("index.json: {e}")))
}

/// The digest of what the names stand for.
fn named_digest(artifact: &Artifact) -> Result<Digest, Error> {
    Ok(descriptor_digest(artifact.descriptor()).map_err(crate::image::Error::from)?)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::error::{Failure as _, Kind};
    use crate::image::fixture;

    /// A folder, a store in it that holds the layers, and an image.
    pub(super) fn stored(platform: &str) -> (TempDir, Store, Image) {
        let folder = TempDir::new().unwrap();
        let store = Store::open(folder.path().join("cache")).unwrap();
        let image = store_image(&store, platform);
        (folder, store, image)
    }

    pub(super) fn store_image(store: &Store, platform: &str) -> Image {
        let (image, blobs) = fixture::image(platform);
        for layer in &image.layers {
            let digest = descriptor_digest(&layer.descriptor).unwrap();
            store.put(&blobs[&digest]).unwrap();
        }
        image
    }

    pub(super) fn names(texts: &[&str]) -> Vec<Reference> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// Everything below `path` but the cache, with its bytes.
    pub(super) fn listing(path: &Path) -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut folders = vec![path.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap().path();
                if entry.is_dir() && !entry.ends_with("cache") {
                    folders.push(entry);
                } else if entry.is_file() {
                    let name = entry.strip_prefix(path).unwrap().display().to_string();
                    found.insert(name, fs::read(&entry).unwrap());
                }
            }
        }
        found
    }

    #[test]
    fn whatever_is_written_validates_and_is_the_same_each_time() {
        let names = names(&["grubykarol/app:1.0-python3.13"]);
        let make = || {
            let (folder, store, image) = stored("linux/amd64");
            let artifact = Artifact::new(vec![image.clone()]).unwrap();
            let out = folder.path().join("deep/out");
            let tar = archive::prepare(&image, &names, &store, &out.join("a.tar"), 2).unwrap();
            let tar = tar.publish().unwrap();
            let layout = layout::write(&artifact, &names, &store, &out.join("l"), 2).unwrap();
            assert_eq!(tar.digest, layout.digest);
            assert_eq!(tar.bytes, fs::metadata(&tar.path).unwrap().len());
            let valid = validate(&tar.path).unwrap();
            assert_eq!(validate(&layout.path).unwrap(), valid);
            assert_eq!(valid.images[0].digest, tar.digest);
            assert_eq!(valid.blobs, 4);
            let listing = listing(&out);
            let total: usize = listing
                .iter()
                .filter(|(name, _)| name.starts_with("l/"))
                .map(|(_, bytes)| bytes.len())
                .sum();
            assert_eq!(layout.bytes, total as u64);
            listing
        };
        let first = make();
        assert_eq!(make(), first);
        // Nothing temporary is left.
        assert_eq!(first.len(), 1 + 2 + 4, "{:?}", first.keys());
        assert_eq!(first["l/oci-layout"], br#"{"imageLayoutVersion":"1.0.0"}"#);
    }

    #[test]
    fn every_blob_of_the_store_must_be_there_and_right() {
        let names = names(&["app:1"]);
        for position in 0..2 {
            for (damage, kind) in [
                (b"short".to_vec(), Some(Kind::Integrity)),
                (vec![b'x'; 1 << 20], Some(Kind::Integrity)),
                (Vec::new(), None),
            ] {
                let (folder, store, image) = stored("linux/amd64");
                let digest = descriptor_digest(&image.layers[position].descriptor).unwrap();
                let path = store.blob_path(&digest);
                match kind {
                    Some(_) => fs::write(&path, damage).unwrap(),
                    None => fs::remove_file(&path).unwrap(),
                }
                let tar = folder.path().join("a.tar");
                fs::write(&tar, "older").unwrap();
                let error = archive::prepare(&image, &names, &store, &tar, 2).unwrap_err();
                assert_eq!(error.kind(), kind.unwrap_or(Kind::Unexpected));
                assert!(error.to_string().contains(&digest.to_string()), "{error}");
                // What is damaged is not found again.
                assert!(!path.exists());
                let artifact = Artifact::new(vec![image]).unwrap();
                let layout = folder.path().join("l");
                let error = layout::write(&artifact, &names, &store, &layout, 2).unwrap_err();
                assert!(matches!(error, Error::Absent(absent) if absent == digest));
                let left = listing(folder.path());
                assert_eq!(left.len(), 1);
                assert_eq!(left["a.tar"], b"older");
            }
        }
    }

    #[test]
    fn names_need_tags() {
        let (folder, store, image) = stored("linux/amd64");
        let path = folder.path().join("a.tar");
        let error = archive::prepare(&image, &names(&["app"]), &store, &path, 2).unwrap_err();
        assert_eq!(error.to_string(), "`docker.io/library/app` has no tag");
        assert!(!path.exists());
    }
}
