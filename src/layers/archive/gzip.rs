//! Segments become one gzip member (RFC 1952): header, segments, CRC-32 and length. It grows while they
//! are being made.
//!
//! What layers have in common that differ only in what comes late is hashed once: another one copies it
//! and goes on from there.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::str::FromStr as _;

use super::deflate::LAST_BLOCK;
use super::segment::Segment;
use super::{Compressed, Parts};
use crate::layers::{Error, Layer};
use crate::oci::{Descriptor, MediaType};
use crate::store::{BlobWriter, Store};

/// No name, no time, no flags, neither the fastest nor the slowest; made on no particular system: the
/// defaults of encoders depend on the machine.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// Segments that may lie in memory because one before them is not there yet. Others are read again.
const MOST_WAITING: usize = 8;

/// Ends a layer whose segments are all written, and names it.
///
/// # Errors
/// The store cannot be written.
pub(in crate::layers) fn finish(
    compressed: Compressed,
    created_by: &str,
    store: &Store,
) -> Result<(Layer, Parts), Error> {
    let failed = |source| Error::Write { path: store.root().to_owned(), source };
    let Compressed { parts, diff_id, uncompressed_size, member } = compressed;
    let (digest, size) = member.finish(uncompressed_size).map_err(failed)?.commit_unsynced()?;
    let digest = oci_spec::image::Digest::from_str(&digest.to_string())
        .map_err(|invalid| failed(io::Error::other(invalid)))?;
    let layer = Layer {
        descriptor: Descriptor::new(MediaType::ImageLayerGzip, size, digest),
        diff_id,
        uncompressed_size,
        created_by: created_by.to_owned(),
    };
    Ok((layer, parts))
}

/// A gzip member that is being written.
#[derive(Debug)]
pub(super) struct Member {
    out: BlobWriter,
    checksum: crc32fast::Hasher,
    uncompressed: u64,
    /// How many it has.
    segments: usize,
    /// Those that came before their turn, by their numbers, with their bytes if there was room.
    waiting: BTreeMap<usize, (Segment, Option<Vec<u8>>)>,
    mark: Option<usize>,
    /// The hash's state when there were as many segments as the mark says.
    marked: Option<Vec<u8>>,
}

impl Member {
    /// Has no segment yet.
    pub(super) fn begin(store: &Store) -> Result<Self, Error> {
        let mut out = store.writer()?;
        out.write_all(&HEADER)
            .map_err(|source| Error::Write { path: store.root().to_owned(), source })?;
        let (checksum, waiting) = (crc32fast::Hasher::new(), BTreeMap::new());
        Ok(Self { out, checksum, uncompressed: 0, segments: 0, waiting, mark: None, marked: None })
    }

    /// Begins with these segments, which are copied as they lie there, if they are those behind which
    /// another member had this state: that is returned. It has none yet; those that came meanwhile stand
    /// behind them.
    pub(super) fn resume(
        &mut self,
        begin: &[Segment],
        state: &[u8],
        store: &Store,
    ) -> Result<bool, Error> {
        for segment in begin {
            if !self.out.append(&segment.digest, segment.size)? {
                return Ok(false);
            }
            self.count(segment);
        }
        if !self.out.resume(state) {
            return Ok(false);
        }
        self.catch_up(store)?;
        Ok(true)
    }

    /// Notes the hash's state when it has so many segments; it has no more yet.
    pub(super) fn mark(&mut self, segments: usize) {
        self.mark = Some(segments);
        self.note();
    }

    /// The state that was noted.
    pub(super) fn take_marked(&mut self) -> Option<Vec<u8>> {
        self.marked.take()
    }

    fn note(&mut self) {
        if self.mark == Some(self.segments) {
            self.marked = Some(self.out.state());
        }
    }

    /// Segment `number`, and its bytes. It is written when all before it are.
    pub(super) fn put(
        &mut self,
        number: usize,
        segment: Segment,
        packed: &[u8],
        store: &Store,
    ) -> Result<(), Error> {
        if number != self.segments {
            let packed = (self.waiting.len() < MOST_WAITING).then(|| packed.to_vec());
            self.waiting.insert(number, (segment, packed));
            return Ok(());
        }
        self.add(&segment, packed, store)?;
        self.catch_up(store)
    }

    /// Writes those whose turn it is.
    fn catch_up(&mut self, store: &Store) -> Result<(), Error> {
        while let Some((segment, packed)) = self.waiting.remove(&self.segments) {
            let packed = packed.map_or_else(|| segment.read(store), Ok)?;
            self.add(&segment, &packed, store)?;
        }
        Ok(())
    }

    fn add(&mut self, segment: &Segment, packed: &[u8], store: &Store) -> Result<(), Error> {
        self.out
            .write_all(packed)
            .map_err(|source| Error::Write { path: store.root().to_owned(), source })?;
        self.count(segment);
        self.note();
        Ok(())
    }

    fn count(&mut self, segment: &Segment) {
        let Segment { crc32, uncompressed, .. } = *segment;
        self.checksum.combine(&crc32fast::Hasher::new_with_initial_len(crc32, uncompressed));
        self.uncompressed += uncompressed;
        self.segments += 1;
    }

    /// Fails if its segments are not those of a tar of so many bytes.
    fn finish(mut self, uncompressed: u64) -> io::Result<BlobWriter> {
        if self.uncompressed != uncompressed || !self.waiting.is_empty() {
            return Err(io::Error::other("the parts of the layer are not what was hashed"));
        }
        self.out.write_all(&LAST_BLOCK)?;
        self.out.write_all(&self.checksum.finalize().to_le_bytes())?;
        // RFC 1952: modulo 2^32.
        self.out.write_all(&uncompressed.to_le_bytes()[..4])?;
        Ok(self.out)
    }
}
