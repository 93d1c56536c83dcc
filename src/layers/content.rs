//! The bytes of a file on its way into a layer: at hand if it is small or was made here, else where
//! they can be read once more. So no large file is ever in memory.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use fs_err as fs;
use libdeflater::Decompressor;
use object::elf::ELFMAG;
use zip::{CompressionMethod, ZipArchive};

use super::strip::strip;
use super::tree::Known;
use crate::oci::digest::DigestWriter;
use crate::store::Store;

/// Bytes that are read at once.
const PIECE: usize = 64 << 10;
/// Files of a disk up to here are kept in memory.
const SMALL: u64 = 64 << 10;
/// Entries of wheels that are unpacked in one piece, packed and unpacked.
const AT_ONCE: u64 = 4 << 20;
/// Longer entries of wheels are hashed and stripped one at a time: no two of them are in memory at once.
const LARGE: u64 = 2 << 20;
static TURN: Mutex<()> = Mutex::new(());
/// Bytes of its begin that are known of every file.
const HEAD: usize = 8;

/// A file's bytes, hashed. Two are equal if their bytes are.
#[derive(Clone, Debug)]
pub struct Content {
    known: Known,
    head: [u8; HEAD],
    source: Source,
}

#[derive(Clone)]
enum Source {
    Memory(Bytes),
    Disk(PathBuf),
    Member(Member),
    /// So many bytes of a file from some place on.
    Part(At, u64),
}

/// An entry of a wheel.
#[derive(Clone)]
struct Member {
    archive: ZipArchive<At>,
    index: usize,
}

