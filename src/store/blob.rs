//! Blobs as streams: what is written is hashed on its way and named when it is whole, what is read is
//! right when it was read to its end.

use std::io::{self, BufReader, Read, Write};

use fs_err as fs;
use tempfile::NamedTempFile;

use super::{Error, Store};
use crate::oci::Digest;
use crate::oci::digest::DigestWriter;

/// Bytes that are read at once.
const READ: usize = 128 << 10;

/// A blob that is being written. Dropping it leaves nothing behind.
#[derive(Debug)]
#[must_use = "a blob exists only after `commit`"]
pub struct BlobWriter {
    store: Store,
    writer: DigestWriter<Witnessed>,
}

/// A file and the BLAKE3 of all that was written to it.
#[derive(Debug)]
struct Witnessed {
    file: NamedTempFile,
    blake3: Box<blake3::Hasher>,
}

impl Witnessed {
    fn name(self, store: &Store, digest: &Digest, size: u64) -> Result<(), Error> {
        name(store, self.file, digest)?;
        keep_witness(store, digest, size, &self.blake3)
    }
}

impl Write for Witnessed {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.file.write(buffer)?;
        self.blake3.update(&buffer[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Write for BlobWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.writer.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl BlobWriter {
    pub(super) fn new(store: &Store, file: NamedTempFile) -> Self {
        let writer = DigestWriter::new(Witnessed { file, blake3: Box::default() });
        Self { store: store.clone(), writer }
    }

    /// Copies a blob of the store, which should have `size` bytes, behind what was written, as it lies
    /// there; returns whether there were as many. Whether they are the right ones, [`Self::resume`] says.
    ///
    /// # Errors
    /// The disk said no.
    pub fn append(&mut self, digest: &Digest, size: u64) -> Result<bool, Error> {
        let from = match fs::File::open(self.store.blob_path(digest)) {
            Ok(file) => file.take(size),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(self.store.disk(e)),
        };
        let mut from = BufReader::with_capacity(READ, from);
        let copied = io::copy(&mut from, self.writer.get_mut()).map_err(|e| self.store.disk(e))?;
        Ok(copied == size)
    }

    /// What is known of all that was written so far: its BLAKE3, and [`DigestWriter::state`].
    pub fn state(&self) -> Vec<u8> {
        let seen = self.writer.get_ref().blake3.finalize();
        [&seen.as_bytes()[..], &self.writer.state()].concat()
    }

    /// Goes on from where another writer had this state, if all that was written so far is what that one
    /// had written, which is returned.
    #[must_use]
    pub fn resume(&mut self, state: &[u8]) -> bool {
        let Some((seen, state)) = state.split_first_chunk() else { return false };
        let found = self.writer.get_ref().blake3.finalize();
        blake3::Hash::from_bytes(*seen) == found && self.writer.set_state(state)
    }

    /// Syncs and names the blob; returns its digest and its size in bytes.
    ///
    /// # Errors
    /// The disk said no.
    pub fn commit(self) -> Result<(Digest, u64), Error> {
        sync(&self.store, &self.writer.get_ref().file)?;
        self.commit_unsynced()
    }

    /// As [`Self::commit`], but only if the digest is the promised one; `what` names it in the error.
    ///
    /// # Errors
    /// Another digest, or the disk said no. Nothing is stored then.
    pub fn commit_as(self, expected: &Digest, what: &str) -> Result<u64, Error> {
        let (written, found, size) = self.writer.finish();
        if found != *expected {
            return Err(Error::Mismatch { what: what.to_owned(), expected: *expected, found });
        }
        sync(&self.store, &written.file)?;
        written.name(&self.store, expected, size)?;
        Ok(size)
    }

    /// As [`Self::commit`] without waiting for the disk: for what can be made again. After a power
    /// failure the blob may be damaged, which reading it finds.
    ///
    /// # Errors
    /// The disk said no.
    pub fn commit_unsynced(self) -> Result<(Digest, u64), Error> {
        let (written, digest, size) = self.writer.finish();
        written.name(&self.store, &digest, size)?;
        Ok((digest, size))
    }
}

fn sync(store: &Store, file: &NamedTempFile) -> Result<(), Error> {
    file.as_file().sync_data().map_err(|e| store.disk(e))
}

/// From here on the blob exists.
pub(super) fn name(store: &Store, file: NamedTempFile, digest: &Digest) -> Result<(), Error> {
    file.persist(store.blob_path(digest)).map_err(|e| store.disk(e.error))?;
    Ok(())
}

/// Blobs of fewer bytes are verified by their digest alone.
const LARGE: u64 = 1 << 20;
/// What large blobs are verified by once their digest was, under that digest.
const WITNESSES: &str = "blake3";

/// Keeps what a large blob will be verified by.
fn keep_witness(
    store: &Store,
    digest: &Digest,
    size: u64,
    witness: &blake3::Hasher,
) -> Result<(), Error> {
    if size < LARGE {
        return Ok(());
    }
    store.put_record(WITNESSES, digest, witness.finalize().as_bytes())
}

/// Tells in the end whether what went through it is a blob of the store.
///
/// A large one has two hashes: SHA-256, and BLAKE3, which is kept once the first was right, and is enough
/// from then on: no other bytes have that hash either, and it takes a third of the time.
#[derive(Debug)]
pub struct Verifier {
    store: Store,
    digest: Digest,
    size: u64,
    /// What was found when it was written, or by an earlier verifier.
    known: Option<blake3::Hash>,
    sha256: DigestWriter<io::Sink>,
    blake3: Box<blake3::Hasher>,
}

impl Verifier {
    pub(super) fn new(store: &Store, digest: &Digest, size: u64) -> Result<Self, Error> {
        let record = if size < LARGE { None } else { store.record(WITNESSES, digest)? };
        let known = record.and_then(|bytes| blake3::Hash::from_slice(&bytes).ok());
        let (sha256, blake3) = (DigestWriter::new(io::sink()), Box::default());
        Ok(Self { store: store.clone(), digest: *digest, size, known, sha256, blake3 })
    }

    /// Whether all of the blob went through, and nothing else.
    ///
    /// # Errors
    /// The disk said no.
    pub fn finish(self) -> Result<bool, Error> {
        let Self { store, digest, size, known, sha256, blake3 } = self;
        if let Some(known) = known {
            let is_right = blake3.count() == size && blake3.finalize() == known;
            if !is_right {
                store.forget(WITNESSES, &digest)?;
            }
            return Ok(is_right);
        }
        let (_, found, found_size) = sha256.finish();
        let is_right = found == digest && found_size == size;
        if is_right {
            keep_witness(&store, &digest, size, &blake3)?;
        }
        Ok(is_right)
    }
}

impl Write for Verifier {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.known.is_none() {
            self.sha256.write_all(bytes)?;
        }
        if self.known.is_some() || self.size >= LARGE {
            self.blake3.update(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A blob that is being read and hashed on its way.
#[derive(Debug)]
pub struct BlobReader {
    store: Store,
    digest: Digest,
    file: fs::File,
    verifier: Verifier,
}

impl BlobReader {
    pub(super) fn new(store: &Store, digest: &Digest, file: fs::File) -> Result<Self, Error> {
        let size = file.metadata().map_err(|e| store.disk(e))?.len();
        let verifier = Verifier::new(store, digest, size)?;
        Ok(Self { store: store.clone(), digest: *digest, file, verifier })
    }

    /// Reads what is left; returns the file if all that was read is the blob. A damaged one is removed.
    ///
    /// # Errors
    /// The disk said no.
    pub fn finish(mut self) -> Result<Option<fs::File>, Error> {
        let mut buffer = vec![0; READ];
        loop {
            match self.read(&mut buffer) {
                Ok(0) => break,
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.store.disk(e)),
            }
        }
        if self.verifier.finish()? {
            return Ok(Some(self.file));
        }
        fs::remove_file(self.store.blob_path(&self.digest)).map_err(|e| self.store.disk(e))?;
        Ok(None)
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.verifier.write_all(&buffer[..read])?;
        Ok(read)
    }
}
