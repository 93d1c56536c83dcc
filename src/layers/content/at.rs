//! Stretches of files, and bytes on their way from one place to another.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

/// Bytes that are read at once.
const PIECE: usize = 64 << 10;

/// Reads a file, or what lies somewhere in it, from a place of its own, whoever else reads it elsewhere.
#[derive(Clone, Debug)]
pub struct At {
    pub(super) file: Arc<File>,
    begin: u64,
    pub(super) size: u64,
    /// Counted from the begin.
    place: u64,
}

impl At {
    /// From its begin.
    pub(in crate::layers) fn new(file: File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Self { file: Arc::new(file), begin: 0, size, place: 0 })
    }

    /// The `size` bytes from `begin` on.
    pub(super) fn part(&self, begin: u64, size: u64) -> Self {
        Self { file: self.file.clone(), begin: self.begin + begin, size, place: 0 }
    }

    /// Writes `bytes` behind all that there are; returns where they are.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<Self> {
        self.file.write_all_at(bytes, self.begin + self.size)?;
        let part = self.part(self.size, bytes.len() as u64);
        self.size += part.size;
        Ok(part)
    }

    /// How many bytes there are.
    pub(in crate::layers) fn size(&self) -> u64 {
        self.size
    }

    /// The bytes from `place` on; `None` if there are not as many.
    pub(in crate::layers) fn bytes<const N: usize>(
        &self,
        place: u64,
    ) -> io::Result<Option<[u8; N]>> {
        let mut bytes = [0; N];
        match self.file.read_exact_at(&mut bytes, self.begin + place) {
            Ok(()) => Ok(Some(bytes)),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(e) => Err(e),
        }
    }
}

impl Read for At {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(self.size.saturating_sub(self.place)).unwrap_or(usize::MAX);
        let most = buffer.len().min(rest);
        if most == 0 {
            return Ok(0);
        }
        let read = self.file.read_at(&mut buffer[..most], self.begin + self.place)?;
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

/// Bytes that went from one place to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Copied {
    pub(super) size: u64,
    pub(super) crc32: u32,
}

/// Copies all that there is; if that are `most` bytes or fewer, no more room is taken for it.
pub(super) fn copy(from: &mut impl Read, most: u64, out: &mut impl Write) -> io::Result<Copied> {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let mut buffer = vec![0; most.clamp(1, PIECE)];
    let mut crc32 = crc32fast::Hasher::new();
    let mut size = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(Copied { size, crc32: crc32.finalize() }),
            Ok(read) => {
                out.write_all(&buffer[..read])?;
                crc32.update(&buffer[..read]);
                size += read as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
