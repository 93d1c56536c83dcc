//! Entries of wheels, unpacked each time they are used.

use std::cell::RefCell;
use std::io::{self, Read as _, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use libdeflater::Decompressor;
use zip::{CompressionMethod, ZipArchive};

use super::at::{At, copy};
use crate::room;

/// Entries of wheels that are unpacked in one piece, packed and unpacked.
const AT_ONCE: u64 = 4 << 20;
/// Longer entries are hashed and stripped one at a time: no two of them are in memory at once.
pub(super) const LARGE: u64 = 1 << 20;
static TURN: Mutex<()> = Mutex::new(());
thread_local! { static UNPACKING: RefCell<Option<Unpacking>> = const { RefCell::new(None) }; }

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
        if self.size <= LARGE {
            let mut room = UNPACKING.take().unwrap_or_default();
            let taken = self.unpack_in(&mut room).map(|bytes| bytes.map(take));
            UNPACKING.set(Some(room));
            return taken;
        }
        let _turn = turn();
        let mut room = Unpacking::default();
        let is_right = self.unpack_in(&mut room)?.is_some();
        // What comes now may take as much.
        let Unpacking { bytes, packed, .. } = room;
        drop(packed);
        let bytes = usize::try_from(self.size).ok().and_then(|size| bytes.get(..size));
        Ok(bytes.filter(|_| is_right).map(take))
    }

    fn unpack_in<'r>(&self, room: &'r mut Unpacking) -> io::Result<Option<&'r [u8]>> {
        let Unpacking { decompressor, packed, bytes } = room;
        let lengths = (usize::try_from(self.size), usize::try_from(self.deflated.size));
        let (Ok(size), Ok(length)) = lengths else { return Ok(None) };
        let (packed, bytes) = (&mut packed[..length], &mut bytes[..size]);
        self.deflated.clone().read_exact(packed)?;
        let unpacked = decompressor.deflate_decompress(packed, bytes);
        let is_right = unpacked == Ok(size) && crc32fast::hash(bytes) == self.crc32;
        Ok(is_right.then_some(bytes))
    }
}

/// Waits until no other thread has a large entry in memory.
pub(super) fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives back what this thread unpacked entries in.
pub(in crate::layers) fn give_back() {
    drop(UNPACKING.take());
}

/// What entries are unpacked with, one after the other.
struct Unpacking {
    decompressor: Decompressor,
    /// What is behind an entry in them is nothing.
    packed: Vec<u8>,
    bytes: Vec<u8>,
}

impl Default for Unpacking {
    fn default() -> Self {
        Self { decompressor: Decompressor::new(), packed: room::zeros(), bytes: room::zeros() }
    }
}