impl Content {
    /// The file at `path`, which must not change until the layer is made: that is an error then.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn of_file(path: PathBuf) -> io::Result<Self> {
        if fs::metadata(&path)?.len() <= SMALL {
            return Ok(fs::read(path)?.into());
        }
        let source = Source::Disk(path);
        Self::new(source)
    }

    /// Entry `index` of a wheel, which says that it has `size` bytes; they are read now, to be hashed, and
    /// each time they are used. If it is a shared object and `aside` is a place for that, then also what
    /// is left of it without what only debuggers read; all of it is in memory meanwhile.
    ///
    /// # Errors
    /// It cannot be unpacked, or what is left cannot be written.
    pub(super) fn of_member(
        (archive, index): (&ZipArchive<At>, usize),
        size: u64,
        aside: Option<&Aside<'_>>,
    ) -> io::Result<(Self, Option<Self>)> {
        let _turn = (size > LARGE).then(|| TURN.lock().unwrap_or_else(PoisonError::into_inner));
        let member = Member { archive: archive.clone(), index };
        let bytes = member.at_once(&mut archive.clone())?.map(Bytes::from);
        let source = Source::Member(member);
        let content = match &bytes {
            Some(bytes) => Self { source, ..bytes.clone().into() },
            None => Self::new(source)?,
        };
        let Some(aside) = aside.filter(|_| content.starts_with(&ELFMAG)) else {
            return Ok((content, None));
        };
        let stripped = match strip(&bytes.map_or_else(|| content.read(), Ok)?) {
            Some(stripped) => Some(Self { source: aside.put(&stripped)?, ..stripped.into() }),
            None => None,
        };
        Ok((content, stripped))
    }

    /// The `length` bytes from `place` on of a file that does not change; they are read now, to be
    /// hashed, and each time they are used.
    ///
    /// # Errors
    /// They cannot be read, or there are not as many.
    pub(super) fn of_part(file: &At, place: u64, length: u64) -> io::Result<Self> {
        let part = Self::new(Source::Part(At { place, ..file.clone() }, length))?;
        if part.size() == length { Ok(part) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn new(source: Source) -> io::Result<Self> {
        let mut head = Head::default();
        source.copy_to(&mut head)?;
        let (_, sha256, size) = head.digest.finish();
        Ok(Self { known: Known { size, sha256 }, head: head.bytes, source })
    }

    /// Length and digest.
    pub fn known(&self) -> Known {
        self.known
    }

    /// How many bytes there are.
    pub fn size(&self) -> u64 {
        self.known.size
    }

    /// Whether these are its first bytes; of more than eight, only the first eight are looked at.
    pub(super) fn starts_with(&self, bytes: &[u8]) -> bool {
        let bytes = &bytes[..bytes.len().min(HEAD)];
        self.known.size >= bytes.len() as u64 && self.head.starts_with(bytes)
    }

    /// All bytes.
    ///
    /// # Errors
    /// They cannot be read any more.
    pub fn read(&self) -> io::Result<Bytes> {
        match &self.source {
            Source::Memory(bytes) => return Ok(bytes.clone()),
            Source::Member(member) => {
                if let Some(bytes) = member.at_once(&mut member.archive.clone())? {
                    self.check(bytes.len() as u64 == self.known.size)?;
                    return Ok(bytes.into());
                }
            }
            Source::Disk(_) | Source::Part(..) => {}
        }
        let mut bytes = Vec::with_capacity(usize::try_from(self.known.size).unwrap_or_default());
        self.copy_to(&mut bytes)?;
        Ok(bytes.into())
    }

    /// Writes all bytes to `out`.
    ///
    /// # Errors
    /// They cannot be read any more, are not what they were, or `out` cannot be written.
    pub fn copy_to(&self, out: &mut impl Write) -> io::Result<()> {
        match &self.source {
            Source::Memory(bytes) => out.write_all(bytes),
            // An archive has check sums of its own.
            source @ Source::Member(_) => {
                let written = source.copy_to(out)?;
                self.check(written == self.known.size)
            }
            source @ (Source::Disk(_) | Source::Part(..)) => {
                let mut out = DigestWriter::new(out);
                source.copy_to(&mut out)?;
                let (_, sha256, size) = out.finish();
                self.check(self.known == Known { size, sha256 })
            }
        }
    }

    fn check(&self, is_same: bool) -> io::Result<()> {
        let problem = || io::Error::other(format!("{:?} changed while it was read", self.source));
        if is_same { Ok(()) } else { Err(problem()) }
    }
}

impl PartialEq for Content {
    fn eq(&self, other: &Self) -> bool {
        self.known == other.known
    }
}

impl Eq for Content {}

impl<T: Into<Bytes>> From<T> for Content {
    fn from(bytes: T) -> Self {
        let bytes = bytes.into();
        let mut head = [0; HEAD];
        let length = bytes.len().min(HEAD);
        head[..length].copy_from_slice(&bytes[..length]);
        Self { known: Known::of(&bytes), head, source: Source::Memory(bytes) }
    }
}

impl Source {
    /// Returns how many bytes they were.
    fn copy_to(&self, out: &mut impl Write) -> io::Result<u64> {
        match self {
            Self::Memory(bytes) => out.write_all(bytes).map(|()| bytes.len() as u64),
            Self::Disk(path) => copy(&mut fs::File::open(path)?, out),
            Self::Member(member) => member.copy_to(out),
            Self::Part(file, length) => copy(&mut file.clone().take(*length), out),
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::Disk(path) => write!(f, "`{}`", path.display()),
            Self::Member(member) => write!(f, "entry {} of a wheel", member.index),
            Self::Part(_, length) => write!(f, "{length} bytes of a file of the cache"),
        }
    }
}

impl Member {
    /// Fails if the entry has more or fewer bytes than its headers say.
    fn copy_to(&self, out: &mut impl Write) -> io::Result<u64> {
        let mut archive = self.archive.clone();
        if let Some(bytes) = self.at_once(&mut archive)? {
            out.write_all(&bytes)?;
            return Ok(bytes.len() as u64);
        }
        let file = archive.by_index(self.index).map_err(io::Error::from)?;
        let declared = file.size();
        // One byte more than declared is enough to know that it lied.
        copy(&mut file.take(declared.saturating_add(1)), out)
    }
}

impl Member {
    /// All bytes of an entry that is neither large nor odd; `None` if it is, also if it is not what its
    /// headers say: whoever reads it piece by piece finds out what is wrong. This takes a third of the
    /// time that doing so takes.
    fn at_once(&self, archive: &mut ZipArchive<At>) -> io::Result<Option<Vec<u8>>> {
        let mut file = archive.by_index_raw(self.index).map_err(io::Error::from)?;
        let is_small = file.size() <= AT_ONCE && file.compressed_size() <= AT_ONCE;
        if !is_small || file.compression() != CompressionMethod::Deflated || file.encrypted() {
            return Ok(None);
        }
        let mut packed = Vec::with_capacity(usize::try_from(file.compressed_size()).unwrap_or(0));
        file.read_to_end(&mut packed)?;
        let mut bytes = vec![0; usize::try_from(file.size()).unwrap_or(0)];
        let unpacked = Decompressor::new().deflate_decompress(&packed, &mut bytes);
        let is_right = unpacked == Ok(bytes.len()) && crc32fast::hash(&bytes) == file.crc32();
        Ok(is_right.then_some(bytes))
    }
}

fn copy(from: &mut impl Read, out: &mut impl Write) -> io::Result<u64> {
    let mut buffer = vec![0; PIECE];
    let mut copied = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(copied),
            Ok(read) => {
                out.write_all(&buffer[..read])?;
                copied += read as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Hashes what is written, and keeps its begin.
struct Head {
    bytes: [u8; HEAD],
    length: usize,
    digest: DigestWriter<io::Sink>,
}

impl Default for Head {
    fn default() -> Self {
        Self { bytes: [0; HEAD], length: 0, digest: DigestWriter::new(io::sink()) }
    }
}

impl Write for Head {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(HEAD - self.length);
        self.bytes[self.length..self.length + taken].copy_from_slice(&bytes[..taken]);
        self.length += taken;
        self.digest.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file without a name, for bytes that were made and are used again, so that they are not in
/// memory meanwhile.
#[derive(Debug)]
pub(super) struct Aside<'a> {
    store: &'a Store,
    file: Mutex<Option<At>>,
}

impl<'a> Aside<'a> {
    /// Makes no file yet.
    pub(super) fn new(store: &'a Store) -> Self {
        Self { store, file: Mutex::new(None) }
    }

    fn put(&self, bytes: &[u8]) -> io::Result<Source> {
        let mut last = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let file = match last.take() {
            Some(file) => file,
            None => At::new(self.store.temporary_file().map_err(io::Error::other)?)?,
        };
        let (place, length) = (file.size, bytes.len() as u64);
        file.file.write_all_at(bytes, place)?;
        let source = Source::Part(At { place, ..file.clone() }, length);
        *last = Some(At { size: place + length, ..file });
        Ok(source)
    }
}

/// Reads a file from a place of its own, whoever else reads it elsewhere.
#[derive(Clone, Debug)]
pub(super) struct At {
    file: Arc<File>,
    size: u64,
    place: u64,
}

impl At {
    /// From its begin.
    pub(super) fn new(file: File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Self { file: Arc::new(file), size, place: 0 })
    }

    /// Bytes of the file.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// The bytes from `place` on; `None` if there are not as many.
    pub(super) fn bytes<const N: usize>(&self, place: u64) -> io::Result<Option<[u8; N]>> {
        let mut bytes = [0; N];
        match self.file.read_exact_at(&mut bytes, place) {
            Ok(()) => Ok(Some(bytes)),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(e) => Err(e),
        }
    }
}

impl Read for At {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.place)?;
        self.place += read as u64;
        Ok(read)
    }
}

