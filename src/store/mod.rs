//! The content-addressed cache on disk.
//!
//! ```text
//! <root>/blobs/sha256/<hex>        bytes whose digest is their name
//! <root>/keyed/<kind>/<hex>        small records found by what went into them
//! <root>/trees/<kind>/<hex>/       unpacked directories, complete or absent
//! <root>/tmp/<run>/                what is being written, by one process
//! ```
//!
//! Every write goes to `tmp/`, is hashed on its way and renamed: a killed process leaves no wrong file
//! behind. What came over a network is synced first; what can be made again is not, and a power
//! failure may damage it. Every read of a blob is verified to its last byte: a damaged file is removed
//! and reported as absent, so that it is fetched or built again. The same holds for a tree, which is
//! listed when it is put in its place and compared when it is used.
//!
//! What a killed process left in `tmp/` is removed when a store is opened. A process's folder there is
//! made when it first writes, and locked: what is in use is never removed.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek as _, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use fs_err as fs;
use tempfile::{NamedTempFile, TempDir};

use crate::beside;
use crate::error::{Failure, Kind};
use crate::oci::Digest;
use crate::oci::digest::DigestWriter;
use crate::room;

mod blob;
mod listing;

pub use blob::{BlobReader, BlobWriter, Verifier};

/// The cache's root, opened. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
    turns: Arc<Mutex<Turns>>,
    /// This process's folder in `tmp/`, once something was written.
    run: Arc<Mutex<Option<beside::Folder>>>,
}

/// Whoever holds one is making what the kind and the key name.
type Turns = BTreeMap<(&'static str, Digest), Arc<tokio::sync::Mutex<()>>>;

/// Nobody else in this process who asks for the same turn has it, until it is dropped.
#[derive(Debug)]
#[must_use = "the turn ends when it is dropped"]
pub struct Turn(#[expect(dead_code, reason = "it is held")] tokio::sync::OwnedMutexGuard<()>);

/// Why the cache could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk said no.
    #[error("the cache cannot be used: {path}")]
    Disk {
        /// The cache's root.
        path: PathBuf,
        /// What the disk said.
        #[source]
        source: io::Error,
    },
    /// What was written is not what was promised.
    #[error("digest mismatch of {what}: expected {expected}, found {found}")]
    Mismatch {
        /// What was being stored.
        what: String,
        /// The promised digest.
        expected: Digest,
        /// The digest of the bytes that came.
        found: Digest,
    },
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Disk { .. } => Kind::Unexpected,
            Self::Mismatch { .. } => Kind::Integrity,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Disk { .. } => {
                Some("free space or choose another folder with --cache-dir".into())
            }
            Self::Mismatch { .. } => None,
        }
    }
}

