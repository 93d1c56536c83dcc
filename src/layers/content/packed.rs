//! Entries of wheels, unpacked each time they are used.

use std::cell::RefCell;
use std::io::{self, Read as _, Write};

use libdeflater::Decompressor;
use zip::{CompressionMethod, ZipArchive};

use super::at::{At, copy};

/// Entries of wheels that are unpacked in one piece, packed and unpacked.
const AT_ONCE: u64 = 4 << 20;
/// What an entry was unpacked in stays at hand for the next one, if it is no larger.
const MOST_KEPT: u64 = 256 << 10;
thread_local! { static UNPACKING: RefCell<Option<Unpacking>> = const { RefCell::new(None) }; }
/// Room for large entries. An allocator keeps what was freed for whoever frees it next to what is in use,
/// but gives back blocks of this size, of which only what is written to is ever there: glibc maps all
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
        let is_small = self.size.max(self.deflated.size) <= MOST_KEPT;
        let unpacking = if is_small { UNPACKING.take() } else { None };
        let Unpacking { mut decompressor, mut packed, mut bytes } = unpacking.unwrap_or_default();
        let size = usize::try_from(self.size).map_err(io::Error::other)?;
        if bytes.len() < size {
            bytes = vec![0; if is_small { size } else { ROOM }];
        }
        packed.clear();
        if !is_small {
            packed.reserve_exact(ROOM);
        }
        self.deflated.clone().read_to_end(&mut packed)?;
        let unpacked = decompressor.deflate_decompress(&packed, &mut bytes[..size]);
        if !is_small {
            packed = Vec::new();
        }
        let is_right = unpacked == Ok(size) && crc32fast::hash(&bytes[..size]) == self.crc32;
        let taken = is_right.then(|| take(&bytes[..size]));
        if is_small {
            UNPACKING.set(Some(Unpacking { decompressor, packed, bytes }));
        }
        Ok(taken)
    }
}

/// What a thread unpacks entries with.
struct Unpacking {
    decompressor: Decompressor,
    packed: Vec<u8>,
    /// Never shorter than it was: what is behind an entry is nothing.
    bytes: Vec<u8>,
}

impl Default for Unpacking {
    fn default() -> Self {
        Self { decompressor: Decompressor::new(), packed: Vec::new(), bytes: Vec::new() }
    }
}
