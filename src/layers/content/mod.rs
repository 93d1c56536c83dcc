//! The bytes of a file on its way into a layer: at hand if it is small or was made here, else where
//! they can be read once more, which a check sum says. So no large file is ever in memory.

use std::fmt;
use std::io::{self, Read as _, Write};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use fs_err as fs;
use object::elf::ELFMAG;
use zip::ZipArchive;

use super::strip::strip;
use super::tree::Known;
use crate::oci::digest::DigestWriter;
use crate::store::Store;

mod at;
mod packed;

pub use at::At;
use at::{Copied, copy};
pub(super) use packed::give_back;
use packed::{LARGE, Member, Packed, turn};

/// Files of a disk up to here are kept in memory.
const SMALL: u64 = 64 << 10;
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
    /// An entry of a wheel that is unpacked in one piece.
    Packed(Packed),
    Member(Member),
    /// What lies in a file, from one place of it to another, and its CRC-32.
    Part(At, u32),
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
        let mut head = Head::default();
        copy(&mut fs::File::open(&path)?, u64::MAX, &mut head)?;
        Ok(head.finish(Source::Disk(path)))
    }

    /// Entry `index` of a wheel, which says that it has `size` bytes; they are read now, to be hashed, and
    /// wait `aside` if there is room there, else they are unpacked each time they are used. If it is a shared object
    /// and that is wanted of it, then also what is left of it without what only debuggers read, if there was
    /// something of that; all of it is in memory meanwhile.
    ///
    /// # Errors
    /// It cannot be unpacked, or what is to wait cannot be written.
    pub(super) fn of_member(
        (wheel, archive, index): (&At, &ZipArchive<At>, usize),
        size: u64,
        aside: Option<&Aside<'_>>,
    ) -> io::Result<(Self, Option<Self>)> {
        if let Some(packed) = Packed::of(wheel, archive, index)? {
            let source = Source::Packed(packed.clone());
            let read = packed.unpack(|bytes| Self::of_bytes(bytes, source).aside(bytes, aside))?;
            if let Some(read) = read {
                return read;
            }
        }
        let _turn = (size > LARGE).then(turn);
        let member = Member { archive: archive.clone(), index };
        let mut head = Head::default();
        member.copy_to(&mut head)?;
        let content = head.finish(Source::Member(member));
        if aside.is_some_and(|aside| aside.strips) && content.starts_with(&ELFMAG) {
            let bytes = content.read()?;
            return content.aside(&bytes, aside);
        }
        Ok((content, None))
    }

    /// These are its bytes, which need not be unpacked again: they, or what is left when they are stripped,
    /// come from `aside`.
    fn aside(self, bytes: &[u8], aside: Option<&Aside<'_>>) -> io::Result<(Self, Option<Self>)> {
        let Some(aside) = aside else { return Ok((self, None)) };
        if aside.strips
            && self.starts_with(&ELFMAG)
            && let Some(stripped) = strip(bytes)
        {
            let source = aside.put(&stripped)?;
            return Ok((self, Some(Self::of_bytes(&stripped, source))));
        }
        if !aside.has_room(bytes.len() as u64) {
            return Ok((self, None));
        }
        Ok((Self { source: aside.put(bytes)?, ..self }, None))
    }

    /// The bytes from `place` on of a file that does not change: so many, with that digest and that CRC-32,
    /// which is compared each time they are used.
    ///
    /// # Errors
    /// There are not as many.
    pub(super) fn of_part(file: &At, place: u64, known: Known, crc32: u32) -> io::Result<Self> {
        if place.checked_add(known.size).is_none_or(|end| end > file.size) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let part = file.part(place, known.size);
        let mut head = [0; HEAD];
        let length = HEAD.min(usize::try_from(known.size).unwrap_or(HEAD));
        part.clone().read_exact(&mut head[..length])?;
        Ok(Self { known, head, source: Source::Part(part, crc32) })
    }

    /// These are the bytes that `source` has.
    fn of_bytes(bytes: &[u8], source: Source) -> Self {
        let mut head = [0; HEAD];
        let length = bytes.len().min(HEAD);
        head[..length].copy_from_slice(&bytes[..length]);
        Self { known: Known::of(bytes), head, source }
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
    pub(crate) fn starts_with(&self, bytes: &[u8]) -> bool {
        let bytes = &bytes[..bytes.len().min(HEAD)];
        self.known.size >= bytes.len() as u64 && self.head.starts_with(bytes)
    }

    /// All bytes.
    ///
    /// # Errors
    /// They cannot be read any more.
    pub fn read(&self) -> io::Result<Bytes> {
        if let Source::Memory(bytes) = &self.source {
            return Ok(bytes.clone());
        }
        let mut bytes = Vec::with_capacity(usize::try_from(self.known.size).unwrap_or_default());
        self.copy_to(&mut bytes)?;
        Ok(bytes.into())
    }

    /// The file that they are a part of, if they need not be unpacked to be looked at here and there.
    pub(crate) fn part(&self) -> Option<At> {
        match &self.source {
            Source::Part(part, _) => Some(part.clone()),
            Source::Memory(_) | Source::Disk(_) | Source::Packed(_) | Source::Member(_) => None,
        }
    }

    /// Writes all bytes to `out`.
    ///
    /// # Errors
    /// They cannot be read any more, are not what they were, or `out` cannot be written.
    pub fn copy_to(&self, out: &mut impl Write) -> io::Result<()> {
        match &self.source {
            Source::Memory(bytes) => out.write_all(bytes),
            // An archive has check sums of its own.
            Source::Packed(packed) => {
                let written = packed.unpack(|bytes| out.write_all(bytes))?;
                written.unwrap_or_else(|| self.check(false))
            }
            Source::Member(member) => self.check(member.copy_to(out)? == self.known.size),
            Source::Part(part, crc32) => {
                let copied = copy(&mut part.clone(), part.size, out)?;
                self.check(copied == Copied { size: self.known.size, crc32: *crc32 })
            }
            Source::Disk(path) => {
                let mut out = DigestWriter::new(out);
                copy(&mut fs::File::open(path)?, u64::MAX, &mut out)?;
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
        Self::of_bytes(&bytes, Source::Memory(bytes.clone()))
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::Disk(path) => write!(f, "`{}`", path.display()),
            Self::Packed(packed) => write!(f, "{} bytes of a wheel", packed.size),
            Self::Member(member) => write!(f, "entry {} of a wheel", member.index),
            Self::Part(part, _) => write!(f, "{} bytes of a file of the cache", part.size),
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

impl Head {
    /// All that was written is what `source` has.
    fn finish(self, source: Source) -> Content {
        let (_, sha256, size) = self.digest.finish();
        Content { known: Known { size, sha256 }, head: self.bytes, source }
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

/// Bytes of one wheel that wait aside: writing and reading them takes a third of the time that unpacking them
/// again takes, but a wheel may have gigabytes.
const MOST_ASIDE: u64 = 64 << 20;

/// A file without a name, for what was unpacked or made and is used again, so that it is not in
/// memory meanwhile.
#[derive(Debug)]
pub(super) struct Aside<'a> {
    store: &'a Store,
    /// Whether shared objects are stripped.
    strips: bool,
    file: Mutex<Option<At>>,
}

impl<'a> Aside<'a> {
    /// Makes no file yet.
    pub(super) fn new(store: &'a Store, strips: bool) -> Self {
        Self { store, strips, file: Mutex::new(None) }
    }

    fn has_room(&self, size: u64) -> bool {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.as_ref().map_or(0, At::size) + size <= MOST_ASIDE
    }

    fn put(&self, bytes: &[u8]) -> io::Result<Source> {
        let mut last = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let file = match &mut *last {
            Some(file) => file,
            none => none.insert(At::new(self.store.temporary_file().map_err(io::Error::other)?)?),
        };
        Ok(Source::Part(file.append(bytes)?, crc32fast::hash(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

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
        let aside = Aside::new(&store, false);
        let parts = [&b"one"[..], b"", b"three"].map(|bytes| {
            let source = aside.put(bytes).unwrap();
            (bytes, Content { source, ..bytes.into() })
        });
        for (bytes, content) in &parts {
            assert_eq!(content.read().unwrap(), bytes);
        }
        let file = aside.file.into_inner().unwrap().unwrap();
        let known = Known::of(b"three");
        let part = Content::of_part(&file, 3, known, crc32fast::hash(b"three")).unwrap();
        assert!(part == parts[2].1 && part.read().unwrap() == "three" && part.starts_with(b"th"));
        let wrong = Content::of_part(&file, 3, known, 0).unwrap().read().unwrap_err().to_string();
        assert!(wrong.ends_with("changed while it was read"), "{wrong}");
        for place in [4, u64::MAX] {
            let short = Content::of_part(&file, place, known, 0).unwrap_err();
            assert_eq!(short.kind(), io::ErrorKind::UnexpectedEof);
        }
        file.file.write_all_at(b"other", 3).unwrap();
        let error = parts[2].1.read().unwrap_err().to_string();
        assert_eq!(error, "5 bytes of a file of the cache changed while it was read");
        assert_eq!(parts[0].1.read().unwrap(), "one");
    }
}