impl Store {
    /// Opens the cache below `root`, making its folders.
    ///
    /// # Errors
    /// The folders cannot be made.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, Error> {
        let store = Self { root: root.into(), turns: Arc::default(), run: Arc::default() };
        for folder in ["blobs/sha256", "keyed", "trees", "tmp"] {
            fs::create_dir_all(store.root.join(folder)).map_err(|e| store.disk(e))?;
        }
        // All that lies there is ours, or was.
        beside::sweep_all(&store.root.join("tmp"), |_| true);
        Ok(store)
    }

    /// The folder everything lies in.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Waits until nobody else who shares this opened cache is making what `kind` and `key` name.
    ///
    /// Cells are made side by side and want the same wheels, base layers and builds. Whoever is going
    /// to make something takes its turn first, and then looks again whether it is there by now.
    /// Several turns may be held at once only in the order: a build or a layer of wheels, the base's tree or
    /// inventory, a blob.
    pub async fn turn(&self, kind: &'static str, key: &Digest) -> Turn {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(turns.entry((kind, *key)).or_default())
        };
        Turn(turn.lock_owned().await)
    }

    /// This process's folder in `tmp/`.
    fn run(&self) -> Result<PathBuf, Error> {
        let mut run = self.run.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(folder) = &*run {
            return Ok(folder.path().to_owned());
        }
        let folder = beside::folder(&self.root.join("tmp/run"), 0o700).map_err(|e| self.disk(e))?;
        Ok(run.insert(folder).path().to_owned())
    }

    fn disk(&self, source: io::Error) -> Error {
        Error::Disk { path: self.root.clone(), source }
    }

    /// Where the blob lies or would lie. Reading it there skips verification: see [`Self::read`].
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    /// Begins a blob whose digest is not known yet.
    ///
    /// # Errors
    /// No temporary file can be made.
    pub fn writer(&self) -> Result<BlobWriter, Error> {
        let file = NamedTempFile::new_in(self.run()?).map_err(|e| self.disk(e))?;
        Ok(BlobWriter::new(self, file))
    }

    /// Stores `bytes`. `Ok` means they are stored, though maybe not by this call.
    ///
    /// # Errors
    /// The disk said no.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, Error> {
        let mut writer = self.writer()?;
        writer.write_all(bytes).map_err(|e| self.disk(e))?;
        Ok(writer.commit()?.0)
    }

    /// Stores `bytes` as [`BlobWriter::commit_unsynced`] does, unless they are there and right.
    ///
    /// # Errors
    /// The disk said no.
    pub fn put_unsynced(&self, bytes: &[u8]) -> Result<Digest, Error> {
        let digest = Digest::of(bytes);
        // Replacing what is right would take longer than reading it.
        if self.seems_to_have(&digest, bytes.len() as u64) && self.verify(&digest)? {
            return Ok(digest);
        }
        let mut file = NamedTempFile::new_in(self.run()?).map_err(|e| self.disk(e))?;
        file.write_all(bytes).map_err(|e| self.disk(e))?;
        blob::name(self, file, &digest)?;
        Ok(digest)
    }

    /// Whether a blob of that digest and size seems to be stored. Whoever reads it verifies it.
    pub fn seems_to_have(&self, digest: &Digest, size: u64) -> bool {
        fs::metadata(self.blob_path(digest)).is_ok_and(|found| found.len() == size)
    }

    /// Whether a blob of that digest is stored and still has it, read to its last byte. A damaged
    /// blob is removed.
    ///
    /// # Errors
    /// The disk said no.
    pub fn verify(&self, digest: &Digest) -> Result<bool, Error> {
        match self.reader(digest)? {
            Some(reader) => Ok(reader.finish()?.is_some()),
            None => Ok(false),
        }
    }

    /// The blob's file, at its begin and verified; `None` if it is absent or was damaged.
    ///
    /// # Errors
    /// The disk said no.
    pub fn open_verified(&self, digest: &Digest) -> Result<Option<std::fs::File>, Error> {
        let Some(reader) = self.reader(digest)? else { return Ok(None) };
        let Some(mut file) = reader.finish()? else { return Ok(None) };
        file.rewind().map_err(|e| self.disk(e))?;
        Ok(Some(file.into_file()))
    }

    /// The blob's bytes as a stream; `None` if it is absent. What was read is only known to be right
    /// after [`BlobReader::finish`].
    ///
    /// # Errors
    /// The disk said no.
    pub fn reader(&self, digest: &Digest) -> Result<Option<BlobReader>, Error> {
        let file = match fs::File::open(self.blob_path(digest)) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(self.disk(e)),
        };
        BlobReader::new(self, digest, file).map(Some)
    }

    /// For whoever reads a blob of so many bytes itself: see [`Verifier`].
    ///
    /// # Errors
    /// The disk said no.
    pub fn verifier(&self, digest: &Digest, size: u64) -> Result<Verifier, Error> {
        Verifier::new(self, digest, size)
    }

    /// The whole blob, verified; `None` if it is absent or was damaged. For documents.
    ///
    /// # Errors
    /// The disk said no.
    pub fn read(&self, digest: &Digest) -> Result<Option<Vec<u8>>, Error> {
        let path = self.blob_path(digest);
        match fs::read(&path) {
            Ok(bytes) if Digest::of(&bytes) == *digest => Ok(Some(bytes)),
            Ok(_) => {
                fs::remove_file(&path).map_err(|e| self.disk(e))?;
                Ok(None)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.disk(e)),
        }
    }

    /// The record stored for `key` among records of `kind`; `None` if there is none or it is damaged.
    ///
    /// # Errors
    /// The disk said no.
    pub fn record(&self, kind: &str, key: &Digest) -> Result<Option<Vec<u8>>, Error> {
        let mut bytes = match fs::File::open(self.record_path(kind, key)) {
            Ok(mut file) => read(&mut file).map_err(|e| self.disk(e))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(self.disk(e)),
        };
        let is_whole = bytes
            .split_at_checked(HEAD)
            .is_some_and(|(head, rest)| head == head_of(&Digest::of(rest)).as_bytes());
        Ok(is_whole.then(|| {
            bytes.drain(..HEAD);
            bytes
        }))
    }

    /// The first `most` bytes of a record, or all if it has fewer; `None` if there is none. They are not
    /// verified: only all of a record can be.
    ///
    /// # Errors
    /// The disk said no.
    pub fn record_begin(
        &self,
        kind: &str,
        key: &Digest,
        most: u64,
    ) -> Result<Option<Vec<u8>>, Error> {
        let mut bytes = Vec::new();
        match fs::File::open(self.record_path(kind, key)) {
            Ok(file) => {
                file.take(HEAD as u64 + most).read_to_end(&mut bytes).map_err(|e| self.disk(e))?
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(self.disk(e)),
        };
        bytes.drain(..HEAD.min(bytes.len()));
        Ok(Some(bytes))
    }

    /// Stores a record for `key` among records of `kind`, replacing an older one. It is not synced: a
    /// record that a power failure damaged is absent.
    ///
    /// # Errors
    /// The disk said no.
    pub fn put_record(&self, kind: &str, key: &Digest, value: &[u8]) -> Result<(), Error> {
        self.write_record(kind, key, &Digest::of(value), &[value])
    }

    /// As [`Self::put_record`] of large `parts` behind each other, unless that seems to be there.
    ///
    /// # Errors
    /// The disk said no.
    pub fn put_parts(&self, kind: &str, key: &Digest, parts: &[&[u8]]) -> Result<(), Error> {
        let mut hasher = DigestWriter::new(io::sink());
        parts.iter().try_for_each(|part| hasher.write_all(part)).map_err(|e| self.disk(e))?;
        let (_, digest, size) = hasher.finish();
        let mut head = [0; HEAD];
        let is_there = fs::File::open(self.record_path(kind, key)).is_ok_and(|mut file| {
            let has_size = file.metadata().is_ok_and(|found| found.len() == size + HEAD as u64);
            has_size && file.read_exact(&mut head).is_ok() && head == *head_of(&digest).as_bytes()
        });
        if is_there { Ok(()) } else { self.write_record(kind, key, &digest, parts) }
    }

    fn write_record(
        &self,
        kind: &str,
        key: &Digest,
        digest: &Digest,
        parts: &[&[u8]],
    ) -> Result<(), Error> {
        let path = self.record_path(kind, key);
        fs::create_dir_all(path.parent().unwrap_or(&self.root)).map_err(|e| self.disk(e))?;
        let mut file = NamedTempFile::new_in(self.run()?).map_err(|e| self.disk(e))?;
        file.write_all(head_of(digest).as_bytes())
            .and_then(|()| parts.iter().try_for_each(|part| file.write_all(part)))
            .map_err(|e| self.disk(e))?;
        file.persist(path).map_err(|e| self.disk(e.error))?;
        Ok(())
    }

    /// Removes a record, if there is one.
    fn forget(&self, kind: &str, key: &Digest) -> Result<(), Error> {
        match fs::remove_file(self.record_path(kind, key)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(self.disk(e)),
            _ => Ok(()),
        }
    }

    fn record_path(&self, kind: &str, key: &Digest) -> PathBuf {
        self.root.join("keyed").join(kind).join(key.hex())
    }

    /// The unpacked tree for `key`, if it is there and still what was put there: every file of it is
    /// read and compared. A damaged tree is removed.
    ///
    /// # Errors
    /// The disk said no.
    pub fn tree(&self, kind: &str, key: &Digest) -> Result<Option<PathBuf>, Error> {
        let path = self.root.join("trees").join(kind).join(key.hex());
        if !path.is_dir() {
            return Ok(None);
        }
        let expected = self.record(&listing_kind(kind), key)?;
        // What cannot be read is damaged, or another process has just found that it is.
        if let (Some(expected), Ok(found)) = (expected, listing::digest(&path))
            && expected == found.as_bytes()
        {
            return Ok(Some(path));
        }
        // Away in one step: another process never meets a half of it.
        let grave = self.temporary_directory()?;
        match fs::rename(&path, grave.path().join("damaged")) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(self.disk(e)),
        }
        Ok(None)
    }

    /// Moves a finished directory into place as the tree for `key`. If another process was faster,
    /// its tree, which is the same, stays and ours is dropped.
    ///
    /// # Errors
    /// The disk said no.
    pub fn put_tree(&self, kind: &str, key: &Digest, directory: TempDir) -> Result<PathBuf, Error> {
        let folder = self.root.join("trees").join(kind);
        fs::create_dir_all(&folder).map_err(|e| self.disk(e))?;
        let path = folder.join(key.hex());
        let listing = listing::digest(directory.path()).map_err(|e| self.disk(e))?;
        self.put_record(&listing_kind(kind), key, listing.as_bytes())?;
        match fs::rename(directory.path(), &path) {
            Ok(()) => {
                // It is no longer temporary: it has another name now.
                let _moved = directory.keep();
                Ok(path)
            }
            Err(_) if path.is_dir() => Ok(path),
            Err(e) => Err(self.disk(e)),
        }
    }

    /// A file without a name on the cache's file system: it is gone when it is closed.
    ///
    /// # Errors
    /// The disk said no.
    pub fn temporary_file(&self) -> Result<std::fs::File, Error> {
        tempfile::tempfile_in(self.run()?).map_err(|e| self.disk(e))
    }

    /// A temporary directory on the cache's file system, which the store must outlive.
    ///
    /// # Errors
    /// The disk said no.
    pub fn temporary_directory(&self) -> Result<TempDir, Error> {
        TempDir::new_in(self.run()?).map_err(|e| self.disk(e))
    }
}

