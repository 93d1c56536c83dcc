//! Pieces of a tar as pieces of a gzip stream, compressed once and kept.
//!
//! A segment is raw deflate (RFC 1951) that refers to nothing before it and ends on a byte boundary,
//! as a full flush leaves it. So segments that were made by other runs, or at the same time by other
//! threads, can be put behind each other: see [`super::gzip`]. How they are made: see [`super::packing`].

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Tree;
use super::deflate::Unpacker;
use crate::layers::Error;
use crate::oci::Digest;
use crate::store::Store;

/// Bytes of tar in a segment: part of what a layer's digest depends on. Each lies in memory as a whole, on
/// every thread; twice as many make a layer 0.2 % smaller.
pub(super) const CUT: usize = 512 << 10;

/// A piece of a layer's gzip stream, in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// Over the compressed bytes: their name in the store.
    pub digest: Digest,
    /// Compressed bytes.
    pub size: u64,
    /// CRC-32 of the uncompressed bytes, as gzip has it.
    pub crc32: u32,
    /// Uncompressed bytes.
    pub uncompressed: u64,
}

impl Segment {
    /// Whether the store seems to have it. Its bytes are verified when they are used.
    pub(in crate::layers) fn is_stored(&self, store: &Store) -> bool {
        store.seems_to_have(&self.digest, self.size)
    }

    /// Its compressed bytes, verified.
    pub(super) fn read(&self, store: &Store) -> Result<Vec<u8>, Error> {
        store.read(&self.digest)?.ok_or(Error::Segment { digest: self.digest })
    }

    /// What its compressed bytes are of the tar.
    pub(super) fn unpack<'a>(
        &self,
        packed: &mut Vec<u8>,
        unpacker: &'a mut Unpacker,
        store: &Store,
    ) -> Result<&'a [u8], Error> {
        unpacker
            .unpack(packed, self.uncompressed, self.crc32)
            .map_err(|source| Error::Write { path: store.root().to_owned(), source })
    }
}

/// What a layer's tar was put together of, in order.
#[derive(Clone, Debug)]
pub struct Parts(pub Vec<Part>);

/// A stretch of a layer's tar.
#[derive(Clone, Debug)]
pub enum Part {
    /// One owner's files and symbolic links. They mean the same in any layer.
    Owner {
        /// Its pieces.
        segments: Vec<Segment>,
        /// What this run compressed into them, if it still is where it was read.
        files: Option<Arc<Tree>>,
    },
    /// Folders, or hard links to what stands before, with the tar's end.
    Frame(Vec<Segment>),
}

impl Part {
    /// Its pieces.
    pub fn segments(&self) -> &[Segment] {
        match self {
            Self::Owner { segments, .. } | Self::Frame(segments) => segments,
        }
    }
}

/// The tar that `segments` are. Each is verified before any of its bytes is returned; what is absent or
/// damaged is an error of reading.
pub fn read<'a>(segments: &'a [Segment], store: &'a Store) -> impl io::Read + 'a {
    Unpacked {
        segments: segments.iter(),
        store,
        unpacker: Unpacker::new(),
        rest: Vec::new().into(),
    }
}

struct Unpacked<'a> {
    segments: std::slice::Iter<'a, Segment>,
    store: &'a Store,
    unpacker: Unpacker,
    rest: VecDeque<u8>,
}

impl io::Read for Unpacked<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            let Some(segment) = self.segments.next() else { return Ok(0) };
            let packed = self.store.read(&segment.digest).map_err(io::Error::other)?;
            let mut packed = packed.ok_or(io::ErrorKind::NotFound)?;
            let Segment { uncompressed, crc32, .. } = *segment;
            self.rest.extend(self.unpacker.unpack(&mut packed, uncompressed, crc32)?);
        }
        self.rest.read(buffer)
    }
}