impl Seek for At {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let place = match to {
            SeekFrom::Start(place) => Some(place),
            SeekFrom::End(offset) => self.size.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.place.checked_add_signed(offset),
        };
        self.place = place.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_file_is_read_when_it_is_used_and_must_be_what_it_was() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("large");
        let bytes = vec![7; usize::try_from(SMALL).unwrap() + 1];
        fs::write(&path, &bytes).unwrap();
        let content = Content::of_file(path.clone()).unwrap();
        assert_eq!(content, Content::from(bytes.clone()));
        assert_eq!(content.read().unwrap(), bytes);
        assert!(content.starts_with(&[7; 100]) && !content.starts_with(b"7"));
        for changed in [&bytes[1..], &[&bytes[1..], b"x"].concat()] {
            fs::write(&path, changed).unwrap();
            let error = content.read().unwrap_err().to_string();
            assert!(error.ends_with("changed while it was read"), "{error}");
        }
        fs::write(&path, b"small").unwrap();
        let small = Content::of_file(path.clone()).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(small.read().unwrap(), "small");
        assert!(!Content::from("").starts_with(b"x") && Content::from("").starts_with(b""));
    }

    #[test]
    fn what_waits_aside_is_read_when_it_is_used_and_must_be_what_it_was() {
        let folder = tempfile::TempDir::new().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let aside = Aside::new(&store);
        let parts = [&b"one"[..], b"", b"three"].map(|bytes| {
            let source = aside.put(bytes).unwrap();
            (bytes, Content { source, ..bytes.into() })
        });
        for (bytes, content) in &parts {
            assert_eq!(content.read().unwrap(), bytes);
        }
        let file = aside.file.into_inner().unwrap().unwrap();
        assert_eq!(Content::of_part(&file, 3, 5).unwrap(), parts[2].1);
        let short = Content::of_part(&file, 3, 6).unwrap_err();
        assert_eq!(short.kind(), io::ErrorKind::UnexpectedEof);
        file.file.write_all_at(b"other", 3).unwrap();
        let error = parts[2].1.read().unwrap_err().to_string();
        assert_eq!(error, "5 bytes of a file of the cache changed while it was read");
        assert_eq!(parts[0].1.read().unwrap(), "one");
    }
}