/// All of a file.
fn read(file: &mut fs::File) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    let mut bytes = room::vec(usize::try_from(length).map_err(io::Error::other)?);
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Bytes of what a record begins with.
const HEAD: usize = 72;

/// A record is `<digest of the rest>\n<the rest>`.
fn head_of(digest: &Digest) -> String {
    format!("{digest}\n")
}

/// The kind of the records of what trees of a kind hold.
fn listing_kind(kind: &str) -> String {
    format!("{kind}-listing")
}

/// The key of a record or tree: the digest over parts that are framed by their lengths, so that no
/// two different lists of parts make the same bytes.
pub fn key(parts: &[&[u8]]) -> Digest {
    let mut bytes = Vec::new();
    for part in parts {
        bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
        bytes.extend_from_slice(part);
    }
    Digest::of(&bytes)
}

/// Copies all of `reader` into the store.
///
/// # Errors
/// Reading or writing failed.
pub fn copy_into(store: &Store, reader: &mut impl Read) -> Result<(Digest, u64), Error> {
    let mut writer = store.writer()?;
    io::copy(reader, &mut writer).map_err(|e| store.disk(e))?;
    writer.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (TempDir, Store) {
        let folder = TempDir::new().unwrap();
        let store = Store::open(folder.path().join("cache")).unwrap();
        (folder, store)
    }

    #[test]
    fn a_damaged_blob_is_absent() {
        let (_folder, store) = store();
        let digest = store.put(b"layer").unwrap();
        assert_eq!(store.read(&digest).unwrap().as_deref(), Some(&b"layer"[..]));
        assert!(store.verify(&digest).unwrap());
        fs::write(store.blob_path(&digest), b"lawyer").unwrap();
        assert!(!store.verify(&digest).unwrap());
        assert!(!store.blob_path(&digest).exists());
        assert_eq!(store.read(&digest).unwrap(), None);
        for there in ["", "lawyer", "layer"] {
            fs::write(store.blob_path(&digest), there).unwrap();
            assert_eq!(store.put_unsynced(b"layer").unwrap(), digest);
            assert!(store.verify(&digest).unwrap(), "{there}");
        }
    }

    #[test]
    fn a_large_blob_is_verified_by_what_was_found_before() {
        let (_folder, store) = store();
        let large = vec![7; 2 << 20];
        let digest = store.put(&large).unwrap();
        let is_right = |bytes: &[u8]| {
            let mut verifier = store.verifier(&digest, large.len() as u64).unwrap();
            bytes.chunks(100_000).for_each(|piece| verifier.write_all(piece).unwrap());
            verifier.finish().unwrap()
        };
        let is_known = || store.record("blake3", &digest).unwrap().is_some();
        let mut other = large.clone();
        other[1 << 20] ^= 1;
        // It is known from when it was written.
        for wrong in [&other[..], &large[1..], &[&large[..], &[0]].concat(), &[]] {
            assert!(is_known() && is_right(&large) && is_known());
            assert!(!is_right(wrong) && !is_known());
            assert!(!is_right(wrong) && !is_known());
            assert!(is_right(&large) && is_known());
        }
        // What was found is believed only if it is a record, and is no other blob's.
        store.put_record("blake3", &digest, b"short").unwrap();
        assert!(is_right(&large));
        store.put_record("blake3", &digest, blake3::hash(&other).as_bytes()).unwrap();
        assert!(!is_right(&large));
        assert!(is_right(&large));
        let mut small = store.verifier(&Digest::of(b"small"), 5).unwrap();
        small.write_all(b"small").unwrap();
        assert!(small.finish().unwrap());
        assert!(store.record("blake3", &Digest::of(b"small")).unwrap().is_none());
        // A reader compares it with the same.
        fs::write(store.blob_path(&digest), &other).unwrap();
        assert!(store.open_verified(&digest).unwrap().is_none());
        assert!(!is_known() && !store.blob_path(&digest).exists());
    }

    #[test]
    fn a_writer_goes_on_only_behind_what_another_one_wrote() {
        let (_folder, store) = store();
        let (begin, end) = (vec![7; 2 << 20], b"end");
        let size = begin.len() as u64;
        let right = store.put(&begin).unwrap();
        let other = store.put(&vec![8; 2 << 20]).unwrap();
        let mut first = store.writer().unwrap();
        first.write_all(&begin).unwrap();
        let state = first.state();
        let mut writer = store.writer().unwrap();
        assert!(writer.append(&right, size).unwrap() && writer.resume(&state));
        writer.write_all(end).unwrap();
        let (digest, _) = writer.commit_unsynced().unwrap();
        assert_eq!(digest, Digest::of(&[&begin[..], end].concat()));
        assert!(store.record("blake3", &digest).unwrap().is_some());
        assert!(store.verify(&digest).unwrap());
        let mut wrong = store.writer().unwrap();
        assert!(wrong.append(&other, size).unwrap() && !wrong.resume(&state));
        let mut short = store.writer().unwrap();
        assert!(!short.append(&right, size + 1).unwrap());
        assert!(!short.append(&Digest::of(b"absent"), 1).unwrap());
        assert!(!short.resume(b"") && !short.resume(&state[..state.len() - 1]));
    }

    #[test]
    fn a_broken_promise_stores_nothing() {
        let (_folder, store) = store();
        let mut writer = store.writer().unwrap();
        writer.write_all(b"other").unwrap();
        let promised = Digest::of(b"layer");
        assert!(matches!(
            writer.commit_as(&promised, "x"),
            Err(Error::Mismatch { expected, .. }) if expected == promised
        ));
        assert!(!store.blob_path(&promised).exists());
        assert_eq!(fs::read_dir(store.run().unwrap()).unwrap().count(), 0);
    }

    #[test]
    fn a_damaged_record_is_absent_and_keys_are_framed() {
        let (_folder, store) = store();
        let record = key(&[b"a", b"bc"]);
        assert_ne!(record, key(&[b"ab", b"c"]));
        store.put_record("wheel", &record, b"value").unwrap();
        assert_eq!(store.record("wheel", &record).unwrap().as_deref(), Some(&b"value"[..]));
        let path = store.root().join("keyed/wheel").join(record.hex());
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
        assert_eq!(store.record("wheel", &record).unwrap(), None);
        for (parts, expected) in [
            (["va", "lue2"], "value2"),
            (["value", "2"], "value2"),
            (["", ""], ""),
            (["v", ""], "v"),
        ] {
            let parts = parts.map(str::as_bytes);
            store.put_parts("wheel", &record, &parts).unwrap();
            let begin = store.record_begin("wheel", &record, 3).unwrap().unwrap();
            assert_eq!(begin, expected.as_bytes()[..expected.len().min(3)]);
            let found = store.record("wheel", &record).unwrap();
            assert_eq!(found.as_deref(), Some(expected.as_bytes()));
            let before = fs::metadata(&path).unwrap().modified().unwrap();
            store.put_parts("wheel", &record, &parts).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), before);
        }
    }

    #[tokio::test]
    async fn turns_are_taken_one_after_the_other() {
        let (_folder, store) = store();
        let key = key(&[b"a wheel"]);
        let turn = store.turn("sdist", &key).await;
        // Other things can be made meanwhile, by whoever shares the store.
        drop(store.clone().turn("blob", &key).await);
        let other = store.clone();
        let waiting = tokio::spawn(async move { drop(other.turn("sdist", &key).await) });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(turn);
        waiting.await.unwrap();
    }
}
