//! Entries of wheels, unpacked each time they are used.

use std::cell::RefCell;
use std::io::{self, Read as _, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use libdeflater::Decompressor;
use zip::{CompressionMethod, ZipArchive};

use super::at::{At, copy};

/// Entries of wheels that are unpacked in one piece, packed and unpacked.
const AT_ONCE: u64 = 4 << 20;
/// Longer entries are hashed and stripped one at a time: no two of them are in memory at once.
pub(super) const LARGE: u64 = 2 << 20;
static TURN: Mutex<Option<Unpacking>> = Mutex::new(None);
thread_local! { static UNPACKING: RefCell<Option<Unpacking>> = const { RefCell::new(None) }; }
/// Room for entries. An allocator keeps what was freed for whoever frees it next to what is in use, but
/// gives back blocks of this size, of which only what is written to is ever there: glibc maps all
/// blocks above 32 MiB.
pub(in crate::layers) const ROOM: usize = 33 << 20;

/// An entry of a wheel, one that is large or odd.
#[derive(Clone)]
pub(super) struct Member {
    pub(super) archive: ZipArchive<At>,
    pub(super) index: usize,
}

impl Member {
    /// Fails if the entry has more or fewer bytes than its headers say.
    pub(super) fn copy_to(&self, out: &mut impl Write) -> io::Result<u64> {
        let mut archive = self.archive.clone();
        let file = archive.by_index(self.index).map_err(io::Error::from)?;
        let declared = file.size();
        // One byte more than declared is enough to know that it lied.
        let most = declared.saturating_add(1);
        Ok(copy(&mut file.take(most), most, out)?.size)
    }
}

/// An entry of a wheel, and what its headers say of it. To unpack it in one piece takes a third of the time
/// that doing so piece by piece takes.
#[derive(Clone)]
pub(super) struct Packed {
    deflated: At,
    pub(super) size: u64,
    crc32: u32,
}

impl Packed {
    /// `None` if the entry is large or odd.
    pub(super) fn of(
        wheel: &At,
        archive: &ZipArchive<At>,
        index: usize,
    ) -> io::Result<Option<Self>> {
        let mut archive = archive.clone();
        let file = archive.by_index_raw(index).map_err(io::Error::from)?;
        let (size, length) = (file.size(), file.compressed_size());
        let is_plain = file.compression() == CompressionMethod::Deflated && !file.encrypted();
        if !is_plain || size.max(length) > AT_ONCE {
            return Ok(None);
        }
        let deflated = file.data_start().map(|begin| wheel.part(begin, length));
        Ok(deflated.map(|deflated| Self { deflated, size, crc32: file.crc32() }))
    }

    /// Gives `take` its bytes; returns `None` if it is not what its headers say.
    pub(super) fn unpack<T>(&self, take: impl FnOnce(&[u8]) -> T) -> io::Result<Option<T>> {
        if self.size > LARGE {
            return self.unpack_in(turn().get_or_insert_default(), take);
        }
        let mut room = UNPACKING.take().unwrap_or_default();
        let taken = self.unpack_in(&mut room, take);
        UNPACKING.set(Some(room));
        taken
    }

    fn unpack_in<T>(
        &self,
        room: &mut Unpacking,
        take: impl FnOnce(&[u8]) -> T,
    ) -> io::Result<Option<T>> {
        let Unpacking { decompressor, packed, bytes } = room;
        let lengths = (usize::try_from(self.size), usize::try_from(self.deflated.size));
        let (Ok(size), Ok(length)) = lengths else { return Ok(None) };
        let (packed, bytes) = (&mut packed[..length], &mut bytes[..size]);
        self.deflated.clone().read_exact(packed)?;
        let unpacked = decompressor.deflate_decompress(packed, bytes);
        let is_right = unpacked == Ok(size) && crc32fast::hash(bytes) == self.crc32;
        Ok(is_right.then(|| take(bytes)))
    }
}

/// Waits until no other thread has a large entry in memory.
pub(super) fn turn() -> MutexGuard<'static, Option<Unpacking>> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives back what this thread unpacked entries in, and what large ones were unpacked in.
pub(in crate::layers) fn give_back() {
    drop(UNPACKING.take());
    drop(turn().take());
}

/// What entries are unpacked with, one after the other.
pub(super) struct Unpacking {
    decompressor: Decompressor,
    /// What is behind an entry in them is nothing.
    packed: Vec<u8>,
    bytes: Vec<u8>,
}

impl Default for Unpacking {
    fn default() -> Self {
        Self { decompressor: Decompressor::new(), packed: vec![0; ROOM], bytes: vec![0; ROOM] }
    }
}
